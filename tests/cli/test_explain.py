"""`s3prl-mi explain`: every field has a text, so what is printed cannot go stale."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

import pytest

from s3prl_mi.cli import main as cli
from s3prl_mi.cli.explain import TOPICS, WIDTH, describe, fields_of
from s3prl_mi.core import config
from s3prl_mi.estimators.measures.registry import measures
from s3prl_mi.results.measures import MeasureRecord
from s3prl_mi.results.record import Record
from s3prl_mi.upstreams.families import Family

CONFIGS = (config.MIConfig, config.DataConfig, config.AlignmentConfig, config.ViewConfig, config.StoreConfig)


@dataclass
class Inner:
    """What is inside."""

    kind: Literal["a", "b"] | None = None
    """Which of
    the two."""


@dataclass
class Outer:
    """What is outside.

    Attributes:
        count: how many, and more
            on a second line.

    It ends here.
    """

    count: int
    inner: Inner = field(default_factory=Inner)
    silent: float = 0.5


@pytest.mark.parametrize("cls", [Record, MeasureRecord, Family, *CONFIGS], ids=lambda cls: cls.__name__)
def test_every_field_has_a_text(cls):
    found = fields_of(cls)
    assert [f.name for f in found] == [f.name for f in dataclasses.fields(cls)]
    assert [f.name for f in found if not f.text and f.cls is None] == []


def test_every_nested_config_is_described():
    assert {f.cls for cls in CONFIGS for f in fields_of(cls)} - {None} == set(CONFIGS[1:])


def test_a_field_without_a_text_is_noticed():
    assert [(f.name, f.kind, f.default, f.text) for f in fields_of(Outer)] == [
        ("count", "int", "", "how many, and more on a second line."),
        ("inner", "Inner", "field(default_factory=Inner)", ""),
        ("silent", "float", "0.5", ""),
    ]


def test_nested_fields_come_last_under_dotted_names():
    assert list(describe(Outer)) == [
        "count  (int)",
        "    how many, and more on a second line.",
        "silent = 0.5  (float)",
        "",
        "--- inner: What is inside.",
        "inner.kind = None  (a | b)",
        "    Which of the two.",
    ]


@pytest.mark.parametrize(
    ("topic", "lines"),
    [
        ("fields", ["mi_lower_bound_bits  (Bits)"]),
        (
            "config",
            ["datarc.alignments.max_missing = 0.1  (float)", "views.kind = 'auto'  (auto | mask | shift)"],
        ),
        ("upstream-family", ["mask_site = None  (str | None)"]),
        ("measures", []),
        ("store", []),
        ("faults", []),
    ],
)
def test_topics(topic, lines, capsys):
    assert cli.main(["explain", topic]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert set(lines) <= set(shown)
    if lines:
        assert max(map(len, shown)) <= 120
        assert max(len(line) for line in shown if line.startswith("    ")) <= WIDTH


def test_the_store_named_is_the_one_used(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("S3PRL_MI_STORE", str(tmp_path))
    assert cli.main(["explain", "store"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"Now: {tmp_path}, at most 50 GB")


def test_without_a_topic_all_are_listed(capsys):
    assert cli.main(["explain"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(TOPICS)
    assert cli.main(["explain", "feilds"]) == 1
    assert "no topic is called 'feilds'. Did you mean 'fields'?" in capsys.readouterr().err


def test_one_measure_whole(capsys):
    assert cli.main(["explain", "measures", "participation_ratio"]) == 0
    shown = capsys.readouterr().out
    for text in ("Gao et al. 2017", "(sum v)^2 / sum v^2", "dimensions", "higher", "frames (mi_views)", "spectrum.py"):
        assert text in shown
    assert cli.main(["explain", "measures", "pnm"]) == 1
    assert "no measure is called 'pnm'. Did you mean 'pnmi'?" in capsys.readouterr().err


def test_every_measure_says_everything_about_itself():
    for measure in measures().values():
        assert "not stated" not in measure.whole().values()
        assert all(measure.whole().values())


def test_one_field_and_one_key(capsys):
    assert cli.main(["explain", "fields", "ci_groups"]) == 0
    shown = capsys.readouterr().out
    assert "How many speakers (or utterances) were scored." in shown  # of a record
    assert "left out in turn, at most 10" in shown  # of a measure
    assert "ci_over" not in shown
    assert cli.main(["explain", "config", "datarc.alignments.tier"]) == 0
    assert capsys.readouterr().out.startswith("datarc.alignments.tier = 'phones'")
    assert cli.main(["explain", "config", "tier"]) == 1
    assert cli.main(["explain", "store", "root"]) == 1
    assert "leave 'root' out" in capsys.readouterr().err
