"""Words to phones, what is skipped and counted, and the datasets that s3prl's wheel lacks."""

import importlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from s3prl_mi.core.errors import MIError
from s3prl_mi.data.forced_alignment.pronunciations import PHONE_SET, VOWELS
from s3prl_mi.downstream import hook
from s3prl_mi.superb import lexicon
from s3prl_mi.superb.corpus import read_corpus
from s3prl_mi.superb.targets import VOCABULARY, character_targets, phone_targets, symbols_of
from tests.superb.conftest import TEXTS

PHONES = symbols_of(VOCABULARY / "phones.txt")


def lines(name):
    return (VOCABULARY / name).read_text().splitlines()


def test_vocabularies_have_s3prls_order():
    """A downstream checkpoint's output layer depends on it: phones in alphabetical order, after the two silences."""
    stressed = [f"{p}{digit}" for p in VOWELS for digit in "012"]
    assert lines("phones.txt") == ["SIL", "SPN", *sorted([*stressed, *(PHONE_SET - VOWELS)])]
    assert lines("characters.txt") == [" ", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'"]
    assert [line.split()[0] for line in lines("characters.dict")] == list("|ETAONIHSRDLUMCWFGYPBVK'XJQZ")
    assert len(symbols_of(VOCABULARY / "characters.dict")) == 28


class TestLexicon:
    def test_the_default_one_has_stress(self):
        found = lexicon.read(()).pronounce(["international", "the", "bird"])
        assert found["international"].variants[0] == tuple(
            ["IH2", "N", "T", "ER0", "N", "AE1", "SH", "AH0", "N", "AH0", "L"]
        )
        assert (found["the"].variants[0], found["bird"].variants[0]) == (("DH", "AH0"), ("B", "ER1", "D"))
        assert {p.source for p in found.values()} == {"dictionary"}

    def test_every_phone_of_it_is_in_the_vocabulary(self):
        found = {phone for variants in lexicon.read(()).entries.values() for p in variants for phone in p}
        assert found <= PHONES
        assert len(found) == 69

    def test_words_that_it_lacks_are_guessed_with_stress(self):
        found = lexicon.read(()).pronounce(["seekest", "sherburn's", "helstone"])
        assert found["seekest"].variants[0] == ("S", "IY1", "K", "AH0", "S", "T")
        assert found["helstone"].variants[0] == ("HH", "EH1", "L", "S", "T", "OW0", "N")
        assert [found[w].source for w in ("seekest", "sherburn's", "helstone")] == ["rule", "rule", "espeak"]

    def test_the_users_files_count_in_their_order(self, tmp_path):
        (tmp_path / "a.txt").write_text("SEE\tS IY1\nMOON\tM UW1 N\n")
        (tmp_path / "b.txt").write_text("see(2) S EH0  # a comment\nkeep K IY1 P\n")
        found = lexicon.read((tmp_path / "a.txt", tmp_path / "b.txt"))
        assert found.name == "a.txt, b.txt"
        assert found.entries["see"] == [("S", "IY1"), ("S", "EH0")]
        assert found.pronounce(["keep"])["keep"].variants == (("K", "IY1", "P"),)
        assert found.pronounce(["bird"])["bird"].out_of_vocabulary

    def test_a_lexicon_without_stress_is_refused(self, tmp_path):
        (tmp_path / "a.txt").write_text("SEE S IY1\nMOON M UW N\n")
        with pytest.raises(MIError, match=r"a.txt, line 2: vowel 'UW' .* has no stress digit"):
            lexicon.read((tmp_path / "a.txt",))


class TestTargets:
    def test_phones(self, spoken):
        found = phone_targets(spoken.root, ("fit-b", "eval@1/2"), (), PHONES)
        assert {name: len(rows) for name, rows in found.splits.items()} == {"fit-b": 3, "eval@1/2": 3}
        assert " ".join(found.splits["fit-b"][0][1]) == "S IY1 DH AH0 M UW1 N"
        assert (found.skipped, found.n_words) == ({}, 22)
        assert {w: n for w, (n, _) in found.guessed.items()} == {"quilter's": 2}

    def test_characters(self, spoken):
        found = character_targets(spoken.root, ("fit-b",), symbols_of(VOCABULARY / "characters.dict"))
        assert "".join(found.splits["fit-b"][0][1]) == "SEE|THE|MOON|"

    def test_what_cannot_be_used_is_skipped_with_its_reason(self, spoken):
        bad, rate, untold, strange = spoken.of("fit-a")[:4]
        spoken.audio[bad].write_bytes(b"")
        soundfile.write(spoken.audio[rate], np.zeros(8000), 8000)
        for path in spoken.root.rglob("*.trans.txt"):
            rows = [r for r in path.read_text().splitlines() if not r.startswith(untold)]
            path.write_text("\n".join(f"{strange} CAFÉ 3" if r.startswith(strange) else r for r in rows) + "\n")
        found = character_targets(spoken.root, ("fit-a",), symbols_of(VOCABULARY / "characters.dict"))
        assert len(found.splits["fit-a"]) == 2
        assert found.skipped.keys() == {bad, rate, untold, strange}
        assert "empty (0 bytes)" in found.skipped[bad]
        assert "8000 Hz, 1 channels" in found.skipped[rate]
        assert "no *.trans.txt has its id" in found.skipped[untold]
        assert "'3', 'É', which the vocabulary lacks" in found.skipped[strange]

    def test_nothing_left_and_no_such_split_are_refused(self, spoken):
        with pytest.raises(MIError, match=r"no such folder in .* 'eval'\? It holds: eval, fit-a, fit-b"):
            read_corpus(spoken.root, ("evil",))
        for path in spoken.root.rglob("*.trans.txt"):
            path.unlink()
        with pytest.raises(MIError, match=r"split 'eval': no utterance of it can be used; the first: no transcript"):
            read_corpus(spoken.root, ("eval",))

    def test_headers_are_read_once(self, spoken, monkeypatch):
        first = read_corpus(spoken.root, ("fit-b",))
        read_corpus.cache_clear()
        monkeypatch.setattr("s3prl_mi.superb.corpus.read_header", None)
        assert read_corpus(spoken.root, ("fit-b",)) == first


class TestDatasets:
    """As s3prl's ctc/data.py uses them."""

    def dataset(self, spoken, bucket_size):
        hook.install()
        module = importlib.import_module("s3prl.downstream.ctc.corpus.libriphone")
        tokenizer = SimpleNamespace(_vocab2idx=dict.fromkeys(PHONES), encode=lambda text: text.split())
        return module.LibriPhoneDataset(["fit-b"], tokenizer, bucket_size, path=str(spoken.root), lexicon=[], dev=["x"])

    def test_single_items_from_long_to_short(self, spoken):
        found = self.dataset(spoken, 1)
        assert len(found) == 3
        assert [len(tokens) for _, tokens in found] == sorted((len(t) for _, t in found), reverse=True)
        assert Path(found[0][0]).is_file()

    def test_characters(self, spoken):
        """`ctc` with corpus.name librispeech: the text itself, by s3prl's own encoder."""
        hook.install()
        module = importlib.import_module("s3prl.downstream.ctc.corpus.librispeech")
        encoder = importlib.import_module("s3prl.downstream.ctc.text").load_text_encoder(
            "character", str(VOCABULARY / "characters.txt")
        )
        found = list(module.LibriDataset(["fit-b"], encoder, 1, path=str(spoken.root)))
        assert sorted(encoder.decode(tokens) for _, tokens in found) == sorted(TEXTS)

    def test_a_batch_begins_at_each_utterance_but_stays_whole(self, spoken):
        found, single = self.dataset(spoken, 2), list(self.dataset(spoken, 1))
        assert [found[i] for i in range(3)] == [single[0:2], single[1:3], single[1:3]]
        assert self.dataset(spoken, 16)[2] == single
