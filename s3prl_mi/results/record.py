"""One record per estimate: every key of `mi_results.jsonl`, and how the file is written and read.

The file is only ever appended to, whole lines at a time, each forced to disk: a line cut short by a kill is
recognised by its missing newline and dropped on the next read.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import MIError
from ..core.types import Bits

RESULTS_FILE = "mi_results.jsonl"


@dataclass(frozen=True, slots=True)
class Record:
    """One estimate, with everything needed to say what it is an estimate of.

    Two records may be compared only if `task`, `protocol`, `view`, `frames`, `clusters`, `labels`,
    `frame_shift_ms` and `eval_splits` agree.
    """

    task: str
    """`mi_supervised` or `mi_views`."""
    upstream: str
    """s3prl's name of the upstream (`-u`)."""
    checkpoint: dict[str, str] | None
    """`{"name": file name, "sha256": of the file}`; None where the upstream takes no `-k`."""
    upstream_sha256: str
    """Hash of the loaded weights and settings: two upstreams with the same hash are the same model."""
    step: int | None
    """Training step of the checkpoint, read from the file or its name; None where neither tells it."""
    series: str | None
    """The series of which the checkpoint is a step, where the study says so (`name=checkpoint#7`)."""
    layer: int | str
    """Index into the upstream's hidden states, or `weighted`."""
    layer_name: str
    """What that entry is (module path of the hook, or featurizer and its weights)."""
    layers_in_upstream: int
    """Number of entries in the upstream's hidden states."""
    last_layer: int
    """Index of the encoder's last layer; VQ codes and distilled predictions are entries behind it."""
    dim: int
    """Dimensions of a hidden state."""
    frame_shift_ms: float
    """Time from frame to frame."""
    probe: str
    """`logistic` or `mlp`."""
    protocol: str
    """Name and version of the fitting recipe; figures of different protocols are not comparable."""
    view: str | None
    """The two views of mi_views in words; None for mi_supervised."""
    frames: str
    """Frames scored: `masked`, `unmasked` or `all`."""
    clusters: int | None
    """Size of the codebook of mi_views; None for mi_supervised."""
    seed: int
    """Of the probe (initialisation and order of batches) and of k-means."""
    fit_splits: list[str]
    """Splits that the probe, the codebook and every choice were made on."""
    eval_splits: list[str]
    """Splits that were scored, once."""
    mi_lower_bound_bits: Bits
    """entropy_bits - cross_entropy_bits; never clipped, so it may be negative."""
    entropy_bits: Bits
    """H(Y), or H(c(Zb)), of the eval frames scored."""
    cross_entropy_bits: Bits
    """Mean of -log2 q(target | frame) over the eval frames scored."""
    accuracy: float
    """Share of the eval frames whose most probable target is right, 0 to 1."""
    fit_frames: int
    """Number of frames that the probe was fitted on."""
    eval_frames: int
    """Number of frames that were scored."""
    labels: int
    """Number of classes: labels seen in the fit split, or clusters."""
    label_set: str | None
    """What the labels are (`phones, stress stripped, silence as a class`); None for mi_views."""
    unseen_frames: int
    """Eval frames left out of entropy and cross-entropy as their label never occurs in the fit split."""
    unlabelled_frames: int
    """Frames of fit and eval left out as the alignment gives them no label (gaps, dropped silence)."""
    utterances: dict[str, int]
    """Numbers of utterances: `fit`, `eval`, and `skipped` (unreadable audio or no alignment)."""
    probe_settings: dict[str, Any]
    """What was chosen within the fit split: regularisation, epochs, and so on."""
    seconds: float
    """Time spent on this estimate (a group that is fitted together shares its time equally)."""
    versions: dict[str, str]
    """Versions of s3prl_mi, s3prl, torch, transformers, Python; `started`: when the run began."""
    precision: str = "fp32"
    """Of the upstream's forward pass: `fp32`; `mixed` (Za in bfloat16 behind the convolutions, Zb in float32) or
    `bf16` (both). Records of the time before there was a choice lack it."""

    def identity(self) -> tuple[Any, ...]:
        """What tells this estimate from the others of one experiment, whose other settings are all the same."""
        return (self.layer, self.probe, self.view, self.frames, self.clusters, self.seed)


def is_encoder_layer(layer_name: str) -> bool:
    """Whether an entry of the hidden states is a layer of the encoder, not what comes behind it.

    Example:
        >>> [is_encoder_layer(n) for n in ("encoder.layers[3]", "vq[0] codes", "prediction of layer 8")]
        [True, False, False]
    """
    return re.search(r"\b(codes|predictions?)\b", layer_name) is None


def last_encoder_layer(layer_names: Sequence[str]) -> int:
    """Index of the encoder's last layer.

    Example:
        >>> last_encoder_layer(["rnn_layers[0]", "rnn_layers[1]", "vq[0] codes"])
        1
    """
    behind = len(layer_names) - 1
    return max((n for n, name in enumerate(layer_names) if is_encoder_layer(name)), default=behind)


def append_records(path: Path, records: Iterable[Record]) -> None:
    """Append records to a `mi_results.jsonl`, whole lines, forced to disk."""
    append_lines(path, (dataclasses.asdict(r) for r in records))


def append_lines(path: Path, objects: Iterable[dict[str, Any]]) -> None:
    """Append objects to a JSON-lines file and force them to disk.

    A last line without a newline, left by a kill, is cut off first.
    """
    text = "".join(json.dumps(o, default=str) + "\n" for o in objects)
    with open(path, "ab+") as file:
        _cut_partial_line(file)
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Every whole line of a JSON-lines file with its number, counted from 1; none where there is no file."""
    if path.exists():
        yield from enumerate(path.read_bytes().split(b"\n")[:-1], start=1)


def _cut_partial_line(file: Any) -> None:
    file.seek(0)
    content = file.read()
    if content and not content.endswith(b"\n"):
        file.truncate(content.rfind(b"\n") + 1)
    file.seek(0, os.SEEK_END)


def read_records(path: Path) -> list[Record]:
    """Read every whole line of a results file.

    Raises:
        MIError: a whole line that is not a record of this version (named by number).
    """
    records: list[Record] = []
    for number, line in read_lines(path):
        try:
            records.append(Record(**json.loads(line)))
        except (json.JSONDecodeError, TypeError, UnicodeDecodeError) as error:
            raise MIError(
                f"{path}, line {number}: not a record of this version of s3prl_mi ({error}). Move the file "
                "away, or use another experiment folder (-n or -p)."
            ) from None
    return records
