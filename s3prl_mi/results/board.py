"""The board: what each label-free measure is worth as a picker of layers, checkpoints and models.

A *choice* is a set of candidates to pick one from: the layers of a model, or the checkpoints of a series at the last
layer. Each measure picks its best candidate; the *regret* is what the pick has less of I(Z;Y), or more of PER and WER,
than the best candidate. Taking the last layer or checkpoint, and picking at random, stand among the measures: what does
no better is not worth its time. Models (final checkpoints, at the last layer) are only correlated, not picked.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ..core.types import Bits
from ..estimators.intervals import Interval, LeftOut
from .candidates import BITS, COLLAPSED, ModelNumbers
from .correlation import Correlation, correlate
from .ties import Ties, ties

Kind = Literal["layers", "checkpoints", "models"]
KINDS: tuple[Kind, ...] = ("layers", "checkpoints", "models")
Place = int
"""Layer, training step, or number of the model."""

LAST = "last"
"""Taking the encoder's last layer, or the last checkpoint, without any measurement, as if it were a measure."""
RANDOM = "random"
"""Taking any candidate: a measure that is constant, whose regret is the mean over all of them."""
BASELINES = (LAST, RANDOM)
PAID_IN = (BITS, "per", "wer")
"""What a regret is counted in: bits of I(Z;Y), points of error rates."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Candidates to pick one from: their scores by every measure, and what they are judged by.

    Attributes:
        kind: of what.
        name: whose layers, or which series.
        run: the training run that it is of: layers of several checkpoints of one run tell less than those of several.
        last: the candidate that is taken without any measurement.
        scores: measure -> candidate -> score, larger is better.
        truth: `bits`, `pnmi`, `per`, `wer` -> candidate -> value; error rates are negative, so larger is better. `per`
            and `wer` may lack some candidates.
        left_out: `bits`, `per`, `wer` -> candidate -> the same without each speaker.
        untrained: candidates that never trained.
        collapsed: candidates whose states have collapsed.
    """

    kind: Kind
    name: str
    run: str
    last: Place
    scores: Mapping[str, Mapping[Place, float]]
    truth: Mapping[str, Mapping[Place, float]]
    left_out: Mapping[str, Mapping[Place, LeftOut]] = field(default_factory=dict)
    untrained: frozenset[Place] = frozenset()
    collapsed: frozenset[Place] = frozenset()

    @property
    def best(self) -> Place:
        """The candidate with the most I(Z;Y)."""
        return max(self.truth[BITS], key=lambda k: self.truth[BITS][k])

    def regret(self, judge: str, picks: Sequence[Place]) -> Regret | None:
        """What the best candidate has more than picks have on average.

        Returns:
            None unless all candidates have a value.
        """
        truth, sums = self.truth.get(judge, {}), self.left_out.get(judge, {})
        if set(truth) != set(self.truth[BITS]):
            return None
        best = max(truth, key=lambda k: truth[k])
        known = [sums[k] for k in (best, *picks) if k in sums]
        paired = len(known) == 1 + len(picks) and len({k.groups for k in known}) == 1
        value = truth[best] - statistics.fmean(truth[k] for k in picks)
        return Regret(value, known[0] - LeftOut.mean(known[1:]) if paired else None)


@dataclass(frozen=True, slots=True)
class Regret:
    """What picks give up, in bits of I(Z;Y) or points of an error rate; the same without each speaker, where known."""

    value: float
    left_out: LeftOut | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """One measure in one choice.

    Attributes:
        measure: its name.
        choice: of candidates.
        picks: the candidate that it picks; several where it cannot choose between them (a regret is then their mean).
        best: the one with the most bits of I(Z;Y).
        regrets: by what they are counted in, `PAID_IN`.
        relations: rank correlation with what candidates are judged by, where there are enough of them.
        notices_untrained: whether it prefers the best checkpoint to the one that never trained; None without one.
        notices_collapse: the same of collapsed ones.
    """

    measure: str
    choice: Choice
    picks: tuple[Place, ...]
    best: Place
    regrets: Mapping[str, Regret]
    relations: Mapping[str, Correlation]
    notices_untrained: bool | None
    notices_collapse: bool | None


