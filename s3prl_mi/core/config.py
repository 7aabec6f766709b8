"""The `downstream_expert` section of a config file, as frozen dataclasses that refuse unknown keys.

Precedence: defaults of these classes < the YAML file (`-c`) < overrides (`-o`) < the command line's own options
(`-l`, `-s`, `--upstream_feature_normalize`, `--seed`, `--store_mode`, ...).

Read here rather than by pydantic or dacite: a mistake names the key, the value, what is allowed and the nearest key.
"""

from __future__ import annotations

import ast
import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from .errors import MIError, nearest
from .files import PACKAGE
from .split_names import overlap

T = TypeVar("T")

Task = Literal["mi_supervised", "mi_views"]
TASKS: tuple[Task, ...] = ("mi_supervised", "mi_views")

Labels = Literal["phones", "words", "speaker", "pitch", "energy"]
LABELS: tuple[Labels, ...] = typing.get_args(Labels)
"""What hidden states may be measured against."""
ALIGNED: tuple[Labels, ...] = ("phones", "words")
"""Of these, what is said: read from alignments; the others are of speakers and audio."""


@dataclass(frozen=True, slots=True)
class AlignmentConfig:
    """Where the frame labels of `mi_supervised` come from (`datarc.alignments`)."""

    path: str | None = None
    """Folder (TextGrid, PHN, condensed) or file (CPC's converted_aligned_phones.txt, CTM)."""
    format: Literal["auto", "textgrid", "cpc", "ctm", "phn", "condensed"] = "auto"
    """`auto`: detected from the files."""
    tier: str = "phones"
    """Of TextGrids, the tier that phones are read from, by any name; `words` means `labels: words`, as it once did."""
    strip_stress: bool = True
    """Drop the stress digit of ARPAbet vowels (AH0 -> AH)."""
    silence: Literal["class", "drop"] = "class"
    """Whether silence is a class of its own or its frames are left out."""
    max_missing: float = 0.1
    """Refuse a split if a larger fraction of its utterances has no alignment."""
    min_count: int = 1
    """Labels of fewer fit frames become one class, `<unk>`, and with them those that only the eval split has: for open
    sets such as words (20, say). 1: every label is a class of its own."""


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Audio and splits (`datarc`)."""

    libri_root: str | None = None
    """LibriSpeech's folder: <libri_root>/<split>/<speaker>/<chapter>/*.flac (or .wav)."""
    manifest: str | None = None
    """Instead of libri_root: a TSV or CSV file, one line per utterance (columns split, audio, id, speaker,
    alignment)."""
    fit_splits: tuple[str, ...] = ("dev-other",)
    """Probes, codebooks, scaling and every choice are made on these. `dev-other@1/2` is the first of two parts of
    dev-other, its speakers dealt out in turn; `dev-other@2/2` is the other."""
    eval_splits: tuple[str, ...] = ("test-other",)
    """Scored once."""
    max_utterances: int | None = None
    """Take at most so many utterances of each split, spread evenly over it (for a quick look)."""
    max_unreadable: float = 0.05
    """Refuse a split if a larger fraction of its audio files is empty or corrupt."""
    max_seconds: float = 120.0
    """Leave longer utterances out, counted, with a line: a Transformer's memory grows with the square of the length."""
    alignments: AlignmentConfig = field(default_factory=AlignmentConfig)
    """Frame labels of mi_supervised."""


