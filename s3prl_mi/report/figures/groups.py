"""Which estimates may share an axis (those with one `ComparisonKey`), and the order of the models in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from ...core.config import LABELS, TASKS
from ...results.class_contributions import ClassRecord
from ...results.comparability import NOTED, ComparisonKey, group_by_key
from ...results.record import Record
from ...results.summary import FRAMES_ORDER, Summary, rank_in

Model: TypeAlias = str
"""One upstream with its weights: `upstream_sha256` of its records."""

Pair: TypeAlias = tuple[Record, ClassRecord]
"""An estimate and its classes."""


def with_classes(records: Iterable[Record], classes: Iterable[ClassRecord]) -> list[Pair]:
    """Every class record of one experiment with the record that it belongs to."""
    own = {(r.task, r.identity()): r for r in records}
    return [(own[c.task, c.identity()], c) for c in classes if (c.task, c.identity()) in own]


def key_of(record: Record) -> ComparisonKey:
    """The key of a record as its summary has it."""
    return ComparisonKey.of(record).without(*NOTED)


def by_key(summaries: Iterable[Summary]) -> dict[ComparisonKey, list[Summary]]:
    """Summaries by what may share an axis; tasks and labels in our order, headline frames first."""
    found = group_by_key(summaries)

    def order(key: ComparisonKey) -> tuple[Any, ...]:
        about = key.task == "mi_supervised" and not key.of_content, rank_in(key.labels, LABELS)
        return rank_in(key.task, TASKS), about, key.kind, rank_in(key.scored_frames, FRAMES_ORDER)

    return {k: found[k] for k in sorted(found, key=order)}


def natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key that puts `layer 10` behind `layer 2`.

    Example:
        >>> sorted(["a10", "a2", "b1"], key=natural)
        ['a2', 'a10', 'b1']
    """
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", text) if p]


def headline_keys(groups: Mapping[ComparisonKey, list[Summary]]) -> list[ComparisonKey]:
    """The groups without those that only vary a setting of others (mask pattern, shift, clusters).

    Of a sweep, the setting with most models and layers stays; the rest is drawn as a sweep.
    """
    measured = {k: {(s.upstream_sha256, s.layer) for s in group} for k, group in groups.items()}
    models = {k: {model for model, _ in found} for k, found in measured.items()}
    kept: list[ComparisonKey] = []
    for key in sorted(groups, key=lambda k: (-len(measured[k]), k.n_clusters != 50, -(k.n_clusters or 0))):
        alike = [k for k in kept if k.kind == key.kind and k.without(*_VARIED) == key.without(*_VARIED)]
        if not any(models[key] <= models[k] for k in alike):
            kept.append(key)
    return [k for k in groups if k in kept]


_VARIED = ("view", "clusters")
