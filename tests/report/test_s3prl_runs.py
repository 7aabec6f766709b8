"""Scores of stock runs: units, the order of sources, whose they are. Folders as s3prl 0.4.18 leaves them."""

import argparse
import hashlib
import json
from dataclasses import fields

import pytest
import torch
import yaml

from s3prl_mi.core.errors import MIError
from s3prl_mi.report.compare.scores import ScoreValue, _published, check_scores
from s3prl_mi.report.published_scores import score_of
from s3prl_mi.report.s3prl_runs import chosen_run, read_run, read_runs
from s3prl_mi.superb.scores import SuperbRecord
from s3prl_mi.upstreams.checkpoints import sha256_of
from tests.helpers.records import make


def run(
    folder,
    task="ctc",
    upstream="hubert",
    ckpt=None,
    layer=None,
    corpus="libriphone",
    decoder="None",
    mode="train",
):
    folder.mkdir(parents=True, exist_ok=True)
    args = {
        "downstream": task, "upstream": upstream, "upstream_ckpt": ckpt, "upstream_layer_selection": layer,
        "mode": mode, "seed": 1337,
    }  # fmt: skip
    (folder / "args_2026-01-01-10-00-00.yaml").write_text(yaml.dump(args))
    expert = {"corpus": {"name": corpus}} if task == "ctc" else {"datarc": {"decoder_args": {"decoder_type": decoder}}}
    (folder / "config_2026-01-01-10-00-00.yaml").write_text(yaml.dump({"downstream_expert": expert}))
    return folder


def arks(folder, split, hyp, ref):
    for kind, lines in (("hyp", hyp), ("ref", ref)):
        (folder / f"{split}-{kind}.ark").write_text("".join(f"u{i} {text}\n" for i, text in enumerate(lines)))


def best(folder, value, name="dev-best.ckpt", step=3000, **args):
    folder.mkdir(parents=True, exist_ok=True)
    states = {
        "Step": step, "Args": argparse.Namespace(**args), "Config": {},
        "Downstream": {"best_score": torch.ones(1) * value}, "Featurizer": {"weights": torch.zeros(13)},
    }  # fmt: skip
    torch.save(states, folder / name)


def wrong(folder, percent, split="test"):
    """Arks of one utterance of 100 tokens."""
    arks(folder, split, [" ".join("X" * percent + "A" * (100 - percent))], [" ".join("A" * 100)])
    return folder


class TestPhones:
    def test_counted_in_the_arks(self, tmp_path):
        # Reference: 4 tokens; 1 substituted and 1 missing.
        arks(run(tmp_path), "test", ["AH B", "K"], ["AH D", "K T"])
        found = read_run(tmp_path)
        assert (found.metric, found.test.percent, found.test.split) == ("per", 50.0, "test")
        assert found.test.source == "counted in test-hyp.ark, test-ref.ark"
        assert found.dev is None
        assert (found.test.left_out.over, found.test.left_out.groups) == ("utterances", ("u0", "u1"))

    def test_the_rate_without_each_speaker(self, tmp_path):
        run(tmp_path)
        texts = {"61-70-0000": "A B C D", "61-70-0001": "A B", "121-1-0000": "A B C D"}
        wrong = {"61-70-0000": "A B C X", "61-70-0001": "A B", "121-1-0000": "X X C D"}
        for kind, lines in (("hyp", wrong), ("ref", texts)):
            (tmp_path / f"test-{kind}.ark").write_text("".join(f"{u} {text}\n" for u, text in lines.items()))
        found = read_run(tmp_path).test.left_out
        assert (found.over, found.groups, found.value) == ("speakers", ("121", "61"), pytest.approx(30.0))
        assert found.without_each.tolist() == pytest.approx([100 / 6, 50.0])

    def test_an_empty_hypothesis_counts_as_s3prl_does(self, tmp_path):
        arks(run(tmp_path), "test", ["", "A"], ["A B", "A"])
        assert read_run(tmp_path).test.percent == pytest.approx(100 * 2 / 3)

    def test_dev_of_the_best_checkpoint(self, tmp_path):
        run(tmp_path)
        best(tmp_path, 0.1)
        found = read_run(tmp_path)
        assert (found.dev.percent, found.dev.split, found.test) == (pytest.approx(10.0), "dev", None)
        assert found.dev.source == "best dev value in dev-best.ckpt (step 3000)"

    def test_printed_lines_are_no_score(self, tmp_path):
        (run(tmp_path) / "log.log").write_text("test per: 0.05\n")
        with pytest.raises(MIError, match=r"neither test-hyp.ark and test-ref.ark nor .* -m evaluate -t test"):
            read_run(tmp_path)

    def test_an_untrained_best_score_is_none(self, tmp_path):
        run(tmp_path)
        best(tmp_path, 2**31, name="states-10.ckpt")
        with pytest.raises(MIError, match="no score in it"):
            read_run(tmp_path)

    def test_words_of_other_corpora_are_no_per(self, tmp_path):
        wrong(run(tmp_path, corpus="snips"), 5)
        assert read_run(tmp_path) is None

    def test_arks_that_do_not_fit(self, tmp_path):
        arks(run(tmp_path), "test", ["A"], ["A", "B"])
        with pytest.raises(MIError, match=r"test-hyp.ark: not the same utterances as test-ref.ark"):
            read_run(tmp_path)


