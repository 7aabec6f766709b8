"""How often the interval over speakers holds the value of all speakers, on real units and phones of 73 speakers.

Units of SpidR's layer 6 stand for Z, phones for Y (../shared/data/spidr). The conditional frequencies of 20 speakers
are the probe; of the other 53 some are drawn, many times, and the interval of their bound is compared with the bound of
all 53. Drawn with replacement, as from a population that is large beside them.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from s3prl_mi.estimators.intervals import GroupSums, Interval

from .jobs import SHARED
from .table import Row, timed

PHONES = "phoneme-dev-clean-and-other.jsonl.gz"
UNITS = "units-codebooks-spidr-l6-dev-clean-and-other.jsonl.gz"
N_UNITS = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the units are, and how often is drawn."""
    parser.add_argument("--spidr", type=Path, default=SHARED / "data" / "spidr", help="folder of units and phones")
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--speakers", type=int, nargs="+", default=[5, 10, 20, 36])


def _lines(path: Path, key: str) -> dict[str, list]:
    with gzip.open(path, "rt") as file:
        return {line["name"]: line[key] for line in map(json.loads, file)}


def joint_counts(folder: Path) -> np.ndarray:
    """Frames by speaker, unit and phone; each unit of 20 ms stands for two frames of 10 ms."""
    phones, units = _lines(folder / PHONES, "phones"), _lines(folder / UNITS, "units")
    number = {phone: i for i, phone in enumerate(sorted({p for found in phones.values() for p in found}))}
    of_speaker: dict[str, np.ndarray] = {}
    for name, found in sorted(units.items()):
        y = np.array([number[p] for p in phones[name]])
        z = np.repeat(found, 2)[: len(y)]
        counts = of_speaker.setdefault(name.split("-")[0], np.zeros((N_UNITS, len(number)), np.int64))
        np.add.at(counts, (z, y[: len(z)]), 1)
    return np.stack([of_speaker[s] for s in sorted(of_speaker)])


def coverage(args: argparse.Namespace) -> Iterator[Row]:
    """Coverage of the 95 % interval over speakers, by the number of eval speakers."""
    joint = joint_counts(args.spidr)
    rng = np.random.default_rng(0)
    fit = rng.choice(len(joint), 20, replace=False)
    q = joint[fit].sum(0) + 0.1
    loss = -(joint * np.log2(q / q.sum(1, keepdims=True))).sum((1, 2))
    frames, rest = joint.sum(1), np.setdiff1d(np.arange(len(joint)), fit)

    def drawn(rows: np.ndarray) -> GroupSums:
        return GroupSums("speakers", tuple(map(str, range(len(rows)))), frames[rows], loss[rows])

    truth = drawn(rest).left_out().value
    for n in args.speakers:

        def draws(n: int = n) -> list[Interval]:
            return [drawn(rng.choice(rest, n)).left_out().interval() for _ in range(args.draws)]

        seconds, found = timed(draws)
        held = 100 * np.mean([not i.excludes(truth) for i in found])
        reach = np.mean([i.high - i.value for i in found if i.high is not None])
        note = f"coverage {held:.1f} %, half width {reach:.3f}, sd of the bound {np.std([i.value for i in found]):.3f}"
        yield Row(f"{n} of {len(rest)} speakers, {args.draws} draws", seconds, truth, note=note)
