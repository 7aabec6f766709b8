"""Hidden states in memory instead of on disk, in the very form they would have there: the same bits come out.

A `MemoryStore` reads what lies in the store on disk and writes nothing there. It lasts as long as the process, and each
process has one of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .entry import Entry, StoredLayer
from .journal import Bounds, Written
from .store import InsufficientSpace, Store, insufficient
from .writer import Scales, Writer


class MemoryStore:
    """Keeps in memory what is extracted, and finds what is on disk.

    Args:
        disk: the store on disk, from which this one only reads.
        max_bytes: the most that may be kept in memory.
    """

    shared = False

    def __init__(self, disk: Store, max_bytes: int) -> None:
        self.root, self.max_bytes = disk.root, max_bytes
        self._disk = disk
        self._entries: dict[Path, Entry] = {}

    @property
    def bytes(self) -> int:
        """What is kept."""
        return sum(entry.bytes for entry in self._entries.values())

    def find(self, key: str, layers: Sequence[int]) -> Entry | None:
        """The entry under `key` that holds at least these layers, in memory or on disk, or None."""
        for entry in self._entries.values():
            if entry.path.parent.name == key and set(layers) <= set(entry.layers):
                return entry
        return self._disk.find(key, layers)

    def make_room(self, needed: int, in_use: Collection[Path], keys: Sequence[str] = ()) -> None:
        """Refuse what would go beyond the limit; nothing is removed.

        Raises:
            InsufficientSpace: it would.
        """
        del in_use, keys
        if needed + self.bytes > self.max_bytes:
            raise self.refusal(needed)

    def refusal(self, needed: int) -> InsufficientSpace:
        """The message where `needed` more bytes do not fit."""
        limit = f"{self.max_bytes / 1e9:.2f} GB (downstream_expert.store.max_gb, and what is free)"
        where = f"in memory, of which it may take {limit}"
        return insufficient(needed + self.bytes, where, "Leave the choice to --store_mode auto")

    def forget(self, folders: Collection[Path]) -> None:
        """Free the memory of entries, even where somebody still has them."""
        for folder in folders:
            entry = self._entries.pop(folder, None)
            if entry is not None and entry.in_memory is not None:
                entry.in_memory.clear()

    def writer(
        self, key: str, about: Mapping[str, Any], layers: Sequence[int], dtype: str, batches: Sequence[Bounds]
    ) -> Writer:
        """Begin an entry. Use as a context manager."""
        name = self.root / key / f"{dtype} {' '.join(map(str, layers))}"
        target = Buffers(self._entries, name, layers, dtype)
        return Writer(target, dict(about), list(layers), dtype, batches)


class Buffers:
    """What a `Writer` writes to instead of a `Folder`; each method does what that of a folder does."""

    shared = False

    def __init__(self, entries: dict[Path, Entry], name: Path, layers: Sequence[int], dtype: str) -> None:
        self._entries, self._name, self._dtype = entries, name, dtype
        self._buffers = {index: bytearray() for index in layers}

    def open(self, batches: Sequence[Bounds]) -> tuple[list[Written], Scales | None]:  # noqa: D102
        del batches  # what is in memory does not outlive a killed run
        return [], None

    def write(self, batch: Written, arrays: Sequence[NDArray[np.floating]]) -> None:  # noqa: D102
        del batch
        for buffer, array in zip(self._buffers.values(), arrays, strict=False):
            buffer += np.ascontiguousarray(array).data.cast("B")

    def finish(self, entry: Entry, scales: Scales, about: dict[str, Any]) -> None:  # noqa: D102
        del about
        layers = {}
        for (index, buffer), dim in zip(self._buffers.items(), entry.dims, strict=True):
            data = np.frombuffer(buffer, self._dtype).reshape(-1, dim)
            data.flags.writeable = False
            layers[index] = StoredLayer(data, scales[f"offset_{index}"], scales[f"scale_{index}"])
        self._entries[self._name] = replace(entry, path=self._name, in_memory=layers)

    def read(self) -> Entry:  # noqa: D102
        return self._entries[self._name]

    def write_scales(self, scales: Scales) -> None: ...  # noqa: D102

    def flush(self) -> None: ...  # noqa: D102

    def close(self, discard: bool) -> None: ...  # noqa: D102
