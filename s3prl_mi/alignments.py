"""Alignment files -> intervals -> one label per frame.

Five formats are read, each by the rules of those who write it:

==========  =================================================================================================
textgrid    Praat / Montreal Forced Aligner, one file an utterance, long or short text form, UTF-8 or UTF-16
cpc         ``converted_aligned_phones.txt``: one line an utterance, one integer label every 10 ms
ctm         Kaldi: ``utterance channel start duration label [confidence]``, seconds
phn         TIMIT ``.PHN`` (phones) and ``.WRD`` (words), one file an utterance, samples at 16 kHz
condensed   LibriSpeech ``<speaker>-<chapter>.alignment.txt``: words and their *end* times; no phones
==========  =================================================================================================

Labels are changed in three ways only: every name of silence becomes `sil`, every name of noise or of an
unknown word `spn`, and (by default) an ARPAbet vowel loses its stress digit.

A frame has the label of the interval that holds the centre of its receptive field. A frame in a gap between
intervals, or after the last one, has none (None): the caller drops and counts it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ._types import Seconds
from .audio import SAMPLE_RATE, Utterance
from .config import AlignmentConfig
from .errors import MIError, nearest

SILENCE = "sil"
NOISE = "spn"

Format: TypeAlias = Literal["textgrid", "cpc", "ctm", "phn", "condensed"]

_KEY = "downstream_expert.datarc.alignments"
_SILENCE_PHONES = frozenset({"", "sil", "sp", "[sil]", "<sil>", "<eps>", "h#", "pau", "epi"})
_SILENCE_WORDS = frozenset({"", "sil", "sp", "[sil]", "<sil>", "<eps>"})
"""Without TIMIT's names: these could be words."""
_NOISE = frozenset({"spn", "<unk>"})
_STRESSED = re.compile(
    r"(AA|AE|AH|AO|AW|AX|AXR|AY|EH|ER|EY|IH|IX|IY|OW|OY|UH|UW|UX)[0-2]",
    re.IGNORECASE,
)

CPC_STEP: Seconds = 0.01
"""Time between two labels of CPC's file."""

LONGER_TOLERANCE: Seconds = 0.5
"""An alignment that goes on for longer than this after its audio has ended is that of another recording."""

OVERLAP_TOLERANCE: Seconds = 5e-4
"""Times are written with two to four decimals; intervals that overlap by less than this are not at fault."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A label that holds in [start, end), in seconds from the start of the utterance."""

    start: Seconds
    end: Seconds
    label: str


# Labels -----------------------------------------------------------------------------------------------------


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


# TextGrid ---------------------------------------------------------------------------------------------------

# Praat reads free-standing numbers, quoted strings and <flags>, and takes everything else for comment. So the
# long form ("xmin = 0.25") and the short form ("0.25") are the same sequence of tokens.
_TOKEN = re.compile(
    r'"(?P<text>[^"]*(?:""[^"]*)*)"'
    r"|<(?P<flag>exists|absent)>"
    r"|(?<!\S)(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?!\S)"
    r"|(?<!\S)![^\n]*"
)


class _Tokens:
    """The tokens of one TextGrid, in order."""

    def __init__(self, path: Path, text: str) -> None:
        self._path, self._text = path, text
        self._matches = (m for m in _TOKEN.finditer(text) if m.lastgroup)
        self._next: re.Match[str] | None = next(self._matches, None)

    def peek_flag(self) -> bool:
        return self._next is not None and self._next.lastgroup == "flag"

    def _take(self, kind: str) -> str:
        match = self._next
        if match is None or match.lastgroup != kind:
            found = "the end of the file" if match is None else match.group()[:40]
            raise self.error(f"expected a {kind}, found {found}")
        self._last, self._next = match, next(self._matches, None)
        return match[kind]

    def text(self) -> str:
        return self._take("text").replace('""', '"')

    def number(self) -> float:
        return float(self._take("number"))

    def flag(self) -> str:
        return self._take("flag")

    def count(self) -> int:
        value = self.number()
        if value != int(value) or value < 0:
            raise self.error(f"expected a count, found {value:g}", self._last)
        return int(value)

    def error(self, what: str, at: re.Match[str] | None = None) -> MIError:
        """An error at the given token, or at the next one."""
        match = at or self._next
        offset = len(self._text) if match is None else match.start()
        line = self._text.count("\n", 0, offset) + 1
        return MIError(f"TextGrid {self._path}, line {line}: {what}. Is the file complete?")


