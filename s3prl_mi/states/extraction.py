"""Splits of speech -> hidden states in the store, each utterance's every layer from one forward pass."""

from __future__ import annotations

import contextlib
import functools
import heapq
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from ..core.config import DataConfig
from ..core.distributed import is_main
from ..core.errors import MIError
from ..core.threads import BackgroundWriter, prefetch
from ..core.types import SAMPLE_RATE, Seconds
from ..core.words import count
from ..data.audio import (
    AudioError,
    Checked,
    SkipCounter,
    check_audio,
    content_hash,
    read_waveform,
)
from ..data.utterances import Utterance, list_utterances
from .store import Entry, Store, StoredLayer, TooCoarse, Writer, in_use, key_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..upstreams.loading import Upstream
    from ..upstreams.views import View

logger = logging.getLogger(__name__)

CPU_BATCH, GPU_BATCH = 4, 16
"""Utterances a forward pass where the config leaves it open."""

BATCH_SECONDS = 30
"""Mean length per utterance up to which a batch is filled: longer ones make smaller batches."""

SHORTEST_OF_BATCH = 0.8
"""Share of the longest utterance's length below which one is not padded to it, but begins another batch."""


@dataclass(frozen=True)
class Split:
    """One split's utterances, those with readable headers.

    `skipped` counts files that were left out before decoding. `found` counts all files that were listed. In the
    `share` of one process it counts those of the whole split, `part` says which share it is, and `longest` holds the
    utterances of the whole split, from long to short.
    """

    name: str
    utterances: list[Utterance]
    checked: Checked
    max_unreadable: float
    found: int
    part: str = ""
    longest: tuple[Utterance, ...] = ()

    @property
    def seconds(self) -> Seconds:
        """Audio in the split."""
        return self.checked.seconds

    @functools.cached_property
    def hashes(self) -> dict[str, str]:
        """The content of each utterance's audio file, hashed once for all that is asked of this split, by id."""
        return {u.id: content_hash(u.path) for u in self.utterances}

    @property
    def speakers(self) -> set[str]:
        """The speakers that are known."""
        return {u.speaker for u in self.utterances if u.speaker is not None}

    def share(self, rank: int, size: int) -> Split:
        """What falls to one of several processes: each utterance, longest first, to the one with the least audio.

        Example: ranks 0 and 1 of 2 share lengths 5, 4, 3, 3 as (5, 3) and (4, 3).
        """
        if size == 1:
            return self
        lengths = self.checked.n_samples
        load = [(0, r) for r in range(size)]
        own: set[str] = set()
        longest = tuple(sorted(self.utterances, key=lambda u: (-lengths[u.id], u.id)))
        for utterance in longest:
            seconds, least = heapq.heappop(load)
            heapq.heappush(load, (seconds + lengths[utterance.id], least))
            if least == rank:
                own.add(utterance.id)
        kept = [u for u in self.utterances if u.id in own]
        mine = {u.id: lengths[u.id] for u in kept}
        checked = replace(self.checked, kept=kept, n_samples=mine, seconds=sum(mine.values()) / SAMPLE_RATE)
        return replace(
            self, utterances=kept, checked=checked, part=f" (part {rank + 1} of {size})", longest=longest
        )

    def describe(self) -> str:
        """One line for the screen.

        Example: `dev-other: 50 utterances, 7.0 min, 5 speakers`.
        """
        speakers = f", {count(len(self.speakers), 'speaker')}" if self.speakers else ""
        return (
            f"{self.name}: {count(len(self.utterances), 'utterance')}, {self.seconds / 60:.1f} min{speakers}"
        )


def read_split(data: DataConfig, name: str) -> Split:
    """List a split and read the headers of its files.

    Raises:
        MIError: no such split, no audio, or too many unreadable files.
    """
    checked = check_audio(list_utterances(data, name), data.max_unreadable)
    found = len(checked.kept) + len(checked.unreadable)
    return Split(name, checked.kept, checked, data.max_unreadable, found)


