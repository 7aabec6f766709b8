"""Hidden states on their way to the store: float16 and its error, on the device where they are, copied once per batch.

float16 holds ``z = (x - offset) / scale``. With it, per dimension and batch, go the mean of z, the sum of its squared
deviations and the sum of squared rounding errors: float32 sums over one batch, added in float64. They tell NaN from
what float16 cannot hold, so that no frame is looked at twice. Measured (500 frames x 768, one thread): 0.36 ms,
where float64 sums in NumPy took 5.7 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..core.types import FloatMatrix

if TYPE_CHECKING:
    from torch import Tensor


class RoundingError:
    """Running sums over frames, per dimension, from which the error of float16 is judged.

    Args:
        scale: what z is multiplied by, shape (dim,).

    Attributes:
        count: frames so far.
        sums: mean of z, sum of squared deviations from it, sum of squared rounding errors, shape (3, dim).
    """

    def __init__(self, scale: FloatMatrix) -> None:
        self._scale = scale.astype(np.float64)
        self.count, self.sums = 0, np.zeros((3, len(scale)))

    def add(self, count: int, sums: NDArray[np.floating]) -> None:
        """Add a batch's `count` frames and `sums`, or what another process has summed.

        Source: Chan, Golub and LeVeque 1979, for adding two sets' means and squared deviations.
        """
        both = self.count + count
        apart = sums[0].astype(np.float64) - self.sums[0]
        mean = self.sums[0] + apart * (count / both)
        self.sums = self.sums + sums.astype(np.float64)
        self.sums[0] = mean
        self.sums[1] += apart**2 * (self.count * count / both)
        self.count = both

    def worst(self) -> float:
        """Largest root mean square error of a dimension, in its standard deviations."""
        _, square, error = self.sums
        variance = square / self.count * self._scale**2
        varies = variance > 1e-12 * max(float(variance.max()), 1e-30)
        return float(np.sqrt(error[varies] / square[varies]).max(initial=0.0))


@dataclass(frozen=True)
class EncodedBatch:
    """Hidden states of a batch of utterances as they will be stored, perhaps still on their way from the device.

    Attributes:
        n_frames: frames of each utterance.
        arrays: for each layer float16 or float32 of shape (n_frames of all, dim).
        sums: for each layer float32 of shape (3, dim) for `RoundingError.add`; of float32 states the mean alone,
            (1, dim).
        event: of CUDA, after which the copy is there; None: it is there.
    """

    n_frames: tuple[int, ...]
    arrays: list[NDArray[np.floating]]
    sums: list[FloatMatrix]
    event: Any = None


def to_float16(hidden: Sequence[Sequence[Tensor]], scales: Sequence[tuple[Tensor, Tensor]] | None) -> EncodedBatch:
    """Hidden states in the form of the store.

    Args:
        hidden: for each utterance, for each layer, float32 of shape (n_frames, dim).
        scales: offset and scale of each layer for float16, where the hidden states are; None: float32.
    """
    import torch

    layers: list[Tensor] = []
    sums: list[Tensor] = []
    with torch.no_grad():
        for number in range(len(hidden[0])):
            of_batch = [utterance[number] for utterance in hidden]
            h = torch.cat(of_batch) if len(of_batch) > 1 else of_batch[0]
            if scales is None:
                layers.append(h)
                sums.append(h.mean(0, keepdim=True))
                continue
            offset, scale = scales[number]
            z = (h - offset).div_(scale)
            half = z.half()
            error = half.float().sub_(z).square_().sum(0)
            mean = z.mean(0)
            square = z.sub_(mean).square_().sum(0)
            layers.append(half)
            sums.append(torch.stack([mean, square, error]))
        arrays, event = _to_host([*sums, *layers])
    counts = tuple(len(utterance[0]) for utterance in hidden)
    return EncodedBatch(counts, arrays[len(sums) :], arrays[: len(sums)], event)


def _to_host(tensors: Sequence[Tensor]) -> tuple[list[NDArray[Any]], Any]:
    """Tensors of one device as arrays; from a GPU in one copy into page-locked memory that nobody waits for.

    Args:
        tensors: wider types before narrower ones, so that each lies where its type may.
    """
    import torch

    if tensors[0].device.type != "cuda":
        return [t.cpu().numpy() for t in tensors], None
    flat = torch.cat([t.reshape(-1).view(torch.uint8) for t in tensors])
    host = torch.empty(flat.shape, dtype=torch.uint8, pin_memory=True)
    host.copy_(flat, non_blocking=True)
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(flat.device))
    parts = host.split([t.numel() * t.element_size() for t in tensors])
    return [p.view(t.dtype).view(t.shape).numpy() for p, t in zip(parts, tensors, strict=True)], event
