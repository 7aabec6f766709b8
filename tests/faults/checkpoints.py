"""Checkpoints that run code when they are read the ordinary way, under every name for `-u`."""

from __future__ import annotations

import contextlib
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from s3prl_mi.upstreams import compat
from s3prl_mi.upstreams.loading import load_upstream
from s3prl_mi.upstreams.names import FILE_SUFFIXES, checkpoint_urls, upstream_names
from tests.faults.campaign import Case, Executes, refuses
from tests.helpers.models import MODELS

compat.apply()

WRITE: dict[str, Callable[[Any, Path], object]] = {
    "zip": torch.save,
    "legacy": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    "raw pickle": lambda content, path: path.write_bytes(pickle.dumps(content)),
}
"""How torch has written checkpoints, and how Python writes any object."""


def crafted(kind: str, folder: Path, content: dict[str, Any] | None = None) -> Path:
    """A checkpoint that makes the folder `MARKER` as it is read, next to what else it holds."""
    path = folder / f"{kind.replace(' ', '_')}.pt"
    WRITE[kind]({**(content or {"model": {}, "Config": {}, "cfg": {}}), "extra": Executes(folder)}, path)
    return path


def takes_file(name: str) -> bool:
    """Whether `-u name` takes a checkpoint of the user's."""
    return name.endswith(FILE_SUFFIXES) or name in ("cotraining", "dinosr", "hf")


def _load(name: str, kind: str, folder: Path) -> None:
    file = crafted(kind, folder)
    if name.startswith("hf"):
        file = hugging_face_folder(folder, file, name)
    if name.endswith(("_url", "_gdriveid")) or not takes_file(name):
        with downloading(file):
            given = "https://example.org/x.pt" if takes_file(name) else None
            refuses(lambda: load_upstream(name, given))
    else:
        refuses(lambda: load_upstream(name, str(file)))


def hugging_face_folder(folder: Path, file: Path, name: str) -> Path:
    """A folder as Hugging Face's models lie in, with a file for its weights."""
    kind = "wav2vec2" if "wav2vec2" in name else "hubert"
    target = folder / "model"
    target.mkdir()
    file.rename(target / "pytorch_model.bin")
    (target / "config.json").write_text(json.dumps({"model_type": kind, "architectures": ["HubertModel"]}))
    (target / "preprocessor_config.json").write_text("{}")
    return target


@contextlib.contextmanager
def downloading(file: Path) -> Iterator[None]:
    """Whatever s3prl downloads is this file."""
    from s3prl.util import download as module

    before = module._download, module._download_dir

    def copy(filepath: Path, url: str, refresh: bool, **options: Any) -> None:
        Path(filepath).parent.mkdir(parents=True, exist_ok=True)
        Path(filepath).write_bytes(file.read_bytes())

    module._download, module._download_dir = copy, file.parent / "downloads"
    try:
        yield
    finally:
        module._download, module._download_dir = before


def _with_config(name: str, field: str, folder: Path) -> None:
    """A model whose config is Python code where s3prl evaluates it."""
    upstream, build = MODELS[name]
    path = build(folder)
    content = torch.load(path, weights_only=True)
    config = content["model_cfg"] if "model_cfg" in content else content["cfg"]
    config[field] = f"[(24,10,5)] + [__import__('os').mkdir({str(folder / 'executed')!r})]"
    torch.save(content, path)
    refuses(lambda: load_upstream(upstream, str(path)), "not a plain value")


def _inside_weights(name: str, kind: str, folder: Path) -> None:
    """A whole model with an object more."""
    upstream, build = MODELS[name]
    content = torch.load(build(folder), weights_only=True)
    path = crafted(kind, folder, content)
    refuses(lambda: load_upstream(upstream, str(path)), "--trust_checkpoint" if kind != "raw pickle" else "")


NAMES = [n for n in upstream_names() if not n.startswith("espnet")]
CASES = [
    *(
        Case(f"{kind} as -u {n}", lambda f, n=n, k=kind: _load(n, k, f))
        for n in NAMES
        for kind in WRITE
        if takes_file(n)
    ),
    *(
        Case(f"download of -u {n} is {kind}", lambda f, n=n, k=kind: _load(n, k, f))
        for n in NAMES
        for kind in WRITE
        if not takes_file(n) and checkpoint_urls(n)
    ),
    *(
        Case(f"code in the config of {n}", lambda f, n=n: _with_config(n, "conv_feature_layers", f))
        for n in ("hubert-base", "wav2vec2-base", "wavlm-base", "data2vec")
    ),
    *(
        Case(f"{n} with an object in {kind}", lambda f, n=n, k=kind: _inside_weights(n, k, f))
        for n in ("hubert-base", "wavlm-base", "apc", "apc-namespace")
        for kind in WRITE
    ),
]
