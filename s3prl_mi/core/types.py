"""Names for units and array shapes, and the sample rate; imports nothing of ours."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16000
"""Samples per second of all audio: what every upstream of s3prl expects."""

Seconds: TypeAlias = float
Bits: TypeAlias = float

Waveform: TypeAlias = NDArray[np.float32]
"""Shape (n_samples,), 16 kHz mono in [-1, 1]."""

FloatMatrix: TypeAlias = NDArray[np.float32]
"""Shape (n_frames, dim)."""

IntVector: TypeAlias = NDArray[np.int64]
"""Shape (n_frames,): class ids, or row numbers."""

BoolVector: TypeAlias = NDArray[np.bool_]
"""Shape (n_frames,)."""
