"""`s3prl-mi units FILE --alignments PATH`: what anyone's discrete units tell about phones, without audio."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import MIError
from ..core.words import count

if TYPE_CHECKING:
    from ..estimators.intervals import FrameGroups, LeftOut
    from ..estimators.measures.sample import Coded

DESCRIPTION = """\
PNMI, purities and bits of discrete units against phones, with intervals over speakers.

FILE has one line per utterance: its name and its units, as text (`84-121-0001 5 5 17`) or JSON
({"name": "84-121-0001", "units": [5, 5, 17]}), also gzipped. PATH is alignments in any format that datarc.alignments
reads (TextGrids, CTM, PHN, ...), or JSON lines of a label per frame. Each unit is repeated so that it meets a label
every --label_ms, and both are cut to the shorter. Speakers are what a name has before its first hyphen.
Plug-in numbers count codes and phones of the same frames, as published ones do; held-out ones count on other speakers
(5 folds), so that rare units gain nothing.
"""
EPILOG = """\
examples:
  s3prl-mi units km500.txt --alignments librispeech_alignments
  s3prl-mi units units.jsonl.gz --alignments phones.jsonl.gz --unit_ms 40
"""
FOLDS = 5
SLACK_MS = 200.0
"""Units and labels of an utterance may end so far apart."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("file", type=Path, metavar="FILE", help="the units")
    parser.add_argument("--alignments", type=Path, required=True, metavar="PATH", help="the phones")
    parser.add_argument("--tier", default="phones", help="of alignments: phones or words (default: %(default)s)")
    parser.add_argument("--unit_ms", type=float, default=20.0, help="time from unit to unit (default: %(default)g)")
    parser.add_argument("--label_ms", type=float, default=10.0, help="time from label to label (default: %(default)g)")
    parser.add_argument("--silence", choices=["class", "drop"], default="class", help="drop: leave its frames out")


def run(args: argparse.Namespace) -> int:
    """Read, count, print.

    Raises:
        MIError: files that cannot be read or do not belong together.
    """
    frames, lines = _frames(args)
    lines += _table(*frames)
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _frames(args: argparse.Namespace) -> tuple[tuple[Coded, int, int], list[str]]:
    """Codes and labels of all frames, numbers of both, and what was read in words."""
    import numpy as np

    from ..data.units import is_silence, labels_for, read_sequences
    from ..estimators.intervals import FrameGroups
    from ..estimators.measures.sample import Coded

    repeat = args.unit_ms / args.label_ms if args.label_ms > 0 else 0
    if repeat < 1 or abs(repeat - round(repeat)) > 1e-9:
        raise MIError(f"--unit_ms {args.unit_ms:g}: expected a whole multiple of --label_ms {args.label_ms:g}.")
    repeat = round(repeat)
    units = read_sequences(args.file)
    wanted = {name: repeat * len(own) for name, own in units.items()}
    labels = labels_for(units, args.alignments, args.tier, args.label_ms / 1000, wanted)
    if not labels:
        raise MIError(
            f"{args.alignments}: no alignment of any utterance of {args.file}, such as {next(iter(units))!r}."
        )
    unit_ids: dict[Any, int] = {}
    label_ids: dict[Any, int] = {}
    codes, targets, owners = [], [], []
    for name, own in labels.items():
        _check_lengths(name, wanted[name], len(own), args)
        n = min(wanted[name], len(own))
        c = np.repeat([unit_ids.setdefault(str(u), len(unit_ids)) for u in units[name]], repeat)[:n]
        y = np.array([-1 if _skipped(v, args.silence, is_silence) else _number(label_ids, v) for v in own[:n]], int)
        codes.append(c[y >= 0])
        targets.append(y[y >= 0])
        owners.append(name)
    sizes = [len(y) for y in targets]
    if not sum(sizes):
        raise MIError(f"{args.alignments}: no frame with a label.")
    if len(label_ids) < 2:
        raise MIError(f"{args.alignments}: all frames have one label ({next(iter(label_ids))}): nothing to tell.")
    speakers = [name.partition("-")[0] for name in owners]
    known = all("-" in name for name in owners) and len(set(speakers)) > 1
    names, ids = np.unique(speakers if known else owners, return_inverse=True)
    over = "speakers" if known else "utterances"
    groups = FrameGroups(over, tuple(names.tolist()), np.repeat(ids, sizes).astype(np.int64))
    missing = len(units) - len(labels)
    lines = [
        f"{count(len(labels), 'utterance')}, {count(len(names), over.removesuffix('s'))}, {sum(sizes):,} frames of "
        f"{args.label_ms:g} ms" + (f"; {count(missing, 'utterance')} without an alignment left out" if missing else "")
    ]
    coded = Coded(np.concatenate(codes).astype(np.int64), np.concatenate(targets).astype(np.int64), groups)
    return (coded, len(unit_ids), len(label_ids)), lines


