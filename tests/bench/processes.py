"""What a second process saves: extraction and estimation of all layers, one thread per process, start-up apart.

Start-up is the time of the same command with -a on the finished experiment, which loads everything and repeats nothing.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from . import jobs
from .table import Row


def processes(args: argparse.Namespace) -> Iterator[Row]:
    """One process against two on this machine's cores (torchrun); ratio: how many times as fast."""
    with tempfile.TemporaryDirectory() as scratch:
        for count in (1, 2):
            out = Path(scratch) / str(count)
            words = _command(args, count, out)
            whole, start_up = jobs.run(words, 1).seconds, jobs.run([*words, "-a"], 1).seconds
            note = f"start-up {start_up:.1f} s apart"
            yield Row(
                f"{count} process(es)", whole - start_up, baseline="1 process(es)" if count > 1 else None, note=note
            )


def _command(args: argparse.Namespace, count: int, out: Path) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(count)] if count > 1 else []
    words = ["-m", "s3prl_mi.run_downstream", "-m", "train", "-d", args.task, "-u", args.upstream, "-k", str(args.ckpt)]
    override = (
        f"config.downstream_expert.datarc.libri_root='{args.libri_root}',,config.downstream_expert.layers='all',,"
        f"config.downstream_expert.datarc.alignments.path='{args.libri_root / 'alignments'}',,"
        f"config.downstream_expert.store.root='{out / 'store'}'"
    )
    return [*launcher, *words, "-p", str(out / "experiment"), "-o", override, "--device", "cpu"]
