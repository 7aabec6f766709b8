"""Runs the jobs of a study and reports on them: a bar with counts, and one line per job that starts or ends.

`<study>/jobs.json` names the jobs that were submitted, for a later command with `-a`; logs are in `<study>/jobs`.
"""

from __future__ import annotations

import datetime
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import MIError
from ...core.files import write_whole
from ...core.locks import Lock
from .engine import LOCAL, SLURM, Engine
from .handle import Handle
from .submission import JOBS_FOLDER, Submitter, lock_of, threads_for
from .work import Work, WorkResult

if TYPE_CHECKING:
    from ...core.types import Seconds

logger = logging.getLogger(__name__)

JOBS_FILE = "jobs.json"
QUEUED, RUNNING, DONE, FAILED = STATES = ("queued", "running", "done", "failed")
POLL: dict[str, Seconds] = {LOCAL: 0.5, SLURM: 5.0}
TIME_TO_END: Seconds = 2.0
TIME_TO_CANCEL: Seconds = 30.0


@dataclass
class StudyJob:
    """One job as this command sees it; once it has ended, `reasons` says of each task why it failed, or None."""

    work: Work
    state: str = QUEUED
    handle: Handle | None = None
    reasons: dict[str, str | None] = field(default_factory=dict)
    seconds: Seconds = 0.0

    def is_open(self, engine: str | None = None) -> bool:
        """Whether it waits or runs; with an engine: whether it was submitted there and has not ended."""
        submitted_there = self.handle is not None and self.handle.engine == engine
        return self.state in (QUEUED, RUNNING) and (engine is None or submitted_there)

    def look(self) -> bool:
        """Bring the state up to date; whether it has changed."""
        before = self.state
        if self.handle is not None and self.is_open():
            if self.handle.ended:
                found = self.handle.result()
                if isinstance(found, str):
                    found = WorkResult(dict.fromkeys(self.work.payloads, found), 0.0)
                self.reasons, self.seconds = found.reasons, found.seconds
                self.state = FAILED if any(self.reasons.values()) else DONE
            elif self.handle.log.exists():
                self.state = RUNNING
        return self.state != before

    def failures(self) -> list[str]:
        """What failed, one line each, with the log."""
        log = f"(log: {self.handle.log})" if self.handle is not None else ""
        return [f"{task} of {self.work.name}: {why} {log}" for task, why in self.reasons.items() if why]


