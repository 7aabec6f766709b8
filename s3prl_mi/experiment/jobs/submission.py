"""Handing jobs to submitit."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...core.errors import MIError
from ...core.files import PACKAGE
from .engine import LOCAL, SLURM, Engine
from .handle import Handle, LocalHandle, SlurmHandle
from .job import JOBS_FOLDER, Job, lock_of
from .measure import Measure, one_line
from .view import QUEUED

logger = logging.getLogger(__name__)

SLURM_MINUTES = 240
"""Time limit of a SLURM job where `--slurm` names none; a job whose time is up is queued again and goes on."""

_MAX_TIMEOUTS = 10
_NO_LIMIT_MINUTES = 60 * 24 * 365


class Submitter:
    """Hands jobs to submitit: to SLURM all at once, as it is the scheduler; here as others end."""

    def __init__(self, engine: Engine, root: Path, entry: str, jobs: Sequence[Job]) -> None:
        self._engine, self._root, self._entry, self._jobs = engine, root, entry, jobs
        self._folder: Path | None = None
        self._limit = min(engine.jobs or len(jobs), len(jobs))
        asked = next((part.args.device for job in jobs for part in job.work.parts), "cpu")
        self._devices = _devices(asked) if engine.name == LOCAL else [None]

    def submit(self) -> bool:
        """Submit what can be; whether anything was."""
        waiting = [job for job in self._jobs if job.state == QUEUED and job.handle is None]
        if self._engine.name == LOCAL:
            here = [j for j in self._jobs if j.open and j.handle is not None and j.handle.engine == LOCAL]
            waiting = waiting[: max(0, self._limit - len(here))]
        if not waiting:
            return False
        if self._engine.name == SLURM:
            self._to_slurm(waiting)
        else:
            for job in waiting:
                self._here(job)
        return True

    def _executor(self) -> Any:
        import submitit

        # it warns at every look at SLURM where the accounting (sacct) is off; `SlurmHandle` does without
        logging.getLogger("submitit").setLevel(logging.ERROR)

        if self._folder is None:  # one for each command: SLURM's job ids are unique, process ids are not
            stamp, number = time.strftime("%Y%m%d-%H%M%S"), 0
            while (folder := self._root / JOBS_FOLDER / f"{stamp}{f'-{number}' if number else ''}").exists():
                number += 1
            self._folder = folder
        more = {"slurm_max_num_timeout": _MAX_TIMEOUTS} if self._engine.name == SLURM else {}
        return submitit.AutoExecutor(self._folder, cluster=self._engine.name, **more)

    def _here(self, job: Job) -> None:
        executor = self._executor()
        executor.update_parameters(timeout_min=_NO_LIMIT_MINUTES, stderr_to_stdout=True)
        work = job.work
        if len(self._devices) > 1:
            used = [j.device for j in self._jobs if j.open and j.handle is not None]
            job.device = min(self._devices, key=used.count)
            work = work.on(str(job.device))
        # the local executor hides every GPU that it did not hand out itself
        visible = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES")}
        lock = lock_of(self._root, job.name)
        function = Measure(work, self._entry, visible, str(lock.absolute()))
        threads = {"OMP_NUM_THREADS": str(threads_for(self._limit))}
        with _environment({**_importable(), **threads}), _errors_to(executor.folder / "controllers.log"):
            handle = LocalHandle(executor.submit(function), lock, own=True)
        self._submitted(job, handle, executor)

    def _to_slurm(self, jobs: Sequence[Job]) -> None:
        executor = self._executor()
        asked = dict(self._engine.slurm or {})
        asked.setdefault("name", f"s3prl_mi-{self._root.resolve().name}")
        if "slurm_time" not in asked:
            asked.setdefault("timeout_min", SLURM_MINUTES)
        if self._engine.jobs is not None:
            asked["slurm_array_parallelism"] = self._engine.jobs
        try:
            executor.update_parameters(stderr_to_stdout=True, **asked)
        except (NameError, AssertionError, ValueError, TypeError) as error:
            raise MIError(f"--slurm: {one_line(str(error))}") from None
        device = jobs[0].work.parts[0].args.device
        if device.startswith("cuda") and not any("gpu" in f"{key}={value}" for key, value in asked.items()):
            logger.info("no GPU is asked for (--slurm gpus_per_node=1): jobs that get none will use the CPU.")
        functions = [Measure(job.work, self._entry, {}) for job in jobs]
        try:
            with _environment(_importable()), _outside_of_slurm():
                submitted = (
                    executor.submit_array(functions) if len(jobs) > 1 else [executor.submit(functions[0])]
                )
        except Exception as error:
            if type(error).__module__.partition(".")[0] != "submitit":
                raise
            raise MIError(f"--slurm: sbatch refused the jobs: {one_line(str(error))}") from None
        for job, one in zip(jobs, submitted, strict=True):
            self._submitted(job, SlurmHandle(one), executor)

    def _submitted(self, job: Job, handle: Handle, executor: Any) -> None:
        job.handle, job.folder, job.asked = handle, str(executor.folder), job.digest


def _devices(asked: str) -> list[str | None]:
    """The devices that local jobs take turns on: with `--device cuda` all GPUs."""
    if asked != "cuda":
        return [None]
    import torch

    return [f"cuda:{n}" for n in range(torch.cuda.device_count())] or [None]


def threads_for(jobs: int) -> int:
    """Cores of this machine for each of so many jobs, or fewer where the user asks for fewer."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(max(1, cores // jobs), int(asked) if asked.isdecimal() and int(asked) else cores)


def _importable() -> dict[str, str]:
    """Let a job import this package from where it is, if it is not installed."""
    place = PACKAGE.parent
    if place.name in ("site-packages", "dist-packages"):
        return {}
    known = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    return {"PYTHONPATH": os.pathsep.join(dict.fromkeys([*known, str(place)]))}


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables for what is started inside."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _outside_of_slurm() -> contextlib.AbstractContextManager[None]:
    """Hide the variables of the SLURM job that this command itself may run in: they would bind the new ones."""
    if "SLURM_JOB_ID" not in os.environ:
        return contextlib.nullcontext()
    from submitit.helpers import clean_env

    return clean_env()


@contextlib.contextmanager
def _errors_to(path: Path) -> Iterator[None]:
    """Send the stderr of what is started inside to a file.

    Submitit's local controllers inherit ours, and each would print a traceback at Ctrl-C.
    """
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
