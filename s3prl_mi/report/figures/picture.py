"""What all figures share: size, fonts, colours, curves and axes; and a finished figure with its words."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from ...core.files import write_whole
from ...estimators.probes import PROBES
from ...results.summary import PROBE_ORDER, Summary, rank_in

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
"""Okabe and Ito's palette without its yellow, which is lost on white, and with a grey."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
MOST_CURVES = 8
"""In one plot; more are split over several."""

_DPI = 200
_RC = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "text.usetex": False,
    "savefig.bbox": None,  # "tight" of a user's matplotlibrc would change the size
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    # Text as paths: looks the same everywhere. A fixed salt: the same bytes each time.
    "svg.fonttype": "path",
    "svg.hashsalt": "s3prl_mi",
    "pdf.fonttype": 42,
}
_NO_DATES: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
}


@dataclass(frozen=True, slots=True)
class Picture:
    """One figure with its words.

    Attributes:
        name: file name without ending.
        title: heading on the page.
        caption: what it shows and how to read it.
        alt: the same for those who cannot see it.
        png: 200 dots per inch.
        pdf: for LaTeX.
        svg: for the page.
    """

    name: str
    title: str
    caption: str
    alt: str
    png: bytes
    pdf: bytes
    svg: bytes

    def save(self, folder: Path) -> None:
        """Write `<name>.png` and `<name>.pdf`."""
        write_whole(folder / f"{self.name}.png", self.png)
        write_whole(folder / f"{self.name}.pdf", self.pdf)


@contextmanager
def sheet(width: float, height: float) -> Iterator[Figure]:
    """A figure of so many inches with our settings, without pyplot and hence without global state."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def finish(figure: Figure, name: str, title: str, caption: str, alt: str) -> Picture:
    """Render a figure in all formats; inside `sheet`."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once for all formats
    return Picture(name, title, caption, alt, **{kind: _render(figure, kind) for kind in _NO_DATES})


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure as PNG; inside `sheet`."""
    write_whole(path, _render(figure, "png"))


def _render(figure: Figure, kind: str) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format=kind, dpi=_DPI, metadata=_NO_DATES[kind])
    return content.getvalue()


# --- Names and looks --------------------------------------------------------------------------------------


def plain(text: str) -> str:
    """Keep matplotlib from reading names as mathematics."""
    return text.replace("$", r"\$")


def look(number: int) -> dict[str, Any]:
    """Colour and marker of the n-th model."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[(number + number // len(COLOURS)) % len(MARKERS)],
    }


