"""What is filled into a config, and what is refused before s3prl starts."""

import csv

import pytest
import yaml

from s3prl_mi.core.config import packaged_configs
from s3prl_mi.core.errors import MIError
from s3prl_mi.superb.prepare import EXPERT, prepare
from s3prl_mi.superb.scores import config_hash
from s3prl_mi.superb.targets import VOCABULARY
from s3prl_mi.superb.tasks import TASKS, check, task_of
from s3prl_mi.upstreams import compat


def config(name, **values):
    found = yaml.safe_load(packaged_configs()[name].read_text())
    for key, value in values.items():
        section = found["downstream_expert"]
        *path, last = key.split("__")
        for part in path:
            section = section[part]
        section[last.replace("_clean", "-clean")] = value
    return found


def pr(root, **more):
    splits = {"corpus__train": ["fit-a"], "corpus__dev": ["fit-b"], "corpus__test": ["eval"]}
    return config("superb_pr", **{"corpus__path": root and str(root), **splits, **more})


class TestPR:
    def test_filled_in(self, spoken, tmp_path):
        found = prepare("ctc", pr(spoken.root), ["train", "dev", "test"], tmp_path)
        assert found.overrides == {
            f"{EXPERT}.corpus.path": str(spoken.root),
            f"{EXPERT}.corpus.lexicon": [],
            f"{EXPERT}.text.vocab_file": str(VOCABULARY / "phones.txt"),
        }
        assert found.folders == {"train": ["fit-a"], "dev": ["fit-b"], "test": ["eval"]}
        (note,) = found.notes()
        assert note.startswith("lexicon: gruut_lang_en 2")
        assert "it lacks 1 word, 9.1 % of those spoken" in note
        assert (tmp_path / "superb_guessed_words.tsv").read_text().splitlines()[1].startswith("quilter's\t5\trule")

    def test_libri_root_as_for_our_tasks(self, spoken, tmp_path):
        values = pr(None)
        values["downstream_expert"]["datarc"] = {"libri_root": str(spoken.root), "alignments": {"path": "x"}}
        assert prepare("ctc", values, ["test"], tmp_path).overrides[f"{EXPERT}.corpus.path"] == str(spoken.root)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"corpus__path": None}, "where is LibriSpeech"),
            ({"corpus__path": "/nowhere"}, "corpus.path: /nowhere: no such folder"),
            ({"corpus__train": "fit-a"}, "corpus.train: expected a list"),
            ({"corpus__train": ["fit-c"]}, "split 'fit-c': no such folder"),
            ({"corpus__lexicon": ["mine.txt"]}, "lexicon mine.txt: no such file"),
            ({"text__vocab_file": "mine.txt"}, "vocabulary mine.txt: no such file"),
        ],
    )
    def test_mistakes(self, spoken, tmp_path, change, message):
        with pytest.raises(MIError, match=message):
            prepare("ctc", pr(spoken.root, **change), ["train"], tmp_path)

    @pytest.mark.parametrize("splits", [("fit-a", "fit-b", "fit-a@1/2"), ("fit-a", "eval@1/2", "eval")])
    def test_a_score_of_speech_that_was_trained_or_chosen_on(self, spoken, tmp_path, splits):
        names = ("train", "dev", "test")
        change = {f"corpus__{name}": [split] for name, split in zip(names, splits, strict=True)}
        with pytest.raises(MIError, match="share speech"):
            prepare("ctc", pr(spoken.root, **change), names, tmp_path)

    def test_a_checkout_keeps_its_own_files(self, spoken, tmp_path, monkeypatch):
        own = tmp_path / "s3prl" / "downstream" / "ctc"
        names = ["librispeech-lexicon-200k-g2p.txt", "librispeech-lexicon-allothers-g2p.txt"]
        for name in ("vocab/phoneme.txt", "corpus/libriphone.py", *(f"lexicon/{name}" for name in names)):
            (own / name).parent.mkdir(parents=True, exist_ok=True)
            (own / name).touch()
        monkeypatch.setattr(compat, "s3prl_folder", lambda: tmp_path / "s3prl")
        found = prepare("ctc", pr(spoken.root), ["train"], tmp_path)
        assert found.targets is None
        assert found.lexicon[0] == ", ".join(names)
        assert found.overrides[f"{EXPERT}.text.vocab_file"] == str(own / "vocab" / "phoneme.txt")
        # s3prl's own config names them as its folder has them
        named = pr(spoken.root, corpus__lexicon=[f"downstream/ctc/lexicon/{names[0]}"])
        assert prepare("ctc", named, ["train"], tmp_path).lexicon[0] == names[0]


