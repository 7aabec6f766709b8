"""-u cotraining: features, statistics, three LSTM layers."""

from __future__ import annotations

import logging

import pytest
import torch

from s3prl_mi.core.errors import MIError
from s3prl_mi.upstreams.checkpoints import describe_checkpoint
from s3prl_mi.upstreams.extra.cotraining import TRAIN_CLEAN_360_MEAN, TRAIN_CLEAN_360_STD, read_statistics
from s3prl_mi.upstreams.forward import hidden_states
from s3prl_mi.upstreams.loading import load_upstream
from tests.helpers.models import DIM, build_apc
from tests.helpers.models_own import build_cotraining


def noise(n_samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(n_samples, generator=torch.Generator().manual_seed(seed))


def write_statistics(path, mean, std, frames=1000):
    sums = [m * frames for m in mean]
    squares = [(s * s + m * m) * frames for m, s in zip(mean, std, strict=True)]
    path.write_text("\n".join([" ".join(map(repr, sums)), " ".join(map(repr, squares)), str(frames)]) + "\n")
    return path


def test_layers_are_the_outputs_of_the_lstms(tmp_path):
    import torchaudio

    path = build_cotraining(tmp_path)
    upstream = load_upstream("cotraining", str(path))
    [states] = hidden_states(upstream, [noise(16000)])
    assert [s.shape for s in states] == [(98, DIM)] * 3
    mel = torchaudio.compliance.kaldi.fbank(noise(16000)[None] * 32768, num_mel_bins=40, dither=0.0)
    frames = (mel - torch.tensor(TRAIN_CLEAN_360_MEAN)) / torch.tensor(TRAIN_CLEAN_360_STD)
    weights = torch.load(path, weights_only=True)
    for number, found in enumerate(states):
        size = frames.shape[-1]
        lstm = torch.nn.LSTM(size, DIM, batch_first=True)
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        lstm.load_state_dict({n: weights[f"0.{number}.{n}"] for n in names})
        with torch.no_grad():
            frames = lstm(frames[None])[0][0]
        torch.testing.assert_close(found, frames)


def test_statistics_suit_speech_on_the_scale_of_16_bits():
    """Speech at a usual level is near mean 0 and deviation 1; on [-1, 1] it would lie 20.8 lower."""
    assert len(TRAIN_CLEAN_360_MEAN) == len(TRAIN_CLEAN_360_STD) == 40
    assert 12 < min(TRAIN_CLEAN_360_MEAN) < max(TRAIN_CLEAN_360_MEAN) < 16.2


def test_states_do_not_depend_on_the_batch_and_are_causal(tmp_path):
    upstream = load_upstream("cotraining", str(build_cotraining(tmp_path)))
    wavs = [noise(16000), noise(5000, 1), noise(9123, 2)]
    for found, wav in zip(hidden_states(upstream, wavs), wavs, strict=True):
        [alone] = hidden_states(upstream, [wav])
        for a, b in zip(found, alone, strict=True):
            assert len(a) == upstream.geometry.n_frames(len(wav)) == (len(wav) - 400) // 160 + 1
            torch.testing.assert_close(a, b)
    changed = torch.cat([wavs[0][:8000], noise(8000, 3)])
    past = (8000 - 400) // 160 + 1
    for a, b in zip(hidden_states(upstream, [wavs[0]])[0], hidden_states(upstream, [changed])[0], strict=True):
        torch.testing.assert_close(a[:past], b[:past])
        assert not torch.allclose(a[past:], b[past:])


def test_family_and_geometry(tmp_path):
    upstream = load_upstream("cotraining", str(build_cotraining(tmp_path)))
    assert (upstream.family.view, upstream.stride, upstream.geometry.first_centre) == ("shift", 160, 199.5)
    assert upstream.step == 19  # the epoch in the file's name


def test_ignored_parts_and_statistics_are_named(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="s3prl_mi"):
        load_upstream("cotraining", str(build_cotraining(tmp_path)))
    assert "ignored: 1.weight (256, 32), 1.bias (256,), 2.codebook (256, 40)" in caplog.text
    assert "train-clean-360" in caplog.text


def test_statistics_file_replaces_the_built_in_ones(tmp_path):
    path = build_cotraining(tmp_path)
    default = load_upstream("cotraining", str(path))
    same = write_statistics(tmp_path / "same.txt", TRAIN_CLEAN_360_MEAN, TRAIN_CLEAN_360_STD)
    mean, std = read_statistics(same)
    torch.testing.assert_close(mean, torch.tensor(TRAIN_CLEAN_360_MEAN))
    torch.testing.assert_close(std, torch.tensor(TRAIN_CLEAN_360_STD))
    other = write_statistics(tmp_path / "other.txt", [10.0] * 40, [2.0] * 40)
    changed = load_upstream("cotraining", str(path), model_config=str(other))
    assert changed.expert.mean.tolist() == [10.0] * 40
    assert changed.fingerprint != default.fingerprint
    assert not torch.allclose(hidden_states(default, [noise(8000)])[0][0], hidden_states(changed, [noise(8000)])[0][0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2\n3 4\n", "has three lines"),
        ("1 2\n3 x\n5\n", "has three lines"),
        ("1 2\n3 4 5\n10\n", "do not belong together"),
        ("10 10\n10 10\n10\n", "variance of band 0 is not above 0"),
    ],
)
def test_broken_statistics_files(text, message, tmp_path):
    (tmp_path / "stats.txt").write_text(text)
    with pytest.raises(MIError, match=message):
        read_statistics(tmp_path / "stats.txt")


def test_statistics_of_another_front_end(tmp_path):
    with pytest.raises(MIError, match=r"takes 80 Mel bands, but the built-in statistics are of 40.*-g STATS_FILE"):
        load_upstream("cotraining", str(build_cotraining(tmp_path, bands=80)))
    with pytest.raises(MIError, match="no such statistics file"):
        load_upstream("cotraining", str(build_cotraining(tmp_path)), model_config="nowhere.txt")


def test_other_files_are_refused(tmp_path):
    with pytest.raises(MIError, match=r"not in Co-training's layout.*an APC file. Try -u apc_local"):
        load_upstream("cotraining", str(build_apc(tmp_path)))
    assert describe_checkpoint(build_cotraining(tmp_path)) == ("a Co-training file", "cotraining")
