"""The board on numbers made up so that each verdict is known, and through the command line."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from s3prl_mi.cli import demo
from s3prl_mi.cli import main as cli
from s3prl_mi.estimators.intervals import LeftOut
from s3prl_mi.report.board import notes_of, read_board, rows_of, tables_of, to_csv, to_screen, trusted_rates, words
from s3prl_mi.report.compare.scores import ScoreValue
from s3prl_mi.report.html.report_data import read_report_data
from s3prl_mi.results.board import LAST, RANDOM, Board, Verdict, board_of, choices, verdicts
from s3prl_mi.results.candidates import SAFE_BOUND, ModelNumbers, _bounds, score
from s3prl_mi.results.measures import MeasureRecord, append_measures
from s3prl_mi.results.record import append_records
from tests.helpers.records import SUPERVISED, make
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
        rates_left_out={"per": left_out(50.0 - 10 * bits[-1], 1.0, -1.0, 0.0)},
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
    assert (bound.picks, bound.best) == ((200,), 3200)
    assert bound.regrets["bits"].value == pytest.approx(1.0)
    assert bound.regrets["per"].value == pytest.approx(10.0)
    assert bound.regrets["per"].left_out.without_each == pytest.approx([10.0] * 3)  # speakers move both alike
    assert (bound.notices_untrained, bound.notices_collapse) == (True, False)
    assert (rank.picks, rank.notices_untrained, rank.notices_collapse) == ((0,), False, True)
    assert rank.regrets["bits"].value == pytest.approx(1.7)
    assert rank.relations["bits"].value == pytest.approx(-0.2)
    assert rank.relations["per"].value == pytest.approx(-0.2)


def test_collapsed_checkpoints_behind_all_others():
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
    assert rank.bits == pytest.approx((0.1 + 0.1 + 0.1) / 3)
    assert rank.worst["bits"] == pytest.approx(0.1)
    # the bound picks layers 1, 0, 0
    assert bound.bits == pytest.approx((0.1 + 0.1 + 0.0) / 3)
    assert board.standings["layers"][LAST].bits == pytest.approx((0.1 + 0.0 + 0.1) / 3)
    assert board.standings["layers"][RANDOM].bits == pytest.approx(0.05)
    assert board.standings["checkpoints"][LAST].bits == 0
    assert board.best("checkpoints") == board.best("checkpoints", "per") == [LAST]
    names = list(board.standings["layers"])
    assert names.index("mi_views") < names.index("rankme")
    assert board.seconds["rankme"] == 0.5


def test_regrets_have_intervals_over_speakers():
    one = model(None, [1.0, 2.0], rankme=[5.0, 4.0])
    sums = {0: left_out(1.0, 0.1, -0.1, 0.0), 1: left_out(2.0, 0.0, 0.1, -0.1)}
    board = board_of([replace(one, left_out=sums)])
    found = board.standings["layers"]["rankme"].regrets["bits"]
    assert found.value == 1.0
    expected = (sums[1] - sums[0]).interval()
    assert (found.low, found.high) == (expected.low, expected.high)
    mean = LeftOut.mean([sums[0], sums[1]])
    at_random = board.standings["layers"][RANDOM].regrets["bits"]
    assert (at_random.low, at_random.high) == ((sums[1] - mean).interval().low, (sums[1] - mean).interval().high)


def test_models_of_other_speech_are_not_compared():
    other = replace(SERIES[3], data=("other",))
    assert not [c for c in choices([SERIES[2], other]) if c.kind != "layers"]


def test_a_measure_that_one_choice_lacks_is_left_out():
    lacking = model(1600, [1.0, 1.2], mi_views=[0.8, 0.7])
    board = board_of([*SERIES, lacking])
    assert "rankme" not in board.standings["layers"]
    assert board.lacking["layers"] == ["rankme", "participation_ratio"]
    assert "left out, as not all have it: RankMe, participation ratio" in to_screen(board)


def judged(free: dict[str, list[float]], bits: list[float]) -> tuple[Board, dict[str, Verdict]]:
    """The board of one model's layers, and its verdicts by measure."""
    board = board_of([model(None, bits, **free)])
    return board, {v.measure: v for v in board.verdicts}