def read_textgrid(path: Path, tier: str) -> list[Interval]:
    """Read one interval tier of a Praat TextGrid (long or short text form; UTF-8, or UTF-16 with BOM).

    Args:
        path: the file.
        tier: name of the tier, case-blind; `phones` also finds `<speaker> - phones`, as MFA names the tiers
            of a file with speakers.

    Returns:
        The tier's intervals with their labels as written.

    Raises:
        MIError: not a TextGrid, malformed (line named), or no such tier, or several.
    """
    tiers = _read_tiers(path)
    wanted = tier.strip().lower()
    found = [t for t in tiers if t[0].strip().lower() == wanted]
    if not found:
        found = [t for t in tiers if t[0].rpartition(" - ")[2].strip().lower() == wanted]
    names = [t[0] for t in tiers]
    if len(found) != 1:
        what = "has several tiers that fit" if found else "has no tier"
        raise MIError(
            f"TextGrid {path} {what} {tier!r}. Its tiers: {', '.join(map(repr, names)) or 'none'}."
            f"{'' if found else nearest(tier, names)} Set config key {_KEY}.tier to one of them in full."
        )
    name, intervals = found[0]
    if intervals is None:
        raise MIError(
            f"TextGrid {path}: tier {name!r} is a point tier; {_KEY}.tier must name an interval tier."
        )
    return intervals


def _read_tiers(path: Path) -> list[tuple[str, list[Interval] | None]]:
    """Every tier's name and intervals (None for a point tier)."""
    tokens = _Tokens(path, _read_text(path))
    try:
        is_textgrid = tokens.text().startswith("ooTextFile") and tokens.text() == "TextGrid"
    except MIError:
        is_textgrid = False
    if not is_textgrid:
        raise MIError(
            f"{path}: not a TextGrid in one of Praat's text forms (its first line should be "
            'File type = "ooTextFile", its second Object class = "TextGrid").'
        )
    tokens.number(), tokens.number()
    if tokens.peek_flag() and tokens.flag() == "absent":
        return []
    return [_read_tier(tokens) for _ in range(tokens.count())]


def _read_tier(tokens: _Tokens) -> tuple[str, list[Interval] | None]:
    kind, name = tokens.text(), tokens.text()
    tokens.number(), tokens.number()
    if kind == "IntervalTier":
        return name, [
            Interval(tokens.number(), tokens.number(), tokens.text()) for _ in range(tokens.count())
        ]
    if kind == "TextTier":
        for _ in range(tokens.count()):
            tokens.number(), tokens.text()
        return name, None
    raise tokens.error(f"expected an IntervalTier or a TextTier, found {kind!r}")


def _read_text(path: Path) -> str:
    """A file as text, by its byte order mark; UTF-8 without one."""
    try:
        data = path.read_bytes()
        encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
        return data.decode(encoding)
    except (OSError, UnicodeDecodeError) as error:
        raise MIError(f"alignment file {path}: cannot be read as UTF-8 or UTF-16 text ({error}).") from error


# Formats of one line an interval, or one line an utterance --------------------------------------------------


def read_phn(path: Path) -> list[Interval]:
    """Read a TIMIT .PHN or .WRD file: `start_sample end_sample label` in samples at 16 kHz.

    Raises:
        MIError: a malformed line.
    """
    intervals = []
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
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


