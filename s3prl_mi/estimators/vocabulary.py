"""The classes of labels, fixed on the fit split before anything is fitted: labels as they are, or ranges of numbers."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..core.errors import MIError
from ..core.types import IntVector

UNKNOWN = "<unk>"
"""The class of labels that are too rare in the fit split, where a least count is asked for."""


@dataclass(frozen=True)
class Vocabulary:
    """The labels of the fit split: class id = position. Fixed before fitting.

    With `UNKNOWN` among them, that is the class of all other labels: a function of the label, so the bound of the
    information about it is one of that about the label, too. Sorted; in order of appearance where labels cannot be
    sorted (members of an Enum, mixed tuples).
    """

    labels: tuple[Hashable, ...]

    @staticmethod
    def of(labels: Sequence[Hashable] | np.ndarray, min_count: int = 1) -> Vocabulary:
        """The labels that occur at least `min_count` times, and `UNKNOWN` if others do."""
        counts = Counter(_plain(labels))
        occurring = dict.fromkeys(label if n >= min_count else UNKNOWN for label, n in counts.items())
        try:
            return Vocabulary(tuple(sorted(occurring, key=lambda v: (str(type(v)), v))))
        except TypeError:
            return Vocabulary(tuple(occurring))

    def ids(self, labels: Sequence[Hashable] | np.ndarray) -> IntVector:
        """Class ids, shape (n_frames,); -1 for labels unseen in the fit split, where there is no class `UNKNOWN`."""
        index = {label: i for i, label in enumerate(self.labels)}
        other = index.get(UNKNOWN, -1)
        return np.array([index.get(label, other) for label in _plain(labels)], dtype=np.int64)

    def state(self) -> list[Hashable]:
        """For a file of fitted probes."""
        return list(self.labels)


@dataclass(frozen=True)
class Quantiles:
    """Ranges of a number, with as many frames of the fit split in each, in ascending order.

    Attributes:
        edges: where one range ends and the next, which holds it, begins; ascending.
        unit: of the numbers.
        missing: name of the class of frames without a number (NaN), which comes last; None where there are none to fit.
    """

    edges: tuple[float, ...]
    unit: str
    missing: str | None = None

    @staticmethod
    def of(values: NDArray[np.float64], n_classes: int, unit: str, missing: str | None = None) -> Quantiles:
        """Of numbers, shape (n_frames,); fewer classes where many numbers are equal.

        Raises:
            MIError: all are the same.

        Example:
            >>> Quantiles.of(np.array([1.0, 2.0, 3.0, 4.0, np.nan]), 2, "Hz", "unvoiced").labels
            ('below 3 Hz', '3 Hz or more', 'unvoiced')
        """
        there = values[~np.isnan(values)]
        steps = np.arange(1, n_classes) / n_classes
        edges = np.unique(np.quantile(there, steps, method="higher")) if len(there) else np.zeros(0)
        edges = edges[edges > there.min()] if len(there) else edges
        rest = missing if len(there) < len(values) else None
        if len(edges) + (len(there) > 0) + (rest is not None) < 2:
            what = f"{there[0]:g} {unit}" if len(there) else str(missing)
            raise MIError(f"all frames of the fit split have one value ({what}): nothing to be informed about.")
        return Quantiles(tuple(edges.tolist()), unit, rest)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes."""
        texts = [f"{e:.3g}" for e in self.edges]
        if len(set(texts)) < len(texts):
            texts = [f"{e:g}" for e in self.edges]
        ranges = [f"{a} to {b} {self.unit}" for a, b in itertools.pairwise(texts)]
        ends = ([f"below {texts[0]} {self.unit}"], [f"{texts[-1]} {self.unit} or more"]) if texts else (["any"], [])
        return (*ends[0], *ranges, *ends[1], *([self.missing] if self.missing else []))

    def ids(self, values: NDArray[np.float64]) -> IntVector:
        """Class ids, shape (n_frames,); -1 for NaN where the fit split has none."""
        found = np.searchsorted(np.array(self.edges), values, side="right").astype(np.int64)
        found[np.isnan(values)] = len(self.edges) + 1 if self.missing else -1
        return found

    def state(self) -> dict[str, Any]:
        """For a file of fitted probes."""
        return {"edges": list(self.edges), "unit": self.unit, "missing": self.missing}


Classes: TypeAlias = Vocabulary | Quantiles


def classes_from(state: Any) -> Classes:
    """What `state` of either returned."""
    if isinstance(state, dict):
        return Quantiles(tuple(state["edges"]), state["unit"], state["missing"])
    return Vocabulary(tuple(state))


def _plain(labels: Sequence[Hashable] | np.ndarray) -> list[Any]:
    return labels.tolist() if hasattr(labels, "tolist") else list(labels)
