"""The hidden states of an experiment while its probes are fitted: all at once, or a few layers at a time.

What they need and what there is decides how they are kept (`placement`); here it is found out, reported, and done.
Several processes make one choice, that of rank 0.
"""

from __future__ import annotations

import functools
import itertools
import logging
import socket
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.config import StoreConfig
from ..core.distributed import from_main, gather, world
from ..core.errors import MIError
from ..core.types import Seconds
from ..data.splits import Split
from ..upstreams.geometry import Geometry
from ..upstreams.loading import Upstream
from ..upstreams.precision import of_view
from ..upstreams.views import View
from .entry import Entry
from .extraction import Request, extract
from .memory_store import MemoryStore
from .placement import BY_ITSELF, IF_ASKED, MEMORY_BYTES, Choice, Options, choose, free_memory
from .split_states import SplitStates
from .store import Capacity, InsufficientSpace, Store

logger = logging.getLogger(__name__)

SPECTRAL = ("baseline", "baseline_stft")
"""Families that are computed within seconds (measured: fbank on one core at 600 times real time). What a second task
saves by finding them is not worth space on a disk."""


@dataclass(eq=False)
class HiddenStateProvider:
    """Hidden states of some splits under some views."""

    upstream: Upstream
    dims: Sequence[int]
    """Of all its hidden states."""
    layers: tuple[int, ...]
    """Those that are measured, in order."""
    divisible: bool
    """Whether one layer can be measured without the others (the weighted sum of all cannot)."""
    views: Sequence[View]
    config: StoreConfig
    disk: Store
    batch_size: int
    """Utterances per forward pass; 0: by device."""
    sides: Sequence[list[Split]]
    """The splits that are fitted on, and those that are scored."""
    precision: str = "fp32"
    """Of the forward pass: `fp32`, `mixed` or `bf16`."""

    def __post_init__(self) -> None:
        self._splits = {s.name: s for splits in self.sides for s in splits}
        self._wide = False
        self.choice = self._choose(self.layers)

    # --- what is asked for ------------------------------------------------------------------------------

    def _requests(self, layers: Sequence[int]) -> list[Request]:
        """For each split and view; layers of one frame rate are stored together."""
        rates: dict[Geometry, list[int]] = {}
        for layer in sorted(layers):
            rates.setdefault(self.upstream.geometry_of(layer), []).append(layer)
        dtype, precisions = self.config.dtype, {view: of_view(self.precision, view) for view in self.views}
        return [
            Request(self.upstream, split, view, tuple(of_rate), dtype, precisions[view])
            for split in self._splits.values()
            for view in self.views
            for of_rate in rates.values()
        ]

    def _look(self, layers: Sequence[int]) -> tuple[list[Request], list[Entry]]:
        """Requests that nothing serves yet, and the entries that serve the others."""
        found = [(r, self._store.find(r.key, r.layers)) for r in self._requests(layers)]
        return [r for r, entry in found if entry is None], [e for _, e in found if e is not None]

    def _needs(self, layers: Sequence[int], missing: Sequence[Request]) -> dict[int, int]:
        """Bytes that are still to be extracted, by layer."""
        return {n: sum(r.bytes([self.dims[n]], self._wide) for r in missing if n in r.layers) for n in layers}

    @property
    def missing_seconds(self) -> Seconds:
        """Audio that the forward passes of this process will take in."""
        # requests of one split and view share a forward pass
        seconds = {
            (group, r.split.name, r.view): r.split.seconds for group in self.choice.groups for r in self._look(group)[0]
        }
        return sum(seconds.values()) / (world().size if self._store.shared else 1)

    # --- the choice -------------------------------------------------------------------------------------

    def _choose(self, layers: Sequence[int]) -> Choice:
        """Choose how some layers are kept, and say so.

        Raises:
            InsufficientSpace: they fit nowhere.
        """
        self._store: Store | MemoryStore = self.disk
        missing, entries = self._look(layers)
        asked, limit = self.config.mode, self.disk.max_bytes
        hosts = gather((socket.gethostname(), free_memory()))
        # what is kept in memory, each process keeps for itself
        free = min(memory / [name for name, _ in hosts].count(host) for host, memory in hosts)
        by_itself = min(MEMORY_BYTES, BY_ITSELF * free)
        room_for = functools.partial(self.disk.room, [e.path for e in entries], [r.key for r in missing])
        needs, room = from_main(lambda: (self._needs(layers, missing), room_for()))
        cheap = None if self.config.keep else "store.keep is false"
        if self.upstream.family.name in SPECTRAL:
            cheap = f"{self.upstream.name} is computed again within seconds"
        options = Options(
            needs=needs,
            disk=room.bytes,
            memory=int(min(by_itself, limit) if asked == "recompute" else by_itself),
            most_memory=int(min(IF_ASKED * free, limit)),
            cheap=cheap,
            why_no_disk=room.reason,
            divisible=self.divisible,
        )
        choice = choose(asked, options)
        if choice is None:
            raise self._refusal(options, room)
        if choice.scratch == "memory":
            self._store = MemoryStore(self.disk, max(options.most_memory, options.memory))
        elif options.total:
            self.disk.check_shared()
        self._report(choice, needs)
        return choice

    def _refusal(self, options: Options, room: Capacity) -> InsufficientSpace:
        """The message where the states fit nowhere that was asked for."""
        if self.config.mode == "memory" or options.total <= room.bytes:
            return MemoryStore(self.disk, options.most_memory).refusal(options.total)
        refusal = room.refusal(options.total)
        if self.config.mode == "disk":
            return refusal
        more = (
            f"Nor does one layer alone ({max(options.needs.values()) / 1e9:.2f} GB) fit there, or into the "
            f"{options.memory / 1e9:.2f} GB of memory that may be taken."
            if self.divisible
            else "The weighted sum needs all layers at once."
        )
        return InsufficientSpace(f"{refusal} {more}")

    def _report(self, choice: Choice, needs: dict[int, int]) -> None:
        needed = sum(needs.values())
        if not needed:
            return
        size = f"hidden states: {f'about {needed / 1e9:.2f}' if needed > 1e7 else 'below 0.01'} GB"
        if choice.mode == "disk":
            how = f" to extract into {self.disk.root} (limit {self.disk.max_bytes / 1e9:g} GB)"
        elif choice.mode == "memory":
            how = f", kept in memory: {choice.reason}"
        else:
            most = max(sum(needs[n] for n in group) for group in choice.groups) / 1e9
            where = "memory" if choice.scratch == "memory" else str(self.disk.root)
            several = f"in {len(choice.groups)} groups of layers, for each of which the upstream runs again"
            how = f", {several if len(choice.groups) > 1 else 'all layers at once'}"
            how += f", at most {most:.2f} GB at once in {where}: {choice.reason}"
        logger.info("%s%s", size, how)

    def about(self) -> dict[str, Any]:
        """The choice, for the experiment's settings."""
        c = self.choice
        return {"mode": c.mode, "scratch": c.scratch, "groups": len(c.groups), "reason": c.reason}

    # --- doing it ---------------------------------------------------------------------------------------

    def groups(self, wanted: Collection[int | str]) -> Iterator[tuple[Sequence[int], list[SplitStates]]]:
        """Hidden states, as many layers at a time as the choice allows; they are gone when the next are asked for.

        Args:
            wanted: layers without which a group is passed over; `weighted` wants all.

        Yields:
            Layers, and each side's hidden states of them.
        """
        left = self.layers
        while left:
            for group in self.choice.groups:
                if "weighted" in wanted or set(group) & set(wanted):
                    missing, entries = self._look(group)
                    before = {e.path for e in entries}
                    needed = sum(self._needs(group, missing).values())
                    self._store.make_room(needed, before, [r.key for r in missing])
                    try:
                        sides = self._extract(group)
                    except InsufficientSpace:
                        if self._wide or self.config.mode in ("disk", "memory"):
                            raise
                        self._store.forget({e.path for e in self._look(group)[1]} - before)
                        break
                    yield group, sides
                    if self.choice.mode != "disk" or not self.config.keep:
                        self._store.forget({e.path for side in sides for e in side.all_entries} - before)
                left = tuple(n for n in left if n not in group)
            else:
                return
            # float16 was too coarse, and float32 takes more room than there is: choose again
            self._wide = True
            self.choice = self._choose(left)

    def _extract(self, group: Sequence[int]) -> list[SplitStates]:
        """Hidden states of every split and view; all views of a split share the convolutions.

        Raises:
            InsufficientSpace: float16 is too coarse, and there is no room for float32.
        """
        entries: dict[tuple[str, View], list[Entry]] = {}
        for name, of_split in itertools.groupby(self._requests(group), key=lambda r: r.split.name):
            requests = list(of_split)
            found = extract(self._store, requests, self.batch_size, self._wide)
            _refuse_different(found, name)
            for request, entry in zip(requests, found, strict=True):
                entries.setdefault((name, request.view), []).append(entry)
        return [
            SplitStates(splits, {view: [entries[s.name, view] for s in splits] for view in self.views})
            for splits in self.sides
        ]


def _refuse_different(entries: Sequence[Entry], split: str) -> None:
    """Refuse hidden states of one split whose rows are not the same utterances': pairs and labels would be wrong.

    Raises:
        MIError: an utterance that could be read when one entry was extracted, and not when another was.
    """
    for entry in entries:
        odd = set(entry.utterances) ^ set(entries[0].utterances)
        if odd:
            raise MIError(
                f"{split}: utterance {min(odd)} is in only one of {entries[0].path} and {entry.path}: the recording "
                "could not be read each time. Remove both folders and run again, or leave the recording out."
            )
