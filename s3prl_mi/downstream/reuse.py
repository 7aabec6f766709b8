"""`--reuse_states`: s3prl's own runner with a frozen upstream whose hidden states come from the store.

The runner, the expert, the featurizer and the losses are s3prl's. `StoredUpstream` takes the upstream's place: a list
of waveforms in, padded hidden states out. A waveform that the store lacks goes through the upstream, once, and by
itself: padding changes nothing (`upstreams.forward`), where s3prl's HuBERT and others see a batch's padding.

Measured (`ctc`, a HuBERT of 6 x 192, LibriSpeech-mini): with batches of one, losses are s3prl's to four digits, 2451
errors instead of 2449 among 2978 phones; with batches of eight PER is another one, as with another seed.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..core.errors import MIError
from ..core.types import SAMPLE_RATE
from ..core.words import duration
from ..data.audio import waveform_hash
from ..states.provider import SPECTRAL
from ..states.store import InsufficientSpace, Store
from ..states.waveforms import WaveformStates
from ..upstreams.forward import hidden_states
from ..upstreams.loading import Upstream, load_upstream
from ..upstreams.precision import running_in

logger = logging.getLogger(__name__)

LARGEST_DIFFERENCE = 1e-3
"""Between s3prl's hidden states of a waveform and ours, relative to their norm, above which ours are not used."""

EXAMINED = 8
"""Pairs of neighbours in a data set that are read before a run to know how much speech it has; at least 2."""

MORE_THAN_EXPECTED, SLACK_BYTES = 1.5, 64 << 20
"""Times the expected bytes, and some more, after which waveforms are taken to change in each epoch: the rest runs as
stock."""


class RunsAsStock(Exception):
    """Why an upstream's hidden states are not taken from the store, as a clause."""


