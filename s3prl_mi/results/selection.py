"""Which layer, which checkpoint: the choice without labels, I(Za;Zb), alongside the choice with labels, I(Z;Y).

Pure functions on records. A curve is the mean bound over seeds by layer, or by training step. Source: Liu, Yeh and
Glass 2024, section 3 (layer-wise analysis; robustness for checkpoint selection).
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..core.config import LABELS
from ..core.types import Bits
from ..estimators.intervals import Interval
from .comparability import ComparisonKey
from .correlation import Relation, correlate
from .record import Record
from .summary import FRAMES_ORDER, PROBE_ORDER, rank_in, summarise

Curve = dict[int, Bits]
"""Layer or training step -> mean bound over seeds, in bits; ascending."""

USUAL_CLUSTERS = 50
"""The paper's; a sweep over cluster counts is seen from here where it holds it."""
USUAL_MASK = "30 of 40"
USUAL_SHIFT = "shift(60 ms)"
"""The paper's views, as records name them."""


# --- Layers -------------------------------------------------------------------------------------------------


def last_layer(records: Iterable[Record]) -> int | None:
    """The last layer of the encoder: entries behind it (VQ codes, distilled predictions) do not count.

    Returns:
        None where the last layer was not measured.
    """
    records = list(records)
    measured = {r.layer for r in records}
    return next((r.last_layer for r in records if r.last_layer in measured), None)


def best_of(curve: Mapping[int, Bits]) -> int:
    """Where a curve is highest (the lowest layer or earliest step of a tie).

    Example:
        >>> best_of({0: 1.0, 1: 2.5, 2: 2.5})
        1
    """
    return max(curve, key=lambda at: (curve[at], -at))


@dataclass(frozen=True, slots=True)
class LayerAgreement:
    """The choice of a layer without labels alongside that with labels, of one model and probe."""

    probe: str
    setting: ComparisonKey
    """Of the curve without labels."""
    unsupervised_layer: int
    """Where I(Za;Zb) is largest."""
    labelled_layer: int
    """Where I(Z;Y) is largest."""
    regret_bits: Bits
    """I(Z;Y) at the labelled choice minus I(Z;Y) at the label-free one; 0 if both are the same layer."""
    last_lost_bits: Bits | None
    """The same for taking the last layer without any measurement; None if it was not measured."""
    relation: Relation
    """Layer by layer: I(Za;Zb) against I(Z;Y)."""
    regret: Interval | None = None
    """`regret_bits` with its interval over speakers, where their sums were read and the layers differ."""

    @property
    def same(self) -> bool:
        """Whether both choices are the same layer."""
        return self.unsupervised_layer == self.labelled_layer


def layer_agreements(records: Sequence[Record]) -> list[LayerAgreement]:
    """Compare both choices for every probe and every setting of mi_views that has a labelled counterpart.

    Only layers that both tasks measured, at the same frame rate, on the same splits and by the same protocol, count.

    Args:
        records: of one model, of both tasks.
    """
    last = last_layer(records)
    found = []
    for probe in sorted({r.probe for r in records}, key=lambda p: rank_in(p, PROBE_ORDER)):
        curves = _curves((r for r in records if r.probe == probe), "layer")
        for setting, other in itertools.product(curves, repeat=2):
            if setting.task != "mi_views" or not other.of_content or _data(setting) != _data(other):
                continue
            free, labelled = curves[setting], curves[other]
            layers = sorted(free.keys() & labelled.keys())
            if setting.frame_shift_ms != other.frame_shift_ms or len(layers) < 2:
                continue
            picked, best = (best_of(_at(c, layers)) for c in (free, labelled))
            values = [free[layer] for layer in layers], [labelled[layer] for layer in layers]
            found.append(
                LayerAgreement(
                    probe=probe,
                    setting=setting,
                    unsupervised_layer=picked,
                    labelled_layer=best,
                    regret_bits=labelled[best] - labelled[picked],
                    last_lost_bits=labelled[best] - labelled[last] if last in layers and last is not None else None,
                    relation=correlate(*values, "I(Za;Zb)", "I(Z;Y)", things="layers"),
                )
            )
    return found


def _data(key: ComparisonKey) -> tuple[Any, ...]:
    """What both tasks must share, so that one can stand alongside the other."""
    return key.protocol, key.fit_splits, key.eval_splits


# --- Checkpoints --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stability:
    """How often the label-free pick is the same when one thing is changed and the speech and all else are left."""

    factor: str
    """`seed`, `view` or `clusters`."""
    picks: dict[str, int]
    """Value of the factor -> step picked with it."""
    fraction_same: float
    """Fraction of these that pick the same step as the main setting does of the steps that both have, 0 to 1."""