def looks(names: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Colour and marker of every model: the same in all figures of a report."""
    return {model: look(i) for i, model in enumerate(names)}


def probes_in(summaries: Iterable[Summary]) -> list[str]:
    """The probes of some estimates, in the order of drawing."""
    return sorted({s.probe for s in summaries}, key=lambda p: rank_in(p, PROBE_ORDER))


def probe_colours(summaries: Iterable[Summary]) -> dict[str, str]:
    """The registry's colour of every probe; grey for one that it does not know."""
    return {p: PROBES[p].colour if p in PROBES else COLOURS[-1] for p in probes_in(summaries)}


def layer_word(layer: int | str) -> str:
    """`layer 3`, or the name of a weighted sum."""
    return f"layer {layer}" if isinstance(layer, int) else layer


def chunks(items: Sequence[Any], size: int = MOST_CURVES) -> list[list[Any]]:
    """Cut into parts of at most `size`, of about equal length.

    Example:
        >>> chunks([1, 2, 3, 4, 5], 4)
        [[1, 2, 3], [4, 5]]
    """
    parts = -(-len(items) // size)
    length = -(-len(items) // parts) if parts else 1
    return [list(items[i : i + length]) for i in range(0, len(items), length)]


# --- Curves and axes --------------------------------------------------------------------------------------


def points(
    axes: Axes,
    x: Sequence[float],
    summaries: Sequence[Summary],
    label: str | None = None,
    over: Literal["speakers", "seeds"] = "speakers",
    **style: Any,
) -> None:
    """Bits with error bars: 95 % intervals over speakers where all have them, else one standard deviation over seeds.

    Args:
        axes: of the plot.
        x: where each stands.
        summaries: what to draw.
        label: for the legend.
        over: `seeds`: deviations over seeds also where intervals are known (none where all have one seed).
        style: of the curve.
    """
    bits = [s.mi_lower_bound_bits for s in summaries]
    intervals = [s.interval for s in summaries if s.interval and over == "speakers"]
    bars: Any = [s.mi_lower_bound_bits_sd for s in summaries] if any(s.n_seeds > 1 for s in summaries) else None
    if len(intervals) == len(summaries):
        bars = [[b - low for b, (low, _) in zip(bits, intervals, strict=True)]]
        bars += [[high - b for b, (_, high) in zip(bits, intervals, strict=True)]]
        style |= {"capsize": 0, "ecolor": (style["color"], 0.45)} if "color" in style else {}
    axes.errorbar(
        x, bits, yerr=bars, label=label,
        **{"linewidth": 1.4, "markersize": 4.5, "capsize": 2, "elinewidth": 0.9, **style},
    )  # fmt: skip


def layer_places(summaries: Iterable[Summary]) -> dict[int | str, float]:
    """Where each layer stands on an axis: at its number, a weighted sum well behind the last."""
    layers = {s.layer for s in summaries}
    numbers = sorted(n for n in layers if isinstance(n, int))
    places: dict[int | str, float] = {n: float(n) for n in numbers}
    behind = numbers[-1] + max(1.0, 0.08 * (numbers[-1] - numbers[0])) + 0.5 if numbers else 0.0
    places.update((name, behind + i) for i, name in enumerate(sorted(n for n in layers if isinstance(n, str))))
    return places


def layer_axis(axes: Axes, places: Mapping[int | str, float]) -> None:
    """A tick per layer (every second or fourth one where there are many), and some room at both ends."""
    step = 1 if len(places) <= 16 else 2 if len(places) <= 34 else 4
    kept = {x: str(name) for name, x in places.items() if isinstance(name, str) or name % step == 0}
    axes.set_xticks(list(kept), list(kept.values()))
    low, high = min(places.values()), max(places.values())
    room = 0.04 * (high - low) + (0.35 if high > low else 0.6)
    axes.set_xlim(low - room, high + room)


def layer_curve(
    axes: Axes,
    summaries: Sequence[Summary],
    places: Mapping[int | str, float],
    label: str | None = None,
    linestyle: Any = "-",
    **style: Any,
) -> None:
    """Numbered layers as a line, a weighted sum as a point of its own; `style` as in `points`."""
    for kind, line in ((int, linestyle), (str, "none")):
        part = [s for s in summaries if isinstance(s.layer, kind)]
        if part:
            points(axes, [places[s.layer] for s in part], part, label, linestyle=line, **style)
            label = None  # once in the legend


def ring(axes: Axes, x: float, summary: Summary, colour: str) -> None:
    """Mark the best layer of a curve."""
    y = summary.mi_lower_bound_bits
    axes.plot(x, y, marker="o", markersize=10, fillstyle="none", color=colour, linestyle="none")


def dress(axes: Axes, x: str, y: str, title: str = "") -> None:
    """Labels, a light grid, a title."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(axis="y", color="0.92", linewidth=0.8)
    if title:
        axes.set_title(plain(title), loc="left", fontsize=9.5)


def bits_axis(
    all_axes: Iterable[Axes],
    drawn: Iterable[Summary],
    ceiling: float = 0.0,
    headroom: float = 0.08,
    from_zero: bool = False,
) -> None:
    """Start at zero unless all values lie far above it; a line at zero where some lie below.

    Args:
        all_axes: plots that share their y axis.
        drawn: what they show, with intervals and standard deviations.
        ceiling: drawn there as well, in bits.
        headroom: above the highest, as a fraction of the height.
        from_zero: start at zero wherever the values lie (unless below).
    """
    drawn = list(drawn)
    ends = [end for s in drawn for end in s.interval or ()]
    low = min([s.mi_lower_bound_bits - s.mi_lower_bound_bits_sd for s in drawn] + ends, default=0.0)
    high = max([s.mi_lower_bound_bits + s.mi_lower_bound_bits_sd for s in drawn] + ends, default=1.0)
    bottom = 0.0 if low >= 0 and (from_zero or low < 0.6 * high) else low - 0.1 * max(high - low, 1e-3)
    top = high + headroom * max(high - bottom, 1e-3)
    for axes in all_axes:
        if low < 0:
            axes.axhline(0, color="0.6", linewidth=0.8)
        axes.set_ylim(bottom, max(top, ceiling + 0.04 * (ceiling - bottom)))


def legend_below(figure: Figure, columns: int | None = None) -> None:
    """One legend for all plots of a figure, each entry once."""
    handles = {t: h for a in figure.axes for h, t in zip(*a.get_legend_handles_labels(), strict=True)}
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=columns or len(handles), fontsize=8.5
    )


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions apart until neighbours are `gap` apart, in order and as near to where they belong as can be.

    Least squares under these constraints: isotonic regression of the positions less the gaps before them.

    Example:
        >>> spread([1.0, 1.0], 0.5, 0.0, 2.0)
        [0.75, 1.25]
        >>> spread([0.0, 3.0], 0.5, 0.0, 3.0)
        [0.0, 3.0]
    """
    from sklearn.isotonic import isotonic_regression

    steps = min(gap, (high - low) / max(1, len(wanted) - 1)) * np.arange(len(wanted))
    order = np.argsort(wanted, kind="stable")
    placed = np.empty(len(wanted))
    placed[order] = steps + isotonic_regression(np.asarray(wanted)[order] - steps, y_min=low, y_max=high - steps[-1])
    return [float(y) for y in placed]


End: TypeAlias = tuple[float, float, str, str]
"""Where a curve ends (x, y), its name and its colour."""


def label_ends(figure: Figure, ends: Mapping[Axes, Sequence[End]], size: float = 7.5) -> None:
    """Write the name of each curve next to its last point, moved apart where they would overlap.

    Call when the limits of the axes are final; the names stand outside of the plots, on the right.

    Args:
        figure: of the axes; it is laid out here.
        ends: of the curves in each plot.
        size: of the text in points.
    """
    figure.draw_without_rendering()  # so that the height of the plots is known
    for axes, own in ends.items():
        low, high = axes.get_ylim()
        height = axes.get_window_extent().height / axes.figure.dpi * 72 or 200.0  # points
        places = spread([y for _, y, _, _ in own], 1.25 * size / height * (high - low), low, high) if own else []
        for (x, y, name, colour), place in zip(own, places, strict=True):
            line = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.6, "shrinkA": 0, "shrinkB": 2}
            axes.annotate(
                plain(name), (x, y), xytext=(axes.get_xlim()[1], place), textcoords=axes.transData, color=colour,
                fontsize=size, va="center", ha="left", annotation_clip=False, arrowprops=line,
            )  # fmt: skip
