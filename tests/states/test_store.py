"""Hidden states on disk: what is written is read; what is half written is never found; room is bounded."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from s3prl_mi.core.errors import MIError
from s3prl_mi.core.locks import Lock
from s3prl_mi.states.store import LARGEST_ERROR, Store, StoredLayer, TooCoarse, default_root, key_of
from tests.helpers.paths import REPO

ABOUT = {"upstream": "hubert", "view": "plain", "audio": [["a", "01"], ["b", "02"]]}
DIMS = {0: 5, 2: 3, 3: 4}
COUNTS = {"long": 40, "middle": 30, "short": 7}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store", 10**9)


def states(utterance: str, layers=(0, 2)) -> list[np.ndarray]:
    """Hidden states, dimension by dimension of quite different mean and spread."""
    rng = np.random.default_rng(sum(map(ord, utterance)))
    found = []
    for layer in layers:
        dim = DIMS[layer]
        spread = 10.0 ** np.arange(dim)
        found.append((100 + spread * rng.standard_normal((COUNTS[utterance], dim))).astype(np.float32))
    return found


def write(store, utterances=tuple(COUNTS), layers=(0, 2), dtype="float16", about=ABOUT):
    with store.writer(key_of(about), about, layers, dtype) as writer:
        for utterance in utterances:
            writer.append(utterance, states(utterance, layers))
        return writer.finish()


def begin(store, utterances, dtype="float16", layers=(0, 2), about=ABOUT) -> Path:
    """What a killed run leaves: the folder, without `finish`."""
    with store.writer(key_of(about), about, layers, dtype) as writer:
        for utterance in utterances:
            writer.append(utterance, states(utterance, layers))
        return writer.folder


def whole(layer: int, layers=(0, 2)) -> np.ndarray:
    return np.concatenate([states(u, layers)[layers.index(layer)] for u in COUNTS])


def test_float32_is_exact_and_rows_come_in_any_order(store):
    entry = write(store, dtype="float32")
    for layer in (0, 2):
        stored, expected = entry.layer(layer), whole(layer)
        assert stored.shape == expected.shape
        assert len(stored) == sum(COUNTS.values())
        np.testing.assert_array_equal(stored[:], expected)
        rows = np.array([60, 3, 3, 0, 76])
        np.testing.assert_array_equal(stored[rows], expected[rows])
        assert stored[2:4].dtype == np.float32


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rows_near_and_far_are_those_of_the_file(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr("s3prl_mi.states.store._NEAR", 100)
    monkeypatch.setattr("s3prl_mi.states.store._PIECE", 4)
    monkeypatch.setattr("s3prl_mi.states.store._SWEPT", 100)
    data = np.random.default_rng(0).standard_normal((500, 5)).astype(dtype)
    data.tofile(tmp_path / "layer.bin")
    offset, scale = np.arange(5, dtype=np.float32), np.linspace(0.3, 2, 5, dtype=np.float32)
    layer = StoredLayer(tmp_path / "layer.bin", 5, dtype, offset, scale)
    expected = data if dtype == "float32" else data.astype(np.float32) * scale + offset
    (tmp_path / "layer.bin").unlink()  # whoever reads it goes on
    rng = np.random.default_rng(1)
    few = np.zeros(500, bool)
    few[[3, 499]] = True
    for rows in (
        rng.integers(0, 500, 70),
        np.array([499, 0, 0, 250, -1]),
        np.zeros(0, np.int64),
        few,
        slice(None),
        slice(490, 900),
        slice(400, 10),
        slice(1, 90, 7),
        slice(90, 1, -7),
    ):
        np.testing.assert_array_equal(layer[rows], expected[rows])
    with pytest.raises(IndexError):
        layer[np.array([500])]


def test_float16_is_within_its_rounding_of_each_dimensions_spread(store):
    entry = write(store)
    assert entry.dtype == "float16"
    for layer in (0, 2):
        found, expected = entry.layer(layer)[:], whole(layer)
        error = np.abs(found - expected) / expected.std(0)
        # 11 bits: values up to 4 deviations are rounded by at most 4 / 2**11 / 2 each, plus float32's own
        assert error.max() < 2e-3
        assert np.sqrt((error**2).mean(0)).max() < LARGEST_ERROR
        assert (found != expected).any()
    assert entry.bytes < write(store, dtype="float32", about={"x": 1}).bytes


def test_entry_says_which_utterances_it_holds(store):
    with store.writer(key_of(ABOUT), ABOUT, [2], "float32") as writer:
        writer.append("long", states("long", (2,)))
        writer.skip("bad", "bad.flac: no audio")
        writer.append("short", states("short", (2,)))
        writer.finish()
    entry = store.find(key_of(ABOUT), [2])
    assert list(zip(entry.utterances, entry.n_frames, strict=True)) == [("long", 40), ("short", 7)]
    assert entry.skipped == [("bad", "bad.flac: no audio")]
    ((_, manifest),) = store.entries()
    assert manifest["determinants"] == ABOUT


def test_a_value_beyond_float16_is_too_coarse_at_once(store):
    hidden = states("long")
    with store.writer(key_of(ABOUT), ABOUT, [0, 2], "float16") as writer:
        writer.append("long", hidden)
        far = [h.copy() for h in hidden]
        far[1][0, 0] += 1e6 * hidden[1][:, 0].std()
        with pytest.raises(TooCoarse):
            writer.append("far", far)


def test_spread_much_smaller_than_the_first_utterances_offset_is_too_coarse(store):
    """A dimension that lies far off from where it began: float16 around the old offset is too wide a grid."""
    rng = np.random.default_rng(0)
    first = rng.standard_normal((50, 2)).astype(np.float32)
    rest = 500 + 0.1 * rng.standard_normal((100_000, 2)).astype(np.float32)
    with (  # noqa: PT012 - whenever it shows
        pytest.raises(TooCoarse),
        store.writer(key_of(ABOUT), ABOUT, [0], "float16") as writer,
    ):
        writer.append("first", [first])
        writer.append("rest", [rest])
        writer.finish()
    assert store.partial_folders() == []
    assert store.find(key_of(ABOUT), [0]) is None


def test_constant_dimension_is_kept_exactly(store):
    hidden = np.full((20, 3), 7.25, np.float32)
    hidden[:, 1] = np.random.default_rng(0).standard_normal(20)
    with store.writer(key_of(ABOUT), ABOUT, [0], "float16") as writer:
        writer.append("u", [hidden])
        entry = writer.finish()
    np.testing.assert_array_equal(entry.layer(0)[:][:, [0, 2]], hidden[:, [0, 2]])


@pytest.mark.parametrize(
    "change", [{"upstream": "wavlm"}, {"view": "mask"}, {"audio": [["a", "01"], ["b", "03"]]}, {"extra": 0}]
)
def test_whatever_determines_states_is_in_the_key(store, change):
    write(store)
    assert store.find(key_of(ABOUT), [0]) is not None
    assert store.find(key_of({**ABOUT, **change}), [0]) is None


def test_key_does_not_depend_on_the_order_of_keys():
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})


def test_an_entry_with_more_layers_serves_fewer(store):
    write(store, layers=(0, 2, 3))
    entry = store.find(key_of(ABOUT), [3])
    assert entry is not None
    np.testing.assert_allclose(entry.layer(3)[:], whole(3, (0, 2, 3)), rtol=0.02, atol=2)
    assert store.find(key_of(ABOUT), [0, 1]) is None


def test_a_folder_without_its_manifest_is_not_found(store):
    entry = write(store)
    (entry.path / "manifest.json").unlink()
    assert store.find(key_of(ABOUT), [0]) is None
    assert store.entries() == []


@pytest.mark.parametrize("cut", [1, 100])
def test_an_entry_with_a_short_layer_file_is_not_found(store, cut):
    entry = write(store)
    path = entry.path / "layer_2.bin"
    os.truncate(path, path.stat().st_size - cut)
    assert store.find(key_of(ABOUT), [0]) is None


def test_an_entry_with_half_a_manifest_is_not_found(store):
    entry = write(store)
    path = entry.path / "manifest.json"
    path.write_text(path.read_text()[:50])
    assert store.find(key_of(ABOUT), [0]) is None


def test_what_is_being_written_is_not_found(store):
    folder = begin(store, ["long", "middle"])
    assert store.find(key_of(ABOUT), [0]) is None
    assert store.partial_folders() == [folder]
    assert store.entries() == []


def assert_resumes(store, dtype="float32", done=("long", "middle")):
    with store.writer(key_of(ABOUT), ABOUT, [0, 2], dtype) as writer:
        assert tuple(writer.written) == done
        for utterance in COUNTS:
            if utterance not in writer.written:
                writer.append(utterance, states(utterance))
        entry = writer.finish()
    assert entry.utterances == list(COUNTS)
    assert entry.n_frames == list(COUNTS.values())
    for layer in (0, 2):
        found, expected = entry.layer(layer)[:], whole(layer)
        assert found.shape == expected.shape
        assert (np.abs(found - expected) / expected.std(0)).max() < 2e-3
        if dtype == "float32":
            np.testing.assert_array_equal(found, expected)
    assert store.partial_folders() == []


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_killed_writer_goes_on(store, dtype):
    begin(store, ["long", "middle"], dtype)
    assert_resumes(store, dtype)


def test_frames_of_an_utterance_that_the_journal_lacks_are_cut(store):
    folder = begin(store, ["long", "middle", "short"], "float32")
    journal = folder / "journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:2]))
    assert_resumes(store)


def test_half_a_line_of_the_journal_does_not_count(store):
    folder = begin(store, ["long", "middle", "short"], "float32")
    journal = folder / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-3])
    assert_resumes(store)


def test_an_utterance_whose_frames_one_layer_lost_is_written_again(store):
    """After a power cut, the journal may know more than the layer files hold."""
    folder = begin(store, ["long", "middle", "short"], "float32")
    path = folder / "layer_2.bin"
    os.truncate(path, path.stat().st_size - 1)
    assert_resumes(store)


@pytest.mark.parametrize("name", ["journal.jsonl", "scales.npz"])
def test_without_journal_or_scales_it_begins_again(store, name):
    folder = begin(store, ["long", "middle"], "float32")
    (folder / name).unlink()
    assert_resumes(store, done=())


def test_skipped_utterances_are_remembered(store):
    with store.writer(key_of(ABOUT), ABOUT, [0, 2], "float32") as writer:
        writer.append("long", states("long"))
        writer.skip("bad", "no audio")
    with store.writer(key_of(ABOUT), ABOUT, [0, 2], "float32") as writer:
        assert writer.skipped == [("bad", "no audio")]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_named_with_layer_and_utterance(store, value):
    hidden = states("long")
    hidden[1][3, 1] = value
    with (
        store.writer(key_of(ABOUT), ABOUT, [0, 2], "float16") as writer,
        pytest.raises(MIError, match="layer 2 of utterance long has NaN"),
    ):
        writer.append("long", hidden)


def test_an_utterance_refused_for_nan_leaves_nothing_behind(store):
    """Layer 0 of the refused utterance was whole, but the journal has no line for it."""
    hidden = states("middle")
    hidden[1][3, 1] = np.nan
    with (  # noqa: PT012 - the second `append` is refused
        pytest.raises(MIError),
        store.writer(key_of(ABOUT), ABOUT, [0, 2], "float32") as writer,
    ):
        writer.append("long", states("long"))
        writer.append("middle", hidden)
    assert_resumes(store, done=("long",))


# --- room ------------------------------------------------------------------------------------------------


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
    assert [e.path for e, _ in store.entries()] == [b.path]


def test_finding_an_entry_counts_as_using_it(store):
    a, b, c = three_entries(store)
    assert store.find(key_of({"name": "a"}), [0]) is not None
    store.max_bytes = a.bytes + b.bytes + c.bytes
    store.make_room(1, [])
    assert {e.path for e, _ in store.entries()} == {a.path, b.path}


def test_what_this_run_reads_is_never_removed(store):
    a, b, c = three_entries(store)
    store.max_bytes = a.bytes + b.bytes + c.bytes
    store.make_room(1, [a.path])
    assert {e.path for e, _ in store.entries()} == {a.path, b.path}


def test_what_dead_runs_left_makes_room_first(store):
    a, _, _ = three_entries(store)
    folders = {}
    for name in ("dead", "going_on", "alive"):
        key = key_of({"name": name})
        with store.writer(key, {"name": name}, [0], "float32") as writer:
            writer.append("u", [np.ones((50, 3), np.float32)])
        folders[name] = writer.folder
    store.max_bytes = 4 * a.bytes + sum(f.stat().st_size for d in folders.values() for f in d.iterdir())
    with store.writer(key_of({"name": "alive"}), {}, [0], "float32"):
        store.make_room(a.bytes + 1, [], [key_of({"name": "going_on"})])
    assert not folders["dead"].exists()
    assert folders["going_on"].exists()
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


# --- several runs at once --------------------------------------------------------------------------------


def _writer(root: str, arrives, holds, waits_for, log: str) -> None:
    store = Store(Path(root), 10**9)
    arrives.set()
    with store.writer(key_of(ABOUT), ABOUT, [0, 2], "float32") as writer:
        holds.set()
        found = store.find(key_of(ABOUT), [0])
        with open(log, "a") as file:
            file.write(f"{json.dumps(list(writer.written))} {found is not None}\n")
        if found is None:
            assert waits_for.wait(60)
            time.sleep(0.5)  # time in which the other would go on if nothing held it
            for utterance in COUNTS:
                writer.append(utterance, states(utterance))
            writer.finish()


def test_a_second_writer_waits_until_the_first_has_finished(store, tmp_path):
    context = multiprocessing.get_context("spawn")
    log = tmp_path / "log"
    arrived, held = [[context.Event() for _ in range(2)] for _ in range(2)]
    first, second = (
        context.Process(target=_writer, args=(str(store.root), arrived[i], held[i], arrived[1], str(log)))
        for i in range(2)
    )
    first.start()
    assert held[0].wait(60)
    second.start()
    first.join(60)
    second.join(60)
    assert (first.exitcode, second.exitcode) == (0, 0)
    assert log.read_text().splitlines() == ["[] False", "[] True"]
    entry = store.find(key_of(ABOUT), [0, 2])
    np.testing.assert_array_equal(entry.layer(2)[:], whole(2))
    assert store.partial_folders() == [], "the writer that came second left a folder behind"


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
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPO
    ) as reader:
        assert reader.stdout.readline() == "reading\n"
        os.utime(c.path / "manifest.json", (1, 1))  # the first to go, were it not read
        store.max_bytes = a.bytes + b.bytes + c.bytes
        store.make_room(1, [])
        assert {e.path for e, _ in store.entries()} == {b.path, c.path}
        assert not store.remove(c.path)
        total = float(c.layer(0)[:].sum())
        assert float(reader.communicate("\n", 60)[0]) == total
    assert store.remove(c.path)
    assert [e.path for e, _ in store.entries()] == [b.path]


def test_more_than_other_runs_leave_is_refused(store):
    a, b, c = three_entries(store)
    others = [Lock(e.path / "manifest.json") for e in (b, c)]
    for lock in others:
        lock.share()
    room, store.max_bytes = a.bytes, a.bytes + b.bytes + c.bytes
    store.make_room(room, [])
    assert {e.path for e, _ in store.entries()} == {b.path, c.path}
    with pytest.raises(MIError, match=r"other runs use .*run fewer at once"):
        store.make_room(room + 1, [])


def test_going_on_with_an_entry_counts_it_once(store):
    key = key_of({"name": "going_on"})
    with store.writer(key, {"name": "going_on"}, [0], "float32") as writer:
        writer.append("u", [np.ones((50, 3), np.float32)])
    store.max_bytes = 700
    store.make_room(700, [], [key])
    assert writer.folder.exists()


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
