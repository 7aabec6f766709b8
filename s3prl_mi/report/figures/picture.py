"""A finished figure: PNG and PDF for papers, SVG for the page, with the words that belong to it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.files import write_whole
from .. import Summary
from ..canvas import Canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
"""Okabe and Ito's palette without its yellow, which is lost on white, and with a grey."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
MOST_CURVES = 8
"""In one plot; more are split over several."""

_DPI = 200
# Text as paths: looks the same everywhere. A fixed salt: the same bytes each time.
_RC = {"svg.fonttype": "path", "svg.hashsalt": "s3prl_mi", "pdf.fonttype": 42}


@dataclass(frozen=True, slots=True)
class Picture:
    """One figure with its words.

    Attributes:
        name: file name without ending.
        title: heading on the page.
        caption: what it shows and how to read it.
        alt: the same for those who cannot see it.
        png: 200 dots an inch.
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
    """A figure of so many inches, with our settings, without pyplot."""
    import matplotlib

    with Canvas(width, height) as figure, matplotlib.rc_context(_RC):
        yield figure


def finish(figure: Figure, name: str, title: str, caption: str, alt: str) -> Picture:
    """Render a figure in all formats; inside `sheet`."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once for all formats
    files = {}
    for kind, metadata in (
        ("png", {"Software": None}),
        ("pdf", {"CreationDate": None, "Producer": None, "Creator": None}),
        ("svg", {"Date": None, "Creator": None, "Format": None, "Type": None}),
    ):
        content = io.BytesIO()
        figure.savefig(content, format=kind, dpi=_DPI, metadata=metadata)
        files[kind] = content.getvalue()
    return Picture(name, title, caption, alt, **files)


def look(number: int) -> dict[str, Any]:
    """Colour and marker of the n-th model."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[(number + number // len(COLOURS)) % len(MARKERS)],
    }


def chunks(items: Sequence[Any], size: int = MOST_CURVES) -> list[list[Any]]:
    """Cut into parts of at most `size`, of about equal length.

    Example:
        >>> chunks([1, 2, 3, 4, 5], 4)
        [[1, 2, 3], [4, 5]]
    """
    parts = -(-len(items) // size)
    length = -(-len(items) // parts) if parts else 1
    return [list(items[i : i + length]) for i in range(0, len(items), length)]


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions apart until neighbours are `gap` apart, as near to where they belong as a few passes find.

    Example:
        >>> spread([1.0, 1.0], 0.5, 0.0, 2.0)
        [0.75, 1.25]
        >>> spread([0.0, 3.0], 0.5, 0.0, 3.0)
        [0.0, 3.0]
    """
    if len(wanted) > 1:
        gap = min(gap, (high - low) / (len(wanted) - 1))
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[tuple[float, list[int]]] = []  # (centre, members), each block `gap` apart inside
    for i in order:
        blocks.append((min(max(wanted[i], low), high), [i]))
        while len(blocks) > 1 and _bottom(blocks[-1], gap) - _top(blocks[-2], gap) < gap - 1e-12:
            _, last = blocks.pop()
            _, before = blocks.pop()
            members = before + last
            half = gap * (len(members) - 1) / 2
            centre = sum(wanted[m] for m in members) / len(members)
            blocks.append((min(max(centre, low + half), high - half), members))
    placed = [0.0] * len(wanted)
    for block in blocks:
        for n, member in enumerate(block[1]):
            placed[member] = _bottom(block, gap) + n * gap
    return placed


def _bottom(block: tuple[float, list[int]], gap: float) -> float:
    return block[0] - gap * (len(block[1]) - 1) / 2


def _top(block: tuple[float, list[int]], gap: float) -> float:
    return block[0] + gap * (len(block[1]) - 1) / 2


def label_ends(axes: Axes, ends: Iterable[tuple[float, float, str, str]], size: float = 7.5) -> None:
    """Write the name of each curve beside its last point, moved apart where they would overlap.

    Call after the limits of the axes are final; leaves the names outside of the plot, on the right.

    Args:
        axes: of the curves.
        ends: (x, y, name, colour) of each.
        size: of the text in points.
    """
    ends = list(ends)
    low, high = axes.get_ylim()
    height = axes.get_window_extent().height / axes.figure.dpi * 72 or 200.0  # points
    gap = 1.25 * size / height * (high - low)
    places = spread([y for _, y, _, _ in ends], gap, low, high)
    right = axes.get_xlim()[1]
    for (x, y, name, colour), place in zip(ends, places, strict=True):
        axes.annotate(
            name.replace("$", r"\$"), (x, y), xytext=(right, place), textcoords=axes.transData, color=colour,
            fontsize=size, va="center", ha="left", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.6, "shrinkA": 0, "shrinkB": 2},
        )  # fmt: skip


def dress(axes: Axes, x: str, y: str, title: str = "") -> None:
    """Labels, a light grid, a title."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(axis="y", color="0.92", linewidth=0.8)
    if title:
        axes.set_title(title.replace("$", r"\$"), loc="left", fontsize=9.5)


def bits_axis(all_axes: Iterable[Axes], drawn: Iterable[Summary]) -> None:
    """Start at zero unless all values lie far above it; a line at zero where some lie below.

    Args:
        all_axes: plots that share their y axis.
        drawn: what they show, with its standard deviation.
    """
    drawn = list(drawn)
    low = min((s.mi_lower_bound_bits - s.mi_lower_bound_bits_sd for s in drawn), default=0.0)
    high = max((s.mi_lower_bound_bits + s.mi_lower_bound_bits_sd for s in drawn), default=1.0)
    bottom = 0.0 if 0 <= low < 0.6 * high else low - 0.1 * max(high - low, 1e-3)
    for axes in all_axes:
        if low < 0:
            axes.axhline(0, color="0.6", linewidth=0.8)
        axes.set_ylim(bottom, high + 0.08 * max(high - bottom, 1e-3))