@dataclass(frozen=True, slots=True)
class ViewConfig:
    """The two views of `mi_views`."""

    kind: Literal["auto", "mask", "shift"] = "auto"
    """`auto`: by the upstream's family (`s3prl-mi upstreams`)."""
    mask: tuple[str, ...] = ("30/40",)
    """Mask patterns: `30/40` masks the last 30 of every 40 frames of the upstream's own rate. A list is a sweep over
    mask ratio (26/40, 28/40, 30/40, 32/40) or span (15/20, 30/40, 60/80)."""
    mask_level: Literal["auto", "latent", "waveform"] = "auto"
    """`latent`: the model's own mask embedding where pre-training puts it; `waveform`: silence."""
    shift_ms: tuple[float, ...] = (60.0,)
    """Time from Za to Zb in ms, for the shift view. A list is a sweep."""


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Where hidden states lie between extraction and estimation (`store`)."""

    root: str | None = None
    """Default: $S3PRL_MI_STORE, else ~/.cache/s3prl_mi/store."""
    dtype: Literal["auto", "float16", "float32"] = "auto"
    """`auto`: float16 if it is exact enough for this upstream (checked), else float32."""
    mode: Literal["auto", "disk", "memory", "recompute"] = "auto"
    """`disk`: kept for other runs and tasks. `memory`: gone with this run. `recompute`: as many layers at a time as
    fit, one pass of the upstream for each such group. `auto`: disk where they fit; memory for spectral upstreams, or
    where the disk gives too little and they are small; else recompute. The bits are the same."""
    max_gb: float = 50.0
    """The most that hidden states may take on disk (or in memory, where `mode` asks for memory); the least recently
    used ones are removed to stay below it."""
    keep: bool = True
    """False: remove this run's hidden states when it ends."""


@dataclass(frozen=True, slots=True)
class MIConfig:
    """Everything under `downstream_expert`."""

    datarc: DataConfig = field(default_factory=DataConfig)
    """Audio, splits and alignments."""
    layers: Literal["all", "last", "weighted"] | tuple[int, ...] = "all"
    """`all`, `last`, `weighted` (s3prl's Featurizer) or a list of layer numbers."""
    labels: tuple[Labels, ...] = ("phones",)
    """What mi_supervised measures hidden states against: `phones`, `words` (set `datarc.alignments.min_count`, too),
    `speaker`, `pitch`, `energy`; a list measures each. Only phones and words need alignments. speaker: of both fit and
    eval splits every other utterance of each speaker is fitted on, the others are scored; folds and intervals are by
    utterance. pitch: Praat's (pip install 's3prl_mi[pitch]'), unvoiced is a class of its own. energy: log RMS of 25 ms.
    None of the last three is compared with phones, or picks a layer."""
    label_classes: int = 16
    """Classes that pitch and energy are divided into, of as many fit frames each."""
    featurizer: str = "learned"
    """Layer weights for `layers: weighted`: `learned` (mi_supervised only), `uniform`, or the path of a
    states-*.ckpt of a stock s3prl run, whose trained weights are read."""
    views: ViewConfig = field(default_factory=ViewConfig)
    """The two views of mi_views."""
    frames: tuple[Literal["auto", "masked", "unmasked", "all"], ...] = ("auto",)
    """Frames that mi_views scores: any of `masked`, `unmasked`, `all`. `auto`: masked for the mask view, all
    for the shift view."""
    protocol: Literal["default", "paper"] = "default"
    """How probes are fitted: `default`, or as in the `paper` (s3prl_mi/estimators/probes.py)."""
    probes: tuple[Literal["logistic", "mlp"], ...] = ("logistic", "mlp")
    """Classifiers to fit, each a bound of its own: `logistic` (linear), `mlp` (with hidden layers)."""
    fit_ci: bool = False
    """Fit each probe again without each of at most 10 groups of fit speakers: intervals that cover the choice of fit
    speakers, too (`fit_ci_*` and `total_ci_*` in records). Each group costs about a fifth of the time again for
    logistic probes and half of it for MLPs: 10 groups 3 times and 6 times the time. `-m evaluate` gives none."""
    measures: tuple[str, ...] = ("default",)
    """Further numbers about each layer, a record each in mi_measures.jsonl: `default` (at most 10 % more time), `all`,
    `none`, or names (`s3prl-mi explain measures`). Label-free ones in mi_views, those with phones or words in
    mi_supervised; of a sweep, with its first view, frames and cluster count."""
    seeds: int | tuple[int, ...] = 5
    """A count (seeds start at --seed) or a list of seeds."""
    clusters: tuple[int, ...] = (50,)
    """Size of the k-means codebook of view b. A list is a sweep. PNMI and purities of
    mi_supervised are of a codebook of the first size."""
    codebook: Literal["auto", "raw"] = "auto"
    """What the codebook is of: `raw`, view b's hidden states as they are, as in the paper (and always with
    `protocol: paper`); `auto`, these or their whitened principal axes, whichever tell more on held-out fit speakers."""
    kmeans_iterations: int = 100
    """At most; k-means stops earlier where its centroids hardly move."""
    batch_size: int = 0
    """Utterances per forward pass; 0: chosen by device. Hidden states do not depend on it. A batch that does not fit
    into memory is halved."""
    precision: Literal["auto", "fp32", "mixed", "bf16"] = "auto"
    """Of the upstream's forward pass. `mixed`: the Transformer in bfloat16 for mask views, all else in float32 (bits
    within 0.001). `bf16`: autocast for all (mi_views moves as with another seed of k-means). `auto`: `mixed` on a CPU
    and `bf16` on a GPU that are fast at it, for upstreams whose hidden states change by little (precision.py)."""
    store: StoreConfig = field(default_factory=StoreConfig)
    """Where hidden states lie between extraction and estimation."""


