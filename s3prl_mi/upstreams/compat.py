"""s3prl 0.4.18 on the libraries of today: one small layer, applied before s3prl is imported.

s3prl was last released for torch 2.4. Each entry of `_PATCHES` names a module, what s3prl misses there, and
since which version. A patch runs right after its module is imported by whoever needs it (or at once, if it is
already there), so that `apply` itself imports nothing and costs well under a millisecond.

======================  ==========================================================================
torch >= 2.6            loads weights only: s3prl's own checkpoints hold an `argparse.Namespace`
torchaudio >= 2.9       no `set_audio_backend`, `sox_effects`, `info`; `load`/`save` need TorchCodec
huggingface_hub >= 1.0  no `HfFolder`, `Repository`
Python >= 3.12          no `distutils`, unless setuptools brings it
s3prl, some upstreams   `torch.load` without `map_location`: a file saved on a GPU fails on a CPU machine
======================  ==========================================================================
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from ..core.errors import MIError

SUPPORTED: dict[str, tuple[str, str]] = {
    "torch": ("2.8", "2.15"),
    "torchaudio": ("2.8", "2.12"),
    "transformers": ("4.50", "6"),
    "huggingface_hub": ("0.30", "3"),
    "numpy": ("1.26", "3"),
    "s3prl": ("0.4.18", "0.4.19"),
}
"""From the first version (included) to the last (excluded); pyproject.toml says the same."""


class BrokenInstallation(MIError, ImportError):
    """A library is installed but cannot be imported; the message says which versions fit.

    Also an ImportError, so that code which treats the library as optional keeps working.
    """


def apply() -> None:
    """Make s3prl 0.4.18 work with the installed libraries; call it before importing s3prl.

    Safe to call any number of times. Imports nothing heavy: patches wait for the import of their module.

    Example:
        >>> apply(); apply()
        >>> sum(isinstance(f, _Patcher) for f in sys.meta_path)
        1
    """
    if any(isinstance(finder, _Patcher) for finder in sys.meta_path):
        return
    _quieten()
    sys.meta_path.insert(0, _Patcher(_PATCHES))
    for name, patch in _PATCHES.items():
        if name in sys.modules:
            patch(sys.modules[name])


def version_tuple(version: str) -> tuple[int, ...]:
    """The leading numbers of a version.

    Example:
        >>> version_tuple("2.11.0+cu130"), version_tuple("5.0.0rc1")
        ((2, 11, 0), (5, 0, 0))
    """
    numbers = []
    for part in version.split("+")[0].split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def s3prl_folder() -> Path:
    """Where s3prl is installed, without importing it.

    Raises:
        MIError: it is not installed.
    """
    spec = importlib.util.find_spec("s3prl")
    if spec is None or not spec.submodule_search_locations:
        raise MIError("s3prl is not installed. Install it: pip install s3prl==0.4.18")
    return Path(next(iter(spec.submodule_search_locations)))


# --- Patches after import -------------------------------------------------------------------------------


class _Patcher:
    """A meta-path finder that finds nothing itself: it lets a patch follow the import of a named module."""

    def __init__(self, patches: Mapping[str, Callable[[ModuleType], None]]) -> None:
        self._patches = patches

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name in ("distutils", "distutils.util"):
            return _distutils_spec(name, self._others(name, path, target))
        if name not in self._patches:
            return None
        spec = self._others(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _PatchingLoader(spec.loader, self._patches[name])
        return spec

    def _others(self, name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    return spec
        return None


class _PatchingLoader(Loader):
    """Loads as the wrapped loader does, then patches; leaves the wrapped loader on the module."""

    def __init__(self, loader: Any, patch: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._patch = patch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)  # get_source, get_resource_reader, ...

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        try:
            self._loader.exec_module(module)
        except OSError as error:
            if module.__name__ != "torchaudio":
                raise
            raise BrokenInstallation(_torchaudio_advice(error)) from error
        self._patch(module)


def _torchaudio_advice(error: OSError) -> str:
    """PyPI's torchaudio is a CUDA build: beside a CPU torch (or another CUDA), its library does not load."""
    from importlib.metadata import version

    torch, torchaudio = version("torch"), version("torchaudio")
    local = torch.partition("+")[2]
    index = f" --index-url https://download.pytorch.org/whl/{local}" if local else ""
    fitting = torchaudio_for(torch)
    return (
        f"torchaudio {torchaudio} does not load beside torch {torch} ({str(error).splitlines()[0]}). "
        "Install the build made for this torch: pip install --force-reinstall --no-deps "
        f'"torchaudio=={fitting}"{index}'
    )


