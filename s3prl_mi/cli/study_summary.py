"""What ends a study: models side by side, the findings in words, and a report to open."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import MIError
from ..results.comparability import ComparisonKey
from ..results.selection import paper_setting_first

if TYPE_CHECKING:
    from ..results.collect import Result

REPORT_FOLDER = "report"


def summarise_study(folder: Path, failed: Sequence[str]) -> None:
    """Print the comparison and the findings of a study, and write its report.

    Args:
        folder: the study's folder, with every experiment of this and earlier commands; the report goes to
            `<folder>/report`.
        failed: what failed, one line each; printed last.
    """
    from ..report.board import notes_of, read_board, to_screen
    from ..report.html.report_data import read_report_data
    from ..report.html.words import findings
    from ..report.html.writing import FIGURES_FOLDER, write_report

    out = sys.stdout
    tables, complete = _comparison(folder)
    out.write(f"\n{tables}\n")
    data = read_report_data([folder])
    board = read_board(data)
    for sentence in findings(data, "" if not complete else "board" if board is not None else "tables"):
        out.write(textwrap.fill(sentence, 110, initial_indent="- ", subsequent_indent="  ") + "\n")
    if board is not None:
        out.write(f"\n{to_screen(board, notes_of(board, data))}")
    page = write_report([folder], folder / REPORT_FOLDER, title=folder.resolve().name)
    for picture in sorted(page.parent.glob(f"{FIGURES_FOLDER}/scatter_*.png")):
        out.write(f"\nbits against error rates: {picture}")
    out.write(f"\nreport: {page}\n")
    out.flush()
    for line in failed:
        sys.stderr.write(f"failed: {line}\n")
    if failed:
        sys.stderr.write("Fix what is named; the same command with -a then runs these, and repeats nothing else.\n")


def _comparison(folder: Path) -> tuple[str, bool]:
    """Tables as of `s3prl-mi compare`: one for each frame rate, and of a sweep that of its usual setting.

    Returns:
        The tables, and whether all could be made.
    """
    from ..report.compare.comparable import Filters, keep
    from ..report.compare.outputs import to_screen
    from ..report.compare.table import build
    from ..report.s3prl_runs import find_runs
    from ..results.collect import collect

    by_rate: dict[float, list[Result]] = {}
    for result in collect([folder]):
        for shift in sorted({r.frame_shift_ms for r in result.records}):
            records = [r for r in result.records if r.frame_shift_ms == shift]
            by_rate.setdefault(shift, []).append(replace(result, records=records))
    tables: list[str] = []
    complete = True
    for shift, results in sorted(by_rate.items()):
        usual = _usual_setting(results)
        heading = f"Frames every {shift:g} ms, not comparable with the others.\n\n" if len(by_rate) > 1 else ""
        if usual is not None:
            heading += f"At {usual.view}, {usual.n_clusters} clusters, {usual.scored_frames} frames; "
            heading += "the other settings are in the report.\n\n"
        filters = Filters() if usual is None else Filters(None, usual.view, usual.n_clusters, usual.scored_frames)
        results = keep(results, filters)
        try:
            runs = find_runs([folder], [r.first for r in results])
            tables.append(heading + to_screen(build(results, runs, allowed=("precision",))))
        except MIError as error:  # what earlier commands left in the folder was measured otherwise
            complete = False
            tables.append(f"{heading}No table: {error} (options of `s3prl-mi compare {folder}`)\n")
    return "\n".join(tables), complete


def _usual_setting(results: Sequence[Result]) -> ComparisonKey | None:
    """The setting of mi_views that stands for a sweep, or None where there is one setting."""
    found = {ComparisonKey.of(r) for x in results for r in x.records if r.task == "mi_views"}
    if len({(s.view, s.n_clusters, s.scored_frames) for s in found}) < 2:
        return None
    return min(found, key=lambda s: (paper_setting_first(s), str(s)))
