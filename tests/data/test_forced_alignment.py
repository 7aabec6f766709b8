"""Forced alignment: pronunciations, transcripts, tiers, and whole runs on speech whose phone times are known."""

import argparse
import itertools
import shutil

import numpy as np
import pytest
import soundfile

from s3prl_mi.cli import align as align_command
from s3prl_mi.core.config import AlignmentConfig, DataConfig
from s3prl_mi.core.errors import MIError
from s3prl_mi.data.alignments.labels import Interval
from s3prl_mi.data.alignments.textgrid import read_textgrid
from s3prl_mi.data.forced_alignment import corpus
from s3prl_mi.data.forced_alignment.aligner import DICTIONARY, FRAME_OFFSET, contiguous, model_folder
from s3prl_mi.data.forced_alignment.corpus import absence, read_transcripts, split_words
from s3prl_mi.data.forced_alignment.pronunciations import (
    PHONE_SET,
    Pronounced,
    arpabet,
    derive,
    pronounce,
    read_dictionary,
    read_lexicon,
    spell,
    write_dictionary,
)
from s3prl_mi.data.utterances import Utterance, list_utterances
from tests.helpers.paths import MINI


def phones(text):
    return tuple(text.split())


class TestTranscripts:
    def test_words(self):
        assert split_words("Well-known: DON'T “’tis” -- ' 42 (noise)") == [
            "well",
            "known",
            "don't",
            "'tis",
            "42",
            "noise",
        ]

    def test_found_in_the_folder_then_beside_the_audio(self, tmp_path):
        (tmp_path / "1-2.trans.txt").write_text("1-2-0000 HELLO THERE\n")
        (tmp_path / "1-2-0001.lab").write_text("good bye\n")
        utterances = [Utterance(f"1-2-000{i}", tmp_path / f"1-2-000{i}.flac", "s", None, None) for i in range(3)]
        found = read_transcripts(utterances, None)
        assert found == {utterances[0]: "HELLO THERE", utterances[1]: "good bye\n"}
        assert "1-2-0002.lab" in absence(utterances[2], None)

    def test_a_list_wins_and_may_use_tabs(self, tmp_path):
        (tmp_path / "a.lab").write_text("beside")
        (tmp_path / "text").write_text("a\tlisted words\nb more\n")
        utterance = Utterance("a", tmp_path / "a.flac", "s", None, None)
        assert read_transcripts([utterance], tmp_path / "text") == {utterance: "listed words"}

    def test_two_texts_for_one_id(self, tmp_path):
        (tmp_path / "text").write_text("a one\na two\n")
        with pytest.raises(MIError, match="line 2: utterance 'a'"):
            read_transcripts([Utterance("a", tmp_path / "a.flac", "s", None, None)], tmp_path / "text")


