"""The comparison: one row a model, refusals that name the difference, whose score wins, four outputs."""

import argparse
import csv
import dataclasses
import io
import re

import pytest

from s3prl_mi.cli import compare as compare_command
from s3prl_mi.core.errors import MIError
from s3prl_mi.report.compare.comparable import Filters, check, keep
from s3prl_mi.report.compare.outputs import latex_text, to_csv, to_latex, to_markdown, to_screen
from s3prl_mi.report.compare.paper import paper_rows
from s3prl_mi.report.compare.scores import ScoreValue, read_score_table
from s3prl_mi.report.compare.table import Column, build
from s3prl_mi.report.s3prl_runs import read_run
from s3prl_mi.results.collect import Result
from s3prl_mi.results.record import RESULTS_FILE, append_records
from s3prl_mi.results.speaker_sums import SPEAKERS_FILE, append_speakers
from tests.helpers.records import SUPERVISED, VERSION_1_LINE, curve, make, speaker_sums
from tests.report.test_s3prl_runs import best, run, wrong

FREE = {
    "wav2vec2": [0.5, 0.9, 0.7],
    "hubert": [0.6, 1.4, 1.2],
    "wavlm": [0.8, 1.5, 1.6],
    "data2vec": [0.7, 1.6, 1.8],
}
LABELLED = {
    "wav2vec2": [2.0, 2.5, 2.6],
    "hubert": [2.2, 3.0, 2.9],
    "wavlm": [2.1, 3.1, 3.3],
    "data2vec": [2.2, 3.2, 3.4],
}


def one(name, tmp_path, **changes):
    return [
        Result(tmp_path / name, curve(FREE[name], model=name, **changes), name),
        Result(tmp_path / name, curve(LABELLED[name], model=name, **SUPERVISED | changes), name),
    ]


@pytest.fixture
def results(tmp_path):
    return [r for name in FREE for r in one(name, tmp_path)]


def study(folder, **changes):
    """The same on disk."""
    for name in FREE:
        for task, records in (
            ("views", curve(FREE[name], model=name, **changes)),
            ("phones", curve(LABELLED[name], model=name, **SUPERVISED)),
        ):
            path = folder / name / task
            path.mkdir(parents=True)
            append_records(path / RESULTS_FILE, records)
    return folder


def stock(folder, percent, upstream="hubert"):
    """A run of s3prl's ctc with this PER, a whole number."""
    return wrong(run(folder, upstream=upstream), percent)


def command(*words):
    parser = argparse.ArgumentParser()
    compare_command.add_arguments(parser)
    return compare_command.run(parser.parse_args([str(w) for w in words]))


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text), strict=True))