def parse(cls: type[T], section: Mapping[str, Any] | None, where: str) -> T:
    """Turn a mapping read from YAML, at the dotted name `where`, into a frozen dataclass.

    Keys that are absent or `null` keep their default.

    Raises:
        MIError: an unknown key (with the nearest valid one), or a value of the wrong type.
    """
    if section is None:
        section = {}
    if not isinstance(section, Mapping):
        raise MIError(f"config key {where}: expected a mapping, found {section!r}.")
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in section.items():
        if key not in hints:
            raise MIError(
                f"unknown config key {where}.{key}.{nearest(str(key), hints)} Valid keys: {', '.join(hints)}."
            )
        if value is not None:
            values[key] = _coerce(value, hints[key], f"{where}.{key}")
    return cls(**values)


def _coerce(value: Any, hint: Any, where: str) -> Any:
    """Check one value against its annotation; lists become tuples, one item becomes a tuple of one."""
    if dataclasses.is_dataclass(hint):
        return parse(typing.cast(type, hint), value, where)
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    options = [o for o in (typing.get_args(hint) if is_union else (hint,)) if o is not type(None)]
    for option in options:
        fitted = _fit(value, option)
        if fitted is not None:
            return fitted
    items = [_item(o) for o in options if typing.get_origin(o) is tuple]
    wanted = " or ".join(_describe(o) for o in options if o not in items)
    raise MIError(f"config key {where}: expected {wanted}, found {value!r}.")


def _item(of_tuple: Any) -> Any:
    return typing.get_args(of_tuple)[0]


def _fit(value: Any, option: Any) -> Any:
    """The value as `option`'s type, or None if it does not fit."""
    if typing.get_origin(option) is Literal:
        return value if value in typing.get_args(option) else None
    if typing.get_origin(option) is tuple:
        fitted = [_fit(v, _item(option)) for v in (value if isinstance(value, (list, tuple)) else [value])]
        return tuple(fitted) if fitted and all(v is not None for v in fitted) else None
    if isinstance(value, bool) is not (option is bool):
        return None
    if option is float and isinstance(value, int):
        return float(value)
    return value if isinstance(value, option) else None


_TYPE_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def _describe(option: Any) -> str:
    """A type in words."""
    if typing.get_origin(option) is Literal:
        return "one of " + ", ".join(typing.get_args(option))
    if typing.get_origin(option) is tuple:
        item = _describe(_item(option))
        many = "them" if item.startswith("one of") else f"{item.removeprefix('a ')}s"
        return f"{item} or a list of {many}"
    return _TYPE_NAMES[option]


