"""Handing jobs to submitit: to SLURM all at once, as it is the scheduler; on this machine as others end."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...core.errors import MIError
from ...core.files import PACKAGE
from ...core.threads import available_cores
from .engine import LOCAL, SLURM, Engine
from .handle import Handle
from .work import RunWork, Work, one_line

logger = logging.getLogger(__name__)

SLURM_MINUTES = 240
"""Time limit of a SLURM job where `--slurm` names none; a job whose time is up is queued again and resumed."""

JOBS_FOLDER = "jobs"
_MAX_TIMEOUTS = 10
_NO_LIMIT_MINUTES = 60 * 24 * 365
_VISIBLE = "CUDA_VISIBLE_DEVICES"


class Submitter:
    """Submits the jobs of one command.

    Args:
        engine: where, and how many at once.
        study: the study's folder; logs go to a folder in `<study>/jobs` for each command.
        entry: `module:function`, as in `RunWork`.
        device: `cuda`: jobs on this machine take its GPUs in turn.
        limit: most jobs at once on this machine.
    """

    def __init__(self, engine: Engine, study: Path, entry: str, device: str, limit: int) -> None:
        import submitit

        # it warns at every look at SLURM where the accounting (sacct) is off; `Handle` does without
        logging.getLogger("submitit").setLevel(logging.ERROR)
        self._engine, self._study, self._entry, self._device, self._limit = (
            engine,
            study,
            entry,
            device,
            limit,
        )
        # a folder for each command: SLURM's job ids are unique, process ids are not
        stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        self._folder = (study / JOBS_FOLDER / stamp).absolute()
        more = {"slurm_max_num_timeout": _MAX_TIMEOUTS} if engine.name == SLURM else {}
        self._executor = submitit.AutoExecutor(self._folder, cluster=engine.name, **more)
        self._gpus = _gpus() if device == "cuda" and engine.name == LOCAL else []
        self._gpu_of: dict[str, str] = {}

    def submit(self, waiting: Sequence[Work], running: Sequence[str]) -> list[Handle]:
        """Submit the first of the waiting jobs, as many as may run: all of them to SLURM.

        Args:
            waiting: not yet submitted.
            running: names of those on this machine that are submitted and have not ended.

        Raises:
            MIError: SLURM refuses them, or submitit their parameters.
        """
        if self._engine.name == SLURM:
            return self._to_slurm(waiting) if waiting else []
        names, handles = list(running), []
        for work in waiting[: max(0, self._limit - len(running))]:
            handles.append(self._start_here(work, names))
            names.append(work.name)
        return handles

    def _start_here(self, work: Work, running: Sequence[str]) -> Handle:
        self._executor.update_parameters(timeout_min=_NO_LIMIT_MINUTES, stderr_to_stdout=True)
        visible = os.environ.get(_VISIBLE)
        if self._gpus:  # the one with the fewest jobs
            visible = min(self._gpus, key=[self._gpu_of.get(name) for name in running].count)
            self._gpu_of[work.name] = visible
        # submitit's local executor hides every GPU that it did not hand out itself
        function = RunWork(work, self._entry, {_VISIBLE: visible}, lock_of(self._study, work.name))
        threads = str(threads_for(self._limit))
        with _environment(OMP_NUM_THREADS=threads), _errors_to(self._folder / "controllers.log"):
            job = self._executor.submit(function)
        return Handle(LOCAL, str(job.job_id), str(self._folder), lock_of(self._study, work.name), job)

    def _to_slurm(self, works: Sequence[Work]) -> list[Handle]:
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
        functions = [RunWork(work, self._entry, {}) for work in works]
        submit = self._executor.submit
        try:
            with _environment(), _outside_of_slurm():
                jobs = self._executor.submit_array(functions) if len(works) > 1 else [submit(functions[0])]
        except Exception as error:
            if type(error).__module__.partition(".")[0] != "submitit":
                raise
            raise MIError(f"--slurm: sbatch refused the jobs: {one_line(str(error))}") from None
        return [
            Handle(SLURM, str(job.job_id), str(self._folder), lock_of(self._study, work.name))
            for work, job in zip(works, jobs, strict=True)
        ]


def lock_of(study: Path, name: str) -> Path:
    """The file that a local job locks while it runs."""
    return (study / JOBS_FOLDER / f"{name}.lock").absolute()


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


def _outside_of_slurm() -> contextlib.AbstractContextManager[None]:
    """Hide the variables of the SLURM job that this command itself may run in: they would bind the new ones."""
    from submitit.helpers import clean_env

    return clean_env() if "SLURM_JOB_ID" in os.environ else contextlib.nullcontext()


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
