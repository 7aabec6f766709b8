"""How alike two views are: CKA, canonical correlations, InfoNCE, the bound of a plain codebook."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..bounds import NATS_TO_BITS
from ..intervals import FrameGroups, LeftOut
from ..kmeans import fit_codebooks
from ..mi_views import choose_codebook, fit_views, score_views
from .registry import Value, measure
from .sample import Sample, covariance, grouped

RIDGE = 1e-6
"""Directions with less than this fraction of the largest variance are left out of canonical correlations."""

CONTRAST = 256
"""Pairs that InfoNCE tells apart at a time: it cannot exceed log2 of it, 8 bits."""

CONTRASTED, TRIED = 8192, 2048
"""At most so many pairs of the eval split are scored, and of the fit split for the choice of the temperature."""

TEMPERATURES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 10.0, 100.0)


@measure(
    title="CKA of the views",
    formula="|C_ba|^2 / (|C_aa| |C_bb|), Frobenius norms of the covariances of both views (linear, centred)",
    source="Kornblith et al. 2019, biased",
    needs="pairs",
    unit="0 to 1",
    blind="directions of small variance; views are also alike where states have collapsed",
)
def cka_views(sample: Sample) -> Value:
    """Linear CKA between the views; ruled by the directions of most variance."""
    assert sample.pairs is not None
    found = []
    both = sample.pairs.moments
    for sums in both.left_out():
        aa, bb, ab = _blocks(covariance(*sums), sample.pairs.a.dim)
        found.append(float(ab.square().sum() / (aa.norm() * bb.norm())))
    return LeftOut(both.over, both.names, found[0], np.array(found[1:]))


@measure(
    title="canonical correlation of the views",
    formula="mean of the min(dim_a, dim_b) canonical correlations of the views, of directions above 1e-6 of the "
    "largest variance",
    source="Hotelling 1936; mean as in SVCCA (Raghu et al. 2017), without its truncation",
    needs="pairs",
    unit="0 to 1",
    blind="how much variance a direction has; views are also alike where states have collapsed",
)
def cca_views(sample: Sample) -> Value:
    """Mean canonical correlation between the views; all directions count alike."""
    assert sample.pairs is not None
    return mean_canonical_correlation(covariance(*sample.pairs.moments.left_out()[0]), sample.pairs.a.dim)


def mean_canonical_correlation(both: Tensor, dim: int) -> float:
    """From the covariance of [a, b], a of so many dimensions; too high where frames are not far more than dimensions.

    NaN where one of them does not vary.
    """
    aa, bb, ab = _blocks(both, dim)
    a, b = whitening(aa), whitening(bb)
    if a is None or b is None:
        return math.nan
    return float(torch.linalg.svdvals(a.T @ ab @ b).clamp_max(1).mean())


def whitening(covariance: Tensor) -> Tensor | None:
    """The matrix that makes states of this covariance (dim, dim) white; None where they do not vary."""
    variance, axes = torch.linalg.eigh(covariance)
    kept = variance > RIDGE * variance[-1]
    return axes[:, kept] / variance[kept].sqrt() if float(variance[-1]) > 0 and bool(kept.any()) else None


@measure(
    title="InfoNCE of the views",
    formula="log2 K - E[-log2 softmax(cos(a_i, b_j) / t)_i], K = 256 pairs, states standardised, t chosen on fit pairs",
    source="van den Oord et al. 2018; a lower bound of I(Za;Zb) for any critic, this one is not learned",
    needs="pairs",
    unit="bits",
    blind="more than 8 bits; who speaks counts like what is said",
)
def infonce_views(sample: Sample) -> Value:
    """InfoNCE between the views. Other pairs are of any speaker: who speaks helps to tell them apart."""
    assert sample.pairs is not None
    assert sample.fit is not None
    fit, scored = sample.fit.pairs.few, sample.pairs.few
    maps = [(z.mean(0), z.std(0).clamp_min(1e-12)) for z in fit[:2]]
    losses = {t: float(_contrast(fit, maps, t, TRIED)[0].mean()) for t in TEMPERATURES}
    loss, groups = _contrast(scored, maps, min(losses, key=lambda t: losses[t]), CONTRASTED)
    k = min(CONTRAST, len(scored[0]))
    folds, names = grouped(groups)
    sums, frames = np.bincount(folds, loss.numpy(), len(names)), np.bincount(folds, minlength=len(names))
    with np.errstate(invalid="ignore", divide="ignore"):
        without = math.log2(k) - (sums.sum() - sums) / (frames.sum() - frames)
    return LeftOut(groups.over, names, math.log2(k) - float(sums.sum() / frames.sum()), without)


def _contrast(
    pairs: tuple[Tensor, Tensor, FrameGroups], maps: list[tuple[Tensor, Tensor]], temperature: float, most: int
) -> tuple[Tensor, FrameGroups]:
    """-log2 probability of each pair's partner among `CONTRAST`, of at most so many pairs, and their speakers."""
    a, b, groups = pairs
    order = torch.randperm(len(a), generator=torch.Generator().manual_seed(0))[:most]
    size = min(CONTRAST, len(order))
    order = order[: len(order) // size * size]
    za, zb = (functional.normalize((z[order] - m) / s, dim=1) for z, (m, s) in zip((a, b), maps, strict=True))
    target = torch.arange(size)
    parts = [
        functional.cross_entropy(x @ y.T / temperature, target, reduction="none")
        for x, y in zip(za.split(size), zb.split(size), strict=True)
    ]
    return torch.cat(parts).double() * NATS_TO_BITS, groups.select(order.numpy())


@measure(
    title="I(Za;Zb), plain codebook",
    formula="H(c(Zb)) - E[-log2 q(c(zb)|za)], c: k-means of the states as they are, q logistic, one seed",
    source="Liu, Yeh and Glass 2024, eq. 6 to 8, with the protocol of the run",
    needs="pairs",
    unit="bits",
    default=False,
    blind="more than log2 of the clusters; who speaks, and what is easy to predict, count like what is said",
)
def mi_raw(sample: Sample) -> Value:
    """The bound with the codebook of the states as they are, whatever `codebook` says: takes as long as a probe."""
    assert sample.pairs is not None
    assert sample.fit is not None
    assert sample.n_clusters is not None
    fit, pairs, clusters = sample.fit, sample.pairs, sample.n_clusters
    spec = replace(fit.spec, probes=("logistic",), seeds=fit.spec.seeds[:1])
    choice = choose_codebook(fit.pairs.a, fit.frames_b, fit.rows_b, clusters, spec, fit.folds, ())
    books = fit_codebooks(fit.frames_b, clusters, spec.seeds, fit.kmeans_iterations, spec.device)
    probes = fit_views(fit.pairs.a, fit.pairs.b, books, choice, fit.folds[fit.rows_b], spec)
    ((estimate,),) = score_views(probes, books, pairs.a, pairs.b, spec, len(fit.pairs.a), pairs.groups)
    assert estimate.by_group is not None
    return estimate.by_group.left_out()


def _blocks(matrix: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Covariances of a, of b, and of both, from that of [a, b]."""
    return matrix[:dim, :dim], matrix[dim:, dim:], matrix[:dim, dim:]