class TestTable:
    def test_a_row_for_each_model_with_both_tasks(self, results):
        table = build(results)
        assert [row.label for row in table.rows] == list(FREE)
        hubert = table.rows[1]
        found = {(c.task, c.choice): (f.mi_lower_bound_bits, f.layer) for c, f in hubert.figures.items()}
        assert found == {
            ("mi_views", "last"): (1.2, 2),
            ("mi_views", "best"): (1.4, 1),
            ("mi_supervised", "last"): (2.9, 2),
            ("mi_supervised", "free"): (3.0, 1),
            ("mi_supervised", "best"): (3.0, 1),
        }
        assert [c.choice for c in table.columns] == ["last", "free", "best", "last", "best"]

    def test_mean_and_sd_over_seeds_and_probes_apart(self, tmp_path):
        records = [make(b, seed=s) for s, b in enumerate((1.0, 2.0, 3.0))] + [make(9.0, probe="mlp")]
        figures = build([Result(tmp_path, records, "x")]).rows[0].figures
        figure = figures[Column("mi_views", "logistic", "last")]
        assert (figure.mi_lower_bound_bits, figure.mi_lower_bound_bits_sd, figure.n_seeds) == (2.0, 1.0, 3)
        assert figures[Column("mi_views", "mlp", "last")].mi_lower_bound_bits == 9.0

    def test_weighted_sum_is_no_layer(self, tmp_path):
        figures = build([Result(tmp_path, [*curve([1.0, 2.0]), make(5.0, layer="weighted")], "x")]).rows[0].figures
        assert figures[Column("mi_views", "logistic", "weighted")].mi_lower_bound_bits == 5.0
        assert figures[Column("mi_views", "logistic", "best")].mi_lower_bound_bits == 2.0

    def test_weighted_sums_of_two_kinds(self, tmp_path):
        def weighted(model, source, bits=2.0):
            name = f"featurizer ({source}): 0.5000 0.5000"
            return Result(tmp_path, [make(bits, model=model, layer="weighted", layer_name=name)], model)

        trained = [weighted(m, f"dev-best.ckpt of ctc on {m}") for m in ("a", "b")]
        assert len(build(trained).rows) == 2
        with pytest.raises(MIError, match=r"weights \(measure both with one featurizer"):
            build([trained[0], weighted("b", "uniform")])
        with pytest.raises(MIError, match="measured in several ways"):
            build([trained[0], weighted("a", "uniform", 3.0)])

    def test_layers_of_a_coarser_rate_are_left_out_by_name(self, tmp_path):
        records = [*curve([1.0, 1.5]), make(9.0, layer=2, frame_shift_ms=40.0)]
        table = build([Result(tmp_path, records, "mr")])
        assert table.rows[0].figures[Column("mi_views", "logistic", "best")].mi_lower_bound_bits == 1.5
        assert table.notes == ["mr: only layers every 20 ms; left out as of another rate: 2."]

    def test_correlation_with_published_scores(self, results):
        relation = build(results).relations[Column("mi_views", "logistic", "last"), "per"]
        # PER 5.74, 5.41, 3.92, 4.69 against 0.7, 1.2, 1.6, 1.8: one pair of six is out of order.
        assert (relation.n, relation.of("kendall").value) == (4, pytest.approx(-4 / 6))
        assert build(results, published=False).relations == {}

    def test_doubtful_scores_are_marked_and_not_correlated(self, results, tmp_path):
        more = [*results, Result(tmp_path, curve([0.1, 0.2, 0.3], model="multires_hubert_base"), "mr")]
        table = build(more)
        assert table.relations[Column("mi_views", "logistic", "last"), "per"].n == 4
        assert "4.16?" in to_screen(table)
        assert "could not be checked" in to_screen(table)

    def test_a_fine_tuned_run_says_nothing_of_the_frozen_upstream(self, results, tmp_path):
        tuned_run = read_run(stock(tmp_path / "tuned", 1))
        own = build(results, runs=[tuned_run])
        assert [r.scores["per"].percent for r in own.rows if r.label == "hubert"] == [1.0]
        tuned = build(results, runs=[dataclasses.replace(tuned_run, fine_tuned=True)])
        assert [r.scores["per"].percent for r in tuned.rows if r.label == "hubert"] == [5.41]
        assert any("fine-tuned" in note for note in tuned.notes)

    def test_nothing(self):
        with pytest.raises(MIError, match="no estimate is left"):
            build([])


DIFFERENT = {
    "protocol": {"protocol": "paper-1"},
    "view": {"view": "mask(latent, 28 of 40 frames)"},
    "frames": {"scored_frames": "all"},
    "clusters": {"n_clusters": 100},
    "frame_rate": {"frame_shift_ms": 10.0},
    "fit_split": {"fit_splits": ["dev-clean"]},
    "eval_split": {"eval_splits": ["test-clean"]},
    "utterances": {"utterances": {"fit": 4, "eval": 4, "skipped": 0}},
    "codebook": {"codebook": "auto"},
    "precision": {"precision": "bf16"},
}


