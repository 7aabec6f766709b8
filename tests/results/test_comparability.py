"""What may be compared: one definition, and the README names exactly its parts."""

import re

import pytest

from s3prl_mi.results.comparability import (
    MUST_AGREE,
    NOTED,
    PARTS,
    ComparisonKey,
    differences,
    group_by_key,
)
from s3prl_mi.results.summary import summarise
from tests.helpers.paths import REPO
from tests.helpers.records import SUPERVISED, make

WEIGHTED = {"layer": "weighted", "layer_name": "featurizer (uniform): 0.5 0.5"}
DIFFERENT = {
    "task": ({}, SUPERVISED),
    "protocol": ({}, {"protocol": "paper-1"}),
    "view": ({}, {"view": "shift(60 ms)"}),
    "frames": ({}, {"scored_frames": "all"}),
    "clusters": ({}, {"n_clusters": 100}),
    "codebook": ({"codebook": "auto"}, {"codebook": "raw"}),
    "alignments": (SUPERVISED | {"label_digest": "ab/cd"}, SUPERVISED | {"label_digest": "ab/ce"}),
    "precision": ({}, {"precision": "bf16"}),
    "labels": (SUPERVISED, SUPERVISED | {"label_set": "words"}),
    "frame_rate": ({}, {"frame_shift_ms": 10.0}),
    "fit_split": ({}, {"fit_splits": ["dev-clean"]}),
    "eval_split": ({}, {"eval_splits": ["test-clean"]}),
    "utterances": ({}, {"utterances": {"fit": 4, "eval": 9, "skipped": 6}}),
    "weights": (WEIGHTED, WEIGHTED | {"layer_name": "featurizer (dev-best.ckpt): 0.1 0.9"}),
}


@pytest.mark.parametrize("name", PARTS)
def test_records_that_differ_in_one_part_only_are_in_different_groups(name):
    one, other = (make(**changes) for changes in DIFFERENT[name])
    keys = list(group_by_key([one, other]))
    assert len(keys) == 2
    assert name in differences(keys)
    assert (list(differences(keys)) == [name]) or name == "task"
    assert len(group_by_key([one, other], *(PARTS if name == "task" else [name]))) == 1


def test_the_number_of_classes_is_a_part_of_the_labels():
    one, other = make(**SUPERVISED), make(**SUPERVISED | {"n_classes": 41})
    assert differences(group_by_key([one, other])) == {
        "labels": ["40 phones, stress stripped", "41 phones, stress stripped"]
    }
    assert len(group_by_key([make(n_classes=50), make(n_classes=49)])) == 1  # a cluster that no frame is in


@pytest.mark.parametrize(
    "change",
    [{"model": "wavlm"}, {"layer": 0}, {"probe": "mlp"}, {"seed": 1}, {"bits": 2.0}, {"precision": "mixed"}],
    ids=lambda c: next(iter(c)),
)
def test_what_is_compared_is_no_part(change):
    assert len(group_by_key([make(), make(**change)])) == 1


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [("codebook", {}, {"kmeans_iterations": 100}), ("alignments", SUPERVISED, SUPERVISED | {"label_digest": "ab/cd"})],
)
def test_what_an_old_record_does_not_hold_is_unknown(name, old, new):
    assert len(group_by_key([make(**old), make(model="wavlm", **old)])) == 1
    found = differences(group_by_key([make(**old), make(**new)]))
    assert list(found) == [name]
    assert "unknown" in found[name][0]


def test_the_precision_of_mi_supervised_is_no_part():
    assert len(group_by_key([make(**SUPERVISED), make(**SUPERVISED | {"precision": "bf16"})])) == 1


def test_the_same_featurizer_on_two_upstreams_is_one():
    pair = [make(model=m, **WEIGHTED | {"layer_name": f"dev-best.ckpt of ctc on {m}: 1"}) for m in ("a", "b")]
    assert len(group_by_key(pair)) == 1


def test_every_field_belongs_to_one_part():
    fields = [field for part in PARTS.values() for field in part.fields]
    assert sorted(fields) == sorted(ComparisonKey._fields)


def test_a_summary_has_the_key_of_its_records():
    records = [make(seed=0), make(seed=1)]
    (summary,) = summarise(records)
    assert ComparisonKey.of(summary) == ComparisonKey.of(records[0]).without(*NOTED)


def test_the_readme_names_exactly_the_parts():
    text = " ".join((REPO / "README.md").read_text(encoding="utf-8").split())
    found = re.findall(r"figures that differ in (.*?):", text)
    assert found == [MUST_AGREE]
