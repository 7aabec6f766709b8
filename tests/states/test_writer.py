"""Filling an entry: a killed run is continued, with any number of processes; nothing half written is found."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest

from s3prl_mi.core.errors import MIError
from s3prl_mi.core.locks import Lock
from s3prl_mi.states.store import Store, key_of
from s3prl_mi.states.writer import TooCoarse
from tests.helpers.store import ABOUT, COUNTS, ORDER, add, append, begin, open_writer, states, whole, write


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store", 10**9)


def test_a_value_beyond_float16_is_too_coarse_at_once(store):
    hidden = states("long")
    with open_writer(store) as writer:
        append(writer, 0, "long", hidden)
        far = [h.copy() for h in hidden]
        far[1][0, 0] += 1e6 * hidden[1][:, 0].std()
        with pytest.raises(TooCoarse):
            append(writer, 1, "far", far)


def test_spread_much_smaller_than_the_first_utterances_offset_is_too_coarse(store):
    """A dimension that lies far off from where it began: float16 around the old offset is too wide a grid."""
    rng = np.random.default_rng(0)
    first = rng.standard_normal((50, 2)).astype(np.float32)
    rest = 500 + 0.1 * rng.standard_normal((100_000, 2)).astype(np.float32)
    with (  # noqa: PT012 - whenever it shows
        pytest.raises(TooCoarse),
        open_writer(store, "float16", [0]) as writer,
    ):
        append(writer, 0, "first", [first])
        append(writer, 1, "rest", [rest])
        writer.finish()
    assert store.partial_folders() == []
    assert store.find(key_of(ABOUT), [0]) is None


def test_what_is_being_written_is_not_found(store):
    folder = begin(store, ["long", "middle"])
    assert store.find(key_of(ABOUT), [0]) is None
    assert store.partial_folders() == [folder]
    assert store.entries() == []


def assert_resumes(store, dtype="float32", done=("long", "middle")):
    with open_writer(store, dtype) as writer:
        found = [u for w in writer.done.values() for u in w.frames]
        assert tuple(found) == done
        add(writer, [u for u in ORDER if u not in found])
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
def test_a_killed_writer_is_continued(store, dtype):
    begin(store, ["long", "middle"], dtype)
    assert_resumes(store, dtype)


def test_frames_of_an_utterance_that_the_journal_lacks_are_cut(store):
    folder = begin(store, ["long", "middle", "short"], "float32")
    journal = folder / "part-000000" / "journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:2]))
    assert_resumes(store)


def test_half_a_line_of_the_journal_does_not_count(store):
    folder = begin(store, ["long", "middle", "short"], "float32")
    journal = folder / "part-000000" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-3])
    assert_resumes(store)


def test_an_utterance_whose_frames_one_layer_lost_is_written_again(store):
    """After a power cut, the journal may know more than the layer files hold."""
    folder = begin(store, ["long", "middle", "short"], "float32")
    path = folder / "part-000000" / "layer_2.bin"
    os.truncate(path, path.stat().st_size - 1)
    assert_resumes(store)


@pytest.mark.parametrize("name", ["part-000000/journal.jsonl", "scales.npz"])
def test_without_journal_or_scales_it_begins_again(store, name):
    folder = begin(store, ["long", "middle"], "float32")
    (folder / name).unlink()
    assert_resumes(store, done=())


def test_with_half_of_the_scales_it_begins_again(store):
    folder = begin(store, ["long", "middle"], "float32")
    os.truncate(folder / "scales.npz", 300)
    assert_resumes(store, done=())


def test_parts_of_dead_runs_are_continued_by_other_parts(store):
    """Two processes were killed, the second one while it wrote; the next run is cut differently."""
    begin(store, ["long"], "float32")
    with open_writer(store, "float32") as writer:
        add(writer, ["short"])
        folder = writer._target.folder
    assert sorted(p.name for p in folder.glob("part-*")) == ["part-000000", "part-000002"]
    with open(folder / "part-000002" / "layer_0.bin", "ab") as file:
        file.write(b"half a frame")
    with open_writer(store, "float32") as writer:
        assert list(writer.done) == [(0, 1), (2, 3)]
        add(writer, ["middle"])
        entry = writer.finish()
    assert list(entry.parts) == ["part-000000", "part-000001", "part-000002"]
    assert entry.utterances == ORDER
    for layer in (0, 2):
        np.testing.assert_array_equal(entry.layer(layer)[:], whole(layer))
        np.testing.assert_array_equal(entry.layer(layer)[np.array([75, 0, 41])], whole(layer)[[75, 0, 41]])


def test_batches_of_another_size_are_written_again(store):
    """A batch is never cut: its hidden states depend on its composition by rounding errors."""
    begin(store, ["long", "middle"], "float32")
    with store.writer(key_of(ABOUT), ABOUT, (0, 2), "float32", [(0, 1), (1, 3)]) as writer:
        assert list(writer.done) == [(0, 1)]


def test_a_part_that_a_process_of_a_dead_run_still_writes_is_not_used(store):
    folder = begin(store, ["long"], "float32")
    lock = Lock(folder / "part-000000" / "journal.jsonl")
    assert lock.take()
    assert_resumes(store, done=())


def test_an_entry_under_its_partial_name_is_not_found(store):
    """Killed between the manifest and the final name."""
    entry = write(store, "float32")
    entry.path.rename(entry.path.with_name(f"{entry.path.name}.partial"))
    assert store.find(key_of(ABOUT), [0]) is None
    assert store.entries() == []
    with open_writer(store, "float32") as writer:
        add(writer, ORDER)
        assert writer.finish() == entry


def test_skipped_utterances_are_remembered(store):
    with open_writer(store, "float32") as writer:
        add(writer, ["long"])
        writer.write((1, 2), [], None, [("bad", "no audio")])
    with open_writer(store, "float32") as writer:
        assert writer.skipped() == [("bad", "no audio")]
        assert list(writer.done) == [(0, 1), (1, 2)]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_named_with_layer_and_utterance(store, value):
    hidden = states("long")
    hidden[1][3, 1] = value
    with (
        open_writer(store) as writer,
        pytest.raises(MIError, match="layer 2 of utterance long has NaN"),
    ):
        append(writer, 0, "long", hidden)


def test_an_utterance_refused_for_nan_leaves_nothing_behind(store):
    """Layer 0 of the refused utterance was whole, but the journal has no line for it."""
    hidden = states("middle")
    hidden[1][3, 1] = np.nan
    with (  # noqa: PT012 - the second `append` is refused
        pytest.raises(MIError),
        open_writer(store, "float32") as writer,
    ):
        append(writer, 0, "long", states("long"))
        append(writer, 1, "middle", hidden)
    assert_resumes(store, done=("long",))


def _writer(root: str, arrives, holds, waits_for, log: str) -> None:
    store = Store(Path(root), 10**9)
    arrives.set()
    with open_writer(store, "float32") as writer:
        holds.set()
        found = store.find(key_of(ABOUT), [0])
        with open(log, "a") as file:
            file.write(f"{len(writer.done)} {found is not None}\n")
        if found is None:
            assert waits_for.wait(60)
            time.sleep(0.5)  # time in which the other would continue if nothing held it
            add(writer, ORDER)
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
    assert log.read_text().splitlines() == ["0 False", "0 True"]
    entry = store.find(key_of(ABOUT), [0, 2])
    np.testing.assert_array_equal(entry.layer(2)[:], whole(2))
    assert store.partial_folders() == [], "the writer that came second left a folder behind"