class TestPronunciations:
    @pytest.mark.parametrize(
        ("word", "base", "said", "expected"),
        [
            ("sherburn's", "sherburn", "SH ER B ER N", "SH ER B ER N Z"),
            ("cats", "cat", "K AE T", "K AE T S"),
            ("churches", "church", "CH ER CH", "CH ER CH IH Z"),
            ("duties", "duty", "D UW T IY", "D UW T IY Z"),
            ("making", "make", "M EY K", "M EY K IH NG"),
            ("hopping", "hop", "HH AA P", "HH AA P IH NG"),
            ("happiness", "happy", "HH AE P IY", "HH AE P IY N AH S"),
            ("seekest", "seek", "S IY K", "S IY K AH S T"),
            ("boys'", "boys", "B OY Z", "B OY Z"),
        ],
    )
    def test_inflection(self, word, base, said, expected):
        assert derive(word, {base: [phones(said)]}) == [phones(expected)]

    def test_short_bases_are_chance(self):
        assert derive("king", {"k": [("K", "EY")]}) == []
        assert derive("bass", {"bas": [("B", "AA")]}) == []

    def test_espeak_speaks_english(self):
        assert spell("workhouse") == phones("W ER K HH AW S")
        assert spell("period") == phones("P IH R IY AH D")
        assert set(spell("zarathustra")) <= PHONE_SET

    def test_foreign_mnemonics_give_nothing(self):
        assert arpabet(["p", "no-such-sound"]) == ()

    def test_order_of_sources(self):
        dictionary = {"cat": [phones("K AE T")], "dog": [phones("D AO G")]}
        found = pronounce(["cat", "dog", "dogs", "'cat'", "blick"], dictionary, {"dog": [phones("D AA G")]})
        assert found["cat"] == found["'cat'"] == Pronounced((phones("K AE T"),), "dictionary")
        assert found["dog"] == Pronounced((phones("D AA G"),), "lexicon")
        assert found["dogs"] == Pronounced((phones("D AA G Z"),), "rule")
        assert found["blick"] == Pronounced((phones("B L IH K"),), "espeak")
        assert [w for w, p in found.items() if p.out_of_vocabulary] == ["blick", "dogs"]

    def test_lexicon_as_librispeech_writes_it(self, tmp_path):
        path = tmp_path / "lexicon.txt"
        path.write_text("A\tAH0\nA  EY1\nA'S 0.5 EY1 Z\nBOTTLE B AA1 DX EL\n<UNK> SPN\n\nONE 1 W AH1 N\n")
        assert read_lexicon(path) == {
            "a": [("AH",), ("EY",)],
            "a's": [("EY", "Z")],
            "bottle": [phones("B AA T AH L")],
            "one": [phones("W AH N")],
        }

    @pytest.mark.parametrize(
        ("line", "message"), [("CAT k æ t", "line 1: 'æ'"), ("CAT", "has no phones"), ("", "no word in it")]
    )
    def test_faulty_lexicon(self, tmp_path, line, message):
        path = tmp_path / "lexicon.txt"
        path.write_text(line + "\n")
        with pytest.raises(MIError, match=message):
            read_lexicon(path)

    def test_dictionary_written_is_dictionary_read(self, tmp_path):
        words = {
            "read": Pronounced((phones("R EH D"), phones("R IY D")), "dictionary"),
            "x": Pronounced((), "none"),
        }
        write_dictionary(tmp_path / "d", words)
        assert read_dictionary(tmp_path / "d") == {"read": [phones("R EH D"), phones("R IY D")]}


