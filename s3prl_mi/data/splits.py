"""Splits: their utterances with readable headers, and the content of their audio files."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from ..core.config import DataConfig
from ..core.distributed import gather, together, world
from ..core.errors import MIError
from ..core.types import Seconds
from ..core.words import count
from .audio import AudioError, Checked, check_audio, content_hash
from .utterances import Utterance, list_utterances


@dataclass(frozen=True)
class Split:
    """One split's utterances, those with readable headers.

    `found` counts all files that were listed, readable or not.
    """

    name: str
    utterances: list[Utterance]
    checked: Checked
    max_unreadable: float
    found: int

    @property
    def seconds(self) -> Seconds:
        """Audio in the split."""
        return self.checked.seconds

    @functools.cached_property
    def longest_first(self) -> list[Utterance]:
        """The utterances from long to short: the order of stored frames, whatever the batch size."""
        return sorted(self.utterances, key=lambda u: (-self.checked.n_samples[u.id], u.id))

    @functools.cached_property
    def hashes(self) -> dict[str, str]:
        """The content of each utterance's audio file, by id.

        Several processes share the reading: all ask for it at the same time.

        Raises:
            MIError: a file has disappeared.
        """
        here = world()
        with together():
            try:
                own = {u.id: content_hash(u.path) for u in self.utterances[here.rank :: here.size]}
            except AudioError as error:
                raise MIError(f"{error}. Did it disappear while this run was reading?") from None
        return {name: digest for part in gather(own) for name, digest in part.items()}

    @property
    def speakers(self) -> set[str]:
        """The speakers that are known."""
        return {u.speaker for u in self.utterances if u.speaker is not None}

    def describe(self) -> str:
        """One line for the screen.

        Example: `dev-other: 50 utterances, 7.0 min, 5 speakers`.
        """
        speakers = f", {count(len(self.speakers), 'speaker')}" if self.speakers else ""
        return f"{self.name}: {count(len(self.utterances), 'utterance')}, {self.seconds / 60:.1f} min{speakers}"


def read_split(data: DataConfig, name: str) -> Split:
    """List a split and read the headers of its files.

    Raises:
        MIError: no such split, no audio, or too many unreadable files.
    """
    checked = check_audio(list_utterances(data, name), data.max_unreadable)
    found = len(checked.kept) + len(checked.unreadable)
    return Split(name, checked.kept, checked, data.max_unreadable, found)
