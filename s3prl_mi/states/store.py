"""The store of hidden states on disk: entries are found, room is made for new ones, unused ones are removed.

A run finds hidden states by everything that determines them: upstream and checkpoint, view, precision, the content of
the audio files. They lie in ``<root>/<key>/<layers>/`` as float16 or, where that is too coarse, float32 (``entry``).
The least recently used ones make room for new ones. Several runs may share a store: one lock keeps two of them from
filling the same entry; another, on its manifest, is held by each process that reads it: no other run removes it then.

s3prl's own tasks (`--reuse_states`) find unmasked states of float32 passes by an utterance's samples (``waveforms``),
whichever task has stored them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import socket
import tempfile
import weakref
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..core.distributed import barrier, from_main, gather, is_main, world
from ..core.errors import MIError
from ..core.locks import Lock
from .entry import MANIFEST, Entry, read_entry
from .journal import Bounds
from .writer import Folder, Writer, lock_file

logger = logging.getLogger(__name__)

FORMAT = 3
"""Goes into every key: states written by another version are not found."""


def default_root() -> Path:
    """$S3PRL_MI_STORE, else ~/.cache/s3prl_mi/store (below $XDG_CACHE_HOME where that is set)."""
    if "S3PRL_MI_STORE" in os.environ:
        return Path(os.environ["S3PRL_MI_STORE"])
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "s3prl_mi" / "store"


def key_of(determinants: Mapping[str, Any]) -> str:
    """Name of an entry: a hash of everything that determines its hidden states."""
    text = json.dumps({"format": FORMAT, **determinants}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class InsufficientSpace(MIError):
    """Hidden states do not fit where they should be kept."""


def insufficient(needed: int, where: str, fix: str) -> InsufficientSpace:
    """The error where so many bytes do not fit."""
    return InsufficientSpace(
        f"the hidden states of this run need {needed / 1e9:.2f} GB {where}. {fix}, take fewer layers "
        "(downstream_expert.layers), or less speech (downstream_expert.datarc.max_utterances)."
    )


_LIMIT_FIX = "Raise downstream_expert.store.max_gb (--max_store_gb)"
_OTHERS_FIX = (
    f"{_LIMIT_FIX}, run fewer at once, wait for the others (then the same command with -a continues), give this run a "
    "store of its own (downstream_expert.store.root)"
)
_DISK_FIX = "Free some, set downstream_expert.store.root to a larger disk"
_CLOSED_FIX = "Set config key downstream_expert.store.root or $S3PRL_MI_STORE to a folder that can be written"


@dataclass(frozen=True)
class Capacity:
    """What a run may write into a store at most.

    Attributes:
        bytes: so many.
        reason: why not more, as a clause.
        fix: what a user can do about it.
        kept: bytes of the same limit that this run reads.
        others: bytes of the same limit that other runs use.
    """

    bytes: int
    reason: str
    fix: str
    kept: int = 0
    others: int = 0

    def refusal(self, needed: int) -> InsufficientSpace:
        """The error where `needed` more bytes do not fit."""
        fix = _LIMIT_FIX if self.others and needed > self.bytes + self.others else self.fix
        return insufficient(needed + self.kept, f"on disk, but {self.reason}", f"{fix}, do without (--store_mode auto)")


class Store:
    """A folder of entries, bounded in size.

    Args:
        root: the folder; made when first written to.
        max_bytes: entries are removed, least recently used first, to stay below this.
    """

    shared = True

    def __init__(self, root: Path, max_bytes: int) -> None:
        self.root = root
        self.max_bytes = max_bytes

    def find(self, key: str, layers: Sequence[int]) -> Entry | None:
        """The entry under `key` that holds at least these layers, or None; no other run removes it while it is held."""
        for folder in _folders(self.root / key, "*"):
            if _is_partial(folder):
                continue
            entry = read_entry(folder)
            if entry is None:
                self._drop(folder, MANIFEST)
                continue
            if not set(layers) <= set(entry.layers):
                continue
            held = _hold(folder)
            # until it was held, another run may have removed it
            if held is not None and read_entry(folder) is not None:
                damaged = entry.damage(layers) if is_main() else None
                if damaged is not None:
                    self._drop(folder, damaged)
                    continue
                with contextlib.suppress(PermissionError):  # a store that others own
                    os.utime(folder / MANIFEST)
                return replace(entry, held=held)
        return None

    def _drop(self, folder: Path, file: str) -> None:
        """Remove an entry of which one file is not as it was written; rank 0 does so."""
        if not is_main() or not (folder / MANIFEST).exists():  # another run is removing it
            return
        self.remove(folder)
        logger.warning("%s of %s is not as it was written: these hidden states are extracted again.", file, folder)

    def entries(self) -> list[Entry]:
        """All whole entries, least recently used first."""
        found: list[tuple[float, Entry]] = []
        for path in self.root.glob(f"*/*/{MANIFEST}"):
            entry = None if _is_partial(path.parent) else read_entry(path.parent)
            with contextlib.suppress(FileNotFoundError):  # another run has just removed it
                if entry is not None:
                    found.append((path.stat().st_mtime, entry))
        return [entry for _, entry in sorted(found, key=lambda f: f[0])]

    def partial_folders(self) -> list[Path]:
        """Folders that a run began to fill and did not finish, and those that are damaged."""
        return [f for f in _folders(self.root, "*/*") if _is_partial(f) or read_entry(f) is None]

    def remove(self, folder: Path) -> bool:
        """Remove one entry or partial folder; the manifest goes first, so that a half-removed entry is not found.

        Returns:
            False for what another run reads or fills: it stays.
        """
        lock = _HELD.pop(folder, None)  # what this process itself reads does not keep it from removing
        with contextlib.suppress(FileNotFoundError):
            path = _lock_path(folder)
            lock = lock if lock is not None and lock.is_of(path) else Lock(path)  # kept until the end
            if not lock.take():
                return False
        try:
            (folder / MANIFEST).unlink(missing_ok=True)
        except IsADirectoryError:
            pass
        except PermissionError:  # a store that others own
            return False
        shutil.rmtree(folder, ignore_errors=True)
        if _is_partial(folder):
            lock_file(folder).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            folder.parent.rmdir()
        return True

    def check_shared(self) -> None:
        """Refuse a folder that is not the same one for all processes of a run, before they work.

        Raises:
            MIError: a process on another machine does not see what rank 0 writes here.
        """
        if world().size == 1:
            return

        def leave() -> str:
            self.root.mkdir(parents=True, exist_ok=True)
            return tempfile.mkstemp(dir=self.root, prefix="seen-by-all-")[1]

        token = Path(from_main(leave))
        seen = gather((socket.gethostname(), (self.root / token.name).exists()))
        if is_main():
            token.unlink()
        blind = next((host for host, sees in seen if not sees), None)
        if blind is not None:
            raise MIError(
                f"a process on {blind} does not see the store of hidden states {self.root} of {seen[0][0]}: it needs a "
                "folder on a disk that all machines share. Set config key downstream_expert.store.root or "
                "$S3PRL_MI_STORE to one, or let each process extract for itself (--store_mode memory)."
            )

    def forget(self, folders: Collection[Path]) -> None:
        """Remove entries that this run alone has read; all its processes ask at the same time."""
        if not is_main():
            release(set(_HELD) - set(folders))
        barrier()
        if is_main():
            for folder in folders:
                self.remove(folder)
        barrier()

    def room(self, in_use: Collection[Path], keys: Sequence[str] = ()) -> Capacity:
        """What a run may write at most, once whatever nobody uses is removed. Removes nothing.

        Args:
            in_use: folders of entries that this run reads.
            keys: of entries that this run will fill, or continue to fill.
        """
        sizes = {e.path: e.bytes for e in self.entries()} | self._unfinished(keys)
        kept = sum(size for path, size in sizes.items() if path in in_use)
        # what this process itself has read, and is not to read again, may go
        foreign = {path: size for path, size in sizes.items() if path not in in_use and path not in _HELD}
        others = sum(size for path, size in foreign.items() if _is_used(path))
        there = next(p for p in (self.root, *self.root.absolute().parents) if p.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            error = os.strerror(errno.EACCES if there.is_dir() else errno.ENOTDIR)
            return Capacity(0, f"the store {self.root} cannot be written ({there}: {error})", _CLOSED_FIX)
        allowed = max(0, self.max_bytes - kept - others)
        free = shutil.disk_usage(there).free + sum(sizes.values()) - kept - others
        if free < allowed:
            return Capacity(free, f"the disk of {self.root} has {free / 1e9:.2f} GB left", _DISK_FIX)
        reason = f"the store {self.root} may take {self.max_bytes / 1e9:g} GB (store.max_gb)"
        if not others:
            return Capacity(allowed, reason, _LIMIT_FIX, kept)
        reason += f", {others / 1e9:.2f} GB of which other runs use now"
        return Capacity(allowed, reason, _OTHERS_FIX, kept, others)

    def _unfinished(self, keys: Sequence[str]) -> dict[Path, int]:
        """Sizes of partial folders, except those that will be continued."""
        continued = {self.root / key for key in keys}
        return {p: _bytes(p) for p in self.partial_folders() if p.parent not in continued}

    def make_room(self, needed: int, in_use: Collection[Path], keys: Sequence[str] = ()) -> None:
        """Remove least recently used entries until `needed` more bytes fit below the limit, and on the disk.

        Rank 0 does so; all processes of a run ask at the same time. The other arguments are those of `room`.

        Raises:
            InsufficientSpace: more is needed than the limit or the disk allows, or than other runs leave; nothing is
                removed then.
        """
        if not is_main():
            release(in_use)
        barrier()
        room = from_main(lambda: self.room(in_use, keys))
        if needed > room.bytes:
            raise room.refusal(needed)
        if is_main():
            if needed:
                self.root.mkdir(parents=True, exist_ok=True)
            entries = {e.path: e.bytes for e in self.entries()}
            total = sum(map(_bytes, self.partial_folders())) + sum(entries.values())
            # what dead runs left unfinished goes first; what is being filled, or will be continued, stays
            for folder, size in (self._unfinished(keys) | entries).items():
                full = needed and needed > shutil.disk_usage(self.root).free
                if total + needed <= self.max_bytes and not full:
                    break
                if folder not in in_use and self.remove(folder):
                    total -= size
        barrier()

    def writer(
        self, key: str, about: Mapping[str, Any], layers: Sequence[int], dtype: str, batches: Sequence[Bounds]
    ) -> Writer:
        """Begin, or continue, an entry. Use as a context manager."""
        target = Folder(self.root / key, list(layers), dtype)
        return Writer(target, dict(about), list(layers), dtype, batches)


_HELD: weakref.WeakValueDictionary[Path, Lock] = weakref.WeakValueDictionary()
"""The locks of the entries that this process reads, by folder; all `Entry` objects of a folder share one."""


def in_use() -> list[Path]:
    """Folders of the entries that this process reads."""
    return list(_HELD)


def release(kept: Collection[Path]) -> None:
    """Let other processes remove what this one reads, except `kept`; files that are open stay readable."""
    for folder in set(_HELD) - set(kept):
        _HELD.pop(folder).close()


def _hold(folder: Path) -> Lock | None:
    """Keep other runs from removing an entry for as long as the lock lives; None: it is gone already."""
    lock, path = _HELD.get(folder), folder / MANIFEST
    if lock is None or not lock.is_of(path):
        try:
            lock = Lock(path)
        except FileNotFoundError:
            return None
        lock.share()
        if not lock.is_of(path):
            return None
        _HELD[folder] = lock
    return lock


def _is_used(folder: Path) -> bool:
    """Whether another run reads an entry or fills a partial folder; asked of what this process does not hold."""
    try:
        return not Lock(_lock_path(folder)).take()
    except FileNotFoundError:
        return False


def _lock_path(folder: Path) -> Path:
    return lock_file(folder) if _is_partial(folder) else folder / MANIFEST


def _folders(below: Path, pattern: str) -> list[Path]:
    """In order; a pattern that ends with a slash finds files, too, before Python 3.11."""
    return sorted(f for f in below.glob(pattern) if f.is_dir())


def _is_partial(folder: Path) -> bool:
    return folder.suffix == ".partial"


def _bytes(folder: Path) -> int:
    """Size of the files below a folder that other runs may be changing."""
    sizes = []
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            sizes.append(path.stat().st_size if path.is_file() else 0)
    return sum(sizes)
