"""Frames of one layer as the estimators read them: blocks of rows, standardised, on a device.

A probe's first step is an affine map fitted on the fit split: subtract the mean, divide by the standard
deviation, and turn to the principal axes. It is invertible, so it changes no mutual information; the axes
make the logistic probe's curvature nearly diagonal, which is what lets it converge in a few steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
class AffineMap:
    """``x -> (x - mean) @ matrix``: standardisation and rotation, part of every probe.

    `mean` has shape (dim,), `matrix` (dim, dim), `variance` (dim,) holds the variance of each output.
    """

    mean: Tensor
    matrix: Tensor
    variance: Tensor

    @property
    def dim(self) -> int:
        """Dimensions of the frames it maps."""
        return len(self.mean)

    def to(self, device: torch.device | str) -> AffineMap:
        """A copy on `device`."""
        return AffineMap(self.mean.to(device), self.matrix.to(device), self.variance.to(device))

    def __call__(self, x: Tensor) -> Tensor:
        """Map frames x of shape (n_frames, dim)."""
        return (x - self.mean) @ self.matrix


def fit_affine(frames: Frames, device: torch.device | str = "cpu") -> AffineMap:
    """Fit the standardisation and the principal axes of the standardised frames.

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
    first = torch.zeros(dim, dtype=torch.float64)
    second = torch.zeros(dim, dim, dtype=torch.float64)
    # keeps sums of products small, so that float32 products lose nothing
    shift = near_mean(frames).to(device)
    for start, stop in frames.blocks():
        x = torch.from_numpy(frames.read(start, stop)).to(device)
        if not bool(torch.isfinite(x).all()):
            raise MIError("hidden states hold NaN or infinite values")
        x = x - shift
        first += x.sum(0, dtype=torch.float64).cpu()
        second += (x.T @ x).double().cpu()
    centre = first / n
    covariance = second / n - torch.outer(centre, centre)
    variance = covariance.diagonal().clamp_min(0)
    # each dimension against its own rounding, not against the others: a small one may hold all the information
    rounding = 4 * torch.finfo(torch.float32).eps * (shift.cpu().double() + centre).abs()
    scale = torch.where(variance > rounding.square(), variance, torch.inf).rsqrt()
    correlation = covariance * torch.outer(scale, scale)
    values, axes = torch.linalg.eigh(correlation)
    matrix = scale[:, None] * axes
    return AffineMap(
        mean=(shift.cpu().double() + centre).float().to(device),
        matrix=matrix.float().to(device),
        variance=values.clamp_min(0).float().to(device),
    )


def near_mean(frames: Frames) -> Tensor:
    """A point near the mean of the frames, from the first of them; shape (dim,), on the CPU."""
    return torch.from_numpy(frames.read(0, BLOCK_ROWS)).mean(0)


class CachedBlocks:
    """Frames after a map, as float32 blocks on a device; kept in memory while small enough.

    Args:
        frames: what to read.
        mapped: the map, of frames (n, dim) on `device` to frames (n, dim).
        device: where to compute.
        cache_bytes: keep the mapped frames if they need at most this much.
    """

    def __init__(
        self, frames: Frames, mapped: Callable[[Tensor], Tensor], device: torch.device, cache_bytes: int
    ) -> None:
        self.frames, self.dim, self.device = frames, frames.dim, device
        self._mapped, self._cache_bytes = mapped, cache_bytes
        self._cache: Tensor | None = None
        if len(frames) * frames.dim * 4 <= cache_bytes:
            cache = torch.empty(len(frames), frames.dim, device=device)
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

    def __init__(self, frames: Frames, affine: AffineMap, cache_bytes: int = CACHE_BYTES) -> None:
        self.affine = affine
        super().__init__(frames, affine, affine.mean.device, cache_bytes)

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
            x = self._read(start, stop).sub_(self.affine.mean) if self._cache is None else self._cache[start:stop]
            yield start, stop, x

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
