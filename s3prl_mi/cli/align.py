"""`s3prl-mi align`: phone and word TextGrids for speech that has transcripts only."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import MIError, nearest
from ..core.threads import available_cores

if TYPE_CHECKING:
    from ..data.forced_alignment.corpus import Tally
    from ..data.utterances import Utterance

DESCRIPTION = """\
Phone and word TextGrids from audio and transcripts, by forced alignment on the CPU with PocketSphinx (US English).
The same command continues a run that was interrupted; whole TextGrids are kept.
"""

EPILOG = """\
examples:
  s3prl-mi align --libri_root /data/LibriSpeech --split dev-other --split test-other --out alignments
  s3prl-mi align --manifest my.tsv --transcripts text --split train --out alignments --lexicon my-lexicon.txt

Transcripts: LibriSpeech's *.trans.txt, or <name>.lab / <name>.txt next to each audio file, or --transcripts.
Then: run_downstream.py -m train -d mi_supervised ... with config.downstream_expert.datarc.alignments.path='alignments'
"""

SHOWN_FAILURES = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--libri_root", type=Path, metavar="DIR", help="LibriSpeech's folder: <split>/<speaker>/<chapter>/*.flac"
    )
    source.add_argument(
        "--manifest", type=Path, metavar="TSV", help="columns audio and optionally split, id, speaker (as in datarc)"
    )
    parser.add_argument(
        "--split", action="append", required=True, metavar="NAME", help="e.g. dev-other; may be given several times"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the TextGrids")
    parser.add_argument(
        "--transcripts", type=Path, metavar="FILE", help="lines '<utterance id> <text>' (Kaldi's `text`)"
    )
    parser.add_argument(
        "--lexicon",
        type=Path,
        metavar="FILE",
        help="pronunciations that win over PocketSphinx's: lines 'WORD  PH PH', as librispeech-lexicon.txt",
    )
    parser.add_argument(
        "--jobs", type=int, default=available_cores(), metavar="N", help="processes (default: all cores, %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="also align what has a TextGrid already")
    parser.add_argument("--max_utterances", type=int, metavar="N", help="at most N of each split, for a quick look")


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Returns:
        0; 1 if no utterance has a TextGrid in the end.

    Raises:
        MIError: a mistake in the arguments or the data.
    """
    from ..data.forced_alignment.corpus import align_corpus

    if args.jobs < 1:
        raise MIError(f"--jobs must be at least 1, found {args.jobs}.")
    for option in ("lexicon", "transcripts", "manifest"):
        path = getattr(args, option)
        if path is not None and not path.is_file():
            raise MIError(f"--{option} {path}: no such file.")
    if args.out.exists() and not args.out.is_dir():
        raise MIError(f"--out {args.out}: is a file; name a folder.")
    splits = _utterances(args)
    tally = align_corpus(
        splits,
        args.out,
        root=args.libri_root,
        transcripts=args.transcripts,
        lexicon=args.lexicon,
        jobs=min(args.jobs, max(map(len, splits.values()))),
        overwrite=args.overwrite,
    )
    sys.stdout.write(summary(tally, args.out, args.jobs) + "\n")
    return 0 if tally.of("aligned") or tally.of("there") else 1


def _utterances(args: argparse.Namespace) -> dict[str, list[Utterance]]:
    """The utterances of each split, with messages that name this command's options."""
    from ..core.config import DataConfig
    from ..data.utterances import list_utterances

    names = list(dict.fromkeys(args.split))
    if args.libri_root is not None:
        if not args.libri_root.is_dir():
            raise MIError(f"--libri_root {args.libri_root}: no such folder.")
        there = sorted(p.name for p in args.libri_root.iterdir() if p.is_dir())
        for name in names:
            if name not in there:
                raise MIError(
                    f"--split {name}: no such folder in {args.libri_root}.{nearest(name, there)} "
                    f"It holds: {', '.join(there) or 'no folder'}."
                )
    data = DataConfig(
        libri_root=None if args.libri_root is None else str(args.libri_root),
        manifest=None if args.manifest is None else str(args.manifest),
        fit_splits=tuple(names),
        eval_splits=(),
        max_utterances=args.max_utterances,
    )
    return {name: list_utterances(data, name) for name in names}


def summary(tally: Tally, out: Path, jobs: int) -> str:
    """What was done, as the lines that close a run."""
    lines: list[str] = []
    aligned, there, failed = (tally.of(status) for status in ("aligned", "there", "failed"))
    if failed:
        lines.append(f"{len(failed)} utterances could not be aligned:")
        lines += [f"  {r.utterance.id}: {r.reason}" for r in failed[:SHOWN_FAILURES]]
        if len(failed) > SHOWN_FAILURES:
            lines.append(f"  ... and {len(failed) - SHOWN_FAILURES} more")
        lines.append(f"  all of them: {out}/failed_<split>.tsv")
    spoken = sum(count for count, _ in tally.unknown.values())
    percent = 100 * spoken / tally.words if tally.words else 0.0
    unknown = f"words in no dictionary: {len(tally.unknown)} ({spoken} of {tally.words} spoken, {percent:.1f} %)"
    if tally.unknown:
        sources = Counter(str(p.source) for _, p in tally.unknown.values())
        ways = {"rule": "formed from a word that is", "espeak": "as eSpeak says them", "none": "without pronunciation"}
        unknown += ": " + ", ".join(f"{sources[s]} {way}" for s, way in ways.items() if sources[s])
        unknown += f"; listed in {out}/unknown_words_<split>.tsv"
    lines.append(unknown)
    speed = ""
    seconds = sum(r.seconds for r in aligned)
    if aligned and tally.wall_seconds:
        factor = seconds / tally.wall_seconds
        processes = f"{jobs} process{'es' if jobs > 1 else ''}"
        speed = f" in {tally.wall_seconds:.0f} s, {factor:.0f} x faster than real time with {processes}"
    done = f"aligned {len(aligned)} utterances ({seconds / 3600:.2f} h){speed}"
    lines.append(f"{done}; {len(there)} were there already, {len(failed)} failed")
    lines.append(f"TextGrids of {sum(r.seconds for r in aligned + there) / 3600:.2f} h in {out}")
    return "\n".join(lines)
