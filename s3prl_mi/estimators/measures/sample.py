"""What measures read of one layer: eval frames, pairs of views, codes and labels; moments and spectra they share.

Frames are the states of the unmasked input, as they are: no clipping, no scaling. Intervals leave out each of at most
`MOST_GROUPS` groups of eval speakers in turn (the delete-a-group jackknife, Kott 2001), as `intervals` does for bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...core.errors import MIError
from ...core.types import FloatMatrix, IntVector
from ..folds import assign_folds
from ..frames import Frames
from ..intervals import FrameGroups, LeftOut
from ..kmeans import Codebooks, assign
from ..probe import FittedProbe
from ..probes import ProbeSpec

MOST_FRAMES, MOST_PAIRS = 50_000, 20_000
"""Eval frames and pairs that measures read, evenly spaced: RankMe has settled at 25 600 (Garrido et al. 2023)."""

MOST_GROUPS = 10


def spaced(frames: Frames, most: int) -> IntVector:
    """Positions of at most so many evenly spaced frames."""
    return np.arange(0, len(frames), max(1, -(-len(frames) // most)))


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of two views: frame i of `a` and of `b`; `groups` has the speaker of each."""

    a: Frames
    b: Frames
    groups: FrameGroups

    @cached_property
    def few(self) -> tuple[Tensor, Tensor, FrameGroups]:
        """Evenly spaced pairs (n, dim_a), (n, dim_b) as float32, and their speakers."""
        rows = spaced(self.a, MOST_PAIRS)
        a, b = (torch.from_numpy(z.select(rows).read(0, len(rows))) for z in (self.a, self.b))
        return a, b, self.groups.select(rows)

    @cached_property
    def moments(self) -> Moments:
        """Of both views side by side, [a, b], minus the first pair, by group of speakers."""
        a, b, groups = self.few
        both = torch.cat([a, b], 1)
        return Moments.of(both - both[0], groups)


@dataclass(eq=False)
class Features:
    """Features of the audio, such as fbank, at the same frames as some states; positions -> (n_frames, dim).

    Those of the last positions are kept, as all layers ask for the same; so is `alone`, the bound that they have.
    """

    read: Callable[[IntVector], FloatMatrix]
    alone: LeftOut | None = None
    _last: tuple[IntVector, FloatMatrix] | None = None

    def __call__(self, positions: IntVector) -> FloatMatrix:
        """At ascending positions among the frames."""
        if self._last is None or not np.array_equal(self._last[0], positions):
            self._last = (positions, self.read(positions))
        return self._last[1]


@dataclass(frozen=True, eq=False)
class FitSide:
    """What is fitted on, for measures that choose something there.

    Attributes:
        pairs: of the fit split.
        frames_b: all frames of view b.
        rows_b: rows of `frames_b` that are the pairs' partners.
        folds: fold of each row of `frames_b`.
        spec: how probes are fitted.
        kmeans_iterations: the most steps of k-means.
        fbank: of each row of `frames_b`, where there is audio.
    """

    pairs: Pairs
    frames_b: Frames
    rows_b: IntVector
    folds: IntVector
    spec: ProbeSpec
    kmeans_iterations: int
    fbank: Features | None = None


@dataclass(frozen=True, eq=False)
class Coded:
    """Codes and labels of the same frames, shape (n,) each, and their speakers; the frames where states are there.

    `folds`: of the fit side, shape (n,); `fbank`: of the same frames.
    """

    codes: IntVector
    labels: IntVector
    groups: FrameGroups
    frames: Frames | None = None
    folds: IntVector | None = None
    fbank: Features | None = None