def choices(models: Sequence[ModelNumbers]) -> list[Choice]:
    """All sets of at least two candidates that share a measure and I(Z;Y)."""
    trained = [m for m in models if (m.step or 0) > 0]
    # step 0 of a run that continues another is that other's last checkpoint
    fresh = {m.model for m in models if m.step == 0 and all(m.truth[BITS] != other.truth[BITS] for other in trained)}
    different: dict[tuple[object, ...], ModelNumbers] = {}
    for m in models:
        if m.model not in fresh:
            different.setdefault((m.data, tuple(m.truth[BITS].items())), m)
    found = [c for m in different.values() for c in _of_layers(m)]
    series: dict[tuple[object, ...], list[ModelNumbers]] = {}
    final: dict[tuple[object, ...], dict[object, ModelNumbers]] = {}
    for m in sorted(models, key=lambda m: m.step or 0):
        final.setdefault(m.data, {})[m.series or m.model] = m
        if m.series is not None and m.step is not None:
            series.setdefault((m.series, m.data), []).append(m)
    found += [c for (name, _), own in series.items() for c in _of_models("checkpoints", str(name), own, fresh)]
    return found + [c for o in final.values() for c in _of_models("models", f"{len(o)} models", [*o.values()], set())]


def _of_layers(m: ModelNumbers) -> list[Choice]:
    layers = sorted(m.truth[BITS])
    scores = {n: {k: v[k] for k in layers} for n, v in m.free.items() if set(layers) <= set(v)}
    if len(layers) < 2 or not scores:
        return []
    truth = {n: v for n, v in m.truth.items() if set(layers) <= set(v)}
    return [Choice("layers", m.name, m.series or m.name, m.last, scores, truth, {BITS: m.left_out})]


def _of_models(kind: Kind, name: str, models: Sequence[ModelNumbers], fresh: set[str]) -> list[Choice]:
    """Candidates at the last layer of each, by step or number."""
    own = [m for m in models if m.last in m.truth[BITS]]
    place = {i if kind == "models" else m.step or 0: m for i, m in enumerate(own)}
    names = [n for n in own[0].free if all(m.last in m.free.get(n, {}) for m in own)] if own else []
    if len(place) < 2 or len(place) < len(own) or not names:
        return []
    truth = {t: {k: m.truth[t][m.last] for k, m in place.items() if m.last in m.truth[t]} for t in (BITS, "pnmi")}
    left_out = {BITS: {k: m.left_out[m.last] for k, m in place.items() if m.last in m.left_out}}
    for rate in ("per", "wer"):
        truth[rate] = {k: -m.rates[rate] for k, m in place.items() if rate in m.rates}
        known = {k: m.rates_left_out[rate] for k, m in place.items() if rate in m.rates_left_out}
        left_out[rate] = {k: _negative(o) for k, o in known.items()}
    scores = {n: {k: m.free[n][m.last] for k, m in place.items()} for n in names}
    choice = Choice(kind, name, name, max(place), scores, {t: v for t, v in truth.items() if v}, left_out)
    if kind == "models":
        return [choice]
    untrained = frozenset(k for k, m in place.items() if m.model in fresh)
    gone = frozenset(k for k, m in place.items() if m.spread.get(m.last, math.inf) < COLLAPSED)
    return [replace(choice, untrained=untrained, collapsed=gone - untrained)]


def _negative(o: LeftOut) -> LeftOut:
    return replace(o, value=-o.value, without_each=-o.without_each)


