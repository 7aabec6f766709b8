"""What the plugin must know of each kind of upstream: its views, its mask site, its frames, its padding.

One `Family` is one declarative entry. It is found by the folder of s3prl that defines the upstream
(`s3prl/upstream/hubert` serves `hubert`, `hubert_large_ll60k`, `hubert_local`, ...); upstreams that are not s3prl's
declare theirs in `FAMILIES` of their module (`user_modules`). Models are only looked at by attribute; torch is not
imported.

Source: s3prl 0.4.18; tests/upstreams/test_forward_families.py compares each mask site with the model's own masking.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from .geometry import Geometry, resolve

ZEROS = "zeros"
"""As `mask_embedding`: pre-training replaces masked frames by the zero vector, there is nothing learned."""

NONE = "none: a fixed front end"
"""As `weights`: nothing was learned, so hidden states are computed within seconds."""

Padding = Literal["safe", "conv_norm", "alone"]
MaskWrite = Literal["input", "in_place", "chunks", "output"]
GeometrySource = Literal["conv", "kaldi", "spectral", "patches"]


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of upstream.

    Attributes:
        name: name of the family, for messages and records.
        view: the view that `views.kind: auto` takes; None if the user must choose.
        mask_site: path, from the s3prl expert, of the module whose first argument, of shape (batch, n_frames, dim), is
            masked in pre-training; None if there is none.
        mask_embedding: path of the learned mask embedding, shape (dim,); `"zeros"`: the zero vector.
        mask_write: what is masked at the site. `"input"`: a copy of its first argument; `"in_place"`: that argument
            itself, because a hidden state is that very tensor (its first `dim` values are taken of a wider embedding);
            `"chunks"`: as `"input"`, but a long utterance passes the site piece by piece; `"output"`: what it returns.
        geometry: fixed geometry; `"conv"`: from the layers of `conv_stack`; `"kaldi"`: from the expert's frame length
            and shift; `"spectral"`, `"patches"`: from the config of Mockingjay's kin, of MAE-AST; None: unknown, then
            s3prl's downsample rate is used.
        padding: `"safe"`: padding an utterance in a batch changes nothing; `"conv_norm"`: the same but for the conv
            stack, which normalises over time and so runs utterance by utterance; `"alone"`: utterances cannot share a
            batch at all.
        conv_stack: path of the convolutional front end.
        cuts_silent_tail: whether the front end takes digital silence at the end for padding and cuts it off.
        codes: path of the list of VQ layers; their codes are one more entry behind s3prl's own.
        multires: whether entries have frame rates of their own, which s3prl hides by repeating frames.
        entry_names: (expert, number of entries) -> their names, where s3prl leaves them without.
        fast_in_bfloat16: whether nearly all its work is products that bfloat16 makes faster (measured).
        published: samples per frame of published models, and the sample on which their first frame is centred, shown
            where no model is loaded to read its `geometry`; None: unknown.
        about: what it is, and what the entries of its hidden states are.
        weights: where the weights of published models come from; `NONE` if nothing was learned.
        takes: what names such as `NAME_local` take: the option, and the file's layout; empty if there is none.
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
    fast_in_bfloat16: bool = False
    published: tuple[int, float | None] | None = None
    about: str = ""
    weights: str = ""
    takes: str = ""

    @property
    def can_mask_latents(self) -> bool:
        """Whether pre-training's own mask embedding and its place are known."""
        return self.mask_site is not None and self.mask_embedding is not None


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


_ENTRIES = "the input of layer 1, then the output of each layer"
_SIZES = f"13 entries (large: 25, 1B and 2B: 49): {_ENTRIES}"
_DOWNLOADED = "s3prl downloads them at first use"
_CONVERTED = "-k FILE: s3prl's converted layout: task_cfg, model_cfg, model_weight"
_CONVERTED_INFONCE = "-k FILE: s3prl's converted layout: task_cfg, model_cfg (with infonce), model_weight"
_MICROSOFT = "-k FILE: Microsoft's layout: cfg (a dict), model"
_PRETRAINED = "-k FILE: s3prl's pre-training: Transformer, Config (transformer, task, audio)"
_APC_FILE = "-k FILE: config (data.audio, model.paras), model"

