"""The picture `mi_layers.png` of one experiment: bits by layer."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.config import TASKS
from ..results.record import Record
from ..results.summary import Panel, Summary, by_panel, rank_in, required, worth_marking
from .canvas import Canvas, colours_of, plain, save
from .wording import BOUND_TEX, CEILING, decimals, distinguish, seeds_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE_FILE = "mi_layers.png"

_STYLES = (("o", "-"), ("s", "-."), ("^", ":"), ("D", (0, (5, 1, 1, 1))), ("v", "-"), ("P", "-."))

_CEILING_DASHES = ("--", (0, (2, 2)), (0, (8, 2, 2, 2)), (0, (8, 2, 2, 2, 2, 2)))

_FAR = 1.6
"""A ceiling higher than so many times the highest estimate is stated instead of drawn."""


def draw_layers(path_png: Path, records: Iterable[Record]) -> None:
    """Draw `mi_layers.png`: bits by layer, a line per probe and kind of frames, error bars of one sd.

    The best layer of each line is ringed. The ceiling H(Y) or H(c) is drawn dashed where it is near, else
    stated in the legend. A single layer, or `weighted`, is drawn as points. Estimates that are not on one scale
    (mask patterns, shifts, numbers of clusters, frame rates) have plots of their own.

    Args:
        path_png: where to write (1280 x 840 pixels per plot, at most three in a row).
        records: of one experiment.

    Raises:
        MIError: no record.
    """
    summaries = required(records)
    tasks = sorted({s.task for s in summaries}, key=lambda t: rank_in(t, TASKS))
    groups = [group for task in tasks for group in _scales([s for s in summaries if s.task == task])]
    columns = min(3, len(groups))
    rows = math.ceil(len(groups) / columns)
    with Canvas(6.4 * columns, 4.2 * rows) as figure:
        parts = [part for row in figure.subfigures(rows, columns, squeeze=False) for part in row]
        for part, group in zip(parts, groups, strict=False):
            axes = part.subplots()
            _draw_task(axes, group)
            _legend(part, axes)
        save(figure, path_png)


def _scales(summaries: list[Summary]) -> list[list[Summary]]:
    """The estimates of one task by what must not share an axis."""
    groups: dict[tuple[str | None, int | None, float], list[Summary]] = {}
    for s in summaries:
        groups.setdefault((s.view, s.n_clusters, s.frame_shift_ms), []).append(s)
    return list(groups.values())


def _legend(part: Any, axes: Axes) -> None:
    """The estimates first, the ceilings after them; below the plot, where no curve can run."""
    entries = list(zip(*axes.get_legend_handles_labels(), strict=True))
    entries.sort(key=lambda entry: entry[1].startswith("ceiling"))
    columns = min(3, len(entries)) if len(entries) < 4 else 2 if max(len(e[1]) for e in entries) < 60 else 1
    handles, labels = [h for h, _ in entries], [name for _, name in entries]
    part.legend(handles, labels, fontsize=8, loc="outside lower center", ncols=columns, columnspacing=1.5)


def _draw_task(axes: Axes, summaries: list[Summary]) -> None:
    panels = by_panel(summaries)
    names = distinguish(panels)
    place = _places(summaries)
    colours = colours_of(summaries)
    if len(place) == 1:
        _draw_points(axes, summaries, names, colours)
    else:
        for number, (panel, group) in enumerate(panels.items()):
            for probe in dict.fromkeys(s.probe for s in group):
                line = [s for s in group if s.probe == probe]
                label = ", ".join(filter(None, (probe, names[panel])))
                _draw_line(axes, line, place, colours[probe], _STYLES[number % len(_STYLES)], label)
        _mark_best(axes, summaries, place, colours)
    _draw_ceilings(axes, panels, names, place)
    _dress(axes, summaries, place)


def _places(summaries: list[Summary]) -> dict[int | str, float]:
    """Where each layer stands on the x axis: at its number, a weighted sum one and a half places behind."""
    numbers = sorted({s.layer for s in summaries if isinstance(s.layer, int)})
    place: dict[int | str, float] = {n: float(n) for n in numbers}
    behind = numbers[-1] + max(1.0, 0.08 * (numbers[-1] - numbers[0])) + 0.5 if numbers else 0.0
    for i, name in enumerate(sorted({s.layer for s in summaries if isinstance(s.layer, str)})):
        place[name] = behind + i
    return place


def _draw_line(
    axes: Axes,
    line: list[Summary],
    place: dict[int | str, float],
    colour: str,
    style: tuple[str, Any],
    label: str,
) -> None:
    """Numbered layers as a line, a weighted sum as a point of its own, with error bars where seeds allow."""
    numbered = [s for s in line if isinstance(s.layer, int)]
    for part in (numbered, [s for s in line if isinstance(s.layer, str)]):
        if not part:
            continue
        errors = [s.mi_lower_bound_bits_sd for s in part]
        axes.errorbar(
            [place[s.layer] for s in part],
            [s.mi_lower_bound_bits for s in part],
            yerr=errors if any(s.n_seeds > 1 for s in part) else None,
            color=colour,
            marker=style[0],
            markersize=4.5,
            linewidth=1.5,
            linestyle=style[1] if part is numbered else "none",
            capsize=2.5,
            elinewidth=1.0,
            label=label if part is numbered or not numbered else None,
        )


def _draw_points(
    axes: Axes, summaries: list[Summary], names: dict[Panel, str], colours: dict[str, str]
) -> None:
    """One layer only: a point beside the other per probe, with its value."""
    numbers = {panel: i for i, panel in enumerate(names)}
    for i, s in enumerate(summaries):
        x = (i - (len(summaries) - 1) / 2) * min(0.25, 0.9 / len(summaries))
        x += 0.0 if isinstance(s.layer, str) else s.layer
        axes.errorbar(
            x,
            s.mi_lower_bound_bits,
            yerr=s.mi_lower_bound_bits_sd if s.n_seeds > 1 else None,
            color=colours[s.probe],
            marker=_STYLES[numbers[s.panel] % len(_STYLES)][0],
            markersize=6,
            linestyle="none",
            capsize=3,
            label=", ".join(filter(None, (s.probe, names[s.panel]))),
        )
        axes.annotate(
            f"{s.mi_lower_bound_bits:.{decimals([s.mi_lower_bound_bits_sd])}f}",
            (x, s.mi_lower_bound_bits + s.mi_lower_bound_bits_sd),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            va="bottom",
            color=colours[s.probe],
            fontsize=8.5,
        )


def _mark_best(
    axes: Axes, summaries: list[Summary], place: dict[int | str, float], colours: dict[str, str]
) -> None:
    """Ring the best layer of each line and write its value: above the first, below the second."""
    best = sorted(worth_marking(summaries), key=lambda s: -s.mi_lower_bound_bits)
    for rank, s in enumerate(best):
        spot = (place[s.layer], s.mi_lower_bound_bits)
        axes.plot(
            *spot, marker="o", markersize=10, fillstyle="none", color=colours[s.probe], linestyle="none"
        )
        if len(best) <= 2:
            text = f"layer {s.layer}: " if isinstance(s.layer, int) else f"{s.layer}: "
            text += f"{s.mi_lower_bound_bits:.{decimals([s.mi_lower_bound_bits_sd])}f}"
            axes.annotate(
                text,
                spot,
                xytext=(0, 9 if rank == 0 else -9),
                textcoords="offset points",
                ha="center",
                va="bottom" if rank == 0 else "top",
                color=colours[s.probe],
                fontsize=8.5,
            )


def _draw_ceilings(
    axes: Axes, panels: dict[Panel, list[Summary]], names: dict[Panel, str], place: dict[int | str, float]
) -> None:
    """Dashed ceilings where they are near the estimates; otherwise a note in the legend.

    Ceilings that nobody could tell apart in the picture are drawn once.
    """
    top = max(s.mi_lower_bound_bits for group in panels.values() for s in group)
    found: list[tuple[Panel, list[tuple[float, float]], float, float]] = []
    for panel, group in panels.items():
        curve = sorted({place[s.layer]: s.entropy_bits for s in group}.items())
        low, high = min(v for _, v in curve), max(v for _, v in curve)
        if all(abs(low - other[2]) + abs(high - other[3]) > 0.05 for other in found):
            found.append((panel, curve, low, high))
    for number, (panel, curve, low, high) in enumerate(found):
        style: dict[str, Any] = {"color": ("0.45", "0.6", "0.3")[number % 3], "linewidth": 1.0}
        style["linestyle"] = _CEILING_DASHES[number % len(_CEILING_DASHES)]
        size = f"{high:.2f}" if high - low < 0.01 else f"{low:.2f} to {high:.2f}"
        label = f"ceiling {CEILING[panel.key.task]} = {size} bits"
        if len(found) > 1 and names[panel]:
            label += f" ({names[panel]})"
        if high > _FAR * max(top, 0.0):
            axes.plot([], [], color="none", label=label + ", above this plot")
        elif len(curve) == 1 or high - low < 0.01:
            axes.axhline(high, label=label, **style)
        else:
            axes.plot(*zip(*curve, strict=True), label=label, **style)


def _dress(axes: Axes, summaries: list[Summary], place: dict[int | str, float]) -> None:
    first, task = summaries[0], summaries[0].task
    axes.set_xlabel("layer (index into the upstream's hidden states)")
    axes.set_ylabel(f"lower bound of {BOUND_TEX[task]} (bits)")
    axes.set_xticks(*_ticks(place))
    spots = list(place.values())
    room = 0.04 * (max(spots) - min(spots)) + (0.35 if len(spots) > 1 else 0.6)
    axes.set_xlim(min(spots) - room, max(spots) + room)
    _set_bottom(axes, summaries)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    upstreams = " / ".join(dict.fromkeys(s.upstream + _short(s.checkpoint_name) for s in summaries))
    title = textwrap.shorten(f"{task} by layer: {upstreams}", 72, placeholder=" …")
    axes.set_title(plain(title), loc="left", fontweight="bold", pad=28)
    axes.annotate(
        _subtitle(first, summaries),
        (0, 1),
        xytext=(0, 5),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=8,
        color="0.35",
        va="bottom",
        linespacing=1.25,
    ).set_in_layout(False)  # a long one is cut at the edge rather than squeezing the plot


def _subtitle(first: Summary, summaries: list[Summary]) -> str:
    """Two lines: what is measured; on which splits, by which protocol, over how many seeds."""
    frames = "/".join(dict.fromkeys(s.scored_frames for s in summaries))
    what = f"{first.view}; {frames} frames" if first.view else first.label_set or f"{first.n_classes} labels"
    what += f"; {first.n_clusters} clusters" if first.n_clusters else ""
    what += f"; every {first.frame_shift_ms:g} ms"
    splits = f"fit {'+'.join(first.fit_splits)}, eval {'+'.join(first.eval_splits)}"
    how = "; ".join((splits, f"protocol {first.protocol}", seeds_text(summaries).replace("+-", "±")))
    return plain("\n".join(textwrap.shorten(line, 100, placeholder=" …") for line in (what, how)))


def _ticks(place: dict[int | str, float]) -> tuple[list[float], list[str]]:
    """A tick per layer; every second or fourth one where there are many."""
    step = 1 if len(place) <= 16 else 2 if len(place) <= 34 else 4
    kept = [(x, str(name)) for name, x in place.items() if isinstance(name, str) or name % step == 0]
    return [x for x, _ in kept], [name for _, name in kept]


def _set_bottom(axes: Axes, summaries: list[Summary]) -> None:
    """Start at zero unless all layers lie far above it, and leave room for the values written in."""
    low = min(s.mi_lower_bound_bits - s.mi_lower_bound_bits_sd for s in summaries)
    high = max(s.mi_lower_bound_bits + s.mi_lower_bound_bits_sd for s in summaries)
    bottom, top = axes.get_ylim()
    top = max(top, high + 0.12 * max(high - min(low, 0.0), 1e-6))
    if low >= 0 and (low < 0.6 * high or len({s.layer for s in summaries}) == 1):
        axes.set_ylim(0, top)
    else:
        axes.set_ylim(min(bottom, low - 0.15 * max(high - low, 1e-3)), top)
    if low < 0:
        axes.axhline(0, color="0.6", linewidth=0.8)


def _short(checkpoint_name: str | None) -> str:
    return f" ({checkpoint_name})" if checkpoint_name else ""
