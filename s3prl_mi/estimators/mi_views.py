"""I(Za;Zb) >= I(Za;c(Zb)) >= H(c(Zb)) - E[-log2 q(c(zb)|za)]: information that two views share, without labels.

Source: Liu, Yeh and Glass (ICASSP 2024), eq. 6 to 8. c is k-means fitted on all frames of view b of the fit split;
q is fitted and chosen on the scored frames of the fit split; entropy and expectation are over the eval split.
The first inequality holds for any c (data processing), the second for any q.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..core.types import IntVector
from .fitting import CHOICE_SEED, fit_probes
from .frames import Frames
from .intervals import FrameGroups
from .kmeans import assign, fit_codebooks
from .mi_supervised import Estimate, estimates_of
from .probe import FittedProbe, log_priors
from .probes import ProbeSpec


def fit_codebooks_of_view(
    frames_b: Frames,
    clusters: int,
    seeds: Sequence[int],
    iterations: int = 100,
    device: torch.device | str = "cpu",
) -> Tensor:
    """The codebooks c: k-means on view b of the fit split, one per seed, and last that of `CHOICE_SEED`.

    Args:
        frames_b: all frames of view b in the fit split, scored or not.
        clusters: size of a codebook.
        seeds: seeds of k-means++.
        iterations: most steps of Lloyd's algorithm.
        device: where to compute.

    Returns:
        Centroids, shape (n_seeds + 1, clusters, dim).

    Raises:
        MIError: fewer frames than clusters.
    """
    return fit_codebooks(frames_b, clusters, [*seeds, CHOICE_SEED], iterations, device)


def fit_views(
    frames_a: Frames, frames_b: Frames, codebooks: Tensor, groups: IntVector, spec: ProbeSpec
) -> list[FittedProbe]:
    """Fit probes that predict the cluster of view b from view a; frame i of both is the same pair.

    Args:
        frames_a: scored fit frames of view a.
        frames_b: their partners of view b.
        codebooks: from `fit_codebooks_of_view`, for the seeds and on the device of `spec`.
        groups: speaker or utterance of each pair.
        spec: the probes, and how to fit them.
    """
    targets = assign(frames_b, codebooks)
    own, choice = targets[:, :-1], targets[:, -1:]
    probes, priors = (
        fit_probes(frames_a, own, codebooks.shape[1], groups, spec, choice),
        log_priors(own, codebooks.shape[1]),
    )
    return [replace(p, log_priors=priors) for p in probes]


def score_views(
    probes: Sequence[FittedProbe],
    codebooks: Tensor,
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
    return estimates_of(probes, frames_a, assign(frames_b, codebooks[:-1]), spec, fit_frames, groups=groups)
