"""Which estimates may share an axis, and what the models in it are called."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from ...core.config import TASKS
from ...results.class_contributions import ClassRecord
from ...results.comparability import NOTED, ComparisonKey, group_by_key
from ...results.record import Record
from ...results.summary import FRAMES_ORDER, Summary, rank_in

Scale: TypeAlias = ComparisonKey
"""What estimates on one axis share."""

Model: TypeAlias = str
"""One upstream with its weights: `upstream_sha256` of its records."""


Pair: TypeAlias = tuple[Record, ClassRecord]
"""An estimate and what it says class by class."""


def with_classes(records: Iterable[Record], classes: Iterable[ClassRecord]) -> list[Pair]:
    """Every class record of one experiment with the record that it belongs to."""
    own = {(r.task, r.identity()): r for r in records}
    return [(own[c.task, c.identity()], c) for c in classes if (c.task, c.identity()) in own]


def scale_of(item: Summary | Record) -> Scale:
    """The scale of an estimate."""
    return ComparisonKey.of(item).without(*NOTED)


def model_of(item: Summary | Record) -> Model:
    """The model of an estimate."""
    return item.upstream_sha256


def by_scale(summaries: Iterable[Summary]) -> dict[Scale, list[Summary]]:
    """Summaries by what may share an axis; tasks in our order, headline frames first."""
    found = group_by_key(summaries, *NOTED)
    order = sorted(found, key=lambda k: (rank_in(k.task, TASKS), k.kind, rank_in(k.scored_frames, FRAMES_ORDER)))
    return {k: found[k] for k in order}


def natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key that puts `layer 10` behind `layer 2`.

    Example:
        >>> sorted(["a10", "a2", "b1"], key=natural)
        ['a2', 'a10', 'b1']
    """
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", text) if p]


def in_order(names: Mapping[Model, str]) -> dict[Model, str]:
    """Names of models in the order in which figures and tables show them: `step 200` before `step 1600`."""
    return dict(sorted(names.items(), key=lambda item: natural(item[1])))


def headline_scales(scales: dict[Scale, list[Summary]]) -> list[Scale]:
    """The scales without those that only vary a setting of others (mask pattern, shift, clusters).

    Of a sweep, the setting with most models and layers stays; the rest is drawn as a sweep.
    """
    kept: list[Scale] = []
    richest = sorted(scales, key=lambda k: (-len(_content(scales[k])), k.n_clusters != 50, -(k.n_clusters or 0)))
    for scale in richest:
        own = {model for model, _ in _content(scales[scale])}
        alike = [k for k in kept if _without_setting(k) == _without_setting(scale)]
        if not any(own <= {model for model, _ in _content(scales[k])} for k in alike):
            kept.append(scale)
    return [k for k in scales if k in kept]


def _content(summaries: list[Summary]) -> set[tuple[Model, int | str]]:
    return {(model_of(s), s.layer) for s in summaries}


def _without_setting(scale: Scale) -> tuple[object, ...]:
    return (scale.kind, scale.without("view", "clusters"))
