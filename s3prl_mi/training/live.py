"""A model that is being trained as an upstream: read where it is, and left exactly as it was."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import MIError
from ..families import Family, Geometry, family_of, geometry_of, resolve, upstream_folder
from ..upstreams import Upstream

Forward: TypeAlias = "Callable[[Any, list[Tensor]], dict[str, Any]]"
"""`forward(model, waveforms) -> {"hidden_states": [(batch, n_frames, dim), ...]}`, as an s3prl upstream."""

HUGGING_FACE = (
    "data2vec-audio",
    "hubert",
    "unispeech",
    "unispeech-sat",
    "wav2vec2",
    "wav2vec2-conformer",
    "wavlm",
)
"""Model types with a conv stack on the waveform, then an encoder whose input is masked."""

_HUGGING_FACE = Family(
    "hf",
    view="mask",
    mask_site="model.encoder",
    mask_embedding="model.masked_spec_embed",
    geometry="conv",
    conv_stack="model.feature_extractor",
)
# Filter banks of 25 ms every 10 ms, two of them stacked.
_WAV2VEC2_BERT = Family(
    "hf_wav2vec2_bert",
    view="mask",
    mask_site="model.encoder",
    mask_embedding="model.masked_spec_embed",
    geometry=Geometry(320, 279.5, 560),
)


class HuggingFaceExpert:
    """A Hugging Face speech encoder with s3prl's calling convention; holds the model without owning it."""

    def __init__(self, model: Any, normalize: bool) -> None:
        self.model, self.normalize = model, normalize
        self._features = _bert_features() if model.config.model_type == "wav2vec2-bert" else None

    def __call__(self, waveforms: Sequence[Tensor]) -> dict[str, Any]:
        """Hidden states of one utterance, each of shape (1, n_frames, dim); the last is the encoder's output."""
        (waveform,) = waveforms
        if self._features is not None:
            inputs = self._features(waveform)
        else:
            inputs = _normalized(waveform)[None] if self.normalize else waveform[None]
        first = next(self.model.parameters())
        output = self.model(inputs.to(first.device, first.dtype), output_hidden_states=True, return_dict=True)
        # transformers 5 leaves the encoder's final layer norm out of the last of hidden_states
        return {"hidden_states": (*output.hidden_states[:-1], output.last_hidden_state)}


class FunctionExpert:
    """Any model with a function that computes its hidden states."""

    def __init__(self, model: nn.Module, forward: Forward) -> None:
        self.model, self.forward = model, forward

    def __call__(self, waveforms: Sequence[Tensor]) -> dict[str, Any]:
        """What the user's function returns."""
        return self.forward(self.model, list(waveforms))


def _normalized(waveform: Tensor) -> Tensor:
    """Zero mean, unit variance, as Wav2Vec2FeatureExtractor does."""
    return (waveform - waveform.mean()) / torch.sqrt(waveform.var(unbiased=False) + 1e-7)


def _bert_features() -> Callable[[Tensor], Tensor]:
    from transformers import SeamlessM4TFeatureExtractor

    extractor = SeamlessM4TFeatureExtractor()

    def features(waveform: Tensor) -> Tensor:
        found = extractor(waveform.cpu().numpy(), sampling_rate=16000, return_tensors="pt")
        return found["input_features"]

    return features


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
    return _without_head(model)


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
    return _is_hugging_face(model) or bool(upstream_folder(type(model).__module__))


def _without_head(model: nn.Module) -> nn.Module:
    return model.base_model if _is_hugging_face(model) else model  # type: ignore[return-value]


def live_upstream(
    model: nn.Module,
    family: Family | None = None,
    forward: Forward | None = None,
    normalize: bool | None = None,
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
        kind = model.config.model_type
        if family is None and kind not in (*HUGGING_FACE, "wav2vec2-bert"):
            raise MIError(
                f"{type(model).__name__} is of type {kind!r}; known are {', '.join(HUGGING_FACE)}, wav2vec2-bert. "
                "Give its family (s3prl_mi.families.Family), or forward= and family=."
            )
        family = family or (_WAV2VEC2_BERT if kind == "wav2vec2-bert" else _HUGGING_FACE)
        by_config = getattr(model.config, "feat_extract_norm", None) == "layer"
        expert = HuggingFaceExpert(model, by_config if normalize is None else normalize)
    elif family is None and not upstream_folder(type(model).__module__):
        raise MIError(
            f"{type(model).__name__} is neither a Hugging Face speech encoder nor an s3prl upstream. Name the one "
            "inside it (encoder='attribute'), or give forward= (model, waveforms -> hidden states) and family=."
        )
    family = family or family_of(expert, type(model).__name__)
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
    """sha256 (hex) over names, shapes and float32 values of all weights: tells one step from another."""
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
    """While in this context the model is in eval mode; afterwards all is as before, so training goes on bit by bit.

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
