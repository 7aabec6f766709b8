"""Where an upstream's frames lie in the waveform: stride, centre, number, from the upstream itself.

Nothing here imports torch; models are only looked at by attribute.

Source: s3prl 0.4.18; tests/upstreams/test_forward_families.py finds the centres again by gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import MIError
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


def conv_geometry(stack: Any) -> Geometry:
    """Stride and receptive field of a stack of 1-d convolutions, from the layers themselves."""
    if not hasattr(stack, "modules"):
        raise MIError(
            'Family(geometry="conv"): conv_stack does not name a module of this upstream; give the path from '
            "the s3prl expert, such as model.feature_extractor, or a Geometry(stride, first_centre)."
        )
    stride, reach, start = 1, 0, 0
    for layer in stack.modules():
        if type(layer).__name__ != "Conv1d":
            continue
        start -= layer.padding[0] * stride
        reach += (layer.kernel_size[0] - 1) * layer.dilation[0] * stride
        stride *= layer.stride[0]
    return Geometry(stride, start + reach / 2, reach + 1 + 2 * start)


def kaldi_geometry(expert: Any) -> Geometry:
    """Kaldi windows (snip_edges), from the expert's frame length and shift in ms."""
    if not hasattr(expert, "config"):
        return _kaldi_windows(getattr(resolve(expert, "preprocessor"), "kwargs", {}))
    kaldi = expert.config["kaldi"]
    return _kaldi_windows(kaldi[kaldi["feat_type"]])


def _kaldi_windows(options: dict[str, Any]) -> Geometry:
    """From `frame_length` and `frame_shift` in ms, Kaldi's defaults where missing."""
    window = int(SAMPLE_RATE * options.get("frame_length", 25.0) / 1000)
    shift = int(SAMPLE_RATE * options.get("frame_shift", 10.0) / 1000)
    return Geometry(shift, (window - 1) / 2, window)


def spectral_geometry(expert: Any) -> Geometry:
    """Mockingjay, TERA and AALBERT: Kaldi windows or a centred STFT, as the checkpoint's config says."""
    audio = expert.transformer.config["audio"]
    if "kaldi" in audio:
        return _kaldi_windows(audio["kaldi"].get(audio["kaldi"]["feat_type"], {}))
    # Frame 0 is centred on sample 0, beyond which the waveform is reflected.
    return Geometry(round(SAMPLE_RATE * audio.get("hop_ms", 10) / 1000), 0.0, 0)


def patch_geometry(expert: Any) -> Geometry:
    """MAE-AST: a frame is a patch of several Kaldi windows (25 ms every 10 ms) side by side."""
    window, shift = 400, 160
    reach = window + (expert.ast_kernel_size_time - 1) * shift
    return Geometry(expert.ast_kernel_stride_time * shift, (reach - 1) / 2, reach)


def entry_strides(expert: Any) -> list[int]:
    """MR-HuBERT: samples per frame of each entry, in the order of its hidden states.

    Blocks run from the finest resolution to the coarsest and back; a block of n layers has n + 1 entries.
    What a block of the way back starts from is the model's own up-sampling of the coarser block: no frame equals
    its neighbour in steps of 2, but with convolutions of kernel 1 both tell of the same coarse frame.

    Raises:
        MIError: steps of unequal size.
    """
    model = expert.model
    rates = [int(rate) for rate in model.feature_ds_rates]
    if list(model.label_rate_ratios) != list(reversed(model.label_rate_ratios)):
        # The way up takes the steps in the order of the way down and adds frames of other times.
        raise MIError(
            f"MR-HuBERT with the unequal steps {model.label_rate_ratios} (label_rate_ratios) is not supported: "
            "its decoder sums frames of different times, so its frames have no one time."
        )
    blocks = [
        *zip(model.encoders, rates, strict=False),
        (model.middle_encoder, rates[-1]),
        *zip(model.decoders, reversed(rates[:-1]), strict=True),
    ]
    return [rate for block, rate in blocks for _ in range(len(block.layers) + 1)]


def aligned_rows(entry: Geometry, finest: Geometry, n_frames: int) -> NDArray[np.int64]:
    """For each frame of an entry the frame of the finest resolution that it stands on, shape (n_frames,).

    A coarse frame j is masked where this fine frame is: MR-HuBERT's own rule, since its way down keeps every
    second (third, ...) frame.

    Example:
        >>> aligned_rows(Geometry(640, 199.5, 400), Geometry(320, 199.5, 400), 3).tolist()
        [0, 2, 4]
    """
    return np.arange(n_frames, dtype=np.int64) * entry.stride // finest.stride
