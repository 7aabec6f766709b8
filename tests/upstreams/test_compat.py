"""compat: each stand-in does what s3prl expects of the thing it stands in for."""

import argparse
import logging
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

from s3prl_mi.core.errors import MIError
from s3prl_mi.upstreams import compat
from tests.helpers.process import run_python


@pytest.fixture(scope="module")
def torch():
    compat.apply()
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def torchaudio(torch):
    return pytest.importorskip("torchaudio")


def test_apply_imports_nothing_heavy_and_is_idempotent():
    done = run_python(
        "import sys; from s3prl_mi.upstreams import compat; compat.apply(); n = len(sys.meta_path); compat.apply();"
        "assert len(sys.meta_path) == n;"
        "print([m for m in ('torch', 'torchaudio', 'numpy') if m in sys.modules])"
    )
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("first", ["compat", "libraries"])
def test_s3prl_needs_are_met_in_either_order(first):
    apply = "from s3prl_mi.upstreams import compat; compat.apply();"
    libraries = "import torchaudio, huggingface_hub;"
    done = run_python(
        (apply + libraries if first == "compat" else libraries + apply)
        + "from huggingface_hub import HfFolder, Repository;"
        "from torchaudio.sox_effects import apply_effects_file, apply_effects_tensor;"
        "torchaudio.set_audio_backend('sox_io'); torchaudio.info; from distutils.util import strtobool;"
        "import s3prl.upstream.wavlm.expert as e; print(type(e.torch).__name__, type(torchaudio).__name__)"
    )
    assert done.stdout.strip() == "_LoadsOnCPU module", done.stderr
    assert "Warning" not in done.stderr


def test_patched_module_keeps_its_own_loader(torchaudio):
    assert type(torchaudio.__spec__.loader).__module__.startswith(("importlib", "_frozen"))
    assert torchaudio.__loader__ is torchaudio.__spec__.loader


def test_checkpoint_with_namespace_and_numpy_loads_weights_only(torch, tmp_path):
    path = tmp_path / "states-1.ckpt"
    config = {"mean": np.arange(3.0), "best": np.float64(0.5), "path": Path("a/b")}
    torch.save({"Args": argparse.Namespace(upstream="apc"), "Config": config}, path)
    states = torch.load(path, map_location="cpu", weights_only=True)
    assert states["Args"].upstream == "apc"
    assert states["Config"]["best"] == 0.5
    np.testing.assert_array_equal(states["Config"]["mean"], [0, 1, 2])


class RunsCode:
    def __reduce__(self):
        return print, ("this pickle ran code",)


def test_code_in_a_checkpoint_is_still_refused(torch, tmp_path, capsys):
    torch.save({"Args": RunsCode()}, tmp_path / "bad.ckpt")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        torch.load(tmp_path / "bad.ckpt", weights_only=True)
    assert capsys.readouterr().out == ""


def test_load_on_cpu_only_where_no_place_is_named(torch):
    seen = []
    fake = types.SimpleNamespace(load=lambda *a, **k: seen.append((a, k)), float32="f32")
    module = types.ModuleType("expert")
    module.torch = fake
    compat._patch_loads_on_cpu(module)
    module.torch.load("x")
    module.torch.load("x", map_location="cuda:0")
    module.torch.load("x", "cuda:1")
    assert seen == [
        (("x",), {"map_location": "cpu"}),
        (("x",), {"map_location": "cuda:0"}),
        (("x", "cuda:1"), {}),
    ]
    assert module.torch.float32 == "f32"


# --- audio ---------------------------------------------------------------------------------------------


@pytest.fixture
def stereo(tmp_path):
    path = tmp_path / "a.wav"
    samples = np.round(np.random.default_rng(0).uniform(-0.5, 0.5, (1600, 2)) * 32768) / 32768
    soundfile.write(path, samples, 16000, subtype="PCM_16")
    return path, samples


def test_load_reads_samples_offsets_and_layouts(torchaudio, stereo):
    path, samples = stereo
    for given in (path, str(path)):
        wave, rate = torchaudio.load(given)
        assert rate == 16000
        np.testing.assert_array_equal(wave.numpy(), samples.T.astype(np.float32))
    part, _ = torchaudio.load(path, frame_offset=100, num_frames=50, channels_first=False)
    np.testing.assert_array_equal(part.numpy(), samples[100:150].astype(np.float32))
    whole_numbers, _ = torchaudio.load(str(path), normalize=False)
    np.testing.assert_array_equal(whole_numbers.numpy(), np.round(samples.T * 32768).astype(np.int16))


