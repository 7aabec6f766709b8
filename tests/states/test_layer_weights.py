"""The weighted layer: the sum that s3prl's Featurizer computes, with weights of three sources."""

from __future__ import annotations

from argparse import Namespace

import numpy as np
import pytest
import torch

from s3prl_mi.core.errors import MIError
from s3prl_mi.estimators.frames import Frames
from s3prl_mi.states.entry import LayerFiles, StoredLayer
from s3prl_mi.states.layer_weights import LayerWeights, WeightedLayer, learn_weights, read_weights, uniform
from s3prl_mi.upstreams import compat

RAW = torch.tensor([0.3, -1.2, 2.0])


@pytest.fixture
def states():
    """Three layers of one utterance, (50, 4) each, of unlike size."""
    rng = np.random.default_rng(0)
    return [(rng.normal(size=(50, 4)) * s + m).astype(np.float32) for s, m in ((1, 0), (10, 5), (0.1, -3))]


def stored(folder, states, dtype="float32"):
    layers = []
    for i, z in enumerate(states):
        offset, scale = np.zeros(4, np.float32), np.ones(4, np.float32)
        z.astype(dtype).tofile(folder / f"layer_{i}.bin")
        layers.append(StoredLayer(LayerFiles([folder / f"layer_{i}.bin"], 4, dtype), offset, scale))
    return layers


def weights(normalize=False):
    return LayerWeights(torch.softmax(RAW.double(), 0).numpy(), normalize, "test")


def stock_sum(states, normalize):
    """What s3prl's own Featurizer makes of these hidden states with weights RAW."""
    compat.apply()
    from s3prl.upstream.interfaces import Featurizer

    class Fixed(torch.nn.Module):
        def forward(self, _wavs):
            return {"hidden_states": [torch.from_numpy(z)[None] for z in states]}

        def get_downsample_rates(self, _key):
            return 320

    upstream = Fixed()
    featurizer = Featurizer(upstream, "hidden_states", upstream_device="cpu", normalize=normalize)
    featurizer.weights.data = RAW.clone()
    wavs = [torch.zeros(50 * 320)]
    with torch.no_grad():
        (out,) = featurizer(wavs, upstream(wavs))
    return out.numpy()


@pytest.mark.parametrize("normalize", [False, True])
def test_equals_the_sum_of_s3prls_featurizer(states, tmp_path, normalize):
    layer = WeightedLayer(stored(tmp_path, states), weights(normalize))
    np.testing.assert_allclose(layer[0:50], stock_sum(states, normalize), atol=1e-5)
    assert layer.shape == (50, 4)
    assert len(layer) == 50


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("normalize", [False, True])
def test_reads_like_an_array(states, tmp_path, normalize, dtype):
    layer = WeightedLayer(stored(tmp_path, states, dtype), weights(normalize))
    whole = layer[0:50].copy()
    assert whole.dtype == np.float32
    rows = np.array([3, 4, 10, 49])
    np.testing.assert_array_equal(layer[rows], whole[rows])
    frames = Frames([layer, layer], np.array([0, 1, 2, 48, 49, 50, 60, 99]))
    np.testing.assert_array_equal(frames.read(2, 8), np.concatenate([whole, whole])[[2, 48, 49, 50, 60, 99]])


def test_reading_does_not_change_what_is_stored(states, tmp_path):
    layers = stored(tmp_path, states)
    before = [layer[0:50].copy() for layer in layers]
    WeightedLayer(layers, weights(True))[0:50]
    for layer, z in zip(layers, before, strict=True):
        np.testing.assert_array_equal(layer[0:50], z)


def test_uniform_weights_are_the_mean(states, tmp_path):
    layer = WeightedLayer(stored(tmp_path, states), uniform(3, False))
    np.testing.assert_allclose(layer[0:50], np.mean(states, axis=0), atol=1e-5)


def test_what_goes_into_records():
    assert weights().describe() == "featurizer (test): 0.1493 0.0333 0.8174"
    assert uniform(2, True).describe() == "featurizer (uniform, normalized): 0.5000 0.5000"


# --- weights of a stock run ---------------------------------------------------------------------------------


