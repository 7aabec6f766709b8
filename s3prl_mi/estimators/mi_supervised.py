"""I(Z;Y) >= H(Y) - E[-log2 q(y|z)]: information that hidden states hold about frame labels.

Source: Liu, Yeh and Glass (ICASSP 2024), eq. 4. q is fitted and chosen on the fit split and scored once on the
eval split; H(Y) is the entropy of the labels of the very frames scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.errors import MIError
from ..core.types import Bits, IntVector
from .bounds import NATS_TO_BITS, contributions_bits, entropy_bits, lower_bound_bits
from .fitting import fit_probes
from .frames import Frames
from .intervals import FrameGroups, GroupSums, LeftOut
from .probe import FittedProbe, Score, log_priors, score
from .probes import PROTOCOLS, ProbeSpec
from .vocabulary import UNKNOWN

MAX_UNSEEN = 0.05
"""Refuse to score if a larger fraction of the eval frames has labels that never occur in the fit split."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A lower bound of mutual information in bits, and what it was made from.

    `unseen_frames`: eval frames left out, from entropy and cross-entropy alike, because their label never
    occurs in the fit split (the bound then is of the information about the other labels).
    `settings`: what was chosen within the fit split.
    `class_frames`, `class_bits`: scored frames of each class, and its contribution to the bound, which is their sum.
    `confusion`: frames by class (row) and most probable class (column), or None for many classes.
    `prior_cross_entropy_bits`: cross-entropy of the fit split's class frequencies, without looking at Z.
    `by_group`: sums per eval speaker or utterance, for intervals; None where groups are not given.
    `fit_left_out`: the bound of probes fitted without each group of fit speakers (`refits`); None where not asked for.
    """

    mi_lower_bound_bits: Bits
    entropy_bits: Bits
    cross_entropy_bits: Bits
    accuracy: float
    fit_frames: int
    eval_frames: int
    labels: int
    unseen_frames: int
    probe: str
    protocol: str
    seed: int
    settings: dict[str, Any]
    class_frames: list[int] = field(repr=False, compare=False)
    class_bits: list[Bits] = field(repr=False, compare=False)
    confusion: list[list[int]] | None = field(repr=False, compare=False)
    prior_cross_entropy_bits: Bits | None = field(default=None, repr=False)
    by_group: GroupSums | None = field(default=None, repr=False, compare=False)
    fit_left_out: LeftOut | None = field(default=None, repr=False, compare=False)


def estimates_of(
    probes: Sequence[FittedProbe],
    frames: Frames,
    targets: Tensor,
    spec: ProbeSpec,
    fit_frames: int,
    unseen_frames: int = 0,
    groups: FrameGroups | None = None,
) -> list[list[Estimate]]:
    """Score fitted probes once on eval frames: for each probe one estimate per seed.

    Args:
        probes: that share their affine map.
        frames: eval frames, n_frames of them.
        targets: class ids, shape (n_frames, n_seeds) or (n_frames, 1) where all seeds share them.
        spec: as fitted.
        fit_frames: frames the probes were fitted on.
        unseen_frames: eval frames left out.
        groups: of the eval frames.
    """
    ids = targets.cpu().numpy()

    def estimate(probe: FittedProbe, s: Score, seed: int, settings: dict[str, Any], n: int) -> Estimate:
        entropy, classes = entropy_bits(s.class_frames), len(s.class_frames)
        prior = None if probe.log_priors is None else probe.log_priors[n].cpu().numpy()
        own = ids[:, min(n, ids.shape[1] - 1)]
        return Estimate(
            mi_lower_bound_bits=lower_bound_bits(entropy, s.cross_entropy_bits),
            entropy_bits=entropy,
            cross_entropy_bits=s.cross_entropy_bits,
            accuracy=s.accuracy,
            fit_frames=fit_frames,
            eval_frames=len(frames),
            labels=classes,
            unseen_frames=unseen_frames,
            probe=probe.name,
            protocol=PROTOCOLS[spec.protocol],
            seed=seed,
            settings=settings,
            class_frames=s.class_frames.tolist(),
            class_bits=contributions_bits(s.class_frames, s.class_loss_bits).tolist(),
            confusion=None if s.confusion is None else s.confusion.tolist(),
            prior_cross_entropy_bits=None
            if prior is None
            else float(-(s.class_frames @ prior) / len(own)) * NATS_TO_BITS,
            by_group=None if groups is None else GroupSums.of(groups, own, classes, s.group_loss_bits),
        )

    return [
        [estimate(p, *one) for one in zip(scores, spec.seeds, p.settings, range(len(scores)), strict=True)]
        for p, scores in zip(probes, score(probes, frames, targets, groups), strict=True)
    ]


def fit_supervised(
    frames: Frames, ids: IntVector, classes: int, folds: IntVector, spec: ProbeSpec
) -> list[FittedProbe]:
    """Fit probes of labels on one layer; all seeds share the targets.

    Args:
        frames: labelled fit frames of one layer.
        ids: their class ids, shape (n_frames,).
        classes: size of the vocabulary.
        folds: fold of each frame (`folds.assign_folds`).
        spec: the probes, and how to fit them.
    """
    probes, priors = fit_probes(frames, _column(ids), classes, folds, spec), log_priors(_column(ids), classes)
    return [replace(p, log_priors=priors.expand(len(spec.seeds), -1)) for p in probes]


def known_frames(ids: IntVector) -> NDArray[np.bool_]:
    """Which eval frames have a label of the fit split, from class ids of shape (n_frames,), -1 for unseen labels.

    Raises:
        MIError: too many have none.
    """
    known = ids >= 0
    unseen = int((~known).sum())
    if unseen == len(ids) or unseen > MAX_UNSEEN * len(ids):
        raise MIError(
            f"{unseen} of {len(ids)} eval frames have labels that never occur in the fit split (at most "
            f"{MAX_UNSEEN:.0%} are left out): are both splits labelled with the same inventory? Labels of an open set, "
            f"such as words, need a class {UNKNOWN} for rare ones: downstream_expert.datarc.alignments.min_count "
            "(min_count= for arrays), such as 20."
        )
    return known


def score_supervised(
    probes: Sequence[FittedProbe],
    frames: Frames,
    ids: IntVector,
    spec: ProbeSpec,
    fit_frames: int,
    groups: FrameGroups | None = None,
) -> list[list[Estimate]]:
    """Score fitted probes on eval frames: for each probe one estimate per seed.

    Args:
        probes: from `fit_supervised`.
        frames: labelled eval frames of one layer.
        ids: their class ids, shape (n_frames,); -1 for a label unseen in the fit split.
        spec: as fitted.
        fit_frames: frames the probes were fitted on.
        groups: speaker or utterance of each eval frame, for intervals.

    Raises:
        MIError: as `known_frames`.
    """
    known = known_frames(ids)
    unseen = int((~known).sum())
    groups = groups.select(known) if groups is not None else None
    return estimates_of(probes, frames.select(known), _column(ids[known]), spec, fit_frames, unseen, groups)


def _column(ids: IntVector) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(ids))[:, None]
