"""The hidden states of an experiment while its probes are fitted: all at once, or a few layers at a time.

`store_mode` says how they may be kept; here it is found out what they need, chosen, said, and done.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.config import StoreConfig
from ..core.distributed import gather, together, world
from ..core.errors import MIError
from ..core.types import Seconds
from ..data.audio import SkipCounter
from ..upstreams.geometry import Geometry
from ..upstreams.loading import Upstream
from ..upstreams.precision import of_view
from ..upstreams.views import View
from .extraction import Request, Split, hidden_states
from .memory_store import MemoryStore
from .placement import (
    MEMORY_BYTES,
    SHARE_ASKED,
    SHARE_BY_ITSELF,
    Budget,
    Choice,
    Options,
    choose,
    free_memory,
)
from .split_states import SplitStates, split_states_of
from .store import Capacity, Entry, InsufficientSpace, Store

logger = logging.getLogger(__name__)

SPECTRAL = ("baseline", "baseline_stft")
"""Families that are computed within seconds (measured: fbank on one core at 600 times real time). What a second task
saves by finding them is not worth room on a disk."""


@dataclass(frozen=True)
class _Told:
    """What a process tells the others: what it would extract, what it reads, and the memory it has."""

    host: str
    needs: dict[int, int]
    in_use: list[Path]
    keys: list[str]
    memory: int


class HiddenStateProvider:
    """Hidden states of some splits under some views.

    Args:
        upstream: the upstream.
        dims: dimensions of all its hidden states.
        layers: indices of those that are measured, in order.
        divisible: whether one layer can be measured without the others (the weighted sum of all cannot).
        views: of the input.
        config: what the user says of the store.
        store: the store on disk.
        batch_size: utterances a forward pass; 0: by device.
        sides: the splits that are fitted on, and those that are scored.
        precision: of the forward pass, `fp32`, `mixed` or `bf16`.
    """

    def __init__(
        self,
        upstream: Upstream,
        dims: Sequence[int],
        layers: Sequence[int],
        divisible: bool,
        views: Sequence[View],
        config: StoreConfig,
        store: Store,
        batch_size: int,
        sides: Sequence[list[Split]],
        precision: str = "fp32",
    ) -> None:
        self.upstream, self.dims, self.layers, self.divisible = upstream, dims, tuple(layers), divisible
        self.views, self.config, self.disk, self.batch_size = views, config, store, batch_size
        self.sides, self.precision = sides, precision
        here = world()
        # shared out once, so that each file is hashed once
        self._shares = {s.name: s.share(here.rank, here.size) for splits in sides for s in splits}
        self._wide = False
        self._store = store
        self.choice = self._choose(self.layers)

    # --- what is asked for ------------------------------------------------------------------------------

    def _requests(self, layers: Sequence[int]) -> dict[tuple[str, View], list[Request]]:
        """By split and view; layers of one frame rate are stored together."""
        rates: dict[Geometry, list[int]] = {}
        for layer in sorted(layers):
            rates.setdefault(self.upstream.geometry_of(layer), []).append(layer)
        return {
            (name, view): [
                Request(
                    self.upstream,
                    share,
                    view,
                    tuple(of_rate),
                    self.config.dtype,
                    of_view(self.precision, view),
                )
                for of_rate in rates.values()
            ]
            for name, share in self._shares.items()
            for view in self.views
        }

    def _look(self, layers: Sequence[int]) -> tuple[list[Request], list[Path]]:
        """Requests that nothing serves yet, and the entries that serve the others."""
        requests = [r for group in self._requests(layers).values() for r in group]
        found = [(r, self._store.find(r.key, r.layers)) for r in requests]
        return [r for r, entry in found if entry is None], [e.path for _, e in found if e is not None]

    def _tell(self, layers: Sequence[int]) -> list[_Told]:
        """What every process needs for some layers, by rank."""
        with together():
            missing, in_use = self._look(layers)
        needs = dict.fromkeys(layers, 0)
        for request in missing:
            for layer in request.layers:
                needs[layer] += request.bytes([self.dims[layer]], self._wide)
        told = _Told(socket.gethostname(), needs, in_use, [r.key for r in missing], free_memory())
        return gather(told)

    @property
    def missing_seconds(self) -> Seconds:
        """Audio that all forward passes together will take in, of this process's share; each may ask for itself."""
        groups = [self._look(group)[0] for group in self.choice.groups]
        # requests of one split and view share a forward pass
        return sum(
            seconds
            for missing in groups
            for seconds in {(r.split.name, r.view): r.split.seconds for r in missing}.values()
        )

    # --- the choice -------------------------------------------------------------------------------------

    def _choose(self, layers: Sequence[int]) -> Choice:
        """Choose how some layers are kept, alike on every process, and say so.

        Raises:
            InsufficientSpace: they fit nowhere.
        """
        self._store = self.disk
        told = self._tell(layers)
        rooms = self._rooms(told)
        asked = self.config.mode
        limit = self.disk.max_bytes
        of_host = [{n: sum(t.needs[n] for t in told if t.host == host) for n in layers} for host, _ in rooms]
        near = [sum(t.host == other.host for other in told) for t in told]
        free = [min(o.memory for o in told if o.host == t.host) / n for t, n in zip(told, near, strict=True)]
        most = [min(SHARE_ASKED * m, limit / n) for m, n in zip(free, near, strict=True)]
        by_itself = [min(MEMORY_BYTES, SHARE_BY_ITSELF * m) for m in free]
        if asked == "recompute":
            by_itself = [min(m, limit / n) for m, n in zip(by_itself, near, strict=True)]
        tightest = min((room for _, room in rooms), key=lambda room: room.bytes)
        options = Options(
            layers=tuple(layers),
            disk=[Budget(needs, room.bytes) for needs, (_, room) in zip(of_host, rooms, strict=True)],
            memory=[Budget(t.needs, int(m)) for t, m in zip(told, by_itself, strict=True)],
            most_memory=[Budget(t.needs, int(m)) for t, m in zip(told, most, strict=True)],
            cheap=self._cheap(),
            why_no_disk=tightest.reason(),
            divisible=self.divisible,
        )
        choice = choose(asked, options)
        with together():
            if choice is None:
                raise self._refusal(asked, options, rooms)
        assert choice is not None
        if choice.scratch == "memory":
            self._store = MemoryStore(
                self.disk, max(b.bytes for b in (*options.most_memory, *options.memory))
            )
        self._say(choice, told)
        return choice

    def _rooms(self, told: Sequence[_Told]) -> list[tuple[str, Capacity]]:
        """The room that each machine's store has; its processes share it."""
        own = None
        with together():
            if world().local_rank == 0:
                host = socket.gethostname()
                near = [t for t in told if t.host == host]
                in_use, keys = [p for t in near for p in t.in_use], [k for t in near for k in t.keys]
                own = (host, self.disk.room(in_use, keys))
        return [found for found in gather(own) if found is not None]

    def _cheap(self) -> str | None:
        if self.upstream.family.name in SPECTRAL:
            return f"{self.upstream.name} is computed anew within seconds"
        return None if self.config.keep else "store.keep is false"

    def _refusal(
        self, asked: str, options: Options, rooms: Sequence[tuple[str, Capacity]]
    ) -> InsufficientSpace:
        for budget, (_, room) in zip(options.disk, rooms, strict=True):
            needed = sum(budget.needs.values())
            if asked != "memory" and needed > room.bytes:
                text = room.refusal(needed)
                if asked != "disk":
                    largest = max(budget.needs.values())
                    text += (
                        f" Nor does one layer alone ({largest / 1e9:.2f} GB) fit there, or into the "
                        f"{options.memory[0].bytes / 1e9:.2f} GB of memory that may be taken."
                        if self.divisible
                        else " The weighted sum needs all layers at once."
                    )
                return InsufficientSpace(text)
        budget = next(b for b in options.most_memory if not b.holds(options.layers))
        needed = sum(budget.needs.values())
        try:
            MemoryStore(self.disk, budget.bytes).make_room(needed, [])
        except InsufficientSpace as error:
            return error
        return InsufficientSpace(
            f"the hidden states of this run need {needed / 1e9:.2f} GB, which fit nowhere."
        )

    def _say(self, choice: Choice, told: Sequence[_Told]) -> None:
        needed = sum(sum(t.needs.values()) for t in told)
        if not needed:
            return
        size = (
            f"hidden states: about {needed / 1e9:.2f} GB" if needed > 1e7 else "hidden states: below 0.01 GB"
        )
        if choice.mode == "disk":
            limit = self.disk.max_bytes / 1e9
            logger.info("%s to extract into %s (limit %g GB)", size, self.disk.root, limit)
        elif choice.mode == "memory":
            logger.info("%s, kept in memory: %s", size, choice.reason)
        else:
            most = max(sum(t.needs[n] for t in told for n in group) for group in choice.groups)
            where = "memory" if choice.scratch == "memory" else str(self.disk.root)
            logger.info(
                "%s, %s, at most %.2f GB at once in %s: %s",
                size,
                _passes(len(choice.groups)),
                most / 1e9,
                where,
                choice.reason,
            )

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
                    before = self._make_room(group)
                    sides = self._extract(group)
                    if sides is None:
                        self._forget(group, before)
                        break
                    yield group, sides
                    self._tidy(sides, before)
                left = tuple(n for n in left if n not in group)
            else:
                return
            # float16 was too coarse, and float32 takes more room than there is: choose again
            self._wide = True
            self.choice = self._choose(left)

    def _make_room(self, group: Sequence[int]) -> set[Path]:
        """Make room for some layers; the entries of this process that are there already."""
        told = self._tell(group)
        host = socket.gethostname()
        with together():
            # processes of one machine share its store: the first of them makes room for all
            near = [t for t in told if t.host == host]
            if isinstance(self._store, MemoryStore):
                near = [told[world().rank]]
            if isinstance(self._store, MemoryStore) or world().local_rank == 0:
                self._store.make_room(
                    sum(sum(t.needs.values()) for t in near),
                    [path for t in near for path in t.in_use],
                    [key for t in near for key in t.keys],
                )
        return set(told[world().rank].in_use)

    def _extract(self, group: Sequence[int]) -> list[SplitStates] | None:
        """Hidden states of every split and view; None: float16 is too coarse, and there is no room for float32."""
        entries: dict[tuple[str, View], list[Entry]] | None = None
        with together():
            try:
                entries = self._entries(group)
            except InsufficientSpace:
                if self._wide or self.config.mode in ("disk", "memory"):
                    raise
        if not all(gather(entries is not None)):
            return None
        assert entries is not None
        self._check_skipped(entries)
        return [
            split_states_of(splits, {view: [entries[s.name, view] for s in splits] for view in self.views})
            for splits in self.sides
        ]

    def _entries(self, group: Sequence[int]) -> dict[tuple[str, View], list[Entry]]:
        """By split and view; all views of a split are extracted together, as they share the convolutions."""
        requests = self._requests(group)
        entries: dict[tuple[str, View], list[Entry]] = {}
        for name in self._shares:
            of_split = {at: found for at, found in requests.items() if at[0] == name}
            every = [r for found in of_split.values() for r in found]
            stored = iter(hidden_states(self._store, every, self.batch_size, self._wide))
            found_of = {at: [next(stored) for _ in found] for at, found in of_split.items()}
            _refuse_different([entry for found in found_of.values() for entry in found], name)
            entries |= found_of
        return entries

    def _forget(self, group: Sequence[int], before: set[Path]) -> None:
        """Remove what was extracted of a group before it turned out that not all of it fits."""
        for request in (r for requests in self._requests(group).values() for r in requests):
            entry = self._store.find(request.key, request.layers) if request.ordered else None
            if entry is not None and entry.path not in before:
                self._store.remove(entry.path)

    def _check_skipped(self, entries: dict[tuple[str, View], list[Entry]]) -> None:
        """Of several processes each counts its own unreadable files; together they may be too many."""
        if world().size == 1:
            return
        for split in (s for splits in self.sides for s in splits):
            told = gather(entries[split.name, self.views[0]][0].skipped)
            skipped = [*split.checked.unreadable, *(skip for own in told for skip in own)]
            SkipCounter(split.found, split.max_unreadable, split.name, skipped).check()

    def _tidy(self, sides: Sequence[SplitStates], before: set[Path]) -> None:
        """Remove what this run extracted and nobody is to find: all but what `disk` keeps."""
        if self.choice.mode == "disk" and self.config.keep:
            return
        of_splits = [entries for side in sides for splits in side.states.values() for entries in splits]
        for folder in {e.path for entries in of_splits for e in entries} - before:
            self._store.remove(folder)


def _passes(groups: int) -> str:
    """What is done to have all layers.

    Example:
        >>> _passes(1)
        'all layers at once'
    """
    if groups == 1:
        return "all layers at once"
    return f"in {groups} groups of layers, for each of which the upstream runs anew"


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
