"""Both tasks on LibriSpeech-mini with a HuBERT of base size: how long is extraction, how long is estimation?

    python -m tests.bench whole

All 13 layers, 5 seeds, both probes; random weights, real architecture; through `run_downstream.py`. The supervised task
finds the unmasked view in the store.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from tests.helpers.paths import MINI

from . import extraction
from .growth import measured
from .table import Row

TASKS = ("mi_views", "mi_supervised")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Data, model, and what is asked for."""
    corpus = MINI
    parser.add_argument("--libri_root", type=Path, default=corpus, help="with a folder alignments")
    parser.add_argument("-k", "--ckpt", type=Path, help="of hubert_local, instead of random weights of base size")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--probes", nargs="+", default=["logistic", "mlp"])


def whole(args: argparse.Namespace) -> Iterator[Row]:
    """Extraction and estimation of both tasks: all layers, 5 seeds, both probes."""
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        checkpoint = args.ckpt or extraction.build_base(folder / "base.pt")
        totals = [0.0, 0.0]
        for task in TASKS:
            values: dict[str, object] = {
                "datarc.libri_root": str(args.libri_root),
                "store.root": str(folder / "store"),
                "seeds": args.seeds,
                "probes": args.probes,
            }
            if task == "mi_supervised":
                values["datarc.alignments.path"] = str(args.libri_root / "alignments")
            override = ",,".join(f"config.downstream_expert.{k}={v!r}" for k, v in values.items())
            model = ["-u", "hubert_local", "-k", str(checkpoint)]
            place = ["-p", str(folder / task), "--device", "cpu", "-o", override]
            extracting, estimating = measured(["-m", "train", "-d", task, *model, *place])
            for at, (what, clock) in enumerate((("extraction", extracting), ("estimation", estimating))):
                totals[at] += clock.wall
                yield Row(f"{task}: {what}", clock.wall, note=f"processor {clock.cpu:.1f} s")
        yield Row("extraction, both tasks", totals[0])
        share = totals[1] / totals[0]
        yield Row("estimation, both tasks", totals[1], None, "extraction, both tasks", f"{share:.2f} of extraction")