class TestRefusal:
    @pytest.mark.parametrize("name", DIFFERENT)
    def test_each_difference_is_named_and_may_be_allowed(self, tmp_path, name):
        pair = [
            Result(tmp_path, curve([1.0], model="hubert"), "one"),
            Result(tmp_path, curve([1.0], model="wavlm", **DIFFERENT[name]), "two"),
        ]
        with pytest.raises(MIError) as caught:
            check(pair)
        message = str(caught.value)
        assert f"They differ in {name} (" in message
        assert "in one;" in message
        assert "in two" in message
        assert message.endswith(f"--allow {name}.")
        (note,) = check(pair, [name])
        assert note.startswith(f"Not comparable ({name}, allowed)")

    def test_labels(self, tmp_path):
        pair = [
            Result(tmp_path, [make(model="a", **SUPERVISED)], "one"),
            Result(tmp_path, [make(model="b", **SUPERVISED | {"label_set": "words", "n_classes": 900})], "two"),
        ]
        with pytest.raises(MIError, match=r"labels .*: 40 phones, stress stripped in one; 900 words in two"):
            check(pair)

    def test_of_several_sets_of_labels_those_of_what_is_said_are_kept(self, tmp_path):
        speaker = SUPERVISED | {"labels": "speaker", "label_set": "speaker, utterances of each split", "n_classes": 10}
        several = [make(2.2, **speaker), make(1.8, **SUPERVISED | {"labels": "phones"}), make(0.5)]
        alone = [make(2.1, model="b", **speaker)]
        results = [Result(tmp_path, several, "one"), Result(tmp_path, alone, "two")]
        assert [[x.labels for x in r.records] for r in keep(results, Filters())] == [["phones", None], ["speaker"]]
        assert [[x.labels for x in r.records] for r in keep(results, Filters(labels="speaker"))] == [
            ["speaker", None], ["speaker"],
        ]  # fmt: skip
        with pytest.raises(MIError, match=r"--labels .pitch.: nothing is left\. There are: speaker, phones\."):
            keep(results, Filters(labels="pitch"))
        with pytest.raises(MIError, match=r"labels \(--labels NAME keeps one\): .*speaker in 10 classes, utt.* in two"):
            check(keep(results, Filters()))

    def test_other_alignments_by_their_digest_or_by_the_entropy_of_their_labels(self, tmp_path):
        def pair(first, second, **changes):
            one, two = (make(model=m, entropy=h, **SUPERVISED) for m, h in (("a", first), ("b", second)))
            return [Result(tmp_path, [one], "one"), Result(tmp_path, [dataclasses.replace(two, **changes)], "two")]

        assert check(pair(4.575, 4.59)) == []
        with pytest.raises(MIError, match=r"labels \(.*H\(Y\) is 4.300 bits in two; 4.575 in one"):
            check(pair(4.575, 4.3))
        with pytest.raises(MIError, match=r"alignments \(.*labels unknown in one; labels ab/cd in two"):
            check(pair(4.575, 4.575, label_digest="ab/cd"))

    def test_several_differences_in_one_message(self, tmp_path):
        pair = [
            Result(tmp_path, curve([1.0], model="hubert"), "one"),
            Result(tmp_path, curve([1.0], model="apc", view="shift(60 ms)", scored_frames="all"), "two"),
        ]
        with pytest.raises(MIError, match="--allow view,frames"):
            check(pair)
        with pytest.raises(MIError, match="--allow view,frames"):
            check(pair, ["view"])
        assert len(check(pair, ["view", "frames"])) == 2

    def test_tasks_are_not_compared_with_each_other(self, results):
        assert check(results) == []

    def test_a_sweep_has_no_single_figure_and_that_cannot_be_allowed(self, tmp_path):
        sweep = [Result(tmp_path, curve([1.0]) + curve([1.5], n_clusters=100), "x")]
        for allowed in ([], ["clusters"]):
            with pytest.raises(MIError, match=r"x: mi_views was measured in several ways .*--clusters N"):
                check(sweep, allowed)

    def test_misspelt(self, results):
        with pytest.raises(MIError, match=r"--allow 'mask': no such difference. Choose from view, frames"):
            check(results, ["mask"])


