"""The journal of a part of an entry: a line per batch that was written, by which a later run knows what is whole."""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import IO, TypeAlias

JOURNAL = "journal.jsonl"

Bounds: TypeAlias = tuple[int, int]
"""A batch: its first utterance and the one after its last, counted in the order of the whole split."""


@dataclass(frozen=True)
class Written:
    """A batch that has been written: which, in what part, frames and waveforms of its utterances, those left out.

    `sums`: CRC-32 of each layer's file of that part, up to and with this batch.
    """

    bounds: Bounds
    part: str
    frames: dict[str, int]
    skipped: list[tuple[str, str]]
    waveforms: list[str]
    sums: list[int] = field(default_factory=list)

    def line(self) -> bytes:
        """For the journal."""
        return json.dumps(asdict(self)).encode() + b"\n"


def whole_batches(
    part: str, lines: Sequence[bytes], layers: Sequence[IO[bytes]], wanted: Collection[Bounds], rows: Sequence[int]
) -> list[Written]:
    """The leading batches of a part that are wanted and whole in every layer, whose rows take so many bytes.

    Whole is what has the checksum of the journal: after a power cut a file may be as long as it was to be, and empty.
    """
    kept, sums = list[Written](), [0] * len(rows)
    for line in lines:
        try:
            note = json.loads(line)
            first, last = note["bounds"]
            skipped = [(utterance, why) for utterance, why in note["skipped"]]
            batch = Written((first, last), part, note["frames"], skipped, note["waveforms"], note["sums"])
            count = sum(batch.frames.values())
        except (ValueError, TypeError, KeyError, AttributeError):
            break
        sums = [zlib.crc32(f.read(count * row), s) for f, row, s in zip(layers, rows, sums, strict=True)]
        if batch.bounds not in wanted or batch.sums != sums:
            break
        kept.append(batch)
    return kept
