"""How numbers and names are written, the same in tables, logs and pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..core.types import Bits
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


def seeds_text(summaries: Sequence[Summary]) -> str:
    """Over how many seeds a table is."""
    low, high = min(s.n_seeds for s in summaries), max(s.n_seeds for s in summaries)
    if high == 1:
        return "one seed"
    return f"mean +- sd over {high} seeds" if low == high else f"mean +- sd over {low} to {high} seeds"


def distinguish(panels: Iterable[Panel], leave: Sequence[str] = ()) -> dict[Panel, str]:
    """Name panels by those of their fields that differ among them (an empty name for a single panel)."""
    panels = list(panels)
    texts = {
        panel: {
            "task": panel.task,
            "upstream": panel.upstream,
            "checkpoint_name": panel.checkpoint_name or "",
            "upstream_sha256": f"weights {panel.upstream_sha256[:8]}",
            "protocol": panel.protocol,
            "view": panel.view or "",
            "scored_frames": f"{panel.scored_frames} frames",
            "n_clusters": f"{panel.n_clusters} clusters",
            "fit_splits": "fit " + "+".join(panel.fit_splits),
            "eval_splits": "+".join(panel.eval_splits),
            "frame_shift_ms": f"every {panel.frame_shift_ms:g} ms",
        }
        for panel in panels
    }
    names = [n for n in next(iter(texts.values()), {}) if n not in leave]
    varying = [n for n in names if len({t[n] for t in texts.values()}) > 1]
    if "upstream" in varying or "checkpoint_name" in varying:
        varying = [n for n in varying if n != "upstream_sha256"]
    return {panel: ", ".join(filter(None, (texts[panel][n] for n in varying))) for panel in panels}
