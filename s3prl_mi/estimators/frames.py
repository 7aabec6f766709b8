"""Frames of one layer as the estimators read them: blocks of rows, standardised, on a device.

A probe's first step is fitted on the fit split: clip each dimension, subtract the mean, divide by the standard
deviation, and turn to the principal axes. Clipping keeps one bad frame from deciding on all that follows, and is part
of q, so the bound stays one. The rest is invertible and changes no mutual information; the axes make the logistic
probe's curvature nearly diagonal, which is what lets it converge in a few steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.errors import MIError
from ..core.types import FloatMatrix, IntVector

BLOCK_ROWS = 4096
"""Rows read and multiplied at a time."""

CACHE_BYTES = 1 << 30
"""Standardised frames of a layer are kept in memory below this size, and read again block by block above."""

OF_GPU_MEMORY = 1 / 8
"""Fraction of a GPU's memory that takes their place there: each block that is read again is a copy to wait for."""


RANGE_FRAMES = 4096
"""Evenly spaced fit frames, or up to twice as many, from which it is found how far values may lie from the median."""

RANGE, SPARSE_RANGE = 5.0, 10.0
"""Values are clipped so many times as far from their median as the 1st or 99th percentile, whichever is farther (11.6
standard deviations of a Gaussian). Where all of these are equal (sparse codes): times as far as the farthest value."""


