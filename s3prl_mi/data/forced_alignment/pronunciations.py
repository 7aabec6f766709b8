"""How each word of a corpus may be pronounced: the user's lexicon, PocketSphinx's dictionary, then rules or eSpeak.

For words that no dictionary has: an inflected form of a word that the dictionary has is built from it by rule
("sherburn's", "palings", "seekest"); any other word is spelt by eSpeak NG's US-English voice. On words taken out of
PocketSphinx's own dictionary, one at a time, the rules below give a pronunciation of the dictionary for 75 to 95 % of
words (eSpeak: 13 to 89 % of the same words); rules for "-ed", "-er", "-ly" and for compounds gave no more than
eSpeak, so they are not here. eSpeak gives it for 90 % of the 721 known words of LibriSpeech-mini (2.4 % of phones
wrong) and for 60 % of random dictionary words, most of which are names (10 % of phones wrong).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...core.errors import MIError
from ...core.files import read_text
from ..espeak import ARPABET, espeak

Phones = tuple[str, ...]
"""One pronunciation in ARPAbet; its vowels end in a stress digit only where stress was asked for (`AH0`)."""

VOICE = "gmw/en-US"

VOWELS = frozenset(["AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"])
_SIBILANTS = frozenset({"S", "Z", "SH", "ZH", "CH", "JH"})
_VOICELESS = frozenset({"P", "T", "K", "F", "TH"})

_ENDINGS: Mapping[str, Phones] = {
    "ings": ("IH", "NG", "Z"),
    "ness": ("N", "AH", "S"),
    "less": ("L", "AH", "S"),
    "ing": ("IH", "NG"),
    "est": ("AH", "S", "T"),
    "eth": ("AH", "TH"),
}
_SHORTEST_BASE = 3
"""Letters; shorter bases are chance (`sing` is not `s` + `ing`)."""

# Mnemonics that stand for several phones; `espeak.ARPABET` has one for each, as an alignment needs.
_SEVERAL: Mapping[str, str] = {
    "A@": "AA R", "O@": "AO R", "o@": "AO R", "U@": "UH R", "i@3": "IH R", "i@": "IH R", "e@": "EH R",
    "aI3": "AY ER", "aI@": "AY ER", "aI@3": "AY ER", "aU@": "AW ER", "@L": "AH L", "n-": "AH N", "VR": "AH R",
}  # fmt: skip

PHONE_SET = VOWELS | {
    "B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG", "P", "R", "S", "SH", "T", "TH", "V", "W", "Y",
    "Z", "ZH",
}  # fmt: skip
"""The 39 phones of PocketSphinx's US-English model."""

_OTHER_NAMES: Mapping[str, str] = {
    "AX": "AH", "AXR": "ER", "IX": "IH", "UX": "UW", "DX": "T", "HV": "HH", "NX": "N",
    "EL": "AH L", "EM": "AH M", "EN": "AH N",
}  # fmt: skip
"""ARPAbet phones that other lexicons have and the model lacks."""

VARIANT = re.compile(r"\(\d+\)$")
"""At the end of a further pronunciation of a word: `read(2)`."""


@dataclass(frozen=True, slots=True)
class Pronounced:
    """One word."""

    variants: tuple[Phones, ...]
    """Its pronunciations; the aligner takes the one that fits each time. Empty: its utterances cannot be aligned."""
    source: Literal["lexicon", "dictionary", "rule", "espeak", "none"]
    """Where they come from."""

    @property
    def out_of_vocabulary(self) -> bool:
        """Neither the dictionary nor the user's lexicon has it."""
        return self.source not in ("dictionary", "lexicon")


