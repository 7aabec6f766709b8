"""Rank and linear correlation of a few points, with an interval and a sentence on what it shows.

Intervals are 95 % and by Fisher's z: the coefficient is transformed by atanh, where it is about normal with
variance 1/(n-3) (Pearson; Fisher 1921), (1 + r^2/2)/(n-3) (Spearman; Bonett and Wright 2000) or 0.437/(n-4)
(Kendall; Fieller, Hartley and Pearson 1957). They take the points for a random sample of a population of models,
which published models are not, so an interval is the least doubt there is. `with_speakers` adds how far the
coefficient of these very models moves with the speakers that both columns were measured on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ..core.errors import MIError
from ..estimators.intervals import LeftOut

FEWEST = 4
"""With fewer points than this there is no coefficient."""
INTERVAL = "95 % by Fisher's z"
_NORMAL_975 = 1.959963984540054

Kind = Literal["spearman", "kendall", "pearson"]
KINDS: tuple[Kind, ...] = ("spearman", "kendall", "pearson")
NAMES: dict[str, str] = {"spearman": "Spearman's rho", "kendall": "Kendall's tau-b", "pearson": "Pearson's r"}


@dataclass(frozen=True, slots=True)
class Correlation:
    """One coefficient."""

    kind: Kind
    value: float
    """-1 to 1."""
    low: float | None
    """Lower end of the interval; None where it has none (n too small for the formula, or |value| = 1)."""
    high: float | None
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether there is an interval that does not hold 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def __str__(self) -> str:
        value = f"{self.value:+.2f}"
        if self.low is None or self.high is None:
            return value
        return f"{value} [{self.low:+.2f}, {self.high:+.2f}]"


@dataclass(frozen=True, slots=True)
class Relation:
    """How two columns of numbers go together over the same models."""

    n: int
    coefficients: tuple[Correlation, ...]
    """Spearman, Kendall, Pearson; empty with too few points, or where all are the same."""
    ties: int
    """Points that share their x or their y with another."""
    sentence: str
    """What this shows and what it does not, in plain words."""
    over_speakers: tuple[float, float] | None = None
    """95 % interval of Spearman's coefficient over the choice of speakers, of these very models."""

    def of(self, kind: Kind) -> Correlation | None:
        """The coefficient of a kind, if there is one."""
        return next((c for c in self.coefficients if c.kind == kind), None)


