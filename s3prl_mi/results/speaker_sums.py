"""What an estimate is made of by eval speaker: `mi_speakers.jsonl`, one line per estimate, next to `mi_results.jsonl`.

Intervals over speakers, and paired differences of two estimates on the same speech, are computed from these lines:
nothing is scored a second time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.files import append_lines
from ..core.types import Bits
from ..estimators.intervals import LeftOut
from .class_contributions import EstimateLine
from .collect import Result
from .record import SCHEMA_VERSION, Record, read_versioned

if TYPE_CHECKING:
    from ..estimators.mi_supervised import Estimate

SPEAKERS_FILE = "mi_speakers.jsonl"
MOST_CELLS = 20_000
"""With more groups times classes than this (thousands of utterances, words) frames are not written by class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeakerRecord(EstimateLine):
    """The sums of one estimate by group: eval speaker; utterance where speakers are unknown."""

    upstream_sha256: str
    over: str
    """`speakers` or `utterances`."""
    groups: list[str]
    """Names, sorted; those without a scored frame are left out."""
    frames: list[int]
    """Frames of each group that were scored."""
    loss_bits: list[float]
    """Sum of -log2 q(target | frame) over the frames of each group."""
    mi_lower_bound_bits: Bits
    """The bound of all groups, as in `mi_results.jsonl`."""
    bound_without_bits: list[Bits]
    """The bound without each group: all that the jackknife needs."""
    within_bits: list[Bits] | None = None
    """H - CE of each group with the class frequencies of its own frames; their mean over frames is
    `within_speaker_bits` in `mi_results.jsonl`. Not bounds of I(Z;Y) or I(Za;Zb)."""
    fit_over: str | None = None
    """With `fit_ci: true`, of the fit side: `speakers` or `utterances`."""
    fit_groups: list[str] | None = None
    """Those left out together, joined by `+`."""
    fit_bound_without_bits: list[Bits] | None = None
    """The bound of probes fitted without each of these groups."""
    class_frames: list[list[int]] | None = None
    """Frames by group (row) and class (column); None above 20 000 numbers."""
    schema_version: int = SCHEMA_VERSION

    def left_out(self) -> LeftOut:
        """For intervals and paired differences."""
        return LeftOut(self.over, tuple(self.groups), self.mi_lower_bound_bits, np.array(self.bound_without_bits))

    def fit_left_out(self) -> LeftOut | None:
        """The same of the fit side, where it was asked for."""
        if self.fit_over is None or self.fit_groups is None or self.fit_bound_without_bits is None:
            return None
        without = np.array(self.fit_bound_without_bits)
        return LeftOut(self.fit_over, tuple(self.fit_groups), self.mi_lower_bound_bits, without)


def speaker_records(records: Sequence[Record], estimates: Sequence[Estimate]) -> list[SpeakerRecord]:
    """The sums of some estimates, given their records in the same order."""
    found = []
    for r, e in zip(records, estimates, strict=True):
        sums, fit = e.by_group, e.fit_left_out
        if sums is None:
            continue
        found.append(
            SpeakerRecord(
                **EstimateLine.fields_of(r),
                upstream_sha256=r.upstream_sha256,
                over=sums.over,
                groups=list(sums.groups),
                frames=sums.class_frames.sum(1).tolist(),
                loss_bits=sums.loss_bits.tolist(),
                mi_lower_bound_bits=r.mi_lower_bound_bits,
                bound_without_bits=sums.left_out().without_each.tolist(),
                within_bits=sums.within_groups().tolist(),
                fit_over=fit.over if fit else None,
                fit_groups=list(fit.groups) if fit else None,
                fit_bound_without_bits=fit.without_each.tolist() if fit else None,
                class_frames=sums.class_frames.tolist() if sums.class_frames.size <= MOST_CELLS else None,
            )
        )
    return found


def append_speakers(path: Path, records: Iterable[SpeakerRecord]) -> None:
    """Append to a `mi_speakers.jsonl`, whole lines, forced to disk."""
    append_lines(path, (dataclasses.asdict(r) for r in records))


def read_speakers(path: Path, wanted: Iterable[Record]) -> list[SpeakerRecord]:
    """Read the lines of some records from a `mi_speakers.jsonl`; an empty list where there is none.

    Raises:
        MIError: as in `read_records`.
    """
    keys = {sums_key(r) for r in wanted}
    return [line for line in read_versioned(path, SpeakerRecord, {}) if sums_key(line) in keys]


def sums_of(results: Iterable[Result]) -> list[SpeakerRecord]:
    """The lines of the records of several experiments."""
    return [line for r in results for line in read_speakers(r.folder / SPEAKERS_FILE, r.records)]


def sums_key(line: Record | SpeakerRecord) -> tuple[Any, ...]:
    """Finds the sums of a record, also among those of several experiments."""
    return (line.task, line.upstream_sha256, line.mi_lower_bound_bits, *line.identity())
