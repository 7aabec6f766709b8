"""Load an upstream by name: fast, quietly, and with one clear message when it cannot be."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import re
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ..core.errors import MIError
from . import compat
from .checkpoints import (
    advice,
    existing_file,
    hugging_face_folder,
    model_type,
    one_line,
    read_checkpoint,
    sha256_of,
    training_step,
    trust,
)
from .compat_checkpoints import trusting
from .families import Family, family_of
from .geometry import Geometry, resolve
from .names import FILE_SUFFIXES, find_entry, find_own, stock_names
from .receptive_field import geometry_of, geometry_of_entry
from .user_modules import where

logger = logging.getLogger(__name__)

NETWORK_TIMEOUT = 30.0
"""Seconds without an answer after which a download is given up."""


@dataclass(frozen=True, eq=False)
class Upstream:
    """A loaded upstream, frozen and in eval mode.

    Attributes:
        name: as given to `-u`.
        expert: s3prl's UpstreamExpert.
        family: what is known of its kind.
        geometry: where its frames lie.
        device: where it runs.
        feature_selection: the key of the expert's output that holds the hidden states (`-s`).
        fingerprint: sha256 (hex) over everything that determines the hidden states; keys the store.
        checkpoint_name: file or folder name of the checkpoint, or None.
        checkpoint_sha256: sha256 (hex) of that file, of a folder's files, or None.
        step: training step of the checkpoint, where the file or its name tells it.
        checkpoint_path: the checkpoint's file or folder on this machine, or None.
        trusted: whether loading it was allowed to run code of the checkpoint.
    """

    name: str
    expert: Any = field(repr=False)
    family: Family
    geometry: Geometry
    device: str
    feature_selection: str
    fingerprint: str
    checkpoint_name: str | None = None
    checkpoint_sha256: str | None = None
    step: int | None = None
    checkpoint_path: Path | None = None
    trusted: bool = False

    @property
    def stride(self) -> int:
        """Samples per frame (downsample rate)."""
        return self.geometry.stride

    def geometry_of(self, layer: int) -> Geometry:
        """Where the frames of one layer lie; upstreams of several frame rates have layers at each."""
        return geometry_of_entry(self.expert, self.family, self.geometry, layer)


def load_upstream(
    name: str,
    ckpt: str | None = None,
    model_config: str | None = None,
    refresh: bool = False,
    device: str = "cpu",
    feature_selection: str = "hidden_states",
    trusted: bool = False,
) -> Upstream:
    """Load an upstream as s3prl's runner does: `Upstream(ckpt=..., model_config=..., refresh=...)`.

    Args:
        name: a name of s3prl's, of `extra`, or of the user's (`-u`).
        ckpt: checkpoint for names that take one, such as those ending in `_local` (`-k`): file, folder or URL.
        model_config: config file where the upstream takes one (`-g`).
        refresh: download again even if the file is in the cache.
        device: torch device.
        feature_selection: key of the upstream's output (`-s`).
        trusted: whether the checkpoint may run code while it is read (`--trust_checkpoint`). Otherwise what is not
            weights is refused.

    Returns:
        The upstream in eval mode, without gradients, on `device`.

    Raises:
        MIError: unknown name, missing or foreign checkpoint, failed download, missing package.
    """
    compat.apply()
    from torch import nn

    own = find_own(name)
    try:
        with _quiet():
            entry = find_entry(name)
    except ImportError as error:
        raise _missing_package(name, error) from error
    _check_arguments(name, entry, ckpt, model_config)
    with explained(name, ckpt, model_config) as downloads, _quiet(), trusting(trusted):
        expert = entry(ckpt=ckpt, model_config=model_config, refresh=refresh)
    if not isinstance(expert, nn.Module):
        raise MIError(f"upstream {name!r}: its function returns a {type(expert).__name__}, not a torch.nn.Module.")
    for note in getattr(expert, "notes", ()):
        logger.info("-u %s: %s", name, note)
    expert = expert.to(device).eval().requires_grad_(False)
    # ours tell their family themselves where it depends on the checkpoint (`-u hf`)
    family = getattr(expert, "family", None)
    if not isinstance(family, Family):
        family = own.family if own is not None else family_of(expert, name)
    checkpoint, checkpoint_name = None, ckpt
    if ckpt and Path(ckpt).exists():
        checkpoint, checkpoint_name = Path(ckpt), Path(ckpt).name
    elif downloads:
        # the name in the URL: that of the cached file starts with a hash
        checkpoint, checkpoint_name = downloads[-1][1], downloads[-1][0].rsplit("/", 1)[-1]
    digest = None if checkpoint is None else sha256_of(checkpoint)
    return Upstream(
        name=name,
        expert=expert,
        family=family,
        geometry=geometry_of(expert, family),
        device=str(device),
        feature_selection=feature_selection,
        fingerprint=_fingerprint(expert, name, feature_selection, digest, own.sha256 if own else None),
        checkpoint_name=checkpoint_name,
        checkpoint_sha256=digest,
        checkpoint_path=checkpoint,
        trusted=trusted and checkpoint is not None,
        # The name of a published file tells hours of speech or the like, not a step.
        step=None if checkpoint is None else training_step(checkpoint, by_name=not downloads),
    )


@contextlib.contextmanager
def explained(name: str, ckpt: str | None, model_config: str | None) -> Iterator[list[tuple[str, Path]]]:
    """Name the cause where the upstream that this block builds cannot be built, and give up downloads that hang.

    Yields:
        The (URL, cache file) of each download, as they come.

    Raises:
        MIError: what went wrong, with the fix; an unforeseen error of what is not s3prl's is raised as it is.
    """
    own, downloads = find_own(name), list[tuple[str, Path]]()
    try:
        with _recorded_downloads(downloads):
            yield downloads
    except MIError:
        raise
    except (Exception, SystemExit) as error:  # some of s3prl's files exit where a package is missing
        if own is not None and not own.installed:
            raise MIError(f"upstream {name!r} cannot be made: {where(error, own.source)}.{trust(error)}") from error
        if _blames_config(model_config, error):
            raise MIError(f"upstream {name!r} cannot read its config -g {model_config} ({one_line(error)}).") from error
        raise _explain(name, ckpt, downloads, error) from error


def check_upstream(name: str | None, ckpt: str | None, model_config: str | None) -> None:
    """Refuse, before anything is loaded, an upstream that s3prl's own runner would fail on.

    Raises:
        MIError: no name, an unknown one, or a checkpoint or config that is missing.
    """
    if name is None:
        raise MIError("-u is missing: which upstream? `s3prl-mi upstreams` lists them; a quick one is -u fbank.")
    try:
        entry = find_entry(name)
    except ImportError as error:
        raise _missing_package(name, error) from error
    _check_arguments(name, entry, ckpt, model_config)


def _check_arguments(name: str, entry: Callable[..., Any], ckpt: str | None, model_config: str | None) -> None:
    """Refuse what would fail later with an obscure message, or be ignored silently."""
    stock = name in stock_names() and getattr(entry, "__module__", "").startswith("s3prl.")
    if not stock or name == "customized_upstream":
        return
    if name == "baseline_local":
        if model_config is None or not Path(model_config).is_file():
            raise MIError(f"upstream 'baseline_local' needs a yaml file: -g CONFIG; found {model_config!r}.")
    elif not name.endswith(FILE_SUFFIXES):
        if ckpt is not None:
            raise MIError(
                f"upstream {name!r} has its own weights and would ignore -k {ckpt!r}. To open that file use a "
                f"name ending in _local or _custom.{advice(Path(ckpt))}"
            )
    elif ckpt is None:
        raise MIError(f"upstream {name!r} needs a checkpoint: -k CHECKPOINT.")
    elif name.startswith("hf_"):
        _check_hugging_face_folder(name, ckpt)
    elif not ckpt.startswith(("http://", "https://")):
        existing_file(name, ckpt)


def _check_hugging_face_folder(name: str, ckpt: str) -> None:
    """s3prl builds the class of the upstream's name whatever the folder holds: compare before it does."""
    folder = hugging_face_folder(name, ckpt, ("config.json", "preprocessor_config.json"))
    if folder is None:
        return
    found = model_type(folder)
    wanted = name.split("_")[1]
    if found != wanted:
        raise MIError(
            f"upstream {name!r}: folder {ckpt!r} holds a model of type {found!r}, not {wanted!r}; s3prl would load it "
            f"as {wanted} with wrong states.{advice(folder)}"
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep prints, warnings and log lines of loading off the screen; exceptions pass."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


@contextlib.contextmanager
def _recorded_downloads(downloads: list[tuple[str, Path]]) -> Iterator[None]:
    """Note each (URL, cache file) that s3prl asks for, and show the progress bar of a real download."""
    from s3prl.util import download as module

    original, screen, before = module._download, sys.stderr, socket.getdefaulttimeout()

    def noted(filepath: Path, url: str, refresh: bool, **options: Any) -> None:
        downloads.append((url, Path(filepath)))
        if refresh or not Path(filepath).is_file():
            print(f"downloading {url} ...", file=screen)
        with contextlib.redirect_stderr(screen):
            original(filepath, url, refresh, **options)

    def get(*args: Any, **options: Any) -> Any:
        """What s3prl tries after any error, Ctrl-C included."""
        if isinstance(sys.exc_info()[1], KeyboardInterrupt):
            raise
        return requests.get(*args, timeout=NETWORK_TIMEOUT, **options)

    requests = module.requests
    module._download, module.requests = noted, SimpleNamespace(get=get)
    socket.setdefaulttimeout(NETWORK_TIMEOUT)
    try:
        yield
    finally:
        module._download, module.requests = original, requests
        socket.setdefaulttimeout(before)


def _missing_package(name: str, error: ImportError) -> MIError:
    package = (getattr(error, "name", None) or "").split(".")[0]
    fix = f"Install it: pip install {package}" if package else "`s3prl-mi doctor` shows what is wrong"
    return MIError(f"upstream {name!r} needs a package that is not installed ({error}). {fix}.")


def _blames_config(model_config: str | None, error: BaseException) -> bool:
    """Whether an error comes from reading the file that `-g` names."""
    import yaml

    return model_config is not None and (
        not Path(model_config).is_file() or isinstance(error, yaml.YAMLError) or model_config in str(error)
    )


def _explain(name: str, ckpt: str | None, downloads: list[tuple[str, Path]], error: BaseException) -> BaseException:
    """The message for a failed load; an unforeseen error of what is not s3prl's is returned as it is."""
    cause = one_line(error)
    if downloads and not downloads[-1][1].is_file():
        url, path = downloads[-1]
        return MIError(
            f"upstream {name!r}: downloading {url} failed ({cause}). Without a network, put the file there "
            f"yourself: {path}"
        )
    if isinstance(error, ImportError):
        return _missing_package(name, error)
    if downloads and (ckpt is None or ckpt.startswith("http")):
        url, path = downloads[-1]
        return MIError(
            f"upstream {name!r}: the downloaded file {path} cannot be read ({cause}). Remove it and run "
            f"again; it comes from {url}.{trust(error)}"
        )
    if ckpt is None:
        return MIError(f"upstream {name!r} cannot be loaded ({cause}).") if name in stock_names() else error
    if not Path(ckpt).exists():
        return MIError(f"upstream {name!r}: {ckpt!r} is no local folder and could not be downloaded ({cause}).")
    if Path(ckpt).is_file() and not trust(error):
        try:
            read_checkpoint(Path(ckpt))
        except MIError as unreadable:
            return MIError(f"upstream {name!r}: {unreadable}")
    looks = trust(error) or advice(Path(ckpt), name)
    return MIError(f"upstream {name!r} cannot read the checkpoint {ckpt!r} ({cause}).{looks}")


# --- identity --------------------------------------------------------------------------------------


def _fingerprint(
    expert: Any, name: str, feature_selection: str, checkpoint_sha256: str | None, source_sha256: str | None
) -> str:
    """sha256 (hex) over all that determines an upstream's hidden states.

    Weights and buffers as float32 bytes with names and shapes; settings that no weight shows (number of
    heads, normalisation, front end); the checkpoint's hash, s3prl's version, the upstream's name and `-s`; the
    hash of the module that defines an upstream which is not s3prl's.
    """
    version = compat.s3prl_distribution()[1]
    settings = [name, feature_selection, version, checkpoint_sha256, *_settings(expert)]
    if source_sha256 is not None:
        settings.append(source_sha256)
    digest = hashlib.sha256(json.dumps(settings, default=str).encode())
    tensors = dict(expert.state_dict())
    tensors.update({n: b for n, b in expert.named_buffers() if n not in tensors})
    # noise that s3prl's spectral front ends draw again at every load, to find the size of their output
    tensors = {n: t for n, t in tensors.items() if not n.endswith("_pseudo_wavs")}
    for key, value in sorted(tensors.items()):
        if hasattr(value, "detach"):
            array = value.detach().float().cpu().contiguous().numpy()
            digest.update(f"{key}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def _settings(expert: Any) -> list[str]:
    """Configs that s3prl's experts keep, as text without memory addresses."""
    paths = ("config", "task_cfg", "cfg", "wav_normalize", "model.cfg", "model.config", "preprocessor.kwargs")
    holders = [resolve(expert, path) for path in (*paths, "extracter")]
    plain = [vars(h) if type(h).__name__ == "WavLMConfig" else h for h in (*holders, expert)]
    # A memory address, a library's version or the folder's name does not change any state.
    volatile = r' at 0x[0-9a-f]+|"(transformers_version|_name_or_path)": [^\n]*'
    return [re.sub(volatile, "", repr(p)) for p in plain]
