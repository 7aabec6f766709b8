"""How time grows with audio, layers, seeds, cluster counts and probes: extraction and estimation apart.

    python -m tests.bench growth --minutes 3 6 12

One process, so that nothing is imported twice; a small trained model. `seconds` are wall time; the note tells processor
time, and how many times that of the first row of its kind.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import jobs
from .table import Row

MINUTES = (3.2, 6.4, 12.8)
LAYERS = ([3], [1, 3, 5], [0, 1, 2, 3, 4, 5, 6])
SEEDS = (1, 2, 5)
CLUSTERS = ([50], [25, 50], [25, 50, 75, 100])
PROBES = (["logistic"], ["logistic", "mlp"])


@dataclass
class Clock:
    """Wall and processor seconds spent inside of a function."""

    wall: float = 0.0
    cpu: float = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.wall += time.perf_counter() - wall
                self.cpu += time.process_time() - cpu

        return timed


def growth(args: argparse.Namespace) -> Iterator[Row]:
    """Rows of each kind: what grows, how much more it takes."""
    import torch

    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        lengths = args.minutes or MINUTES
        lists = [jobs.manifest(folder, args.libri_root, m) for m in lengths]
        stores: dict[str, object] = {"store.root": str(folder / "store"), "layers": LAYERS[-1]}
        _job(args, folder, "warm", jobs.manifest(folder, args.libri_root, 0.5), {"layers": [0]})
        first: dict[str, Clock] = {}
        for minutes, listed in zip(lengths, lists, strict=True):
            extraction, estimation = _job(args, folder, f"audio-{minutes:g}", listed, stores)
            yield _row(first, "extraction", f"{minutes:g} min", f"{len(LAYERS[-1])} layers", extraction)
            yield _row(first, "estimation", f"{minutes:g} min", f"{len(LAYERS[-1])} layers", estimation)
        sweeps: list[tuple[str, str, Any]] = [
            *(("layers", f"{len(value)} of the layers", {"layers": value}) for value in LAYERS),
            *(("seeds", f"{value} seeds", {"seeds": value}) for value in SEEDS),
            *(("clusters", f"{len(value)} cluster counts", {"clusters": value}) for value in CLUSTERS),
            *(("probes", " and ".join(value), {"probes": value}) for value in PROBES),
        ]
        if args.task == "mi_supervised":
            sweeps = [s for s in sweeps if s[0] != "clusters"]
        for number, (kind, what, settings) in enumerate(sweeps):
            one = {**stores, "layers": [3], **settings}
            _, estimation = _job(args, folder, f"sweep-{number}", lists[1 % len(lists)], one)
            yield _row(first, kind, what, "estimation", estimation)


def _row(first: dict[str, Clock], kind: str, what: str, of: str, clock: Clock) -> Row:
    base = first.setdefault(kind, clock)
    return Row(
        f"{kind}: {what}, {of}",
        clock.wall,
        note=f"processor {clock.cpu:.1f} s, {clock.cpu / base.cpu:.2f} of the first",
    )


def _job(
    args: argparse.Namespace, folder: Path, name: str, listed: Path, settings: dict[str, object]
) -> tuple[Clock, Clock]:
    """Extraction and estimation of one job."""
    return measured(jobs.words_of(args, folder, name, listed, settings))


def measured(words: Sequence[str]) -> tuple[Clock, Clock]:
    """Extraction and estimation of one command line of `run_downstream.py`, in this process.

    Raises:
        RuntimeError: it has failed; with what it said.
    """
    from s3prl_mi.cli.run_downstream import main
    from s3prl_mi.experiment import fit
    from s3prl_mi.states import provider

    extraction, estimation = Clock(), Clock()
    before = provider.extract, fit.measure
    provider.extract = extraction.around(before[0])
    fit.measure = estimation.around(before[1])
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            status = main(list(words))
    finally:
        provider.extract, fit.measure = before
    if status:
        raise RuntimeError(said.getvalue()[-2000:])
    return extraction, estimation
