"""Hidden states of single waveforms, found by the samples themselves, whichever task has stored them.

s3prl's own tasks hand waveforms to the upstream, not files or splits. Their hidden states lie in ordinary entries of
the store (`entry`): those of mi_views and mi_supervised where view and precision are the same, and those written here,
some hundred MB at a time. A killed run loses what it has not written yet. Several processes may write at once, each
entries of its own; `refresh` finds those of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..core.words import count
from ..upstreams.views import PLAIN
from .entry import SCALES, Entry, layer_file
from .placement import free_memory
from .store import Capacity, Store, in_use, key_of
from .writer import TooCoarse

if TYPE_CHECKING:
    from ..upstreams.loading import Upstream

BUFFER_BYTES, OF_FREE_MEMORY = 1 << 30, 0.1
"""Hidden states are kept in memory as float32 up to so many bytes, and so much of what is free, until written."""


class WaveformStates:
    """Unmasked hidden states of one upstream in float32 arithmetic, by `waveform_hash`.

    Args:
        store: where they lie.
        upstream: the upstream.
        layers: the layers that are wanted.

    Attributes:
        bytes_written: into the store, by this object.
    """

    def __init__(self, store: Store, upstream: Upstream, layers: Sequence[int]) -> None:
        self._store, self._upstream, self._layers = store, upstream, list(layers)
        self._places: dict[str, tuple[_Source, str, int, int]] = {}
        self._known: set[Path] = set()
        self._fresh: dict[str, list[Tensor]] = {}
        self._fresh_bytes = self.bytes_written = 0
        self._buffer = min(BUFFER_BYTES, int(OF_FREE_MEMORY * free_memory()))
        self._wide = False
        self.refresh()

    def __contains__(self, digest: str) -> bool:
        return digest in self._places or digest in self._fresh

    def __len__(self) -> int:
        return len(self._places.keys() | self._fresh.keys())

    def get(self, digest: str) -> list[Tensor]:
        """Hidden states of a waveform by layer, float32 of shape (n_frames, dim), on the upstream's device.

        Raises:
            KeyError: there are none.
        """
        if digest in self._fresh:
            return [h.to(self._upstream.device) for h in self._fresh[digest]]
        source, part, row, n_frames = self._places[digest]
        return source.read(part, row, n_frames)

    def add(self, digest: str, hidden: Sequence[Tensor]) -> None:
        """Keep the hidden states of a waveform, as `get` returns them; they are written later, or with `flush`.

        Raises:
            InsufficientSpace: as `flush`.
        """
        self._fresh[digest] = [h.detach().to("cpu", copy=True) for h in hidden]
        self._fresh_bytes += sum(h.nbytes for h in hidden)
        if self._fresh_bytes > self._buffer:
            self.flush()

    def refresh(self) -> None:
        """Find what other runs have stored meanwhile."""
        wanted = {"fingerprint": self._upstream.fingerprint, "view": PLAIN.describe(), "precision": "fp32"}
        for entry in self._store.entries():
            same = all(entry.about.get(name) == value for name, value in wanted.items())
            if same and entry.path not in self._known and set(self._layers) <= set(entry.layers):
                held = self._store.find(entry.path.parent.name, self._layers)
                if held is not None:
                    self._learn(held)

    def room(self) -> Capacity:
        """What the store may take beyond what is there for this upstream."""
        return self._store.room(in_use())

    def flush(self) -> None:
        """Write what is in memory as an entry, float32 where float16 is too coarse.

        Raises:
            InsufficientSpace: the store has no room for it; it is dropped.
            MIError: NaN or infinite hidden states.
        """
        fresh, self._fresh, self._fresh_bytes = self._fresh, {}, 0
        if fresh:
            self.refresh()
        fresh = {digest: hidden for digest, hidden in fresh.items() if digest not in self._places}
        while fresh:
            try:
                self._learn(self._write(fresh, "float32" if self._wide else "float16"))
            except TooCoarse:
                self._wide = True
            else:
                return

    def _write(self, fresh: dict[str, list[Tensor]], dtype: str) -> Entry:
        upstream, digests = self._upstream, list(fresh)
        frames = sum(len(hidden[0]) for hidden in fresh.values())
        dims = [h.shape[1] for h in fresh[digests[0]]]
        needed = frames * sum(dims) * np.dtype(dtype).itemsize
        about: dict[str, Any] = {
            "upstream": upstream.name,
            "checkpoint": upstream.checkpoint_name,
            "fingerprint": upstream.fingerprint,
            "view": PLAIN.describe(),
            "precision": "fp32",
            "split": count(len(digests), "waveform of s3prl's own tasks"),
        }
        key = key_of({"fingerprint": upstream.fingerprint, "layers": self._layers, "waveforms": digests})
        self._store.make_room(needed, in_use(), [key])
        bounds = (0, len(digests))
        with self._store.writer(key, about, self._layers, dtype, [bounds]) as writer:
            if not writer.done:
                states = writer.encode(list(fresh.values()))
                writer.write(bounds, digests, states, waveforms=digests)
            writer.finish()
        entry = self._store.find(key, self._layers)
        assert entry is not None
        self.bytes_written += needed
        return entry

    def _learn(self, entry: Entry) -> None:
        """Note where each waveform of an entry lies."""
        self._known.add(entry.path)
        if len(entry.waveforms) != len(entry.n_frames):  # of an earlier version
            return
        source = _Source(entry, self._layers, self._upstream.device)
        parts = iter(entry.parts.items())
        part, end, row = "", 0, 0
        for digest, n_frames in zip(entry.waveforms, entry.n_frames, strict=True):
            while row == end and n_frames:  # an utterance lies in one part
                (part, end), row = next(parts), 0
            self._places.setdefault(digest, (source, part, row, n_frames))
            row += n_frames


class _Source:
    """An entry that is read utterance by utterance.

    Its files are open while they are read only: a large store has more of them than a process may open.
    """

    def __init__(self, entry: Entry, layers: Sequence[int], device: str) -> None:
        self._entry, self._device = entry, device
        with np.load(entry.path / SCALES) as scales:
            both = {name: torch.from_numpy(scales[name]).to(device) for name in scales.files}
        self._layers = [(layer_file(i), both[f"offset_{i}"], both[f"scale_{i}"]) for i in layers]

    def read(self, part: str, row: int, n_frames: int) -> list[Tensor]:
        folder, dtype = self._entry.path / part, np.dtype(self._entry.dtype)
        found = []
        for name, offset, scale in self._layers:
            dim = len(offset)
            raw = np.fromfile(folder / name, dtype, n_frames * dim, offset=row * dim * dtype.itemsize)
            h = torch.from_numpy(raw).view(n_frames, dim).to(self._device)
            found.append(h if h.dtype == torch.float32 else h.float().mul_(scale).add_(offset))
        return found
