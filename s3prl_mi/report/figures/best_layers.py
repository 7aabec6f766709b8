"""Several upstreams next to each other, at the best layer of each: the picture, and what belongs in one panel of it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ...core.config import TASKS
from ...core.errors import MIError
from ...results.record import RESULTS_FILE, Record
from ...results.summary import FRAMES_ORDER, Summary, best_layers, rank_in, summarise
from ..wording import BOUND_TEX, distinguish
from .picture import dress, layer_word, legend_below, plain, probe_colours, probes_in, save_png, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Comparison(NamedTuple):
    """What stands in one panel; time from frame to frame and view are written at each upstream where they differ."""

    task: str
    kind: str
    """`mask` or `shift` (the word that the view begins with), or empty for mi_supervised."""
    scored_frames: str

    def describe(self) -> str:
        """In words, without the task."""
        return f"{self.kind} view, {self.scored_frames} frames" if self.kind else "frame labels"


def best_by_label(
    labelled_records: Sequence[tuple[str, Sequence[Record]]],
) -> dict[Comparison, dict[str, list[Summary]]]:
    """Best layers by comparison and label, tasks in our order, labels as given.

    Raises:
        MIError: no record at all, or a label whose records differ in more than layer, probe and seed.
    """
    found: dict[Comparison, dict[str, list[Summary]]] = {}
    for label, records in labelled_records:
        for summary in best_layers(summarise(records)):
            group = found.setdefault(Comparison(summary.task, summary.key.kind, summary.scored_frames), {}).setdefault(
                label, []
            )
            if any(s.probe == summary.probe for s in group):
                differ = " and ".join(distinguish([group[0].panel, summary.panel]).values())
                raise MIError(
                    f"comparison label {label!r}: its records hold two kinds of {summary.task} estimates "
                    f"({differ}). Give each kind a label of its own."
                )
            group.append(summary)
    if not found:
        raise MIError(f"nothing to compare: none of the {RESULTS_FILE} holds a finished estimate.")
    order = sorted(found, key=lambda k: (rank_in(k.task, TASKS), k.kind, rank_in(k.scored_frames, FRAMES_ORDER)))
    return {key: found[key] for key in order}


def draw_comparison(
    path_png: Path,
    labelled_records: Sequence[tuple[str, Sequence[Record]]],
    error_rates: Mapping[str, float] | None = None,
    scored_on: str = "",
) -> None:
    """Draw bars of the best layer with error bars of one sd, a panel per task, kind of view and kind of frames.

    Args:
        path_png: where to write; 840 pixels high, as wide as the number of bars asks for.
        labelled_records: a label and its records, in the order of the bars (untrained before trained, say). A
            label may hold records of both tasks.
        error_rates: PER by label, in percent, for a last panel.
        scored_on: the split behind it.

    Raises:
        MIError: as `best_by_label`.
    """
    comparisons, error_rates = best_by_label(labelled_records), error_rates or {}
    widths = [1.1 + max(2, len(by_label)) * 0.95 for by_label in comparisons.values()]
    widths += [1.1 + max(2, len(error_rates)) * 0.75] if error_rates else []
    with sheet(sum(widths), 4.2) as figure:
        all_axes = figure.subplots(1, len(widths), squeeze=False, gridspec_kw={"width_ratios": widths})[0]
        for axes, (key, by_label) in zip(all_axes, comparisons.items(), strict=False):
            _draw_bars(axes, key, by_label)
        if error_rates:
            _draw_error_rates(all_axes[-1], error_rates, scored_on)
        legend_below(figure)
        save_png(figure, path_png)


def _draw_bars(axes: Axes, key: Comparison, by_label: dict[str, list[Summary]]) -> None:
    everything = [s for group in by_label.values() for s in group]
    probes, colours = probes_in(everything), probe_colours(everything)
    width = 0.78 / len(probes)
    for probe, offset in zip(probes, range(len(probes)), strict=True):
        own = {i: s for i, group in enumerate(by_label.values()) for s in group if s.probe == probe}
        places = [i + (offset - (len(probes) - 1) / 2) * width for i in own]
        axes.bar(
            places, [s.mi_lower_bound_bits for s in own.values()], 0.94 * width, color=colours[probe], capsize=3,
            yerr=[s.mi_lower_bound_bits_sd if s.n_seeds > 1 else float("nan") for s in own.values()],
            error_kw={"elinewidth": 1.0}, label=f"{probe} probe",
        )  # fmt: skip
        for x, s in zip(places, own.values(), strict=True):  # above the bar, and above zero where it is negative
            axes.annotate(
                f"{s.mi_lower_bound_bits:.2f}\n{layer_word(s.layer)}",
                (x, max(s.mi_lower_bound_bits + s.mi_lower_bound_bits_sd, 0.0)), xytext=(0, 3),
                textcoords="offset points", ha="center", va="bottom", fontsize=6.5, linespacing=1.05,
            )  # fmt: skip
    axes.set_xticks(range(len(by_label)), _bar_names(by_label), fontsize=8)
    axes.set_xlim(-0.6, len(by_label) - 0.4)
    axes.axhline(0, color="0.3", linewidth=0.8)
    low = min(0.0, *(s.mi_lower_bound_bits - s.mi_lower_bound_bits_sd for s in everything))
    high = max(s.mi_lower_bound_bits + s.mi_lower_bound_bits_sd for s in everything)
    axes.set_ylim(1.1 * low, max(1.17 * high, 0.05))
    dress(axes, "", f"lower bound of {BOUND_TEX[key.task]} (bits)")
    axes.set_title(f"{key.task}\n", loc="left", fontweight="bold")
    splits = ", ".join(dict.fromkeys("+".join(s.eval_splits) for s in everything))
    subtitle = plain(f"{key.describe()}; scored on {splits}")
    axes.text(0, 1.02, subtitle, transform=axes.transAxes, fontsize=8, color="0.35")


def _draw_error_rates(axes: Axes, error_rates: Mapping[str, float], scored_on: str) -> None:
    places = range(len(error_rates))
    axes.bar(places, list(error_rates.values()), 0.73, color="0.6")
    for x, percent in zip(places, error_rates.values(), strict=True):
        axes.annotate(
            f"{percent:.1f}", (x, percent), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=6.5
        )
    axes.set_xticks(places, [plain("\n".join(textwrap.wrap(label, 10))) for label in error_rates], fontsize=8)
    axes.set_xlim(-0.6, len(error_rates) - 0.4)
    axes.set_ylim(0, 1.1 * max(error_rates.values()))
    dress(axes, "", "phone error rate (%), lower is better")
    axes.set_title("ctc\n", loc="left", fontweight="bold")
    text = plain(f"s3prl's phone recognition; scored on {scored_on}")
    axes.text(0, 1.02, text, transform=axes.transAxes, fontsize=8, color="0.35")


def _bar_names(by_label: dict[str, list[Summary]]) -> list[str]:
    """The labels, wrapped, with the time from frame to frame and the view if they differ."""
    lines = {label: textwrap.wrap(label, 13) for label in by_label}
    shifts = {label: f"{group[0].frame_shift_ms:g} ms frames" for label, group in by_label.items()}
    views = {label: group[0].view or "" for label, group in by_label.items()}
    for texts in (shifts, views):
        if len(set(texts.values())) > 1:
            for label in by_label:
                lines[label] += textwrap.wrap(texts[label], 16)
    return [plain("\n".join(parts)) for parts in lines.values()]
