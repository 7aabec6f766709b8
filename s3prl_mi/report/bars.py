"""The picture of several upstreams side by side: a bar for the best layer of each."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..results.record import Record
from ..results.summary import PROBE_ORDER, Summary, rank_in
from .canvas import Canvas, colours_of, plain, save
from .comparison import Comparison, compare
from .wording import BOUND_TEX

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_comparison(path_png: Path, labelled_records: Sequence[tuple[str, Sequence[Record]]]) -> None:
    """Draw several upstreams side by side: bars of the best layer with error bars of one sd.

    Args:
        path_png: where to write; 840 pixels high, as wide as the number of bars asks for.
        labelled_records: a label and its records, in the order of the bars (untrained before trained, say). A
            label may hold records of both tasks. One panel for each task, kind of view and kind of frames.

    Raises:
        MIError: no record at all, or a label whose records differ in more than layer, probe and seed.
    """
    comparisons = compare(labelled_records)
    bars = [len(by_label) for by_label in comparisons.values()]
    widths = [1.1 + max(2, n) * 0.95 for n in bars]
    with Canvas(sum(widths), 4.2) as figure:
        all_axes = figure.subplots(1, len(widths), squeeze=False, gridspec_kw={"width_ratios": widths})[0]
        for axes, (key, by_label) in zip(all_axes, comparisons.items(), strict=True):
            _draw_bars(axes, key, by_label)
        handles = {t: h for a in all_axes for h, t in zip(*a.get_legend_handles_labels(), strict=True)}
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), fontsize=8.5
        )
        save(figure, path_png)


def _draw_bars(axes: Axes, key: Comparison, by_label: dict[str, list[Summary]]) -> None:
    everything = [s for group in by_label.values() for s in group]
    probes = sorted({s.probe for s in everything}, key=lambda p: rank_in(p, PROBE_ORDER))
    colours = colours_of(everything)
    width = 0.78 / len(probes)
    named: set[str] = set()
    for i, label in enumerate(by_label):
        for s in by_label[label]:
            x = i + (probes.index(s.probe) - (len(probes) - 1) / 2) * width
            sd = s.mi_lower_bound_bits_sd if s.n_seeds > 1 else None
            axes.bar(
                x, s.mi_lower_bound_bits, 0.94 * width, yerr=sd, color=colours[s.probe], capsize=3,
                error_kw={"elinewidth": 1.0}, label=None if s.probe in named else s.probe,
            )  # fmt: skip
            named.add(s.probe)
            # Above the bar, and above zero where the estimate is negative.
            top = max(s.mi_lower_bound_bits + s.mi_lower_bound_bits_sd, 0.0)
            layer = f"\nlayer {s.layer}" if isinstance(s.layer, int) else f"\n{s.layer}"
            axes.annotate(
                f"{s.mi_lower_bound_bits:.2f}{layer}",
                (x, top), xytext=(0, 3), textcoords="offset points", ha="center", va="bottom", fontsize=6.5,
                linespacing=1.05,
            )  # fmt: skip
    axes.set_xticks(range(len(by_label)), _bar_names(by_label), fontsize=8)
    axes.set_xlim(-0.6, len(by_label) - 0.4)
    axes.axhline(0, color="0.3", linewidth=0.8)
    low = min(0.0, *(s.mi_lower_bound_bits - s.mi_lower_bound_bits_sd for s in everything))
    high = max(s.mi_lower_bound_bits + s.mi_lower_bound_bits_sd for s in everything)
    axes.set_ylim(1.1 * low, max(1.17 * high, 0.05))
    axes.set_ylabel(f"lower bound of {BOUND_TEX[key.task]} (bits)")
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_title(f"{key.task}\n", loc="left", fontweight="bold")
    subtitle = f"{key.kind} view, {key.frames} frames" if key.kind else "frame labels"
    splits = dict.fromkeys("+".join(s.eval_splits) for s in everything)
    axes.text(
        0,
        1.02,
        plain(f"{subtitle}; eval {', '.join(splits)}"),
        transform=axes.transAxes,
        fontsize=8,
        color="0.35",
    )


def _bar_names(by_label: dict[str, list[Summary]]) -> list[str]:
    """The labels, wrapped, with the time from frame to frame and the view if they differ."""
    shifts = {label: f"{group[0].frame_shift_ms:g} ms frames" for label, group in by_label.items()}
    views = {label: group[0].view or "" for label, group in by_label.items()}
    names = []
    for label in by_label:
        lines = textwrap.wrap(label, 13)
        for texts in (shifts, views):
            if len(set(texts.values())) > 1:
                lines += textwrap.wrap(texts[label], 16)
        names.append(plain("\n".join(lines)))
    return names
