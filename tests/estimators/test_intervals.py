"""Intervals over speakers: what they hold, and how often."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from s3prl_mi.core.errors import MIError
from s3prl_mi.estimators.bounds import entropy_bits
from s3prl_mi.estimators.intervals import FrameGroups, GroupSums, Interval, LeftOut, groups_needed, of_both_sides


def sums_of(rng: np.random.Generator, n: int, classes: int = 6, gain: float = 0.7) -> GroupSums:
    """Speakers whose class frequencies and losses scatter; the loss of a frame is about H - gain."""
    frequencies = rng.dirichlet(np.full(classes, 30.0), n)
    frames = np.stack([rng.multinomial(rng.integers(800, 1200), p) for p in frequencies])
    loss = frames.sum(1) * (np.log2(classes) - gain + 0.1 * rng.normal(size=n))
    return GroupSums("speakers", tuple(f"s{i}" for i in range(n)), frames, loss)


def pick(sums: GroupSums, rows: np.ndarray) -> GroupSums:
    return GroupSums("speakers", tuple(sums.groups[i] for i in rows), sums.class_frames[rows], sums.loss_bits[rows])


def test_the_bound_is_that_of_the_estimators():
    sums = sums_of(np.random.default_rng(0), 7)
    frames = sums.class_frames.sum(0)
    assert sums.left_out().value == pytest.approx(entropy_bits(frames) - sums.loss_bits.sum() / frames.sum(), abs=1e-12)


def test_without_each_is_the_bound_of_the_others():
    sums = sums_of(np.random.default_rng(1), 5)
    for left_out, value in enumerate(sums.left_out().without_each):
        others = np.delete(np.arange(5), left_out)
        assert value == pytest.approx(pick(sums, others).left_out().value, abs=1e-12)


def test_of_a_mean_it_is_the_usual_t_interval():
    """With as many frames of one and the same kind per speaker, the bound is minus a mean of n numbers."""
    rng = np.random.default_rng(2)
    means = rng.normal(size=12)
    sums = GroupSums("speakers", tuple("abcdefghijkl"), np.full((12, 1), 100), 100 * means)
    found = sums.left_out().interval()
    assert found.error == pytest.approx(means.std(ddof=1) / np.sqrt(12))
    assert (found.high - found.value) / found.error == pytest.approx(2.200985, abs=1e-5)  # t of 11 degrees, 97.5 %


@pytest.mark.parametrize("n", [5, 20])
def test_it_holds_the_truth_as_often_as_it_claims(n):
    rng = np.random.default_rng(3)
    everyone = sums_of(rng, 4000)
    truth = everyone.left_out().value
    held = sum(not pick(everyone, rng.integers(0, 4000, n)).left_out().interval().excludes(truth) for _ in range(1500))
    assert 0.92 < held / 1500 < 0.975


def test_a_paired_difference_is_tighter_than_either():
    rng = np.random.default_rng(4)
    a = sums_of(rng, 10)
    b = GroupSums(
        "speakers", a.groups, a.class_frames, a.loss_bits + a.class_frames.sum(1) * (0.02 + 0.005 * rng.normal(size=10))
    )
    difference = (a.left_out() - b.left_out()).interval()
    assert difference.value == pytest.approx(0.02, abs=0.005)
    assert difference.error < a.left_out().interval().error / 5
    assert difference.excludes(0.0)
    assert not (a.left_out() - a.left_out()).interval().excludes(0.0)


def test_different_speakers_are_refused():
    a = sums_of(np.random.default_rng(5), 4)
    with pytest.raises(MIError, match="same speakers"):
        a.left_out() - pick(a, np.array([0, 1, 2])).left_out()


def test_one_speaker_has_no_interval():
    found = sums_of(np.random.default_rng(6), 1).left_out().interval()
    assert (found.low, found.high, found.error, found.groups) == (None, None, None, 1)
    assert not found.excludes(100.0)


def test_speakers_needed_shrink_with_the_difference():
    rng = np.random.default_rng(7)
    a = sums_of(rng, 8)
    b = GroupSums("speakers", a.groups, a.class_frames, a.loss_bits + a.class_frames.sum(1) * 0.05 * rng.normal(size=8))
    found = (a.left_out() - b.left_out()).interval()
    few, many = groups_needed(found, 0.1), groups_needed(found, 0.01)
    assert few is not None
    assert many is not None
    assert few < many
    assert many == pytest.approx((1.96 * found.error * np.sqrt(8) / 0.01) ** 2, rel=0.1)
    assert groups_needed(found, 0.0) is None


@given(st.integers(2, 12), st.integers(0, 10**6))
def test_order_and_names_of_speakers_do_not_matter(n, seed):
    rng = np.random.default_rng(seed)
    sums = sums_of(rng, n)
    one, other = sums.left_out().interval(), pick(sums, rng.permutation(n)).left_out().interval()
    assert one.low == pytest.approx(other.low, abs=1e-9)
    assert one.high == pytest.approx(other.high, abs=1e-9)


def test_two_speakers_by_hand():
    """A: two frames each of two classes, 2 bits of loss; B: four frames of the first class, 1 bit."""
    sums = GroupSums("speakers", ("A", "B"), np.array([[2, 2], [4, 0]]), np.array([2.0, 1.0]))
    found = sums.left_out()
    entropy = entropy_bits([6, 2])
    assert found.value == pytest.approx(entropy - 3 / 8)
    assert found.without_each.tolist() == pytest.approx([-1 / 4, 1 - 2 / 4])
    interval = found.interval()
    assert interval.error == pytest.approx(0.375)
    assert interval.high - interval.value == pytest.approx(0.375 * 12.7062047, rel=1e-6)  # t of one degree of freedom
    assert sums.group_information_bits() == pytest.approx(entropy - 0.5 * 1.0)
    assert sums.within_groups().tolist() == pytest.approx([1 - 2 / 4, 0 - 1 / 4])


def test_what_only_says_who_speaks_is_gone_within_speakers():
    """A probe that knows the speaker's class frequencies and nothing else: all of its bits are who speaks."""
    frames = np.array([[60, 30, 10], [5, 15, 80], [40, 40, 20]])
    loss = np.array([100 * entropy_bits(row) for row in frames])
    sums = GroupSums("speakers", ("a", "b", "c"), frames, loss)
    assert sums.left_out().value > 0.2
    assert sums.within_groups() == pytest.approx([0, 0, 0], abs=1e-9)
    assert sums.group_information_bits() == pytest.approx(sums.left_out().value)


