"""Which phones (or words) a representation tells apart: bits of each class, and a confusion picture."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...results.class_contributions import ClassRecord
from ...results.comparability import ComparisonKey
from ...results.summary import PROBE_ORDER, Summary, rank_in
from .groups import Model, Pair, key_of
from .picture import Picture, chunks, dress, finish, layer_word, looks, plain, sheet

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
    """The bound: sum of all contributions."""
    contribution: dict[str, float]
    """Bits that all frames of the class add to the bound."""
    per_frame: dict[str, float]
    frames: dict[str, float]
    """Eval frames of each class."""
    confusion: NDArray[np.float64] | None
    """Mean counts, true class by most probable class, in the order of `contribution`."""

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
    """Phones as listed in `GROUPS`, then all others by the alphabet.

    Example:
        >>> in_order_of_articulation(["sil", "S", "AA", "IY"])
        ['IY', 'AA', 'S', 'sil']
    """
    order = " ".join(GROUPS.values()).split()
    return sorted(labels, key=lambda k: (rank_in(k.upper().rstrip("012"), order)[0], k))


def _bounds(labels: Sequence[str]) -> list[int]:
    """Where a group ends and the next begins."""
    return [i for i in range(1, len(labels)) if group_of(labels[i]) != group_of(labels[i - 1])]


def class_bits(pairs: Sequence[Pair], key: ComparisonKey, summaries: Sequence[Summary]) -> list[ClassBits]:
    """Each model of one setting at its best layer, with the probe that all have (`logistic` where it was used)."""
    found = []
    own = [(r, c) for r, c in pairs if key_of(r) == key]
    for model in dict.fromkeys(r.upstream_sha256 for r, _ in own):
        mine = [(r, c) for r, c in own if r.upstream_sha256 == model]
        probe = min((r.probe for r, _ in mine), key=lambda p: rank_in(p, PROBE_ORDER))
        at = {(key, model, probe, r.layer) for r, _ in mine if r.probe == probe}
        candidates = [s for s in summaries if (s.key, s.upstream_sha256, s.probe, s.layer) in at]
        best = max(candidates, key=lambda s: s.mi_lower_bound_bits)
        at_best = {r.seed: c for r, c in mine if (r.probe, r.layer) == (probe, best.layer)}  # each seed once
        found.append(_mean(best, list(at_best.values())))
    return found


def _mean(best: Summary, records: Sequence[ClassRecord]) -> ClassBits:
    labels = list(dict.fromkeys(k for c in records for k in c.class_names))

    def mean_of(values: Callable[[ClassRecord], Sequence[float]]) -> dict[str, float]:
        rows = [dict(zip(c.class_names, values(c), strict=True)) for c in records]
        return {k: statistics.fmean(row.get(k, 0.0) for row in rows) for k in labels}

    tables = [np.asarray(c.confusion, dtype=np.float64) for c in records if c.confusion and c.class_names == labels]
    return ClassBits(
        model=best.upstream_sha256,
        layer=best.layer,
        probe=best.probe,
        bits=best.mi_lower_bound_bits,
        contribution=mean_of(lambda c: c.contribution_bits),
        per_frame=mean_of(lambda c: c.bits_per_frame),
        frames=mean_of(lambda c: c.eval_frames),
        confusion=np.mean(tables, axis=0) if tables else None,
    )


def phone_bits(
    found: Sequence[ClassBits], key: ComparisonKey, names: Mapping[Model, str], number: int
) -> list[Picture]:
    """Dots for each class and model: bits per frame, and the contribution to the bound; six models in a picture."""
    parts = chunks([c for m in names for c in found if c.model == m], MOST_MODELS)
    letters = "abcdefghijklmnopqrstuvwxyz" if len(parts) > 1 else [""]
    return [_draw_bits(part, key, names, f"{number}{letter}") for part, letter in zip(parts, letters, strict=False)]


def _draw_bits(found: list[ClassBits], key: ComparisonKey, names: Mapping[Model, str], number: str) -> Picture:
    style = looks(names)
    best = max(found, key=lambda c: c.bits)
    labels = sorted((k for k, n in best.frames.items() if n), key=lambda k: -best.frames[k])[:MOST_CLASSES]
    ranges = key.labels in ("pitch", "energy")  # in ascending order
    labels = [k for k in best.frames if k in labels] if ranges else in_groups(labels, best.per_frame)
    labels = labels[::-1]  # matplotlib counts from below
    phones = any(group_of(k) != "other" for k in labels)
    order = " in ascending order" if ranges else " grouped by manner of articulation" if phones else " sorted by bits"
    with sheet(8.6, max(3.0, 0.17 * len(labels) + 1.3)) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        places = range(len(labels))
        most = best.most
        left.scatter([most[k] for k in labels], places, marker="|", color="0.6", s=40, label="at most")
        for c in found:
            label = f"{names[c.model]}, {layer_word(c.layer)}"
            look = {"linestyle": "none", "markersize": 4.5, "alpha": 0.85, **style[c.model]}
            left.plot([c.per_frame.get(k, float("nan")) for k in labels], places, label=label, **look)
            right.plot([1000 * c.contribution.get(k, float("nan")) for k in labels], places, **look)
        left.set_yticks(places, [plain(k) for k in labels], fontsize=7)
        left.set_ylim(-0.7, len(labels) - 0.3)
        dress(left, "bits that a frame of the class yields", "", "how well told apart")
        dress(right, "contribution to the bound, millibits", "", "with how frequent it is")
        starts = [0, *_bounds(labels), len(labels)] if phones else [0]
        for axes in (left, right):
            axes.grid(axis="y", color="0.95", linewidth=0.6)
            axes.axvline(0, color="0.6", linewidth=0.8)
            for start in starts[1:-1]:
                axes.axhline(start - 0.5, color="0.8", linewidth=0.8)
        for start, end in itertools.pairwise(starts):
            right.text(
                1.02, (start + end - 1) / 2, group_of(labels[start]), transform=right.get_yaxis_transform(),
                fontsize=7, color="0.4", va="center", ha="left",
            )  # fmt: skip
        figure.legend(loc="outside lower center", ncols=3, fontsize=8)
        return finish(
            figure,
            f"classes_{number}",
            "Which phones are told apart" if phones else "Which classes are told apart",
            f"Bits of each class at the best layer of each model, {best.probe} probe ({key.describe()}); classes are"
            f"{order}, the grey tick is the most that a class of its frequency can yield. "
            "Left: a dot near its tick means that the class is recognised; right: how much all its frames add to "
            "I(Z;Y), below zero where the probe does worse than knowing the frequency alone.",
            f"Dots of bits by class for {', '.join(names[c.model] for c in found)}.",
        )


def confusion_pictures(
    found: Sequence[ClassBits], key: ComparisonKey, names: Mapping[Model, str], number: int
) -> list[Picture]:
    """A confusion picture for each of the best few models that have counts."""
    having = sorted((c for c in found if c.confusion is not None), key=lambda c: -c.bits)[:MOST_CONFUSIONS]
    return [_draw_confusion(c, key, names, f"{number}{chr(ord('a') + i)}") for i, c in enumerate(having)]


def _draw_confusion(c: ClassBits, key: ComparisonKey, names: Mapping[Model, str], number: str) -> Picture:
    assert c.confusion is not None
    labels = list(c.contribution)
    across = in_order_of_articulation(labels)
    down = [k for k in across if c.frames[k] > 0]
    counts = c.confusion[np.ix_([labels.index(k) for k in down], [labels.index(k) for k in across])]
    percent = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = min(8.6, max(3.6, 2.2 + 0.16 * len(across)))
    font = 7 if len(across) <= 45 else 4.5
    with sheet(size, size - 0.4) as figure:
        axes = figure.subplots()
        image = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100, aspect="auto", interpolation="none")
        axes.set_xticks(range(len(across)), [plain(k) for k in across], rotation=90, fontsize=font)
        axes.set_yticks(range(len(down)), [plain(k) for k in down], fontsize=font)
        for ticks, line in ((across, axes.axvline), (down, axes.axhline)):
            for i in _bounds(ticks):
                line(i - 0.5, color="0.75", linewidth=0.7)
        axes.set_xlabel("most probable class by the probe")
        axes.set_ylabel("true class")
        axes.spines[["top", "right"]].set_visible(True)
        bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=30, pad=0.01)
        bar.set_label("frames of the true class, %")
        return finish(
            figure,
            f"confusion_{number}",
            f"Confusions of {names[c.model]}, {layer_word(c.layer)}",
            f"Each row is a true class and sums to 100 %: where its frames go by the {c.probe} probe, at the best "
            f"layer of {names[c.model]} ({key.describe()}). A dark diagonal means that classes are recognised; dark "
            "cells inside a box are confusions within one manner of articulation, as between vowels.",
            f"Row-normalised confusion matrix of {names[c.model]}.",
        )