def correlate(
    x: Sequence[float],
    y: Sequence[float],
    x_name: str = "x",
    y_name: str = "y",
    expected: Literal["negative", "positive"] = "positive",
    things: str = "models",
) -> Relation:
    """Spearman's rho, Kendall's tau-b and Pearson's r with their intervals.

    Args:
        x: one value per model, such as bits.
        y: one value per model, in the same order, such as PER.
        x_name: for the sentence.
        y_name: for the sentence.
        expected: the sign if more x goes with a better y (`negative` for error rates).
        things: what the points are, in the plural, for the sentence.

    Raises:
        MIError: x and y are not of one length, or hold something that is not a finite number.

    Example:
        >>> str(correlate([1, 2, 3, 4, 5], [1, 3, 2, 5, 4]).of("spearman"))
        '+0.80 [-0.46, +0.99]'
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise MIError(f"correlation of {x_name} and {y_name}: {a.size} values against {b.size}.")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise MIError(f"correlation of {x_name} and {y_name}: a value is not a finite number.")
    n = len(a)
    ties = len({*_shared(a), *_shared(b)})
    if n < FEWEST:
        only = f"only {n} {things} have" if n > 1 else f"only 1 {things[:-1]} has"
        what = only if n else f"no {things[:-1]} has"
        text = f"{what} both {x_name} and {y_name}: nothing can be said about how they go together"
        return Relation(n, (), ties, f"{text[0].upper()}{text[1:]} ({FEWEST} are needed).")
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        same = x_name if np.ptp(a) == 0 else y_name
        return Relation(n, (), ties, f"All {n} {things} have the same {same}: a correlation is not defined.")
    coefficients = tuple(_coefficient(kind, a, b) for kind in KINDS)
    return Relation(n, coefficients, ties, _sentence(coefficients[0], ties, x_name, y_name, expected, things))


DRAWS = 4000


def with_speakers(
    relation: Relation, x: Sequence[LeftOut | None], y: Sequence[LeftOut | None], draws: int = DRAWS
) -> Relation:
    """A relation with the interval of Spearman's coefficient over the choice of speakers, where both sides have them.

    Models stay these; what moves is the speech. Values are drawn around those found, by the jackknife's covariance
    between models over the speakers of each side (Student's t of n - 1 degrees), so a speaker who is hard for all
    models moves all of them; sides with the same speakers move together. The interval holds 95 % of the coefficients
    drawn. It says nothing about other models: that is what Fisher's interval is for.

    Args:
        relation: of the same models in the same order.
        x: the value of each model without each speaker.
        y: the same of the other column.
        draws: how many.
    """
    from scipy.stats import rankdata

    sides = [[v for v in side if v is not None] for side in (x, y)]
    if not relation.coefficients or any(len(s) < relation.n or len({v.groups for v in s}) > 1 for s in sides):
        return relation
    if any(len(s[0].groups) < 2 for s in sides):
        return relation
    rng = np.random.default_rng(0)
    moves: dict[tuple[str, ...], np.ndarray] = {}
    ranks = []
    for side in sides:
        n = len(side[0].groups)
        if side[0].groups not in moves:
            scale = np.sqrt((n - 1) / rng.chisquare(n - 1, (draws, 1)))
            moves[side[0].groups] = rng.normal(size=(draws, n)) * scale
        without = np.stack([v.without_each for v in side], axis=1)  # (n speakers, n models)
        off = (without - without.mean(0)) * np.sqrt((n - 1) / n)
        drawn = np.array([v.value for v in side]) + moves[side[0].groups] @ off
        ranks.append(rankdata(drawn, axis=1))
    a, b = (r - r.mean(1, keepdims=True) for r in ranks)
    spread = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    found = ((a * b).sum(1) / np.where(spread > 0, spread, 1.0))[spread > 0]
    low, high = np.quantile(found, [0.025, 0.975])
    return replace(relation, over_speakers=(float(low), float(high)))


def _coefficient(kind: Kind, a: np.ndarray, b: np.ndarray) -> Correlation:
    from scipy import stats

    function = {"spearman": stats.spearmanr, "kendall": stats.kendalltau, "pearson": stats.pearsonr}[kind]
    value = round(float(function(a, b)[0]), 12)  # SciPy may give 0.9999999999999999 for a perfect order
    low, high = fisher_interval(kind, value, len(a)) or (None, None)
    return Correlation(kind, value, low, high, len(a))


def fisher_interval(kind: Kind, value: float, n: int) -> tuple[float, float] | None:
    """The 95 % interval of a coefficient; None where the formula gives none.

    Example:
        >>> [round(end, 3) for end in fisher_interval("pearson", 0.5, 28)]
        [0.156, 0.736]
    """
    degrees = n - 4 if kind == "kendall" else n - 3
    if degrees < 1 or abs(value) == 1:
        return None
    factor = {"pearson": 1.0, "spearman": 1 + value**2 / 2, "kendall": 0.437}[kind]
    reach = _NORMAL_975 * math.sqrt(factor / degrees)
    centre = math.atanh(value)
    return math.tanh(centre - reach), math.tanh(centre + reach)


def _shared(values: np.ndarray) -> list[int]:
    """Positions of values that occur more than once."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return [int(i) for i in np.flatnonzero(counts[inverse] > 1)]


def _sentence(spearman: Correlation, ties: int, x_name: str, y_name: str, expected: str, things: str) -> str:
    n, value = spearman.n, spearman.value
    as_expected = value < 0 if expected == "negative" else value > 0
    direction = "lower" if value < 0 else "higher"
    if abs(value) == 1:
        orders = math.factorial(n)
        found = (
            f"Over these {n} {things}, those with more {x_name} have {direction} {y_name} without exception; a random "
            f"order does so in 1 of {orders:,} cases, and in one direction or the other in 2."
        )
    elif spearman.excludes_zero:
        found = f"Over these {n} {things}, those with more {x_name} tend to have {direction} {y_name}"
        found += f" (rho {value:+.2f})."
    elif spearman.low is not None:
        found = f"These {n} {things} do not show whether more {x_name} goes with lower or with higher {y_name}:"
        found += f" the interval of rho ({spearman}) holds 0."
    else:
        found = f"{n} {things} are too few to tell how {x_name} and {y_name} go together (rho {value:+.2f})."
    if (abs(value) == 1 or spearman.excludes_zero) and not as_expected:
        found += f" That is against what was expected ({expected})."
    if ties:
        found += f" {ties} of them are tied."
    if n < 10:
        found += " So few leave much to chance: one more can change the order."
    caution = f"It does not show that the one causes the other, nor that it holds for other {things} or other speech."
    return f"{found} {caution}"
