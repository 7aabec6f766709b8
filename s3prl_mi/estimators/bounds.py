"""Entropy, cross-entropy and the lower bound, in bits and float64. Pure NumPy.

Source: Liu, Yeh and Glass (ICASSP 2024), eq. 4 and 8; shared by both tasks:
``I(Z;Y) >= H(Y) - E[-log2 q(y|z)]``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..core.types import Bits

NATS_TO_BITS = 1.0 / math.log(2.0)


def entropy_bits(counts: ArrayLike) -> Bits:
    """Entropy of the empirical distribution behind class counts.

    Args:
        counts: shape (n_classes,), how often each class occurs; zeros are allowed.

    Returns:
        ``-sum p log2 p`` in bits, in [0, log2(number of classes that occur)].

    Raises:
        ValueError: negative counts, or nothing counted.

    Example:
        >>> entropy_bits([5, 5, 0, 0])
        1.0
    """
    c = np.asarray(counts, dtype=np.float64)
    if c.ndim != 1 or (c < 0).any() or c.sum() <= 0:
        raise ValueError(f"expected non-negative counts of at least one frame, found {counts!r}")
    p = c[c > 0] / c.sum()
    # + 0.0 turns the -0.0 of a single class into 0.0
    return float(-(p * np.log2(p)).sum() + 0.0)


def lower_bound_bits(entropy: Bits, cross_entropy: Bits) -> Bits:
    """``H - CE`` (eq. 4). Never clipped: a negative bound says that the probe does worse than the prior."""
    return entropy - cross_entropy


def contributions_bits(counts: ArrayLike, loss_bits: ArrayLike) -> NDArray[np.float64]:
    """Contribution of each class to the bound.

    Args:
        counts: frames of each class that were scored, shape (n_classes,).
        loss_bits: sum of ``-log2 q(y|z)`` over the frames of each class, shape (n_classes,).

    Returns:
        Shape (n_classes,): ``n_k / n * -log2(n_k / n) - loss_k / n`` for each class k; the sum is H - CE.

    Example:
        >>> contributions_bits([1, 1], [0.0, 1.0]).tolist()
        [0.5, 0.0]
    """
    n = np.asarray(counts, dtype=np.float64)
    p = n / n.sum()
    prior = -p * np.log2(np.where(p > 0, p, 1.0))
    return prior - np.asarray(loss_bits, dtype=np.float64) / n.sum()
