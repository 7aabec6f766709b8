"""What the plugin must know of each kind of upstream: its views, its mask site, its frames, its padding.

One `Family` is one declarative entry. It is found by the folder of s3prl that defines the upstream
(`s3prl/upstream/hubert` serves `hubert`, `hubert_large_ll60k`, `hubert_local`, ...), or by a `-u` name that a
user's module declares in its `FAMILIES` (`upstream_module`). Nothing here imports torch; models are only looked
at by attribute.

Source: s3prl 0.4.18; tests/test_hidden_states.py compares each mask site with the model's own masking.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..core.errors import MIError
from .geometry import (
    Geometry,
    aligned_rows,
    conv_geometry,
    entry_strides,
    kaldi_geometry,
    patch_geometry,
    resolve,
    spectral_geometry,
)

__all__ = [
    "ZEROS",
    "Family",
    "Geometry",
    "aligned_rows",
    "family_named",
    "family_of",
    "geometry_of",
    "geometry_of_entry",
    "register_family",
    "registered",
    "resolve",
    "upstream_folder",
]

ZEROS = "zeros"
"""As `mask_embedding`: pre-training replaces masked frames by the zero vector, there is nothing learned."""

Padding = Literal["safe", "conv_norm", "alone"]
MaskWrite = Literal["input", "in_place", "chunks", "output"]
GeometrySource = Literal["conv", "kaldi", "spectral", "patches"]


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of upstream.

    Attributes:
        name: name of the family, for messages and records.
        view: the view that `views.kind: auto` takes; None if the user must choose.
        mask_site: path, from the s3prl expert, of the module whose first argument, of shape (batch, n_frames,
            dim), is masked in pre-training; None if there is none.
        mask_embedding: path of the learned mask embedding, shape (dim,); `"zeros"`: the zero vector.
        mask_write: what is masked at the site. `"input"`: a copy of its first argument; `"in_place"`: that
            argument itself, because a hidden state is that very tensor (its first `dim` values are taken of a
            wider embedding); `"chunks"`: as `"input"`, but a long utterance passes the site piece by piece;
            `"output"`: what the module returns.
        geometry: fixed geometry; `"conv"`: from the layers of `conv_stack`; `"kaldi"`: from the expert's
            frame length and shift; `"spectral"`, `"patches"`: from the config of Mockingjay's kin, of
            MAE-AST; None: unknown, then s3prl's downsample rate is used.
        padding: `"safe"`: padding an utterance in a batch changes nothing; `"conv_norm"`: the same but for
            the conv stack, which normalises over time and so runs utterance by utterance; `"alone"`:
            utterances cannot share a batch at all.
        conv_stack: path of the convolutional front end.
        cuts_silent_tail: whether the front end takes digital silence at the end for padding and cuts it off.
        codes: path of the list of VQ layers; their codes are one more entry behind s3prl's own.
        multires: whether entries have frame rates of their own, which s3prl hides by repeating frames.
        entry_names: (expert, number of entries) -> their names, where s3prl leaves them without.
    """

    name: str
    view: Literal["mask", "shift"] | None = None
    mask_site: str | None = None
    mask_embedding: str | None = None
    mask_write: MaskWrite = "input"
    geometry: Geometry | GeometrySource | None = None
    padding: Padding = "alone"
    conv_stack: str | None = None
    cuts_silent_tail: bool = False
    codes: str | None = None
    multires: bool = False
    entry_names: Callable[[Any, int], list[str]] | None = None

    @property
    def can_mask_latents(self) -> bool:
        """Whether pre-training's own mask embedding and its place are known."""
        return self.mask_site is not None and self.mask_embedding is not None


def _masked_conv(name: str, embedding: str = "model.mask_emb", padding: Padding = "conv_norm") -> Family:
    """A conv stack, then a Transformer whose input is masked: wav2vec 2.0 and all its kin."""
    return Family(
        name=name,
        view="mask",
        mask_site="model.encoder",
        mask_embedding=embedding,
        geometry="conv",
        padding=padding,
        conv_stack="model.feature_extractor",
    )


