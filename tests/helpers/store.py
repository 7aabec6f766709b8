"""Entries of the store, written by hand: three utterances, layers of unlike dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from s3prl_mi.states.entry import MANIFEST, Entry, checksum, manifest_text
from s3prl_mi.states.memory_store import MemoryStore
from s3prl_mi.states.store import Store, key_of
from s3prl_mi.states.writer import Folder, Writer

ABOUT = {"upstream": "hubert", "view": "plain", "audio": [["a", "01"], ["b", "02"]]}
DIMS = {0: 5, 2: 3, 3: 4}
COUNTS = {"long": 40, "middle": 30, "short": 7}
ORDER = list(COUNTS)


def one_by_one(count: int = len(ORDER)) -> list[tuple[int, int]]:
    """Batches of one utterance each."""
    return [(n, n + 1) for n in range(count)]


def append(writer: Writer, number: int, utterance: str, hidden: Sequence[np.ndarray]) -> None:
    """Write one utterance, the `number`-th of the split, as a batch of its own: float32 (n_frames, dim) by layer."""
    states = [torch.as_tensor(np.asarray(h, np.float32)) for h in hidden]
    writer.write((number, number + 1), [utterance], writer.encode([states]))


def states(utterance: str, layers: Sequence[int] = (0, 2)) -> list[np.ndarray]:
    """Hidden states, dimension by dimension of quite different mean and spread."""
    rng = np.random.default_rng(sum(map(ord, utterance)))
    spreads = [10.0 ** np.arange(DIMS[layer]) for layer in layers]
    return [(100 + s * rng.standard_normal((COUNTS[utterance], len(s)))).astype(np.float32) for s in spreads]


def whole(layer: int, layers: Sequence[int] = (0, 2)) -> np.ndarray:
    """All frames of a layer."""
    return np.concatenate([states(u, layers)[layers.index(layer)] for u in ORDER])


def add(writer: Writer, utterances: Sequence[str], layers: Sequence[int] = (0, 2)) -> None:
    """Write some of the three utterances."""
    for utterance in utterances:
        append(writer, ORDER.index(utterance), utterance, states(utterance, layers))


def open_writer(store: Store | MemoryStore, dtype="float16", layers=(0, 2), about=ABOUT) -> Writer:
    """A writer of the entry that `about` names."""
    return store.writer(key_of(about), about, layers, dtype, one_by_one())


def write(store: Store | MemoryStore, dtype="float16", layers=(0, 2), about=ABOUT) -> Entry:
    """A whole entry."""
    with open_writer(store, dtype, layers, about) as writer:
        add(writer, ORDER, layers)
        return writer.finish()


def rewrite(folder: Path, manifest: dict[str, Any]) -> None:
    """Let an entry say other things of files that were changed."""
    manifest["sums"] = {name: checksum(folder / name) for name in manifest["sums"]}
    manifest.pop("checksum", None)
    (folder / MANIFEST).write_text(manifest_text(manifest))


def begin(store: Store, utterances: Sequence[str], dtype="float16", layers=(0, 2), about=ABOUT) -> Path:
    """What a killed run leaves: the folder of an entry that it did not finish."""
    with open_writer(store, dtype, layers, about) as writer:
        add(writer, utterances, layers)
    return Folder(store.root / key_of(about), list(layers), dtype).folder
