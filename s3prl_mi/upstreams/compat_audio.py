"""What s3prl calls of torchaudio, on soundfile and soxr: torchaudio 2.9 dropped it or needs TorchCodec for it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from ..core.errors import MIError


def replace_functions(torchaudio: ModuleType) -> None:
    """Replace what needs TorchCodec and FFmpeg since 2.9, and put back what is gone."""
    effects = ModuleType("torchaudio.sox_effects", f"Stand-in of {__name__}.")
    effects.__dict__.update(apply_effects_tensor=apply_effects_tensor, apply_effects_file=apply_effects_file)
    sys.modules[effects.__name__] = effects
    load = _soundfile_load(torchaudio.load)
    torchaudio.__dict__.update(load=load, save=_soundfile_save, info=_soundfile_info, sox_effects=effects)


def wrap_sox_effects(effects: ModuleType) -> None:
    """Let the stand-ins answer where torchaudio's own effects lack libsox."""
    for stand_in in (apply_effects_tensor, apply_effects_file):
        original = getattr(effects, stand_in.__name__)
        effects.__dict__[stand_in.__name__] = _unless_libsox_is_missing(original, stand_in)


def _unless_libsox_is_missing(original: Callable[..., Any], stand_in: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def effects(*args: Any, **kwargs: Any) -> Any:
        try:
            return original(*args, **kwargs)
        except OSError as error:
            if "libsox" not in str(error):
                raise
            return stand_in(*args, **kwargs)

    return effects


def _soundfile_load(original: Callable[..., Any]) -> Callable[..., Any]:
    def load(uri: Any, frame_offset: int = 0, num_frames: int = -1, **options: Any) -> tuple[Any, int]:
        """As `torchaudio.load`: float32 (n_channels, n_samples) and the rate in Hz.

        torchaudio's own serves all other options, and formats that soundfile cannot read.
        """
        import soundfile

        if options:
            return original(uri, frame_offset, num_frames, **options)
        try:
            samples, rate = soundfile.read(uri, num_frames, frame_offset, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            try:
                return original(uri, frame_offset, num_frames)
            except ImportError:  # no TorchCodec
                raise error from None
        return torch.from_numpy(samples).t().contiguous(), rate

    return load


def _soundfile_save(uri: Any, src: Any, sample_rate: int) -> None:
    """Write (n_channels, n_samples) to a WAV file of 32-bit floats, as `torchaudio.save` did."""
    import soundfile

    soundfile.write(uri, src.t().detach().cpu().numpy(), sample_rate, subtype="FLOAT", format="WAV")


def _soundfile_info(uri: Any) -> SimpleNamespace:
    """What s3prl reads of `torchaudio.info` until torchaudio 2.8."""
    import soundfile

    found = soundfile.info(uri)
    return SimpleNamespace(sample_rate=found.samplerate, num_frames=found.frames, num_channels=found.channels)


def apply_effects_tensor(tensor: Any, sample_rate: int, effects: Sequence[Sequence[str]]) -> tuple[Any, int]:
    """The effects of SoX that most of s3prl's tasks use: channels 1, rate, gain, norm, reverse.

    Args:
        tensor: waveform (n_channels, n_samples).
        sample_rate: in Hz.
        effects: SoX effects in order, e.g. [["channels", "1"], ["rate", "16000"], ["gain", "-3.0"]].

    Returns:
        The waveform, and its sampling rate in Hz.

    Raises:
        MIError: another effect (silence, vad, ...), which needs torchaudio < 2.9.
    """
    import soxr

    samples = tensor
    for name, *options in effects:
        if name == "channels" and options == ["1"]:
            samples = samples.mean(0, keepdim=True)
        elif name == "rate" and len(options) == 1:
            target = int(options[0])
            if target != sample_rate:
                resampled = soxr.resample(samples.t().numpy(), sample_rate, target, quality="HQ")
                samples, sample_rate = torch.from_numpy(resampled).t().contiguous(), target
        elif name == "gain" and len(options) == 1:
            samples = samples * 10 ** (float(options[0]) / 20)
        elif name == "norm" and len(options) <= 1:
            peak = samples.abs().max() if samples.numel() else samples.new_zeros(())
            level = 10 ** (float(options[0]) / 20) if options else 1.0
            samples = samples * (level / peak) if peak > 0 else samples
        elif name == "reverse":
            samples = samples.flip(1)
        else:
            raise MIError(
                f"SoX effect {' '.join([name, *options])!r}: torchaudio has no sox_effects since 2.9, and "
                "s3prl_mi stands in only for channels 1, rate, gain, norm and reverse. For this task install "
                'libsox and older libraries: pip install "torch==2.8.*" "torchaudio==2.8.*"'
            )
    return samples, sample_rate


def apply_effects_file(path: Any, effects: Sequence[Sequence[str]]) -> tuple[Any, int]:
    """As `apply_effects_tensor`, on an audio file."""
    import torchaudio

    waveform, sample_rate = torchaudio.load(path)
    return apply_effects_tensor(waveform, sample_rate, effects)
