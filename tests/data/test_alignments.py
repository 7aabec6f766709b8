"""Alignment files -> intervals -> one label per frame."""

import re
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3prl_mi.core.config import AlignmentConfig, DataConfig
from s3prl_mi.core.errors import MIError
from s3prl_mi.data.alignments.files import Alignments, LineFile, match_utterances, open_alignments
from s3prl_mi.data.alignments.formats import FORMATS, detect_format, read_file
from s3prl_mi.data.alignments.labels import (
    Interval,
    check_duration,
    check_intervals,
    frame_labels,
    normalise_label,
)
from s3prl_mi.data.alignments.textgrid import read_textgrid
from s3prl_mi.data.splits import check_audio
from s3prl_mi.data.utterances import Utterance, list_utterances
from tests.helpers.paths import FIXTURES, MINI

ALIGNMENTS = FIXTURES / "alignments"


def utterance(id="1-2-0000", split="dev", alignment=None, root="libri", folders=("1", "2")):
    return Utterance(id, Path(root, split, *folders, f"{id}.flac"), split, folders[0], alignment)


def read(path, id="1-2-0000", **options) -> list[tuple[float, float, str]] | None:
    """What `Alignments` makes of one utterance, as plain tuples."""
    found = open_alignments(AlignmentConfig(path=str(path), **options)).intervals(utterance(id))
    return None if found is None else [(i.start, i.end, i.label) for i in found]


def textgrid(*tiers: tuple[str, list[tuple[float, float, str]]]) -> str:
    """The short text form."""
    lines = ['File type = "ooTextFile"', '"TextGrid"', "", "0", "9", "<exists>", str(len(tiers))]
    for name, intervals in tiers:
        lines += ['"IntervalTier"', f'"{name}"', "0", "9", str(len(intervals))]
        for start, end, label in intervals:
            lines += [str(start), str(end), f'"{label}"']
    return "\n".join(lines)


class TestLabels:
    @pytest.mark.parametrize("name", ["", " ", "sil", "SIL", "sp", "SP", "[SIL]", "<eps>", "h#", "pau", "epi"])
    def test_silence(self, name):
        assert normalise_label(name, strip_stress=True) == "sil"

    @pytest.mark.parametrize("name", ["spn", "SPN", "<unk>", "<UNK>"])
    def test_noise(self, name):
        assert normalise_label(name, strip_stress=False) == "spn"

    @pytest.mark.parametrize(
        ("label", "stripped"),
        [("AH0", "AH"), ("ER2", "ER"), ("ow1", "ow"), ("AH3", "AH3"), ("K1", "K1"), ("AH", "AH"), ("7", "7")],
    )
    def test_stress(self, label, stripped):
        assert normalise_label(label, strip_stress=True) == stripped
        assert normalise_label(label, strip_stress=False) == label

    def test_words_keep_their_letters(self):
        assert [normalise_label(w, strip_stress=True, words=True) for w in ("pau", "EH1", "")] == [
            "pau",
            "EH1",
            "sil",
        ]


