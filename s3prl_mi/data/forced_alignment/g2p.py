"""Pronunciations for words that no dictionary has.

An inflected form of a word that the dictionary has is built from it by rule ("sherburn's", "palings", "seekest"); any
other word is spelt by eSpeak NG's US-English voice. On words taken out of PocketSphinx's own dictionary, one at a
time, the rules below give a pronunciation of the dictionary for 75 to 95 % of words (eSpeak: 13 to 89 % of the same
words); rules for "-ed", "-er", "-ly" and for compounds were tried and gave no more than eSpeak, so they are not here.
eSpeak gives it for 90 % of the 721 known words of LibriSpeech-mini (2.4 % of phones wrong) and for 60 % of random
dictionary words, most of which are names (10 % of phones wrong).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from ..espeak import ARPABET, espeak

Phones = tuple[str, ...]
"""One pronunciation, ARPAbet without stress."""

VOICE = "gmw/en-US"

# fmt: off
VOWELS = frozenset({
    "AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW",
})
# fmt: on
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


def derive(word: str, dictionary: Mapping[str, Sequence[Phones]]) -> list[Phones]:
    """Pronunciations of an inflected form whose base is in the dictionary.

    Args:
        word: lower case.
        dictionary: word -> pronunciations.

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


def spell(word: str) -> Phones:
    """One pronunciation of a word by eSpeak NG.

    Returns:
        ARPAbet phones; empty where eSpeak has no English sound for it.

    Raises:
        MIError: eSpeak NG cannot be loaded.
    """
    return arpabet(espeak().phonemes(word, VOICE))


def arpabet(mnemonics: Sequence[str]) -> Phones:
    """ARPAbet phones of eSpeak's mnemonics, in the ways of the CMU dictionary.

    A vowel with an r in it is the vowel and R, once (eSpeak writes the r of "period" twice); a short i before a vowel
    is IY.

    Returns:
        Empty if a mnemonic is not a sound of English.

    Example:
        >>> arpabet(["p", "'i@", "r", "I", "@", "d"])
        ('P', 'IH', 'R', 'IY', 'AH', 'D')
    """
    phones: list[str] = []
    for mnemonic in mnemonics:
        bare = mnemonic.strip("',%=|")
        if bare in ("", ";", ":"):  # stress, palatalisation, length
            continue
        one = next((n for n in (bare, re.sub(r"\d+$", "", bare)) if n in _SEVERAL or n in ARPABET), None)
        if one is None:
            return ()
        for phone in _SEVERAL.get(one, ARPABET.get(one, "")).split():
            doubled = phones and phone not in VOWELS and (phone == phones[-1] or (phones[-1], phone) == ("ER", "R"))
            if not doubled:
                phones.append(phone)
    following = [*phones[1:], ""]
    return tuple("IY" if (p == "IH" and q in VOWELS) else p for p, q in zip(phones, following, strict=True))
