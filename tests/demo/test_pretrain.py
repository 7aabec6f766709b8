import numpy as np
import pytest
import soundfile
import torch

from s3prl_mi.core.errors import MIError
from s3prl_mi.demo import apc, hubert, pretrain, training
from s3prl_mi.upstreams import compat

compat.apply()

TINY_HUBERT = hubert.HubertRecipe(
    units=6,
    conv_layers="[(16,40,20)] + [(16,7,4)] + [(16,4,4)]",
    layers=2,
    dim=32,
    ffn_dim=32,
    heads=2,
    batch=2,
    crop_frames=30,
)
TINY_APC = apc.APCRecipe(dim=16, batch=2, crop_frames=40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tones that jump between four pitches: something to learn in a few steps."""
    folder = tmp_path_factory.mktemp("audio")
    rng = np.random.default_rng(0)
    for i in range(4):
        pitch = np.repeat(rng.choice([300, 700, 1500, 3000], 20), 1600)
        wave = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / 16000) + 0.01 * rng.standard_normal(pitch.size)
        soundfile.write(folder / f"{i}.wav", wave, 16000)
    return folder


@pytest.fixture(scope="module")
def waves(folder):
    return training.read_audio(folder)


def weights(path):
    return torch.load(path)  # weights only: nothing but plain values may be in the file


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


def test_hubert_is_read_by_hubert_local(waves, tmp_path):
    from s3prl.upstream.hubert.expert import UpstreamExpert

    saved = hubert.pretrain_hubert(waves, tmp_path, steps=2, recipe=TINY_HUBERT, progress=False)
    assert list(saved) == [0, 2]
    assert saved[2].name == "hubert-000002.pt"
    expert = UpstreamExpert(str(saved[2])).eval()
    with torch.no_grad():
        states = expert([torch.randn(16000)])["hidden_states"]
    assert [tuple(s.shape) for s in states] == [(1, 49, 32)] * 3
    before, after = (weights(saved[s])["model_weight"] for s in (0, 2))
    assert not torch.equal(before["mask_emb"], after["mask_emb"])
    assert not list(tmp_path.glob("*.partial"))


def test_apc_is_read_by_apc_local(waves, tmp_path):
    from s3prl.upstream.apc.expert import UpstreamExpert

    saved = apc.pretrain_apc(waves, tmp_path, steps=2, recipe=TINY_APC, progress=False)
    assert [p.name for p in saved.values()] == ["apc-000000.ckpt", "apc-000002.ckpt"]
    expert = UpstreamExpert(str(saved[2])).eval()
    with torch.no_grad():
        states = expert([torch.randn(16000)])["hidden_states"]
    assert [tuple(s.shape) for s in states] == [(1, 98, 16)] * 3


@pytest.mark.parametrize(
    ("train", "recipe", "key"),
    [(hubert.pretrain_hubert, TINY_HUBERT, "model_weight"), (apc.pretrain_apc, TINY_APC, "model")],
)
def test_a_seed_fixes_the_weights_and_leaves_the_caller_alone(waves, tmp_path, train, recipe, key):
    runs = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number)  # must not matter
        expected = torch.random.get_rng_state()
        saved = train(waves, tmp_path / str(number), steps=2, seed=seed, recipe=recipe, progress=False)
        assert torch.equal(torch.random.get_rng_state(), expected)
        runs.append(weights(saved[2])[key])
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_loss_equals_the_models_own():
    from s3prl.upstream.hubert.hubert_model import HubertConfig, HubertModel, HubertPretrainingConfig

    torch.manual_seed(0)
    task, config = hubert.hubert_config(TINY_HUBERT)
    model = HubertModel(HubertConfig(**config), HubertPretrainingConfig(**task), [[str(i) for i in range(6)]])
    source, targets = torch.randn(2, 320 * 29 + 400), torch.randint(0, 6, (2, 30))
    mask = torch.from_numpy(hubert.span_mask(2, 30, 0.4, 5, np.random.default_rng(0)))

    def apply_mask(x, padding_mask, target_list):
        x[mask] = model.mask_emb
        return x, mask

    model.apply_mask = apply_mask
    net = model(source, [targets], padding_mask=torch.zeros(source.shape, dtype=torch.bool))
    expected = [
        torch.nn.functional.cross_entropy(model.get_logits(net, masked)[0], model.get_targets(net, masked)[0])
        for masked in (True, False)
    ]
    found = hubert.hubert_loss(model, source, targets, mask, 0.5)
    assert found.item() == pytest.approx((expected[0] + 0.5 * expected[1]).item(), abs=1e-4)
    alone = hubert.hubert_loss(model, source, targets, mask, 0.0)
    assert alone.item() == pytest.approx(expected[0].item(), abs=1e-4)


def test_training_lowers_the_loss(waves, tmp_path):
    from s3prl.upstream.hubert.convert import load_converted_model

    saved = hubert.pretrain_hubert(waves, tmp_path, steps=25, recipe=TINY_HUBERT, progress=False)
    waves = [hubert._normalised(w) for w in waves]
    units = hubert.cluster_units([hubert.mfcc_frames(w, TINY_HUBERT.context) for w in waves], 6, 0)
    source = torch.from_numpy(np.stack(waves))
    targets = torch.from_numpy(np.stack(units))
    mask = torch.from_numpy(hubert.span_mask(4, targets.shape[1], 0.4, 10, np.random.default_rng(5)))
    with torch.no_grad():
        before, after = (
            hubert.hubert_loss(load_converted_model(str(saved[s]))[0].eval(), source, targets, mask, 0.5).item()
            for s in (0, 25)
        )
    assert after < 0.9 * before


def test_units_have_the_time_of_hubert_frames():
    wave = np.zeros(16000 * 2, np.float32)
    wave[320 * 50 : 320 * 50 + 400] = np.random.default_rng(0).standard_normal(400)  # exactly frame 50
    loudness = hubert.mfcc_frames(wave, 0)[:, 0]
    assert hubert.mfcc_frames(wave, 0).shape == (hubert.hubert_frames(wave.size), 39)
    assert loudness.argmax() == 50


def test_separate_sounds_get_separate_units():
    rng = np.random.default_rng(0)
    features = [np.repeat([[0.0, 0.0], [9.0, 9.0]], 20, axis=0).astype(np.float32) for _ in range(3)]
    features = [f + rng.normal(0, 0.1, f.shape).astype(np.float32) for f in features]
    units = hubert.cluster_units(features, 2, seed=0)
    assert [len(set(u[:20])) for u in units] == [1, 1, 1]
    assert all(u[0] != u[-1] and u[0] == units[0][0] for u in units)


def test_too_little_audio_for_the_units():
    with pytest.raises(MIError, match="3 frames of audio are too few for 6 units"):
        hubert.cluster_units([np.zeros((3, 2), np.float32)], 6, 0)


def test_span_mask_has_whole_spans():
    mask = hubert.span_mask(50, 40, 0.5, 10, np.random.default_rng(0))
    runs = [len(r) for row in mask for r in "".join("x" if m else " " for m in row).split()]
    assert min(runs) >= 10
    assert 0.25 < mask.mean() <= 0.5
    assert hubert.span_mask(1, 4, 0.5, 10, np.random.default_rng(0)).all()


def test_crops_stay_inside_and_have_one_length():
    lengths = np.array([10, 300, 40])
    for _ in range(50):
        places = training.crops(lengths, 3, 30, np.random.default_rng())
        assert len({b - a for _, a, b in places}) == 1
        assert all(0 <= a < b <= lengths[i] for i, a, b in places)


def test_command_line(folder, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--audio", str(folder), "--out", str(out), "--model", "apc", "--steps", "1"]
    assert pretrain.main(arguments) == 0
    assert capsys.readouterr().out.split() == [str(out / "apc-000000.ckpt"), str(out / "apc-000001.ckpt")]


def test_mistakes_are_one_line(tmp_path, capsys):
    assert pretrain.main(["--audio", str(tmp_path / "none"), "--out", str(tmp_path)]) == 1
    assert "no such folder" in capsys.readouterr().err
    assert pretrain.main(["--audio", str(tmp_path), "--out", str(tmp_path)]) == 1
    assert "no .flac or .wav file" in capsys.readouterr().err
    (tmp_path / "a.wav").write_bytes(b"RIFFnothing")
    assert pretrain.main(["--audio", str(tmp_path), "--out", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert "a.wav" in message
    assert message.count("\n") == 1
