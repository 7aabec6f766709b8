"""How sure a bound is: 95 % intervals over the speakers that it was scored on.

A bound is ``H(p) - loss / frames`` with class frequencies p, loss and frames summed over the eval speakers. Leaving out
one speaker at a time (the delete-one jackknife: Tukey 1958; Efron and Stein 1981) gives its standard error over the
choice of speakers; the interval is the estimate plus or minus Student's t of n - 1 degrees of freedom times that. A
bootstrap with replacement would lower H, as it repeats speakers. Speakers, not frames or utterances: frames of one
voice resemble each other, and intervals that ignore this are several times too short.

`python -m tests.bench coverage` counts how often the interval holds the value of all speakers. It covers the choice of
*eval* speakers; probes and codebooks stay as they were fitted. What the choice of *fit* speakers adds is found by
fitting again without each group of them (`refits`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit, xlogy

from ..core.errors import MIError
from ..core.types import Bits, IntVector

LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class FrameGroups:
    """The group of each eval frame: its speaker; its utterance where speakers are unknown.

    Attributes:
        over: `speakers` or `utterances`.
        names: of the groups, n_groups of them.
        ids: number of each frame's group, shape (n_frames,).
    """

    over: str
    names: tuple[str, ...]
    ids: IntVector

    def select(self, rows: IntVector | NDArray[np.bool_]) -> FrameGroups:
        """Those of some frames."""
        return FrameGroups(self.over, self.names, self.ids[rows])


@dataclass(frozen=True)
class Interval:
    """A value with its interval over groups.

    `low` and `high` are None with fewer than two groups. `error` is the jackknife's standard error. `comparisons`:
    among how many the interval is one, all of which hold together with 95 % (Bonferroni).
    """

    value: Bits
    low: Bits | None
    high: Bits | None
    error: Bits | None
    groups: int
    comparisons: int = 1

    def excludes(self, value: Bits = 0.0) -> bool:
        """Whether a value lies outside the interval; never where there is none."""
        return self.low is not None and self.high is not None and not self.low <= value <= self.high


@dataclass(frozen=True, eq=False)
class LeftOut:
    """A bound, a mean of bounds or a difference of bounds, and what it would be without each group.

    Attributes:
        over: `speakers` or `utterances`.
        groups: name of each group, n_groups of them.
        value: with all groups, in bits.
        without_each: without each group, shape (n_groups,), in bits.
    """

    over: str
    groups: tuple[str, ...]
    value: Bits
    without_each: NDArray[np.float64]

    @staticmethod
    def mean(several: Sequence[LeftOut]) -> LeftOut:
        """The mean of bounds on the same groups, such as those of several seeds."""
        first = several[0]
        _check_groups(first, *several[1:])
        values, without = [s.value for s in several], [s.without_each for s in several]
        return LeftOut(first.over, first.groups, float(np.mean(values)), np.mean(without, axis=0))

    def __sub__(self, other: LeftOut) -> LeftOut:
        """The difference of two bounds on the same speech, paired by group: its interval is tighter than either's.

        Raises:
            MIError: the groups are not the same.
        """
        _check_groups(self, other)
        return LeftOut(self.over, self.groups, self.value - other.value, self.without_each - other.without_each)

    def interval(self, comparisons: int = 1) -> Interval:
        """The value with its 95 % interval over groups; wider as one of several comparisons.

        Example:
            >>> frames, losses = np.array([[50, 50], [60, 40], [45, 55]]), np.array([60.0, 70.0, 50.0])
            >>> sums = GroupSums("speakers", ("a", "b", "c"), frames, losses)
            >>> i = sums.left_out().interval()
            >>> f"{i.value:.3f} [{i.low:.3f}, {i.high:.3f}]"
            '0.399 [0.137, 0.661]'
        """
        n = len(self.without_each)
        if n < 2 or not np.isfinite(self.without_each).all():
            return Interval(self.value, None, None, None, n, comparisons)
        off = self.without_each - self.without_each.mean()
        error = float(np.sqrt((n - 1) / n * np.square(off).sum()))
        reach = _reach(n - 1, comparisons) * error
        return Interval(self.value, self.value - reach, self.value + reach, error, n, comparisons)


@dataclass(frozen=True, eq=False)
class GroupSums:
    """What an estimate is made of, for each group of eval frames (a speaker; an utterance where speakers are unknown).

    Attributes:
        over: `speakers` or `utterances`.
        groups: name of each group, n_groups of them.
        class_frames: frames of each class, shape (n_groups, n_classes).
        loss_bits: sum of -log2 q(target | frame), shape (n_groups,).
    """

    over: str
    groups: tuple[str, ...]
    class_frames: NDArray[np.int64]
    loss_bits: NDArray[np.float64]

    @staticmethod
    def of(groups: FrameGroups, targets: IntVector, n_classes: int, loss_bits: NDArray[np.float64]) -> GroupSums:
        """Sums of the groups that have frames.

        Args:
            groups: of n_frames frames.
            targets: class of each, shape (n_frames,).
            n_classes: number of classes.
            loss_bits: of each group, shape (n_groups,).
        """
        n = len(groups.names)
        frames = np.bincount(groups.ids * n_classes + targets, minlength=n * n_classes).reshape(n, n_classes)
        kept = np.flatnonzero(frames.sum(1))
        return GroupSums(groups.over, tuple(groups.names[i] for i in kept), frames[kept], loss_bits[kept])

    def left_out(self) -> LeftOut:
        """The bound that these sums make, and that without each group."""
        frames, loss = self.class_frames.sum(0), self.loss_bits.sum()
        without = _bounds(frames - self.class_frames, loss - self.loss_bits)
        return LeftOut(self.over, self.groups, float(_bounds(frames, loss)), without)

    def group_information_bits(self) -> Bits:
        """Plug-in estimate of the information that a frame's class and its group share."""
        frames = self.class_frames
        return float(_bounds(frames.sum(0), (_bounds(frames, 0.0) * frames.sum(1)).sum()))

    def within_groups(self) -> NDArray[np.float64]:
        """H - CE of each group with the class frequencies of its own frames, shape (n_groups,), in bits.

        Their mean over frames is the bound minus `group_information_bits`: a plug-in estimate of what the frames tell
        about the classes beyond who the group is.

        Example:
            >>> frames = np.array([[90, 10], [10, 90]])  # each speaker has a class of its own
            >>> sums = GroupSums("speakers", ("a", "b"), frames, np.array([40.0, 45.0]))
            >>> f"{sums.left_out().value:.3f}", sums.within_groups().round(3).tolist()
            ('0.575', [0.069, 0.019])
        """
        return _bounds(self.class_frames, self.loss_bits)


