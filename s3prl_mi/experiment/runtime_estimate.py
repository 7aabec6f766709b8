"""Roughly how long an experiment will take, said before it begins. Speeds are measured on the machine itself."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from ..core.types import SAMPLE_RATE, Seconds
from ..upstreams.forward import hidden_states
from ..upstreams.loading import Upstream
from .plan import Plan

_PROBE_OF_SPEED: Seconds = 0.05
_NOISE_SECONDS = 4

# Passes over frames, counted on LibriSpeech-mini; one is forward and backward.
_KMEANS_PASSES = 12
_CHOICE_PASSES = 200
_FIT_PASSES = 22
_CHOICE_FRAMES = 15_000
_MLP_NETWORKS_CHOSEN = 3
_MLP_FRAMES, _MLP_PASSES = 150 * 512, 1.75
_MLP_WIDTH = 256


def extraction_speed(upstream: Upstream) -> float:
    """Seconds of audio that a forward pass takes in per second, measured on noise."""
    noise = torch.randn(_NOISE_SECONDS * SAMPLE_RATE, generator=torch.Generator().manual_seed(0))
    hidden_states(upstream, [noise])  # the first call is slower
    began = time.perf_counter()
    hidden_states(upstream, [noise])
    return _NOISE_SECONDS / (time.perf_counter() - began)


def estimation_seconds(plan: Plan, dims: Sequence[int], fit_frames: float, device: str) -> Seconds:
    """Time that the probes and codebooks of a whole plan take.

    Args:
        plan: what will be computed.
        dims: dimensions of each of the plan's layers.
        fit_frames: frames of the fit splits.
        device: where.
    """
    seeds, classes = len(plan.seeds), max((c or 40) for c in plan.clusters)
    views = plan.task == "mi_views"
    speeds: dict[int, Seconds] = {}
    for dim in set(dims):
        one, all_seeds = (_pass_seconds(dim, n * classes, device) for n in (1, seeds + 1))
        fit = _CHOICE_PASSES * min(fit_frames, _CHOICE_FRAMES) * one + _FIT_PASSES * fit_frames * all_seeds
        if "mlp" in plan.probes:
            seen = max(_MLP_FRAMES, _MLP_PASSES * fit_frames)
            fit += seen * _pass_seconds(dim, _MLP_WIDTH, device) * (_MLP_NETWORKS_CHOSEN + seeds)
        speeds[dim] = fit
        if views:  # one codebook serves the views and kinds of frames that follow each other
            share = 1 / (len(plan.views) * len(plan.frames))
            speeds[dim] += share * _KMEANS_PASSES * fit_frames * all_seeds
    cells_of_a_layer = len(plan.cells) / len(plan.layers)
    return cells_of_a_layer * sum(speeds[dim] for dim in dims)


def _pass_seconds(dim: int, outputs: int, device: str) -> Seconds:
    """Time that a frame takes forward and backward through a linear layer, in a block of 2048."""
    x, w = torch.randn(2048, dim, device=device), torch.randn(dim, outputs, device=device)
    _sync(x.T @ (x @ w))
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < _PROBE_OF_SPEED:
        _sync(x.T @ (x @ w))
        count += 1
    return (time.perf_counter() - began) / count / len(x)


def _sync(result: torch.Tensor) -> None:
    result[0, 0].item()