@pytest.mark.parametrize("seed", range(5))
def test_a_measure_that_is_the_truth_has_no_regret_and_its_reverse_has_all(seed: int):
    bits = np.random.default_rng(seed).normal(size=7)
    board, found = judged({"rankme": bits.tolist(), "mi_views": (-bits).tolist()}, bits.tolist())
    truth, reverse = found["rankme"], found["mi_views"]
    assert truth.picks == (int(bits.argmax()),)
    assert truth.regrets["bits"].value == 0
    assert truth.relations["bits"].value == 1
    assert reverse.regrets["bits"].value == pytest.approx(np.ptp(bits))
    assert reverse.relations["bits"].value == -1
    assert next(iter(board.standings["layers"])) == "rankme"
    assert board.best("layers")[0] == "rankme"
    assert "mi_views" not in board.best("layers")


@pytest.mark.parametrize("seed", range(5))
def test_only_the_order_of_a_measure_counts_and_regret_is_never_negative(seed: int):
    rng = np.random.default_rng(seed)
    bits, values = rng.normal(size=6), rng.normal(size=6)
    found = judged({"rankme": values.tolist(), "mi_views": np.exp(3 * values + 1).tolist()}, bits.tolist())[1]
    one, other = found["rankme"], found["mi_views"]
    assert one.picks == other.picks
    assert one.relations["bits"] == other.relations["bits"]
    assert all(v.regrets["bits"].value >= 0 for v in found.values())
    assert found[LAST].picks == (5,)


def test_a_constant_measure_picks_at_random_and_has_no_correlation():
    board, found = judged({"rankme": [3.0] * 5}, [1.0, 2.0, 4.0, 3.0, 0.0])
    assert found["rankme"].picks == found[RANDOM].picks == (0, 1, 2, 3, 4)
    assert found["rankme"].regrets["bits"].value == pytest.approx(4.0 - 2.0)
    assert not found["rankme"].relations
    assert board.standings["layers"]["rankme"].bits == board.standings["layers"][RANDOM].bits


def test_a_measure_that_cannot_choose_between_two_gives_up_their_mean():
    found = judged({"rankme": [9.0, 1.0, 9.0]}, [1.0, 2.0, 1.5])[1]["rankme"]
    assert found.picks == (0, 2)
    assert found.regrets["bits"].value == pytest.approx(0.75)
    assert found.regrets["bits"].left_out.value == pytest.approx(0.75)


def test_measures_that_this_speech_cannot_tell_apart_are_tied():
    """Layer 1 leads layer 0 by less than speakers scatter, and layer 2 by far more."""
    one = model(None, [1.9, 2.0, 0.5], rankme=[1.0, 2.0, 0.0], mi_views=[2.0, 1.0, 0.0], cka_views=[0.0, 1.0, 2.0])
    sums = {0: left_out(1.9, 0.02, -0.02, 0.0), 1: left_out(2.0, -0.02, 0.02, 0.0), 2: left_out(0.5)}
    board = board_of([replace(one, left_out=sums)])
    assert board.best("layers") == ["rankme", "mi_views"]
    rows = {row[1]: row[0] for row in rows_of(board, "layers")[1]}
    assert rows["RankMe"] == rows["I(Za;Zb) as measured"] == "="
    assert rows["CKA of the views"] == rows["(taking the last)"] == ""
    assert "but this speech cannot tell it from I(Za;Zb) as measured; a random pick gives up" in " ".join(words(board))
    steady = {n: left_out(b) for n, b in enumerate([1.9, 2.0, 0.5])}
    assert board_of([replace(one, left_out=steady)]).best("layers") == ["rankme"]


