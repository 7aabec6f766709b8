"""The board on numbers made up so that each verdict is known, and through the command line."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from s3prl_mi.cli import main as cli
from s3prl_mi.estimators.intervals import LeftOut
from s3prl_mi.report.board import rows_of, tables_of, to_csv, to_screen, words
from s3prl_mi.results.board import ModelNumbers, board_of, choices, score, verdicts
from tests.helpers.runner import Runner


def left_out(value: float, *off: float) -> LeftOut:
    return LeftOut("speakers", tuple("abc"), value, value + np.array(off or (0.0, 0.0, 0.0)))


def model(step: int | None, bits: list[float], **free: list[float]) -> ModelNumbers:
    layers = range(len(bits))
    return ModelNumbers(
        model=f"model-{step}",
        name=f"step {step}",
        data=("default", "fit", "eval", 20.0),
        series="run",
        step=step,
        last=len(bits) - 1,
        free={name: dict(zip(layers, values, strict=True)) for name, values in free.items()},
        truth={"bits": dict(zip(layers, bits, strict=True)), "pnmi": dict.fromkeys(layers, 0.5)},
        left_out={n: left_out(b) for n, b in zip(layers, bits, strict=True)},
        rates={"per": 50.0 - 10 * bits[-1]},
        spread=dict(zip(layers, free.get("participation_ratio", [9.0] * len(bits)), strict=True)),
        seconds={"rankme": 0.5},
    )


SERIES = [
    model(0, [0.2, 0.1], mi_views=[0.1, 0.1], rankme=[90.0, 99.0], participation_ratio=[30.0, 30.0]),
    model(200, [0.9, 0.8], mi_views=[1.2, 1.3], rankme=[20.0, 27.0], participation_ratio=[1.2, 1.1]),
    model(800, [1.4, 1.5], mi_views=[0.8, 0.7], rankme=[70.0, 55.0], participation_ratio=[5.0, 5.0]),
    model(3200, [1.9, 1.8], mi_views=[0.9, 0.8], rankme=[80.0, 82.0], participation_ratio=[9.0, 9.0]),
]


def test_the_bound_takes_the_collapsed_checkpoint_and_rank_the_untrained_one():
    (series,) = [c for c in choices(SERIES) if c.kind == "checkpoints"]
    assert series.collapsed == {200}
    found = {v.measure: v for v in verdicts(series)}
    bound, rank = found["mi_views"], found["rankme"]
    assert (bound.pick, bound.best) == (200, 3200)
    assert bound.regret_bits == pytest.approx(1.0)
    assert bound.regret_per == pytest.approx(10.0)
    assert (bound.notices_untrained, bound.notices_collapse) == (True, False)
    assert (rank.pick, rank.notices_untrained, rank.notices_collapse) == (0, False, True)
    assert rank.regret_bits == pytest.approx(1.7)
    assert rank.relations["bits"].value == pytest.approx(-0.2)
    assert rank.relations["per"].value == pytest.approx(-0.2)


def test_collapsed_checkpoints_behind_all_others():
    from s3prl_mi.results.board import SAFE_BOUND, _bounds

    class Bound:
        def __init__(self, bits: float) -> None:
            self.mi_lower_bound_bits = bits

    found = _bounds({0: Bound(1.3), 1: Bound(0.8), 2: Bound(0.7)}, {0: 1.1, 1: 5.0, 2: 9.0})
    assert max(found["mi_views"], key=found["mi_views"].get) == 0
    assert sorted(found[SAFE_BOUND], key=found[SAFE_BOUND].get) == [0, 2, 1]
    assert SAFE_BOUND not in _bounds({0: Bound(1.3)}, {})


def test_layers_of_an_untrained_model_are_no_choice():
    names = [c.name for c in choices(SERIES) if c.kind == "layers"]
    assert names == ["step 200", "step 800", "step 3200"]


def test_standings_are_means_over_choices():
    board = board_of(SERIES)
    rank, bound = board.standings["layers"]["rankme"], board.standings["layers"]["mi_views"]
    # rank picks layers 1, 0, 1 where 0, 1, 0 are best
    assert rank.regret_bits.value == pytest.approx((0.1 + 0.1 + 0.1) / 3)
    assert rank.worst_bits == pytest.approx(0.1)
    assert bound.regret_bits.value == pytest.approx((0.1 + 0.1 + 0.0) / 3)
    assert board.last["layers"] == pytest.approx((0.1 + 0.0 + 0.1) / 3)
    assert board.random["layers"] == pytest.approx(0.05)
    assert board.last["checkpoints"] == 0
    assert board.ranking("layers").index("mi_views") < board.ranking("layers").index("rankme")
    assert board.seconds["rankme"] == 0.5


def test_regrets_have_intervals_over_speakers():
    one = model(None, [1.0, 2.0], rankme=[5.0, 4.0])
    sums = {0: left_out(1.0, 0.1, -0.1, 0.0), 1: left_out(2.0, 0.0, 0.1, -0.1)}
    one = ModelNumbers(**{**{f: getattr(one, f) for f in one.__slots__}, "left_out": sums})
    found = board_of([one]).standings["layers"]["rankme"].regret_bits
    assert found.value == 1.0
    expected = (sums[1] - sums[0]).interval()
    assert (found.low, found.high) == (expected.low, expected.high)


def test_models_of_other_speech_are_not_compared():
    other = ModelNumbers(**{**{f: getattr(SERIES[3], f) for f in SERIES[3].__slots__}, "data": ("other",)})
    assert not [c for c in choices([SERIES[2], other]) if c.kind != "layers"]


def test_a_measure_that_one_choice_lacks_is_left_out():
    lacking = model(1600, [1.0, 1.2], mi_views=[0.8, 0.7])
    assert "rankme" not in board_of([*SERIES, lacking]).standings["layers"]


def test_directions():
    assert score(0.8, "near 1") == score(1.2, "near 1") == pytest.approx(-0.2)
    assert score(3.0, "lower") < score(2.0, "lower")


def test_in_words_and_tables():
    board = board_of(SERIES)
    text = words(board)
    assert "A collapsed one is missed by I(Za;Zb)" in text
    assert "A model that never trained is missed by RankMe" in text
    assert "the layers of 3 models and on 1 series of checkpoints, scored on 3 speakers" in text
    head, rows = rows_of(board, "checkpoints")
    assert all(len(row) == len(head) for row in rows)
    by_name = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert by_name["I(Za;Zb) as measured"]["collapsed"] == "0 of 1"
    assert by_name["RankMe"]["regret, PER"] == "17.00"
    titles = [title.partition(":")[0] for title, _, _ in tables_of(board)]
    assert titles == ["Which layer", "Which checkpoint, at the last layer measured"]
    assert "(at random)" in to_screen(board)
    lines = list(csv.DictReader(to_csv(board).splitlines()))
    assert {(line["kind"], line["measure"]) for line in lines} >= {("layers", "rankme"), ("checkpoints", "mi_views")}


def test_of_a_study_through_the_command_line(run: Runner, capsys, tmp_path):
    for task in ("mi_views", "mi_supervised"):
        assert run(task, "hubert-base", name=f"study/{task}", layers=[0, 1, 2]) == 0
    capsys.readouterr()
    files = ["--png", str(tmp_path / "b.png"), "--csv", str(tmp_path / "b.csv")]
    assert cli.main(["board", str(run.folder / "study"), *files]) == 0
    shown = capsys.readouterr().out
    assert "Which layer" in shown
    assert "Which checkpoint" not in shown
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main(["report", str(run.folder / "study")]) == 0
    assert "The board" in (run.folder / "study" / "report" / "mi_report.html").read_text()
    assert cli.main(["board", str(run.folder / "study" / "mi_views")]) == 1
    assert "Measure both" in capsys.readouterr().err