def verdicts(choice: Choice) -> list[Verdict]:
    """What each measure does in a choice, and what costs nothing; a random pick is a measure that is constant."""
    found = [_verdict(choice, name, scores) for name, scores in choice.scores.items()]
    if choice.kind == "models":
        return found
    places = sorted(choice.truth[BITS])
    # entries behind the encoder (codes) are no later layers
    later = {k: float(k) if k <= choice.last else -1.0 for k in places}
    return [*found, _verdict(choice, LAST, later), _verdict(choice, RANDOM, dict.fromkeys(places, 0.0))]


def _verdict(choice: Choice, name: str, scores: Mapping[Place, float]) -> Verdict:
    picks, best = tuple(k for k in scores if scores[k] == max(scores.values())), choice.best
    relations = {}
    for t, truth in choice.truth.items():
        known = [k for k in scores if k in truth]
        rho = correlate([scores[k] for k in known], [truth[k] for k in known], name, t).of("spearman")
        if rho is not None:
            relations[t] = rho
    return Verdict(
        measure=name,
        choice=choice,
        picks=picks,
        best=best,
        regrets={t: r for t in PAID_IN if (r := choice.regret(t, picks)) is not None},
        relations=relations,
        notices_untrained=_prefers(scores, best, choice.untrained),
        notices_collapse=_prefers(scores, best, choice.collapsed),
    )


def _prefers(scores: Mapping[Place, float], best: Place, others: frozenset[Place]) -> bool | None:
    """Whether the best candidate is above all of these; None without any, or where it is one of them."""
    return all(scores[best] > scores[k] for k in others) if others and best not in others else None


@dataclass(frozen=True, slots=True)
class Standing:
    """One measure over all choices of a kind.

    Attributes:
        n: choices.
        regrets: mean regret with its interval over speakers, by what it is counted in; those that all choices have.
        worst: the largest regret, by what it is counted in.
        left_out: the mean regrets without each speaker, where all choices are scored on the same ones.
        rho: by what it is judged, the mean correlation over choices (with the interval of the one where there is one).
        rho_range: the lowest and the highest of these correlations.
        untrained: how many series it notices a model that never trained in, and of how many.
        collapsed: the same of collapsed checkpoints.
    """

    n: int
    regrets: Mapping[str, Interval]
    worst: Mapping[str, float]
    left_out: Mapping[str, LeftOut]
    rho: Mapping[str, Correlation]
    rho_range: Mapping[str, tuple[float, float]]
    untrained: tuple[int, int]
    collapsed: tuple[int, int]

    @property
    def bits(self) -> Bits:
        """The mean regret in bits of I(Z;Y)."""
        return self.regrets[BITS].value


@dataclass(frozen=True, slots=True)
class Board:
    """All measures by kind of choice.

    Attributes:
        choices: all that were judged.
        verdicts: of every measure in every choice.
        standings: kind -> measure (and `BASELINES`) -> how it did; by mean regret, then by worst.
        lacking: kind -> measures that some choice lacks, which are left out.
        tied: kind -> what regrets are counted in -> which measures the speech scored cannot tell from that of the
            least; without those that have no sums by speaker.
        seconds: by measure, of one layer.
    """

    choices: list[Choice]
    verdicts: list[Verdict]
    standings: dict[Kind, dict[str, Standing]]
    lacking: dict[Kind, list[str]]
    tied: dict[Kind, dict[str, Ties[str]]]
    seconds: dict[str, float]

    def best(self, kind: Kind, paid: str = BITS) -> list[str]:
        """The measure with the least regret, and those that cannot be told from it on this speech; least first.

        Without sums by speaker: those of exactly the same regret.
        """
        regrets = {m: s.regrets[paid].value for m, s in self.standings[kind].items()}
        tied = self.tied[kind].get(paid)
        names = tied.tied if tied is not None else [m for m in regrets if regrets[m] == min(regrets.values())]
        return sorted(names, key=lambda m: regrets[m])

    def stays_first(self, kind: Kind) -> tuple[int, int]:
        """In how many cases what gives up least still does without one training run, and of how many.

        Returns:
            (0, 0) with a single run.
        """
        own = [v for v in self.verdicts if v.choice.kind == kind and v.measure in self.standings[kind]]
        runs = dict.fromkeys(v.choice.run for v in own)
        first, stays = next(iter(self.standings[kind])), 0
        for run in runs if len(runs) > 1 else ():
            left: dict[str, list[Bits]] = {}
            for v in own:
                if v.choice.run != run:
                    left.setdefault(v.measure, []).append(v.regrets[BITS].value)
            means = {m: statistics.fmean(regrets) for m, regrets in left.items()}
            stays += means[first] == min(means.values())
        return stays, len(runs) if len(runs) > 1 else 0


