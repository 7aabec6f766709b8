"""Load an s3prl upstream by name: fast, quietly, and with one clear message when it cannot be.

`s3prl.hub` imports all 35 upstream folders (10 s). Here the folder that defines a name is found by reading
the source of `s3prl/hub.py` and of the hubconfs, and only that hubconf is imported.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib
import importlib.metadata
import io
import json
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import compat
from .errors import MIError, nearest
from .families import (
    Family,
    Geometry,
    family_named,
    family_of,
    geometry_of,
    geometry_of_entry,
    load_plugins,
    upstream_folder,
)

FILE_SUFFIXES = ("_local", "_custom", "_url", "_gdriveid")
"""Endings of the names that take a checkpoint from the user."""

_INSTEAD = {
    "vq_apc_local": "apc_local",
    "vq_wav2vec_local": "vq_wav2vec_custom",
    "fbank_local": "baseline_local",
}
# s3prl repeats the frames of its lower rates; undoing that needs frames of several rates side by side.
_REFUSED = {"multires_hubert": "s3prl repeats the frames of its lower frame rates, which are not new samples"}


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

    @property
    def stride(self) -> int:
        """Samples per frame (downsample rate)."""
        return self.geometry.stride

    def geometry_of(self, layer: int) -> Geometry:
        """Where the frames of one layer lie; upstreams of several frame rates have layers at each."""
        return geometry_of_entry(self.expert, self.family, self.geometry, layer)


# --- names -----------------------------------------------------------------------------------------


@functools.cache
def _stock_names() -> dict[str, tuple[str, str]]:
    """Each name of s3prl.hub -> (module, attribute), read from the sources; later imports win."""
    names: dict[str, tuple[str, str]] = {}
    package = compat.s3prl_folder()
    for node in ast.parse((package / "hub.py").read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        if node.names[0].name == "*":
            names.update(_defined_names(package, node.module))
        else:
            names.update({a.asname or a.name: (node.module, a.name) for a in node.names})
    return names


def _defined_names(package: Path, module: str) -> dict[str, tuple[str, str]]:
    """Public functions that a hubconf defines, or imports from another hubconf."""
    names = {}
    source = package.joinpath(*module.split(".")[1:]).with_suffix(".py")
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            names[node.name] = (module, node.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").endswith("hubconf"):
            names.update({a.asname or a.name: (module, a.asname or a.name) for a in node.names})
    return {name: place for name, place in names.items() if not name.startswith("_")}


def upstream_names() -> list[str]:
    """Every name that `-u` takes, sorted: s3prl's own, and those set on `s3prl.hub` by the user."""
    load_plugins()
    names = set(_stock_names())
    hub = sys.modules.get("s3prl.hub")
    if hub is not None:
        # Beside upstreams the namespace holds what hubconfs import (Path, FileLock, ...): functions only.
        names |= {
            n for n, v in vars(hub).items() if callable(v) and not isinstance(v, type) and _is_entry(n, v)
        }
    return sorted(names)


def family_of_name(name: str) -> Family:
    """The family of the upstream `-u name`, without loading it."""
    module = _stock_names().get(name, ("", ""))[0]
    return family_named(name, upstream_folder(module))


def _is_entry(name: str, value: Any) -> bool:
    """Whether an attribute of s3prl.hub is an upstream and not a helper that a hubconf imported."""
    module = getattr(value, "__module__", "") or ""
    helper = module.startswith("s3prl.") and not module.endswith("hubconf")
    return not name.startswith("_") and name != "options" and not helper


def _find(name: str) -> Callable[..., Any]:
    """The function behind a name.

    Raises:
        MIError: no such upstream, or its folder cannot be imported.
    """
    load_plugins()
    hub = sys.modules.get("s3prl.hub")
    if hub is not None and callable(getattr(hub, name, None)) and not name.startswith("_"):
        return getattr(hub, name)
    place = _stock_names().get(name)
    if place is None:
        instead = f" Use {_INSTEAD[name]!r}." if name in _INSTEAD else nearest(name, upstream_names())
        raise MIError(f"unknown upstream -u {name!r}.{instead} `s3prl-mi upstreams` lists all names.")
    try:
        with _quiet():
            return getattr(importlib.import_module(place[0]), place[1])
    except ImportError as error:
        raise _missing_package(name, error) from error


