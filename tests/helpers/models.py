"""Tiny random checkpoints of the real model classes, in the layouts that s3prl's local loaders read.

Each builder writes one file (or folder) below `folder` and returns its path; weights depend on `seed` only.
`MODELS` names every one of them with the upstream that reads it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from s3prl_mi.upstreams import compat

compat.apply()

DIM = 32
LAYERS = 2
CONV = "[(24,10,5)] + [(24,3,2)] * 4 + [(24,2,2)] * 2"


SIZES: dict[str, Any] = {
    "encoder_layers": LAYERS,
    "encoder_embed_dim": DIM,
    "encoder_ffn_embed_dim": 64,
    "encoder_attention_heads": 4,
    "conv_pos": 16,
    "conv_pos_groups": 4,
}
"""Config fields that all models of fairseq's kind share."""
AUDIO = {
    "feat_type": "fbank",
    "feat_dim": 80,
    "frame_length": 25,
    "frame_shift": 10,
    "decode_wav": False,
    "cmvn": True,
}
HF_CLASSES = {
    "wav2vec2": "Wav2Vec2",
    "hubert": "Hubert",
    "wavlm": "WavLM",
    "data2vec-audio": "Data2VecAudio",
    "unispeech-sat": "UniSpeechSat",
    "wav2vec2-conformer": "Wav2Vec2Conformer",
    "wav2vec2-bert": "Wav2Vec2Bert",
}
"""`model_type` -> first part of the name of its classes in transformers."""


def fairseq_fields(large: bool) -> dict[str, Any]:
    return {"conv_feature_layers": CONV, **SIZES, **large_fields(large)}


def large_fields(large: bool) -> dict[str, Any]:
    return {"layer_norm_first": True, "extractor_mode": "layer_norm"} if large else {}