class TestKeep:
    def test_one_setting_of_a_sweep(self, tmp_path):
        records = (
            curve([1.0]) + curve([1.5], n_clusters=100) + curve([2.0], view="mask(latent, 28 of 40 frames)")
            + curve([3.0], **SUPERVISED)
        )  # fmt: skip
        (found,) = keep([Result(tmp_path, records, "x")], Filters(view="30 of 40", clusters=50))
        assert [r.mi_lower_bound_bits for r in found.records] == [1.0, 3.0]
        (found,) = keep([Result(tmp_path, records, "x")], Filters(clusters=100))
        assert [r.mi_lower_bound_bits for r in found.records] == [1.5, 3.0]

    def test_the_headline_frames_unless_others_are_asked_for(self, tmp_path):
        records = (
            curve([1.0], scored_frames="all")
            + curve([2.0], scored_frames="masked")
            + curve([3.0], scored_frames="unmasked")
        )
        result = [Result(tmp_path, records, "x")]
        assert [r.scored_frames for r in keep(result, Filters())[0].records] == ["masked"]
        assert [r.scored_frames for r in keep(result, Filters(frames="unmasked"))[0].records] == ["unmasked"]

    def test_protocol_with_or_without_version(self, tmp_path):
        result = [Result(tmp_path, curve([1.0]) + curve([2.0], protocol="paper-1"), "x")]
        for name in ("paper", "paper-1"):
            assert [r.mi_lower_bound_bits for r in keep(result, Filters(protocol=name))[0].records] == [2.0]

    def test_one_frame_rate(self, tmp_path):
        result = [Result(tmp_path, curve([1.0]) + curve([2.0], frame_shift_ms=10.0), "x")]
        assert [r.mi_lower_bound_bits for r in keep(result, Filters(frame_shift=10))[0].records] == [2.0]
        with pytest.raises(MIError, match=r"--frame_shift 30.0: nothing is left"):
            keep(result, Filters(frame_shift=30.0))

    def test_nothing_left(self, tmp_path):
        with pytest.raises(MIError, match=r"--view 'shift' --clusters 7: nothing is left. There is: mask\(latent"):
            keep([Result(tmp_path, curve([1.0]), "x")], Filters(view="shift", clusters=7))


class TestScores:
    def test_own_run_before_own_table_before_superb(self, results, tmp_path):
        from s3prl_mi.report.s3prl_runs import read_runs

        runs = read_runs([stock(tmp_path / "pr", 6)])
        (tmp_path / "own.csv").write_text("upstream,per,wer,source\nhubert,7.0,8.0,mine\nwavlm,4.5,,mine\n")
        table = read_score_table(tmp_path / "own.csv")
        rows = {r.label: r.scores for r in build(results, runs=runs, table=table).rows}
        assert (rows["hubert"]["per"].percent, rows["hubert"]["per"].kind) == (6.0, "own run")
        assert (rows["hubert"]["wer"].percent, rows["hubert"]["wer"].source) == (8.0, "mine")
        assert rows["wavlm"]["per"].kind == "own table"
        assert (rows["wavlm"]["wer"].percent, rows["wavlm"]["wer"].kind) == (5.59, "SUPERB")
        # published scores are not mixed with own runs: they have a column of their own
        assert "per" not in rows["data2vec"]
        assert (rows["data2vec"]["superb_per"].percent, rows["hubert"]["superb_per"].percent) == (4.69, 5.41)
        assert "superb_wer" not in rows["wavlm"]

    def test_local_weights_have_published_scores_only_if_said_so(self, tmp_path):
        local = [Result(tmp_path, curve([1.0], model="hubert_local"), "mine")]
        assert build(local).rows[0].scores == {}
        assert build(local, same_as={"mine": "hubert"}).rows[0].scores["per"].percent == 5.41
        with pytest.raises(
            MIError, match=r"--same-as mine=hubbert: nothing is published .* Did you mean 'hubert_base'"
        ):
            build(local, same_as={"mine": "hubbert"})
        with pytest.raises(MIError, match=r"no model is called 'min'. Did you mean 'mine'"):
            build(local, same_as={"min": "hubert"})

    def test_dev_scores_and_mixtures_are_told(self, results, tmp_path):
        from s3prl_mi.report.s3prl_runs import read_runs

        best(run(tmp_path / "pr"), 0.05)
        folders = [tmp_path / "pr", stock(tmp_path / "x", 20, upstream="npc")]
        runs = read_runs(folders)
        own = {"wavlm": {"per": ScoreValue(4.5, "own table", "mine")}}
        table = build(results, runs=runs, table=own)
        assert "PER of hubert: of the dev split, not of test." in table.notes
        assert any("not in this table" in n and "npc" in n for n in table.notes)
        assert any("PERs are from own run and own table" in n for n in table.notes)
        assert "5.00*" in to_screen(table)

    @pytest.mark.parametrize(
        ("text", "part"),
        [
            ("a,b\n1,2\n", "found a, b"),
            ("", "found no rows"),
            ("upstream,per\nx,five\n", "line 2, column per: 'five'"),
        ],
    )
    def test_broken_tables(self, tmp_path, text, part):
        path = tmp_path / "s.csv"
        path.write_text(text)
        with pytest.raises(MIError, match=part):
            read_score_table(path)


