"""-a refuses data that changed; one run per folder; what cannot be listed is not passed over."""

from __future__ import annotations

import pytest

from tests.faults.campaign import judge
from tests.faults.experiments import CASES


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case, tmp_path):
    assert judge(case, tmp_path) == ("clean", "")
