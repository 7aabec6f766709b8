"""Rows of the hidden states: of which utterance and speaker they are, and which are pairs of frames of two views.

Rows count through the utterances of one or several entries laid end to end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..core.types import IntVector
from ..data.utterances import Utterance
from ..estimators.intervals import FrameGroups
from ..upstreams.geometry import Geometry, aligned_rows
from ..upstreams.views import View, shift_frames, shifted_rows


class Rows(Protocol):
    """Whose rows some frames are, such as those of a store's `Entry`."""

    @property
    def utterances(self) -> Sequence[str]:
        """Ids, in the order of the rows."""

    @property
    def n_frames(self) -> Sequence[int]:
        """Frames of each utterance."""


@dataclass(frozen=True)
class Pairs:
    """Row of view a and row of view b of each pair, both of shape (n_pairs,)."""

    rows_a: IntVector
    rows_b: IntVector


def utterance_rows(entries: Sequence[Rows]) -> Iterator[tuple[str, int, int]]:
    """(utterance id, first row, number of frames) in the order of the rows."""
    start = 0
    for entry in entries:
        for utterance, count in zip(entry.utterances, entry.n_frames, strict=True):
            yield utterance, start, count
            start += count


def held_out_groups(entries: Sequence[Rows], utterances: Mapping[str, Utterance]) -> IntVector:
    """The group of each row that is held out as a whole when a choice is made, shape (n_rows,).

    Speakers, where at least two are known and none is unknown; else utterances.
    """
    ids = [u for entry in entries for u in entry.utterances]
    speakers = [utterances[u].speaker for u in ids]
    names = speakers if None not in speakers and len(set(speakers)) > 1 else ids
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    counts = [count for entry in entries for count in entry.n_frames]
    return np.repeat(np.array([number[name] for name in names], np.int64), np.array(counts, np.int64))


def utterance_numbers(entries: Sequence[Rows]) -> IntVector:
    """Number of the utterance of each row, shape (n_rows,)."""
    counts = np.array([n for entry in entries for n in entry.n_frames], np.int64)
    return np.repeat(np.arange(len(counts)), counts)


def scored_groups(
    entries: Sequence[Rows],
    utterances: Mapping[str, Utterance],
    rows: IntVector | slice = slice(None),
    by_utterance: bool = False,
) -> FrameGroups:
    """The group of each scored row (default: of all), for intervals: as in `held_out_groups`, sorted by name.

    `by_utterance`: its utterance, also where speakers are known.
    """
    ids = [u for entry in entries for u in entry.utterances]
    speakers = [utterances[u].speaker for u in ids]
    known = not by_utterance and None not in speakers and 1 < len(set(speakers)) < len(ids)
    names, number = np.unique(np.array(speakers if known else ids, dtype=np.str_), return_inverse=True)
    of_row = np.repeat(number, np.array([n for entry in entries for n in entry.n_frames], np.int64))
    return FrameGroups("speakers" if known else "utterances", tuple(names.tolist()), of_row[rows])


def paired_frames(
    entries: Sequence[Rows], view: View, frames: str, geometry: Geometry, finest: Geometry | None = None
) -> Pairs:
    """Pairs of rows, one of each view.

    Args:
        entries: whose rows these are, of view b (those of view a are the same).
        view: mask: row t of both views; shift: rows t and t + shift of one sequence.
        frames: `masked`, `unmasked` or `all`: the rows of a mask view that are scored.
        geometry: of these entries' frames.
        finest: of the frames that masks are put on, where these entries have a lower frame rate: a frame is masked
            as the one is that it stands on.

    Raises:
        MIError: a shift that is not a whole number of frames.
    """
    a: list[IntVector] = [np.zeros(0, np.int64)]
    b: list[IntVector] = [np.zeros(0, np.int64)]
    shift = shift_frames(view.shift_ms or 0.0, geometry.stride) if view.kind == "shift" else 0
    for _, start, count in utterance_rows(entries):
        if view.kind == "shift":
            first, second = shifted_rows(count, shift)
        else:
            at = aligned_rows(geometry, finest or geometry, count)
            masked = view.pattern(int(at[-1]) + 1 if count else 0)[at]
            first = second = np.flatnonzero({"masked": masked, "unmasked": ~masked, "all": masked | True}[frames])
        a.append(start + first)
        b.append(start + second)
    return Pairs(np.concatenate(a), np.concatenate(b))
