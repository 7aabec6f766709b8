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
from s3prl_mi.results.record import Record, append_records, read_records


def make(**changes):
    base = Record(
        task="mi_views",
        upstream="hubert_local",
        checkpoint={"name": "hubert-000960.ckpt", "sha256": "ab" * 32},
        upstream_sha256="cd" * 32,
        step=None,
        series=None,
        layer=3,
        layer_name="encoder.layers[2]",
        layers_in_upstream=7,
        last_layer=6,
        dim=256,
        frame_shift_ms=20.0,
        probe="logistic",
        protocol="default-1",
        view="mask(latent, 30 of 40 frames)",
        frames="masked",
        clusters=50,
        seed=1337,
        fit_splits=["dev-other"],
        eval_splits=["test-other"],
        mi_lower_bound_bits=1.25,
        entropy_bits=5.5,
        cross_entropy_bits=4.25,
        accuracy=0.4,
        fit_frames=1000,
        eval_frames=900,
        labels=50,
        label_set=None,
        unseen_frames=0,
        unlabelled_frames=0,
        utterances={"fit": 10, "eval": 9, "skipped": 1},
        probe_settings={"l2": 0.001, "epochs": 12},
        seconds=1.5,
        versions={"torch": "2.8.0", "started": "2026-11-20T10:00:00"},
    )
    return dataclasses.replace(base, **changes)


def supervised(**changes):
    return make(
        task="mi_supervised",
        checkpoint=None,
        view=None,
        clusters=None,
        frames="all",
        label_set="phones, stress stripped",
        **changes,
    )


def test_round_trip_of_every_field(tmp_path):
    path = tmp_path / "mi_results.jsonl"
    records = [make(), supervised(layer="weighted"), make(mi_lower_bound_bits=-0.1 + 1e-17, seed=2)]
    append_records(path, records)
    assert read_records(path) == records


@settings(deadline=None, max_examples=25)
@given(value=st.floats(allow_nan=False), name=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_round_trip_is_exact_for_any_number_and_name(tmp_path_factory, value, name):
    path = tmp_path_factory.mktemp("results") / "mi_results.jsonl"
    record = make(mi_lower_bound_bits=value, layer_name=name, checkpoint={"name": name, "sha256": ""})
    append_records(path, [record])
    assert read_records(path) == [record]


def test_nan_survives(tmp_path):
    append_records(tmp_path / "r.jsonl", [make(accuracy=math.nan)])
    assert math.isnan(read_records(tmp_path / "r.jsonl")[0].accuracy)


def test_values_read_back_have_the_annotated_types(tmp_path):
    path = tmp_path / "mi_results.jsonl"
    append_records(path, [make(), supervised()])
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
        make(frames="all"),
        make(seed=1338),
    ]
    assert len({r.identity() for r in [make(), *others]}) == 5
