"""Matrix products in the arithmetic that is fast on the processor at hand: float32 by oneDNN, bfloat16 for rough sums.

Processors with AMX keep torch's own float32, as oneDNN would round its factors to bfloat16 there. Measured on an AMD
EPYC (Zen 4, AVX512-BF16, one thread, 4096 x 768 x 250): float32 by torch's default library 56 GFLOP/s, by oneDNN (what
torch takes at "medium") 95, bfloat16 190; an H200 has TensorFloat-32 for the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from .errors import MIError

HALF_FRAMES = 4096
"""Sums over at least so many frames may be of bfloat16 numbers: over fewer, rounding would not average out."""


def checked_device(name: str | torch.device, key: str) -> torch.device:
    """A device that can compute what is computed here; `key` is what it is given by.

    Raises:
        MIError: there is no such device, or it has no float64.
    """
    try:
        device = torch.device(name)
        torch.ones(1, dtype=torch.float64, device=device).cpu()  # `meta` holds no numbers
    except TypeError as error:
        raise MIError(f"{key} {name}: it has no float64 (Apple's GPUs do not), which probes need; use cpu.") from error
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise MIError(f"{key} {name}: no such device here; use cuda, cuda:<number> or cpu.") from error
    return device


@contextlib.contextmanager
def fast_products() -> Iterator[None]:
    """Float32 products by the faster library (not with AMX); the process's own setting comes back at the end."""
    before = torch.get_float32_matmul_precision()
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
    if not (has_amx and has_amx()):
        torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    """Float32 as it is, on a GPU too: torch takes TensorFloat-32 for convolutions there, which keeps 3 digits."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


def add_at(sums: Tensor, index: Tensor, values: Tensor) -> None:
    """``sums[index] += values`` in the same order each time; shapes (n_sums,), (n,) and (n,).

    On a GPU index_add_ and scatter_add_ add in any order: sums of floats would differ from run to run.
    """
    if sums.device.type == "cpu":
        sums.index_add_(0, index, values)
    else:
        sums.index_put_((index,), values, accumulate=True)


def half_is_fast(device: torch.device) -> bool:
    """Whether bfloat16 products have instructions of their own on this device."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    has = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return device.type == "cpu" and bool(supported and supported() and has and has())


def fast_type(device: torch.device) -> torch.dtype:
    """bfloat16 where `half_is_fast`, else float32."""
    return torch.bfloat16 if half_is_fast(device) else torch.float32
