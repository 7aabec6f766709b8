"""Bits over the training steps of a series of checkpoints, and which one would be picked without labels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

from ..report import PROBE_ORDER, Summary
from ..report.summary import rank_in
from ..report.wording import BOUND, BOUND_TEX, seeds_text
from ..results import Record
from .picture import COLOURS, Picture, bits_axis, dress, finish, sheet
from .scale import Scale, by_scale, headline_scales, natural, scale_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHOICES = ("last layer", "best layer")


@dataclass(frozen=True, slots=True)
class Pick:
    """The checkpoint with the highest bound under one setting, and how often seeds agree on it."""

    series: str
    scale: Scale
    probe: str
    choice: str
    """`last layer` or `best layer` (of each checkpoint)."""
    step: int
    """By the mean over seeds."""
    seeds: int
    agreeing: int
    """Seeds that pick the same step on their own."""


def series_name(item: Summary | Record) -> str:
    """What checkpoints of one training run have in common: the file's name without the step."""
    checkpoint = item.checkpoint_name if isinstance(item, Summary) else (item.checkpoint or {}).get("name")
    stem = PurePath(checkpoint).stem if checkpoint else ""
    if item.step is not None:
        stem = re.sub(r"\d+", lambda m: "" if int(m[0]) == item.step else m[0], stem)
    stem = stem.strip("-_. ")
    return f"{item.upstream} {stem}" if stem else item.upstream


def series_in(summaries: Sequence[Summary]) -> dict[str, list[Summary]]:
    """Checkpoints of one training run by its name; only where there are at least two steps."""
    found: dict[str, list[Summary]] = {}
    for s in summaries:
        if s.step is not None:
            found.setdefault(series_name(s), []).append(s)
    kept = {n: g for n, g in found.items() if len({s.step for s in g}) > 1}
    return dict(sorted(kept.items(), key=lambda item: natural(item[0])))


def best_picks(records: Sequence[Record]) -> list[Pick]:
    """The checkpoint that each setting picks: for each series, scale, probe and choice of layer."""
    groups: dict[tuple[str, Scale, str], list[Record]] = {}
    for r in records:
        if r.step is not None and isinstance(r.layer, int):
            groups.setdefault((series_name(r), scale_of(r), r.probe), []).append(r)
    picks = []
    for (series, scale, probe), group in groups.items():
        if len({r.step for r in group}) < 2:
            continue
        for choice in CHOICES:
            by_seed = {
                seed: _pick([r for r in group if r.seed == seed], choice) for seed in {r.seed for r in group}
            }
            step = _pick(group, choice)
            picks.append(
                Pick(
                    series, scale, probe, choice, step, len(by_seed), sum(s == step for s in by_seed.values())
                )
            )
    return picks


def _pick(records: Sequence[Record], choice: str) -> int:
    """The step with the highest mean over seeds at the last or the best layer (the earliest of a tie)."""
    values: dict[int, dict[int, list[float]]] = {}
    for r in records:
        if r.step is not None and isinstance(r.layer, int):
            values.setdefault(r.step, {}).setdefault(r.layer, []).append(r.mi_lower_bound_bits)
    means = {
        step: {layer: sum(v) / len(v) for layer, v in by_layer.items()} for step, by_layer in values.items()
    }
    bits = {step: m[max(m)] if choice == CHOICES[0] else max(m.values()) for step, m in means.items()}
    return max(sorted(bits), key=lambda step: bits[step])


def stability(picks: Sequence[Pick]) -> str:
    """How stable the label-free pick of one series is, in a sentence."""
    free = [p for p in picks if p.scale.task == "mi_views"]
    if not free:
        return ""
    counts = Counter(p.step for p in free)
    step, agreeing = counts.most_common(1)[0]
    text = f"Without labels, step {step:,} is picked in {agreeing} of {len(free)} settings"
    text += " (probe, layer choice, mask pattern, clusters)"
    seeds = sum(p.seeds for p in free)
    text += f"; single seeds agree with their setting in {sum(p.agreeing for p in free)} of {seeds} cases."
    labelled = Counter(p.step for p in picks if p.scale.task == "mi_supervised")
    if labelled:
        best, of = labelled.most_common(1)[0]
        text += f" With labels, step {best:,} is picked most often ({of} of {sum(labelled.values())})."
    return text


