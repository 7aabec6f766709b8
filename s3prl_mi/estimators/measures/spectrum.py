"""How many directions the states of a layer fill: ranks, and how fast the spectrum decays.

Definitions in print and in code differ, and so do their values: whether states are centred, and whether singular
values or variances (their squares) are shares. Each docstring says which definition ours is.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from .registry import Value, measure
from .sample import Sample

FLOOR = 1e-10
"""Eigenvalues below this fraction of the largest are rounding; alpha-ReQ's logarithms leave them out."""


def exp_entropy(shares: NDArray[np.float64]) -> float:
    """Number of equal shares that have the entropy of these shares, which need not sum to 1; NaN where all are 0.

    Example:
        >>> round(exp_entropy(np.array([2.0, 2.0, 2.0, 0.0])), 6)
        3.0
    """
    total = shares.sum()
    p = shares[shares > 0] / total if total > 0 else np.array([np.nan])
    return float(np.exp(-(p * np.log(p)).sum()))


@measure(
    title="RankMe",
    formula="exp(-sum p log p), p = singular values of the matrix of frames (not centred) over their sum",
    source="Garrido et al. 2023, without their epsilon of 1e-7",
    needs="frames",
    unit="dimensions",
    blind="what the directions hold: a model that never trained fills many",
)
def rankme(sample: Sample) -> Value:
    """RankMe of the frames; the mean counts as a direction."""
    return sample.jackknife(lambda s: exp_entropy(np.sqrt(s)), sample.raw_spectra)


@measure(
    title="effective rank",
    formula="exp(-sum p log p), p = eigenvalues of the covariance (centred; variances) over their sum",
    source="Roy and Vetterli 2007, of the covariance matrix",
    needs="frames",
    unit="dimensions",
    blind="what the directions hold: a model that never trained fills many",
)
def effective_rank(sample: Sample) -> Value:
    """Effective rank of the covariance."""
    return sample.jackknife(exp_entropy, sample.spectra)


@measure(
    title="RankMe of utterances",
    formula="RankMe of the matrix of sums over each utterance; at most the number of utterances",
    source="Aldeneh et al. 2024",
    needs="utterances",
    unit="dimensions",
    blind="what the directions hold, and what changes within an utterance",
)
def rankme_utterances(sample: Sample) -> Value:
    """RankMe over utterance sums; without an interval, as it grows with the number of utterances."""
    return exp_entropy(torch.linalg.svdvals(sample.utterance_sums).numpy())


@measure(
    title="participation ratio",
    formula="(sum v)^2 / sum v^2, v = eigenvalues of the covariance (centred)",
    source="Gao et al. 2017",
    needs="frames",
    unit="dimensions",
    blind="what the directions hold; it sees a collapse onto one axis, and not the many axes of small variance",
)
def participation_ratio(sample: Sample) -> Value:
    """Participation ratio; near 1 where one axis carries nearly all variance."""

    def ratio(v: NDArray[np.float64]) -> float:
        squares = float(np.square(v).sum())
        return float(v.sum() ** 2 / squares) if squares > 0 else float("nan")

    return sample.jackknife(ratio, sample.spectra)


@measure(
    title="alpha-ReQ",
    formula="-slope of log v_j by log j, each j weighted by 1/j, v = eigenvalues of the covariance, largest first",
    source="Agrawal et al. 2022, over all eigenvalues above rounding (theirs: j from 11 to 50)",
    needs="frames",
    unit="exponent",
    better="near 1",
    blind="what the directions hold; a line is fitted also where the spectrum is no power law",
)
def alpha_req(sample: Sample) -> Value:
    """Decay of the spectrum; 1 is the border between too smooth and too rough."""
    return sample.jackknife(decay, sample.spectra)


def decay(v: NDArray[np.float64]) -> float:
    """The exponent of a spectrum that falls as a power; NaN of fewer than three eigenvalues.

    Example:
        >>> round(decay(np.arange(1, 50) ** -1.5), 6)
        1.5
    """
    v = v[v > FLOOR * v.max()]
    if len(v) < 3:
        return float("nan")
    j = np.arange(1, len(v) + 1)
    return float(-np.polyfit(np.log(j), np.log(v), 1, w=np.sqrt(1 / j))[0])
