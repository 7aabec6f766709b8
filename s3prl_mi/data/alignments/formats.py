"""The alignment formats in one table, `FORMATS`. A new format is one entry there and in `AlignmentConfig.format`.

=========  ===================================================================================================
textgrid   Praat / Montreal Forced Aligner, one file per utterance (`textgrid`)
phn        TIMIT ``.PHN`` (phones) and ``.WRD`` (words), one file per utterance: ``0 2260 h#`` in samples
cpc        ``converted_aligned_phones.txt``: ``84-1-0000 14 14 7``, one integer label every 10 ms
ctm        Kaldi: ``84-1-0000 1 0.10 0.25 K_B [confidence]``: channel, start, duration, label
condensed  LibriSpeech ``<speaker>-<chapter>.alignment.txt``: ``84-1-0000 ",A,CAT," "0.1,0.25,0.6,0.7"``: words and
           their *end* times; no phones
=========  ===================================================================================================
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal, TypeAlias

from ...core.errors import MIError
from ...core.files import read_text
from ...core.types import SAMPLE_RATE
from .labels import KEY, Interval
from .textgrid import read_textgrid

Format: TypeAlias = Literal["textgrid", "phn", "cpc", "ctm", "condensed"]
Lines: TypeAlias = Sequence[tuple[int, str]]
"""(line number, text) of the lines of one utterance."""


@dataclass(frozen=True, slots=True)
class AlignmentFormat:
    """One format: how its files are named and recognised, and how an utterance is read."""

    title: str
    """For messages."""
    per: Literal["utterance", "chapter", "corpus"]
    """What one file holds."""
    names: tuple[str, ...]
    """Patterns of file names; matched in lower case."""
    looks: Callable[[Sequence[str]], bool]
    """Whether first lines look like this format, for files with a name of their own."""
    read_file: Callable[[Path, str], list[Interval]] | None = None
    """Reads a file of one utterance, and of it the named tier."""
    read_lines: Callable[[Path, Lines], list[Interval]] | None = None
    """Reads an utterance from a file of many, from the lines that begin with its id."""
    only: Literal["phones", "words"] | None = None
    """The one tier that the format has; None: it may have both."""


# Reading ----------------------------------------------------------------------------------------------------

_CONDENSED = re.compile(r'(\S+) +"([^"]*)" +"([^"]*)"\s*')
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def read_phn(path: Path, tier: str = "phones") -> list[Interval]:
    """Read a TIMIT .PHN or .WRD file: `start_sample end_sample label` in samples at 16 kHz.

    Raises:
        MIError: a malformed line.
    """
    intervals = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        fields = line.split()
        if fields and not _looks_like_phn(line):
            raise _malformed(path, number, "start_sample end_sample label", line)
        if fields:
            intervals.append(Interval(int(fields[0]) / SAMPLE_RATE, int(fields[1]) / SAMPLE_RATE, fields[2]))
    return intervals


def _looks_like_phn(line: str) -> bool:
    fields = line.split()
    return len(fields) == 3 and fields[0].isdecimal() and fields[1].isdecimal()


def _read_cpc(path: Path, lines: Lines) -> list[Interval]:
    """CPC: label i holds in [10 i, 10 (i + 1)) ms; equal neighbours are joined."""
    number, line = _only_line(path, lines)
    labels = line.split()[1:]
    if not _looks_like_cpc(line):
        raise _malformed(path, number, "utterance and integer labels, one every 10 ms", line)
    # Divided, not multiplied by 0.01, so that 30 ms is the very float 0.03.
    edges = [i for i in range(len(labels) + 1) if i in (0, len(labels)) or labels[i] != labels[i - 1]]
    return [Interval(a / 100, b / 100, labels[a]) for a, b in itertools.pairwise(edges)]


def _looks_like_cpc(line: str) -> bool:
    # CPC's labels are whole numbers; a CTM has a decimal point in some start or duration.
    labels = line.split()[1:]
    return bool(labels) and all(label.isdecimal() for label in labels)


def _read_ctm(path: Path, lines: Lines) -> list[Interval]:
    """Kaldi CTM: the fourth field is a duration; labels may carry a word position (_B _E _I _S)."""
    intervals = []
    for number, line in lines:
        if not _looks_like_ctm(line):
            raise _malformed(path, number, "utterance channel start duration label [confidence]", line)
        fields = line.split()
        start, duration = float(fields[2]), float(fields[3])
        # Rounded to a microsecond: 0.1 + 0.2 would otherwise overlap with what starts at 0.3.
        end = round(start + duration, 6)
        intervals.append(Interval(start, end, re.sub(r"(?<=.)_[BEIS]$", "", fields[4])))
    return intervals


def _looks_like_ctm(line: str) -> bool:
    fields = line.split()
    return len(fields) in (5, 6) and all(_NUMBER.fullmatch(f) for f in fields[2:4])


def _read_condensed(path: Path, lines: Lines) -> list[Interval]:
    """Condensed LibriSpeech: words and their end times; an empty word is silence, the first starts at 0."""
    number, line = _only_line(path, lines)
    expected = 'utterance "word,word,..." "end,end,..."'
    match = _CONDENSED.fullmatch(line)
    if match is None:
        raise _malformed(path, number, expected, line)
    words, ends = match[2].split(","), match[3].split(",")
    if len(words) != len(ends) or not all(_NUMBER.fullmatch(end) for end in ends):
        raise _malformed(path, number, f"{expected} with as many times as words", line)
    times = [0.0, *map(float, ends)]
    return [Interval(a, b, word) for a, b, word in zip(times[:-1], times[1:], words, strict=True)]


def _only_line(path: Path, lines: Lines) -> tuple[int, str]:
    """The one line of an utterance."""
    if len(lines) > 1:
        utterance = lines[0][1].split()[0]
        raise MIError(
            f"alignment file {path}: utterance {utterance!r} has two lines, {lines[0][0]} and {lines[1][0]}. "
            "Remove one."
        )
    return lines[0]


def _every(test: Callable[[str], bool]) -> Callable[[Sequence[str]], bool]:
    return lambda lines: all(map(test, lines))


def _malformed(path: Path, number: int, expected: str, line: str) -> MIError:
    shown = line.strip() if len(line) <= 60 else line[:60].strip() + "..."
    return MIError(f"alignment file {path}, line {number}: expected {expected}; found {shown!r}.")


# The table --------------------------------------------------------------------------------------------------

FORMATS: Mapping[Format, AlignmentFormat] = {
    "textgrid": AlignmentFormat(
        "TextGrids", "utterance", ("*.textgrid",), lambda lines: "ooTextFile" in lines[0], read_file=read_textgrid
    ),
    "phn": AlignmentFormat(
        "TIMIT's files", "utterance", ("*.phn", "*.wrd"), _every(_looks_like_phn), read_file=read_phn
    ),
    "cpc": AlignmentFormat(
        "CPC's files",
        "corpus",
        ("converted_aligned_phones.txt",),
        _every(_looks_like_cpc),
        read_lines=_read_cpc,
        only="phones",
    ),
    "ctm": AlignmentFormat("Kaldi's CTM", "corpus", ("*.ctm", "ctm"), _every(_looks_like_ctm), read_lines=_read_ctm),
    "condensed": AlignmentFormat(
        "the condensed LibriSpeech alignments",
        "chapter",
        ("*.alignment.txt",),
        _every(lambda line: _CONDENSED.fullmatch(line) is not None),
        read_lines=_read_condensed,
        only="words",
    ),
}
"""Name in the config -> format. The first one found in a folder counts: phones before words, and lists of words often
lie next to other alignments."""


# Telling apart ----------------------------------------------------------------------------------------------


def detect_format(path: Path) -> Format:
    """Tell the format of an alignment file, or of the files in a folder, by names and first lines.

    Raises:
        MIError: nothing known in it.
    """
    found = _detect_in_folder(path) if path.is_dir() else format_of_name(path.name) or _format_of_text(path)
    if found is None:
        held = "holds no file of" if path.is_dir() else "is not in"
        names = ", ".join(name for form in FORMATS.values() for name in form.names)
        raise MIError(
            f"config key {KEY}.path: {path} {held} a known alignment format ({names}). Set {KEY}.format if it "
            f"is one of {', '.join(FORMATS)}."
        )
    return found


def format_of_name(name: str) -> Format | None:
    """The format that a file's name stands for; None if it says nothing."""
    lower = name.lower()
    matching = (f for f, form in FORMATS.items() if any(fnmatch(lower, pattern) for pattern in form.names))
    return None if lower.startswith(".") else next(matching, None)


def _detect_in_folder(folder: Path) -> Format | None:
    seen: set[Format] = set()
    for _, _, names in os.walk(folder, followlinks=True):
        seen.update(f for f in map(format_of_name, names) if f)
        if "textgrid" in seen:  # the first of the table: nothing can come before it
            break
    return next((f for f in FORMATS if f in seen), None)


def _format_of_text(path: Path) -> Format | None:
    """The format of a file with a name of its own, by its first lines."""
    try:
        with open(path, "rb") as file:
            head = file.read(1 << 16)
    except OSError as error:
        raise MIError(f"alignment file {path}: cannot be read ({error.strerror}).") from error
    wide = head.startswith((b"\xff\xfe", b"\xfe\xff"))
    text = head[: len(head) // 2 * 2].decode("utf-16", "replace") if wide else head.decode("utf-8", "replace")
    # The last line may be cut off by the limit above.
    complete = text.splitlines()[: -1 if len(head) == 1 << 16 and "\n" in text else None]
    lines = [line for line in complete[:50] if line.strip() and not line.startswith(";;")]
    return next((f for f, form in FORMATS.items() if lines and form.looks(lines)), None)
