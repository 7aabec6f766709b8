"""Which rows of the hidden states are scored: labelled frames, or pairs of frames of two views.

Rows count through the utterances of one or several entries laid end to end.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..core.types import SAMPLE_RATE, IntVector
from ..data.alignments.files import Alignments
from ..data.alignments.labels import SILENCE, check_duration, frame_labels
from ..data.utterances import Utterance
from ..estimators.intervals import FrameGroups
from ..upstreams.geometry import Geometry, aligned_rows
from ..upstreams.views import View, shift_frames, shifted_rows

logger = logging.getLogger(__name__)

MANY_GAPS = 0.5
"""Fraction of frames without an interval above which an alignment is doubtful."""


class Rows(Protocol):
    """Whose rows some frames are, such as those of a store's `Entry`."""

    @property
    def utterances(self) -> Sequence[str]:
        """Ids, in the order of the rows."""

    @property
    def n_frames(self) -> Sequence[int]:
        """Frames of each utterance."""


@dataclass(frozen=True)
class Labelled:
    """Frames with a label; `rows` and `labels` have shape (n_frames,)."""

    rows: IntVector
    labels: NDArray[np.object_]
    unlabelled: int
    """Frames left out because the alignment has a gap there, or because silence is dropped."""
    utterances: int
    digest: str
    """Hash of the labels and their times, of all utterances of the side: the same for every upstream, also for one that
    cannot read a recording."""


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


def scored_groups(entries: Sequence[Rows], utterances: Mapping[str, Utterance], rows: IntVector) -> FrameGroups:
    """The group of each scored row, over which intervals are: groups as in `held_out_groups`, sorted by name."""
    ids = [u for entry in entries for u in entry.utterances]
    speakers = [utterances[u].speaker for u in ids]
    known = None not in speakers and 1 < len(set(speakers)) < len(ids)
    names, number = np.unique(np.array(speakers if known else ids, dtype=np.str_), return_inverse=True)
    of_row = np.repeat(number, np.array([n for entry in entries for n in entry.n_frames], np.int64))
    return FrameGroups("speakers" if known else "utterances", tuple(names.tolist()), of_row[rows])


def labelled_frames(
    entries: Sequence[Rows],
    utterances: Mapping[str, Utterance],
    n_samples: Mapping[str, int],
    alignments: Alignments,
    geometry: Geometry,
    drop_silence: bool,
) -> Labelled:
    """Label each row by the interval that holds the centre of its receptive field.

    Args:
        entries: whose rows these are; utterances without an alignment are left out.
        utterances: by id.
        n_samples: length of each utterance at 16 kHz.
        alignments: where intervals come from.
        geometry: of the upstream's frames.
        drop_silence: leave silent frames out.

    Raises:
        MIError: a malformed alignment, or one of another recording.
    """
    digests: dict[str, str] = {}
    rows: list[IntVector] = []
    labels: list[NDArray[np.object_]] = []
    unlabelled = used = gaps = frames = 0
    for utterance, start, count in utterance_rows(entries):
        intervals = alignments.intervals(utterances[utterance])
        if intervals is None:
            continue
        digests[utterance] = _digest(intervals)
        check_duration(intervals, n_samples[utterance] / SAMPLE_RATE, utterance)
        found = frame_labels(intervals, geometry.centres_seconds(count), utterance)
        keep = np.array([v is not None and not (drop_silence and v == SILENCE) for v in found], dtype=np.bool_)
        rows.append(start + np.flatnonzero(keep))
        labels.append(found[keep])
        unlabelled += int((~keep).sum())
        gaps, frames = gaps + sum(v is None for v in found), frames + count
        used += 1
    if gaps > MANY_GAPS * frames:
        logger.warning(
            "%d %% of the frames lie in no interval of their alignment: are its times in seconds, and of this audio? "
            "Those frames are left out.",
            100 * gaps // frames,
        )
    if not rows:
        return Labelled(np.zeros(0, np.int64), np.zeros(0, object), unlabelled, used, "")
    there = {u for entry in entries for u in entry.utterances}
    for u in utterances.values():
        if u.id not in there and (intervals := alignments.intervals(u)) is not None:
            digests[u.id] = _digest(intervals)
    return Labelled(np.concatenate(rows), np.concatenate(labels), unlabelled, used, _digest(sorted(digests.items())))


def _digest(content: Sequence[Any]) -> str:
    """Eight hex digits that tell contents apart."""
    return hashlib.sha256(repr(content).encode()).hexdigest()[:8]


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
