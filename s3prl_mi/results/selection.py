"""Which layer, which checkpoint: the choice without labels, I(Za;Zb), beside the choice with labels, I(Z;Y).

Pure functions on records. A curve is the mean bound over seeds by layer, or by training step. Source: Liu, Yeh and
Glass 2024, section 3 (layer-wise analysis; robustness for checkpoint selection).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..core.errors import MIError
from ..core.types import Bits
from .correlation import Relation, correlate
from .record import Record
from .summary import FRAMES_ORDER, PROBE_ORDER, rank_in

Curve = dict[int, Bits]
"""Layer or training step -> mean bound over seeds, in bits; ascending."""

USUAL_CLUSTERS = 50
"""The paper's; a sweep over cluster counts is seen from here where it holds it."""
USUAL_MASK = "30 of 40"
"""The paper's mask pattern, as views name it."""


class Setting(NamedTuple):
    """What was measured, but for the layer, the step and the seed."""

    task: str
    probe: str
    view: str | None
    scored_frames: str
    n_clusters: int | None
    frame_shift_ms: float
    label_set: str | None
    protocol: str
    fit_splits: tuple[str, ...]
    eval_splits: tuple[str, ...]

    @property
    def data(self) -> tuple[Any, ...]:
        """What both tasks must share, so that one can stand beside the other."""
        return self.probe, self.protocol, self.fit_splits, self.eval_splits


def setting_of(record: Record) -> Setting:
    """The setting of a record."""
    values = (getattr(record, name) for name in Setting._fields)
    return Setting._make(tuple(v) if isinstance(v, list) else v for v in values)


# --- Layers -------------------------------------------------------------------------------------------------


def last_layer(records: Iterable[Record]) -> int | None:
    """The last layer of the encoder: entries behind it (VQ codes, distilled predictions) do not count.

    Returns:
        None where the last layer was not measured.
    """
    records = list(records)
    measured = {r.layer for r in records}
    return next((r.last_layer for r in records if r.last_layer in measured), None)


def layer_curves(records: Iterable[Record]) -> dict[Setting, Curve]:
    """The layer curve of each setting; `weighted` is no layer.

    Args:
        records: of one model.
    """
    return _curves(records, lambda r: r.layer if isinstance(r.layer, int) else None)


def best_of(curve: Mapping[int, Bits]) -> int:
    """Where a curve is highest (the lowest layer or earliest step of a tie).

    Example:
        >>> best_of({0: 1.0, 1: 2.5, 2: 2.5})
        1
    """
    return max(curve, key=lambda at: (curve[at], -at))


@dataclass(frozen=True, slots=True)
class LayerAgreement:
    """The choice of a layer without labels beside that with labels, of one model and probe."""

    probe: str
    setting: Setting
    """Of the curve without labels."""
    unsupervised_layer: int
    """Where I(Za;Zb) is largest."""
    labelled_layer: int
    """Where I(Z;Y) is largest."""
    regret_bits: Bits
    """I(Z;Y) at the labelled choice minus I(Z;Y) at the label-free choice; 0 if both are the same layer."""
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
    curves = layer_curves(records)
    last = last_layer(records)
    found = []
    for free, free_curve in curves.items():
        for labelled, labelled_curve in curves.items():
            if (free.task, labelled.task) != ("mi_views", "mi_supervised"):
                continue
            if (free.data, free.frame_shift_ms) != (labelled.data, labelled.frame_shift_ms):
                continue
            layers = sorted(free_curve.keys() & labelled_curve.keys())
            if len(layers) > 1:
                found.append(_agreement(free, free_curve, labelled_curve, layers, last))
    return sorted(found, key=lambda a: rank_in(a.probe, PROBE_ORDER))