class TestPaper:
    def test_last_layer_and_difference(self, tmp_path):
        rows = paper_rows(build([Result(tmp_path, curve([1.0, 1.84], model="hubert_base"), "h")]))
        (row,) = rows
        assert (row.paper.model, row.paper.probe, row.yours.layer, row.paper.bits) == (
            "HuBERT base",
            "logistic",
            1,
            2.04,
        )
        assert row.difference == pytest.approx(-0.2)
        assert row.remark == ""

    def test_the_apc_family_by_layer(self, tmp_path):
        shift = {
            "model": "apc",
            "view": "shift(60 ms)",
            "scored_frames": "all",
            "probe": "mlp",
            "frame_shift_ms": 10.0,
        }
        table = build([Result(tmp_path, curve([2.0, 3.0, 2.5], **shift), "a")])
        assert [(r.yours.layer, r.paper.bits) for r in paper_rows(table)] == [(0, 2.3), (1, 2.8), (2, 2.3)]
        assert paper_rows(table)[0].remark == "scored on test-other, the paper on test-clean"

    def test_another_setting_than_the_papers_is_named(self, tmp_path):
        other = {"n_clusters": 100, "view": "mask(latent, 26 of 40 frames)"}
        records = [*curve([1.0, 1.84], model="hubert_base", **other)]
        (row,) = paper_rows(build([Result(tmp_path, records, "h")]))
        assert row.remark == (
            "mask(latent, 26 of 40 frames), in the paper 30 of 40 frames; 100 clusters, in the paper 50"
        )

    def test_what_the_paper_does_not_have(self, tmp_path):
        apc = Result(tmp_path, curve([1.0], model="apc"), "apc by logistic")
        npc = Result(tmp_path, curve([1.0], model="npc"), "npc")
        table = build([apc, npc])
        text = to_screen(table, paper_rows(table))
        assert "Not in the paper: npc." in text
        assert "apc by logistic: the paper has figures by the probe mlp" in text


def test_a_dinosr_file_of_ones_own_has_no_published_score(tmp_path):
    mine = Result(tmp_path, curve([1.0], upstream="dinosr", checkpoint={"name": "mine.pt", "sha256": "0"}), "mine")
    assert not build([mine]).rows[0].scores
    assert build([mine], same_as={"mine": "dinosr"}).rows[0].scores["per"].percent == 3.21


class TestOutputs:
    def test_screen(self, results):
        text = to_screen(build(results))
        line = next(line for line in text.splitlines() if line.startswith("hubert"))
        assert " ".join(line.split()) == "hubert 2.900 3.000 (1) 3.000 (1) 1.200 1.400 (1) 5.41 6.42 SUPERB"
        assert "Measured: I(Za;Zb): mask(latent, 30 of 40 frames), masked frames, 50 clusters" in text
        assert "does not show that the one causes the other" in text

    def test_csv_at_full_precision(self, results):
        results[0] = dataclasses.replace(
            results[0],
            records=[dataclasses.replace(r, mi_lower_bound_bits=1 / 3) for r in results[0].records],
        )
        texts = to_csv(build(results), [])
        assert set(texts) == {"", "_correlations", "_layers"}
        first = rows_of(texts[""])[0]
        assert float(first["mi_views_logistic_last_bits"]) == 1 / 3
        assert (first["label"], first["per"], first["per_from"]) == ("wav2vec2", "5.74", "SUPERB")
        kinds = [r["coefficient"] for r in rows_of(texts["_correlations"])]
        assert kinds == ["spearman", "kendall", "pearson"] * 10
        assert [r["unsupervised_layer"] for r in rows_of(texts["_layers"])] == ["0", "1", "2", "2"]

    def test_markdown(self, tmp_path):
        text = to_markdown(build([Result(tmp_path, curve([1.0], model="a_b"), "a_b|c")]))
        table = [line for line in text.splitlines() if line.startswith("|")]
        assert table[1] == "|:---|---:|"  # one layer: last and best are one column
        assert table[2] == r"| a\_b\|c | 1.000 |"

    def test_latex(self, results):
        text = to_latex(build(results), [])
        assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 3
        assert text.count(r"\toprule") == text.count(r"\bottomrule") == 3
        for block in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.S):
            rows = [line for line in block[1].splitlines() if line.endswith(r"\\")]
            assert {line.replace(r"\&", "").count("&") for line in rows} == {len(block[0]) - 1}
        outside = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
        assert re.search(r"(?<!\\)%", outside) is None
        assert re.search(r"(?<!\\)_(?![ab;])", outside.replace(r"\label{tab:mi-", "")) is None

    def test_latex_text(self):
        assert latex_text(r"a_b & 5 % \x") == r"a\_b \& 5 \% \textbackslash{}x"


