"""A finished entry: what is written is read; what is not whole is not found."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest

from s3prl_mi.states.entry import LayerFiles, StoredLayer
from s3prl_mi.states.store import Store, key_of
from s3prl_mi.states.writer import LARGEST_ERROR
from tests.helpers.store import ABOUT, COUNTS, append, open_writer, states, whole, write


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store", 10**9)


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


@pytest.mark.parametrize("cuts", [[], [100], [1, 250, 251]])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rows_near_and_far_are_those_of_the_files(tmp_path, monkeypatch, dtype, cuts):
    monkeypatch.setattr("s3prl_mi.states.entry._NEAR", 100)
    monkeypatch.setattr("s3prl_mi.states.entry._PIECE", 4)
    monkeypatch.setattr("s3prl_mi.states.entry._CONVERTED", 100)
    data = np.random.default_rng(0).standard_normal((500, 5)).astype(dtype)
    # one file, or parts that lie end to end, one of them of one row
    files = [tmp_path / f"layer-{n}.bin" for n in range(len(cuts) + 1)]
    for path, part in zip(files, np.split(data, cuts), strict=True):
        part.tofile(path)
    offset, scale = np.arange(5, dtype=np.float32), np.linspace(0.3, 2, 5, dtype=np.float32)
    layer = StoredLayer(LayerFiles(files, 5, dtype), offset, scale)
    expected = data if dtype == "float32" else data.astype(np.float32) * scale + offset
    for path in files:
        path.unlink()  # what is open stays readable
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
    with open_writer(store, "float32", [2]) as writer:
        append(writer, 0, "long", states("long", (2,)))
        writer.write((1, 2), [], None, [("bad", "bad.flac: no audio")])
        append(writer, 2, "short", states("short", (2,)))
        writer.finish()
    entry = store.find(key_of(ABOUT), [2])
    assert list(zip(entry.utterances, entry.n_frames, strict=True)) == [("long", 40), ("short", 7)]
    assert entry.skipped == [("bad", "bad.flac: no audio")]
    (stored,) = store.entries()
    assert {name: stored.about[name] for name in ABOUT} == ABOUT


def test_constant_dimension_is_kept_exactly(store):
    hidden = np.full((20, 3), 7.25, np.float32)
    hidden[:, 1] = np.random.default_rng(0).standard_normal(20)
    with open_writer(store, "float16", [0]) as writer:
        append(writer, 0, "u", [hidden])
        entry = writer.finish()
    np.testing.assert_array_equal(entry.layer(0)[:][:, [0, 2]], hidden[:, [0, 2]])


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
    path = entry.path / "part-000000" / "layer_2.bin"
    os.truncate(path, path.stat().st_size - cut)
    assert store.find(key_of(ABOUT), [0]) is None


def test_an_entry_with_half_a_manifest_is_not_found(store):
    entry = write(store)
    path = entry.path / "manifest.json"
    path.write_text(path.read_text()[:50])
    assert store.find(key_of(ABOUT), [0]) is None


def test_an_entry_that_lacks_a_part_is_not_found(store):
    entry = write(store)
    shutil.rmtree(entry.path / "part-000000")
    assert store.find(key_of(ABOUT), [0]) is None


@pytest.mark.parametrize("name", ["manifest.json", "scales.npz", "part-000000/layer_0.bin"])
def test_an_entry_with_one_bit_flipped_is_dropped_with_a_line(store, caplog, name):
    path = write(store).path / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert store.find(key_of(ABOUT), [0]) is None
    assert f"{name} of {store.root}" in caplog.text
    assert store.partial_folders() == []
    assert store.find(key_of(ABOUT), [0]) is None
    assert len(caplog.records) == 1
