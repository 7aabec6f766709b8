"""Praat's TextGrid, as the Montreal Forced Aligner writes it too: reading and writing.

No library reads it for us: `praatio`, `tgt` and `textgrid` were tried on damaged files (cut off, a missing quote) and
either return part of the intervals or an error without the line; two of them do not read the short form at all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...core.errors import MIError, nearest
from ...core.files import read_text
from ...core.types import Seconds
from .labels import KEY, Interval

# Praat reads free-standing numbers, quoted strings and <flags>, and takes everything else for comment. So the
# long form ("xmin = 0.25") and the short form ("0.25") are the same sequence of tokens.
_TOKEN = re.compile(
    r'"(?P<text>[^"]*(?:""[^"]*)*)"'
    r"|<(?P<flag>exists|absent)>"
    r"|(?<!\S)(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?!\S)"
    r"|(?<!\S)![^\n]*"
)


def read_textgrid(path: Path, tier: str) -> list[Interval]:
    """Read one interval tier of a Praat TextGrid (long or short text form; UTF-8, or UTF-16 with BOM).

    Args:
        path: the file.
        tier: name of the tier in any case; `phones` also finds `<speaker> - phones`, as MFA names the tiers
            of a file with speakers.

    Returns:
        The tier's intervals with their labels as written.

    Raises:
        MIError: not a TextGrid, malformed (line named), or no such tier, or several.
    """
    tiers = _read_tiers(path)
    wanted = tier.strip().lower()
    found = [t for t in tiers if t[0].strip().lower() == wanted]
    found = found or [t for t in tiers if t[0].rpartition(" - ")[2].strip().lower() == wanted]
    names = [t[0] for t in tiers]
    if len(found) != 1:
        what = "has several tiers that fit" if found else "has no tier"
        raise MIError(
            f"TextGrid {path} {what} {tier!r}. Its tiers: {', '.join(map(repr, names)) or 'none'}."
            f"{'' if found else nearest(tier, names)} Set config key {KEY}.tier to one of them in full."
        )
    name, intervals = found[0]
    if intervals is None:
        raise MIError(f"TextGrid {path}: tier {name!r} is a point tier; {KEY}.tier must name an interval tier.")
    return intervals


class _Tokens:
    """The tokens of one TextGrid, in order."""

    def __init__(self, path: Path) -> None:
        self._path, self._text = path, read_text(path)
        self._rest = [m for m in _TOKEN.finditer(self._text) if m.lastgroup][::-1]

    def next_is(self, kind: str) -> bool:
        return bool(self._rest) and self._rest[-1].lastgroup == kind

    def take(self, kind: str) -> str:
        if not self.next_is(kind):
            found = self._rest[-1].group()[:40] if self._rest else "the end of the file"
            raise self.error(f"expected a {kind}, found {found}")
        return self._rest.pop()[kind]

    def text(self) -> str:
        return self.take("text").replace('""', '"')

    def number(self) -> float:
        return float(self.take("number"))

    def count(self) -> int:
        if self.next_is("number") and not self._rest[-1].group().isdecimal():
            raise self.error(f"expected a count, found {self._rest[-1].group()}")
        return int(self.take("number"))

    def error(self, what: str) -> MIError:
        """An error at the next token."""
        line = self._text.count("\n", 0, self._rest[-1].start() if self._rest else None) + 1
        return MIError(f"TextGrid {self._path}, line {line}: {what}. Is the file complete?")


def _read_tiers(path: Path) -> list[tuple[str, list[Interval] | None]]:
    """Every tier's name and intervals (None for a point tier)."""
    tokens = _Tokens(path)
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
    if tokens.next_is("flag") and tokens.take("flag") == "absent":
        return []
    return [_read_tier(tokens) for _ in range(tokens.count())]


def _read_tier(tokens: _Tokens) -> tuple[str, list[Interval] | None]:
    kind, name = tokens.text(), tokens.text()
    tokens.number(), tokens.number()
    if kind == "IntervalTier":
        return name, [Interval(tokens.number(), tokens.number(), tokens.text()) for _ in range(tokens.count())]
    if kind == "TextTier":
        for _ in range(tokens.count()):
            tokens.number(), tokens.text()
        return name, None
    raise tokens.error(f"expected an IntervalTier or a TextTier, found {kind!r}")


def format_textgrid(tiers: Mapping[str, Sequence[Interval]], duration: Seconds) -> str:
    """The text of a Praat TextGrid in its long form.

    Args:
        tiers: name -> intervals without gaps, from 0 to `duration`; labels without quotes.
        duration: of the audio.
    """
    header = f'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\nxmax = {duration:.6f}'
    lines = [header, "tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, intervals) in enumerate(tiers.items(), 1):
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"']
        lines += ["        xmin = 0", f"        xmax = {duration:.6f}"]
        lines += [f"        intervals: size = {len(intervals)}"]
        for place, interval in enumerate(intervals, 1):
            lines += [f"        intervals [{place}]:", f"            xmin = {interval.start:.6f}"]
            lines += [f"            xmax = {interval.end:.6f}", f'            text = "{interval.label}"']
    return "\n".join(lines) + "\n"
