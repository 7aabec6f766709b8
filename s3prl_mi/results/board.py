"""The board: what each label-free measure is worth as a picker of layers, checkpoints and models.

A *choice* is a set of candidates to pick one from: the layers of a model, or the checkpoints of a series at the last
layer. Each measure picks its best candidate; the *regret* is what the pick has less of I(Z;Y), or more of PER, than the
best candidate. Taking the last layer or checkpoint, and picking at random, are on the board too: what does no better
than these is not worth its time. Models (final checkpoints, at the last layer) are only correlated, not picked.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..core.types import Bits
from ..estimators.intervals import Interval, LeftOut
from ..estimators.measures.registry import Better, measures
from .collect import Result
from .correlation import Correlation, correlate
from .measures import MEASURES_FILE, read_measures
from .selection import paper_setting_first
from .summary import PROBE_ORDER, Summary, rank_in

Kind = Literal["layers", "checkpoints", "models"]
Place = int
"""Layer, training step, or number of the model."""

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
NEVER_TRAINED = 0
"""Training step of a model that never trained."""


@dataclass(frozen=True, slots=True)
class ModelNumbers:
    """What the board reads of one model on one set of splits.

    Attributes:
        model: hash of the model.
        name: of the model.
        data: protocol, fit splits, eval splits and frame shift: models that differ in it are not compared.
        series: name of its series of checkpoints, if it is of one.
        step: of the checkpoint.
        last: the last layer of the encoder that was measured.
        free: label-free measures -> layer -> score, larger is better.
        truth: `bits`, `pnmi` -> layer -> value.
        left_out: I(Z;Y) of each layer without each speaker.
        rates: `per`, `wer`, in percent.
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
    spread: Mapping[int, float]
    seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Choice:
    """Candidates to pick one from: their scores by every measure, and what they are judged by.

    Attributes:
        kind: of what.
        name: whose layers, or which series.
        scores: measure -> candidate -> score, larger is better.
        truth: `bits`, `pnmi`, `per`, `wer` -> candidate -> value; error rates are negative, so larger is better.
        left_out: I(Z;Y) of each candidate without each speaker.
        collapsed: candidates whose states have collapsed.
    """

    kind: Kind
    name: str
    scores: Mapping[str, Mapping[Place, float]]
    truth: Mapping[str, Mapping[Place, float]]
    left_out: Mapping[Place, LeftOut]
    collapsed: frozenset[Place] = frozenset()


@dataclass(frozen=True, slots=True)
class Verdict:
    """One measure in one choice.

    Attributes:
        measure: its name.
        choice: of candidates.
        pick: the candidate that it picks.
        best: the one with the most bits of I(Z;Y).
        regret_bits: I(Z;Y) at the best minus that at the pick.
        regret: the same without each speaker, where known.
        regret_per: PER at the pick minus the lowest, in points.
        relations: rank correlation with what candidates are judged by, where there are enough of them.
        notices_untrained: whether it prefers the best checkpoint to the one that never trained; None without one.
        notices_collapse: the same of collapsed ones.
    """

    measure: str
    choice: Choice
    pick: Place
    best: Place
    regret_bits: Bits
    regret: LeftOut | None
    regret_per: float | None
    relations: Mapping[str, Correlation]
    notices_untrained: bool | None
    notices_collapse: bool | None


def numbers_of(
    results: Sequence[Result],
    summaries: Sequence[Summary],
    names: Mapping[str, str],
    series: Mapping[str, str],
    rates: Mapping[str, Mapping[str, float]],
) -> list[ModelNumbers]:
    """The numbers of every model that both tasks measured.

    Args:
        results: whose `mi_measures.jsonl` are read.
        summaries: of their records, with sums by speaker for intervals.
        names: of models, by hash.
        series: name of the series, by hash.
        rates: PER and WER in percent, by hash.
    """
    table = measures()
    free: dict[tuple[str, tuple[object, ...]], dict[str, dict[int, float]]] = {}
    seconds: dict[tuple[str, tuple[object, ...]], dict[str, list[float]]] = {}
    for folder in dict.fromkeys(r.folder for r in results):
        for m in read_measures(folder / MEASURES_FILE):
            if isinstance(m.layer, int) and m.value is not None:
                data: tuple[object, ...] = (m.protocol, tuple(m.fit_splits), tuple(m.eval_splits), m.frame_shift_ms)
                free.setdefault((m.upstream_sha256, data), {}).setdefault(m.measure, {})[m.layer] = m.value
                seconds.setdefault((m.upstream_sha256, data), {}).setdefault(m.measure, []).append(m.seconds)
    groups: dict[tuple[str, tuple[object, ...]], list[Summary]] = {}
    for s in summaries:
        data = (s.protocol, s.fit_splits, s.eval_splits, s.frame_shift_ms)
        groups.setdefault((s.upstream_sha256, data), []).append(s)
    last = {r.upstream_sha256: r.last_layer for result in results for r in result.records}
    found = []
    for (model, data), own in groups.items():
        bound, bits = (_curve(own, task) for task in ("mi_views", "mi_supervised"))
        values = free.get((model, data), {})
        if not bits or not (bound or values):
            continue
        scores = {
            name: {layer: score(v, table[name].better) for layer, v in by_layer.items()}
            for name, by_layer in values.items()
            if name in table and table[name].task == "mi_views"
        }
        found.append(
            ModelNumbers(
                model=model,
                name=names[model],
                data=data,
                series=series.get(model),
                step=own[0].step,
                last=max((n for n in bits if n <= last[model]), default=max(bits)),
                free={**_bounds(bound, values.get("participation_ratio", {})), **scores},
                truth={BITS: {n: s.mi_lower_bound_bits for n, s in bits.items()}, "pnmi": values.get("pnmi", {})},
                left_out={n: s.left_out for n, s in bits.items() if s.left_out is not None},
                rates=rates.get(model, {}),
                spread=values.get("participation_ratio", {}),
                seconds={m: statistics.fmean(t) for m, t in seconds.get((model, data), {}).items()},
            )
        )
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


