"""What the plugin must know of each kind of upstream: its views, its mask site, its frames, its padding.

One `Family` is one declarative entry. It is found by the folder of s3prl that defines the upstream
(`s3prl/upstream/hubert` serves `hubert`, `hubert_large_ll60k`, `hubert_local`, ...), or by a `-u` name that a
user registered with `register_family`. Nothing here imports torch; models are only looked at by attribute.

Source: s3prl 0.4.18; tests/test_hidden_states.py compares each mask site with the model's own masking.
"""

from __future__ import annotations

import functools
import importlib
import os
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .errors import MIError

SAMPLE_RATE = 16000
PLUGINS_VARIABLE = "S3PRL_MI_PLUGINS"
"""Environment variable: comma-separated modules to import first; they may call `register_family`."""

Padding = Literal["safe", "conv_norm", "alone"]


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


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of upstream.

    Attributes:
        name: name of the family, for messages and records.
        view: the view that `views.kind: auto` takes; None if the user must choose.
        mask_site: path, from the s3prl expert, of the module whose first argument, of shape (batch, n_frames,
            dim), is masked in pre-training; None if there is none.
        mask_embedding: path of the learned mask embedding, shape (dim,).
        geometry: fixed geometry; `"conv"`: from the layers of `conv_stack`; `"kaldi"`: from the expert's
            frame length and shift; None: unknown, then s3prl's downsample rate is used.
        padding: `"safe"`: padding an utterance in a batch changes nothing; `"conv_norm"`: the same but for
            the conv stack, which normalises over time and so runs utterance by utterance; `"alone"`:
            utterances cannot share a batch at all.
        conv_stack: path of the convolutional front end.
        cuts_silent_tail: whether the front end takes digital silence at the end for padding and cuts it off.
    """

    name: str
    view: Literal["mask", "shift"] | None = None
    mask_site: str | None = None
    mask_embedding: str | None = None
    geometry: Geometry | Literal["conv", "kaldi"] | None = None
    padding: Padding = "alone"
    conv_stack: str | None = None
    cuts_silent_tail: bool = False

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
    "apc": Family("apc", view="shift", geometry="kaldi", padding="safe"),
    "vq_apc": Family("vq_apc", view="shift", geometry="kaldi", padding="safe"),
    "npc": Family("npc", view="shift", geometry="kaldi"),
    "cpc": Family("cpc", view="shift", geometry=Geometry(160, 79.0, 160)),
    "wav2vec": Family("wav2vec", view="shift", geometry=Geometry(160, 232.0, 465)),
    "vq_wav2vec": Family("vq_wav2vec", view="shift", geometry=Geometry(160, 232.0, 465)),
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
    load_plugins()
    return {**_TABLE, **_BY_NAME}


@functools.cache
def load_plugins() -> None:
    """Import, once, the modules named in the environment variable S3PRL_MI_PLUGINS.

    Raises:
        MIError: a module cannot be imported.
    """
    for module in filter(None, (m.strip() for m in os.environ.get(PLUGINS_VARIABLE, "").split(","))):
        try:
            importlib.import_module(module)
        except Exception as error:
            raise MIError(
                f"environment variable {PLUGINS_VARIABLE}: importing {module!r} failed with "
                f"{type(error).__name__}: {error}. Mend or remove that name; it must be on PYTHONPATH."
            ) from error


def family_named(name: str, folder: str) -> Family:
    """The family of an upstream that is not loaded, by its `-u` name and its folder of s3prl/upstream."""
    load_plugins()
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


def resolve(expert: Any, path: str | None) -> Any:
    """The attribute at a dotted path below the expert, or None if any part of it is missing."""
    found = expert if path else None
    for part in (path or "").split("."):
        found = getattr(found, part, None)
    return found


def geometry_of(expert: Any, family: Family) -> Geometry:
    """Geometry of a loaded upstream.

    Raises:
        MIError: the family has no geometry and the expert does not tell its downsample rate either.
    """
    if isinstance(family.geometry, Geometry):
        return family.geometry
    if family.geometry == "conv":
        return _conv_geometry(resolve(expert, family.conv_stack))
    if family.geometry == "kaldi":
        return _kaldi_geometry(expert)
    try:
        stride = int(expert.get_downsample_rates("hidden_states"))
    except (AttributeError, NotImplementedError) as error:
        raise MIError(
            f"upstream of unknown family {family.name!r}: its expert has no get_downsample_rates, so the "
            "time of its frames is unknown. Register it: s3prl_mi.families.register_family(name, Family(..., "
            "geometry=Geometry(stride, first_centre)))."
        ) from error
    return Geometry(stride, (stride - 1) / 2)


def _conv_geometry(stack: Any) -> Geometry:
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
    if hasattr(expert, "config"):
        kaldi = expert.config["kaldi"]
        options = kaldi[kaldi["feat_type"]]
    else:
        options = getattr(resolve(expert, "preprocessor"), "kwargs", {})
    window = int(SAMPLE_RATE * options.get("frame_length", 25.0) / 1000)
    shift = int(SAMPLE_RATE * options.get("frame_shift", 10.0) / 1000)
    return Geometry(shift, (window - 1) / 2, window)