def test_of_both_sides_variances_add():
    scored, fitted = (Interval(1.0, 0.0, 2.0, error, n) for error, n in ((0.03, 31), (0.04, 11)))
    both = of_both_sides(scored, fitted)
    assert both.error == pytest.approx(0.05)
    degrees = 0.05**4 / (0.03**4 / 30 + 0.04**4 / 10)  # Welch and Satterthwaite: 22.1
    assert both.high - both.value == pytest.approx(0.05 * stats.t.ppf(0.975, degrees))
    assert of_both_sides(scored, Interval(1.0, None, None, None, 1)).low is None
    few = LeftOut("speakers", ("a", "b"), 1.0, np.array([0.9, 1.1])).interval()
    assert of_both_sides(few, few).low <= few.low  # more degrees of freedom do not make it tighter


def test_sums_are_of_the_groups_that_have_frames():
    groups = FrameGroups("speakers", ("a", "none", "c"), np.array([0, 2, 2, 0]))
    sums = GroupSums.of(groups.select(np.array([0, 1, 2])), np.array([1, 0, 1]), 2, np.array([0.5, 0.0, 2.0]))
    assert (sums.over, sums.groups) == ("speakers", ("a", "c"))
    assert sums.class_frames.tolist() == [[0, 1], [1, 1]]
    assert sums.loss_bits.tolist() == [0.5, 2.0]


def test_the_mean_over_seeds_and_intervals_among_several():
    rng = np.random.default_rng(8)
    a, b = (sums_of(np.random.default_rng(9), 6).left_out() for _ in range(2))
    b = LeftOut(b.over, b.groups, b.value + 0.1, b.without_each + 0.1 + 0.01 * rng.normal(size=6))
    mean = LeftOut.mean([a, b])
    assert mean.value == pytest.approx((a.value + b.value) / 2)
    assert mean.without_each == pytest.approx((a.without_each + b.without_each) / 2)
    one, of_ten = a.interval(), a.interval(comparisons=10)
    assert (of_ten.high - a.value) / (one.high - a.value) == pytest.approx(4.773341 / 2.570582, abs=1e-5)
