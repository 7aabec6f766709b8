"""Everything that a report is about, read once: records, classes, names, published and own error rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...results.class_contributions import CLASSES_FILE, read_classes
from ...results.collect import Result, collect
from ...results.record import Record
from ...results.selection import last_layer
from ...results.summary import Summary
from ..compare.scores import ScoreValue, scores_of
from ..compare.table import published_name
from ..figures.scale import Measured, Model, Scale, all_summaries, by_scale, headline_scales, in_order
from ..s3prl_runs import read_runs


@dataclass(frozen=True, slots=True)
class ReportData:
    """What was found in the folders.

    Attributes:
        results: one for each experiment and model.
        measured: records and classes, in the same order.
        records: all of them.
        summaries: over seeds.
        names: of every model, in the order of showing.
        scales: summaries by what may share an axis.
        headline: scales without those that only vary a setting.
        last: the last layer of each model's encoder.
        rates: PER and WER by model: of the user's own runs where there are any, else as published.
    """

    results: list[Result]
    measured: list[Measured]
    records: list[Record]
    summaries: list[Summary]
    names: dict[Model, str]
    scales: dict[Scale, list[Summary]]
    headline: list[Scale]
    last: dict[Model, int | None]
    rates: dict[Model, dict[str, ScoreValue]]


def read_report_data(folders: Sequence[Path | str], stock: Sequence[Path | str] = ()) -> ReportData:
    """Read experiments and stock runs.

    Args:
        folders: experiments, or folders that hold some at any depth.
        stock: folders of s3prl's own `ctc` and `asr` runs.

    Raises:
        MIError: a folder without results, or a file that is not of this version.
    """
    results = collect(folders)
    runs = read_runs(stock) if stock else []
    measured = [Measured(r.records, read_classes(r.folder / CLASSES_FILE, r.records)) for r in results]
    summaries = all_summaries(measured)
    scales = by_scale(summaries)
    models: dict[Model, list[Record]] = {}
    for result in results:
        models.setdefault(result.first.upstream_sha256, []).extend(result.records)
    return ReportData(
        results=results,
        measured=measured,
        records=[r for result in results for r in result.records],
        summaries=summaries,
        names=in_order(short_names(results)),
        scales=scales,
        headline=headline_scales(scales),
        last={m: last_layer(records) for m, records in models.items()},
        rates={
            r.first.upstream_sha256: scores_of(r, r.label, published_name(r), runs, {}, published=True)
            for r in results
        },
    )


def short_names(results: Sequence[Result]) -> dict[Model, str]:
    """Labels without the upstream in front where the checkpoint alone tells models apart."""
    labels = {r.first.upstream_sha256: r.label for r in results}
    upstreams = {r.first.upstream_sha256: r.first.upstream for r in results}
    short = {m: label.removeprefix(f"{upstreams[m]} ") for m, label in labels.items()}
    taken = list(short.values())
    return {m: short[m] if taken.count(short[m]) == 1 else label for m, label in labels.items()}


def best_of_models(group: Sequence[Summary], probe: str | None = None) -> dict[Model, Summary]:
    """The highest estimate of each model of a scale over layers (and probes, unless one is named), best first."""
    best: dict[Model, Summary] = {}
    for s in group:
        if probe is None or s.probe == probe:
            held = best.get(s.upstream_sha256)
            if held is None or s.mi_lower_bound_bits > held.mi_lower_bound_bits:
                best[s.upstream_sha256] = s
    return dict(sorted(best.items(), key=lambda item: -item[1].mi_lower_bound_bits))
