"""What eSpeak reports, as alignments of the demo corpus: ARPAbet phones and words."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import numpy as np

from ..core.types import Seconds
from ..data.alignments.labels import SILENCE, Interval
from ..data.espeak import ARPABET, Spoken


def phone_name(mnemonic: str) -> str:
    """ARPAbet name of an eSpeak phoneme mnemonic; pauses are `sil`; an empty string marks no sound at all.

    Example:
        >>> [phone_name(m) for m in ("'oU", "I2", "t#", "_:", ";")]
        ['OW', 'IH', 'T', 'sil', '']
    """
    bare = mnemonic.lstrip("',%=")
    if bare.startswith("_"):
        return SILENCE
    if bare in ("", ";"):  # ';' palatalises what stands before it
        return ""
    for name in (bare, re.sub(r"\d+$", "", bare)):  # aI2, @2, i@3: numbered variants of one phoneme
        if name in ARPABET:
            return ARPABET[name]
    return bare


def phone_intervals(spoken: Spoken, duration: Seconds) -> list[tuple[Interval, int]]:
    """Phones of an utterance as contiguous intervals.

    Args:
        spoken: what eSpeak returned.
        duration: of the audio, in seconds.

    Returns:
        (interval, position in the text; -1 for silence), from 0 to `duration`. Events that share a start keep
        only the last one, neighbouring silences are merged, and what starts past the end is left out.
    """
    marks: list[tuple[float, str, int]] = [(0.0, SILENCE, -1)]
    for start_ms, mnemonic, position in spoken.phones:
        label = phone_name(mnemonic)
        start = max(start_ms / 1000, marks[-1][0])  # never backwards
        if not label or start >= duration:
            continue
        if start == marks[-1][0]:
            marks.pop()
        if label == SILENCE:
            position = -1
            if marks and marks[-1][1] == SILENCE:
                continue
        marks.append((start, label, position))
        marks[0] = (0.0, *marks[0][1:])
    ends = [start for start, _, _ in marks[1:]] + [duration]
    return [(Interval(s, e, label), p) for (s, label, p), e in zip(marks, ends, strict=True)]


def word_intervals(phones: list[tuple[Interval, int]], text: str, words: tuple[tuple[int, int], ...]) -> list[Interval]:
    """Words of an utterance as contiguous intervals; silence is the empty label, as MFA writes it.

    eSpeak runs some words together ("of the") and then reports one start for both. Their phones are
    divided by the words' letters, so such an inner boundary is near, not exact.
    """
    starts = sorted({position for position, _ in words})
    found: list[Interval] = []
    for position, group in itertools.groupby(phones, key=lambda phone: phone[1]):
        run = [interval for interval, _ in group]
        if position < 0:
            found.append(Interval(run[0].start, run[-1].end, ""))
            continue
        following = [s for s in starts if s > position]
        names = re.findall(r"[\w']+", text[position : following[0] if following else None]) or ["<unk>"]
        found.extend(_divide(run, names))
    return found


def _divide(run: list[Interval], names: list[str]) -> Iterator[Interval]:
    """Phones of words that eSpeak ran together, divided by letters; a word without a phone is left out."""
    letters = np.cumsum([0] + [len(name) for name in names])
    cuts = np.round(letters / letters[-1] * len(run)).astype(int)
    for name, first, last in zip(names, cuts[:-1], cuts[1:], strict=True):
        if last > first:
            yield Interval(run[first].start, run[last - 1].end, name.lower())
