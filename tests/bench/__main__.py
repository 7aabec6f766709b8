"""Benchmarks: python -m tests.bench CASE [options]; each prints ratios measured in one run.

Without a case: all of them, with their defaults. What each measures is said in its module and by CASE --help.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from collections.abc import Callable, Iterator
from types import ModuleType

import torch

from . import coverage, estimation, extraction, gpu, growth, jobs, memory, processes, reuse_states, same_bits, whole
from .table import Row, show

Case = Callable[[argparse.Namespace], Iterator[Row]]
CASES: dict[str, tuple[ModuleType, Case]] = {
    "extraction": (extraction, extraction.extraction),
    "sklearn": (estimation, estimation.sklearn),
    "mlp": (estimation, estimation.mlp),
    "seeds": (estimation, estimation.seeds),
    "whole": (whole, whole.whole),
    "gpu": (gpu, gpu.gpu),
    "growth": (jobs, growth.growth),
    "memory": (jobs, memory.memory),
    "processes": (jobs, processes.processes),
    "same_bits": (same_bits, same_bits.same_bits),
    "coverage": (coverage, coverage.coverage),
    "reuse_states": (reuse_states, reuse_states.reuse_states),
}


def main(arguments: list[str] | None = None) -> None:
    """Run the case that is named, or all."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="CASE", dest="case")
    for name, (module, case) in CASES.items():
        about = (case.__doc__ or "").replace("%", "%%")
        one = commands.add_parser(name, help=about.splitlines()[0], description=about)
        module.add_arguments(one)
        one.add_argument("--threads", type=int, default=os.cpu_count(), help="all cores by default")
    named = parser.parse_args(arguments).case
    for name in [named] if named else CASES:
        args = parser.parse_args(arguments) if named else parser.parse_args([name])
        if name == "gpu" and not named and not torch.cuda.is_available():
            continue
        torch.set_num_threads(args.threads)
        show(CASES[name][1](args), name)


if __name__ == "__main__":
    main()
