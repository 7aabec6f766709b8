"""The command `s3prl-mi`: what is not a measurement. Heavy imports stand inside each command."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from .. import __version__
from ..core.errors import MIError, nearest
from ..downstream.hook import packaged_configs
from . import align as align_command
from . import compare as compare_command
from . import doctor
from . import report as report_command
from . import upstreams as upstreams_command
from .run_downstream import report_errors

EPILOG = """\
examples:
  s3prl-mi demo                      everything on speech made here: no download, a few minutes
  s3prl-mi doctor -u hubert          does it run here, and is HuBERT's checkpoint there?
  s3prl-mi upstreams hubert          what -u hubert is: view, frame rate, weights, SUPERB's scores, commands
  s3prl-mi compare result/table2     upstreams side by side with PER and WER
  s3prl-mi report result/table2      one HTML file to read, and figures for a paper
  s3prl-mi align --libri_root /data/LibriSpeech --split dev-other --out alignments
  s3prl-mi config                    the configs that come with it; config mi_views: the file of one, to copy
  s3prl-mi store list                hidden states on disk

Measuring is done by run_downstream.py -d mi_views | mi_supervised (see run_downstream.py -h).
"""


COMMANDS = (
    ("upstreams", upstreams_command, "list upstreams by name, or explain one"),
    ("compare", compare_command, "set upstreams side by side, with PER and WER and their correlation"),
    ("report", report_command, "write one HTML file and figures from results"),
    ("align", align_command, "make phone and word alignments from transcripts, on the CPU"),
)
"""Name, module and summary of the commands that are a module each."""


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

    demo = commands.add_parser(
        "demo",
        help="make a corpus, train two tiny models, measure both with both tasks",
        description="The main job without any download. Other arguments go to each run_downstream.py, e.g. --seed 7.",
    )
    demo.add_argument(
        "--out", type=Path, default=Path("demo"), help="folder for everything (default: %(default)s)"
    )

    check = commands.add_parser("doctor", help="check the installation and say how to mend it")
    doctor.add_arguments(check)

    for name, module, summary in COMMANDS:
        module.add_arguments(commands.add_parser(name, help=summary, description=summary.capitalize() + "."))

    config = commands.add_parser("config", help="list the configs of this package, or print the path of one")
    config.add_argument(
        "name", nargs="?", help="such as mi_views or paper_table2_mlm; -c takes these names too"
    )

    store = commands.add_parser("store", help="list or remove hidden states on disk")
    store.add_argument(
        "action", choices=["list", "clear"], help="clear: remove all, or those that --upstream names"
    )
    store.add_argument(
        "--root", type=Path, help="the store (default: $S3PRL_MI_STORE or ~/.cache/s3prl_mi/store)"
    )
    store.add_argument("--upstream", help="only hidden states of this upstream")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: the words after the program's name; default: those of the process.

    Returns:
        The exit status: 0, 1 after a mistake that the user can mend, 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words:
        build_parser().print_help(sys.stderr)
        return 2
    args, extra = build_parser().parse_known_args(words)
    if extra and args.command != "demo":
        build_parser().error(f"unrecognized arguments: {' '.join(extra)}")
    actions: dict[str, Callable[[], int]] = {
        "demo": lambda: _demo(args.out, extra),
        "doctor": lambda: doctor.doctor(args.upstream, args.upstream_ckpt, args.quick),
        "config": lambda: _config(args.name),
        "store": lambda: _store(args.action, args.root, args.upstream),
        **{name: functools.partial(module.run, args) for name, module, _ in COMMANDS},
    }
    return report_errors(actions[args.command], f"s3prl-mi {' '.join(words)}")


def _demo(out: Path, extra: Sequence[str]) -> int:
    from .demo import run

    return run(out, extra)


def _config(name: str | None) -> int:
    configs = packaged_configs()
    if name is None:
        for found, path in configs.items():
            print(f"{found:22} {first_line(path)}")
        return 0
    if name not in configs:
        raise MIError(
            f"no config is called {name!r}.{nearest(name, configs)} There are: {', '.join(configs)}."
        )
    print(configs[name])
    return 0


def first_line(path: Path) -> str:
    """The comment that a config begins with."""
    with path.open(encoding="utf-8") as file:
        return file.readline().lstrip("# ").rstrip()


def _store(action: str, root: Path | None, upstream: str | None) -> int:
    from ..states.store import Store, default_root

    store = Store(root or default_root(), 0)
    chosen = [(e, m) for e, m in store.entries() if upstream in (None, m["determinants"].get("upstream"))]
    total = sum(e.bytes for e, _ in chosen)
    if action == "clear":
        removed = [entry for entry, _ in chosen if store.remove(entry.path)]
        partial = [] if upstream else store.partial_folders()
        for folder in partial:
            store.remove(folder)
        print(
            f"removed {len(removed)} entries and {len(partial)} unfinished from {store.root}"
            + (f"; {len(chosen) - len(removed)} are in use" if len(removed) < len(chosen) else "")
        )
        return 0
    for entry, manifest in chosen:
        about = manifest["determinants"]
        where = os.path.relpath(entry.path, store.root)
        print(
            f"{entry.bytes / 1e6:9.1f} MB  {about.get('upstream')}  {about.get('split')}  {about.get('view')}  "
            f"{len(entry.layers)} layers  {entry.dtype}  {manifest['created']}  {where}"
        )
    print(
        f"{total / 1e9:.2f} GB in {len(chosen)} entries, {len(store.partial_folders())} unfinished, in {store.root}"
    )
    return 0
