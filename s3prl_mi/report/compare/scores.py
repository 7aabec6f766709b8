"""PER and WER of a model: the user's own runs first, then the user's table, then SUPERB's published scores."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...core.errors import MIError, nearest
from ...estimators.intervals import LeftOut
from ...results.collect import Result
from ...superb.lexicon import SUPERB_FILES
from ...superb.scores import METRICS, Metric
from ..published_scores import Score, canonical, paper_figures, score_of, scores
from ..s3prl_runs import S3prlRun, chosen_run

HIGHEST_PERCENT = 1000
"""No error rate in percent is above this: a count or another unit is."""

SCORE_NAMES = {"per": "PER", "superb_per": "SUPERB's PER", "wer": "WER", "superb_wer": "SUPERB's WER"}
"""Columns of error rates, in order; SUPERB's published ones have their own next to those of own runs."""


@dataclass(frozen=True, slots=True)
class ScoreValue:
    """One error rate, percent, and where it comes from."""

    percent: float
    kind: str
    """`own run`, `own table` or `SUPERB`."""
    source: str
    doubtful: bool = False
    """Shown with a mark, and left out of correlations: a secondary source that could not be checked."""
    remark: str = ""
    """What a reader must know, such as that it is of the dev split."""
    setting: Mapping[str, str] = field(default_factory=dict)
    """`test split` and `lexicon`, where they are known: scores of different ones are not comparable."""
    left_out: LeftOut | None = None
    """The rate without each speaker, where the errors were counted."""


ScoreTable = Mapping[str, Mapping[str, ScoreValue]]
"""Name of a model (label, upstream or alias) -> `per`, `wer` -> value."""

Scores = dict[str, ScoreValue]
"""Key of `SCORE_NAMES` -> value, of one model."""


