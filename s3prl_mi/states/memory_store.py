"""Hidden states in memory instead of on disk, in the very form they would have there: the same bits come out.

A `MemoryStore` reads what lies in the store on disk and writes nothing there. It lasts as long as the process.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from .store import Entry, InsufficientSpace, Store, StoredLayer, Writer


@dataclass(frozen=True)
class MemoryEntry(Entry):
    """An entry whose layers lie in memory; its `path` names it and is no folder."""

    in_memory: dict[int, StoredLayer] = field(default_factory=dict, repr=False, compare=False)

    def layer(self, index: int) -> StoredLayer:
        """Frames of one layer, of all utterances end to end."""
        return self.in_memory[index]

    @property
    def bytes(self) -> int:
        """Size in memory."""
        return sum(self.n_frames) * sum(self.dims) * np.dtype(self.dtype).itemsize


class MemoryStore(Store):
    """Keeps in memory what is extracted, and finds what is on disk.

    Args:
        disk: the store on disk, from which this one only reads.
        max_bytes: the most that may be kept in memory.
    """

    def __init__(self, disk: Store, max_bytes: int) -> None:
        super().__init__(disk.root, max_bytes)
        self._disk = disk
        self._entries: dict[Path, MemoryEntry] = {}

    def find(self, key: str, layers: Sequence[int]) -> Entry | None:
        """The entry under `key` that holds at least these layers, in memory or on disk, or None."""
        for entry in self._entries.values():
            if entry.path.parent.name == key and set(layers) <= set(entry.layers):
                return entry
        return self._disk.find(key, layers)

    def make_room(self, needed: int, in_use: Sequence[Path], keys: Sequence[str] = ()) -> None:
        """Refuse what would go beyond the limit; nothing is removed.

        Raises:
            InsufficientSpace: it would.
        """
        del in_use, keys
        held = sum(entry.bytes for entry in self._entries.values())
        if needed + held > self.max_bytes:
            raise InsufficientSpace(
                f"the hidden states of this run need {(needed + held) / 1e9:.2f} GB in memory, of which it may take "
                f"{self.max_bytes / 1e9:.2f} GB (downstream_expert.store.max_gb, and what is free). Leave the choice "
                "to --store_mode auto, or take fewer layers (downstream_expert.layers), or less speech "
                "(downstream_expert.datarc.max_utterances)."
            )

    def remove(self, folder: Path) -> bool:
        """Forget an entry, and free its memory, whoever still has it."""
        entry = self._entries.pop(folder, None)
        if entry is not None:
            entry.in_memory.clear()
        return True

    def writer(self, key: str, determinants: Mapping[str, Any], layers: Sequence[int], dtype: str) -> Writer:
        """Begin an entry. Use as a context manager."""
        writer = _MemoryWriter(self.root / key, dict(determinants), list(layers), dtype)
        writer.kept = self._entries
        return writer


class _MemoryWriter(Writer):
    """A `Writer` whose files are buffers: what is written and refused is decided by the same code."""

    kept: dict[Path, MemoryEntry]

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files = []

    def _open_files(self) -> None:
        self._buffers = [io.BytesIO() for _ in self.layers]
        self._files = [*self._buffers, io.BytesIO()]

    def _note(self, *notes: dict[str, Any]) -> None:
        """There is no journal: what is in memory does not outlive a killed run."""

    def finish(self) -> Entry:
        """Keep the entry.

        Raises:
            TooCoarse: float16 turned out to be too coarse.
        """
        self._refuse_too_coarse()
        layers = {}
        for index, dim, buffer in zip(self.layers, self._dims, self._buffers, strict=True):
            data = np.frombuffer(buffer.getbuffer(), self.dtype).reshape(-1, dim)
            data.flags.writeable = False
            layers[index] = StoredLayer.of(
                data, self._scales[f"offset_{index}"], self._scales[f"scale_{index}"]
            )
        counts = list(self.written.values())
        entry = MemoryEntry(
            self.final,
            list(self.written),
            counts,
            self.layers,
            self._dims,
            self.dtype,
            self.skipped,
            in_memory=layers,
        )
        self.kept[entry.path] = entry
        return entry
