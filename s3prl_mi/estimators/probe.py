"""Protocols: how a probe is fitted and chosen on the fit split, and how it is scored once on the eval split.

`default` (version in its name): the logistic probe is fitted to convergence, its L2 strength chosen by
cross-validation over held-out speakers of the fit split, then fitted on all of it. The MLP probe's length of
training is chosen on held-out speakers; its prediction is ``softmax(share * MLP logits + (1 - share) * logistic
logits)`` with the share chosen there too, so that it falls back to the logistic probe where it adds nothing.

`paper`: what Liu, Yeh and Glass (ICASSP 2024, section 3) state: learning rate 0.1, 10 epochs, MLP of 3 layers
with ReLU and dropout. Not stated, and chosen here: SGD with momentum 0.9, batches of 256 frames, width 512,
dropout 0.1, standardised input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ..core.arithmetic import fast_products, fast_type
from ..core.errors import MIError
from ..core.types import Bits, IntVector
from .bounds import NATS_TO_BITS
from .folds import assign_folds
from .frames import AffineMap, Frames, Inputs, fit_affine
from .logistic import Linear, Problems, minimise
from .network import LEFT_OUT, Network, NetworkSettings, train

PROTOCOLS = {"default": "default-3", "paper": "paper-1"}
"""Name in the config -> name and version in records. A change of any number below needs a new version."""

L2_PATH = (1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5, 1e-6)
"""L2 strengths tried, strongest first, relative to the mean loss in nats (scikit-learn's 1 / (C n_frames)); the best is
the lowest point of a parabola through three of them."""

FIT_TOLERANCE = 2e-5
"""Nats by which a logistic probe may be above the minimum of its loss (`logistic.minimise`)."""

SELECTION_FRAMES = 50_000
"""Choices are made on at most so many fit frames, evenly spaced: neighbours in time say much the same."""

L2_FRAMES = 15_000
"""The L2 strength is chosen on at most so many of them, for what all of them would want (`_choose_l2`)."""

MLP_DEFAULT = NetworkSettings((256, 256), 0.3, 512, 5e-3, "adamw", decay=0.3, average=0.97)
MLP_PAPER = NetworkSettings((512, 512), 0.1, 256, 0.1, "sgd")
LOGISTIC_PAPER = NetworkSettings((), 0.0, 256, 0.1, "sgd")
PAPER_EPOCHS = 10

MIXES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the MLP tried in its mix with the logistic probe."""

ROUNDS, PATIENCE = 40, 3
"""The MLP is scored on held-out speakers after every round of training; it stops after so many without gain."""

CHOICE_FOLDS = 3
"""Its rounds and share are chosen with so many folds' speakers: with one speaker, choices cost up to 0.02 bits."""

CHECK_FRAMES = 6_000
"""Held-out frames that it is scored on, evenly spaced."""

ROUND_STEPS = 20
"""Mini-batches in a round, or a quarter of an epoch if that is more."""

CHOICE_SEED = 0
"""Choices are made once for all seeds, with a codebook and an MLP of this seed: they do not depend on which
seeds are asked for."""


@dataclass
class FittedProbe:
    """One kind of probe, fitted for n_seeds seeds.

    `linear` and `network` hold n_seeds problems (either may be None); logits are ``(1 - share) * linear + share
    * network``. `settings` says, seed by seed, what was chosen within the fit split.
    """

    kind: str
    affine: AffineMap
    linear: Linear | None
    network: Network | None
    share: Tensor
    settings: list[dict[str, Any]]

    def log_probabilities(self, x: Tensor) -> Tensor:
        """Ln q for mapped frames x (n_frames, dim): (n_frames, n_seeds, n_classes), float64."""
        return torch.log_softmax(self._logits(x).double(), dim=2)

    def _logits(self, x: Tensor) -> Tensor:
        if self.network is None:
            assert self.linear is not None
            return self.linear(x)
        if self.linear is None:
            return self.network(x)
        share = self.share[:, None]
        return share * self.network(x) + (1 - share) * self.linear(x)

    def state(self) -> dict[str, Any]:
        """Plain dict of CPU tensors, for torch.save."""
        return {
            "kind": self.kind,
            "affine": [t.cpu() for t in (self.affine.mean, self.affine.matrix, self.affine.variance)],
            "linear": None if self.linear is None else [self.linear.weight.cpu(), self.linear.bias.cpu()],
            "network": None
            if self.network is None
            else [[w.cpu() for w in self.network.weights], [b.cpu() for b in self.network.biases]],
            "share": self.share.cpu(),
            "settings": self.settings,
        }

    @staticmethod
    def from_state(state: dict[str, Any], device: torch.device | str) -> FittedProbe:
        """The probe that `state()` described, on `device`."""
        linear, network = state["linear"], state["network"]
        return FittedProbe(
            state["kind"],
            AffineMap(*state["affine"]).to(device),
            None if linear is None else Linear(linear[0].to(device), linear[1].to(device)),
            None
            if network is None
            else Network([w.to(device) for w in network[0]], [b.to(device) for b in network[1]]),
            state["share"].to(device),
            state["settings"],
        )


MOST_CONFUSABLE = 100
"""With more classes than this (words, large codebooks) confusions are not counted."""


@dataclass(frozen=True, eq=False)
class Score:
    """One seed's result on the eval split.

    Attributes:
        cross_entropy_bits: mean of -log2 q(target | frame).
        accuracy: share of frames whose most probable class is right, 0 to 1.
        class_frames: frames of each class, shape (n_classes,).
        class_loss_bits: sum of -log2 q over the frames of each class, shape (n_classes,).
        confusion: frames by class (row) and most probable class (column), shape (n_classes, n_classes); None
            above `MOST_CONFUSABLE` classes.
    """

    cross_entropy_bits: Bits
    accuracy: float
    class_frames: NDArray[np.int64]
    class_loss_bits: NDArray[np.float64]
    confusion: NDArray[np.int64] | None


class _Tally:
    """Sums over the eval frames, for all seeds of one probe."""

    def __init__(self, seeds: int, classes: int, device: torch.device) -> None:
        self._loss = torch.zeros(seeds, classes, dtype=torch.float64, device=device)
        self._frames = torch.zeros(seeds, classes, dtype=torch.int64, device=device)
        self._right = torch.zeros(seeds, dtype=torch.int64, device=device)
        cells = classes * classes if classes <= MOST_CONFUSABLE else 0
        self._confused = torch.zeros(seeds, cells, dtype=torch.int64, device=device)

    def add(self, log_q: Tensor, target: Tensor) -> None:
        """Add ln q of shape (n_frames, n_seeds, n_classes) and class ids of shape (n_frames, n_seeds)."""
        nats = -log_q.gather(2, target[:, :, None])[:, :, 0]
        guess, ones = log_q.argmax(2), torch.ones_like(target)
        self._loss.scatter_add_(1, target.T, nats.T)
        self._frames.scatter_add_(1, target.T, ones.T)
        self._right += (guess == target).sum(0)
        if self._confused.shape[1]:
            self._confused.scatter_add_(1, (target * log_q.shape[2] + guess).T, ones.T)

    def scores(self) -> list[Score]:
        """One score a seed."""
        classes = self._loss.shape[1]
        loss, frames = self._loss.cpu().numpy() * NATS_TO_BITS, self._frames.cpu().numpy()
        right, confused = self._right.cpu().numpy(), self._confused.cpu().numpy()
        return [
            Score(
                float(loss[s].sum() / frames[s].sum()),
                float(right[s] / frames[s].sum()),
                frames[s],
                loss[s],
                confused[s].reshape(classes, classes) if confused.shape[1] else None,
            )
            for s in range(len(loss))
        ]


def score(probes: Sequence[FittedProbe], frames: Frames, targets: Tensor) -> list[list[Score]]:
    """Score probes of one layer on eval frames, read once.

    Args:
        probes: probes that share their affine map.
        frames: eval frames, n_frames of them.
        targets: class ids, shape (n_frames, n_seeds) or (n_frames, 1) where all seeds share them.

    Returns:
        For each probe, for each seed, its score.
    """
    affine = probes[0].affine
    device = affine.mean.device
    shapes = [p.log_probabilities(torch.zeros(1, affine.dim, device=device)).shape for p in probes]
    tallies = [_Tally(seeds, classes, device) for _, seeds, classes in shapes]
    for start, stop in frames.blocks(2048):
        x = affine(torch.from_numpy(frames.read(start, stop)).to(device))
        block = targets[start:stop].to(device)
        for probe, tally in zip(probes, tallies, strict=True):
            log_q = probe.log_probabilities(x)
            tally.add(log_q, block.expand(-1, log_q.shape[1]))
    return [tally.scores() for tally in tallies]


def fit_probes(
    frames: Frames,
    targets: Tensor,
    classes: int,
    groups: IntVector,
    seeds: Sequence[int],
    kinds: Sequence[str],
    protocol: str = "default",
    device: torch.device | str = "cpu",
    choice: Tensor | None = None,
) -> list[FittedProbe]:
    """Fit probes of one layer on the fit split; all kinds and seeds share its frames.

    Args:
        frames: the fit split, n_frames of them.
        targets: class ids, shape (n_frames, n_seeds), or (n_frames, 1) where all seeds share them.
        classes: number of classes.
        groups: speaker (or utterance) of each frame, shape (n_frames,); choices are made on held-out groups.
        seeds: of the MLP's initial weights and dropout; the logistic probe is convex and needs none.
        kinds: `logistic`, `mlp`.
        protocol: `default` or `paper`.
        device: where to compute.
        choice: targets that choices are made with, shape (n_frames, 1), where each seed has targets of its own
            (those of `CHOICE_SEED`); None: the shared targets.

    Returns:
        One fitted probe for each kind, in the order of `kinds`.

    Raises:
        MIError: unknown protocol or kind, or fewer than two classes or frames.
    """
    _check_request(frames, classes, kinds, protocol)
    affine = fit_affine(frames, device)
    inputs = Inputs(frames, affine)
    targets = targets.to(device)
    choice = None if choice is None else choice.to(device)
    fitting = _Fitting(inputs, targets, choice, classes, groups, tuple(seeds))
    fit = {
        ("default", "logistic"): fitting.logistic,
        ("default", "mlp"): fitting.mlp,
        ("paper", "logistic"): lambda: fitting.by_sgd("logistic", LOGISTIC_PAPER),
        ("paper", "mlp"): lambda: fitting.by_sgd("mlp", MLP_PAPER),
    }
    with fast_products():
        return [fit[protocol, kind]() for kind in kinds]


def _check_request(frames: Frames, classes: int, kinds: Sequence[str], protocol: str) -> None:
    if protocol not in PROTOCOLS:
        raise MIError(f"unknown protocol {protocol!r}: expected {' or '.join(PROTOCOLS)}.")
    for kind in kinds:
        if kind not in ("logistic", "mlp"):
            raise MIError(f"unknown probe {kind!r}: expected logistic or mlp.")
    if classes < 2:
        raise MIError("the fit split has one single class: there is nothing to be informed about.")
    if len(frames) < 2:
        raise MIError(f"a probe needs at least 2 frames in the fit split, found {len(frames)}.")


class _Fitting:
    """The default protocol on one layer; what its two probes share is computed once."""

    def __init__(
        self,
        inputs: Inputs,
        targets: Tensor,
        choice: Tensor | None,
        classes: int,
        groups: IntVector,
        seeds: tuple[int, ...],
    ) -> None:
        self.inputs, self.targets, self.classes, self.seeds = inputs, targets, classes, seeds
        self.device = inputs.device
        self._shared = choice is None  # all seeds have the targets that choices are made with
        choice = targets[:, :1] if choice is None else choice
        stride = max(1, -(-len(inputs) // SELECTION_FRAMES))
        rows = np.arange(0, len(inputs), stride)
        self.sample = inputs if stride == 1 else inputs.select(rows)
        self.all_choice = choice[:, 0]
        self.choice = choice[torch.from_numpy(rows).to(self.device)]
        folds = assign_folds(groups[rows])
        self.n_folds = 1 + int(folds.max())
        self.folds = torch.from_numpy(folds).to(self.device)
        self._logistic: tuple[Linear, float] | None = None
        self._of_folds: Linear | None = None
        self._by_time = False

    def logistic(self) -> FittedProbe:
        """Converged logistic regression, its L2 strength chosen on held-out speakers."""
        linear, l2 = self._fit_logistic()
        share = torch.zeros(len(self.seeds), device=self.device)
        return FittedProbe(
            "logistic", self.inputs.affine, linear, None, share, [{"l2": l2} for _ in self.seeds]
        )

    def _fit_logistic(self) -> tuple[Linear, float]:
        """The converged probes, one a seed, and their L2 strength; shared targets are fitted once."""
        if self._logistic is None:
            l2, self._of_folds = self._choose_l2()
            strengths = torch.full((self.targets.shape[1],), l2, device=self.device)
            problems = Problems(self.targets, None, self.classes, strengths)
            linear, _ = minimise(self.inputs, problems, self._start(problems), tolerance=FIT_TOLERANCE)
            if self.targets.shape[1] == 1:
                linear = linear.problem([0] * len(self.seeds))
            self._logistic = (linear, l2)
        return self._logistic

    def _choose_l2(self) -> tuple[float, Linear]:
        """Follow the path from strong to weak, each step starting from the last, until held-out loss rises.

        Returns:
            The strength for all frames, and the probes of the best strength tried, one a fold.
        """
        stride = max(1, -(-len(self.sample) // L2_FRAMES))
        rows = np.arange(0, len(self.sample), stride)
        few = self.sample if stride == 1 else self.sample.select(rows)
        at = torch.from_numpy(rows).to(self.device)
        held_out = self.folds[at, None] == torch.arange(self.n_folds, device=self.device)
        weight = held_out.double().sum(0) / len(few)
        self._by_time = bool((weight == 1).any())
        if self._by_time:  # one speaker is left of these frames: blocks of time are held out
            blocks = assign_folds(np.zeros(len(rows), np.int64), self.n_folds)
            held_out = torch.from_numpy(blocks).to(self.device)[:, None] == torch.arange(
                self.n_folds, device=self.device
            )
            weight = held_out.double().sum(0) / len(few)
        target = self.choice[at].expand(-1, self.n_folds)
        linear: Linear | None = None
        tried: list[tuple[float, float]] = []
        best = None
        for l2 in L2_PATH:
            strengths = torch.full((self.n_folds,), l2, device=self.device)
            problems = Problems(target, held_out, self.classes, strengths)
            linear, loss = minimise(few, problems, linear, tolerance=1e-3)
            tried.append((l2, float((loss * weight).sum())))
            if tried[-1][1] > min(v for _, v in tried):
                break
            best = linear
        assert best is not None
        # A penalty weighs against the sum of losses, and the final fit has one fold more of them. What lies between the
        # frames tried repeats part of them: measured, their square root (1: new speech, 0: the same again).
        return _lowest_point(tried) * (1 - 1 / self.n_folds) / stride**0.5, best

    def _start(self, problems: Problems) -> Linear:
        """Where the final fit begins: at the mean of the folds' probes, which saves a third of its steps.

        A class of the final targets starts from the classes of `choice` that its frames have.
        """
        assert self._of_folds is not None
        weight, bias = self._of_folds.weight.mean(1), self._of_folds.bias.mean(0)
        frequency = Problems(self.choice, None, self.classes, problems.l2[:1]).priors()[0]
        pull = bias - frequency.log()
        if self._shared:
            return Linear(weight[:, None], (pull + problems.priors()[0].log())[None])
        weights, biases = [], []
        for own, prior in zip(self.targets.T, problems.priors(), strict=True):
            pairs = torch.bincount(own * self.classes + self.all_choice, minlength=self.classes**2)
            pairs = pairs.view(self.classes, self.classes).float()
            share = (pairs / pairs.sum(1, keepdim=True).clamp_min(1)).T
            weights.append(weight @ share)
            biases.append(pull @ share + prior.log())
        return Linear(torch.stack(weights, 1), torch.stack(biases))

    def mlp(self) -> FittedProbe:
        """Three-layer MLP mixed with the logistic probe; rounds and share chosen on held-out speakers."""
        linear, l2 = self._fit_logistic()
        round_steps = max(ROUND_STEPS, len(self.inputs) // MLP_DEFAULT.batch // 4)
        rounds, share = self._choose_rounds(l2, round_steps)
        targets = self.targets.expand(-1, len(self.seeds))
        everything, steps = torch.arange(len(self.inputs)), rounds * round_steps
        network = train(self.inputs, targets, everything, self.classes, self.seeds, MLP_DEFAULT, steps)
        settings = {"l2": l2, "steps": steps, "share": share, "hidden": list(MLP_DEFAULT.hidden)}
        shares = torch.full((len(self.seeds),), share, device=self.device)
        return FittedProbe("mlp", self.inputs.affine, linear, network, shares, [settings for _ in self.seeds])

    def _choose_rounds(self, l2: float, round_steps: int) -> tuple[int, float]:
        """Rounds of training and share of the MLP that do best on the speakers of the first folds, each held out."""
        count = min(CHOICE_FOLDS, self.n_folds)
        held_out = self.folds[:, None] == torch.arange(count, device=self.device)
        target = self.choice.expand(-1, count)
        assert self._of_folds is not None
        strengths = torch.full((count,), l2, device=self.device)
        problems = Problems(target, held_out, self.classes, strengths)
        # a start that has seen the speakers held out would still know them at the end
        start = None if self._by_time else self._of_folds.problem(range(count))
        linear, _ = minimise(self.sample, problems, start, tolerance=1e-3)
        spacing = max(1, -(-len(self.sample) * count // self.n_folds // CHECK_FRAMES))
        spaced = torch.arange(len(self.sample), device=self.device) % spacing == 0
        sides = []
        for fold in range(count):
            rows = (held_out[:, fold] & spaced).nonzero()[:, 0]
            x = self.sample.take(rows.cpu())
            base = linear.problem(fold)(x)
            sides.append((x.to(fast_type(self.device)), base, self.choice[rows]))
        best, chosen, waited = float("inf"), (1, 0.0), 0

        def check(step: int, network: Network) -> bool:
            nonlocal best, chosen, waited
            losses = torch.zeros(len(MIXES) + 1, dtype=torch.float64)
            for fold, (x, base, y) in enumerate(sides):
                own = network.only(fold)(x).float()
                summed = [_summed_loss(share * own + (1 - share) * base, y) for share in MIXES]
                losses += torch.tensor([*summed, len(y)], dtype=torch.float64)
            *mixed, frames = losses.tolist()
            waited += 1
            loss, share = min((loss / frames, share) for loss, share in zip(mixed, MIXES, strict=True))
            if loss < best - 1e-4:
                best, chosen, waited = loss, (step // round_steps, share), 0
            return waited < PATIENCE

        train(
            self.sample,
            target.masked_fill(held_out, LEFT_OUT),
            torch.arange(len(self.sample)),
            self.classes,
            [CHOICE_SEED] * count,
            MLP_DEFAULT,
            ROUNDS * round_steps,
            round_steps,
            check,
        )
        return chosen

    def by_sgd(self, kind: str, settings: NetworkSettings) -> FittedProbe:
        """The paper's protocol: a fixed number of epochs of SGD, nothing chosen."""
        n = len(self.inputs)
        steps = PAPER_EPOCHS * max(1, n // min(settings.batch, n))
        targets = self.targets.expand(-1, len(self.seeds))
        network = train(self.inputs, targets, torch.arange(n), self.classes, self.seeds, settings, steps)
        chosen: list[dict[str, Any]] = [{"epochs": PAPER_EPOCHS, "rate": settings.rate} for _ in self.seeds]
        share = torch.ones(len(self.seeds), device=self.device)
        return FittedProbe(kind, self.inputs.affine, None, network, share, chosen)


def _summed_loss(logits: Tensor, target: Tensor) -> float:
    """Sum of -ln q of (n_frames, 1, n_classes) logits for targets (n_frames, 1)."""
    return float(functional.cross_entropy(logits[:, 0], target[:, 0], reduction="sum"))


def _lowest_point(tried: list[tuple[float, float]]) -> float:
    """Where the parabola through the best strength and its neighbours, over log L2, is lowest."""
    best = min(range(len(tried)), key=lambda i: tried[i][1])
    if not 0 < best < len(tried) - 1:
        return tried[best][0]
    x = np.log([tried[i][0] for i in (best - 1, best, best + 1)])
    y = np.array([tried[i][1] for i in (best - 1, best, best + 1)])
    a, b, _ = np.polyfit(x - x[1], y, 2)
    return float(np.exp(np.clip(x[1] - b / (2 * a), x.min(), x.max()))) if a > 0 else tried[best][0]
