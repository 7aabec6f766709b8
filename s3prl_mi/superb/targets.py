"""Utterances -> what a task is to recognise: phones or characters of its vocabulary; what has none is skipped."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.files import read_text, write_whole
from ..data.forced_alignment.corpus import split_words
from ..data.forced_alignment.pronunciations import Pronounced
from . import lexicon
from .corpus import Corpus, Spoken, check_left, read_corpus

VOCABULARY = Path(__file__).with_name("vocabulary")

WORD_END = "|"
"""Parts words in s3prl's `asr`."""


@dataclass(frozen=True)
class Targets:
    """Of all splits of a run."""

    splits: dict[str, tuple[tuple[Spoken, tuple[str, ...]], ...]]
    """Name of a split -> its utterances with their symbols."""
    skipped: dict[str, str]
    """Utterance id -> why it is left out."""
    guessed: dict[str, tuple[int, Pronounced]]
    """Word that the lexicon lacks -> how often it is spoken, its pronunciation."""
    n_words: int = 0
    """Spoken in all splits."""


@functools.lru_cache(maxsize=8)
def phone_targets(root: Path, splits: tuple[str, ...], files: tuple[Path, ...], vocabulary: frozenset[str]) -> Targets:
    """Phones of every utterance, by the first pronunciation of each word.

    Args:
        root: LibriSpeech's folder.
        splits: names of splits.
        files: lexicons; none for the default one.
        vocabulary: the symbols that the task knows.

    Raises:
        MIError: see `read_corpus` and `lexicon.read`.
    """
    corpus = read_corpus(root, splits)
    words = {u: split_words(u.text) for utterances in corpus.splits.values() for u in utterances}
    spoken = Counter(word for line in words.values() for word in line)
    pronounced = lexicon.read(files).pronounce(spoken)

    def phones(utterance: Spoken) -> tuple[str, ...] | str:
        line = words[utterance]
        if not line:
            return f"{utterance.path}: its transcript has no word"
        if mute := sorted({word for word in line if not pronounced[word].variants}):
            return f"{utterance.path}: no pronunciation for {', '.join(mute)}; give one in a lexicon"
        found = tuple(phone for word in line for phone in pronounced[word].variants[0])
        return _known(utterance, found, vocabulary)

    guessed = {w: (spoken[w], p) for w, p in pronounced.items() if p.out_of_vocabulary}
    return _sort_out(corpus, phones, guessed, spoken.total())


@functools.lru_cache(maxsize=8)
def character_targets(root: Path, splits: tuple[str, ...], vocabulary: frozenset[str]) -> Targets:
    """Characters of every utterance, upper case; words end in `|`.

    Raises:
        MIError: see `read_corpus`.
    """

    def characters(utterance: Spoken) -> tuple[str, ...] | str:
        found = tuple(WORD_END.join([*utterance.text.upper().split(), ""]))
        if not found:
            return f"{utterance.path}: its transcript has no word"
        return _known(utterance, found, vocabulary)

    return _sort_out(read_corpus(root, splits), characters, {}, 0)


def _known(utterance: Spoken, symbols: tuple[str, ...], vocabulary: frozenset[str]) -> tuple[str, ...] | str:
    if unknown := sorted(set(symbols) - vocabulary):
        return f"{utterance.path}: its transcript has {', '.join(map(repr, unknown))}, which the vocabulary lacks"
    return symbols


def _sort_out(
    corpus: Corpus,
    convert: Callable[[Spoken], tuple[str, ...] | str],
    guessed: dict[str, tuple[int, Pronounced]],
    n_words: int,
) -> Targets:
    """Utterances that could be converted, and for each of the others the reason that `convert` gives."""
    skipped = dict(corpus.skipped)
    splits: dict[str, tuple[tuple[Spoken, tuple[str, ...]], ...]] = {}
    for split, utterances in corpus.splits.items():
        converted = [(u, convert(u)) for u in utterances]
        skipped |= {u.id: found for u, found in converted if isinstance(found, str)}
        splits[split] = tuple((u, found) for u, found in converted if not isinstance(found, str))
        check_left(skipped, len(splits[split]), split)
    return Targets(splits, skipped, guessed, n_words)


def symbols_of(path: Path) -> frozenset[str]:
    """The symbols of a vocabulary file: one a line; a count may follow, as in fairseq's.

    Raises:
        MIError: unreadable.
    """
    lines = read_text(path).split("\n")
    return frozenset(re.sub(r"(?<=\S) \d+$", "", line) for line in lines if line)


def write_lists(targets: Targets, folder: Path) -> None:
    """Leave what was skipped and what was guessed in a run's folder, as tables."""
    guessed = sorted(targets.guessed.items(), key=lambda item: (-item[1][0], item[0]))
    words = [(w, str(n), p.source, " ".join(p.variants[0]) if p.variants else "") for w, (n, p) in guessed]
    _write_table(folder / "superb_guessed_words.tsv", ("word", "count", "source", "pronunciation"), words)
    _write_table(folder / "superb_skipped.tsv", ("id", "reason"), list(targets.skipped.items()))


def _write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if rows:
        write_whole(path, "".join("\t".join(row) + "\n" for row in (header, *rows)))
    else:
        path.unlink(missing_ok=True)