def literal(text: str) -> Any:
    """A value of a command line: a Python literal (1e-3, 'text', [1, 2], None), true, false, null, or else plain text.

    Example:
        >>> literal("[1, 2]"), literal("true"), literal("gpu")
        ([1, 2], True, 'gpu')
    """
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return {"true": True, "false": False, "null": None}.get(text, text)


def load(section: Mapping[str, Any] | None, task: Task) -> MIConfig:
    """Read and check the `downstream_expert` section.

    Raises:
        MIError: an unknown key, a value of the wrong type or out of range, or a missing data root.
    """
    config = _with_labels(parse(MIConfig, section, _KEY))
    _check_ranges(config)
    _check_data(config.datarc, task, config.labels)
    return config


def _with_labels(config: MIConfig) -> MIConfig:
    """Each set of labels once; `tier: words`, as earlier configs have it, is `labels: words`.

    Raises:
        MIError: `tier: words`, and both phones and words.
    """
    labels = tuple(dict.fromkeys(config.labels))
    if config.datarc.alignments.tier == "words":
        if "phones" in labels and "words" in labels:
            raise MIError(
                f"config key {_KEY}.datarc.alignments.tier: words, but {_KEY}.labels asks for phones, too. Leave tier "
                "out: each is read from the tier of its name."
            )
        labels = tuple("words" if name == "phones" else name for name in labels)
    return dataclasses.replace(config, labels=labels)


_KEY = "downstream_expert"
MEASURES_KEY = f"{_KEY}.measures"
MOST_SEEDS, MOST_CLUSTERS, MOST_CLASSES = 10_000, 100_000, 1000
LONGEST_SHIFT = 60_000


def _check_ranges(config: MIConfig) -> None:
    """Refuse values that fit their type but not their range."""
    data, positive, fraction = config.datarc, "a positive number", "a fraction from 0 to 1"
    count, listed = (config.seeds, ()) if isinstance(config.seeds, int) else (1, config.seeds)
    rules: list[tuple[str, Any, Callable[[Any], object], str]] = [
        ("seeds", count, lambda n: 0 < n <= MOST_SEEDS, f"from 1 to {MOST_SEEDS} seeds"),
        ("seeds", listed, lambda n: 0 <= n < 2**32, "seeds from 0 to 2**32 - 1"),
        ("kmeans_iterations", config.kmeans_iterations, lambda n: n > 0, "at least 1 iteration"),
        ("label_classes", config.label_classes, lambda n: 1 < n <= MOST_CLASSES, f"from 2 to {MOST_CLASSES} classes"),
        ("batch_size", config.batch_size, lambda n: n >= 0, "0 (automatic) or more utterances"),
        ("store.max_gb", config.store.max_gb, lambda gb: gb > 0, f"{positive} of GB"),
        ("clusters", config.clusters, lambda n: 1 < n <= MOST_CLUSTERS, f"from 2 to {MOST_CLUSTERS} clusters"),
        (
            "views.shift_ms",
            config.views.shift_ms,
            lambda ms: 0 < ms <= LONGEST_SHIFT,
            f"{positive} of ms, {LONGEST_SHIFT} at most",
        ),
        ("views.mask", config.views.mask, mask_span, "masked/period in frames, such as 30/40, masked < period"),
        ("datarc.max_unreadable", data.max_unreadable, lambda part: 0 <= part <= 1, fraction),
        ("datarc.alignments.min_count", data.alignments.min_count, lambda n: n > 0, "at least 1 frame"),
        ("datarc.max_seconds", data.max_seconds, lambda seconds: seconds > 0, f"{positive} of seconds"),
        ("datarc.alignments.max_missing", data.alignments.max_missing, lambda part: 0 <= part <= 1, fraction),
    ]
    for name, values, holds, wanted in rules:
        for value in values if isinstance(values, tuple) else (values,):
            if not holds(value):
                raise MIError(f"config key {_KEY}.{name}: expected {wanted}, found {value!r}.")


