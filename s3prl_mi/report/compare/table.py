"""The comparison itself: a row for each model, both tasks merged; figures by probe and choice of layer; scores."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ...core.config import TASKS
from ...core.errors import MIError
from ...results.collect import Result, checkpoint_stem
from ...results.comparability import NOTED, group_by_key
from ...results.correlation import Relation, correlate, with_speakers
from ...results.selection import LayerAgreement, best_of, last_layer, layer_agreements
from ...results.speaker_sums import sums_of
from ...results.summary import PROBE_ORDER, Summary, layer_key, rank_in, summarise
from ...results.ties import Ties, ties
from ...superb.scores import METRICS
from ..s3prl_runs import S3prlRun
from ..wording import BOUND
from .comparable import check
from .scores import SCORE_NAMES, ScoreTable, ScoreValue, check_same_as, check_scores, misspelt, scores_of, settle

CHOICES: dict[str, str] = {
    "last": "last layer",
    "free": "layer with the most I(Za;Zb), chosen without labels",
    "best": "layer with the most of the same bound, chosen on the frames scored",
    "weighted": "weighted sum of all layers",
}
CHOICE_NAMES = {choice: choice for choice in CHOICES} | {"free": "label-free"}


class Column(NamedTuple):
    """One bound of the table."""

    task: str
    probe: str
    choice: str
    """A key of `CHOICES`."""

    @property
    def place(self) -> tuple[object, ...]:
        """Sort key: by probe, task, choice."""
        return rank_in(self.probe, PROBE_ORDER), rank_in(self.task, TASKS), rank_in(self.choice, tuple(CHOICES))

    @property
    def title(self) -> str:
        """As it stands over the table, such as `I(Za;Zb) last`."""
        return f"{BOUND[self.task]} {CHOICE_NAMES[self.choice]}"


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model."""

    label: str
    upstream: str
    """s3prl's name."""
    published_as: str
    """The upstream whose published figures are this model's: its own name, or what `--same-as` says."""
    checkpoint: str
    """File name of the checkpoint without its ending, or empty."""
    upstream_sha256: str
    step: int | None
    figures: Mapping[Column, Summary]
    layers: Mapping[tuple[str, str], Mapping[int, Summary]]
    """(task, probe) -> layer -> estimate."""
    scores: Mapping[str, ScoreValue]
    """By the keys of `SCORE_NAMES`."""
    agreements: Sequence[LayerAgreement]
    """Of the label-free with the labelled choice of the layer, by probe."""


@dataclass(frozen=True, slots=True)
class Table:
    """Everything that the outputs write."""

    rows: Sequence[ModelRow]
    columns: Sequence[Column]
    """Those that any row has, in order: by probe, task, choice."""
    relations: Mapping[tuple[Column, str], Relation]
    """(bound, key of `SCORE_NAMES`) -> how both go together over the rows."""
    orders: Mapping[Column, Ties[str]]
    """Which models the speech scored cannot tell apart, by bound."""
    settings: Sequence[tuple[str, str]]
    """What was measured, by task: name, text."""
    mixed: Sequence[str]
    """One sentence for each difference between models that was allowed: their figures are not comparable."""
    notes: Sequence[str]

    @property
    def probes(self) -> list[str]:
        """In order."""
        return list(dict.fromkeys(c.probe for c in self.columns))

    def columns_of(self, probe: str) -> list[Column]:
        """The bounds by one probe."""
        return [c for c in self.columns if c.probe == probe]


