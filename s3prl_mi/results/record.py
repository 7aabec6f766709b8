"""One record per estimate: every key of `mi_results.jsonl`, and how the file is written and read.

The file is only ever appended to, whole lines at a time, each forced to disk: a line cut short by a kill is
recognised by its missing newline and dropped on the next read.

A new field needs a default, as older lines lack it, and a value in `experiment.records.build_records`. If it tells
estimates of one experiment apart it goes into `identity`; if it decides what may be compared, into
`comparability.PARTS`. A field that is renamed needs a new `SCHEMA_VERSION`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..core.config import TASKS
from ..core.errors import MIError
from ..core.files import append_lines, read_lines
from ..core.types import Bits

RESULTS_FILE = "mi_results.jsonl"
SCHEMA_VERSION = 2
"""Of the lines that are written. Lines of version 1 carry no version; they are read too."""

RENAMED_IN_2: dict[str, str] = {"frames": "scored_frames", "clusters": "n_clusters", "labels": "n_classes"}
"""Fields of version 1 by their names in version 2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One estimate, with everything needed to say what it is an estimate of.

    What must agree before two records may be compared: `comparability.ComparisonKey`.
    """

    task: str
    """`mi_supervised` or `mi_views`."""
    upstream: str
    """s3prl's name of the upstream (`-u`)."""
    checkpoint: dict[str, str] | None = None
    """`{"name": file name, "sha256": of the file}`; None where the upstream takes no `-k`."""
    checkpoint_trusted: bool = False
    """Whether the checkpoint was allowed to run code while it was read (`--trust_checkpoint`)."""
    upstream_sha256: str
    """Hash of the loaded weights and settings: two upstreams with the same hash are the same model."""
    step: int | None = None
    """Training step of the checkpoint, read from the file or its name; None where neither holds it."""
    series: str | None = None
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
    view: str | None = None
    """The two views of mi_views in words; None for mi_supervised."""
    scored_frames: str
    """Frames scored: `masked`, `unmasked` or `all`."""
    n_clusters: int | None = None
    """Size of the codebook of mi_views; None for mi_supervised."""
    codebook: str | None = None
    """Of mi_views, what the codebook may be of: `raw`, hidden states as they are; `auto`, these or their whitened
    principal axes. None in old records, which are `raw`."""
    codebook_axes: int | None = None
    """How many axes it is of; 0: it is of hidden states as they are."""
    kmeans_iterations: int | None = None
    """The most steps of k-means that the codebook of mi_views was given; None for mi_supervised and in old records."""
    seed: int
    """Of the probe (initialisation and order of batches) and of k-means."""
    fit_splits: list[str]
    """Splits that the probe, the codebook and every choice were made on. `labels: speaker` has fit and eval splits in
    both lists: every other utterance of each speaker is fitted on."""
    eval_splits: list[str]
    """Splits that were scored, once."""
    mi_lower_bound_bits: Bits
    """entropy_bits - cross_entropy_bits; never clipped, so it may be negative."""
    entropy_bits: Bits
    """H(Y), or H(c(Zb)), of the eval frames scored."""
    cross_entropy_bits: Bits
    """Mean of -log2 q(target | frame) over the eval frames scored."""
    ci_low_bits: Bits | None = None
    """Lower end of the 95 % interval of the bound over the groups scored; None with fewer than two."""
    ci_high_bits: Bits | None = None
    """Its upper end."""
    ci_over: str | None = None
    """What the interval is over: `speakers`; `utterances` where speakers are unknown. Not over seeds or fit speech."""
    ci_groups: int | None = None
    """How many speakers (or utterances) were scored."""
    fit_ci_low_bits: Bits | None = None
    """With `fit_ci: true`: lower end of the 95 % interval of the bound over the choice of fit speakers, by probes
    fitted without each group of them. The codebook, the scaling and what was chosen stay as they are."""
    fit_ci_high_bits: Bits | None = None
    """Its upper end."""
    fit_ci_over: str | None = None
    """What its groups are of: `speakers`; `utterances` where speakers are unknown."""
    fit_ci_groups: int | None = None
    """How many groups of fit speakers were left out in turn: each a speaker where there are at most 10."""
    total_ci_low_bits: Bits | None = None
    """With `fit_ci: true`: lower end of the 95 % interval over the choice of speakers on both sides; the variances of
    both add, but it is never narrower than either."""
    total_ci_high_bits: Bits | None = None
    """Its upper end."""
    prior_cross_entropy_bits: Bits | None = None
    """Cross-entropy of the fit split's class frequencies on the eval frames, without Z; what it exceeds entropy_bits by
    is the prior mismatch of the two splits."""
    speaker_information_bits: Bits | None = None
    """Of mi_views: plug-in I(c;speaker) of the eval frames, how much the clusters say about who speaks. Not a bound of
    I(Za;Zb)."""
    within_speaker_bits: Bits | None = None
    """Of mi_views: the same bits with the clusters' frequencies taken per speaker, H(c|speaker) - cross_entropy_bits =
    mi_lower_bound_bits - speaker_information_bits: how much is left without who speaks. Not a bound of I(Za;Zb)."""
    accuracy: float
    """Fraction of the eval frames whose most probable target is right, 0 to 1."""
    fit_frames: int
    """Number of frames that the probe was fitted on."""
    eval_frames: int
    """Number of frames that were scored."""
    n_classes: int
    """Number of classes: labels seen in the fit split, or clusters."""
    labels: str | None = None
    """Of mi_supervised: `phones`, `words`, `speaker`, `pitch` or `energy`; None for mi_views. Old records lack it, and
    are of phones or words, as `label_set` says."""
    label_set: str | None = None
    """What the labels are (`phones, stress stripped, silence as a class`); None for mi_views."""
    label_digest: str | None = None
    """Hash of the labels and their times, of the fit and of the eval splits (`1f0c22ab/97d8e104`), whatever the
    upstream; None for mi_views and in old records."""
    unseen_frames: int = 0
    """Eval frames left out of entropy and cross-entropy as their label never occurs in the fit split."""
    unlabelled_frames: int = 0
    """Frames of fit and eval left out as the alignment gives them no label (gaps, dropped silence)."""
    utterances: dict[str, int] = field(default_factory=dict)
    """Numbers of utterances: `fit`, `eval`, and `skipped` (unreadable audio or no alignment)."""
    probe_settings: dict[str, Any] = field(default_factory=dict)
    """What was chosen within the fit split: regularisation, epochs, and so on."""
    seconds: float = 0.0
    """Time spent on this estimate (a group that is fitted together shares its time equally)."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of s3prl_mi, s3prl, torch, transformers, Python; `started`: when the run began."""
    precision: str = "fp32"
    """Of the upstream's forward pass: `fp32`; `mixed` (Za in bfloat16 behind the convolutions, Zb in float32) or
    `bf16` (both)."""
    schema_version: int = SCHEMA_VERSION
    """Of this list of fields; records of version 1 are still read."""

    def identity(self) -> tuple[Any, ...]:
        """What distinguishes this estimate from the others of one experiment, whose other settings are all the same."""
        return (self.layer, self.probe, self.view, self.scored_frames, self.n_clusters, self.seed, labels_of(self))