def choices(models: Sequence[ModelNumbers]) -> list[Choice]:
    """All sets of at least two candidates that share a measure and I(Z;Y)."""
    found = [c for m in models if m.step != NEVER_TRAINED for c in _of_layers(m)]
    series: dict[tuple[object, ...], list[ModelNumbers]] = {}
    for m in models:
        if m.series is not None and m.step is not None:
            series.setdefault((m.series, m.data), []).append(m)
    found += [c for (name, _), own in series.items() for c in _of_models("checkpoints", str(name), own)]
    final: dict[tuple[object, ...], dict[object, ModelNumbers]] = {}
    for m in sorted(models, key=lambda m: m.step or 0):
        final.setdefault(m.data, {})[m.series or m.model] = m
    found += [c for own in final.values() for c in _of_models("models", f"{len(own)} models", list(own.values()))]
    return found


def _of_layers(m: ModelNumbers) -> list[Choice]:
    layers = sorted(m.truth[BITS])
    scores = {n: {k: v[k] for k in layers} for n, v in m.free.items() if set(layers) <= set(v)}
    truth = {n: v for n, v in m.truth.items() if set(layers) <= set(v)}
    return [Choice("layers", m.name, scores, truth, m.left_out)] if len(layers) > 1 and scores else []


def _of_models(kind: Kind, name: str, models: Sequence[ModelNumbers]) -> list[Choice]:
    """Candidates at the last layer of each, by step or number."""
    own = [m for m in models if m.last in m.truth[BITS]]
    place = {i if kind == "models" else m.step or 0: m for i, m in enumerate(own)}
    names = [n for n in own[0].free if all(m.last in m.free.get(n, {}) for m in own)] if own else []
    if len(place) < 2 or len(place) < len(own) or not names:
        return []
    truth = {
        t: {k: m.truth[t][m.last] for k, m in place.items()}
        for t in (BITS, "pnmi")
        if all(m.last in m.truth[t] for m in own)
    }
    for rate in ("per", "wer"):
        if all(rate in m.rates for m in own):
            truth[rate] = {k: -m.rates[rate] for k, m in place.items()}
    gone = (k for k, m in place.items() if m.step != NEVER_TRAINED and m.spread.get(m.last, math.inf) < COLLAPSED)
    left_out = {k: m.left_out[m.last] for k, m in place.items() if m.last in m.left_out}
    scores = {n: {k: m.free[n][m.last] for k, m in place.items()} for n in names}
    return [Choice(kind, name, scores, truth, left_out, frozenset(gone) if kind == "checkpoints" else frozenset())]


def verdicts(choice: Choice) -> list[Verdict]:
    """What each measure does in a choice; the first one of a tie is picked."""
    return [_verdict(choice, name, scores) for name, scores in choice.scores.items()]


