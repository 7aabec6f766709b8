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


@dataclass(frozen=True, slots=True)
class AlignmentFormat:
    """One format: how its files are named and recognised, and how an utterance is read."""

    title: str
    """For messages."""
    per: Literal["utterance", "chapter", "corpus"]
    """What one file holds."""
    names: tuple[str, ...]
    """Patterns of file names; matched in lower case."""
    line: re.Pattern[str]
    """What each line must be (of a TextGrid: the first one), which also tells the format of files with other names."""
    expected: str = ""
    """The same in words."""
    intervals: Callable[[Sequence[re.Match[str]]], list[Interval]] | None = None
    """The lines of one utterance -> its intervals; None for TextGrids, which are not made of lines."""
    one_line: bool = False
    """Whether an utterance has a single line."""
    only: Literal["phones", "words"] | None = None
    """The one tier that the format has; None: it may have both."""


# Reading ----------------------------------------------------------------------------------------------------


def read_file(path: Path, form: Format, tier: str) -> list[Interval]:
    """Read a file of one utterance; of a TextGrid the named tier.

    Raises:
        MIError: malformed, or no such tier.
    """
    if form == "textgrid":
        return read_textgrid(path, tier)
    return read_lines(path, form, list(enumerate(read_text(path).splitlines(), start=1)))


def read_lines(path: Path, form: Format, lines: Sequence[tuple[int, str]]) -> list[Interval]:
    """Read an utterance from its lines, each with its number.

    Raises:
        MIError: a malformed line, or two where one is the utterance.
    """
    layout = FORMATS[form]
    assert layout.intervals is not None
    lines = [(number, line) for number, line in lines if line.strip()]
    if layout.one_line and len(lines) > 1:
        raise MIError(
            f"alignment file {path}: utterance {lines[0][1].split()[0]!r} has two lines, {lines[0][0]} and "
            f"{lines[1][0]}. Remove one."
        )
    matches = []
    for number, line in lines:
        match = layout.line.fullmatch(line)
        if match is None or (form == "condensed" and match[2].count(",") != match[3].count(",")):
            shown = line.strip() if len(line) <= 60 else line[:60].strip() + "..."
            raise MIError(f"alignment file {path}, line {number}: expected {layout.expected}; found {shown!r}.")
        matches.append(match)
    return layout.intervals(matches)


def _phn(lines: Sequence[re.Match[str]]) -> list[Interval]:
    return [Interval(int(m[1]) / SAMPLE_RATE, int(m[2]) / SAMPLE_RATE, m[3]) for m in lines]


def _cpc(lines: Sequence[re.Match[str]]) -> list[Interval]:
    """Label i holds in [10 i, 10 (i + 1)) ms; equal neighbours are joined."""
    labels = lines[0][1].split()
    # Divided, not multiplied by 0.01, so that 30 ms is the very float 0.03.
    edges = [i for i in range(len(labels) + 1) if i in (0, len(labels)) or labels[i] != labels[i - 1]]
    return [Interval(a / 100, b / 100, labels[a]) for a, b in itertools.pairwise(edges)]


def _ctm(lines: Sequence[re.Match[str]]) -> list[Interval]:
    """Labels may carry a word position (_B _E _I _S)."""
    # Rounded to a microsecond: 0.1 + 0.2 would otherwise overlap with what starts at 0.3.
    times = [(float(m[1]), round(float(m[1]) + float(m[2]), 6)) for m in lines]
    return [Interval(*t, re.sub(r"(?<=.)_[BEIS]$", "", m[3])) for t, m in zip(times, lines, strict=True)]


def _condensed(lines: Sequence[re.Match[str]]) -> list[Interval]:
    """An empty word is silence, the first starts at 0."""
    times = [0.0, *map(float, lines[0][3].split(","))]
    return [Interval(*t, word) for t, word in zip(itertools.pairwise(times), lines[0][2].split(","), strict=True)]


# The table --------------------------------------------------------------------------------------------------

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
FORMATS: Mapping[Format, AlignmentFormat] = {
    "textgrid": AlignmentFormat("TextGrids", "utterance", ("*.textgrid",), re.compile(".*ooTextFile.*")),
    "phn": AlignmentFormat(
        "TIMIT's files",
        "utterance",
        ("*.phn", "*.wrd"),
        re.compile(r"\s*(\d+)\s+(\d+)\s+(\S+)\s*"),
        "start_sample end_sample label",
        _phn,
    ),
    # CPC's labels are whole numbers; a CTM has a decimal point in some start or duration.
    "cpc": AlignmentFormat(
        "CPC's files",
        "corpus",
        ("converted_aligned_phones.txt",),
        re.compile(r"\s*\S+((?:\s+\d+)+)\s*"),
        "utterance and integer labels, one every 10 ms",
        _cpc,
        one_line=True,
        only="phones",
    ),
    "ctm": AlignmentFormat(
        "Kaldi's CTM",
        "corpus",
        ("*.ctm", "ctm"),
        re.compile(rf"\s*\S+\s+\S+\s+({_NUMBER})\s+({_NUMBER})\s+(\S+)(?:\s+\S+)?\s*"),
        "utterance channel start duration label [confidence]",
        _ctm,
    ),
    "condensed": AlignmentFormat(
        "the condensed LibriSpeech alignments",
        "chapter",
        ("*.alignment.txt",),
        re.compile(rf'(\S+) +"([^"]*)" +"({_NUMBER}(?:,{_NUMBER})*)"\s*'),
        'utterance "word,word,..." "end,end,..." with as many times as words',
        _condensed,
        one_line=True,
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
    looks = {f: lines[:1] if f == "textgrid" else lines for f in FORMATS}
    return next((f for f, form in FORMATS.items() if lines and all(map(form.line.fullmatch, looks[f]))), None)
