"""The two views of `mi_views`: a fixed pattern of mask spans, or a shift in time. NumPy only.

Source: Liu, Yeh and Glass (ICASSP 2024): the last 30 of every 40 frames masked; a shift of 60 ms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..core.config import ViewConfig, mask_span
from ..core.errors import MIError
from ..core.types import SAMPLE_RATE, BoolVector, IntVector
from .families import Family


@dataclass(frozen=True)
class View:
    """How Za is made; Zb always comes from the unmasked input.

    Attributes:
        kind: `mask`, `shift`, or `plain` (the unmasked, unshifted input).
        level: where masks are put: `latent` (the model's mask embedding) or `waveform` (silence).
        period: frames after which the mask pattern repeats.
        keep: first frames of each period that stay.
        shift_ms: time from Za to Zb in ms.
    """

    kind: Literal["mask", "shift", "plain"]
    level: Literal["latent", "waveform"] | None = None
    period: int | None = None
    keep: int | None = None
    shift_ms: float | None = None

    def describe(self) -> str:
        """Text for records and tables.

        Example:
            >>> View("mask", "latent", 40, 10).describe(), View("shift", shift_ms=60.0).describe()
            ('mask(latent, 30 of 40 frames)', 'shift(60 ms)')
        """
        if self.kind == "mask" and self.period is not None and self.keep is not None:
            return f"mask({self.level}, {self.period - self.keep} of {self.period} frames)"
        return f"shift({self.shift_ms:g} ms)" if self.kind == "shift" else "plain"

    @property
    def slug(self) -> str:
        """Text for names of files.

        Example:
            >>> View("mask", "latent", 40, 10).slug, View("shift", shift_ms=60.0).slug
            ('mask-latent-30of40', 'shift-60ms')
        """
        if self.kind == "mask" and self.period is not None and self.keep is not None:
            return f"mask-{self.level}-{self.period - self.keep}of{self.period}"
        return f"shift-{self.shift_ms:g}ms" if self.kind == "shift" else "plain"

    def pattern(self, n_frames: int) -> BoolVector:
        """The masked frames of an utterance, shape (n_frames,); none unless this is a mask view."""
        if self.kind != "mask" or self.period is None or self.keep is None:
            return np.zeros(n_frames, dtype=np.bool_)
        return mask_pattern(n_frames, self.period, self.keep)


PLAIN = View("plain")


def mask_pattern(n_frames: int, period: int = 40, keep: int = 10) -> BoolVector:
    """Masked frames of an utterance: True where `t % period >= keep`, shape (n_frames,).

    Example:
        >>> mask_pattern(8, period=4, keep=1).astype(int).tolist()
        [0, 1, 1, 1, 0, 1, 1, 1]
    """
    return np.arange(n_frames) % period >= keep


def shift_frames(shift_ms: float, stride: int) -> int:
    """A shift in ms as a whole number of frames of `stride` samples.

    Raises:
        MIError: not a whole number of frames, or none.

    Example:
        >>> shift_frames(60, stride=160), shift_frames(60, stride=320)
        (6, 3)
    """
    frame_ms = 1000 * stride / SAMPLE_RATE
    frames = shift_ms / frame_ms
    whole = max(1, round(frames))
    if abs(frames - whole) > 1e-6:
        raise MIError(
            f"config key downstream_expert.views.shift_ms: {shift_ms:g} ms is not a whole number of frames "
            f"of {frame_ms:g} ms; the nearest shift is {whole * frame_ms:g} ms."
        )
    return whole


def shifted_rows(n_frames: int, shift: int) -> tuple[IntVector, IntVector]:
    """Rows of Za and of Zb of one utterance, `shift` frames apart.

    Returns:
        `(rows_a, rows_b)` with `rows_b = rows_a + shift`, both of shape (max(0, n_frames - shift),).

    Example:
        >>> [rows.tolist() for rows in shifted_rows(5, 3)]
        [[0, 1], [3, 4]]
    """
    rows = np.arange(max(0, n_frames - shift), dtype=np.int64)
    return rows, rows + shift


def resolve_views(config: ViewConfig, upstream_name: str, family: Family) -> tuple[View, ...]:
    """Choose the views of a run from its config and the upstream's family: one, or several in a sweep.

    Args:
        config: the section `downstream_expert.views`.
        upstream_name: as given to `-u`, for messages.
        family: the upstream's family.

    Raises:
        MIError: `auto` for an upstream of unknown family, or latent masks for one without a mask site.
    """
    key = "downstream_expert.views"
    kind = family.view if config.kind == "auto" else config.kind
    if kind is None:
        raise MIError(
            f"config key {key}.kind: upstream {upstream_name!r} is of unknown family, so auto cannot choose. "
            f"Set {key}.kind to mask (frames are silenced in the waveform) or shift, or give its family in a module's "
            "FAMILIES (--upstream_module; see README)."
        )
    if kind == "shift":
        return tuple(dict.fromkeys(View("shift", shift_ms=ms) for ms in config.shift_ms))
    level = config.mask_level
    if level == "auto":
        level = "latent" if family.can_mask_latents else "waveform"
    if level == "latent" and not family.can_mask_latents:
        raise MIError(
            f"config key {key}.mask_level: latent was asked for, but upstream {upstream_name!r} (family "
            f"{family.name!r}) has no known mask site. Set it to waveform, or {key}.kind to shift."
        )
    spans = [s for s in map(mask_span, config.mask) if s is not None]
    return tuple(dict.fromkeys(View("mask", level, period, period - masked) for masked, period in spans))
