"""Everything that a report is about, read once: records, classes, names, published and own error rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...results.class_contributions import CLASSES_FILE, read_classes
from ...results.collect import Result, collect
from ...results.comparability import ComparisonKey
from ...results.record import Record
from ...results.selection import last_layer
from ...results.speaker_sums import sums_of
from ...results.summary import Summary, summarise
from ..compare.scores import Scores, ScoreTable, misspelt, scores_of, settle
from ..compare.table import published_name
from ..figures.checkpoint_curves import Series, series_of
from ..figures.groups import Model, Pair, by_key, headline_keys, natural, with_classes
from ..s3prl_runs import find_runs, read_runs


@dataclass(frozen=True, slots=True)
class ReportData:
    """What was found in the folders.

    Attributes:
        results: one for each experiment and model.
        records: all of theirs.
        classes: of the records that have them.
        summaries: over seeds.
        names: of every model, in the order of showing.
        groups: summaries by what may share an axis.
        headline: groups without those that only vary a setting.
        last: the last layer of each model's encoder.
        series: of checkpoints.
        mixed: names of series that several training runs share.
        rates: PER and WER by model, of the user's own runs and table, and as published.
        unused: a sentence for each row of the user's table that may be misspelt.
    """

    results: list[Result]
    records: list[Record]
    classes: list[Pair]
    summaries: list[Summary]
    names: dict[Model, str]
    groups: dict[ComparisonKey, list[Summary]]
    headline: list[ComparisonKey]
    last: dict[Model, int | None]
    series: list[Series]
    mixed: list[str]
    rates: dict[Model, Scores]
    unused: list[str]


def read_report_data(
    folders: Sequence[Path | str], stock: Sequence[Path | str] = (), table: ScoreTable | None = None
) -> ReportData:
    """Read experiments and stock runs.

    Args:
        folders: experiments, or folders that hold some at any depth.
        stock: folders of s3prl's own `ctc` and `asr` runs, besides those in and below `folders`.
        table: the user's own scores.

    Raises:
        MIError: a folder without results, or a file that is not of this version.
    """
    results = collect(folders)
    runs = find_runs(folders, [r.first for r in results], read_runs(stock))
    rates = {
        r.first.upstream_sha256: scores_of(r, r.label, published_name(r), runs, table or {}, published=True)
        for r in results
    }
    settle(rates.values())
    lack = [r.label for r in results if not any(v.kind == "own table" for v in rates[r.first.upstream_sha256].values())]
    known = [name for r in results for name in (r.label, published_name(r))]
    records = [r for result in results for r in result.records]
    summaries = summarise(records, sums_of(results))
    groups, names = by_key(summaries), short_names(results)
    series, mixed = series_of(summaries, records)
    return ReportData(
        results=results,
        records=records,
        classes=[
            pair for r in results for pair in with_classes(r.records, read_classes(r.folder / CLASSES_FILE, r.records))
        ],
        summaries=summaries,
        names=names,
        groups=groups,
        headline=headline_keys(groups),
        last={m: last_layer(r for r in records if r.upstream_sha256 == m) for m in names},
        series=series,
        mixed=mixed,
        rates=rates,
        unused=misspelt(table or {}, lack, known),
    )


def short_names(results: Sequence[Result]) -> dict[Model, str]:
    """Labels without the upstream in front where the checkpoint alone tells models apart; `step 200` before `1600`."""
    labels = {r.first.upstream_sha256: (r.label, r.label.removeprefix(f"{r.first.upstream} ")) for r in results}
    taken = [short for _, short in labels.values()]
    names = {model: short if taken.count(short) == 1 else label for model, (label, short) in labels.items()}
    return dict(sorted(names.items(), key=lambda item: natural(item[1])))


def best_of_models(group: Sequence[Summary], probe: str | None = None) -> dict[Model, Summary]:
    """The highest estimate of each model of a group over layers (and probes, unless one is named), best first."""
    best: dict[Model, Summary] = {}
    for s in sorted(group, key=lambda s: -s.mi_lower_bound_bits):
        if probe is None or s.probe == probe:
            best.setdefault(s.upstream_sha256, s)
    return best
