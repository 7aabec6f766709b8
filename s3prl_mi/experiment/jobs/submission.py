"""Jobs, and handing them to submitit: to SLURM all at once, as it is the scheduler; on this machine as others end."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import MIError
from ...core.files import PACKAGE
from ...core.threads import available_cores
from .engine import LOCAL, SLURM, Engine
from .work import Work, WorkResult, one_line

if TYPE_CHECKING:
    from ...core.types import Seconds

logger = logging.getLogger(__name__)

SLURM_MINUTES = 240
"""Time limit of a SLURM job where `--slurm` names none; a job whose time is up is queued again and resumed."""

QUEUED, RUNNING, DONE, FAILED = STATES = ("queued", "running", "done", "failed")
JOBS_FOLDER = "jobs"
_MAX_TIMEOUTS = 10
_NO_LIMIT_MINUTES = 60 * 24 * 365
_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass
class StudyJob:
    """One job as this command sees it.

    Attributes:
        work: what it does.
        engine: `local` or `slurm`; None: it is not submitted yet.
        id: process id of submitit's controller on this machine, or SLURM's job id.
        folder: submitit's, of this submission.
        own: submitit's job, where this command started it on this machine.
        gpu: that it was given on this machine.
        missed: how often in a row SLURM's queue did not have it.
        reasons: once it has ended, why each task failed, or None.
    """

    work: Work
    engine: str | None = None
    id: str = ""
    folder: str = ""
    own: Any = None
    gpu: str | None = None
    missed: int = 0
    state: str = QUEUED
    reasons: dict[str, str | None] = field(default_factory=dict)
    seconds: Seconds = 0.0

    def is_open(self, engine: str | None = None) -> bool:
        """Whether it waits or runs; with an engine: whether it was submitted there and has not ended."""
        return self.state in (QUEUED, RUNNING) and engine in (None, self.engine)

    @property
    def log(self) -> Path:
        """Everything that it prints; the file is there once the job runs."""
        return Path(self._paths.stdout)

    @property
    def _paths(self) -> Any:
        from submitit.core.utils import JobPaths

        return JobPaths(self.folder, self.id, 0)

    @property
    def ended(self) -> bool:
        """Whether it neither runs nor waits any more; jobs of earlier commands on this machine do not."""
        if self.engine == LOCAL:
            return self.own is None or bool(self.own.done())
        return self._paths.result_pickle.exists() or self.missed > 1  # a file system may show results late

    def look(self) -> bool:
        """Bring the state up to date; whether it has changed."""
        before = self.state
        if self.engine is not None and self.is_open():
            if self.ended:
                found = self._result()
                self.reasons, self.seconds = found.reasons, found.seconds
                self.state = FAILED if any(self.reasons.values()) else DONE
            elif self.log.exists():
                self.state = RUNNING
        return self.state != before

    def _result(self) -> WorkResult:
        from submitit.core.utils import pickle_load

        try:
            outcome, found = pickle_load(self._paths.result_pickle)
            if outcome == "success":
                return found
            why = one_line(found.strip().rpartition("\n")[2])
        except FileNotFoundError:
            why = "killed before it ended (out of memory?)"
            if self.engine == SLURM:
                # the state that SLURM's accounting has, such as OUT_OF_MEMORY; nothing where it is off
                states = (ask("sacct", "-X", "-n", "-P", "-o", "State", "-j", self.id) or "").split()
                why = f"SLURM ended job {self.id} without a result" + (f" ({states[0]})" if states else "")
        except Exception as error:  # for instance written by another version of Python
            why = one_line(f"{type(error).__name__}: {error}")
        return WorkResult(dict.fromkeys(self.work.payloads, why), 0.0)

    def failures(self) -> list[str]:
        """What failed, one line each, with the log."""
        return [f"{task} of {self.work.name}: {why} (log: {self.log})" for task, why in self.reasons.items() if why]


def ask(*command: str) -> str | None:
    """What one of SLURM's commands prints, or None where it does not answer."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None


