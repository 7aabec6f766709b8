"""Labels beyond phones: how speakers' utterances are dealt out, and what a run measures against each set of labels."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from s3prl_mi import estimate_supervised_mi
from s3prl_mi.core.config import MIConfig, load
from s3prl_mi.core.errors import MIError
from s3prl_mi.data.utterances import Utterance
from s3prl_mi.experiment.labels import deal_utterances, label_set
from s3prl_mi.results.class_contributions import CLASSES_FILE, read_classes
from s3prl_mi.results.comparability import ComparisonKey, differences
from s3prl_mi.results.measures import MEASURES_FILE, read_measures
from s3prl_mi.results.selection import layer_agreements
from s3prl_mi.results.speaker_sums import SPEAKERS_FILE, read_speakers
from tests.helpers.corpus import Corpus
from tests.helpers.runner import Runner


def utterances(**counts: int) -> list[Utterance]:
    return [Utterance(f"{s}-{n}", None, "dev", s, None) for s, count in counts.items() for n in range(count)]  # type: ignore[arg-type]


def test_each_speaker_is_on_both_sides_and_in_every_fold():
    dealt = deal_utterances(utterances(a=7, b=4, c=3, d=2))
    assert dealt.fit == {"a-0", "a-2", "a-4", "a-6", "b-0", "b-2", "c-0", "c-2"}
    assert dealt.scored == {"a-1", "a-3", "a-5", "b-1", "b-3", "c-1"}
    assert {(u.split("-")[0], fold) for u, fold in dealt.fold.items()} == {(s, n) for s in "abc" for n in (0, 1)}


def test_too_few_speakers_are_refused():
    with pytest.raises(MIError, match=r"at least two speakers of 3 utterances or more.*found 1"):
        deal_utterances(utterances(a=9, b=2))
    with pytest.raises(MIError, match="found 0"):
        deal_utterances([Utterance("x", None, "dev", None, None)] * 5)  # type: ignore[arg-type]


def section(tmp_path, **more) -> dict:
    return {"datarc": {"libri_root": str(tmp_path), **more.pop("datarc", {})}, **more}


def test_words_as_earlier_configs_have_them(tmp_path):
    read = load(section(tmp_path, datarc={"alignments": {"path": "a", "tier": "words"}}), "mi_supervised")
    assert read.labels == ("words",)
    assert label_set(read, "words") == "words, silence as a class"
    both = section(tmp_path, labels=["phones", "words"], datarc={"alignments": {"path": "a", "tier": "words"}})
    with pytest.raises(MIError, match="Leave tier out"):
        load(both, "mi_supervised")


def test_only_phones_and_words_need_alignments(tmp_path):
    assert load(section(tmp_path, labels=["speaker", "pitch", "energy"]), "mi_supervised").labels[0] == "speaker"
    with pytest.raises(MIError, match="needs alignments for words"):
        load(section(tmp_path, labels=["speaker", "words"]), "mi_supervised")
    with pytest.raises(MIError, match="expected one of phones, words, speaker, pitch, energy"):
        load(section(tmp_path, labels="speakers"), "mi_supervised")
    with pytest.raises(MIError, match="label_classes: expected from 2"):
        load(section(tmp_path, labels="energy", label_classes=1), "mi_supervised")


def test_sets_of_labels_are_never_comparable():
    words = [label_set(MIConfig(), name) for name in ("phones", "words", "speaker", "pitch", "energy")]
    assert len(set(words)) == 5
    blank = dict.fromkeys(ComparisonKey._fields)
    keys = [ComparisonKey(**blank | {"task": "mi_supervised", "n_classes": 16, "label_set": w}) for w in words]
    assert len(differences(keys)["labels"]) == 5
    assert [k.labels for k in keys] == ["phones", "words", "speaker", "pitch", "energy"]
    assert [k.of_content for k in keys] == [True, True, False, False, False]


def test_information_about_synthetic_speakers_is_found_and_nothing_else():
    """Two bits where each of four speakers has a mean of its own, far apart; none where all have the same."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 500)
    own, same = (rng.normal(size=(2000, 6)) + scale * np.eye(4, 6)[y] for scale in (20, 0))
    half = np.tile([True, False], 1000)
    found = [
        estimate_supervised_mi(z[half], y[half], z[~half], y[~half], probe="logistic").mi_lower_bound_bits
        for z in (own, same)
    ]
    assert found[0] == pytest.approx(2, abs=0.01)
    assert abs(found[1]) < 0.02


