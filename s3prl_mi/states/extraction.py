"""Splits of speech -> hidden states in the store, each utterance's every layer from one forward pass.

Batches are formed over the whole split. Several processes share them: each takes a run of consecutive ones, about equal
in seconds of audio, so that the stored bits are the same for any number of processes.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm import tqdm

from ..core.distributed import gather, is_main, world
from ..core.errors import MIError, is_out_of_memory
from ..core.threads import BackgroundWriter, prefetch
from ..core.types import SAMPLE_RATE
from ..data.audio import AudioError, SkipCounter, read_waveform, waveform_hash
from ..data.splits import Split
from ..data.utterances import Utterance
from .entry import Entry
from .journal import Bounds
from .memory_store import MemoryStore
from .store import Store, in_use, key_of
from .writer import TooCoarse, Writer

if TYPE_CHECKING:
    from torch import Tensor

    from ..upstreams.loading import Upstream
    from ..upstreams.masking import Front
    from ..upstreams.views import View

logger = logging.getLogger(__name__)

CPU_BATCH, GPU_BATCH = 4, 16
"""Utterances per forward pass where the config leaves it open."""

BATCH_SECONDS = 30
"""Mean length per utterance up to which a batch is filled: longer ones make smaller batches."""

SHORTEST_OF_BATCH = 0.8
"""Fraction of the longest utterance's length below which one is not padded to it, but begins another batch."""


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
    def key(self) -> str:
        """Names the hidden states by everything that determines them; all processes ask at the same time."""
        audio = [[u.id, self.split.hashes[u.id]] for u in self.split.longest_first]
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
            "split": self.split.name,
            "utterances": len(self.split.utterances),
            "seconds": round(self.split.seconds, 1),
        }

    def bytes(self, dims: Sequence[int], wide: bool = False) -> int:
        """What layers of these dimensions take; `wide`: float16 turned out to be too coarse."""
        geometry = self.upstream.geometry_of(self.layers[0])
        counts = [(geometry.n_frames(n), n) for n in self.split.n_samples.values()]
        frames = sum(-(-n // geometry.stride) if count is None else count for count, n in counts)
        return frames * sum(dims) * (4 if wide or self.dtype == "float32" else 2)


def extract(
    store: Store | MemoryStore, requests: Sequence[Request], batch_size: int = 0, wide: bool = False
) -> list[Entry]:
    """Find hidden states in the store, or extract them into it; all processes do so at the same time.

    Args:
        store: the store. What lies on disk is extracted by all processes together, what lies in memory by each.
        requests: what is wanted; all of one upstream and split, asked for in one precision. Those of one view (an
            upstream of several frame rates has a request for each rate) share a forward pass, and all views share its
            convolutions.
        batch_size: utterances per forward pass; 0: by device. It changes hidden states by rounding errors only.
        wide: whether float16 is known to be too coarse, so that it need not be tried.

    Raises:
        MIError: too many unreadable files, NaN or infinite hidden states, or float16 asked for where it is too
            coarse.
        InsufficientSpace: float16 is too coarse, and the store cannot hold twice as much.
    """
    first = requests[0]
    for dtype in ("float32",) if wide or first.dtype == "float32" else ("float16", "float32"):
        missing = _missing(store, requests)
        if not missing:
            break
        try:
            _extract(store, missing, dtype, batch_size)
        except FileNotFoundError as error:  # a missing recording is an AudioError
            raise MIError(
                f"{error.filename}: removed while this run wrote hidden states there. Run again with -a, with nobody "
                "else clearing the store."
            ) from error
        except TooCoarse:
            if first.dtype == "float16":
                raise MIError(
                    f"hidden states of {first.upstream.name} lose too much as float16. Set config key "
                    "downstream_expert.store.dtype to auto or float32."
                ) from None
            logger.info("float16 is too coarse for %s: extracting again as float32.", first.upstream.name)
            dims = dims_of(first.upstream)
            needed = sum(r.bytes([dims[n] for n in r.layers], wide=True) for r in missing)
            store.make_room(needed, in_use(), [r.key for r in missing])
    entries = [entry for r in requests if (entry := store.find(r.key, r.layers)) is not None]
    if len(entries) < len(requests):
        raise MIError(
            f"hidden states of {requests[0].split.name} in {store.root} were removed by another run. Raise "
            "downstream_expert.store.max_gb, or give this run a store of its own (downstream_expert.store.root)."
        )
    return entries


def _missing(store: Store | MemoryStore, requests: Sequence[Request]) -> list[Request]:
    """Those that nothing serves yet, as rank 0 sees it."""
    missing = [n for n, r in enumerate(requests) if store.find(r.key, r.layers) is None]
    return [requests[n] for n in (gather(missing)[0] if store.shared else missing)]


def dims_of(upstream: Upstream) -> list[int]:
    """Dimensions of the upstream's hidden states."""
    import torch

    from ..upstreams.forward import hidden_states

    noise = torch.randn(SAMPLE_RATE, generator=torch.Generator().manual_seed(0))
    return [h.shape[1] for h in hidden_states(upstream, [noise])[0]]


def _extract(store: Store | MemoryStore, requests: Sequence[Request], dtype: str, batch_size: int) -> None:
    """Run the upstream over a split, from where a killed run left off."""
    from ..upstreams.precision import rounded_once

    first = requests[0]
    split = first.split
    size = batch_size or (CPU_BATCH if first.upstream.device == "cpu" else GPU_BATCH)
    batches = batches_of(split, size)
    counter = functools.partial(SkipCounter, split.found, split.max_unreadable, split.name)
    skips = counter([*split.unreadable])
    with contextlib.ExitStack() as stack:
        # in one order in every run, so that no two of them wait for each other
        jobs = [
            _Job(r, stack.enter_context(store.writer(r.key, r.about(), r.layers, dtype, list(batches))))
            for r in sorted(requests, key=lambda r: r.key)
        ]
        # another run may have finished the very same states while this one waited for the lock
        missing = _missing(store, [j.request for j in jobs])
        jobs = [j for r in requests for j in jobs if j.request is r and r in missing]
        if not jobs:
            return
        for utterance, why in dict(s for j in jobs for w in j.writer.done.values() for s in w.skipped).items():
            skips.skip(utterance, why)
        with rounded_once(first.upstream):
            too_coarse = _fill(jobs, batches, skips, store.shared)
        skipped = jobs[0].writer.skipped()
        counter([*split.unreadable, *skipped]).check()
        if is_main():
            for utterance, why in skipped:
                logger.warning("%s: skipped %s (%s)", split.name, utterance, why)
        if any(gather(too_coarse) if store.shared else [too_coarse]):
            raise TooCoarse
        for job in jobs:
            job.writer.finish()


class _Job(NamedTuple):
    """A request, and the writer that fills its entry."""

    request: Request
    writer: Writer


def batches_of(split: Split, size: int) -> dict[Bounds, list[Utterance]]:
    """Neighbours in length, `size` at most, fewer where they are long or differ much."""
    lengths, ordered = split.n_samples, split.longest_first
    batches: dict[Bounds, list[Utterance]] = {}
    start = 0
    for stop in range(1, len(ordered) + 1):
        longest = lengths[ordered[start].id]
        full = stop - start >= size or longest * (stop - start + 1) > BATCH_SECONDS * size * SAMPLE_RATE
        if stop == len(ordered) or full or lengths[ordered[stop].id] < SHORTEST_OF_BATCH * longest:
            batches[start, stop] = ordered[start:stop]
            start = stop
    return batches


def share(batches: Sequence[Bounds], seconds: Sequence[float], rank: int, size: int) -> list[Bounds]:
    """What falls to one of several processes: a run of consecutive batches, about equal in seconds.

    Example:
        >>> [share([(0, 1), (1, 2), (2, 5)], [4, 2, 2], rank, 2) for rank in range(2)]
        [[(0, 1)], [(1, 2), (2, 5)]]
    """
    ends = list(itertools.accumulate(seconds, initial=0.0))
    middles = [(a + b) / 2 for a, b in itertools.pairwise(ends)]
    return [b for b, middle in zip(batches, middles, strict=True) if int(middle * size / ends[-1]) == rank]


def _fill(jobs: Sequence[_Job], batches: dict[Bounds, list[Utterance]], skips: SkipCounter, shared: bool) -> bool:
    """Forward passes over what is missing, while audio is read and states written; whether float16 is too coarse."""
    from ..upstreams.forward import shortest_samples
    from ..upstreams.masking import Front
    from ..upstreams.precision import running_in

    upstream, split = jobs[0].request.upstream, jobs[0].request.split
    views = {view: [j for j in jobs if j.request.view == view] for view in (j.request.view for j in jobs)}
    seconds = {b: sum(split.n_samples[u.id] for u in us) / SAMPLE_RATE for b, us in batches.items()}
    missing = [b for b in batches if not all(b in j.writer.done for j in jobs)]
    here = world()
    own = share(missing, [seconds[b] for b in missing], here.rank, here.size) if shared else missing
    total = sum(seconds[b] for b in (own if shared and here.size > 1 else batches))
    read = functools.partial(_read, shortest=shortest_samples(upstream), pinned=upstream.device.startswith("cuda"))
    what = f"{len(views)} views" if len(views) > 2 else " and ".join(v.describe() for v in views)
    bar = tqdm(
        total=round(len(views) * total),
        initial=round(len(views) * (total - sum(seconds[b] for b in own))),
        desc=f"{upstream.name} {split.name} {what}",
        unit="s",
        dynamic_ncols=True,
        leave=False,
        disable=not is_main(),
    )
    too_coarse = False
    try:
        with bar, BackgroundWriter() as background:
            passes = _Passes(upstream)
            for bounds, found in zip(own, prefetch([batches[b] for b in own], read), strict=True):
                skipped = [(u.id, str(w)) for u, w in found if isinstance(w, AudioError)]
                for utterance, why in skipped:
                    if utterance not in dict(skips.skipped):
                        skips.skip(utterance, why)
                kept = [(u.id, w) for u, w in found if not isinstance(w, AudioError)]
                waveforms = [waveform_hash(w.numpy()) for _, w in kept]
                front = Front()
                for view, of_view in views.items():
                    todo = [j for j in of_view if bounds not in j.writer.done]
                    hidden: Sequence[Sequence[Tensor]] = []
                    if todo and kept:
                        with running_in(upstream, todo[0].request.precision):
                            hidden = passes(kept, view, front)
                    if any(len(h) <= max(j.request.layers) for h in hidden for j in todo):
                        raise MIError(
                            f"upstream {upstream.name!r} returns fewer layers for some speech than for other."
                        )
                    for job in todo:
                        states = job.writer.encode([[h[n] for n in job.request.layers] for h in hidden])
                        ids = [u for u, _ in kept]
                        background.submit(functools.partial(job.writer.write, bounds, ids, states, skipped, waveforms))
                    bar.update(round(seconds[bounds]))
    except TooCoarse:
        too_coarse = True
    for job in (j for of_view in views.values() for j in of_view if not j.writer.begun):
        job.writer.begin(None)  # other processes wait for it
    return too_coarse


class _Passes:
    """Forward passes over batches: one that does not fit into memory is halved, as are others of that size after it."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream, self._fits = upstream, float("inf")

    def __call__(self, batch: Sequence[tuple[str, Tensor]], view: View, front: Front | None) -> list[list[Tensor]]:
        """Hidden states of utterances, (id, waveform) each; those of a batch that was halved are on the CPU.

        Raises:
            MIError: there is too little memory for one utterance.
        """
        from ..upstreams.forward import hidden_states

        longest, waveform = max(batch, key=lambda b: len(b[1]))
        padded = len(batch) * len(waveform)
        if padded <= self._fits or len(batch) == 1:
            try:
                return hidden_states(self._upstream, [w for _, w in batch], view, front)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                which = f"{longest} ({len(waveform) / SAMPLE_RATE:.1f} s)"
                if len(batch) == 1:
                    raise MIError(
                        f"out of memory in a forward pass over one utterance, {which}. Leave long utterances out "
                        "with config key downstream_expert.datarc.max_seconds."
                    ) from error
            # from here on nothing refers to the error, which keeps alive what the forward pass has allocated
            what = "out of memory in a forward pass over %d utterances, the longest of them %s"
            logger.warning(f"{what}: batches as large as this are halved.", len(batch), which)
            self._fits = padded // 2
        if front is not None:  # features of the whole batch
            front.made.clear()
        middle = len(batch) // 2
        return [[h.cpu() for h in u] for half in (batch[:middle], batch[middle:]) for u in self(half, view, None)]


def _read(batch: Sequence[Utterance], shortest: int, pinned: bool) -> list[tuple[Utterance, Tensor | AudioError]]:
    """The waveforms of some utterances, or why one cannot be read; `pinned`: ready to be copied to a GPU."""
    import torch

    found: list[tuple[Utterance, Tensor | AudioError]] = []
    for utterance in batch:
        try:
            samples = read_waveform(utterance)
            if len(samples) < shortest:
                raise AudioError(f"{utterance.path}: {len(samples)} samples, but the upstream needs {shortest}")
            waveform = torch.from_numpy(samples)
            found.append((utterance, waveform.pin_memory() if pinned else waveform))
        except AudioError as error:
            found.append((utterance, error))
    return found
