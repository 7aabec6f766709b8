"""Which layer, which checkpoint: the choice without labels, I(Za;Zb), alongside the choice with labels, I(Z;Y).

Pure functions on records. A curve is the mean bound over seeds by layer, or by training step. Source: Liu, Yeh and
Glass 2024, section 3 (layer-wise analysis; robustness for checkpoint selection).
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.errors import MIError
from ..core.types import Bits
from .comparability import NOTED, ComparisonKey
from .correlation import Relation, correlate
from .record import Record
from .summary import FRAMES_ORDER, PROBE_ORDER, rank_in

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
        curves = _curves((r for r in records if r.probe == probe), _layer)
        for free, labelled in itertools.product(curves, repeat=2):
            if (free.task, labelled.task) != ("mi_views", "mi_supervised"):
                continue
            if (_data(free), free.frame_shift_ms) != (_data(labelled), labelled.frame_shift_ms):
                continue
            layers = sorted(curves[free].keys() & curves[labelled].keys())
            if len(layers) > 1:
                found.append(_agreement(probe, free, curves[free], curves[labelled], layers, last))
    return found


def _data(key: ComparisonKey) -> tuple[Any, ...]:
    """What both tasks must share, so that one can stand alongside the other."""
    return key.protocol, key.fit_splits, key.eval_splits


def _agreement(
    probe: str, setting: ComparisonKey, free: Curve, labelled: Curve, layers: list[int], last: int | None
) -> LayerAgreement:
    picked = best_of({layer: free[layer] for layer in layers})
    best = best_of({layer: labelled[layer] for layer in layers})
    return LayerAgreement(
        probe=probe,
        setting=setting,
        unsupervised_layer=picked,
        labelled_layer=best,
        regret_bits=labelled[best] - labelled[picked],
        last_lost_bits=labelled[best] - labelled[last] if last in layers and last is not None else None,
        relation=correlate(
            [free[layer] for layer in layers],
            [labelled[layer] for layer in layers],
            "I(Za;Zb)",
            "I(Z;Y)",
            things="layers",
        ),
    )


# --- Checkpoints --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stability:
    """How stable the label-free pick is when one thing is changed and all else is left."""

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
    bits: Bits
    """I(Za;Zb) there."""
    curve: Curve
    """I(Za;Zb) by step, in the main setting."""
    stability: tuple[Stability, ...]
    """Over seeds, views and cluster counts; only those that were varied."""
    labelled_curve: Curve | None
    """I(Z;Y) by step at the same layer; None without labels."""
    labelled_step: int | None
    """Where I(Z;Y) is largest."""
    regret_bits: Bits | None
    """I(Z;Y) at its best step minus I(Z;Y) at the picked step."""
    relation: Relation | None
    """Step by step: I(Za;Zb) against I(Z;Y)."""


def checkpoint_pick(
    records: Sequence[Record], probe: str | None = None, layer: int | None = None
) -> CheckpointPick | None:
    """The step with the largest I(Za;Zb), how stable that is, and how it agrees with I(Z;Y).

    Args:
        records: of one series of checkpoints, of one or both tasks, at any number of settings.
        probe: `logistic` or `mlp`; by default the first of these that was measured.
        layer: by default the last one.

    Returns:
        None if fewer than two checkpoints have I(Za;Zb) at that layer and probe.

    Raises:
        MIError: a checkpoint without a step, or two models of the same step.
    """
    _check_steps(records)
    layer = last_layer(records) if layer is None else layer
    own = [r for r in records if r.layer == layer]
    measured = {r.probe for r in own if r.task == "mi_views"}
    probe = min(measured, key=lambda p: rank_in(p, PROBE_ORDER), default=None) if probe is None else probe
    own = [r for r in own if r.probe == probe]
    chosen = [r for r in own if r.task == "mi_views"]
    curves = _curves(chosen, _step)
    if probe is None or layer is None or not curves:
        return None
    main = min(curves, key=paper_setting_first)
    curve = curves[main]
    if len(curve) < 2:
        return None
    step = best_of(curve)
    of_labels = _curves((r for r in own if r.task == "mi_supervised"), _step)
    labelled_curve = next((c for key, c in of_labels.items() if _data(key) == _data(main)), None)
    labelled_step = regret = relation = None
    shared = sorted(curve.keys() & labelled_curve.keys()) if labelled_curve else []
    if labelled_curve and len(shared) > 1:
        labelled_step = best_of({s: labelled_curve[s] for s in shared})
        regret = labelled_curve[labelled_step] - labelled_curve[best_of({s: curve[s] for s in shared})]
        bits, labelled_bits = [curve[s] for s in shared], [labelled_curve[s] for s in shared]
        relation = correlate(bits, labelled_bits, "I(Za;Zb)", "I(Z;Y)", things="checkpoints")
    return CheckpointPick(
        probe=probe,
        setting=main,
        layer=layer,
        step=step,
        bits=curve[step],
        curve=curve,
        stability=tuple(_stabilities(chosen, main, curve)),
        labelled_curve=labelled_curve,
        labelled_step=labelled_step,
        regret_bits=regret,
        relation=relation,
    )


def _check_steps(records: Iterable[Record]) -> None:
    models: dict[int, str] = {}
    for record in records:
        name = (record.checkpoint or {}).get("name", record.upstream)
        if record.step is None:
            raise MIError(
                f"checkpoint {name}: neither the file nor its name holds the training step, so it has no place "
                "in a series. Put the step into the name, such as model-001000.pt."
            )
        if models.setdefault(record.step, record.upstream_sha256) != record.upstream_sha256:
            raise MIError(
                f"two models of step {record.step} ({name} is one): these are several series. Name the folders "
                "of one series."
            )


def paper_setting_first(setting: ComparisonKey) -> tuple[Any, ...]:
    """Sort key: the paper's setting first."""
    usual_view = any(name in (setting.view or "") for name in (USUAL_MASK, USUAL_SHIFT))
    return rank_in(setting.scored_frames, FRAMES_ORDER), not usual_view, setting.n_clusters != USUAL_CLUSTERS


