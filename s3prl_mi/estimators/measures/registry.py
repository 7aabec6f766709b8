"""The table of measures: name, formula, source, what each needs, its unit, which direction is good."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from ...core.config import ALIGNED, MEASURES_KEY, Labels, Task
from ...core.errors import MIError, nearest
from ..intervals import Interval, LeftOut
from .sample import Sample

Value: TypeAlias = LeftOut | float
"""A number with what it is without each group of speakers, or alone; NaN where it is not defined."""

Better: TypeAlias = Literal["higher", "lower", "near 1"]
Needs: TypeAlias = Literal["frames", "utterances", "codebook", "pairs", "audio", "labels"]

MODULES: tuple[str, ...] = ("spectrum", "views", "units", "reference")
"""Listed first; every other module in this folder is imported, too, so that a new file needs no entry here."""


@dataclass(frozen=True)
class Measure:
    """One measure.

    Attributes:
        name: in configs and records.
        title: for tables and figures.
        formula: what is computed, in a line.
        source: whose definition.
        needs: what it reads of a `Sample`; `labels` makes it one of mi_supervised, all others are of mi_views.
        unit: of its values.
        better: which values speak for a layer or a checkpoint.
        default: whether it is in the default set, which adds at most 10 % to a run.
        blind: what it cannot see.
        labels: what it reads where it needs labels, `phones` or `words`; empty where it needs none.
        function: computes it.
    """

    name: str
    title: str
    formula: str
    source: str
    needs: Needs
    unit: str
    better: Better
    default: bool
    blind: str
    labels: tuple[Labels, ...]
    function: Callable[[Sample], Value]

    @property
    def task(self) -> Task:
        """The task whose runs compute it."""
        return "mi_supervised" if self.needs == "labels" else "mi_views"

    def is_of(self, labels: str | None) -> bool:
        """Whether it is defined for such labels; None: for a run of mi_views."""
        return labels in self.labels if self.labels else labels is None

    def whole(self) -> dict[str, str]:
        """Everything about it, for `s3prl-mi explain measures NAME`."""
        needs = self.needs if self.needs != "labels" else " or ".join(self.labels)
        return {
            "title": self.title,
            "says": inspect.getdoc(self.function) or "",
            "formula": self.formula,
            "source": self.source,
            "unit": self.unit,
            "better": self.better,
            "needs": f"{needs} ({self.task})",
            "cannot see": self.blind or "not stated",
            "default": "yes" if self.default else "no: only with measures: all, or by name",
            "defined in": inspect.getsourcefile(self.function) or "",
        }

    def describe(self) -> str:
        """In words, for `s3prl-mi explain measures`."""
        extra = "" if self.default else " Only with measures: all, or by name."
        return (
            f"{self.formula}. {self.source}. Needs {self.needs} ({self.task}); unit: {self.unit}; better: "
            f"{self.better}.{extra}"
        )


_TABLE: dict[str, Measure] = {}


def measure(
    title: str,
    formula: str,
    source: str,
    needs: Needs,
    unit: str,
    better: Better = "higher",
    default: bool = True,
    blind: str = "",
    labels: tuple[Labels, ...] = ALIGNED,
) -> Callable[[Callable[[Sample], Value]], Callable[[Sample], Value]]:
    """Put a function into the table, under its own name; `labels` counts only where it needs labels."""

    def put(function: Callable[[Sample], Value]) -> Callable[[Sample], Value]:
        name = function.__name__
        of = labels if needs == "labels" else ()
        _TABLE[name] = Measure(name, title, formula, source, needs, unit, better, default, blind, of, function)
        return function

    return put


def measures() -> dict[str, Measure]:
    """All measures by name."""
    folder = str(Path(__file__).parent)
    for module in dict.fromkeys([*MODULES, *(m.name for m in pkgutil.iter_modules([folder]))]):
        importlib.import_module(f"{__package__}.{module}")
    return _TABLE


def chosen(asked: Sequence[str], task: Task, labels: Sequence[str | None] | None = None) -> list[Measure]:
    """The measures of a task that a config asks for.

    Args:
        asked: names, or `all`, `default`, `none`.
        task: measures of the other task are left out.
        labels: of a run of mi_supervised; measures that are defined for none of them are left out. None: for any.

    Raises:
        MIError: no such measure.
    """
    table = measures()
    sets = {"all": list(table), "default": [m.name for m in table.values() if m.default], "none": []}
    wanted: set[str] = set()
    for name in asked:
        if name not in sets and name not in table:
            known = (*sets, *table)
            raise MIError(
                f"config key {MEASURES_KEY}: no measure is called {name!r}.{nearest(name, known)} "
                f"There are: {', '.join(known)}."
            )
        wanted.update(sets.get(name, [name]))
    of_task = [m for m in table.values() if m.name in wanted and m.task == task]
    return of_task if labels is None else [m for m in of_task if any(map(m.is_of, labels))]


@dataclass(frozen=True)
class Measured:
    """A measure's value on a sample, its interval over speakers, and the seconds it took."""

    measure: Measure
    interval: Interval
    over: str | None
    seconds: float

    @property
    def value(self) -> float | None:
        """None where it is not defined."""
        return self.interval.value if math.isfinite(self.interval.value) else None


def evaluate(wanted: Sequence[Measure], sample: Sample) -> Iterator[Measured]:
    """Compute measures one after the other; what several share counts for the first."""
    for m in wanted:
        began = time.perf_counter()
        value = m.function(sample)
        seconds = time.perf_counter() - began
        if isinstance(value, LeftOut):
            yield Measured(m, value.interval(), value.over, seconds)
        else:
            yield Measured(m, Interval(float(value), None, None, None, 0), None, seconds)
