"""`s3prl-mi report RESULT_DIR...`: one HTML file to read, and figures for a paper."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..core.errors import MIError

EPILOG = """\
examples:
  s3prl-mi report result/downstream                       everything measured so far
  s3prl-mi report study -o study/report --title "HuBERT"  one study
  s3prl-mi report study --stock result/downstream/my_pr   with the PER of your own s3prl run
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="RESULT_DIR",
        help="experiments (-n, -p), or folders that hold some at any depth",
    )
    parser.add_argument(
        "-o", "--out", type=Path, default=None, help="folder of the report (default: RESULT_DIR/report, of the first)"
    )
    parser.add_argument("--title", default=None, help="title of the page")
    parser.add_argument(
        "--stock", nargs="+", type=Path, default=[], metavar="DIR",
        help="folders of s3prl's own ctc and asr runs outside RESULT_DIR, for PER and WER",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Write the report; its path is printed last.

    Raises:
        MIError: a folder without results, or a place that cannot be written to.
    """
    from ..report.html.writing import TITLE, write_report

    first: Path = args.folders[0]
    out: Path = args.out or (first if first.is_dir() else first.parent) / "report"
    try:
        path = write_report(args.folders, out, args.title or TITLE, args.stock)
    except OSError as error:
        raise MIError(f"-o {out}: cannot write the report there ({error}). Name another folder with -o.") from None
    sys.stdout.write(f"{path}\n")
    return 0
