"""How a probe is fitted on the fit split, and what is chosen on held-out speakers of it (see `probes`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..core.arithmetic import fast_products, fast_type
from ..core.errors import MIError
from ..core.types import IntVector
from .bounds import NATS_TO_BITS, entropy_bits
from .folds import time_folds
from .frames import Frames, Inputs, fit_affine
from .logistic import Linear, Problems, minimise
from .network import LEFT_OUT, Network, train
from .probe import FittedProbe
from .probes import MLP_DEFAULT, PROBES, NetworkSettings, ProbeSpec

L2_PATH = (100.0, 10.0, 1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5, 1e-6)
"""L2 strengths that may be tried, relative to the mean loss in nats (scikit-learn's 1 / (C n_frames)); the best is the
lowest point of a parabola through three of them."""

PATH_START = 3
"""Position in `L2_PATH` of the first strength tried; stronger ones are tried where it does better than weaker ones."""

FIT_TOLERANCE = 2e-5
"""Nats by which a logistic probe may be above the minimum of its loss (`logistic.minimise`)."""

PATH_TOLERANCE = 1e-5
"""The same for losses of held-out speakers that the L2 strength is chosen by: with few and different speakers they move
far more than the loss that is minimised."""

CHOICE_TOLERANCE = 1e-4
"""The same where a looser fit is enough for a choice."""

ROUGH_TOLERANCE, USUAL_L2 = 1e-3, 0.02
"""The same, and the L2 strength, where whole targets are compared (`held_out_bits`)."""

SELECTION_FRAMES = 50_000
"""Choices are made on at most so many fit frames, evenly spaced: neighbours in time say much the same."""

L2_FRAMES = 15_000
"""The L2 strength is chosen on at most so many of them, for what all of them would want (`_choose_l2`)."""

PAPER_EPOCHS = 10

MLP_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Weights of the MLP tried in its mix with the logistic probe."""

SAME_LOSS = 1e-3
"""Nats: of weights whose held-out losses differ by less the smallest is taken, as it scatters least."""

ROUNDS, PATIENCE = 40, 3
"""The MLP is scored on held-out speakers after every round of training; it stops after so many without gain."""

CHOICE_FOLDS = 3
"""Its rounds and weight are chosen with so many folds' speakers: with one speaker, choices cost up to 0.02 bits."""

CHECK_FRAMES = 6_000
"""Held-out frames that it is scored on, evenly spaced."""

ROUND_STEPS = 20
"""Mini-batches in a round, or a quarter of an epoch if that is more."""

CHOICE_SEED = 0
"""Choices are made once for all seeds, with codebooks and an MLP of this seed: they do not depend on which seeds are
asked for."""


def fit_probes(
    frames: Frames,
    targets: Tensor,
    classes: int,
    folds: IntVector,
    spec: ProbeSpec,
    choice: Tensor | None = None,
) -> list[FittedProbe]:
    """Fit probes of one layer on the fit split; all probes and seeds share its frames.

    Args:
        frames: the fit split, n_frames of them.
        targets: class ids, shape (n_frames, n_seeds), or (n_frames, 1) where all seeds share them.
        classes: number of classes.
        folds: fold of each frame, shape (n_frames,); choices are made on each fold held out. -1: in none.
        spec: the probes, and how to fit them.
        choice: targets that choices are made with while a fold is held out, shape (n_frames, n_folds), where each
            seed has targets of its own; None: the shared targets.

    Returns:
        One fitted probe for each of `spec.probes`.

    Raises:
        MIError: fewer than two classes or frames.
    """
    if classes < 2:
        raise MIError("the fit split has one single class: there is nothing to be informed about.")
    if len(frames) < 2:
        raise MIError(f"a probe needs at least 2 frames in the fit split, found {len(frames)}.")
    inputs = Inputs(frames, fit_affine(frames, spec.device))
    targets = targets.to(inputs.device)
    choice = None if choice is None else choice.to(inputs.device)
    fitting = Fitting(inputs, targets, choice, classes, folds, spec.seeds)
    with fast_products():
        return [PROBES[name].fit[spec.protocol](fitting) for name in spec.probes]


def held_out_bits(
    frames: Frames, targets: Tensor, classes: int, folds: IntVector, n_folds: int, device: torch.device | str
) -> Tensor:
    """H(c) - E[-log2 q(c|z)] on each held-out fold, for comparing targets: of a probe of one strength, loosely fitted.

    Args:
        frames: n_frames of the fit split.
        targets: class ids, shape (n_frames, n * n_folds): those of each fold that is held out, n times.
        classes: number of classes.
        folds: fold of each frame, shape (n_frames,).
        n_folds: so many of them, the first, are held out.
        device: where to compute.

    Returns:
        Bits, shape (n * n_folds,).
    """
    held_out = torch.from_numpy(folds).to(targets.device)[:, None] == torch.arange(n_folds, device=targets.device)
    held_out = held_out.repeat(1, targets.shape[1] // n_folds)
    strengths = torch.full((targets.shape[1],), USUAL_L2, device=targets.device)
    with fast_products():
        problems = Problems(targets, held_out, classes, strengths)
        _, nats = minimise(Inputs(frames, fit_affine(frames, device)), problems, tolerance=ROUGH_TOLERANCE)
    entropies = [
        entropy_bits(np.bincount(t[out].cpu().numpy())) if bool(out.any()) else 0.0
        for t, out in zip(targets.T, held_out.T, strict=True)
    ]
    return torch.tensor(entropies, dtype=torch.float64) - nats.cpu() * NATS_TO_BITS


class Fitting:
    """Probes of one layer; what they share is computed once."""

    def __init__(
        self,
        inputs: Inputs,
        targets: Tensor,
        choice: Tensor | None,
        classes: int,
        folds: IntVector,
        seeds: tuple[int, ...],
    ) -> None:
        self.inputs, self.targets, self.classes, self.seeds = inputs, targets, classes, seeds
        self.device = inputs.device
        self._shared = choice is None  # all seeds have the targets that choices are made with
        self.n_folds = 1 + int(folds.max()) if choice is None else choice.shape[1]
        choice = targets[:, :1].expand(-1, self.n_folds) if choice is None else choice
        stride = max(1, -(-len(inputs) // SELECTION_FRAMES))
        rows = np.arange(0, len(inputs), stride)
        rows = rows[folds[rows] >= 0]
        self.sample = inputs if len(rows) == len(inputs) else inputs.select(rows)
        self.sample_rows = torch.from_numpy(rows).to(self.device)
        self.choice = choice[self.sample_rows]
        self.folds = folds[rows]
        self._logistic: tuple[Linear, float] | None = None
        self._of_folds: Linear | None = None
        self._by_time = False

    def logistic(self) -> FittedProbe:
        """Converged logistic regression, its L2 strength chosen on held-out speakers."""
        linear, l2 = self._fit_logistic()
        return self._probe("logistic", linear, None, 0.0, {"l2": l2})

    def _probe(
        self,
        name: str,
        linear: Linear | None,
        network: Network | None,
        mlp_weight: float,
        settings: dict[str, Any],
    ) -> FittedProbe:
        weights = torch.full((len(self.seeds),), mlp_weight, device=self.device)
        return FittedProbe(name, self.inputs.affine, linear, network, weights, [settings for _ in self.seeds])

    def _fit_logistic(self) -> tuple[Linear, float]:
        """The converged probes, one per seed, and their L2 strength; shared targets are fitted once."""
        if self._logistic is None:
            l2, self._of_folds = self._choose_l2()
            strengths = torch.full((self.targets.shape[1],), l2, device=self.device)
            problems = Problems(self.targets, None, self.classes, strengths)
            linear, _ = minimise(self.inputs, problems, self._start(problems), tolerance=FIT_TOLERANCE)
            if self.targets.shape[1] == 1:
                linear = linear.problem([0] * len(self.seeds))
            self._logistic = (linear, l2)
        return self._logistic

    def _held_out(self, folds: IntVector) -> tuple[Tensor, bool]:
        """Which frames each fold holds out, (n_frames, n_folds); by time (True) where all belong to one fold."""
        by_time = bool((folds == folds[0]).all())
        own = torch.from_numpy(time_folds(len(folds), self.n_folds) if by_time else folds).to(self.device)
        return own[:, None] == torch.arange(self.n_folds, device=self.device), by_time

    def _choose_l2(self) -> tuple[float, Linear]:
        """Follow the path from strong to weak, each step starting from the last, until held-out loss rises.

        Losses of converged fits count: one that stops early is shrunk by that alone, and would lead to too weak an L2.
        It is good enough to reject the next strength, which it only flatters.

        Returns:
            The strength for all frames, and the probes of the best strength tried, one per fold.
        """
        stride = max(1, -(-len(self.sample) // L2_FRAMES))
        rows = np.arange(0, len(self.sample), stride)
        few = self.sample if stride == 1 else self.sample.select(rows)
        held_out, self._by_time = self._held_out(self.folds[rows])
        weight = held_out.double().sum(0) / len(few)
        target = self.choice[torch.from_numpy(rows).to(self.device)]
        probes: dict[int, Linear] = {}
        losses: dict[int, float] = {}

        def fit(n: int, start: Linear | None, tolerance: float) -> float:
            strengths = torch.full((self.n_folds,), L2_PATH[n], device=self.device)
            problems = Problems(target, held_out, self.classes, strengths)
            probes[n], loss = minimise(few, problems, start, tolerance=tolerance)
            losses[n] = float((loss * weight).sum())
            return losses[n]

        n = PATH_START
        fit(n, None, PATH_TOLERANCE)
        while n + 1 < len(L2_PATH):
            if fit(n + 1, probes[n], CHOICE_TOLERANCE) > losses[n]:
                break
            if fit(n + 1, probes[n + 1], PATH_TOLERANCE) > losses[n]:
                break
            n += 1
        while 0 < n <= PATH_START and fit(n - 1, probes[n], PATH_TOLERANCE) < losses[n]:
            n -= 1
        tried = [(L2_PATH[i], losses[i]) for i in sorted(losses)]
        # A penalty weighs against the sum of losses, and the final fit has one fold more of them. What lies between the
        # frames tried repeats part of them: measured, their square root (1: new speech, 0: the same again).
        return _lowest_point(tried) * (1 - 1 / self.n_folds) / stride**0.5, probes[n]

    def _start(self, problems: Problems) -> Linear:
        """Where the final fit begins: at the mean of the folds' probes, which saves a third of its steps.

        A class of the final targets starts from the classes of a fold's `choice` that its frames have.
        """
        assert self._of_folds is not None
        weight = self._of_folds.weight
        pull = self._of_folds.bias - Problems(self.choice, None, self.classes, problems.l2).priors().log()
        start = problems.priors().log()
        if self._shared:
            return Linear(weight.mean(1, keepdim=True), pull.mean(0) + start)
        weights = []
        for own, bias in zip(self.targets[self.sample_rows].T, start, strict=True):
            pairs = [torch.bincount(own * self.classes + c, minlength=self.classes**2) for c in self.choice.T]
            counts = torch.stack(pairs).view(-1, self.classes, self.classes).float()  # (n_folds, own, choice)
            fraction = counts / counts.sum(2, keepdim=True).clamp_min(1) / self.n_folds
            weights.append(torch.einsum("dfc,foc->do", weight, fraction))
            bias += torch.einsum("fc,foc->o", pull, fraction)
        return Linear(torch.stack(weights, 1), start)

    def mlp(self) -> FittedProbe:
        """Three-layer MLP mixed with the logistic probe; rounds and weight chosen on held-out speakers."""
        linear, l2 = self._fit_logistic()
        round_steps = max(ROUND_STEPS, len(self.inputs) // MLP_DEFAULT.batch // 4)
        rounds, mlp_weight = self._choose_rounds(l2, round_steps)
        targets = self.targets.expand(-1, len(self.seeds))
        everything, steps = torch.arange(len(self.inputs)), rounds * round_steps
        network = train(self.inputs, targets, everything, self.classes, self.seeds, MLP_DEFAULT, steps)
        hidden = list(MLP_DEFAULT.hidden)
        settings = {"l2": l2, "steps": steps, "mlp_weight": mlp_weight, "hidden": hidden}
        return self._probe("mlp", linear, network, mlp_weight, settings)

    def _choose_rounds(self, l2: float, round_steps: int) -> tuple[int, float]:
        """Rounds of training and weight of the MLP that do best on the speakers of the first folds, each held out."""
        count = min(CHOICE_FOLDS, self.n_folds)
        held_out, by_time = self._held_out(self.folds)
        held_out, target = held_out[:, :count], self.choice[:, :count]
        assert self._of_folds is not None
        strengths = torch.full((count,), l2, device=self.device)
        problems = Problems(target, held_out, self.classes, strengths)
        # a start that has seen the speakers held out would still know them at the end
        start = None if by_time != self._by_time else self._of_folds.problem(range(count))
        linear, _ = minimise(self.sample, problems, start, tolerance=CHOICE_TOLERANCE)
        spacing = max(1, -(-len(self.sample) * count // self.n_folds // CHECK_FRAMES))
        spaced = torch.arange(len(self.sample), device=self.device) % spacing == 0
        checked = []
        for fold in range(count):
            rows = (held_out[:, fold] & spaced).nonzero()[:, 0]
            x = self.sample.take(rows.cpu())
            base = linear.problem(fold)(x)
            checked.append((x.to(fast_type(self.device)), base, target[rows, fold : fold + 1]))
        best, chosen, waited = float("inf"), (1, 0.0), 0

        def check(step: int, network: Network) -> bool:
            nonlocal best, chosen, waited
            losses = torch.zeros(len(MLP_WEIGHTS), dtype=torch.float64, device=self.device)
            for fold, (x, base, y) in enumerate(checked):
                own = network.only(fold)(x).float()
                losses += torch.stack([_summed_loss(w * own + (1 - w) * base, y) for w in MLP_WEIGHTS])
            mixed, frames = losses.tolist(), sum(len(y) for _, _, y in checked)
            waited += 1
            enough = min(mixed) / frames + SAME_LOSS
            weight, loss = next(
                (w, m / frames) for w, m in zip(MLP_WEIGHTS, mixed, strict=True) if m / frames <= enough
            )
            if loss < best - 1e-4:
                best, chosen, waited = loss, (step // round_steps, weight), 0
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

    def by_sgd(self, name: str, settings: NetworkSettings) -> FittedProbe:
        """The paper's protocol: a fixed number of epochs of SGD, nothing chosen."""
        targets = self.targets.expand(-1, len(self.seeds))
        network = train_by_sgd(self.inputs, targets, self.classes, self.seeds, settings)
        chosen = {"epochs": PAPER_EPOCHS, "learning_rate": settings.learning_rate}
        return self._probe(name, None, network, 1.0, chosen)


def train_by_sgd(
    inputs: Inputs, targets: Tensor, classes: int, seeds: Sequence[int], settings: NetworkSettings
) -> Network:
    """Networks for targets of shape (n_frames, n_seeds) by the paper's protocol, each over an order of its own."""
    n = len(inputs)
    steps = PAPER_EPOCHS * max(1, n // min(settings.batch, n))
    networks = [
        train(inputs, target[:, None], torch.arange(n), classes, [seed], settings, steps, order_seed=seed)
        for seed, target in zip(seeds, targets.T, strict=True)
    ]
    of_layers = ([n.weights for n in networks], [n.biases for n in networks])
    return Network(*([torch.cat(layer) for layer in zip(*of, strict=True)] for of in of_layers))


def _summed_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Sum of -ln q of (n_frames, 1, n_classes) logits for targets (n_frames, 1)."""
    return functional.cross_entropy(logits[:, 0], target[:, 0], reduction="sum")


def _lowest_point(tried: list[tuple[float, float]]) -> float:
    """Where the parabola through the best strength and its neighbours, over log L2, is lowest."""
    best = min(range(len(tried)), key=lambda i: tried[i][1])
    if not 0 < best < len(tried) - 1:
        return tried[best][0]
    x = np.log([tried[i][0] for i in (best - 1, best, best + 1)])
    y = np.array([tried[i][1] for i in (best - 1, best, best + 1)])
    a, b, _ = np.polyfit(x - x[1], y, 2)
    return float(np.exp(np.clip(x[1] - b / (2 * a), x.min(), x.max()))) if a > 0 else tried[best][0]