def pronounce(
    words: Iterable[str],
    dictionary: Mapping[str, list[Phones]],
    lexicon: Mapping[str, list[Phones]],
    stress: bool = False,
) -> dict[str, Pronounced]:
    """Pronunciations for every word (lower case); for one that both have, the user's lexicon counts.

    Args:
        words: lower case.
        dictionary: what is known of the language.
        lexicon: the user's own.
        stress: the vowels of both have stress digits, and so shall those of words that neither has.
    """
    both = {**dictionary, **lexicon}
    found: dict[str, Pronounced] = {}
    for word in sorted(set(words)):
        # 'gospel' in quotes is the word without them; 'tis and the boys' may be entries themselves
        name = word if word in both else word.strip("'")
        if name in both:
            found[word] = Pronounced(tuple(both[name]), "lexicon" if name in lexicon else "dictionary")
        elif variants := derive(word, both) or derive(name, both):
            found[word] = Pronounced(tuple(map(_unstressed, variants) if stress else variants), "rule")
        else:
            phones = spell(name, stress)
            found[word] = Pronounced((phones,), "espeak") if phones else Pronounced((), "none")
    return found


def read_dictionary(path: Path) -> dict[str, list[Phones]]:
    """PocketSphinx's dictionary: lines `word PH PH`, further pronunciations as `word(2) PH PH`.

    Raises:
        MIError: unreadable.
    """
    found: dict[str, list[Phones]] = {}
    for line in read_text(path).splitlines():
        word, *phones = line.split()
        found.setdefault(VARIANT.sub("", word), []).append(tuple(phones))
    return found


def _unstressed(phones: Phones) -> Phones:
    """With 0 at each vowel that has no stress digit: those of an ending."""
    return tuple(f"{phone}0" if phone in VOWELS else phone for phone in phones)


def read_lexicon(path: Path, stress: bool = False) -> dict[str, list[Phones]]:
    """A user's lexicon, such as `librispeech-lexicon.txt`.

    Lines are `A  AH0` or `A 0.7 AH0` (a pronunciation probability is left out); several lines per word are several
    pronunciations. Words are read without regard to case, stress digits are dropped unless `stress` asks for them,
    phones that the model lacks (AX, DX, EL ...) become those it has, and comments (` # name`, as in the CMU dictionary)
    and Kaldi's entries in brackets (<UNK>, !SIL, [noise]) are left out.

    Raises:
        MIError: unreadable, a word without phones, a phone that is not ARPAbet, or a vowel without the stress that is
            asked for (line named).
    """
    found: dict[str, list[Phones]] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        fields = line.partition(" #")[0].split()
        if not fields or line.startswith((";;;", "#")) or fields[0][0] in "<![":
            continue
        word, *names = fields
        if names and re.fullmatch(r"[01]?\.\d+|[01]", names[0]):
            names = names[1:]
        phones: list[str] = []
        for name in names:
            bare = re.sub(r"\d$", "", name.upper())
            new = _OTHER_NAMES.get(bare, bare).split()
            phones += [p + name[-1] if stress and p in VOWELS and name[-1] in "012" else p for p in new]
            if stress and not VOWELS.isdisjoint(phones):
                raise MIError(
                    f"lexicon {path}, line {number}: vowel {name!r} (word {word!r}) has no stress digit, such as "
                    f"{name}1. SUPERB's phones have one."
                )
            if not PHONE_SET.issuperset(new):
                raise MIError(
                    f"lexicon {path}, line {number}: {name!r} (word {word!r}) is not an ARPAbet phone. Phones must be "
                    f"of {' '.join(sorted(PHONE_SET))}, with or without stress digits."
                )
        if not phones:
            raise MIError(f"lexicon {path}, line {number}: word {word!r} has no phones.")
        variants = found.setdefault(VARIANT.sub("", word.lower()), [])
        if tuple(phones) not in variants:
            variants.append(tuple(phones))
    if not found:
        raise MIError(f"lexicon {path}: no word in it. Expected lines such as 'ABANDON  AH0 B AE1 N D AH0 N'.")
    return found


def write_dictionary(path: Path, words: Mapping[str, Pronounced]) -> None:
    """Write the words that have pronunciations as PocketSphinx reads them."""
    lines = [
        f"{word}{'' if number == 1 else f'({number})'} {' '.join(phones)}\n"
        for word, pronounced in words.items()
        for number, phones in enumerate(pronounced.variants, start=1)
    ]
    path.write_text("".join(lines), encoding="utf-8")


# Words that no dictionary has ---------------------------------------------------------------------------------


