"""The MLP probe's networks: shape, dropout, and that a seed is on its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from s3prl_mi.estimators.frames import Frames, Inputs, fit_affine
from s3prl_mi.estimators.network import (
    LEFT_OUT,
    Network,
    _batches,
    _dropout,
    new_network,
    train,
)
from s3prl_mi.estimators.probes import NetworkSettings

CPU = torch.device("cpu")
SMALL = NetworkSettings((16, 16), 0.2, 64, 3e-3, "adamw", weight_decay=0.01, ema_decay=0.9)


@pytest.fixture
def rings():
    """Two classes, one inside the other: no linear probe can tell them apart."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 1000)
    angle, radius = rng.uniform(0, 2 * np.pi, 1000), np.where(y == 1, 3.0, 1.0) + 0.2 * rng.normal(size=1000)
    z = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    return inputs_of(z), torch.from_numpy(y)


def inputs_of(z, cache_bytes=1 << 30):
    frames = Frames([z])
    return Inputs(frames, fit_affine(frames), cache_bytes)


def close(a: Network, b: Network, tolerance: float) -> bool:
    return all(
        torch.allclose(x, y, atol=tolerance, rtol=0)
        for x, y in zip(a.weights + a.biases, b.weights + b.biases, strict=True)
    )


def one(network: Network, seed: int) -> Network:
    return Network([w[[seed]] for w in network.weights], [b[[seed]] for b in network.biases])


def test_forward_is_that_of_torch_modules():
    network = new_network(5, 7, [3, 4], SMALL, CPU)
    for bias in network.biases:
        bias.normal_(generator=torch.Generator().manual_seed(0))
    x = torch.randn(20, 5, generator=torch.Generator().manual_seed(1))
    for seed in range(2):
        h = x
        for number, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
            layer = torch.nn.Linear(*weight.shape[1:])
            layer.weight.data, layer.bias.data = weight[seed].T, bias[seed, 0]
            h = layer(torch.relu(h) if number else h)
        torch.testing.assert_close(network(x)[:, seed], h.detach(), atol=1e-5, rtol=1e-5)


def test_three_layers_with_the_stated_spread():
    network = new_network(400, 10, [0], NetworkSettings((256, 256), 0.3, 64, 1e-3, "adamw"), CPU)
    assert [tuple(w.shape) for w in network.weights] == [(1, 400, 256), (1, 256, 256), (1, 256, 10)]
    spread = [float(w.std()) for w in network.weights]
    np.testing.assert_allclose(spread, [(2 / 400) ** 0.5, (2 / 256) ** 0.5, (1 / 256) ** 0.5], rtol=0.05)


def test_a_network_without_hidden_layers_starts_at_zero():
    network = new_network(4, 3, [0], NetworkSettings((), 0.0, 64, 0.1, "sgd"), CPU)
    assert [tuple(w.shape) for w in network.weights] == [(1, 4, 3)]
    assert float(network.weights[0].abs().max()) == 0


def test_initial_weights_depend_on_the_own_seed_only():
    both, alone = new_network(6, 3, [1, 2], SMALL, CPU), new_network(6, 3, [2], SMALL, CPU)
    assert close(one(both, 1), alone, 0)
    assert not close(one(both, 0), alone, 1e-3)


def test_dropout_keeps_the_mean_and_the_stated_share():
    drop = _dropout(0.3, [0, 1], torch.float32, CPU)
    kept = drop(torch.ones(2, 400, 100))
    for own in kept:
        assert float((own == 0).float().mean()) == pytest.approx(0.3, abs=0.02)  # 40,000 draws: 8 deviations
        assert float(own.mean()) == pytest.approx(1, abs=0.03)
    assert not torch.equal(kept[0], kept[1])
    assert not torch.equal(drop(torch.ones(2, 400, 100)), kept)


def test_dropout_of_a_seed_does_not_depend_on_the_others():
    alone = _dropout(0.5, [7], torch.float32, CPU)
    beside = _dropout(0.5, [3, 7], torch.float32, CPU)
    for _ in range(3):
        torch.testing.assert_close(alone(torch.ones(1, 50, 10))[0], beside(torch.ones(2, 50, 10))[1], atol=0, rtol=0)


def test_batches_are_whole_and_an_order_repeats_no_frame():
    positions = torch.arange(100) * 3
    batches = list(_batches(positions, 32, 7))
    assert [len(b) for b in batches] == [32] * 7
    for first in (0, 3):
        one_order = torch.cat(batches[first : first + 3])
        assert len(one_order.unique()) == 96
        assert set(one_order.tolist()) <= set(positions.tolist())
    assert [len(b) for b in _batches(positions[:5], 32, 2)] == [5, 5]


