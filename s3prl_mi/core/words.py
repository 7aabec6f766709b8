"""How numbers, durations and tables are written for a person: one way in messages, tables, logs and pictures."""

from __future__ import annotations

from collections.abc import Sequence

from .types import Seconds


def duration(seconds: Seconds) -> str:
    """A duration.

    Example:
        >>> duration(0.2), duration(45), duration(200), duration(9000)
        ('1 s', '45 s', '3 min', '2.5 h')
    """
    if seconds < 60:
        return f"{max(1, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def count(number: int, what: str) -> str:
    """A number with its noun.

    Example:
        >>> count(1, "layer"), count(2000, "kind of frames")
        ('1 layer', '2,000 kinds of frames')
    """
    head, of, tail = what.partition(" of ")
    return f"{number:,} {what if number == 1 else f'{head}s{of}{tail}'}"


def span(low: float, high: float, form: str = ",") -> str:
    """One number, or the two ends of a range where they differ as written.

    Example:
        >>> span(5, 5), span(100, 5000), span(5.251, 5.254, ".2f")
        ('5', '100 to 5,000', '5.25')
    """
    return " to ".join(dict.fromkeys((format(low, form), format(high, form))))


def columns(rows: Sequence[Sequence[str]], left: int = 0) -> str:
    """Rows of equal length in aligned columns; the first row is the head, with a rule under it.

    Args:
        rows: the head, then the rest.
        left: how many columns, from the first, are words and start at the left; numbers end at the right.

    Example:
        >>> print(columns([["layer", "bits"], ["0", "1.25"]], left=1))
        layer  bits
        -----  ----
        0      1.25
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(line.rstrip() for line in lines)
