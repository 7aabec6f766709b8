"""Bits by layer, a curve for each model: where in a model the information is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ...results.comparability import ComparisonKey
from ...results.summary import Summary, worth_marking
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
        what = "phones or words" if key.task == "mi_supervised" else "the other view of the same speech"
        return picture.finish(
            figure,
            f"layers_{key.task}_{number}",
            f"{quantity} by layer: {key.view or 'frame labels'}, one frame every {key.frame_shift_ms:g} ms",
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
