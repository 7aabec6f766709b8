"""Which fit frames are held out while a choice is made: whole speakers, so that a choice favours what carries
over to speakers the probe has not seen (utterances where speakers are unknown).
"""

from __future__ import annotations

import numpy as np

from ..core.types import IntVector

FOLDS = 5
BLOCK = 100
"""Frames to a group where neither speakers nor utterances are known: neighbours in time stay together."""


def time_blocks(n_frames: int) -> IntVector:
    """Groups of consecutive frames, for arrays that come without groups; shape (n_frames,).

    Blocks are shorter where there are few frames, so that there are always at least ten per fold to choose from.
    """
    return np.arange(n_frames) // max(1, min(BLOCK, n_frames // (10 * FOLDS)))


def assign_folds(groups: IntVector, folds: int = FOLDS) -> IntVector:
    """Spread groups over folds of about equal numbers of frames.

    Args:
        groups: group (speaker, utterance, block) of each frame, shape (n_frames,).
        folds: the most folds; there are never more than groups.

    Returns:
        Fold of each frame, 0 .. n_folds - 1, shape (n_frames,). A single group is cut into blocks of time.
    """
    _, group_of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        if len(groups) < 2:
            return np.zeros(len(groups), dtype=np.int64)
        return assign_folds(time_blocks(len(groups)), folds)
    load = np.zeros(min(folds, len(sizes)))
    fold_of = np.empty(len(sizes), dtype=np.int64)
    for group in np.argsort(-sizes, kind="stable"):
        fold_of[group] = int(load.argmin())
        load[fold_of[group]] += sizes[group]
    return fold_of[group_of]
