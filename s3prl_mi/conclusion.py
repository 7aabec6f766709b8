"""What ends a study: models side by side, the findings in words, and a report to open."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from .errors import MIError

REPORT_FOLDER = "report"


def conclude(folder: Path, failed: Sequence[str]) -> None:
    """Print the comparison and the findings of a study, and write its report.

    Args:
        folder: the study's folder, with every experiment of this and earlier commands; the report goes to
            `<folder>/report`.
        failed: what failed, one line each; printed last.
    """
    from .html_report import read_study, write_report
    from .html_report.words import findings

    out = sys.stdout
    out.write(f"\n{_comparison(folder)}\n")
    for sentence in findings(read_study([folder])):
        out.write(textwrap.fill(sentence, 100, initial_indent="- ", subsequent_indent="  ") + "\n")
    out.write(f"\nreport: {write_report([folder], folder / REPORT_FOLDER, title=folder.resolve().name)}\n")
    out.flush()
    for line in failed:
        sys.stderr.write(f"failed: {line}\n")
    if failed:
        sys.stderr.write("The same command with -a tries these again and repeats nothing else.\n")


def _comparison(folder: Path) -> str:
    """The table of `s3prl-mi compare`, or why there is none."""
    from .collect import collect
    from .compare import build, to_screen

    try:
        return to_screen(build(collect([folder])))
    except MIError as error:  # a sweep, or views of two kinds: no single table holds them
        return f"no table of all at once: {error}\n"
