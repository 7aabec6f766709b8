"""Bits by layer, a curve for each model: where in a model the information is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...results.summary import Summary, worth_marking
from ..wording import BOUND, BOUND_TEX, frames_note, seeds_text
from .picture import (
    Picture,
    bits_axis,
    chunks,
    dress,
    finish,
    label_ends,
    layer_axis,
    layer_curve,
    layer_places,
    layer_word,
    looks,
    probes_in,
    ring,
    sheet,
)
from .scale import Model, Scale, by_scale, headline_scales, model_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def layer_curves(summaries: Sequence[Summary], names: Mapping[Model, str]) -> list[Picture]:
    """A picture for each scale that holds a model with several layers; at most eight models in one plot.

    Args:
        summaries: of all experiments.
        names: of every model, in the order of drawing.
    """
    scales = by_scale(summaries)
    shown = [scale for scale in headline_scales(scales) if len({s.layer for s in scales[scale]}) > 1]
    return [_draw(scale, scales[scale], names, number) for number, scale in enumerate(shown, start=1)]


def _draw(scale: Scale, group: list[Summary], names: Mapping[Model, str], number: int) -> Picture:
    probes = probes_in(group)
    models = [m for m in names if any(model_of(s) == m for s in group)]
    plots = [(part, probe) for part in chunks(models) for probe in probes]
    rows = len(plots) // len(probes)
    with sheet(4.3 * len(probes) + 0.4, 3.2 * rows + 0.4) as figure:
        grid = figure.subplots(rows, len(probes), squeeze=False, sharey=True)
        ends = []
        for axes, (part, probe) in zip(grid.flat, plots, strict=True):
            shown = {m: [s for s in group if model_of(s) == m and s.probe == probe] for m in part}
            ends.append(_curves(axes, {m: own for m, own in shown.items() if own}, names))
            y = f"{BOUND_TEX[scale.task]}, bits" if probe == probes[0] else ""
            dress(axes, "layer", y, f"{probe} probe")
        bits_axis(grid.flat, group)
        figure.draw_without_rendering()  # so that label_ends knows the height of the plots
        for axes, names_of_plot in zip(grid.flat, ends, strict=True):
            label_ends(axes, names_of_plot)
        quantity = BOUND[scale.task]
        what = "phones or words" if scale.task == "mi_supervised" else "the other view of the same speech"
        return finish(
            figure,
            f"layers_{scale.task}_{number}",
            f"{quantity} by layer: {scale.view or 'frame labels'}, one frame every {scale.frame_shift_ms:g} ms",
            f"How many bits each layer tells about {what} ({scale.describe()}; {seeds_text(group, '±')}). Higher is "
            "more information that the probe can use; the ring marks the best layer of a model, bars are one "
            "standard deviation over seeds." + frames_note(group),
            f"Curves of {quantity} in bits over the layers of {', '.join(names[m] for m in models)}.",
        )


def _curves(
    axes: Axes, shown: Mapping[Model, list[Summary]], names: Mapping[Model, str]
) -> list[tuple[float, float, str, str]]:
    """Draw the models of one plot; returns where each ends and what to write there."""
    style: dict[Model, dict[str, Any]] = looks(names)
    places = layer_places(s for own in shown.values() for s in own)
    ends = []
    for model, own in shown.items():
        layer_curve(axes, own, places, **style[model])
        for s in worth_marking(own):
            ring(axes, places[s.layer], s, style[model]["color"])
        last = max(own, key=lambda s: places[s.layer])
        name = names[model] + ("" if len(own) > 1 else f" ({layer_word(last.layer)})")
        ends.append((places[last.layer], last.mi_lower_bound_bits, name, style[model]["color"]))
    if places:
        layer_axis(axes, places)
    return ends
