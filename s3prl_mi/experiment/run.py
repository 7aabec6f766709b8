"""One run from audio to report: what `-d mi_supervised` and `-d mi_views` do.

Called by both entry points, our `run_downstream.py` and s3prl's own runner (`downstream.expert`). Data flows one way:
splits -> hidden states in the store -> for each grid point: probes fitted on the fit splits, scored on the eval splits
-> records -> tables and figures.
"""

from __future__ import annotations

import logging
import sys

from tqdm import tqdm

from ..core.distributed import from_main, is_main
from ..data.alignments.files import open_alignments
from ..data.splits import refuse_shared_audio
from ..report.experiment_files import write_all
from ..report.terminal import screen_table
from ..results.record import read_records
from .evaluate import evaluate
from .fit import fit_missing
from .folder import ExperimentFolder, contents_of, determinants, digest_of
from .labels import needs_alignments
from .load import Experiment, load, read_splits
from .spec import RunSpec

logger = logging.getLogger(__name__)


def run(spec: RunSpec) -> None:
    """Run what is asked for; many processes run it together.

    Raises:
        MIError: whatever the user can fix.
    """
    with ExperimentFolder(spec.folder).alone(spec.evaluate_split):
        experiment = load(spec)
        if spec.evaluate_split is not None:
            show(evaluate(experiment, spec.evaluate_split))
        else:
            train(experiment)
            show(experiment.folder)


def train(experiment: Experiment) -> None:
    """Fit on the fit splits and score on the eval splits, as far as the folder has no records yet."""
    spec, plan, data = experiment.spec, experiment.plan, experiment.spec.config.datarc
    fit_splits, eval_splits = (read_splits(experiment, names) for names in (data.fit_splits, data.eval_splits))
    refuse_shared_audio(fit_splits, eval_splits)
    settings = determinants(spec, experiment.upstream, experiment.precision)
    settings["speech"] = digest_of([*fit_splits, *eval_splits])
    aligned = spec.task == "mi_supervised" and needs_alignments(spec.config.labels)
    alignments = open_alignments(data.alignments) if aligned else None
    contents = contents_of([*fit_splits, *eval_splits], alignments)
    finished = from_main(lambda: {r.identity() for r in experiment.folder.begin(settings, contents, spec.resume)})
    shared = set().union(*(s.speakers for s in fit_splits)) & set().union(*(s.speakers for s in eval_splits))
    if shared and spec.config.labels != ("speaker",):
        logger.warning(
            "%d speakers occur in both fit and eval splits (%s ...): the bound then holds for seen speakers only.",
            len(shared),
            ", ".join(sorted(shared)[:3]),
        )
    done = len([identity for identity in plan.wanted if identity in finished])
    logger.info(plan.describe() + (f", {done} of them done" if finished else ""))
    fit_missing(experiment, finished, fit_splits, eval_splits)


def show(folder: ExperimentFolder) -> None:
    """Write tables and figures of all records, and print the table."""
    if is_main():
        records = read_records(folder.results)
        write_all(folder.path, records)
        tqdm.write(screen_table(records, folder.path), file=sys.stdout)
