"""Estimation against scikit-learn and plain torch, on the same frames, in one run.

    python -m tests.bench sklearn --layers 0 2 4 6   # 4 x 192 dimensions side by side: as wide as a base model
    python -m tests.bench mlp --layers 3
    python -m tests.bench seeds

Frames are those of a small trained HuBERT on LibriSpeech-mini (`frames.py`). One layer is measured and
multiplied by 13; of scikit-learn one seed (`--cells`) and multiplied by 5.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from s3prl_mi.estimators.bounds import NATS_TO_BITS, entropy_bits
from s3prl_mi.estimators.fitting import CHOICE_FOLDS, PATIENCE, ROUND_STEPS
from s3prl_mi.estimators.folds import assign_folds
from s3prl_mi.estimators.frames import Frames
from s3prl_mi.estimators.kmeans import assign, fit_codebooks
from s3prl_mi.estimators.mi_views import choose_codebook, fit_views, score_views
from s3prl_mi.estimators.probe import FittedProbe
from s3prl_mi.estimators.probes import MLP_DEFAULT, ProbeSpec

from . import frames
from .frames import Data
from .table import Row

LAYERS, SEEDS, CLUSTERS = 13, 5, 50
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Of scikit-learn's C, where it is chosen."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Whose frames, and how much of the baseline is measured."""
    frames.add_arguments(parser)
    parser.add_argument("--cells", type=int, default=1, help="seeds of the baseline that are measured")


def ours(
    d: Data, names: Sequence[str], seeds: Sequence[int], axes: Sequence[int] = (), device: str = "cpu"
) -> tuple[list[float], list[FittedProbe]]:
    """Bits of each probe (mean over seeds), and the probes; the baselines' codebook is of the states as they are."""
    spec = ProbeSpec(tuple(names), "default", tuple(seeds), device)
    fit, b, a = Frames([d["za"]]), Frames([d["zb"]]), Frames([d["eza"]])
    folds = assign_folds(d["g_all"])
    choice = choose_codebook(fit, Frames([d["zb_all"]]), d["rows_b"], CLUSTERS, spec, folds, axes)
    inputs = choice.inputs if choice else None
    books = fit_codebooks(Frames([d["zb_all"]]), CLUSTERS, seeds, device=device, inputs=inputs)
    probes = fit_views(fit, b, books, choice, folds[d["rows_b"]], spec)
    scored = score_views(probes, books, a, Frames([d["ezb"]]), spec, len(fit))
    return [float(np.mean([e.mi_lower_bound_bits for e in s])) for s in scored], probes


def cross_entropy_bits(log_q: np.ndarray, targets: np.ndarray) -> float:
    """Mean of -log2 q(target), of natural logarithms of shape (n_frames, n_classes)."""
    return float(-log_q[np.arange(len(targets)), targets].mean(dtype=np.float64) * NATS_TO_BITS)


class Sklearn:
    """One cell (layer, seed) as a user would script it; `seconds` of k-means, and of the probe."""

    def __init__(self, d: Data, seed: int) -> None:
        self.d = d
        began = time.perf_counter()
        book = KMeans(CLUSTERS, random_state=seed).fit(d["zb_all"])
        self.fit_y, self.eval_y = book.predict(d["zb"]), book.predict(d["ezb"])
        self.kmeans_seconds = time.perf_counter() - began

    def bits(self, c: float | None) -> tuple[float, float]:
        """Bits and seconds, with C as given, or chosen on one held-out speaker."""
        began = time.perf_counter()
        x = (scaler := StandardScaler().fit(self.d["za"])).transform(self.d["za"])
        if c is None:
            out = self.d["g"] == self.d["g"].max()
            c = min(
                STRENGTHS,
                key=lambda s: self._loss(self._fit(s, x[~out], self.fit_y[~out]), x[out], self.fit_y[out]),
            )
        loss = self._loss(self._fit(c, x, self.fit_y), scaler.transform(self.d["eza"]), self.eval_y)
        entropy = entropy_bits(np.bincount(self.eval_y, minlength=CLUSTERS))
        return entropy - loss, time.perf_counter() - began

    def _fit(self, c: float, x: np.ndarray, y: np.ndarray) -> LogisticRegression:
        return LogisticRegression(C=c, max_iter=1000).fit(x, y)

    def _loss(self, model: LogisticRegression, x: np.ndarray, y: np.ndarray) -> float:
        log_q = np.full((len(y), CLUSTERS), -30.0)
        with np.errstate(divide="ignore"):
            log_q[:, model.classes_] = model.predict_log_proba(x)
        return cross_entropy_bits(log_q, y)