def mask_span(text: str) -> tuple[int, int] | None:
    """Masked frames and period of a mask pattern, or None if the text is none.

    Example:
        >>> mask_span("30/40"), mask_span("40/30")
        ((30, 40), None)
    """
    masked, slash, period = text.partition("/")
    if not (slash and masked.strip().isdecimal() and period.strip().isdecimal()):
        return None
    return (int(masked), int(period)) if 0 < int(masked) < int(period) else None


def _check_data(data: DataConfig, task: Task, labels: tuple[Labels, ...]) -> None:
    if (data.libri_root is None) == (data.manifest is None):
        found = "neither is set" if data.libri_root is None else "both are set"
        raise MIError(
            f"config keys {_KEY}.datarc.libri_root and {_KEY}.datarc.manifest: exactly one must say where the audio "
            f"is, but {found}. For LibriSpeech: -o \"config.{_KEY}.datarc.libri_root='/path/to/LibriSpeech'\""
        )
    for name, value in (("libri_root", data.libri_root), ("manifest", data.manifest)):
        if value is not None and not Path(value).exists():
            raise MIError(f"config key {_KEY}.datarc.{name}: no such file or folder: {value!r}.")
    for key, names in (("fit_splits", data.fit_splits), ("eval_splits", data.eval_splits)):
        twice = [(a, b) for i, a in enumerate(names) for b in names[:i] if overlap(a, b)]
        if twice:
            raise MIError(
                f"config key {_KEY}.datarc.{key}: {twice[0][1]} and {twice[0][0]} hold the same speech, whose frames "
                "would count twice. Name it once."
            )
    both = sorted(n for n in data.eval_splits if any(overlap(n, fit) for fit in data.fit_splits))
    if both:
        raise MIError(
            f"config key {_KEY}.datarc.eval_splits: {', '.join(both)} is fitted on too (fit_splits); a bound needs "
            f"unseen speech. Two halves of one split, by speakers: fit_splits {both[0].partition('@')[0]}@1/2, "
            f"eval_splits {both[0].partition('@')[0]}@2/2."
        )
    aligned = [name for name in labels if name in ALIGNED]
    if task == "mi_supervised" and aligned and data.alignments.path is None and data.manifest is None:
        raise MIError(
            f"config key {_KEY}.datarc.alignments.path: mi_supervised needs alignments for {' and '.join(aligned)}. "
            f"Give them with -o \"config.{_KEY}.datarc.alignments.path='/path/to/alignments'\", or take what needs "
            f"none: {_KEY}.labels speaker, pitch or energy, or -d mi_views."
        )


def seed_list(seeds: int | tuple[int, ...], first: int) -> tuple[int, ...]:
    """The seeds of a run: as listed, or so many from `first` (the command line's --seed) on.

    Example:
        >>> seed_list(3, 1337)
        (1337, 1338, 1339)
    """
    return tuple(range(first, first + seeds)) if isinstance(seeds, int) else tuple(dict.fromkeys(seeds))


def packaged_configs() -> dict[str, Path]:
    """The config files that this package brings, by name.

    They lie inside the package where that was installed from a wheel, and at the top of the repository where the
    package is used from there (also by `pip install -e`).
    """
    for folder in (PACKAGE, PACKAGE.parent):
        found = {path.stem: path for path in sorted((folder / "downstream_configs").glob("*.yaml"))}
        if found:
            return found
    return {}


def default_config(task: str) -> Path:
    """The config file that a task uses without `-c`.

    Raises:
        MIError: the task is not one of ours, or the installation lacks the file.
    """
    if task not in TASKS:
        raise MIError(f"task {task!r}: only {' and '.join(TASKS)} have a default config; name one with -c.")
    if task not in packaged_configs():
        raise MIError(f"{PACKAGE}: downstream_configs/{task}.yaml is missing; install s3prl_mi again.")
    return packaged_configs()[task]
