"""The `downstream_expert` section: unknown keys, wrong types, ranges, and the order of precedence."""

from __future__ import annotations

import dataclasses
import json

import pytest
import yaml

from s3prl_mi.core.config import MIConfig, default_config, load, parse, seed_list
from s3prl_mi.core.errors import MIError


@pytest.fixture
def section(tmp_path):
    """A section that is valid for both tasks, with a few keys replaced (dots go down)."""

    def build(**changes):
        content = {"datarc": {"libri_root": str(tmp_path), "alignments": {"path": str(tmp_path)}}}
        for name, value in changes.items():
            target = content
            *above, last = name.split("__")
            for part in above:
                target = target.setdefault(part, {})
            target[last] = value
        return content

    return build


def message(content, task="mi_supervised") -> str:
    with pytest.raises(MIError) as caught:
        load(content, task)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("cluster", "clusters"),
        ("datarc__libri_rot", "libri_root"),
        ("datarc__alignments__teir", "tier"),
        ("views__mask_levle", "mask_level"),
        ("store__max_bg", "max_gb"),
    ],
)
def test_unknown_key_is_named_with_the_nearest(section, name, nearest):
    said = message(section(**{name: 1}))
    assert f"downstream_expert.{name.replace('__', '.')}." in said
    assert f"Did you mean '{nearest}'" in said


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("clusters", "many", "a whole number"),
        ("clusters", True, "a whole number"),
        ("clusters", 5.5, "a whole number"),
        ("seeds", "one", "a whole number or a list of whole numbers"),
        ("seeds", [], "a whole number or a list of whole numbers"),
        ("views__shift_ms", "60ms", "a number"),
        ("store__keep", "yes", "true or false"),
        ("store__dtype", "float64", "one of auto, float16, float32"),
        ("datarc__fit_splits", 3, "text or a list of texts"),
        ("datarc__alignments__silence", "remove", "one of class, drop"),
        ("layers", [0, "last"], "one of all, last, weighted or a whole number or a list of whole numbers"),
        ("views", "mask", "expected a mapping"),
    ],
)
def test_wrong_type_is_refused_with_key_value_and_what_is_wanted(section, name, value, wanted):
    said = message(section(**{name: value}))
    assert f"downstream_expert.{name.replace('__', '.')}" in said
    assert wanted in said
    assert repr(value) in said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layers", "first"),
        ("views__mask", "40/40"),
        ("views__mask", "0/40"),
        ("views__mask", ["30/40", "30"]),
        ("views__mask", "a/b"),
        ("clusters", [50, 1]),
        ("views__shift_ms", 0),
        ("views__shift_ms", -20),
        ("probes", ["linear"]),
        ("frames", ["mask"]),
        ("protocol", "defualt"),
        ("seeds", 0),
        ("clusters", 1),
        ("kmeans_iterations", 0),
        ("batch_size", -1),
    ],
)
def test_value_out_of_range_is_refused_with_the_key(section, name, value):
    assert f"downstream_expert.{name.replace('__', '.')}" in message(section(**{name: value}), "mi_views")


def test_data_must_be_named_once(section, tmp_path):
    assert "neither is set" in message({})
    assert "neither is set" in message(None)
    assert "both are set" in message(section(datarc__manifest=str(tmp_path / "m.tsv")))
    assert "no such file or folder" in message(section(datarc__libri_root=str(tmp_path / "absent")))


def test_a_split_cannot_be_fitted_and_scored(section):
    said = message(section(datarc__fit_splits=["a", "b"], datarc__eval_splits=["b"]))
    assert "eval_splits" in said
    assert "b is fitted on" in said


def test_only_mi_supervised_needs_alignments(section):
    content = section(datarc__alignments={})
    assert "mi_views" in message(content)
    assert load(content, "mi_views").datarc.alignments.path is None


def test_null_keeps_the_default_and_one_item_makes_a_list(section):
    config = load(section(clusters=None, datarc__fit_splits="x", probes="mlp", views=None), "mi_views")
    assert (config.clusters, config.datarc.fit_splits, config.probes) == ((50,), ("x",), ("mlp",))
    assert config.views == MIConfig().views


