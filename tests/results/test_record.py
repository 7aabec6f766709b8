"""mi_results.jsonl: what is written is read back, and a line cut short is never taken for a whole one."""

import dataclasses
import json
import math
import types
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3prl_mi.core.errors import MIError
from s3prl_mi.results.class_contributions import append_classes, read_classes
from s3prl_mi.results.record import Record, append_records, read_records
from tests.helpers.records import SUPERVISED, VERSION_1_CLASSES, VERSION_1_LINE, make


def test_round_trip_of_every_field(tmp_path):
    path = tmp_path / "mi_results.jsonl"
    with_checkpoint = make(layer="weighted", checkpoint={"name": "a.ckpt", "sha256": "ab" * 32}, **SUPERVISED)
    records = [make(), with_checkpoint, make(mi_lower_bound_bits=-0.1 + 1e-17, seed=2)]
    append_records(path, records)
    assert read_records(path) == records


@settings(deadline=None, max_examples=25)
@given(
    value=st.floats(allow_nan=False, allow_infinity=False),
    name=st.text(alphabet=st.characters(exclude_categories=["Cs"])),
)
def test_round_trip_is_exact_for_any_number_and_name(tmp_path_factory, value, name):
    path = tmp_path_factory.mktemp("results") / "mi_results.jsonl"
    record = make(mi_lower_bound_bits=value, layer_name=name, checkpoint={"name": name, "sha256": ""})
    append_records(path, [record])
    assert read_records(path) == [record]


@pytest.mark.parametrize(("field", "value"), [("accuracy", math.nan), ("entropy_bits", math.inf), ("seed", "one")])
def test_a_value_that_is_none_is_refused_with_its_line(tmp_path, field, value):
    append_records(tmp_path / "r.jsonl", [make(), make(**{field: value})])
    with pytest.raises(MIError, match=rf"r.jsonl, line 2: .*field '{field}' is"):
        read_records(tmp_path / "r.jsonl")


def test_values_read_back_have_the_annotated_types(tmp_path):
    path = tmp_path / "mi_results.jsonl"
    append_records(path, [make(checkpoint={"name": "a.ckpt", "sha256": "ab" * 32}), make(**SUPERVISED)])
    hints = typing.get_type_hints(Record)
    for record in read_records(path):
        for name, hint in hints.items():
            kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
            kinds = tuple(typing.get_origin(k) or k for k in kinds)
            assert isinstance(getattr(record, name), kinds), name


def test_no_file_is_no_record(tmp_path):
    assert read_records(tmp_path / "absent.jsonl") == []


def test_appending_keeps_what_is_there(tmp_path):
    path = tmp_path / "mi_results.jsonl"
    append_records(path, [make(seed=1)])
    before = path.read_bytes()
    append_records(path, [make(seed=2), make(seed=3)])
    assert path.read_bytes().startswith(before)
    assert [r.seed for r in read_records(path)] == [1, 2, 3]


@pytest.mark.parametrize("cut", [1, 2, 40, 300])
def test_a_line_cut_short_is_dropped_and_the_next_append_is_whole(tmp_path, cut):
    path = tmp_path / "mi_results.jsonl"
    append_records(path, [make(seed=1), make(seed=2)])
    path.write_bytes(path.read_bytes()[:-cut])
    assert [r.seed for r in read_records(path)] == [1]
    append_records(path, [make(seed=3)])
    assert [r.seed for r in read_records(path)] == [1, 3]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_file_that_is_one_partial_line_is_emptied(tmp_path):
    path = tmp_path / "mi_results.jsonl"
    path.write_bytes(b'{"task": "mi_v')
    assert read_records(path) == []
    append_records(path, [make()])
    assert read_records(path) == [make()]


def test_a_cut_inside_a_letter_of_several_bytes(tmp_path):
    path = tmp_path / "mi_results.jsonl"
    append_records(path, [make(seed=1)])
    with open(path, "ab") as file:
        file.write('{"upstream": "höre'.encode()[:16])
    assert [r.seed for r in read_records(path)] == [1]
    append_records(path, [make(seed=2, upstream="höre")])
    assert [r.upstream for r in read_records(path)] == ["hubert_local", "höre"]


@pytest.mark.parametrize("line", ["not json", "[1]", "5", '{"task": "mi_views"}', '{"surprise": 1}', ""])
def test_a_whole_line_that_is_no_record_is_named(tmp_path, line):
    path = tmp_path / "mi_results.jsonl"
    append_records(path, [make()])
    with open(path, "a") as file:
        file.write(line + "\n")
    with pytest.raises(MIError, match=r"mi_results\.jsonl, line 2: not a record"):
        read_records(path)


def test_identity_tells_estimates_of_one_experiment_apart():
    same = make(mi_lower_bound_bits=0.0, seconds=9.0)
    assert make().identity() == same.identity()
    others = [
        make(layer=4),
        make(probe="mlp"),
        make(scored_frames="all"),
        make(seed=1338),
    ]
    assert len({r.identity() for r in [make(), *others]}) == 5


def test_lines_of_version_1_are_read_under_the_names_of_version_2(tmp_path):
    path = tmp_path / "mi_results.jsonl"
    path.write_text(VERSION_1_LINE)
    append_records(path, [make()])
    old, new = read_records(path)
    assert (old.scored_frames, old.n_clusters, old.n_classes, old.seed) == ("masked", 50, 50, 1)
    assert (old.precision, old.schema_version) == ("fp32", 2)
    assert new == make()
    assert json.loads(path.read_text().splitlines()[1])["schema_version"] == 2


def test_classes_of_version_1_belong_to_their_record(tmp_path):
    (tmp_path / "r.jsonl").write_text(VERSION_1_LINE)
    (tmp_path / "c.jsonl").write_text(VERSION_1_CLASSES)
    (found,) = read_classes(tmp_path / "c.jsonl", read_records(tmp_path / "r.jsonl"))
    assert (found.class_names, found.contribution_bits) == (["0", "1"], [1.0, 0.25])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"schema_version": 3}, "schema version is 3"),
        ({"labels": 5}, "'labels'"),
        ({"surprise": 1}, "'surprise'"),
    ],
)
@pytest.mark.parametrize("read", [read_records, read_classes])
def test_an_unknown_version_or_field_is_named(tmp_path, change, named, read):
    path = tmp_path / "mi.jsonl"
    if read is read_records:
        append_records(path, [make()])
    else:
        path.write_text(VERSION_1_CLASSES)
        append_classes(path, read_classes(path))
        path.write_text(path.read_text().splitlines(keepends=True)[1])
    path.write_text(json.dumps(json.loads(path.read_text()) | change) + "\n")
    with pytest.raises(MIError, match=rf"mi\.jsonl, line 1: not a record .*{named}"):
        read(path)


def test_what_an_old_file_may_lack_has_a_default(tmp_path):
    optional = {f.name for f in dataclasses.fields(Record) if f.default is not dataclasses.MISSING}
    assert {"checkpoint", "step", "series", "label_set", "precision", "unlabelled_frames"} <= optional
    path = tmp_path / "mi_results.jsonl"
    append_records(path, [make(seconds=0.0)])
    line = {k: v for k, v in json.loads(path.read_text()).items() if k not in optional - {"view", "n_clusters"}}
    path.write_text(json.dumps(line) + "\n")
    assert read_records(path) == [make(seconds=0.0)]