class TestTextGrid:
    phones = (
        (0.0, 0.2, "sil"),
        (0.2, 0.3, "K"),
        (0.3, 0.45, "AE"),
        (0.45, 0.65, "ER"),
        (0.65, 1.0, "spn"),
    )

    @pytest.fixture(params=["long.TextGrid", "short.TextGrid"])
    def text(self, request):
        return (ALIGNMENTS / request.param).read_text()

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
    @pytest.mark.parametrize("newline", ["\n", "\r\n"])
    def test_forms_and_encodings(self, tmp_path, text, encoding, newline):
        if encoding in ("utf-16-le", "utf-16-be"):
            text = "\ufeff" + text
        (tmp_path / "1-2-0000.TextGrid").write_bytes(text.replace("\n", newline).encode(encoding))
        assert read(tmp_path) == list(self.phones)

    def test_as_written(self, text, tmp_path):
        path = tmp_path / "x.TextGrid"
        path.write_text(text)
        assert read_textgrid(path, "words") == [
            Interval(0, 0.2, ""),
            Interval(0.2, 0.65, 'the "cat"'),
            Interval(0.65, 1, "<unk>"),
        ]

    def test_words_tier(self, tmp_path, text):
        (tmp_path / "1-2-0000.TextGrid").write_text(text)
        assert [label for *_, label in read(tmp_path, tier="words")] == ["sil", 'the "cat"', "spn"]

    def test_stress_kept(self, tmp_path, text):
        (tmp_path / "1-2-0000.TextGrid").write_text(text)
        assert [x for *_, x in read(tmp_path, strip_stress=False)] == ["sil", "K", "AE1", "ER0", "spn"]

    def test_speaker_prefix(self, tmp_path):
        path = tmp_path / "1-2-0000.TextGrid"
        path.write_text(textgrid(("kim - words", [(0, 9, "hi")]), ("kim - phones", [(0, 9, "HH")])))
        assert read(tmp_path) == [(0, 9, "HH")]
        assert read(tmp_path, tier="kim - words") == [(0, 9, "hi")]
        path.write_text(textgrid(("kim - phones", [(0, 9, "HH")]), ("lee - phones", [])))
        with pytest.raises(MIError, match=r"several tiers that fit 'phones'.*'kim - phones', 'lee - phones'"):
            read(tmp_path)

    @pytest.mark.parametrize(
        ("tier", "message"),
        [
            ("phone", r"no tier 'phone'.*'words', 'Phones', 'remarks'"),
            ("remarks", r"'remarks' is a point tier"),
        ],
    )
    def test_wrong_tier(self, tmp_path, text, tier, message):
        (tmp_path / "1-2-0000.TextGrid").write_text(text)
        with pytest.raises(MIError, match=message):
            read(tmp_path, tier=tier)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t: t[: t.index('"K"')], r"1-2-0000\.TextGrid, line \d+: expected a text, found the end"),
            (lambda t: t.replace('"K"', "K"), r"expected a text, found 0\.3"),
            (lambda t: t.replace("0.45", "zero", 1), r"expected a number, found \"AE1\""),
            (lambda t: t.replace("IntervalTier", "Tier", 1), r"expected an IntervalTier.*found 'Tier'"),
            (
                lambda t: t.replace("ooTextFile", "ooBinaryFile"),
                r"not a TextGrid in one of Praat's text forms",
            ),
            (lambda t: "", r"not a TextGrid"),
        ],
    )
    def test_malformed(self, tmp_path, text, change, message):
        (tmp_path / "1-2-0000.TextGrid").write_text(change(text))
        with pytest.raises(MIError, match=message):
            read(tmp_path)

    def test_line_number(self, tmp_path):
        path = tmp_path / "x.TextGrid"
        path.write_text((ALIGNMENTS / "short.TextGrid").read_text().replace('"sp"', "7"))
        with pytest.raises(MIError, match=r"line 29: expected a text, found 7"):
            read_textgrid(path, "phones")

    def test_not_utf8(self, tmp_path):
        (tmp_path / "1-2-0000.TextGrid").write_bytes(textgrid(("phones", [(0, 9, "é")])).encode("latin-1"))
        with pytest.raises(MIError, match="cannot be read as UTF-8 or UTF-16"):
            read(tmp_path)

    @pytest.mark.parametrize(
        "where", ["dev/1/2/{}.TextGrid", "1/2/{}.TextGrid", "{}.TextGrid", "{}.textgrid", "x/y/z/{}.TextGrid"]
    )
    def test_places(self, tmp_path, where):
        path = tmp_path / where.format("1-2-0000")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textgrid(("phones", [(0, 9, "HH")])))
        assert read(tmp_path) == [(0, 9, "HH")]
        assert read(tmp_path, id="1-2-0009") is None

    def test_own_split_is_preferred_and_doubt_refused(self, tmp_path):
        for place, label in (("a/dev", "D"), ("a/test", "T")):
            (tmp_path / place).mkdir(parents=True)
            (tmp_path / place / "u.TextGrid").write_text(textgrid(("phones", [(0, 9, label)])))
        found = open_alignments(AlignmentConfig(path=str(tmp_path)))
        for split, label in (("dev", "D"), ("test", "T")):
            assert found.intervals(utterance("u", split)) == [Interval(0, 9, label)]
        with pytest.raises(MIError, match=r"'u' of split 'train' has several alignments"):
            found.intervals(utterance("u", "train", folders=("9", "9")))