def randomised(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Redraw every weight that an initialiser left at 0 or 1, so that no part is a plain identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_((1.0 if name.endswith("weight") else 0.0) + 0.2 * noise)
    return model


def save(content: Any, folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(content, folder / name)
    return folder / name


def build_hubert(folder: Path, large: bool = False, seed: int = 0) -> Path:
    from s3prl.upstream.hubert.hubert_model import HubertConfig, HubertModel, HubertPretrainingConfig

    torch.manual_seed(seed)
    config = {**fairseq_fields(large), "label_rate": 50.0, "final_dim": 16}
    task, symbols = {"normalize": large}, [["a", "b", "c", "d"]]
    model = HubertModel(HubertConfig(**config), HubertPretrainingConfig(**task), symbols)
    weights = randomised(model, seed).state_dict()
    content = {
        "task_cfg": task,
        "model_cfg": config,
        "model_weight": weights,
        "dictionaries_symbols": symbols,
    }
    return save(content, folder, f"hubert-{'large' if large else 'base'}.pt")


def build_wav2vec2(folder: Path, large: bool = False, conformer: bool = False, seed: int = 0) -> Path:
    from s3prl.upstream.wav2vec2.wav2vec2_model import Wav2Vec2Config, Wav2Vec2Model

    torch.manual_seed(seed)
    config = {
        **fairseq_fields(large),
        "final_dim": 16,
        "quantize_targets": True,
        "latent_vars": 8,
        "latent_groups": 2,
    }
    if conformer:
        config |= {"layer_type": "conformer", "pos_enc_type": "rel_pos", "attn_type": "espnet"}
        config |= {"depthwise_conv_kernel_size": 7}
    weights = randomised(Wav2Vec2Model(Wav2Vec2Config(**config)), seed).state_dict()
    content = {"task_cfg": {"normalize": large}, "model_cfg": config, "model_weight": weights}
    kind = "conformer" if conformer else "large" if large else "base"
    return save(content, folder, f"wav2vec2-{kind}.pt")


def build_wavlm(folder: Path, large: bool = False, sat: bool = False, seed: int = 0) -> Path:
    """WavLM, or UniSpeech-SAT: the same class without relative positions."""
    from s3prl.upstream.wavlm.WavLM import WavLM, WavLMConfig

    torch.manual_seed(seed)
    config = {
        **fairseq_fields(large),
        "normalize": large,
        "relative_position_embedding": not sat,
        "gru_rel_pos": not sat,
    }
    config |= {"num_buckets": 16, "max_distance": 64}
    weights = randomised(WavLM(WavLMConfig(config)), seed).state_dict()
    name = f"{'unispeech_sat' if sat else 'wavlm'}-{'large' if large else 'base'}.pt"
    return save({"cfg": config, "model": weights}, folder, name)


def build_data2vec(folder: Path, large: bool = False, seed: int = 0) -> Path:
    from s3prl.upstream.data2vec.data2vec_model import Data2VecAudioConfig, Data2VecAudioModel

    torch.manual_seed(seed)
    config = {**fairseq_fields(large), "extractor_mode": "layer_norm", "pos_conv_depth": 3}
    model = Data2VecAudioModel(Data2VecAudioConfig(**config))
    model.remove_pretraining_modules()
    weights = {**randomised(model, seed).state_dict(), "_ema": {}}
    content = {"task_cfg": {"normalize": True}, "model_cfg": config, "model_weight": weights}
    return save(content, folder, f"data2vec-{'large' if large else 'base'}.pt")


def build_hugging_face(
    folder: Path, kind: str = "hubert", large: bool = False, head: str = "Model", seed: int = 0, **fields: Any
) -> Path:
    """A folder as `save_pretrained` writes it; `kind` as in `HF_CLASSES`; `head`: Model, ForCTC, ForPreTraining."""
    import transformers

    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "hidden_size": DIM,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "vocab_size": 12,
    }
    if kind != "wav2vec2-bert":
        settings |= {"conv_dim": [24] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
        settings |= {"do_stable_layer_norm": large, "feat_extract_norm": "layer" if large else "group"}
    if kind == "data2vec-audio":
        settings |= {"conv_pos_kernel_size": 5, "feat_extract_norm": "layer"}
    if "conformer" in kind or "bert" in kind:
        settings |= {"conv_depthwise_kernel_size": 7}
    config = getattr(transformers, f"{HF_CLASSES[kind]}Config")(**{**settings, **fields})
    model = randomised(getattr(transformers, f"{HF_CLASSES[kind]}{head}")(config), seed)
    path = folder / f"hf-{kind}-{head}-{'large' if large else 'base'}"
    path.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(path)
    if kind == "wav2vec2-bert":
        extracter = transformers.SeamlessM4TFeatureExtractor()
    else:
        extracter = transformers.Wav2Vec2FeatureExtractor(do_normalize=large, return_attention_mask=large)
    extracter.save_pretrained(path)
    return path


def build_apc(folder: Path, vq: bool = False, namespace: bool = False, seed: int = 0) -> Path:
    """APC or VQ-APC; `namespace`: with the argparse Namespace that s3prl's own trainer puts into the file."""
    from s3prl.upstream.apc.apc import APC

    torch.manual_seed(seed)
    paras: dict[str, Any] = {"num_layers": 3, "hidden_size": DIM, "dropout": 0.1, "residual": True}
    if vq:
        paras["vq"] = {"codebook_size": [16], "code_dim": [DIM], "gumbel_temperature": 0.5}
    content: dict[str, Any] = {
        "config": {"data": {"audio": AUDIO}, "model": {"paras": paras}},
        "model": APC(80, **paras).state_dict(),
    }
    if namespace:
        content["Args"] = argparse.Namespace(upstream="apc", seed=1337)
    kind = ("vq_apc" if vq else "apc") + ("-namespace" if namespace else "")
    return save(content, folder, f"{kind}.ckpt")


MODELS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "hubert-base": ("hubert_local", build_hubert),
    "hubert-large": ("hubert_local", lambda f: build_hubert(f, large=True)),
    "wav2vec2-base": ("wav2vec2_local", build_wav2vec2),
    "wav2vec2-large": ("wav2vec2_local", lambda f: build_wav2vec2(f, large=True)),
    "wav2vec2-conformer": ("wav2vec2_local", lambda f: build_wav2vec2(f, conformer=True)),
    "wavlm-base": ("wavlm_local", build_wavlm),
    "wavlm-large": ("wavlm_local", lambda f: build_wavlm(f, large=True)),
    "unispeech_sat": ("unispeech_sat_local", lambda f: build_wavlm(f, sat=True)),
    "unispeech_sat-large": ("unispeech_sat_local", lambda f: build_wavlm(f, large=True, sat=True)),
    "data2vec": ("data2vec_local", build_data2vec),
    "data2vec-large": ("data2vec_local", lambda f: build_data2vec(f, large=True)),
    "hf_hubert-base": ("hf_hubert_custom", build_hugging_face),
    "hf_hubert-large": ("hf_hubert_custom", lambda f: build_hugging_face(f, large=True)),
    "hf_wav2vec2-base": ("hf_wav2vec2_custom", lambda f: build_hugging_face(f, "wav2vec2")),
    "hf_wav2vec2-large": ("hf_wav2vec2_custom", lambda f: build_hugging_face(f, "wav2vec2", large=True)),
    "apc": ("apc_local", build_apc),
    "vq_apc": ("apc_local", lambda f: build_apc(f, vq=True)),
    "apc-namespace": ("apc_local", lambda f: build_apc(f, namespace=True)),
}
"""Name -> (upstream, builder)."""

MASKED = [name for name in MODELS if "apc" not in name]
"""Those pre-trained with masks."""
