"""Command lines and files that mean nothing: one line each, and nothing made on the way."""

from __future__ import annotations

import pytest

from tests.faults.arguments import CASES
from tests.faults.campaign import judge


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case, tmp_path):
    assert judge(case, tmp_path) == ("clean", "")
