"""Pitch and energy of an utterance at given moments: targets of `mi_supervised` that need no alignments."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..core.errors import MIError
from ..core.types import SAMPLE_RATE, Seconds, Waveform
from .audio import AudioError, read_waveform
from .utterances import Utterance

WINDOW: Seconds = 0.025
"""Of the samples whose energy is taken."""
SILENT_DB = -100.0
"""The least energy, of digital silence."""

LOWEST_HZ, HIGHEST_HZ = 75.0, 600.0
"""Praat's standard range; a lower floor takes the hum of the mains (60 Hz) for a voice."""
STEP: Seconds = 0.01
"""From value to value of a pitch track."""

Moments = NDArray[np.float64]
"""Seconds, or a number at each of them; shape (n_frames,)."""


def check_tracker() -> None:
    """Refuse to track pitch without Praat.

    Raises:
        MIError: the package is not installed.
    """
    if importlib.util.find_spec("parselmouth") is None:
        raise MIError(
            "config key downstream_expert.labels: pitch is tracked by Praat, which is not installed: "
            "pip install 's3prl_mi[pitch]' (praat-parselmouth; its licence is the GPL)."
        )


def energy_at(utterance: Utterance, centres: Moments) -> Moments:
    """Log RMS energy in dB of 25 ms around each moment, at least `SILENT_DB`.

    Raises:
        MIError: the audio cannot be read.
    """
    return energy_db(waveform(utterance), centres)


def energy_db(wave: Waveform, centres: Moments) -> Moments:
    """As `energy_at`, of samples.

    Example:
        >>> tone = np.sqrt(2) * 0.1 * np.sin(np.arange(16000, dtype=np.float32))
        >>> [round(float(x)) for x in energy_db(np.concatenate([tone, np.zeros(16000)]), np.array([0.5, 1.5]))]
        [-20, -100]
    """
    sums = np.concatenate([[0.0], np.cumsum(np.square(wave, dtype=np.float64))])
    middle, half = np.round(centres * SAMPLE_RATE).astype(np.int64), round(WINDOW * SAMPLE_RATE / 2)
    start, stop = (np.clip(middle + side, 0, len(wave)) for side in (-half, half))
    power = (sums[stop] - sums[start]) / np.maximum(stop - start, 1)
    return np.maximum(10 * np.log10(np.maximum(power, 1e-30)), SILENT_DB)


def pitch_at(utterance: Utterance, centres: Moments) -> Moments:
    """Fundamental frequency in Hz at each moment, NaN where there is no voice.

    Praat's autocorrelation method (Boersma 1993) in its standard settings, from 75 to 600 Hz.

    Raises:
        MIError: the audio cannot be read, or `check_tracker`.
    """
    first, track = _track(utterance.path)
    if not len(track):
        return np.full(len(centres), np.nan)
    nearest = np.clip(np.round((centres - first) / STEP).astype(np.int64), 0, len(track) - 1)
    return track[nearest]


@functools.cache
def _track(path: Path) -> tuple[Seconds, Moments]:
    """Time of the first value, and values every 10 ms; kept, as layers that are measured in groups ask again."""
    check_tracker()
    import parselmouth

    wave = waveform(Utterance(path.stem, path, "", None, None))
    try:
        pitch = parselmouth.Sound(wave.astype(np.float64), SAMPLE_RATE).to_pitch_ac(
            time_step=STEP, pitch_floor=LOWEST_HZ, pitch_ceiling=HIGHEST_HZ
        )
    except parselmouth.PraatError:  # shorter than three periods of the lowest pitch
        return 0.0, np.zeros(0)
    found = np.array(pitch.selected_array["frequency"], np.float64)
    return float(pitch.xs()[0]), np.where(found > 0, found, np.nan)


def waveform(utterance: Utterance) -> Waveform:
    """The audio of an utterance whose hidden states are there.

    Raises:
        MIError: it cannot be read.
    """
    try:
        return read_waveform(utterance)
    except AudioError as error:
        raise MIError(f"{error}. Labels of the audio itself, and fbank, need it.") from None
