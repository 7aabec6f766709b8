"""Numbers beside the bounds: `mi_measures.jsonl`, one line per layer and measure, next to `mi_results.jsonl`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..core.files import append_lines
from .record import SCHEMA_VERSION, read_versioned

MEASURES_FILE = "mi_measures.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureRecord:
    """One measure of one layer (`s3prl-mi explain measures` says what each is)."""

    task: str
    """`mi_views` (measures without labels) or `mi_supervised` (with labels)."""
    upstream: str
    """s3prl's name of the upstream (`-u`)."""
    upstream_sha256: str
    """Hash of the loaded weights and settings: two upstreams with the same hash are the same model."""
    step: int | None = None
    """Training step of the checkpoint, as in `mi_results.jsonl`."""
    series: str | None = None
    """The series of which the checkpoint is a step, as in `mi_results.jsonl`."""
    layer: int | str
    """Index into the upstream's hidden states, or `weighted`."""
    last_layer: int
    """Index of the encoder's last layer."""
    frame_shift_ms: float
    """Time from frame to frame."""
    measure: str
    """Its name in the config."""
    labels: str | None = None
    """What the labels are that it reads: `phones` or `words`; None where it reads none, and in old records."""
    value: float | None
    """None where it is not defined (states that do not vary, one cluster)."""
    unit: str
    """Of the value: `bits`, `dimensions`, `0 to 1`, `ratio`, `exponent`."""
    better: str
    """Which values speak for a layer or checkpoint: `higher`, `lower`, `near 1`."""
    ci_low: float | None = None
    """Lower end of the 95 % interval over eval speakers; None where the measure has none."""
    ci_high: float | None = None
    """Its upper end."""
    ci_over: str | None = None
    """What the interval is over: `speakers`; `utterances` where speakers are unknown."""
    ci_groups: int | None = None
    """How many groups of them were left out in turn, at most 10."""
    view: str | None = None
    """The two views that pairs and codebook are of; None where neither is read."""
    scored_frames: str | None = None
    """Frames that pairs are of: `masked`, `unmasked` or `all`; None where none are read."""
    n_clusters: int | None = None
    """Size of the codebook; None where none is read."""
    protocol: str
    """Of the run, as in `mi_results.jsonl`."""
    fit_splits: list[str]
    """Splits that a codebook and every choice were made on."""
    eval_splits: list[str]
    """Splits that were measured."""
    frames: int
    """Eval frames (or pairs) there are; at most 50 000 (20 000 pairs), evenly spaced, are read."""
    seconds: float = 0.0
    """Time it took; what several measures share counts for the first of them."""
    versions: dict[str, str] = field(default_factory=dict)
    """As in `mi_results.jsonl`."""
    schema_version: int = SCHEMA_VERSION
    """As in `mi_results.jsonl`."""


def append_measures(path: Path, records: Iterable[MeasureRecord]) -> None:
    """Append to a `mi_measures.jsonl`, whole lines, forced to disk; no file where there is nothing to write."""
    lines = [dataclasses.asdict(r) for r in records]
    if lines:
        append_lines(path, lines)


def read_measures(path: Path) -> list[MeasureRecord]:
    """Every whole line of a `mi_measures.jsonl`; an empty list where there is none.

    Raises:
        MIError: as in `read_records`.
    """
    return list(read_versioned(path, MeasureRecord, {}))