def save(path, **changes):
    """A states-*.ckpt as s3prl's runner writes it."""
    content = {
        "Optimizer": {"state": {0: {"step": 3}}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
        "Step": 1000,
        "Epoch": 2,
        "Args": Namespace(upstream="hubert", downstream="ctc", upstream_feature_normalize=False, seed=1337),
        "Config": {"runner": {"total_steps": 1000}},
        "Featurizer": {"weights": RAW.clone()},
        "Downstream": {"linear.weight": torch.zeros(2, 4)},
    }
    compat.apply()
    torch.save({k: v for k, v in {**content, **changes}.items() if v is not None}, path)
    return path


@pytest.mark.parametrize("normalize", [False, True])
def test_weights_of_a_stock_run(tmp_path, states, normalize):
    args = Namespace(upstream="hubert", downstream="ctc", upstream_feature_normalize=normalize)
    path = save(tmp_path / "states-1000.ckpt", Args=args)
    read = read_weights(path, 3, "hubert")
    np.testing.assert_allclose(read.weights, torch.softmax(RAW.double(), 0), atol=1e-9)
    assert read.weights.sum() == pytest.approx(1, abs=1e-12)
    assert read.normalize is normalize
    assert read.source == "states-1000.ckpt of ctc on hubert"
    np.testing.assert_allclose(
        WeightedLayer(stored(tmp_path, states), read)[0:50], stock_sum(states, normalize), atol=1e-5
    )


def test_a_file_without_args_is_read_all_the_same(tmp_path):
    read = read_weights(save(tmp_path / "dev-best.ckpt", Args=None), 3, "hubert")
    assert read.normalize is False
    assert "unknown upstream" in read.source


@pytest.mark.parametrize("featurizer", [None, {}, {"other": torch.zeros(3)}])
def test_a_run_without_layer_weights(tmp_path, featurizer):
    path = save(tmp_path / "states-1.ckpt", Featurizer=featurizer)
    with pytest.raises(MIError, match=r"states-1\.ckpt holds no layer weights .*downstream_expert\.layers"):
        read_weights(path, 3, "hubert")


def test_weights_of_another_upstream(tmp_path):
    path = save(tmp_path / "states-1.ckpt")
    with pytest.raises(MIError, match=r"weights of 3 layers \(upstream hubert\), but wavlm_large has 25"):
        read_weights(path, 25, "wavlm_large")


def test_no_such_file(tmp_path):
    with pytest.raises(MIError, match=r"featurizer: no file .*states-7\.ckpt\. Give learned, uniform"):
        read_weights(tmp_path / "states-7.ckpt", 3, "hubert")


@pytest.mark.parametrize("content", [b"", b"no checkpoint at all"])
def test_a_file_that_is_no_checkpoint(tmp_path, content):
    path = tmp_path / "states-1.ckpt"
    path.write_bytes(content)
    with pytest.raises(MIError, match=r"states-1\.ckpt cannot be read as a checkpoint of s3prl"):
        read_weights(path, 3, "hubert")


def test_a_checkpoint_that_is_no_dict(tmp_path):
    torch.save([1, 2], tmp_path / "states-1.ckpt")
    with pytest.raises(MIError, match="holds no layer weights"):
        read_weights(tmp_path / "states-1.ckpt", 3, "hubert")


# --- learned weights ----------------------------------------------------------------------------------------


def layers_with_one_that_knows(informative, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 5, 4000)
    layers = [rng.normal(size=(4000, 8)) for _ in range(4)]
    layers[informative] = 2 * rng.normal(size=(5, 8))[y] + rng.normal(size=(4000, 8))
    return [Frames([z.astype(np.float32)]) for z in layers], y


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("informative", [0, 2])
def test_the_layer_that_knows_gets_the_weight(informative, normalize):
    layers, y = layers_with_one_that_knows(informative)
    learned = learn_weights(layers, y, 5, normalize, "cpu")
    assert learned.weights.sum() == pytest.approx(1, abs=1e-9)
    assert learned.weights[informative] > 0.6
    assert learned.normalize is normalize


def test_weights_without_anything_to_learn_stay_near_equal():
    """Layers that are one and the same: every weighting is as good, none is preferred (0.1: Adam walks
    on rounding errors)."""
    layers, y = layers_with_one_that_knows(1)
    learned = learn_weights([layers[1]] * 3, y, 5, False, "cpu")
    np.testing.assert_allclose(learned.weights, 1 / 3, atol=0.1)


def test_learning_is_deterministic_and_leaves_the_global_random_state():
    layers, y = layers_with_one_that_knows(1)
    torch.manual_seed(3)
    first = learn_weights(layers, y, 5, False, "cpu").weights
    torch.manual_seed(4)
    np.testing.assert_array_equal(learn_weights(layers, y, 5, False, "cpu").weights, first)