class TestOtherFormats:
    def test_cpc(self):
        path = ALIGNMENTS / "converted_aligned_phones.txt"
        assert read(path) == [(0.0, 0.02, "0"), (0.02, 0.05, "7"), (0.05, 0.06, "40")]
        # The last line has no newline at its end.
        assert read(ALIGNMENTS, id="1-2-0001", format="cpc") == [(0.0, 0.03, "3"), (0.03, 0.04, "12")]
        assert read(path, id="1-2-0002") is None

    def test_cpc_label_at_10_ms(self):
        path = ALIGNMENTS / "converted_aligned_phones.txt"
        intervals = open_alignments(AlignmentConfig(path=str(path))).intervals(utterance())
        centres = (np.arange(6) + 0.5) / 100
        assert list(frame_labels(intervals, centres)) == ["0", "0", "7", "7", "7", "40"]

    def test_ctm(self):
        path = ALIGNMENTS / "kaldi.ctm"
        expected = [(0.0, 0.1, "sil"), (0.1, 0.3, "K"), (0.3, 0.45, "AE"), (0.45, 0.5, "T")]
        assert read(path) == expected
        assert read(ALIGNMENTS, format="ctm") == expected
        assert read(path, id="1-2-0001") == [(0.0, 0.3, "17")]

    def test_ctm_utterance_in_several_runs(self, tmp_path):
        path = tmp_path / "x.ctm"
        path.write_text("1-2-0000 1 0.0 0.1 A\nu 1 0.0 0.5 B\n\n1-2-0000 1 0.1 0.1 C")
        assert read(path) == [(0.0, 0.1, "A"), (0.1, 0.2, "C")]

    def test_ctm_in_parts(self, tmp_path):
        (tmp_path / "a.ctm").write_text("u 1 0.0 0.5 B\n")
        (tmp_path / "b.ctm").write_text("1-2-0000 1 0.0 0.1 A\n")
        assert read(tmp_path) == [(0.0, 0.1, "A")]
        (tmp_path / "a.ctm").write_text("1-2-0000 1 0.0 0.5 B\n")
        with pytest.raises(MIError, match=r"several alignments: .*a\.ctm, .*b\.ctm"):
            read(tmp_path)

    def test_phn(self):
        assert read_file(ALIGNMENTS / "SA1.PHN", "phn", "phones")[:2] == [
            Interval(0, 0.1, "h#"),
            Interval(0.1, 0.2, "kcl"),
        ]

    def test_timit_tree(self, tmp_path):
        for speaker, name in (("FAKS0", "SA1"), ("MDAB0", "SA1")):
            folder = tmp_path / "TEST" / "DR1" / speaker
            folder.mkdir(parents=True)
            for suffix in (".PHN", ".WRD"):
                text = (ALIGNMENTS / f"{name}{suffix}").read_text()
                (folder / f"{name}{suffix}").write_text(text.replace(" ae", " iy") if speaker[0] == "M" else text)
        expected = ["sil", "kcl", "k", "ae", "q", "sil"]
        # s3prl's ids for TIMIT, and a shorter one
        for id in ("DR1-FAKS0-SA1", "FAKS0-SA1"):
            assert [label for *_, label in read(tmp_path, id=id)] == expected
        # The plain name is that of many files: the audio's own folder decides.
        found = open_alignments(AlignmentConfig(path=str(tmp_path)))
        own = utterance("SA1", split="TEST", folders=("DR1", "MDAB0"))
        assert [i.label for i in found.intervals(own)][3] == "iy"
        assert read(tmp_path, id="FAKS0-SA1", tier="words") == [(0.1, 0.55, "cat")]

    def test_condensed(self, tmp_path):
        text = (ALIGNMENTS / "1-2.alignment.txt").read_text()
        for i, place in enumerate(("dev/1/2", "1/2", ".")):
            root = tmp_path / str(i)
            (root / place).mkdir(parents=True)
            (root / place / "1-2.alignment.txt").write_text(text)
            assert read(root, tier="words") == [
                (0.0, 0.1, "sil"),
                (0.1, 0.25, "A"),
                (0.25, 0.6, "GREY"),
                (0.6, 0.7, "sil"),
                (0.7, 1.1, "CAT"),
            ]
            assert read(root, id="1-2-0001", tier="words") == [(0.0, 0.5, "HELLO")]

    def test_condensed_elsewhere_is_not_taken(self, tmp_path):
        (tmp_path / "1" / "3").mkdir(parents=True)
        (tmp_path / "1" / "3" / "1-2.alignment.txt").write_text((ALIGNMENTS / "1-2.alignment.txt").read_text())
        assert read(tmp_path, tier="words") is None

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("x.ctm", "1-2-0000 1 0.0 0.1 A\n1-2-0000 1 0.1 long B\n", r"x\.ctm, line 2: expected utterance"),
            (
                "x.ctm",
                "u 1 0.0 0.1 A\n1-2-0000 1 0.1 0.2\n",
                r"x\.ctm, line 2: .*found '1-2-0000 1 0\.1 0\.2'",
            ),
            ("converted_aligned_phones.txt", "1-2-0000 1 2 x\n", r"phones\.txt, line 1: .*every 10 ms"),
            ("converted_aligned_phones.txt", "1-2-0000\n", r"line 1: expected utterance and integer"),
            (
                "converted_aligned_phones.txt",
                "1-2-0000 1\n1-2-0000 2\n",
                r"'1-2-0000' has two lines, 1 and 2",
            ),
            ("1-2-0000.PHN", "0 10 h#\n10 k\n", r"1-2-0000\.PHN, line 2: .*found '10 k'"),
            ("1-2-0000.PHN", "0 10 h#\n10 2.5 k\n", r"line 2: .*found '10 2\.5 k'"),
        ],
    )
    def test_malformed(self, tmp_path, name, text, message):
        (tmp_path / name).write_text(text)
        with pytest.raises(MIError, match=message):
            read(tmp_path)

    @pytest.mark.parametrize("line", ['1-2-0000 ",A," "0.1,0.2"', "1-2-0000 ,A,", '1-2-0000 ",A" "0.1,x"'])
    def test_malformed_condensed(self, tmp_path, line):
        (tmp_path / "1-2.alignment.txt").write_text(f"\n{line}\n")
        with pytest.raises(MIError, match=r"1-2\.alignment\.txt, line 2: expected utterance \"word,word"):
            read(tmp_path, tier="words")


