"""Bits against a score of a downstream task, a named point for each model."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..wording import BOUND, BOUND_TEX
from .picture import Picture, dress, finish, look, plain, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True)
class Point:
    """One model in a scatter plot."""

    name: str
    bits: float
    low: float
    """Ends of the interval of the bits over speakers; the bits themselves where there is none."""
    high: float
    score: float
    number: int
    """Position of the model, for its colour and marker."""


def score_scatter(
    task: str,
    plots: Mapping[tuple[str, str], Sequence[Point]],
    notes: Mapping[tuple[str, str], str],
    setting: str,
    number: int,
) -> Picture:
    """Scatter plots of comparable bits: a row for each probe, a column for each score.

    Args:
        task: `mi_supervised` or `mi_views`.
        plots: points by (probe, score in words: `PER (%)`).
        notes: by the same key, what the correlation is; written above the plot.
        setting: what all points share, in words.
        number: for the file's name.
    """
    probes = list(dict.fromkeys(p for p, _ in plots))
    scores = list(dict.fromkeys(s for _, s in plots))
    with sheet(4.6 * len(scores) + 0.2, 3.7 * len(probes) + 0.2) as figure:
        grid = figure.subplots(len(probes), len(scores), squeeze=False)
        for axes, key in zip(grid.flat, itertools.product(probes, scores), strict=True):
            shown = plots.get(key, ())
            if not shown:
                axes.set_axis_off()
                continue
            for p in shown:
                axes.errorbar(
                    p.bits, p.score, xerr=[[p.bits - p.low], [p.high - p.bits]] if p.high > p.low else None,
                    linestyle="none", markersize=5.5, elinewidth=0.9,
                    capsize=2, gid=p.name, **look(p.number),
                )  # fmt: skip
            axes.margins(0.16, 0.12)
            note = f"; {notes[key]}" if key in notes else ""
            dress(axes, f"{BOUND_TEX[task]}, bits", key[1], f"{key[0]} probe, n = {len(shown)}{note}")
        figure.draw_without_rendering()
        for axes, key in zip(grid.flat, itertools.product(probes, scores), strict=True):
            place_names(axes, plots.get(key, ()))
        what = " and ".join(s.split(" ")[0] for s in scores)
        return finish(
            figure,
            f"scatter_{task}_{number}",
            f"{BOUND[task]} against {what}",
            f"Each point is one model: its bits at its best layer ({setting}) against its {what} in the SUPERB task, "
            "where lower is better. Bars: 95 % interval over the speakers scored; differences between models, paired "
            "by speaker, are tighter. If points fall from upper left to lower right, more bits go with fewer errors.",
            f"Scatter plot of {BOUND[task]} against {what} with the name of each model.",
        )


_SPOTS: tuple[tuple[int, int, str, str], ...] = (
    (7, 0, "left", "center"), (-7, 0, "right", "center"), (0, 6, "center", "bottom"), (0, -6, "center", "top"),
    (5, 7, "left", "bottom"), (-5, 7, "right", "bottom"), (5, -7, "left", "top"), (-5, -7, "right", "top"),
    (14, 16, "left", "bottom"), (-14, 16, "right", "bottom"), (14, -16, "left", "top"), (-14, -16, "right", "top"),
    (0, 24, "center", "bottom"), (0, -24, "center", "top"),
)  # fmt: skip
"""Offset of a name from its point in points, and the corner of the name that stands there; the nearest first."""


def place_names(axes: Axes, points: Sequence[Point], size: float = 7.5) -> None:
    """Write each point's name where it covers least of other names, points and the frame; call after a layout.

    Greedy over 14 places around the point, the nearest first; a thin line leads to names further away.
    """
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    renderer: Any = axes.figure.canvas.get_renderer()  # type: ignore[attr-defined]  # that of Agg
    pixel = axes.figure.dpi / 72
    taken = []
    for p in points:
        (left, y), (x, _), (right, _) = axes.transData.transform([(x, p.score) for x in (p.low, p.bits, p.high)])
        taken.append(Bbox.from_extents(x, y, x, y).padded(5 * pixel))
        taken.append(Bbox.from_extents(left, y - pixel, right, y + pixel))  # error bar
    frame = axes.get_window_extent().padded(-2)
    for p in points:
        tried: list[tuple[float, Any, Bbox]] = []
        for rank, (dx, dy, ha, va) in enumerate(_SPOTS):
            text = axes.annotate(
                plain(p.name), (p.bits, p.score), xytext=(dx, dy), textcoords="offset points",
                fontsize=size, ha=ha, va=va, color="0.15",
                arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.5} if rank > 7 else None,
            )  # fmt: skip
            text.set_in_layout(False)
            text.update_positions(renderer)
            box = Text.get_window_extent(text, renderer)  # the words without their line
            shared = [found for other in taken if (found := Bbox.intersection(box, other))]
            outside = not (frame.contains(*box.min) and frame.contains(*box.max))
            cost = sum(s.width * s.height for s in shared) + 0.2 * rank + 1e5 * outside
            tried.append((cost, text, box))
        best = min(tried, key=lambda spot: spot[0])
        for spot in tried:
            if spot is not best:
                spot[1].remove()
        taken.append(best[2])
