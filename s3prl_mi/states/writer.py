"""Filling an entry batch by batch, by one process or several; what a killed run has left is used.

While it is filled an entry is called ``<layers>.partial``. Each process appends to a part of its own,
``part-<first utterance>/``: frames first, then a line of the part's journal, one per batch. A run that finds such
parts keeps the batches that are whole and extracts the others, with any number of processes: batches are numbered by
their utterances in the whole split, and a batch is never divided. Rank 0 alone holds the entry's lock, writes the
manifest and gives the folder its final name.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import time
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..core.distributed import gather, is_main
from ..core.errors import MIError
from ..core.files import remove_all, write_whole
from ..core.locks import Lock
from ..core.types import FloatMatrix
from .entry import MANIFEST, SCALES, Entry, layer_file, manifest_text, read_entry
from .float16 import EncodedBatch, RoundingError, to_float16
from .journal import JOURNAL, Bounds, Written, whole_batches

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .memory_store import Buffers

LARGEST_ERROR = 1e-3
"""Root mean square error of float16 storage, in standard deviations of its dimension, above which float32 is used."""

Scales: TypeAlias = dict[str, FloatMatrix]
"""`offset_<i>` and `scale_<i>` of each layer, shape (dim,)."""


class TooCoarse(Exception):
    """float16 is not exact enough for these hidden states: write them again as float32."""


class Writer:
    """Fills one entry. Use as a context manager; a run that dies inside leaves what the next one continues.

    Several processes fill an entry on disk together: each writes batches of its own, and all enter, `begin` and
    `finish` at the same time.

    Args:
        target: where frames go: a `Folder`, which all processes fill together, or `Buffers` of this process alone.
        about: what a person who lists the store sees.
        layers: indices of the layers.
        dtype: `float16` or `float32`.
        batches: all batches of the split.

    Attributes:
        done: the batches that a killed run has left.
    """

    def __init__(
        self, target: Folder | Buffers, about: dict[str, Any], layers: list[int], dtype: str, batches: Sequence[Bounds]
    ) -> None:
        self.layers, self.dtype = layers, dtype
        self.done: dict[Bounds, Written] = {}
        self._target, self._about, self._batches = target, about, batches
        self._own: list[Written] = []
        self._loose: list[tuple[str, str]] = []
        self._scales: Scales | None = None
        self._copies: dict[torch.device, list[tuple[Tensor, Tensor]]] = {}
        self._errors: list[RoundingError] = []

    def _gather(self, value: Any) -> list[Any]:
        return gather(value) if self._target.shared else [value]

    @property
    def _leads(self) -> bool:
        return is_main() or not self._target.shared

    def __enter__(self) -> Writer:
        found = self._target.open(self._batches) if self._leads else None
        done, self._scales = self._gather(found)[0]
        self.done = {w.bounds: w for w in done}
        self._begin_errors()
        return self

    def __exit__(self, kind: type[BaseException] | None, *about: object) -> None:
        self._target.close(discard=kind is TooCoarse)

    # --- frames -----------------------------------------------------------------------------------------

    @property
    def begun(self) -> bool:
        """Whether offset and scale are known."""
        return self._scales is not None

    def begin(self, first: Sequence[Tensor] | None) -> None:
        """Fix offset and scale of each layer by the first utterance of the split that can be read.

        Args:
            first: hidden states by layer of this process's first utterance; None: it has none. Those of the first
                process that has any count, as its batches come first.
        """
        candidates = self._gather(None if first is None else self._scales_of(first))
        self._scales = next((s for s in candidates if s is not None), None)
        if self._scales is not None and self._leads:
            self._target.write_scales(self._scales)
        self._begin_errors()

    def _scales_of(self, hidden: Sequence[Tensor]) -> Scales:
        scales: Scales = {}
        for index, h in zip(self.layers, (h.cpu().numpy() for h in hidden), strict=True):
            with np.errstate(invalid="ignore"):  # `write` refuses what is not finite
                spread = h.std(0)
                scales[f"offset_{index}"] = h.mean(0)
            scales[f"scale_{index}"] = np.where(spread > 0, spread, 1.0).astype(np.float32)
        return scales

    def _begin_errors(self) -> None:
        # what a killed run has left was judged when it was written
        if self._scales is not None:
            self._errors = [RoundingError(self._scales[f"scale_{i}"]) for i in self.layers]

    def encode(self, hidden: Sequence[Sequence[Tensor]]) -> EncodedBatch | None:
        """The hidden states of a batch as they will be stored; on a GPU nothing is waited for.

        Args:
            hidden: for each utterance, for each layer of this entry, float32 of shape (n_frames, dim). The first one
                that comes is what `begin` takes.
        """
        if not hidden:
            return None
        if not self.begun:
            self.begin(hidden[0])
        assert self._scales is not None
        dims = [len(self._scales[f"offset_{i}"]) for i in self.layers]
        for states in hidden:
            if (found := [h.shape[1] for h in states]) != dims:
                raise MIError(f"hidden states of layers {self.layers} have {dims} dimensions, then {found}.")
        return to_float16(hidden, None if self.dtype == "float32" else self._scales_on(hidden[0][0].device))

    def _scales_on(self, device: torch.device) -> list[tuple[Tensor, Tensor]]:
        """Offset and scale of each layer, copied to a device once."""
        import torch

        if device not in self._copies:
            assert self._scales is not None
            named = {name: torch.from_numpy(values).to(device) for name, values in self._scales.items()}
            self._copies[device] = [(named[f"offset_{i}"], named[f"scale_{i}"]) for i in self.layers]
        return self._copies[device]

    def write(
        self,
        bounds: Bounds,
        utterances: Sequence[str],
        states: EncodedBatch | None,
        skipped: Sequence[tuple[str, str]] = (),
        waveforms: Sequence[str] = (),
    ) -> None:
        """Add a batch; one thread may encode while another one writes.

        Args:
            bounds: the batch; one that does not follow the last one begins another part.
            utterances: ids of those that could be read, with their states by `encode`.
            states: None: there are none.
            skipped: utterances that cannot be read, and why.
            waveforms: hashes of the waveforms of those that could be read.

        Raises:
            TooCoarse: float16 does not hold these values.
            MIError: NaN or infinite hidden states (layer and utterance named).
        """
        follows = bool(self._own) and self._own[-1].bounds[1] == bounds[0]
        if states is None and not follows:  # no part to note it in: the next run looks again
            self._loose += skipped
            return
        frames = dict(zip(utterances, states.n_frames if states else (), strict=True))
        part = self._own[-1].part if follows else f"part-{bounds[0]:06d}"
        batch = Written(bounds, part, frames, list(skipped), list(waveforms))
        if states is not None:
            if states.event is not None:
                states.event.synchronize()
            self._judge(utterances, states)
        self._target.write(batch, states.arrays if states else ())
        self._own.append(batch)

    def _judge(self, utterances: Sequence[str], states: EncodedBatch) -> None:
        for index, array, sums in zip(self.layers, states.arrays, states.sums, strict=True):
            if not np.isfinite(sums[0]).all():
                row = int(np.argmax(~np.isfinite(array).all(1)))
                number = int(np.searchsorted(np.cumsum(states.n_frames), row, side="right"))
                raise MIError(
                    f"layer {index} of utterance {utterances[number]} has NaN or infinite hidden states. The "
                    "checkpoint or this recording is at fault; compare another checkpoint, or leave the recording out."
                )
        if self.dtype == "float16":
            for index, error, sums in zip(self.layers, self._errors, states.sums, strict=True):
                if not np.isfinite(sums).all():
                    raise TooCoarse(index)
                error.add(sum(states.n_frames), sums)

    # --- the end ----------------------------------------------------------------------------------------

    def skipped(self) -> list[tuple[str, str]]:
        """Utterances left out by all processes and by the killed run before them; all ask at the same time."""
        own = [*self._loose, *(s for w in self._own for s in w.skipped)]
        return [*(s for w in self.done.values() for s in w.skipped), *(s for part in self._gather(own) for s in part)]

    def finish(self) -> Entry:
        """Make an entry of what all processes have written.

        Raises:
            TooCoarse: float16 turned out to be too coarse; on every process.
        """
        skipped = self.skipped()
        self._target.flush()
        found = self._gather((self._own, self._errors))
        if self.dtype == "float16" and self._too_coarse([errors for _, errors in found]):
            raise TooCoarse
        batches = sorted([*self.done.values(), *(w for own, _ in found for w in own)], key=lambda w: w.bounds)
        if self._leads:
            assert self._scales is not None
            frames = {u: n for w in batches for u, n in w.frames.items()}
            parts: dict[str, int] = {}
            sums: dict[str, int] = {}
            for w in batches:
                parts[w.part] = parts.get(w.part, 0) + sum(w.frames.values())
                sums |= {f"{w.part}/{layer_file(i)}": s for i, s in zip(self.layers, w.sums, strict=False)}
            dims = [len(self._scales[f"offset_{i}"]) for i in self.layers]
            counts = list(frames.values())
            waveforms = [digest for w in batches for digest in w.waveforms]
            entry = Entry(Path(), list(frames), counts, self.layers, dims, self.dtype, skipped, parts, waveforms, sums)
            self._target.finish(entry, self._scales, self._about)
        self._gather(None)
        return self._target.read()

    def _too_coarse(self, found: Sequence[Sequence[RoundingError]]) -> bool:
        """Judge the errors of all processes together: all come to the same end."""
        self._begin_errors()
        for own in found:
            for error, more in zip(self._errors, own, strict=True):
                if more.count:
                    error.add(more.count, more.sums)
        return any(e.count and e.worst() > LARGEST_ERROR for e in self._errors)


class Folder:
    """An entry's folder, below that of its key, while it is filled."""

    shared = True

    def __init__(self, parent: Path, layers: Sequence[int], dtype: str) -> None:
        name = hashlib.sha256(json.dumps([layers, dtype]).encode()).hexdigest()[:16]
        self.final, self.folder = parent / name, parent / f"{name}.partial"
        self._layers, self._item = layers, np.dtype(dtype).itemsize
        self._part, self._sums = "", list[int]()
        self._files: list[IO[bytes]] = []
        self._locks: list[Lock] = []

    # --- what a killed run has left ---------------------------------------------------------------------

    def open(self, batches: Sequence[Bounds]) -> tuple[list[Written], Scales | None]:
        """Wait until no other run fills this entry, and look for batches that are there already."""
        self._locks.append(Lock.alone(lock_file(self.folder)))
        if self.folder.is_file():
            self.folder.unlink()
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with open(self.folder / SCALES, "rb") as file, np.load(file) as stored:
                scales: Scales = {name: stored[name] for name in stored.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            scales = {}
        rows = [len(scales.get(f"offset_{i}", ())) * self._item for i in self._layers]
        wanted, done = set(batches), list[Written]()
        for path in sorted(self.folder.glob("part-*")):
            kept = self._keep(path, wanted, rows) if all(rows) else []
            if not kept:
                remove_all(path)
            wanted -= {w.bounds for w in kept}
            done += kept
        if not done:
            shutil.rmtree(self.folder)
            self.folder.mkdir()
        return done, scales if done else None

    def _keep(self, path: Path, wanted: set[Bounds], rows: Sequence[int]) -> list[Written]:
        """Cut a part back to its leading batches that are wanted and whole in every layer, `rows` bytes per frame.

        Whole is what has the checksum that the journal tells: after a power cut a file may be as long as it was to be,
        and empty.
        """
        files = [path / layer_file(i) for i in self._layers]
        with contextlib.ExitStack() as stack:
            try:
                alone = Lock(path / JOURNAL)
                lines = (path / JOURNAL).read_bytes().split(b"\n")[:-1]
                streams = [stack.enter_context(open(f, "rb")) for f in files]
            except OSError:
                return []
            if not alone.take():  # a process of a run whose rank 0 has died
                return []
            kept = whole_batches(path.name, lines, streams, wanted, rows)
        for file, row in zip(files, rows, strict=True):
            os.truncate(file, sum(sum(w.frames.values()) for w in kept) * row)
        os.truncate(path / JOURNAL, sum(len(line) + 1 for line in lines[: len(kept)]))
        return kept

    # --- writing ----------------------------------------------------------------------------------------

    def write_scales(self, scales: Scales) -> None:
        """Without them no part is of use to a later run."""
        write_whole(self.folder / SCALES, _scales_bytes(scales))

    def write(self, batch: Written, arrays: Sequence[NDArray[np.floating]]) -> None:
        """Frames first; the journal is written once they are with the operating system."""
        if batch.part != self._part:
            self.flush()
            self._close()
            self._part, path = batch.part, self.folder / batch.part
            path.mkdir()
            self._files = [open(path / name, "wb") for name in (*map(layer_file, self._layers), JOURNAL)]
            self._locks.append(Lock(path / JOURNAL))
            self._locks[-1].take()
            self._sums = [0] * len(self._layers)
        for number, array in enumerate(arrays):
            data = np.ascontiguousarray(array).data
            self._sums[number] = zlib.crc32(data, self._sums[number])
            self._files[number].write(data)
        batch.sums[:] = self._sums
        for file in self._files[:-1]:
            file.flush()
        self._files[-1].write(batch.line())
        self._files[-1].flush()

    def flush(self) -> None:
        """To the disk itself."""
        for file in self._files:
            os.fsync(file.fileno())

    def _close(self) -> None:
        for file in self._files:
            file.close()
        self._files = []

    def close(self, discard: bool) -> None:
        """Files first, then the lock: the next run may begin to fill the folder at once."""
        try:
            self._close()
        finally:
            if is_main() and (discard or not any(self.folder.glob("part-*"))):
                shutil.rmtree(self.folder, ignore_errors=True)
            if self._locks and is_main() and not self.folder.exists():
                lock_file(self.folder).unlink(missing_ok=True)
            for lock in self._locks:
                lock.close()

    def finish(self, entry: Entry, scales: Scales, about: dict[str, Any]) -> None:
        """Write the manifest and give the folder its final name."""
        self.write_scales(scales)
        names = ("utterances", "n_frames", "layers", "dims", "dtype", "skipped", "parts", "waveforms")
        manifest = {name: getattr(entry, name) for name in names}
        manifest["sums"] = {**entry.sums, SCALES: zlib.crc32(_scales_bytes(scales))}
        manifest |= {"determinants": about, "created": time.strftime("%Y-%m-%d %H:%M:%S")}
        write_whole(self.folder / MANIFEST, manifest_text(manifest))
        remove_all(self.final)
        os.replace(self.folder, self.final)
        for part in entry.parts:
            (self.final / part / JOURNAL).unlink()

    def read(self) -> Entry:
        """The entry; another process's folder may show on a network disk a moment later."""
        for pause in (0.0, 0.1, 1.0, 5.0, 30.0, 60.0):
            time.sleep(pause)
            entry = read_entry(self.final)
            if entry is not None:
                return entry
        raise MIError(f"{self.final} was removed or changed while this run wrote it.")


def _scales_bytes(scales: Scales) -> bytes:
    """The file of offsets and scales; the same bytes for the same values."""
    buffer = io.BytesIO()
    np.savez(buffer, **scales)  # type: ignore[arg-type]
    return buffer.getvalue()


def lock_file(partial: Path) -> Path:
    """What a run that fills a folder holds a lock on."""
    return partial.with_name(f"{partial.name}.lock")