def labels_of(line: Any) -> str | None:
    """The labels of a line about an estimate; lines of earlier versions do not name them."""
    return line.labels or ("phones" if line.task == "mi_supervised" else None)


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


def read_records(path: Path) -> list[Record]:
    """Read every whole line of a results file, of any schema version up to ours.

    Raises:
        MIError: a whole line that is not a record, or has a field or a version that we do not know (named by line).
    """
    return list(read_versioned(path, Record, RENAMED_IN_2))


Line = TypeVar("Line")


def read_versioned(path: Path, kind: type[Line], renamed: Mapping[str, str]) -> Iterator[Line]:
    """Every whole line of a file as a dataclass with a `schema_version`.

    Args:
        path: the file.
        kind: the dataclass.
        renamed: fields of version 1 by their names now.

    Raises:
        MIError: as in `read_records`.
    """
    allowed = _types_of(kind)
    for number, line in read_lines(path):
        try:
            found = kind(**_upgraded(json.loads(line), renamed))
            _check_values(found, allowed)
            yield found
        except (TypeError, ValueError) as error:
            raise MIError(
                f"{path}, line {number}: not a record of this version of s3prl_mi "
                f"({str(error).replace(f'{kind.__name__}.__init__() ', '')}). Move the file away, or use another "
                "experiment folder (-n or -p)."
            ) from None


def _check_values(found: Any, allowed: Mapping[str, tuple[type, ...]]) -> None:
    """Refuse a field whose value is not of its type, or a number that is none.

    Raises:
        ValueError: with the field.
    """
    for name, types_of_it in allowed.items():
        value = getattr(found, name)
        if not isinstance(value, types_of_it) or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"field {name!r} is {value!r}")
        if name == "task" and value not in TASKS:
            raise ValueError(f"field 'task' is {value!r}")


def _types_of(kind: Any) -> dict[str, tuple[type, ...]]:
    """The types that each field may have; a whole number is a number, too."""
    found = {}
    for name, hint in typing.get_type_hints(kind).items():
        options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
        plain = [typing.get_origin(option) or option for option in options]
        if all(isinstance(option, type) for option in plain):
            found[name] = (*plain, *([int] if float in plain else []))
    return found


def _upgraded(fields: Any, renamed: Mapping[str, str]) -> dict[str, Any]:
    if not isinstance(fields, dict):
        raise TypeError("not a JSON object")
    version = fields.get("schema_version", 1)
    if version == 1:
        return {renamed.get(name, name): value for name, value in fields.items()} | {"schema_version": SCHEMA_VERSION}
    if version != SCHEMA_VERSION:
        raise TypeError(f"its schema version is {version!r}; 1 and {SCHEMA_VERSION} are known")
    return fields
