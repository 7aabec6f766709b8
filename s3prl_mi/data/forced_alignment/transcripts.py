"""What is spoken in an utterance: LibriSpeech's `.trans.txt`, Kaldi's `text`, or a text file next to the audio."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from pathlib import Path

from ...core.errors import MIError
from ...core.files import read_text
from ..utterances import Utterance

SIDE_SUFFIXES = (".lab", ".txt")
"""Transcript of one utterance next to its audio, as the Montreal Forced Aligner reads it."""

_NOT_A_WORD = re.compile(r"[^\w']|_")


def split_words(text: str) -> list[str]:
    """The words of a transcript as a dictionary has them: lower case, without punctuation.

    Apostrophes stay, since they make words ("'tis", "don't"); a hyphen parts two words.

    Example:
        >>> split_words("MISTER QUILTER'S well-known 'gospel' -- he said, “’TIS SO!”")
        ['mister', "quilter's", 'well', 'known', "'gospel'", 'he', 'said', "'tis", 'so']
    """
    tokens = _NOT_A_WORD.sub(" ", text.replace("’", "'").lower()).split()
    return [token for token in tokens if any(c.isalnum() for c in token)]


def read_transcripts(utterances: Iterable[Utterance], listed: Path | None) -> dict[Utterance, str]:
    """What is spoken in each utterance, as written; those without a transcript are left out.

    Args:
        utterances: whose audio the transcripts lie next to.
        listed: a file with lines `<utterance id> <text>` for all utterances (Kaldi's `text`); None looks next to each
            audio file, for `*.trans.txt` with such lines and then for `<name>.lab` or `<name>.txt`.

    Raises:
        MIError: a file cannot be read, or has two texts for one id.
    """

    @functools.cache
    def lines(folder: Path) -> dict[str, str]:
        return _read_lines([listed] if listed is not None else sorted(folder.glob("*.trans.txt")))

    found: dict[Utterance, str] = {}
    for utterance in utterances:
        text = lines(Path() if listed is not None else utterance.path.parent).get(utterance.id)
        sides = () if listed is not None else (utterance.path.with_suffix(suffix) for suffix in SIDE_SUFFIXES)
        text = text if text is not None else next((read_text(side) for side in sides if side.is_file()), None)
        if text is not None:
            found[utterance] = text
    return found


def absence(utterance: Utterance, listed: Path | None) -> str:
    """That an utterance has no transcript, and where it was looked for."""
    if listed is not None:
        return f"no transcript in {listed}"
    names = " or ".join(utterance.path.with_suffix(s).name for s in SIDE_SUFFIXES)
    return f"no transcript in {utterance.path.parent}: no *.trans.txt has its id, and there is no {names}"


def _read_lines(paths: Iterable[Path]) -> dict[str, str]:
    """Utterance id -> text, from lines `<id> <text>`; an id has one text."""
    found: dict[str, str] = {}
    for path in paths:
        for number, line in enumerate(read_text(path).splitlines(), start=1):
            name, text = [*re.split(r"[ \t]", line.strip(), maxsplit=1), ""][:2]
            if name and found.setdefault(name, text) != text:
                raise MIError(
                    f"transcripts {path}, line {number}: utterance {name!r} had another text before. Remove one."
                )
    return found