def _stabilities(records: Sequence[Record], main: ComparisonKey, curve: Curve) -> Iterable[Stability]:
    by_seed: dict[str, Curve] = {}
    for seed in sorted({r.seed for r in records}):
        curves = _curves((r for r in records if r.seed == seed), _step)
        by_seed |= {str(seed): curves[main]} if main in curves else {}
    curves = _curves(records, _step)
    views = {str(k.view): c for k, c in curves.items() if k._replace(view=main.view) == main}
    clusters = {str(k.n_clusters): c for k, c in curves.items() if k._replace(n_clusters=main.n_clusters) == main}
    for factor, found in (("seed", by_seed), ("view", views), ("clusters", clusters)):
        shared = {name: sorted(other.keys() & curve.keys()) for name, other in found.items()}
        picks = {name: best_of({s: found[name][s] for s in steps}) for name, steps in shared.items() if steps}
        same = [pick == best_of({s: curve[s] for s in shared[name]}) for name, pick in picks.items()]
        if len(found) > 1:
            yield Stability(factor, picks, statistics.fmean(same))


def _step(record: Record) -> int | None:
    return record.step


def _layer(record: Record) -> int | None:
    """`weighted` is no layer."""
    return record.layer if isinstance(record.layer, int) else None


def _curves(records: Iterable[Record], place: Callable[[Record], int | None]) -> dict[ComparisonKey, Curve]:
    """Of one probe: means over seeds by place, for each setting; if a seed occurs twice, the later record counts."""
    values: dict[ComparisonKey, dict[int, dict[int, Bits]]] = {}
    for record in records:
        at = place(record)
        if at is not None:
            by_place = values.setdefault(ComparisonKey.of(record).without(*NOTED), {})
            by_place.setdefault(at, {})[record.seed] = record.mi_lower_bound_bits
    return {
        setting: {at: statistics.fmean(found[at].values()) for at in sorted(found)} for setting, found in values.items()
    }
