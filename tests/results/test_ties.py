"""Which layers the speakers scored cannot tell apart; and their sums as they are written and read."""

import dataclasses

import numpy as np
import pytest

from s3prl_mi.results.speaker_sums import SpeakerRecord, append_speakers, read_speakers
from s3prl_mi.results.summary import summarise
from s3prl_mi.results.ties import layer_ties, ties
from tests.helpers.records import curve, make, speaker_sums

VOICES = (-0.2, -0.1, 0.0, 0.1, 0.2)
"""Speakers differ far more than layers."""


def bounds(**layers):
    """Name -> (bits, deviations of its speakers) as bounds without each speaker."""
    return {name: speaker_sums(make(bits), off).left_out() for name, (bits, off) in layers.items()}


def test_equal_layers_are_ties_and_a_clearly_better_one_is_not():
    rng = np.random.default_rng(0)
    near, far = (np.array(VOICES) + s * rng.normal(size=5) for s in (0.01, 0.01))
    found = ties(bounds(a=(1.0, VOICES), b=(1.0, near), c=(0.8, far)))
    assert found.best == "a"
    assert found.tied == ("a", "b")
    assert (found.rival, found.difference.value) == ("b", 0.0)
    assert (
        "models a and b cannot be told apart from the best on this speech (5 speakers); a leads b by 0.000"
        in found.sentence("model")
    )
    found = ties(bounds(a=(1.0, VOICES), c=(0.8, far)))
    assert (found.tied, found.rival) == (("a",), "c")
    assert found.sentence("layer").startswith("layer a is above every other layer on this speech (5 speakers)")


def test_a_difference_by_hand_and_how_many_speakers_it_would_need():
    """The difference is 0.1 with speakers at +-0.2 of it: error 0.2 / sqrt(5), far from enough."""
    apart = np.array((0.2, -0.2, 0.2, -0.2, 0.0))
    found = ties(bounds(a=(1.1, VOICES + apart), b=(1.0, VOICES)))
    error = np.std(apart, ddof=1) / np.sqrt(5)
    assert found.difference.error == pytest.approx(error)
    assert found.difference.high - found.difference.value == pytest.approx(2.7764451 * error)
    assert 16 <= found.needed <= 20  # t * 0.2 / sqrt(n) < 0.1
    assert f"about {found.needed} speakers" in found.sentence("layer")


def test_more_layers_ask_for_more():
    apart = {"b": (0.97, np.add(VOICES, (0.02, -0.02, 0.02, -0.02, 0.0)))}
    both = bounds(a=(1.0, VOICES), **apart)
    assert ties(both).tied == ("a",)
    many = both | bounds(**{f"c{n}": (0.5, VOICES) for n in range(10)})
    assert ties(many).tied == ("a", "b")
    assert ties(many).difference.comparisons == 11


def test_what_cannot_be_compared_is_no_tie():
    a = bounds(a=(1.0, VOICES))
    assert ties(a) is None
    assert ties(a | {"b": speaker_sums(make(1.0), VOICES, "vwxyz").left_out()}) is None


def test_the_interval_of_a_mean_over_seeds():
    records = curve([1.0, 1.5], seeds=2)
    records = [dataclasses.replace(r, mi_lower_bound_bits=r.mi_lower_bound_bits + r.seed / 10) for r in records]
    summaries = summarise(records, [speaker_sums(r, VOICES) for r in records])
    reach = 2.7764451 * np.std(VOICES, ddof=1) / np.sqrt(5)
    assert [s.ci_low_bits for s in summaries] == pytest.approx([1.05 - reach, 1.55 - reach])
    assert [s.ci_high_bits for s in summaries] == pytest.approx([1.05 + reach, 1.55 + reach])
    assert layer_ties(summaries)["logistic"].tied == (1,)
    assert summarise(records)[0].ci_low_bits is None
    half = summarise(records, [speaker_sums(r, VOICES) for r in records if r.seed == 0])
    assert half[0].ci_low_bits is None, "a seed without sums"


def test_sums_are_read_of_the_records_asked_for(tmp_path):
    records = [*curve([1.0, 1.5]), make(1.25, model="another")]
    path = tmp_path / "s.jsonl"
    lines = [speaker_sums(r, VOICES, "abcde") for r in records]
    append_speakers(path, lines)
    assert read_speakers(path, records) == lines
    (found,) = read_speakers(path, records[1:2])
    assert (found.layer, found.left_out().groups) == (1, tuple("abcde"))
    assert read_speakers(path, [dataclasses.replace(records[0], mi_lower_bound_bits=1.1)]) == []
    assert read_speakers(tmp_path / "none.jsonl", records) == []
    assert isinstance(found, SpeakerRecord)