def torchaudio_for(torch_version: str) -> str:
    """The torchaudio release that goes with a torch release (2.11 is the last one of torchaudio).

    Example:
        >>> torchaudio_for("2.8.0+cpu"), torchaudio_for("2.12.1")
        ('2.8.*', '2.11.*')
    """
    major, minor = (*version_tuple(torch_version), 0, 0)[:2]
    return "{}.{}.*".format(*min((major, minor), (2, 11)))


# --- torch ----------------------------------------------------------------------------------------------


def _patch_torch(torch: ModuleType) -> None:
    """Allow what s3prl's own checkpoints hold (torch >= 2.6): classes that carry data and run nothing.

    `Args` of a states-*.ckpt and of s3prl's pre-training is a Namespace, which may hold paths and numpy
    numbers; statistics of features are numpy arrays. Both names of numpy's functions are allowed, as a file
    may have been written with numpy 1 or 2.
    """
    import argparse
    import pathlib

    import numpy as np

    # numpy 1.26 has a stub called _core, without what it will hold in numpy 2
    core: Any = getattr(np, "_core", None)
    if not hasattr(core, "multiarray"):
        core = np.core
    scalar, rebuild = core.multiarray.scalar, core.multiarray._reconstruct
    dtypes = {type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?", "U")}
    allowed: list[Any] = [argparse.Namespace, pathlib.PosixPath, pathlib.PurePosixPath, np.dtype, np.ndarray]
    for package in ("numpy.core", "numpy._core"):
        allowed += [(scalar, f"{package}.multiarray.scalar"), (rebuild, f"{package}.multiarray._reconstruct")]
    torch.serialization.add_safe_globals([*allowed, *dtypes])


class _LoadsOnCPU:
    """The torch module as one s3prl file sees it: `load` puts tensors on the CPU unless told otherwise.

    Those files call `torch.load(ckpt)`, which fails on a machine without a GPU for a checkpoint saved on one;
    s3prl moves the model to its device afterwards. Everybody else's torch.load stays as it is.
    """

    def __init__(self, torch: ModuleType) -> None:
        self._torch = torch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._torch, name)

    def load(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) < 2:
            kwargs.setdefault("map_location", "cpu")
        return self._torch.load(*args, **kwargs)


def _patch_loads_on_cpu(module: ModuleType) -> None:
    module.__dict__["torch"] = _LoadsOnCPU(module.__dict__["torch"])


# --- torchaudio -----------------------------------------------------------------------------------------


@dataclass
class AudioInfo:
    """What `torchaudio.info` returned until torchaudio 2.8."""

    sample_rate: int
    num_frames: int
    num_channels: int
    bits_per_sample: int
    encoding: str


def _patch_torchaudio(torchaudio: ModuleType) -> None:
    """Put back what torchaudio 2.9 dropped and s3prl uses; read and write audio with soundfile there."""

    def set_audio_backend(backend: str | None) -> None:
        """Has done nothing since torchaudio 2.1, and is called by s3prl at import."""

    torchaudio.__dict__["set_audio_backend"] = set_audio_backend
    if version_tuple(torchaudio.__version__) < (2, 9):
        return
    # torchaudio's own functions need TorchCodec and FFmpeg now; they remain the way out for other formats.
    torchaudio.__dict__["load"] = _soundfile_load(torchaudio.load)
    torchaudio.__dict__["save"] = _soundfile_save
    torchaudio.__dict__["info"] = _soundfile_info
    torchaudio.__dict__["list_audio_backends"] = lambda: ["soundfile"]
    effects = ModuleType(
        "torchaudio.sox_effects", "Stand-in of s3prl_mi.upstreams.compat; see apply_effects_tensor."
    )
    effects.__dict__.update(
        apply_effects_tensor=apply_effects_tensor,
        apply_effects_file=apply_effects_file,
        init_sox_effects=lambda: None,
        shutdown_sox_effects=lambda: None,
    )
    sys.modules[effects.__name__] = effects
    torchaudio.__dict__["sox_effects"] = effects


