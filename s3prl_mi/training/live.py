"""A model that is being trained as an upstream: read where it is, and left exactly as it was."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from ..core.errors import MIError
from ..upstreams.checkpoints import SPEECH_ENCODERS
from ..upstreams.extra.hf import UpstreamExpert
from ..upstreams.extra.hubconf import FAMILIES
from ..upstreams.families import Family, family_of, upstream_folder
from ..upstreams.geometry import Geometry, resolve
from ..upstreams.loading import Upstream
from ..upstreams.receptive_field import geometry_of

Forward: TypeAlias = "Callable[[Any, list[Tensor]], dict[str, Any]]"
"""`forward(model, waveforms) -> {"hidden_states": [(batch, n_frames, dim), ...]}`, as an s3prl upstream."""

# Filter banks of 25 ms every 10 ms, two of them stacked.
_STACKED_FBANK = Geometry(320, 279.5, 560)


class _InputsAs:
    """A feature extractor whose inputs have the precision of the model's weights, which training may have halved."""

    def __init__(self, extractor: Any, dtype: torch.dtype) -> None:
        self._extractor, self._dtype = extractor, dtype

    def __call__(self, waveform: np.ndarray, **options: Any) -> dict[str, Tensor]:
        """Inputs of one utterance."""
        found = self._extractor(waveform, **options)
        return {k: v.to(self._dtype) if v.is_floating_point() else v for k, v in found.items()}


def _hugging_face_expert(model: Any, normalize: bool | None) -> UpstreamExpert:
    """The very expert of `-u hf`, around a model in memory."""
    from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2FeatureExtractor

    family = replace(FAMILIES["hf"], name=f"hf {model.config.model_type}")
    if model.config.model_type == "wav2vec2-bert":
        extractor: Any = SeamlessM4TFeatureExtractor()
        family = replace(family, geometry=_STACKED_FBANK, conv_stack=None)
    else:
        by_config = getattr(model.config, "feat_extract_norm", None) == "layer"
        extractor = Wav2Vec2FeatureExtractor(do_normalize=by_config if normalize is None else normalize)
    return UpstreamExpert(model, _InputsAs(extractor, next(model.parameters()).dtype), family, [])


class FunctionExpert:
    """Any model with a function that computes its hidden states."""

    def __init__(self, model: nn.Module, forward: Forward) -> None:
        self._model, self._forward = model, forward
        self.model = _Attributes(model)

    def __call__(self, waveforms: Sequence[Tensor]) -> dict[str, Any]:
        """What the user's function returns."""
        return self._forward(self._model, list(waveforms))


class _Attributes:
    """A model's attributes, for the paths of a family, without its type: the user's function alone says what its
    hidden states are, even if it is a Hugging Face model, whose last entry `hidden_states` would set right.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


# --- finding the encoder -------------------------------------------------------------------------------


def encoder_of(model: nn.Module, path: str | None = None) -> nn.Module:
    """The encoder within what is trained: out of wrappers, below a head, or the one that a module holds.

    Args:
        model: a Hugging Face model, an s3prl expert, or a module with one of these inside.
        path: attribute path of the encoder below `model`, where there are several or none of known kind.

    Raises:
        MIError: no such attribute; weights that are spread over several processes.
    """
    model = _unwrapped(model)
    if path is not None:
        found = resolve(model, path)
        if not isinstance(found, nn.Module):
            raise MIError(f"encoder={path!r}: {type(model).__name__} has no such module.")
        model = _unwrapped(found)
    elif not _is_known(model):
        inside = [m for m in map(_unwrapped, model.children()) if _is_known(m)]
        model = inside[0] if len(inside) == 1 else model
    if any(type(p).__name__ == "DTensor" or not p.numel() for p in model.parameters()):
        raise MIError(
            f"the weights of {type(model).__name__} are sharded over processes (FSDP or ZeRO-3): measure its "
            "checkpoints instead (run_downstream.py -k 'run/checkpoint-*')."
        )
    return model.base_model if _is_hugging_face(model) else model  # type: ignore[return-value]


def _unwrapped(model: nn.Module) -> nn.Module:
    """Out of DistributedDataParallel, DataParallel and torch.compile."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if type(model).__name__ in ("DistributedDataParallel", "DataParallel"):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def _is_hugging_face(model: nn.Module) -> bool:
    return hasattr(model, "config") and hasattr(model.config, "model_type") and hasattr(model, "base_model")


def _is_known(model: nn.Module) -> bool:
    return _is_hugging_face(model) or _is_expert(model)


def _is_expert(model: Any) -> bool:
    """Whether this is called as s3prl calls its upstreams: one of s3prl's, or one that has its family."""
    return _own_family(model) is not None or bool(upstream_folder(type(model).__module__))


def _own_family(expert: Any) -> Family | None:
    found = getattr(expert, "family", None)
    return found if isinstance(found, Family) else None


def live_upstream(
    model: nn.Module, family: Family | None = None, forward: Forward | None = None, normalize: bool | None = None
) -> Upstream:
    """An upstream around the encoder itself: no copy, so the next call sees the trained weights.

    Args:
        model: from `encoder_of`.
        family: what is known of it; None where it is a Hugging Face or s3prl model. Paths in it begin at the
            expert: `model.encoder` for a Hugging Face model or with `forward`, where `model` is the model.
        forward: how its hidden states are computed, where it is neither of these.
        normalize: Hugging Face only: normalise each waveform; None: by config.feat_extract_norm.

    Raises:
        MIError: a model of unknown kind without `family`.
    """
    expert: Any = model
    if forward is not None:
        expert = FunctionExpert(model, forward)
    elif _is_hugging_face(model):
        kind = getattr(model.config, "model_type", None)
        if kind not in SPEECH_ENCODERS:
            raise MIError(
                f"{type(model).__name__} is of type {kind!r}; known are {', '.join(SPEECH_ENCODERS)}. Give forward= "
                "(model, waveforms -> hidden states) and family=."
            )
        expert = _hugging_face_expert(model, normalize)
    elif family is None and not _is_expert(model):
        raise MIError(
            f"{type(model).__name__} is neither a Hugging Face speech encoder nor an s3prl upstream. Name the one "
            "inside it (encoder='attribute'), or give forward= (model, waveforms -> hidden states) and family=."
        )
    family = family or _own_family(expert) or family_of(expert, type(model).__name__)
    device = next((str(p.device) for p in model.parameters()), "cpu")
    return Upstream(
        name=type(model).__name__,
        expert=expert,
        family=family,
        geometry=geometry_of(expert, family),
        device=device,
        feature_selection="hidden_states",
        fingerprint="",
    )


def weights_sha256(model: nn.Module) -> str:
    """sha256 (hex) over names, shapes and float32 values of all weights, which differs from step to step."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, Tensor):
            array = value.detach().float().cpu().contiguous().numpy()
            digest.update(f"{name}{array.shape}".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


# --- leaving no trace ----------------------------------------------------------------------------------


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """While in this context the model is in eval mode; afterwards all is as before, so training continues bit by bit.

    Put back are the training flag of each module and the random states of Python, NumPy and torch (every
    device). Inference mode and autocast of the caller are off inside: probes need gradients and full precision.
    """
    flags = [(module, module.training) for module in model.modules()]
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    device = next((p.device.type for p in model.parameters()), "cpu")
    mps = torch.mps.get_rng_state() if device == "mps" else None
    try:
        for module, _ in flags:
            module.training = False  # not eval(): a model's own train() may do more than set the flag
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device, enabled=False):
            yield
    finally:
        for module, flag in flags:
            module.training = flag
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        if mps is not None:
            torch.mps.set_rng_state(mps)