class StoredUpstream(torch.nn.Module):
    """An upstream of s3prl's interface whose hidden states are looked up first.

    Args:
        upstream: the upstream.
        store: where hidden states lie.
        layer: the only one that will be selected (`-l`), or None.

    Attributes:
        passes: utterances that went through the upstream.
        served: utterances that were found.
        stock: utterances that went through it as stock, in batches.

    Raises:
        RunsAsStock: its hidden states differ from s3prl's, so that they cannot take their place.
    """

    def __init__(self, upstream: Upstream, store: Store, layer: int | None = None) -> None:
        super().__init__()
        self.expert = upstream.expert
        self._upstream, self._store = upstream, store
        dims = _dims_as_stock(upstream)
        self._count = len(dims)
        self._layers = list(range(len(dims)))
        if layer is not None and -len(dims) <= layer < len(dims):
            self._layers = [self._layers[layer]]
        self._frame_bytes = 2 * sum(dims[n] for n in self._layers)
        self._states = WaveformStates(store, upstream, self._layers)
        self._split, self._limits = "", dict[str, float]()
        self.passes = self.served = self.stock = 0

    def get_downsample_rates(self, key: str) -> int:
        """Samples per frame, for s3prl's Featurizer."""
        return int(self.expert.get_downsample_rates(key))

    # --- splits -----------------------------------------------------------------------------------------

    def begin(self, split: str, loader: Any) -> None:
        """Look whether a split's hidden states are worth storing, the first time, and say so."""
        self.flush()
        self._states.refresh()
        self._split = split
        if split not in self._limits:
            self._limits[split] = self._examine(split, loader)

    @contextlib.contextmanager
    def loop(self) -> Iterator[None]:
        """s3prl's loop over a split, which may stand in the midst of another one; at its end all is written."""
        before = self._split
        try:
            yield
        finally:
            self.flush()
            self._split = before

    def flush(self) -> None:
        """Write what is in memory."""
        try:
            self._states.flush()
        except (InsufficientSpace, OSError) as error:
            self._stop(str(error))

    def _stop(self, why: str) -> None:
        """Run as stock from here, for this split."""
        self._limits[self._split] = 0
        logger.warning("--reuse_states: %s: from here the upstream runs as stock: %s.", self._split, why.rstrip("."))

    def _examine(self, split: str, loader: Any) -> float:
        """Bytes that may still be written for a split; 0: it runs as stock."""
        try:
            seen = examine(loader)
        except Exception as error:
            return _stock(split, f"its data set cannot be looked at ({type(error).__name__}: {error})")
        if not seen.steady:
            return _stock(split, "its utterances are cut or changed at random, so that none comes twice")
        expected = seen.expected(lambda _, n: self._bytes(n))
        missing = seen.expected(lambda digest, n: 0 if digest in self._states else self._bytes(n))
        room = self._states.room()
        seconds = seen.expected(lambda _, n: n / SAMPLE_RATE)
        about = f"hidden states of {'about ' if len(seen.seen) < seen.total else ''}{duration(seconds)} of speech"
        if missing > room.bytes:
            fix = "Raise --max_store_gb, set $S3PRL_MI_STORE to a larger disk, or select one layer (-l)"
            return _stock(split, f"{about} need {_gigabytes(missing)} more on disk, but {room.reason}. {fix}")
        new = f"{_gigabytes(missing)} of it new" if missing else "which are there"
        size = f"{about} take {_gigabytes(expected)} in {self._store.root}, {new}"
        logger.info("--reuse_states: %s: %s.", split, size)
        return MORE_THAN_EXPECTED * missing + SLACK_BYTES

    def _bytes(self, n_samples: int) -> float:
        frames = self._upstream.geometry.n_frames(n_samples)
        return self._frame_bytes * (-(-n_samples // self._upstream.stride) if frames is None else frames)

    # --- hidden states ----------------------------------------------------------------------------------

    def forward(self, wavs: Sequence[Tensor]) -> dict[str, Any]:
        """Hidden states of waveforms, shape (n_samples,) each, by key: per layer (batch, n_frames, dim).

        Behind an utterance's last frame it is repeated: s3prl's Featurizer takes up to one frame too many.
        """
        if not self._limits.get(self._split):
            self.stock += len(wavs) if self._split else 0  # s3prl's Featurizer tries it on noise
            return dict(self.expert(wavs))
        digests = [waveform_hash(w.detach().cpu().numpy()) for w in wavs]
        found = {d: self._states.get(d) for d in set(digests) if d in self._states}
        missing = {d: w for d, w in zip(digests, wavs, strict=True) if d not in found}
        self.passes += len(missing)
        self.served += len(wavs) - len(missing)
        if missing:
            found |= self._extract(missing)
        entries: list[Tensor | None] = [None] * self._count
        for n, of_layer in zip(self._layers, zip(*(found[d] for d in digests), strict=True), strict=True):
            padded = pad_sequence(list(of_layer), batch_first=True)
            for row, h in zip(padded, of_layer, strict=True):
                row[len(h) :] = h[-1]
            entries[n] = padded
        key = self._upstream.feature_selection
        return {key: entries, "last_hidden_state": entries[-1]} if key == "hidden_states" else {key: entries}

    def _extract(self, missing: dict[str, Tensor]) -> dict[str, list[Tensor]]:
        """Run the upstream over waveforms and keep what comes out."""
        kind = torch.device(self._upstream.device).type
        with torch.autocast(kind, enabled=False), running_in(self._upstream, "fp32"):
            hidden = hidden_states(self._upstream, list(missing.values()))
        found = {d: [h[n] for n in self._layers] for d, h in zip(missing, hidden, strict=True)}
        try:
            for digest, states in found.items():
                self._states.add(digest, states)
            self._limits[self._split] -= sum(self._bytes(len(w)) for w in missing.values())
            if self._limits[self._split] <= 0:
                self._stop("it has more speech than its data set: it is cut or changed at random")
        except (InsufficientSpace, OSError) as error:
            self._stop(str(error))
        return found


def _stock(split: str, why: str) -> int:
    logger.warning("--reuse_states: %s: the upstream runs as stock: %s.", split, why)
    return 0


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e7 else f"{count / 1e6:.2f} MB"


def _dims_as_stock(upstream: Upstream) -> list[int]:
    """Dimensions of s3prl's hidden states, if ours of the same waveform are the same.

    Raises:
        RunsAsStock: they are not.
    """
    noise = 0.1 * torch.randn(2, 2 * SAMPLE_RATE + 100, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for waveform in noise.to(upstream.device):  # the second tells whether the first one left traces
            result = upstream.expert([waveform])
        stock = result.get(upstream.feature_selection)
        try:
            ours = hidden_states(upstream, [noise[1]])[0]
        except MIError as error:  # no such -s
            raise RunsAsStock(str(error).rstrip(".")) from error
    entries = list(stock.values()) if isinstance(stock, dict) else stock
    entries = list(entries) if isinstance(entries, (list, tuple)) else [entries]
    for n, (a, b) in enumerate(zip(entries, ours, strict=False)):  # VQ codes come behind s3prl's own
        if a.shape[1:] != b.shape or float((a[0] - b).norm()) > LARGEST_DIFFERENCE * float(b.norm()):
            raise RunsAsStock(f"entry {n} of {upstream.name}'s hidden states is another one in s3prl")
    return [b.shape[1] for b in ours[: len(entries)]]


def reusing(stock: type, store: Store) -> type:
    """s3prl's `Runner`, the class, with upstreams served from a store wherever that is possible.

    Its `served` is the upstream of the latest run, or None.
    """

    class ReusingRunner(stock):
        served: StoredUpstream | None = None

        def _get_upstream(self) -> Any:
            random_state = torch.get_rng_state()
            try:
                served = StoredUpstream(_load(self.args), store, self.args.upstream_layer_selection)
            except RunsAsStock as why:
                logger.warning("--reuse_states: the upstream runs as stock: %s.", why)
                torch.set_rng_state(random_state)
                return super()._get_upstream()
            ReusingRunner.served = served
            return self._init_model(served, "Upstream", False, ["get_downsample_rates"])

        def _get_downstream(self) -> Any:
            entry, served = super()._get_downstream(), self.upstream.model
            if isinstance(served, StoredUpstream):
                get = entry.model.get_dataloader

                @functools.wraps(get)
                def get_dataloader(split: str, *args: Any, **more: Any) -> Any:
                    loader = get(split, *args, **more)
                    served.begin(split, loader)
                    return loader

                entry.model.get_dataloader = get_dataloader
            return entry

        def train(self) -> None:
            with _loop(self.upstream.model):
                super().train()

        def evaluate(self, *args: Any, **more: Any) -> Any:
            with _loop(self.upstream.model):
                return super().evaluate(*args, **more)

    return ReusingRunner


def _loop(model: Any) -> contextlib.AbstractContextManager[None]:
    return model.loop() if isinstance(model, StoredUpstream) else contextlib.nullcontext()


def _load(args: argparse.Namespace) -> Upstream:
    """The upstream of s3prl's arguments.

    Raises:
        MIError: it cannot be loaded.
        RunsAsStock: its hidden states cannot be stored, or are not worth it.
    """
    if args.upstream_trainable:
        raise RunsAsStock("-f trains it")
    if args.local_rank is not None:
        raise RunsAsStock("there are several processes (--local_rank)")
    if args.hub == "huggingface":
        raise RunsAsStock("it comes from --hub huggingface")
    upstream = load_upstream(
        args.upstream,
        args.upstream_ckpt,
        args.upstream_model_config,
        bool(args.upstream_refresh),
        args.device,
        args.upstream_feature_selection,
    )
    if upstream.family.name in SPECTRAL:
        raise RunsAsStock(f"{upstream.name} is computed within seconds")
    return upstream


# --- What a data set holds ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Examined:
    """What some items of a data set hold.

    Attributes:
        seen: hash and samples of the waveforms that were looked at.
        total: waveforms in the whole data set, as far as that tells.
        steady: whether reading an item again gives the same waveforms.
    """

    seen: dict[str, int]
    total: int
    steady: bool

    def expected(self, measure: Callable[[str, int], float]) -> float:
        """Sum of a measure of (hash, samples) over the data set."""
        return sum(measure(d, n) for d, n in self.seen.items()) * self.total / len(self.seen)


def examine(loader: Any) -> Examined:
    """Look at items of a data loader's data set as its own `collate_fn` makes batches of them.

    No random number that the task draws later changes by it.

    Raises:
        Exception: whatever the data set raises; TypeError where it has no items by number.
    """
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - s3prl's tasks draw from the global generator
    try:
        with torch.random.fork_rng(devices=[]):
            return _examine(loader)
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


def _examine(loader: Any) -> Examined:
    items = len(loader.dataset)

    def waveforms(number: int) -> dict[str, int]:
        batch = [np.asarray(w, np.float32) for w in loader.collate_fn([loader.dataset[number]])[0]]
        if any(w.ndim != 1 for w in batch):
            raise TypeError("not waveforms of one channel")
        return {waveform_hash(w): len(w) for w in batch}

    if items <= 2 * EXAMINED:
        found = [waveforms(n) for n in range(items)]
        seen = {d: n for of_item in found for d, n in of_item.items()}
        return Examined(seen, len(seen), found[0] == waveforms(0) and found[-1] == waveforms(items - 1))
    chosen = [round(n * (items - 2) / (EXAMINED - 1)) for n in range(EXAMINED)]
    pairs = [(waveforms(n), waveforms(n + 1)) for n in chosen]
    # buckets of s3prl's ctc overlap: an item has few waveforms that the one before it lacks
    new = statistics.median(len(second.keys() - first.keys()) for first, second in pairs)
    seen = {d: n for pair in pairs for of_item in pair for d, n in of_item.items()}
    steady = all(waveforms(n) == first for n, (first, _) in zip(chosen, pairs, strict=True))
    return Examined(seen, max(round(items * new), len(seen)), steady)