class _LineFile:
    """A file whose lines begin with an utterance id: where each utterance's lines are.

    Only the places are kept in memory; lines are read when asked for (CPC's file has 36 million labels).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._runs: dict[str, list[tuple[int, int, int]]] = {}
        offset = 0
        try:
            with open(path, "rb") as file:
                for number, line in enumerate(file, start=1):
                    self._note(line, offset, number)
                    offset += len(line)
        except OSError as error:
            raise MIError(f"alignment file {path}: cannot be read ({error.strerror}).") from error

    def _note(self, line: bytes, offset: int, number: int) -> None:
        """Add a line to its utterance's last run of adjoining lines, or begin a new run."""
        head = line.removeprefix(b"\xef\xbb\xbf") if offset == 0 else line
        fields = head.split(None, 1)
        if not fields or fields[0].startswith(b";;"):
            return
        runs = self._runs.setdefault(fields[0].decode("utf-8", "replace"), [])
        if runs and runs[-1][1] == offset:
            runs[-1] = (runs[-1][0], offset + len(line), runs[-1][2])
        else:
            runs.append((offset, offset + len(line), number))

    def __contains__(self, utterance_id: str) -> bool:
        return utterance_id in self._runs

    def lines(self, utterance_id: str) -> list[tuple[int, str]]:
        """(line number, text) of every line of an utterance."""
        found: list[tuple[int, str]] = []
        with open(self.path, "rb") as file:
            for start, end, number in self._runs[utterance_id]:
                file.seek(start)
                text = file.read(end - start).decode("utf-8", "replace").removeprefix("\ufeff")
                found += enumerate(text.splitlines(), start=number)
        return found


# Finding files ----------------------------------------------------------------------------------------------

_ONE_UTTERANCE: dict[str, Callable[[Path, str], list[Interval]]] = {
    "textgrid": read_textgrid,
    "phn": lambda path, tier: read_phn(path),
}
"""Formats of one file an utterance."""

_BY_LINE: dict[str, Callable[[Path, Sequence[tuple[int, str]]], list[Interval]]] = {
    "cpc": _parse_cpc,
    "ctm": _parse_ctm,
    "condensed": _parse_condensed,
}
"""Formats with many utterances in a file, found by the id at the start of a line."""

_CPC_NAME = "converted_aligned_phones.txt"
_CONDENSED_SUFFIX = ".alignment.txt"


def detect_format(path: Path) -> Format:
    """Tell the format of an alignment file, or of the files in a folder, by names and first lines.

    Raises:
        MIError: nothing known in it.
    """
    found = _detect_in_folder(path) if path.is_dir() else _format_of_name(path.name) or _format_of_text(path)
    if found is None:
        held = (
            "holds no file of a known alignment format"
            if path.is_dir()
            else "is of no known alignment format"
        )
        raise MIError(
            f"config key {_KEY}.path: {path} {held} (TextGrid, {_CPC_NAME}, .ctm, .PHN, "
            f"*{_CONDENSED_SUFFIX}). Set {_KEY}.format if it is one of textgrid, cpc, ctm, phn, condensed."
        )
    return found


def _format_of_name(name: str) -> Format | None:
    lower = name.lower()
    if lower.startswith("."):
        return None
    if lower.endswith(".textgrid"):
        return "textgrid"
    if lower.endswith((".phn", ".wrd")):
        return "phn"
    if lower == _CPC_NAME:
        return "cpc"
    if lower.endswith(_CONDENSED_SUFFIX):
        return "condensed"
    return "ctm" if lower.endswith(".ctm") or lower == "ctm" else None


def _detect_in_folder(folder: Path) -> Format | None:
    """The richest format in a folder: phones before words, and condensed lists lie beside other files."""
    order: tuple[Format, ...] = ("textgrid", "phn", "cpc", "ctm", "condensed")
    seen: set[str] = set()
    for _, _, names in os.walk(folder, followlinks=True):
        seen.update(f for f in map(_format_of_name, names) if f)
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


