"""Hidden states on disk: one file a layer, found again by everything that determines them.

Layout: ``<root>/<key>/<layers>/`` holds ``layer_<i>.bin`` (frames of all utterances end to end, float16 or
float32), ``scales.npz`` (what float16 values are multiplied by and added to) and ``manifest.json``, which is
written last: a folder without it is not whole. While it is being filled the folder is called
``<layers>.partial`` and holds a journal, from which a killed run goes on.

float16 holds ``(x - offset) / scale`` with offset and scale per dimension, so its 11 bits cover where each
dimension really varies; the error is measured over all frames, and float32 is used where it is too large.

Several runs may share a store. One lock keeps two of them from filling the same entry; another, on the manifest, is
held by whoever reads an entry, so that no other run removes it to make room.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import shutil
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import MIError
from ..core.files import write_whole
from ..core.locks import Lock
from ..core.types import FloatMatrix
from .float16 import EncodedBatch, RoundingError, to_float16

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 2
"""Goes into every key: states written by another version of this file are not found."""

LARGEST_ERROR = 1e-3
"""Root mean square error of float16 storage, in standard deviations of its dimension, above which float32 is used."""

JOURNAL = "journal.jsonl"
MANIFEST = "manifest.json"


def default_root() -> Path:
    """$S3PRL_MI_STORE, else ~/.cache/s3prl_mi/store (below $XDG_CACHE_HOME where that is set)."""
    if "S3PRL_MI_STORE" in os.environ:
        return Path(os.environ["S3PRL_MI_STORE"])
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "s3prl_mi" / "store"


def key_of(determinants: Mapping[str, Any]) -> str:
    """Name of an entry: a hash of everything that determines its hidden states.

    Args:
        determinants: upstream's fingerprint, view, utterances with the hashes of their audio, and so on; JSON.
    """
    text = json.dumps({"format": FORMAT, **determinants}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class _LayerFile:
    """Rows of a layer's file, copied out of it; reads like an array of shape (n_frames, dim).

    Not mapped: every page of a map that was once read counts as this process's memory, in the end all of the file.
    """

    def __init__(self, path: Path, dim: int, dtype: str) -> None:
        self._path, self._file = path, os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        # open for as long as this object lives, also where its entry is removed meanwhile
        weakref.finalize(self, os.close, self._file)
        self.dtype = np.dtype(dtype)
        self._row = dim * self.dtype.itemsize
        self.shape = (os.fstat(self._file).st_size // self._row, dim)

    def __getitem__(self, rows: slice | NDArray[np.integer]) -> NDArray[np.floating]:
        if isinstance(rows, slice) and rows.step in (None, 1):
            start, stop, _ = rows.indices(self.shape[0])
            return self._read(start, max(start, stop))
        wanted = _indices(rows, self.shape[0])
        wanted = np.where(wanted < 0, wanted + self.shape[0], wanted)
        out = np.empty((len(wanted), self.shape[1]), self.dtype)
        order = np.argsort(wanted, kind="stable")
        ordered = wanted[order]
        # what lies near together is read in one sweep, within pieces of a few MB
        far = np.flatnonzero(np.diff(ordered) > max(1, _NEAR // self._row)) + 1
        for begin, end in itertools.pairwise((0, *far.tolist(), len(ordered))):
            for at in range(begin, end, _PIECE):
                part = ordered[at : min(at + _PIECE, end)]
                swept = self._read(int(part[0]), int(part[-1]) + 1)
                out[order[at : at + len(part)]] = swept[part - part[0]]
        return out

    def _read(self, start: int, stop: int) -> NDArray[np.floating]:
        if not 0 <= start <= stop <= self.shape[0]:
            raise IndexError(f"rows {start} to {stop} of {self.shape[0]}")
        out = np.empty((stop - start, self.shape[1]), self.dtype)
        left, at = out.data.cast("B") if out.size else memoryview(b""), start * self._row
        while left:
            count = _read_at(self._file, left, at)
            if not count:
                raise OSError(errno.EIO, "shorter than it was", str(self._path))
            left, at = left[count:], at + count
        return out


def _indices(rows: slice | NDArray[np.integer], count: int) -> NDArray[np.integer]:
    """Row numbers that a slice, a mask or row numbers stand for."""
    if isinstance(rows, slice):
        return np.arange(*rows.indices(count))
    rows = np.asarray(rows)
    return np.flatnonzero(rows) if rows.dtype == np.bool_ else rows


def _read_at(file: int, buffer: memoryview, at: int) -> int:
    """Fill a buffer from a place in a file; the number of bytes read. Several threads may."""
    if hasattr(os, "preadv"):
        return os.preadv(file, [buffer], at)
    with _SEEKING:
        os.lseek(file, at, os.SEEK_SET)
        found = os.read(file, len(buffer))
    buffer[: len(found)] = found
    return len(found)


_SEEKING = threading.Lock()


_NEAR = 16_384
"""Bytes between rows that are read over rather than skipped."""

_SWEPT = 4096
"""Rows that are turned from float16 to float32 at a time."""

_PIECE = 256
"""Rows that are picked out of one sweep, which so takes a few MB at most."""


class StoredLayer:
    """One layer of one entry: reads like an array of shape (n_frames, dim), rows come as float32."""

    def __init__(self, path: Path, dim: int, dtype: str, offset: FloatMatrix, scale: FloatMatrix) -> None:
        self._take(_LayerFile(path, dim, dtype), offset, scale)

    @classmethod
    def of(cls, data: NDArray[np.floating], offset: FloatMatrix, scale: FloatMatrix) -> StoredLayer:
        """A layer that lies in memory in the very form it would have on disk: float16 or float32, (n_frames, dim)."""
        layer = cls.__new__(cls)
        layer._take(data, offset, scale)
        return layer

    def _take(self, data: NDArray[np.floating] | _LayerFile, offset: FloatMatrix, scale: FloatMatrix) -> None:
        self.shape: tuple[int, ...] = data.shape
        self._data = data
        self._plain = data.dtype == np.float32
        self._offset, self._scale = offset, scale

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | NDArray[np.integer]) -> FloatMatrix:
        if self._plain:
            return np.asarray(self._data[rows], dtype=np.float32)
        start, picked = 0, None
        if isinstance(rows, slice) and rows.step in (None, 1):
            start, stop, _ = rows.indices(len(self))
            count = max(0, stop - start)
        else:
            picked = _indices(rows, len(self))
            count = len(picked)
        out = np.empty((count, self.shape[1]), np.float32)
        # piece by piece, so that nothing of the size of `out` is needed beside it
        for at in range(0, count, _SWEPT):
            end = min(at + _SWEPT, count)
            piece = slice(start + at, start + end) if picked is None else picked[at:end]
            np.multiply(self._data[piece], self._scale, out=out[at:end], dtype=np.float32)
            out[at:end] += self._offset
        return out


@dataclass(frozen=True)
class Entry:
    """A whole entry of the store: hidden states of one split under one view.

    Attributes:
        path: its folder.
        utterances: ids, in the order of their frames.
        n_frames: frames of each utterance.
        layers: the layers it holds.
        dims: dimensions of each layer.
        dtype: `float16` or `float32`.
        skipped: utterances left out, with the reason.
        held: a lock that keeps other runs from removing the entry for as long as this object lives; only entries
            that `Store.find` returns have one.
    """

    path: Path
    utterances: list[str]
    n_frames: list[int]
    layers: list[int]
    dims: list[int]
    dtype: str
    skipped: list[tuple[str, str]]
    held: Lock | None = field(default=None, repr=False, compare=False)

    def layer(self, index: int) -> StoredLayer:
        """Frames of one layer, of all utterances end to end."""
        with np.load(self.path / "scales.npz") as scales:
            offset, scale = scales[f"offset_{index}"], scales[f"scale_{index}"]
        dim = self.dims[self.layers.index(index)]
        return StoredLayer(self.path / f"layer_{index}.bin", dim, self.dtype, offset, scale)

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return _bytes(self.path)


class InsufficientSpace(MIError):
    """Hidden states do not fit where they should be kept."""


@dataclass(frozen=True)
class Capacity:
    """What a run may write into a store at most, in bytes, and why not more.

    `why`: `limit` (store.max_gb), `others` (the same, and other runs), `disk` (it is full), `closed` (the folder cannot
    be written). `kept`: bytes that this run reads there; `others`: those that other runs use.
    """

    bytes: int
    why: str
    store: Store
    kept: int = 0
    others: int = 0
    error: str = ""

    def reason(self) -> str:
        """Why not more, as a clause."""
        root, limit = self.store.root, self.store.max_bytes / 1e9
        return {
            "limit": f"the store may take {limit:g} GB (store.max_gb)",
            "others": f"the store may take {limit:g} GB (store.max_gb), {self.others / 1e9:.2f} GB of which others use",
            "disk": f"the disk of {root} has {self.bytes / 1e9:.2f} GB left",
            "closed": f"the store {root} cannot be written ({self.error})",
        }[self.why]

    def refusal(self, needed: int) -> str:
        """The message where `needed` more bytes do not fit."""
        root, limit = self.store.root, self.store.max_bytes / 1e9
        need = f"the hidden states of this run need {(needed + self.kept) / 1e9:.2f} GB on disk"
        smaller = (
            "take fewer layers (downstream_expert.layers), or less speech "
            "(downstream_expert.datarc.max_utterances)"
        )
        alone = needed + self.kept > self.store.max_bytes
        return {
            "limit": f"{need}, but downstream_expert.store.max_gb is {limit:g}. Raise it (--max_store_gb), do without "
            f"(--store_mode auto), {smaller}.",
            "others": f"{need}, other runs use {self.others / 1e9:.2f} GB of {root} now, and "
            f"downstream_expert.store.max_gb is {limit:g}. Raise it (--max_store_gb), run fewer at once, wait for the "
            "others (the same command with -a goes on then), or give this run a store of its own "
            "(downstream_expert.store.root).",
            "disk": f"the hidden states of this run need {needed / 1e9:.2f} GB, but the disk of {root} has "
            f"{self.bytes / 1e9:.2f} GB left. Free some, set downstream_expert.store.root to a larger disk, do without "
            f"(--store_mode auto), or {smaller}.",
            "closed": f"the store of hidden states {root} cannot be made or written ({self.error}). Set config key "
            "downstream_expert.store.root or $S3PRL_MI_STORE to a folder that can be written, or do without "
            "(--store_mode auto).",
        }["limit" if self.why == "others" and alone else self.why]


class Store:
    """A folder of entries, bounded in size.

    Args:
        root: the folder; made when first written to.
        max_bytes: entries are removed, least recently used first, to stay below this.
    """

    def __init__(self, root: Path, max_bytes: int) -> None:
        self.root = root
        self.max_bytes = max_bytes

    def find(self, key: str, layers: Sequence[int]) -> Entry | None:
        """The entry under `key` that holds at least these layers, or None; no other run removes it while it is held."""
        for folder in sorted((self.root / key).glob("*/")):
            entry = read_entry(folder)
            if entry is None or not set(layers) <= set(entry.layers):
                continue
            held = _hold(folder)
            # until it was held, another run may have removed it
            if held is not None and read_entry(folder) is not None:
                with contextlib.suppress(PermissionError):  # a store that others own
                    os.utime(folder / MANIFEST)
                return replace(entry, held=held)
        return None

    def entries(self) -> list[tuple[Entry, dict[str, Any]]]:
        """All whole entries with their manifests, least recently used first."""
        found: list[tuple[float, Entry, dict[str, Any]]] = []
        for path in self.root.glob(f"*/*/{MANIFEST}"):
            entry = read_entry(path.parent)
            with contextlib.suppress(FileNotFoundError):  # another run has just removed it
                if entry is not None:
                    found.append((path.stat().st_mtime, entry, json.loads(path.read_text())))
        return [(entry, manifest) for _, entry, manifest in sorted(found, key=lambda f: f[0])]

    def partial_folders(self) -> list[Path]:
        """Folders that a run began to fill and did not finish."""
        return sorted(self.root.glob("*/*.partial"))

    def remove(self, folder: Path) -> bool:
        """Remove one entry or partial folder; the manifest goes first, so that a half-removed entry is not found.

        Returns:
            False for an entry that another run reads: it stays.
        """
        lock = _alone(folder)  # kept until the end
        if lock is _READ_BY_OTHERS:
            return False
        try:
            (folder / MANIFEST).unlink(missing_ok=True)
        except PermissionError:  # a store that others own
            return False
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.parent.rmdir()
        return True

    def room(self, in_use: Sequence[Path], keys: Sequence[str] = ()) -> Capacity:
        """What a run may write at most, once whatever nobody uses is removed. Removes nothing.

        Args:
            in_use: folders of entries that this run reads.
            keys: of entries that this run will fill, or go on filling.
        """
        entries = {e.path: e.bytes for e, _ in self.entries()}
        kept = sum(size for path, size in entries.items() if path in in_use)
        # what this process itself has read, and is not to read again, may go
        foreign = {path: size for path, size in entries.items() if path not in in_use and path not in _HELD}
        others = {path: size for path, size in foreign.items() if _is_read(path)}
        unfinished = self._unfinished(keys)
        others |= {path: size for path, size in unfinished.items() if _is_locked(path)}
        taken = sum(others.values())
        loose = sum(entries.values()) + sum(unfinished.values()) - kept - taken
        there = next(p for p in (self.root, *self.root.absolute().parents) if p.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            number = errno.EACCES if there.is_dir() else errno.ENOTDIR
            return Capacity(0, "closed", self, kept, taken, f"{there}: {os.strerror(number)}")
        allowed, free = max(0, self.max_bytes - kept - taken), shutil.disk_usage(there).free + loose
        if free < allowed:
            return Capacity(free, "disk", self, kept, taken)
        return Capacity(allowed, "others" if taken else "limit", self, kept, taken)

    def _unfinished(self, keys: Sequence[str]) -> dict[Path, int]:
        """Sizes of partial folders, but for those that will be gone on with."""
        going_on = {self.root / key for key in keys}
        return {p: _bytes(p) for p in self.partial_folders() if p.parent not in going_on}

    def make_room(self, needed: int, in_use: Sequence[Path], keys: Sequence[str] = ()) -> None:
        """Remove least recently used entries until `needed` more bytes fit below the limit, and on the disk.

        Args:
            needed: bytes about to be written.
            in_use: folders of entries that this run reads.
            keys: of entries that this run will fill, or go on filling.

        Raises:
            InsufficientSpace: more is needed than the limit or the disk allows, or than other runs leave; nothing is
                removed then.
        """
        if needed:
            room = self.room(in_use, keys)
            if needed > room.bytes:
                raise InsufficientSpace(room.refusal(needed))
            self.root.mkdir(parents=True, exist_ok=True)
        # what dead runs left unfinished goes first; one that is being filled, or will be gone on with, stays
        unfinished = self._unfinished(keys)
        held = [(p, size) for p, size in unfinished.items() if not _is_locked(p)]
        held += [(e.path, e.bytes) for e, _ in self.entries() if e.path not in in_use]
        total = sum(_bytes(p) for p in self.partial_folders()) + sum(e.bytes for e, _ in self.entries())
        for folder, size in held:
            full = needed and needed > shutil.disk_usage(self.root).free
            if total + needed <= self.max_bytes and not full:
                break
            if self.remove(folder):
                total -= size

    def writer(self, key: str, determinants: Mapping[str, Any], layers: Sequence[int], dtype: str) -> Writer:
        """Begin, or go on with, an entry. Use as a context manager."""
        return Writer(self.root / key, dict(determinants), list(layers), dtype)


_HELD: weakref.WeakValueDictionary[Path, Lock] = weakref.WeakValueDictionary()
"""The locks of the entries that this process reads, by folder; all `Entry` objects of a folder share one."""

_READ_BY_OTHERS = object()


def in_use() -> list[Path]:
    """Folders of the entries that this process reads."""
    return list(_HELD)


def _hold(folder: Path) -> Lock | None:
    """Keep other runs from removing an entry for as long as the lock lives; None: it is gone already."""
    lock = _HELD.get(folder)
    if lock is None or not lock.is_of(folder / MANIFEST):
        try:
            lock = Lock(folder / MANIFEST)
        except FileNotFoundError:
            return None
        lock.share()
        if not lock.is_of(folder / MANIFEST):
            return None
        _HELD[folder] = lock
    return lock


def _alone(folder: Path) -> Lock | object | None:
    """A lock to remove an entry under, `_READ_BY_OTHERS`, or None where there is no manifest to lock."""
    lock = _HELD.pop(folder, None)  # what this process itself reads does not keep it from removing
    try:
        lock = lock if lock is not None and lock.is_of(folder / MANIFEST) else Lock(folder / MANIFEST)
    except FileNotFoundError:
        return None
    return lock if lock.take() else _READ_BY_OTHERS


def _is_read(folder: Path) -> bool:
    """Whether another run holds an entry; asked of entries that this process does not hold."""
    try:
        return not Lock(folder / MANIFEST).take()
    except FileNotFoundError:
        return False


def read_entry(folder: Path) -> Entry | None:
    """The entry in a folder, or None if the folder is not a whole entry."""
    try:
        m = json.loads((folder / MANIFEST).read_text())
        entry = Entry(
            folder,
            m["utterances"],
            m["n_frames"],
            m["layers"],
            m["dims"],
            m["dtype"],
            [tuple(s) for s in m["skipped"]],
        )
        item, rows = np.dtype(entry.dtype).itemsize, sum(entry.n_frames)
        sizes = [(folder / f"layer_{i}.bin").stat().st_size for i in entry.layers]
    except (OSError, json.JSONDecodeError, KeyError):
        return None
    whole = all(s == rows * d * item for s, d in zip(sizes, entry.dims, strict=True))
    return entry if whole else None


class TooCoarse(Exception):
    """float16 is not exact enough for these hidden states: write them again as float32."""


@dataclass
class Writer:
    """Fills one entry, utterance by utterance; survives being killed.

    A lock keeps two runs from filling the same entry; the second waits.
    """

    parent: Path
    determinants: dict[str, Any]
    layers: list[int]
    dtype: str
    written: dict[str, int] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        name = hashlib.sha256(json.dumps([self.layers, self.dtype]).encode()).hexdigest()[:16]
        self.final = self.parent / name
        self.folder = self.parent / f"{name}.partial"
        self._files: list[IO[bytes]] = []
        self._scales: dict[str, FloatMatrix] = {}
        self._errors: dict[int, RoundingError] = {}
        self._dims: list[int] = []

    def __enter__(self) -> Writer:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.parent / f"{self.folder.name}.lock", "w")
        _lock(self._lock)
        # the run that held the lock may have finished the entry and moved the folder away
        self.folder.mkdir(parents=True, exist_ok=True)
        self._resume()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for file in self._files:
                file.close()
        finally:
            # before the lock is freed: the next run may begin to fill the folder at once
            if kind is TooCoarse or not self.written:
                shutil.rmtree(self.folder, ignore_errors=True)
            self._lock.close()

    def _resume(self) -> None:
        """Take up what a killed run left: cut every layer back to the last utterance that all of them hold."""
        try:
            lines = (self.folder / JOURNAL).read_bytes().split(b"\n")[:-1]
            notes = [json.loads(line) for line in lines]
            with np.load(self.folder / "scales.npz") as scales:
                self._scales = {name: scales[name] for name in scales.files}
        except (OSError, json.JSONDecodeError, ValueError):
            notes = []
        if not notes:
            shutil.rmtree(self.folder)
            self.folder.mkdir()
            self._scales = {}
            return
        item = np.dtype(self.dtype).itemsize
        self._dims = [len(self._scales[f"offset_{i}"]) for i in self.layers]
        sizes = [
            _size(self.folder / f"layer_{i}.bin") // (d * item)
            for i, d in zip(self.layers, self._dims, strict=True)
        ]
        rows, kept = 0, []
        for note in notes:
            if rows + note.get("frames", 0) > min(sizes):
                break
            rows += note.get("frames", 0)
            kept.append(note)
        for index, dim in zip(self.layers, self._dims, strict=True):
            with open(self.folder / f"layer_{index}.bin", "ab") as file:
                file.truncate(rows * dim * item)
        # what is on disk was judged when it was written: errors are summed anew over the frames to come
        self._errors = {i: RoundingError.of(self._scales[f"scale_{i}"]) for i in self.layers}
        (self.folder / JOURNAL).write_text("".join(json.dumps(n) + "\n" for n in kept))
        for note in kept:
            if "why" in note:
                self.skipped.append((note["id"], note["why"]))
            else:
                self.written[note["id"]] = note["frames"]
        self._open_files()

    def _open_files(self) -> None:
        if not (self.folder / "scales.npz").exists():
            np.savez(self.folder / "scales.npz", **self._scales)  # type: ignore[arg-type]
        names = [*(f"layer_{i}.bin" for i in self.layers), JOURNAL]
        self._files = [open(self.folder / name, "ab") for name in names]

    def begin(self, hidden: Sequence[Tensor | FloatMatrix]) -> None:
        """Fix offset and scale of each layer by one utterance: by the first one written if not called before."""
        self._dims = [h.shape[1] for h in hidden]
        for index, h in zip(self.layers, (_array(h) for h in hidden), strict=True):
            with np.errstate(invalid="ignore"):  # `write` refuses what is not finite
                spread = h.std(0)
                self._scales[f"offset_{index}"] = h.mean(0)
            self._scales[f"scale_{index}"] = np.where(spread > 0, spread, 1.0).astype(np.float32)
            self._errors[index] = RoundingError.of(self._scales[f"scale_{index}"])
        self._open_files()

    def append(self, utterance: str, hidden: Sequence[Tensor | FloatMatrix]) -> None:
        """Add the hidden states of one utterance.

        Args:
            utterance: its id.
            hidden: for each layer of this entry, float32 of shape (n_frames, dim).

        Raises:
            TooCoarse: float16 does not hold these values.
            MIError: NaN or infinite hidden states (layer and utterance named).
        """
        import torch

        self.write([utterance], self.to_float16([[torch.as_tensor(h) for h in hidden]]))

    def to_float16(self, hidden: Sequence[Sequence[Tensor]]) -> EncodedBatch:
        """The hidden states of a batch as they will be stored; on a GPU nothing is waited for.

        Args:
            hidden: for each utterance, for each layer of this entry, float32 of shape (n_frames, dim).
        """
        if not self._scales:
            self.begin(hidden[0])
        exact = self.dtype == "float32"
        scales = [(self._scales[f"offset_{i}"], self._scales[f"scale_{i}"]) for i in self.layers]
        return to_float16(hidden, None if exact else scales)

    def write(self, utterances: Sequence[str], states: EncodedBatch) -> None:
        """Add what `to_float16` made; one thread may encode while another one writes.

        Raises:
            TooCoarse: float16 does not hold these values.
            MIError: NaN or infinite hidden states (layer and utterance named).
        """
        states.wait()
        for index, array, sums in zip(self.layers, states.arrays, states.sums, strict=True):
            if not np.isfinite(sums[0]).all():
                self._refuse_not_finite(index, utterances, states.n_frames, array)
        if self.dtype == "float16":
            for index, sums in zip(self.layers, states.sums, strict=True):
                if not np.isfinite(sums).all():
                    raise TooCoarse(index)
                self._errors[index].add(sum(states.n_frames), sums)
        for file, array in zip(self._files, states.arrays, strict=False):
            file.write(np.ascontiguousarray(array).data)
        for utterance, count in zip(utterances, states.n_frames, strict=True):
            self.written[utterance] = count
        self._note(*({"id": u, "frames": n} for u, n in zip(utterances, states.n_frames, strict=True)))

    @staticmethod
    def _refuse_not_finite(
        index: int, utterances: Sequence[str], n_frames: Sequence[int], array: NDArray[np.floating]
    ) -> None:
        row = int(np.argmax(~np.isfinite(array).all(1)))
        utterance = utterances[int(np.searchsorted(np.cumsum(n_frames), row, side="right"))]
        raise MIError(
            f"layer {index} of utterance {utterance} has NaN or infinite hidden states. The checkpoint or "
            "this recording is at fault; compare another checkpoint, or leave the recording out."
        )

    def skip(self, utterance: str, why: str) -> None:
        """Note an utterance that cannot be read."""
        self.skipped.append((utterance, why))
        if self._files:  # a run killed before its first utterance simply begins again
            self._note({"id": utterance, "why": why})

    def _note(self, *notes: dict[str, Any]) -> None:
        """Put lines into the journal once the layers' frames are with the operating system."""
        for file in self._files[:-1]:
            file.flush()
        self._files[-1].write("".join(json.dumps(note) + "\n" for note in notes).encode())
        self._files[-1].flush()

    def finish(self) -> Entry:
        """Write the manifest and give the folder its final name.

        Raises:
            TooCoarse: float16 turned out to be too coarse.
        """
        self._refuse_too_coarse()
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())
        manifest = {
            "utterances": list(self.written),
            "n_frames": list(self.written.values()),
            "layers": self.layers,
            "dims": self._dims,
            "dtype": self.dtype,
            "skipped": self.skipped,
            "determinants": self.determinants,
            "created": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        write_whole(self.folder / MANIFEST, json.dumps(manifest))
        (self.folder / JOURNAL).unlink()
        shutil.rmtree(self.final, ignore_errors=True)
        os.replace(self.folder, self.final)
        entry = read_entry(self.final)
        assert entry is not None
        return entry

    def _refuse_too_coarse(self) -> None:
        if self.dtype == "float16" and any(
            e.count and e.worst() > LARGEST_ERROR for e in self._errors.values()
        ):
            raise TooCoarse


def _array(hidden: Tensor | FloatMatrix) -> FloatMatrix:
    return hidden if isinstance(hidden, np.ndarray) else hidden.cpu().numpy()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _bytes(folder: Path) -> int:
    """Size of the files in a folder that other runs may be changing."""
    try:
        return sum(_size(f) for f in folder.iterdir())
    except FileNotFoundError:
        return 0


def _is_locked(partial: Path) -> bool:
    """Whether a running process is filling this folder."""
    try:
        import fcntl

        with open(partial.parent / f"{partial.name}.lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):
        return False
    return False


def _lock(file: IO[str]) -> None:
    """Wait until no other process holds the lock; it is freed when the file is closed or the process dies."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system: two runs at once are the user's affair
        return
    fcntl.flock(file, fcntl.LOCK_EX)
