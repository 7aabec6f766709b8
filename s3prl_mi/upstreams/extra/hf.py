"""Speech encoders of Hugging Face transformers through its Auto classes, called as s3prl calls its upstreams.

Every utterance runs alone: padding enters the group norm of base models, so a batch would change the states.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ...core.errors import MIError
from ...core.types import SAMPLE_RATE
from ..checkpoints import SPEECH_ENCODERS, hugging_face_folder, one_line
from ..families import Family
from ..geometry import Geometry
from .hubconf import FAMILIES

# Two stacked Kaldi frames of 25 ms, 10 ms apart.
_STACKED_FBANK = Geometry(320, 279.5, 560)
_MASK = "masked_spec_embed"


class UpstreamExpert(nn.Module):
    """A transformers model and its feature extractor.

    Attributes:
        model: the encoder.
        extracter: waveform to input, spelt as s3prl's experts spell it.
        family: what is known of the model; it depends on its type.
        notes: lines for the log.
    """

    model: Any

    def __init__(self, model: nn.Module, extracter: Any, family: Family, notes: list[str]) -> None:
        super().__init__()
        self.model = model
        self.extracter = extracter
        self.family = family
        self.notes = notes

    def get_downsample_rates(self, key: str) -> int:
        """Samples per frame."""
        if isinstance(self.family.geometry, Geometry):
            return self.family.geometry.stride
        return int(torch.tensor(self.model.config.conv_stride).prod())

    def forward(self, wavs: list[Tensor]) -> dict[str, Any]:
        """Waveforms of shape (n_samples,) -> `hidden_states`, each (batch, n_frames, dim), padded with 0.

        Entry 0 enters the first layer; the last one is the encoder's output, behind its final layer norm where
        it has one, in every version of transformers.
        """
        alone = [self._one(wav) for wav in wavs]
        states = [pad_sequence([s[i] for s in alone], batch_first=True) for i in range(len(alone[0]))]
        return {"hidden_states": tuple(states), "last_hidden_state": states[-1]}

    def _one(self, wav: Tensor) -> list[Tensor]:
        """Hidden states of one utterance, each (n_frames, dim)."""
        found = self.extracter(wav.detach().cpu().numpy(), sampling_rate=SAMPLE_RATE, return_tensors="pt")
        name = self.model.main_input_name
        inputs = {name: found[name].to(wav.device)}
        if name == "input_features":  # an odd number of Kaldi frames is padded; the mask says where
            inputs["attention_mask"] = found["attention_mask"].to(wav.device)
        output = self.model(**inputs, output_hidden_states=True)
        return [h[0] for h in (*output.hidden_states[:-1], output.last_hidden_state)]


def load(ckpt: str | None, refresh: bool = False) -> UpstreamExpert:
    """The expert of a folder, or of a model id `owner/name` or `owner/name@revision` (`-k`).

    Raises:
        MIError: no such model, not a speech encoder, or weights missing in its files.
    """
    source, options = _source(ckpt, refresh)
    config = _config(source, options)
    kind = config.model_type
    if kind not in SPEECH_ENCODERS:
        raise MIError(
            f"upstream 'hf': {source!r} is a model of type {kind!r}; -u hf reads speech encoders that take 16 kHz "
            f"audio and give one sequence of frames: {', '.join(SPEECH_ENCODERS)}."
        )
    notes: list[str] = []
    model = _model(source, config, options, notes)
    extracter = _extracter(source, config, options, notes)
    family = replace(FAMILIES["hf"], name=f"hf {kind}")
    if kind == "wav2vec2-bert":
        family = replace(family, geometry=_STACKED_FBANK, conv_stack=None)
    return UpstreamExpert(model, extracter, family, notes)


def _source(ckpt: str | None, refresh: bool) -> tuple[str, dict[str, Any]]:
    """Folder or model id, and options of `from_pretrained`."""
    if ckpt is None:
        raise MIError("upstream 'hf' needs a model: -k MODEL_ID_OR_FOLDER.")
    if hugging_face_folder("hf", ckpt, ("config.json",)):
        return ckpt, {}
    name, _, revision = ckpt.partition("@")
    return name, {k: v for k, v in {"force_download": refresh, "revision": revision}.items() if v}


def _config(source: str, options: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(source, **options)
    except Exception as error:  # transformers raises many kinds, for a network as for a broken file
        if Path(source).is_dir():
            raise MIError(
                f"upstream 'hf': {source}/config.json is not one that transformers knows ({one_line(error)}). A "
                f"speech encoder's model_type is one of {', '.join(SPEECH_ENCODERS)}."
            ) from error
        at = f"@{options['revision']}" if "revision" in options else ""
        raise MIError(
            f"upstream 'hf': {source + at!r} is no local folder and could not be downloaded ({one_line(error)}). "
            "Without a network, download it elsewhere (hf download) and name the folder with -k."
        ) from error
    if not any(getattr(config, key, 0) for key in ("mask_time_prob", "mask_feature_prob")):
        # transformers drops the mask embedding of a model fine-tuned without masks; eval mode masks nothing
        config.mask_time_prob = 0.05
    return config


def _model(source: str, config: Any, options: dict[str, Any], notes: list[str]) -> nn.Module:
    """The encoder, every weight of which comes from the file."""
    from transformers import AutoModel

    try:
        model, info = AutoModel.from_pretrained(source, config=config, output_loading_info=True, **options)
    except Exception as error:
        raise MIError(
            f"upstream 'hf': the weights of {source!r} cannot be read ({one_line(error)}). Download or save the "
            "model again."
        ) from error
    missing = set(info["missing_keys"])
    behind = ("adapter.", "intermediate_ffn.")  # behind the encoder; no hidden state comes from there
    lost = sorted(k for k in missing if _MASK not in k and not k.startswith(behind))
    if lost:
        raise MIError(
            f"upstream 'hf': {source!r} lacks {len(lost)} weights of {type(model).__name__}, such as {lost[0]}; "
            "they would be random. The files are incomplete or of another model."
        )
    if any(_MASK in k for k in missing):
        model.masked_spec_embed = None
        notes.append(
            f"{source} holds no {_MASK}: latent masks are not possible (views.mask_level: waveform, or views.kind: "
            "shift)"
        )
    left_out = [part for part in ("adapter", "intermediate_ffn") if getattr(model, part, None) is not None]
    for part in left_out:
        setattr(model, part, None)
    if info["unexpected_keys"] or left_out:
        ignored = ", ".join([*_tops(info["unexpected_keys"]), *left_out])
        notes.append(f"took {type(model).__name__} of {source}; ignored: {ignored}")
    return model.float()


def _tops(keys: Iterable[str]) -> list[str]:
    """First parts of dotted names, with how many there are of each.

    Example:
        >>> _tops(["lm_head.weight", "lm_head.bias", "quantizer.codevectors"])
        ['lm_head (2 tensors)', 'quantizer (1 tensors)']
    """
    tops = [key.split(".")[0] for key in sorted(keys)]
    return [f"{top} ({tops.count(top)} tensors)" for top in dict.fromkeys(tops)]


def _extracter(source: str, config: Any, options: dict[str, Any], notes: list[str]) -> Any:
    """The model's feature extractor, or a sensible one where its files hold none."""
    import transformers

    try:
        extracter = transformers.AutoFeatureExtractor.from_pretrained(source, **options)
    except (OSError, ValueError):
        if config.model_type == "wav2vec2-bert":
            extracter = transformers.SeamlessM4TFeatureExtractor()
            notes.append(f"{source} has no preprocessor_config.json: SeamlessM4TFeatureExtractor's defaults")
            return extracter
        normalise = getattr(config, "feat_extract_norm", "group") == "layer"
        extracter = transformers.Wav2Vec2FeatureExtractor(do_normalize=normalise)
        notes.append(
            f"{source} has no preprocessor_config.json: waveforms are {'' if normalise else 'not '}normalised, as "
            f"models with feat_extract_norm {getattr(config, 'feat_extract_norm', None)!r} usually are"
        )
    rate = getattr(extracter, "sampling_rate", SAMPLE_RATE)
    if rate != SAMPLE_RATE:
        raise MIError(f"upstream 'hf': {source!r} takes audio of {rate} Hz; only {SAMPLE_RATE} Hz is supported.")
    return extracter
