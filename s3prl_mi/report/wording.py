"""How bits, seeds and names are written, the same in tables, logs and figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..core.types import Bits
from ..core.words import span
from ..results.summary import Panel, Summary

BOUND = {"mi_supervised": "I(Z;Y)", "mi_views": "I(Za;Zb)"}
BOUND_TEX = {"mi_supervised": r"$I(Z;\,Y)$", "mi_views": r"$I(Z_a;\,Z_b)$"}
CEILING = {"mi_supervised": "H(Y)", "mi_views": "H(c)"}


def decimals(sds: Iterable[float]) -> int:
    """Decimals for a column of bits, by the largest standard deviation in it: 3, unless that misleads.

    Example:
        >>> decimals([0.0]), decimals([0.002, 0.011]), decimals([0.0002]), decimals([0.3])
        (3, 3, 4, 2)
    """
    largest = max(sds, default=0.0)
    if largest >= 0.1:
        return 2
    return 4 if 0 < largest < 0.0005 else 3


def format_bits(mean: Bits, sd: Bits, n_seeds: int, places: int) -> str:
    """A mean with its standard deviation; the mean alone for a single seed.

    Example:
        >>> format_bits(1.23449, 0.0021, 5, 3), format_bits(-0.0004, 0.0, 1, 3)
        ('1.234 +- 0.002', '-0.000')
    """
    return f"{mean:.{places}f}" + (f" +- {sd:.{places}f}" if n_seeds > 1 else "")


def seeds_text(summaries: Sequence[Summary], sign: str = "+-") -> str:
    """Over how many seeds a table or a figure is."""
    low, high = min(s.n_seeds for s in summaries), max(s.n_seeds for s in summaries)
    return "one seed" if high == 1 else f"mean {sign} sd over {span(low, high)} seeds"


def frames_note(group: Sequence[Summary]) -> str:
    """A sentence of warning where models were scored on different amounts of speech; else nothing."""
    low, high = min(s.eval_frames for s in group), max(s.eval_frames for s in group)
    if high <= 1.02 * low:
        return ""
    return f" Beware: not all were scored on the same speech ({span(low, high)} frames)."


def distinguish(panels: Iterable[Panel], leave: Sequence[str] = ()) -> dict[Panel, str]:
    """Name panels by what differs among them (an empty name for a single panel).

    Args:
        panels: in any order.
        leave: parts of `comparability.PARTS` that are named elsewhere.
    """
    texts = {
        panel: {
            "task": panel.key.task,
            "upstream": panel.upstream,
            "checkpoint": panel.checkpoint_name or "",
            "model": f"weights {panel.upstream_sha256[:8]}",
            **panel.key.in_words(),
            "eval_split": "+".join(panel.key.eval_splits),
        }
        for panel in panels
    }
    names = [n for n in dict.fromkeys(n for t in texts.values() for n in t) if n not in leave]
    varying = [n for n in names if len({t.get(n, "") for t in texts.values()}) > 1]
    if "upstream" in varying or "checkpoint" in varying:
        varying = [n for n in varying if n != "model"]
    return {panel: ", ".join(filter(None, (t.get(n, "") for n in varying))) for panel, t in texts.items()}
