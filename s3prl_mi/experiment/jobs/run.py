"""Runs the jobs of a study and reports on them: a bar with counts, and one line per job that starts or ends.

`<study>/jobs.json` names the jobs that were submitted, for a later command with `-a`: those of SLURM are taken up while
they run, and what is done is not repeated. Logs are in `<study>/jobs`.
"""

from __future__ import annotations

import datetime
import getpass
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import MIError
from ...core.files import write_whole
from ...core.locks import Lock
from .engine import LOCAL, SLURM, Engine
from .submission import DONE, FAILED, JOBS_FOLDER, RUNNING, STATES, StudyJob, Submitter, ask, threads_for
from .work import Work

if TYPE_CHECKING:
    from ...core.types import Seconds

logger = logging.getLogger(__name__)

JOBS_FILE = "jobs.json"
POLL: dict[str, Seconds] = {LOCAL: 0.5, SLURM: 5.0}
ASK_SLURM_EVERY: Seconds = 60.0
TIME_TO_END: Seconds = 2.0
TIME_TO_CANCEL: Seconds = 30.0


def run_jobs(
    works: Sequence[Work], engine: Engine, root: Path, *, resume: bool, device: str = "cpu"
) -> tuple[list[str], list[str]]:
    """Run the jobs of a study; one that fails does not stop the others.

    Args:
        works: the jobs.
        engine: where, and how many at once.
        root: the study's folder.
        resume: `-a`: repeat nothing that is done, and submit nothing that runs.
        device: `cuda`: jobs on this machine take its GPUs in turn, each as its only one.

    Returns:
        What succeeded (`mi_views of hubert`), and what failed, with its reason and log.

    Raises:
        MIError: another command runs this study's jobs, or some still run that this one may not take up.
        KeyboardInterrupt: after the jobs on this machine have been ended.
    """
    command = Lock(root / JOBS_FOLDER / "command.lock", create=True)
    if not command.take():
        raise MIError(f"{root}: another command runs the jobs of this study now. Wait for it, or end it first.")
    local = (root / JOBS_FOLDER / "local.lock").absolute()
    if not Lock(local, create=True).take():
        raise MIError(
            f"{root}: jobs that an earlier command started on this machine still run. Wait until they are done, or end "
            "them first (kill); the same command with -a then continues."
        )
    notes = _read_notes(root / JOBS_FILE)
    jobs = _jobs_of(works, notes, root, resume=resume)
    limit = min(engine.jobs or len(jobs), len(jobs))
    logger.info(_announce(jobs, engine, limit))
    try:
        _run(jobs, Submitter(engine, root, device, limit, local), notes, root, POLL[engine.name])
    except KeyboardInterrupt:
        logger.warning("%s", _end_local(jobs, local))
        raise
    done = [f"{task} of {job.work.name}" for job in jobs for task, why in job.reasons.items() if why is None]
    return done, [line for job in jobs for line in job.failures()]


def _run(jobs: Sequence[StudyJob], submitter: Submitter, notes: dict[str, Any], root: Path, poll: Seconds) -> None:
    """Submit and watch until all jobs have ended."""
    from tqdm import tqdm

    asked = time.monotonic()
    with tqdm(disable=None, leave=False, bar_format="jobs: {desc} [{elapsed}]") as bar:
        while any(job.is_open() for job in jobs):
            for job in (submitted := submitter.submit(jobs)):
                about = {"engine": job.engine, "id": job.id, "folder": job.folder}
                notes[job.work.name] = {**about, "digest": job.work.digest}
            if submitted:
                write_whole(root / JOBS_FILE, json.dumps({"jobs": notes}, indent=1))
            states = [job.state for job in jobs]
            bar.set_description_str(", ".join(f"{states.count(s)} {s}" for s in STATES if s in states))
            time.sleep(poll)
            if time.monotonic() - asked > ASK_SLURM_EVERY and any(job.is_open(SLURM) for job in jobs):
                asked = time.monotonic()
                queue = ask("squeue", "--noheader", "--array", f"--user={getpass.getuser()}", "--format=%i")
                for job in jobs:
                    job.missed = job.missed + 1 if queue is not None and job.id not in queue.split() else 0
            for job in jobs:
                if job.look():
                    _report(job)