def read_score_table(path: Path) -> dict[str, dict[str, ScoreValue]]:
    """Read a user's own table of scores: CSV with columns `upstream`, and `per` or `wer` or both (percent).

    A column `source` is kept. Published tables' names `pr_per` and `asr_wer` are understood too.

    Raises:
        MIError: no such file, no such column, or a value that is not a number.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MIError(f"--scores {path}: cannot be read ({getattr(error, 'strerror', None) or error}).") from error
    columns = {
        name: c for c in (rows[0] if rows else ()) for name in METRICS if c in (name, f"pr_{name}", f"asr_{name}")
    }
    if not rows or "upstream" not in rows[0] or not columns:
        have = ", ".join(str(c) for c in rows[0]) if rows else "no rows"
        raise MIError(f"--scores {path}: expected columns upstream and per or wer (percent), found {have}.")
    table: dict[str, dict[str, ScoreValue]] = {}
    lines: dict[str | None, int] = {}
    for number, row in enumerate(rows, start=2):
        if (first := lines.setdefault(row["upstream"], number)) != number:
            raise MIError(f"--scores {path}, line {number}: {row['upstream']!r} was in line {first} already. Keep one.")
        source = row.get("source") or path.name
        for name, column in columns.items():
            if row[column]:
                value = ScoreValue(_number(row[column], path, number, column), "own table", source)
                table.setdefault(row["upstream"], {})[name] = value
    return table


def _number(text: str, path: Path, line: int, column: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= HIGHEST_PERCENT:
        raise MIError(
            f"--scores {path}, line {line}, column {column}: {text!r} is not an error rate in percent (0 to 100; above "
            f"it by insertions, up to {HIGHEST_PERCENT})."
        )
    return value


def misspelt(table: ScoreTable, models: Sequence[str], known: Sequence[str]) -> list[str]:
    """Rows of the user's table that no model has taken, where a model is called nearly the same; a sentence each.

    Args:
        table: the user's own.
        models: labels of models that have found no row.
        known: names by which models find rows.
    """
    unused = [name for name in table if name not in known and canonical(name) not in known]
    hints = [(name, nearest(name, models, count=1)) for name in unused]
    return [f"--scores: the row of {name!r} is of no model that is compared.{hint}" for name, hint in hints if hint]


def scores_of(
    result: Result,
    label: str,
    name: str,
    runs: Sequence[S3prlRun],
    table: ScoreTable,
    published: bool,
    runs_are_its: bool = False,
) -> Scores:
    """PER and WER of one model: the best source of each, and what SUPERB published; then `settle` those of all models.

    Args:
        result: of that model.
        label: its label.
        name: its upstream's name, or the published upstream that it is the same as.
        runs: the user's own, of any model.
        table: the user's own table.
        published: whether SUPERB's scores may be used.
        runs_are_its: all `runs` are of this model, whatever their arguments say.
    """
    found: Scores = {}
    score = score_of(name) if published else None
    own = [run for run in runs if runs_are_its or (run.belongs_to(result.first) and not run.fine_tuned)]
    rows = [table[key] for key in (label, name, canonical(name)) if key in table]
    for metric in METRICS:
        superb = _published(score, metric) if score else None
        value = _own(own, metric) or next((row[metric] for row in rows if metric in row), superb)
        found |= {name: v for name, v in ((metric, value), (f"superb_{metric}", superb)) if v is not None}
    return found


def settle(scores: Iterable[Scores]) -> None:
    """Keep own runs and published scores apart, in place: two columns where there is an own run, else one.

    Args:
        scores: of every model that will stand side by side.
    """
    scores = list(scores)
    for metric in METRICS:
        own = any(metric in row and row[metric].kind == "own run" for row in scores)
        for row in scores:
            if own and metric in row and row[metric].kind == "SUPERB":
                del row[metric]
            elif not own:
                row.pop(f"superb_{metric}", None)


def _own(runs: Sequence[S3prlRun], metric: Metric) -> ScoreValue | None:
    run = chosen_run(runs, metric)
    score = (run.test or run.dev) if run else None
    if run is None or score is None:
        return None
    remarks = []
    if score is run.dev:
        remarks.append(f"of the {score.split} split, not of test")
    if run.layer is not None:
        remarks.append(f"of layer {run.layer} alone")
    if run.fine_tuned:
        remarks.append("of a fine-tuned upstream (-f), not of the frozen one that was measured")
    # not what the other scores are: a correlation over both would mix two measurements
    source = f"{run.folder}: {score.source}"
    setting = {key: value for key, value in run.setting.items() if key == "lexicon" or score is run.test}
    remark = ", ".join(remarks)
    return ScoreValue(score.percent, "own run", source, bool(remarks), remark, setting, score.left_out)


def _published(score: Score, metric: Metric) -> ScoreValue | None:
    value = {"per": score.pr_per, "wer": score.asr_wer}[metric]
    if value is None:
        return None
    remark = f"low confidence: {score.note}" if score.low_confidence else ""
    setting = {"test split": "test-clean"} | ({"lexicon": ", ".join(SUPERB_FILES)} if metric == "per" else {})
    return ScoreValue(value, "SUPERB", score.source, score.low_confidence, remark, setting)


def check_scores(scores: Mapping[str, Mapping[str, ScoreValue]]) -> None:
    """Refuse one column of error rates that were reached on different test splits or with different lexicons.

    Args:
        scores: label -> `per`, `wer` -> value.

    Raises:
        MIError: they were.
    """
    for metric in METRICS:
        values = {label: row[metric] for label, row in scores.items() if metric in row}
        for key in ("test split", "lexicon"):
            found: dict[str, list[str]] = {}
            for label, value in values.items():
                if key in value.setting:
                    found.setdefault(value.setting[key], []).append(f"{label} ({value.kind})")
            if len(found) > 1:
                text = "; ".join(f"{what} for {', '.join(labels[:4])}" for what, labels in found.items())
                raise MIError(
                    f"{SCORE_NAMES[metric]} with different {key}s: {text}. Such scores do not compare: name "
                    "only folders with runs of one kind."
                )


def check_same_as(same_as: Mapping[str, str], labels: Sequence[str]) -> None:
    """Refuse a `--same-as` that names no model, or an upstream without published figures.

    Raises:
        MIError: it does.
    """
    known = [*scores(), *(f.upstream for f in paper_figures())]
    for label, name in same_as.items():
        if label not in labels:
            raise MIError(
                f"--same-as {label}={name}: no model is called {label!r}.{nearest(label, labels)} "
                f"There are: {', '.join(labels)}."
            )
        if canonical(name) not in known:
            raise MIError(f"--same-as {label}={name}: nothing is published about {name!r}.{nearest(name, known)}")
