"""`s3prl-mi compare`: upstreams side by side, with PER and WER, their correlation, and the paper's figures."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import MIError
from ..results.comparability import MUST_AGREE, PARTS

if TYPE_CHECKING:
    from ..report.s3prl_runs import S3prlRun

DESCRIPTION = """\
Put upstreams side by side: I(Z;Y) and I(Za;Zb) by probe and choice of layer, PER and WER, and how they go together.

RESULT_DIR is the folder of an experiment, or one that holds several at any depth; both tasks of the same model make one
row. PER and WER are taken, in this order, from your own s3prl runs (found below RESULT_DIR, or --stock), your own table
(--scores), and SUPERB's published scores, and the table says which. Next to own runs, published scores have a column of
their own.
"""

EPILOG = """\
examples:
  everything below a folder, on the screen
    s3prl-mi compare result/downstream
  with your own phone recognition and ASR runs of s3prl, and for a paper
    s3prl-mi compare result/mi --stock result/downstream --csv table.csv --markdown table.md --latex table.tex
  next to the paper's Tables 2 and 4
    s3prl-mi compare result/mi --paper
  a local copy of published weights (-u hubert_local -k hubert_base_ls960.pt): say what it is
    s3prl-mi compare result/mi --same-as hubert_local=hubert_base --paper
  one setting of a sweep
    s3prl-mi compare result/sweep --view '30 of 40' --clusters 50
  a masked against a shifted view: not comparable, so it must be asked for
    s3prl-mi compare result/hubert result/apc --allow view,frames,frame_rate

"""
EPILOG += textwrap.fill(
    f"Not comparable are figures that differ in {MUST_AGREE}. They are refused, and the message names what differs.",
    width=116,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `s3prl-mi compare`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="RESULT_DIR", help="experiments, or folders that hold some"
    )
    parser.add_argument(
        "--label", action="append", default=[], metavar="NAME=NEW", help="call a model (its label, or a folder) NEW"
    )
    scores = parser.add_argument_group("PER and WER")
    scores.add_argument(
        "--stock", nargs="+", default=[], metavar="RUN_DIR",
        help="your own runs of s3prl's ctc (phone recognition) and asr elsewhere; LABEL=RUN_DIR says whose it is",
    )  # fmt: skip
    scores.add_argument(
        "--scores", type=Path, metavar="CSV", help="your own table: upstream, per and/or wer in percent, source"
    )
    scores.add_argument(
        "--superb", choices=["published", "none"], default="published", help="none: no published scores"
    )
    scores.add_argument(
        "--same-as", action="append", default=[], metavar="LABEL=UPSTREAM",
        help="this model has the published weights of UPSTREAM (for local copies)",
    )  # fmt: skip
    scores.add_argument(
        "--paper", action="store_true", help="the paper's own figures next to yours, and the difference"
    )
    kept = parser.add_argument_group("what of a sweep to keep")
    kept.add_argument("--view", metavar="TEXT", help="views whose name contains TEXT: '30 of 40', shift")
    kept.add_argument("--clusters", type=int, metavar="N")
    kept.add_argument("--labels", metavar="NAME", help="of mi_supervised (default: phones, else words, speaker, ...)")
    kept.add_argument("--frames", choices=["masked", "unmasked", "all"])
    kept.add_argument("--frame_shift", type=float, metavar="MS", help="10 or 20: models of one frame rate")
    kept.add_argument("--protocol", metavar="NAME")
    parser.add_argument(
        "--allow", default="", metavar="WHAT,...",
        help=f"put figures side by side although they differ in this: {', '.join(n for n in PARTS if n != 'task')}",
    )  # fmt: skip
    out = parser.add_argument_group("output (the table on the screen is always written)")
    out.add_argument("--csv", type=Path, metavar="FILE", help="also FILE_correlations, FILE_layers, FILE_paper")
    out.add_argument("--markdown", type=Path, metavar="FILE")
    out.add_argument("--latex", type=Path, metavar="FILE", help="booktabs tables")


def run(args: argparse.Namespace) -> int:
    """Compare; print the table and write the files that were asked for.

    Raises:
        MIError: nothing found, or figures that are not comparable.
    """
    from ..report.compare.comparable import Filters, keep
    from ..report.compare.outputs import to_csv, to_latex, to_markdown, to_screen
    from ..report.compare.paper import paper_rows
    from ..report.compare.scores import read_score_table
    from ..report.compare.table import build
    from ..report.s3prl_runs import find_runs
    from ..results.collect import collect

    results = collect(args.folders, _pairs(args.label, "--label"))
    kept = Filters(args.protocol, args.view, args.clusters, args.frames, args.labels, args.frame_shift)
    results = keep(results, kept)
    runs, runs_of = _runs(args.stock)
    runs = find_runs(args.folders, [r.first for r in results], runs)
    table = build(
        results,
        runs=runs,
        runs_of=runs_of,
        table=read_score_table(args.scores) if args.scores else None,
        published=args.superb == "published",
        same_as=_pairs(args.same_as, "--same-as"),
        allowed=[name.strip() for name in args.allow.split(",") if name.strip()],
    )
    paper = paper_rows(table) if args.paper else None
    sys.stdout.write(to_screen(table, paper))
    written: list[Path] = []
    if args.csv:
        for ending, text in to_csv(table, paper).items():
            written.append(_write(args.csv.with_name(args.csv.stem + ending + args.csv.suffix), text))
    if args.markdown:
        written.append(_write(args.markdown, to_markdown(table, paper)))
    if args.latex:
        written.append(_write(args.latex, to_latex(table, paper)))
    if written:
        sys.stdout.write(f"written: {', '.join(map(str, written))}\n")
    return 0


def _runs(words: Sequence[str]) -> tuple[list[S3prlRun], dict[str, list[S3prlRun]]]:
    """Runs to be matched by upstream, and those of which the user says whose they are."""
    from ..report.s3prl_runs import read_runs

    plain = [word for word in words if Path(word).exists() or "=" not in word]
    named: dict[str, list[str]] = {}
    for label, folder in (_pair(word, "--stock") for word in words if word not in plain):
        named.setdefault(label, []).append(folder)
    return read_runs(plain), {label: read_runs(folders) for label, folders in named.items()}


def _pair(word: str, option: str) -> tuple[str, str]:
    """The two sides of `A=B`."""
    key, equals, value = word.rpartition("=") if option == "--same-as" else word.partition("=")
    if not (key and equals and value):
        raise MIError(f"{option} {word!r}: expected two names with = between them.")
    return key, value


def _pairs(words: Sequence[str], option: str) -> dict[str, str]:
    """`A=B` words as a mapping."""
    found: dict[str, str] = {}
    for key, value in (_pair(word, option) for word in words):
        if key in found:
            raise MIError(f"{option} {key}={value}: {key!r} was given before as {found[key]!r}. Give it once.")
        found[key] = value
    return found


def _write(path: Path, text: str) -> Path:
    from ..core.files import write_whole

    if not path.parent.is_dir():
        raise MIError(f"{path}: there is no folder {path.parent}. Make it first, or name another file.")
    try:
        write_whole(path, text)
    except OSError as error:
        raise MIError(f"{path}: cannot be written ({error.strerror}).") from error
    return path
