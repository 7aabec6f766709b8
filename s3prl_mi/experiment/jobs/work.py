"""One job of a study: the function that submitit calls in a process of its own.

Nothing heavy is imported before the job begins.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import MIError
from ...core.locks import Lock

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

    from ...core.types import Seconds

_held: list[Lock] = []
"""Until the process ends, which is after submitit has written the result."""


def digest_of(asked: Any, files: Iterable[str | None] = ()) -> str:
    """A hash of settings, and of the sizes and times of the files (or files in the folders) that they name."""
    stamps = []
    for path in (Path(f) for f in files if f is not None and os.path.exists(f)):
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        stamps.append([(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in inside])
    return hashlib.sha256(json.dumps([asked, stamps], sort_keys=True, default=str).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class WorkResult:
    """How a job ended: of each task why it failed, in one line, or None; and the time that all took together."""

    reasons: dict[str, str | None]
    seconds: Seconds


@dataclass(frozen=True)
class Work:
    """The experiments of one upstream or checkpoint, one after the other, as they share hidden states.

    Attributes:
        name: of the upstream or checkpoint; no two works of a study share it.
        entry: `module:function`, called as `function(payload, resume)` with each payload; `resume`: an earlier start of
            this very job may have left unfinished results.
        payloads: what the entry is called with, by task; anything that can be pickled.
        digest: of all that the results depend on (`digest_of`): a finished job of the same digest is not repeated.
        results: files that the job leaves; where one is missing, the job is repeated.
        environment: variables to set, or with None to remove, before torch is imported.
        lock: a file that is locked while the job runs, so that a later command can tell; None: not needed.
    """

    name: str
    entry: str
    payloads: Mapping[str, Any]
    digest: str
    results: tuple[Path, ...] = ()
    environment: Mapping[str, str | None] = field(default_factory=dict)
    lock: Path | None = None

    def __call__(self, resume: bool = False) -> WorkResult:
        """Call the entry with each payload; one that fails does not stop the next."""
        began = time.time()
        for name, value in self.environment.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        if self.lock is not None:
            _held.append(Lock(self.lock, create=True))
            _held[-1].share()  # waits while another command looks at it
        # SLURM counts its own restarts (a node that failed), of which submitit does not know
        resume = resume or int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0
        reasons: dict[str, str | None] = {}
        for number, (task, payload) in enumerate(self.payloads.items(), start=1):
            sys.stderr.write(f"\n[{number}/{len(self.payloads)}] {task}: {self.name}\n")
            reasons[task] = self._reason_to_fail(payload, resume)
        return WorkResult(reasons, time.time() - began)

    def _reason_to_fail(self, payload: Any, resume: bool) -> str | None:
        """Run one experiment; an error goes to the job's log, and in one line to the caller."""
        from submitit.core.utils import UncompletedJobError

        module, _, name = self.entry.partition(":")
        try:
            getattr(importlib.import_module(module), name)(payload, resume)
        except MIError as error:
            sys.stderr.write(f"error: {error}\n")
            return str(error)
        except UncompletedJobError:  # submitit's own way to end a job that must not be queued again
            raise
        except Exception as error:  # one experiment of a study must not take the others along
            traceback.print_exc()
            return one_line(f"{type(error).__name__}: {error}")
        return None

    def checkpoint(self, resume: bool = False) -> DelayedSubmission:
        """What submitit queues again where SLURM preempts the job or its time is up: the same, resumed."""
        from submitit.core.utils import DelayedSubmission

        return DelayedSubmission(self, True)


def one_line(text: str) -> str:
    r"""The first line of a message that is not empty.

    Example:
        >>> one_line("RuntimeError: CUDA out of memory\nsee the manual")
        'RuntimeError: CUDA out of memory'
    """
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")
