"""Names for `-u`: s3prl's, ours, and the user's; what lies behind a name."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

from ..core.errors import MIError, nearest
from . import user_modules as upstream_module
from .families import Family, family_named, upstream_folder
from .s3prl_names import stock_names

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
    names = set(stock_names()) | set(upstream_module.known())
    hub = sys.modules.get("s3prl.hub")
    if hub is not None:
        # Beside upstreams the namespace holds what hubconfs import (Path, FileLock, ...): functions only.
        names |= {
            n for n, v in vars(hub).items() if callable(v) and not isinstance(v, type) and _is_entry(n, v)
        }
    return sorted(names)


def family_of_name(name: str) -> Family:
    """The family of the upstream `-u name`, without loading it."""
    upstream_module.find_own(name)
    module = stock_names().get(name, ("", ""))[0]
    return family_named(name, upstream_folder(module))


def _is_entry(name: str, value: Any) -> bool:
    """Whether an attribute of s3prl.hub is an upstream and not a helper that a hubconf imported."""
    module = getattr(value, "__module__", "") or ""
    helper = module.startswith("s3prl.") and not module.endswith("hubconf")
    return not name.startswith("_") and name != "options" and not helper


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
        return getattr(importlib.import_module(place[0]), place[1])
    own = upstream_module.find_own(name)
    if own is not None:
        return own.function
    instead = f" Use {_INSTEAD[name]!r}." if name in _INSTEAD else nearest(name, upstream_names())
    raise MIError(f"unknown upstream -u {name!r}.{instead} `s3prl-mi upstreams` lists all names.")
