"""In which arithmetic the upstream runs: float32, or bfloat16 products where that is faster and changes nothing.

Measured on an AMD EPYC (Zen 4, AVX512-BF16), one thread: a HuBERT of base size takes in 8.4 s of audio a second in
bfloat16 and 4.9 in float32; HuBERTs of 6 x 192 1.5 times as much; an APC (GRU) less than half, so it stays in float32.
{BITS}
float16 is never used: hidden states of large models lie beyond its range. float32 at torch's precision "medium" is
1.1 times as fast there and as exact, but means bfloat16 on other processors, so `fp32` leaves it alone.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Literal

import torch

from .estimators.precision import half_is_fast
from .hidden_states import extract
from .upstreams import Upstream

logger = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16"]

TRANSFORMERS = frozenset(
    {
        "hubert",
        "wav2vec2",
        "wavlm",
        "unispeech_sat",
        "data2vec",
        "multires_hubert",
        "hf_hubert",
        "hf_wav2vec2",
    }
)
"""Families of convolutions and a Transformer, nearly all of whose work is products that bfloat16 makes faster."""

LARGEST_CHANGE = 0.05
"""Error of bfloat16, in standard deviations, up to which `auto` takes it: root mean square over frames, mean over
dimensions, of the layer where it is largest."""

_CHECKED_SAMPLES = 2 * 16000


def choose(asked: str, upstream: Upstream) -> Precision:
    """The precision of an upstream's forward passes.

    Args:
        asked: `auto`, `fp32` or `bf16`. `auto` takes bfloat16 where the processor or GPU has instructions for it, the
            family is one of `TRANSFORMERS`, and this very upstream's hidden states of noise change by little.
        upstream: the upstream.
    """
    if asked != "auto":
        return "bf16" if asked == "bf16" else "fp32"
    if upstream.family.name not in TRANSFORMERS or not half_is_fast(torch.device(upstream.device)):
        return "fp32"
    change = change_by_half(upstream)
    if change > LARGEST_CHANGE:
        logger.info(
            "bfloat16 would change hidden states of %s by %.0f %% of their standard deviation: they are computed in "
            "float32.",
            upstream.name,
            100 * change,
        )
        return "fp32"
    return "bf16"


def change_by_half(upstream: Upstream) -> float:
    """What bfloat16 changes in the hidden states of noise, as `LARGEST_CHANGE` measures it; inf where it fails."""
    noise = 0.1 * torch.randn(_CHECKED_SAMPLES, generator=torch.Generator().manual_seed(0))
    exact = extract(upstream, [noise])[0]
    with running_in(upstream, "bf16"):
        rounded = extract(upstream, [noise])[0]
    worst = 0.0
    for a, b in zip(exact, rounded, strict=True):
        spread = a.std(0)
        varies = spread > 1e-6 * spread.max()
        change = float(((a - b).square().mean(0).sqrt() / spread)[varies].mean())
        worst = max(worst, change if change == change else float("inf"))
    return worst


@contextlib.contextmanager
def running_in(upstream: Upstream, precision: str) -> Iterator[None]:
    """While in this context, forward passes of the upstream run in a precision; their output is float32.

    Weights are rounded once, at the first pass: autocast keeps them for as long as the context lasts, but only those
    that require gradients.
    """
    if precision == "fp32":
        yield
        return
    frozen = [p for p in upstream.expert.parameters() if not p.requires_grad and p.is_floating_point()]
    kind = torch.device(upstream.device).type
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        with torch.autocast(kind, torch.bfloat16), torch.no_grad():
            yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
