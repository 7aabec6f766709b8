"""The receptive field of an upstream's frames: their stride and centres, from the model's own layers and config.

Models are only looked at by attribute; torch is not imported.

Source: s3prl 0.4.18; tests/upstreams/test_forward_families.py finds the centres again by gradient.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..core.errors import MIError
from ..core.types import SAMPLE_RATE
from .families import Family
from .geometry import Geometry, resolve

_PUBLISHED_BY_NAME: dict[str, tuple[int, float | None]] = {
    "mae_ast_frame": (320, None),
    "mae_ast_patch": (2560, None),
    "mel": (160, 0.0),
    "linear": (160, 0.0),
    "baseline_local": (160, None),
}
"""As `Family.published`, for upstreams that differ from the others of their family."""


def geometry_of(expert: Any, family: Family) -> Geometry:
    """Geometry of a loaded upstream; of its finest resolution where it has several.

    Raises:
        MIError: the family has no geometry and its expert has no downsample rate either.
    """
    if isinstance(family.geometry, Geometry):
        return family.geometry
    if family.multires:
        _entry_strides(expert)  # refuses what has no geometry
    if family.geometry == "conv":
        return conv_geometry(resolve(expert, family.conv_stack))
    if family.geometry is not None:
        sources = {"kaldi": _kaldi_geometry, "spectral": _spectral_geometry, "patches": _patch_geometry}
        return sources[family.geometry](expert)
    try:
        stride = int(expert.get_downsample_rates("hidden_states"))
    except (AttributeError, NotImplementedError) as error:
        raise MIError(
            f"upstream of unknown family {family.name!r}: its expert has no get_downsample_rates, so the "
            "time of its frames is unknown. Give it in your module's FAMILIES: Family(..., "
            "geometry=Geometry(stride, first_centre))."
        ) from error
    return Geometry(stride, (stride - 1) / 2)


def geometry_of_entry(expert: Any, family: Family, geometry: Geometry, entry: int) -> Geometry:
    """Geometry of one entry of the hidden states: that of the upstream, but for upstreams of several frame rates.

    There an entry has its own stride and frame count: its frame j stands on frame `aligned_rows(...)[j]` of the finest
    resolution and shares that frame's centre.
    """
    return replace(geometry, stride=_entry_strides(expert)[entry]) if family.multires else geometry


def published_frames(name: str, family: Family) -> tuple[int, float | None] | None:
    """Samples per frame, and the centre of the first frame, of the upstream `-u name`, without loading it."""
    if isinstance(family.geometry, Geometry):
        return family.geometry.stride, family.geometry.first_centre
    return _PUBLISHED_BY_NAME.get(name, family.published)


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


def _kaldi_geometry(expert: Any) -> Geometry:
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


def _spectral_geometry(expert: Any) -> Geometry:
    """Mockingjay, TERA and AALBERT: Kaldi windows or a centred STFT, as the checkpoint's config says."""
    audio = expert.transformer.config["audio"]
    if "kaldi" in audio:
        return _kaldi_windows(audio["kaldi"].get(audio["kaldi"]["feat_type"], {}))
    # Frame 0 is centred on sample 0, beyond which the waveform is reflected.
    return Geometry(round(SAMPLE_RATE * audio.get("hop_ms", 10) / 1000), 0.0, 0)


def _patch_geometry(expert: Any) -> Geometry:
    """MAE-AST: a frame is a patch of several Kaldi windows (25 ms every 10 ms) side by side."""
    window, shift = 400, 160
    reach = window + (expert.ast_kernel_size_time - 1) * shift
    return Geometry(expert.ast_kernel_stride_time * shift, (reach - 1) / 2, reach)


def _entry_strides(expert: Any) -> list[int]:
    """MR-HuBERT: samples per frame of each entry, in the order of its hidden states.

    Blocks run from the finest resolution to the coarsest and back; a block of n layers has n + 1 entries.
    What a block of the way back starts from is the model's own up-sampling of the coarser block: no frame equals
    its neighbour in steps of 2, but with convolutions of kernel 1 both come from the same coarse frame.

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