class TestCommand:
    def test_everything(self, tmp_path, capsys):
        own = stock(tmp_path / "runs/pr", 6)
        out = tmp_path / "new" / "t.csv"
        out.parent.mkdir()
        words = [study(tmp_path / "study"), "--stock", own, "--paper", "--label", "hubert=HuBERT base"]
        words += ["--csv", out, "--markdown", tmp_path / "t.md", "--latex", tmp_path / "t.tex"]
        assert command(*words) == 0
        shown = capsys.readouterr().out
        assert "HuBERT base" in shown
        assert "Next to the paper's own figures" in shown
        assert str(tmp_path / "t.tex") in shown.splitlines()[-1]
        assert {p.name for p in out.parent.iterdir()} == {
            "t.csv",
            "t_correlations.csv",
            "t_layers.csv",
            "t_paper.csv",
        }
        hubert = next(r for r in rows_of(out.read_text()) if r["label"] == "HuBERT base")
        assert (float(hubert["per"]), hubert["per_from"]) == (6.0, "own run")
        assert "HuBERT base" in (tmp_path / "t.md").read_text()

    def test_runs_next_to_the_bits_are_found_and_named(self, tmp_path, capsys):
        folder = study(tmp_path / "study")
        stock(folder / "ctc" / "hubert", 6)
        run(folder / "ctc" / "wavlm", upstream="wavlm")  # still training: no score yet
        assert command(folder) == 0
        shown = capsys.readouterr().out
        line = next(x for x in shown.splitlines() if x.startswith("hubert "))
        assert line.split()[-8:] == ["6.00", "5.41", "6.42", "PER", "own", "run,", "WER", "SUPERB"]
        assert f"PER from own run, {folder / 'ctc' / 'hubert'}" in shown
        assert "SUPERB's PER %" in shown

    def test_runs_of_one_study_are_named_once(self, tmp_path, capsys):
        folder = study(tmp_path / "study")
        stock(folder / "ctc" / "hubert", 6)
        stock(folder / "ctc" / "wavlm", 5, upstream="wavlm")
        assert command(folder) == 0
        (line,) = (x for x in capsys.readouterr().out.splitlines() if "PER from own run" in x)
        assert line.strip().startswith(f"PER from own runs in {folder / 'ctc'}, counted in test-hyp.ark, ")
        assert line.count("hubert") == line.count("wavlm") == 1

    def test_whose_run_it_is(self, tmp_path, capsys):
        own = stock(tmp_path / "runs/pr", 6, upstream="somebody")
        folder = study(tmp_path / "study")
        assert command(folder, "--stock", f"wavlm={own}", "--superb", "none") == 0
        line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("wavlm"))
        assert line.split()[-3:] == ["6.00", "own", "run"]
        with pytest.raises(MIError, match="no model is called 'wav'"):
            command(folder, "--stock", f"wav={own}")

    def test_records_of_version_1_beside_those_of_version_2(self, tmp_path, capsys):
        for name, text in (("old", VERSION_1_LINE), ("new", "")):
            (tmp_path / name).mkdir()
            (tmp_path / name / RESULTS_FILE).write_text(text)
        append_records(tmp_path / "new" / RESULTS_FILE, [make(1.5, model="new", layer=3, last_layer=3)])
        assert command(tmp_path, "--superb", "none") == 0
        shown = capsys.readouterr().out
        assert re.search(r"^hubert_local +1\.250", shown, re.MULTILINE)
        assert re.search(r"^new +1\.500", shown, re.MULTILINE)

    def test_refuses(self, tmp_path):
        folder = study(tmp_path / "a")
        path = tmp_path / "b"
        path.mkdir()
        append_records(path / RESULTS_FILE, curve([1.0], model="npc", n_clusters=500))
        with pytest.raises(MIError, match="500 clusters in npc"):
            command(folder, path)
        assert command(folder, path, "--allow", "clusters") == 0
        assert command(folder, path, "--clusters", 50) == 0

    @pytest.mark.parametrize("word", ["hubert", "=x", "hubert="])
    def test_broken_pairs(self, tmp_path, word):
        with pytest.raises(MIError, match="expected two names with = between them"):
            command(study(tmp_path / "a"), "--label", word)


