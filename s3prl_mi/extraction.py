"""Splits of speech -> hidden states in the store, each utterance's every layer from one forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tqdm import tqdm

from ._types import Seconds
from .audio import (
    SAMPLE_RATE,
    AudioError,
    Checked,
    SkipCounter,
    Utterance,
    check_audio,
    content_hash,
    list_utterances,
    read_waveform,
)
from .config import DataConfig
from .store import Entry, Store, TooCoarse, key_of

if TYPE_CHECKING:
    from torch import Tensor

    from .upstreams import Upstream
    from .views import View

CPU_BATCH, GPU_BATCH = 4, 16
"""Utterances a forward pass where the config leaves it open."""

BATCH_SECONDS = 30
"""Mean length per utterance up to which a batch is filled: longer ones make smaller batches."""


@dataclass(frozen=True)
class Split:
    """One split's utterances, those with readable headers.

    `skipped` counts files that were left out before decoding.
    """

    name: str
    utterances: list[Utterance]
    checked: Checked
    max_unreadable: float

    @property
    def seconds(self) -> Seconds:
        """Audio in the split."""
        return self.checked.seconds

    @property
    def speakers(self) -> set[str]:
        """The speakers that are known."""
        return {u.speaker for u in self.utterances if u.speaker is not None}

    def describe(self) -> str:
        """One line for the screen.

        Example: `dev-other: 50 utterances, 7.0 min, 5 speakers`.
        """
        speakers = f", {len(self.speakers)} speakers" if self.speakers else ""
        return f"{self.name}: {len(self.utterances)} utterances, {self.seconds / 60:.1f} min{speakers}"


def read_split(data: DataConfig, name: str) -> Split:
    """List a split and read the headers of its files.

    Raises:
        MIError: no such split, no audio, or too many unreadable files.
    """
    checked = check_audio(list_utterances(data, name), data.max_unreadable)
    return Split(name, checked.kept, checked, data.max_unreadable)


def stored_bytes(upstream: Upstream, splits: Sequence[Split], dims: Sequence[int], item: int) -> int:
    """Bytes that the hidden states of some splits take, one view, given each layer's dimensions.

    Args:
        upstream: the upstream.
        splits: what is to be extracted.
        dims: dimensions of each layer that is kept.
        item: bytes a number.
    """
    samples = sum(sum(s.checked.n_samples.values()) for s in splits)
    return int(samples / upstream.stride) * sum(dims) * item


def hidden_states(
    store: Store,
    upstream: Upstream,
    split: Split,
    view: View,
    layers: Sequence[int],
    dtype: str,
    batch_size: int,
) -> Entry:
    """Find one split's hidden states in the store, or extract them into it.

    Args:
        store: the store.
        upstream: the upstream.
        split: the utterances.
        view: `PLAIN` or a mask view.
        layers: what to keep of the upstream's hidden states.
        dtype: `auto`, `float16` or `float32`.
        batch_size: utterances a forward pass; 0: by device. It changes hidden states by rounding errors only.

    Returns:
        The entry; its utterances are ordered from long to short.

    Raises:
        MIError: too many unreadable files, or NaN or infinite hidden states.
    """
    ordered = sorted(split.utterances, key=lambda u: (-split.checked.n_samples[u.id], u.id))
    determinants = {
        "upstream": upstream.name,
        "fingerprint": upstream.fingerprint,
        "view": view.describe(),
        "split": split.name,
        "audio": [[u.id, content_hash(u.path)] for u in ordered],
        "exact": dtype == "float32",
    }
    key = key_of({k: v for k, v in determinants.items() if k != "split"})
    found = store.find(key, layers)
    if found is not None:
        return found
    about = {k: v for k, v in determinants.items() if k != "audio"}
    about["utterances"], about["seconds"] = len(ordered), round(split.seconds, 1)
    try:
        narrow = "float32" if dtype == "float32" else "float16"
        return _extract(store, key, about, upstream, split, ordered, view, layers, narrow, batch_size)
    except TooCoarse:
        if dtype == "float16":
            from .errors import MIError

            raise MIError(
                f"hidden states of {upstream.name} lose too much as float16. Set config key "
                "downstream_expert.store.dtype to auto or float32."
            ) from None
        return _extract(store, key, about, upstream, split, ordered, view, layers, "float32", batch_size)


def _extract(
    store: Store,
    key: str,
    about: dict[str, object],
    upstream: Upstream,
    split: Split,
    ordered: Sequence[Utterance],
    view: View,
    layers: Sequence[int],
    dtype: str,
    batch_size: int,
) -> Entry:
    """Run the upstream over a split, from where a killed run left off."""
    from .hidden_states import extract, shortest_samples

    total = len(split.utterances) + len(split.checked.unreadable)
    skips = SkipCounter(total, split.max_unreadable, split.name, list(split.checked.unreadable))
    size = batch_size or (CPU_BATCH if upstream.device == "cpu" else GPU_BATCH)
    with store.writer(key, about, layers, dtype) as writer:
        # another run may have finished the very same states while this one waited for the lock
        found = store.find(key, layers)
        if found is not None:
            return found
        for name, why in writer.skipped:
            skips.skip(name, why)
        done = set(writer.written) | {u for u, _ in writer.skipped}
        title = f"{upstream.name} {split.name} {view.describe()}"
        hours = tqdm(total=round(split.seconds), desc=title, unit="s", dynamic_ncols=True, leave=False)
        hours.update(round(sum(split.checked.n_samples[u] for u in done) / SAMPLE_RATE))
        for batch in _batches([u for u in ordered if u.id not in done], split, size):
            waveforms: list[Tensor] = []
            kept: list[Utterance] = []
            for utterance in batch:
                try:
                    waveforms.append(_waveform(utterance, shortest_samples(upstream)))
                    kept.append(utterance)
                except AudioError as error:
                    skips.skip(utterance.id, str(error))
                    writer.skip(utterance.id, str(error))
            for utterance, hidden in zip(kept, extract(upstream, waveforms, view), strict=True):
                writer.append(utterance.id, [hidden[layer].cpu().numpy() for layer in layers])
            hours.update(round(sum(split.checked.n_samples[u.id] for u in batch) / SAMPLE_RATE))
        hours.close()
        return writer.finish()


def _waveform(utterance: Utterance, shortest: int) -> Tensor:
    import torch

    waveform = read_waveform(utterance)
    if len(waveform) < shortest:
        raise AudioError(f"{utterance.path}: {len(waveform)} samples, but the upstream needs {shortest}")
    return torch.from_numpy(waveform)


def _batches(utterances: Sequence[Utterance], split: Split, size: int) -> Iterator[list[Utterance]]:
    """Neighbours in length, `size` at most, fewer where they are long."""
    batch: list[Utterance] = []
    for utterance in utterances:
        longest = split.checked.n_samples[batch[0].id] if batch else 0
        if batch and (len(batch) >= size or longest * (len(batch) + 1) > BATCH_SECONDS * size * SAMPLE_RATE):
            yield batch
            batch = []
        batch.append(utterance)
    if batch:
        yield batch
