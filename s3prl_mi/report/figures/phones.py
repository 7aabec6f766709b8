"""Which phones (or words) a representation tells apart: bits of each class, and a confusion picture."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...results.class_contributions import ClassRecord
from ...results.record import Record
from ...results.summary import rank_in
from .. import PROBE_ORDER, Summary
from .cluster_usage import classes_with_records
from .picture import Picture, chunks, dress, finish, look, sheet
from .scale import Measured, Model, Scale, model_of, scale_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GROUPS: dict[str, str] = {
    "vowels": "IY IX IH EH AE AA AH AX AO UH UW UX ER AXR EY AY OY AW OW",
    "approximants": "W Y R L EL",
    "nasals": "M N NG EM EN ENG",
    "fricatives": "F V TH DH S Z SH ZH HH HV",
    "affricates": "CH JH",
    "stops": "P B T D K G DX Q",
    "silence, noise": "SIL SP SPN PAU",
}
"""Manner of articulation of ARPAbet phones, in the order of drawing."""

MOST_CLASSES = 50
"""In one picture: of more (words), the most frequent."""
MOST_MODELS = 6
MOST_CONFUSIONS = 2


@dataclass(frozen=True, slots=True)
class ClassBits:
    """One model at one layer, class by class, mean over seeds."""

    model: Model
    layer: int | str
    probe: str
    bits: float
    """The bound: sum of all shares."""
    share: dict[str, float]
    per_frame: dict[str, float]
    frames: dict[str, float]
    """Eval frames of each class."""
    confusion: NDArray[np.float64] | None
    """Mean counts, true class by most probable class, in the order of `share`."""

    @property
    def most(self) -> dict[str, float]:
        """Bits that a frame of each class could yield at most: -log2 of how frequent the class is."""
        total = sum(self.frames.values())
        return {k: -math.log2(n / total) for k, n in self.frames.items() if n}


def group_of(label: str) -> str:
    """Manner of articulation of an ARPAbet phone, whatever its case and stress; `other` for anything else.

    Example:
        >>> group_of("AH0"), group_of("sil"), group_of("the")
        ('vowels', 'silence, noise', 'other')
    """
    name = label.upper().rstrip("012")
    return next((group for group, phones in GROUPS.items() if name in phones.split()), "other")


def in_groups(labels: Sequence[str], key: Mapping[str, float]) -> list[str]:
    """Labels by manner of articulation, and by descending value within."""
    order = [*GROUPS, "other"]
    return sorted(labels, key=lambda k: (order.index(group_of(k)), -key.get(k, 0.0), k))


def in_order_of_articulation(labels: Sequence[str]) -> list[str]:
    """Labels by manner of articulation, neighbours alike; the same for all models. Others by the alphabet.

    Example:
        >>> in_order_of_articulation(["sil", "S", "AA", "IY"])
        ['IY', 'AA', 'S', 'sil']
    """
    order = {name: i for i, name in enumerate(p for phones in GROUPS.values() for p in phones.split())}
    return sorted(labels, key=lambda k: (order.get(k.upper().rstrip("012"), len(order)), k))


def class_bits(measured: Sequence[Measured], scale: Scale, summaries: Sequence[Summary]) -> list[ClassBits]:
    """Each model of a scale at its best layer, with the probe that all have (`logistic` where it was used)."""
    pairs = [(r, c) for r, c in classes_with_records(measured, "mi_supervised") if scale_of(r) == scale]
    found = []
    for model in dict.fromkeys(model_of(r) for r, _ in pairs):
        probe = min(
            {r.probe for r, _ in pairs if model_of(r) == model}, key=lambda p: rank_in(p, PROBE_ORDER)
        )
        own = [(r, c) for r, c in pairs if model_of(r) == model and r.probe == probe]
        layers = {r.layer for r, _ in own}
        candidates = [
            s for s in summaries
            if model_of(s) == model and s.probe == probe and s.layer in layers and scale_of(s) == scale
        ]  # fmt: skip
        best = max(candidates, key=lambda s: s.mi_lower_bound_bits)
        found.append(_mean(best, [(r, c) for r, c in own if r.layer == best.layer]))
    return found


def _mean(best: Summary, pairs: list[tuple[Record, ClassRecord]]) -> ClassBits:
    by_seed = {r.seed: c for r, c in pairs}  # a seed that occurs twice counts once
    labels = list(dict.fromkeys(k for c in by_seed.values() for k in c.class_names))

    def mean_of(rows: list[dict[str, float]]) -> dict[str, float]:
        return {k: statistics.fmean(row.get(k, 0.0) for row in rows) for k in labels}

    records = list(by_seed.values())
    tables = [
        np.asarray(c.confusion, dtype=np.float64) for c in records if c.confusion and c.class_names == labels
    ]
    return ClassBits(
        model=model_of(best),
        layer=best.layer,
        probe=best.probe,
        bits=best.mi_lower_bound_bits,
        share=mean_of([dict(zip(c.class_names, c.contribution_bits, strict=True)) for c in records]),
        per_frame=mean_of([dict(zip(c.class_names, c.bits_per_frame, strict=True)) for c in records]),
        frames=mean_of([dict(zip(c.class_names, map(float, c.eval_frames), strict=True)) for c in records]),
        confusion=np.mean(tables, axis=0) if tables else None,
    )


def phone_bits(
    found: Sequence[ClassBits], scale: Scale, names: Mapping[Model, str], number: int
) -> list[Picture]:
    """Dots for each class and model: bits per frame beside the share of the bound; six models in a picture."""
    ordered = [c for m in names for c in found if c.model == m]
    parts = chunks(ordered, MOST_MODELS)
    return [
        _draw_bits(part, scale, names, f"{number}" + (chr(ord("a") + i) if len(parts) > 1 else ""))
        for i, part in enumerate(parts)
    ]


def _draw_bits(found: list[ClassBits], scale: Scale, names: Mapping[Model, str], number: str) -> Picture:
    numbers = {m: i for i, m in enumerate(names)}
    best = max(found, key=lambda c: c.bits)
    labels = sorted((k for k, n in best.frames.items() if n), key=lambda k: -best.frames[k])[:MOST_CLASSES]
    labels = in_groups(labels, best.per_frame)[::-1]  # matplotlib counts from below
    phones = any(group_of(k) != "other" for k in labels)
    with sheet(8.6, max(3.0, 0.17 * len(labels) + 1.3)) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        places = range(len(labels))
        most = best.most
        left.scatter([most[k] for k in labels], places, marker="|", color="0.6", s=40, label="at most")
        for c in found:
            style = look(numbers[c.model])
            label = (
                f"{names[c.model]}, layer {c.layer}"
                if isinstance(c.layer, int)
                else f"{names[c.model]}, {c.layer}"
            )
            for axes, values, scaled in ((left, c.per_frame, 1.0), (right, c.share, 1000.0)):
                axes.plot(
                    [scaled * values.get(k, float("nan")) for k in labels], places, linestyle="none", markersize=4.5,
                    alpha=0.85, label=label if axes is left else None, **style,
                )  # fmt: skip
        left.set_yticks(places, [k.replace("$", r"\$") for k in labels], fontsize=7)
        left.set_ylim(-0.7, len(labels) - 0.3)
        for axes, x, title in (
            (left, "bits that a frame of the class yields", "how well told apart"),
            (right, "share of the bound, millibits", "with how frequent it is"),
        ):
            dress(axes, x, "", title)
            axes.grid(axis="y", color="0.95", linewidth=0.6)
            axes.axvline(0, color="0.6", linewidth=0.8)
            if phones:
                _separate(axes, labels, named=axes is right)
        figure.legend(loc="outside lower center", ncols=3, fontsize=8)
        return finish(
            figure,
            f"classes_{number}",
            "Which phones are told apart" if phones else "Which classes are told apart",
            f"Bits of each class at the best layer of each model, {best.probe} probe ({scale.describe()}); classes are "
            "grouped by manner of articulation, the grey tick is the most that a class of its frequency can yield. "
            "Left: a dot near its tick means that the class is recognised; right: how much all its frames add to "
            "I(Z;Y), below zero where the probe does worse than knowing the frequency alone.",
            f"Dots of bits by class for {', '.join(names[c.model] for c in found)}.",
        )


def _separate(axes: Axes, labels: list[str], named: bool) -> None:
    """Thin lines between groups, and their names at the right."""
    start = 0
    for i in range(1, len(labels) + 1):
        if i == len(labels) or group_of(labels[i]) != group_of(labels[start]):
            if named:
                axes.text(
                    1.02, (start + i - 1) / 2, group_of(labels[start]), transform=axes.get_yaxis_transform(),
                    fontsize=7, color="0.4", va="center", ha="left",
                )  # fmt: skip
            if i < len(labels):
                axes.axhline(i - 0.5, color="0.8", linewidth=0.8)
            start = i


def confusion_pictures(
    found: Sequence[ClassBits], scale: Scale, names: Mapping[Model, str], number: int
) -> list[Picture]:
    """A confusion picture for each of the best few models that have counts."""
    having = sorted((c for c in found if c.confusion is not None), key=lambda c: -c.bits)[:MOST_CONFUSIONS]
    return [_draw_confusion(c, scale, names, f"{number}{chr(ord('a') + i)}") for i, c in enumerate(having)]


def _draw_confusion(c: ClassBits, scale: Scale, names: Mapping[Model, str], number: str) -> Picture:
    assert c.confusion is not None
    labels = list(c.share)
    kept = [k for k in in_order_of_articulation(labels) if c.frames[k] > 0]
    rows = [labels.index(k) for k in kept]
    columns = [labels.index(k) for k in in_order_of_articulation(labels)]
    counts = c.confusion[np.ix_(rows, columns)]
    percent = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shown = [labels[i].replace("$", r"\$") for i in columns]
    size = min(8.6, max(3.6, 2.2 + 0.16 * len(columns)))
    font = 7 if len(columns) <= 45 else 4.5
    with sheet(size, size - 0.4) as figure:
        axes = figure.subplots()
        image = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100, aspect="auto", interpolation="none")
        axes.set_xticks(range(len(shown)), shown, rotation=90, fontsize=font)
        axes.set_yticks(range(len(kept)), [k.replace("$", r"\$") for k in kept], fontsize=font)
        for ticks, lines in ((columns, axes.axvline), (rows, axes.axhline)):
            for i in range(1, len(ticks)):
                if group_of(labels[ticks[i]]) != group_of(labels[ticks[i - 1]]):
                    lines(i - 0.5, color="0.75", linewidth=0.7)
        axes.set_xlabel("most probable class by the probe")
        axes.set_ylabel("true class")
        for side in ("top", "right"):
            axes.spines[side].set_visible(True)
        bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=30, pad=0.01)
        bar.set_label("frames of the true class, %")
        layer = f"layer {c.layer}" if isinstance(c.layer, int) else c.layer
        return finish(
            figure,
            f"confusion_{number}",
            f"Confusions of {names[c.model]}, {layer}",
            f"Each row is a true class and sums to 100 %: where its frames go by the {c.probe} probe, at the best "
            f"layer of {names[c.model]} ({scale.describe()}). A dark diagonal means that classes are recognised; dark "
            "cells inside a box are confusions within one manner of articulation, as between vowels.",
            f"Row-normalised confusion matrix of {names[c.model]}.",
        )
