"""`-m evaluate`: fitted probes -> records on other splits, without fitting."""

from __future__ import annotations

import logging
import time

from tqdm import tqdm

from ..core.distributed import gather, is_main, shared, together
from ..core.errors import MIError
from ..core.split_names import overlap
from ..data.splits import Split, refuse_shared_audio
from ..estimators.measures.registry import chosen
from ..results.class_contributions import ClassRecord, class_records
from ..results.measures import MeasureRecord
from ..results.record import Record
from ..results.speaker_sums import SpeakerRecord, speaker_records
from .fit import measure, measured_points
from .folder import ExperimentFolder, determinants
from .load import Experiment, is_of, provide_states, read_splits
from .plan import Plan
from .records import build_records
from .saved_probes import load_probe
from .task import GridPoint

logger = logging.getLogger(__name__)


def evaluate(experiment: Experiment, split: str) -> ExperimentFolder:
    """Score the fitted probes on other splits.

    Args:
        experiment: whose probes these are.
        split: names of splits, separated by commas; `test`, s3prl's default, stands for the config's eval_splits.

    Returns:
        The folder of the new records; complete on the main process only.

    Raises:
        MIError: speech that was fitted on, other settings than those of the fit, or probes that are not there.
    """
    spec, plan, data = experiment.spec, experiment.plan, experiment.spec.config.datarc
    names = list(data.eval_splits) if split == "test" else [n.strip() for n in split.split(",")]
    both = [n for n in names if any(overlap(n, fit) for fit in data.fit_splits)]
    if both:
        raise MIError(f"-t {split}: {', '.join(both)} was fitted on; the bound needs unseen speech.")
    points = _points(plan, split)
    experiment.folder.check_fitted_under(determinants(spec, experiment.upstream, experiment.precision))
    splits = read_splits(experiment, names)
    fit_splits = _fit_splits(experiment)
    refuse_shared_audio(fit_splits, splits)
    asked = chosen(spec.config.measures, plan.task, [p.labels for p in points])
    if asked and not fit_splits:
        logger.warning("measures are left out: codebooks, and what else they choose, are of the fit splits.")
    to_measure = list(enumerate(measured_points(plan, asked).items())) if fit_splits else []
    experiment.new_task().check(splits, plan.layers, list(dict.fromkeys(p.labels for p in points)))
    source, title = experiment.source(names), "+".join(names)
    work = list(enumerate((point, probe) for point in points for probe in plan.probes))
    made: list[tuple[int, list[Record], list[ClassRecord], list[SpeakerRecord]]] = []
    measured: list[tuple[int, list[MeasureRecord]]] = []
    bar = tqdm(total=len(work), unit="probe", desc=f"evaluate {title}", dynamic_ncols=True, disable=not is_main())
    with bar:
        sides = (fit_splits, splits) if to_measure else (splits,)
        for layers, (*fit, scored) in provide_states(experiment, *sides).groups(plan.layers):
            task = experiment.new_task()
            with together():
                for number, (point, probe) in shared([w for w in work if is_of(w[1][0].layer, layers)]):
                    began = time.time()
                    fitted = load_probe(spec.folder, point, probe, spec.device)
                    estimates = task.score(fitted, scored, point)
                    used, unlabelled = task.used(scored, point)
                    records = build_records(
                        source,
                        point,
                        fitted,
                        estimates,
                        {"fit": 0, "eval": used, "skipped": scored.found - used},
                        unlabelled,
                        time.time() - began,
                        task.label_digest(fitted, scored, point),
                    )
                    classes = class_records(records, estimates, task.class_names(fitted))
                    made.append((number, records, classes, speaker_records(records, estimates)))
                    bar.update()
                for number, (point, own) in shared([w for w in to_measure if is_of(w[1][0].layer, layers)]):
                    found = measure(experiment, task, fit[0], scored, point, own, eval_splits=names)
                    measured.append((number, found))
    folder = ExperimentFolder(spec.folder / "evaluate" / title.replace("/", "of"))
    every = sorted((m for own in gather(made) for m in own), key=lambda m: m[0])
    of_layers = sorted((m for own in gather(measured) for m in own), key=lambda m: m[0])
    if is_main():
        folder.replace(
            [r for m in every for r in m[1]],
            [c for m in every for c in m[2]],
            [s for m in every for s in m[3]],
            [r for m in of_layers for r in m[1]],
        )
    return folder


def _points(plan: Plan, split: str) -> list[GridPoint]:
    """What can be scored on other splits: all but speakers, which must be those that were fitted on."""
    points = [point for point in plan.points if point.labels != "speaker"]
    if not points:
        raise MIError(
            f"-t {split}: labels: speaker is scored on speakers that were fitted on, so there are no other splits for "
            "them. Train on these splits: datarc.fit_splits, datarc.eval_splits."
        )
    if len(points) < len(plan.points):
        logger.warning("labels: speaker is left out, as it is scored on speakers that were fitted on.")
    return points


def _fit_splits(experiment: Experiment) -> list[Split]:
    """What was fitted on, as far as it is still there."""
    try:
        return read_splits(experiment, experiment.spec.config.datarc.fit_splits)
    except MIError as error:
        logger.warning("the fit splits are not here, so that they hold none of this speech is not checked: %s", error)
        return []
