"""Which label each frame has: phones and words of alignments, who speaks, pitch and energy of the audio."""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.config import ALIGNED, AlignmentConfig, DataConfig, MIConfig
from ..core.errors import MIError
from ..core.types import SAMPLE_RATE, IntVector, Seconds
from ..data.alignments.files import Alignments, open_alignments
from ..data.alignments.labels import SILENCE, check_duration, frame_labels
from ..data.prosody import HIGHEST_HZ, LOWEST_HZ, Moments, energy_at, pitch_at
from ..data.utterances import Utterance
from ..estimators.folds import FOLDS
from ..upstreams.geometry import Geometry
from .frame_pairs import Rows, utterance_rows

logger = logging.getLogger(__name__)

MANY_GAPS = 0.5
"""Fraction of frames without an interval above which an alignment is doubtful."""

FEWEST_UTTERANCES = 3
"""Of a speaker that `labels: speaker` counts: two to fit on, so that one can be held out, and one to score."""


class LabelSource(ABC):
    """Where the labels of frames come from."""

    dropped: str | None = None
    """The label whose frames are left out."""

    @abstractmethod
    def of(self, utterance: Utterance, centres: Moments, seconds: Seconds) -> NDArray[Any] | None:
        """Labels at the frames' centres, shape (n_frames,): text, None for a frame without one; or numbers.

        Returns:
            None if the utterance has no labels at all.

        Raises:
            MIError: labels that cannot be read, or of another recording than one of so many seconds.
        """

    @abstractmethod
    def digest(self, utterance: Utterance) -> str | None:
        """Hash of what determines them, None if there are none; the same on every machine."""


class AlignedLabels(LabelSource):
    """Phones or words of alignments."""

    def __init__(self, alignments: Alignments, drop_silence: bool) -> None:
        self._alignments, self.dropped = alignments, SILENCE if drop_silence else None
        self._digests: dict[str, str] = {}

    def of(self, utterance: Utterance, centres: Moments, seconds: Seconds) -> NDArray[Any] | None:
        """The label of the interval that holds each centre."""
        intervals = self._alignments.intervals(utterance)
        if intervals is None:
            return None
        check_duration(intervals, seconds, utterance.id)
        self._digests[utterance.id] = _digest(intervals)
        return frame_labels(intervals, centres, utterance.id)

    def digest(self, utterance: Utterance) -> str | None:
        """Of the intervals."""
        if utterance.id not in self._digests:
            intervals = self._alignments.intervals(utterance)
            if intervals is None:
                return None
            self._digests[utterance.id] = _digest(intervals)
        return self._digests[utterance.id]


@dataclass(frozen=True)
class SpeakerLabels(LabelSource):
    """Who speaks, in the utterances of one side only."""

    utterances: frozenset[str]

    def of(self, utterance: Utterance, centres: Moments, seconds: Seconds) -> NDArray[Any] | None:
        """The speaker of all frames."""
        del seconds
        mine = utterance.id in self.utterances
        return np.full(len(centres), utterance.speaker, dtype=object) if mine else None

    def digest(self, utterance: Utterance) -> str | None:
        """Of the speaker."""
        return _digest([utterance.speaker]) if utterance.id in self.utterances else None


@dataclass(frozen=True)
class ProsodyLabels(LabelSource):
    """Pitch in Hz (NaN: unvoiced) or energy in dB; `hashes` has that of each utterance's audio."""

    kind: str
    hashes: Mapping[str, str]

    def of(self, utterance: Utterance, centres: Moments, seconds: Seconds) -> NDArray[Any] | None:
        """The value at each centre."""
        del seconds
        return (pitch_at if self.kind == "pitch" else energy_at)(utterance, centres)

    def digest(self, utterance: Utterance) -> str | None:
        """Of the audio."""
        return _digest([self.kind, self.hashes[utterance.id]])


def alignments_of(config: DataConfig, labels: str) -> AlignmentConfig:
    """Where phones or words are read: words from the tier of that name, phones from `alignments.tier`."""
    return replace(config.alignments, tier="words") if labels == "words" else config.alignments


def aligned_labels(config: DataConfig, labels: str) -> AlignedLabels:
    """Phones or words."""
    alignments = alignments_of(config, labels)
    return AlignedLabels(open_alignments(alignments), alignments.silence == "drop")