def test_how_often_the_first_measure_stays_first_without_one_run():
    """RankMe gives up 0, 0, 0.4 in three runs, I(Za;Zb) 0.3, 0.31, 0: without either of the first two it loses."""
    found = []
    for i, (rank, bound) in enumerate(((0, 0.3), (0, 0.31), (0.4, 0))):
        bits = [0.0, 1.0 - rank, 1.0 - bound]
        one = model(None, bits, rankme=[0.0, 1.0, 0.0], mi_views=[0.0, 0.0, 1.0])
        found.append(replace(one, model=str(i), name=str(i), series=f"run {i}"))
    board = board_of(found)
    assert next(iter(board.standings["layers"])) == "rankme"
    assert board.stays_first("layers") == (1, 3)
    assert "With one training run left out it stays first in 1 of 3 cases." in " ".join(words(board))
    assert board_of(found[:1]).stays_first("layers") == (0, 0)


def test_without_sums_by_speaker_nothing_is_called_tied():
    board = board_of([replace(model(None, [1.9, 2.0], rankme=[1.0, 2.0], mi_views=[2.0, 1.0]), left_out={})])
    assert not board.tied["layers"]
    assert "unknown without sums by the same speakers" not in " ".join(words(board))  # as two are named
    assert board.best("layers") == ["rankme", LAST]
    assert board.standings["layers"]["rankme"].regrets["bits"].low is None


def test_nothing_measured_beats_taking_the_last():
    text = " ".join(words(board_of([model(None, [1.0, 2.0, 3.0], rankme=[3.0, 2.0, 1.0])])))
    assert "Which layer: taking the last layer gives up least, 0.000 bits" in text
    assert "No measure is shown to beat taking the last layer" in text
    assert "Worse than a random pick: RankMe." in text


def test_entries_behind_the_encoder_are_not_its_last_layer():
    codes = replace(model(None, [1.0, 2.0, 3.0], rankme=[1.0, 2.0, 3.0]), last=1)
    found = {v.measure: v for v in board_of([codes]).verdicts}
    assert found[LAST].picks == (1,)


def test_a_run_that_continues_another_has_no_untrained_step_and_its_layers_count_once():
    first = [replace(m, series="first") for m in SERIES]
    second = [replace(first[-1], model="copy", series="second", step=0)]
    second += [
        replace(m, model=f"second-{m.step}", series="second") for m in (model(500, [1.95, 1.9], rankme=[83.0] * 2),)
    ]
    found = {c.name: c for c in choices([*first, *second]) if c.kind == "checkpoints"}
    assert found["first"].untrained == {0}
    assert not found["second"].untrained
    assert [c.name for c in choices([*first, *second]) if c.kind == "layers"].count("step 3200") == 1


def test_error_rates_that_some_candidates_lack_are_correlated_and_not_regretted():
    part = [replace(SERIES[0], rates={}), *SERIES[1:], model(6400, [2.0, 1.9], mi_views=[1.0, 1.1], rankme=[9.0, 95.0])]
    (series,) = [c for c in choices(part) if c.kind == "checkpoints"]
    found = {v.measure: v for v in verdicts(series)}["mi_views"]
    assert found.relations["per"].n == 4
    assert found.relations["bits"].n == 5
    assert set(found.regrets) == {"bits"}


def test_models_are_only_correlated_and_shown_from_four_on():
    few = [replace(SERIES[3], model=name, name=name, series=None, step=None) for name in "abc"]
    board = board_of([*few])
    assert rows_of(board, "models") == ([], [])
    many = [
        replace(model(None, [0.0, b], rankme=[0.0, b]), model=str(b), name=str(b), series=None)
        for b in (1.0, 2.0, 3.0, 4.0)
    ]
    head, rows = rows_of(board_of(many), "models")
    assert head[:2] == ["measure", "rho I(Z;Y)"]
    assert rows[0][:2] == ["RankMe", "+1.00"]


def test_directions():
    assert score(0.8, "near 1") == score(1.2, "near 1") == pytest.approx(-0.2)
    assert score(3.0, "lower") < score(2.0, "lower")


