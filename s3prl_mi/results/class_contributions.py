"""What each class contributes to an estimate: `mi_classes.jsonl`, one line per estimate, next to `mi_results.jsonl`.

The bound is a mean over frames, ``mean[log2 q(y|z) - log2 p(y)]``, so it is also a sum over classes: the contribution
of class k is the part of that mean that comes from the frames of class k. Contributions may be negative (the probe
does worse on that class than its frequency alone would) and sum to `mi_lower_bound_bits`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.files import append_lines
from ..core.types import Bits
from .record import RENAMED_IN_2, SCHEMA_VERSION, Record, labels_of, read_versioned

if TYPE_CHECKING:
    from ..estimators.mi_supervised import Estimate

CLASSES_FILE = "mi_classes.jsonl"
_RENAMED = RENAMED_IN_2 | {"labels": "class_names", "bits": "contribution_bits"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimateLine:
    """A line about one estimate; these fields are those of its record in `mi_results.jsonl`."""

    task: str
    layer: int | str
    probe: str
    view: str | None = None
    scored_frames: str
    n_clusters: int | None = None
    seed: int
    labels: str | None = None

    def identity(self) -> tuple[Any, ...]:
        """As `Record.identity`."""
        return (self.layer, self.probe, self.view, self.scored_frames, self.n_clusters, self.seed, labels_of(self))

    @staticmethod
    def fields_of(record: Record) -> dict[str, Any]:
        """These fields of a record."""
        return {f.name: getattr(record, f.name) for f in dataclasses.fields(EstimateLine)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRecord(EstimateLine):
    """The classes of one estimate."""

    class_names: list[str]
    """Name of each class: phones, words, speakers, or a range of pitch or energy; numbers of clusters in mi_views."""
    eval_frames: list[int]
    """Frames of each class that were scored; in mi_views this is the use of the codebook."""
    contribution_bits: list[Bits]
    """Contribution of each class to the bound; they sum to it."""
    confusion: list[list[int]] | None = None
    """Frames by true class (row) and most probable class (column); None above 100 classes, and in
    mi_views, where a cluster's number means nothing."""
    schema_version: int = SCHEMA_VERSION

    @property
    def bits_per_frame(self) -> list[Bits]:
        """Mean bits that a frame of each class yields; 0 for a class that was not scored."""
        total = sum(self.eval_frames)
        return [b * total / n if n else 0.0 for b, n in zip(self.contribution_bits, self.eval_frames, strict=True)]


def class_records(records: Sequence[Record], estimates: Sequence[Estimate], names: Sequence[str]) -> list[ClassRecord]:
    """The classes of some estimates.

    Args:
        records: of the estimates.
        estimates: as many, in the same order.
        names: of the classes.
    """
    return [
        ClassRecord(
            **EstimateLine.fields_of(r),
            class_names=list(names),
            eval_frames=e.class_frames,
            contribution_bits=e.class_bits,
            confusion=None if r.task == "mi_views" else e.confusion,
        )
        for r, e in zip(records, estimates, strict=True)
    ]


def append_classes(path: Path, records: Iterable[ClassRecord]) -> None:
    """Append to a `mi_classes.jsonl`, whole lines, forced to disk."""
    append_lines(path, (dataclasses.asdict(r) for r in records))


def read_classes(path: Path, wanted: Sequence[Record] | None = None) -> list[ClassRecord]:
    """Read a `mi_classes.jsonl`; an empty list where there is none. If an estimate occurs twice, the later counts.

    Args:
        path: the file.
        wanted: only the classes of these records, if given.

    Raises:
        MIError: as in `read_records`.
    """
    found = {record.identity(): record for record in read_versioned(path, ClassRecord, _RENAMED)}
    if wanted is None:
        return list(found.values())
    return [found[key] for key in dict.fromkeys(r.identity() for r in wanted) if key in found]
