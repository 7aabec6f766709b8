"""Rows that are scored: labels against brute force, pairs one by one, and the groups that are held out."""

from __future__ import annotations

import numpy as np
import pytest

from s3prl_mi.core.config import AlignmentConfig
from s3prl_mi.core.errors import MIError
from s3prl_mi.data.alignments.files import open_alignments
from s3prl_mi.data.utterances import Utterance
from s3prl_mi.experiment.frame_pairs import held_out_groups, paired_frames, utterance_rows
from s3prl_mi.experiment.labels import AlignedLabels, labelled_frames
from s3prl_mi.states.entry import Entry
from s3prl_mi.upstreams.geometry import Geometry
from s3prl_mi.upstreams.views import View
from tests.helpers.corpus import RATE

CONV = Geometry(320, 199.5, 400)
KALDI = Geometry(160, 199.5, 400)


def entry(tmp_path, **counts: int) -> Entry:
    """An entry without files: pairing needs names and counts only."""
    return Entry(tmp_path, list(counts), list(counts.values()), [0], [1], "float32", [])


@pytest.fixture
def two(tmp_path):
    """Two entries end to end: utterances of 25, 3, 1 and 12 frames."""
    return [entry(tmp_path, a=25, b=3), entry(tmp_path, c=1, d=12)]


def utterance(name: str, speaker: str | None) -> Utterance:
    return Utterance(name, None, "split", speaker, None)


def test_rows_go_on_through_entries(two):
    assert list(utterance_rows(two)) == [("a", 0, 25), ("b", 25, 3), ("c", 28, 1), ("d", 29, 12)]


# --- labels ----------------------------------------------------------------------------------------------


def normalised(label: str) -> str:
    return label.rstrip("012") or "sil"


@pytest.mark.parametrize("geometry", [CONV, KALDI])
@pytest.mark.parametrize("drop", [False, True])
def test_labels_are_those_of_brute_force(corpus, tmp_path, geometry, drop):
    ids = corpus.of("fit-a")
    samples = {u: round(corpus.spans[u][-1][1] * RATE) for u in ids}
    entries = [entry(tmp_path, **{u: geometry.n_frames(samples[u]) for u in part}) for part in (ids[:2], ids[2:])]
    utterances = {u: Utterance(u, corpus.audio[u], "fit-a", u.split("-")[0], None) for u in ids}
    alignments = open_alignments(AlignmentConfig(path=str(corpus.alignments)))
    found = labelled_frames(entries, utterances, samples, AlignedLabels(alignments, drop), geometry)

    rows, labels, unlabelled, row = [], [], 0, 0
    for name in [*entries[0].utterances, *entries[1].utterances]:
        for frame in range(geometry.n_frames(samples[name])):
            centre = (geometry.first_centre + frame * geometry.stride) / RATE
            (label,) = [normalised(p) for start, end, p in corpus.spans[name] if start <= centre < end]
            if drop and label == "sil":
                unlabelled += 1
            else:
                rows.append(row)
                labels.append(label)
            row += 1
    assert found.rows.tolist() == rows
    assert found.labels.tolist() == labels
    assert (found.unlabelled, found.utterances) == (unlabelled, len(ids))
    assert ("sil" in labels) == (not drop)


def test_an_utterance_without_alignment_gives_no_rows(corpus, tmp_path):
    spoilt = corpus.copy(tmp_path)
    first, second = spoilt.of("fit-b")[:2]
    spoilt.textgrid(first).unlink()
    utterances = {u: Utterance(u, spoilt.audio[u], "fit-b", "13", None) for u in (first, second)}
    samples = dict.fromkeys(utterances, 10 * RATE)
    source = AlignedLabels(open_alignments(AlignmentConfig(path=str(spoilt.alignments))), False)
    found = labelled_frames([entry(tmp_path, **{first: 40, second: 20})], utterances, samples, source, CONV)
    assert found.rows.tolist() == list(range(40, 60))
    assert found.utterances == 1


