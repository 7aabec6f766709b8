"""s3prl 0.4.18 on the libraries of today: one small layer, applied before s3prl is imported.

s3prl was last released for torch 2.4. Each entry of `_PATCHES` names a module and restores what s3prl misses there. A
patch runs right after its module is imported (or at once, if it is there already), so `apply` itself imports nothing.

======================  ==========================================================================
torch >= 2.6            loads weights only: s3prl's own checkpoints hold an `argparse.Namespace`
torchaudio >= 2.9       no `set_audio_backend`, `sox_effects`, `info`; `load`/`save` need TorchCodec
                        (compat_audio.py)
huggingface_hub >= 1.0  no `HfFolder`, `Repository`
s3prl, most upstreams   `torch.load` without `map_location`: a file saved on a GPU fails on a CPU machine; loads and
                        `eval` that run code of a checkpoint (compat_checkpoints.py)
s3prl's task ctc        forgets the config's `num_workers` after the first epoch, and takes 12
s3prl's task asr        decodes with a language model by its config's `-math.inf`, but does not import math
======================  ==========================================================================

Python 3.12 has no distutils; setuptools, a dependency of ours, brings it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import logging
import math
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from ..core.errors import MIError
from . import compat_checkpoints

SUPPORTED: dict[str, tuple[str, str]] = {
    "torch": ("2.8", "2.15"),
    "torchaudio": ("2.8", "2.12"),
    "transformers": ("4.50", "6"),
    "huggingface_hub": ("0.30", "3"),
    "numpy": ("1.26", "3"),
}
"""From the first version (included) to the last (excluded); pyproject.toml says the same."""

S3PRL: dict[str, tuple[str, str]] = {"s3prl": ("0.4.18", "0.5"), "espnet-s3prl": ("2026.5.14", "2028")}
"""Distributions on PyPI that hold the package `s3prl` -> their versions, likewise. Only one can be installed."""

INSTALL_S3PRL = 'pip install "s3prl>=0.4.18,<0.5" (or, of the ESPnet project: pip install espnet-s3prl)'


class BrokenInstallation(MIError, ImportError):
    """A library is installed but cannot be imported; the message says which versions fit.

    Also an ImportError, so that code which treats the library as optional keeps working.
    """


def apply() -> None:
    """Make s3prl 0.4.18 work with the installed libraries; call it before importing s3prl.

    Safe to call any number of times.

    Example:
        >>> apply(); apply()
        >>> sum(isinstance(f, _Patcher) for f in sys.meta_path)
        1
    """
    if any(isinstance(finder, _Patcher) for finder in sys.meta_path):
        return
    _quieten()
    sys.meta_path.insert(0, _Patcher())
    for name, module in list(sys.modules.items()):
        patch = _patch_of(name, getattr(module, "__loader__", None))
        if patch is not None:
            patch(module)


def version_tuple(version: str) -> tuple[int, ...]:
    """The leading numbers of a version.

    Example:
        >>> version_tuple("2.11.0+cu130"), version_tuple("5.0.0rc1")
        ((2, 11, 0), (5, 0, 0))
    """
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in found.group().split(".")) if found else ()


def s3prl_folder() -> Path:
    """Where s3prl is installed, without importing it.

    Raises:
        MIError: it is not installed.
    """
    spec = importlib.util.find_spec("s3prl")
    if spec is None or not spec.submodule_search_locations:
        raise MIError(f"s3prl is not installed: {INSTALL_S3PRL}")
    return Path(next(iter(spec.submodule_search_locations)))


def s3prl_distribution() -> tuple[str, str]:
    """Name and version of the distribution that s3prl comes from; a checkout on the path counts as s3prl.

    Raises:
        MIError: s3prl is not installed, or two distributions lie in its folder.
    """
    found = {}
    for name in S3PRL:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    if len(found) > 1:
        raise MIError(
            f"{' and '.join(found)} are both installed, in the same folder {s3prl_folder()}, so files of the two are "
            f"mixed. Remove both, then install one: pip uninstall -y {' '.join(found)}; {INSTALL_S3PRL}"
        )
    return next(iter(found.items())) if found else ("s3prl", (s3prl_folder() / "version.txt").read_text().strip())


# --- Patches after import -------------------------------------------------------------------------------


class _Patcher:
    """A meta-path finder that finds nothing itself: it lets a patch follow the import of a named module."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _PATCHES and not name.startswith(_UPSTREAMS):
            return None
        others = (f for f in sys.meta_path if f is not self and hasattr(f, "find_spec"))
        spec = next(filter(None, (f.find_spec(name, path, target) for f in others)), None)
        patch = _patch_of(name, None if spec is None else spec.loader)
        if spec is not None and patch is not None:
            _patch_after(spec.loader, patch)
        return spec


