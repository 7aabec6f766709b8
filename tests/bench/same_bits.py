"""Do two versions of this package give the same bits? Both tasks, all layers, both probes, from files to records.

Each version runs in processes of its own with an empty store, one after the other, so that seconds and memory can be
compared too (extraction and start-up included).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from s3prl_mi.core.files import PACKAGE

from .jobs import SHARED
from .table import Row

CORPUS, CHECKPOINTS = SHARED / "data" / "LibriSpeech-mini", SHARED / "checkpoints"
UPSTREAMS = {
    "fbank": ["-u", "fbank"],
    "apc-000960": ["-u", "apc_local", "-k", str(CHECKPOINTS / "apc-000960.ckpt")],
    "hubert2-001800": ["-u", "hubert_local", "-k", str(CHECKPOINTS / "hubert2-001800.pt")],
}
NAMES_OF_VERSION_1 = {"frames": "scored_frames", "clusters": "n_clusters", "labels": "n_classes"}
IDENTITY = ("task", "layer", "probe", "view", "scored_frames", "n_clusters", "seed")
COMPARED = ("mi_lower_bound_bits", "entropy_bits", "cross_entropy_bits", "accuracy", "fit_frames", "eval_frames")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which versions."""
    parser.add_argument("--before", default="HEAD", help="a commit, or a folder with a checkout (default: %(default)s)")
    parser.add_argument("--upstreams", nargs="+", choices=UPSTREAMS, default=list(UPSTREAMS))
    parser.add_argument("--seeds", type=int, default=2)


def same_bits(args: argparse.Namespace) -> Iterator[Row]:
    """The records of another version and of this one; ratio: its seconds to ours."""
    with tempfile.TemporaryDirectory() as scratch:
        before = Path(args.before)
        if not before.is_dir():
            before = Path(scratch) / "checkout"
            subprocess.run(
                ["git", "-C", str(PACKAGE.parent), "worktree", "add", "--detach", str(before), args.before], check=True
            )
        for name in args.upstreams:
            for task in ("mi_views", "mi_supervised"):
                case = f"{task} {name}"
                seconds, memory, old = _measured(before, Path(scratch) / "before", task, name, args.seeds)
                yield Row(f"{case}, before", seconds, note=f"{memory:.2f} GB")
                seconds, memory, new = _measured(PACKAGE.parent, Path(scratch) / "now", task, name, args.seeds)
                note = f"{memory:.2f} GB, {len(new)} records, largest difference {_difference(old, new):.3g}"
                yield Row(f"{case}, now", seconds, baseline=f"{case}, before", note=note)


def _measured(source: Path, out: Path, task: str, name: str, seeds: int) -> tuple[float, float, dict[Any, Any]]:
    """Seconds, peak GB and the records of one experiment, run by the package in a folder."""
    data = "config.downstream_expert.datarc"
    override = (
        f"{data}.libri_root='{CORPUS}',,{data}.alignments.path='{CORPUS / 'alignments'}',,"
        f"config.downstream_expert.seeds={seeds},,config.downstream_expert.probes=['logistic','mlp'],,"
        "config.downstream_expert.layers='all'"
    )
    folder = out / f"{task}-{name}"
    command = [sys.executable, "-m", "s3prl_mi.run_downstream", "-m", "train", "-d", task, "-p", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(source), "S3PRL_MI_STORE": str(out / "store")}
    began = time.perf_counter()
    out.mkdir(exist_ok=True)
    log = (out / f"{task}-{name}.log").open("w")
    process = subprocess.Popen([*command, "-o", override, *UPSTREAMS[name]], env=environment, stderr=log, stdout=log)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit((out / f"{task}-{name}.log").read_text())
    lines = (folder / "mi_results.jsonl").read_text().splitlines()
    records = [{NAMES_OF_VERSION_1.get(k, k): v for k, v in json.loads(line).items()} for line in lines]
    by_identity = {tuple(r[k] for k in IDENTITY): r for r in records}
    return time.perf_counter() - began, usage.ru_maxrss * 1024 / 1e9, by_identity


def _difference(old: dict[Any, Any], new: dict[Any, Any]) -> float:
    """The largest difference of any number compared; inf where the estimates are not the same ones."""
    if old.keys() != new.keys():
        return math.inf
    return max(abs(old[i][field] - new[i][field]) for i in old for field in COMPARED)
