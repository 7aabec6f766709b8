"""I(Za;Zb) >= I(Za;c(Zb)) >= H(c(Zb)) - E[-log2 q(c(zb)|za)]: information that two views share, without labels.

Source: Liu, Yeh and Glass (ICASSP 2024), eq. 6 to 8. c is k-means fitted on all frames of view b of the fit split;
q is fitted and chosen on the scored frames of the fit split; entropy and expectation are over the eval split.
The first inequality holds for any c (data processing), the second for any q. Choices are made with codebooks of their
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

from ..core.types import IntVector
from .bounds import entropy_bits
from .fitting import CHOICE_SEED, fit_probes
from .frames import Frames
from .intervals import FrameGroups
from .kmeans import SAMPLE_FRAMES, Codebooks, assign, fit_codebooks
from .mi_supervised import Estimate, estimates_of
from .probe import FittedProbe, log_priors
from .probes import ProbeSpec

logger = logging.getLogger(__name__)


def fit_codebooks_of_view(
    frames_b: Frames, clusters: int, spec: ProbeSpec, folds: IntVector, iterations: int = 100
) -> Codebooks:
    """The codebooks c: k-means on view b of the fit split.

    Args:
        frames_b: all frames of view b in the fit split, scored or not.
        clusters: size of a codebook.
        spec: seeds of k-means++, and the device.
        folds: fold of each frame (`folds.assign_folds`), shape (n_frames,).
        iterations: most steps of Lloyd's algorithm.

    Returns:
        One per seed, then (unless the protocol chooses nothing) one of `CHOICE_SEED` per fold, fitted without it
        on some frames: it serves choices only.

    Raises:
        MIError: fewer frames than clusters.
    """
    own = fit_codebooks(frames_b, clusters, spec.seeds, iterations, spec.device)
    books = [own.centroids]
    for fold in range(1 + int(folds.max())) if spec.protocol == "default" else ():
        kept = frames_b.select((folds != fold) & (folds >= 0))
        kept = kept if len(kept) >= clusters else frames_b
        kept = kept.select(np.arange(0, len(kept), max(1, len(kept) // (SAMPLE_FRAMES * clusters))))
        books.append(fit_codebooks(kept, clusters, [CHOICE_SEED], iterations, spec.device, own.values).centroids)
    return Codebooks(torch.cat(books), own.values)


def fit_views(
    frames_a: Frames, frames_b: Frames, codebooks: Codebooks, folds: IntVector, spec: ProbeSpec
) -> list[FittedProbe]:
    """Fit probes that predict the cluster of view b from view a; frame i of both is the same pair.

    Args:
        frames_a: scored fit frames of view a.
        frames_b: their partners of view b.
        codebooks: from `fit_codebooks_of_view`, with the same `spec`.
        folds: fold of each pair, of those that the codebooks were fitted with.
        spec: the probes, and how to fit them.
    """
    targets = assign(frames_b, codebooks)
    clusters, seeds = codebooks.centroids.shape[1], len(spec.seeds)
    own, choice = targets[:, :seeds], targets[:, seeds:]
    _warn_if_uneven(own, clusters)
    probes = fit_probes(frames_a, own, clusters, folds, spec, choice if choice.shape[1] else None)
    priors = log_priors(own, clusters)
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
        codebooks: as fitted; those of the seeds come first.
        frames_a: scored eval frames of view a.
        frames_b: their partners of view b.
        spec: as fitted.
        fit_frames: pairs the probes were fitted on.
        groups: speaker or utterance of each eval pair, for intervals.
    """
    targets = assign(frames_b, codebooks.only(slice(len(spec.seeds))))
    return estimates_of(probes, frames_a, targets, spec, fit_frames, groups=groups)
