"""compat_audio: reading, writing and SoX effects as s3prl expects them of torchaudio."""

import numpy as np
import pytest
import soundfile

from s3prl_mi.core.errors import MIError
from s3prl_mi.upstreams import compat

compat.apply()
torch = pytest.importorskip("torch")
torchaudio = pytest.importorskip("torchaudio")

from s3prl_mi.upstreams import compat_audio  # noqa: E402


@pytest.fixture
def stereo(tmp_path):
    path = tmp_path / "a.wav"
    samples = np.round(np.random.default_rng(0).uniform(-0.5, 0.5, (1600, 2)) * 32768) / 32768
    soundfile.write(path, samples, 16000, subtype="PCM_16")
    return path, samples


def test_load_reads_samples_and_offsets(stereo):
    path, samples = stereo
    for given in (path, str(path)):
        wave, rate = torchaudio.load(given)
        assert rate == 16000
        np.testing.assert_array_equal(wave.numpy(), samples.T.astype(np.float32))
    part, _ = torchaudio.load(path, frame_offset=100, num_frames=50)
    np.testing.assert_array_equal(part.numpy(), samples[100:150].T.astype(np.float32))


@pytest.mark.filterwarnings("ignore:.*torchaudio")  # 2.8 announces the end of its own info and save
def test_info_and_save(tmp_path, stereo):
    found = torchaudio.info(str(stereo[0]))
    assert (found.sample_rate, found.num_frames, found.num_channels) == (16000, 1600, 2)
    wave = torch.linspace(-0.5, 0.5, 800).repeat(2, 1)
    torchaudio.save(str(tmp_path / "b.wav"), wave, 8000)
    again, rate = torchaudio.load(str(tmp_path / "b.wav"))
    assert rate == 8000
    torch.testing.assert_close(again, wave, atol=1e-4, rtol=0)


def test_a_file_that_is_no_audio_raises(tmp_path):
    (tmp_path / "x.wav").write_bytes(b"no audio at all")
    with pytest.raises(Exception, match=r"x\.wav|[Ff]ormat|open"):
        torchaudio.load(str(tmp_path / "x.wav"))


def test_sox_effects_by_their_definitions():
    wave = torch.stack([torch.full((100,), 0.2), torch.full((100,), 0.4)])
    mono, _ = compat_audio.apply_effects_tensor(wave, 16000, [["channels", "1"]])
    torch.testing.assert_close(mono, torch.full((1, 100), 0.3))
    quiet, _ = compat_audio.apply_effects_tensor(mono, 16000, [["gain", "-20"]])
    torch.testing.assert_close(quiet, torch.full((1, 100), 0.03))
    loud, _ = compat_audio.apply_effects_tensor(-quiet, 16000, [["norm"]])
    torch.testing.assert_close(loud, torch.full((1, 100), -1.0))
    ramp, _ = compat_audio.apply_effects_tensor(torch.arange(3.0)[None], 16000, [["reverse"]])
    assert ramp.tolist() == [[2, 1, 0]]


def test_sox_rate_keeps_a_tone_at_its_frequency():
    tone = torch.sin(2 * torch.pi * 440 * torch.arange(48000) / 48000)[None]
    wave, rate = compat_audio.apply_effects_tensor(tone, 48000, [["rate", "16000"]])
    assert rate == 16000
    assert wave.shape == (1, 16000)
    expected = torch.sin(2 * torch.pi * 440 * torch.arange(16000) / 16000)
    assert (wave[0, 1000:-1000] - expected[1000:-1000]).abs().max() < 1e-3


def test_other_sox_effects_say_what_to_install():
    with pytest.raises(MIError, match=r"vad -T 0\.25.*torchaudio==2\.8"):
        compat_audio.apply_effects_tensor(torch.zeros(1, 10), 16000, [["vad", "-T", "0.25"]])


def test_sox_effects_without_libsox_fall_back_and_other_errors_do_not():
    def missing(*args):
        raise OSError("libsox.so: cannot open shared object file")

    def other(*args):
        raise OSError("a.wav: no such file")

    assert compat_audio._unless_libsox_is_missing(missing, lambda *args: args)(1, 2) == (1, 2)
    with pytest.raises(OSError, match=r"a\.wav"):
        compat_audio._unless_libsox_is_missing(other, lambda *args: args)(1, 2)