def test_whole_numbers_serve_as_numbers(section):
    config = load(section(views__shift_ms=20), "mi_views")
    assert config.views.shift_ms == (20.0,)
    assert isinstance(config.views.shift_ms[0], float)


def test_a_mapping_is_needed():
    with pytest.raises(MIError, match="downstream_expert: expected a mapping, found 3"):
        parse(MIConfig, 3, "downstream_expert")


def test_seed_list():
    assert seed_list(3, 7) == (7, 8, 9)
    assert seed_list((4, 1, 4), 7) == (4, 1)


def test_config_survives_yaml_and_json(section):
    config = load(section(layers=[0, 2], seeds=[5, 3]), "mi_views")
    plain = json.loads(json.dumps(dataclasses.asdict(config)))
    assert parse(MIConfig, yaml.safe_load(yaml.safe_dump(plain)), "downstream_expert") == config


@pytest.mark.parametrize("task", ["mi_supervised", "mi_views"])
def test_shipped_configs_say_the_defaults(task, tmp_path):
    """A default that changes in one place only would mislead who reads the other."""
    shipped = yaml.safe_load(default_config(task).read_text())["downstream_expert"]
    assert parse(MIConfig, shipped, "downstream_expert") == MIConfig()


def test_shipped_configs_show_keys_that_exist_with_comments_for_the_rest():
    assert {f.name for f in dataclasses.fields(MIConfig)} >= set(
        yaml.safe_load(default_config("mi_views").read_text())["downstream_expert"]
    )


def test_override_beats_yaml_and_seed_counts_on_from_the_command_line(run, tmp_path):
    """YAML < -o; --seed gives the first of `seeds: 2`; a list in the config is taken as it is."""
    yaml_file = tmp_path / "my.yaml"
    yaml_file.write_text(
        yaml.safe_dump({"downstream_expert": {"clusters": 4, "kmeans_iterations": 3, "frames": "all"}})
    )
    words = ("-c", str(yaml_file), "--seed", "5")
    assert run("mi_views", "fbank", *words, views__shift_ms=20, clusters=5, views__kind="shift") == 0
    assert [(r.n_clusters, r.seed) for r in run.records()] == [(5, 5), (5, 6)]
    settings = json.loads((tmp_path / "experiment" / "mi_settings.json").read_text())
    assert settings["kmeans_iterations"] == 3
    assert run("mi_views", "fbank", *words, views__kind="shift", seeds=[9], name="list") == 0
    assert [r.seed for r in run.records("list")] == [9]


@pytest.mark.parametrize(
    ("fit", "scored"),
    [("dev@1/2", "dev@1/2"), ("dev@1/2", "dev"), ("dev", "dev@2/2"), ("dev@1/2", "dev@2/3"), ("dev", "dev")],
)
def test_splits_that_share_speech_are_refused(section, fit, scored):
    content = section(datarc__fit_splits=[fit], datarc__eval_splits=[scored])
    assert "is fitted on too" in message(content, "mi_views")


@pytest.mark.parametrize("twice", [["dev@1/2", "dev"], ["dev", "dev"]])
@pytest.mark.parametrize("key", ["fit_splits", "eval_splits"])
def test_speech_that_would_count_twice_is_refused(section, key, twice):
    other = {"datarc__fit_splits": ["x"], "datarc__eval_splits": ["y"]} | {f"datarc__{key}": twice}
    assert f"{key}: dev" in message(section(**other), "mi_views")


def test_halves_of_one_split_share_no_speech(section):
    content = section(datarc__fit_splits=["dev@1/2"], datarc__eval_splits=["dev@2/2"])
    assert load(content, "mi_views").datarc.fit_splits == ("dev@1/2",)


@pytest.mark.parametrize("name", ["dev@", "dev@1", "dev@0/2", "dev@3/2", "dev@a/b", "dev@1/2/3"])
def test_parts_that_are_none(section, name):
    assert "after @ expected part/parts" in message(section(datarc__eval_splits=[name]), "mi_views")
