"""Correlation: known coefficients and intervals, and a sentence that does not claim too much."""

import math

import numpy as np
import pytest

from s3prl_mi.core.errors import MIError
from s3prl_mi.estimators.intervals import LeftOut
from s3prl_mi.results.correlation import correlate, fisher_interval, with_speakers

# Figures of the paper's Table 2: I(Za;Zb) by MLP against PER.
BITS = [1.08, 2.04, 2.05, 2.15, 1.63, 2.05, 2.36]
PER = [5.74, 5.41, 4.84, 3.21, 4.75, 3.53, 3.06]


def values(relation):
    return {c.kind: c.value for c in relation.coefficients}


def test_by_hand_without_ties():
    """One swap among four: sum of squared rank differences 2, five pairs of six in order."""
    found = values(correlate([1, 2, 3, 4], [1, 2, 4, 3]))
    assert found["spearman"] == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert found["kendall"] == pytest.approx((5 - 1) / 6)
    assert found["pearson"] == pytest.approx(0.8)


def test_kendall_is_tau_b():
    """x ties one pair of six: (5 - 0) / sqrt(5 * 6)."""
    assert values(correlate([1, 1, 2, 3], [1, 2, 3, 4]))["kendall"] == pytest.approx(5 / math.sqrt(30))


def test_pearson_sees_a_line_and_spearman_an_order():
    found = values(correlate([1, 2, 3, 4, 5], [1, 4, 9, 16, 25]))
    assert found["spearman"] == found["kendall"] == 1.0
    assert found["pearson"] == pytest.approx(60 / math.sqrt(10 * 374))


def test_the_papers_own_table():
    relation = correlate(BITS, PER, "I(Za;Zb)", "PER", "negative")
    assert relation.n == 7
    assert relation.ties == 2
    # Pairs: 21, one tied in x; of the other 20, 18 go against each other.
    assert relation.of("kendall").value == pytest.approx(-(18 - 2) / math.sqrt(20 * 21))
    assert relation.of("pearson").value == pytest.approx(-0.7317, abs=1e-3)


@pytest.mark.parametrize(
    ("kind", "n", "low", "high"),
    [
        ("pearson", 28, math.tanh(math.atanh(0.5) - 1.959964 / 5), math.tanh(math.atanh(0.5) + 1.959964 / 5)),
        ("kendall", 47, 0.3379, 0.6335),
        ("spearman", 28, 0.1327, 0.7467),
    ],
)
def test_intervals(kind, n, low, high):
    """atanh(0.5) = 0.5493; reach 1.96 * sqrt(1/25), sqrt(0.437/43), sqrt(1.125/25)."""
    assert fisher_interval(kind, 0.5, n) == (pytest.approx(low, abs=1e-3), pytest.approx(high, abs=1e-3))


def test_the_interval_covers_the_truth():
    """Of samples of a normal pair with r = 0.6, about 95 in 100 intervals hold it."""
    import numpy as np

    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        x = rng.standard_normal(12)
        y = 0.6 * x + 0.8 * rng.standard_normal(12)
        found = correlate(x, y).of("pearson")
        held += found.low <= 0.6 <= found.high
    assert 0.92 <= held / 400 <= 0.98


def test_no_interval_where_the_formula_has_none():
    assert fisher_interval("pearson", 1.0, 10) is None
    assert fisher_interval("kendall", 0.5, 4) is None
    assert str(correlate([1, 2, 3, 4], [1, 2, 3, 4]).of("pearson")) == "+1.00"


@pytest.mark.parametrize(("n", "words"), [(0, "No model has both"), (1, "Only 1 model has"), (3, "Only 3 models have")])
def test_too_few(n, words):
    relation = correlate(BITS[:n], PER[:n], "bits", "PER")
    assert relation.coefficients == ()
    assert relation.sentence.startswith(words)
    assert "nothing can be said" in relation.sentence


def test_constant():
    assert correlate([1, 1, 1, 1], PER[:4], "bits").coefficients == ()
    assert "same bits" in correlate([1, 1, 1, 1], PER[:4], "bits").sentence