class TestOpening:
    @pytest.mark.parametrize(
        ("name", "format"),
        [
            ("long.TextGrid", "textgrid"),
            ("short.TextGrid", "textgrid"),
            ("converted_aligned_phones.txt", "cpc"),
            ("kaldi.ctm", "ctm"),
            ("SA1.PHN", "phn"),
            ("1-2.alignment.txt", "condensed"),
        ],
    )
    def test_format_by_name_and_by_content(self, tmp_path, name, format):
        assert detect_format(ALIGNMENTS / name) == format
        renamed = tmp_path / "data.txt"
        renamed.write_bytes((ALIGNMENTS / name).read_bytes())
        assert detect_format(renamed) == format
        (tmp_path / "deep" / "er").mkdir(parents=True)
        renamed.rename(tmp_path / "deep" / "er" / name)
        assert detect_format(tmp_path) == format

    def test_utf16_by_content(self, tmp_path):
        (tmp_path / "x").write_bytes((ALIGNMENTS / "long.TextGrid").read_text().encode("utf-16"))
        assert detect_format(tmp_path / "x") == "textgrid"

    def test_phones_before_words(self, tmp_path):
        for name in ("1-2.alignment.txt", "long.TextGrid"):
            (tmp_path / name).write_bytes((ALIGNMENTS / name).read_bytes())
        assert detect_format(tmp_path) == "textgrid"

    @pytest.mark.parametrize(
        ("path", "options", "message"),
        [
            ("nope", {}, r"alignments\.path: no such file or folder: .*nope"),
            ("long.TextGrid", {}, r"one file of format textgrid; name the folder"),
            (".", {"format": "condensed"}, r"tier: found 'phones', but the condensed .* words only"),
            ("converted_aligned_phones.txt", {"tier": "words"}, r"tier: found 'words', but CPC's file"),
        ],
    )
    def test_faults(self, path, options, message):
        with pytest.raises(MIError, match=message):
            open_alignments(AlignmentConfig(path=str(ALIGNMENTS / path), **options))

    def test_nothing_known(self, tmp_path):
        (tmp_path / "notes.txt").write_text("hello\n")
        for path in (tmp_path, tmp_path / "notes.txt"):
            with pytest.raises(MIError, match="known alignment format"):
                open_alignments(AlignmentConfig(path=str(path)))
        with pytest.raises(MIError, match=r"no file \*\.ctm in"):
            open_alignments(AlignmentConfig(path=str(tmp_path), format="ctm"))

    def test_manifest_wins(self, tmp_path):
        (tmp_path / "1-2-0000.TextGrid").write_text(textgrid(("phones", [(0, 9, "HH")])))
        found = open_alignments(AlignmentConfig(path=str(tmp_path)))
        own = utterance(alignment=ALIGNMENTS / "kaldi.ctm")
        assert [i.label for i in found.intervals(own)] == ["sil", "K", "AE", "T"]
        alone = open_alignments(AlignmentConfig())
        assert alone.intervals(own) == found.intervals(own)
        assert alone.intervals(utterance()) is None
        assert alone.intervals(utterance(alignment=tmp_path / "gone.TextGrid")) is None
        with pytest.raises(MIError, match=r"found 'phones', but .*SA1\.WRD holds words; name the \.PHN file"):
            alone.intervals(utterance(alignment=ALIGNMENTS / "SA1.WRD"))

    def test_read_lazily(self, tmp_path, monkeypatch):
        (tmp_path / "1-2-0000.TextGrid").write_text("broken")
        found = open_alignments(AlignmentConfig(path=str(tmp_path)))
        assert found.missing([utterance(), utterance("1-2-0001")]) == ["1-2-0001"]


