"""A layer whose states are the same with and without masks is refused, with the reason."""

from __future__ import annotations

import numpy as np
import pytest

from s3prl_mi.core.errors import MIError
from s3prl_mi.experiment.views_task import refuse_equal_views

STATES = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)


def test_a_layer_before_the_mask_site_is_refused():
    with pytest.raises(MIError, match="lies before the mask site"):
        refuse_equal_views(STATES, STATES)
    rounded = STATES.astype(np.float16).astype(np.float32)
    with pytest.raises(MIError, match="lies before the mask site"):
        refuse_equal_views(rounded, STATES)


@pytest.mark.parametrize("value", [0.0, 3.0, -250.0])
def test_a_collapsed_model_is_refused_as_such(value):
    constant = np.full((200, 8), value, np.float32)
    constant[::2] *= 1 + 1e-7
    with pytest.raises(MIError, match=r"the model has collapsed \(standard deviation over frames at most"):
        refuse_equal_views(constant, constant)


def test_two_views_are_accepted():
    masked = STATES.copy()
    masked[:, 3] += 0.1
    refuse_equal_views(masked, STATES)


def test_a_large_constant_does_not_hide_the_mask():
    refuse_equal_views(STATES * 0.5 + 1000, STATES + 1000)
