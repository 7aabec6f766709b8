"""How the bits without labels move with a setting: mask pattern, shift, number of clusters."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...results.comparability import ComparisonKey
from ...results.summary import Summary, layer_key
from ..wording import BOUND_TEX, bars_text
from . import picture
from .groups import Model
from .picture import Picture

MOST_PICTURES = 3
"""Of one kind of sweep; where several settings vary at once, those with most estimates are drawn."""


class Mask(NamedTuple):
    """A mask pattern: so many of so many frames."""

    masked: int
    period: int

    @property
    def ratio(self) -> float:
        """Share of frames masked."""
        return self.masked / self.period


def mask_of(view: str | None) -> Mask | None:
    """The mask pattern that a record's view names.

    Example:
        >>> mask_of("mask(latent, 30 of 40 frames)"), mask_of("shift(60 ms)")
        (Mask(masked=30, period=40), None)
    """
    found = re.search(r"(\d+) of (\d+) frames", view or "")
    return Mask(int(found[1]), int(found[2])) if found else None


def shift_of(view: str | None) -> float | None:
    """The shift in ms that a record's view names.

    Example:
        >>> shift_of("shift(60 ms)"), shift_of(None)
        (60.0, None)
    """
    found = re.search(r"shift\(([\d.]+) ms\)", view or "")
    return float(found[1]) if found else None


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of sweep: how its setting is read from an estimate, and the words for it."""

    name: str
    title: str
    setting: Callable[[Summary], Any]
    rest: Callable[[ComparisonKey], ComparisonKey]
    """All of the key that the sweep holds fixed."""
    words: str


KINDS = (
    Kind(
        "mask", "Mask patterns", lambda s: mask_of(s.view),
        lambda k: k._replace(view=re.sub(r"\d+ of \d+ frames", "several patterns", k.view or "")),
        "the fraction of frames that is masked, or the length of the mask spans,",
    ),
    Kind(
        "shift", "Shifts", lambda s: shift_of(s.view), lambda k: k._replace(view="shift view"),
        "the time between the two views",
    ),
    Kind(
        "clusters", "Numbers of clusters", lambda s: s.n_clusters, lambda k: k.without("clusters"),
        "the number of clusters",
    ),
)  # fmt: skip


def sweeps(summaries: Sequence[Summary], names: Mapping[Model, str], last: Mapping[Model, int | None]) -> list[Picture]:
    """A picture for each kind of sweep that the estimates hold (for each other setting, at most three).

    Args:
        summaries: of all experiments.
        names: of every model, in the order of drawing.
        last: the last layer of each model's encoder (`selection.last_layer`).
    """
    pictures: list[Picture] = []
    for kind in KINDS:
        groups: dict[ComparisonKey, list[Summary]] = {}
        for s in summaries:
            if s.task == "mi_views" and kind.setting(s) is not None and isinstance(s.layer, int):
                groups.setdefault(kind.rest(s.key), []).append(s)
        swept = {fixed: _swept(group, kind) for fixed, group in groups.items()}
        richest = sorted((fixed for fixed in swept if swept[fixed]), key=lambda k: -len(swept[k]))[:MOST_PICTURES]
        pictures += [_draw(kind, k, swept[k], names, last, n) for n, k in enumerate(richest, start=1)]
    return pictures


def _swept(group: list[Summary], kind: Kind) -> list[Summary]:
    """The models and probes that were measured with at least two settings, at the layers that all settings have."""
    kept = []
    for key in dict.fromkeys((s.upstream_sha256, s.probe) for s in group):
        own = [s for s in group if (s.upstream_sha256, s.probe) == key]
        settings = {kind.setting(s) for s in own}
        if len(settings) > 1:
            layers = set.intersection(*({s.layer for s in own if kind.setting(s) == v} for v in settings))
            kept += [s for s in own if s.layer in layers]
    return kept