def board_of(models: Sequence[ModelNumbers]) -> Board:
    """Judge all measures on all choices."""
    found = choices(models)
    every = [v for c in found for v in verdicts(c)]
    standings: dict[Kind, dict[str, Standing]] = {}
    lacking: dict[Kind, list[str]] = {}
    for kind in KINDS:
        n = sum(c.kind == kind for c in found)
        by_name: dict[str, list[Verdict]] = {}
        for v in every:
            if v.choice.kind == kind:
                by_name.setdefault(v.measure, []).append(v)
        # measures that some choice lacks would be judged on easier or harder ones
        lacking[kind] = [name for name, own in by_name.items() if len(own) < n]
        known = {name: _standing(own) for name, own in by_name.items() if len(own) == n}
        order = sorted(known, key=lambda m: (known[m].bits, known[m].worst[BITS]))
        standings[kind] = {name: known[name] for name in order}
    times: dict[str, list[float]] = {}
    for m in models:
        for name, seconds in m.seconds.items():
            times.setdefault(name, []).append(seconds)
    mean_times = {n: statistics.fmean(t) for n, t in times.items()}
    return Board(found, every, standings, lacking, {k: _tied(own) for k, own in standings.items()}, mean_times)


def _tied(standings: Mapping[str, Standing]) -> dict[str, Ties[str]]:
    """By what is given up, so that the least is best."""
    found = {}
    for paid in PAID_IN:
        known = {m: s.left_out[paid] for m, s in standings.items() if paid in s.left_out}
        tied = ties({m: _negative(o) for m, o in known.items()}) if len(known) == len(standings) else None
        if tied is not None:
            found[paid] = tied
    return found


def _standing(own: Sequence[Verdict]) -> Standing:
    regrets = {t: [v.regrets[t] for v in own if t in v.regrets] for t in PAID_IN}
    regrets = {t: r for t, r in regrets.items() if len(r) == len(own)}
    sums = {t: _mean(r) for t, r in regrets.items()}
    alone = {t: Interval(statistics.fmean(r.value for r in found), None, None, None, 0) for t, found in regrets.items()}
    rho, ranges = {}, {}
    for t in dict.fromkeys(t for v in own for t in v.relations):
        found = [v.relations[t] for v in own if t in v.relations]
        ranges[t] = (min(c.value for c in found), max(c.value for c in found))
        mean = Correlation("spearman", statistics.fmean(c.value for c in found), None, None, min(c.n for c in found))
        rho[t] = found[0] if len(found) == 1 else mean
    return Standing(
        n=len(own),
        regrets={t: s.interval() if (s := sums[t]) is not None else alone[t] for t in regrets},
        worst={t: max(r.value for r in found) for t, found in regrets.items()},
        left_out={t: s for t, s in sums.items() if s is not None},
        rho=rho,
        rho_range=ranges,
        untrained=_noticed(v.notices_untrained for v in own),
        collapsed=_noticed(v.notices_collapse for v in own),
    )


def _mean(regrets: Sequence[Regret]) -> LeftOut | None:
    """Over choices that are all scored on the same speakers."""
    known = [r.left_out for r in regrets if r.left_out is not None]
    same = len(known) == len(regrets) and len({k.groups for k in known}) == 1
    return LeftOut.mean(known) if same else None


def _noticed(found: Iterable[bool | None]) -> tuple[int, int]:
    known = [n for n in found if n is not None]
    return sum(known), len(known)
