"""Pitch and energy of sounds in which both are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from s3prl_mi.core.errors import MIError
from s3prl_mi.data import prosody
from s3prl_mi.data.prosody import SILENT_DB, energy_db, pitch_at
from s3prl_mi.data.utterances import Utterance

RATE = 16000
CENTRES = np.arange(0.1, 0.9, 0.02)


def utterance(folder: Path, wave: np.ndarray) -> Utterance:
    path = folder / "a.wav"
    soundfile.write(path, wave, RATE, subtype="FLOAT")
    return Utterance("a", path, "dev", "7", None)


def voice(hertz: float, seconds: float = 1.0) -> np.ndarray:
    """Harmonics that fall by 6 dB an octave."""
    t = np.arange(round(seconds * RATE)) / RATE
    return 0.05 * sum(np.sin(2 * np.pi * hertz * k * t) / k for k in range(1, 20) if hertz * k < RATE / 2)


@pytest.mark.parametrize("rms", [1.0, 0.1, 0.003])
def test_energy_of_scaled_noise(rms):
    noise = np.random.default_rng(0).normal(size=RATE).astype(np.float32) * rms
    found = energy_db(noise, CENTRES)
    assert found.mean() == pytest.approx(20 * np.log10(rms), abs=0.2)
    assert np.abs(found - 20 * np.log10(rms)).max() < 2


def test_energy_is_of_25_ms_around_each_moment_and_never_infinite():
    wave = np.zeros(RATE, np.float32)
    wave[8000:] = 0.1
    found = energy_db(wave, np.array([0.0, 0.48, 0.49, 0.5, 0.51, 0.52, 1.0, 2.0]))
    half = 10 * np.log10(0.01 / 2)
    assert found[[0, 1]].tolist() == [SILENT_DB, SILENT_DB]
    assert found[3] == pytest.approx(half, abs=0.05)
    assert SILENT_DB < found[2] < half < found[4] < found[5] == pytest.approx(-20, abs=1e-3)
    assert found[6] == pytest.approx(-20, abs=1e-3)
    assert found[7] == SILENT_DB


def test_pitch_without_praat_is_refused_with_the_way_to_install_it(monkeypatch):
    monkeypatch.setattr(prosody.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MIError, match=r"pip install 's3prl_mi\[pitch\]'"):
        prosody.check_tracker()


class TestPitch:
    @pytest.fixture(autouse=True)
    def praat(self):
        pytest.importorskip("parselmouth")

    @pytest.mark.parametrize("hertz", [80, 119, 200, 333, 450])
    def test_of_a_voice_of_known_pitch(self, tmp_path, hertz):
        assert pitch_at(utterance(tmp_path, voice(hertz)), CENTRES) == pytest.approx(hertz, rel=0.01)

    def test_noise_and_silence_have_none(self, tmp_path):
        rng = np.random.default_rng(0)
        noise, silence = 0.1 * rng.normal(size=RATE), 1e-4 * rng.normal(size=RATE)
        found = pitch_at(utterance(tmp_path, np.concatenate([voice(150), noise, silence])), np.arange(0.1, 2.9, 0.02))
        assert np.isfinite(found[:40]).all()
        assert np.isnan(found[50:]).mean() > 0.9

    def test_it_follows_time(self, tmp_path):
        found = pitch_at(utterance(tmp_path, np.concatenate([voice(100), voice(250)])), np.array([0.5, 1.5]))
        assert found == pytest.approx([100, 250], rel=0.01)

    def test_a_sound_too_short_for_any_pitch_has_none(self, tmp_path):
        assert np.isnan(pitch_at(utterance(tmp_path, voice(200, 0.03)), np.array([0.01]))).all()
