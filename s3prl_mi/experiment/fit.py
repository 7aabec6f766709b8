"""Grid points -> probes and records: each is fitted and scored by one process, the next free one takes the next."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from tqdm import tqdm

from ..core.distributed import from_main, is_main, shared, together
from ..core.errors import MIError
from ..data.splits import Split
from ..estimators.intervals import LeftOut
from ..estimators.measures.registry import Measure, chosen, evaluate
from ..estimators.mi_supervised import Estimate
from ..estimators.probes import PROTOCOLS
from ..results.class_contributions import class_records
from ..results.measures import MeasureRecord
from ..results.speaker_sums import speaker_records
from ..states.split_states import SplitStates
from .folder import KEPT
from .load import Experiment, is_of, provide_states
from .plan import Plan
from .records import build_measure_records, build_records
from .saved_probes import load_probe, save_probes
from .task import Fitted, GridPoint, Identity, MITask

logger = logging.getLogger(__name__)


def fit_missing(
    experiment: Experiment, finished: set[Identity], fit_splits: list[Split], eval_splits: list[Split]
) -> None:
    """Fit and score every grid point with an estimate or a measure that has no record yet, and write its records.

    Raises:
        MIError: states, labels or views that cannot be measured, with the layer.
    """
    plan, folder = experiment.plan, experiment.folder
    missing = {point: [i for i in plan.estimates_of(point) if i not in finished] for point in plan.points}
    asked = chosen(experiment.spec.config.measures, plan.task, plan.labels)
    unmeasured = _unmeasured(experiment, asked)
    missing = {point: identities for point, identities in missing.items() if identities or unmeasured.get(point)}
    if not missing:
        return
    _warn_of_few_speakers(fit_splits)
    experiment.new_task().check([*fit_splits, *eval_splits], plan.layers, plan.labels)
    states = provide_states(experiment, fit_splits, eval_splits)
    if is_main():
        folder.write_settings({**folder.read_settings(), KEPT: states.about()})
    total = len(plan.wanted)
    done = total - sum(len(identities) for identities in missing.values())
    before = folder.n_records
    bar = tqdm(total=total, initial=done, unit="estimate", desc=plan.task, dynamic_ncols=True, disable=not is_main())
    with bar:
        for layers, (fit, scored) in states.groups({point.layer for point in missing}):
            task = experiment.new_task()
            # together: the next group replaces these states, so all processes must be done with them
            with together():
                for point in shared([point for point in missing if is_of(point.layer, layers)]):
                    bar.set_postfix_str(f"layer {point.layer}")
                    fitted = fit_point(experiment, task, fit, scored, point, missing[point]) if missing[point] else None
                    wanted = unmeasured.get(point, [])
                    folder.append([], [], [], measure(experiment, task, fit, scored, point, wanted, fitted))
                    bar.update(done + folder.n_records - before - bar.n)  # those of the other processes, too
            bar.update(done + folder.n_records - before - bar.n)


def _unmeasured(experiment: Experiment, asked: Sequence[Measure]) -> dict[GridPoint, list[Measure]]:
    """Measures without a record, at the grid points that they are of."""
    there = from_main(experiment.folder.measured) if experiment.spec.resume else set()
    return {
        point: [m for m in wanted if (point.layer, m.name, point.labels) not in there]
        for point, wanted in measured_points(experiment.plan, asked).items()
    }


def measured_points(plan: Plan, asked: Sequence[Measure]) -> dict[GridPoint, list[Measure]]:
    """The grid point of each layer that measures are of: of a sweep the first setting, and labels that suit them."""
    found: dict[GridPoint, list[Measure]] = {}
    for layer in plan.layers:
        for m in asked:
            point = next(p for p in plan.points if p.layer == layer and m.is_of(p.labels))
            found.setdefault(point, []).append(m)
    return found


def measure(
    experiment: Experiment,
    task: MITask,
    fit: SplitStates,
    scored: SplitStates,
    point: GridPoint,
    wanted: Sequence[Measure],
    fitted: Fitted | None = None,
    eval_splits: Sequence[str] | None = None,
) -> list[MeasureRecord]:
    """Records of measures of a layer.

    Args:
        experiment: whose probes and codebooks are read.
        task: of the experiment.
        fit: the fit side.
        scored: the eval side.
        point: the layer, its view and cluster count.
        wanted: the measures.
        fitted: as fitted just now; None: as it is on disk.
        eval_splits: what the eval side is of; None: as in the config.
    """
    if not wanted:
        return []
    spec, began = experiment.spec, time.perf_counter()
    if fitted is None:
        try:
            fitted = load_probe(experiment.folder.path, point, experiment.plan.probes[0], spec.device)
        except MIError as error:
            logger.warning("layer %s: its estimates are there, but measures of it are left out: %s", point.layer, error)
            return []
    fit, scored = task.sides(fit, scored, point)
    try:
        sample = task.sample(fitted, fit, scored, point)
        prepared = time.perf_counter() - began
        found = list(evaluate(wanted, sample))
    except MIError as error:
        raise MIError(f"layer {point.layer} of {experiment.upstream.name}: {error}") from None
    found[0] = replace(found[0], seconds=found[0].seconds + prepared)
    source = experiment.source(eval_splits or spec.config.datarc.eval_splits)
    return build_measure_records(source, point, PROTOCOLS[spec.config.protocol], sample, found)


def fit_point(
    experiment: Experiment,
    task: MITask,
    fit: SplitStates,
    scored: SplitStates,
    point: GridPoint,
    missing: Sequence[Identity],
) -> Fitted:
    """Fit and score one grid point, and write its records.

    The probes of a point are fitted together, as the MLP builds on the logistic probe, and always for all seeds, so
    that an interrupted run ends with the same numbers.
    """
    plan, began, found = experiment.plan, time.time(), fit.found + scored.found
    probes = [p for p in plan.probes if any(point.identity(p, seed) in missing for seed in plan.seeds)]
    try:
        fit, scored = task.sides(fit, scored, point)
        task.check_sides(fit, scored, point)
        fitted = task.fit(fit, point, probes)
        estimates = _with_fit_side(task, fitted, scored, point)
    except MIError as error:
        raise MIError(f"layer {point.layer} of {experiment.upstream.name}: {error}") from None
    used, unlabelled = zip(*(task.used(side, point) for side in (fit, scored)), strict=True)
    records = build_records(
        experiment.source(experiment.spec.config.datarc.eval_splits),
        point,
        fitted,
        estimates,
        {"fit": used[0], "eval": used[1], "skipped": found - sum(used)},
        sum(unlabelled),
        time.time() - began,
        task.label_digest(fitted, scored, point),
    )
    new = [n for n, record in enumerate(records) if record.identity() in missing]
    records, estimates = [records[n] for n in new], [estimates[n] for n in new]
    save_probes(experiment.folder.path, point, fitted)
    classes = class_records(records, estimates, task.class_names(fitted))
    experiment.folder.append(records, classes, speaker_records(records, estimates))
    return fitted


def _with_fit_side(task: MITask, fitted: Fitted, scored: SplitStates, point: GridPoint) -> list[Estimate]:
    """Score fitted probes, and with `fit_ci` those without each group of fit speakers."""
    estimates, refits = task.score(fitted, scored, point), fitted.refits
    if refits is None:
        return estimates
    without = [task.score(replace(fitted, probes=probes), scored, point) for probes in refits.probes]
    bounds = np.array([[e.mi_lower_bound_bits for e in others] for others in without])
    return [
        replace(e, fit_left_out=LeftOut(refits.over, refits.groups, e.mi_lower_bound_bits, bounds[:, n]))
        for n, e in enumerate(estimates)
    ]


def _warn_of_few_speakers(fit: Sequence[Split]) -> None:
    if len(set().union(*(s.speakers for s in fit))) < 2:
        logger.warning(
            "fewer than two speakers are known in the fit splits: regularisation is chosen on held-out utterances, "
            "and may be too weak for new speakers."
        )
