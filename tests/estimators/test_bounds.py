"""Entropy, cross-entropy and bound: numbers known beforehand, and SciPy and scikit-learn as second opinion."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy as scipy_entropy
from sklearn.metrics import log_loss

from s3prl_mi.estimators.bounds import cross_entropy_bits, entropy_bits, lower_bound_bits, perplexity

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
def test_renaming_the_classes_changes_neither_entropy_nor_perplexity(counts, random):
    shuffled = list(counts)
    random.shuffle(shuffled)
    assert entropy_bits(shuffled) == pytest.approx(entropy_bits(counts), abs=1e-12)
    assert perplexity(shuffled) == pytest.approx(perplexity(counts), rel=1e-12)


def test_perplexity_of_equal_classes_is_their_number():
    assert perplexity([3] * 50 + [0] * 4) == pytest.approx(50, rel=1e-12)


@pytest.mark.parametrize("counts", [[], [0, 0], [-1, 2], [[1, 2]]])
def test_counts_that_are_none(counts):
    with pytest.raises(ValueError, match="non-negative counts"):
        entropy_bits(counts)


def test_cross_entropy_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(500, 7)) * 4
    log_q = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    targets = rng.integers(0, 7, 500)
    expected = log_loss(targets, np.exp(log_q), labels=range(7)) / np.log(2)
    assert cross_entropy_bits(log_q, targets) == pytest.approx(expected, abs=1e-9)


def test_cross_entropy_is_summed_in_float64():
    # in float32 the mean of so many equal numbers drifts
    log_q = np.full((1_000_000, 1), np.log(0.1), dtype=np.float32)
    expected = -float(np.float32(np.log(0.1))) / np.log(2)
    assert cross_entropy_bits(log_q, np.zeros(1_000_000, dtype=np.int64)) == pytest.approx(
        expected, abs=1e-12
    )


def test_the_prior_as_probe_gives_a_bound_of_zero():
    y = np.repeat([0, 1, 2], [50, 30, 20])
    log_q = np.log(np.tile([0.5, 0.3, 0.2], (100, 1)))
    assert lower_bound_bits(entropy_bits(np.bincount(y)), cross_entropy_bits(log_q, y)) == pytest.approx(
        0, abs=1e-12
    )


def test_a_bound_is_never_clipped():
    assert lower_bound_bits(1.0, 3.5) == -2.5


def test_numbers_are_plain_floats():
    numbers = [
        entropy_bits([1, 2]),
        perplexity([1, 2]),
        cross_entropy_bits(np.log([[0.5, 0.5]]), np.array([0])),
    ]
    assert {type(n) for n in numbers} == {float}
    assert len(json.loads(json.dumps(numbers))) == 3