def test_tiers_are_contiguous_to_the_end_of_the_audio():
    tier = contiguous([(0, "sil"), (10, "K"), (13, "sil"), (20, "sil"), (25, "sil")], 16000 // 2 + 7)
    assert tier == [
        Interval(0.0, pytest.approx(0.1 + FRAME_OFFSET), "sil"),
        Interval(pytest.approx(0.1 + FRAME_OFFSET), pytest.approx(0.13 + FRAME_OFFSET), "K"),
        Interval(pytest.approx(0.13 + FRAME_OFFSET), 8007 / 16000, "sil"),
    ]


def test_missing_package_is_one_message(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MIError, match=r"pip install 's3prl_mi\[align\]'"):
        model_folder()


# With PocketSphinx ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Six utterances by text-to-speech, and when exactly each phone is said."""
    pytest.importorskip("pocketsphinx")
    from s3prl_mi.demo.corpus import make_corpus

    return make_corpus(tmp_path_factory.mktemp("align") / "speech", {"fit": 3, "eval": 3}, progress=False)


def align(root, out, *words):
    parser = argparse.ArgumentParser()
    align_command.add_arguments(parser)
    splits = [] if "--split" in words else ["--split", "fit", "--split", "eval"]
    return align_command.run(
        parser.parse_args(["--libri_root", str(root), "--out", str(out), "--jobs", "1", *splits, *words])
    )


def frames(path, step=0.01):
    """Label of each 10 ms of a TextGrid's phones."""
    tier = read_textgrid(path, "phones")
    ends = np.array([i.end for i in tier])
    times = np.arange(step / 2, ends[-1], step)
    return np.array([i.label for i in tier])[np.searchsorted(ends, times, side="right").clip(max=len(tier) - 1)]


def copy(speech, folder):
    shutil.copytree(speech, folder)
    return folder


class TestRun:
    @pytest.fixture(scope="class")
    def out(self, speech, tmp_path_factory):
        out = tmp_path_factory.mktemp("out")
        assert align(speech, out) == 0
        return out

    def test_tiers(self, speech, out):
        grids = sorted(out.rglob("*.TextGrid"))
        assert [g.relative_to(out) for g in grids] == [
            g.relative_to(speech / "alignments") for g in sorted(speech.rglob("*.TextGrid"))
        ]
        for grid in grids:
            audio = (speech / grid.relative_to(out)).with_suffix(".flac")
            for tier in ("words", "phones"):
                intervals = read_textgrid(grid, tier)
                assert intervals[0].start == 0
                assert all(a.end == b.start for a, b in itertools.pairwise(intervals))
                assert intervals[-1].end == pytest.approx(soundfile.info(audio).duration, abs=1e-5)
            assert {i.label for i in read_textgrid(grid, "phones")} <= PHONE_SET | {"sil", "spn"}
            lines = next(audio.parent.glob("*.trans.txt")).read_text().splitlines()
            text = next(line for line in lines if line.startswith(audio.stem))
            assert [i.label for i in read_textgrid(grid, "words") if i.label] == text.lower().split()[1:]

    def test_near_the_truth(self, speech, out):
        """eSpeak's accents are not the dictionary's, so phones differ; a tenth would agree by chance."""
        pairs = [(frames(g), frames(speech / "alignments" / g.relative_to(out))) for g in out.rglob("*.TextGrid")]
        agree = np.concatenate([a[: len(b)] == b[: len(a)] for a, b in pairs])
        late = np.concatenate([a[: len(b)][10:] == b[: len(a)][:-10] for a, b in pairs])
        assert agree.mean() > 0.55
        assert agree.mean() > late.mean() + 0.2

    def test_reader_finds_them(self, speech, out):
        from s3prl_mi.data.alignments.files import open_alignments

        utterances = list_utterances(DataConfig(libri_root=str(speech)), "eval")
        assert open_alignments(AlignmentConfig(path=str(out))).missing(utterances) == []

    def test_processes_give_the_same(self, speech, out, tmp_path, capsys):
        align(speech, tmp_path, "--jobs", "2")
        assert "2 processes" in capsys.readouterr().out
        for grid in out.rglob("*.TextGrid"):
            assert (tmp_path / grid.relative_to(out)).read_text() == grid.read_text()


class TestResume:
    def test_whole_files_stay_and_others_are_made_again(self, speech, tmp_path, capsys):
        align(speech, tmp_path)
        grids = sorted(tmp_path.rglob("*.TextGrid"))
        texts, times = [g.read_text() for g in grids], [g.stat().st_mtime_ns for g in grids]
        grids[0].write_text(texts[0][: len(texts[0]) // 2])
        grids[1].unlink()
        capsys.readouterr()
        assert align(speech, tmp_path) == 0
        assert "aligned 2 utterances" in (said := capsys.readouterr().out)
        assert "4 were there already, 0 failed" in said
        assert [g.read_text() for g in grids] == texts
        assert [g.stat().st_mtime_ns for g in grids[2:]] == times[2:]
        assert not list(tmp_path.rglob("*.tmp*"))

    def test_another_lexicon_does_not_mix(self, speech, tmp_path):
        align(speech, tmp_path / "out", "--split", "fit")
        (tmp_path / "lexicon").write_text("THE DH IY\n")
        with pytest.raises(MIError, match=r"lexicon_sha256 None \(now .*--overwrite"):
            align(speech, tmp_path / "out", "--split", "fit", "--lexicon", str(tmp_path / "lexicon"))
        lexicon = ("--lexicon", str(tmp_path / "lexicon"), "--overwrite")
        assert align(speech, tmp_path / "out", "--split", "fit", *lexicon) == 0


class TestFailures:
    def test_listed_with_reasons_and_the_rest_is_done(self, speech, tmp_path, capsys):
        root = copy(speech, tmp_path / "root")
        audio = sorted((root / "fit").rglob("*.flac"))
        transcript = next((root / "fit").rglob("*.trans.txt"))
        lines = transcript.read_text().splitlines()
        lines[1] = f"{audio[1].stem} {'EXTRAORDINARILY LONG TEXT ' * 40}"
        transcript.write_text("\n".join(lines[:2]) + "\n")
        audio[0].write_bytes(b"")
        assert align(root, tmp_path / "out") == 0
        reasons = (tmp_path / "out" / "failed_fit.tsv").read_text().splitlines()
        assert reasons[0] == "id\taudio\treason"
        assert sorted(line.split("\t")[0] for line in reasons[1:]) == [a.stem for a in audio]
        text = "\n".join(reasons)
        assert "empty (0 bytes)" in text
        assert "has all 120 words of the transcript" in text
        assert "no transcript in" in text
        assert not (tmp_path / "out" / "failed_eval.tsv").exists()
        assert "3 failed" in capsys.readouterr().out
        assert len(list((tmp_path / "out").rglob("*.TextGrid"))) == 3

    def test_unknown_words_are_counted(self, speech, tmp_path, capsys):
        root = copy(speech, tmp_path / "root")
        transcript = next((root / "fit").rglob("*.trans.txt"))
        transcript.write_text(transcript.read_text().replace("\n", " FLEEB\n", 1))
        align(root, tmp_path / "out", "--split", "fit")
        rows = [r.split("\t") for r in (tmp_path / "out" / "unknown_words_fit.tsv").read_text().splitlines()]
        assert ["fleeb", "1", "espeak", "F L IY B"] in rows
        assert "as eSpeak says them" in capsys.readouterr().out

    def test_no_transcript_at_all(self, speech, tmp_path):
        root = copy(speech, tmp_path / "root")
        for transcript in root.rglob("*.trans.txt"):
            transcript.unlink()
        with pytest.raises(MIError, match=r"none of 6 utterances has a transcript.*--transcripts FILE"):
            align(root, tmp_path / "out")

    def test_wrong_split(self, speech, tmp_path):
        with pytest.raises(MIError, match="Did you mean 'eval'"):
            align(speech, tmp_path, "--split", "evla")


def test_manifest(speech, tmp_path):
    audio = sorted((speech / "fit").rglob("*.flac"))[0]
    lines = next(audio.parent.glob("*.trans.txt")).read_text().splitlines()
    (tmp_path / "text").write_text(f"mine {lines[0].partition(' ')[2]}\n")
    (tmp_path / "my.tsv").write_text(f"split\taudio\tid\nall\t{audio}\tmine\n")
    parser = argparse.ArgumentParser()
    align_command.add_arguments(parser)
    words = f"--manifest {tmp_path}/my.tsv --transcripts {tmp_path}/text --split all --out {tmp_path}/out --jobs 1"
    assert align_command.run(parser.parse_args(words.split())) == 0
    assert [i.label for i in read_textgrid(tmp_path / "out/all/mine.TextGrid", "words") if i.label] == lines[
        0
    ].lower().split()[1:]


@pytest.mark.shared
@pytest.mark.skipif(not MINI.is_dir(), reason="needs ../shared")
def test_agrees_with_an_independent_use_of_pocketsphinx(tmp_path):
    """The shared labels came from the same aligner: this checks the command, not the truth."""
    pytest.importorskip("pocketsphinx")
    splits = {"dev-other": list_utterances(DataConfig(libri_root=str(MINI), max_utterances=4), "dev-other")}
    corpus.align_corpus(splits, tmp_path, root=MINI, progress=False)
    agree = [
        (a := frames(g, 0.001))[: len(b)] == b[: len(a)]
        for g in tmp_path.rglob("*.TextGrid")
        for b in [shifted(MINI / "alignments" / g.relative_to(tmp_path))]
    ]
    assert len(agree) == 4
    assert np.concatenate(agree).mean() > 0.97


def shifted(path):
    """Label of each ms, moved by our offset, which the shared labels lack."""
    labels, by = frames(path, 0.001), round(FRAME_OFFSET * 1000)
    return np.concatenate([labels[:1].repeat(by), labels[: len(labels) - by]])


def test_the_model_has_our_phones():
    pytest.importorskip("pocketsphinx")
    dictionary = read_dictionary(model_folder() / DICTIONARY)
    assert {p for variants in dictionary.values() for v in variants for p in v} == PHONE_SET
    assert len(PHONE_SET) == 39