class Alignments:
    """The alignments of a corpus, read utterance by utterance.

    Made by `open_alignments`.

    Attributes:
        root: `datarc.alignments.path`, or None where every utterance of a manifest names its own file.
        format: of the files under `root`; None without it.
    """

    def __init__(self, config: AlignmentConfig, root: Path | None, format: Format | None) -> None:
        self.root, self.format = root, format
        self._config = config
        self._line_files: dict[Path, _LineFile] = {}
        self._whole: list[Path] | None = None
        self._walked: dict[str, list[Path]] | None = None

    # What callers use

    def intervals(self, utterance: Utterance) -> list[Interval] | None:
        """The intervals of one utterance, with normalised labels, checked and in order.

        Returns:
            None if this utterance has no alignment.

        Raises:
            MIError: a malformed file, a missing tier, or intervals that overlap or are out of order.
        """
        located = self._locate(utterance)
        if located is None:
            return None
        path, form = located
        if form in _ONE_UTTERANCE:
            raw = _ONE_UTTERANCE[form](path, self._config.tier)
        else:
            raw = _BY_LINE[form](path, self._line_file(path).lines(utterance.id))
        words = form == "condensed" or _is_words(self._config.tier)
        strip = self._config.strip_stress
        found = [replace(i, label=normalise_label(i.label, strip_stress=strip, words=words)) for i in raw]
        return check_intervals(found, f"{utterance.id} ({path})")

    def missing(self, utterances: Iterable[Utterance]) -> list[str]:
        """Ids of the utterances that have no alignment; no TextGrid is opened for it."""
        return [u.id for u in utterances if self._locate(u) is None]

    def tried(self, utterance: Utterance) -> list[str]:
        """The files in which an utterance's alignment was looked for, for messages."""
        if utterance.alignment is not None:
            return [str(utterance.alignment)]
        if self.root is None or self.format is None:
            return []
        if self.format in ("cpc", "ctm"):
            return [str(path) for path in self._whole_files()]
        if self.format == "condensed":
            return [str(path) for path in self._candidates(utterance)]
        # One spelling of the suffix is enough for a message.
        paths = [str(path) for path in self._candidates(utterance) if not path.suffix.islower()]
        return [*paths, f"any folder below {self.root}"]

    # Where an utterance's alignment lies

    def _locate(self, utterance: Utterance) -> tuple[Path, Format] | None:
        """The file of one utterance and its format; None if there is none."""
        if utterance.alignment is not None:
            return self._locate_own(utterance, utterance.alignment)
        if self.root is None or self.format is None:
            return None
        if self.format in ("cpc", "ctm"):
            holders = [p for p in self._whole_files() if utterance.id in self._line_file(p)]
            if len(holders) > 1:
                raise _ambiguous(utterance, holders)
            return (holders[0], self.format) if holders else None
        for path in self._candidates(utterance):
            if path.is_file() and self._holds(path, self.format, utterance):
                return path, self.format
        if self.format == "condensed":
            # Stray copies are about (chapter lists filed under another chapter): exact places only.
            return None
        path_or_none = self._walk(utterance)
        return None if path_or_none is None else (path_or_none, self.format)

    def _locate_own(self, utterance: Utterance, path: Path) -> tuple[Path, Format] | None:
        """The file that the manifest names for an utterance."""
        if not path.is_file():
            return None
        form = detect_format(path) if self._config.format == "auto" else self._config.format
        _check_tier(form, self._config.tier, path)
        return (path, form) if self._holds(path, form, utterance) else None

    def _holds(self, path: Path, form: Format, utterance: Utterance) -> bool:
        return form in _ONE_UTTERANCE or utterance.id in self._line_file(path)

    def _line_file(self, path: Path) -> _LineFile:
        if path not in self._line_files:
            self._line_files[path] = _LineFile(path)
        return self._line_files[path]

    def _whole_files(self) -> list[Path]:
        """The file or files of a format that keeps many utterances in one."""
        assert self.root is not None
        if self._whole is None:
            self._whole = [self.root] if self.root.is_file() else _files_of(self.root, self.format)
        return self._whole

    def _suffixes(self) -> tuple[str, ...]:
        if self.format == "phn":
            return (".WRD", ".wrd") if _is_words(self._config.tier) else (".PHN", ".phn")
        return (".TextGrid", ".textgrid")

    def _candidates(self, utterance: Utterance) -> Iterator[Path]:
        """The exact places of an utterance's own file, most specific first."""
        assert self.root is not None
        chapter = utterance.path.parent
        name = utterance.id
        suffixes = self._suffixes()
        if self.format == "condensed":
            name, suffixes = utterance.id.rpartition("-")[0], (_CONDENSED_SUFFIX,)
        folders = [
            self.root / utterance.split / chapter.parent.name / chapter.name,
            self.root / chapter.parent.name / chapter.name,
            self.root,
        ]
        for folder in folders:
            yield from (folder / f"{name}{suffix}" for suffix in suffixes)

    def _walk(self, utterance: Utterance) -> Path | None:
        """Search all folders below the root, by an index made once.

        An id such as `DR1-FAKS0-SA1` also finds DR1/FAKS0/SA1. Of several files of one name, those below a
        folder named as the split are preferred, then those whose folders agree most with the audio's.
        """
        assert self.root is not None
        if self._walked is None:
            self._walked = _index(self.root, tuple(s.lower() for s in self._suffixes()))
        found = self._walked.get(utterance.id, [])
        found = [p for p in found if utterance.split in p.relative_to(self.root).parts] or found
        if len(found) > 1:
            shared = [_shared_folders(p, utterance.path) for p in found]
            found = [p for p, n in zip(found, shared, strict=True) if n == max(shared)]
        if len(found) > 1:
            raise _ambiguous(utterance, found)
        return found[0] if found else None


