"""Roughly how long an experiment will take, reported before it starts. Speeds are measured on the machine itself."""

from __future__ import annotations

import time

import torch

from ..core.distributed import world
from ..core.types import SAMPLE_RATE, Seconds
from ..core.words import duration
from ..states.provider import HiddenStateProvider
from ..upstreams.forward import hidden_states
from ..upstreams.loading import Upstream
from ..upstreams.precision import running_in
from .plan import Plan

_TRIAL: Seconds = 0.05
_NOISE: Seconds = 4
_WIDEST = 2048

# Passes over frames, counted on LibriSpeech-mini; one is forward and backward.
_KMEANS_PASSES, _CHOICE_PASSES, _FIT_PASSES = 12, 200, 22
_REFIT_PASSES = 8
_CHOICE_FRAMES = 15_000
_MLP_NETWORKS_CHOSEN, _MLP_WIDTH = 3, 256
_MLP_FRAMES, _MLP_PASSES = 150 * 512, 1.75


def describe_runtime(
    plan: Plan, states: HiddenStateProvider, fit_seconds: Seconds, device: str, refits: int = 0
) -> str:
    """Roughly how long it takes to extract hidden states and to carry out a plan on so much audio, in words.

    `refits`: groups of fit speakers that each probe is fitted without.
    """
    missing, dims = states.missing_seconds, states.dims
    with running_in(states.upstream, states.precision):
        extraction = missing / _extraction_speed(states.upstream) if missing else 0.0
    frames = fit_seconds * SAMPLE_RATE / states.upstream.stride
    per_point = {dim: _point_seconds(plan, dim, frames, device, refits) for dim in set(dims)}
    of_layers = [dims[n] if isinstance(n, int) else dims[0] for n in plan.layers]
    points_per_layer = len(plan.points) / len(plan.layers)
    estimation = points_per_layer * sum(per_point[dim] for dim in of_layers) / world().size
    return (
        f"about {duration(extraction + estimation)}: {duration(extraction)} of forward passes ({states.precision}), "
        f"{duration(estimation)} of probes"
    )


def _extraction_speed(upstream: Upstream) -> float:
    """Seconds of audio that a forward pass takes in per second, measured on noise."""
    noise = torch.randn(round(_NOISE * SAMPLE_RATE), generator=torch.Generator().manual_seed(0))
    hidden_states(upstream, [noise])  # the first call is slower
    began = time.perf_counter()
    hidden_states(upstream, [noise])
    return _NOISE / (time.perf_counter() - began)


def _point_seconds(plan: Plan, dim: int, frames: float, device: str, refits: int) -> Seconds:
    """Time that the probes and the codebook of a grid point take on so many fit frames."""
    seeds, classes = len(plan.seeds), max((c or 40) for c in plan.n_clusters)
    one, all_seeds = (_pass_seconds(dim, n * classes, device) for n in (1, seeds + 1))
    seconds = _CHOICE_PASSES * min(frames, _CHOICE_FRAMES) * one + _FIT_PASSES * frames * all_seeds
    seconds += refits * _REFIT_PASSES * frames * all_seeds
    if "mlp" in plan.probes:
        seen = max(_MLP_FRAMES, _MLP_PASSES * frames)
        seconds += seen * _pass_seconds(dim, _MLP_WIDTH, device) * (_MLP_NETWORKS_CHOSEN + seeds * (1 + refits))
    if plan.task == "mi_views":  # one codebook serves the views and kinds of frames that follow each other
        seconds += _KMEANS_PASSES * frames * all_seeds / (len(plan.views) * len(plan.scored_frames))
    return seconds


def _pass_seconds(dim: int, outputs: int, device: str) -> Seconds:
    """Time that a frame takes forward and backward through a linear layer, in a block of 2048.

    A wide layer is not tried: its time is that of `_WIDEST` outputs, in proportion.
    """
    tried = min(outputs, _WIDEST)
    x, w = torch.randn(2048, dim, device=device), torch.randn(dim, tried, device=device)
    (x.T @ (x @ w))[0, 0].item()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < _TRIAL:
        (x.T @ (x @ w))[0, 0].item()  # waits for a GPU
        count += 1
    return (time.perf_counter() - began) / count / len(x) * outputs / tried
