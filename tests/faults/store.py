"""Damage to the store of hidden states: whatever is found there is whole, or made again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from s3prl_mi.cli.main import main as s3prl_mi
from s3prl_mi.states.store import Store, key_of
from tests.faults.campaign import Case, Wrong
from tests.helpers.store import ABOUT, ORDER, add, append, begin, open_writer, whole, write


def flip(at: float, count: int = 1) -> Callable[[Path], None]:
    """Invert `count` bytes at a fraction of a file."""

    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        first = min(int(at * len(content)), len(content) - 1)
        for i in range(first, min(first + count, len(content))):
            content[i] ^= 255
        path.write_bytes(content)

    return damage


def cut(left: float) -> Callable[[Path], None]:
    """Leave a fraction of a file, but at least one byte less than there was."""
    return lambda path: os.truncate(path, min(int(left * path.stat().st_size), path.stat().st_size - 1))


def as_folder(path: Path) -> None:
    """A folder in the place of a file."""
    path.unlink()
    path.mkdir()


def zeros(path: Path) -> None:
    """As long as it was, and empty: what a power cut leaves."""
    path.write_bytes(bytes(path.stat().st_size))


DAMAGE: dict[str, Callable[[Path], object]] = {
    **{f"{n} bytes flipped at {at}": flip(at, n) for n in (1, 64) for at in (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1)},
    **{f"cut to {left}": cut(left) for left in (0, 0.5, 1)},
    "made longer": lambda path: path.write_bytes(path.read_bytes() + b"xx"),
    "zeros": zeros,
    "noise": lambda path: path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size)),
    "other JSON": lambda path: path.write_text("[1]"),
    "missing": Path.unlink,
    "a folder": as_folder,
}
ENTRY = ("manifest.json", "scales.npz", "part-000000/layer_0.bin", "part-000000/layer_2.bin")
PARTIAL = ("scales.npz", "part-000000/journal.jsonl", "part-000000/layer_0.bin", "part-000000/layer_2.bin")


def _same(store: Store) -> None:
    """The store holds what was written, to the last bit."""
    entry = store.find(key_of(ABOUT), [0, 2])
    if entry is None:
        raise Wrong("traceback", "the entry was not made again")
    for layer in (0, 2):
        if not np.array_equal(entry.layer(layer)[:], whole(layer)):
            raise Wrong("silent", f"layer {layer} is another one")


def _entry(name: str, damage: Callable[[Path], object], folder: Path) -> None:
    store = Store(folder / "store", 10**9)
    path = write(store, "float32").path
    damage(path / name)
    if s3prl_mi(["store", "list", "--root", str(store.root)]) != 0:
        raise Wrong("traceback", "store list")
    if store.find(key_of(ABOUT), [0, 2]) is not None:
        raise Wrong("silent", "a damaged entry was found")
    write(store, "float32")
    _same(store)
    if s3prl_mi(["store", "clear", "--root", str(store.root)]) != 0 or any(store.root.rglob("*")):
        raise Wrong("traceback", "store clear left something")


def _partial(name: str, damage: Callable[[Path], object], folder: Path) -> None:
    store = Store(folder / "store", 10**9)
    path = begin(store, ORDER[:2], "float32")
    damage(path / name)
    with open_writer(store, "float32") as writer:
        add(writer, [u for n, u in enumerate(ORDER) if (n, n + 1) not in writer.done])
        writer.finish()
    _same(store)


def _file_for_folder(partial: bool, folder: Path) -> None:
    store = Store(folder / "store", 10**9)
    path = begin(store, ["long"], "float32") if partial else write(store, "float32").path
    shutil.rmtree(path)
    path.write_text("no folder")
    if store.find(key_of(ABOUT), [0]) is not None:
        raise Wrong("silent", "a file was found")
    write(store, "float32")
    _same(store)


def _lock_of_a_dead_run(folder: Path) -> None:
    store = Store(folder / "store", 10**9)
    begin(store, ["long"])
    with open_writer(store) as writer:
        append(writer, 1, "middle", [np.zeros((30, 5)), np.zeros((30, 3))])
    store.remove(store.partial_folders()[0])
    if left := [p for p in store.root.rglob("*") if p.is_file()]:
        raise Wrong("silent", f"left over: {left}")


CASES = [
    *(Case(f"{n} of an entry: {d}", lambda f, n=n, d=d: _entry(n, DAMAGE[d], f)) for n in ENTRY for d in DAMAGE),
    *(Case(f"{n} unfinished: {d}", lambda f, n=n, d=d: _partial(n, DAMAGE[d], f)) for n in PARTIAL for d in DAMAGE),
    *(Case(f"a file for the folder of an entry {p}", lambda f, p=p: _file_for_folder(p, f)) for p in (True, False)),
    Case("lock files of dead runs", _lock_of_a_dead_run),
]
