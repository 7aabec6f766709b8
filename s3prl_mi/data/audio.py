"""The audio of utterances as 16 kHz mono waveforms.

Audio is read with soundfile and resampled with soxr: `torchaudio.load` needs another package from torchaudio
2.9 on. A mistake in a config or manifest is an `MIError`; one bad audio file is an `AudioError`, which the
loop over a split counts with a `SkipCounter` and skips, up to `datarc.max_unreadable`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from ..core.errors import MIError
from ..core.types import SAMPLE_RATE, Waveform
from .utterances import Utterance

MIN_SAMPLES = 400
"""Shortest usable audio, in samples at 16 kHz (25 ms): the receptive field of one frame."""

_UNKNOWN_LENGTH = 1 << 48
"""libsndfile reports its largest count for a FLAC stream whose header does not say how long it is."""
_BLOCK = 1 << 20
_COMPARED = 4096
"""Samples of two files that are compared at a time."""


class AudioError(Exception):
    """One audio file that cannot be used; the message names the file and the cause."""


class AudioInfo(NamedTuple):
    """What a file's header says."""

    n_samples: int
    """Length after resampling, in samples at 16 kHz."""
    native_rate: int
    """Hz."""
    channels: int


@dataclass(slots=True)
class SkipCounter:
    """Counts the files that are skipped, and gives up above a stated fraction.

    A corrupt body shows only when it is decoded, so the loop that reads waveforms catches `AudioError` and
    calls `skip`. Start from the files that `read_split` left out, so that one fraction covers both.
    """

    total: int
    """Files of the split before any was skipped."""
    max_fraction: float
    split: str
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """(utterance id, cause)."""

    def skip(self, utterance_id: str, why: str) -> None:
        """Count one file, then `check`."""
        self.skipped.append((utterance_id, why))
        self.check()

    def check(self) -> None:
        """Refuse to continue once too much has been skipped.

        Raises:
            MIError: more than `max_fraction` of the split has been skipped, or nothing is left of it.
        """
        n = len(self.skipped)
        if n and n >= self.total:
            raise MIError(
                f"split {self.split!r}: none of its {self.total} audio files can be read: "
                f"{first_causes(self.skipped)}. Is the download complete?"
            )
        if n > self.max_fraction * self.total:
            raise MIError(
                f"split {self.split!r}: {n} of {self.total} audio files cannot be read, more than the fraction "
                f"of {self.max_fraction:g} that downstream_expert.datarc.max_unreadable allows: "
                f"{first_causes(self.skipped)}. Repair or remove these files, or raise max_unreadable."
            )


def first_causes(skipped: Sequence[tuple[str, str]]) -> str:
    """The causes of the first few files, as one phrase."""
    more = f"; and {len(skipped) - 3} more" if len(skipped) > 3 else ""
    return "; ".join(why for _, why in skipped[:3]) + more


# Reading ----------------------------------------------------------------------------------------------------


def read_header(utterance: Utterance) -> AudioInfo:
    """Read an audio file's header.

    Returns:
        Length in samples at 16 kHz (exactly that of `read_waveform`), native sample rate in Hz, channels.

    Raises:
        AudioError: missing, not audio, empty or shorter than 25 ms.
    """
    try:
        lacking = _missing_bytes(utterance.path)
        if lacking:
            raise AudioError(f"{utterance.path}: cut short, it lacks {lacking} bytes of what its header promises")
        info = soundfile.info(str(utterance.path))
        frames = int(info.frames)
        if frames > _UNKNOWN_LENGTH:
            frames = len(_decode(utterance.path)[0])
    except (OSError, RuntimeError, ValueError) as error:
        raise AudioError(_cause(utterance.path, error)) from error
    n_samples = _resampled_length(frames, int(info.samplerate))
    _check_length(utterance.path, n_samples)
    return AudioInfo(n_samples, int(info.samplerate), int(info.channels))