MASKED_CONV = Family(
    "",
    view="mask",
    mask_site="model.encoder",
    mask_embedding="model.mask_emb",
    geometry="conv",
    padding="conv_norm",
    conv_stack="model.feature_extractor",
    fast_in_bfloat16=True,
    published=(320, 199.5),
    weights=_DOWNLOADED,
)
"""What wav2vec 2.0 and all its kin share: a conv stack, then a Transformer whose input is masked."""

_NOT_FAST = replace(MASKED_CONV, fast_in_bfloat16=False)
_HUGGING_FACE_CONV = replace(
    MASKED_CONV,
    mask_embedding="model.masked_spec_embed",
    about=f"One entry more than layers: {_ENTRIES}.",
    weights="the Hugging Face Hub, or your own folder",
    takes="-k FOLDER or ID: a folder with config.json, weights and preprocessor_config.json, or a model id",
)
# A Transformer on CMVN'd spectral frames, pre-trained with frames set to zero.
_MASKED_SPECTRUM = Family(
    "",
    view="mask",
    mask_site="transformer.model",
    mask_embedding=ZEROS,
    mask_write="chunks",
    geometry="spectral",
    published=(160, None),
    about=f"A Transformer on spectral frames, some set to zero. 4 entries: {_ENTRIES}.",
    weights=_DOWNLOADED,
    takes=_PRETRAINED,
)
_SHIFT = Family("", view="shift", geometry="kaldi", published=(160, 199.5), weights=_DOWNLOADED)
_APC = replace(_SHIFT, padding="safe", codes="model.vq_layers")
_BASELINE = replace(_SHIFT, padding="safe", about="A fixed front end. 1 entry.", weights=NONE)
# wav2vec and vq-wav2vec are one class in s3prl; without VQ there is no quantiser and so no codes.
_WAV2VEC = replace(
    _SHIFT,
    geometry="conv",
    published=(160, 232.0),
    conv_stack="model.feature_extractor",
    codes="model.vector_quantizer",
    takes=_CONVERTED_INFONCE,
)


def _kind(base: Family, name: str, about: str, takes: str) -> Family:
    return replace(base, name=name, about=about, takes=takes)


