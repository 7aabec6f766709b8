"""Experiments below folders: all found once, named by as little as needed, mistakes named."""

import pytest

from s3prl_mi.core.errors import MIError
from s3prl_mi.results.collect import collect
from s3prl_mi.results.record import RESULTS_FILE, append_records
from tests.helpers.records import SUPERVISED, make


def write(folder, *records):
    folder.mkdir(parents=True, exist_ok=True)
    append_records(folder / RESULTS_FILE, records)
    return folder


def local(name, **changes):
    same = {
        "model": "hubert_local",
        "checkpoint": {"name": name, "sha256": "ab"},
        "upstream_sha256": f"sha {name}",
    }
    return make(**same | changes)


def labels(results):
    return [r.label for r in results]


def test_every_experiment_once_at_any_depth(tmp_path):
    write(tmp_path / "study/a/deep", make(model="hubert"))
    write(tmp_path / "study/b", make(model="wavlm"))
    results = collect([tmp_path / "study/b", tmp_path / "study"])
    assert labels(results) == ["wavlm", "hubert"]
    assert [len(r.records) for r in results] == [1, 1]
    assert results[1].folder == tmp_path / "study/a/deep"


def test_both_tasks_of_a_model_share_a_label(tmp_path):
    write(tmp_path / "views", make(model="hubert"))
    write(tmp_path / "phones", make(model="hubert", **SUPERVISED))
    assert labels(collect([tmp_path])) == ["hubert", "hubert"]


def test_checkpoint_then_folder_where_needed(tmp_path):
    write(tmp_path / "1", local("a-100.pt"))
    write(tmp_path / "2", local("a-200.pt"))
    write(tmp_path / "x/last", local("m.v2", upstream_sha256="s1"))
    write(tmp_path / "y/best", local("m.v2", upstream_sha256="s2"))
    write(tmp_path / "3", make(model="wavlm"))
    assert labels(collect([tmp_path])) == [
        "hubert_local a-100",
        "hubert_local a-200",
        "wavlm",
        "hubert_local m.v2 (last)",
        "hubert_local m.v2 (best)",
    ]


def test_folders_of_the_same_name_are_told_apart_by_the_weights(tmp_path):
    write(tmp_path / "x/run", make(upstream_sha256="s1"))
    write(tmp_path / "y/run", make(upstream_sha256="s2"))
    assert len(set(labels(collect([tmp_path])))) == 2


def test_evaluate_counts_only_if_named(tmp_path):
    write(tmp_path / "run", make(0.5, model="hubert"))
    other = write(tmp_path / "run/evaluate/test-clean", make(0.7, model="hubert", eval_splits=["test-clean"]))
    assert [r.records[0].mi_lower_bound_bits for r in collect([tmp_path])] == [0.5]
    assert [r.records[0].mi_lower_bound_bits for r in collect([other])] == [0.7]
    assert [r.records[0].mi_lower_bound_bits for r in collect([tmp_path / "run/evaluate"])] == [0.7]
    assert len(collect([tmp_path, other])) == 2


def test_the_file_itself_may_be_named(tmp_path):
    write(tmp_path / "run", make())
    assert len(collect([tmp_path / "run" / RESULTS_FILE])) == 1


def test_new_labels_by_label_or_folder(tmp_path):
    write(tmp_path / "one", make(model="hubert"))
    write(tmp_path / "two", make(model="wavlm"))
    assert labels(collect([tmp_path], {"hubert": "HuBERT Base", "two": "WavLM"})) == ["HuBERT Base", "WavLM"]
    assert labels(collect([tmp_path], {str(tmp_path / "one"): "mine"})) == ["mine", "wavlm"]


@pytest.mark.parametrize(
    ("renaming", "part"),
    [({"nobody": "x"}, "fits no result"), ({"hubert": "same", "wavlm": "same"}, "two models")],
)
def test_wrong_labels(tmp_path, renaming, part):
    write(tmp_path / "one", make(model="hubert"))
    write(tmp_path / "two", make(model="wavlm"))
    with pytest.raises(MIError, match=part):
        collect([tmp_path], renaming)


def test_mistakes_name_what_is_wrong(tmp_path):
    write(tmp_path / "run", make())
    with pytest.raises(MIError, match=r"rum: no such folder. Did you mean 'run'"):
        collect([tmp_path / "rum"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(MIError, match=r"empty: no mi_results.jsonl in it or below it"):
        collect([tmp_path / "empty", tmp_path])
    write(tmp_path / "half/evaluate/x", make())
    with pytest.raises(MIError, match="only below evaluate/"):
        collect([tmp_path / "half"])
    with open(tmp_path / "run" / RESULTS_FILE, "a") as file:
        file.write("{broken\n")
    with pytest.raises(MIError, match="line 2: not a record"):
        collect([tmp_path / "run"])
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / RESULTS_FILE).touch()
    with pytest.raises(MIError, match="none: no finished estimate"):
        collect([tmp_path / "none"])
