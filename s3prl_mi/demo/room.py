"""The microphone and the room of a demo speaker, and noise: clean speech as it would be recorded."""

from __future__ import annotations

import numpy as np

from ..core.types import SAMPLE_RATE, Waveform


def impulse_response(rng: np.random.Generator) -> Waveform:
    """A speaker's microphone and room: a random smooth spectrum (at most about 8 dB) and a short decay.

    Returns:
        Shape (n_taps,), the direct sound at tap 64.
    """
    bands = np.linspace(0, 1, 9)
    gain_db = np.interp(np.linspace(0, 1, 65) ** 0.6, bands, rng.uniform(-8, 8, bands.size))
    colour = np.roll(np.fft.irfft(10 ** (gain_db / 20)), 64) * np.hanning(128)
    decay_s = rng.uniform(0.02, 0.06)
    tail = rng.standard_normal(int(0.25 * SAMPLE_RATE)) * np.exp(
        -np.arange(int(0.25 * SAMPLE_RATE)) / SAMPLE_RATE / decay_s
    )
    tail *= 10 ** (-rng.uniform(4, 10) / 20) / np.sqrt((tail**2).sum())
    tail[0] = 1.0
    return np.convolve(colour, tail).astype(np.float32)


def record(clean: Waveform, response: Waveform, snr_db: float, rng: np.random.Generator) -> Waveform:
    """Clean speech as a microphone in a room hears it, in random gain.

    Args:
        clean: shape (n_samples,).
        response: from `impulse_response`.
        snr_db: speech to noise, in dB.
        rng: of noise and gain.

    Returns:
        Shape (n_samples,), float32 in [-1, 1], not moved in time.
    """
    size = clean.size
    padded = 1 << (size + response.size - 1).bit_length()
    wet = np.fft.irfft(np.fft.rfft(clean, padded) * np.fft.rfft(response, padded), padded)[64 : 64 + size]
    white = np.fft.rfft(rng.standard_normal(size))
    tilt = np.maximum(np.arange(white.size) / white.size, 0.01) ** -0.5  # pink down to 80 Hz
    noise = np.fft.irfft(white * tilt, size)
    noise *= np.sqrt((wet**2).mean() / (noise**2).mean()) * 10 ** (-snr_db / 20)
    mixed = wet + noise
    return (mixed * (10 ** (-rng.uniform(3, 18) / 20) / np.abs(mixed).max())).astype(np.float32)