_FAMILIES = (
    _kind(MASKED_CONV, "wav2vec2", f"wav2vec 2.0. {_SIZES}.", _CONVERTED),
    _kind(MASKED_CONV, "hubert", f"HuBERT. {_SIZES}.", f"{_CONVERTED}, dictionaries_symbols"),
    _kind(MASKED_CONV, "wavlm", f"WavLM. {_SIZES}.", _MICROSOFT),
    _kind(MASKED_CONV, "unispeech_sat", f"UniSpeech-SAT. {_SIZES}.", _MICROSOFT),
    # Five stacked positional convs, each with a bias and an activation, spread padding into the last frames.
    _kind(replace(MASKED_CONV, padding="alone"), "data2vec", f"data2vec. {_SIZES}.", f"{_CONVERTED} (with _ema)"),
    replace(_HUGGING_FACE_CONV, name="hf_hubert"),
    replace(_HUGGING_FACE_CONV, name="hf_wav2vec2"),
    # Group norms between the resolutions run over time, also over padding.
    _kind(
        replace(MASKED_CONV, padding="alone", mask_site="model.encoders.0", multires=True),
        "multires_hubert",
        "MR-HuBERT, at several frame rates. Entries, block by block: what enters it, the output of each layer.",
        f"{_CONVERTED}, dictionaries_symbols",
    ),
    # Its first entry is the tensor that enters the encoder, so that is masked in place.
    _kind(
        replace(_NOT_FAST, mask_write="in_place", entry_names=_features_then_layers),
        "lighthubert",
        "LightHuBERT. 13 entries: features, then the output of each layer.",
        "-k FILE: cfg.model, model",
    ),
    # Distilled from unmasked speech: there is no mask embedding, so masks are silence in the waveform.
    _kind(
        replace(
            _NOT_FAST,
            mask_site=None,
            mask_embedding=None,
            conv_stack="model.model.feature_extractor",
            entry_names=_distiller_entries,
        ),
        "distiller",
        "DistilHuBERT. Entries: features, the output of each layer, predictions of the teacher's layers.",
        "-k FILE: s3prl's pre-training: Distiller, Config.distiller",
    ),
    # The encoder itself is not called as a module, so a hook on it would never run.
    replace(
        _NOT_FAST,
        name="espnet_hubert",
        padding="alone",
        mask_site="model.wav2vec2.encoder.feature_projection",
        mask_embedding="model.mask_generator.mask_embedding",
        mask_write="output",
        conv_stack="model.wav2vec2.feature_extractor",
        entry_names=_layer_outputs,
        about="HuBERT as ESPnet trains it. Entries: the output of each layer.",
        takes="-k FILE: a .pth file with config.yaml in the same folder",
    ),
    replace(_MASKED_SPECTRUM, name="mockingjay"),
    replace(_MASKED_SPECTRUM, name="tera"),
    replace(_MASKED_SPECTRUM, name="audio_albert"),
    # Its frames are every second Kaldi window.
    _kind(
        replace(_SHIFT, mask_site="model.encoder", mask_embedding=ZEROS, geometry=Geometry(320, 199.5, 400)),
        "decoar2",
        f"DeCoAR 2.0. 13 entries: {_ENTRIES}.",
        "-k FILE: model (12 layers of 768)",
    ),
    _kind(_APC, "apc", "APC. 3 entries: outputs of the GRU layers.", f"{_APC_FILE}; VQ-APC: with paras.vq"),
    _kind(
        _APC,
        "vq_apc",
        "VQ-APC. 4 entries: outputs of the GRU layers, then the VQ codes.",
        f"{_APC_FILE}; VQ-APC: with paras.vq",
    ),
    _kind(
        replace(_APC, padding="alone"),
        "npc",
        "NPC. 9 entries (blocks and masked convolutions in turn, their sum last), then the VQ codes.",
        _APC_FILE,
    ),
    _kind(
        replace(_SHIFT, geometry=Geometry(160, 79.0, 159)),
        "cpc",
        "Modified CPC. 2 entries: encoder, LSTM.",
        "-k FILE: config, weights",
    ),
    replace(_WAV2VEC, name="wav2vec", about="wav2vec. 13 entries: encoder, then the output of each aggregator layer."),
    replace(
        _WAV2VEC,
        name="vq_wav2vec",
        about="vq-wav2vec. Entries: encoder, the output of each aggregator layer, then the VQ codes.",
    ),
    # Masked tokens never enter its encoder in pre-training, so no view is its own.
    _kind(
        Family("", geometry="patches", entry_names=_layer_outputs, weights=_DOWNLOADED),
        "mae_ast",
        "MAE-AST. Entries: the output of each layer.",
        "-k FILE: cfg.model, cfg.task, model",
    ),
    replace(_BASELINE, name="baseline", takes="-g CONFIG: a yaml file as those in s3prl/upstream/baseline"),
    # mel and linear: CMVN over the padded batch, and digital silence at the end is taken for padding.
    # Their centred windows of 25 ms every 10 ms: frame 0 is centred on sample 0.
    replace(_BASELINE, name="baseline_stft", geometry=Geometry(160, 0.0, 0), padding="alone", cuts_silent_tail=True),
    Family("log_stft", weights=NONE),
    Family("example", weights=NONE),
)
KINDS = {family.name: family for family in _FAMILIES}
"""Every kind of upstream of s3prl, by its folder of s3prl/upstream."""


def family_of(expert: Any, name: str) -> Family:
    """The family of a loaded upstream of s3prl, by its expert's folder.

    Returns:
        Of an unknown folder, one with `view=None` that knows nothing (every utterance alone, waveform-level masks).
    """
    folder = upstream_folder(type(expert).__module__)
    if folder == "baseline" and "kaldi" not in getattr(expert, "config", {"kaldi": None}):
        folder = "baseline_stft"
    family = KINDS.get(folder) or Family(folder or name)
    if family.padding == "conv_norm" and _mixes_padding(expert):
        return replace(family, padding="alone")
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
