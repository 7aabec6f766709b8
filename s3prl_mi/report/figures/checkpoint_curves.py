"""Bits over the training steps of a series of checkpoints, and which one would be picked without labels."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

from ...results.comparability import ComparisonKey
from ...results.record import Record
from ...results.selection import CheckpointPick, checkpoint_pick, last_layer
from ...results.summary import Summary
from ..wording import BOUND, BOUND_TEX, bars_text
from .groups import by_key, headline_keys, key_of, natural
from .picture import COLOURS, Picture, bits_axis, dress, finish, legend_below, points, probes_in, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_ROWS = 6
"""Settings in one picture."""


def series_name(item: Summary | Record) -> str:
    """What checkpoints of one training run have in common: what the study says, or the file's name without the step."""
    if item.series is not None:
        return item.series
    checkpoint = item.checkpoint_name if isinstance(item, Summary) else (item.checkpoint or {}).get("name")
    stem = PurePath(checkpoint).stem if checkpoint else ""
    if item.step is not None:
        stem = re.sub(r"\d+", lambda m: "" if int(m[0]) == item.step else m[0], stem)
    stem = stem.strip("-_. ")
    return f"{item.upstream} {stem}" if stem else item.upstream


class Series(NamedTuple):
    """The checkpoints of one training run, at least two."""

    name: str
    summaries: list[Summary]
    last: int | None
    """The encoder's last layer."""
    picks: dict[str, CheckpointPick]
    """What I(Za;Zb) at the last layer picks, by probe."""


def series_of(summaries: Iterable[Summary], records: Iterable[Record]) -> tuple[list[Series], list[str]]:
    """The series in some estimates.

    Returns:
        The series, and names that several training runs share: there a step stands for two models, so that no curve can
        be drawn.
    """
    groups: dict[str, list[Summary]] = {}
    for s in summaries:
        if s.step is not None:
            groups.setdefault(series_name(s), []).append(s)
    own: dict[str, list[Record]] = {name: [] for name in groups}
    for r in records:
        if r.step is not None:
            own[series_name(r)].append(r)
    steps = {name: {s.step for s in group} for name, group in groups.items()}
    mixed = {n for n, group in groups.items() if len({(s.step, s.upstream_sha256) for s in group}) > len(steps[n])}
    names = sorted((n for n in groups if len(steps[n]) > 1 and n not in mixed), key=natural)
    return [Series(n, groups[n], last_layer(own[n]), _picks(own[n])) for n in names], sorted(mixed, key=natural)


def _picks(records: Sequence[Record]) -> dict[str, CheckpointPick]:
    steps: dict[tuple[str, ComparisonKey], set[int | None]] = {}
    for r in records:
        steps.setdefault((r.probe, key_of(r)), set()).add(r.step)
    several = [r for r in records if len(steps[r.probe, key_of(r)]) > 1]  # one checkpoint is no choice
    picks = {probe: checkpoint_pick(several, probe) for probe in dict.fromkeys(r.probe for r in several)}
    return {probe: pick for probe, pick in picks.items() if pick is not None}


def stability_words(pick: CheckpointPick) -> str:
    """The pick, what else has the same and what it costs against the choice with labels, in plain words.

    Seeds, views and clusters vary the estimate, not the speech: they say nothing about other speakers.
    """
    text = (
        f"With the {pick.probe} probe at layer {pick.layer}, step {pick.step:,} is picked without labels on this speech"
    )
    for s in pick.stability:
        same = round(s.fraction_same * len(s.picks))
        what = {"seed": "seeds", "view": "views", "clusters": "numbers of clusters"}[s.factor]
        text += f"{', as' if s is pick.stability[0] else ' and'} by {same} of {len(s.picks)} {what}"
    if pick.labelled_step is not None and pick.regret_bits is not None:
        text += f"; labels pick step {pick.labelled_step:,}"
        text += ", the same" if pick.regret_bits == 0 else f" ({pick.regret_bits:.3f} bits of I(Z;Y) more)"
    return text + "."


