"""How sure a bound is: 95 % intervals over the speakers that it was scored on.

A bound is ``H(p) - loss / frames`` with class frequencies p, loss and frames summed over the eval speakers. Leaving out
one speaker at a time (the delete-one jackknife: Tukey 1958; Efron and Stein 1981) gives its standard error over the
choice of speakers; the interval is the estimate plus or minus Student's t of n - 1 degrees of freedom times that. A
bootstrap with replacement would lower H, as it repeats speakers. Speakers, not frames or utterances: frames of one voice
resemble each other, and intervals that ignore this are several times too short.

`python -m tests.bench coverage` counts how often the interval holds the value of all speakers. It covers the choice of
*eval* speakers; probes and codebooks stay as they were fitted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy
from scipy.stats import t as student_t

from ..core.errors import MIError
from ..core.types import Bits

LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class GroupSums:
    """What an estimate is made of, for each group of eval frames (a speaker; an utterance where speakers are unknown).

    Attributes:
        groups: name of each group, n_groups of them.
        class_frames: frames of each class, shape (n_groups, n_classes).
        loss_bits: sum of -log2 q(target | frame), shape (n_groups,).
    """

    groups: tuple[str, ...]
    class_frames: NDArray[np.int64]
    loss_bits: NDArray[np.float64]

    def bound_bits(self) -> Bits:
        """The bound that these sums make."""
        return float(_bounds(self.class_frames.sum(0), self.loss_bits.sum()))

    def without_each(self) -> NDArray[np.float64]:
        """The bound without each group, shape (n_groups,)."""
        frames, loss = self.class_frames.sum(0), self.loss_bits.sum()
        return _bounds(frames - self.class_frames, loss - self.loss_bits)


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval over groups.

    `low` and `high` are None with fewer than two groups. `error` is the jackknife's standard error.
    """

    value: Bits
    low: Bits | None
    high: Bits | None
    error: Bits | None
    groups: int

    def excludes(self, value: Bits = 0.0) -> bool:
        """Whether a value lies outside the interval; never where there is none."""
        return self.low is not None and self.high is not None and not self.low <= value <= self.high


def _bounds(frames: NDArray[np.integer], loss: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Bounds of class counts (..., n_classes) and summed losses (...); NaN where nothing was scored."""
    total = frames.sum(-1).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        entropy = np.log2(total) - xlogy(frames, frames).sum(-1) / np.log(2) / total
        return np.asarray(entropy - loss / total)


def bound_interval(sums: GroupSums) -> Interval:
    """The bound with its interval over groups.

    Example:
        >>> sums = GroupSums(("a", "b", "c"), np.array([[50, 50], [60, 40], [45, 55]]), np.array([60.0, 70.0, 50.0]))
        >>> i = bound_interval(sums)
        >>> f"{i.value:.3f} [{i.low:.3f}, {i.high:.3f}]"
        '0.399 [0.137, 0.661]'
    """
    return _interval(sums.bound_bits(), sums.without_each())


def difference_interval(a: GroupSums, b: GroupSums) -> Interval:
    """The difference of two bounds, a - b, on the same speech: paired by group, so far tighter than either interval.

    Raises:
        MIError: the groups are not the same.
    """
    if a.groups != b.groups:
        odd = sorted(set(a.groups) ^ set(b.groups))
        raise MIError(
            f"a paired difference needs the same speakers on both sides; only one side has {odd[:3]}."
        )
    return _interval(a.bound_bits() - b.bound_bits(), a.without_each() - b.without_each())


def _interval(value: Bits, without_each: NDArray[np.float64], level: float = LEVEL) -> Interval:
    n = len(without_each)
    if n < 2 or not np.isfinite(without_each).all():
        return Interval(value, None, None, None, n)
    error = float(np.sqrt((n - 1) / n * np.square(without_each - without_each.mean()).sum()))
    reach = float(student_t.ppf(0.5 + level / 2, n - 1)) * error
    return Interval(value, value - reach, value + reach, error, n)


def groups_needed(interval: Interval, difference: Bits | None = None) -> int | None:
    """How many groups would set a difference of this size apart from zero, judged by the spread found here.

    Args:
        interval: of a paired difference.
        difference: in bits; default: the one that was found.

    Returns:
        The smallest number of groups whose interval would exclude zero; None where there is no spread to judge by or no
        difference.
    """
    size = abs(interval.value if difference is None else difference)
    if interval.error is None or not size:
        return None
    spread = interval.error * np.sqrt(interval.groups)  # of one group
    for n in np.unique(np.geomspace(2, 1e6, 4000).astype(int)):
        if student_t.ppf(0.5 + LEVEL / 2, n - 1) * spread / np.sqrt(n) < size:
            return int(n)
    return None