def build(
    results: Sequence[Result],
    runs: Sequence[S3prlRun] = (),
    runs_of: Mapping[str, Sequence[S3prlRun]] | None = None,
    table: ScoreTable | None = None,
    published: bool = True,
    same_as: Mapping[str, str] | None = None,
    allowed: Sequence[str] = (),
) -> Table:
    """Put models side by side.

    Args:
        results: from `collect`, after `keep`.
        runs: the user's own runs of `ctc` and `asr`, matched by upstream and checkpoint.
        runs_of: label -> runs that are of this model whatever their arguments say.
        table: the user's own scores.
        published: whether SUPERB's published scores fill what is missing.
        same_as: label -> upstream whose published figures are this model's (for a local copy of its weights).
        allowed: differences that are allowed (`ALLOWABLE`).

    Raises:
        MIError: no result; figures that are not comparable; a label in `same_as` or `runs_of` that does not exist.
    """
    if not results:
        raise MIError("nothing to compare: no estimate is left.")
    labels = list(dict.fromkeys(r.label for r in results))
    same_as, runs_of = same_as or {}, runs_of or {}
    check_same_as(same_as, labels)
    for label in runs_of:
        if label not in labels:
            raise MIError(f"--stock {label}=...: no model is called {label!r}. There are: {', '.join(labels)}.")
    results, notes = _finest(results)
    mixed = check(results, allowed)
    of = {label: [r for r in results if r.label == label] for label in labels}
    names = {label: same_as.get(label, published_name(own[0])) for label, own in of.items()}
    scores = {}
    for label, own in of.items():
        forced = runs_of.get(label)
        scores[label] = scores_of(
            own[0], label, names[label], forced or runs, table or {}, published, forced is not None
        )
    settle(scores.values())
    weighted = any(x.layer == "weighted" for r in results for x in r.records)
    rows = [_row(own, names[label], scores[label], weighted) for label, own in of.items()]
    check_scores({row.label: row.scores for row in rows})
    columns = _distinct(sorted({c for row in rows for c in row.figures}, key=lambda c: c.place), rows)
    notes += _score_notes(rows, runs, results)
    lack = [row.label for row in rows if not any(score.kind == "own table" for score in row.scores.values())]
    notes += misspelt(table or {}, lack, [n for row in rows for n in (row.label, row.published_as)])
    keys = group_by_key((r for result in results for r in result.records), *NOTED)
    settings = [(BOUND[task], key.describe("task")) for task in TASKS for key in keys if key.task == task]
    orders = {} if mixed else _orders(rows, columns)
    return Table(rows, columns, _relations(rows, columns), orders, settings, mixed, notes)


TAKES_ANY_FILE = ("dinosr", "cotraining")
"""Names of published models that read a file which the user gives (`-k`)."""


def published_name(result: Result) -> str:
    """The upstream's name; for Hugging Face models their id.

    A name that opens any file of the user's is nobody's published model: `--same-as` says whose weights they are.
    """
    record = result.first
    if record.upstream in TAKES_ANY_FILE and record.checkpoint is not None:
        return f"{record.upstream} file"
    name = (record.checkpoint or {}).get("name", "")
    return name if record.upstream.startswith("hf") and "/" in name else record.upstream


def _row(results: Sequence[Result], name: str, scores: dict[str, ScoreValue], weighted: bool) -> ModelRow:
    """Where weighted sums were measured, a model's only layer is its own."""
    first = results[0].first
    records = [r for result in results for r in result.records]
    layers: dict[tuple[str, str], dict[int, Summary]] = {}
    figures: dict[Column, Summary] = {}
    for s in summarise(records, sums_of(results)):
        if isinstance(s.layer, int):
            layers.setdefault((s.task, s.probe), {})[s.layer] = s
        else:
            figures[Column(s.task, s.probe, s.layer)] = s
    last = last_layer(records)
    for (task, probe), curve in layers.items():
        chosen = {"last": last, "best": _best(curve)}
        if weighted and first.layers_in_upstream == 1:
            chosen["weighted"] = 0
        if task == "mi_supervised" and (free := layers.get(("mi_views", probe))):
            chosen["free"] = _best(free)
        figures |= {Column(task, probe, choice): curve[n] for choice, n in chosen.items() if n in curve}
    return ModelRow(
        label=results[0].label,
        upstream=first.upstream,
        published_as=name,
        checkpoint=checkpoint_stem(first),
        upstream_sha256=first.upstream_sha256,
        step=first.step,
        figures=figures,
        layers=layers,
        scores=scores,
        agreements=[_with_interval(a, layers["mi_supervised", a.probe]) for a in layer_agreements(records)],
    )


def _best(curve: Mapping[int, Summary]) -> int:
    return best_of({layer: s.mi_lower_bound_bits for layer, s in curve.items()})


