"""The command `s3prl-mi`: what is not a measurement. Heavy imports stand inside each command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from .. import __version__
from ..core.config import packaged_configs
from ..core.errors import MIError, nearest
from . import align, board, compare, doctor, explain, report, units, upstreams
from .errors import report_errors

EPILOG = """\
examples:
  s3prl-mi demo                      everything on speech made here: no download, a few minutes
  s3prl-mi doctor -u hubert          does it run here, and is HuBERT's checkpoint there?
  s3prl-mi upstreams hubert          what -u hubert is: view, frame rate, weights, SUPERB's scores, commands
  s3prl-mi compare result/table2     upstreams side by side with PER and WER
  s3prl-mi board result/study        which label-free number to trust for layers, checkpoints, models
  s3prl-mi report result/table2      one HTML file to read, and figures for a paper
  s3prl-mi align --libri_root /data/LibriSpeech --split dev-other --out alignments
  s3prl-mi units km.txt --alignments alignments   PNMI, purities and bits of discrete units, without audio
  s3prl-mi config                    the configs that come with it; config mi_views: the file of one, to copy
  s3prl-mi store list                hidden states on disk
  s3prl-mi explain fields            what each field of a result means; explain config: each config key

Measuring is done by run_downstream.py -d mi_views | mi_supervised (see run_downstream.py -h).
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line; parsing it imports nothing heavy."""
    parser = argparse.ArgumentParser(
        prog="s3prl-mi",
        description="Mutual information in speech representations: tools around the tasks mi_supervised and mi_views.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"s3prl_mi {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (add_arguments, _, summary) in COMMANDS.items():
        description = f"{summary[0].upper()}{summary[1:]}."
        add_arguments(commands.add_parser(name, help=summary, description=description))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: the words after the program's name; default: those of the process.

    Returns:
        The exit status: 0, 1 after a mistake that the user can fix, 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    if not words:
        parser.print_help(sys.stderr)
        return 2
    args, extra = parser.parse_known_args(words)
    if extra and args.command != "demo":
        parser.error(f"unrecognized arguments: {' '.join(extra)}")
    args.extra = extra
    _, run, _ = COMMANDS[args.command]
    return report_errors(lambda: run(args), f"s3prl-mi {' '.join(words)}")


# --- demo ------------------------------------------------------------------------------------------


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "The main job without any download. Other arguments go to each run_downstream.py, e.g. --seed 7."
    )
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for everything (default: %(default)s)")


def _demo(args: argparse.Namespace) -> int:
    from .demo import run

    return run(args.out, args.extra)


# --- config ----------------------------------------------------------------------------------------


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="such as mi_views or paper_table2_mlm; -c takes these names too")


def _config(args: argparse.Namespace) -> int:
    configs = packaged_configs()
    if args.name is None:
        for found, path in configs.items():
            print(f"{found:22} {first_line(path)}")
        return 0
    if args.name not in configs:
        raise MIError(
            f"no config is called {args.name!r}.{nearest(args.name, configs)} There are: {', '.join(configs)}."
        )
    print(configs[args.name])
    return 0


def first_line(path: Path) -> str:
    """The comment that a config begins with."""
    with path.open(encoding="utf-8") as file:
        return file.readline().lstrip("# ").rstrip()


# --- store -----------------------------------------------------------------------------------------


def _add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["list", "clear"], help="clear: remove all, or those that --upstream names")
    parser.add_argument("--root", type=Path, help="the store (default: see s3prl-mi explain store)")
    parser.add_argument("--upstream", help="only hidden states of this upstream")


def _store(args: argparse.Namespace) -> int:
    from ..states.store import Store, default_root

    store = Store(args.root or default_root(), 0)
    chosen = [e for e in store.entries() if args.upstream in (None, e.about.get("upstream"))]
    total = sum(e.bytes for e in chosen)
    if args.action == "clear":
        removed = [entry for entry in chosen if store.remove(entry.path)]
        partial = [] if args.upstream else [f for f in store.partial_folders() if store.remove(f)]
        print(
            f"removed {len(removed)} entries and {len(partial)} unfinished from {store.root}"
            + (f"; {len(chosen) - len(removed)} are in use" if len(removed) < len(chosen) else "")
        )
        return 0
    for entry in chosen:
        about = entry.about
        where = os.path.relpath(entry.path, store.root)
        print(
            f"{entry.bytes / 1e6:9.1f} MB  {about.get('upstream')}  {about.get('split')}  {about.get('view')}  "
            f"{len(entry.layers)} layers  {entry.dtype}  {about['created']}  {where}"
        )
    print(f"{total / 1e9:.2f} GB in {len(chosen)} entries, {len(store.partial_folders())} unfinished, in {store.root}")
    return 0


COMMANDS: dict[str, tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int], str]] = {
    "demo": (_add_demo, _demo, "make a corpus, train two tiny models, measure both with both tasks"),
    "doctor": (doctor.add_arguments, doctor.run, "check the installation and say how to fix it"),
    "upstreams": (upstreams.add_arguments, upstreams.run, "list upstreams by name, or explain one"),
    "compare": (compare.add_arguments, compare.run, "set upstreams side by side, with PER, WER and correlations"),
    "board": (board.add_arguments, board.run, "judge label-free measures as pickers of layers and checkpoints"),
    "report": (report.add_arguments, report.run, "write one HTML file and figures from results"),
    "align": (align.add_arguments, align.run, "make phone and word alignments from transcripts, on the CPU"),
    "units": (units.add_arguments, units.run, "PNMI, purities and bits of anyone's discrete units"),
    "config": (_add_config, _config, "list the configs of this package, or print the path of one"),
    "store": (_add_store, _store, "list or remove hidden states on disk"),
    "explain": (explain.add_arguments, explain.run, "say what result fields, config keys and terms mean"),
}
"""By name: the function that adds its options, the one that runs it, and what it does in a line."""
