"""Ranges of numbers as classes."""

from __future__ import annotations

import numpy as np
import pytest

from s3prl_mi.core.errors import MIError
from s3prl_mi.estimators.vocabulary import Quantiles, Vocabulary, classes_from


def test_each_range_has_as_many_fit_frames():
    values = np.random.default_rng(0).gamma(2.0, size=16_000)
    classes = Quantiles.of(values, 16, "dB")
    assert len(classes.labels) == 16
    assert np.bincount(classes.ids(values)).tolist() == [1000] * 16


def test_other_values_fall_into_the_ranges_of_the_fit_split():
    classes = Quantiles.of(np.arange(100.0), 4, "Hz")
    assert classes.edges == (25.0, 50.0, 75.0)
    assert classes.ids(np.array([-1e9, 24.9, 25.0, 74.9, 75.0, 1e9])).tolist() == [0, 0, 1, 2, 3, 3]
    assert classes.labels == ("below 25 Hz", "25 to 50 Hz", "50 to 75 Hz", "75 Hz or more")


def test_unvoiced_is_a_class_where_the_fit_split_has_it():
    with_some = Quantiles.of(np.array([np.nan, 1.0, 2.0, 3.0]), 2, "Hz", "unvoiced")
    assert with_some.labels[-1] == "unvoiced"
    assert with_some.ids(np.array([1.0, np.nan, 3.0])).tolist() == [0, 2, 1]
    without = Quantiles.of(np.array([1.0, 2.0]), 2, "Hz", "unvoiced")
    assert without.ids(np.array([np.nan])).tolist() == [-1]


def test_many_equal_values_make_fewer_classes_and_none_is_empty():
    values = np.array([-100.0] * 700 + list(range(300)))
    classes = Quantiles.of(values, 10, "dB")
    counts = np.bincount(classes.ids(values), minlength=len(classes.labels))
    assert len(classes.labels) == 4
    assert counts.min() > 0
    assert counts[0] == 700


@pytest.mark.parametrize("values", [[3.0, 3.0], [np.nan, np.nan]])
def test_a_single_value_is_refused(values):
    with pytest.raises(MIError, match="nothing to be informed about"):
        Quantiles.of(np.array(values), 16, "Hz", "unvoiced")


def test_classes_come_back_from_a_file_of_probes():
    for classes in (Quantiles((1.0, 2.5), "Hz", "unvoiced"), Vocabulary(("AA", "sil"))):
        assert classes_from(classes.state()) == classes