def test_sentences():
    perfect = correlate([1, 2, 3, 4, 5], [5, 4, 3, 2, 1], "bits", "PER", "negative").sentence
    assert "more bits have lower PER without exception" in perfect
    assert "1 of 120" in perfect
    assert "against" not in perfect
    assert "against what was expected (negative)" in correlate(range(5), range(5), "b", "PER", "negative").sentence
    unclear = correlate([1, 2, 3, 4, 5], [2, 5, 1, 4, 3], "bits", "PER", "negative").sentence
    assert "do not show whether" in unclear
    many = correlate(range(20), [i + (-1) ** i for i in range(20)], "bits", "score").sentence
    assert "tend to have higher score" in many
    assert "chance" not in many
    for sentence in (perfect, unclear, many):
        assert sentence.endswith("causes the other, nor that it holds for other models or other speech.")


def test_mistakes():
    with pytest.raises(MIError, match="3 values against 2"):
        correlate([1, 2, 3], [1, 2])
    with pytest.raises(MIError, match="not a finite number"):
        correlate([1, 2, 3, math.nan], [1, 2, 3, 4])


def over(values, off, n=20, seed=0, names="s"):
    """Values of models whose standard error over n speakers is about `off`, apart from what all share."""
    moves = np.random.default_rng(seed).normal(size=(n, len(values))) * off / np.sqrt(n)
    groups = tuple(f"{names}{i}" for i in range(n))
    return [LeftOut("speakers", groups, v, v + moves[:, k]) for k, v in enumerate(values)]


def rho_over_speakers(bits, errors, off, shared=0.0):
    x, y = over(bits, off), over(errors, off, seed=1, names="t")
    moved = shared * np.random.default_rng(2).normal(size=20)
    x = [LeftOut(v.over, v.groups, v.value, v.without_each + moved) for v in x]
    return with_speakers(correlate(bits, errors), x, y).over_speakers


def test_over_speakers_models_far_apart_keep_their_order_and_close_ones_do_not():
    bits, errors = [1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 4.0, 3.0, 5.0]
    assert rho_over_speakers(bits, errors, 0.01) == pytest.approx((0.9, 0.9))
    low, high = rho_over_speakers(bits, errors, 1.0)
    assert -0.5 < low < 0.5
    assert high > 0.85
    low, high = rho_over_speakers(bits, errors, 1000.0)  # nothing but noise
    assert low < -0.8
    assert high > 0.8


def test_what_moves_all_models_alike_changes_no_order():
    bits, errors = [1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 4.0, 3.0, 5.0]
    assert rho_over_speakers(bits, errors, 0.01, shared=10.0) == pytest.approx((0.9, 0.9))


def test_sides_with_the_same_speakers_move_together():
    """Bits and errors that move as one keep their correlation whatever the speakers."""
    values = [1.0, 1.1, 1.2, 1.3]
    x = over(values, 5.0)
    assert with_speakers(correlate(values, values), x, x).over_speakers == (pytest.approx(1.0), pytest.approx(1.0))


def test_the_spread_is_that_over_draws_of_speakers():
    """Against drawing speakers afresh: means of n numbers per model."""
    rng = np.random.default_rng(5)
    truth, n = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 2.5]), 30
    draws = truth + 2.0 * rng.normal(size=(400, n, 6))
    other = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    rhos = [values(correlate(list(d.mean(0)), other))["spearman"] for d in draws]
    first = draws[0]
    x = [LeftOut("speakers", tuple(map(str, range(n))), m.mean(), (m.sum() - m) / (n - 1)) for m in first.T]
    y = over(other, 0.0, names="t")
    low, high = with_speakers(correlate(list(first.mean(0)), other), x, y).over_speakers
    assert np.mean([low <= r <= high for r in rhos]) > 0.9


def test_without_speakers_on_both_sides_there_is_no_interval_over_them():
    values = [1.0, 2.0, 3.0, 4.0]
    x = over(values, 0.1)
    relation = correlate(values, values)
    assert with_speakers(relation, x, [None] * 4).over_speakers is None
    assert with_speakers(relation, x, over(values[:3], 0.1) + over(values[3:], 0.1, names="u")).over_speakers is None
