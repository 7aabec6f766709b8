"""s3prl's own tasks with bad input: one line before anything else, and -a after a signal."""

from __future__ import annotations

import pytest

from tests.faults.campaign import judge
from tests.faults.stock import CASES


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case, tmp_path):
    assert judge(case, tmp_path) == ("clean", "")
