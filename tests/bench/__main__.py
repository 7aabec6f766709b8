"""Named cases: python -m tests.bench [CASE...] [--dim D] [--frames N] [--threads T]. See each module's docstring.

`against_sklearn` has arguments of its own and runs alone: python -m tests.bench against_sklearn --help
"""

from __future__ import annotations

import argparse
import os
import sys

os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import numpy as np
import torch

from . import estimation
from .table import show

CASES = {"kmeans_logistic": estimation.kmeans_logistic, "mlp": estimation.mlp, "seeds": estimation.seeds}


def main() -> None:
    """Run the cases that are named, all by default."""
    if sys.argv[1:2] == ["against_sklearn"]:
        from . import against_sklearn

        del sys.argv[1]
        against_sklearn.main()
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"{', '.join(CASES)}, against_sklearn")
    parser.add_argument("--dim", type=int, default=192, help="dimensions of made frames")
    parser.add_argument("--frames", type=int, default=15_000, help="made fit frames")
    parser.add_argument("--frames_file", help="npz with za, zb_all, zb, g, eza, ezb instead of made frames")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    unknown = [c for c in args.cases if c not in CASES]
    if unknown:
        parser.error(f"unknown case {unknown[0]}: expected {', '.join(CASES)} or against_sklearn")
    torch.set_num_threads(args.threads)
    data = estimation.made_frames(args.frames, args.dim)
    if args.frames_file:
        with np.load(args.frames_file) as file:
            data = {name: file[name] for name in ("za", "zb_all", "zb", "g", "eza", "ezb")}
    show(row for case in args.cases or CASES for row in CASES[case](data))


if __name__ == "__main__":
    main()
