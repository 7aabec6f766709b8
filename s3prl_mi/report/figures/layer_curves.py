"""Bits by layer, a curve for each model: where in a model the information is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ...results.summary import rank_in, worth_marking
from .. import PROBE_ORDER, Summary
from ..wording import BOUND, BOUND_TEX, seeds_text
from .picture import Picture, bits_axis, chunks, dress, finish, label_ends, look, sheet
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
    pictures: list[Picture] = []
    for scale in headline_scales(scales):
        group = scales[scale]
        if len({s.layer for s in group}) > 1:
            pictures.append(_draw(scale, group, names, len(pictures) + 1))
    return pictures


def _draw(scale: Scale, group: list[Summary], names: Mapping[Model, str], number: int) -> Picture:
    probes = sorted({s.probe for s in group}, key=lambda p: rank_in(p, PROBE_ORDER))
    models = [m for m in names if any(model_of(s) == m for s in group)]
    numbers = {m: i for i, m in enumerate(names)}
    parts = chunks(models)
    width = 4.3 * len(probes) + 0.4
    with sheet(width, 3.2 * len(parts) + 0.4) as figure:
        grid = figure.subplots(len(parts), len(probes), squeeze=False, sharey=True)
        for row, part in zip(grid, parts, strict=True):
            for axes, probe in zip(row, probes, strict=True):
                shown = {m: [s for s in group if model_of(s) == m and s.probe == probe] for m in part}
                _curves(axes, {m: s for m, s in shown.items() if s}, numbers)
                dress(
                    axes,
                    "layer",
                    f"{BOUND_TEX[scale.task]}, bits" if probe == probes[0] else "",
                    f"{probe} probe",
                )
        bits_axis(grid.flat, group)
        figure.draw_without_rendering()  # so that label_ends knows the height of the plots
        for row, part in zip(grid, parts, strict=True):
            for axes, probe in zip(row, probes, strict=True):
                label_ends(axes, _ends(group, part, probe, names, numbers))
        quantity = BOUND[scale.task]
        return finish(
            figure,
            f"layers_{scale.task}_{number}",
            f"{quantity} by layer: {scale.view or 'frame labels'}, every {scale.frame_shift_ms:g} ms",
            _caption(scale, group),
            f"Curves of {quantity} in bits over the layers of {', '.join(names[m] for m in models)}.",
        )


def _curves(axes: Axes, shown: dict[Model, list[Summary]], numbers: dict[Model, int]) -> None:
    for model, summaries in shown.items():
        style = look(numbers[model])
        numbered = [s for s in summaries if isinstance(s.layer, int)]
        named = [s for s in summaries if not isinstance(s.layer, int)]
        for part in (numbered, named):
            if part:
                axes.errorbar(
                    [_place(s, summaries) for s in part], [s.mi_lower_bound_bits for s in part],
                    yerr=[s.mi_lower_bound_bits_sd for s in part] if any(s.n_seeds > 1 for s in part) else None,
                    linestyle="-" if part is numbered else "none", linewidth=1.4, markersize=4.5, capsize=2,
                    elinewidth=0.9, **style,
                )  # fmt: skip
        for s in worth_marking(summaries):
            axes.plot(
                _place(s, summaries), s.mi_lower_bound_bits, marker="o", markersize=10, fillstyle="none",
                color=style["color"], linestyle="none",
            )  # fmt: skip
    layers = sorted({s.layer for group in shown.values() for s in group if isinstance(s.layer, int)})
    step = 1 if len(layers) <= 16 else 2 if len(layers) <= 34 else 4
    if layers:
        axes.set_xticks([n for n in layers if n % step == 0])
        axes.set_xlim(layers[0] - 0.4, max(layers[-1], layers[0] + 1) + 0.5 + 1.0 * _has_named(shown))


def _has_named(shown: dict[Model, list[Summary]]) -> bool:
    return any(not isinstance(s.layer, int) for group in shown.values() for s in group)


def _place(summary: Summary, group: list[Summary]) -> float:
    """A layer stands at its number, a weighted sum behind the last one."""
    if isinstance(summary.layer, int):
        return float(summary.layer)
    return 1.0 + max((s.layer for s in group if isinstance(s.layer, int)), default=-1)


def _ends(
    group: list[Summary], part: list[Model], probe: str, names: Mapping[Model, str], numbers: dict[Model, int]
) -> list[tuple[float, float, str, str]]:
    found = []
    for model in part:
        own = [s for s in group if model_of(s) == model and s.probe == probe]
        if own:
            last = max(own, key=lambda s: _place(s, own))
            name = names[model] + ("" if len(own) > 1 else f" ({_layer_word(last)})")
            found.append((_place(last, own), last.mi_lower_bound_bits, name, look(numbers[model])["color"]))
    return found


def _layer_word(summary: Summary) -> str:
    return f"layer {summary.layer}" if isinstance(summary.layer, int) else str(summary.layer)


def _caption(scale: Scale, group: list[Summary]) -> str:
    what = "phones or words" if scale.task == "mi_supervised" else "the other view of the same speech"
    seeds = seeds_text(group).replace("+-", "±")
    return (
        f"How many bits each layer tells about {what} ({scale.describe()}; {seeds}). Higher is more information that "
        "the probe can use; the ring marks the best layer of a model, bars are one standard deviation over seeds."
    ) + frames_note(group)


def frames_note(group: Sequence[Summary]) -> str:
    """A sentence of warning where models were scored on different amounts of speech; else nothing."""
    low, high = min(s.eval_frames for s in group), max(s.eval_frames for s in group)
    if high <= 1.02 * low:
        return ""
    return f" Beware: not all were scored on the same speech ({low:,} to {high:,} frames)."
