"""Where an experiment's hidden states lie until its probes are fitted: on disk, in memory, or a few layers at a time.

The bits do not hang on it (measured: none of their digits). They are rounded otherwise only where a layer is too coarse
for float16: those that are kept with it are float32 too (measured: up to 0.0015 bits on 4 minutes of speech). What does
hang on it is time, room, and what another run finds:

- `disk`: kept in the store for other runs, tasks and `-m evaluate`; a killed extraction goes on where it was.
- `memory`: gone with the run; nothing is written.
- `recompute`: as many layers at a time as fit; the upstream runs once for each such group.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Mode = Literal["disk", "memory", "recompute"]
Needs = Mapping[int, int]
"""Bytes of hidden states that are still to be extracted, by layer."""

MEMORY_BYTES = 1 << 30
"""`auto` keeps at most so many bytes of hidden states in the memory of a process."""

SHARE_BY_ITSELF, SHARE_ASKED = 0.25, 0.8
"""Of the memory that is free: what `auto` takes at most, and what `memory` may take."""


@dataclass(frozen=True)
class Budget:
    """Capacity that one process (memory) or all of one machine (disk) have, and what they need of it."""

    needs: Needs
    bytes: int

    def holds(self, layers: Sequence[int]) -> bool:
        """Whether these layers fit at once."""
        return sum(self.needs.get(n, 0) for n in layers) <= self.bytes


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
    """What a choice is made from; the same on every process.

    Attributes:
        layers: in the order in which they are measured.
        disk: one budget a machine.
        memory: one budget a process, of what `auto` may take.
        most_memory: one budget a process, of what `memory` may take.
        cheap: why states need not be kept for another run, or None.
        why_no_disk: why the disk gives no more than it gives.
        divisible: whether one layer can be measured without the others.
    """

    layers: tuple[int, ...]
    disk: Sequence[Budget]
    memory: Sequence[Budget]
    most_memory: Sequence[Budget]
    cheap: str | None
    why_no_disk: str
    divisible: bool


def choose(asked: str, options: Options) -> Choice | None:
    """Choose a mode.

    Args:
        asked: `auto`, `disk`, `memory` or `recompute`.
        options: what there is to choose from.

    Returns:
        The choice, or None where the states fit nowhere that was asked for.
    """
    o = options
    at_once = (o.layers,)
    if asked == "disk":
        return Choice("disk", "disk", at_once, None) if _fit(o.disk, o.layers) else None
    if asked == "memory":
        return Choice("memory", "memory", at_once, "asked for") if _fit(o.most_memory, o.layers) else None
    if asked == "recompute":
        return _in_groups(o, "asked for")
    if not any(n for b in o.disk for n in b.needs.values()):
        return Choice("disk", "disk", at_once, None)  # all are there
    in_memory = _fit(o.memory, o.layers)
    if o.cheap is not None and in_memory:
        return Choice("memory", "memory", at_once, o.cheap)
    if _fit(o.disk, o.layers):
        return Choice("disk", "disk", at_once, None)
    if in_memory:
        return Choice("memory", "memory", at_once, o.why_no_disk)
    return _in_groups(o, o.why_no_disk)


def _fit(budgets: Sequence[Budget], layers: Sequence[int]) -> bool:
    return all(b.holds(layers) for b in budgets)


def _in_groups(o: Options, reason: str) -> Choice | None:
    """Few layers at a time, where that takes the fewest passes."""
    packed = {"memory": _pack(o, o.memory), "disk": _pack(o, o.disk)}
    found = {where: groups for where, groups in packed.items() if groups is not None}
    if not found:
        return None
    fewest = min(found, key=lambda where: len(found[where]))
    return Choice("recompute", "memory" if fewest == "memory" else "disk", found[fewest], reason)


def _pack(o: Options, budgets: Sequence[Budget]) -> tuple[tuple[int, ...], ...] | None:
    """The layers in groups that fit, or None where not even one layer does."""
    if not o.divisible:
        return (o.layers,) if _fit(budgets, o.layers) else None
    groups: list[tuple[int, ...]] = []
    for layer in o.layers:
        if not _fit(budgets, [layer]):
            return None
        if groups and _fit(budgets, [*groups[-1], layer]):
            groups[-1] += (layer,)
        else:
            groups.append((layer,))
    return tuple(groups)


def free_memory() -> int:
    """Bytes of memory that this process may still take: what is free, or what its control group leaves it."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        try:
            free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
        except (AttributeError, ValueError, OSError):  # no POSIX system
            free = 4 << 30
    return max(0, min([free, *_left_by_control_groups()]))


_CGROUPS = {
    "0::": ("", "memory.max", "memory.current", "inactive_file"),
    ":memory:": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Versions 2 and 1: what marks them in /proc/self/cgroup; their folder; limit, use, and what of it is a mere cache."""


def _left_by_control_groups(
    proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> list[int]:
    """What each control group that this process is in leaves of its limit; SLURM and containers set them."""
    left: list[int] = []
    try:
        lines = proc.read_text().splitlines()
    except OSError:
        return left
    for mark, (folder, limit, use, cache) in _CGROUPS.items():
        for line in lines:
            before, found, inside = line.partition(mark)
            if not found or (before and not before.isdecimal()):
                continue
            own = Path(inside.lstrip("/"))
            for group in (own, *own.parents):
                try:
                    where = root / folder / group
                    stat = (where / "memory.stat").read_text().split()
                    used = int((where / use).read_text()) - int(stat[stat.index(cache) + 1])
                    left.append(int((where / limit).read_text()) - used)
                except (OSError, ValueError):  # no such file, or "max": no limit
                    continue
    return left