def test_the_table_of_formats_has_those_of_the_config():
    choices = get_args(get_type_hints(AlignmentConfig)["format"])
    assert sorted(choices) == sorted(["auto", *FORMATS])


class TestMatch:
    def make(self, tmp_path, present) -> Alignments:
        for i in range(present):
            (tmp_path / f"1-2-{i:04d}.TextGrid").write_text(textgrid(("phones", [(0, 9, "HH")])))
        (tmp_path / "other.TextGrid").touch()
        return open_alignments(AlignmentConfig(path=str(tmp_path)))

    every = tuple(utterance(f"1-2-{i:04d}") for i in range(10))

    def test_share(self, tmp_path):
        found = self.make(tmp_path, 8)
        kept, missing = match_utterances(found, self.every, 0.2)
        assert kept == list(self.every[:8])
        assert missing == ["1-2-0008", "1-2-0009"]
        with pytest.raises(
            MIError,
            match=r"2 of 10 utterances have no .*fraction of 0\.1 .*: 1-2-0008, 1-2-0009\. Looked for",
        ):
            match_utterances(found, self.every, 0.1)

    def test_none_found_says_where(self, tmp_path):
        found = self.make(tmp_path, 0)
        with pytest.raises(MIError, match=r"none of its 10 .*dev/1/2/1-2-0000\.TextGrid; .*any folder below"):
            match_utterances(found, self.every, 1.0)
        with pytest.raises(MIError, match=r"none of its 10 utterances has an alignment\. None is named"):
            match_utterances(open_alignments(AlignmentConfig()), self.every, 1.0)

    def test_none_found_in_a_whole_file(self):
        found = open_alignments(AlignmentConfig(path=str(ALIGNMENTS / "kaldi.ctm")))
        with pytest.raises(MIError, match=r"Looked for x in: .*kaldi\.ctm"):
            match_utterances(found, [utterance("x")], 1.0)


class TestIntervals:
    a, b = Interval(0.0, 0.5, "A"), Interval(0.5, 1.0, "B")

    def test_zero_length_dropped(self):
        assert check_intervals([self.a, Interval(0.25, 0.25, "X"), self.b]) == [self.a, self.b]

    def test_overlap(self):
        with pytest.raises(MIError, match=r"utterance u: .*'B' \[0\.4 s, 1 s\) overlaps with 'A' \[0 s, 0\.5 s\)"):
            check_intervals([self.a, Interval(0.4, 1.0, "B")], "u")
        rounded = [self.a, Interval(0.4997, 1.0, "B")]
        assert check_intervals(rounded) == rounded

    def test_order(self):
        with pytest.raises(MIError, match=r"utterance u: .*'A' .* is earlier than 'B'"):
            check_intervals([self.b, self.a], "u")

    @pytest.mark.parametrize("wrong", [Interval(1.0, 0.5, "A"), Interval(0.0, float("nan"), "A")])
    def test_impossible(self, wrong):
        with pytest.raises(MIError, match="ends before it starts"):
            frame_labels([wrong], np.zeros(1), "u")

    def test_overlap_in_a_file_names_it(self, tmp_path):
        (tmp_path / "x.ctm").write_text("1-2-0000 1 0.0 0.3 A\n1-2-0000 1 0.1 0.3 B\n")
        with pytest.raises(MIError, match=r"utterance 1-2-0000 \(.*x\.ctm\): interval 'B'"):
            read(tmp_path)

    def test_duration(self):
        check_duration([self.a, self.b], 0.6, "u")
        check_duration([], 0.6, "u")
        check_duration([self.a], 99.0, "u")
        with pytest.raises(MIError, match=r"utterance u: its alignment ends at 1 s, but its audio lasts 0\.4 s"):
            check_duration([self.a, self.b], 0.4, "u")


