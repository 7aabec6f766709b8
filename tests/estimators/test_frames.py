"""Frames read in blocks, and the affine map in front of every probe."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s3prl_mi.core.errors import MIError
from s3prl_mi.estimators.frames import BLOCK_ROWS, Frames, Inputs, fit_affine
from s3prl_mi.states.entry import LayerFiles, StoredLayer


@st.composite
def parts_and_rows(draw):
    """Arrays end to end (some empty, some float16), and ascending rows of them."""
    lengths = draw(st.lists(st.integers(0, 40), min_size=1, max_size=5).filter(sum))
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    whole = np.arange(sum(lengths) * 3, dtype=dtype).reshape(-1, 3)
    rows = draw(st.lists(st.integers(0, len(whole) - 1), unique=True).map(sorted))
    return whole, np.split(whole, np.cumsum(lengths)[:-1]), np.array(rows, dtype=np.int64)


@settings(deadline=None)
@given(parts_and_rows(), st.data())
def test_reading_across_parts_equals_indexing_the_whole(given_frames, data):
    whole, parts, rows = given_frames
    frames = Frames(parts, rows)
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(rows))] * 2)))
    read = frames.read(start, stop)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, whole[rows[start:stop]])
    np.testing.assert_array_equal(Frames(parts).read(start, stop), whole[start:stop])


@settings(deadline=None)
@given(parts_and_rows(), st.data())
def test_select_by_mask_and_by_position(given_frames, data):
    whole, parts, rows = given_frames
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))), dtype=bool)
    by_mask, by_position = Frames(parts, rows).select(mask), Frames(parts, rows).select(np.flatnonzero(mask))
    assert len(by_mask) == mask.sum()
    np.testing.assert_array_equal(by_mask.read(0, len(by_mask)), whole[rows[mask]])
    np.testing.assert_array_equal(by_position.read(0, len(by_mask)), whole[rows[mask]])


@settings(deadline=None)
@given(parts_and_rows(), st.integers(1, 50))
def test_blocks_cover_all_frames_once(given_frames, size):
    whole, parts, rows = given_frames
    frames = Frames(parts, rows)
    pieces = [frames.read(a, b) for a, b in frames.blocks(size)]
    assert all(len(p) <= size for p in pieces)
    np.testing.assert_array_equal(np.concatenate([np.empty((0, 3)), *pieces]), whole[rows])


@settings(max_examples=30, deadline=None)
@given(parts_and_rows(), st.data())
def test_take_in_any_order_with_and_without_cache(given_frames, data):
    _, parts, rows = given_frames
    frames = Frames(parts, rows)
    if not len(frames):
        return
    positions = torch.tensor(data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=20)), dtype=torch.long)
    affine = fit_affine(frames)
    kept, streamed = Inputs(frames, affine), Inputs(frames, affine, cache_bytes=0)
    torch.testing.assert_close(kept.take(positions), streamed.take(positions), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(kept.take(positions), kept.block(0, len(frames))[positions])


@pytest.mark.parametrize("cache_bytes", [1 << 30, 0])
def test_some_of_the_inputs(cache_bytes):
    z = np.random.default_rng(0).normal(size=(600, 6)).astype(np.float32)
    frames = Frames([z[:250], z[250:]])
    whole = Inputs(frames, fit_affine(frames), cache_bytes)
    rows = np.arange(0, 600, 7)
    some = whole.select(rows)
    assert len(some) == len(rows)
    torch.testing.assert_close(some.block(0, len(rows)), whole.take(torch.from_numpy(rows)))


def test_blocks_with_and_without_cache_are_the_same():
    z = np.random.default_rng(0).normal(size=(BLOCK_ROWS + 777, 6)).astype(np.float32)
    frames = Frames([z[:1000], z[1000:]])
    affine = fit_affine(frames)
    kept, streamed = Inputs(frames, affine), Inputs(frames, affine, cache_bytes=0)
    for (a, b, x), (c, d, y) in zip(kept.blocks(500), streamed.blocks(500), strict=True):
        assert (a, b) == (c, d)
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)


def test_float16_of_the_store_is_decoded_before_it_is_used(tmp_path):
    rng = np.random.default_rng(0)
    z = (rng.normal(size=(500, 4)) * [1, 10, 100, 1000] + 1e5).astype(np.float32)
    offset, scale = z.mean(0), z.std(0)
    path = tmp_path / "layer_0.bin"
    ((z - offset) / scale).astype(np.float16).tofile(path)
    stored = StoredLayer(LayerFiles([path], 4, "float16"), offset, scale)
    rows = np.sort(rng.choice(1000, 300, replace=False))
    read = Frames([stored, z], rows).read(0, 300)  # type: ignore[list-item]
    error = (read - np.concatenate([z, z])[rows]) / scale
    # 11 bits of a value below 4 standard deviations: at most 2^-10 of them, and float32's own step at 1e5
    assert np.abs(error).max() < 2**-10 + 2**-7 / scale.min() * 1.01


SIZES = np.array([1e-3, 1, 1, 30, 1e5])


def test_affine_map_standardises_and_turns_to_principal_axes():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(20_000, 5)) @ rng.normal(size=(5, 5)) * SIZES + [0, 5, -1e4, 0, 1e6]
    affine = fit_affine(Frames([z]))
    x = Inputs(Frames([z]), affine).block(0, 20_000).double().numpy()
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(np.cov(x.T, ddof=0), np.diag(affine.variance), atol=2e-3)
    # principal axes of the correlation matrix: same total variance and same spectrum
    np.testing.assert_allclose(affine.variance, np.linalg.eigvalsh(np.corrcoef(z.T)), atol=2e-3)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e4 + 0.1, 1e6 + 0.3, 3.3e7])
def test_a_dimension_that_never_varies_is_mapped_to_zero(constant):
    z = np.random.default_rng(0).normal(size=(3001, 4)).astype(np.float32)
    z[:, 2] = constant
    affine = fit_affine(Frames([z]))
    others = fit_affine(Frames([np.delete(z, 2, axis=1)]))
    torch.testing.assert_close(affine.variance[1:], others.variance, atol=1e-5, rtol=1e-5)
    assert abs(float(affine.variance[0])) < 1e-6
    z[0, 2] += 1e6  # an eval frame may differ there: it must not explode
    assert float(Inputs(Frames([z]), affine).block(0, 1).abs().max()) < 10


def test_a_dimension_much_smaller_than_another_is_kept():
    z = np.random.default_rng(0).normal(size=(5000, 2)) * [1e-6, 1e6]
    torch.testing.assert_close(fit_affine(Frames([z])).variance, torch.ones(2), atol=0.05, rtol=0)


def test_only_constant_dimensions():
    x = Inputs(Frames([np.full((50, 3), 7.5)]), fit_affine(Frames([np.full((50, 3), 7.5)]))).block(0, 50)
    assert float(x.abs().max()) == 0


def test_far_from_the_origin_nothing_is_lost():
    z = np.random.default_rng(0).normal(size=(10_000, 4)).astype(np.float32).astype(np.float64)
    near, far = fit_affine(Frames([z])), fit_affine(Frames([z + 1e4]))
    torch.testing.assert_close(near.variance, far.variance, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_none(bad):
    z = np.zeros((BLOCK_ROWS + 10, 2), dtype=np.float32)
    z[-1, 1] = bad
    with pytest.raises(MIError, match="NaN or infinite"):
        fit_affine(Frames([z]))


def test_no_part_at_all():
    with pytest.raises(ValueError, match="at least one array"):
        Frames([])
