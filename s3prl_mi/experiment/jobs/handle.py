"""A job that submitit has started or queued, by this command or an earlier one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.locks import Lock
from .engine import LOCAL, SLURM
from .measure import Outcome, one_line

if TYPE_CHECKING:
    from ...core.types import Seconds

_ASK_SLURM_EVERY: Seconds = 60.0


class Handle:
    """A job that was handed to submitit.

    Args:
        job: submitit's.
    """

    engine: str

    def __init__(self, job: Any) -> None:
        self._job = job

    @property
    def id(self) -> str:
        """Process id of the local controller, or SLURM's job id."""
        return str(self._job.job_id)

    @property
    def log(self) -> Path:
        """Everything that it prints."""
        return Path(self._job.paths.stdout)

    @property
    def ended(self) -> bool:
        """Whether it runs no more, and waits no more."""
        raise NotImplementedError

    def outcomes(self) -> list[Outcome] | str:
        """What came of it once it has ended: of each experiment, or in one line why there is nothing."""
        return _outcomes(self._job)

    def cancel(self) -> None:
        """End it."""
        self._job.cancel(check=False)


class LocalHandle(Handle):
    """A job on this machine.

    Args:
        job: submitit's.
        lock: the file that the job locks. By it a later command knows that the job runs, as process ids are used again.
        own: whether this command started it.
    """

    engine = LOCAL

    def __init__(self, job: Any, lock: Path, *, own: bool) -> None:
        super().__init__(job)
        self._lock, self._own = lock, own

    @property
    def ended(self) -> bool:
        """Whether it runs no more; it may outlive its controller."""
        if self._own and not self._job.done():
            return False
        try:
            return Lock(self._lock).take()
        except FileNotFoundError:
            return True

    def outcomes(self) -> list[Outcome] | str:
        """As `Handle.outcomes`; at once, as no file system lags here."""
        if not self._job.paths.result_pickle.exists():
            return "killed before it ended (out of memory?)"
        return super().outcomes()

    def cancel(self) -> None:
        """Interrupt it; submitit kills what does not end within a second."""
        if self._own:
            super().cancel()
        elif not self.ended:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(self.id), signal.SIGINT)


class SlurmHandle(Handle):
    """A job of SLURM's. Where its accounting (`sacct`) is off, only `squeue` tells that a job was lost."""

    engine = SLURM
    _last_look = -_ASK_SLURM_EVERY
    """At all jobs: one call serves them."""

    def __init__(self, job: Any) -> None:
        super().__init__(job)
        self._next_doubt = time.monotonic() + _ASK_SLURM_EVERY
        self._lost = False

    @property
    def ended(self) -> bool:
        """Whether it runs no more, and waits no more."""
        now = time.monotonic()
        if now - SlurmHandle._last_look > _ASK_SLURM_EVERY:  # submitit looks every ten minutes only
            SlurmHandle._last_look = now
            self._job.watcher.update()
        if self._job.done():
            return True
        if self._job.state == "UNKNOWN" and now > self._next_doubt:
            self._next_doubt = now + _ASK_SLURM_EVERY
            self._lost = not _in_queue(self.id)
        return self._lost

    def outcomes(self) -> list[Outcome] | str:
        """As `Handle.outcomes`."""
        if self._lost and not self._job.paths.result_pickle.exists():
            return f"SLURM knows job {self.id} no more, and it left no result"
        return super().outcomes()


def _in_queue(job_id: str) -> bool:
    try:
        done = subprocess.run(
            ["squeue", "-h", "-j", job_id], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return True
    return bool(done.stdout.strip()) or (done.returncode != 0 and "Invalid job id" not in done.stderr)


def _outcomes(job: Any) -> list[Outcome] | str:
    from submitit.core.utils import FailedJobError, UncompletedJobError

    try:
        return list(job.result())
    except FailedJobError as error:  # its text is a traceback between rules; the last line of that says why
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        rules = [i for i, line in enumerate(lines) if set(line) == {"-"}]
        return lines[rules[-1] - 1] if len(rules) > 1 else one_line(str(error))
    except UncompletedJobError as error:
        state = "" if job.state in ("UNKNOWN", "FINISHED") else f" (SLURM: {job.state})"
        return (
            f"it left no result{state}" if "not produced any output" in str(error) else one_line(str(error))
        )
    except Exception as error:  # a result that cannot be read, for instance by another version of Python
        return one_line(f"{type(error).__name__}: {error}")