class TestWords:
    def test_test_clean_without_a_language_model_only(self, tmp_path):
        run(tmp_path, "asr")
        for split in ("test-clean-LM", "test-other-noLM"):
            arks(tmp_path, split, ["a b"], ["a b"])
        with pytest.raises(MIError, match="no score in it"):
            read_run(tmp_path)
        arks(tmp_path, "test-clean-noLM", ["a  c", ""], ["a b", "a b"])
        found = read_run(tmp_path)
        assert (found.metric, found.test.percent, found.test.split) == ("wer", 75.0, "test-clean")

    def test_dev_of_the_best_checkpoint_is_percent(self, tmp_path):
        run(tmp_path, "asr")
        best(tmp_path, 7.5, name="dev-clean-best.ckpt")
        found = read_run(tmp_path)
        assert (found.dev.percent, found.dev.split) == (7.5, "dev-clean")


class TestWhose:
    def test_the_training_run_counts_not_its_evaluation(self, tmp_path):
        wrong(run(tmp_path, upstream="wavlm", ckpt=None), 10)
        later = yaml.safe_load((tmp_path / "args_2026-01-01-10-00-00.yaml").read_text())
        later |= {"mode": "evaluate", "upstream": "none"}
        (tmp_path / "args_2026-01-02-10-00-00.yaml").write_text(yaml.dump(later))
        assert read_run(tmp_path).upstream == "wavlm"

    def test_from_a_checkpoint_alone(self, tmp_path):
        best(
            tmp_path / "x", 0.2, downstream="ctc", upstream="apc_local", upstream_ckpt="a/b.ckpt",
            upstream_layer_selection=2,
        )  # fmt: skip
        (found,) = read_runs([tmp_path])
        assert (found.upstream, found.checkpoint, found.layer) == ("apc_local", "a/b.ckpt", 2)
        assert found.dev.percent == pytest.approx(20.0)

    def test_by_alias(self, tmp_path):
        wrong(run(tmp_path, upstream="hubert"), 10)
        found = read_run(tmp_path)
        assert found.belongs_to(make(model="hubert_base"))
        assert not found.belongs_to(make(model="hubert_large_ll60k"))

    def test_by_name_of_a_checkpoint_that_is_gone(self, tmp_path):
        wrong(run(tmp_path, upstream="hubert_local", ckpt="/gone/a.pt"), 10)
        found = read_run(tmp_path)
        assert found.belongs_to(make(checkpoint={"name": "a.pt", "sha256": "00"}))
        assert not found.belongs_to(make(checkpoint={"name": "b.pt", "sha256": "00"}))
        assert not found.belongs_to(make(checkpoint=None))

    def test_by_content_of_one_that_is_there(self, tmp_path):
        model = tmp_path / "a.pt"
        model.write_bytes(b"weights")
        wrong(run(tmp_path / "run", upstream="hubert_local", ckpt=str(model)), 10)
        found = read_run(tmp_path / "run")
        right = hashlib.sha256(b"weights").hexdigest()
        assert found.belongs_to(make(checkpoint={"name": "renamed.pt", "sha256": right}))
        assert not found.belongs_to(make(checkpoint={"name": "a.pt", "sha256": "00"}))

    def test_by_content_of_a_folder(self, tmp_path):
        model = tmp_path / "checkpoint-1000"
        model.mkdir()
        (model / "config.json").write_text("{}")
        wrong(run(tmp_path / "run", upstream="hf", ckpt=str(model)), 10)
        found = read_run(tmp_path / "run")
        assert found.belongs_to(make(model="hf", checkpoint={"name": "checkpoint-1000", "sha256": sha256_of(model)}))
        assert not found.belongs_to(make(model="hf", checkpoint={"name": "checkpoint-1000", "sha256": "00"}))