def test_a_run_of_several_sets_of_labels(run: Runner, capsys):
    labels = ["energy", "phones", "speaker", "words"]
    assert run("mi_supervised", "hubert-base", layers=[0, 2], labels=labels, seeds=1) == 0
    shown = capsys.readouterr()
    assert "2 layers x 4 sets of labels x 1 probe x 1 seed = 8 estimates" in shown.err
    assert "labels: speaker: 10 utterances are fitted on and 5 others of the same speakers scored" in shown.err
    assert "mi_supervised, speaker: lower bound of I(Z;Y)" in shown.out
    records = run.records()
    assert [(r.layer, r.labels) for r in records] == [(n, name) for n in (0, 2) for name in labels]
    first = {r.labels: r for r in records if r.layer == 0}
    assert first["speaker"].fit_splits == first["speaker"].eval_splits == ["fit-a", "fit-b", "eval"]
    assert first["speaker"].utterances == {"fit": 10, "eval": 5, "skipped": 0}
    assert first["speaker"].n_classes == 5
    assert (first["speaker"].ci_over, first["speaker"].ci_groups) == ("utterances", 5)
    assert first["phones"].ci_over == "speakers"
    # noise bands are alike in energy but for silence; shares of the classes are those of the eval split
    assert 0 < first["energy"].mi_lower_bound_bits < first["energy"].entropy_bits < 4
    folder = run.folder / "experiment"
    classes = {c.labels: c.class_names for c in read_classes(folder / CLASSES_FILE)}
    assert classes["speaker"] == ["11", "12", "13", "21", "22"]
    assert classes["energy"][0].startswith("below")
    assert {s.labels for s in read_speakers(folder / SPEAKERS_FILE, records)} == set(labels)
    # measures are of phones, which come before words
    assert {m.labels for m in read_measures(folder / MEASURES_FILE)} == {"phones"}
    # the same run adds another set, and nothing is repeated
    assert run("mi_supervised", "hubert-base", "-a", layers=[0, 2], labels=["phones", "energy"], seeds=1) == 0
    assert len(run.records()) == 8


def test_phones_alone_are_the_same_as_among_others(run: Runner):
    assert run("mi_supervised", labels=["speaker", "phones"], name="both") == 0
    assert run("mi_supervised", name="phones") == 0
    both = {k: v for k, v in run.numbers("both").items() if "phones" in k}
    assert both == run.numbers("phones")


def test_energy_of_phones_of_known_loudness(run: Runner, corpus: Corpus, tmp_path):
    """Of two classes, the loud one holds three phones that fbank tells from all others: one bit, but for edges."""
    mine = corpus.copy(tmp_path / "mine")
    for name, path in mine.audio.items():
        wave, rate = soundfile.read(path)
        for start, end, phone in mine.spans[name]:
            wave[round(start * rate) : round(end * rate)] *= 1.0 if phone.rstrip("012") in ("S", "K", "UW") else 0.1
        soundfile.write(path, wave, rate)
    assert run("mi_supervised", "fbank", corpus=mine, labels="energy", label_classes=2, seeds=1) == 0
    (record,) = run.records()
    assert record.label_set == "energy, log RMS of 25 ms, quantiles of the fit split"
    assert record.entropy_bits == pytest.approx(1, abs=0.05)
    assert 0.6 < record.mi_lower_bound_bits < record.entropy_bits


def test_scoring_other_splits(run: Runner, capsys):
    assert run("mi_supervised", labels=["energy", "speaker"], seeds=1) == 0
    assert run.evaluate("eval") == 0
    assert "labels: speaker is left out" in capsys.readouterr().err
    again = run.records("experiment/evaluate/eval")
    (before,) = [r for r in run.records() if r.labels == "energy"]
    assert [r.mi_lower_bound_bits for r in again] == [before.mi_lower_bound_bits]
    assert run("mi_supervised", labels="speaker", seeds=1, name="who") == 0
    assert run.evaluate("eval", name="who") == 1
    assert "speakers that were fitted on" in capsys.readouterr().err


def test_layers_are_not_judged_by_who_speaks(run: Runner):
    assert run("mi_supervised", "hubert-base", labels=["speaker"], seeds=1, name="who") == 0
    assert run("mi_views", "hubert-base", seeds=1, name="views") == 0
    assert run("mi_supervised", "hubert-base", seeds=1, name="phones") == 0
    views = run.records("views")
    assert layer_agreements([*views, *run.records("who")]) == []
    assert len(layer_agreements([*views, *run.records("phones"), *run.records("who")])) == 1