def _patch_of(name: str, loader: Any) -> Callable[[ModuleType], None] | None:
    """What a module needs, if anything."""
    if name.startswith(_UPSTREAMS) and hasattr(loader, "get_source"):
        source = loader.get_source(name) or ""
        return lambda module: compat_checkpoints.guard(module, source)
    return _PATCHES.get(name) if loader is not None else None


def _patch_after(loader: Any, patch: Callable[[ModuleType], None]) -> None:
    """Let a loader, which serves one module, patch it once it is loaded."""
    load = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        del loader.exec_module  # the class's own method shows again
        try:
            load(module)
        except OSError as error:
            if module.__name__ != "torchaudio":
                raise
            raise BrokenInstallation(_torchaudio_advice(error)) from error
        patch(module)

    loader.exec_module = exec_module


def _torchaudio_advice(error: OSError) -> str:
    """PyPI's torchaudio is a CUDA build: with a CPU torch (or another CUDA), its library does not load."""
    torch, torchaudio = importlib.metadata.version("torch"), importlib.metadata.version("torchaudio")
    local = torch.partition("+")[2]
    index = f" --index-url https://download.pytorch.org/whl/{local}" if local else ""
    return (
        f"torchaudio {torchaudio} does not load with torch {torch} ({str(error).splitlines()[0]}). "
        "Install the build made for this torch: pip install --force-reinstall --no-deps "
        f'"torchaudio=={torchaudio_for(torch)}"{index}'
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

    `Args` is a Namespace, which may hold paths and numpy numbers; statistics are numpy arrays. A file may have been
    written with numpy 1 or 2, which name their functions differently.
    """
    import argparse
    import pathlib

    import numpy as np

    core: Any = importlib.import_module("numpy._core" if version_tuple(np.__version__) >= (2,) else "numpy.core")
    dtypes = {type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?", "U")}
    allowed: list[Any] = [argparse.Namespace, pathlib.PosixPath, pathlib.PurePosixPath, np.dtype, np.ndarray]
    for package in ("numpy.core", "numpy._core"):
        for name in ("scalar", "_reconstruct"):
            allowed.append((getattr(core.multiarray, name), f"{package}.multiarray.{name}"))
    torch.serialization.add_safe_globals([*allowed, *dtypes])


def _patch_ctc_data(module: ModuleType) -> None:
    """`load_dataset` takes `num_workers` out of the config that it is given."""
    load = module.__dict__["load_dataset"]
    module.__dict__["load_dataset"] = lambda split, tokenizer, corpus: load(split, tokenizer, dict(corpus))


# --- torchaudio -----------------------------------------------------------------------------------------


def _patch_torchaudio(torchaudio: ModuleType) -> None:
    """Put back what torchaudio 2.9 dropped and s3prl uses."""
    # It has done nothing since torchaudio 2.1, and s3prl calls it at import.
    torchaudio.__dict__["set_audio_backend"] = lambda _backend: None
    if version_tuple(torchaudio.__version__) >= (2, 9):
        from . import compat_audio

        compat_audio.replace_functions(torchaudio)


def _patch_sox_effects(effects: ModuleType) -> None:
    """In torchaudio 2.8, which has the effects but not the library behind them (the system's libsox)."""
    from . import compat_audio

    compat_audio.wrap_sox_effects(effects)


# --- huggingface_hub ------------------------------------------------------------------------------------


def _patch_huggingface_hub(hub: ModuleType) -> None:
    """Stand-ins for what huggingface_hub 1.0 dropped; only s3prl's `--push_to_hf_hub` and `--hub` call them."""
    if version_tuple(hub.__version__) >= (1, 0):
        folder = SimpleNamespace(get_token=hub.get_token, save_token=lambda token: hub.login(token=token))
        hub.__dict__.update(HfFolder=folder, Repository=_no_repository)


def _no_repository(*_args: Any, **_options: Any) -> None:
    raise MIError(
        "--push_to_hf_hub: huggingface_hub has no Repository since 1.0. Upload the experiment folder with `hf upload`, "
        "or install huggingface_hub<1 (with transformers<5)."
    )


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
    (r"`torch\.jit\..* is deprecated", Warning, ""),  # torchaudio 2.11 with torch 2.14
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


_UPSTREAMS = "s3prl.upstream."
_PATCHES: dict[str, Callable[[ModuleType], None]] = {
    "torch": _patch_torch,
    "torchaudio": _patch_torchaudio,
    "torchaudio.sox_effects": _patch_sox_effects,
    "huggingface_hub": _patch_huggingface_hub,
    "s3prl.downstream.ctc.data": _patch_ctc_data,
    "s3prl.downstream.asr.expert": lambda module: module.__dict__.update(math=math),
}
