"""Records -> mean and standard deviation over the seeds: `mi_summary.csv`, at full precision."""

from __future__ import annotations

import csv
import dataclasses
import io
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..core.errors import MIError
from ..core.files import write_whole
from ..core.types import Bits
from ..estimators.intervals import LeftOut, of_both_sides
from ..estimators.probes import PROBES
from .comparability import NOTED, ComparisonKey
from .record import RESULTS_FILE, Record
from .speaker_sums import SpeakerRecord, sums_key

SUMMARY_FILE = "mi_summary.csv"

FRAMES_ORDER = ("masked", "all", "unmasked")
"""The headline first: what a mask view is about, then what a shift view is about."""
PROBE_ORDER = tuple(PROBES)


class Panel(NamedTuple):
    """Everything that estimates of one table have in common: they differ in layer and probe only."""

    upstream: str
    checkpoint_name: str | None
    checkpoint_sha256: str | None
    upstream_sha256: str
    key: ComparisonKey
    fit_frames: int
    eval_frames: int


@dataclass(frozen=True, slots=True)
class Summary:
    """Mean and standard deviation over the seeds of one estimate; its fields up to `key` are `mi_summary.csv`.

    A field without `_sd` is the mean over seeds; `_sd` is the sample standard deviation (ddof = 1; 0 for a
    single seed). Everything before `layer` and `frame_shift_ms` says what was measured and is the same for
    all records summarised.
    """

    task: str
    upstream: str
    checkpoint_name: str | None
    checkpoint_sha256: str | None
    upstream_sha256: str
    step: int | None
    series: str | None
    protocol: str
    view: str | None
    scored_frames: str
    n_clusters: int | None
    fit_splits: tuple[str, ...]
    eval_splits: tuple[str, ...]
    fit_frames: int
    eval_frames: int
    frame_shift_ms: float
    layer: int | str
    layer_name: str
    dim: int
    probe: str
    seeds: tuple[int, ...]
    n_seeds: int
    mi_lower_bound_bits: Bits
    mi_lower_bound_bits_sd: Bits
    entropy_bits: Bits
    entropy_bits_sd: Bits
    cross_entropy_bits: Bits
    cross_entropy_bits_sd: Bits
    accuracy: float
    accuracy_sd: float
    n_classes: int
    """Number of classes (the largest, should seeds differ)."""
    label_set: str | None
    unseen_frames: int
    unlabelled_frames: int
    skipped_utterances: int
    ci_low_bits: Bits | None
    """95 % interval of the mean over seeds, over the speakers or utterances scored (`ci_over`, `ci_groups`)."""
    ci_high_bits: Bits | None
    ci_over: str | None
    ci_groups: int | None
    total_ci_low_bits: Bits | None
    """The same over the choice of fit speakers, too (`fit_ci_groups` of them): with `fit_ci: true`."""
    total_ci_high_bits: Bits | None
    fit_ci_groups: int | None
    prior_cross_entropy_bits: Bits | None
    speaker_information_bits: Bits | None
    within_speaker_bits: Bits | None
    within_speaker_low_bits: Bits | None
    """Of the speaker with the least within-speaker bits, and with the most."""
    within_speaker_high_bits: Bits | None
    key: ComparisonKey
    left_out: LeftOut | None = None
    """The mean over seeds without each speaker, where `mi_speakers.jsonl` was read."""

    @property
    def interval(self) -> tuple[Bits, Bits] | None:
        """The 95 % interval over speakers, of both sides where it was computed; None without one."""
        if self.total_ci_low_bits is not None and self.total_ci_high_bits is not None:
            return self.total_ci_low_bits, self.total_ci_high_bits
        if self.ci_low_bits is not None and self.ci_high_bits is not None:
            return self.ci_low_bits, self.ci_high_bits
        return None

    @property
    def panel(self) -> Panel:
        """What this summary shares with those that stand in one table with it."""
        return Panel(*(getattr(self, name) for name in Panel._fields))


COLUMNS: tuple[str, ...] = tuple(f.name for f in dataclasses.fields(Summary) if f.name not in ("key", "left_out"))
"""Of `mi_summary.csv`."""


def summarise(records: Iterable[Record], speakers: Iterable[SpeakerRecord] = ()) -> list[Summary]:
    """Take mean and standard deviation over seeds.

    Records are put together only if they agree in everything but seed, outcome and time: model, layer, probe, numbers
    of frames and what `ComparisonKey` names. If a seed occurs twice, the later record counts.

    Args:
        records: in any order.
        speakers: of the records, from `read_speakers`; without them there are no intervals.

    Returns:
        One summary per estimate, ordered by panel (in order of appearance, `masked` before `all` before
        `unmasked`), probe (`logistic` first) and layer (`weighted` last).
    """
    groups: dict[tuple[Panel, str, int | str], dict[int, Record]] = {}
    for record in records:
        groups.setdefault((_panel(record), record.probe, record.layer), {})[record.seed] = record
    appearance: dict[Panel, int] = {}

    def first(panel: Panel) -> int:
        alike = panel._replace(key=panel.key.without("frames"), fit_frames=0, eval_frames=0)
        return appearance.setdefault(alike, len(appearance))

    for panel, _, _ in groups:
        first(panel)

    def order(group: tuple[Panel, str, int | str]) -> tuple[Any, ...]:
        panel, probe, layer = group
        frames = (rank_in(panel.key.scored_frames, FRAMES_ORDER), panel.fit_frames, panel.eval_frames)
        return first(panel), frames, rank_in(probe, PROBE_ORDER), layer_key(layer)

    sums = {sums_key(line): line for line in speakers}
    return [_summary(group[0], list(groups[group].values()), sums) for group in sorted(groups, key=order)]


