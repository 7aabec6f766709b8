"""Intervals and their labels: names of silence and noise, checks, one label per frame."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...core.errors import MIError
from ...core.types import Seconds

SILENCE = "sil"
NOISE = "spn"

KEY = "downstream_expert.datarc.alignments"
"""Config section of the alignments, for messages."""

_SILENCE_PHONES = frozenset({"", "sil", "sp", "[sil]", "<sil>", "<eps>", "h#", "pau", "epi"})
_SILENCE_WORDS = frozenset({"", "sil", "sp", "[sil]", "<sil>", "<eps>"})
"""Without TIMIT's names: these could be words."""
_NOISE = frozenset({"spn", "<unk>"})
_STRESSED = re.compile(r"(AA|AE|AH|AO|AW|AX|AXR|AY|EH|ER|EY|IH|IX|IY|OW|OY|UH|UW|UX)[0-2]", re.IGNORECASE)

LONGER_TOLERANCE: Seconds = 0.5
"""An alignment that continues for longer than this after its audio has ended is that of another recording."""

OVERLAP_TOLERANCE: Seconds = 5e-4
"""Times are written with two to four decimals; intervals that overlap by less than this are not at fault."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A label that holds in [start, end), in seconds from the start of the utterance."""

    start: Seconds
    end: Seconds
    label: str


def normalise_label(label: str, *, strip_stress: bool, words: bool = False) -> str:
    """One name for silence, one for noise, and no stress digit; anything else stays as it is.

    Args:
        label: as the file has it.
        strip_stress: drop the digit of an ARPAbet vowel (phones only).
        words: the label is a word, so that TIMIT's phone names and stress digits mean nothing.

    Example:
        >>> [normalise_label(x, strip_stress=True) for x in ("AH0", "h#", "", "SPN", "K", "ax-h", "14")]
        ['AH', 'sil', 'sil', 'spn', 'K', 'ax-h', '14']
    """
    label = label.strip()
    lower = label.lower()
    if lower in (_SILENCE_WORDS if words else _SILENCE_PHONES):
        return SILENCE
    if lower in _NOISE:
        return NOISE
    if strip_stress and not words and _STRESSED.fullmatch(label):
        return label[:-1]
    return label


def check_intervals(intervals: Sequence[Interval], utterance: str = "") -> list[Interval]:
    """Drop intervals of zero length and refuse any that overlap or are out of the order of time.

    Raises:
        MIError: naming the utterance and both intervals.
    """
    where = f"utterance {utterance}: " if utterance else ""
    kept: list[Interval] = []
    for interval in intervals:
        if not (np.isfinite(interval.start) and np.isfinite(interval.end)) or interval.end < interval.start:
            raise MIError(f"{where}interval {_show(interval)} ends before it starts. Correct the alignment.")
        if interval.end == interval.start:
            continue
        if kept and (interval.start < kept[-1].end - OVERLAP_TOLERANCE or interval.start < kept[-1].start):
            fault = "overlaps with" if interval.end > kept[-1].start else "is earlier than"
            raise MIError(
                f"{where}interval {_show(interval)} {fault} {_show(kept[-1])}, which comes before it in the "
                "file. A frame can have only one label: correct the alignment, or choose another tier."
            )
        kept.append(interval)
    return kept


def check_duration(intervals: Sequence[Interval], audio_seconds: Seconds, utterance: str) -> None:
    """Refuse the alignment of another recording: one that continues long after the audio has ended.

    The other way round (audio beyond the last interval) is no fault: those frames are just not labelled.

    Raises:
        MIError: the last interval ends more than `LONGER_TOLERANCE` after the audio.
    """
    end = max((i.end for i in intervals), default=0.0)
    if end > audio_seconds + LONGER_TOLERANCE:
        raise MIError(
            f"utterance {utterance}: its alignment ends at {end:g} s, but its audio lasts {audio_seconds:g} s. Does "
            f"the alignment ({KEY}.path) belong to this audio, with times in seconds?"
        )


def _show(interval: Interval) -> str:
    return f"{interval.label!r} [{interval.start:g} s, {interval.end:g} s)"


def frame_labels(
    intervals: Sequence[Interval], centres_seconds: NDArray[np.float64], utterance: str = ""
) -> NDArray[np.object_]:
    """One label per frame: that of the interval [start, end) which holds the frame's centre.

    Args:
        intervals: in order of time; those of zero length are ignored.
        centres_seconds: shape (n_frames,), centres of the frames' receptive fields, in seconds.
        utterance: its id, for messages.

    Returns:
        Shape (n_frames,), str, or None for a frame in a gap or after the last interval: not labelled, to be
        dropped and counted.

    Raises:
        MIError: intervals overlap or are out of order.

    Example:
        >>> list(frame_labels([Interval(0.0, 0.02, "sil"), Interval(0.02, 0.05, "K")], np.arange(4) * 0.02))
        ['sil', 'K', 'K', None]
    """
    centres = np.asarray(centres_seconds, dtype=np.float64)
    labels = np.full(centres.shape, None, dtype=object)
    kept = check_intervals(intervals, utterance)
    if not kept:
        return labels
    # Times are decimal fractions: rounded to a nanosecond, 0.1 + 0.2 and 0.3 are the same moment.
    centres = np.round(centres, 9)
    starts = np.round([i.start for i in kept], 9)
    ends = np.round([i.end for i in kept], 9)
    names = np.array([i.label for i in kept], dtype=object)
    rows = np.searchsorted(starts, centres, side="right") - 1
    inside = (rows >= 0) & (centres < ends[rows])
    labels[inside] = names[rows[inside]]
    return labels
