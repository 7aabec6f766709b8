"""A job that submitit has started or queued, by this command or an earlier one."""

from __future__ import annotations

import contextlib
import getpass
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.locks import Lock
from .engine import LOCAL
from .work import WorkResult, one_line

if TYPE_CHECKING:
    from ...core.types import Seconds

_ASK_SLURM_EVERY: Seconds = 60.0


@dataclass
class Handle:
    """A job of submitit's.

    Attributes:
        engine: `local` or `slurm`.
        id: process id of submitit's controller on this machine, or SLURM's job id.
        folder: submitit's, of this submission.
        lock: the file that a local job locks while it runs, as process ids are used again.
        own: submitit's job, where this command started it on this machine.
    """

    engine: str
    id: str
    folder: str
    lock: Path
    own: Any = None

    def __post_init__(self) -> None:
        from submitit.core.utils import JobPaths

        self._paths = JobPaths(self.folder, self.id, 0)
        self._missed = 0
        self._next_look = time.monotonic() + _ASK_SLURM_EVERY

    @property
    def log(self) -> Path:
        """Everything that it prints; the file is there once the job runs."""
        return Path(self._paths.stdout)

    @property
    def ended(self) -> bool:
        """Whether it neither runs nor waits any more."""
        if self.engine == LOCAL:  # the job may outlive its controller
            over = self.own is None or self.own.done()
            return over and (not self.lock.exists() or Lock(self.lock).take())
        if self._paths.result_pickle.exists():
            return True
        if time.monotonic() > self._next_look:  # twice not in the queue: a file system may show results late
            self._next_look = time.monotonic() + _ASK_SLURM_EVERY
            queue = _slurm_queue()
            self._missed = self._missed + 1 if queue is not None and self.id not in queue else 0
        return self._missed > 1

    def result(self) -> WorkResult | str:
        """What came of it once it has ended, or in one line why there is nothing."""
        from submitit.core.utils import pickle_load

        try:
            outcome, found = pickle_load(self._paths.result_pickle)
        except FileNotFoundError:
            if self.engine == LOCAL:
                return "killed before it ended (out of memory?)"
            return f"SLURM ended job {self.id} without a result{_reason_of_slurm(self.id)}"
        except Exception as error:  # for instance written by another version of Python
            return one_line(f"{type(error).__name__}: {error}")
        return found if outcome == "success" else one_line(found.strip().rpartition("\n")[2])

    def cancel(self) -> None:
        """End a job on this machine; submitit kills what does not end within a second."""
        if not self.ended:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(self.id), signal.SIGINT)


_queue: tuple[Seconds, set[str] | None] = (-_ASK_SLURM_EVERY, None)


def _slurm_queue() -> set[str] | None:
    """Ids of the user's jobs that run or wait, asked for once for all handles; None where SLURM does not answer."""
    global _queue
    if time.monotonic() - _queue[0] > _ASK_SLURM_EVERY / 2:
        ids = _ask("squeue", "--noheader", "--array", f"--user={getpass.getuser()}", "--format=%i")
        _queue = (time.monotonic(), None if ids is None else set(ids.split()))
    return _queue[1]


def _reason_of_slurm(job_id: str) -> str:
    """The state in which SLURM's accounting has a job, such as OUT_OF_MEMORY; empty where it is off."""
    states = (_ask("sacct", "-X", "-n", "-P", "-o", "State", "-j", job_id) or "").split()
    return f" ({states[0]})" if states else ""


def _ask(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