def sklearn(args: argparse.Namespace) -> Iterator[Row]:
    """k-means and logistic regression of 13 layers x 5 seeds; scikit-learn's C as it is, as we chose it, or chosen."""
    d = frames.views(args)
    ours(frames.first(d), ["logistic"], [0])  # warms up
    began = time.perf_counter()
    bits, probes = ours(d, ["logistic"], range(SEEDS))
    took = (time.perf_counter() - began) * LAYERS
    cells = [Sklearn(d, seed) for seed in range(args.cells)]
    l2 = probes[0].settings[0]["l2"]
    n, dim = d["za"].shape
    measured = f"{args.cells} of {LAYERS * SEEDS} cells measured; {n} fit frames of {dim} dimensions"
    bases = []
    for name, c in (
        ("C = 1 (its default)", 1.0),
        ("C given: what we chose", 1 / (l2 * len(d["za"]))),
        (f"C of {len(STRENGTHS)} on one held-out speaker", None),
    ):
        found = [cell.bits(c) for cell in cells]
        seconds = np.mean([cell.kmeans_seconds + f[1] for cell, f in zip(cells, found, strict=True)])
        bases.append(f"scikit-learn, {name}")
        yield Row(bases[-1], float(seconds) * LAYERS * SEEDS, float(np.mean([f[0] for f in found])), note=measured)
    for base in bases:
        note = "C chosen on all fit speakers in turn; 1 layer measured"
        yield Row(f"ours, {LAYERS} layers x {SEEDS} seeds", took, bits[0], base, note)