class Submitter:
    """Submits the jobs of one command.

    Args:
        engine: where, and how many at once.
        study: the study's folder; logs go to a folder in `<study>/jobs` for each command.
        device: `cuda`: jobs on this machine take its GPUs in turn.
        limit: most jobs at once on this machine.
        lock: the file that jobs on this machine lock while they run.
    """

    def __init__(self, engine: Engine, study: Path, device: str, limit: int, lock: Path) -> None:
        import submitit

        # it warns at every look at SLURM where the accounting (sacct) is off; `StudyJob` does without
        logging.getLogger("submitit").setLevel(logging.ERROR)
        self._engine, self._study, self._device, self._limit, self._lock = engine, study, device, limit, lock
        # a folder for each command: SLURM's job ids are unique, process ids are not
        stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        self._folder = (study / JOBS_FOLDER / stamp).absolute()
        more = {"slurm_max_num_timeout": _MAX_TIMEOUTS} if engine.name == SLURM else {}
        self._executor = submitit.AutoExecutor(self._folder, cluster=engine.name, **more)
        self._gpus = _gpus() if device == "cuda" and engine.name == LOCAL else []

    def submit(self, jobs: Sequence[StudyJob]) -> list[StudyJob]:
        """Submit as many of the jobs that wait as may run, to SLURM all of them; those that were submitted.

        Raises:
            MIError: SLURM refuses them, or submitit their parameters.
        """
        waiting = [job for job in jobs if job.engine is None]
        if waiting and self._engine.name == SLURM:
            submitted = self._to_slurm([job.work for job in waiting])
        else:
            running = [job for job in jobs if job.is_open(LOCAL)]
            waiting = waiting[: max(0, self._limit - len(running))]
            submitted = [self._start_here(job, [*running, *waiting]) for job in waiting]
        for job, its in zip(waiting, submitted, strict=True):
            job.engine, job.id, job.folder = self._engine.name, str(its.job_id), str(self._folder)
        return waiting

    def _start_here(self, job: StudyJob, running: Sequence[StudyJob]) -> Any:
        self._executor.update_parameters(timeout_min=_NO_LIMIT_MINUTES, stderr_to_stdout=True)
        if self._gpus:  # the one with the fewest jobs
            job.gpu = min(self._gpus, key=[other.gpu for other in running].count)
        # submitit's local executor hides every GPU that it did not hand out itself
        visible = {_VISIBLE: job.gpu or os.environ.get(_VISIBLE)}
        threads = str(threads_for(self._limit))
        with _environment(OMP_NUM_THREADS=threads), _errors_to(self._folder / "controllers.log"):
            job.own = self._executor.submit(replace(job.work, environment=visible, lock=self._lock))
        return job.own

    def _to_slurm(self, works: Sequence[Work]) -> Sequence[Any]:
        from submitit.helpers import clean_env

        asked = {"name": f"s3prl_mi-{self._study.resolve().name}", **(self._engine.slurm or {})}
        if "slurm_time" not in asked:
            asked.setdefault("timeout_min", SLURM_MINUTES)
        if self._engine.jobs is not None:
            asked["slurm_array_parallelism"] = self._engine.jobs
        try:
            self._executor.update_parameters(stderr_to_stdout=True, **asked)
        except (NameError, AssertionError, ValueError, TypeError) as error:
            raise MIError(f"--slurm: {one_line(str(error))}") from None
        if self._device.startswith("cuda") and not any("gpu" in f"{k}={v}" for k, v in asked.items()):
            logger.info("--slurm asks for no GPU (gpus_per_node=1): jobs that get none use the CPU.")
        # the variables of the SLURM job that this command itself may run in would bind the new ones
        hidden = clean_env() if "SLURM_JOB_ID" in os.environ else contextlib.nullcontext()
        try:
            with _environment(), hidden:
                several = len(works) > 1
                return self._executor.submit_array(works) if several else [self._executor.submit(works[0])]
        except Exception as error:
            if type(error).__module__.partition(".")[0] != "submitit":
                raise
            raise MIError(f"--slurm: sbatch refused the jobs: {one_line(str(error))}") from None


def threads_for(jobs: int) -> int:
    """Cores of this machine for each of that many jobs, or fewer where the user asks for fewer."""
    cores, asked = available_cores(), os.environ.get("OMP_NUM_THREADS", "")
    return min(max(1, cores // jobs), int(asked) if asked.isdecimal() and int(asked) else cores)


def _gpus() -> list[str]:
    """GPUs of this machine that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    names = [name for name in os.environ.get(_VISIBLE, "").split(",") if name]
    return (names or [str(n) for n in range(torch.cuda.device_count())])[: torch.cuda.device_count()]


def _environment(**values: str) -> contextlib.AbstractContextManager[None]:
    """Variables for what is started inside, which finds this package also where it is not installed."""
    from submitit.core.utils import environment_variables

    known = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    if PACKAGE.parent.name not in ("site-packages", "dist-packages"):
        known.append(str(PACKAGE.parent))
    return environment_variables(PYTHONPATH=os.pathsep.join(dict.fromkeys(known)), **values)


@contextlib.contextmanager
def _errors_to(path: Path) -> Iterator[None]:
    """Send the stderr of what is started inside to a file: submitit's controllers print a traceback at Ctrl-C."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.flush()
    ours = os.dup(2)
    try:
        with open(path, "ab") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        os.dup2(ours, 2)
        os.close(ours)
