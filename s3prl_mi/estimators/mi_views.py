"""I(Za;Zb) >= I(Za;c(Zb)) >= H(c(Zb)) - E[-log2 q(c(zb)|za)]: information that two views share, without labels.

Source: Liu, Yeh and Glass (ICASSP 2024), eq. 6 to 8. c is k-means fitted on all frames of view b of the fit split;
q is fitted and chosen on the scored frames of the fit split; entropy and expectation are over the eval split.
The first inequality holds for any c (data processing), the second for any q. So c may be a codebook of the states as
they are, as in the paper, or of their whitened principal axes, in which small directions count as much as large ones:
what tells more on held-out speakers of the fit split. Choices are made with codebooks of their
own, each fitted without the speakers that it is used to hold out: in the final codebooks speakers of the fit split have
clusters of their own, which a probe that has not heard them cannot know, so choices would shrink it too far.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..core.types import IntVector
from .bounds import entropy_bits
from .fitting import CHOICE_FOLDS, CHOICE_SEED, fit_probes, held_out_bits
from .frames import Frames, fit_affine, fit_range
from .intervals import FrameGroups
from .kmeans import CodebookInputs, Codebooks, assign, fit_codebooks
from .mi_supervised import Estimate, estimates_of
from .probe import FittedProbe, log_priors
from .probes import ProbeSpec

logger = logging.getLogger(__name__)

AXES = (32, 64)
"""Numbers of whitened principal axes of view b that the codebook may be of, instead of the states as they are."""

AXES_FRAMES = 6_000
"""Pairs, evenly spaced, on which they are tried, with the speakers of `CHOICE_FOLDS` folds held out."""

CHOICE_ITERATIONS, CHOICE_SAMPLE = 10, 50
"""Steps of Lloyd's algorithm, and frames per cluster, for codebooks that serve choices only."""


def choose_codebook(
    frames_a: Frames,
    frames_b: Frames,
    rows_b: IntVector,
    clusters: int,
    spec: ProbeSpec,
    folds: IntVector,
    axes: Sequence[int] = AXES,
) -> Codebooks | None:
    """What the codebook c is of: hidden states as they are, or so many of their whitened principal axes.

    It is what gives the highest bound on speakers held out within the fit split, with a logistic probe of one strength.

    Args:
        frames_a: scored fit frames of view a, n_pairs of them.
        frames_b: all frames of view b in the fit split, scored or not, n_rows of them.
        rows_b: rows of `frames_b` that are their partners, shape (n_pairs,).
        clusters: size of a codebook.
        spec: where to compute.
        folds: fold of each row (`folds.assign_folds`), shape (n_rows,).
        axes: numbers of axes to try beside the states as they are.

    Returns:
        Codebooks that serve choices, one per fold, each fitted without it on some frames; None where the protocol
        chooses nothing.

    Raises:
        MIError: fewer frames than clusters.
    """
    if spec.protocol != "default":
        return None
    maps: list[CodebookInputs] = [fit_range(frames_b, spec.device)]
    if axes:
        whole = fit_affine(frames_b, spec.device)
        maps += [whole.whitened(n) for n in sorted({min(n, frames_b.dim) for n in axes})]
    n_folds = 1 + int(folds.max())

    def without(some: range, inputs: CodebookInputs) -> Codebooks:
        """A codebook without each of some folds."""
        books = []
        for fold in some:
            kept = frames_b.select((folds != fold) & (folds >= 0))
            kept = kept if len(kept) >= clusters else frames_b
            kept = kept.select(np.arange(0, len(kept), max(1, len(kept) // (CHOICE_SAMPLE * clusters))))
            books.append(fit_codebooks(kept, clusters, [CHOICE_SEED], CHOICE_ITERATIONS, inputs=inputs).centroids)
        return Codebooks(torch.cat(books), inputs)

    if len(maps) == 1:
        return without(range(n_folds), maps[0])
    few = range(min(CHOICE_FOLDS, n_folds))
    tried = [without(few, inputs) for inputs in maps]
    spaced = np.arange(0, len(rows_b), max(1, len(rows_b) // AXES_FRAMES))
    pairs, partners = frames_a.select(spaced), frames_b.select(rows_b[spaced])
    targets = torch.cat([assign(partners, books) for books in tried], 1)
    bits = held_out_bits(pairs, targets, clusters, folds[rows_b[spaced]], len(few), spec.device)
    best = tried[int(bits.view(len(tried), -1).mean(1).argmax())]
    if len(few) == n_folds:
        return best
    rest = without(range(len(few), n_folds), best.inputs)
    return Codebooks(torch.cat([best.centroids, rest.centroids]), best.inputs)


def fit_views(
    frames_a: Frames,
    frames_b: Frames,
    codebooks: Codebooks,
    choice: Codebooks | None,
    folds: IntVector,
    spec: ProbeSpec,
) -> list[FittedProbe]:
    """Fit probes that predict the cluster of view b from view a; frame i of both is the same pair.

    Args:
        frames_a: scored fit frames of view a.
        frames_b: their partners of view b.
        codebooks: one per seed, fitted on all frames of view b in the fit split.
        choice: from `choose_codebook`; None where the protocol chooses nothing.
        folds: fold of each pair, of those that `choice` was fitted with.
        spec: the probes, and how to fit them.
    """
    targets, clusters = assign(frames_b, codebooks), codebooks.centroids.shape[1]
    _warn_if_uneven(targets, clusters)
    probes = fit_probes(frames_a, targets, clusters, folds, spec, None if choice is None else assign(frames_b, choice))
    priors = log_priors(targets, clusters)
    for settings in (s for p in probes for s in p.settings):
        settings["codebook_axes"] = codebooks.axes
    return [replace(p, log_priors=priors) for p in probes]


def _warn_if_uneven(targets: Tensor, clusters: int) -> None:
    """One line where targets of shape (n_frames, seeds) have an entropy far below log2 of the `clusters`."""
    entropy = min(entropy_bits(np.bincount(t)) for t in targets.T.cpu().numpy())
    if entropy < 0.5 * math.log2(clusters):
        logger.warning(
            "clusters are used very unevenly: their entropy is %.2f of at most %.2f bits, which no bound can exceed. "
            "Look for bad files or collapsed hidden states.",
            entropy,
            math.log2(clusters),
        )


def score_views(
    probes: Sequence[FittedProbe],
    codebooks: Codebooks,
    frames_a: Frames,
    frames_b: Frames,
    spec: ProbeSpec,
    fit_frames: int,
    groups: FrameGroups | None = None,
) -> list[list[Estimate]]:
    """Score fitted probes on eval pairs: for each probe one estimate per seed.

    Args:
        probes: from `fit_views`.
        codebooks: as fitted.
        frames_a: scored eval frames of view a.
        frames_b: their partners of view b.
        spec: as fitted.
        fit_frames: pairs the probes were fitted on.
        groups: speaker or utterance of each eval pair, for intervals.
    """
    targets = assign(frames_b, codebooks)
    return estimates_of(probes, frames_a, targets, spec, fit_frames, groups=groups)
