"""The picture `mi_layers.png` of one experiment: bits by layer."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.config import TASKS
from ...core.words import span
from ...results.record import Record
from ...results.speaker_sums import SpeakerRecord
from ...results.summary import Panel, Summary, by_panel, rank_in, required, worth_marking
from ..wording import BOUND_TEX, CEILING, decimals, distinguish, interval_text, seeds_text
from .layer_curves import KEPT_TEX, plot_kept, several_labels
from .picture import (
    MARKERS,
    bits_axis,
    dress,
    layer_axis,
    layer_curve,
    layer_places,
    layer_word,
    plain,
    probe_colours,
    ring,
    save_png,
    sheet,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE_FILE = "mi_layers.png"

_LINES = ("-", "-.", ":", (0, (5, 1, 1, 1)))
_CEILINGS = (("0.45", "--"), ("0.6", (0, (2, 2))), ("0.3", (0, (8, 2, 2, 2))))

_FAR = 1.6
"""A ceiling higher than so many times the highest estimate is stated instead of drawn."""


def draw_layers(path_png: Path, records: Iterable[Record], speakers: Iterable[SpeakerRecord] = ()) -> None:
    """Draw `mi_layers.png`: bits by layer, a line per probe and kind of frames, error bars of one sd
    over seeds, a light band of the 95 % interval over the speakers scored.

    The best layer of each line is ringed. The ceiling H(Y) or H(c) is drawn dashed where it is near, else
    stated in the legend. A single layer, or `weighted`, is drawn as points. Estimates that are not comparable
    (mask patterns, shifts, numbers of clusters, labels, frame rates) have plots of their own; several sets of labels
    stand in one more, as fractions of their entropy.

    Args:
        path_png: where to write (1280 x 840 pixels per plot, at most three in a row).
        records: of one experiment.
        speakers: of the records, for the intervals.

    Raises:
        MIError: no record.
    """
    groups: dict[tuple[Any, ...], list[Summary]] = {}
    for s in sorted(required(records, speakers), key=lambda s: rank_in(s.task, TASKS)):
        groups.setdefault((s.task, s.view, s.n_clusters, s.label_set, s.frame_shift_ms), []).append(s)
    kept = several_labels([s for group in groups.values() for s in group])
    plots = len(groups) + bool(kept)
    columns = min(3, plots)
    rows = math.ceil(plots / columns)
    with sheet(6.4 * columns, 4.2 * rows) as figure:
        parts = figure.subfigures(rows, columns, squeeze=False).flat
        for group, part in zip(groups.values(), parts, strict=False):
            axes = part.subplots()
            plot_layers(axes, group)
            _legend(part, axes)
        if kept:
            part = next(iter(parts))
            axes = part.subplots()
            plot_kept(axes, kept)
            dress(axes, "layer (index into the upstream's hidden states)", KEPT_TEX)
            axes.set_title("what each layer keeps", loc="left", fontweight="bold")
            _legend(part, axes)
        save_png(figure, path_png)


def _legend(part: Any, axes: Axes) -> None:
    """The estimates first, the intervals and ceilings after them; below the plot, where no curve can run."""
    entries = list(zip(*axes.get_legend_handles_labels(), strict=True))
    entries.sort(key=lambda entry: entry[1].startswith(("95 %", "ceiling")))
    lengths = [len(label) for _, label in entries]
    in_one_row = len(entries) < 4 and sum(lengths) < 85
    columns = len(entries) if in_one_row else 2 if max(lengths) < 60 else 1
    part.legend(*zip(*entries, strict=True), fontsize=8, loc="outside lower center", ncols=columns, columnspacing=1.5)


def plot_layers(axes: Axes, summaries: Sequence[Summary]) -> None:
    """One plot: the estimates of one task, view, number of clusters and frame rate."""
    panels, places, colours = by_panel(summaries), layer_places(summaries), probe_colours(summaries)
    names, several = distinguish(panels), len(places) > 1
    lines = [[s for s in summaries if (s.panel, s.probe) == key] for key in {(s.panel, s.probe): 0 for s in summaries}]
    for n, line in enumerate(lines):
        first = line[0]
        i, colour = list(panels).index(first.panel), colours[first.probe]
        # Of a single layer, points next to each other.
        offset = 0.0 if several else (n - (len(lines) - 1) / 2) * min(0.25, 0.9 / len(lines))
        at = {layer: x + offset for layer, x in places.items()}
        layer_curve(
            axes, line, at, ", ".join(filter(None, (first.probe, names[first.panel]))),
            _LINES[i % len(_LINES)] if several else "none", over="seeds",
            marker=MARKERS[i % len(MARKERS)], color=colour, markersize=4.5 if several else 6,
        )  # fmt: skip
        _intervals(axes, line, at, colour, interval_text(summaries) if n == 0 else None)
        if not several:
            _write(axes, at[first.layer], first, _bits(first, summaries), colour)
    best = sorted(worth_marking(summaries), key=lambda s: -s.mi_lower_bound_bits)
    for rank, s in enumerate(best):
        ring(axes, places[s.layer], s, colours[s.probe])
        if len(best) <= 2:  # above the first, below the second
            text = f"{layer_word(s.layer)}: {_bits(s, summaries)}"
            _write(axes, places[s.layer], s, text, colours[s.probe], below=rank > 0)
    layer_axis(axes, places)
    highest = _ceilings(axes, panels, names, places)
    bits_axis([axes], summaries, highest, headroom=0.12, from_zero=not several)
    what = summaries[0].task
    dress(axes, "layer (index into the upstream's hidden states)", f"lower bound of {BOUND_TEX[what]} (bits)")
    _titles(axes, summaries)


def _intervals(
    axes: Axes, line: Sequence[Summary], at: Mapping[int | str, float], colour: str, label: str | None
) -> None:
    """95 % intervals over speakers: a band over numbered layers, a bar where there is one or a weighted sum."""
    for kind in (int, str):
        own = [s for s in line if isinstance(s.layer, kind)]
        ends = [(at[s.layer], *s.interval) for s in own if s.interval]
        x, low, high = np.array(ends, dtype=np.float64).reshape(-1, 3).T
        if len(ends) > 1 and kind is int:
            axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0, zorder=0, label=label)
        elif ends:
            axes.vlines(x, low, high, color=colour, alpha=0.25, linewidth=5, zorder=0, label=label or "_")
        label = None if ends else label  # once in the legend


def _bits(s: Summary, among: Sequence[Summary]) -> str:
    return f"{s.mi_lower_bound_bits:.{decimals(t.mi_lower_bound_bits_sd for t in among)}f}"


def _write(axes: Axes, x: float, s: Summary, text: str, colour: str, below: bool = False) -> None:
    """A value next to its point, clear of its error bar and readable where a curve runs under it."""
    from matplotlib.patheffects import withStroke

    side = -1 if below else 1
    axes.annotate(
        text, (x, s.mi_lower_bound_bits + side * s.mi_lower_bound_bits_sd), xytext=(0, 8 * side),
        textcoords="offset points", ha="center", va="top" if below else "bottom", color=colour, fontsize=8.5,
        path_effects=[withStroke(linewidth=2, foreground="white")],
    )  # fmt: skip


def _ceilings(
    axes: Axes, panels: dict[Panel, list[Summary]], names: dict[Panel, str], places: dict[int | str, float]
) -> float:
    """Dashed ceilings where they are near the estimates, otherwise a note in the legend; returns the highest drawn.

    Ceilings that nobody could tell apart in the picture are drawn once.
    """
    top = max(s.mi_lower_bound_bits for group in panels.values() for s in group)
    found: list[tuple[Panel, float, float]] = []
    for panel, group in panels.items():
        low, high = min(s.entropy_bits for s in group), max(s.entropy_bits for s in group)
        if all(abs(low - other[1]) + abs(high - other[2]) > 0.05 for other in found):
            found.append((panel, low, high))
    highest = 0.0
    for i, (panel, low, high) in enumerate(found):
        colour, dashes = _CEILINGS[i % len(_CEILINGS)]
        label = f"ceiling {CEILING[panel.key.task]} = {span(low, high, '.2f')} bits"
        label += f" ({names[panel]})" if len(found) > 1 and names[panel] else ""
        if high > _FAR * max(top, 0.0):
            axes.plot([], [], color="none", label=f"{label}, above this plot")
            continue
        highest = max(highest, high)
        curve = sorted({places[s.layer]: s.entropy_bits for s in panels[panel]}.items())
        if len(curve) == 1 or high - low < 0.01:
            axes.axhline(high, color=colour, linestyle=dashes, linewidth=1.0, label=label)
        else:
            axes.plot(*zip(*curve, strict=True), color=colour, linestyle=dashes, linewidth=1.0, label=label)
    return highest


def _titles(axes: Axes, summaries: Sequence[Summary]) -> None:
    """What is measured; below it on which frames and splits, by which protocol, over how many seeds."""
    first = summaries[0]
    upstreams = dict.fromkeys(f"{s.upstream} ({s.checkpoint_name})".removesuffix(" (None)") for s in summaries)
    of = f", {first.key.labels}" if first.key.labels not in ("", "phones") else ""
    title = textwrap.shorten(f"{first.task}{of} by layer: {' / '.join(upstreams)}", 72, placeholder=" …")
    axes.set_title(plain(title), loc="left", fontweight="bold", pad=28)
    frames = "/".join(dict.fromkeys(s.scored_frames for s in summaries))
    what = f"{first.view}; {frames} frames" if first.view else first.label_set or f"{first.n_classes} labels"
    what += f"; {first.n_clusters} clusters" if first.n_clusters else ""
    splits = f"fit {'+'.join(first.fit_splits)}, eval {'+'.join(first.eval_splits)}"
    how = f"{splits}; protocol {first.protocol}; {seeds_text(summaries, '±')}"
    lines = (f"{what}; one frame every {first.frame_shift_ms:g} ms", how)
    axes.annotate(
        plain("\n".join(textwrap.shorten(line, 100, placeholder=" …") for line in lines)),
        (0, 1), xytext=(0, 5), xycoords="axes fraction", textcoords="offset points",
        fontsize=8, color="0.35", va="bottom", linespacing=1.25,
    ).set_in_layout(False)  # fmt: skip  # a long one is cut at the edge rather than squeezing the plot