def _missing_package(name: str, error: ImportError) -> MIError:
    package = (getattr(error, "name", None) or "").split(".")[0]
    way_out = f"Install it: pip install {package}" if package else "`s3prl-mi doctor` shows what is wrong"
    return MIError(f"upstream {name!r} needs a package that is not there ({error}). {way_out}.")


# --- loading ---------------------------------------------------------------------------------------


def load_upstream(
    name: str,
    ckpt: str | None = None,
    model_config: str | None = None,
    refresh: bool = False,
    device: str = "cpu",
    feature_selection: str = "hidden_states",
) -> Upstream:
    """Load an upstream as s3prl's runner does: `Upstream(ckpt=..., model_config=..., refresh=...)`.

    Args:
        name: s3prl's name (`-u`).
        ckpt: checkpoint for names ending in `_local`, `_custom`, `_url` (`-k`): file, folder or URL.
        model_config: config file where the upstream takes one (`-g`).
        refresh: download again even if the file is in the cache.
        device: torch device.
        feature_selection: key of the upstream's output (`-s`).

    Returns:
        The upstream in eval mode, without gradients, on `device`.

    Raises:
        MIError: unknown name, missing or foreign checkpoint, failed download, missing package.
    """
    compat.apply()
    entry = _find(name)
    _check_arguments(name, entry, ckpt, model_config)
    downloads: list[tuple[str, Path]] = []
    try:
        with _recorded_downloads(downloads), _quiet():
            expert = entry(ckpt=ckpt, model_config=model_config, refresh=refresh)
    except MIError:
        raise
    except Exception as error:
        raise _explain(name, ckpt, downloads, error) from error
    expert = expert.to(device).eval().requires_grad_(False)
    family = family_of(expert, name)
    checkpoint = Path(ckpt) if ckpt and Path(ckpt).exists() else (downloads[-1][1] if downloads else None)
    digest = None if checkpoint is None else sha256_of(checkpoint)
    return Upstream(
        name=name,
        expert=expert,
        family=family,
        geometry=geometry_of(expert, family),
        device=str(device),
        feature_selection=feature_selection,
        fingerprint=_fingerprint(expert, name, feature_selection, digest),
        checkpoint_name=_checkpoint_name(ckpt, checkpoint, downloads),
        checkpoint_sha256=digest,
    )


def _checkpoint_name(
    ckpt: str | None, checkpoint: Path | None, downloads: list[tuple[str, Path]]
) -> str | None:
    if downloads and not (ckpt and Path(ckpt).exists()):
        return downloads[-1][0].rsplit("/", 1)[
            -1
        ]  # the name in the URL; the cached file's starts with a hash
    return checkpoint.name if checkpoint is not None else ckpt


def _check_arguments(
    name: str, entry: Callable[..., Any], ckpt: str | None, model_config: str | None
) -> None:
    """Refuse what would fail later with an obscure message, or be ignored silently."""
    folder = getattr(entry, "__module__", "").split(".")[-2:-1]
    if folder and folder[0] in _REFUSED:
        raise MIError(f"upstream {name!r} is not supported: {_REFUSED[folder[0]]}.")
    stock = name in _stock_names() and getattr(entry, "__module__", "").startswith("s3prl.")
    takes_file = name.endswith(FILE_SUFFIXES)
    if not stock or name == "customized_upstream":
        return
    if name == "baseline_local":
        if model_config is None or not Path(model_config).is_file():
            raise MIError(f"upstream 'baseline_local' needs a yaml file: -g CONFIG; found {model_config!r}.")
        return
    if takes_file and ckpt is None:
        raise MIError(f"upstream {name!r} needs a checkpoint: -k CHECKPOINT.")
    if not takes_file and ckpt is not None:
        raise MIError(
            f"upstream {name!r} has its own weights and would ignore -k {ckpt!r}. To open that file use a "
            f"name ending in _local or _custom.{_file_advice(ckpt)}"
        )
    if ckpt is not None and takes_file:
        _check_file(name, ckpt)