class TorchMLP:
    """The same MLP as a user would script it: plain torch, float32, one network at a time."""

    def __init__(self, d: Data, y: np.ndarray, device: str = "cpu") -> None:
        scaler = StandardScaler().fit(d["za"])
        self.x, self.eval_x = (torch.from_numpy(scaler.transform(d[k])).float().to(device) for k in ("za", "eza"))
        self.y = torch.from_numpy(y).to(device)
        speakers = np.unique(d["g"])[:CHOICE_FOLDS]
        self.held_out = [torch.from_numpy(d["g"] == speaker).to(device) for speaker in speakers]

    def choose(self, seed: int) -> int:
        """Steps of training that do best on held-out speakers, each held out in turn."""
        losses = [self._train(seed, 400, ~out, out)[1] for out in self.held_out]
        shortest = min(len(row) for row in losses)
        return ROUND_STEPS * (1 + int(np.argmin(np.mean([row[:shortest] for row in losses], 0))))

    def final(self, seed: int, steps: int) -> nn.Module:
        """A network trained on all speakers."""
        return self._train(seed, steps, torch.ones_like(self.y, dtype=torch.bool), None)[0]

    @torch.no_grad()
    def bits(self, net: nn.Module, eval_y: np.ndarray) -> float:
        """Of the eval frames; eval_y are their clusters."""
        log_q = net.eval()(self.eval_x).log_softmax(1).cpu().numpy()
        return entropy_bits(np.bincount(eval_y, minlength=CLUSTERS)) - cross_entropy_bits(log_q, eval_y)

    def _train(
        self, seed: int, most: int, kept: torch.Tensor, held: torch.Tensor | None
    ) -> tuple[nn.Module, list[float]]:
        torch.manual_seed(seed)
        rows, settings = kept.nonzero()[:, 0], MLP_DEFAULT
        widths = [self.x.shape[1], *settings.hidden]
        hidden = [
            module
            for i, o in itertools.pairwise(widths)
            for module in (nn.Linear(i, o), nn.ReLU(), nn.Dropout(settings.dropout))
        ]
        net = nn.Sequential(*hidden, nn.Linear(widths[-1], CLUSTERS)).to(self.x.device)
        optimiser = torch.optim.AdamW(net.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
        losses: list[float] = []
        for step in range(1, most + 1):
            batch = rows[torch.randint(len(rows), (settings.batch,), device=rows.device)]
            loss = nn.functional.cross_entropy(net(self.x[batch]), self.y[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if held is not None and step % ROUND_STEPS == 0:
                net.eval()
                with torch.no_grad():
                    losses.append(float(nn.functional.cross_entropy(net(self.x[held]), self.y[held])))
                net.train()
                if len(losses) - int(np.argmin(losses)) > PATIENCE:
                    break
        return net, losses


def mlp(args: argparse.Namespace) -> Iterator[Row]:
    """5 MLPs one by one in plain torch against ours, both with choosing on three speakers how long to train."""
    d = frames.views(args)
    folds = assign_folds(d["g_all"])
    spec = ProbeSpec(("mlp",), "default", tuple(range(SEEDS)))
    books = fit_codebooks(Frames([d["zb_all"]]), CLUSTERS, spec.seeds)
    y = assign(Frames([d["zb"]]), books).numpy()
    TorchMLP({k: v[:2000] for k, v in d.items()}, y[:2000, 0]).final(0, 1)  # torch.optim's import takes seconds
    eval_y = assign(Frames([d["ezb"]]), books).numpy()
    chosen, trained, theirs, steps = [], [], [], 0
    for seed in range(args.cells):
        one = TorchMLP(d, y[:, seed])
        began = time.perf_counter()
        steps = one.choose(seed)
        chosen.append(time.perf_counter() - began)
        began = time.perf_counter()
        net = one.final(seed, steps)
        trained.append(time.perf_counter() - began)
        theirs.append(one.bits(net, eval_y[:, seed]))
    times = {}
    for names in (("logistic",), ("logistic", "mlp")):
        spec = ProbeSpec(names, "default", tuple(range(SEEDS)))
        began = time.perf_counter()
        with torch.no_grad():
            fit, b = Frames([d["za"]]), Frames([d["zb"]])
            choice = choose_codebook(fit, Frames([d["zb_all"]]), d["rows_b"], CLUSTERS, spec, folds, ())
            probes = fit_views(fit, b, books, choice, folds[d["rows_b"]], spec)
        times[len(names)] = time.perf_counter() - began
    found = score_views(probes, books, Frames([d["eza"]]), Frames([d["ezb"]]), spec, len(fit))
    bits = float(np.mean([e.mi_lower_bound_bits for e in found[1]]))
    choosing, training = float(np.mean(chosen)), float(np.mean(trained))
    each, once = "plain torch, each seed by itself", "plain torch, steps chosen with one seed"
    note = f"{args.cells} of {SEEDS} seeds measured, {steps} steps chosen, {d['za'].shape[1]} dimensions"
    yield Row(each, SEEDS * (choosing + training), float(np.mean(theirs)), note=note)
    yield Row(once, choosing + SEEDS * training, float(np.mean(theirs)), note=note)
    for base in (each, once):
        yield Row(f"ours, {SEEDS} MLPs, alongside the logistic probe", times[2] - times[1], bits, base)


def seeds(args: argparse.Namespace) -> Iterator[Row]:
    """What seeds 2 to 5 add to the first, both probes."""
    d = frames.views(args)
    with torch.no_grad():
        ours(frames.first(d), ["logistic", "mlp"], [0])  # warms up
        times = {}
        for count in (1, SEEDS):
            began = time.perf_counter()
            bits, _ = ours(d, ["logistic", "mlp"], range(count))
            times[count] = time.perf_counter() - began
    yield Row("1 seed, both probes", times[1], bits[1])
    more = times[SEEDS] - times[1]
    yield Row(f"seeds 2 to {SEEDS}, added", more, None, None, f"{more / times[1]:.2f} of the first")
    yield Row(f"{LAYERS} layers x {SEEDS} seeds x 2 probes", times[SEEDS] * LAYERS, None, None, "1 layer measured")