def test_models_and_layers_that_the_speech_cannot_tell_apart(results):
    for name, result in ((r.label, r) for r in results):
        spread = {"wavlm": 0.3, "data2vec": -0.3}.get(name, 0.0)
        tilt = [spread + 0.1 * (r.task == "mi_supervised") * r.layer for r in result.records]
        append_to = result.folder / SPEAKERS_FILE
        append_to.parent.mkdir(exist_ok=True)
        sums = [speaker_sums(r, (0.2 + t, -0.2 - t, 0.1, -0.1)) for r, t in zip(result.records, tilt, strict=True)]
        append_speakers(append_to, sums)
    table = build(results, published=False)
    text = to_screen(table)
    assert (
        "I(Za;Zb) last: models wavlm and data2vec cannot be told apart from the best on this speech (4 speakers)"
        in text
    )
    row = next(r for r in table.rows if r.label == "hubert")
    assert [a.regret for a in row.agreements] == [None]  # the same layer by both
    wide = to_csv(table)[""].splitlines()
    assert "mi_views_logistic_last_ci_low" in wide[0]
    assert build([r for r in results if r.label == "hubert"], published=False).orders == {}


def test_bits_lost_with_their_interval(tmp_path):
    free, labelled = curve([0.5, 0.9, 0.7]), curve([2.0, 2.4, 2.5], **SUPERVISED)
    for spread, same in ((0.2, "tie"), (0.001, "no")):
        folder = tmp_path / same
        folder.mkdir()
        off = {2: spread}
        sums = [speaker_sums(r, (0.2 + off.get(r.layer, 0), -0.2, 0.1, -0.1)) for r in labelled]
        append_speakers(folder / SPEAKERS_FILE, sums)
        text = to_screen(build([Result(folder, free, "a"), Result(folder, labelled, "a")], published=False))
        (line,) = [x for x in text.splitlines() if "0.100 [" in x]
        assert line.split()[4] == same


def test_intervals_over_speakers_in_cells_and_of_the_rank_correlation(results, tmp_path):
    """Four models, whose errors are counted in stock runs of five speakers."""
    for result in results:
        result.folder.mkdir(exist_ok=True)
        sums = [speaker_sums(r, (0.02, -0.02, 0.01, -0.01)) for r in result.records]
        append_speakers(result.folder / SPEAKERS_FILE, sums)
    runs = []
    for name, errors in (("wav2vec2", 40), ("hubert", 30), ("wavlm", 20), ("data2vec", 10)):
        folder = run(tmp_path / f"run_{name}", upstream=name)
        for kind in ("hyp", "ref"):
            lines = [
                f"{s}-1-0000 " + " ".join("X" * (kind == "hyp") * (errors + s) + "A" * 100)[: 2 * 100 - 1]
                for s in range(5)
            ]
            (folder / f"test-{kind}.ark").write_text("".join(f"{line}\n" for line in lines))
        runs.append(read_run(folder))
    table = build(results, runs=runs, published=False)
    relation = table.relations[Column("mi_views", "logistic", "last"), "per"]
    assert relation.of("spearman").value == -1
    assert relation.over_speakers == (pytest.approx(-1), pytest.approx(-1))  # far apart for all speakers alike
    text = to_screen(table)
    assert "by the logistic probe, one seed; 95 % interval over 4 speakers" in text
    assert re.search(r"^data2vec .* 1\.800 \[1\.77, 1\.83\]", text, re.MULTILINE)
    assert "+-" not in text
    assert "[-1.00, -1.00]" in text
    lines = rows_of(to_csv(table)["_correlations"])
    found = {r["coefficient"]: r["low_over_speakers"] for r in lines if r["choice"] == "last"}
    assert found["kendall"] == ""
    assert float(found["spearman"]) == pytest.approx(-1)
    assert "rho over speakers" not in to_screen(build(results))