class TestFrameLabels:
    def test_edges(self):
        intervals = [Interval(0.1, 0.2, "A"), Interval(0.2, 0.3, "B"), Interval(0.4, 0.5, "C")]
        centres = [0.0, 0.1, 0.1999, 0.2, 0.3, 0.35, 0.4, 0.5, 9.0]
        assert list(frame_labels(intervals, centres)) == [None, "A", "A", "B", None, None, "C", None, None]

    def test_float_noise_does_not_move_an_edge(self):
        assert 0.1 + 0.2 != 0.3
        intervals = [Interval(0.0, 0.1 + 0.2, "A"), Interval(0.1 + 0.2, 1.0, "B")]
        assert list(frame_labels(intervals, np.array([0.3]))) == ["B"]

    def test_nothing(self):
        assert list(frame_labels([], np.arange(3.0))) == [None] * 3
        assert frame_labels([Interval(0, 1, "A")], np.zeros(0)).shape == (0,)

    @given(
        steps=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 60), st.sampled_from("ABC")), max_size=30),
        centres=st.lists(st.integers(0, 3000), max_size=60),
    )
    def test_equals_brute_force(self, steps, centres):
        """Gaps, zero-length intervals and edges, on a grid of ms, against one test an interval."""
        now, spans = 0, []
        for gap, length, label in steps:
            spans.append((now + gap, now + gap + length, label))
            now += gap + length
        expected = [next((x for a, b, x in spans if a <= c < b), None) for c in centres]
        intervals = [Interval(a / 1000, b / 1000, x) for a, b, x in spans]
        assert list(frame_labels(intervals, np.array(centres) * 0.001)) == expected


@pytest.mark.shared
@pytest.mark.skipif(not MINI.is_dir(), reason="no ../shared")
class TestRealTextGrids:
    def test_cover_the_audio(self):
        data = DataConfig(libri_root=str(MINI))
        found = open_alignments(AlignmentConfig(path=str(MINI / "alignments")))
        labels = set()
        for split in ("dev-other", "test-other"):
            checked = check_audio(list_utterances(data, split), 0.0, split)
            kept, missing = match_utterances(found, checked.utterances, 0.0)
            assert (len(kept), missing) == (50, [])
            frames = labelled = 0
            for utt in kept:
                n = checked.n_samples[utt.id]
                intervals = found.intervals(utt)
                check_duration(intervals, n / 16000, utt.id)
                got = frame_labels(intervals, (np.arange((n - 400) // 320 + 1) * 320 + 200) / 16000, utt.id)
                frames, labelled = frames + len(got), labelled + sum(x is not None for x in got)
                labels |= {x for x in got if x is not None}
            assert labelled >= 0.95 * frames
        assert len(labels) == 40
        assert "sil" in labels

    def test_shares_as_a_plain_reading_has_them(self):
        """Share of each label in time and in frames, against a regular expression over the tier's text."""
        path = sorted((MINI / "alignments" / "dev-other").rglob("*.TextGrid"))[0]
        tier = path.read_text().split('name = "phones"')[1]
        spans = re.findall(r'xmin = (\S+)\s+xmax = (\S+)\s+text = "(.*)"', tier)
        centres = np.arange(0.0125, float(spans[-1][1]), 0.02)
        plain = [x for c in centres for a, b, x in spans if float(a) <= c < float(b)]
        ours = frame_labels(read_textgrid(path, "phones"), centres)
        assert len(spans) > 20
        assert {x: plain.count(x) for x in plain} == {x: list(ours).count(x) for x in ours}
        assert list(ours) == plain


def test_line_file_keeps_places_only():
    """The index of a file of many utterances must not hold its labels."""
    index = LineFile(ALIGNMENTS / "kaldi.ctm")
    assert "1-2-0001" in index
    assert ";;" not in index
    assert index.lines("1-2-0000")[0] == (2, "1-2-0000 1 0.00 0.10 SIL")
    assert index.lines("1-2-0001") == [(6, "1-2-0001 1 0.00 0.30 17")]