def _report(job: StudyJob) -> None:
    if job.state == RUNNING:
        where = "on this machine" if job.engine == LOCAL else f"as SLURM job {job.id}"
        logger.info("%s: running %s (log: %s)", job.work.name, where, job.log)
    elif job.state == DONE:
        logger.info("%s: done in %s", job.work.name, datetime.timedelta(seconds=round(job.seconds)))
    for line in job.failures():
        logger.warning("failed: %s", line)


def _announce(jobs: Sequence[StudyJob], engine: Engine, limit: int) -> str:
    new = sum(job.engine is None for job in jobs)
    old = sum(job.is_open(SLURM) for job in jobs)
    done = len(jobs) - new - old
    what = f"{new} of {len(jobs)} jobs to submit"
    what += f", {done} done already" if done else ""
    what += f", {old} still running from before" if old else ""
    here = f"{limit} at once on this machine, {threads_for(limit)} thread(s) each"
    return f"{what}: {'to SLURM' if engine.name == SLURM else here}" if new else what


def _end_local(jobs: Sequence[StudyJob], lock: Path) -> str:
    """After Ctrl-C: end what runs on this machine, leave what runs on the cluster; in words."""
    here = [job for job in jobs if job.is_open(LOCAL)]
    there = [job.id for job in jobs if job.is_open(SLURM)]
    # Ctrl-C in a terminal has reached them already, and a second would disturb submitit's own cleaning up
    if here and not _all_end(here, lock, TIME_TO_END):
        for job in here:
            job.own.cancel()  # it kills what does not end within a second
        _all_end(here, lock, TIME_TO_CANCEL)
    lines = [f"ended {len(here)} job(s) on this machine."] if here else []
    if there:
        arrays = " ".join(dict.fromkeys(job_id.partition("_")[0] for job_id in there))
        lines.append(
            f"{len(there)} job(s) continue under SLURM ({', '.join(there)}): the command below collects them, and "
            f"submits none of them twice; `scancel {arrays}` ends them."
        )
    return " ".join(lines) or "no job was running."


def _all_end(jobs: Sequence[StudyJob], lock: Path, within: Seconds) -> bool:
    began = time.monotonic()
    while not (all(job.ended for job in jobs) and Lock(lock).take()):  # a job may outlive its controller
        if time.monotonic() - began > within:
            return False
        time.sleep(0.1)
    return True


def _jobs_of(works: Sequence[Work], notes: dict[str, Any], root: Path, *, resume: bool) -> list[StudyJob]:
    """The jobs: those of SLURM that still run, and what is done, as earlier commands submitted them; the others new."""
    jobs: list[StudyJob] = []
    refused: list[str] = []
    for work in works:
        jobs.append(StudyJob(work))
        note = notes.get(work.name)
        if note is None:
            continue
        old = StudyJob(work, note["engine"], note["id"], note["folder"])
        same = resume and note["digest"] == work.digest
        if not old.ended and not same:
            refused.append(f"{work.name} ({old.engine} job {old.id})")
        elif not old.ended or (same and all(path.is_file() for path in work.results)):
            old.look()
            if old.state != FAILED:  # else it is tried again
                jobs[-1] = old
    if refused:
        fix = "They were started with other settings: wait" if resume else "Continue with -a, or wait"
        raise MIError(
            f"{root}: jobs of this study still run: {', '.join(refused)}. {fix} until they are done, or end them first "
            "(scancel)."
        )
    return jobs


def _read_notes(path: Path) -> dict[str, Any]:
    """The jobs that earlier commands submitted, by name."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["jobs"]) if path.exists() else {}
    except (OSError, ValueError, LookupError) as error:
        raise MIError(f"{path}: cannot be read ({error}). Remove it if no job of this study runs any more.") from None
