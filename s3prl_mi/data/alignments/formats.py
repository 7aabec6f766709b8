"""The formats: how to tell them apart, and how to read those of one line an interval or an utterance."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from ...core.errors import MIError
from ...core.types import SAMPLE_RATE, Seconds
from .labels import KEY, Interval
from .text import read_text
from .textgrid import read_textgrid

Format: TypeAlias = Literal["textgrid", "cpc", "ctm", "phn", "condensed"]

CPC_STEP: Seconds = 0.01
"""Time between two labels of CPC's file."""

# Reading ---------------------------------------------------------------------------------------------------


def read_phn(path: Path) -> list[Interval]:
    """Read a TIMIT .PHN or .WRD file: `start_sample end_sample label` in samples at 16 kHz.

    Raises:
        MIError: a malformed line.
    """
    intervals = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 3 or not (fields[0].isdecimal() and fields[1].isdecimal()):
            raise _malformed(path, number, "start_sample end_sample label", line)
        intervals.append(Interval(int(fields[0]) / SAMPLE_RATE, int(fields[1]) / SAMPLE_RATE, fields[2]))
    return intervals


def _parse_cpc(path: Path, lines: Sequence[tuple[int, str]]) -> list[Interval]:
    """CPC: label i holds in [10 i, 10 (i + 1)) ms; equal neighbours are joined."""
    number, line = _only_line(path, lines)
    labels = line.split()[1:]
    if not labels or not all(label.isdecimal() for label in labels):
        raise _malformed(path, number, "utterance and integer labels, one every 10 ms", line)
    intervals: list[Interval] = []
    first = 0
    for i in range(1, len(labels) + 1):
        if i == len(labels) or labels[i] != labels[first]:
            # Divided, not multiplied by 0.01, so that 30 ms is the very float 0.03.
            intervals.append(Interval(first / 100, i / 100, labels[first]))
            first = i
    return intervals


def _parse_ctm(path: Path, lines: Sequence[tuple[int, str]]) -> list[Interval]:
    """Kaldi CTM: the fourth field is a duration; labels may carry a word position (_B _E _I _S)."""
    intervals = []
    for number, line in lines:
        fields = line.split()
        if len(fields) not in (5, 6) or not (_is_number(fields[2]) and _is_number(fields[3])):
            raise _malformed(path, number, "utterance channel start duration label [confidence]", line)
        start, duration = float(fields[2]), float(fields[3])
        # Rounded to a microsecond: 0.1 + 0.2 would otherwise overlap with what starts at 0.3.
        end = round(start + duration, 6)
        intervals.append(Interval(start, end, re.sub(r"(?<=.)_[BEIS]$", "", fields[4])))
    return intervals


_CONDENSED = re.compile(r'(\S+) +"([^"]*)" +"([^"]*)"\s*')


def _parse_condensed(path: Path, lines: Sequence[tuple[int, str]]) -> list[Interval]:
    """Condensed LibriSpeech: words and their end times; an empty word is silence, the first starts at 0."""
    number, line = _only_line(path, lines)
    expected = 'utterance "word,word,..." "end,end,..."'
    match = _CONDENSED.fullmatch(line)
    if match is None:
        raise _malformed(path, number, expected, line)
    words, ends = match[2].split(","), match[3].split(",")
    if len(words) != len(ends) or not all(_is_number(end) for end in ends):
        raise _malformed(path, number, f"{expected} with as many times as words", line)
    times = [0.0, *map(float, ends)]
    return [Interval(a, b, word) for a, b, word in zip(times[:-1], times[1:], words, strict=True)]


def _only_line(path: Path, lines: Sequence[tuple[int, str]]) -> tuple[int, str]:
    """The one line of an utterance."""
    if len(lines) > 1:
        utterance = lines[0][1].split()[0]
        raise MIError(
            f"alignment file {path}: utterance {utterance!r} has two lines, {lines[0][0]} and {lines[1][0]}. "
            "Remove one."
        )
    return lines[0]


_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None


