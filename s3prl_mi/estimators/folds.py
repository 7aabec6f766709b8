"""Which fit frames are held out while a choice is made: whole speakers, so that a choice favours what carries
over to speakers the probe has not heard (utterances where speakers are unknown).
"""

from __future__ import annotations

import numpy as np

from ..core.distributed import all_gather_object
from ..core.types import IntVector

FOLDS = 5
BLOCK = 100
"""Frames to a group where neither speakers nor utterances are known: neighbours in time stay together."""


def time_blocks(n_frames: int) -> IntVector:
    """Groups of consecutive frames, for arrays that come without groups; shape (n_frames,).

    Blocks are shorter where there are few frames, so that there are always at least ten a fold to choose from.
    """
    return np.arange(n_frames) // max(1, min(BLOCK, n_frames // (10 * FOLDS)))


def assign_folds(
    groups: IntVector, folds: int = FOLDS, positions: IntVector | None = None, total: int | None = None
) -> IntVector:
    """Spread groups over folds of about equal numbers of frames.

    Args:
        groups: group (speaker, utterance, block) of each frame, shape (n_frames,); the same number is the same group
            on every process.
        folds: the most folds; there are never more than groups.
        positions: of each frame among those of all processes, shape (n_frames,).
        total: frames of all processes.

    Returns:
        Fold of each frame, 0 .. n_folds - 1, shape (n_frames,). A single group is cut into blocks of time.
    """
    if positions is None or total is None:
        positions, total = np.arange(len(groups)), len(groups)
    names, sizes = _sizes(groups)
    if len(names) < 2:
        if total < 2:
            return np.zeros(len(groups), dtype=np.int64)
        return assign_folds(time_blocks(total)[positions], folds, positions, total)
    load = np.zeros(min(folds, len(names)))
    fold_of = np.empty(len(names), dtype=np.int64)
    for group in np.argsort(-sizes, kind="stable"):
        fold_of[group] = int(load.argmin())
        load[fold_of[group]] += sizes[group]
    return fold_of[np.searchsorted(names, groups)]


def _sizes(groups: IntVector) -> tuple[IntVector, IntVector]:
    """The groups that occur, ascending, and the number of frames of each on all processes."""
    found = all_gather_object(np.unique(groups, return_counts=True))
    names = np.unique(np.concatenate([own for own, _ in found]))
    sizes = np.zeros(len(names), dtype=np.int64)
    for own, counts in found:
        sizes[np.searchsorted(names, own)] += counts
    return names, sizes
