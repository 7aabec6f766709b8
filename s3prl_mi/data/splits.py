"""Splits: their utterances with readable headers, and the content of their audio files."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ..core.config import DataConfig
from ..core.distributed import from_main, gather, together, world
from ..core.errors import MIError
from ..core.types import SAMPLE_RATE, Seconds
from ..core.words import count
from .audio import (
    AudioError,
    AudioInfo,
    SkipCounter,
    content_hash,
    first_causes,
    read_header,
    same_samples,
)
from .utterances import Utterance, list_utterances


@dataclass(frozen=True)
class Split:
    """One split's utterances, those with readable headers.

    Attributes:
        name: as the config has it.
        headers: what each utterance's header says, by id.
        unreadable: (utterance id, cause) of each file that was left out.
        max_unreadable: the fraction of files that may be unreadable.
        too_long: (utterance id, length in seconds) of each that was left out for its length.
    """

    name: str
    utterances: list[Utterance]
    headers: dict[str, AudioInfo]
    unreadable: list[tuple[str, str]]
    max_unreadable: float
    too_long: Sequence[tuple[str, Seconds]] = ()

    @property
    def found(self) -> int:
        """Number of files that were listed, readable or not."""
        return len(self.utterances) + len(self.unreadable) + len(self.too_long)

    @functools.cached_property
    def n_samples(self) -> dict[str, int]:
        """Utterance id to length in samples at 16 kHz."""
        return {name: header.n_samples for name, header in self.headers.items()}

    @property
    def seconds(self) -> Seconds:
        """Audio in the split."""
        return sum(self.n_samples.values()) / SAMPLE_RATE

    def notes(self) -> list[str]:
        """What a user should know: resampling, mixing down, files left out; one sentence each."""
        rates = Counter(header.native_rate for header in self.headers.values() if header.native_rate != SAMPLE_RATE)
        notes = [f"{n} files resampled from {rate} Hz to {SAMPLE_RATE} Hz." for rate, n in sorted(rates.items())]
        if mixed_down := sum(header.channels > 1 for header in self.headers.values()):
            notes.append(f"{mixed_down} files with several channels mixed down to mono (mean).")
        if self.unreadable:
            notes.append(f"{count(len(self.unreadable), 'unreadable file')} skipped: {first_causes(self.unreadable)}.")
        if self.too_long:
            longest, seconds = max(self.too_long, key=lambda t: t[1])
            notes.append(
                f"{count(len(self.too_long), 'utterance')} left out as longer than datarc.max_seconds; the longest, "
                f"{longest}, is {seconds:.0f} s long."
            )
        return notes

    @functools.cached_property
    def longest_first(self) -> list[Utterance]:
        """The utterances from long to short: the order of stored frames, whatever the batch size."""
        return sorted(self.utterances, key=lambda u: (-self.n_samples[u.id], u.id))

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
    return check_audio(list_utterances(data, name), data.max_unreadable, name, data.max_seconds)


def check_audio(
    utterances: Sequence[Utterance], max_unreadable: float, name: str, max_seconds: Seconds = math.inf
) -> Split:
    """Read the headers of a split's audio files and leave out what cannot be read, up to a fraction of the files.

    Longer utterances than `max_seconds` are left out, too, any number but all.

    A header says nothing about a corrupt body: see `SkipCounter`.

    Raises:
        MIError: a larger fraction is unreadable, or everything is.
    """
    headers: dict[str, AudioInfo] = {}
    unreadable: list[tuple[str, str]] = []
    for utterance in utterances:
        try:
            headers[utterance.id] = read_header(utterance)
        except AudioError as error:
            unreadable.append((utterance.id, str(error)))
    SkipCounter(len(utterances), max_unreadable, name, unreadable).check()
    too_long = [(u, h.n_samples / SAMPLE_RATE) for u, h in headers.items() if h.n_samples > max_seconds * SAMPLE_RATE]
    for name_of_one, _ in too_long:
        del headers[name_of_one]
    if not headers:
        raise MIError(
            f"split {name!r}: every utterance is longer than config key downstream_expert.datarc.max_seconds "
            f"({max_seconds:g}). Raise it."
        )
    return Split(name, [u for u in utterances if u.id in headers], headers, unreadable, max_unreadable, too_long)


def refuse_shared_audio(fit: Sequence[Split], scored: Sequence[Split]) -> None:
    """Refuse speech that is both fitted on and scored, by content: whatever its paths, ids and splits are called.

    The same are files of the same bytes, and files of one length that decode to the same samples (FLAC and WAV of one
    recording). Copies that were resampled or compressed with loss are not found. Costs little: the hashes are those by
    which the store knows the files, and few files have the length of another. All processes ask at the same time.

    Raises:
        MIError: naming the first two files, and how many more there are.
    """
    for split in (*fit, *scored):
        _ = split.hashes
    pairs = from_main(lambda: _same_audio(fit, scored))
    if not pairs:
        return
    (one, other), more = pairs[0], len(pairs) - 1
    raise MIError(
        f"the same speech is fitted on and scored: {one.path} (utterance {one.id} of {one.split}) and {other.path} "
        f"({other.id} of {other.split}) are one recording{f', and so are {more} more pairs' if more else ''}. A bound "
        "needs speech that was not fitted on: take the copies out of datarc.fit_splits or datarc.eval_splits, or halve "
        "one split by speakers (NAME@1/2 and NAME@2/2)."
    )


def _same_audio(fit: Sequence[Split], scored: Sequence[Split]) -> list[tuple[Utterance, Utterance]]:
    """Utterances of both sides that are one recording: the fitted one, the scored one."""
    by_hash = {split.hashes[u.id]: u for split in fit for u in split.utterances}
    by_length: dict[AudioInfo, list[Utterance]] = {}
    for split in fit:
        for u in split.utterances:
            by_length.setdefault(split.headers[u.id], []).append(u)
    found = []
    for split in scored:
        for u in split.utterances:
            same = by_hash.get(split.hashes[u.id]) or next(
                (v for v in by_length.get(split.headers[u.id], ()) if _readable_and_same(u, v)), None
            )
            found += [(same, u)] if same is not None else []
    return found


def _readable_and_same(one: Utterance, other: Utterance) -> bool:
    try:
        return same_samples(one.path, other.path)
    except AudioError:  # a damaged body shows, and is counted, when it is extracted
        return False
