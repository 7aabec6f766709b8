"""s3prl's Featurizer as a layer: the softmax-weighted sum of all hidden states.

Its weights are uniform, learned with a linear probe on the fit split, or read from a trained s3prl experiment,
so that the very representation behind a PER or WER can be measured.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ..core.errors import MIError
from ..core.types import FloatMatrix, IntVector
from ..estimators.frames import Frames
from .entry import StoredLayer

logger = logging.getLogger(__name__)

LEARNING_STEPS, LEARNING_BATCH, LEARNING_RATE = 1000, 512, 3e-3
LEARNING_SEED = 0


@dataclass(frozen=True)
class LayerWeights:
    """Weights of the sum, shape (n_layers,), after the softmax; `normalize` as in s3prl's Featurizer."""

    weights: NDArray[np.float64]
    normalize: bool
    source: str

    def describe(self) -> str:
        """For records: where the weights come from, and what they are."""
        shares = " ".join(f"{w:.4f}" for w in self.weights)
        return f"featurizer ({self.source}{', normalized' if self.normalize else ''}): {shares}"


class WeightedLayer:
    """The weighted sum of stored layers: reads like an array of shape (n_frames, dim)."""

    def __init__(self, layers: Sequence[StoredLayer], weights: LayerWeights) -> None:
        self.layers, self.weights = layers, weights
        self.shape: tuple[int, ...] = layers[0].shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | NDArray[np.integer]) -> FloatMatrix:
        total: FloatMatrix | None = None
        for layer, weight in zip(self.layers, self.weights.weights, strict=True):
            part = layer[rows]
            if self.weights.normalize:
                # rows of a float32 store come as a view of its file, which torch takes only as a copy
                writable = torch.from_numpy(np.require(part, requirements="W"))
                part = functional.layer_norm(writable, part.shape[-1:]).numpy()
            total = part * np.float32(weight) if total is None else total + part * np.float32(weight)
        assert total is not None
        return total


def uniform(n_layers: int, normalize: bool) -> LayerWeights:
    """Equal weights: what s3prl's Featurizer starts from."""
    return LayerWeights(np.full(n_layers, 1 / n_layers), normalize, "uniform")


def read_weights(path: Path, n_layers: int, upstream: str) -> LayerWeights:
    """Read the weights that a stock s3prl experiment learned (`states-*.ckpt` or `*-best.ckpt`).

    Raises:
        MIError: no such file, no such weights in it, or not as many.
    """
    key = "config key downstream_expert.featurizer"
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise MIError(f"{key}: no file {path}. Give learned, uniform, or a states-*.ckpt of s3prl.") from None
    except Exception as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise MIError(f"{key}: {path} cannot be read as a checkpoint of s3prl ({reason}).") from None
    featurizer = content.get("Featurizer") if isinstance(content, dict) else None
    raw = featurizer.get("weights") if isinstance(featurizer, dict) else None
    if raw is None:
        raise MIError(
            f"{key}: {path} holds no layer weights (Featurizer.weights). A run with -l, or of an upstream with "
            "one layer, learns none: measure that layer with downstream_expert.layers instead."
        )
    args = content.get("Args")
    trained_on = getattr(args, "upstream", None)
    if not isinstance(raw, torch.Tensor) or raw.dim() != 1 or not raw.is_floating_point():
        raise MIError(f"{key}: Featurizer.weights in {path} is no vector of numbers: not written by s3prl.")
    if len(raw) != n_layers:
        raise MIError(
            f"{key}: {path} holds weights of {len(raw)} layers (upstream {trained_on}), but {upstream} has {n_layers}."
        )
    if not bool(torch.isfinite(raw).all()):
        raise MIError(f"{key}: the layer weights in {path} are NaN or infinite: that run has diverged.")
    if trained_on not in (None, upstream):
        logger.warning("%s learned its weights on upstream %s; they are used on %s.", path, trained_on, upstream)
    normalize = bool(getattr(args, "upstream_feature_normalize", False))
    source = f"{path.name} of {getattr(args, 'downstream', 's3prl')} on {trained_on or 'unknown upstream'}"
    return LayerWeights(torch.softmax(raw.double(), 0).numpy(), normalize, source)


def learn_weights(
    layers: Sequence[Frames], ids: IntVector, classes: int, normalize: bool, device: torch.device | str
) -> LayerWeights:
    """Learn the weights jointly with a linear probe of labels, on the fit split.

    As in s3prl, weights start equal and are trained by cross-entropy together with the linear layer above
    them. Frames are standardised after the sum, by the statistics of the equal sum.

    Args:
        layers: the same labelled fit frames of every layer.
        ids: class ids, shape (n_frames,).
        classes: number of classes.
        normalize: layer-normalise each layer before the sum.
        device: where to compute.
    """
    generator = torch.Generator().manual_seed(LEARNING_SEED)
    count, dim = len(layers[0]), layers[0].dim
    targets = torch.from_numpy(ids)

    def read(rows: Tensor) -> Tensor:
        picked = rows.numpy()
        stack = torch.stack([torch.from_numpy(f.select(picked).read(0, len(picked))) for f in layers]).to(device)
        return functional.layer_norm(stack, (dim,)) if normalize else stack

    sample = torch.randperm(count, generator=generator)[: min(count, 8192)].sort().values
    stack = read(sample)  # (n_layers, n_sampled, dim)
    mean = stack.mean(1, keepdim=True)
    variance = stack.mean(0).var(0) if stack.shape[1] > 1 else torch.zeros_like(mean[0, 0])
    scale = variance.sqrt().clamp_min(1e-6)
    raw = torch.zeros(len(layers), device=device, requires_grad=True)
    linear = torch.nn.Linear(dim, classes).to(device)
    torch.nn.init.zeros_(linear.weight)
    torch.nn.init.zeros_(linear.bias)
    optimiser = torch.optim.Adam(linear.parameters(), lr=LEARNING_RATE)
    # a few numbers above a large layer: they need larger steps to get anywhere in the same time
    optimiser.add_param_group({"params": [raw], "lr": 10 * LEARNING_RATE})
    steps = min(LEARNING_STEPS, 10 * max(1, count // LEARNING_BATCH))
    with torch.enable_grad():
        for _ in range(steps):
            batch = torch.randint(count, (min(LEARNING_BATCH, count),), generator=generator).unique()
            mixed = torch.einsum("l,lnd->nd", raw.softmax(0), read(batch) - mean) / scale
            loss = functional.cross_entropy(linear(mixed), targets[batch].to(device))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    learned = raw.detach().double().softmax(0).cpu().numpy()
    return LayerWeights(learned, normalize, "learned with a linear probe on the fit split")