@pytest.mark.parametrize("settings", [SMALL, NetworkSettings((16, 16), 0.1, 64, 0.05, "sgd")])
def test_learns_what_no_linear_probe_can(rings, settings):
    inputs, y = rings
    network = train(inputs, y[:, None].expand(-1, 2), torch.arange(1000), 2, [0, 1], settings, 400)
    right = (network(inputs.block(0, 1000)).argmax(2) == y[:, None]).float().mean(0)
    assert float(right.min()) > 0.98


def test_a_seed_is_trained_as_if_it_were_alone(rings):
    """Tolerance 1e-5 in every weight."""
    inputs, y = rings
    everything = torch.arange(1000)
    alone = train(inputs, y[:, None], everything, 2, [5], SMALL, 30)
    beside = train(inputs, y[:, None].expand(-1, 3), everything, 2, [4, 5, 6], SMALL, 30)
    assert close(one(beside, 1), alone, 1e-5)
    assert not close(one(beside, 0), alone, 1e-2)
    assert close(alone, train(inputs, y[:, None], everything, 2, [5], SMALL, 30), 0)


def test_the_global_random_state_is_neither_read_nor_moved(rings):
    inputs, y = rings
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = train(inputs, y[:, None], torch.arange(1000), 2, [5], SMALL, 10)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert close(first, train(inputs, y[:, None], torch.arange(1000), 2, [5], SMALL, 10), 0)


def test_streaming_is_the_same_as_in_memory(rings):
    inputs, y = rings
    streamed = Inputs(inputs.frames, inputs.affine, cache_bytes=0)
    a = train(inputs, y[:, None], torch.arange(1000), 2, [5], SMALL, 30)
    assert close(a, train(streamed, y[:, None], torch.arange(1000), 2, [5], SMALL, 30), 1e-4)


def test_frames_that_are_left_out_are_not_trained_on(rings):
    inputs, y = rings
    other = y.clone()
    other[500:] = 1 - other[500:]
    first = train(inputs, y[:, None], torch.arange(500), 2, [5], SMALL, 30)
    assert close(first, train(inputs, other[:, None], torch.arange(500), 2, [5], SMALL, 30), 0)


def test_each_network_leaves_out_its_own_frames(rings):
    """What one network does not train on may have any label, and the other's answer stays the same."""
    inputs, y = rings
    everything = torch.arange(1000)
    targets = torch.stack([y, y], 1)
    targets[500:, 0] = LEFT_OUT
    both = train(inputs, targets, everything, 2, [5, 5], SMALL, 30)
    alone = train(inputs, y[:, None], everything, 2, [5], SMALL, 30)
    assert close(one(both, 1), alone, 1e-5)
    assert not close(one(both, 0), alone, 1e-3)
    never = y.clone()
    never[y == 1] = LEFT_OUT  # a class that it never sees
    without = train(inputs, never[:, None], everything, 2, [5], SMALL, 30)
    assert float((without(inputs.block(0, 1000))[:, 0].argmax(1) == 0).float().mean()) > 0.9


def test_check_is_called_on_time_and_can_stop(rings):
    inputs, y = rings
    called: list[int] = []

    def check(step: int, _network: Network) -> bool:
        called.append(step)
        return step < 15

    train(inputs, y[:, None], torch.arange(1000), 2, [5], SMALL, 100, 5, check)
    assert called == [5, 10, 15]


def test_weights_are_averaged_where_the_settings_say_so(rings):
    """After three steps with decay 0.9 the plain mean of the weights after each step still rules."""
    inputs, y = rings
    plain = NetworkSettings(SMALL.hidden, 0.0, 64, 3e-3, "adamw", weight_decay=0.01)
    after = [train(inputs, y[:, None], torch.arange(1000), 2, [5], plain, n) for n in (1, 2, 3)]
    averaging = NetworkSettings(SMALL.hidden, 0.0, 64, 3e-3, "adamw", weight_decay=0.01, ema_decay=0.9)
    mean = train(inputs, y[:, None], torch.arange(1000), 2, [5], averaging, 3)
    for i, weight in enumerate(mean.weights):
        torch.testing.assert_close(weight, torch.stack([n.weights[i] for n in after]).mean(0), atol=1e-5, rtol=0)