def _patch_sox_effects(effects: ModuleType) -> None:
    """In torchaudio 2.8, which has the effects not the library behind them (the system's libsox)."""
    for name, stand_in in (
        ("apply_effects_tensor", apply_effects_tensor),
        ("apply_effects_file", apply_effects_file),
    ):
        effects.__dict__[name] = _unless_libsox_is_missing(getattr(effects, name), stand_in)


def _unless_libsox_is_missing(
    original: Callable[..., Any], stand_in: Callable[..., Any]
) -> Callable[..., Any]:
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
        format: str | None = None,
        buffer_size: int = 4096,
        backend: str | None = None,
    ) -> tuple[Any, int]:
        """Read audio as `torchaudio.load` does: a tensor (n_channels, n_samples) and the rate in Hz."""
        import soundfile
        import torch

        try:
            with soundfile.SoundFile(str(uri) if isinstance(uri, Path) else uri) as file:
                file.seek(frame_offset)
                dtype = "float32" if normalize else _INTEGER_DTYPES.get(file.subtype, "float32")
                samples = file.read(num_frames, dtype=dtype, always_2d=True)
                rate = file.samplerate
        except soundfile.LibsndfileError:
            if (
                isinstance(uri, (str, Path))
                and Path(uri).is_file()
                and importlib.util.find_spec("torchcodec")
            ):
                return original(uri, frame_offset, num_frames, normalize, channels_first, format)
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
    buffer_size: int = 4096,
    backend: str | None = None,
    compression: float | int | None = None,
) -> None:
    """Write audio as `torchaudio.save` does: `src` is (n_channels, n_samples), or its transpose."""
    import soundfile

    samples = (src.t() if channels_first else src).detach().cpu().numpy()
    subtype = None
    if encoding == "PCM_F" or (encoding is None and bits_per_sample is None and samples.dtype.kind == "f"):
        # torchaudio keeps float tensors as 32-bit float in WAV, the only such format that s3prl writes.
        is_wav = format == "wav" or str(uri).lower().endswith(".wav")
        subtype = "FLOAT" if is_wav else None
    elif bits_per_sample is not None:
        subtype = f"PCM_{bits_per_sample}"
    target = str(uri) if isinstance(uri, Path) else uri
    soundfile.write(target, samples, sample_rate, subtype=subtype, format=format)


def _soundfile_info(
    uri: Any, format: str | None = None, buffer_size: int = 4096, backend: str | None = None
) -> Any:
    """Describe an audio file as `torchaudio.info` did."""
    import soundfile

    found = soundfile.info(str(uri) if isinstance(uri, Path) else uri)
    bits = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32, "FLOAT": 32, "DOUBLE": 64}
    encoding = (
        "FLAC" if found.format == "FLAC" else ("PCM_F" if found.subtype in ("FLOAT", "DOUBLE") else "PCM_S")
    )
    return AudioInfo(found.samplerate, found.frames, found.channels, bits.get(found.subtype, 0), encoding)


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
    import torch

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
    path: Any,
    effects: Sequence[Sequence[str]],
    normalize: bool = True,
    channels_first: bool = True,
    format: str | None = None,
) -> tuple[Any, int]:
    """As `apply_effects_tensor`, on an audio file.

    Raises:
        MIError: an effect that is not among those of `apply_effects_tensor`.
    """
    import torchaudio

    waveform, sample_rate = torchaudio.load(path)
    return apply_effects_tensor(
        waveform if channels_first else waveform.t(), sample_rate, effects, channels_first
    )


# --- huggingface_hub ------------------------------------------------------------------------------------


class HfFolder:
    """Stand-in for what huggingface_hub 1.0 dropped; only s3prl's `--push_to_hf_hub` and `--hub` call it."""

    @staticmethod
    def get_token() -> str | None:
        """The token of `hf auth login`, or None."""
        import huggingface_hub

        return huggingface_hub.get_token()

    @staticmethod
    def save_token(token: str) -> None:
        """Remember a token, as `hf auth login` does."""
        import huggingface_hub

        huggingface_hub.login(token=token)


