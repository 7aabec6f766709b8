"""Names for `-u`: s3prl's, ours, and the user's; what lies behind a name.

`s3prl.hub` imports all 35 upstream folders (10 s). Here s3prl's names are read from the source of `s3prl/hub.py` and
of the hubconfs, so that only the hubconf which defines a name need be imported. All other names come from modules
with `FAMILIES` (user_modules.py): ours (`extra.hubconf`), those of entry points, and those of `--upstream_module`.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ..core.errors import MIError, nearest
from ..core.files import expanded
from . import compat
from .extra import hubconf
from .families import KINDS, Family, upstream_folder
from .user_modules import OwnUpstream, read_entry_points, read_module, upstreams_in

FILE_SUFFIXES = ("_local", "_custom", "_url", "_gdriveid")
"""Endings of the names that take a checkpoint from the user."""

_INSTEAD = {
    "vq_apc_local": "apc_local",
    "vq_wav2vec_local": "vq_wav2vec_custom",
    "fbank_local": "baseline_local",
    "dinosr_local": "dinosr",
    "cotraining_local": "cotraining",
    "hf_custom": "hf",
}


def upstream_names() -> list[str]:
    """Every name that `-u` takes, sorted: s3prl's, ours, and the user's."""
    return sorted({*stock_names(), *known()})


def family_of_name(name: str) -> Family:
    """The family of the upstream `-u name`, without loading it."""
    if own := find_own(name):
        return own.family
    folder = upstream_folder(stock_names().get(name, ("", ""))[0])
    return KINDS.get(folder) or Family(folder or name)


def find_entry(name: str) -> Callable[..., Any]:
    """The function behind a name: called with `ckpt`, `model_config` and `refresh`, it returns the expert.

    Raises:
        MIError: no such upstream.
        ImportError: its folder cannot be imported.
    """
    hub = sys.modules.get("s3prl.hub")
    if hub is not None and callable(getattr(hub, name, None)) and not name.startswith("_"):
        return getattr(hub, name)
    place = stock_names().get(name)
    if place is not None:
        if ".roberta." in place[0]:  # its functions look others up on s3prl.hub
            importlib.import_module("s3prl.hub")
        return getattr(importlib.import_module(place[0]), place[1])
    own = find_own(name)
    if own is not None:
        return own.function
    instead = f" Use {_INSTEAD[name]!r}." if name in _INSTEAD else nearest(name, upstream_names())
    raise MIError(f"unknown upstream -u {name!r}.{instead} `s3prl-mi upstreams` lists all names.")


# --- Upstreams that are not s3prl's ---------------------------------------------------------------------

_OWN: dict[str, OwnUpstream] = {}


def load_module(path_or_name: str) -> None:
    """Make the upstreams of a Python file or of a dotted module name known, for `-u`, unless they are already.

    Raises:
        MIError: no such file or module, an error while importing it, a function without its family, or a name that
            another upstream has.
    """
    source = expanded(path_or_name, "--upstream_module").resolve()
    if all(own.source != source for own in _OWN.values()):
        _register(read_module(path_or_name))


def find_own(name: str) -> OwnUpstream | None:
    """The upstream of that name which is not s3prl's, or None.

    Raises:
        MIError: an entry point that cannot be imported.
    """
    if name not in _OWN and name not in stock_names():
        load_entry_points()
    return _OWN.get(name)


def known() -> dict[str, OwnUpstream]:
    """Every upstream that is not s3prl's, by name."""
    load_entry_points()
    return dict(_OWN)


def show_to_s3prl(hub: ModuleType) -> None:
    """Set every upstream that is not s3prl's on `s3prl.hub`, for s3prl's own tasks (`-d ctc -u dinosr`)."""
    for name, own in known().items():
        setattr(hub, name, own.function)


@functools.cache
def load_entry_points() -> None:
    """Load, once, the modules that installed packages name in the group `s3prl_mi.upstreams`.

    Raises:
        MIError: one of them cannot be imported.
    """
    for upstreams in read_entry_points():
        _register(upstreams)


def _register(upstreams: Sequence[OwnUpstream]) -> None:
    """Make the upstreams of one module known, all or none."""
    if any(own.source == upstreams[0].source for own in _OWN.values()):
        return
    for own in upstreams:
        owner = _OWN[own.name].origin if own.name in _OWN else "s3prl" if own.name in stock_names() else None
        if owner is not None:
            raise MIError(f"{own.origin}: {own.name!r} is already an upstream of {owner}; give yours another name.")
    _OWN.update((own.name, own) for own in upstreams)


# --- s3prl's names, from its sources --------------------------------------------------------------------


@functools.cache
def stock_names() -> dict[str, tuple[str, str]]:
    """Each name of s3prl.hub -> (module, attribute), read from the sources; later imports win."""
    names: dict[str, tuple[str, str]] = {}
    for node in source_tree("s3prl.hub").body:
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        if node.names[0].name == "*":
            names.update(_defined_names(node.module))
        else:
            names.update({a.asname or a.name: (node.module, a.name) for a in node.names})
    return names


def _defined_names(module: str) -> dict[str, tuple[str, str]]:
    """Public functions that a hubconf defines, or imports from another hubconf."""
    names: list[str] = []
    for node in source_tree(module).body:
        if isinstance(node, ast.FunctionDef):
            names.append(node.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").endswith("hubconf"):
            names += [a.asname or a.name for a in node.names]
    return {name: (module, name) for name in names if not name.startswith("_")}


def source_tree(module: str) -> ast.Module:
    """The syntax tree of a dotted module of s3prl; empty if there is no such file."""
    source = compat.s3prl_folder().joinpath(*module.split(".")[1:]).with_suffix(".py")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # s3prl has invalid escapes, which Python 3.12 warns of
        return ast.parse(source.read_text(encoding="utf-8") if source.is_file() else "")


@functools.cache
def functions_of(module: str) -> dict[str, ast.FunctionDef]:
    """The functions that a hubconf defines, by name, as syntax trees."""
    return {node.name: node for node in source_tree(module).body if isinstance(node, ast.FunctionDef)}


def checkpoint_urls(name: str) -> list[str]:
    """The URLs that an upstream of s3prl downloads, read from its source (nothing is imported).

    A name that only calls another one (hubert -> hubert_base) is followed. Where s3prl has an old and a
    converted file for one name, the converted one is meant, as s3prl takes that by default.
    """
    module, attribute = stock_names().get(name, ("", name))
    functions = functions_of(module) if module else {}
    called, urls = [attribute] if attribute in functions else [], []
    for function in called:  # grows
        for node in ast.walk(functions[function]):
            if isinstance(node, ast.Constant) and re.fullmatch(r"https?://[^ /]+/[^ ]*", str(node.value)):
                urls.append(str(node.value))
            elif isinstance(node, ast.Name) and node.id in functions and node.id not in called:
                called.append(node.id)
    urls = list(dict.fromkeys(urls))
    return [u for u in urls if "converted" in u] or urls


def cache_folder() -> Path:
    """Where s3prl keeps downloaded checkpoints."""
    module = sys.modules.get("s3prl.util.download")
    return Path(module._download_dir) if module is not None else Path.home() / ".cache" / "s3prl" / "download"


def cached_file(url: str) -> Path:
    """Where s3prl keeps the download of a URL: <sha256 of the URL>.<file name>."""
    return cache_folder() / f"{hashlib.sha256(url.encode()).hexdigest()}.{Path(url).name}"


_register(upstreams_in(hubconf, "s3prl_mi", installed=True))
