"""Where an experiment's hidden states lie until its probes are fitted: on disk, in memory, or a few layers at a time.

The bits do not depend on it (measured: none of their digits). They are rounded differently only where a layer is too
coarse for float16: those that are stored with it are float32 too (measured: up to 0.0015 bits on 4 minutes of speech).
What does depend on it is time, space, and what another run finds:

- `disk`: kept in the store for other runs, tasks and `-m evaluate`; a killed extraction resumes where it was.
- `memory`: gone with the run; nothing is written, and each process holds all of it.
- `recompute`: as many layers at a time as fit; the upstream runs once for each such group.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Mode = Literal["disk", "memory", "recompute"]

MEMORY_BYTES = 1 << 30
"""`auto` keeps at most so many bytes of hidden states in the memory of a process."""

BY_ITSELF, IF_ASKED = 0.25, 0.8
"""Fractions of the memory that is free: what `auto` takes at most, and what `memory` may take."""


@dataclass(frozen=True)
class Choice:
    """A mode, and why.

    `scratch` is where the states lie; `groups` are the layers that lie there at once; `reason` is a clause, or None
    where there is nothing to explain.
    """

    mode: Mode
    scratch: Literal["disk", "memory"]
    groups: tuple[tuple[int, ...], ...]
    reason: str | None


@dataclass(frozen=True)
class Options:
    """What a choice is made from.

    Attributes:
        needs: bytes of hidden states that are still to be extracted, by layer, in the order in which layers are
            measured.
        disk: bytes that the disk gives.
        memory: bytes of memory that `auto` and `recompute` may take.
        most_memory: bytes of memory that `memory` may take.
        cheap: why states need not be kept for another run, or None.
        why_no_disk: why the disk gives no more.
        divisible: whether one layer can be measured without the others.
    """

    needs: Mapping[int, int]
    disk: int
    memory: int
    most_memory: int
    cheap: str | None
    why_no_disk: str
    divisible: bool

    @property
    def total(self) -> int:
        """What all layers need."""
        return sum(self.needs.values())


def choose(asked: str, options: Options) -> Choice | None:
    """Choose a mode.

    Args:
        asked: `auto`, `disk`, `memory` or `recompute`.
        options: what there is to choose from.

    Returns:
        The choice, or None where the states fit nowhere that was asked for.
    """
    o = options
    on_disk = Choice("disk", "disk", (tuple(o.needs),), None)
    if asked == "disk":
        return on_disk if o.total <= o.disk else None
    if asked == "memory":
        return _in_memory(o, "asked for") if o.total <= o.most_memory else None
    if asked == "recompute":
        return _in_groups(o, "asked for")
    if not o.total:  # all are there
        return on_disk
    if o.cheap is not None and o.total <= o.memory:
        return _in_memory(o, o.cheap)
    if o.total <= o.disk:
        return on_disk
    if o.total <= o.memory:
        return _in_memory(o, o.why_no_disk)
    return _in_groups(o, o.why_no_disk)


def _in_memory(o: Options, reason: str) -> Choice:
    return Choice("memory", "memory", (tuple(o.needs),), reason)


def _in_groups(o: Options, reason: str) -> Choice | None:
    """Few layers at a time, where that takes the fewest groups."""
    in_memory, on_disk = _pack(o, o.memory), _pack(o, o.disk)
    if in_memory is not None and (on_disk is None or len(in_memory) <= len(on_disk)):
        return Choice("recompute", "memory", in_memory, reason)
    return None if on_disk is None else Choice("recompute", "disk", on_disk, reason)


def _pack(o: Options, limit: int) -> tuple[tuple[int, ...], ...] | None:
    """The layers in groups that fit, or None where not even one layer does."""
    if not o.divisible:
        return (tuple(o.needs),) if o.total <= limit else None
    groups: list[tuple[int, ...]] = []
    taken = 0
    for layer, needed in o.needs.items():
        if needed > limit:
            return None
        if groups and taken + needed <= limit:
            groups[-1] += (layer,)
            taken += needed
        else:
            groups.append((layer,))
            taken = needed
    return tuple(groups)


def free_memory() -> int:
    """Bytes of memory that this process may still take: what is free, or what its control groups leave it."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        try:
            free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
        except (AttributeError, ValueError, OSError):  # not a POSIX system
            free = 4 << 30
    return max(0, min([free, *_left_by_control_groups()]))


_CGROUPS = (
    ("0::", "", "memory.max", "memory.current", "inactive_file"),
    (":memory:", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Versions 2 and 1: what marks them in /proc/self/cgroup; their folder; limit, use, and what of it is a mere cache."""


def _left_by_control_groups(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """What each control group that this process is in leaves of its limit; SLURM and containers set them."""
    left: list[int] = []
    with contextlib.suppress(OSError):
        for line in proc.read_text().splitlines():
            for mark, folder, limit, use, cache in _CGROUPS:
                before, found, inside = line.partition(mark)
                if not found or (before and not before.isdecimal()):
                    continue
                own = Path(inside.lstrip("/"))
                for group in (root / folder / g for g in (own, *own.parents)):
                    with contextlib.suppress(OSError, ValueError):  # no such file, or "max": no limit
                        stat = (group / "memory.stat").read_text().split()
                        used = int((group / use).read_text()) - int(stat[stat.index(cache) + 1])
                        left.append(int((group / limit).read_text()) - used)
    return left