def _masked_spectrum(name: str) -> Family:
    """A Transformer on CMVN'd spectral frames, pre-trained with frames set to zero."""
    return Family(
        name=name,
        view="mask",
        mask_site="transformer.model",
        mask_embedding=ZEROS,
        mask_write="chunks",
        geometry="spectral",
    )


def _wav2vec(name: str) -> Family:
    """Both are one class in s3prl; without VQ there is no quantiser and so no codes."""
    conv = "model.feature_extractor"
    return Family(name, view="shift", geometry="conv", conv_stack=conv, codes="model.vector_quantizer")


def _layer_outputs(_expert: Any, count: int) -> list[str]:
    return [f"output of layer {n + 1}" for n in range(count)]


def _features_then_layers(expert: Any, count: int) -> list[str]:
    return ["features", *_layer_outputs(expert, count - 1)]


def _distiller_entries(expert: Any, count: int) -> list[str]:
    """DistilHuBERT: what its heads predict of the teacher comes after its own last layer."""
    config = expert.model.model_config
    own = _features_then_layers(expert, 1 + config.encoder_layers)
    teacher = [f"prediction of the teacher's layer {n}" for n in config.pred_layer_id]
    return [*own, *(teacher[n] if n < len(teacher) else f"prediction {n}" for n in range(count - len(own)))]


# STFT with centred windows of 25 ms every 10 ms: frame 0 is centred on sample 0.
_CENTRED_STFT = Geometry(160, 0.0, 0)

_TABLE: dict[str, Family] = {
    "wav2vec2": _masked_conv("wav2vec2"),
    "hubert": _masked_conv("hubert"),
    "wavlm": _masked_conv("wavlm"),
    "unispeech_sat": _masked_conv("unispeech_sat"),
    # Five stacked positional convs, each with a bias and an activation, spread padding into the last frames.
    "data2vec": _masked_conv("data2vec", padding="alone"),
    "hf_hubert": _masked_conv("hf_hubert", embedding="model.masked_spec_embed"),
    "hf_wav2vec2": _masked_conv("hf_wav2vec2", embedding="model.masked_spec_embed"),
    "multires_hubert": replace(
        # Group norms between the resolutions run over time, also over padding.
        _masked_conv("multires_hubert", padding="alone"),
        mask_site="model.encoders.0",
        multires=True,
    ),
    # Its first entry is the tensor that enters the encoder, so masks are written into that tensor.
    "lighthubert": replace(
        _masked_conv("lighthubert"), mask_write="in_place", entry_names=_features_then_layers
    ),
    # Distilled from unmasked speech: there is no mask embedding, so masks are silence in the waveform.
    "distiller": Family(
        "distiller",
        view="mask",
        geometry="conv",
        padding="conv_norm",
        conv_stack="model.model.feature_extractor",
        entry_names=_distiller_entries,
    ),
    "espnet_hubert": Family(
        "espnet_hubert",
        view="mask",
        # The encoder itself is not called as a module, so a hook on it would never run.
        mask_site="model.wav2vec2.encoder.feature_projection",
        mask_embedding="model.mask_generator.mask_embedding",
        mask_write="output",
        geometry="conv",
        conv_stack="model.wav2vec2.feature_extractor",
        entry_names=_layer_outputs,
    ),
    "mockingjay": _masked_spectrum("mockingjay"),
    "tera": _masked_spectrum("tera"),
    "audio_albert": _masked_spectrum("audio_albert"),
    "decoar2": Family(
        "decoar2",
        view="shift",
        mask_site="model.encoder",
        mask_embedding=ZEROS,
        geometry=Geometry(320, 199.5, 400),  # every second Kaldi window
    ),
    "apc": Family("apc", view="shift", geometry="kaldi", padding="safe", codes="model.vq_layers"),
    "vq_apc": Family("vq_apc", view="shift", geometry="kaldi", padding="safe", codes="model.vq_layers"),
    "npc": Family("npc", view="shift", geometry="kaldi", codes="model.vq_layers"),
    "cpc": Family("cpc", view="shift", geometry=Geometry(160, 79.0, 159)),
    "wav2vec": _wav2vec("wav2vec"),
    "vq_wav2vec": _wav2vec("vq_wav2vec"),
    # Masked tokens never enter its encoder in pre-training, so no view is its own.
    "mae_ast": Family("mae_ast", geometry="patches", entry_names=_layer_outputs),
    "baseline": Family("baseline", view="shift", geometry="kaldi", padding="safe"),
    # mel and linear: CMVN over the padded batch, and digital silence at the end is taken for padding.
    "baseline_stft": Family("baseline_stft", view="shift", geometry=_CENTRED_STFT, cuts_silent_tail=True),
}
_BY_NAME: dict[str, Family] = {}


