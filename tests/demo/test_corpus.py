import hashlib
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from s3prl_mi.core.errors import MIError
from s3prl_mi.data.espeak import Spoken, espeak
from s3prl_mi.demo import corpus as demo
from s3prl_mi.demo.phones import phone_intervals, phone_name, word_intervals
from s3prl_mi.demo.room import impulse_response, record

SMALL = {"train": 3, "fit": 2, "eval": 2}


def hashes(root: Path) -> dict[str, str]:
    files = (p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def tier(path: Path, name: str) -> list[tuple[float, float, str]]:
    text = path.read_text().split(f'name = "{name}"')[1].split("item [")[0]
    found = re.findall(r'xmin = ([\d.]+)\n\s+xmax = ([\d.]+)\n\s+text = "(.*)"', text)
    return [(float(a), float(b), label) for a, b, label in found]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return demo.make_corpus(tmp_path_factory.mktemp("demo") / "corpus", SMALL, progress=False)


@pytest.mark.parametrize(
    ("mnemonic", "name"),
    [("'oU", "OW"), ("I2", "IH"), ("t#", "T"), ("i@3", "IH"), (",aI2", "AY"), ("@L", "L"), ("3:", "ER")],
)
def test_phone_names_lose_stress_and_variant(mnemonic, name):
    assert phone_name(mnemonic) == name


def test_pauses_are_silence_and_modifiers_are_nothing():
    assert {phone_name(m) for m in ("_", "_:", "_!", "_|")} == {"sil"}
    assert phone_name(";") == ""


def test_unknown_mnemonic_keeps_its_own_name():
    assert phone_name("'x") == "x"


def spoken(*phones, words=()):
    return Spoken(np.zeros(0, np.int16), 22050, phones, words)


def test_intervals_are_contiguous_and_silences_merge():
    phones = phone_intervals(spoken((100, "p", 0), (200, "'aI", 0), (300, "_:", 3), (400, "_", 3)), 0.5)
    assert [(i.start, i.end, i.label) for i, _ in phones] == [
        (0.0, 0.1, "sil"),
        (0.1, 0.2, "P"),
        (0.2, 0.3, "AY"),
        (0.3, 0.5, "sil"),
    ]


def test_empty_and_overlapping_events():
    # T shares its start with D (no time of its own); AH would start before D does; S starts after the end.
    events = spoken((0, "t", 0), (0, "d", 0), (100, "a", 0), (50, "V", 0), (700, "s", 0))
    phones = phone_intervals(events, 0.5)
    assert [(i.start, i.end, i.label) for i, _ in phones] == [(0.0, 0.1, "D"), (0.1, 0.5, "AH")]


def test_words_that_run_together_share_their_phones():
    text = "of the dog"
    events = spoken(
        (0, "V", 0), (100, "v", 0), (200, "D", 0), (300, "@", 0), (400, "d", 7), (500, "0", 7), (600, "g", 7)
    )
    phones = phone_intervals(events, 0.8)
    words = word_intervals(phones, text, ((0, 6), (7, 3)))
    assert [(w.start, w.end, w.label) for w in words] == [
        (0.0, 0.2, "of"),
        (0.2, 0.4, "the"),
        (0.4, 0.8, "dog"),
    ]


def test_splits_share_no_speaker_voice_or_sentence():
    speakers = demo.plan(demo.DEFAULT_SPLITS, seed=3)
    for key in (lambda s: {s.id}, lambda s: {s.variant}, lambda s: set(s.sentences)):
        sets = [set().union(*(key(s) for s in speakers if s.split == split)) for split in demo.DEFAULT_SPLITS]
        assert sum(map(len, sets)) == len(set().union(*sets))
        assert all(sets)
    for split, count in demo.DEFAULT_SPLITS.items():
        mine = [s for s in speakers if s.split == split]
        assert sum(len(s.sentences) for s in mine) == count
        assert {s.sex for s in mine} == {"F", "M"}
    assert len({(s.variant, s.accent, s.size, s.pitch) for s in speakers}) == len(speakers)


def test_sentences_are_many_and_different():
    sentences = demo.SENTENCES.read_text().splitlines()
    assert len(sentences) >= 200
    assert len(set(sentences)) == len(sentences)


@pytest.mark.parametrize("splits", [{}, {"train": 0}, {str(i): 1 for i in range(99)}])
def test_impossible_splits_are_refused(splits):
    with pytest.raises(MIError, match="demo corpus"):
        demo.plan(splits, 0)


def test_layout_and_text_files(corpus):
    flacs = sorted(corpus.glob("*/*/*/*.flac"))
    assert len(flacs) == sum(SMALL.values())
    for flac in flacs:
        split, speaker, chapter = flac.parts[-4:-1]
        assert re.fullmatch(rf"{speaker}-{chapter}-\d{{4}}", flac.stem)
        transcript = (flac.parent / f"{speaker}-{chapter}.trans.txt").read_text()
        assert re.search(rf"^{flac.stem} [A-Z' ]+$", transcript, re.M)
        assert (corpus / "alignments" / split / speaker / chapter / f"{flac.stem}.TextGrid").is_file()
        assert re.search(rf"^{speaker} *\| [FM] \| {split} ", (corpus / "SPEAKERS.TXT").read_text(), re.M)
        info = soundfile.info(flac)
        assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")


@pytest.mark.parametrize("name", ["phones", "words"])
def test_tiers_cover_the_audio_without_gap(corpus, name):
    for grid in corpus.rglob("*.TextGrid"):
        audio = corpus / Path(*grid.relative_to(corpus / "alignments").parts).with_suffix(".flac")
        intervals = tier(grid, name)
        assert intervals[0][0] == 0
        assert intervals[-1][1] == pytest.approx(soundfile.info(audio).duration, abs=1e-6)
        assert all(a[1] == b[0] for a, b in itertools.pairwise(intervals))
        assert all(b > a for a, b, _ in intervals)


def test_words_are_those_of_the_transcript(corpus):
    for grid in corpus.rglob("*.TextGrid"):
        flac = corpus / grid.relative_to(corpus / "alignments").with_suffix(".flac")
        transcripts = next(flac.parent.glob("*.trans.txt")).read_text().splitlines()
        said = next(line for line in transcripts if line.startswith(flac.stem)).split()[1:]
        assert [w.upper() for *_, w in tier(grid, "words") if w] == said


def test_phones_start_when_the_alignment_says(corpus):
    # Speech is louder than the pauses around it, and the loudness edge is at the boundary.
    speech, silence, fricative, vowel = [], [], [], []
    for grid in corpus.rglob("*.TextGrid"):
        flac = corpus / grid.relative_to(corpus / "alignments").with_suffix(".flac")
        wave, rate = soundfile.read(flac)
        wave = wave / wave.std()
        for start, end, label in tier(grid, "phones"):
            part = wave[round(start * rate) : round(end * rate)]
            (silence if label == "sil" else speech).append((part**2).mean())
            if label in ("S", "AA", "AH", "AO"):
                high = (np.diff(part) ** 2).mean() / (part**2).mean()
                (fricative if label == "S" else vowel).append(high)
    assert np.median(speech) > 4 * np.median(silence)
    assert np.median(fricative) > 4 * np.median(vowel)


def test_second_run_makes_the_same_bytes(corpus, tmp_path):
    again = demo.make_corpus(tmp_path / "again", SMALL, progress=False)
    assert hashes(again) == hashes(corpus)


def test_another_seed_makes_another_corpus(corpus, tmp_path):
    other = demo.make_corpus(tmp_path / "other", {"train": 1}, seed=1, progress=False)
    first, second = (next(root.glob("train/*/*/*.flac")) for root in (corpus, other))
    assert first.read_bytes() != second.read_bytes()


def test_a_whole_corpus_is_not_made_again(corpus, monkeypatch):
    def fail(*_):
        raise AssertionError("made again")

    monkeypatch.setattr(demo, "_speak_all", fail)
    assert demo.make_corpus(corpus, SMALL, progress=False) == corpus


def test_a_half_made_corpus_is_not_taken_for_a_whole_one(tmp_path, monkeypatch):
    def die(root, *_):
        (root / "train").mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(demo, "_speak_all", die)
        with pytest.raises(KeyboardInterrupt):
            demo.make_corpus(tmp_path / "c", {"train": 1}, progress=False)
    assert not (tmp_path / "c").exists()
    root = demo.make_corpus(tmp_path / "c", {"train": 1}, progress=False)
    assert len(list(root.glob("train/*/*/*.flac"))) == 1


def test_another_folder_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(MIError, match="not made by this tool"):
        demo.make_corpus(tmp_path, {"train": 1}, progress=False)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_unknown_voice_is_named():
    with pytest.raises(MIError, match="no voice 'gmw/en-XX"):
        espeak().say("Hello.", "gmw/en-XX+m99", 170, 50)
    assert espeak() is espeak()
    assert espeak().say("Hello.", "gmw/en-US+m3", 170, 50).wave.size > 5000


def test_record_keeps_time_and_reaches_the_noise_level():
    rng = np.random.default_rng(0)
    clean = np.zeros(16000, np.float32)
    clean[8000] = 1.0
    heard = record(clean, impulse_response(rng), 60, rng)
    assert abs(int(np.abs(heard).argmax()) - 8000) <= 8
    assert heard.dtype == np.float32
    assert np.abs(heard).max() <= 10 ** (-3 / 20)
