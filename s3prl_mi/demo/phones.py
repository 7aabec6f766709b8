"""What eSpeak reports, as alignments of the demo corpus: ARPAbet phones, words, TextGrids."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np

from ..core.types import Seconds
from ..data.alignments import SILENCE, Interval
from ..data.espeak import Spoken

# eSpeak's phoneme mnemonics (stress marks and variant numbers removed) -> ARPAbet. What the table lacks keeps
# eSpeak's own name, so an accent that is added later costs classes rather than an error.
# fmt: off
PHONES: Mapping[str, str] = {
    "p": "P", "b": "B", "t": "T", "d": "D", "k": "K", "g": "G", "m": "M", "n": "N", "N": "NG", "f": "F",
    "v": "V", "T": "TH", "D": "DH", "s": "S", "z": "Z", "S": "SH", "Z": "ZH", "h": "HH", "l": "L",
    "r": "R", "w": "W", "j": "Y", "tS": "CH", "dZ": "JH", "t[": "TH", "t#": "T", "w#": "W", "r-": "R",
    "n-": "N", "?": "T", "I": "IH", "I#": "IH", "E": "EH", "a": "AE", "aa": "AE", "A:": "AA",
    "A@": "AA", "0": "AA", "O:": "AO", "O@": "AO", "o@": "AO", "O": "AO", "V": "AH", "@": "AH",
    "a#": "AH", "@-": "AH", "@L": "L", "3": "ER", "3:": "ER", "@5": "UH", "U": "UH", "U@": "UH",
    "u:": "UW", "u": "UW", "i": "IY", "i:": "IY", "i@": "IH", "eI": "EY", "e@": "EH", "aI": "AY",
    "aI@": "AY", "aU": "AW", "aU@": "AW", "OI": "OY", "oU": "OW", "IR": "ER", "VR": "ER",
}
# fmt: on


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
        if name in PHONES:
            return PHONES[name]
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


def word_intervals(
    phones: list[tuple[Interval, int]], text: str, words: tuple[tuple[int, int], ...]
) -> list[Interval]:
    """Words of an utterance as contiguous intervals; silence is the empty label, as MFA writes it.

    eSpeak runs some words together ("of the") and then reports one start for both. Their phones are
    shared out by the words' letters, so such an inner boundary is near, not exact.
    """
    starts = sorted({position for position, _ in words})
    found: list[Interval] = []
    index = 0
    while index < len(phones):
        interval, position = phones[index]
        run = [interval]
        while index + 1 < len(phones) and phones[index + 1][1] == position:
            index += 1
            run.append(phones[index][0])
        index += 1
        if position < 0:
            found.append(Interval(run[0].start, run[-1].end, ""))
            continue
        following = [s for s in starts if s > position]
        names = re.findall(r"[\w']+", text[position : following[0] if following else None]) or ["<unk>"]
        found.extend(_share(run, names))
    return found


def _share(run: list[Interval], names: list[str]) -> Iterator[Interval]:
    """Phones of words that eSpeak ran together, shared out by letters; a word without a phone is left out."""
    letters = np.cumsum([0] + [len(name) for name in names])
    cuts = np.round(letters / letters[-1] * len(run)).astype(int)
    for name, first, last in zip(names, cuts[:-1], cuts[1:], strict=True):
        if last > first:
            yield Interval(run[first].start, run[last - 1].end, name.lower())


def textgrid(tiers: Mapping[str, list[Interval]], duration: Seconds) -> str:
    """A Praat TextGrid in its long text form.

    Args:
        tiers: name -> contiguous intervals.
        duration: in seconds.

    Returns:
        The file's text.
    """
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {duration:.6f}",
    ]
    lines += ["tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, intervals) in enumerate(tiers.items(), 1):
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"']
        lines += ["        xmin = 0", f"        xmax = {duration:.6f}"]
        lines += [f"        intervals: size = {len(intervals)}"]
        for place, interval in enumerate(intervals, 1):
            lines += [f"        intervals [{place}]:", f"            xmin = {interval.start:.6f}"]
            lines += [f"            xmax = {interval.end:.6f}", f'            text = "{interval.label}"']
    return "\n".join(lines) + "\n"