def _index(root: Path, suffixes: tuple[str, ...]) -> dict[str, list[Path]]:
    """Every file with one of the suffixes, by its name and by its name with up to three folders before it."""
    index: dict[str, list[Path]] = {}
    for parent, folders, names in os.walk(root, followlinks=True):
        folders.sort()
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() not in suffixes or name.startswith("."):
                continue
            path = Path(parent) / name
            parts = [*path.relative_to(root).parts[:-1][-3:], stem]
            for i in range(len(parts)):
                index.setdefault("-".join(parts[i:]), []).append(path)
    return index


def _files_of(folder: Path, form: Format | None) -> list[Path]:
    """All files of a format below a folder."""
    return [
        Path(parent) / name
        for parent, _, names in sorted(os.walk(folder, followlinks=True))
        for name in sorted(names)
        if _format_of_name(name) == form
    ]


def _shared_folders(a: Path, b: Path) -> int:
    """How many folder names above two files agree, counted from the files up."""
    pairs = zip(reversed(a.parent.parts), reversed(b.parent.parts), strict=False)
    return next((n for n, (x, y) in enumerate(pairs) if x != y), min(len(a.parts), len(b.parts)) - 1)


def _ambiguous(utterance: Utterance, paths: Sequence[Path]) -> MIError:
    return MIError(
        f"utterance {utterance.id!r} of split {utterance.split!r} has several alignments: "
        f"{', '.join(map(str, paths[:3]))}{', ...' if len(paths) > 3 else ''}. Remove all but one, or name "
        "it in the manifest's column alignment."
    )


def _is_words(tier: str) -> bool:
    return tier.rpartition(" - ")[2].strip().lower() == "words"


def _check_tier(form: Format, tier: str, path: Path) -> None:
    """Refuse phones from a format that has words only, and the other way round."""
    words = _is_words(tier)
    if form == "condensed" and not words:
        raise MIError(
            f"config key {_KEY}.tier: found {tier!r}, but the condensed LibriSpeech alignments ({path}) hold "
            "words only. Set it to words, or use the TextGrids, which have phones."
        )
    if form == "cpc" and words:
        raise MIError(f"config key {_KEY}.tier: found {tier!r}, but CPC's file ({path}) holds phones only.")
    if form == "phn" and path.suffix and words != (path.suffix.lower() == ".wrd"):
        holds, other = ("phones", ".WRD") if words else ("words", ".PHN")
        raise MIError(
            f"config key {_KEY}.tier: found {tier!r}, but {path} holds {holds}; "
            f"name the {other} file instead."
        )