def checkpoint_curves(summaries: Sequence[Summary], records: Sequence[Record]) -> list[Picture]:
    """A picture for each series: a row for each scale, a column for each probe."""
    picks = best_picks(records)
    pictures = []
    for number, (name, group) in enumerate(series_in(summaries).items(), start=1):
        numbered = [s for s in group if isinstance(s.layer, int)]
        scales = {k: v for k, v in by_scale(numbered).items() if len({s.step for s in v}) > 1}
        shown = headline_scales(scales)
        shown.sort(key=lambda k: k.task, reverse=True)  # without labels first
        if shown:
            own = [p for p in picks if p.series == name]
            pictures.append(_draw(name, {k: scales[k] for k in shown[:6]}, own, number))
    return pictures


def _draw(name: str, scales: Mapping[Scale, list[Summary]], picks: list[Pick], number: int) -> Picture:
    everything = [s for group in scales.values() for s in group]
    probes = sorted({s.probe for s in everything}, key=lambda p: rank_in(p, PROBE_ORDER))
    with sheet(4.0 * len(probes) + 0.4, 2.6 * len(scales) + 0.5) as figure:
        grid = figure.subplots(len(scales), len(probes), squeeze=False, sharex=True, sharey="row")
        for row, (scale, group) in zip(grid, scales.items(), strict=True):
            drawn: list[Summary] = []
            for axes, probe in zip(row, probes, strict=True):
                drawn += _curves(axes, [s for s in group if s.probe == probe])
                free = [
                    p.step for p in picks if p.probe == probe and p.choice == CHOICES[0] and p.scale == scale
                ]
                if scale.task != "mi_views":
                    of_views = [k for k in scales if k.task == "mi_views"]
                    free = [
                        p.step
                        for p in picks
                        if p.probe == probe and p.choice == CHOICES[0] and p.scale in of_views[:1]
                    ]
                for step in free[:1]:
                    axes.axvline(
                        step,
                        color="0.35",
                        linestyle=":",
                        linewidth=1.3,
                        zorder=0,
                        label="picked without labels",
                    )
                last_row = scale == list(scales)[-1]
                y = f"{BOUND_TEX[scale.task]}, bits" if probe == probes[0] else ""
                dress(axes, "training step" if last_row else "", y, f"{probe} probe, {_short(scale)}")
            bits_axis(row, drawn)
        handles = {t: h for a in grid.flat for h, t in zip(*a.get_legend_handles_labels(), strict=True)}
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), fontsize=8.5
        )
        quantities = " and ".join(dict.fromkeys(BOUND[k.task] for k in scales))
        settings = "; ".join(k.describe() for k in scales)
        return finish(
            figure,
            f"checkpoints_{number}",
            f"Over training: {name}",
            f"How {quantities} grow with the training of {name} ({settings}; {seeds_text(everything)}). The dotted "
            "line is the checkpoint that one would pick without any label, by the highest I(Za;Zb) at the last "
            "layer: where it meets the peak of I(Z;Y), the choice without labels is the right one. ".replace(
                "+-", "±"
            )
            + stability(picks),
            f"Curves of {quantities} over training steps of {name}.",
        )


def _short(scale: Scale) -> str:
    return f"{scale.kind} view, {scale.frames} frames" if scale.kind else f"every {scale.frame_shift_ms:g} ms"


def _curves(axes: Axes, group: list[Summary]) -> list[Summary]:
    """Bits over steps at the last and at the best layer; returns the points."""
    points: list[Summary] = []
    by_step: dict[int, list[Summary]] = {}
    for s in group:
        if s.step is not None:
            by_step.setdefault(s.step, []).append(s)
    steps = sorted(by_step)
    for choice, colour, line, filled in zip(CHOICES, COLOURS, ("-", "--"), (True, False), strict=False):
        chosen = [
            max(by_step[n], key=lambda s: s.layer if choice == CHOICES[0] else s.mi_lower_bound_bits)
            for n in steps
        ]
        points += chosen
        axes.errorbar(
            steps, [s.mi_lower_bound_bits for s in chosen], yerr=[s.mi_lower_bound_bits_sd for s in chosen],
            color=colour, linestyle=line, marker="o" if filled else "s", fillstyle="full" if filled else "none",
            markersize=4.5, linewidth=1.4, capsize=2, elinewidth=0.9, label=choice,
        )  # fmt: skip
    positive = [n for n in steps if n > 0]
    if positive and max(positive) > 100 * min(positive):
        axes.set_xscale("symlog", linthresh=min(positive))
    return points