def _finest(results: Sequence[Result]) -> tuple[list[Result], list[str]]:
    """Only layers of each model's shortest frame shift: bits of other rates are not comparable with them.

    Returns:
        The results without the others, and a note for each model that lost some.
    """
    finest: dict[tuple[str, str], float] = {}
    for label, r in ((result.label, r) for result in results for r in result.records):
        finest[label, r.task] = min(r.frame_shift_ms, finest.get((label, r.task), r.frame_shift_ms))
    kept: list[Result] = []
    left: dict[tuple[str, float], set[int | str]] = {}
    for result in results:
        kept.append(replace(result, records=[]))
        for r in result.records:
            shift = finest[result.label, r.task]
            if r.frame_shift_ms == shift:
                kept[-1].records.append(r)
            else:
                left.setdefault((result.label, shift), set()).add(r.layer)
    notes = [
        f"{label}: only layers every {shift:g} ms; left out as of another rate: "
        f"{', '.join(map(str, sorted(layers, key=layer_key)))}."
        for (label, shift), layers in left.items()
    ]
    return kept, notes


def _with_interval(a: LayerAgreement, labelled: Mapping[int, Summary]) -> LayerAgreement:
    """With the interval of the bits lost, paired by speaker; corrected for the layers that the best was chosen from."""
    best, free = labelled[a.labelled_layer].left_out, labelled[a.unsupervised_layer].left_out
    if a.same or best is None or free is None or best.groups != free.groups:
        return a
    return replace(a, regret=(best - free).interval(a.relation.n - 1))


def _orders(rows: Sequence[ModelRow], columns: Sequence[Column]) -> dict[Column, Ties[str]]:
    """Which models cannot be told apart, of the bounds that all rows have with their sums by speaker."""
    found: dict[Column, Ties[str]] = {}
    for column in columns:
        left_out = {row.label: f.left_out for row in rows if (f := row.figures.get(column)) and f.left_out}
        if len(left_out) == len(rows) and (order := ties(left_out)):
            found[column] = order
    return found


def _distinct(columns: Sequence[Column], rows: Sequence[ModelRow]) -> list[Column]:
    """Without choices that are the same layer as one before in every row: where only one layer was measured."""
    kept: dict[tuple[object, ...], Column] = {}
    for column in columns:
        layers = tuple(row.figures[column].layer if column in row.figures else None for row in rows)
        kept.setdefault((column.task, column.probe, layers), column)
    return list(kept.values())


def _relations(rows: Sequence[ModelRow], columns: Sequence[Column]) -> dict[tuple[Column, str], Relation]:
    found: dict[tuple[Column, str], Relation] = {}
    metrics = [metric for metric in SCORE_NAMES if any(metric in row.scores for row in rows)]
    for metric, column in itertools.product(metrics, columns):
        trusted = [r for r in rows if column in r.figures and metric in r.scores and not r.scores[metric].doubtful]
        bits = [r.figures[column].mi_lower_bound_bits for r in trusted]
        errors = [r.scores[metric].percent for r in trusted]
        name = f"{BOUND[column.task]} ({CHOICE_NAMES[column.choice]}, {column.probe})"
        relation = correlate(bits, errors, name, SCORE_NAMES[metric], "negative")
        of_bits, of_errors = [r.figures[column].left_out for r in trusted], [r.scores[metric].left_out for r in trusted]
        found[column, metric] = with_speakers(relation, of_bits, of_errors)
    return found


def _score_notes(rows: Sequence[ModelRow], runs: Sequence[S3prlRun], results: Sequence[Result]) -> list[str]:
    notes = [
        f"{SCORE_NAMES[metric]} of {row.label}: {value.remark}."
        for row in rows
        for metric, value in row.scores.items()
        if value.remark
    ]
    for text, group in {
        "Runs that fine-tuned the upstream (-f) are not of what was measured, and left out: {}.": [
            run for run in runs if run.fine_tuned
        ],
        "Runs of upstreams that are not in this table: {}. --stock LABEL=FOLDER says whose a run is.": [
            run for run in runs if not any(run.belongs_to(r.first) for r in results)
        ],
    }.items():
        if group:
            notes.append(text.format(", ".join(f"{run.folder} ({run.upstream})" for run in group)))
    for metric in METRICS:
        kinds = {row.scores[metric].kind for row in rows if metric in row.scores}
        if len(kinds) > 1:
            notes.append(
                f"{SCORE_NAMES[metric]}s are from {' and '.join(sorted(kinds))}: runs by different people differ in "
                "learning rate and more, so small differences between them mean little."
            )
    return notes