@dataclass(frozen=True)
class Request:
    """Hidden states of one split under one view.

    `layers` are kept of the upstream's hidden states, all of one frame rate; `dtype` is `auto`, `float16` or
    `float32`; `precision` is that of this view's forward pass (`precision.of_view`).
    """

    upstream: Upstream
    split: Split
    view: View
    layers: tuple[int, ...]
    dtype: str
    precision: str = "fp32"

    @functools.cached_property
    def ordered(self) -> list[Utterance]:
        """The utterances from long to short: the order of the stored frames, whatever the batch size."""
        return sorted(self.split.utterances, key=lambda u: (-self.split.checked.n_samples[u.id], u.id))

    @functools.cached_property
    def key(self) -> str:
        """Names the hidden states by everything that determines them."""
        try:
            audio = [[u.id, self.split.hashes[u.id]] for u in self.ordered]
        except AudioError as error:
            raise MIError(f"{error}. Did it disappear while this run was reading?") from None
        exact = self.dtype == "float32"
        determinants = {"upstream": self.upstream.name, "fingerprint": self.upstream.fingerprint}
        if self.precision != "fp32":
            determinants["precision"] = self.precision
        return key_of({**determinants, "view": self.view.describe(), "audio": audio, "exact": exact})

    def about(self) -> dict[str, Any]:
        """For a person who lists the store."""
        return {
            "upstream": self.upstream.name,
            "checkpoint": self.upstream.checkpoint_name,
            "fingerprint": self.upstream.fingerprint,
            "view": self.view.describe(),
            "precision": self.precision,
            "split": self.split.name + self.split.part,
            "utterances": len(self.ordered),
            "seconds": round(self.split.seconds, 1),
        }

    def bytes(self, dims: Sequence[int], wide: bool = False) -> int:
        """What they take on disk or in memory.

        Args:
            dims: of the layers kept.
            wide: whether float16 turned out to be too coarse.
        """
        geometry = self.upstream.geometry_of(self.layers[0])
        counts = [(geometry.n_frames(n), n) for n in self.split.checked.n_samples.values()]
        frames = sum(-(-n // geometry.stride) if count is None else count for count, n in counts)
        return frames * sum(dims) * (4 if wide or self.dtype == "float32" else 2)


def hidden_states(
    store: Store, requests: Sequence[Request], batch_size: int = 0, wide: bool = False
) -> list[Entry]:
    """Find hidden states in the store, or extract them into it.

    Args:
        store: the store.
        requests: what is wanted; all of one upstream and split, asked for in one precision. Those of one view (an
            upstream of several frame rates has a request for each rate) share a forward pass, and all views share its
            convolutions.
        batch_size: utterances a forward pass; 0: by device. It changes hidden states by rounding errors only.
        wide: whether float16 is known to be too coarse, so that it need not be tried.

    Raises:
        MIError: too many unreadable files, NaN or infinite hidden states, or float16 asked for where it is too
            coarse.
        InsufficientSpace: float16 is too coarse, and the store cannot hold twice as much.
    """
    for dtype in ("float32",) if wide else ("float16", "float32"):
        missing = [r for r in requests if r.ordered and store.find(r.key, r.layers) is None]
        if not missing:
            break
        first = missing[0]
        if dtype == "float16" and first.dtype == "float32":
            continue
        try:
            if not _extract(store, missing, dtype, batch_size):
                return [_nothing(store, r) for r in requests]
        except TooCoarse:
            if first.dtype == "float16":
                raise MIError(
                    f"hidden states of {first.upstream.name} lose too much as float16. Set config key "
                    "downstream_expert.store.dtype to auto or float32."
                ) from None
            logger.info("float16 is too coarse for %s: extracting again as float32.", first.upstream.name)
            dims = _dims(first)
            needed = sum(r.bytes([dims[n] for n in r.layers], wide=True) for r in missing)
            store.make_room(needed, in_use(), [r.key for r in missing])
    return [_still_there(store, r) if r.ordered else _nothing(store, r) for r in requests]


class _NoFrames(Entry):
    """What stands for an entry where a process has no utterance of a split."""

    def layer(self, index: int) -> StoredLayer:
        nothing = np.zeros((0, self.dims[self.layers.index(index)]), np.float32)
        return StoredLayer.of(nothing, nothing, nothing)


def _nothing(store: Store, request: Request) -> Entry:
    dims = _dims(request)
    layers = list(request.layers)
    nowhere = store.root / request.key / "nothing"
    return _NoFrames(nowhere, [], [], layers, [dims[n] for n in layers], "float32", [])


def _dims(request: Request) -> list[int]:
    """Dimensions of the upstream's hidden states."""
    import torch

    from ..upstreams.forward import extract

    noise = torch.randn(SAMPLE_RATE, generator=torch.Generator().manual_seed(0))
    return [h.shape[1] for h in extract(request.upstream, [noise])[0]]


def _still_there(store: Store, request: Request) -> Entry:
    entry = store.find(request.key, request.layers)
    if entry is None:
        raise MIError(
            f"the hidden states of {request.split.name} in {store.root} were removed by another run. Raise "
            "downstream_expert.store.max_gb, or give this run a store of its own (downstream_expert.store.root)."
        )
    return entry


def _extract(store: Store, requests: Sequence[Request], dtype: str, batch_size: int) -> bool:
    """Run the upstream over a split, from where a killed run left off.

    Returns:
        False where not one utterance of a process's share can be read.
    """
    from ..upstreams.precision import rounded_once

    first = requests[0]
    split = first.split
    skips = SkipCounter(split.found, split.max_unreadable, split.name, list(split.checked.unreadable))
    with contextlib.ExitStack() as stack:
        # in one order in every run, so that no two of them wait for each other
        jobs = [
            _Job(r, stack.enter_context(store.writer(r.key, r.about(), r.layers, dtype)))
            for r in sorted(requests, key=lambda r: r.key)
        ]
        # another run may have finished the very same states while this one waited for the lock
        jobs = [j for j in jobs if store.find(j.request.key, j.request.layers) is None]
        if not jobs:
            return True
        jobs.sort(key=lambda j: requests.index(j.request))
        for name, why in {entry: None for j in jobs for entry in j.writer.skipped}:
            skips.skip(name, why)
        with rounded_once(first.upstream):
            if split.part and not any(j.before for j in jobs):
                _scale_as_one_process(split, jobs)
            _fill(jobs, skips, batch_size)
        for name, why in jobs[0].writer.skipped:
            logger.warning("%s: skipped %s (%s)", split.name, name, why)
        if split.part and not jobs[0].writer.written:
            return False
        for job in jobs:
            job.writer.finish()
    return True


@dataclass(eq=False)
class _Job:
    """A request, the writer that fills its entry, and the utterances that a killed run has left there."""

    request: Request
    writer: Writer
    before: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self.before = frozenset([*self.writer.written, *(u for u, _ in self.writer.skipped)])

    def write(
        self, behind: BackgroundWriter, utterances: Sequence[Utterance], hidden: Sequence[Sequence[Tensor]]
    ) -> None:
        """Have the hidden states (by utterance, by layer) of a batch written."""
        new = [(u.id, h) for u, h in zip(utterances, hidden, strict=True) if u.id not in self.before]
        if new:
            states = self.writer.to_float16([[h[n] for n in self.request.layers] for _, h in new])
            behind.do(functools.partial(self.writer.write, [u for u, _ in new], states))


def _fill(jobs: Sequence[_Job], skips: SkipCounter, batch_size: int) -> None:
    """Forward passes over what is missing; audio is read and hidden states are written beside them."""
    from ..upstreams.forward import extract, shortest_samples
    from ..upstreams.masking import Front
    from ..upstreams.precision import running_in

    request = jobs[0].request
    upstream, split = request.upstream, request.split
    size = batch_size or (CPU_BATCH if upstream.device == "cpu" else GPU_BATCH)
    views = {view: [j for j in jobs if j.request.view == view] for view in (j.request.view for j in jobs)}
    missing = [u for u in request.ordered if not all(u.id in j.before for j in jobs)]
    read = functools.partial(
        _read, shortest=shortest_samples(upstream), pinned=upstream.device.startswith("cuda")
    )
    seconds = {u: n / SAMPLE_RATE for u, n in split.checked.n_samples.items()}
    what = f"{len(views)} views" if len(views) > 2 else " and ".join(v.describe() for v in views)
    title = f"{upstream.name} {split.name}{split.part} {what}"
    total = len(views) * sum(seconds.values())
    with (
        tqdm(
            total=round(total), desc=title, unit="s", dynamic_ncols=True, leave=False, disable=not is_main()
        ) as bar,
        BackgroundWriter() as behind,
    ):
        bar.update(round(total - len(views) * sum(seconds[u.id] for u in missing)))
        for batch in prefetch(_batches(missing, split, size), read):
            for utterance, error in ((u, w) for u, w in batch if isinstance(w, AudioError)):
                _skip(utterance, str(error), jobs, skips, behind)
            kept = [(u, w) for u, w in batch if not isinstance(w, AudioError)]
            utterances, front = [u for u, _ in kept], Front()
            for view, of_view in views.items():
                if any(u.id not in j.before for u in utterances for j in of_view):
                    with running_in(upstream, of_view[0].request.precision):
                        hidden = extract(upstream, [w for _, w in kept], view, front)
                    for job in of_view:
                        job.write(behind, utterances, hidden)
                bar.update(round(sum(seconds[u.id] for u, _ in batch)))


def _skip(
    utterance: Utterance, why: str, jobs: Sequence[_Job], skips: SkipCounter, behind: BackgroundWriter
) -> None:
    """Leave out an utterance that cannot be read."""
    if not any(utterance.id in j.before for j in jobs):
        skips.skip(utterance.id, why)
    for job in jobs:
        if utterance.id not in job.before:
            behind.do(functools.partial(job.writer.skip, utterance.id, why))


def _scale_as_one_process(split: Split, jobs: Sequence[_Job]) -> None:
    """Let float16 values be rounded as in one process: by offset and scale of the whole split's first utterance.

    Rounded otherwise, k-means would end elsewhere, as with another seed (measured: 0.01 bits on 40 s of speech).
    """
    from ..upstreams.forward import extract, shortest_samples
    from ..upstreams.precision import running_in

    upstream = jobs[0].request.upstream
    for utterance in split.longest:
        with contextlib.suppress(AudioError):
            waveform = _waveform(utterance, shortest_samples(upstream))
            for view in {j.request.view: None for j in jobs}:
                of_view = [j for j in jobs if j.request.view == view]
                with running_in(upstream, of_view[0].request.precision):
                    hidden = extract(upstream, [waveform], view)[0]
                for job in of_view:
                    job.writer.begin([hidden[n] for n in job.request.layers])
            return


def _read(
    batch: Sequence[Utterance], shortest: int, pinned: bool
) -> list[tuple[Utterance, Tensor | AudioError]]:
    """The waveforms of some utterances, or why one cannot be read; `pinned`: ready to be copied to a GPU."""
    found: list[tuple[Utterance, Tensor | AudioError]] = []
    for utterance in batch:
        try:
            waveform = _waveform(utterance, shortest)
            found.append((utterance, waveform.pin_memory() if pinned else waveform))
        except AudioError as error:
            found.append((utterance, error))
    return found


def _waveform(utterance: Utterance, shortest: int) -> Tensor:
    import torch

    waveform = read_waveform(utterance)
    if len(waveform) < shortest:
        raise AudioError(f"{utterance.path}: {len(waveform)} samples, but the upstream needs {shortest}")
    return torch.from_numpy(waveform)


def _batches(utterances: Sequence[Utterance], split: Split, size: int) -> Iterator[list[Utterance]]:
    """Neighbours in length, `size` at most, fewer where they are long or differ much."""
    batch: list[Utterance] = []
    for utterance in utterances:
        longest = split.checked.n_samples[batch[0].id] if batch else 0
        too_long = longest * (len(batch) + 1) > BATCH_SECONDS * size * SAMPLE_RATE
        padded = split.checked.n_samples[utterance.id] < SHORTEST_OF_BATCH * longest
        if batch and (len(batch) >= size or too_long or padded):
            yield batch
            batch = []
        batch.append(utterance)
    if batch:
        yield batch
