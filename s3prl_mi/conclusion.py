"""What ends a study: models side by side, the findings in words, and a report to open."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from .errors import MIError
from .selection import setting_of, unusual

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
    """The table of `s3prl-mi compare`; of a sweep, that of its usual setting."""
    from .collect import collect
    from .compare import Filters, build, keep, to_screen

    results = collect([folder])
    try:
        return to_screen(build(results))
    except MIError as error:
        found = {setting_of(r) for x in results for r in x.records if r.clusters is not None}
        settings = sorted(found, key=lambda s: (unusual(s), str(s)))
        if len({(s.view, s.clusters, s.frames) for s in settings}) < 2:
            return f"no table: {error}\n"
        usual = settings[0]
    kept = keep(results, Filters(view=usual.view, clusters=usual.clusters, frames=usual.frames))
    told = f"At {usual.view}, {usual.clusters} clusters, {usual.frames} frames; "
    told += "the other settings are in the report.\n\n"
    try:
        return told + to_screen(build(kept))
    except MIError as error:
        return f"no table: {error}\n"
