"""Signals, full disks, no memory, upstreams that misbehave: one line, and -a ends with the same records."""

from __future__ import annotations

import pytest

from tests.faults.campaign import judge
from tests.faults.runs import CASES


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case, tmp_path):
    assert judge(case, tmp_path) == ("clean", "")
