"""The store: entries are found by what determines them; room is bounded; several runs share it."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from s3prl_mi.core.errors import MIError
from s3prl_mi.core.locks import Lock
from s3prl_mi.states.store import Store, default_root, key_of
from tests.helpers.paths import REPO
from tests.helpers.store import ABOUT, begin, open_writer, write


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store", 10**9)


@pytest.mark.parametrize(
    "change", [{"upstream": "wavlm"}, {"view": "mask"}, {"audio": [["a", "01"], ["b", "03"]]}, {"extra": 0}]
)
def test_whatever_determines_states_is_in_the_key(store, change):
    write(store)
    assert store.find(key_of(ABOUT), [0]) is not None
    assert store.find(key_of({**ABOUT, **change}), [0]) is None


def test_key_does_not_depend_on_the_order_of_keys():
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})


def three_entries(store) -> list:
    """Entries a, b and c of one size, used in the order a, c, b."""
    entries = {}
    for name in "abc":
        entries[name] = write(store, about={"name": name}, dtype="float32")
    for age, name in enumerate("bca"):
        when = time.time() - 1000 * (age + 1)
        os.utime(entries[name].path / "manifest.json", (when, when))
    return [entries[name] for name in "abc"]


def test_room_is_made_least_recently_used_first(store):
    a, b, c = three_entries(store)
    store.max_bytes = a.bytes + b.bytes + c.bytes
    store.make_room(a.bytes + 1, [])
    assert [e.path for e in store.entries()] == [b.path]


def test_finding_an_entry_counts_as_using_it(store):
    a, b, c = three_entries(store)
    assert store.find(key_of({"name": "a"}), [0]) is not None
    store.max_bytes = a.bytes + b.bytes + c.bytes
    store.make_room(1, [])
    assert {e.path for e in store.entries()} == {a.path, b.path}


def test_what_this_run_reads_is_never_removed(store):
    a, b, c = three_entries(store)
    store.max_bytes = a.bytes + b.bytes + c.bytes
    store.make_room(1, [a.path])
    assert {e.path for e in store.entries()} == {a.path, b.path}


def test_what_dead_runs_left_makes_room_first(store):
    a, _, _ = three_entries(store)
    folders = {}
    for name in ("dead", "continued", "alive"):
        folders[name] = begin(store, ["long"], "float32", about={"name": name})
    sizes = [f.stat().st_size for d in folders.values() for f in d.rglob("*") if f.is_file()]
    store.max_bytes = 4 * a.bytes + sum(sizes)
    with open_writer(store, "float32", about={"name": "alive"}):
        store.make_room(a.bytes + 1, [], [key_of({"name": "continued"})])
        assert not store.remove(folders["alive"]), "a run fills it"
    assert not folders["dead"].exists()
    assert folders["continued"].exists()
    assert folders["alive"].exists()


def test_nothing_is_removed_where_there_is_room(store):
    three_entries(store)
    store.make_room(1000, [])
    assert len(store.entries()) == 3


def test_more_than_the_limit_is_refused_before_anything_is_removed(store):
    a, _, _ = three_entries(store)
    store.max_bytes = 3 * a.bytes
    with pytest.raises(MIError, match=r"store\.max_gb"):
        store.make_room(3 * a.bytes + 1, [])
    with pytest.raises(MIError, match=r"store\.max_gb"):
        store.make_room(2 * a.bytes + 1, [a.path])
    assert len(store.entries()) == 3


def test_more_than_the_disk_has_is_refused(tmp_path):
    with pytest.raises(MIError, match=r"store\.root"):
        Store(tmp_path / "store", 10**18).make_room(10**17, [])


def test_remove_leaves_neither_entry_nor_partial_folder(store):
    entry, folder = write(store), begin(store, ["long"], about={"other": 1})
    store.remove(entry.path)
    store.remove(folder)
    assert store.entries() == []
    assert store.partial_folders() == []
    assert store.find(key_of(ABOUT), [0]) is None


READER = """
import sys
from pathlib import Path
from s3prl_mi.states.store import Store
entry = Store(Path(sys.argv[1]), 0).find(sys.argv[2], [0])
print("reading", flush=True)
sys.stdin.readline()
print(float(entry.layer(0)[:].sum()), flush=True)
"""


def test_what_another_run_reads_is_not_removed(store):
    a, b, c = three_entries(store)
    command = [sys.executable, "-c", READER, str(store.root), key_of({"name": "c"})]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPO) as reader:
        assert reader.stdout.readline() == "reading\n"
        os.utime(c.path / "manifest.json", (1, 1))  # the first to go, were it not read
        store.max_bytes = a.bytes + b.bytes + c.bytes
        store.make_room(1, [])
        assert {e.path for e in store.entries()} == {b.path, c.path}
        assert not store.remove(c.path)
        total = float(c.layer(0)[:].sum())
        assert float(reader.communicate("\n", 60)[0]) == total
    assert store.remove(c.path)
    assert [e.path for e in store.entries()] == [b.path]


def test_more_than_other_runs_leave_is_refused(store):
    a, b, c = three_entries(store)
    others = [Lock(e.path / "manifest.json") for e in (b, c)]
    for lock in others:
        lock.share()
    room, store.max_bytes = a.bytes, a.bytes + b.bytes + c.bytes
    store.make_room(room, [])
    assert {e.path for e in store.entries()} == {b.path, c.path}
    with pytest.raises(MIError, match=r"other runs use .*run fewer at once"):
        store.make_room(room + 1, [])


def test_continuing_an_entry_counts_it_once(store):
    folder = begin(store, ["long"], "float32", about={"name": "continued"})
    store.max_bytes = 700
    store.make_room(700, [], [key_of({"name": "continued"})])
    assert folder.exists()


def test_an_entry_is_held_for_as_long_as_it_lives(store):
    path = write(store).path
    found = [store.find(key_of(ABOUT), [0]) for _ in range(2)]
    assert found[0].held is found[1].held
    other = Lock(path / "manifest.json")
    assert not other.take()
    found.clear()
    assert other.take()


def test_own_reading_does_not_keep_a_run_from_removing(store):
    """With `store.keep: false`; and another entry may come to lie in the same place."""
    write(store)
    first = store.find(key_of(ABOUT), [0])
    assert store.remove(first.path)
    assert store.find(key_of(ABOUT), [0]) is None
    write(store)
    assert store.find(key_of(ABOUT), [0]).held is not first.held


def test_default_root(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("S3PRL_MI_STORE", raising=False)
    assert default_root() == tmp_path / "s3prl_mi" / "store"
    monkeypatch.setenv("S3PRL_MI_STORE", str(tmp_path / "mine"))
    assert default_root() == tmp_path / "mine"
