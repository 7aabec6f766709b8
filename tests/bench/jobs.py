"""Whole jobs of `run_downstream.py` in processes of their own, on a corpus repeated to any length."""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile

from tests.helpers.paths import MINI, REPO, SHARED


@dataclass(frozen=True)
class Job:
    """What a finished process took: wall and processor seconds, peak resident memory in GB, and what it said."""

    seconds: float
    cpu: float
    peak_gb: float
    said: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Data and model of the cases that run whole jobs."""
    group = parser.add_argument_group("memory, growth")
    corpus = MINI
    group.add_argument("--libri_root", type=Path, default=corpus, help="folder with dev-other and test-other")
    group.add_argument("--upstream", default="hubert_local")
    group.add_argument("--ckpt", type=Path, default=SHARED / "checkpoints" / "hubert2-001800.pt")
    group.add_argument("--task", default="mi_views", choices=["mi_views", "mi_supervised"])
    group.add_argument("--store_mode", default="disk")
    group.add_argument("--layers", default="all", help="memory: all, or last")
    group.add_argument("--minutes", type=float, nargs="+", help="lengths of audio, fit and eval together")


def run(words: Sequence[str], threads: int) -> Job:
    """Run a Python process to its end.

    Raises:
        RuntimeError: it has failed; with what it said.
    """
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": "10000"}
    with tempfile.TemporaryFile("w+") as output:
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, *words], cwd=REPO, env=env, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)  # the peak of this process alone
        took = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        said = output.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)} has failed:\n{said[-2000:]}")
    return Job(took, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9, said)


def manifest(folder: Path, libri_root: Path, minutes: float) -> Path:
    """A list of utterances that lasts so long: dev-other to fit on, test-other to score, again and again.

    A repeated utterance has an id of its own; its audio, and so the time and memory that it takes, is that of the
    first.
    """
    path = folder / f"{minutes:g}.tsv"
    alignments = libri_root / "alignments"
    files = {split: sorted((libri_root / split).rglob("*.flac")) for split in ("dev-other", "test-other")}
    lengths = {p: soundfile.info(p).duration for found in files.values() for p in found}
    whole = sum(lengths.values())
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(["split", "audio", "id", "speaker", "alignment"])
        for split, found in files.items():
            left = 60 * minutes * sum(lengths[p] for p in found) / whole
            for copy in range(10**6):
                if left <= 0:
                    break
                # every copy begins elsewhere, so that a part of one holds all speakers
                for audio in found[copy % len(found) :: 7] if left < 60 else found:
                    if left <= 0:
                        break
                    labels = alignments / audio.relative_to(libri_root).with_suffix(".TextGrid")
                    writer.writerow([split, audio, f"{audio.stem}-{copy}", audio.parts[-3], labels])
                    left -= lengths[audio]
    return path


def words_of(args: argparse.Namespace, folder: Path, name: str, listed: Path, settings: dict[str, object]) -> list[str]:
    """The command line of one job on a manifest; the store is new unless `settings` names one."""
    values = {
        "datarc.manifest": str(listed),
        "store.root": str(folder / f"store-{name}"),
        "store.mode": args.store_mode,
        "probes": ["logistic"],
        "seeds": 1,
        **settings,
    }
    override = ",,".join(f"config.downstream_expert.{key}={value!r}" for key, value in values.items())
    model = ["-u", args.upstream] + (["-k", str(args.ckpt)] if args.upstream.endswith("local") else [])
    place = ["-p", str(folder / name), "--device", "cpu"]
    return ["-m", "train", "-d", args.task, *model, *place, "-o", override]
