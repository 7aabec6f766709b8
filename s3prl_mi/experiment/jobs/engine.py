"""What `--jobs` and `--slurm` ask for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

from ...core.config import literal
from ...core.errors import MIError

LOCAL, SLURM = "local", "slurm"

_GENERIC = ("name", "timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node", "nodes", "tasks_per_node")
"""Names of `AutoExecutor.update_parameters` that are not SLURM's own."""


@dataclass(frozen=True)
class Engine:
    """Where jobs run, and how many at once; `slurm` is None on this machine, `jobs` None without a limit."""

    jobs: int | None
    slurm: Mapping[str, Any] | None

    @property
    def name(self) -> str:
        """`local` or `slurm`."""
        return LOCAL if self.slurm is None else SLURM


def engine_of(jobs: int | None, slurm: str | None) -> Engine | None:
    """The engine that `--jobs` and `--slurm` ask for, or None: everything in this process.

    Raises:
        MIError: a value that means nothing, or submitit or SLURM is missing.
    """
    if jobs is None and slurm is None:
        return None
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise MIError("--jobs and --slurm do not work inside torchrun, which runs one experiment in several processes.")
    if jobs is not None and jobs < 1:
        raise MIError(f"--jobs {jobs}: expected the number of jobs at once, 1 or more.")
    parameters = None if slurm is None else slurm_parameters(slurm)
    try:
        import submitit
    except ImportError:
        raise MIError(
            "--jobs and --slurm need submitit: pip install 's3prl_mi[cluster]' (or pip install submitit)"
        ) from None
    if parameters is not None and submitit.SlurmExecutor.affinity() <= 0:
        raise MIError("--slurm: no SLURM on this machine (srun is not in PATH). --jobs N runs N jobs at once here.")
    return Engine(jobs, parameters)


def slurm_parameters(text: str) -> dict[str, Any]:
    """Read `partition=gpu,gpus_per_node=1,timeout_min=120`.

    Returns:
        Arguments of submitit's `AutoExecutor.update_parameters`: names that are SLURM's own get their prefix `slurm_`.

    Raises:
        MIError: a piece without `=`, or more than one process per job.

    Example:
        >>> slurm_parameters("partition=gpu,mem_gb=16,nodelist=n1,n2")
        {'slurm_partition': 'gpu', 'mem_gb': 16, 'slurm_nodelist': 'n1,n2'}
    """
    pairs: list[list[str]] = []
    for piece in filter(None, text.split(",")):
        if "=" in piece:
            pairs.append([part.strip() for part in piece.split("=", 1)])
        elif pairs:  # a comma within a value
            pairs[-1][1] += f",{piece}"
        else:
            raise MIError(f"--slurm {text}: expected key=value,key=value such as partition=gpu,gpus_per_node=1.")
    found: dict[str, Any] = {}
    for key, value in pairs:
        name = key if key in _GENERIC or key.startswith("slurm_") else f"slurm_{key}"
        found[name] = _minutes(value) if name in ("slurm_time", "timeout_min") else literal(value)
    for name in ("nodes", "tasks_per_node", "slurm_ntasks_per_node"):
        if found.get(name, 1) != 1:
            raise MIError(
                f"--slurm {name}={found[name]}: a job is one process, which measures one upstream; leave it out."
            )
    return found


def _minutes(text: str) -> int:
    """A time limit as SLURM writes it (`90`, `10:30`, `4:00:00`, `1-06:00`, `2-12:00:00`), in minutes."""
    days, dash, clock = text.rpartition("-")
    parts = clock.split(":")
    if len(parts) == (2 if dash else 1):  # days-hours:minutes, or minutes: no seconds
        parts.append("0")
    if not all(p.isdecimal() for p in (days or "0", *parts)) or len(parts) not in ((3,) if dash else (2, 3)):
        raise MIError(f"--slurm: a time limit of {text!r}; expected minutes, or hours:minutes:seconds as in 4:00:00.")
    seconds = reduce(lambda total, part: 60 * total + int(part), parts, 0)
    return max(1, -(-seconds // 60) + 24 * 60 * int(days or 0))