def _check_file(name: str, ckpt: str) -> None:
    """A checkpoint must exist, and be a folder for Hugging Face models and a file for all others."""
    path = Path(ckpt)
    hugging_face = name.startswith("hf_")
    if ckpt.startswith(("http://", "https://")):
        return
    if not path.exists():
        looks_like_path = path.is_absolute() or ckpt.startswith(".") or ckpt.count("/") != 1
        if hugging_face and not looks_like_path:
            return  # owner/name on the Hugging Face hub
        raise MIError(f"upstream {name!r}: checkpoint -k {ckpt!r} does not exist.")
    if hugging_face:
        _check_hugging_face_folder(name, path)
    elif path.is_dir():
        raise MIError(
            f"upstream {name!r}: -k {ckpt!r} is a folder, but a file is needed.{_file_advice(ckpt)}"
        )


def _check_hugging_face_folder(name: str, path: Path) -> None:
    """s3prl builds the class of the upstream's name whatever the folder holds: compare before it does."""
    if not path.is_dir():
        raise MIError(
            f"upstream {name!r}: -k {str(path)!r} is a file, but a folder is needed.{_file_advice(path)}"
        )
    for needed in ("config.json", "preprocessor_config.json"):
        if not (path / needed).is_file():
            raise MIError(f"upstream {name!r}: folder {str(path)!r} has no {needed}; save it there again.")
    found = json.loads((path / "config.json").read_text(encoding="utf-8")).get("model_type")
    wanted = name.split("_")[1]
    if found != wanted:
        raise MIError(
            f"upstream {name!r}: folder {str(path)!r} holds a model of type {found!r}, not {wanted!r}; s3prl "
            f"would load it as {wanted} with wrong states.{_file_advice(path)}"
        )


def _file_advice(ckpt: str | Path) -> str:
    """What a checkpoint looks like, as a sentence with a leading space; empty if nothing can be said."""
    if not Path(ckpt).exists():
        return ""
    looks, upstream = describe_checkpoint(Path(ckpt))
    return f" The checkpoint looks like {looks}." + (f" Try -u {upstream}." if upstream else "")


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

    original, screen = module._download, sys.stderr

    def noted(filepath: Path, url: str, refresh: bool, **options: Any) -> None:
        downloads.append((url, Path(filepath)))
        with contextlib.redirect_stderr(screen):
            original(filepath, url, refresh, **options)

    module._download = noted
    try:
        yield
    finally:
        module._download = original


def _explain(name: str, ckpt: str | None, downloads: list[tuple[str, Path]], error: Exception) -> Exception:
    """The message for a failed load; an error nobody foresaw is handed back as it is."""
    cause = _one_line(error)
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
            f"upstream {name!r}: the downloaded file {path} cannot be read ({cause}). Remove it: {url}"
        )
    if ckpt is None:
        return error
    if not Path(ckpt).exists():
        return MIError(
            f"upstream {name!r}: {ckpt!r} is no local folder and could not be downloaded ({cause})."
        )
    return MIError(f"upstream {name!r} cannot read the checkpoint {ckpt!r} ({cause}).{_file_advice(ckpt)}")


def _one_line(error: BaseException, limit: int = 160) -> str:
    text = re.sub(r"\s+", " ", str(error)).strip()
    if "Weights only load failed" in text:  # a page of advice on pickles; only the reason matters
        reason = re.search(r"Unsupported (global|operand|class)[^.]*", text)
        text = reason.group(0) if reason else "not written by torch.save"
    text = text if len(text) <= limit else text[:limit].rstrip() + " ..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


# --- what a checkpoint looks like ------------------------------------------------------------------


def describe_checkpoint(path: Path) -> tuple[str, str | None]:
    """Say what a checkpoint looks like, by its keys.

    Args:
        path: file or folder.

    Returns:
        A description, and the upstream that probably reads it (None if none is known).
    """
    if path.is_dir():
        return _describe_folder(path)
    if path.stat().st_size == 0:
        return "an empty file", None
    import torch

    compat.apply()
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # any garbage may be in the file; the reason is passed on
        return f"no PyTorch checkpoint ({_one_line(error, 80)})", None
    if not isinstance(content, dict):
        return f"a saved {type(content).__name__}, not a dict", None
    return _describe_keys(content)


def _describe_folder(path: Path) -> tuple[str, str | None]:
    config = path / "config.json"
    if not config.is_file():
        return "a folder without config.json", None
    kind = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    upstream = f"hf_{kind}_custom"
    return f"a Hugging Face model of type {kind!r}", upstream if upstream in _stock_names() else None


