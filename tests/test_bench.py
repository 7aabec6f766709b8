import pytest

from tests.bench.__main__ import CASES, main


@pytest.mark.parametrize("arguments", [[], *([case] for case in CASES)], ids=lambda a: a[0] if a else "all")
def test_help_of_each_benchmark(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--help"])
    assert ended.value.code == 0
    assert "python -m tests.bench" in capsys.readouterr().out