def register_family(name: str, family: Family) -> None:
    """Say to which family the upstream `-u name` belongs; this wins over the folder that it comes from.

    Args:
        name: the upstream's name as given to `-u`, or the name of a folder of s3prl/upstream.
        family: its family.

    Raises:
        MIError: the name has a family already.
    """
    if name in _BY_NAME or name in _TABLE:
        owner = _BY_NAME.get(name) or _TABLE[name]
        raise MIError(
            f"register_family({name!r}): this name already belongs to the family {owner.name!r}; "
            "register another name."
        )
    _BY_NAME[name] = family


def registered() -> dict[str, Family]:
    """Every entry: the built-in table by folder of s3prl/upstream, and what users registered by name."""
    return {**_TABLE, **_BY_NAME}


def family_named(name: str, folder: str) -> Family:
    """The family of an upstream that is not loaded, by its `-u` name and its folder of s3prl/upstream."""
    return _BY_NAME.get(name) or _TABLE.get(folder) or _BY_NAME.get(folder) or Family(folder or name)


def family_of(expert: Any, name: str) -> Family:
    """The family of a loaded upstream.

    Args:
        expert: s3prl's UpstreamExpert.
        name: the upstream's name as given to `-u`.

    Returns:
        The family registered for the name, else that of the folder which the expert's class comes from, else
        one with `view=None` that knows nothing (every utterance alone, waveform-level masks only).
    """
    folder = upstream_folder(type(expert).__module__)
    if folder == "baseline" and "kaldi" not in getattr(expert, "config", {"kaldi": None}):
        folder = "baseline_stft"
    family = family_named(name, folder)
    if name in _BY_NAME:
        return family
    if family.padding == "conv_norm" and _mixes_padding(expert):
        family = replace(family, padding="alone")
    return family


def upstream_folder(module: str) -> str:
    """The folder of s3prl/upstream in a dotted module name, or an empty string.

    Example:
        >>> upstream_folder("s3prl.upstream.hf_hubert.expert")
        'hf_hubert'
    """
    parts = module.split(".")
    return parts[parts.index("upstream") + 1] if "upstream" in parts[:-1] else ""


def _mixes_padding(expert: Any) -> bool:
    """Whether padding leaks into real frames inside the encoder: conformers, stacked positional convs."""
    encoder = resolve(expert, "model.encoder")
    config = getattr(resolve(expert, "model"), "cfg", None)
    return "Conformer" in type(encoder).__name__ or (getattr(config, "pos_conv_depth", 1) or 1) > 1


def geometry_of(expert: Any, family: Family) -> Geometry:
    """Geometry of a loaded upstream; of its finest resolution where it has several.

    Raises:
        MIError: the family has no geometry and the expert does not tell its downsample rate either.
    """
    if isinstance(family.geometry, Geometry):
        return family.geometry
    if family.multires:
        entry_strides(expert)  # refuses what has no geometry
    if family.geometry == "conv":
        return conv_geometry(resolve(expert, family.conv_stack))
    if family.geometry is not None:
        sources = {"kaldi": kaldi_geometry, "spectral": spectral_geometry, "patches": patch_geometry}
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
    """Geometry of one entry of the hidden states: `geometry`, but for upstreams of several frame rates.

    Args:
        expert: s3prl's UpstreamExpert.
        family: its family.
        geometry: of the upstream, `geometry_of(expert, family)`.
        entry: index into the hidden states.

    Returns:
        Its own stride and frame count. Its frame j stands on frame `aligned_rows(...)[j]` of the finest
        resolution and shares that frame's centre.
    """
    if not family.multires:
        return geometry
    return replace(geometry, stride=entry_strides(expert)[entry])