def _verdict(choice: Choice, name: str, scores: Mapping[Place, float]) -> Verdict:
    bits = choice.truth[BITS]
    pick, best = max(scores, key=lambda k: scores[k]), max(bits, key=lambda k: bits[k])
    sums, per = choice.left_out, choice.truth.get("per")
    paired = best in sums and pick in sums and sums[best].groups == sums[pick].groups
    relations = {}
    for t, truth in choice.truth.items():
        rho = correlate(list(scores.values()), [truth[k] for k in scores], name, t).of("spearman")
        if rho is not None:
            relations[t] = rho
    prefers = {k: scores[best] > scores[k] for k in scores}
    rivals = [prefers[k] for k in choice.collapsed if k != best]
    untrained = prefers.get(NEVER_TRAINED) if choice.kind == "checkpoints" and best != NEVER_TRAINED else None
    return Verdict(
        measure=name,
        choice=choice,
        pick=pick,
        best=best,
        regret_bits=bits[best] - bits[pick],
        regret=sums[best] - sums[pick] if paired else None,
        regret_per=None if per is None else max(per.values()) - per[pick],
        relations=relations,
        notices_untrained=untrained,
        notices_collapse=all(rivals) if rivals else None,
    )


@dataclass(frozen=True, slots=True)
class Standing:
    """One measure over all choices of a kind.

    Attributes:
        n: choices.
        regret_bits: mean regret with its interval over speakers.
        worst_bits: the largest regret.
        regret_per: mean regret in points of PER; None without PER.
        rho: by what it is judged, the mean correlation over choices (with the interval of the one where there is one).
        rho_range: the lowest and the highest of these correlations.
        untrained: how many series it notices a model that never trained in, and of how many.
        collapsed: the same of collapsed checkpoints.
    """

    n: int
    regret_bits: Interval
    worst_bits: Bits
    regret_per: float | None
    rho: Mapping[str, Correlation]
    rho_range: Mapping[str, tuple[float, float]]
    untrained: tuple[int, int]
    collapsed: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Board:
    """All measures by kind of choice; `last` and `random` are what costs nothing: mean regret by kind."""

    choices: list[Choice]
    verdicts: list[Verdict]
    standings: dict[Kind, dict[str, Standing]]
    last: dict[Kind, Bits]
    random: dict[Kind, Bits]
    seconds: dict[str, float]

    def ranking(self, kind: Kind) -> list[str]:
        """Measures by mean regret, then by worst."""
        own = self.standings.get(kind, {})
        return sorted(own, key=lambda m: (own[m].regret_bits.value, own[m].worst_bits))


def board_of(models: Sequence[ModelNumbers]) -> Board:
    """Judge all measures on all choices."""
    found = choices(models)
    every = [v for c in found for v in verdicts(c)]
    kinds: tuple[Kind, ...] = ("layers", "checkpoints", "models")
    standings: dict[Kind, dict[str, Standing]] = {}
    last: dict[Kind, Bits] = {}
    random: dict[Kind, Bits] = {}
    for kind in kinds:
        own = [v for v in every if v.choice.kind == kind]
        # measures that some choice lacks would be judged on easier or harder ones
        n = sum(c.kind == kind for c in found)
        by_name: dict[str, list[Verdict]] = {}
        for v in own:
            by_name.setdefault(v.measure, []).append(v)
        standings[kind] = {name: _standing(vs) for name, vs in by_name.items() if len(vs) == n}
        bits = [c.truth[BITS] for c in found if c.kind == kind]
        if bits and kind != "models":
            last[kind] = statistics.fmean(max(b.values()) - b[max(b)] for b in bits)
            random[kind] = statistics.fmean(max(b.values()) - statistics.fmean(b.values()) for b in bits)
    times: dict[str, list[float]] = {}
    for m in models:
        for name, seconds in m.seconds.items():
            times.setdefault(name, []).append(seconds)
    return Board(found, every, standings, last, random, {n: statistics.fmean(t) for n, t in times.items()})


def _standing(own: Sequence[Verdict]) -> Standing:
    regrets = [v.regret for v in own if v.regret is not None]
    mean = statistics.fmean(v.regret_bits for v in own)
    same = len(regrets) == len(own) and len({r.groups for r in regrets}) == 1
    interval = LeftOut.mean(regrets).interval() if same else Interval(mean, None, None, None, 0)
    per = [v.regret_per for v in own if v.regret_per is not None]
    rho, ranges = {}, {}
    for t in dict.fromkeys(t for v in own for t in v.relations):
        found = [v.relations[t] for v in own if t in v.relations]
        n = min(c.n for c in found)
        ranges[t] = (min(c.value for c in found), max(c.value for c in found))
        value = statistics.fmean(c.value for c in found)
        rho[t] = found[0] if len(found) == 1 else Correlation("spearman", value, None, None, n)
    return Standing(
        len(own),
        interval,
        max(v.regret_bits for v in own),
        statistics.fmean(per) if per and len(per) == len(own) else None,
        rho,
        ranges,
        _noticed(v.notices_untrained for v in own),
        _noticed(v.notices_collapse for v in own),
    )


def _noticed(found: Iterable[bool | None]) -> tuple[int, int]:
    known = [n for n in found if n is not None]
    return sum(known), len(known)
