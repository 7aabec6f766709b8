"""kill -9 and -a, two runs in one folder, a store that is cleared, a network without answers."""

from __future__ import annotations

import pytest

from tests.faults.campaign import judge
from tests.faults.processes import CASES


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case, tmp_path):
    assert judge(case, tmp_path) == ("clean", "")