def _agreement(
    setting: Setting, free: Curve, labelled: Curve, layers: list[int], last: int | None
) -> LayerAgreement:
    picked = best_of({layer: free[layer] for layer in layers})
    best = best_of({layer: labelled[layer] for layer in layers})
    return LayerAgreement(
        probe=setting.probe,
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
    """How the label-free pick holds when one thing is changed and all else is left."""

    factor: str
    """`seed`, `view` or `clusters`."""
    picks: dict[str, int]
    """Value of the factor -> step picked with it."""
    share_same: float
    """Share of these that pick the same step as the main setting does of the steps that both have, 0 to 1."""
    lowest_rank_correlation: float | None
    """Smallest Spearman correlation of any of these curves with the main one; None with fewer than 4 steps."""


@dataclass(frozen=True, slots=True)
class CheckpointPick:
    """The checkpoint that I(Za;Zb) picks from a series, of one probe."""

    setting: Setting
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
    chosen = [r for r in records if r.layer == layer and r.task == "mi_views"]
    if probe is None:
        probe = min((r.probe for r in chosen), key=lambda p: rank_in(p, PROBE_ORDER), default=None)
    chosen = [r for r in chosen if r.probe == probe]
    curves = _curves(chosen, lambda r: r.step)
    if layer is None or not curves:
        return None
    main = min(curves, key=paper_setting_first)
    curve = curves[main]
    if len(curve) < 2:
        return None
    step = best_of(curve)
    labelled = [r for r in records if (r.task, r.layer, r.probe) == ("mi_supervised", layer, probe)]
    of_labels = _curves(labelled, lambda r: r.step)
    labelled_curve = next((c for s, c in of_labels.items() if s.data == main.data), None)
    shared = sorted(curve.keys() & (labelled_curve or {}).keys())
    both = labelled_curve is not None and len(shared) > 1
    free_step = best_of({s: curve[s] for s in shared}) if both else step
    labelled_step = best_of({s: labelled_curve[s] for s in shared}) if labelled_curve and both else None
    return CheckpointPick(
        setting=main,
        layer=layer,
        step=step,
        bits=curve[step],
        curve=curve,
        stability=tuple(_stabilities(chosen, main, curve)),
        labelled_curve=labelled_curve,
        labelled_step=labelled_step,
        regret_bits=(
            labelled_curve[labelled_step] - labelled_curve[free_step]
            if labelled_curve and labelled_step is not None
            else None
        ),
        relation=(
            correlate(
                [curve[s] for s in shared],
                [labelled_curve[s] for s in shared],
                "I(Za;Zb)",
                "I(Z;Y)",
                things="checkpoints",
            )
            if labelled_curve and both
            else None
        ),
    )


def _check_steps(records: Iterable[Record]) -> None:
    models: dict[int, str] = {}
    for record in records:
        name = (record.checkpoint or {}).get("name", record.upstream)
        if record.step is None:
            raise MIError(
                f"checkpoint {name}: neither the file nor its name tells the training step, so it has no place "
                "in a series. Put the step into the name, such as model-001000.pt."
            )
        if models.setdefault(record.step, record.upstream_sha256) != record.upstream_sha256:
            raise MIError(
                f"two models of step {record.step} ({name} is one): these are several series. Name the folders "
                "of one series."
            )


def paper_setting_first(setting: Setting) -> tuple[Any, ...]:
    """Sort key: the paper's setting first."""
    return (
        rank_in(setting.scored_frames, FRAMES_ORDER),
        USUAL_MASK not in (setting.view or "") and "shift(60 ms)" not in (setting.view or ""),
        setting.n_clusters != USUAL_CLUSTERS,
    )


def _stabilities(records: Sequence[Record], main: Setting, curve: Curve) -> Iterable[Stability]:
    at_main = [r for r in records if setting_of(r) == main]
    seeds = {str(s): _curves((r for r in at_main if r.seed == s), _step)[main] for s in _seeds(at_main)}
    curves = _curves(records, _step)
    views = {str(s.view): c for s, c in curves.items() if s._replace(view=main.view) == main}
    clusters = {
        str(s.n_clusters): c for s, c in curves.items() if s._replace(n_clusters=main.n_clusters) == main
    }
    for factor, found in (("seed", seeds), ("view", views), ("clusters", clusters)):
        if len(found) > 1:
            yield _stability(factor, found, curve)


def _stability(factor: str, curves: Mapping[str, Curve], main: Curve) -> Stability:
    picks, same, ranks = {}, 0, []
    for name, curve in curves.items():
        steps = sorted(curve.keys() & main.keys())
        if not steps:
            continue
        picks[name] = best_of({s: curve[s] for s in steps})
        same += picks[name] == best_of({s: main[s] for s in steps})
        spearman = correlate([main[s] for s in steps], [curve[s] for s in steps]).of("spearman")
        if spearman is not None:
            ranks.append(spearman.value)
    return Stability(
        factor=factor,
        picks=picks,
        share_same=same / len(picks),
        lowest_rank_correlation=min(ranks, default=None),
    )


def _step(record: Record) -> int | None:
    return record.step


def _seeds(records: Iterable[Record]) -> list[int]:
    return sorted({r.seed for r in records})


def _curves(records: Iterable[Record], place: Callable[[Record], int | None]) -> dict[Setting, Curve]:
    """Means over seeds by place, for each setting; if a seed occurs twice, the later record counts."""
    values: dict[Setting, dict[int, dict[int, Bits]]] = {}
    for record in records:
        at = place(record)
        if at is not None:
            by_seed = values.setdefault(setting_of(record), {}).setdefault(at, {})
            by_seed[record.seed] = record.mi_lower_bound_bits
    return {
        setting: {at: statistics.fmean(found[at].values()) for at in sorted(found)}
        for setting, found in values.items()
    }