def test_frames_after_the_last_interval_are_left_out_and_counted(corpus, tmp_path):
    name = corpus.of("fit-b")[0]
    end = corpus.spans[name][-1][1]
    source = AlignedLabels(open_alignments(AlignmentConfig(path=str(corpus.alignments))), False)
    utterances = {name: Utterance(name, corpus.audio[name], "fit-b", "13", None)}
    inside = sum(c < end for c in CONV.centres_seconds(200))
    found = labelled_frames([entry(tmp_path, **{name: 200})], utterances, {name: 5 * RATE}, source, CONV)
    assert (len(found.rows), found.unlabelled) == (inside, 200 - inside)


def test_alignment_of_another_recording_is_refused(corpus, tmp_path):
    name = corpus.of("fit-b")[0]
    source = AlignedLabels(open_alignments(AlignmentConfig(path=str(corpus.alignments))), False)
    utterances = {name: Utterance(name, corpus.audio[name], "fit-b", "13", None)}
    with pytest.raises(MIError, match=name):
        labelled_frames([entry(tmp_path, **{name: 9})], utterances, {name: 3000}, source, CONV)


# --- pairs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("geometry", "shift"), [(CONV, 3), (KALDI, 6)])
def test_shifted_pairs_are_exactly_60_ms_apart_within_an_utterance(two, geometry, shift):
    found = paired_frames(two, View("shift", shift_ms=60.0), "all", geometry)
    expected = [
        (start + t, start + t + shift)
        for start, count in ((0, 25), (25, 3), (28, 1), (29, 12))
        for t in range(count)
        if t + shift < count
    ]
    assert list(zip(found.rows_a.tolist(), found.rows_b.tolist(), strict=True)) == expected


def test_masked_and_unmasked_frames_follow_the_pattern_of_each_utterance_and_make_up_all(two):
    view = View("mask", "latent", 10, 4)
    got = {f: paired_frames(two, view, f, CONV) for f in ("masked", "unmasked", "all")}
    masked = [start + t for start, count in ((0, 25), (25, 3), (28, 1), (29, 12)) for t in range(count) if t % 10 >= 4]
    assert got["masked"].rows_a.tolist() == masked
    assert got["unmasked"].rows_a.tolist() == [r for r in range(41) if r not in masked]
    assert got["all"].rows_a.tolist() == list(range(41))
    for pairs in got.values():
        np.testing.assert_array_equal(pairs.rows_a, pairs.rows_b)


def test_utterances_too_short_for_the_view_give_no_pair(tmp_path):
    short = [entry(tmp_path, b=3, c=1)]
    for view, frames in ((View("shift", shift_ms=60.0), "all"), (View("mask", "latent", 10, 4), "masked")):
        found = paired_frames(short, view, frames, CONV)
        assert (len(found.rows_a), len(found.rows_b)) == (0, 0)


def test_a_shift_between_frames_is_refused(two):
    with pytest.raises(MIError, match=r"shift_ms.*nearest shift is 60 ms"):
        paired_frames(two, View("shift", shift_ms=50.5), "all", Geometry(960, 0.0))


# --- groups ----------------------------------------------------------------------------------------------


def test_groups_are_speakers(two):
    who = {n: utterance(n, s) for n, s in zip("abcd", ("x", "y", "y", "x"), strict=True)}
    assert held_out_groups(two, who).tolist() == [0] * 25 + [1] * 3 + [1] * 1 + [0] * 12


@pytest.mark.parametrize("speakers", [("x", "x", "x", "x"), ("x", "y", None, "x"), (None,) * 4])
def test_groups_are_utterances_where_speakers_do_not_tell_apart(two, speakers):
    who = {n: utterance(n, s) for n, s in zip("abcd", speakers, strict=True)}
    assert held_out_groups(two, who).tolist() == [0] * 25 + [1] * 3 + [2] * 1 + [3] * 12
