"""The `downstream_expert` section of a config file, as frozen dataclasses that refuse unknown keys.

Precedence: defaults of these classes < the YAML file (`-c`) < overrides (`-o`) < the command line's own
options (`-l`, `-s`, `--upstream_feature_normalize`, `--seed`), which s3prl hands to a task beside its config.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from .errors import MIError, nearest

T = TypeVar("T")

Task = Literal["mi_supervised", "mi_views"]
TASKS: tuple[Task, ...] = ("mi_supervised", "mi_views")


@dataclass(frozen=True, slots=True)
class AlignmentConfig:
    """Where the frame labels of `mi_supervised` come from (`datarc.alignments`)."""

    path: str | None = None
    """Folder (TextGrid, PHN, condensed) or file (CPC's converted_aligned_phones.txt, CTM)."""
    format: Literal["auto", "textgrid", "cpc", "ctm", "phn", "condensed"] = "auto"
    """`auto`: told from the files."""
    tier: str = "phones"
    """`phones` or `words`; for TextGrids any tier's name."""
    strip_stress: bool = True
    """Drop the stress digit of ARPAbet vowels (AH0 -> AH)."""
    silence: Literal["class", "drop"] = "class"
    """Whether silence is a class of its own or its frames are left out."""
    max_missing: float = 0.1
    """Refuse to go on if a larger share of a split's utterances has no alignment."""


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Audio and splits (`datarc`)."""

    libri_root: str | None = None
    """LibriSpeech's folder: <libri_root>/<split>/<speaker>/<chapter>/*.flac (or .wav)."""
    manifest: str | None = None
    """Instead of libri_root: a TSV or CSV file, one line an utterance (columns split, audio, id, speaker,
    alignment)."""
    fit_splits: tuple[str, ...] = ("dev-other",)
    """Probes, codebooks, scaling and every choice are made on these. `dev-other@1/2` is the first of two parts of
    dev-other, its speakers dealt out in turn; `dev-other@2/2` is the other."""
    eval_splits: tuple[str, ...] = ("test-other",)
    """Scored once."""
    max_utterances: int | None = None
    """Take at most so many utterances of each split, spread evenly over it (for a quick look)."""
    max_unreadable: float = 0.05
    """Refuse to go on if a larger share of a split's audio files is empty or corrupt."""
    alignments: AlignmentConfig = field(default_factory=AlignmentConfig)


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
    layers: str | tuple[int, ...] = "all"
    """`all`, `last`, `weighted` (s3prl's Featurizer) or a list of layer numbers."""
    featurizer: str = "learned"
    """Layer weights for `layers: weighted`: `learned` (mi_supervised only), `uniform`, or the path of a
    states-*.ckpt of a stock s3prl run, whose trained weights are read."""
    views: ViewConfig = field(default_factory=ViewConfig)
    frames: tuple[str, ...] = ("auto",)
    """Frames that mi_views scores: any of `masked`, `unmasked`, `all`. `auto`: masked for the mask view, all
    for the shift view."""
    protocol: str = "default"
    """How probes are fitted: `default` or `paper` (s3prl_mi/estimators/protocol.py)."""
    probes: tuple[str, ...] = ("logistic", "mlp")
    """Classifiers to fit, each a bound of its own: `logistic` (linear), `mlp` (with hidden layers)."""
    seeds: int | tuple[int, ...] = 5
    """A count (seeds start at --seed) or a list of seeds."""
    clusters: tuple[int, ...] = (50,)
    """Size of the k-means codebook of view b. A list is a sweep."""
    kmeans_iterations: int = 100
    """At most; k-means stops earlier where its centroids hardly move."""
    batch_size: int = 0
    """Utterances per forward pass; 0: chosen by device. Hidden states do not depend on it."""
    precision: Literal["auto", "fp32", "mixed", "bf16"] = "auto"
    """Of the upstream's forward pass. `mixed`: the Transformer in bfloat16 for mask views, all else in float32 (bits
    within 0.001). `bf16`: autocast for all (mi_views moves as with another seed of k-means). `auto`: `mixed` on a CPU
    and `bf16` on a GPU that are fast at it, for upstreams whose hidden states change by little (precision.py)."""
    store: StoreConfig = field(default_factory=StoreConfig)


def parse(cls: type[T], section: Mapping[str, Any] | None, where: str) -> T:
    """Turn a mapping read from YAML into a frozen dataclass.

    Args:
        cls: one of the dataclasses of this module.
        section: the mapping; None counts as empty.
        where: its dotted name, for messages.

    Returns:
        An instance of `cls`; keys that are absent or `null` keep their default.

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
    options = typing.get_args(hint) if _is_union(hint) else (hint,)
    for option in options:
        fitted = _fit(value, option)
        if fitted is not None:
            return fitted
    items = [typing.get_args(o)[0] for o in options if typing.get_origin(o) is tuple]
    wanted = " or ".join(_describe(o) for o in options if o is not type(None) and o not in items)
    raise MIError(f"config key {where}: expected {wanted}, found {value!r}.")


def _fit(value: Any, option: Any) -> Any:
    """The value as `option`'s type, or None if it does not fit."""
    origin = typing.get_origin(option)
    if origin is Literal:
        return value if value in typing.get_args(option) else None
    if origin is tuple:
        item = typing.get_args(option)[0]
        items = value if isinstance(value, (list, tuple)) else [value]
        fitted = [_fit(v, item) for v in items]
        return tuple(fitted) if fitted and all(v is not None for v in fitted) else None
    if option is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if option is int:
        return value if isinstance(value, int) and not isinstance(value, bool) else None
    if option in (str, bool):
        return value if isinstance(value, option) else None
    return None


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _describe(option: Any) -> str:
    origin = typing.get_origin(option)
    if origin is Literal:
        return "one of " + ", ".join(typing.get_args(option))
    if origin is tuple:
        item = _describe(typing.get_args(option)[0])
        return f"{item} or a list of {item.removeprefix('a ')}s"
    names = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false"}
    return names[option.__name__]


def load(section: Mapping[str, Any] | None, task: Task) -> MIConfig:
    """Read and check the `downstream_expert` section.

    Raises:
        MIError: an unknown key, a value of the wrong type or out of range, or a missing data root.
    """
    config = parse(MIConfig, section, "downstream_expert")
    _check(config, task)
    return config


_KEY = "downstream_expert"


def _check(config: MIConfig, task: Task) -> None:
    """Refuse values that fit their type but not each other or their range."""
    _check_data(config.datarc, task)
    views = config.views
    layers = config.layers if isinstance(config.layers, str) else "all"
    shares = {"datarc.max_unreadable": config.datarc.max_unreadable}
    shares["datarc.alignments.max_missing"] = config.datarc.alignments.max_missing
    rules: list[tuple[bool, str, object, str]] = [
        (
            layers in ("all", "last", "weighted"),
            "layers",
            layers,
            "all, last, weighted or a list of layer numbers",
        ),
        (config.protocol in ("default", "paper"), "protocol", config.protocol, "default or paper"),
        (not isinstance(config.seeds, int) or config.seeds > 0, "seeds", config.seeds, "at least one seed"),
        (config.kmeans_iterations > 0, "kmeans_iterations", config.kmeans_iterations, "at least 1 iteration"),
        (config.batch_size >= 0, "batch_size", config.batch_size, "0 (automatic) or more utterances"),
        (config.store.max_gb > 0, "store.max_gb", config.store.max_gb, "a positive size in GB"),
        *((p in ("logistic", "mlp"), "probes", p, "logistic or mlp") for p in config.probes),
        *(
            (f in ("auto", "masked", "unmasked", "all"), "frames", f, "auto, masked, unmasked or all")
            for f in config.frames
        ),
        *((n > 1, "clusters", n, "at least 2 clusters") for n in config.clusters),
        *((ms > 0, "views.shift_ms", ms, "a positive number of ms") for ms in views.shift_ms),
        *(
            (
                mask_span(m) is not None,
                "views.mask",
                m,
                "masked/period in frames, such as 30/40, masked < period",
            )
            for m in views.mask
        ),
        *((0 <= share <= 1, name, share, "a share from 0 to 1") for name, share in shares.items()),
    ]
    for holds, name, value, wanted in rules:
        if not holds:
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


def _check_data(data: DataConfig, task: Task) -> None:
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
    if task == "mi_supervised" and data.alignments.path is None and data.manifest is None:
        raise MIError(
            f"config key {_KEY}.datarc.alignments.path: mi_supervised needs alignments. Give them with "
            f"-o \"config.{_KEY}.datarc.alignments.path='/path/to/alignments'\", or use -d mi_views, which needs none."
        )


def split_part(name: str) -> tuple[str, int, int]:
    """The split, the part and the number of parts that a name of a split stands for.

    Raises:
        MIError: an `@` that is not followed by part/parts.

    Example:
        >>> split_part("dev-other"), split_part("dev-other@2/3")
        (('dev-other', 1, 1), ('dev-other', 2, 3))
    """
    split, at, part = name.partition("@")
    if not at:
        return split, 1, 1
    number, slash, count = part.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise MIError(f"split {name!r}: after @ expected part/parts, such as {split}@1/2; found {part!r}.")
    return split, int(number), int(count)


def overlap(one: str, other: str) -> bool:
    """Whether two names of splits share speech.

    Example:
        >>> overlap("dev@1/2", "dev@2/2"), overlap("dev@1/2", "dev")
        (False, True)
    """
    a, b = split_part(one), split_part(other)
    return a[0] == b[0] and (a[2] != b[2] or a[1] == b[1])


def seed_list(seeds: int | tuple[int, ...], first: int) -> tuple[int, ...]:
    """The seeds of a run: as listed, or so many from `first` (the command line's --seed) on.

    Example:
        >>> seed_list(3, 1337)
        (1337, 1338, 1339)
    """
    return tuple(range(first, first + seeds)) if isinstance(seeds, int) else tuple(dict.fromkeys(seeds))


def as_dict(config: Any) -> dict[str, Any]:
    """A config as plain nested dicts and lists, for records and yaml."""
    return dataclasses.asdict(config)
