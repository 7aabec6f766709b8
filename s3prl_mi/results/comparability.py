"""What may be compared: the one definition, for summaries, curves, figures, tables and `s3prl-mi compare`.

Two estimates are comparable if everything agrees but what is compared: the model, the layer, the probe, the seed. What
an old record does not hold (its alignments, the limit of k-means) is unknown there: the same as in other old records,
and different from everything that is known. Old records without a precision are of fp32.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..core.config import ALIGNED, LABELS
from ..core.types import Bits
from .record import Record

if TYPE_CHECKING:
    from .summary import Summary


class ComparisonKey(NamedTuple):
    """Everything in which estimates must agree to be comparable."""

    task: str
    protocol: str
    view: str | None
    scored_frames: str
    n_clusters: int | None
    codebook: str | None
    kmeans_iterations: int | None
    n_classes: int | None
    """Of mi_supervised; None for mi_views, where seeds may use different numbers of clusters."""
    label_set: str | None
    label_digest: str | None
    frame_shift_ms: float
    fit_splits: tuple[str, ...]
    eval_splits: tuple[str, ...]
    n_utterances: tuple[int | None, int | None] | None
    """Fitted on, scored."""
    layer_weights: str | None
    """Where the weights of a weighted sum come from, the same for runs of one kind on several upstreams; None for a
    layer."""
    precision: str | None
    """`bf16` or `fp32` for mi_views, whose codebook is of such states (so `mixed` is `fp32`); None for mi_supervised,
    which it moves by less than 0.001 bits (`upstreams.precision`)."""

    @classmethod
    def of(cls, estimate: Record | Summary) -> ComparisonKey:
        """The key of an estimate; of a summary without `NOTED`."""
        if not isinstance(estimate, Record):
            return estimate.key
        r = estimate
        return cls(
            task=r.task,
            protocol=r.protocol,
            view=r.view,
            scored_frames=r.scored_frames,
            n_clusters=r.n_clusters,
            codebook=(r.codebook or "raw") if r.task == "mi_views" else None,
            kmeans_iterations=r.kmeans_iterations,
            n_classes=r.n_classes if r.task == "mi_supervised" else None,
            label_set=r.label_set,
            label_digest=r.label_digest,
            frame_shift_ms=r.frame_shift_ms,
            fit_splits=tuple(r.fit_splits),
            eval_splits=tuple(r.eval_splits),
            n_utterances=(r.utterances.get("fit"), r.utterances.get("eval")),
            layer_weights=r.layer_name.partition(":")[0].replace(f" on {r.upstream}", "")
            if r.layer == "weighted"
            else None,
            precision={"mixed": "fp32"}.get(r.precision, r.precision) if r.task == "mi_views" else None,
        )

    def without(self, *parts: str) -> ComparisonKey:
        """The key with some of `PARTS` left open."""
        blank: dict[str, Any] = {field: None for part in parts for field in PARTS[part].fields}
        return self._replace(**blank)

    def in_words(self) -> dict[str, str]:
        """Name of each of `PARTS` -> its value in words; parts that say nothing of this estimate are left out."""
        words = {name: part.words(self) for name, part in PARTS.items()}
        return {name: text for name, text in words.items() if text}

    def describe(self, *leave: str) -> str:
        """In words, for titles and captions, without the parts in `leave`."""
        leave = (*(leave or ("task", "protocol", "fit_split", "utterances", "weights")), *UNDESCRIBED)
        words = {name: text for name, text in self.in_words().items() if name not in leave}
        return ", ".join(f"one frame {text}" if name == "frame_rate" else text for name, text in words.items())

    @property
    def labels(self) -> str:
        """Name of the labels of mi_supervised (`phones`, `speaker`, ...); empty for mi_views and where unknown."""
        return (self.label_set or "").partition(",")[0]

    @property
    def of_content(self) -> bool:
        """Whether it is about what is said, by which layers and checkpoints are judged: phones or words."""
        return self.task == "mi_supervised" and (self.labels not in LABELS or self.labels in ALIGNED)

    @property
    def kind(self) -> str:
        """`mask` or `shift`, the word that the view begins with; empty for mi_supervised."""
        return re.split(r"\W", self.view, maxsplit=1)[0] if self.view else ""


class Part(NamedTuple):
    """One thing that must agree."""

    fields: tuple[str, ...]
    """Of `ComparisonKey`."""
    noun: str
    """As the README and the help name it."""
    words: Callable[[ComparisonKey], str]
    """Its value; empty: says nothing of this estimate."""
    fix: str = ""
    """What a user can do where it differs."""


def _utterances(key: ComparisonKey) -> str:
    fit, scored = key.n_utterances or (None, None)
    return f"fit on {fit} and scored on {scored} utterances" if key.n_utterances else ""


def _labels(key: ComparisonKey) -> str:
    if key.task != "mi_supervised":
        return ""
    if key.of_content:
        return f"{key.n_classes} {key.label_set or 'labels'}"
    return f"{key.labels} in {key.n_classes} classes{(key.label_set or '').removeprefix(key.labels)}"


def _codebook(key: ComparisonKey) -> str:
    limit = "an unknown number of" if key.kmeans_iterations is None else key.kmeans_iterations
    return f"codebook {key.codebook}, at most {limit} k-means steps" if key.task == "mi_views" else ""


PARTS: dict[str, Part] = {
    "task": Part(("task",), "task", lambda k: k.task),
    "view": Part(
        ("view",), "view (mask pattern, shift)", lambda k: k.view or "",
        "--view TEXT keeps the views that contain it",
    ),
    "frames": Part(
        ("scored_frames",), "frames scored", lambda k: f"{k.scored_frames} frames" if k.task == "mi_views" else "",
        "--frames NAME keeps one",
    ),
    "clusters": Part(
        ("n_clusters",), "clusters", lambda k: f"{k.n_clusters} clusters" if k.n_clusters else "",
        "--clusters N keeps one",
    ),
    "codebook": Part(
        ("codebook", "kmeans_iterations"), "codebook (what it is of, k-means steps)", _codebook,
        "measure both with one codebook",
    ),
    "labels": Part(
        ("n_classes", "label_set"), "set of labels",
        _labels,
        "--labels NAME keeps one",
    ),
    "alignments": Part(
        ("label_digest",), "alignments",
        lambda k: f"labels {k.label_digest or 'unknown'}" if k.task == "mi_supervised" else "",
        "measure both with one datarc.alignments, on the same utterances",
    ),
    "frame_rate": Part(
        ("frame_shift_ms",), "frame rate", lambda k: f"every {k.frame_shift_ms:g} ms" if k.frame_shift_ms else "",
        "--frame_shift MS keeps one"
    ),
    "fit_split": Part(
        ("fit_splits",), "fit split", lambda k: f"fit on {'+'.join(k.fit_splits)}" if k.fit_splits else "",
        "measure both with one datarc.fit_splits",
    ),
    "eval_split": Part(
        ("eval_splits",), "eval split", lambda k: f"scored on {'+'.join(k.eval_splits)}" if k.eval_splits else "",
        "measure both with one datarc.eval_splits",
    ),
    "utterances": Part(
        ("n_utterances",), "number of utterances", _utterances, "measure both with one datarc.max_utterances"
    ),
    "weights": Part(
        ("layer_weights",), "weights of a weighted sum", lambda k: k.layer_weights or "",
        "measure both with one featurizer",
    ),
    "precision": Part(
        ("precision",), "precision of the codebook's states", lambda k: k.precision or "",
        "measure both with --precision fp32",
    ),
    "protocol": Part(("protocol",), "protocol", lambda k: f"protocol {k.protocol}" if k.protocol else "",
         "--protocol NAME keeps one"),
}  # fmt: skip
"""By the names that `--allow` takes (but for `task`)."""

NOTED = ("utterances", "weights", "precision")
"""Parts that summaries and figures leave open: a report warns where models were scored on different amounts of speech,
a weighted sum stands in the table of the layers that it sums, and the precision is one that suits each upstream (bf16
moves a codebook as another seed does). Only `s3prl-mi compare` refuses them."""

UNDESCRIBED = ("codebook", "alignments", "precision")
"""Parts that titles do not name."""

ENTROPY_TOLERANCE: Bits = 0.02
"""H(Y) of labels that are the same differs by less between upstreams, whose frames lie a little otherwise."""

_NOUNS = [part.noun for part in PARTS.values()]
MUST_AGREE = f"{', '.join(_NOUNS[:-1])} or {_NOUNS[-1]}"
"""All parts in words; the README holds this text."""

Estimate = TypeVar("Estimate", "Record", "Summary")


def group_by_key(estimates: Iterable[Estimate], *leave: str) -> dict[ComparisonKey, list[Estimate]]:
    """Estimates by what may be compared, in order of appearance.

    Args:
        estimates: records, or summaries.
        leave: `PARTS` that may differ within a group.
    """
    groups: dict[ComparisonKey, list[Estimate]] = {}
    for estimate in estimates:
        groups.setdefault(ComparisonKey.of(estimate).without(*leave), []).append(estimate)
    return groups


def differences(keys: Iterable[ComparisonKey]) -> dict[str, list[str]]:
    """Name of each part in which keys differ -> its values in words, in order of appearance.

    Example:
        >>> blank = dict.fromkeys(ComparisonKey._fields)
        >>> key = ComparisonKey(**blank | {"task": "mi_views", "n_clusters": 50})
        >>> differences([key, key._replace(n_clusters=100)])
        {'clusters': ['50 clusters', '100 clusters']}
    """
    words = [key.in_words() for key in keys]
    values = {name: list(dict.fromkeys(w[name] for w in words if name in w)) for name in PARTS}
    return {name: found for name, found in values.items() if len(found) > 1}