class Array2D(Protocol):
    """What frames are read from: an array of shape (n_frames, dim), or what reads like one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n_frames, dim)."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> NDArray[np.floating]: ...


class Frames:
    """Selected rows of arrays that lie end to end, read in blocks.

    Args:
        parts: arrays of shape (n_i, dim), usually memory-mapped files; taken as one array of sum(n_i) rows.
        rows: the rows that count, in ascending order, shape (n_frames,); None for all.
    """

    def __init__(self, parts: Sequence[Array2D], rows: IntVector | None = None) -> None:
        if not parts:
            raise ValueError("at least one array of frames is needed")
        self.parts = list(parts)
        self._starts = np.cumsum([0] + [len(p) for p in self.parts])
        self.rows = np.arange(self._starts[-1]) if rows is None else np.asarray(rows, dtype=np.int64)
        self.dim = int(self.parts[0].shape[1])

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, positions: NDArray[np.integer] | NDArray[np.bool_]) -> Frames:
        """A subset of these frames, by position or by mask of shape (n_frames,)."""
        return Frames(self.parts, self.rows[positions])

    def read(self, start: int, stop: int) -> FloatMatrix:
        """Frames [start, stop) as float32, shape (stop - start, dim)."""
        rows = self.rows[start:stop]
        out = np.empty((len(rows), self.dim), dtype=np.float32)
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        for part in np.unique(owner):
            inside = owner == part
            local = rows[inside] - self._starts[part]
            first, last = int(local.min()), int(local.max()) + 1
            if last - first <= 4 * len(local):
                # near enough together to be read in one sweep of the file
                out[inside] = self.parts[part][first:last][local - first]
            else:
                out[inside] = self.parts[part][local]
        return out

    def blocks(self, size: int = BLOCK_ROWS) -> Iterator[tuple[int, int]]:
        """Bounds of consecutive blocks that cover all frames."""
        for start in range(0, len(self), size):
            yield start, min(start + size, len(self))


@dataclass(frozen=True)
class ValueRange:
    """Where the values of each dimension are clipped; `low` and `high` have shape (dim,), or none for all alike."""

    low: Tensor = field(default_factory=lambda: torch.tensor(-torch.inf))
    high: Tensor = field(default_factory=lambda: torch.tensor(torch.inf))

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.low.device

    def to(self, device: torch.device | str) -> ValueRange:
        """A copy on `device`."""
        return ValueRange(self.low.to(device), self.high.to(device))

    def __call__(self, x: Tensor) -> Tensor:
        """A copy of frames x (n_frames, dim), clipped."""
        return x.clamp(self.low, self.high)


def median_and_reach(frames: Frames) -> tuple[Tensor, Tensor]:
    """The median of each dimension and how far from it values are left as they are; float64, shape (dim,), CPU.

    Infinite where no frame that was looked at differs from another.
    """
    spaced = frames.select(np.arange(0, len(frames), max(1, len(frames) // RANGE_FRAMES)))
    x = np.ascontiguousarray(spaced.read(0, len(spaced)).T)  # (dim, n)
    n = x.shape[1]
    order = np.partition(x, (n // 100, n // 2, n - 1 - n // 100), axis=1)
    low, median, high = (order[:, i].astype(np.float64) for i in (n // 100, n // 2, n - 1 - n // 100))
    with np.errstate(invalid="ignore"):  # frames that are refused later
        reach = RANGE * np.maximum(high - median, median - low)
        farthest = np.maximum(x.max(1) - median, median - x.min(1))
    farthest = SPARSE_RANGE * np.where(farthest > 0, farthest, farthest.max())
    reach = np.where(reach > 0, reach, np.where(farthest > 0, farthest, np.inf))
    return torch.from_numpy(median), torch.from_numpy(reach)


def fit_range(frames: Frames, device: torch.device | str = "cpu") -> ValueRange:
    """A range that holds all but bad frames of the fit split, on `device`."""
    median, reach = median_and_reach(frames)
    return ValueRange((median - reach).float(), (median + reach).float()).to(device)


@dataclass(frozen=True)
class AffineMap:
    """``x -> (clip(x) - mean) @ matrix``: standardisation and rotation, part of every probe.

    `mean` has shape (dim,), `matrix` (dim, n_axes), axes of least variance first; `variance` (n_axes,) is that of each
    output. Maps saved by protocols before default-4 and paper-2 have no range.
    """

    mean: Tensor
    matrix: Tensor
    variance: Tensor
    values: ValueRange = field(default_factory=ValueRange)

    @property
    def dim(self) -> int:
        """Dimensions of the frames it maps."""
        return len(self.mean)

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.mean.device

    def to(self, device: torch.device | str) -> AffineMap:
        """A copy on `device`."""
        mean, matrix, variance = (t.to(device) for t in (self.mean, self.matrix, self.variance))
        return AffineMap(mean, matrix, variance, self.values.to(device))

    def whitened(self, axes: int) -> AffineMap:
        """The map to the principal axes of most variance, at most so many, each of variance 1."""
        varied = self.variance > 1e-6 * self.variance[-1]
        kept = varied.nonzero()[-axes:, 0]
        matrix = self.matrix[:, kept] / self.variance[kept].sqrt()
        return AffineMap(self.mean, matrix, torch.ones_like(self.variance[kept]), self.values)

    def centred(self, x: Tensor) -> Tensor:
        """Frames x (n_frames, dim), clipped, minus the mean."""
        return self.values(x).sub_(self.mean)

    def __call__(self, x: Tensor) -> Tensor:
        """Map frames x of shape (n_frames, dim)."""
        return self.centred(x) @ self.matrix


def fit_affine(frames: Frames, device: torch.device | str = "cpu") -> AffineMap:
    """Fit the range of values, the standardisation and the principal axes of the standardised frames.

    Dimensions that never vary (by more than float32's rounding of their values) are mapped to zero.

    Args:
        frames: the fit split.
        device: where the sums are computed.

    Returns:
        The map, on `device`.

    Raises:
        MIError: NaN or infinite values.
    """
    n, dim = len(frames), frames.dim
    first = torch.zeros(dim, dtype=torch.float64, device=device)
    second = torch.zeros(dim, dim, dtype=torch.float64, device=device)
    finite = torch.ones((), dtype=torch.bool, device=device)
    median, reach = median_and_reach(frames)
    values = ValueRange((median - reach).float(), (median + reach).float()).to(device)
    # keeps sums of products small, so that float32 products lose nothing
    unit = torch.where(reach.isfinite(), reach, 1.0)
    shift, inverse = median.float().to(device), (1 / unit).float().to(device)
    for start, stop in frames.blocks():
        x = torch.from_numpy(frames.read(start, stop)).to(device)
        finite &= torch.isfinite(x).all()
        x = values(x).sub_(shift).mul_(inverse)
        first += x.sum(0, dtype=torch.float64)
        second += x.T @ x
    if not bool(finite):
        raise MIError("hidden states hold NaN or infinite values")
    first, second = first.cpu(), second.cpu()
    centre = first / n
    covariance = second / n - torch.outer(centre, centre)
    variance = covariance.diagonal().clamp_min(0)
    # each dimension against its own rounding, not against the others: a small one may hold all the information
    mean = median + centre * unit
    rounding = 4 * torch.finfo(torch.float32).eps * mean.abs() / unit
    scale = torch.where(variance > rounding.square(), variance, torch.inf).rsqrt()
    correlation = covariance * torch.outer(scale, scale)
    spectrum, axes = torch.linalg.eigh(correlation)
    matrix = (scale / unit)[:, None] * axes
    return AffineMap(
        mean=mean.float().to(device),
        matrix=matrix.float().to(device),
        variance=spectrum.clamp_min(0).float().to(device),
        values=values,
    )


def cache_limit(device: torch.device) -> int:
    """The most bytes that mapped frames of a layer may take on a device."""
    if device.type != "cuda":
        return CACHE_BYTES
    return max(CACHE_BYTES, int(OF_GPU_MEMORY * torch.cuda.get_device_properties(device).total_memory))


class CachedBlocks:
    """Frames after a map, as float32 blocks on a device; kept in memory while small enough.

    Args:
        frames: what to read.
        mapped: the map, of frames (n, frames.dim) on `device` to frames (n, dim).
        dim: dimensions of mapped frames.
        device: where to compute.
        cache_bytes: keep the mapped frames if they need at most this much; None: `cache_limit`.
    """

    def __init__(
        self,
        frames: Frames,
        mapped: Callable[[Tensor], Tensor],
        dim: int,
        device: torch.device,
        cache_bytes: int | None = None,
    ) -> None:
        self.frames, self.dim, self.device = frames, dim, device
        self._mapped, self._cache_bytes = mapped, cache_limit(device) if cache_bytes is None else cache_bytes
        self._cache: Tensor | None = None
        if len(frames) * dim * 4 <= self._cache_bytes:
            cache = torch.empty(len(frames), dim, device=device)
            for start, stop in frames.blocks():
                cache[start:stop] = mapped(self._read(start, stop))
            self._cache = cache

    def __len__(self) -> int:
        return len(self.frames)

    def _read(self, start: int, stop: int) -> Tensor:
        return torch.from_numpy(self.frames.read(start, stop)).to(self.device)

    def block(self, start: int, stop: int) -> Tensor:
        """Mapped frames [start, stop), shape (stop - start, dim)."""
        return self._mapped(self._read(start, stop)) if self._cache is None else self._cache[start:stop]

    def blocks(self, size: int = BLOCK_ROWS) -> Iterator[tuple[int, int, Tensor]]:
        """All mapped frames, as (start, stop, block of shape (stop - start, dim))."""
        for start, stop in self.frames.blocks(size):
            yield start, stop, self.block(start, stop)


class Inputs(CachedBlocks):
    """Frames after the affine map that is fitted on the fit split."""

    def __init__(self, frames: Frames, affine: AffineMap, cache_bytes: int | None = None) -> None:
        self.affine = affine
        super().__init__(frames, affine, affine.dim, affine.device, cache_bytes)

    def select(self, rows: NDArray[np.integer]) -> Inputs:
        """Some of the frames, by ascending position; not mapped again where they are in memory."""
        frames = self.frames.select(rows)
        if self._cache is None:
            return Inputs(frames, self.affine, self._cache_bytes)
        chosen = Inputs(frames, self.affine, 0)
        chosen._cache = self._cache[torch.from_numpy(rows).to(self.device)]
        return chosen

    def fold(self, weight: Tensor) -> Tensor:
        """Weights (dim, n) for mapped frames as those for the frames of `blocks_to_fold`: the map is part of them.

        Frames that are read again and again need not be mapped each time, which costs more than most probes.
        """
        return weight if self._cache is not None else self.affine.matrix @ weight

    def unfold(self, gradient: Tensor) -> Tensor:
        """The gradient by mapped frames' weights, from that by the weights of `fold`."""
        return gradient if self._cache is not None else self.affine.matrix.T @ gradient

    def blocks_to_fold(self, size: int = BLOCK_ROWS) -> Iterator[tuple[int, int, Tensor]]:
        """All frames as (start, stop, block) for the weights of `fold`: mapped if they are in memory, else centred."""
        for start, stop in self.frames.blocks(size):
            x = self.affine.centred(self._read(start, stop)) if self._cache is None else self._cache[start:stop]
            yield start, stop, x

    @property
    def taken_from(self) -> torch.device:
        """Where `take` wants positions: with the frames, which are on the device, or still to be read."""
        return torch.device("cpu") if self._cache is None else self.device

    def take(self, positions: Tensor) -> Tensor:
        """Mapped frames at `positions`, shape (len(positions), dim)."""
        if self._cache is not None:
            return self._cache[positions.to(self.device)]
        order = torch.argsort(positions)
        picked = self.frames.select(positions[order].cpu().numpy())
        out = torch.empty(len(positions), self.dim, device=self.device)
        x = torch.from_numpy(picked.read(0, len(picked))).to(self.device)
        out[order.to(self.device)] = self.affine(x)
        return out
