"""Hidden states in memory are those on disk, bit for bit, and are refused for the same reasons."""

from __future__ import annotations

import numpy as np
import pytest

from s3prl_mi.core.errors import MIError
from s3prl_mi.states.memory_store import MemoryStore
from s3prl_mi.states.store import InsufficientSpace, Store
from s3prl_mi.states.writer import TooCoarse
from tests.helpers.store import append, one_by_one

ABOUT = {"upstream": "x"}
LAYERS = [0, 3]


@pytest.fixture
def disk(tmp_path):
    return Store(tmp_path / "store", 10**9)


@pytest.fixture
def memory(disk):
    return MemoryStore(disk, 10**6)


def states(seed: int, spread: float = 1.0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [(100 + spread * rng.standard_normal((40 + seed, dim))).astype(np.float32) for dim in (5, 3)]


def begin(store, dtype: str = "float16", key: str = "key"):
    return store.writer(key, ABOUT, LAYERS, dtype, one_by_one(4))


def write(store, dtype: str, key: str = "key"):
    with begin(store, dtype, key) as writer:
        for seed in range(3):
            append(writer, seed, f"u{seed}", states(seed))
        writer.write((3, 4), [], None, [("bad", "no audio")])
        return writer.finish()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_bits_are_those_on_disk(disk, memory, dtype):
    on_disk, kept = write(disk, dtype, "other"), write(memory, dtype)
    assert (kept.utterances, kept.n_frames, kept.dims, kept.dtype, kept.layers) == (
        on_disk.utterances,
        on_disk.n_frames,
        on_disk.dims,
        on_disk.dtype,
        on_disk.layers,
    )
    assert kept.skipped == on_disk.skipped == [("bad", "no audio")]
    assert kept.bytes == sum(f.stat().st_size for f in on_disk.path.rglob("layer_*.bin"))
    for layer in LAYERS:
        ours, theirs = kept.layer(layer), on_disk.layer(layer)
        assert ours.shape == theirs.shape
        for rows in (slice(None), slice(7, 30), np.array([3, 80, 5])):
            np.testing.assert_array_equal(ours[rows], theirs[rows])
            assert ours[rows].dtype == np.float32


def test_nothing_is_written_and_everything_is_found(disk, memory):
    kept = write(memory, "float16")
    assert not disk.root.exists()
    assert memory.find("key", [0]) is memory.find("key", [0, 3]) is kept
    assert memory.find("key", [1]) is None
    assert memory.find("another", [0]) is None
    memory.forget([kept.path])
    assert memory.find("key", [0]) is None
    with pytest.raises(KeyError):  # whoever still has the entry does not keep its frames in memory
        kept.layer(0)


def test_what_is_on_disk_is_found(disk, memory):
    entry = write(disk, "float16")
    found = memory.find("key", [3])
    assert found is not None
    assert found.path == entry.path
    memory.forget([entry.path])
    assert disk.find("key", [3]) is not None


def test_what_disk_refuses_is_refused(memory):
    broken = states(0)
    broken[1][3, 1] = np.nan
    with (
        begin(memory) as writer,
        pytest.raises(MIError, match="layer 3 of utterance u has NaN"),
    ):
        append(writer, 0, "u", broken)
    with begin(memory) as writer:  # noqa: SIM117
        with pytest.raises(TooCoarse):  # noqa: PT012 - some errors are seen only over all frames
            append(writer, 0, "a", states(0, 1e-6))
            append(writer, 1, "b", [1e9 * h for h in states(1)])
            writer.finish()
    assert memory.find("key", [0]) is None


def test_the_limit_counts_what_is_kept(memory):
    kept = write(memory, "float32")
    memory.make_room(10**6 - kept.bytes, [])
    with pytest.raises(InsufficientSpace, match="in memory"):
        memory.make_room(10**6 - kept.bytes + 1, [])