def checkpoint_curves(all_series: Sequence[Series]) -> list[Picture]:
    """A picture for each series: a row for each setting, a column for each probe."""
    pictures = []
    for number, series in enumerate(all_series, start=1):
        groups = by_key(s for s in series.summaries if isinstance(s.layer, int))
        groups = {k: v for k, v in groups.items() if len({s.step for s in v}) > 1}
        shown = sorted(headline_keys(groups), key=lambda k: k.task, reverse=True)  # without labels first
        if shown:
            pictures.append(_draw(series, {k: groups[k] for k in shown[:MOST_ROWS]}, number))
    return pictures


def _draw(series: Series, groups: Mapping[ComparisonKey, list[Summary]], number: int) -> Picture:
    name, _, last, picks = series
    everything = [s for group in groups.values() for s in group]
    probes = probes_in(everything)
    with sheet(4.0 * len(probes) + 0.4, 2.6 * len(groups) + 0.5) as figure:
        grid = figure.subplots(len(groups), len(probes), squeeze=False, sharex=True, sharey="row")
        for row, (key, group) in zip(grid, groups.items(), strict=True):
            rate = f"one frame every {key.frame_shift_ms:g} ms"
            what = f"{key.kind} view, {key.scored_frames} frames" if key.kind else rate
            drawn: list[Summary] = []
            for axes, probe in zip(row, probes, strict=True):
                drawn += _curves(axes, [s for s in group if s.probe == probe], last)
                if probe in picks:
                    axes.axvline(
                        picks[probe].step, color="0.35", linestyle=":", linewidth=1.3, zorder=0,
                        label="picked without labels",
                    )  # fmt: skip
                y = f"{BOUND_TEX[key.task]}, bits" if probe == probes[0] else ""
                dress(axes, "training step" if key == list(groups)[-1] else "", y, f"{probe} probe, {what}")
            bits_axis(row, drawn)
        legend_below(figure)
        quantities = " and ".join(dict.fromkeys(BOUND[k.task] for k in groups))
        settings = "; ".join(k.describe() for k in groups)
        return finish(
            figure,
            f"checkpoints_{number}",
            f"Over training: {name}",
            f"How {quantities} grow with the training of {name} ({settings}; "
            f"{bars_text(everything)}). The dotted line is the checkpoint that one would pick "
            "without any label, by the highest I(Za;Zb) at the last layer: where it meets the peak of I(Z;Y), both "
            "choices agree on this speech. " + " ".join(stability_words(p) for p in picks.values()),
            f"Curves of {quantities} over training steps of {name}.",
        )


def _curves(axes: Axes, group: Sequence[Summary], last: int | None) -> list[Summary]:
    """Bits over steps at the last and at the best layer; returns the points."""
    group = sorted((s for s in group if s.step is not None), key=lambda s: s.step or 0)
    by_step = {step or 0: list(own) for step, own in itertools.groupby(group, key=lambda s: s.step)}
    at_last = [s for own in by_step.values() for s in own if s.layer == last]
    at_best = [max(own, key=lambda s: s.mi_lower_bound_bits) for own in by_step.values()]
    curves: tuple[tuple[str, list[Summary], dict[str, Any]], ...] = (
        ("last layer", at_last, {"color": COLOURS[0], "linestyle": "-", "marker": "o"}),
        ("best layer", at_best, {"color": COLOURS[1], "linestyle": "--", "marker": "s", "fillstyle": "none"}),
    )
    drawn: list[Summary] = []
    for label, chosen, style in curves:
        if chosen and chosen != drawn:  # where the best layer is the last one throughout: one curve
            points(axes, [s.step or 0 for s in chosen], chosen, label, **style)
            drawn += chosen
    trained = [n for n in by_step if n > 0]
    if trained and max(trained) > 100 * min(trained):
        axes.set_xscale("symlog", linthresh=min(trained))
    return drawn