@pytest.mark.filterwarnings("ignore:.*torchaudio")  # 2.8 announces the end of its own info and save
def test_info_and_save(torch, torchaudio, tmp_path, stereo):
    found = torchaudio.info(str(stereo[0]))
    assert (found.sample_rate, found.num_frames, found.num_channels, found.bits_per_sample) == (
        16000,
        1600,
        2,
        16,
    )
    wave = torch.linspace(-0.5, 0.5, 800).repeat(2, 1)
    torchaudio.save(str(tmp_path / "b.wav"), wave, 8000)
    again, rate = torchaudio.load(str(tmp_path / "b.wav"))
    assert rate == 8000
    torch.testing.assert_close(again, wave, atol=1e-4, rtol=0)


def test_a_file_that_is_no_audio_raises(torchaudio, tmp_path):
    (tmp_path / "x.wav").write_bytes(b"no audio at all")
    with pytest.raises(Exception, match=r"x\.wav|[Ff]ormat|open"):
        torchaudio.load(str(tmp_path / "x.wav"))


def test_sox_effects_by_their_definitions(torch):
    wave = torch.stack([torch.full((100,), 0.2), torch.full((100,), 0.4)])
    mono, _ = compat.apply_effects_tensor(wave, 16000, [["channels", "1"]])
    torch.testing.assert_close(mono, torch.full((1, 100), 0.3))
    quiet, _ = compat.apply_effects_tensor(mono, 16000, [["gain", "-20"]])
    torch.testing.assert_close(quiet, torch.full((1, 100), 0.03))
    loud, _ = compat.apply_effects_tensor(-quiet, 16000, [["norm"]])
    torch.testing.assert_close(loud, torch.full((1, 100), -1.0))
    ramp, _ = compat.apply_effects_tensor(torch.arange(3.0)[None], 16000, [["reverse"]])
    assert ramp.tolist() == [[2, 1, 0]]


def test_sox_rate_keeps_a_tone_at_its_frequency(torch):
    tone = torch.sin(2 * torch.pi * 440 * torch.arange(48000) / 48000)[None]
    wave, rate = compat.apply_effects_tensor(tone, 48000, [["rate", "16000"]])
    assert rate == 16000
    assert wave.shape == (1, 16000)
    expected = torch.sin(2 * torch.pi * 440 * torch.arange(16000) / 16000)
    assert (wave[0, 1000:-1000] - expected[1000:-1000]).abs().max() < 1e-3


def test_other_sox_effects_say_what_to_install(torch):
    with pytest.raises(MIError, match=r"vad -T 0\.25.*torchaudio==2\.8"):
        compat.apply_effects_tensor(torch.zeros(1, 10), 16000, [["vad", "-T", "0.25"]])


def test_sox_effects_without_libsox_fall_back_and_other_errors_do_not():
    def missing(*args):
        raise OSError("libsox.so: cannot open shared object file")

    def other(*args):
        raise OSError("a.wav: no such file")

    assert compat._unless_libsox_is_missing(missing, lambda *args: args)(1, 2) == (1, 2)
    with pytest.raises(OSError, match=r"a\.wav"):
        compat._unless_libsox_is_missing(other, lambda *args: args)(1, 2)


# --- messages ------------------------------------------------------------------------------------------


def test_torchaudio_that_does_not_load_names_the_fitting_version():
    module = types.ModuleType("torchaudio")

    class Broken:
        def exec_module(self, module):
            raise OSError("libcudart.so.13: cannot open shared object file")

    loader = compat._PatchingLoader(Broken(), lambda module: None)
    with pytest.raises(compat.BrokenInstallation, match=r"libcudart\.so\.13.*torchaudio==2\.") as caught:
        loader.exec_module(module)
    assert isinstance(caught.value, MIError)
    assert isinstance(caught.value, ImportError)


def test_repository_stand_in_says_what_to_do_instead():
    with pytest.raises(MIError, match="hf upload"):
        compat.Repository(local_dir="x")


def test_only_known_warnings_and_one_log_line_are_kept_off_the_screen():
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        compat._quieten()
        warnings.warn("torchaudio._backend.set_audio_backend has been deprecated.", UserWarning, stacklevel=1)
        warnings.warn("loss is NaN", UserWarning, stacklevel=1)
        warnings.warn_explicit("invalid escape", SyntaxWarning, "/x/site-packages/s3prl/a.py", 1)
        warnings.warn_explicit("invalid escape", SyntaxWarning, "/home/me/mine.py", 1)
    assert [str(w.message) for w in caught] == ["loss is NaN", "invalid escape"]
    record = logging.LogRecord("x", logging.WARNING, "", 1, "%s is missing", ("A file",), None)
    assert compat._drop_espnet_line(record)


def test_distutils_stand_in_has_what_s3prl_imports():
    spec = compat._Distutils()
    module = types.ModuleType("distutils.util")
    spec.exec_module(module)
    assert [module.strtobool(t) for t in ("yes", "FALSE")] == [1, 0]
    with pytest.raises(ValueError, match="maybe"):
        module.strtobool("maybe")
