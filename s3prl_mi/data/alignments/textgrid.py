"""Praat's TextGrid, as the Montreal Forced Aligner writes it too."""

from __future__ import annotations

import re
from pathlib import Path

from ...core.errors import MIError, nearest
from .labels import KEY, Interval
from .text import read_text

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
            f"{'' if found else nearest(tier, names)} Set config key {KEY}.tier to one of them in full."
        )
    name, intervals = found[0]
    if intervals is None:
        raise MIError(
            f"TextGrid {path}: tier {name!r} is a point tier; {KEY}.tier must name an interval tier."
        )
    return intervals


def _read_tiers(path: Path) -> list[tuple[str, list[Interval] | None]]:
    """Every tier's name and intervals (None for a point tier)."""
    tokens = _Tokens(path, read_text(path))
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
