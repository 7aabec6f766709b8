"""In which arithmetic the upstream runs: float32, or bfloat16 products where they are faster and the bits stay.

- `fp32`: float32.
- `mixed`: the unmasked view in float32; of mask views the convolutions in float32 and all behind them in bfloat16
  (autocast). So codebooks and targets are those of float32, and so is all of mi_supervised.
- `bf16`: autocast for everything.

Measured on an AMD EPYC (Zen 4, AVX512-BF16), one thread: a HuBERT of base size reads 8.4 s of audio per second of
processor time in bfloat16 and 4.9 s in float32; HuBERTs of 6 x 192 gain a factor of 1.3 to 1.5; an APC (GRU) loses.
Bits of two trained HuBERTs (6 x 192; mi_supervised: one), LibriSpeech-mini, logistic, all layers, against float32:

- mi_supervised, bf16: at most 0.0007 (APC: 0.0003).
- mi_views, mixed: at most 0.0008; Za and Zb in bfloat16 with the codebook of float32, two layers, 5 seeds: 0.0013.
- mi_views, bf16: up to 0.05 for one seed, 0.012 for the mean of five, as k-means ends elsewhere (as another seed does,
  with a standard deviation of 0.01): so `auto` keeps the unmasked view in float32 on a CPU.

float16 is never used: hidden states of large models lie beyond its range. float32 at torch's precision "medium" is
1.1 times as fast there and as exact, but means bfloat16 on other processors, so `fp32` leaves it alone.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch

from ..core.arithmetic import exact_products, half_is_fast
from ..core.types import SAMPLE_RATE
from .forward import hidden_states
from .geometry import resolve
from .loading import Upstream
from .masking import replaced_forward
from .views import View

logger = logging.getLogger(__name__)

Precision = Literal["fp32", "mixed", "bf16"]

LARGEST_CHANGE = 0.05
"""Error of bfloat16, in standard deviations, up to which `auto` takes it: root mean square over frames, mean over
dimensions, of the layer where it is largest. On noise, where it is three times that on speech."""

_CHECKED_SAMPLES = 2 * SAMPLE_RATE


def choose(asked: str, upstream: Upstream, masked: bool = True) -> Precision:
    """The precision of an upstream's forward passes.

    Args:
        asked: `auto`, `fp32`, `mixed` or `bf16`. `auto` takes `mixed` on a CPU and `bf16` on a GPU where it has
            instructions for it, the family is `fast_in_bfloat16`, and this very upstream's hidden states of noise
            change by little.
        upstream: the upstream.
        masked: whether there are views with latent masks; without any, `mixed` is `fp32`.
    """
    on_gpu = torch.device(upstream.device).type == "cuda"
    if asked == "bf16" or (asked == "auto" and on_gpu and _keeps_states(upstream, "bf16")):
        return "bf16"
    if masked and (asked == "mixed" or (asked == "auto" and not on_gpu and _keeps_states(upstream, "mixed"))):
        return "mixed"
    return "fp32"


def of_view(precision: str, view: View) -> Precision:
    """What a precision means for one view, and for the key under which its hidden states are stored."""
    if precision == "mixed":
        return "mixed" if view.kind == "mask" and view.level == "latent" else "fp32"
    return "bf16" if precision == "bf16" else "fp32"


def _keeps_states(upstream: Upstream, precision: Precision) -> bool:
    """Whether bfloat16 is fast here and changes this upstream's hidden states by little."""
    if not upstream.family.fast_in_bfloat16 or not half_is_fast(torch.device(upstream.device)):
        return False
    change = change_by(precision, upstream)
    if change > LARGEST_CHANGE:
        logger.info(
            "bfloat16 would change hidden states of %s by %.0f %% of their standard deviation: they are computed in "
            "float32.",
            upstream.name,
            100 * change,
        )
    return change <= LARGEST_CHANGE


def change_by(precision: Precision, upstream: Upstream) -> float:
    """What a precision changes in the hidden states of noise, as `LARGEST_CHANGE` measures it; inf where it fails."""
    noise = 0.1 * torch.randn(_CHECKED_SAMPLES, generator=torch.Generator().manual_seed(0))
    exact = hidden_states(upstream, [noise])[0]
    with running_in(upstream, precision):
        rounded = hidden_states(upstream, [noise])[0]
    worst = 0.0
    for a, b in zip(exact, rounded, strict=True):
        spread = a.std(0)
        varies = spread > 1e-6 * spread.max()
        change = float(((a - b).square().mean(0).sqrt() / spread)[varies].mean())
        worst = max(worst, change if change == change else float("inf"))
    return worst


def rounded_once(upstream: Upstream) -> AbstractContextManager[object]:
    """While in this context, only the first pass in bfloat16 rounds the weights: autocast remembers them as long."""
    return torch.autocast(torch.device(upstream.device).type, torch.bfloat16, enabled=False)


@contextlib.contextmanager
def running_in(upstream: Upstream, precision: str) -> Iterator[None]:
    """While in this context, forward passes run in a precision, that of mask views if `mixed`; output is float32.

    Float32 is float32 on a GPU, too, where torch would take TensorFloat-32 for convolutions.
    """
    if precision == "fp32":
        with exact_products():
            yield
        return
    kind = torch.device(upstream.device).type
    kept = _kept_in_float32(upstream, precision, kind)
    exact = {parameter for module in kept for parameter in module.parameters()}
    # autocast remembers the rounded weights that require gradients; float32 kernels may be others for such weights
    rounded = [
        p for p in upstream.expert.parameters() if p not in exact and p.is_floating_point() and not p.requires_grad
    ]
    with contextlib.ExitStack() as stack:
        stack.enter_context(exact_products())
        stack.enter_context(torch.no_grad())
        for parameter in rounded:
            stack.callback(parameter.requires_grad_, False)
            parameter.requires_grad_(True)
        for module in kept:
            stack.enter_context(replaced_forward(module, _in_float32(module.forward, kind)))
        stack.enter_context(torch.autocast(kind, torch.bfloat16))
        yield


def _kept_in_float32(upstream: Upstream, precision: str, device: str) -> list[torch.nn.Module]:
    """Modules that stay in float32: the convolutions in front if `mixed`; on CPUs convolutions in groups.

    oneDNN gives wrong sums for these in bfloat16 on processors with AMX (torch 2.14, 8 or 12 channels to a group:
    relative error 1.1).
    """
    kept: list[torch.nn.Module] = []
    if device == "cpu":
        convolutions = (torch.nn.Conv1d, torch.nn.Conv2d)
        kept = [m for m in upstream.expert.modules() if isinstance(m, convolutions) and m.groups > 1]
    front = resolve(upstream.expert, upstream.family.conv_stack) if precision == "mixed" else None
    return kept if front is None else [*kept, front]


def _in_float32(forward: Callable[..., Any], kind: str) -> Callable[..., Any]:
    def exact(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(kind, enabled=False):
            return forward(*(a.float() if isinstance(a, torch.Tensor) else a for a in args), **kwargs)

    return exact
