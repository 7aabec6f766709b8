"""States against something known: phones and words, and fbank, which needs no model."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ...core.types import FloatMatrix, IntVector
from ..frames import Frames
from ..intervals import LeftOut
from ..mi_supervised import fit_supervised, score_supervised
from .registry import Value, measure
from .sample import MOST_FRAMES, MOST_PAIRS, Coded, Features, Sample, spaced
from .views import whitening

CORRELATED = 10_000
"""Frames of either side that canonical correlations are of, evenly spaced."""

HELD_OUT = (
    "mean over the canonical directions of states and {}, found on fit frames, of their correlation on eval frames"
)
PASAD = "after Pasad et al. 2021, 2023, who take PWCCA's weighted mean of means over phones, words or frames"


@measure(
    title="canonical correlation with phones",
    formula=HELD_OUT.format("one-hot phones"),
    source=PASAD,
    needs="labels",
    unit="0 to 1",
    labels=("phones",),
    blind="how frequent a phone is, and what no linear map shows",
)
def cca_phones(sample: Sample) -> Value:
    """How much of the phones a linear map of the states shows, each direction alike."""
    return _with_labels(sample)


@measure(
    title="canonical correlation with words",
    formula=HELD_OUT.format("one-hot words"),
    source=PASAD,
    needs="labels",
    unit="0 to 1",
    default=False,
    labels=("words",),
    blind="how frequent a word is, and what no linear map shows; words of the eval split that were not fitted on",
)
def cca_words(sample: Sample) -> Value:
    """The same of words, of which each has few frames: set alignments.min_count."""
    return _with_labels(sample)


@measure(
    title="canonical correlation with fbank",
    formula=HELD_OUT.format("fbank"),
    source=PASAD,
    needs="audio",
    unit="0 to 1",
    default=False,
    blind="how much variance a direction has, and what no linear map shows; good or bad for a purpose",
)
def cca_fbank(sample: Sample) -> Value:
    """How much of the input a linear map of the states shows."""
    assert sample.fit is not None
    assert sample.fit.fbank is not None
    assert sample.fbank is not None

    def pair(frames: Frames, fbank: Features) -> tuple[Tensor, Tensor]:
        rows = spaced(frames, CORRELATED)
        return _read(frames, rows), torch.from_numpy(fbank(rows)).double()

    fit = pair(sample.fit.frames_b, sample.fit.fbank)
    return held_out_correlation(fit, pair(sample.frames, sample.fbank))


def _with_labels(sample: Sample) -> float:
    assert sample.coded is not None
    assert sample.fit_coded is not None
    n_labels = 1 + int(max(sample.coded.labels.max(), sample.fit_coded.labels.max()))

    def pair(side: Coded) -> tuple[Tensor, Tensor]:
        assert side.frames is not None
        rows = spaced(side.frames, CORRELATED)
        return _read(side.frames, rows), functional.one_hot(torch.from_numpy(side.labels[rows]), n_labels).double()

    return held_out_correlation(pair(sample.fit_coded), pair(sample.coded))


def _read(frames: Frames, rows: IntVector) -> Tensor:
    return torch.from_numpy(frames.select(rows).read(0, len(rows))).double()


def held_out_correlation(fit: tuple[Tensor, Tensor], scored: tuple[Tensor, Tensor]) -> float:
    """Mean correlation on scored frames of the canonical directions found on fit frames.

    Args:
        fit: frames (n, dim_a) and (n, dim_b), float64.
        scored: others of the same dimensions.

    Returns:
        NaN where either does not vary.
    """
    a, b = (z - z.mean(0) for z in fit)
    maps = whitening(a.T @ a), whitening(b.T @ b)
    if maps[0] is None or maps[1] is None:
        return math.nan
    u, _, v = torch.linalg.svd(maps[0].T @ (a.T @ b) @ maps[1], full_matrices=False)
    a, b = ((z - z.mean(0)) @ m for z, m in zip(scored, (maps[0] @ u, maps[1] @ v.T), strict=True))
    scale = a.norm(dim=0) * b.norm(dim=0)
    return float(((a * b).sum(0) / scale.clamp_min(1e-300)).mean())


# --- By probes ----------------------------------------------------------------------------------------------


@measure(
    title="bits beyond fbank",
    formula="I(Z,F;Y) - I(F;Y), F: fbank of the same frames, each a lower bound by the logistic probe, one seed, at "
    "most 50 000 frames",
    source="Hewitt et al. 2021 (conditional probing)",
    needs="labels",
    unit="bits",
    default=False,
    blind="what no linear map shows; that a layer brings what fbank has in neighbouring frames counts as added",
)
def beyond_fbank(sample: Sample) -> Value:
    """What a layer adds to what fbank tells; slightly below 0 where it adds nothing. Takes as long as two probes."""
    fit = sample.fit_coded
    assert fit is not None
    assert fit.fbank is not None
    if fit.fbank.alone is None:  # the same for every layer
        fit.fbank.alone = _bound(sample, lambda side, rows: _features(side, rows))
    both = _bound(sample, lambda side, rows: np.concatenate([_states(side, rows), _features(side, rows)], axis=1))
    return both - fit.fbank.alone


def _states(side: Coded, rows: IntVector) -> FloatMatrix:
    assert side.frames is not None
    return side.frames.select(rows).read(0, len(rows))


def _features(side: Coded, rows: IntVector) -> FloatMatrix:
    assert side.fbank is not None
    return side.fbank(rows)


def _bound(sample: Sample, inputs: Callable[[Coded, IntVector], FloatMatrix]) -> LeftOut:
    """The bound of a logistic probe of some inputs, without each speaker."""
    fit, scored, spec = sample.fit_coded, sample.coded, sample.spec
    assert fit is not None
    assert fit.folds is not None
    assert scored is not None
    assert spec is not None
    rows, of_eval = (np.arange(0, len(s.labels), -(-len(s.labels) // MOST_FRAMES)) for s in (fit, scored))
    n_labels = 1 + int(max(scored.labels.max(), fit.labels.max()))
    probes = fit_supervised(Frames([inputs(fit, rows)]), fit.labels[rows], n_labels, fit.folds[rows], spec)
    frames, groups = Frames([inputs(scored, of_eval)]), scored.groups.select(of_eval)
    ((estimate,),) = score_supervised(probes, frames, scored.labels[of_eval], spec, len(rows), groups)
    assert estimate.by_group is not None
    return estimate.by_group.left_out()


@measure(
    title="margin",
    formula="mean over eval frames of min_k (a_y - a_k) / |w_y - w_k|, k: other labels, a: logits and w: weights of "
    "the run's logistic probe, states standardised",
    source="after Choi et al. 2024, who propose the margin of linearly separable representations",
    needs="labels",
    unit="deviations",
    default=False,
    blind="how sure a probe may be of new speakers; it depends on the L2 strength that was chosen",
)
def margin(sample: Sample) -> Value:
    """Signed distance to the nearest border of a frame's label; negative where most frames lie beyond it."""
    scored, probe = sample.coded, sample.probe
    assert scored is not None
    assert scored.frames is not None
    if probe is None or probe.linear is None:
        return math.nan
    rows = spaced(scored.frames, MOST_PAIRS)
    weight, y = probe.linear.weight[:, 0].double(), torch.from_numpy(scored.labels[rows])
    apart = torch.cdist(weight.T, weight.T, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(math.nan)
    x = probe.affine(torch.from_numpy(_states(scored, rows)).to(weight.device)).double()
    logits = (x @ weight + probe.linear.bias[0].double()).cpu()
    off = (logits.gather(1, y[:, None]) - logits) / apart.cpu().clamp_min(1e-12)[y]
    nearest = off.nan_to_num(math.inf).min(1).values.numpy()
    ids = scored.groups.select(rows)
    sums, frames = (np.bincount(ids.ids, w, len(ids.names)) for w in (nearest, None))
    there = frames > 0
    names = tuple(n for n, t in zip(ids.names, there, strict=True) if t)
    without = (sums.sum() - sums[there]) / np.maximum(frames.sum() - frames[there], 1)
    return LeftOut(ids.over, names, float(nearest.mean()), without if len(names) > 1 else np.zeros(0))
