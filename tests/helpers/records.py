"""Records for tests of what stands on records: any field may be changed."""

from __future__ import annotations

import dataclasses
from typing import Any

from s3prl_mi.results.record import Record

SUPERVISED: dict[str, Any] = {
    "task": "mi_supervised", "view": None, "clusters": None, "frames": "all", "labels": 40,
    "label_set": "phones, stress stripped",
}  # fmt: skip


def make(bits: float = 1.25, model: str = "hubert_local", **changes: Any) -> Record:
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
        frames="masked",
        clusters=50,
        seed=0,
        fit_splits=["dev-other"],
        eval_splits=["test-other"],
        mi_lower_bound_bits=bits,
        entropy_bits=5.5,
        cross_entropy_bits=5.5 - bits,
        accuracy=0.4567,
        fit_frames=61234,
        eval_frames=59871,
        labels=50,
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
