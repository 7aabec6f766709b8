"""The codebook of mi_views: k-means fitted on frames of the fit split, for several seeds at a time.

Lloyd's algorithm from k-means++ seeding (Arthur and Vassilvitskii 2007), on frames after a map of their own: the hidden
states as they are, as in the paper, but for values far outside those of other frames (`frames.fit_range`), or their
whitened principal axes (`frames.AffineMap.whitened`). All seeds share each read of the frames and one matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..core.arithmetic import HALF_FRAMES, fast_products, half_is_fast
from ..core.errors import MIError
from .frames import AffineMap, CachedBlocks, Frames, ValueRange, fit_range

SAMPLE_FRAMES = 100
"""Evenly spaced frames per cluster, from which k-means++ draws and on which Lloyd's algorithm runs first."""

TOLERANCE = 1e-4
"""A codebook is done when its centroids' mean squared move is below this fraction of the frames' variance (summed over
dimensions). Measured on LibriSpeech-mini: inertia 0.2 to 0.5 % above where it ends at 1e-5, bits of 40 seeds
0.0016 below on average (standard error 0.0027), after 13 steps over all frames instead of 40 to 50."""

ROWS = 1024
"""Rows scored at a time: their scores stay in the processor's cache."""


CodebookInputs: TypeAlias = ValueRange | AffineMap
"""What maps frames (n_frames, dim) before they are clustered."""


@dataclass(frozen=True)
class Codebooks:
    """Centroids, shape (n_books, clusters, dim), float32, of frames after the map `inputs`.

    NaN for clusters that no frame belongs to, which occur where there are fewer different frames than clusters.
    """

    centroids: Tensor
    inputs: CodebookInputs = field(default_factory=ValueRange)

    @property
    def axes(self) -> int:
        """Whitened principal axes that frames are mapped to; 0: frames are as they are."""
        return self.centroids.shape[2] if isinstance(self.inputs, AffineMap) else 0

    def state(self) -> list[Tensor]:
        """CPU tensors, for torch.save."""
        inputs = self.inputs
        values = inputs.values if isinstance(inputs, AffineMap) else inputs
        whitening = [inputs.mean, inputs.matrix, inputs.variance] if isinstance(inputs, AffineMap) else []
        return [t.cpu() for t in (self.centroids, values.low, values.high, *whitening)]

    @staticmethod
    def from_state(state: list[Tensor] | Tensor, device: torch.device | str) -> Codebooks:
        """What `state()` described, on `device`; before default-4 that was centroids, the last for choices."""
        centroids, *of_map = [state[:-1]] if isinstance(state, Tensor) else state
        inputs: CodebookInputs = ValueRange(*of_map[:2])
        if len(of_map) > 2:
            low, high, mean, matrix, variance = of_map
            inputs = AffineMap(mean, matrix, variance, ValueRange(low, high))
        return Codebooks(centroids.to(device), inputs.to(device))


class _Centred(CachedBlocks):
    """Mapped frames minus one `centre` near their mean, in a `unit` of their size.

    Far from the origin the sums of frames, and the fraction of their length by which a centroid moves, would lose
    the digits in which frames differ; squares of very large or small values would leave float32.
    """

    def __init__(self, frames: Frames, inputs: CodebookInputs, centre: Tensor, unit: float) -> None:
        mapped = lambda x: inputs(x).sub_(centre).mul_(unit)  # noqa: E731
        super().__init__(frames, mapped, len(centre), centre.device)

    def variance(self) -> float:
        """Variance of the frames, summed over dimensions."""
        first, second = torch.zeros(2, self.dim, dtype=torch.float64, device=self.device)
        for _, _, x in self.blocks(ROWS):
            first += x.sum(0)
            second += x.square().sum(0)
        return float((second / len(self) - (first / len(self)).square()).sum())


SAME_POINT = 1e-4
"""Centroids nearer than this fraction of the codebook's spread are one point."""


