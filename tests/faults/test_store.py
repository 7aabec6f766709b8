"""Whatever is done to the files of a store, hidden states are whole or extracted again."""

from __future__ import annotations

import pytest

from tests.faults.campaign import judge
from tests.faults.store import CASES


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case, tmp_path):
    assert judge(case, tmp_path) == ("clean", "")


def test_a_run_on_a_damaged_store_measures_the_same(run, capsys):
    """Part of a layer file inverted; once this went unnoticed, and the bits were wrong."""
    settings = dict(layers=[1], seeds=1)
    assert run("mi_supervised", "hubert-base", name="first", **settings) == 0
    stored = sorted((run.folder / "store").rglob("layer_1.bin"))[0]
    content = stored.read_bytes()
    stored.write_bytes(content[:64] + bytes(b ^ 255 for b in content[64:512]) + content[512:])
    capsys.readouterr()
    assert run("mi_supervised", "hubert-base", name="second", **settings) == 0
    assert "is not as it was written" in capsys.readouterr().err
    assert run.numbers("first") == run.numbers("second")
    assert stored.read_bytes() == content
