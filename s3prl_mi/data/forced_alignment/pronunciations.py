"""How each word of a corpus may be pronounced: the user's lexicon, PocketSphinx's dictionary, then `g2p`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...core.errors import MIError
from ...core.files import read_text
from .g2p import VOWELS, Phones, derive, spell

# fmt: off
PHONE_SET = VOWELS | {
    "B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG", "P", "R", "S", "SH", "T", "TH", "V", "W",
    "Y", "Z", "ZH",
}
"""The 39 phones of PocketSphinx's US-English model."""

_OTHER_NAMES: Mapping[str, str] = {
    "AX": "AH", "AXR": "ER", "IX": "IH", "UX": "UW", "DX": "T", "HV": "HH", "NX": "N",
    "EL": "AH L", "EM": "AH M", "EN": "AH N",
}
"""ARPAbet phones that other lexicons have and the model lacks."""
# fmt: on

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
    words: Iterable[str], dictionary: Mapping[str, list[Phones]], lexicon: Mapping[str, list[Phones]]
) -> dict[str, Pronounced]:
    """Pronunciations for every word.

    Args:
        words: lower case.
        dictionary: of PocketSphinx.
        lexicon: of the user; for a word that both have, the user's counts.
    """
    both = {**dictionary, **lexicon}
    found: dict[str, Pronounced] = {}
    for word in sorted(set(words)):
        # 'gospel' in quotes is the word without them; 'tis and the boys' may be entries themselves
        name = word if word in both else word.strip("'")
        if name in both:
            found[word] = Pronounced(tuple(both[name]), "lexicon" if name in lexicon else "dictionary")
        elif variants := derive(word, both) or derive(name, both):
            found[word] = Pronounced(tuple(variants), "rule")
        else:
            phones = spell(name)
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


def read_lexicon(path: Path) -> dict[str, list[Phones]]:
    """A user's lexicon, such as `librispeech-lexicon.txt`.

    Lines are `A  AH0` or `A 0.7 AH0` (a pronunciation probability is left out); several lines per word are several
    pronunciations. Words are read without regard to case, stress digits are dropped, phones that the model lacks
    (AX, DX, EL ...) become those it has, and Kaldi's entries in brackets (<UNK>, !SIL, [noise]) are left out.

    Raises:
        MIError: unreadable, a word without phones, or a phone that is not ARPAbet (line named).
    """
    found: dict[str, list[Phones]] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        fields = line.split()
        if not fields or line.startswith((";;;", "#")) or fields[0][0] in "<![":
            continue
        word, *names = fields
        if names and re.fullmatch(r"[01]?\.\d+|[01]", names[0]):
            names = names[1:]
        phones: list[str] = []
        for name in names:
            bare = re.sub(r"\d$", "", name.upper())
            phones += _OTHER_NAMES.get(bare, bare).split()
            if not PHONE_SET.issuperset(phones):
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
