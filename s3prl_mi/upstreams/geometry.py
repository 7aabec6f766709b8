"""Where frames lie in a waveform: stride, centre of the receptive field, number.

`receptive_field` finds them for a loaded upstream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.types import SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where frames lie in the waveform; everything in samples at 16 kHz.

    Attributes:
        stride: samples from one frame to the next.
        first_centre: centre of the receptive field of frame 0.
        first_needs: length of the shortest waveform that has a frame; None where unknown.
    """

    stride: int
    first_centre: float
    first_needs: int | None = None

    def n_frames(self, n_samples: int) -> int | None:
        """Number of frames of a waveform of `n_samples`, or None where only the model can tell.

        Example:
            >>> Geometry(320, 199.5, 400).n_frames(16000)
            49
        """
        if self.first_needs is None:
            return None
        return max(0, (n_samples - self.first_needs) // self.stride + 1)

    def centres_seconds(self, n_frames: int) -> NDArray[np.float64]:
        """Centre of each frame's receptive field in seconds, shape (n_frames,).

        Example:
            >>> Geometry(320, 199.5).centres_seconds(2).tolist()
            [0.01246875, 0.03246875]
        """
        return (self.first_centre + self.stride * np.arange(n_frames, dtype=np.float64)) / SAMPLE_RATE

    def nearest_frames(self, n_samples: int) -> NDArray[np.int64]:
        """For each sample the frame whose centre is nearest, shape (n_samples,); not above the last frame."""
        frames = np.floor((np.arange(n_samples) - self.first_centre) / self.stride + 0.5).astype(np.int64)
        last = self.n_frames(n_samples)
        return np.clip(frames, 0, None if last is None else max(0, last - 1))


def resolve(expert: Any, path: str | None) -> Any:
    """The attribute at a dotted path below the expert, or None if any part of it is missing."""
    found = expert if path else None
    for part in (path or "").split("."):
        found = getattr(found, part, None)
    return found


def aligned_rows(entry: Geometry, finest: Geometry, n_frames: int) -> NDArray[np.int64]:
    """For each frame of an entry the frame of the finest resolution that it stands on, shape (n_frames,).

    A coarse frame j is masked where this fine frame is: MR-HuBERT's own rule, since its way down keeps every
    second (third, ...) frame.

    Example:
        >>> aligned_rows(Geometry(640, 199.5, 400), Geometry(320, 199.5, 400), 3).tolist()
        [0, 2, 4]
    """
    return np.arange(n_frames, dtype=np.int64) * entry.stride // finest.stride