def run_jobs(
    works: Sequence[Work], engine: Engine, root: Path, entry: str, *, resume: bool, device: str = "cpu"
) -> tuple[list[str], list[str]]:
    """Run the jobs of a study; one that fails does not stop the others.

    Args:
        works: the jobs.
        engine: where, and how many at once.
        root: the study's folder.
        entry: `module:function`, called in a job as `function(payload, resume)`.
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
    jobs, notes = [StudyJob(work) for work in works], _read_notes(root / JOBS_FILE)
    _take_up(jobs, notes, root, resume=resume)
    limit = min(engine.jobs or len(jobs), len(jobs))
    logger.info(_announce(jobs, engine, limit))
    try:
        _run(jobs, Submitter(engine, root, entry, device, limit), notes, root, POLL[engine.name])
    except KeyboardInterrupt:
        logger.warning("%s", _end_local(jobs))
        raise
    done = [f"{task} of {job.work.name}" for job in jobs for task, why in job.reasons.items() if why is None]
    return done, [line for job in jobs for line in job.failures()]


def _run(jobs: Sequence[StudyJob], submitter: Submitter, notes: dict[str, Any], root: Path, poll: Seconds) -> None:
    """Submit and watch until all jobs have ended."""
    from tqdm import tqdm

    with tqdm(disable=None, leave=False, bar_format="jobs: {desc} [{elapsed}]") as bar:
        while any(job.is_open() for job in jobs):
            waiting = [job for job in jobs if job.is_open() and job.handle is None]
            running = [job.work.name for job in jobs if job.is_open(LOCAL)]
            submitted = submitter.submit([job.work for job in waiting], running)
            for job, handle in zip(waiting, submitted, strict=False):
                job.handle = handle
                about = {"engine": handle.engine, "id": handle.id, "folder": handle.folder}
                notes[job.work.name] = {**about, "digest": job.work.digest}
            if submitted:
                write_whole(root / JOBS_FILE, json.dumps({"jobs": notes}, indent=1))
            states = [job.state for job in jobs]
            bar.set_description_str(", ".join(f"{states.count(s)} {s}" for s in STATES if s in states))
            time.sleep(poll)
            for job in jobs:
                if job.look():
                    _report(job)


def _report(job: StudyJob) -> None:
    if job.state == RUNNING and job.handle is not None:
        where = "on this machine" if job.is_open(LOCAL) else f"as SLURM job {job.handle.id}"
        logger.info("%s: running %s (log: %s)", job.work.name, where, job.handle.log)
    elif job.state == DONE:
        logger.info("%s: done in %s", job.work.name, datetime.timedelta(seconds=round(job.seconds)))
    for line in job.failures():
        logger.warning("failed: %s", line)


def _announce(jobs: Sequence[StudyJob], engine: Engine, limit: int) -> str:
    new = sum(job.handle is None for job in jobs)
    done = sum(not job.is_open() for job in jobs)
    old = len(jobs) - new - done
    what = f"{new} of {len(jobs)} jobs to submit"
    what += f", {done} done already" if done else ""
    what += f", {old} still running from before" if old else ""
    here = f"{limit} at once on this machine, {threads_for(limit)} thread(s) each"
    return f"{what}: {'to SLURM' if engine.name == SLURM else here}" if new else what


def _end_local(jobs: Sequence[StudyJob]) -> str:
    """After Ctrl-C: end what runs on this machine, leave what runs on the cluster; in words."""
    here = [job.handle for job in jobs if job.handle is not None and job.is_open(LOCAL)]
    there = [job.handle.id for job in jobs if job.handle is not None and job.is_open(SLURM)]
    # Ctrl-C in a terminal has reached them already, and a second would disturb submitit's own cleaning up
    if not _all_end(here, TIME_TO_END):
        for handle in here:
            handle.cancel()
        _all_end(here, TIME_TO_CANCEL)
    lines = [f"ended {len(here)} job(s) on this machine."] if here else []
    if there:
        arrays = " ".join(dict.fromkeys(job_id.partition("_")[0] for job_id in there))
        lines.append(
            f"{len(there)} job(s) continue under SLURM ({', '.join(there)}): the command below collects them, and "
            f"submits none of them twice; `scancel {arrays}` ends them."
        )
    return " ".join(lines) or "no job was running."


def _all_end(handles: Sequence[Handle], within: Seconds) -> bool:
    began = time.monotonic()
    while not all(handle.ended for handle in handles):
        if time.monotonic() - began > within:
            return False
        time.sleep(0.1)
    return True


def _take_up(jobs: Sequence[StudyJob], notes: dict[str, Any], root: Path, *, resume: bool) -> None:
    """Take up what earlier commands submitted with the same settings: jobs that still run, and what is done."""
    refused: list[str] = []
    for job in jobs:
        note = notes.get(job.work.name)
        if note is None:
            continue
        handle = Handle(note["engine"], note["id"], note["folder"], lock_of(root, job.work.name))
        same, runs = resume and note["digest"] == job.work.digest, not handle.ended
        if runs and not same:
            refused.append(f"{job.work.name} ({handle.engine} job {handle.id})")
        elif runs or (same and all(path.is_file() for path in job.work.results)):
            job.handle = handle
            job.look()
            if job.state == FAILED:  # it is tried again
                job.handle, job.state, job.reasons = None, QUEUED, {}
    if refused:
        fix = "They were started with other settings: wait" if resume else "Continue with -a, or wait"
        raise MIError(
            f"{root}: jobs of this study still run: {', '.join(refused)}. {fix} until they are done, or end them first "
            "(scancel, kill)."
        )


def _read_notes(path: Path) -> dict[str, Any]:
    """The jobs that earlier commands submitted, by name."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["jobs"]) if path.exists() else {}
    except (OSError, ValueError, LookupError) as error:
        raise MIError(f"{path}: cannot be read ({error}). Remove it if no job of this study runs any more.") from None
