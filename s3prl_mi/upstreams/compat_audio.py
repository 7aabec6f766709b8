"""Functions of torchaudio that s3prl calls, on soundfile and soxr: torchaudio 2.9 dropped them or needs TorchCodec."""

from __future__ import annotations

import functools
import importlib.util
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch

from ..core.errors import MIError


class AudioInfo(NamedTuple):
    """What `torchaudio.info` returned until torchaudio 2.8."""

    sample_rate: int
    num_frames: int
    num_channels: int
    bits_per_sample: int
    encoding: str


def replace_functions(torchaudio: ModuleType) -> None:
    """Replace what needs TorchCodec and FFmpeg since 2.9, and put back what is gone.

    torchaudio's own `load` remains for formats that soundfile cannot read.
    """
    effects = ModuleType("torchaudio.sox_effects", f"Stand-in of {__name__}.")
    effects.__dict__.update(apply_effects_tensor=apply_effects_tensor, apply_effects_file=apply_effects_file)
    sys.modules[effects.__name__] = effects
    torchaudio.__dict__.update(
        load=_soundfile_load(torchaudio.load),
        save=_soundfile_save,
        info=_soundfile_info,
        list_audio_backends=lambda: ["soundfile"],
        sox_effects=effects,
    )


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


_INTEGER_DTYPES = {"PCM_U8": "int16", "PCM_16": "int16", "PCM_24": "int32", "PCM_32": "int32"}


def _soundfile_load(original: Callable[..., Any]) -> Callable[..., Any]:
    def load(
        uri: Any,
        frame_offset: int = 0,
        num_frames: int = -1,
        normalize: bool = True,
        channels_first: bool = True,
        *options: Any,
        **named_options: Any,
    ) -> tuple[Any, int]:
        """Read audio as `torchaudio.load` does: a tensor (n_channels, n_samples) and the rate in Hz."""
        import soundfile

        try:
            with soundfile.SoundFile(str(uri) if isinstance(uri, Path) else uri) as file:
                file.seek(frame_offset)
                dtype = "float32" if normalize else _INTEGER_DTYPES.get(file.subtype, "float32")
                samples = file.read(num_frames, dtype=dtype, always_2d=True)
                rate = file.samplerate
        except soundfile.LibsndfileError:
            exists = isinstance(uri, (str, Path)) and Path(uri).is_file()
            if exists and importlib.util.find_spec("torchcodec"):
                return original(uri, frame_offset, num_frames, normalize, channels_first, *options, **named_options)
            raise
        tensor = torch.from_numpy(samples)
        return (tensor.t().contiguous() if channels_first else tensor), rate

    return load


def _soundfile_save(
    uri: Any,
    src: Any,
    sample_rate: int,
    channels_first: bool = True,
    format: str | None = None,
    encoding: str | None = None,
    bits_per_sample: int | None = None,
    **_options: Any,
) -> None:
    """Write audio as `torchaudio.save` does: `src` is (n_channels, n_samples), or its transpose."""
    import soundfile

    samples = (src.t() if channels_first else src).detach().cpu().numpy()
    is_wav = format == "wav" or str(uri).lower().endswith(".wav")
    subtype = None if bits_per_sample is None else f"PCM_{bits_per_sample}"
    if encoding == "PCM_F" or (encoding is None and subtype is None and samples.dtype.kind == "f"):
        subtype = "FLOAT" if is_wav else None  # as torchaudio: 32-bit float in WAV, the only such format
    soundfile.write(str(uri) if isinstance(uri, Path) else uri, samples, sample_rate, subtype=subtype, format=format)


def _soundfile_info(uri: Any, *_options: Any, **_named_options: Any) -> AudioInfo:
    """Describe an audio file as `torchaudio.info` did."""
    import soundfile

    found = soundfile.info(str(uri) if isinstance(uri, Path) else uri)
    floats = {"FLOAT": 32, "DOUBLE": 64}
    bits = floats.get(found.subtype) or int(re.sub(r"\D", "", found.subtype) or 0)
    encoding = "FLAC" if found.format == "FLAC" else "PCM_F" if found.subtype in floats else "PCM_S"
    return AudioInfo(found.samplerate, found.frames, found.channels, bits, encoding)


def apply_effects_tensor(
    tensor: Any, sample_rate: int, effects: Sequence[Sequence[str]], channels_first: bool = True
) -> tuple[Any, int]:
    """The effects of SoX that most of s3prl's tasks use: channels 1, rate, gain, norm, reverse.

    Args:
        tensor: waveform (n_channels, n_samples), or its transpose if not `channels_first`.
        sample_rate: in Hz.
        effects: SoX effects in order, e.g. [["channels", "1"], ["rate", "16000"], ["gain", "-3.0"]].
        channels_first: the layout of `tensor` and of the result.

    Returns:
        The waveform, and its sampling rate in Hz.

    Raises:
        MIError: another effect (silence, vad, ...), which needs torchaudio < 2.9.
    """
    import soxr

    samples = tensor if channels_first else tensor.t()
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
    return (samples if channels_first else samples.t()), sample_rate


def apply_effects_file(
    path: Any, effects: Sequence[Sequence[str]], normalize: bool = True, channels_first: bool = True
) -> tuple[Any, int]:
    """As `apply_effects_tensor`, on an audio file.

    Raises:
        MIError: an effect that is not among those of `apply_effects_tensor`.
    """
    import torchaudio

    waveform, sample_rate = torchaudio.load(path, channels_first=channels_first)
    return apply_effects_tensor(waveform, sample_rate, effects, channels_first)
