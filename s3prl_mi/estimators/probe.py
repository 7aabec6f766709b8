"""A fitted probe: what it predicts, how it is saved, and how it is scored once on the eval split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.arithmetic import add_at
from ..core.types import Bits
from .bounds import NATS_TO_BITS
from .frames import AffineMap, Frames, ValueRange
from .intervals import FrameGroups
from .logistic import Linear
from .network import Network


@dataclass
class FittedProbe:
    """One probe, fitted for n_seeds seeds.

    `linear` and `network` hold n_seeds problems (either may be None); logits are ``mlp_weight * network +
    (1 - mlp_weight) * linear``. `settings` says, seed by seed, what was chosen within the fit split.
    """

    name: str
    affine: AffineMap
    linear: Linear | None
    network: Network | None
    mlp_weight: Tensor
    settings: list[dict[str, Any]]
    log_priors: Tensor | None = None
    """Ln of the smoothed class frequencies of the fit split, shape (n_seeds, n_classes); None in old files."""

    def log_probabilities(self, x: Tensor) -> Tensor:
        """Ln q for mapped frames x (n_frames, dim): (n_frames, n_seeds, n_classes), float64."""
        return torch.log_softmax(self._logits(x).double(), dim=2)

    def _logits(self, x: Tensor) -> Tensor:
        if self.network is None:
            assert self.linear is not None
            return self.linear(x)
        if self.linear is None:
            return self.network(x)
        weight = self.mlp_weight[:, None]
        return weight * self.network(x) + (1 - weight) * self.linear(x)

    def state(self) -> dict[str, Any]:
        """Plain dict of CPU tensors, for torch.save."""
        a = self.affine
        return {
            "name": self.name,
            "affine": [t.cpu() for t in (a.mean, a.matrix, a.variance, a.values.low, a.values.high)],
            "linear": None if self.linear is None else [self.linear.weight.cpu(), self.linear.bias.cpu()],
            "network": None
            if self.network is None
            else [[w.cpu() for w in self.network.weights], [b.cpu() for b in self.network.biases]],
            "mlp_weight": self.mlp_weight.cpu(),
            "settings": self.settings,
            "log_priors": None if self.log_priors is None else self.log_priors.cpu(),
        }

    @staticmethod
    def from_state(state: dict[str, Any], device: torch.device | str) -> FittedProbe:
        """The probe that `state()` described, on `device`; version 1 of this package wrote other names."""
        linear, network = state["linear"], state["network"]
        mean, matrix, variance, *values = state["affine"]
        return FittedProbe(
            state["kind"] if "kind" in state else state["name"],
            AffineMap(mean, matrix, variance, ValueRange(*values)).to(device),
            None if linear is None else Linear(linear[0].to(device), linear[1].to(device)),
            None
            if network is None
            else Network([w.to(device) for w in network[0]], [b.to(device) for b in network[1]]),
            (state["share"] if "share" in state else state["mlp_weight"]).to(device),
            state["settings"],
            state.get("log_priors"),
        )


MOST_CONFUSABLE = 100
"""With more classes than this (words, large codebooks) confusions are not counted."""


@dataclass(frozen=True, eq=False)
class Score:
    """One seed's result on the eval split.

    Attributes:
        cross_entropy_bits: mean of -log2 q(target | frame).
        accuracy: fraction of frames whose most probable class is right, 0 to 1.
        class_frames: frames of each class, shape (n_classes,).
        class_loss_bits: sum of -log2 q over the frames of each class, shape (n_classes,).
        confusion: frames by class (row) and most probable class (column), shape (n_classes, n_classes); None
            above `MOST_CONFUSABLE` classes.
        group_loss_bits: sum of -log2 q over the frames of each group, shape (n_groups,); empty without groups.
    """

    cross_entropy_bits: Bits
    accuracy: float
    class_frames: NDArray[np.int64]
    class_loss_bits: NDArray[np.float64]
    confusion: NDArray[np.int64] | None
    group_loss_bits: NDArray[np.float64]


def log_priors(targets: Tensor, classes: int) -> Tensor:
    """Ln of the class frequencies of fit targets (n_frames, n), smoothed by half a frame: (n, classes), float64."""
    counts = torch.zeros(targets.shape[1], classes, dtype=torch.float64, device=targets.device)
    counts.scatter_add_(1, targets.T, counts.new_ones(()).expand(targets.T.shape))
    return ((counts + 0.5) / (counts + 0.5).sum(1, keepdim=True)).log()


class _Tally:
    """Sums over the eval frames, for all seeds of one probe."""

    def __init__(self, seeds: int, classes: int, groups: int, device: torch.device) -> None:
        self._loss = torch.zeros(seeds, classes, dtype=torch.float64, device=device)
        self._group_loss = torch.zeros(seeds, groups, dtype=torch.float64, device=device)
        self._seeds = torch.arange(seeds, device=device)
        self._frames = torch.zeros(seeds, classes, dtype=torch.int64, device=device)
        self._right = torch.zeros(seeds, dtype=torch.int64, device=device)
        cells = classes * classes if classes <= MOST_CONFUSABLE else 0
        self._confused = torch.zeros(seeds, cells, dtype=torch.int64, device=device)

    def add(self, log_q: Tensor, target: Tensor, group: Tensor | None) -> None:
        """Add ln q (n_frames, n_seeds, n_classes), class ids (n_frames, n_seeds) and group numbers (n_frames,)."""
        nats = -log_q.gather(2, target[:, :, None])[:, :, 0]
        guess, ones = log_q.argmax(2), torch.ones_like(target)
        self._sum(self._loss, target, nats)
        if group is not None:
            self._sum(self._group_loss, group[:, None], nats)
        self._frames.scatter_add_(1, target.T, ones.T)
        self._right += (guess == target).sum(0)
        if self._confused.shape[1]:
            self._confused.scatter_add_(1, (target * log_q.shape[2] + guess).T, ones.T)

    def _sum(self, sums: Tensor, index: Tensor, nats: Tensor) -> None:
        """Add nats (n_frames, n_seeds) to the columns `index` of sums (n_seeds, n_columns), seed by seed."""
        add_at(sums.view(-1), (self._seeds * sums.shape[1] + index).reshape(-1), nats.reshape(-1))

    def scores(self) -> list[Score]:
        """One score per seed."""
        classes = self._loss.shape[1]
        loss, frames = self._loss.cpu().numpy() * NATS_TO_BITS, self._frames.cpu().numpy()
        by_group = self._group_loss.cpu().numpy() * NATS_TO_BITS
        right, confused = self._right.cpu().numpy(), self._confused.cpu().numpy()
        return [
            Score(
                float(loss[s].sum() / frames[s].sum()),
                float(right[s] / frames[s].sum()),
                frames[s],
                loss[s],
                confused[s].reshape(classes, classes) if confused.shape[1] else None,
                by_group[s],
            )
            for s in range(len(loss))
        ]


def score(
    probes: Sequence[FittedProbe], frames: Frames, targets: Tensor, groups: FrameGroups | None = None
) -> list[list[Score]]:
    """Score probes of one layer on eval frames, read once.

    Args:
        probes: probes that share their affine map.
        frames: eval frames, n_frames of them.
        targets: class ids, shape (n_frames, n_seeds) or (n_frames, 1) where all seeds share them.
        groups: of the frames, for sums per speaker or utterance.

    Returns:
        For each probe, for each seed, its score.
    """
    affine = probes[0].affine
    device = affine.mean.device
    shapes = [p.log_probabilities(torch.zeros(1, affine.dim, device=device)).shape for p in probes]
    names, ids = ((), None) if groups is None else (groups.names, torch.from_numpy(groups.ids).to(device))
    targets = targets.to(device)
    tallies = [_Tally(seeds, classes, len(names), device) for _, seeds, classes in shapes]
    for start, stop in frames.blocks(2048):
        x = affine(torch.from_numpy(frames.read(start, stop)).to(device))
        block = targets[start:stop]
        for probe, tally in zip(probes, tallies, strict=True):
            log_q = probe.log_probabilities(x)
            tally.add(log_q, block.expand(-1, log_q.shape[1]), None if ids is None else ids[start:stop])
    return [tally.scores() for tally in tallies]