def _draw(
    kind: Kind,
    fixed: ComparisonKey,
    group: list[Summary],
    names: Mapping[Model, str],
    last: Mapping[Model, int | None],
    number: int,
) -> Picture:
    models, style = [m for m in names if any(s.upstream_sha256 == m for s in group)], picture.looks(names)
    choices = ("last layer", "best layer") if len({s.layer for s in group}) > 1 else ("last layer",)
    x_of, ticks, x_label = _axis(sorted({kind.setting(s) for s in group}))
    rows = [(part, probe) for part in picture.chunks(models) for probe in picture.probes_in(group)]
    with picture.sheet(4.3 * len(choices) + 0.4, 2.9 * len(rows) + 0.4) as figure:
        grid = figure.subplots(len(rows), len(choices), squeeze=False, sharey=True)
        plots = [(part, probe, choice) for part, probe in rows for choice in choices]
        drawn: list[Summary] = []
        ends: dict[Any, list[picture.End]] = {axes: [] for axes in grid.flat}
        for axes, (part, probe, choice) in zip(grid.flat, plots, strict=True):
            for model in part:
                own = [s for s in group if s.upstream_sha256 == model and s.probe == probe]
                if own:
                    line = sorted(_at(own, choice, last.get(model)), key=lambda s: x_of(kind.setting(s)))
                    x = [x_of(kind.setting(s)) for s in line]
                    picture.points(axes, x, line, **style[model])
                    name = f"{names[model]}, {picture.layer_word(line[-1].layer)}"
                    ends[axes].append((x[-1], line[-1].mi_lower_bound_bits, name, style[model]["color"]))
                    drawn += line
            axes.set_xticks(list(ticks), list(ticks.values()), fontsize=8)
            y = f"{BOUND_TEX['mi_views']}, bits" if choice == choices[0] else ""
            picture.dress(axes, x_label if (part, probe) == rows[-1] else "", y, f"{probe} probe, {choice}")
        picture.bits_axis(grid.flat, drawn)
        picture.label_ends(figure, ends)
        return picture.finish(
            figure,
            f"sweep_{kind.name}_{number}",
            f"{kind.title}: I(Za;Zb)",
            f"How I(Za;Zb) moves with {kind.words} ({fixed.describe()}; {bars_text(group)}). The "
            "bits of two settings are not comparable, so compare models at one setting: a choice of model is stable "
            "if the curves do not cross.",
            f"Curves of I(Za;Zb) over {kind.title.lower()} for {', '.join(names[m] for m in models)}.",
        )


def _at(own: Sequence[Summary], choice: str, last: int | None) -> list[Summary]:
    """The estimates of one model at one layer, the same for all settings: the last, or that of the highest sum."""
    totals: dict[int | str, float] = {}
    for s in own:
        totals[s.layer] = totals.get(s.layer, 0.0) + s.mi_lower_bound_bits
    layers = sorted(totals, key=layer_key)
    at_end = last if last in totals else layers[-1]
    layer = at_end if choice == "last layer" else max(layers, key=lambda n: totals[n])
    return [s for s in own if s.layer == layer]


def _axis(settings: Sequence[Any]) -> tuple[Callable[[Any], float], dict[float, str], str]:
    """Where each setting stands, the ticks, and the label of the axis."""
    first = settings[0]
    if isinstance(first, Mask) and len({m.period for m in settings}) == 1:
        ticks = {100 * m.ratio: f"{100 * m.ratio:g}\n{m.masked} of {m.period}" for m in settings}
        return lambda m: 100 * m.ratio, ticks, "masked, % (frames of each period)"
    if isinstance(first, Mask) and len({m.ratio for m in settings}) == 1:
        ticks = {float(m.masked): f"{m.masked}\nof {m.period}" for m in settings}
        return lambda m: float(m.masked), ticks, f"mask span in frames ({first.ratio:.0%} masked)"
    if isinstance(first, Mask):
        patterns = sorted(settings, key=lambda m: (m.ratio, m.masked))
        words = {m: f"{m.masked} of {m.period}\n{m.ratio:.0%}" for m in patterns}
        label = "mask pattern in frames"
    elif isinstance(first, float):
        return float, {v: f"{v:g}" for v in settings}, "shift in ms"
    else:  # numbers of clusters usually double
        words, label = {n: str(n) for n in settings}, "number of clusters"
    order = {setting: float(i) for i, setting in enumerate(words)}
    return lambda v: order[v], {order[v]: text for v, text in words.items()}, label
