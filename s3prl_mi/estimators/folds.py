"""Which fit frames are held out while a choice is made: whole speakers, so that a choice favours what carries
over to speakers the probe has not seen (utterances where speakers are unknown).
"""

from __future__ import annotations

import numpy as np

from ..core.types import IntVector

FOLDS = 5
GAP = 100
"""Frames between two blocks of time that belong to no fold, so that neighbours in time are not on both sides."""


def time_folds(n_frames: int, folds: int = FOLDS) -> IntVector:
    """Folds of consecutive frames, two long blocks each, for frames of which neither speakers nor utterances are known.

    Returns:
        Fold of each frame, shape (n_frames,); -1 in the gaps between blocks, which are shorter where frames are few.
    """
    blocks = min(2 * folds, n_frames)
    block = np.arange(n_frames) * blocks // max(1, n_frames)
    fold = block % folds
    half = min(GAP, n_frames // max(1, blocks) // 4) // 2
    for edge in np.flatnonzero(np.diff(block)) + 1:
        fold[edge - half : edge + half] = -1
    return fold


def assign_folds(groups: IntVector, folds: int = FOLDS) -> IntVector:
    """Spread groups over folds of about equal numbers of frames.

    Args:
        groups: group (speaker, utterance) of each frame, shape (n_frames,).
        folds: the most folds; there are never more than groups.

    Returns:
        Fold of each frame, 0 .. n_folds - 1, shape (n_frames,). A single group is cut by `time_folds`.
    """
    _, group_of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        return time_folds(len(groups), folds)
    load = np.zeros(min(folds, len(sizes)))
    fold_of = np.empty(len(sizes), dtype=np.int64)
    for group in np.argsort(-sizes, kind="stable"):
        fold_of[group] = int(load.argmin())
        load[fold_of[group]] += sizes[group]
    return fold_of[group_of]