def open_alignments(config: AlignmentConfig) -> Alignments:
    """Find out where alignments are and in which format; nothing is parsed yet.

    Args:
        config: `datarc.alignments`; `path` may be None where a manifest names each utterance's file.

    Raises:
        MIError: no such path, no known format, a file where a folder is needed, or a tier that the format
            does not have.
    """
    if config.path is None:
        return Alignments(config, None, None)
    root = Path(config.path).expanduser()
    if not root.exists():
        raise MIError(f"config key {_KEY}.path: no such file or folder: {root}.")
    form = detect_format(root) if config.format == "auto" else config.format
    if root.is_dir():
        if form != "phn":
            _check_tier(form, config.tier, root)
    elif form in ("textgrid", "phn", "condensed"):
        raise MIError(
            f"config key {_KEY}.path: {root} is one file of format {form}; "
            "name the folder that holds such files."
        )
    else:
        _check_tier(form, config.tier, root)
    alignments = Alignments(config, root, form)
    if form in ("cpc", "ctm") and not alignments._whole_files():
        wanted = _CPC_NAME if form == "cpc" else "*.ctm"
        raise MIError(f"config key {_KEY}.path: no file {wanted} in {root}. Name the file itself.")
    return alignments


def match_utterances(
    alignments: Alignments, utterances: Sequence[Utterance], max_missing: float
) -> tuple[list[Utterance], list[str]]:
    """Keep the utterances that have an alignment.

    Args:
        alignments: see `open_alignments`.
        utterances: of one split.
        max_missing: the share of utterances that may be without (`datarc.alignments.max_missing`).

    Returns:
        The utterances with an alignment, and the ids of those without.

    Raises:
        MIError: a larger share has none; the message lists ids and where they were looked for.
    """
    missing = alignments.missing(utterances)
    absent = set(missing)
    kept = [u for u in utterances if u.id not in absent]
    if not missing or (kept and len(missing) <= max_missing * len(utterances)):
        return kept, missing
    first = next(u for u in utterances if u.id in absent)
    tried = alignments.tried(first)
    place = f"Looked for {first.id} in: {'; '.join(tried)}" if tried else "None is named"
    way_out = f"Set config key {_KEY}.path to what has them, or fill the manifest's column alignment"
    split = utterances[0].split
    if not kept:
        raise MIError(
            f"split {split!r}: none of its {len(utterances)} utterances has an alignment. {place}. {way_out}."
        )
    ids = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
    raise MIError(
        f"split {split!r}: {len(missing)} of {len(utterances)} utterances have no alignment, more than the "
        f"share of {max_missing:g} that {_KEY}.max_missing allows: {ids}. {place}. {way_out}; "
        "or raise max_missing."
    )


# Frames -----------------------------------------------------------------------------------------------------


def check_intervals(intervals: Sequence[Interval], utterance: str = "") -> list[Interval]:
    """Drop intervals of zero length and refuse any that overlap or are out of order.

    Args:
        intervals: in the order of the file.
        utterance: its id, for the message.

    Raises:
        MIError: naming the utterance and both intervals.
    """
    where = f"utterance {utterance}: " if utterance else ""
    kept: list[Interval] = []
    for interval in intervals:
        if not (np.isfinite(interval.start) and np.isfinite(interval.end)) or interval.end < interval.start:
            raise MIError(f"{where}interval {_show(interval)} ends before it starts. Mend the alignment.")
        if interval.end == interval.start:
            continue
        if kept and (interval.start < kept[-1].end - OVERLAP_TOLERANCE or interval.start < kept[-1].start):
            fault = "overlaps with" if interval.end > kept[-1].start else "is earlier than"
            raise MIError(
                f"{where}interval {_show(interval)} {fault} {_show(kept[-1])}, which comes before it in the "
                "file. A frame can have only one label: mend the alignment, or choose another tier."
            )
        kept.append(interval)
    return kept


def check_duration(intervals: Sequence[Interval], audio_seconds: Seconds, utterance: str) -> None:
    """Refuse the alignment of another recording: one that goes on long after the audio has ended.

    The other way round (audio beyond the last interval) is no fault: those frames are just not labelled.

    Raises:
        MIError: the last interval ends more than `LONGER_TOLERANCE` after the audio.
    """
    end = max((i.end for i in intervals), default=0.0)
    if end > audio_seconds + LONGER_TOLERANCE:
        raise MIError(
            f"utterance {utterance}: its alignment ends at {end:g} s, but its audio lasts "
            f"{audio_seconds:g} s. Does the alignment ({_KEY}.path) belong to this audio, with times in "
            "seconds?"
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
