"""Many upstreams or checkpoints at once, on this machine (`--jobs N`) or on a SLURM cluster (`--slurm ...`).

The jobs are run by submitit, which groups that train speech models use already: it needs no server, no change of the
command and nothing on the cluster but SLURM itself, queues a job again where SLURM preempts it or its time is up, and
has an executor for a single machine with the same interface. Workflow engines (Snakemake, Nextflow) would need rules
beside the config; Ray and Dask keep processes of their own alive inside SLURM's jobs. Here is only what submitit leaves
to its user: what a job is, which jobs are needed, and what to show. One job is one upstream or checkpoint: both tasks
share its hidden states, and seeds cost little beside the first.

Jobs that were submitted stand in `<study>/jobs.json`; logs are in `<study>/jobs`. The same command with `-a` takes up
jobs that still run, collects what is done and submits what is missing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...core.errors import MIError
from ...core.locks import Lock
from .engine import LOCAL, SLURM, Engine, engine_of
from .handle import Handle
from .job import JOBS_FILE, JOBS_FOLDER, Job, take_up, write_notes
from .measure import Part, Work
from .submission import SLURM_MINUTES, Submitter, threads_for
from .view import FAILED, QUEUED, View, shortest

if TYPE_CHECKING:
    from ...core.types import Seconds

__all__ = ["SLURM_MINUTES", "Engine", "Part", "Work", "engine_of", "run_jobs"]

logger = logging.getLogger(__name__)

_POLL: dict[str, Seconds] = {LOCAL: 0.5, SLURM: 5.0}
_TIME_TO_END: Seconds = 2.0
_TIME_TO_CANCEL: Seconds = 30.0


def run_jobs(
    works: Sequence[Work], engine: Engine, root: Path, entry: str, *, resume: bool
) -> tuple[list[Path], list[str]]:
    """Run the jobs of a study, and show them while they run.

    Args:
        works: the jobs.
        engine: where, and how many at once.
        root: the study's folder.
        entry: `module:function` that runs one experiment, as in `Measure`.
        resume: `-a`: repeat nothing that is done, and submit nothing that runs.

    Returns:
        Folders of the experiments that are there, and what failed, one line each.

    Raises:
        MIError: another command runs this study's jobs, or some still run and `resume` is not asked for.
        KeyboardInterrupt: after what is to be said of the jobs.
    """
    alone = Lock(root / JOBS_FOLDER / "command.lock", create=True)
    if not alone.take():
        raise MIError(
            f"{root}: another command runs the jobs of this study now. Wait for it, or end it first."
        )
    jobs = [Job(work, work.digest()) for work in works]
    take_up(jobs, root, resume=resume)
    submitter = Submitter(engine, root, entry, jobs)
    missing = [job for job in jobs if job.state == QUEUED and job.handle is None]
    logger.info(_announce(jobs, missing, engine))
    view = View(jobs)
    try:
        _wait(jobs, submitter, view, root / JOBS_FILE, _POLL[engine.name])
    except KeyboardInterrupt:
        view.close()
        logger.warning("%s", _leave(jobs))
        write_notes(root / JOBS_FILE, jobs)
        raise
    view.close()
    return [Path(o.expdir) for job in jobs for o in job.outcomes if o.why is None], _failures(jobs)


def _wait(jobs: Sequence[Job], submitter: Submitter, view: View, notes: Path, poll: Seconds) -> None:
    """Submit and watch until nothing is to come any more."""
    states: list[str] | None = None
    while True:
        if submitter.submit() or states != [job.state for job in jobs]:
            states = [job.state for job in jobs]
            write_notes(notes, jobs)
        view.refresh()
        if not any(job.open for job in jobs):
            return
        time.sleep(poll)
        for job in jobs:
            job.look()


def _announce(jobs: Sequence[Job], missing: Sequence[Job], engine: Engine) -> str:
    done, going_on = (
        sum(not job.open for job in jobs),
        len(jobs) - len(missing) - sum(not j.open for j in jobs),
    )
    what = f"{len(missing)} of {len(jobs)} jobs to submit"
    if done:
        what += f", {done} done already"
    if going_on:
        what += f", {going_on} still running from before"
    if engine.name == SLURM:
        return f"{what}: to SLURM" if missing else what
    limit = min(engine.jobs or len(jobs), len(jobs))
    return f"{what}: {limit} at once here, {threads_for(limit)} thread(s) each" if missing else what


def _leave(jobs: Sequence[Job]) -> str:
    """After Ctrl-C: end what runs on this machine, leave what runs on the cluster; and say so."""
    handles = [(job, job.handle) for job in jobs if job.open and job.handle is not None]
    here = [(job, handle) for job, handle in handles if handle.engine == LOCAL]
    # Ctrl-C in a terminal has reached them already, and a second would disturb submitit's own cleaning up
    if not _all_end([handle for _, handle in here], _TIME_TO_END):
        for _, handle in here:
            handle.cancel()
        _all_end([handle for _, handle in here], _TIME_TO_CANCEL)
    for job, _ in here:
        job.state, job.why = FAILED, "cancelled"
    said = [f"{len(here)} jobs on this machine were cancelled."] if here else []
    there = [handle.id for _, handle in handles if handle.engine == SLURM]
    if there:
        ends = " ".join(dict.fromkeys(job_id.partition("_")[0] for job_id in there))
        said.append(
            f"{len(there)} jobs go on under SLURM ({', '.join(there)}): the command below collects them, and submits "
            f"none of them twice; `scancel {ends}` ends them."
        )
    return " ".join(said) or "no job was running."


def _all_end(handles: Sequence[Handle], within: Seconds) -> bool:
    """Wait for jobs to end; whether they did in that time."""
    began = time.monotonic()
    while not all(handle.ended for handle in handles):
        if time.monotonic() - began > within:
            return False
        time.sleep(0.1)
    return True


def _failures(jobs: Sequence[Job]) -> list[str]:
    found: list[str] = []
    for job in jobs:
        log = f" (log: {shortest(job.log)})"
        bad = [o for o in job.outcomes if o.why is not None]
        found += [f"{o.task} of {job.name}: {o.why}{log}" for o in bad]
        if job.state == FAILED and not bad:
            found.append(f"{' and '.join(p.task for p in job.work.parts)} of {job.name}: {job.why}{log}")
    return found
