"""What the board reads of each model: label-free measures by layer, and what they are judged by."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..estimators.intervals import LeftOut
from ..estimators.measures.registry import Better, measures
from .collect import Result
from .measures import MEASURES_FILE, MeasureRecord, read_measures
from .selection import paper_setting_first
from .summary import PROBE_ORDER, Summary, rank_in

BOUND = "mi_views"
"""I(Za;Zb) as the run measured it, among the measures."""
SAFE_BOUND = "mi_views_safe"
"""The same, with layers and checkpoints that have collapsed behind all others."""
BITS = "bits"
"""I(Z;Y), among what measures are judged by; the others are `pnmi`, `per` and `wer`."""
COLLAPSED = 2.0
"""A trained checkpoint with a participation ratio below this has collapsed: one axis carries nearly all variance."""
BEHIND = 1000.0
"""Bits: more than any bound has."""


@dataclass(frozen=True, slots=True)
class ModelNumbers:
    """What the board reads of one model on one set of splits.

    Attributes:
        model: hash of the model.
        name: of the model.
        data: what its bounds may be compared with; models that differ in it are not.
        series: name of its series of checkpoints, if it is of one.
        step: of the checkpoint.
        last: the last layer of the encoder that was measured.
        free: label-free measures -> layer -> score, larger is better.
        truth: `bits`, `pnmi` -> layer -> value.
        left_out: I(Z;Y) of each layer without each speaker.
        rates: `per`, `wer`, in percent.
        rates_left_out: the same without each speaker, where errors were counted.
        spread: participation ratio by layer.
        seconds: by measure, of one layer.
    """

    model: str
    name: str
    data: tuple[object, ...]
    series: str | None
    step: int | None
    last: int
    free: Mapping[str, Mapping[int, float]]
    truth: Mapping[str, Mapping[int, float]]
    left_out: Mapping[int, LeftOut]
    rates: Mapping[str, float]
    rates_left_out: Mapping[str, LeftOut]
    spread: Mapping[int, float]
    seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Rate:
    """An error rate of one model: percent, and what it is without each speaker where errors were counted."""

    percent: float
    left_out: LeftOut | None = None


def of_phones(s: Summary) -> bool:
    """Whether it is I(Z;Y) of phones, by which alone the board judges."""
    return s.key.of_content and s.key.labels != "words"


def numbers_of(
    results: Sequence[Result],
    summaries: Sequence[Summary],
    names: Mapping[str, str],
    series: Mapping[str, str],
    rates: Mapping[str, Mapping[str, Rate]],
) -> list[ModelNumbers]:
    """The numbers of every model that both tasks measured, with phones as labels.

    Args:
        results: whose `mi_measures.jsonl` are read.
        summaries: of their records, with sums by speaker for intervals.
        names: of models, by hash.
        series: name of the series, by hash.
        rates: PER and WER, by hash.
    """
    values = _values(results)
    groups: dict[tuple[str, tuple[object, ...]], list[Summary]] = {}
    for s in summaries:
        groups.setdefault((s.upstream_sha256, _data(s)), []).append(s)
    last = {r.upstream_sha256: r.last_layer for result in results for r in result.records}
    times: dict[str, list[float]] = {}
    for r in (r for result in results for r in result.records if r.task == "mi_views"):
        times.setdefault(r.upstream_sha256, []).append(r.seconds)
    table, found = measures(), []
    for (model, data), own in groups.items():
        bound, bits = _curve(own, "mi_views"), _curve([s for s in own if of_phones(s)], "mi_supervised")
        if not bound or not bits:
            continue
        of_model = values.get((model, data), {})
        scores = {
            name: {n: score(m.value, table[name].better) for n, m in by_layer.items() if m.value is not None}
            for name, by_layer in of_model.items()
            if name in table and table[name].task == "mi_views"
        }
        plain = {name: {n: m.value for n, m in of.items() if m.value is not None} for name, of in of_model.items()}
        spread, own_rates = plain.get("participation_ratio", {}), rates.get(model, {})
        seconds = {name: statistics.fmean(m.seconds for m in of.values()) for name, of in of_model.items()}
        found.append(
            ModelNumbers(
                model=model,
                name=names[model],
                data=tuple(next(iter(curve.values())).key for curve in (bound, bits)),
                series=series.get(model),
                step=own[0].step,
                last=max((n for n in bits if n <= last[model]), default=max(bits)),
                free={**_bounds(bound, spread), **scores},
                truth={BITS: {n: s.mi_lower_bound_bits for n, s in bits.items()}, "pnmi": plain.get("pnmi", {})},
                left_out={n: s.left_out for n, s in bits.items() if s.left_out is not None},
                rates={t: r.percent for t, r in own_rates.items()},
                rates_left_out={t: r.left_out for t, r in own_rates.items() if r.left_out is not None},
                spread=spread,
                seconds=seconds | {BOUND: statistics.fmean(times[model])},
            )
        )
    return found


def _data(estimate: Summary | MeasureRecord) -> tuple[object, ...]:
    """What measures, which have no `ComparisonKey`, share with the bounds that they stand next to."""
    e = estimate
    return e.protocol, tuple(e.fit_splits), tuple(e.eval_splits), e.frame_shift_ms


def _values(
    results: Sequence[Result],
) -> dict[tuple[str, tuple[object, ...]], dict[str, dict[int, MeasureRecord]]]:
    """Measures by model and data, name and layer; without those of other labels than phones."""
    found: dict[tuple[str, tuple[object, ...]], dict[str, dict[int, MeasureRecord]]] = {}
    for folder in dict.fromkeys(r.folder for r in results):
        for m in read_measures(folder / MEASURES_FILE):
            if not isinstance(m.layer, int) or m.labels not in (None, "phones"):
                continue
            found.setdefault((m.upstream_sha256, _data(m)), {}).setdefault(m.measure, {})[m.layer] = m
    return found


def _bounds(bound: Mapping[int, Summary], spread: Mapping[int, float]) -> dict[str, dict[int, float]]:
    """The bound by layer, as it is and, where the participation ratio is known, with collapsed layers last."""
    bits = {n: s.mi_lower_bound_bits for n, s in bound.items()}
    found = {BOUND: bits} if bits else {}
    if bits and set(bits) <= set(spread):
        found[SAFE_BOUND] = {n: b - BEHIND * (spread[n] < COLLAPSED) for n, b in bits.items()}
    return found


def score(value: float, better: Better) -> float:
    """Larger is better, whatever the measure's direction.

    Example:
        >>> score(2.0, "higher"), score(2.0, "lower"), score(1.5, "near 1")
        (2.0, -2.0, -0.5)
    """
    return {"higher": value, "lower": -value, "near 1": -abs(value - 1)}[better]


def _curve(summaries: Sequence[Summary], task: str) -> dict[int, Summary]:
    """Of one task by layer: the paper's setting, and the probe that comes last in the registry and has all layers."""
    own = [s for s in summaries if s.task == task and isinstance(s.layer, int)]
    if not own:
        return {}
    main = min((s.key for s in own), key=paper_setting_first)
    by_probe: dict[str, dict[int, Summary]] = {}
    for s in own:
        if s.key == main and isinstance(s.layer, int):
            by_probe.setdefault(s.probe, {})[s.layer] = s
    return max(by_probe.values(), key=lambda c: (len(c), rank_in(next(iter(c.values())).probe, PROBE_ORDER)))
