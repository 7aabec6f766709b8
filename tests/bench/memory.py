"""Peak resident memory of whole jobs, by length of audio.

    python -m tests.bench memory --minutes 10 60 300
    python -m tests.bench memory --task mi_supervised --minutes 10 60

Each length is a process of its own: audio to records, one probe, one seed, all layers, mask view (or labels). `beyond`
is the peak less that of a process that imports the same, loads the model and runs it once on the longest utterance.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from . import jobs
from .table import Row

MINUTES = (10.0, 60.0, 300.0)

_FORWARD = """
import sys
import torch
import s3prl_mi.experiment.run
from s3prl_mi.upstreams.forward import hidden_states
from s3prl_mi.upstreams.loading import load_upstream
upstream = load_upstream(sys.argv[1], sys.argv[2] if sys.argv[2] != "None" else None)
hidden_states(upstream, [torch.randn(int(16000 * float(sys.argv[3])))])
"""


def memory(args: argparse.Namespace) -> Iterator[Row]:
    """The peak of each length, and of model and framework alone."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        ckpt = str(args.ckpt) if args.upstream.endswith("local") else "None"
        bare = jobs.run(["-c", _FORWARD, args.upstream, ckpt, "35"], args.threads)
        yield Row("model and framework, one forward pass of 35 s", bare.seconds, note=f"{bare.peak_gb:.2f} GB")
        for minutes in args.minutes or MINUTES:
            listed = jobs.manifest(folder, args.libri_root, minutes)
            words = jobs.words_of(args, folder, f"{minutes:g}", listed, {"layers": args.layers})
            job = jobs.run(["-m", "s3prl_mi.run_downstream", *words], args.threads)
            stored = sum(p.stat().st_size for p in (folder / f"store-{minutes:g}").rglob("*.bin"))
            shutil.rmtree(folder / f"store-{minutes:g}", ignore_errors=True)
            yield Row(
                f"{args.task}, {minutes:g} min of audio, layers: {args.layers}",
                job.seconds,
                note=f"{job.peak_gb:.2f} GB, {job.peak_gb - bare.peak_gb:.2f} beyond; {stored / 1e9:.2f} GB stored",
            )