def _malformed(path: Path, number: int, expected: str, line: str) -> MIError:
    shown = line.strip() if len(line) <= 60 else line[:60].strip() + "..."
    return MIError(f"alignment file {path}, line {number}: expected {expected}; found {shown!r}.")


ONE_UTTERANCE: dict[str, Callable[[Path, str], list[Interval]]] = {
    "textgrid": read_textgrid,
    "phn": lambda path, tier: read_phn(path),
}
"""Formats of one file an utterance."""

BY_LINE: dict[str, Callable[[Path, Sequence[tuple[int, str]]], list[Interval]]] = {
    "cpc": _parse_cpc,
    "ctm": _parse_ctm,
    "condensed": _parse_condensed,
}
"""Formats with many utterances in a file, found by the id at the start of a line."""

# Telling apart ----------------------------------------------------------------------------------------------

CPC_NAME = "converted_aligned_phones.txt"
CONDENSED_SUFFIX = ".alignment.txt"


def detect_format(path: Path) -> Format:
    """Tell the format of an alignment file, or of the files in a folder, by names and first lines.

    Raises:
        MIError: nothing known in it.
    """
    found = _detect_in_folder(path) if path.is_dir() else format_of_name(path.name) or _format_of_text(path)
    if found is None:
        held = (
            "holds no file of a known alignment format"
            if path.is_dir()
            else "is of no known alignment format"
        )
        raise MIError(
            f"config key {KEY}.path: {path} {held} (TextGrid, {CPC_NAME}, .ctm, .PHN, "
            f"*{CONDENSED_SUFFIX}). Set {KEY}.format if it is one of textgrid, cpc, ctm, phn, condensed."
        )
    return found


def format_of_name(name: str) -> Format | None:
    """The format that a file's name stands for; None if it says nothing."""
    lower = name.lower()
    if lower.startswith("."):
        return None
    if lower.endswith(".textgrid"):
        return "textgrid"
    if lower.endswith((".phn", ".wrd")):
        return "phn"
    if lower == CPC_NAME:
        return "cpc"
    if lower.endswith(CONDENSED_SUFFIX):
        return "condensed"
    return "ctm" if lower.endswith(".ctm") or lower == "ctm" else None


def _detect_in_folder(folder: Path) -> Format | None:
    """The richest format in a folder: phones before words, and condensed lists lie beside other files."""
    order: tuple[Format, ...] = ("textgrid", "phn", "cpc", "ctm", "condensed")
    seen: set[str] = set()
    for _, _, names in os.walk(folder, followlinks=True):
        seen.update(f for f in map(format_of_name, names) if f)
        if order[0] in seen:
            break
    return next((f for f in order if f in seen), None)


def _format_of_text(path: Path) -> Format | None:
    """The format of a file with a name of its own, by its first lines."""
    try:
        with open(path, "rb") as file:
            head = file.read(1 << 16)
    except OSError as error:
        raise MIError(f"alignment file {path}: cannot be read ({error.strerror}).") from error
    wide = head.startswith((b"\xff\xfe", b"\xfe\xff"))
    text = head[: len(head) // 2 * 2].decode("utf-16", "replace") if wide else head.decode("utf-8", "replace")
    if "ooTextFile" in text[:200]:
        return "textgrid"
    # The last line may be cut off by the limit above.
    complete = text.splitlines()[: -1 if len(head) == 1 << 16 and "\n" in text else None]
    lines = [line for line in complete[:50] if line.strip() and not line.startswith(";;")]
    if not lines:
        return None
    if all(_CONDENSED.fullmatch(line) for line in lines):
        return "condensed"
    rows = [line.split() for line in lines]
    if all(len(r) == 3 and r[0].isdecimal() and r[1].isdecimal() for r in rows):
        return "phn"
    # CPC's labels are whole numbers; a CTM has a decimal point in some start or duration.
    if all(len(r) > 1 and all(x.isdecimal() for x in r[1:]) for r in rows):
        return "cpc"
    if all(len(r) in (5, 6) and _is_number(r[2]) and _is_number(r[3]) for r in rows):
        return "ctm"
    return None