class TestChosen:
    def test_frozen_before_fine_tuned(self, tmp_path):
        for name, dev, trainable in (("frozen", 0.2, False), ("tuned", 0.1, True)):
            path = run(tmp_path / name) / "args_2026-01-01-10-00-00.yaml"
            path.write_text(path.read_text() + f"upstream_trainable: {trainable}\n")
            best(tmp_path / name, dev)
        runs = read_runs([tmp_path])
        assert chosen_run(runs, "per").folder.name == "frozen"
        assert [r.fine_tuned for r in runs] == [False, True]

    def test_dev_chooses_not_test(self, tmp_path):
        for name, dev, test in (("a", 0.2, 50), ("b", 0.3, 10)):
            wrong(run(tmp_path / name), test)
            best(tmp_path / name, dev)
        assert chosen_run(read_runs([tmp_path]), "per").folder.name == "a"
        assert chosen_run(read_runs([tmp_path]), "wer") is None

    def test_weighted_sum_before_a_single_layer(self, tmp_path):
        wrong(run(tmp_path / "one", layer=3), 10)
        wrong(run(tmp_path / "sum"), 20)
        assert chosen_run(read_runs([tmp_path]), "per").folder.name == "sum"

    def test_two_runs_and_no_dev_score(self, tmp_path):
        for name in ("a", "b"):
            wrong(run(tmp_path / name), 10)
        with pytest.raises(MIError, match="Name the run that counts"):
            chosen_run(read_runs([tmp_path]), "per")


def test_other_tasks_are_passed_over(tmp_path):
    run(tmp_path / "ours", task="mi_views")
    wrong(run(tmp_path / "pr"), 10)
    assert [r.folder.name for r in read_runs([tmp_path])] == ["pr"]
    with pytest.raises(MIError, match="no run of s3prl's ctc"):
        read_runs([tmp_path / "ours"])
    with pytest.raises(MIError, match=r"prr: no such folder. Did you mean 'pr'"):
        read_runs([tmp_path / "prr"])


class TestSetting:
    """What a score is of: PERs of different lexicons or test splits do not compare."""

    def test_by_the_record_of_the_test(self, tmp_path):
        wrong(run(tmp_path), 10)
        lines = [
            dict.fromkeys(f.name for f in fields(SuperbRecord))
            | {"percent": 10.0, "split": split, "folders": [folder], "lexicon": "mine.txt"}
            for split, folder in (("test", "test-other"), ("dev", "dev-other"))
        ]
        (tmp_path / "superb_results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert read_run(tmp_path).setting == {"test split": "test-other", "lexicon": "mine.txt"}

    def test_by_the_config(self, tmp_path):
        wrong(run(tmp_path), 10)
        corpus = {"name": "libriphone", "lexicon": ["downstream/a.txt", "b.txt"], "test": ["test-clean"]}
        (tmp_path / "config_2026-01-02-10-00-00.yaml").write_text(yaml.dump({"downstream_expert": {"corpus": corpus}}))
        assert read_run(tmp_path).setting == {"test split": "test-clean", "lexicon": "a.txt, b.txt"}

    def test_unknown(self, tmp_path):
        assert read_run(wrong(run(tmp_path), 10)).setting == {}

    def test_different_ones_are_refused(self):
        def own(**setting):
            return {
                "per": ScoreValue(10.0, "own run", "x", setting={k.replace("_", " "): v for k, v in setting.items()})
            }

        published = {"per": _published(score_of("hubert"), "per")}
        check_scores({"a": own(test_split="test-clean"), "b": published})
        check_scores({"a": own(), "b": published})
        with pytest.raises(MIError, match=r"PER with different test splits: test-other for a \(own run\); test-clean"):
            check_scores({"a": own(test_split="test-other"), "b": published})
        with pytest.raises(MIError, match=r"PER with different lexicons: mine.txt for a .*; librispeech-lexicon-200k"):
            check_scores({"a": own(lexicon="mine.txt"), "b": published})
