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
from .growth import Clock, measured
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
        values = {"datarc.libri_root": str(args.libri_root), "seeds": args.seeds, "probes": args.probes}
        aligned: dict[str, object] = {"datarc.alignments.path": str(args.libri_root / "alignments")}
        for task, *clocks in both_tasks(folder, ["-u", "hubert_local", "-k", str(checkpoint)], values, aligned):
            for at, (what, clock) in enumerate(zip(("extraction", "estimation"), clocks, strict=True)):
                totals[at] += clock.wall
                yield Row(f"{task}: {what}", clock.wall, note=f"processor {clock.cpu:.1f} s")
        yield Row("extraction, both tasks", totals[0])
        share = totals[1] / totals[0]
        yield Row("estimation, both tasks", totals[1], None, "extraction, both tasks", f"{share:.2f} of extraction")


def both_tasks(
    folder: Path, model: list[str], values: dict[str, object], aligned: dict[str, object], device: str = "cpu"
) -> Iterator[tuple[str, Clock, Clock]]:
    """Each task by the command line, with one store: its name, extraction, estimation.

    `values` are config keys, `aligned` more of them for mi_supervised.
    """
    for task in TASKS:
        settings = {"store.root": str(folder / "store"), **values, **(aligned if task == "mi_supervised" else {})}
        override = ",,".join(f"config.downstream_expert.{k}={v!r}" for k, v in settings.items())
        words = ["-m", "train", "-d", task, *model, "-p", str(folder / task), "--device", device, "-o", override]
        yield (task, *measured(words))
