"""Bits by layer, a curve for each model: where in a model the information is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...core.config import LABELS
from ...results.comparability import ComparisonKey
from ...results.correlation import correlate
from ...results.summary import Summary, layer_key, rank_in, worth_marking
from ..wording import BOUND, BOUND_TEX, bars_text, frames_note
from . import picture
from .groups import Model, by_key, headline_keys
from .picture import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def layer_curves(summaries: Sequence[Summary], names: Mapping[Model, str]) -> list[Picture]:
    """A picture for each setting in which a model has several layers; at most eight models in one plot.

    Args:
        summaries: of all experiments.
        names: of every model, in the order of drawing.
    """
    groups = by_key(summaries)
    shown = [key for key in headline_keys(groups) if len({s.layer for s in groups[key]}) > 1]
    return [_draw(key, groups[key], names, number) for number, key in enumerate(shown, start=1)]


def _draw(key: ComparisonKey, group: list[Summary], names: Mapping[Model, str], number: int) -> Picture:
    probes = picture.probes_in(group)
    models = [m for m in names if any(s.upstream_sha256 == m for s in group)]
    plots = [(part, probe) for part in picture.chunks(models) for probe in probes]
    rows = len(plots) // len(probes)
    with picture.sheet(4.3 * len(probes) + 0.4, 3.2 * rows + 0.4) as figure:
        grid = figure.subplots(rows, len(probes), squeeze=False, sharey=True)
        ends = {}
        for axes, (part, probe) in zip(grid.flat, plots, strict=True):
            shown = {m: [s for s in group if s.upstream_sha256 == m and s.probe == probe] for m in part}
            ends[axes] = _curves(axes, {m: own for m, own in shown.items() if own}, names)
            picture.dress(axes, "layer", f"{BOUND_TEX[key.task]}, bits" if probe == probes[0] else "", f"{probe} probe")
        picture.bits_axis(grid.flat, group)
        picture.label_ends(figure, ends)
        quantity = BOUND[key.task]
        what = (key.labels or "labels") if key.task == "mi_supervised" else "the other view of the same speech"
        return picture.finish(
            figure,
            f"layers_{key.task}_{number}",
            f"{quantity} by layer: {key.view or key.labels or 'labels'}, one frame every {key.frame_shift_ms:g} ms",
            f"How many bits each layer tells about {what} ({key.describe()}; {bars_text(group)}). Higher is "
            "more information that the probe can use; the ring marks the best layer of a model." + frames_note(group),
            f"Curves of {quantity} in bits over the layers of {', '.join(names[m] for m in models)}.",
        )


def _curves(axes: Axes, shown: Mapping[Model, list[Summary]], names: Mapping[Model, str]) -> list[picture.End]:
    """Draw the models of one plot; returns where each ends and what to write there."""
    style = picture.looks(names)
    places = picture.layer_places(s for own in shown.values() for s in own)
    ends = []
    for number, (model, own) in enumerate(shown.items()):
        beside = 0.05 * (number - (len(shown) - 1) / 2)  # so that error bars do not cover each other
        at = {layer: x + beside for layer, x in places.items()}
        picture.layer_curve(axes, own, at, **style[model])
        for s in worth_marking(own):
            picture.ring(axes, at[s.layer], s, style[model]["color"])
        last = max(own, key=lambda s: places[s.layer])
        name = names[model] + ("" if len(own) > 1 else f" ({picture.layer_word(last.layer)})")
        ends.append((at[last.layer], last.mi_lower_bound_bits, name, style[model]["color"]))
    if places:
        picture.layer_axis(axes, places)
    return ends


# --- Accuracy against bits --------------------------------------------------------------------------------


def accuracy_against_bits(
    groups: Mapping[ComparisonKey, Sequence[Summary]], headline: Sequence[ComparisonKey], names: Mapping[Model, str]
) -> list[Picture]:
    """Of phones or words: whether accuracy orders layers as bits do (Choi et al. 2024), a plot per probe."""
    shown = [k for k in headline if k.of_content and len({(s.upstream_sha256, s.layer) for s in groups[k]}) > 2]
    return [_draw_accuracy(key, groups[key], names, number) for number, key in enumerate(shown, start=1)]


def _draw_accuracy(key: ComparisonKey, group: Sequence[Summary], names: Mapping[Model, str], number: int) -> Picture:
    probes, style = picture.probes_in(group), picture.looks(names)
    models = [m for m in names if any(s.upstream_sha256 == m for s in group)]
    relations = []
    with picture.sheet(4.3 * len(probes) + 0.4, 3.6) as figure:
        for axes, probe in zip(figure.subplots(1, len(probes), squeeze=False)[0], probes, strict=True):
            own = [s for s in group if s.probe == probe]
            for model in models:
                line = sorted((s for s in own if s.upstream_sha256 == model), key=lambda s: layer_key(s.layer))
                x, y = [s.mi_lower_bound_bits for s in line], [100 * s.accuracy for s in line]
                axes.plot(x, y, linewidth=0.8, alpha=0.8, markersize=4.5, label=names[model], **style[model])
                for s, at in zip(line, zip(x, y, strict=True), strict=True):
                    axes.annotate(str(s.layer), at, xytext=(4, 3), textcoords="offset points", fontsize=6.5)
            relation = correlate(
                [s.mi_lower_bound_bits for s in own], [s.accuracy for s in own], "bits", "accuracy", things="points"
            )
            relations.append(f"{probe}: Spearman {relation.of('spearman') or 'unknown, too few points'}")
            picture.dress(
                axes, f"{BOUND_TEX[key.task]}, bits", "accuracy, %" if probe == probes[0] else "", f"{probe} probe"
            )
        picture.legend_below(figure, columns=min(4, len(models)))
        return picture.finish(
            figure,
            f"accuracy_{number}",
            f"Accuracy against bits: {key.labels or 'labels'}, one frame every {key.frame_shift_ms:g} ms",
            f"Each point is a layer, with its number ({key.describe()}). Accuracy counts only the most probable label; "
            "bits also count how sure a probe is of it. Off a common line, a probe is right as often and less sure, or "
            f"the other way round. {'; '.join(relations)}.",
            f"Accuracy by bits of the layers of {', '.join(names[m] for m in models)}.",
        )


# --- Content, speaker, prosody ----------------------------------------------------------------------------


def kept_by_layer(summaries: Sequence[Summary], names: Mapping[Model, str]) -> list[Picture]:
    """Where a model was measured against several sets of labels: what fraction of each is kept, a plot per model."""
    shown = {m: own for m in names if (own := several_labels([s for s in summaries if s.upstream_sha256 == m]))}
    if not shown:
        return []
    parts = picture.chunks(list(shown))
    found = []
    for number, part in enumerate(parts, start=1):
        columns = min(3, len(part))
        with picture.sheet(4.3 * columns + 0.4, 3.2 * -(-len(part) // columns) + 0.4) as figure:
            grid = figure.subplots(-(-len(part) // columns), columns, squeeze=False, sharey=True).flat
            for axes, model in zip(grid, part, strict=False):
                plot_kept(axes, shown[model])
                picture.dress(axes, "layer", KEPT_TEX, names[model])
            for axes in list(grid)[len(part) :]:
                axes.remove()
            picture.legend_below(figure)
            listed = ", ".join(dict.fromkeys(s.key.labels for m in part for s in shown[m]))
            found.append(
                picture.finish(
                    figure,
                    f"layers_kept_{number}",
                    f"What each layer keeps: {listed}",
                    f"Fraction of the entropy of {listed} that each layer tells at least, I(Z;Y) / H(Y), by the best "
                    "probe of each; bands are 95 % intervals over speakers (of speaker: over utterances). Below zero a "
                    "probe does worse on the speech scored than class frequencies alone. Heights of different labels "
                    "say little against each other, as their classes and probes differ; how each changes from layer to "
                    "layer says where it is kept.",
                    f"Curves of I(Z;Y) / H(Y) over the layers of {', '.join(names[m] for m in part)}.",
                )
            )
    return found


KEPT_TEX = r"$I(Z;\,Y)\,/\,H(Y)$"


def several_labels(summaries: Sequence[Summary]) -> list[Summary]:
    """The numbered layers of one model of one frame rate in mi_supervised; none of a single set of labels."""
    own = [s for s in summaries if s.task == "mi_supervised" and isinstance(s.layer, int)]
    finest = min((s.frame_shift_ms for s in own), default=0.0)
    own = [s for s in own if s.frame_shift_ms == finest]
    enough = len({s.key.labels for s in own}) > 1 and len({s.layer for s in own}) > 1
    return own if enough else []


def plot_kept(axes: Axes, summaries: Sequence[Summary]) -> None:
    """A curve for each set of labels: I(Z;Y) / H(Y) by layer, of the probe whose best layer has most bits."""
    for labels in sorted({s.key.labels for s in summaries}, key=lambda name: rank_in(name, LABELS)):
        own = [s for s in summaries if s.key.labels == labels]
        probe = max(own, key=lambda s: s.mi_lower_bound_bits).probe
        curve = sorted((s for s in own if s.probe == probe), key=lambda s: int(s.layer))
        x, style = [int(s.layer) for s in curve], picture.look(rank_in(labels, LABELS)[0])
        axes.plot(x, [s.mi_lower_bound_bits / s.entropy_bits for s in curve], label=labels, markersize=4.5, **style)
        bands = [
            (n, s.ci_low_bits / s.entropy_bits, s.ci_high_bits / s.entropy_bits)
            for n, s in zip(x, curve, strict=True)
            if s.ci_low_bits is not None and s.ci_high_bits is not None
        ]
        at, low, high = np.array(bands, dtype=np.float64).reshape(-1, 3).T
        axes.fill_between(at, low, high, color=style["color"], alpha=0.12, linewidth=0, zorder=0)
    axes.axhline(0, color="0.6", linewidth=0.8)
    picture.layer_axis(axes, picture.layer_places(summaries))