def fit_codebooks(
    frames: Frames,
    clusters: int,
    seeds: Sequence[int],
    iterations: int = 100,
    device: torch.device | str = "cpu",
    inputs: CodebookInputs | None = None,
) -> Codebooks:
    """Fit one codebook per seed.

    Args:
        frames: the frames of view b in the fit split.
        clusters: size of each codebook.
        seeds: what k-means++ draws with; a codebook depends on its own seed only.
        iterations: the most steps of Lloyd's algorithm on all frames; it stops before when centroids hardly move.
        device: where to compute, unless `inputs` are given.
        inputs: the map of the frames; None: clipped to their own range.

    Returns:
        One codebook per seed, on `device`.

    Raises:
        MIError: fewer than two clusters, or fewer frames than clusters.
    """
    if clusters != int(clusters) or clusters < 2:
        raise MIError(f"clusters: expected a whole number of at least 2, found {clusters}.")
    if len(frames) < clusters:
        raise MIError(
            f"{clusters} clusters need at least as many frames in the fit split, which has {len(frames)}: "
            "lower downstream_expert.clusters or take more speech."
        )
    own = list(dict.fromkeys(seeds))
    stride = max(1, len(frames) // (SAMPLE_FRAMES * clusters))
    with fast_products():
        spaced = frames.select(np.arange(0, len(frames), stride))
        inputs = fit_range(frames, device) if inputs is None else inputs
        sample = inputs.to("cpu")(torch.from_numpy(spaced.read(0, len(spaced))))
        centre = sample.mean(0)
        sample -= centre
        unit = _unit(sample)
        books = _seed_codebooks(sample * unit, clusters, own).to(inputs.device)
        del sample
        centre = centre.to(inputs.device)
        if stride > 1:
            few = _Centred(spaced, inputs, centre, unit)
            books = _lloyd(few, books, iterations)
            del few
        data = _Centred(frames, inputs, centre, unit)
        books = _lloyd(data, books, iterations)
        books = _without_duplicates(data, books) / unit + centre
    return Codebooks(books[[own.index(seed) for seed in seeds]], inputs)


def _unit(x: Tensor) -> float:
    """A power of two that brings the largest value to about 1; products in float32 keep their digits."""
    return 2.0 ** -math.frexp(float(x.abs().max()))[1]


def _lloyd(data: _Centred, books: Tensor, iterations: int) -> Tensor:
    """Lloyd's algorithm for all codebooks at once; each stops for itself."""
    books = books.clone()
    moving = torch.ones(len(books), dtype=torch.bool)
    enough = TOLERANCE * data.variance() * books.shape[1]
    for _ in range(iterations):
        index = moving.nonzero()[:, 0].to(data.device)
        updated = _lloyd_step(data, books[index])
        change = (updated - books[index]).square().sum((1, 2))
        books[index] = updated
        moving[index.cpu()] = (change > enough).cpu()
        if not bool(moving.any()):
            break
    return books


def _without_duplicates(data: _Centred, books: Tensor) -> Tensor:
    """Give up centroids without frames, and all but the first of those that lie on one point: they become NaN.

    Where there are fewer different frames than clusters (codes of a quantiser), several centroids lie on one frame.
    Which of them is nearest then depends on rounding, and the eval split may pick one that no fit frame was given to.
    """
    seeds, clusters = books.shape[:2]
    counts = torch.zeros(seeds * clusters, device=books.device)
    offsets = torch.arange(seeds, device=books.device) * clusters
    nearest, one = _nearest(books), counts.new_ones(())
    for _, _, x in data.blocks(ROWS):
        flat = (nearest(x) + offsets).reshape(-1)
        counts.index_add_(0, flat, one.expand(len(flat)))
    distance = torch.cdist(books, books, compute_mode="donot_use_mm_for_euclid_dist")
    spread = books.square().sum(2).mean(1).sqrt()
    same = distance <= SAME_POINT * spread[:, None, None]
    earlier = torch.ones(clusters, clusters, dtype=torch.bool, device=books.device).tril(-1)
    empty = counts.view(seeds, clusters) == 0
    gone = empty | (same & earlier & ~empty[:, None, :]).any(2)
    return books.masked_fill(gone[:, :, None], float("nan"))


def assign(frames: Frames, codebooks: Codebooks) -> Tensor:
    """Ids of the nearest centroids.

    Args:
        frames: n_frames of them.
        codebooks: n_books of them.

    Returns:
        Cluster ids, shape (n_frames, n_books), int64, on the codebooks' device.
    """
    books, device = codebooks.centroids, codebooks.centroids.device
    out = torch.empty(len(frames), len(books), dtype=torch.long, device=device)
    nearest = _nearest(books)
    for start, stop in frames.blocks():
        x = torch.from_numpy(frames.read(start, stop)).to(device)
        out[start:stop] = nearest(codebooks.inputs(x))
    return out


def _nearest(books: Tensor) -> Callable[[Tensor], Tensor]:
    """Frames (n_frames, dim) -> the nearest centroid of each codebook, (n_frames, n_books).

    By squared distance (|x|^2 is the same for all).
    """
    seeds, clusters, dim = books.shape
    # small numbers in the product: float32 keeps its digits far from the origin
    centre = books.nanmean((0, 1))
    moved = (books - centre).reshape(-1, dim)
    unit = _unit(moved.nan_to_num())
    moved = moved * unit
    norms = moved.square().sum(1)[None]

    def nearest(x: Tensor) -> Tensor:
        scores = torch.addmm(norms, (x - centre) * unit, moved.T, alpha=-2.0)
        # a product with NaN taints nothing but its own column
        return scores.nan_to_num(nan=float("inf"), posinf=float("inf")).view(-1, seeds, clusters).argmin(2)

    return nearest


def _lloyd_step(data: _Centred, books: Tensor) -> Tensor:
    """Move each centroid to the mean of its frames; one without frames stays where it is."""
    seeds, clusters, dim = books.shape
    sums = torch.zeros(seeds * clusters, dim, device=books.device)
    counts = torch.zeros(seeds * clusters, device=books.device)
    offsets, one = torch.arange(seeds, device=books.device) * clusters, counts.new_ones(())
    flat_books = books.reshape(-1, dim)
    norms, doubled = flat_books.square().sum(1)[None], -2.0 * flat_books.T
    add_frames = _add_frames if data.device.type == "cpu" else _add_frames_by_product
    half = len(data) >= HALF_FRAMES and half_is_fast(data.device)
    doubled = doubled.bfloat16() if half else doubled
    for _, _, x in data.blocks(ROWS):
        # as `_nearest`, of frames and centroids that are centred and of centroids that are all there; near a border
        # between two clusters bfloat16 may take the other one, which costs next to nothing
        scores = (x.bfloat16() @ doubled).float().add_(norms) if half else torch.addmm(norms, x, doubled)
        flat = scores.view(-1, seeds, clusters).min(2).indices + offsets
        add_frames(sums, flat, x)
        counts.index_add_(0, flat.reshape(-1), one.expand(flat.numel()))
    means = sums / counts.clamp_min(1)[:, None]
    return torch.where((counts > 0)[:, None], means, books.reshape(-1, dim)).view(seeds, clusters, dim)


def _add_frames(sums: Tensor, index: Tensor, x: Tensor) -> None:
    """Add frames x (n_frames, dim) to rows of `sums`, each to those of `index` (n_frames, n_seeds)."""
    for rows in index.T:
        sums.index_add_(0, rows, x)


def _add_frames_by_product(sums: Tensor, index: Tensor, x: Tensor) -> None:
    """The same for a GPU, where index_add_ adds in any order and codebooks would differ from run to run.

    `index` names no row twice for one frame.
    """
    sums.addmm_(x.new_zeros(len(x), len(sums)).scatter_(1, index, 1.0).T, x)


def _seed_codebooks(sample: Tensor, clusters: int, seeds: Sequence[int]) -> Tensor:
    """k-means++ for each seed, on the CPU so that every device draws the same frames.

    Args:
        sample: frames to draw from, shape (n_sample, dim).
        clusters: frames drawn.
        seeds: a seed's draws do not depend on the others.

    Returns:
        Shape (n_seeds, clusters, dim).
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    x = sample - sample.mean(0)  # keeps the products below exact far from the origin
    norms = x.square().sum(1)
    first = torch.stack([torch.randint(len(x), (1,), generator=g) for g in generators])
    picked = [first]
    distance = _squared_distance(x, norms, first)[:, :, 0]
    for _ in range(clusters - 1):
        # the best of a few draws, as scikit-learn does; where no frame is left that differs, one is repeated
        drawn = torch.stack(
            [
                torch.multinomial(d, 4, replacement=True, generator=g) if float(d.sum()) > 0 else f.expand(4)
                for d, g, f in zip(distance, generators, first, strict=True)
            ]
        )
        trials = torch.minimum(distance[:, :, None], _squared_distance(x, norms, drawn))
        best = trials.sum(1).argmin(1, keepdim=True)
        distance = trials.take_along_dim(best[:, None], 2)[:, :, 0].contiguous()
        picked.append(drawn.take_along_dim(best, 1))
    return sample[torch.cat(picked, 1).sort(1).values]


def _squared_distance(x: Tensor, norms: Tensor, drawn: Tensor) -> Tensor:
    """Squared distances of frames x (n, dim), with squared `norms`, to those drawn (n_seeds, k): (n_seeds, n, k)."""
    seeds, k = drawn.shape
    product = (x @ x[drawn.reshape(-1)].T).view(len(x), seeds, k).transpose(0, 1)
    return (norms[None, :, None] + norms[drawn][:, None] - 2 * product).clamp_min(0)