def _check_groups(first: LeftOut, *others: LeftOut) -> None:
    for other in others:
        if first.groups != other.groups:
            odd = sorted(set(first.groups) ^ set(other.groups))
            raise MIError(f"a paired difference needs the same speakers on both sides; only one side has {odd[:3]}.")


def _bounds(frames: NDArray[np.integer], loss: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Bounds of class counts (..., n_classes) and summed losses (...); NaN where nothing was scored."""
    total = frames.sum(-1).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        entropy = np.log2(total) - xlogy(frames, frames).sum(-1) / np.log(2) / total
        return np.asarray(entropy - loss / total)


def _reach(degrees: float, comparisons: int = 1) -> float:
    """How many standard errors an interval of so many degrees of freedom reaches to either side (Student's t)."""
    return float(stdtrit(degrees, 0.5 + (1 - (1 - LEVEL) / comparisons) / 2))


def of_both_sides(scored: Interval, fitted: Interval) -> Interval:
    """The interval of a bound over the speakers of both splits, which are drawn apart: variances add.

    Degrees of freedom by Welch and Satterthwaite; never tighter than either side's. `groups` are those of both.

    Example:
        >>> one = LeftOut("speakers", ("a", "b", "c"), 1.0, np.array([0.9, 1.0, 1.1])).interval()
        >>> both = of_both_sides(one, one)
        >>> round(both.error / one.error, 3), both.groups
        (1.414, 6)
    """
    groups = scored.groups + fitted.groups
    if scored.error is None or fitted.error is None:
        return Interval(scored.value, None, None, None, groups)
    a, b = scored.error**2, fitted.error**2
    degrees = (a + b) ** 2 / (a**2 / (scored.groups - 1) + b**2 / (fitted.groups - 1)) if a + b else 1.0
    error = float(np.sqrt(a + b))
    sides = [_reach(i.groups - 1) * (i.error or 0.0) for i in (scored, fitted)]
    reach = max(_reach(degrees) * error, *sides)
    return Interval(scored.value, scored.value - reach, scored.value + reach, error, groups)


def groups_needed(interval: Interval, difference: Bits | None = None) -> int | None:
    """How many groups would set a difference of this size apart from zero, judged by the spread found here.

    Args:
        interval: of a paired difference.
        difference: in bits; default: the one that was found.

    Returns:
        The smallest number of groups whose interval would exclude zero; None where there is no spread to judge by or no
        difference. At the level of the interval, so among as many comparisons.
    """
    size = abs(interval.value if difference is None else difference)
    if interval.error is None or not size:
        return None
    spread = interval.error * np.sqrt(interval.groups)  # of one group
    for n in np.unique(np.geomspace(2, 1e6, 4000).astype(int)):
        if _reach(n - 1, interval.comparisons) * spread / np.sqrt(n) < size:
            return int(n)
    return None