def _skipped(label: Any, silence: str, is_silence: Callable[[str], bool]) -> bool:
    return label is None or (silence == "drop" and is_silence(label))


def _number(ids: dict[Any, int], label: Any) -> int:
    return ids.setdefault(label, len(ids))


def _check_lengths(name: str, units: int, labels: int, args: argparse.Namespace) -> None:
    if abs(units - labels) * args.label_ms > SLACK_MS:
        raise MIError(
            f"utterance {name!r}: its units last {units * args.label_ms / 1000:g} s, its labels "
            f"{labels * args.label_ms / 1000:g} s. "
            f"Are --unit_ms {args.unit_ms:g} and --label_ms {args.label_ms:g} right?"
        )


def _table(coded: Coded, n_codes: int, n_labels: int) -> list[str]:
    """Units in use, then each number plug-in and held out, with its interval."""
    import numpy as np

    from ..estimators.folds import assign_folds
    from ..estimators.intervals import LeftOut
    from ..estimators.measures import units as u

    used, perplexity = u.code_statistics(coded.codes, n_codes)
    groups: FrameGroups = coded.groups
    own = [groups.ids == i for i in range(len(groups.names))]
    counts = np.stack([u.joint_counts(coded.codes[g], coded.labels[g], n_codes, n_labels) for g in own])
    of = LeftOut(groups.over, groups.names, math.nan, np.zeros(0))
    rows: dict[str, tuple[LeftOut, Callable[[u.HeldOut], float]]] = {
        "I(units;phones), bits": (u.plug_in(counts, u.information_bits, of), lambda h: h.bits),
        "PNMI": (u.plug_in(counts, u.normalised_information, of), lambda h: h.pnmi),
        "phone purity": (u.plug_in(counts, u.purity_of_labels, of), lambda h: h.phone_purity),
        "cluster purity": (u.plug_in(counts, u.purity_of_codes, of), lambda h: h.cluster_purity),
    }
    folds = assign_folds(groups.ids, FOLDS)
    parts = u.across_folds(coded.codes, coded.labels, groups, n_codes, n_labels, folds) if len(own) > 1 else []
    lines = [
        f"{used} units in use, perplexity {perplexity:.4f}; {n_labels} labels, entropy {_entropy(counts):.4f} bits",
        "",
    ]
    lines.append(f"{'':22} {'plug-in':30} held out")
    for title, (plug_in, function) in rows.items():
        held = "-"
        if parts:
            whole = sum(parts[1:], parts[0])
            without = np.array([function(whole - part) for part in parts])
            held = _shown(LeftOut(groups.over, groups.names, function(whole), without))
        lines.append(f"{title:22} {_shown(plug_in):30} {held}")
    return [*lines, "", f"[95 % over {groups.over}]"]


def _entropy(counts: Any) -> float:
    from ..estimators.bounds import entropy_bits

    return entropy_bits(counts.sum((0, 1)))


def _shown(value: LeftOut) -> str:
    i = value.interval()
    ends = "" if i.low is None else f" [{i.low:.4f}, {i.high:.4f}]"
    return f"{i.value:.7f}{ends}"