def test_in_words_and_tables():
    board = board_of(SERIES)
    text = " ".join(words(board))
    assert "All but I(Za;Zb) as measured put a collapsed one behind the best in every series." in text
    assert "Only I(Za;Zb) as measured puts a model that never trained behind the best in every series." in text
    assert "the layers of 3 models of 1 training run and on 1 series of checkpoints, scored on 3 speakers" in text
    head, rows = rows_of(board, "checkpoints")
    assert all(len(row) == len(head) for row in rows)
    by_name = {row[1]: dict(zip(head, row, strict=True)) for row in rows}
    assert by_name["I(Za;Zb) as measured"]["collapsed"] == "0 of 1"
    assert by_name["RankMe"]["regret, PER"] == "17.00 [17.00, 17.00]"
    titles = [title.partition(":")[0] for title, _, _ in tables_of(board)]
    assert titles == ["Which layer", "Which checkpoint, at the last layer measured"]
    shown = to_screen(board, ["PER of nobody."])
    assert "(at random)" in shown
    assert "PER of nobody." in shown
    assert "rho   " in shown  # the legend
    lines = list(csv.DictReader(to_csv(board).splitlines()))
    assert {(line["kind"], line["measure"]) for line in lines} >= {("layers", "rankme"), ("checkpoints", "mi_views")}


def study(folder: Path, phones: str = "phones, stress stripped") -> Path:
    """Records of four checkpoints of a series; RankMe rises with training, I(Za;Zb) falls."""
    for step, bits in ((100, 1.0), (200, 1.5), (300, 1.8), (400, 1.9)):
        file = {"name": f"run-{step}.pt", "sha256": str(step)}
        same = {"step": step, "checkpoint": file, "upstream_sha256": f"sha {step}"}
        free, labelled = folder / f"mi_views-{step}", folder / f"mi_supervised-{step}"
        for made in (free, labelled):
            made.mkdir(parents=True)
        append_records(free / "mi_results.jsonl", [make(3.0 - bits, **same)])
        append_records(labelled / "mi_results.jsonl", [make(bits, **SUPERVISED | same | {"label_set": phones})])
        rank = MeasureRecord(
            task="mi_views", upstream="hubert_local", upstream_sha256=f"sha {step}", step=step, layer=2, last_layer=2,
            frame_shift_ms=20.0, measure="rankme", value=10.0 * bits, unit="dimensions", better="higher",
            protocol="default-1", fit_splits=["dev-other"], eval_splits=["test-other"], frames=9,
        )  # fmt: skip
        append_measures(free / "mi_measures.jsonl", [rank])
        pnmi = replace(rank, task="mi_supervised", measure="pnmi", value=bits / 5, labels=phones.partition(",")[0])
        append_measures(labelled / "mi_measures.jsonl", [pnmi])
    return folder


def test_a_table_of_scores_is_what_the_board_judges_by(tmp_path, capsys):
    scores = tmp_path / "scores.csv"
    rows = [f"hubert_local run-{step},{per},my thesis" for step, per in ((100, 40), (200, 30), (300, 20), (400, 25))]
    scores.write_text("\n".join(["upstream,per,source", *rows]))
    assert (
        cli.main(["board", str(study(tmp_path / "study")), "--scores", str(scores), "--csv", str(tmp_path / "b")]) == 0
    )
    shown = " ".join(capsys.readouterr().out.split())
    assert "PER of 4 models: own table, my thesis." in shown
    assert "In PER, RankMe gives up least, 5.00 points (taking the last checkpoint 5.00, a random" in shown
    lines = {line["measure"]: line for line in csv.DictReader((tmp_path / "b").read_text().splitlines())}
    assert (lines["rankme"]["pick"], lines["rankme"]["rho_pnmi"]) == ("400", "1.0")
    assert float(lines["rankme"]["rho_per"]) == pytest.approx(0.8)
    assert float(lines["mi_views"]["regret_per"]) == pytest.approx(20.0)
    assert cli.main(["board", str(tmp_path / "study")]) == 0
    assert "PER" not in capsys.readouterr().out.replace("of PER and WER", "")
    scores.write_text("upstream,per\nhubert_local run-10,40")
    assert cli.main(["board", str(tmp_path / "study"), "--scores", str(scores)]) == 0
    assert "the row of 'hubert_local run-10' is of no model" in capsys.readouterr().out


