"""Which figures may stand in one column: the filters, and the refusal that names what differs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ...core.config import TASKS
from ...core.errors import MIError
from ...results.collect import Result
from ...results.comparability import ENTROPY_TOLERANCE, PARTS, ComparisonKey, differences, group_by_key
from ...results.record import Record
from ...results.selection import paper_setting_first
from ...results.summary import FRAMES_ORDER, rank_in

ALLOWABLE: tuple[str, ...] = tuple(name for name in PARTS if name != "task")
"""What `--allow` may name."""


@dataclass(frozen=True, slots=True)
class Filters:
    """What of a sweep to keep; None keeps everything. `view`, `clusters` and `frames` bear on mi_views."""

    protocol: str | None = None
    view: str | None = None
    """Text that the view's name contains, such as `30 of 40` or `shift`."""
    clusters: int | None = None
    frames: str | None = None
    labels: str | None = None
    """Of mi_supervised; None: of each model the first of phones, words, speaker, pitch, energy."""
    frame_shift: float | None = None
    """In ms."""

    def keeps(self, record: Record) -> bool:
        """Whether a record stays."""
        if self.protocol not in (None, record.protocol, record.protocol.split("-")[0]):
            return False
        if self.frame_shift not in (None, record.frame_shift_ms):
            return False
        if record.task == "mi_supervised":
            return self.labels in (None, ComparisonKey.of(record).labels)
        return (
            (self.view or "") in (record.view or "")
            and self.clusters in (None, record.n_clusters)
            and self.frames in (None, record.scored_frames)
        )


def keep(results: Iterable[Result], filters: Filters) -> list[Result]:
    """The records that the filters keep; results that lose all of them are left out.

    Where an upstream was scored on several kinds of frames and none is asked for, those that a view is about
    (`masked`, else `all`) are kept.

    Raises:
        MIError: nothing is left; the message lists what there was.
    """
    results = list(results)
    found = [replace(r, records=[x for x in r.records if filters.keeps(x)]) for r in results]
    if filters.labels is not None and not any(x.task == "mi_supervised" for r in found for x in r.records):
        there = [labels for r in results for x in r.records if (labels := ComparisonKey.of(x).labels)]
        raise MIError(f"--labels {filters.labels!r}: nothing is left. There are: {', '.join(dict.fromkeys(there))}.")
    if replace(filters, labels=None) != Filters() and not any(x.task == "mi_views" for r in found for x in r.records):
        views = [x for r in results for x in r.records if x.task == "mi_views"]
        if views or not any(r.records for r in found):
            names = ("protocol", "view", "clusters", "frames", "frame_shift")
            given = " ".join(f"--{n} {v!r}" for n in names if (v := getattr(filters, n)) is not None)
            there = [k.describe("task", "fit_split", "eval_split") for k in group_by_key(views or results[0].records)]
            raise MIError(f"{given}: nothing is left. There is: {'; '.join(dict.fromkeys(there))}.")
    if filters.frames is None:
        found = [replace(r, records=_headline(r.records)) for r in found]
    if filters.labels is None:
        found = _first_labels(found)
    return [r for r in found if r.records]


def _headline(records: list[Record]) -> list[Record]:
    """Of each view, only the kind of frames that it is about."""
    first: dict[str | None, str] = {}
    for record in records:
        kinds = (first.get(record.view, record.scored_frames), record.scored_frames)
        first[record.view] = min(kinds, key=lambda name: rank_in(name, FRAMES_ORDER))
    return [r for r in records if r.scored_frames == first[r.view]]


def _first_labels(results: Sequence[Result]) -> list[Result]:
    """Of each model, only the labels that come first: those of what is said, if there are any."""
    first: dict[str, ComparisonKey] = {}
    for x in (x for r in results for x in r.records if x.task == "mi_supervised"):
        key = ComparisonKey.of(x)
        first[x.upstream_sha256] = min(first.get(x.upstream_sha256, key), key, key=paper_setting_first)

    def stays(x: Record) -> bool:
        return x.task != "mi_supervised" or ComparisonKey.of(x).labels == first[x.upstream_sha256].labels

    return [replace(r, records=[x for x in r.records if stays(x)]) for r in results]


def check(results: Sequence[Result], allowed: Sequence[str] = ()) -> list[str]:
    """Refuse to put figures side by side that are not comparable.

    Args:
        results: after `keep`.
        allowed: names of `ALLOWABLE` that may differ between models.

    Returns:
        One sentence for each difference that was allowed, for the foot of the table.

    Raises:
        MIError: figures differ in something that was not allowed (all of it named, with a fix); or one model has
            several figures for one cell, which cannot be allowed.
    """
    for name in allowed:
        if name not in ALLOWABLE:
            raise MIError(f"--allow {name!r}: no such difference. Choose from {', '.join(ALLOWABLE)}.")
    refused: dict[str, list[str]] = {}
    noted: list[str] = []

    def add(name: str, text: str) -> None:
        if name in allowed:
            noted.append(f"Not comparable ({name}, allowed). {text}.")
        else:
            refused.setdefault(name, []).append(text)

    for task in TASKS:
        keys = [(r.label, k) for r in results for k in group_by_key(x for x in r.records if x.task == task)]
        _check_one_per_model(task, keys)
        for name, values in differences(k for _, k in keys).items():
            labels = {v: [label for label, k in keys if k.in_words().get(name) == v] for v in values}
            text = f"{task}: " + "; ".join(f"{v} in {_listed(labels[v])}" for v in values)
            add(name, text)
        if task == "mi_supervised" and (text := _entropies(results)):
            add("labels", text)
    if refused:
        lines = [f"They differ in {name} ({PARTS[name].fix}): {'. '.join(t)}. " for name, t in refused.items()]
        raise MIError(
            f"these figures are not comparable. {''.join(lines)}Compare them one kind at a time, or put them side by "
            f"side all the same with --allow {','.join([*allowed, *refused])}."
        )
    return noted


def _entropies(results: Sequence[Result]) -> str:
    """The least and the largest H(Y), where they differ by more than frames that lie otherwise explain; else empty."""
    found = {r.label: x.entropy_bits for r in results for x in r.records if x.task == "mi_supervised"}
    low, high = min(found, key=lambda k: found[k], default=None), max(found, key=lambda k: found[k], default=None)
    if low is None or high is None or found[high] - found[low] <= ENTROPY_TOLERANCE:
        return ""
    return f"mi_supervised: H(Y) is {found[low]:.3f} bits in {low}; {found[high]:.3f} in {high}"


def _check_one_per_model(task: str, keys: Sequence[tuple[str, ComparisonKey]]) -> None:
    """Frame rates apart: one model may have layers of several (MR-HuBERT); `build` takes the finest."""
    for label in dict.fromkeys(label for label, _ in keys):
        for name, values in differences(k.without("frame_rate") for other, k in keys if other == label).items():
            raise MIError(
                f"{label}: {task} was measured in several ways ({name}: {'; '.join(values)}), and the table has room "
                f"for one: {PARTS[name].fix}, or name only the folder that counts."
            )


def _listed(labels: Sequence[str], most: int = 4) -> str:
    labels = list(dict.fromkeys(labels))
    return ", ".join(labels[:most]) + (f" and {len(labels) - most} more" if len(labels) > most else "")