@dataclass(frozen=True, eq=False)
class Sample:
    """What is there of one layer; a measure reads what its `needs` name, and no more.

    Attributes:
        frames: all eval frames of the unmasked input.
        groups: speaker of each (utterance where unknown).
        utterances: number of the utterance of each frame, shape (n_frames,).
        pairs: of the eval split; None in mi_supervised.
        fit: the fit side; None in mi_supervised.
        codebooks: of view b in mi_views.
        coded: eval frames with a label and their codes; None in mi_views.
        fit_coded: the same of the fit split.
        n_clusters: size of the codebook.
        fbank: of each of `frames`; None in mi_supervised (`coded.fbank`) and where there is no audio.
        spec: in mi_supervised, how a logistic probe of one seed is fitted.
        probe: in mi_supervised, the run's logistic probe; None where it has none.
    """

    frames: Frames
    groups: FrameGroups
    utterances: IntVector
    pairs: Pairs | None = None
    fit: FitSide | None = None
    codebooks: Codebooks | None = None
    coded: Coded | None = None
    fit_coded: Coded | None = None
    n_clusters: int | None = None
    fbank: Features | None = None
    spec: ProbeSpec | None = None
    probe: FittedProbe | None = None

    @cached_property
    def _rows(self) -> IntVector:
        return spaced(self.frames, MOST_FRAMES)

    @cached_property
    def x(self) -> Tensor:
        """Evenly spaced eval frames, shape (n, dim), float32.

        Raises:
            MIError: NaN or infinite values.
        """
        x = torch.from_numpy(self.frames.select(self._rows).read(0, len(self._rows)))
        if not bool(torch.isfinite(x).all()):
            raise MIError("hidden states of the eval split hold NaN or infinite values.")
        return x

    @cached_property
    def codes(self) -> Tensor:
        """Cluster of each frame of `x` in the first codebook, shape (n,)."""
        assert self.codebooks is not None
        first = Codebooks(self.codebooks.centroids[:1], self.codebooks.inputs)
        return assign(self.frames.select(self._rows), first)[:, 0].cpu()

    @cached_property
    def utterance_sums(self) -> Tensor:
        """Sums of `x` over each utterance, shape (n_utterances, dim), float64."""
        _, of_row = np.unique(self.utterances[self._rows], return_inverse=True)
        sums = torch.zeros(1 + int(of_row.max()), self.x.shape[1], dtype=torch.float64)
        return sums.index_add_(0, torch.from_numpy(of_row), self.x.double())

    @cached_property
    def moments(self) -> Moments:
        """Of `x`, by group of speakers."""
        return Moments.of(self.x, self.groups.select(self._rows))

    @cached_property
    def raw_spectra(self) -> list[NDArray[np.float64]]:
        """Eigenvalues of the mean of x x^T, not centred: of all frames, then without each group."""
        return [_spectrum(second / n) for n, _, second in self.moments.left_out()]

    @cached_property
    def spectra(self) -> list[NDArray[np.float64]]:
        """Eigenvalues of the covariance: of all frames, then without each group."""
        return [_spectrum(covariance(*m)) for m in self.moments.left_out()]

    def jackknife(
        self, function: Callable[[NDArray[np.float64]], float], spectra: list[NDArray[np.float64]]
    ) -> LeftOut:
        """A function of a spectrum, with all frames and without each group."""
        whole, *without = [function(s) for s in spectra]
        return LeftOut(self.moments.over, self.moments.names, whole, np.array(without))


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over frames by group of speakers, in float64: small singular values lie below float32's rounding.

    Attributes:
        over: what the groups are of, `speakers` or `utterances`.
        names: of the groups, those left out together joined by `+`.
        count: frames, shape (n_groups,).
        first: sums, shape (n_groups, dim).
        second: sums of x x^T, shape (n_groups, dim, dim).
    """

    over: str
    names: tuple[str, ...]
    count: Tensor
    first: Tensor
    second: Tensor

    @staticmethod
    def of(x: Tensor, groups: FrameGroups) -> Moments:
        """Of frames x (n, dim)."""
        folds, names = grouped(groups)
        parts = [x[torch.from_numpy(folds == k)].double() for k in range(len(names))]
        return Moments(
            groups.over,
            names,
            torch.tensor([float(len(p)) for p in parts], dtype=torch.float64),
            torch.stack([p.sum(0) for p in parts]),
            torch.stack([p.T @ p for p in parts]),
        )

    def left_out(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Count, sum and second moments of all frames, then without each group (of several)."""
        whole = (self.count.sum(), self.first.sum(0), self.second.sum(0))
        if len(self.names) < 2:
            return [whole]
        parts = zip(self.count, self.first, self.second, strict=True)
        return [whole, *((whole[0] - n, whole[1] - f, whole[2] - s) for n, f, s in parts)]


def grouped(groups: FrameGroups, most: int = MOST_GROUPS) -> tuple[IntVector, tuple[str, ...]]:
    """At most so many groups of whole speakers of about equal size: the group of each frame, and their names."""
    present = np.unique(groups.ids)
    if len(present) <= most:
        return np.searchsorted(present, groups.ids), tuple(groups.names[i] for i in present)
    folds = assign_folds(groups.ids, most)
    members = [sorted({groups.names[i] for i in np.unique(groups.ids[folds == k])}) for k in range(most)]
    return folds, tuple("+".join(names) for names in members)


def covariance(count: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """From sums over frames, shape (dim, dim)."""
    mean = first / count
    return second / count - torch.outer(mean, mean)


def _spectrum(matrix: Tensor) -> NDArray[np.float64]:
    """Eigenvalues of a symmetric matrix, the largest first, none below 0."""
    return torch.linalg.eigvalsh(matrix).clamp_min(0).flip(0).numpy()