@dataclass(frozen=True, slots=True)
class CheckpointPick:
    """The checkpoint that I(Za;Zb) picks from a series, of one probe."""

    probe: str
    setting: ComparisonKey
    """The main setting: that of the paper where it was measured, else the first."""
    layer: int
    step: int
    curve: Curve
    """I(Za;Zb) by step, in the main setting."""
    stability: tuple[Stability, ...]
    """Over seeds, views and cluster counts; only those that were varied."""
    labelled_step: int | None
    """Where I(Z;Y) at the same layer is largest; None without labels."""
    regret_bits: Bits | None
    """I(Z;Y) at its best step minus I(Z;Y) at the picked step."""


def checkpoint_pick(records: Sequence[Record], probe: str) -> CheckpointPick | None:
    """The step with the largest I(Za;Zb) at the last layer, how stable that is, and what I(Z;Y) would pick.

    Args:
        records: of one series of checkpoints, of one or both tasks, at any number of settings.
        probe: `logistic` or `mlp`.

    Returns:
        None if fewer than two checkpoints have I(Za;Zb) there, or where two models are of one step.
    """
    layer = last_layer(records)
    own = [r for r in records if r.layer == layer and r.probe == probe and r.step is not None]
    chosen = [r for r in own if r.task == "mi_views"]
    curves = _curves(chosen, "step")
    main = min(curves, key=paper_setting_first, default=None)
    several_runs = len({(r.step, r.upstream_sha256) for r in records}) > len({r.step for r in records})
    if layer is None or main is None or len(curves[main]) < 2 or several_runs:
        return None
    curve = curves[main]
    of_labels = _curves((r for r in own if r.task == "mi_supervised"), "step")
    labelled = next((c for key, c in of_labels.items() if key.of_content and _data(key) == _data(main)), {})
    shared = {step: labelled[step] for step in sorted(curve.keys() & labelled.keys())}
    labelled_step = best_of(shared) if len(shared) > 1 else None
    return CheckpointPick(
        probe=probe,
        setting=main,
        layer=layer,
        step=best_of(curve),
        curve=curve,
        stability=tuple(_stabilities(chosen, main, curve)),
        labelled_step=labelled_step,
        regret_bits=None if labelled_step is None else shared[labelled_step] - shared[best_of(_at(curve, shared))],
    )


def _at(curve: Curve, places: Iterable[int]) -> Curve:
    return {place: curve[place] for place in places if place in curve}


def paper_setting_first(setting: ComparisonKey) -> tuple[Any, ...]:
    """Sort key: the paper's setting first; labels of what is said before those of speakers and prosody."""
    usual_view = any(name in (setting.view or "") for name in (USUAL_MASK, USUAL_SHIFT))
    about = setting.task == "mi_supervised" and not setting.of_content, rank_in(setting.labels, LABELS)
    return about, rank_in(setting.scored_frames, FRAMES_ORDER), not usual_view, setting.n_clusters != USUAL_CLUSTERS


def _stabilities(records: Sequence[Record], main: ComparisonKey, curve: Curve) -> Iterable[Stability]:
    seeds = {
        seed: _curves((r for r in records if r.seed == seed), "step") for seed in sorted({r.seed for r in records})
    }
    curves = _curves(records, "step")
    varied = {
        "seed": {str(seed): found[main] for seed, found in seeds.items() if main in found},
        "view": {str(k.view): c for k, c in curves.items() if k._replace(view=main.view) == main},
        "clusters": {str(k.n_clusters): c for k, c in curves.items() if k._replace(n_clusters=main.n_clusters) == main},
    }
    for factor, found in varied.items():
        shared = {name: _at(other, sorted(curve)) for name, other in found.items()}
        picks = {name: best_of(own) for name, own in shared.items() if own}
        if len(found) > 1:
            same = statistics.fmean(pick == best_of(_at(curve, shared[name])) for name, pick in picks.items())
            yield Stability(factor, picks, same)


def _curves(records: Iterable[Record], place: Literal["layer", "step"]) -> dict[ComparisonKey, Curve]:
    """Of one probe: means over seeds by place, for each setting; `weighted` is no layer."""
    curves: dict[ComparisonKey, Curve] = {}
    for s in summarise(records):
        at = getattr(s, place)
        if isinstance(at, int):
            curves.setdefault(s.key, {})[at] = s.mi_lower_bound_bits
    return {setting: dict(sorted(curve.items())) for setting, curve in curves.items()}
