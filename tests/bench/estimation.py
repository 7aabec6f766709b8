"""Estimation against scikit-learn and plain torch, on the same frames, in one run.

    python -m tests.bench kmeans_logistic mlp seeds --dim 768 --frames 15000
    python -m tests.bench kmeans_logistic --frames_file FILE.npz   # arrays za, zb_all, zb, g, eza, ezb

Made frames stand for those of a corpus: phone-like segments of several speakers, two noisy views. Measured on an
AMD EPYC (Zen 4), one thread, real hidden states of a HuBERT (6 layers x 192, LibriSpeech-mini), 5 seeds:

- k-means, one update of all frames for 5 seeds 50 ms; steps until centroids stand still to 1e-10: 88 to 100, to
  scikit-learn's tolerance as many, to 1e-5 of the variance 54 to 68, with inertia higher by 0.01 to 0.15 %.
- Lloyd's algorithm on a part of the frames first: more steps in all (148), and other codebooks.
- L2 path in steps of 10 with a parabola instead of steps of 3: half the steps, bits within 0.002. On every second or
  third frame: strengths 1.1 to 2 times as large; divided by the root of the stride, bits within 0.004.
- A final tolerance of 1e-4 nats instead of 2e-5: a quarter fewer steps, but 0.004 bits lost on fbank.
- float32 products by oneDNN 1.1 to 1.6 times as fast as torch's default; bfloat16 in the MLP 2.5 times as fast.
- torch.optim's first use imports its compiler: 3 s, not there with an AdamW of our own.
- In all, 5 seeds, seconds of processor time, before and after: views, both probes 29.5 -> 14.6; labels, logistic 5.7 ->
  2.5. Against scikit-learn 2.4 x (goal 20), plain torch 2.8 x (goal 5), seeds 2 to 5 cost 1.04 of the first (goal 0.5),
  on a machine with other work on it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from s3prl_mi.estimators.bounds import cross_entropy_bits, entropy_bits
from s3prl_mi.estimators.frames import Frames
from s3prl_mi.estimators.kmeans import assign
from s3prl_mi.estimators.mi_views import fit_codebooks_of_view, fit_views, score_views
from s3prl_mi.estimators.probe import MLP_DEFAULT, FittedProbe

from .table import Row

LAYERS, SEEDS, CLUSTERS = 13, 5, 50
SPEAKERS, PHONES, SEGMENT = 6, 40, 8

Data = dict[str, np.ndarray]


def made_frames(n: int, dim: int, seed: int = 0) -> Data:
    """Two views of made speech: n fit and n / 2 eval frames of `dim` dimensions; g is the speaker."""
    rng = np.random.default_rng(seed)
    rank = dim // 4
    phones = rng.normal(size=(PHONES, rank))
    mix = rng.normal(size=(rank, dim)) / np.sqrt(rank) * np.linspace(2, 0.2, rank)[:, None]

    def side(count: int, speakers: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        phone = np.repeat(rng.integers(0, PHONES, count // SEGMENT + 1), SEGMENT)[:count]
        who = np.arange(count) * speakers // count
        clean = (
            phones[phone]
            + 0.5 * rng.normal(size=(speakers, rank))[who]
            + 0.7 * rng.normal(size=(count, rank))
        )
        a, b = (
            ((clean + s * rng.normal(size=clean.shape)) @ mix + 0.1 * rng.normal(size=(count, dim))).astype(
                np.float32
            )
            for s in (1.2, 0.3)
        )
        return a, b, who

    za, zb, g = side(n, SPEAKERS)
    eza, ezb, _ = side(n // 2, SPEAKERS // 2)
    return {"za": za, "zb_all": zb, "zb": zb, "g": g, "eza": eza, "ezb": ezb}


def ours(d: Data, kinds: Sequence[str], seeds: Sequence[int]) -> tuple[list[float], list[FittedProbe]]:
    """Bits of each kind of probe (mean over seeds), and the probes."""
    fit, b, a = Frames([d["za"]]), Frames([d["zb"]]), Frames([d["eza"]])
    books = fit_codebooks_of_view(Frames([d["zb_all"]]), CLUSTERS, seeds)
    probes = fit_views(fit, b, books, d["g"], seeds, kinds, "default")
    scored = score_views(probes, books, a, Frames([d["ezb"]]), seeds, "default", len(fit))
    return [float(np.mean([e.mi_lower_bound_bits for e in s])) for s in scored], probes


def sklearn_bits(d: Data, seed: int, l2: float) -> float:
    """One cell (layer, seed) by scikit-learn, with the L2 strength that we chose."""
    book = KMeans(CLUSTERS, n_init=1, max_iter=100, random_state=seed).fit(d["zb_all"])
    fit_y, eval_y = book.predict(d["zb"]), book.predict(d["ezb"])
    scaler = StandardScaler().fit(d["za"])
    model = LogisticRegression(C=1 / (l2 * len(fit_y)), max_iter=1000).fit(scaler.transform(d["za"]), fit_y)
    log_q = np.full((len(eval_y), CLUSTERS), -30.0)
    log_q[:, model.classes_] = model.predict_log_proba(scaler.transform(d["eza"]))
    return entropy_bits(np.bincount(eval_y, minlength=CLUSTERS)) - cross_entropy_bits(log_q, eval_y)


def kmeans_logistic(d: Data, cells: int = 1) -> Iterator[Row]:
    """13 layers x 5 seeds by scikit-learn, some cells measured, against ours, one layer measured."""
    began = time.perf_counter()
    bits, probes = ours(d, ["logistic"], range(SEEDS))
    took = time.perf_counter() - began
    l2 = probes[0].settings[0]["l2"]
    began = time.perf_counter()
    theirs = float(np.mean([sklearn_bits(d, seed, l2) for seed in range(cells)]))
    whole = (time.perf_counter() - began) / cells * LAYERS * SEEDS
    base = f"scikit-learn, {LAYERS} layers x {SEEDS} seeds"
    yield Row(
        base, whole, theirs, note=f"{cells} of {LAYERS * SEEDS} cells measured, scaled by their number; our C"
    )
    yield Row(
        f"k-means + logistic, {LAYERS} x {SEEDS}",
        took * LAYERS,
        bits[0],
        base,
        f"1 of {LAYERS} layers measured",
    )


def torch_mlp(d: Data, y: np.ndarray, seed: int) -> int:
    """The same MLP alone in plain torch (float32), its length chosen on one speaker, then trained again: its steps."""
    scaler = StandardScaler().fit(d["za"])
    x, target = torch.from_numpy(scaler.transform(d["za"])).float(), torch.from_numpy(y)
    out = torch.from_numpy(d["g"] == d["g"].max())

    def train(rows: torch.Tensor, most: int, held: torch.Tensor | None) -> tuple[int, nn.Module]:
        torch.manual_seed(seed)
        widths = [x.shape[1], *MLP_DEFAULT.hidden]
        hidden = [
            m
            for i, o in itertools.pairwise(widths)
            for m in (nn.Linear(i, o), nn.ReLU(), nn.Dropout(MLP_DEFAULT.dropout))
        ]
        net = nn.Sequential(*hidden, nn.Linear(widths[-1], CLUSTERS))
        optimiser = torch.optim.AdamW(net.parameters(), lr=MLP_DEFAULT.rate, weight_decay=MLP_DEFAULT.decay)
        best, at = float("inf"), 20
        for step in range(1, most + 1):
            batch = rows[torch.randint(len(rows), (MLP_DEFAULT.batch,))]
            loss = nn.functional.cross_entropy(net(x[batch]), target[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if held is not None and step % 20 == 0:
                net.eval()
                with torch.no_grad():
                    now = float(nn.functional.cross_entropy(net(x[held]), target[held]))
                net.train()
                if now < best:
                    best, at = now, step
                elif step - at >= 60:
                    break
        return at, net

    steps, _ = train((~out).nonzero()[:, 0], 800, out)
    train(torch.arange(len(x)), steps, None)
    return steps


def mlp(d: Data, cells: int = 1) -> Iterator[Row]:
    """5 MLPs one by one in plain torch against ours, both with choosing how long to train."""
    books = fit_codebooks_of_view(Frames([d["zb_all"]]), CLUSTERS, range(SEEDS))
    y = assign(Frames([d["zb"]]), books).numpy()
    torch_mlp(
        {k: v[:2000] for k, v in d.items()}, y[:2000, 0], 0
    )  # torch.optim's first use imports for seconds
    began = time.perf_counter()
    steps = [torch_mlp(d, y[:, seed], seed) for seed in range(cells)]
    theirs = (time.perf_counter() - began) / cells * SEEDS
    times = {}
    for kinds in (["logistic"], ["logistic", "mlp"]):
        began = time.perf_counter()
        with torch.no_grad():
            fit_views(Frames([d["za"]]), Frames([d["zb"]]), books, d["g"], range(SEEDS), kinds, "default")
        times[len(kinds)] = time.perf_counter() - began
    base = f"plain torch, {SEEDS} MLPs one by one"
    yield Row(base, theirs, note=f"{cells} of {SEEDS} measured, {steps[0]} steps")
    yield Row(f"{SEEDS} MLPs at once, beside the logistic probe", times[2] - times[1], None, base)


def seeds(d: Data) -> Iterator[Row]:
    """What seeds 2 to 5 add to the first, both probes."""
    with torch.no_grad():
        ours({k: v[:2000] for k, v in d.items()}, ["logistic", "mlp"], [0])  # warms up
        times = {}
        for count in (1, SEEDS):
            began = time.perf_counter()
            bits, _ = ours(d, ["logistic", "mlp"], range(count))
            times[count] = time.perf_counter() - began
    yield Row("1 seed, both probes", times[1], bits[1])
    more = times[SEEDS] - times[1]
    yield Row(f"seeds 2 to {SEEDS}, added", more, None, None, f"{more / times[1]:.2f} of the first")
    yield Row(
        f"{LAYERS} layers x {SEEDS} seeds x 2 probes", times[SEEDS] * LAYERS, None, None, "1 layer measured"
    )
