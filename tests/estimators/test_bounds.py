"""Entropy, bound and contributions: numbers known beforehand, and SciPy as second opinion."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy as scipy_entropy

from s3prl_mi.estimators.bounds import contributions_bits, entropy_bits, lower_bound_bits

COUNTS = st.lists(st.integers(0, 10**6), min_size=1, max_size=60).filter(lambda c: sum(c) > 0)


@pytest.mark.parametrize(
    ("counts", "bits"),
    [([1], 0.0), ([7, 0, 0], 0.0), ([1] * 50, np.log2(50)), ([2, 1, 1], 1.5), ([4, 2, 1, 1], 1.75)],
)
def test_entropy_known_answers(counts, bits):
    assert entropy_bits(counts) == pytest.approx(bits, abs=1e-12)


def test_entropy_of_one_class_is_zero_and_not_minus_zero():
    assert str(entropy_bits([9])) == "0.0"


@settings(deadline=None)
@given(COUNTS)
def test_entropy_agrees_with_scipy_and_stays_within_its_range(counts):
    bits = entropy_bits(counts)
    assert bits == pytest.approx(scipy_entropy(counts, base=2), abs=1e-9)
    assert -1e-12 <= bits <= np.log2(sum(c > 0 for c in counts)) + 1e-9


@settings(deadline=None)
@given(COUNTS, st.randoms(use_true_random=False))
def test_renaming_the_classes_does_not_change_the_entropy(counts, random):
    shuffled = list(counts)
    random.shuffle(shuffled)
    assert entropy_bits(shuffled) == pytest.approx(entropy_bits(counts), abs=1e-12)


@pytest.mark.parametrize("counts", [[], [0, 0], [-1, 2], [[1, 2]]])
def test_counts_that_are_none(counts):
    with pytest.raises(ValueError, match="non-negative counts"):
        entropy_bits(counts)


def test_contributions_sum_to_the_bound_and_the_prior_as_probe_gives_none():
    counts = np.array([50, 30, 0, 20])
    loss = counts * -np.log2([0.5, 0.3, 1.0, 0.2])
    np.testing.assert_allclose(contributions_bits(counts, loss), 0, atol=1e-12)
    worse = contributions_bits(counts, [loss[0] + 5, *loss[1:]])
    assert worse.sum() == pytest.approx(lower_bound_bits(entropy_bits(counts), (loss.sum() + 5) / 100))
    np.testing.assert_allclose(worse, [-0.05, 0, 0, 0], atol=1e-12)


def test_a_bound_is_never_clipped():
    assert lower_bound_bits(1.0, 3.5) == -2.5


def test_the_entropy_is_a_plain_float():
    assert type(entropy_bits([1, 2])) is float