def _describe_keys(content: dict[str, Any]) -> tuple[str, str | None]:
    """One rule per layout; the first that fits decides."""
    keys = set(content)
    if {"Featurizer", "Downstream"} & keys:
        return "a states-*.ckpt of a downstream run (config key featurizer reads it)", None
    if {"task_cfg", "model_cfg", "model_weight"} <= keys:
        return _describe_converted(content)
    if {"cfg", "model"} <= keys:
        return _describe_cfg(content["cfg"])
    if {"config", "model"} <= keys:
        paras = content["config"].get("model", {}).get("paras", {})
        if "kernel_size" in paras:
            return "an NPC file", "npc_local"
        return ("a VQ-APC file" if paras.get("vq") else "an APC file"), "apc_local"
    for key, looks, upstream in (
        ("Transformer", "a Mockingjay, TERA or AALBERT file", "tera_local"),
        ("Distiller", "a DistilHuBERT file", "distiller_local"),
        ("weights", "a CPC file", "cpc_local"),
    ):
        if key in keys:
            return looks, upstream
    if keys and all(hasattr(value, "shape") for value in content.values()):
        return "a bare state dict, without its model's config", None
    return f"a dict with the keys {', '.join(sorted(map(str, keys))[:6])}", None


def _describe_converted(content: dict[str, Any]) -> tuple[str, str]:
    config = content["model_cfg"]
    if "dictionaries_symbols" in content:
        if "label_rate_ratios" in config:
            return "a converted MR-HuBERT file", "multires_hubert_local"
        return "a converted HuBERT file", "hubert_local"
    if "infonce" in config:
        quantised = config.get("vq_type") not in (None, "none")
        return "a converted wav2vec file", "vq_wav2vec_custom" if quantised else "wav2vec_local"
    if "_ema" in content["model_weight"]:
        return "a converted data2vec file", "data2vec_local"
    return "a converted wav2vec 2.0 file", "wav2vec2_local"


def _describe_cfg(config: Any) -> tuple[str, str | None]:
    if isinstance(config, dict) and "conv_feature_layers" in config:
        if config.get("relative_position_embedding"):
            return "a WavLM file", "wavlm_local"
        return "a UniSpeech-SAT file", "unispeech_sat_local"
    return (
        "a raw fairseq file; convert it first (python -m s3prl.upstream.hubert.convert and the like, with "
        "fairseq installed)"
    ), None


# --- identity --------------------------------------------------------------------------------------


def sha256_of(path: Path) -> str:
    """sha256 (hex) of a file, or of a folder's files with their names."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        if path.is_dir():
            digest.update(file.relative_to(path).as_posix().encode() + b"\0")
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _fingerprint(expert: Any, name: str, feature_selection: str, checkpoint_sha256: str | None) -> str:
    """sha256 (hex) over all that determines an upstream's hidden states.

    Weights and buffers as float32 bytes with names and shapes; settings that no weight shows (number of
    heads, normalisation, front end); the checkpoint's hash, s3prl's version, the upstream's name and `-s`.
    """
    digest = hashlib.sha256()
    version = importlib.metadata.version("s3prl")
    settings = [name, feature_selection, version, checkpoint_sha256, *_settings(expert)]
    digest.update(json.dumps(settings, default=str).encode())
    tensors = dict(expert.state_dict())
    tensors.update({n: b for n, b in expert.named_buffers() if n not in tensors})
    for key in sorted(tensors):
        value = tensors[key]
        if not hasattr(value, "detach"):
            continue
        array = value.detach().float().cpu().contiguous().numpy()
        digest.update(f"{key}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _settings(expert: Any) -> list[str]:
    """Configs that s3prl's experts keep, as text without memory addresses."""
    model = getattr(expert, "model", None)
    holders = [
        getattr(expert, "config", None),
        getattr(expert, "task_cfg", None),
        getattr(expert, "cfg", None),
        getattr(expert, "wav_normalize", None),
        getattr(model, "cfg", None),
        getattr(model, "config", None),
        getattr(getattr(expert, "preprocessor", None), "kwargs", None),
        getattr(expert, "extracter", None),
        expert,
    ]
    plain = [vars(h) if type(h).__name__ == "WavLMConfig" else h for h in holders]
    # A memory address, a library's version or the folder's name does not change any state.
    volatile = r' at 0x[0-9a-f]+|"(transformers_version|_name_or_path)": [^\n]*'
    return [re.sub(volatile, "", repr(p)) for p in plain]
