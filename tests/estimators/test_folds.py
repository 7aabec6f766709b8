"""Folds of whole speakers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import GroupKFold

from s3prl_mi.estimators.folds import FOLDS, GAP, assign_folds, time_folds


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), min_size=2, max_size=400))
def test_no_group_is_split_and_every_fold_is_used(groups):
    groups = np.array(groups)
    folds = assign_folds(groups)
    n_groups = len(np.unique(groups))
    assert folds.shape == groups.shape
    if n_groups > 1:
        for group in np.unique(groups):
            assert len(np.unique(folds[groups == group])) == 1
        np.testing.assert_array_equal(np.unique(folds), np.arange(min(FOLDS, n_groups)))


def test_folds_are_as_balanced_as_scikit_learns():
    groups = np.random.default_rng(0).zipf(1.5, 5000) % 40
    ours = np.bincount(assign_folds(groups)).max()
    theirs = max(len(test) for _, test in GroupKFold(FOLDS).split(groups, groups=groups))
    assert ours <= theirs


def test_names_of_groups_do_not_matter_when_their_order_does_not_change():
    groups = np.repeat([0, 1, 2, 3, 4, 5], [50, 40, 30, 20, 10, 5])
    np.testing.assert_array_equal(assign_folds(groups), assign_folds(groups * 1000 + 7))


def test_one_speaker_is_cut_into_blocks_of_time_with_gaps():
    """Each fold two long blocks; neighbours of two folds are at least a gap apart."""
    folds = assign_folds(np.zeros(6000, dtype=np.int64))
    np.testing.assert_array_equal(folds, time_folds(6000))
    np.testing.assert_array_equal(np.unique(folds), np.arange(-1, FOLDS))
    kept = np.flatnonzero(folds >= 0)
    borders = np.flatnonzero(np.diff(folds[kept]))
    assert len(borders) == 2 * FOLDS - 1
    assert (np.diff(kept)[borders] > GAP).all()
    assert np.bincount(folds[kept]).min() >= 0.8 * 6000 / FOLDS


@pytest.mark.parametrize("n", [0, 1, 2, 7, 60, 2000])
def test_folds_of_time_where_there_are_few_frames(n):
    folds = time_folds(n)
    assert folds.shape == (n,)
    assert len(np.unique(folds[folds >= 0])) == min(n, FOLDS)


@pytest.mark.parametrize(("groups", "folds"), [([3], [0]), ([3, 3], [0, 1]), ([1, 2], [0, 1])])
def test_smallest_inputs(groups, folds):
    np.testing.assert_array_equal(assign_folds(np.array(groups)), folds)