def read_waveform(utterance: Utterance) -> Waveform:
    """Read an audio file as 16 kHz mono.

    Channels are averaged; another sample rate is converted by soxr (quality HQ).

    Returns:
        Shape (n_samples,), float32; integer formats lie in [-1, 1].

    Raises:
        AudioError: missing, corrupt, cut short, empty or shorter than 25 ms, holding NaN or infinite samples, or
            one single value (digital silence, which features normalised per utterance blow up).
    """
    path = utterance.path
    try:
        samples, rate, expected = _decode(path)
    except (OSError, RuntimeError, ValueError, MemoryError) as error:
        raise AudioError(_cause(path, error)) from error
    if len(samples) < expected:
        raise AudioError(f"{path}: cut short, its header promises {expected} samples but {len(samples)} are there")
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)
    bad = int(np.count_nonzero(~np.isfinite(mono)))
    if bad:
        raise AudioError(f"{path}: {bad} of {len(mono)} samples are NaN or infinite")
    if len(mono) and mono.min() == mono.max():
        raise AudioError(f"{path}: all {len(mono)} samples are {mono[0]:g} (digital silence)")
    if rate != SAMPLE_RATE and len(mono):
        mono = soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")
    _check_length(path, len(mono))
    return np.ascontiguousarray(mono, dtype=np.float32)


def _decode(path: Path) -> tuple[np.ndarray, int, int]:
    """All samples (n_samples, channels) as float32, their rate in Hz, and the length that the header states.

    That length is 0 where the header of a FLAC stream leaves it open; such a stream is read block by block.
    """
    with soundfile.SoundFile(str(path)) as file:
        rate = int(file.samplerate)
        if file.frames <= _UNKNOWN_LENGTH:
            return file.read(dtype="float32", always_2d=True), rate, int(file.frames)
    with _Stream(str(path)) as file:
        blocks = [np.zeros((0, file.channels), np.float32)]
        while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
            blocks.append(block)
        return np.concatenate(blocks), rate, 0


class _Stream(soundfile.SoundFile):
    """A file read from its start to its end: libsndfile cannot seek in a FLAC stream of unstated length."""

    def seekable(self) -> bool:
        return False


def _missing_bytes(path: Path) -> int:
    """Bytes that a WAV file's header promises and that are not there; libsndfile makes a shorter file of it.

    A length of 0 or of all ones is that of a stream whose end was not known, and promises nothing.
    """
    with open(path, "rb") as file:
        head, size = file.read(12), os.fstat(file.fileno()).st_size
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return 0
        while len(chunk := file.read(8)) == 8:
            length = int.from_bytes(chunk[4:], "little")
            if chunk[:4] == b"data":
                return 0 if length >= 0xFFFFFFF0 else max(0, file.tell() + length - size)
            file.seek(length + length % 2, os.SEEK_CUR)
    return 0


def _resampled_length(n_samples: int, rate: int) -> int:
    """Length at 16 kHz as soxr makes it: rounded half up."""
    return n_samples if rate == SAMPLE_RATE else (2 * n_samples * SAMPLE_RATE + rate) // (2 * rate)


def _check_length(path: Path, n_samples: int) -> None:
    if n_samples < MIN_SAMPLES:
        found = "empty" if n_samples == 0 else f"only {n_samples / SAMPLE_RATE * 1000:.1f} ms long"
        raise AudioError(f"{path}: {found}, at least {MIN_SAMPLES / SAMPLE_RATE * 1000:.0f} ms are needed")


def _cause(path: Path, error: BaseException) -> str:
    if not path.exists():
        return f"{path}: no such file"
    if path.is_file() and path.stat().st_size == 0:
        return f"{path}: empty (0 bytes)"
    text = str(error).replace("\n", " ").strip().rstrip(".")
    return f"{path}: not readable as audio ({text or type(error).__name__})"


def waveform_hash(samples: Waveform) -> str:
    """BLAKE2b of samples as float32, 32 hex digits: what the store knows an utterance by, wherever it was read.

    Args:
        samples: shape (n_samples,), 16 kHz.
    """
    return hashlib.blake2b(np.ascontiguousarray(samples, np.float32).data, digest_size=16).hexdigest()


def content_hash(path: str | Path) -> str:
    """BLAKE2b of a file's bytes, 32 hex digits: what the store knows an audio file by.

    Raises:
        AudioError: the file cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    try:
        with open(path, "rb") as file:
            while chunk := file.read(_BLOCK):
                digest.update(chunk)
    except OSError as error:
        raise AudioError(_cause(Path(path), error)) from error
    return digest.hexdigest()


def same_samples(one: Path, other: Path) -> bool:
    """Whether two files hold the same samples, whatever their formats; read up to the first difference.

    Raises:
        AudioError: a file cannot be read.
    """
    try:
        with _Stream(str(one)) as a, _Stream(str(other)) as b:
            while True:
                left, right = (f.read(_COMPARED, dtype="float32", always_2d=True) for f in (a, b))
                if not np.array_equal(left, right):
                    return False
                if not len(left):
                    return True
    except (OSError, RuntimeError, ValueError) as error:
        raise AudioError(_cause(one, error)) from error
