"""What one job of a study does: the experiments of one upstream or checkpoint, one after the other.

They are in one job because they share hidden states. A job is pickled by submitit and called in a process of its own
(see `s3prl_mi.experiment.jobs`), so everything here is plain data, and nothing heavy is imported before the job begins.
"""

from __future__ import annotations

import argparse
import copy
import functools
import hashlib
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import MIError
from ...core.locks import Lock

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

    from ...core.types import Seconds

_DETERMINANTS = (
    "upstream",
    "upstream_ckpt",
    "upstream_model_config",
    "upstream_module",
    "upstream_feature_selection",
    "upstream_feature_normalize",
    "upstream_layer_selection",
    "checkpoint_series",
    "checkpoint_step",
    "seed",
)
"""Arguments that an experiment's results depend on."""

_FILES = ("upstream_ckpt", "upstream_model_config", "upstream_module")

_PATIENCE: Seconds = 5.0
"""For a lock that another command merely looks at."""


@dataclass(frozen=True)
class Part:
    """One experiment of a job; `args.expdir` is its folder."""

    task: str
    args: argparse.Namespace
    config: dict[str, Any]

    @property
    def expdir(self) -> Path:
        """Where its results go."""
        return Path(self.args.expdir)


@dataclass(frozen=True)
class Work:
    """One job: the experiments of one upstream or checkpoint."""

    name: str
    parts: tuple[Part, ...]

    def digest(self) -> str:
        """A hash of all that is asked for: a finished job with the same digest is not run again."""
        asked: list[Any] = []
        for part in self.parts:
            args = {name: getattr(part.args, name, None) for name in _DETERMINANTS}
            stamps = [_stamp(args[name]) for name in _FILES]
            asked.append([part.task, str(part.expdir), args, stamps, part.config])
        return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def on(self, device: str) -> Work:
        """The same on another device."""
        parts = []
        for part in self.parts:
            args = argparse.Namespace(**vars(part.args))
            args.device = device
            parts.append(replace(part, args=args))
        return replace(self, parts=tuple(parts))

    @property
    def has_results(self) -> bool:
        """Whether every experiment has left estimates."""
        from ...results.record import RESULTS_FILE  # needs numpy, which `-h` does not

        return all((part.expdir / RESULTS_FILE).is_file() for part in self.parts)


def _stamp(path: str | None) -> list[tuple[str, int, int]]:
    """Size and time of a file, or of the files of a folder, so that a checkpoint that was replaced is noticed."""
    if path is None or not os.path.exists(path):
        return []
    files = sorted(Path(path).iterdir()) if os.path.isdir(path) else [Path(path)]
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]


@dataclass(frozen=True)
class Outcome:
    """How one experiment of a job ended: `why` it failed, in one line, or None."""

    task: str
    expdir: str
    why: str | None = None


@dataclass(frozen=True)
class Measure:
    """The function that a job calls.

    Attributes:
        work: what to do.
        entry: `module:function`, called with the arguments and the config of each experiment.
        environment: variables to set, or with None to remove, before torch is imported.
        lock: a file that is locked while the job runs, so that a later command can tell; None: not needed.
    """

    work: Work
    entry: str
    environment: Mapping[str, str | None]
    lock: str | None = None

    def __call__(self, resume: bool = False) -> list[Outcome]:
        """Run the experiments; one that fails does not stop the next.

        Args:
            resume: go on with what an earlier start of this very job has done.

        Raises:
            MIError: the same job runs already.
        """
        _set(self.environment)
        held = None if self.lock is None else _alone(Path(self.lock))
        module, _, name = self.entry.partition(":")
        function = getattr(importlib.import_module(module), name)
        # SLURM counts its own restarts (a node that failed), of which submitit does not know
        resume = resume or int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0
        outcomes: list[Outcome] = []
        for number, part in enumerate(self.work.parts, start=1):
            sys.stderr.write(f"\n[{number}/{len(self.work.parts)}] {part.task}: {self.work.name}\n")
            args = argparse.Namespace(**vars(part.args))
            args.auto_resume = args.auto_resume or resume
            why = _reason_to_fail(functools.partial(function, args, copy.deepcopy(part.config)))
            outcomes.append(Outcome(part.task, str(part.expdir), why))
        del held  # until here
        return outcomes

    def checkpoint(self, resume: bool = False) -> DelayedSubmission:
        """What submitit queues again where SLURM preempts the job or its time is up: the same, going on."""
        from submitit.core.utils import DelayedSubmission

        return DelayedSubmission(self, True)


def _reason_to_fail(run: Callable[[], object]) -> str | None:
    """Run an experiment; what goes wrong stands in the job's log, and in one line in what is returned."""
    from submitit.core.utils import UncompletedJobError

    try:
        run()
    except MIError as error:
        sys.stderr.write(f"error: {error}\n")
        return str(error)
    except UncompletedJobError:  # submitit's own way to end a job that must not be queued again
        raise
    except Exception as error:  # one experiment of a study must not take the others along
        traceback.print_exc()
        return one_line(f"{type(error).__name__}: {error}")
    return None


def one_line(text: str) -> str:
    r"""The first line of a message that says something.

    Example:
        >>> one_line("RuntimeError: CUDA out of memory\nsee the manual")
        'RuntimeError: CUDA out of memory'
    """
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")


def _set(environment: Mapping[str, str | None]) -> None:
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _alone(path: Path) -> Lock:
    lock = Lock(path, create=True)
    began = time.monotonic()
    while not lock.take():
        if time.monotonic() - began > _PATIENCE:
            raise MIError(f"{path.stem}: another job measures it already ({path} is locked).")
        time.sleep(0.1)
    return lock
