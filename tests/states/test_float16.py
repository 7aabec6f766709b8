"""float16 and its error: the same numbers as by NumPy in float64, whatever the batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from s3prl_mi.states.float16 import RoundingError, to_float16


def batches(mean: float, seed: int = 0) -> list[list[torch.Tensor]]:
    """Three batches of utterances of 5 dimensions; the last dimension is constant."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for counts in ((40, 7), (1,), (300, 30, 2)):
        of_batch = [mean + torch.randn(n, 5, generator=generator) * torch.tensor([1, 2, 4, 8, 0]) for n in counts]
        made.append(of_batch)
    return made


@pytest.mark.parametrize("mean", [0.0, 300.0])
def test_error_is_that_of_float64(mean):
    offset, scale = np.full(5, 1.5, np.float32), np.array([1, 2, 4, 8, 1], np.float32)
    given = [(torch.from_numpy(offset), torch.from_numpy(scale))]
    sums = RoundingError(scale)
    for batch in batches(mean):
        states = to_float16([[u] for u in batch], given)
        sums.add(sum(states.n_frames), states.sums[0])
    x = torch.cat([u for batch in batches(mean) for u in batch]).numpy()
    z = (x - offset) / scale
    rounded = z.astype(np.float16).astype(np.float64)
    error = np.sqrt(((rounded - z) ** 2).mean(0))[:4] / z.astype(np.float64).std(0)[:4]
    assert sums.count == len(x)
    np.testing.assert_allclose(sums.sums[0], z.mean(0, dtype=np.float64), rtol=1e-5, atol=1e-5)
    assert sums.worst() == pytest.approx(error.max(), rel=1e-3)


def test_batch_is_its_utterances_end_to_end_in_the_form_of_the_store():
    offset, scale = np.full(5, 0.3, np.float32), np.array([1, 2, 4, 8, 1], np.float32)
    batch = batches(0.0)[0]
    layers = [[u, 2 * u[:, :3]] for u in batch]
    both = [torch.from_numpy(offset), torch.from_numpy(scale)]
    states = to_float16(layers, [tuple(both), tuple(b[:3] for b in both)])
    assert states.n_frames == (40, 7)
    for number, array in enumerate(states.arrays):
        whole = torch.cat([u[number] for u in layers]).numpy()
        dim = whole.shape[1]
        np.testing.assert_array_equal(array, ((whole - offset[:dim]) / scale[:dim]).astype(np.float16))


def test_float32_is_left_alone():
    batch = batches(0.0)[0]
    states = to_float16([[u] for u in batch], None)
    assert states.arrays[0].dtype == np.float32
    np.testing.assert_array_equal(states.arrays[0], torch.cat(batch).numpy())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e9])
def test_sums_tell_what_cannot_be_stored(value):
    (batch,) = [batches(0.0)[0]]
    batch[1][3, 2] = value
    states = to_float16([[u] for u in batch], [(torch.zeros(5), torch.ones(5))])
    assert np.isfinite(states.sums[0][0]).all() == (value == 1e9)
    assert not np.isfinite(states.sums[0]).all()
