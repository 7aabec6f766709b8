"""The fault campaign: python -m tests.faults [--part NAME] [--only WORD] [--short]; prints what came of it."""

from __future__ import annotations

import argparse
import importlib
import os
import resource
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.faults.campaign import VERDICTS, Case, judge

PARTS = ("checkpoints", "store", "experiments", "runs", "arguments", "stock", "processes")


def main() -> int:
    """Try all cases; 0 where each was clean."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--part", choices=PARTS, action="append", help="only cases of this module")
    parser.add_argument("--only", default="", metavar="WORD", help="only cases whose name has it")
    parser.add_argument("--short", action="store_true", help="only the cases that the test suite has too")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # read as torch is loaded; processes are forked
    from tests.faults import base

    base.REAL[0] = base.MINI.is_dir()
    print(f"speech: {base.MINI if base.REAL[0] else 'noise bands, as there is no ' + str(base.MINI)}")
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))  # what takes more takes nobody else along
    counts: Counter[str] = Counter()
    print(f"{'part':14}{'tried':>7}" + "".join(f"{v:>11}" for v in VERDICTS), flush=True)
    for part in args.part or PARTS:
        found = Counter(run(part, args.only, args.short))
        counts += found
        print(f"{part:14}{found.total():7}" + "".join(f"{found[v]:11}" for v in VERDICTS), flush=True)
    print(f"{'all':14}{counts.total():7}" + "".join(f"{counts[v]:11}" for v in VERDICTS))
    return int(counts.total() > counts["clean"])


def run(part: str, word: str, short: bool) -> list[str]:
    """The verdicts on the cases of one module; all but clean ones are shown as they come."""
    module = importlib.import_module(f"tests.faults.{part}")
    cases: list[Case] = [*module.CASES, *([] if short else getattr(module, "LONG", ()))]
    verdicts = []
    for case in (c for c in cases if word in c.name):
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            verdict, detail = judge(case, Path(folder) / "case")
        if verdict != "clean":
            print(f"  {verdict}: {case.name}: {detail}", file=sys.stderr, flush=True)
        verdicts.append(verdict)
    return verdicts


if __name__ == "__main__":
    sys.exit(main())
