"""A finished entry of the store: its manifest, its layer files, and what reads like an array of frames.

Layout: ``<root>/<key>/<layers>/`` holds ``manifest.json``, ``scales.npz`` (what float16 values are multiplied by and
added to) and one folder per part, ``part-<first utterance>/``, with a ``layer_<i>.bin`` per layer: the frames of its
utterances end to end, float16 or float32. Each process that extracts writes parts of its own; the manifest lists them
in the order of their frames, and the CRC-32 of every file, its own included: a folder without it, or with another one,
is not a whole entry.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import threading
import weakref
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import MIError
from ..core.locks import Lock
from ..core.types import FloatMatrix

MANIFEST, SCALES = "manifest.json", "scales.npz"

_NEAR = 16_384
"""Bytes between rows that are read over rather than skipped."""

_PIECE = 256
"""Rows that are picked out of one sweep, which so takes a few MB at most."""

_CONVERTED = 4096
"""Rows that are turned from float16 to float32 at a time."""


_BLOCK = 1 << 20
"""Bytes whose checksum is computed at once."""


def layer_file(index: int) -> str:
    """Name of a layer's file in each part."""
    return f"layer_{index}.bin"


class LayerFiles:
    """Rows of a layer's files, which lie end to end, copied; reads like an array of shape (n_frames, dim).

    Not mapped: every page of a map that was once read counts as this process's memory, in the end all of the file.
    Files are open for as long as this object lives, also where their entry is removed meanwhile.
    """

    def __init__(self, paths: Sequence[Path], dim: int, dtype: str) -> None:
        self._files = [open(path, "rb", buffering=0) for path in paths]
        for file in self._files:
            weakref.finalize(self, file.close)
        self._seeking = threading.Lock()
        self.dtype = np.dtype(dtype)
        self._row = dim * self.dtype.itemsize
        self._starts = [0, *itertools.accumulate(os.fstat(f.fileno()).st_size // self._row for f in self._files)]
        self.shape = (self._starts[-1], dim)

    def __getitem__(self, rows: slice | NDArray[np.integer]) -> NDArray[np.floating]:
        wanted = _numbers(rows, self.shape[0])
        if isinstance(wanted, range):
            return self._read(wanted.start, max(wanted.start, wanted.stop))
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
        for file, first, last in zip(self._files, self._starts, self._starts[1:], strict=False):
            begin, end = max(start, first), min(stop, last)
            if begin < end:
                self._fill(file, out[begin - start : end - start], (begin - first) * self._row)
        return out

    def _fill(self, file: IO[bytes], rows: NDArray[np.floating], at: int) -> None:
        left = rows.data.cast("B")
        with self._seeking:
            file.seek(at)
            while left:
                count = file.readinto(left)  # type: ignore[attr-defined]
                if not count:
                    raise OSError(errno.EIO, "shorter than it was", file.name)
                left = left[count:]


def _numbers(rows: slice | NDArray[np.integer], count: int) -> range | NDArray[np.integer]:
    """Row numbers that a slice, a mask or row numbers stand for; a range where they follow each other."""
    if isinstance(rows, slice):
        found = range(count)[rows]
        return found if found.step == 1 else np.asarray(found)
    rows = np.asarray(rows)
    return np.flatnonzero(rows) if rows.dtype == np.bool_ else np.where(rows < 0, rows + count, rows)


class StoredLayer:
    """One layer of one entry: reads like an array of shape (n_frames, dim), rows come as float32.

    Args:
        data: float16 or float32 of shape (n_frames, dim), in memory or on disk.
        offset, scale: of float16, shape (dim,): ``x = data * scale + offset``.
    """

    def __init__(self, data: NDArray[np.floating] | LayerFiles, offset: FloatMatrix, scale: FloatMatrix) -> None:
        self.shape: tuple[int, ...] = data.shape
        self._data, self._offset, self._scale = data, offset, scale

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | NDArray[np.integer]) -> FloatMatrix:
        if self._data.dtype == np.float32:
            return np.asarray(self._data[rows], dtype=np.float32)
        wanted = _numbers(rows, len(self))
        out = np.empty((len(wanted), self.shape[1]), np.float32)
        # piece by piece, so that nothing else of the size of `out` is needed
        for at in range(0, len(wanted), _CONVERTED):
            piece = wanted[at : at + _CONVERTED]
            data = self._data[slice(piece.start, piece.stop) if isinstance(piece, range) else piece]
            part = np.multiply(data, self._scale, out=out[at : at + len(piece)], dtype=np.float32)
            part += self._offset
        return out


@dataclass(frozen=True)
class Entry:
    """A whole entry: hidden states of one split under one view.

    Attributes:
        path: its folder; of an entry in memory its name.
        utterances: ids, in the order of their frames.
        n_frames: frames of each utterance.
        layers: the layers it holds.
        dims: dimensions of each layer.
        dtype: `float16` or `float32`.
        skipped: utterances left out, with the reason.
        parts: folders below `path` whose frames lie end to end, and the number of frames of each.
        waveforms: `data.audio.waveform_hash` of each utterance; empty in entries of earlier versions.
        sums: CRC-32 of each of its files, by name below `path`.
        about: what it was extracted from, and when, for a person who lists the store.
        in_memory: its layers, where they lie in memory.
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
    parts: Mapping[str, int] = field(default_factory=dict)
    waveforms: list[str] = field(default_factory=list)
    sums: Mapping[str, int] = field(default_factory=dict, repr=False)
    about: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    in_memory: dict[int, StoredLayer] | None = field(default=None, repr=False, compare=False)
    held: Lock | None = field(default=None, repr=False, compare=False)

    def layer(self, index: int) -> StoredLayer:
        """Frames of one layer, of all utterances end to end."""
        if self.in_memory is not None:
            return self.in_memory[index]
        try:
            with np.load(self.path / SCALES) as scales:
                offset, scale = scales[f"offset_{index}"], scales[f"scale_{index}"]
            files = [self.path / part / layer_file(index) for part in self.parts]
            data = LayerFiles(files, self.dims[self.layers.index(index)], self.dtype)
        except OSError as error:
            raise MIError(
                f"hidden states in {self.path} were removed or changed while this run read them ({error.strerror}). "
                "Run again with -a, with nobody else clearing the store."
            ) from error
        return StoredLayer(data, offset, scale)

    @property
    def bytes(self) -> int:
        """Size of its layers."""
        return sum(self.n_frames) * sum(self.dims) * np.dtype(self.dtype).itemsize

    def damage(self, layers: Sequence[int]) -> str | None:
        """The first file of these layers that is not as it was written, or None; a file is read once per process.

        It takes 0.5 s per GB, as much as reading from memory does: below 1 % of fitting a probe on it.
        """
        for name in (SCALES, *(f"{part}/{layer_file(i)}" for i in layers for part in self.parts)):
            path = self.path / name
            try:
                found = path.stat()
                mark = str(path), found.st_ino, found.st_size, found.st_mtime_ns
                if mark not in _WHOLE:
                    if checksum(path) != self.sums[name]:
                        return name
                    _WHOLE.add(mark)
            except (OSError, KeyError):
                return name
        return None


_WHOLE: set[tuple[str, int, int, int]] = set()
"""Files that this process has read through and found whole."""


def checksum(path: Path) -> int:
    """CRC-32 of a file (measured: 1.9 GB/s; it finds any change of up to 4 bytes, others but for one in 4 billion)."""
    found = 0
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            found = zlib.crc32(block, found)
    return found


def manifest_text(content: dict[str, Any]) -> str:
    """A manifest as it is written, with its own checksum."""
    return json.dumps({**content, "checksum": zlib.crc32(json.dumps(content).encode())})


def read_entry(folder: Path) -> Entry | None:
    """The entry in a folder, or None if the folder is not a whole entry; its layers are not looked into."""
    try:
        m = json.loads((folder / MANIFEST).read_text())
        if m.pop("checksum") != zlib.crc32(json.dumps(m).encode()):
            return None
        about = {**m.pop("determinants"), "created": m.pop("created")}
        skipped = [(utterance, why) for utterance, why in m.pop("skipped")]
        entry = Entry(folder, **m, skipped=skipped, about=about)
        item = np.dtype(entry.dtype).itemsize
        whole = sum(entry.parts.values()) == sum(entry.n_frames) and all(
            (folder / part / layer_file(i)).stat().st_size == rows * dim * item
            for part, rows in entry.parts.items()
            for i, dim in zip(entry.layers, entry.dims, strict=True)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return entry if whole else None