def derive(word: str, dictionary: Mapping[str, Sequence[Phones]]) -> list[Phones]:
    """Pronunciations of an inflected form whose base is in the dictionary.

    Returns:
        One for each pronunciation of the base; empty if no rule applies.

    Example:
        >>> derive("foxes", {"fox": [("F", "AA", "K", "S")]})
        [('F', 'AA', 'K', 'S', 'IH', 'Z')]
    """

    def known(bases: Iterator[str]) -> Sequence[Phones]:
        return next((dictionary[b] for b in bases if len(b) >= _SHORTEST_BASE and b in dictionary), ())

    if word.endswith("'s"):
        return [_with_s(p) for p in known(iter([word[:-2]]))]
    if word.endswith("s'"):
        return list(known(iter([word[:-1]])))
    for ending, phones in _ENDINGS.items():
        if word.endswith(ending) and (found := known(_bases(word[: -len(ending)], ending))):
            return [p + phones for p in found]
    if word.endswith("s") and not word.endswith("ss"):
        return [_with_s(p) for p in known(_singulars(word))]
    return []


def _bases(stem: str, ending: str) -> Iterator[str]:
    """Spellings of the word that an ending was put on: mak-ing, hop-ping, happi-ness, seek-est."""
    if ending[0] in "aeiou":
        yield stem + "e"
        if stem[-1:] == stem[-2:-1]:
            yield stem[:-1]
    yield stem
    if stem.endswith("i"):
        yield stem[:-1] + "y"


def _singulars(word: str) -> Iterator[str]:
    if word.endswith("ies"):
        yield word[:-3] + "y"
    yield word[:-1]
    if word.endswith(("ses", "xes", "zes", "hes", "oes")):
        yield word[:-2]


def _with_s(phones: Phones) -> Phones:
    """The plural or possessive s, as it sounds after these phones."""
    if phones[-1] in _SIBILANTS:
        return (*phones, "IH", "Z")
    return (*phones, "S" if phones[-1] in _VOICELESS else "Z")


def spell(word: str, stress: bool = False) -> Phones:
    """One pronunciation of a word by eSpeak NG, in ARPAbet; empty where eSpeak has no English sound for it."""
    return arpabet(espeak().phonemes(word, VOICE), stress)


def arpabet(mnemonics: Sequence[str], stress: bool = False) -> Phones:
    """ARPAbet phones of eSpeak's mnemonics, in the ways of the CMU dictionary, with stress digits if asked for.

    A vowel with an r in it is the vowel and R, once (eSpeak writes the r of "period" twice); a short i before a vowel
    is IY.

    Returns:
        Empty if a mnemonic is not a sound of English.

    Example:
        >>> arpabet(["p", "'i@", "r", "I", "@", "d"])
        ('P', 'IH', 'R', 'IY', 'AH', 'D')
        >>> arpabet(["p", "'i@", "r", "I", "@", "d"], stress=True)
        ('P', 'IH1', 'R', 'IY0', 'AH0', 'D')
    """
    phones: list[str] = []
    digits: list[str] = []
    for mnemonic in mnemonics:
        bare = mnemonic.strip("',%=|")
        if bare in ("", ";", ":"):  # stress, palatalisation, length
            continue
        one = next((n for n in (bare, re.sub(r"\d+$", "", bare)) if n in _SEVERAL or n in ARPABET), None)
        if one is None:
            return ()
        digit = "1" if "'" in mnemonic else "2" if "," in mnemonic else "0"
        for phone in _SEVERAL.get(one, ARPABET.get(one, "")).split():
            doubled = phones and phone not in VOWELS and (phone == phones[-1] or (phones[-1], phone) == ("ER", "R"))
            if not doubled:
                phones.append(phone)
                digits.append(digit if stress and phone in VOWELS else "")
                digit = "0" if phone in VOWELS else digit  # the first vowel of a mnemonic bears its stress
    following = [*phones[1:], ""]
    return tuple(
        ("IY" if p == "IH" and q in VOWELS else p) + d for p, q, d in zip(phones, following, digits, strict=True)
    )
