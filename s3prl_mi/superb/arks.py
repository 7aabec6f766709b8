"""Hypotheses and references that s3prl's `ctc` and `asr` write (`<split>-hyp.ark`, `-ref.ark`) -> errors by kind.

A line is `<utterance> <text>`. Distances are rapidfuzz's; `eval` and `distance` have the names of the package
`editdistance`, for which this module stands in where it is not installed (it has no wheel for Python 3.13).

Source: s3prl 0.4.18, downstream/ctc/metric.py and downstream/asr/expert.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rapidfuzz.distance import Levenshtein

from ..core.errors import MIError
from ..core.files import read_text

_KINDS = {"replace": "substitutions", "delete": "deletions", "insert": "insertions"}


def distance(left: Sequence[Hashable], right: Sequence[Hashable]) -> int:
    """Levenshtein distance of two sequences.

    Example:
        >>> distance("kitten", "sitting"), distance(["AH0", "B"], ["B"])
        (3, 1)
    """
    return Levenshtein.distance(left, right)


eval = distance


@dataclass(frozen=True, slots=True)
class Errors:
    """Over all utterances of a pair of files."""

    substitutions: int
    deletions: int
    insertions: int
    reference_length: int
    """Tokens."""
    of_utterances: dict[str, tuple[int, int]]
    """Errors and reference tokens of each."""

    @property
    def percent(self) -> float:
        """All errors over all reference tokens."""
        return 100 * (self.substitutions + self.deletions + self.insertions) / max(1, self.reference_length)


def count_errors(hyp: Path, ref: Path, separator: str | None) -> Errors:
    """Count as s3prl does.

    Args:
        hyp: the hypotheses.
        ref: the references.
        separator: of tokens: None for white space (asr), " " for s3prl's `ctc`, for which an empty text is one token.

    Raises:
        MIError: a file is missing, has an utterance twice, or the two are not of the same utterances.
    """
    hypotheses, references = _read(hyp, separator), _read(ref, separator)
    if hypotheses.keys() != references.keys() or not references:
        raise MIError(f"{hyp}: not the same utterances as {ref.name}; evaluate again to write both.")
    kinds: Counter[str] = Counter()
    found: dict[str, tuple[int, int]] = {}
    for utterance, tokens in references.items():
        edits = Levenshtein.editops(tokens, hypotheses[utterance])
        kinds.update(_KINDS[edit.tag] for edit in edits)
        found[utterance] = (len(edits), len(tokens))
    length = sum(map(len, references.values()))
    return Errors(**{kind: kinds[kind] for kind in _KINDS.values()}, reference_length=length, of_utterances=found)


def _read(path: Path, separator: str | None) -> dict[str, list[str]]:
    """Utterance -> tokens."""
    found: dict[str, list[str]] = {}
    for utterance, _, text in (line.partition(" ") for line in read_text(path).split("\n") if line):
        if utterance in found:  # s3prl cuts file names at their first dot
            raise MIError(
                f"{path}: utterance {utterance!r} occurs twice; give audio files names that differ before a dot."
            )
        found[utterance] = text.split(separator)
    return found