def _panel(record: Record) -> Panel:
    checkpoint = record.checkpoint or {}
    return Panel(
        upstream=record.upstream,
        checkpoint_name=checkpoint.get("name"),
        checkpoint_sha256=checkpoint.get("sha256"),
        upstream_sha256=record.upstream_sha256,
        key=ComparisonKey.of(record).without(*NOTED),
        fit_frames=record.fit_frames,
        eval_frames=record.eval_frames,
    )


def _summary(panel: Panel, records: list[Record], sums: Mapping[tuple[Any, ...], SpeakerRecord]) -> Summary:
    records = sorted(records, key=lambda r: r.seed)
    last = records[-1]
    values: dict[str, Any] = {name: getattr(last, name) for name in COLUMNS if hasattr(last, name)}
    values |= panel.key._asdict() | panel._asdict()
    for name in ("mi_lower_bound_bits", "entropy_bits", "cross_entropy_bits", "accuracy"):
        values[name], values[f"{name}_sd"] = mean_sd([getattr(r, name) for r in records])
    values |= {
        "seeds": tuple(r.seed for r in records),
        "n_seeds": len(records),
        "n_classes": max(r.n_classes for r in records),
        "skipped_utterances": last.utterances.get("skipped", 0),
    }
    for name in ("prior_cross_entropy_bits", "speaker_information_bits", "within_speaker_bits"):
        known = [v for r in records if (v := getattr(r, name)) is not None]
        values[name] = statistics.fmean(known) if known else None
    lines = [sums.get(sums_key(r)) for r in records]
    left_out = _mean([line.left_out() if line else None for line in lines])
    interval = left_out.interval() if left_out else None
    of_fit = _mean([line.fit_left_out() if line else None for line in lines])
    fitted = of_fit.interval() if of_fit else None
    total = of_both_sides(interval, fitted) if interval and fitted else None
    within = [line.within_bits for line in lines if line is not None and line.within_bits]
    complete = left_out is not None and len(within) == len(records) and values["within_speaker_bits"] is not None
    by_speaker = np.mean(within, axis=0).tolist() if complete else None
    values |= {
        "ci_low_bits": interval.low if interval else None,
        "ci_high_bits": interval.high if interval else None,
        "ci_over": left_out.over if left_out else None,
        "ci_groups": interval.groups if interval else None,
        "total_ci_low_bits": total.low if total else None,
        "total_ci_high_bits": total.high if total else None,
        "fit_ci_groups": fitted.groups if fitted else None,
        "within_speaker_low_bits": min(by_speaker) if by_speaker else None,
        "within_speaker_high_bits": max(by_speaker) if by_speaker else None,
    }
    return Summary(**{name: values[name] for name in (*COLUMNS, "key")}, left_out=left_out)


def _mean(seeds: Sequence[LeftOut | None]) -> LeftOut | None:
    """The mean over seeds without each group; None where a seed has no sums, or those of other groups."""
    found = [s for s in seeds if s is not None]
    if not found or len(found) < len(seeds) or any(f.groups != found[0].groups for f in found):
        return None
    return LeftOut.mean(found)


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (ddof = 1; 0 for one value).

    Example:
        >>> mean_sd([1.0, 2.0, 3.0])
        (2.0, 1.0)
        >>> mean_sd([1.5])
        (1.5, 0.0)
    """
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def best_layers(summaries: Iterable[Summary]) -> list[Summary]:
    """The layer with the highest mean bound of each panel and probe (the lowest layer of a tie)."""
    best: dict[tuple[Panel, str], Summary] = {}
    for summary in summaries:
        key = (summary.panel, summary.probe)
        if key not in best or summary.mi_lower_bound_bits > best[key].mi_lower_bound_bits:
            best[key] = summary
    return list(best.values())


def worth_marking(summaries: Iterable[Summary]) -> list[Summary]:
    """The best layers that say something: chosen among several, and above zero."""
    summaries = list(summaries)
    several = Counter((s.panel, s.probe) for s in summaries)
    return [s for s in best_layers(summaries) if several[s.panel, s.probe] > 1 and s.mi_lower_bound_bits > 0]


def rank_in(name: str, order: Sequence[str]) -> tuple[int, str]:
    """Sort key: names in the given order first, then all others by the alphabet."""
    return (order.index(name) if name in order else len(order), name)


def layer_key(layer: int | str) -> tuple[int, int, str]:
    """Sort key: layers by number, then those with a name (`weighted`)."""
    return (0, layer, "") if isinstance(layer, int) else (1, 0, layer)


def by_panel(summaries: Iterable[Summary]) -> dict[Panel, list[Summary]]:
    """The summaries of each panel, in order of appearance."""
    panels: dict[Panel, list[Summary]] = {}
    for summary in summaries:
        panels.setdefault(summary.panel, []).append(summary)
    return panels


def required(records: Iterable[Record], speakers: Iterable[SpeakerRecord] = ()) -> list[Summary]:
    """As `summarise`, but a MIError where there is no record."""
    summaries = summarise(records, speakers)
    if not summaries:
        raise MIError(
            f"{RESULTS_FILE}: holds no finished estimate, so there is nothing to report. Run the same "
            "command again with -a to continue."
        )
    return summaries


def write_summary(path_csv: Path, records: Iterable[Record], speakers: Iterable[SpeakerRecord] = ()) -> None:
    """Write `mi_summary.csv`: one line per estimate, at full precision.

    Splits and seeds are joined by `+`; what does not apply (`n_clusters` of mi_supervised) is empty.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([_cell(getattr(s, name)) for name in COLUMNS] for s in summarise(records, speakers))
    write_whole(path_csv, text.getvalue())


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return "+".join(str(v) for v in value)
    return repr(value) if isinstance(value, float) else str(value)
