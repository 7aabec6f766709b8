"""Which figures may stand in one column: the filters, and the refusal that names what differs.

Two bounds are on one scale only if everything but the model, the layer and the probe agrees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from ...core.errors import MIError
from ...results.collect import Result
from ...results.record import Record
from ...results.summary import FRAMES_ORDER, rank_in


@dataclass(frozen=True, slots=True)
class _Difference:
    """One thing that must agree."""

    value: Callable[[Record], str | None]
    """None: says nothing of this record."""
    way_out: str


def _splits(names: Sequence[str]) -> str:
    return "+".join(names)


def _weights(record: Record) -> str | None:
    """Where the weights of a weighted sum come from, the same for runs of one kind on several upstreams."""
    if record.layer != "weighted":
        return None
    return record.layer_name.partition(":")[0].replace(f" on {record.upstream}", "")


_DIFFERENCES: dict[str, _Difference] = {
    "protocol": _Difference(lambda r: r.protocol, "--protocol NAME keeps one"),
    "view": _Difference(lambda r: r.view or "", "--view TEXT keeps the views that contain it"),
    "frames": _Difference(lambda r: f"{r.scored_frames} frames", "--frames NAME keeps one"),
    "clusters": _Difference(lambda r: f"{r.n_clusters} clusters", "--clusters N keeps one"),
    "frame_rate": _Difference(lambda r: f"every {r.frame_shift_ms:g} ms", "compare each rate by itself"),
    "labels": _Difference(
        lambda r: f"{r.n_classes} {r.label_set or 'labels'}" if r.task == "mi_supervised" else "",
        "measure both with one set of labels",
    ),
    "fit_split": _Difference(
        lambda r: f"fit on {_splits(r.fit_splits)}", "measure both with one datarc.fit_splits"
    ),
    "eval_split": _Difference(
        lambda r: f"scored on {_splits(r.eval_splits)}", "measure both with one datarc.eval_splits"
    ),
    "utterances": _Difference(
        lambda r: f"fit on {r.utterances.get('fit')} and scored on {r.utterances.get('eval')} utterances",
        "measure both with one datarc.max_utterances",
    ),
    "weights": _Difference(_weights, "measure both with one featurizer"),
}

ALLOWABLE: tuple[str, ...] = tuple(_DIFFERENCES)
"""What `--allow` may name."""


@dataclass(frozen=True, slots=True)
class Filters:
    """What of a sweep to keep; None keeps everything. They bear on mi_views, but for `protocol`."""

    protocol: str | None = None
    view: str | None = None
    """Text that the view's name contains, such as `30 of 40` or `shift`."""
    clusters: int | None = None
    frames: str | None = None

    def keeps(self, record: Record) -> bool:
        """Whether a record stays."""
        if self.protocol is not None and self.protocol not in (
            record.protocol,
            record.protocol.split("-")[0],
        ):
            return False
        if record.task != "mi_views":
            return True
        return (
            (self.view is None or self.view in (record.view or ""))
            and (self.clusters is None or self.clusters == record.n_clusters)
            and (self.frames is None or self.frames == record.scored_frames)
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
    if filters != Filters() and not any(x.task == "mi_views" for r in found for x in r.records):
        views = [x for r in results for x in r.records if x.task == "mi_views"]
        if views or not any(r.records for r in found):
            raise MIError(
                f"{_written(filters)}: nothing is left. There is: {_listing(views or results[0].records)}."
            )
    if filters.frames is None:
        found = [replace(r, records=_headline(r.records)) for r in found]
    return [r for r in found if r.records]


def _headline(records: list[Record]) -> list[Record]:
    """Of each view, only the kind of frames that it is about."""
    first: dict[str | None, str] = {}
    for record in records:
        kinds = (first.get(record.view, record.scored_frames), record.scored_frames)
        first[record.view] = min(kinds, key=lambda name: rank_in(name, FRAMES_ORDER))
    return [r for r in records if r.scored_frames == first[r.view]]


def _written(filters: Filters) -> str:
    options = {n: getattr(filters, n) for n in ("protocol", "view", "clusters", "frames")}
    return " ".join(f"--{name} {value!r}" for name, value in options.items() if value is not None)


def _listing(records: Iterable[Record]) -> str:
    texts = (
        f"{r.view or r.task}, {r.scored_frames} frames, {r.n_clusters} clusters, {r.protocol}"
        for r in records
    )
    return "; ".join(dict.fromkeys(texts))


def check(results: Sequence[Result], allowed: Sequence[str] = ()) -> list[str]:
    """Refuse to put figures side by side that are not on one scale.

    Args:
        results: after `keep`.
        allowed: names of `ALLOWABLE` that may differ between models.

    Returns:
        One sentence for each difference that was allowed, for the foot of the table.

    Raises:
        MIError: figures differ in something that was not allowed (all of it named, with the way out); or one model
            has several figures for one cell, which cannot be allowed.
    """
    _check_names(allowed)
    refused: dict[str, list[str]] = {}
    noted: list[str] = []
    for task in ("mi_supervised", "mi_views"):
        for name, difference in _DIFFERENCES.items():
            values = _values(results, task, difference)
            if len(values) < 2:
                continue
            text = f"{task}: " + "; ".join(f"{v} in {_names(labels)}" for v, labels in values.items())
            _check_one_per_model(name, task, values, difference)
            if name in allowed:
                noted.append(f"Not on one scale ({name}, allowed). {text}.")
            else:
                refused.setdefault(name, []).append(text)
    if refused:
        lines = [
            f"{name} ({_DIFFERENCES[name].way_out}): {'. '.join(texts)}" for name, texts in refused.items()
        ]
        raise MIError(
            "these figures are not comparable. They differ in "
            + ". They differ in ".join(lines)
            + ". Compare them one "
            f"kind at a time, or put them side by side all the same with --allow {','.join([*allowed, *refused])}."
        )
    return noted


def _check_names(allowed: Sequence[str]) -> None:
    for name in allowed:
        if name not in ALLOWABLE:
            raise MIError(f"--allow {name!r}: no such difference. Choose from {', '.join(ALLOWABLE)}.")


def _values(results: Sequence[Result], task: str, difference: _Difference) -> dict[str, list[str]]:
    """Value -> labels of the models that have it."""
    found: dict[str, list[str]] = {}
    for result in results:
        for value in dict.fromkeys(difference.value(r) for r in result.records if r.task == task):
            if value is None:
                continue
            labels = found.setdefault(value, [])
            if result.label not in labels:
                labels.append(result.label)
    return found


def _check_one_per_model(name: str, task: str, values: dict[str, list[str]], difference: _Difference) -> None:
    if name == "frame_rate":
        return  # one model may have layers of several rates (MR-HuBERT); `build` takes the finest
    having: dict[str, list[str]] = {}
    for value, labels in values.items():
        for label in labels:
            having.setdefault(label, []).append(value)
    for label, several in having.items():
        if len(several) > 1:
            raise MIError(
                f"{label}: {task} was measured in several ways ({name}: {'; '.join(several)}), and the table has room "
                f"for one: {difference.way_out}, or name only the folder that counts."
            )


def _names(labels: Sequence[str], most: int = 4) -> str:
    shown = ", ".join(labels[:most])
    return shown if len(labels) <= most else f"{shown} and {len(labels) - most} more"
