"""Bits against a score of a downstream task, a named point for each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..wording import BOUND, BOUND_TEX
from .picture import Picture, dress, finish, look, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True)
class Point:
    """One model in a scatter plot."""

    name: str
    bits: float
    bits_sd: float
    score: float
    number: int
    """Position of the model, for its colour and marker."""


def score_scatter(
    task: str,
    plots: Mapping[tuple[str, str], Sequence[Point]],
    notes: Mapping[tuple[str, str], str],
    scale: str,
    number: int,
) -> Picture:
    """Scatter plots of one scale: a row for each probe, a column for each score.

    Args:
        task: `mi_supervised` or `mi_views`.
        plots: points by (probe, score in words: `PER (%)`).
        notes: by the same key, what the correlation is; written above the plot.
        scale: in words.
        number: for the file's name.
    """
    probes = list(dict.fromkeys(p for p, _ in plots))
    scores = list(dict.fromkeys(s for _, s in plots))
    with sheet(4.6 * len(scores) + 0.2, 3.7 * len(probes) + 0.2) as figure:
        grid = figure.subplots(len(probes), len(scores), squeeze=False)
        for row, probe in zip(grid, probes, strict=True):
            for axes, score in zip(row, scores, strict=True):
                points = plots.get((probe, score), ())
                if not points:
                    axes.set_axis_off()
                    continue
                _points(axes, points)
                title = f"{probe} probe, n = {len(points)}"
                note = notes.get((probe, score))
                dress(axes, f"{BOUND_TEX[task]}, bits", score, f"{title}; {note}" if note else title)
        figure.draw_without_rendering()
        for row, probe in zip(grid, probes, strict=True):
            for axes, score in zip(row, scores, strict=True):
                place_names(axes, plots.get((probe, score), ()))
        words = [s.split(" ")[0] for s in scores]
        what = " and ".join(words)
        return finish(
            figure,
            f"scatter_{task}_{number}",
            f"{BOUND[task]} against {what}",
            f"Each point is one model: its bits at its best layer ({scale}) against its {what} in the SUPERB task, "
            "where lower is better. If points fall from upper left to lower right, more bits go with fewer errors.",
            f"Scatter plot of {BOUND[task]} against {what} with the name of each model.",
        )


def _points(axes: Axes, points: Sequence[Point]) -> None:
    for p in points:
        axes.errorbar(
            p.bits, p.score, xerr=p.bits_sd or None, linestyle="none", markersize=5.5, elinewidth=0.9, capsize=2,
            gid=p.name, **look(p.number),
        )  # fmt: skip
    axes.margins(0.16, 0.12)


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
    renderer: Any = axes.figure.canvas.get_renderer()  # type: ignore[attr-defined]  # that of Agg
    pixels = axes.figure.dpi / 72
    spots = [axes.transData.transform((p.bits, p.score)) for p in points]
    taken = [(x - 5 * pixels, y - 5 * pixels, x + 5 * pixels, y + 5 * pixels) for x, y in spots]
    for p, (_, y) in zip(points, spots, strict=True):  # error bars
        (left, _), (right, _) = axes.transData.transform(
            [(p.bits + side * p.bits_sd, p.score) for side in (-1, 1)]
        )
        taken.append((left, y - 3 * pixels, right, y + 3 * pixels))
    frame = axes.get_window_extent().padded(-2)
    for p in points:
        best, least = None, float("inf")
        for rank, (dx, dy, ha, va) in enumerate(_SPOTS):
            text = axes.annotate(
                p.name.replace("$", r"\$"), (p.bits, p.score), xytext=(dx, dy), textcoords="offset points",
                fontsize=size, ha=ha, va=va, color="0.15",
                arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.5} if rank > 7 else None,
            )  # fmt: skip
            text.set_in_layout(False)
            box = _text_box(text, renderer)
            outside = box[0] < frame.x0 or box[2] > frame.x1 or box[1] < frame.y0 or box[3] > frame.y1
            cost = sum(_overlap(box, other) for other in taken) + 0.2 * rank + 1e5 * outside
            if cost < least:
                if best is not None:
                    best.remove()
                best, least = text, cost
            else:
                text.remove()
        if best is not None:
            taken.append(_text_box(best, renderer))


def _text_box(text: Any, renderer: Any) -> tuple[float, float, float, float]:
    """Extent in pixels of an annotation's words, without its line."""
    from matplotlib.text import Text

    text.update_positions(renderer)
    box = Text.get_window_extent(text, renderer)
    return box.x0, box.y0, box.x1, box.y1


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """Shared area in pixels."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