def label_set(config: MIConfig, labels: str) -> str:
    """What the labels are, in words; the first is their name.

    Example:
        >>> label_set(MIConfig(), "phones")
        'phones, stress stripped, silence as a class'
        >>> label_set(MIConfig(), "energy")
        'energy, log RMS of 25 ms, quantiles of the fit split'
    """
    if labels == "speaker":
        return "speaker, utterances of each split between fit and eval"
    if labels == "pitch":
        return f"pitch, Praat {LOWEST_HZ:g} to {HIGHEST_HZ:g} Hz, quantiles of the fit split, and unvoiced"
    if labels == "energy":
        return "energy, log RMS of 25 ms, quantiles of the fit split"
    alignments = alignments_of(config.datarc, labels)
    silence = "silence as a class" if alignments.silence == "class" else "silence dropped"
    stress = "stress stripped" if alignments.strip_stress else "stress kept"
    return ", ".join([alignments.tier, *([stress] if alignments.tier == "phones" else []), silence])


def needs_alignments(labels: Sequence[str]) -> bool:
    """Whether some of these labels are read from alignments."""
    return any(name in ALIGNED for name in labels)


@dataclass(frozen=True)
class Labelled:
    """Frames with a label; `rows` and `labels` have shape (n_frames,)."""

    rows: IntVector
    labels: NDArray[Any]
    """Text, or numbers that are still to be made classes."""
    unlabelled: int
    """Frames left out because the alignment has a gap there, or because silence is dropped."""
    utterances: int
    digest: str
    """Hash of the labels and their times, of all utterances of the side: the same for every upstream, also for one that
    cannot read a recording."""


def labelled_frames(
    entries: Sequence[Rows],
    utterances: Mapping[str, Utterance],
    n_samples: Mapping[str, int],
    source: LabelSource,
    geometry: Geometry,
) -> Labelled:
    """Label each row at the centre of its receptive field.

    Args:
        entries: whose rows these are; utterances without labels are left out.
        utterances: by id.
        n_samples: length of each utterance at 16 kHz.
        source: of the labels.
        geometry: of the upstream's frames.

    Raises:
        MIError: malformed labels, or those of another recording.
    """
    rows: list[IntVector] = []
    labels: list[NDArray[Any]] = []
    unlabelled = used = gaps = frames = 0
    for utterance, start, count in utterance_rows(entries):
        centres, seconds = geometry.centres_seconds(count), n_samples[utterance] / SAMPLE_RATE
        found = source.of(utterances[utterance], centres, seconds)
        if found is None:
            continue
        keep = np.array([v is not None and (source.dropped is None or v != source.dropped) for v in found], np.bool_)
        rows.append(start + np.flatnonzero(keep))
        labels.append(found[keep])
        unlabelled += int((~keep).sum())
        gaps, frames = gaps + sum(v is None for v in found), frames + count
        used += 1
    if gaps > MANY_GAPS * frames:
        logger.warning(
            "%d %% of the frames lie in no interval of their alignment: are its times in seconds, and of this audio? "
            "Those frames are left out.",
            100 * gaps // frames,
        )
    if not rows:
        return Labelled(np.zeros(0, np.int64), np.zeros(0, object), unlabelled, used, "")
    digests = sorted((u.id, d) for u in utterances.values() if (d := source.digest(u)) is not None)
    return Labelled(np.concatenate(rows), np.concatenate(labels), unlabelled, used, _digest(digests))


def _digest(content: Sequence[Any]) -> str:
    """Eight hex digits that tell contents apart."""
    return hashlib.sha256(repr(content).encode()).hexdigest()[:8]


# --- Speakers -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DealtUtterances:
    """The utterances of each speaker, dealt out in turn to be fitted on and scored; `fold` of those fitted on.

    Folds have an utterance of every speaker, so none is unknown where one is held out.
    """

    fit: frozenset[str]
    scored: frozenset[str]
    fold: Mapping[str, int]


def deal_utterances(utterances: Sequence[Utterance]) -> DealtUtterances:
    """Of speakers with at least `FEWEST_UTTERANCES`, every other utterance is fitted on, the first among them.

    Raises:
        MIError: fewer than two such speakers.
    """
    by_speaker: dict[str, list[str]] = {}
    for u in sorted(utterances, key=lambda u: u.id):
        if u.speaker is not None:
            by_speaker.setdefault(u.speaker, []).append(u.id)
    known = [ids for ids in by_speaker.values() if len(ids) >= FEWEST_UTTERANCES]
    if len(known) < 2:
        raise MIError(
            f"config key downstream_expert.labels: speaker needs at least two speakers of {FEWEST_UTTERANCES} "
            f"utterances or more in fit_splits and eval_splits together, found {len(known)}. A manifest names them in "
            "its column speaker."
        )
    folds = min(FOLDS, *(len(ids[::2]) for ids in known))
    return DealtUtterances(
        frozenset(u for ids in known for u in ids[::2]),
        frozenset(u for ids in known for u in ids[1::2]),
        {u: n % folds for ids in known for n, u in enumerate(ids[::2])},
    )