class TestASR:
    def test_filled_in(self, spoken, tmp_path):
        values = config("superb_asr", datarc__libri_root=str(spoken.root), datarc__train=["fit-a", "eval@1/2"])
        found = prepare("asr", values, ["train"], tmp_path)
        assert found.overrides[f"{EXPERT}.datarc.dict_path"] == str(VOCABULARY / "characters.dict")
        lists = tmp_path / "buckets"
        assert found.overrides[f"{EXPERT}.datarc.bucket_file"] == str(lists)
        rows = list(csv.DictReader((lists / "fit-a.csv").read_text().splitlines()))
        assert {r["file_path"] for r in rows} == {
            str(spoken.audio[name].relative_to(spoken.root)) for name in spoken.of("fit-a")
        }
        assert all(int(r["length"]) > 400 for r in rows)
        assert len(list(csv.DictReader((lists / "eval@1" / "2.csv").read_text().splitlines()))) == 3
        # the user's own lists are taken as they are
        values["downstream_expert"]["datarc"]["bucket_file"] = str(lists)
        assert prepare("asr", values, ["train"], tmp_path).targets is not None
        assert prepare("asr", values, ["train"], tmp_path / "other").targets is None

    def test_transcripts_where_s3prl_does_not_look(self, spoken, tmp_path):
        for path in list(spoken.root.rglob("*.trans.txt")):
            path.rename(path.with_name("other.trans.txt"))
        values = config("superb_asr", datarc__libri_root=str(spoken.root), datarc__train=["fit-a"])
        with pytest.raises(MIError, match=r"-.*\.trans\.txt: missing, and s3prl's asr reads"):
            prepare("asr", values, ["train"], tmp_path)

    def test_a_language_model_that_is_not_there(self, spoken, tmp_path):
        values = config("superb_asr", datarc__libri_root=str(spoken.root), datarc__decoder_args__decoder_type="kenlm")
        with pytest.raises(MIError, match=r"lacks .*kenlm_model: None, lexicon: None"):
            prepare("asr", values, ["train"], tmp_path)


def test_paths_and_workers_are_no_part_of_a_configs_hash():
    one, two = pr("/a"), pr("/b", corpus__num_workers=0)
    assert config_hash(one) == config_hash(two) != config_hash(pr("/a", corpus__batch_size=8))


class TestOtherTasks:
    def test_all_that_is_missing_in_one_line(self):
        with pytest.raises(MIError) as error:
            check(task_of("quesst14_dtw"), None)
        assert "lacks" in str(error.value)
        assert "a config (s3prl from PyPI has none: -c with one of" in str(error.value)
        assert "QUESST 2014, named by its key dataset_root" in str(error.value)

    def test_data_that_is_not_there(self, tmp_path):
        values = {"downstream_expert": {"datarc": {"file_path": "/path/to/data"}}}
        with pytest.raises(MIError, match="lacks Fluent Speech Commands at file_path: /path/to/data"):
            check(task_of("fluent_commands"), values)
        values["downstream_expert"]["datarc"]["file_path"] = str(tmp_path)
        check(task_of("fluent_commands"), values)

    def test_slot_filling_needs_s3prls_code(self):
        with pytest.raises(MIError, match=r"\(SUPERB SF\) lacks s3prl's code for corpus snips"):
            check(task_of("ctc"), {"downstream_expert": {"corpus": {"name": "snips"}}})

    def test_every_task_is_one_of_s3prls(self):
        assert all((compat.s3prl_folder() / "downstream" / task.name / "expert.py").is_file() for task in TASKS)
