"""`mi_measures.jsonl` through the command line: what is written, continued, refused."""

from __future__ import annotations

import shutil

import pytest

from s3prl_mi.estimators.measures.registry import chosen
from s3prl_mi.experiment import views_task
from s3prl_mi.results.measures import MEASURES_FILE, read_measures
from tests.helpers.runner import Runner


@pytest.mark.parametrize("task", ["mi_views", "mi_supervised"])
def test_each_layer_has_a_record_of_each_measure(run: Runner, task):
    assert run(task, "hubert-base", layers=[1, 2]) == 0
    found = read_measures(run.folder / "experiment" / MEASURES_FILE)
    names = [m.name for m in chosen(["default"], task)]
    assert [(m.layer, m.measure) for m in found] == [(layer, name) for layer in (1, 2) for name in names]
    for m in found:
        assert m.task == task
        assert m.eval_splits == ["eval"]
        assert m.seconds >= 0
        assert m.value is not None
        if m.ci_low is not None:
            assert m.ci_low <= m.value <= m.ci_high
            assert m.ci_over == "speakers"
    by_name = {m.measure: m for m in found}
    if task == "mi_views":
        assert 1 <= by_name["rankme"].value <= 32
        assert by_name["rankme"].view is None
        assert by_name["cka_views"].view == "mask(latent, 6 of 10 frames)"
        assert by_name["davies_bouldin"].n_clusters == 6
    else:
        assert 0 <= by_name["pnmi"].value <= 1
        assert by_name["pnmi"].n_clusters == 6


def test_more_measures_are_added_without_fitting(run: Runner, monkeypatch):
    assert run("mi_views", "hubert-base", layers=[2], measures="none") == 0
    file = run.folder / "experiment" / MEASURES_FILE
    assert not file.exists()

    def never(*_args: object, **_more: object) -> None:
        raise AssertionError("fitted again")

    monkeypatch.setattr(views_task, "fit_views", never)
    assert run("mi_views", "hubert-base", "-a", layers=[2], measures=["rankme"]) == 0
    assert run("mi_views", "hubert-base", "-a", layers=[2], measures=["rankme", "cka_views"]) == 0
    assert [m.measure for m in read_measures(file)] == ["rankme", "cka_views"]


def test_without_the_probes_on_disk_measures_are_left_out_with_a_warning(run: Runner, capsys):
    assert run("mi_views", "fbank", measures="none") == 0
    for file in (run.folder / "experiment").rglob("*.pt"):
        file.unlink()
    assert run("mi_views", "fbank", "-a", measures="default") == 0
    assert "measures of it are left out" in capsys.readouterr().err
    assert not (run.folder / "experiment" / MEASURES_FILE).exists()


def test_of_fbank_all_measures(run: Runner):
    assert run("mi_views", "fbank", measures="all") == 0
    found = {m.measure: m.value for m in read_measures(run.folder / "experiment" / MEASURES_FILE)}
    assert list(found) == [m.name for m in chosen(["all"], "mi_views")]
    assert None not in found.values()


def test_an_unknown_measure_is_refused_before_anything_is_loaded(run: Runner, capsys):
    assert run("mi_views", "fbank", measures=["rank_me"]) == 1
    assert "no measure is called 'rank_me'. Did you mean 'rankme'?" in capsys.readouterr().err


@pytest.mark.parametrize(("task", "one"), [("mi_views", "cka_views"), ("mi_supervised", "pnmi")])
def test_other_splits_have_measures_too(run: Runner, task, one):
    assert run(task, "hubert-base", layers=[1, 2]) == 0
    assert run.evaluate("eval") == 0
    before, again = (read_measures(run.folder / "experiment" / f / MEASURES_FILE) for f in ("", "evaluate/eval"))
    assert {(m.layer, m.measure): m.value for m in again} == {(m.layer, m.measure): m.value for m in before}
    assert one in {m.measure for m in again}
    assert run.evaluate("eval") == 0  # written again, not added
    assert len(read_measures(run.folder / "experiment/evaluate/eval" / MEASURES_FILE)) == len(before)


def test_without_the_fit_splits_other_splits_have_bits_only(run: Runner, corpus, tmp_path, capsys):
    mine = corpus.copy(tmp_path / "mine")
    assert run("mi_views", "fbank", corpus=mine) == 0
    for split in ("fit-a", "fit-b"):
        shutil.rmtree(mine.root / split)
    assert run.evaluate("eval") == 0
    assert "measures are left out" in capsys.readouterr().err
    assert not (run.folder / "experiment/evaluate/eval" / MEASURES_FILE).exists()
    assert len(run.records("experiment/evaluate/eval")) == 2