def test_a_study_ends_with_the_board_and_says_nothing_twice(tmp_path, capsys):
    from s3prl_mi.cli.study_summary import summarise_study

    summarise_study(study(tmp_path / "study"), [])
    shown = " ".join(capsys.readouterr().out.split())
    assert "Which checkpoint: RankMe gives up least" in shown
    assert "I(Z;Y) last" in shown  # the table of `s3prl-mi compare`
    assert "tells most about" not in shown  # which repeats the table
    assert "tend to have" not in shown  # which repeats the board's rho
    assert shown.count("step 100 is picked without labels") == 1
    other = [make(1.0, **SUPERVISED | {"upstream_sha256": "x", "model": "apc", "label_set": "words"})]
    (tmp_path / "study" / "other").mkdir()
    append_records(tmp_path / "study" / "other" / "mi_results.jsonl", other)
    summarise_study(tmp_path / "study", [])
    shown = " ".join(capsys.readouterr().out.split())
    assert "No table:" in shown
    assert "tells most about" in shown  # as there is no table to read it from


def test_the_demo_ends_with_a_small_board_and_its_picture(tmp_path):
    study(tmp_path / "experiments")
    shown = demo._board(tmp_path)
    assert f"s3prl-mi board {tmp_path / 'experiments'}" in shown
    assert "Which checkpoint: RankMe gives up least" in shown
    assert (tmp_path / demo.BOARD).read_bytes().startswith(b"\x89PNG")


def test_other_labels_than_phones_judge_nothing(tmp_path, capsys):
    for other in ("words, silence as a class", "speaker, utterances of each split"):
        only = study(tmp_path / other.partition(",")[0], other)
        assert cli.main(["board", str(only)]) == 1
        assert "with phones as labels" in capsys.readouterr().err
    both = study(tmp_path / "both")
    study(both / "words", "words, silence as a class")
    for results in (both / "words").glob("mi_supervised*/mi_results.jsonl"):
        results.write_text(results.read_text().replace('"mi_lower_bound_bits": 1', '"mi_lower_bound_bits": 7'))
    for measured in (both / "words").glob("mi_supervised*/mi_measures.jsonl"):
        measured.write_text(measured.read_text().replace('"value": 0', '"value": -0'))
    assert cli.main(["board", str(both), "--csv", str(tmp_path / "b")]) == 0
    lines = {line["measure"]: line for line in csv.DictReader((tmp_path / "b").read_text().splitlines())}
    assert (lines["rankme"]["rho_bits"], lines["rankme"]["rho_pnmi"]) == ("1.0", "1.0")
    assert float(lines["mi_views"]["regret_bits"]) == pytest.approx(0.9)


def test_doubtful_rates_are_left_out_and_mixed_ones_named(tmp_path):
    data = read_report_data([study(tmp_path / "study")])
    ours = {"test split": "test-other"}
    rates = {f"sha {step}": {"per": ScoreValue(step / 10, "own run", "runs", setting=ours)} for step in (100, 200, 300)}
    rates["sha 400"] = {"per": ScoreValue(1.0, "own run", "runs", doubtful=True, remark="of the dev split")}
    found, notes = trusted_rates(replace(data, rates=rates))
    assert {m: {t: r.percent for t, r in own.items()} for m, own in found.items()} == {
        "sha 100": {"per": 10.0}, "sha 200": {"per": 20.0}, "sha 300": {"per": 30.0}, "sha 400": {},
    }  # fmt: skip
    assert notes["per"] == "PER of 3 models: own runs; 1 doubtful left out."
    rates["sha 400"] = {"per": ScoreValue(1.0, "SUPERB", "a paper", setting={"test split": "test-clean"})}
    found, notes = trusted_rates(replace(data, rates=rates))
    assert not any(found.values())
    assert "PER with different test splits: test-other for" in notes["per"]
    board = read_board(replace(data, rates=rates))
    assert notes_of(board, replace(data, rates=rates)) == [notes["per"]]


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