class Repository:
    """Stand-in for what huggingface_hub 1.0 dropped; s3prl calls it for `--push_to_hf_hub`.

    Raises:
        MIError: always; there is nothing to stand in with.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise MIError(
            "--push_to_hf_hub: huggingface_hub has no Repository since 1.0. Upload the experiment folder "
            "with `hf upload`, or install huggingface_hub<1 (with transformers<5)."
        )


def _patch_huggingface_hub(hub: ModuleType) -> None:
    if version_tuple(hub.__version__) >= (1, 0):
        hub.__dict__.update(HfFolder=HfFolder, Repository=Repository)


# --- distutils ------------------------------------------------------------------------------------------


def _distutils_spec(name: str, found: ModuleSpec | None) -> ModuleSpec | None:
    """Python 3.12 has no distutils; setuptools brings it, where it is installed. s3prl needs one function."""
    if found is not None or sys.version_info < (3, 12):
        return found
    return ModuleSpec(name, _Distutils(), is_package=name == "distutils")


class _Distutils(Loader):
    """Loads `distutils` (empty) and `distutils.util` (strtobool), which mockingjay and distiller import."""

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ == "distutils.util":
            module.__dict__["strtobool"] = strtobool


def strtobool(text: str) -> int:
    """1 for a word that means yes, 0 for one that means no.

    Raises:
        ValueError: neither.

    Example:
        >>> strtobool("True"), strtobool("off")
        (1, 0)
    """
    word = text.lower()
    if word in ("y", "yes", "t", "true", "on", "1"):
        return 1
    if word in ("n", "no", "f", "false", "off", "0"):
        return 0
    raise ValueError(f"neither yes nor no: {text!r}")


# --- Warnings -------------------------------------------------------------------------------------------

_WARNINGS: tuple[tuple[str, type[Warning], str], ...] = (
    # message, category, module (regular expressions, matched from the start)
    (r".*set_audio_backend has been deprecated", UserWarning, ""),
    (r".*torchaudio.*(deprecat|TorchCodec|maintenance phase)", UserWarning, ""),
    (r".*(load|save|info)_with_torchcodec", UserWarning, ""),
    (r".*weight_norm.* is deprecated", Warning, ""),
    (r"Support for mismatched (src_)?key_padding_mask and (attn_)?mask is deprecated", UserWarning, ""),
    (r"pkg_resources is deprecated", Warning, ""),
    (r".*`torch\.cuda\.amp\.", FutureWarning, ""),
    (r"`torch\.jit\..* is deprecated", Warning, ""),  # torchaudio 2.11 beside torch 2.14
    # "\s" in plain strings of s3prl; since 3.12 every first import says so. The module is the file's name.
    ("", SyntaxWarning, r".*[/\\.]s3prl[/\\.]"),
    ("", DeprecationWarning, r"(.*[/\\])?s3prl[/\\.]"),
)


def _quieten() -> None:
    """Keep warnings that a user can do nothing about off the screen: all of them known, none an error."""
    for message, category, module in _WARNINGS:
        warnings.filterwarnings("ignore", message=message, category=category, module=module)
    # Said at every start, about one upstream that hardly anyone asks for; asking for it says it again.
    logging.getLogger("s3prl.upstream.espnet_hubert.expert").addFilter(_drop_espnet_line)


def _drop_espnet_line(record: logging.LogRecord) -> bool:
    return "ESPnet is not installed" not in record.getMessage()


_PATCHES: dict[str, Callable[[ModuleType], None]] = {
    "torch": _patch_torch,
    "torchaudio": _patch_torchaudio,
    "torchaudio.sox_effects": _patch_sox_effects,
    "huggingface_hub": _patch_huggingface_hub,
    **{
        f"s3prl.upstream.{name}": _patch_loads_on_cpu
        for name in (
            "wavlm.expert",
            "unispeech_sat.expert",
            "decoar.expert",
            "decoar2.expert",
            "decoar_layers.expert",
            "lighthubert.expert",
            "wav2vec.expert",
            "byol_s.serab_byols.serab",
        )
    },
}
