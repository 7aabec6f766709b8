"""Records for tests of what stands on records: any field may be changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from s3prl_mi.results.class_contributions import EstimateLine
from s3prl_mi.results.record import Record
from s3prl_mi.results.speaker_sums import SpeakerRecord

SUPERVISED: dict[str, Any] = {
    "task": "mi_supervised", "view": None, "n_clusters": None, "scored_frames": "all", "n_classes": 40,
    "label_set": "phones, stress stripped",
}  # fmt: skip


def make(bits: float = 1.25, model: str = "hubert_local", entropy: float = 5.5, **changes: Any) -> Record:
    """A record of mi_views; `model` names the upstream and (by default) tells its weights from others."""
    base = Record(
        task="mi_views",
        upstream=model,
        checkpoint=None,
        upstream_sha256=f"sha of {model}",
        step=None,
        series=None,
        layer=2,
        layer_name="encoder.layers[2]",
        layers_in_upstream=3,
        last_layer=2,
        dim=256,
        frame_shift_ms=20.0,
        probe="logistic",
        protocol="default-1",
        view="mask(latent, 30 of 40 frames)",
        scored_frames="masked",
        n_clusters=50,
        seed=0,
        fit_splits=["dev-other"],
        eval_splits=["test-other"],
        mi_lower_bound_bits=bits,
        entropy_bits=entropy,
        cross_entropy_bits=entropy - bits,
        accuracy=0.4567,
        fit_frames=61234,
        eval_frames=59871,
        n_classes=50,
        label_set=None,
        unseen_frames=0,
        unlabelled_frames=0,
        utterances={"fit": 10, "eval": 9, "skipped": 0},
        probe_settings={},
        seconds=1.0,
        versions={"torch": "2.8.0"},
    )
    return dataclasses.replace(base, **changes)


def curve(values: list[float], seeds: int = 1, **changes: Any) -> list[Record]:
    """One record per layer and seed, layers counted from 0."""
    return [
        make(
            bits,
            **{
                "layer": layer,
                "layer_name": f"layers[{layer}]",
                "layers_in_upstream": len(values),
                "last_layer": len(values) - 1,
                "seed": seed,
            }
            | changes,
        )
        for layer, bits in enumerate(values)
        for seed in range(seeds)
    ]


def speaker_sums(record: Record, deviations: Sequence[float], groups: Sequence[str] = ()) -> SpeakerRecord:
    """Sums of speakers with as many frames of one class each, whose bounds lie around that of the record.

    Its jackknife error is the standard deviation of `deviations` by the square root of their number.
    """
    n = len(deviations)
    own = record.mi_lower_bound_bits + np.array(deviations) - np.mean(deviations)
    return SpeakerRecord(
        **EstimateLine.fields_of(record),
        upstream_sha256=record.upstream_sha256,
        over="speakers",
        groups=list(groups or map(str, range(n))),
        frames=[100] * n,
        loss_bits=(-100 * own).tolist(),
        mi_lower_bound_bits=record.mi_lower_bound_bits,
        bound_without_bits=((n * record.mi_lower_bound_bits - own) / (n - 1)).tolist(),
        class_frames=[[100]] * n,
    )


VERSION_1_LINE = (
    '{"task": "mi_views", "upstream": "hubert_local", "checkpoint": {"name": "hubert-000960.ckpt", "sha256": "abab"}, '
    '"upstream_sha256": "cdcd", "step": 960, "series": null, "layer": 3, "layer_name": "encoder.layers[2]", '
    '"layers_in_upstream": 4, "last_layer": 3, "dim": 256, "frame_shift_ms": 20.0, "probe": "logistic", '
    '"protocol": "default-1", "view": "mask(latent, 30 of 40 frames)", "frames": "masked", "clusters": 50, '
    '"seed": 1, "fit_splits": ["dev-other"], "eval_splits": ["test-other"], "mi_lower_bound_bits": 1.25, '
    '"entropy_bits": 5.5, "cross_entropy_bits": 4.25, "accuracy": 0.4, "fit_frames": 1000, "eval_frames": 900, '
    '"labels": 50, "label_set": null, "unseen_frames": 0, "unlabelled_frames": 0, '
    '"utterances": {"fit": 10, "eval": 9, "skipped": 0}, "probe_settings": {"l2": 0.001}, "seconds": 1.5, '
    '"versions": {"torch": "2.8.0", "started": "2026-11-20T10:00:00"}}\n'
)
"""As s3prl_mi wrote it before records had a schema version (and, here, before they named the precision)."""

VERSION_1_CLASSES = (
    '{"task": "mi_views", "layer": 3, "probe": "logistic", "view": "mask(latent, 30 of 40 frames)", '
    '"frames": "masked", "clusters": 50, "seed": 1, "labels": ["0", "1"], "eval_frames": [500, 400], '
    '"bits": [1.0, 0.25], "confusion": null}\n'
)
