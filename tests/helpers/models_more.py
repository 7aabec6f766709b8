"""Tiny random checkpoints of the upstreams beyond models.py, in the layouts that s3prl's local loaders read.

LightHuBERT and DeCoAR 2.0 have fixed widths and so are not tiny: `BIG`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.models import AUDIO, CONV, DIM, LAYERS, SIZES, large_fields, randomised, save


def build_spectral(
    folder: Path,
    name: str = "tera",
    kaldi: bool = False,
    chunk: int = 1500,
    large: bool = False,
    seed: int = 0,
) -> Path:
    """Mockingjay, TERA or AALBERT; `chunk`: frames that pass the model at once; `large`: pre-layer-norm."""
    from s3prl.upstream.mockingjay.model import (
        TransformerConfig,
        TransformerModel,
        TransformerSpecPredictionHead,
    )

    torch.manual_seed(seed)
    fields = {
        "input_dim": -1,
        "hidden_size": DIM,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-12,
        "share_layer": name == "audio_albert",
        "pre_layer_norm": large,
    }
    mel = {"feat_type": "mel", "channel": 0, "log": True, "delta": 0, "cmvn": True}
    audio: dict[str, Any] = {"target_level": -25, "win_ms": 25, "hop_ms": 10, "n_freq": 201, "n_mels": 80}
    audio |= {"n_mfcc": 13, "input": mel, "target": {**mel, "channel": 1}}
    if kaldi:
        fbank = {"num_mel_bins": 80, "frame_length": 25.0, "frame_shift": 10.0, "use_log_fbank": True}
        audio = {
            "kaldi": {"feat_type": "fbank", "fbank": fbank},
            "delta": {"order": 2, "win_length": 5},
            "cmvn": {"use_cmvn": True},
        }
    config = TransformerConfig(fields)
    width = 240 if kaldi else 80
    content = {
        "Config": {
            "transformer": fields,
            "task": {"sequence_length": chunk, "position_encoding_size": DIM},
            "audio": audio,
        },
        "Transformer": randomised(TransformerModel(config, width), seed).state_dict(),
        "SpecHead": TransformerSpecPredictionHead(config, width).state_dict(),
    }
    return save(content, folder, f"{name}-{chunk}-{'kaldi' if kaldi else 'stft'}.ckpt")


def build_npc(folder: Path, vq: bool = True, seed: int = 0) -> Path:
    from s3prl.upstream.npc.npc import NPC

    torch.manual_seed(seed)
    paras: dict[str, Any] = {"kernel_size": 15, "mask_size": 5, "n_blocks": 4, "hidden_size": DIM}
    paras |= {"dropout": 0.1, "residual": True, "batch_norm": True, "activate": "relu"}
    if vq:
        paras["vq"] = {"codebook_size": [8, 8], "code_dim": [16, 16], "gumbel_temperature": 1.0}
    weights = randomised(NPC(80, **paras), seed).state_dict()
    content = {"config": {"data": {"audio": AUDIO}, "model": {"paras": paras}}, "model": weights}
    return save(content, folder, f"npc-{'vq' if vq else 'plain'}.ckpt")


def build_cpc(folder: Path, sampling: str = "samespeaker", seed: int = 0) -> Path:
    """`sampling` sequential: the recurrent state is kept from call to call."""
    from s3prl.upstream.cpc.cpc_default_config import get_default_cpc_config
    from s3prl.upstream.cpc.feature_loader import getAR, getEncoder
    from s3prl.upstream.cpc.model import CPCModel

    torch.manual_seed(seed)
    config = get_default_cpc_config()
    config.hiddenEncoder = config.hiddenGar = DIM
    config.nLevelsGRU, config.samplingType = 2, sampling
    model = randomised(CPCModel(getEncoder(config), getAR(config)), seed)
    return save({"config": vars(config), "weights": model.state_dict()}, folder, f"cpc-{sampling}.pt")


def build_wav2vec(folder: Path, vq: str = "none", seed: int = 0) -> Path:
    """wav2vec, or vq-wav2vec with `vq` gumbel or kmeans."""
    from s3prl.upstream.wav2vec.wav2vec_model import Wav2VecConfig, Wav2VecModel

    torch.manual_seed(seed)
    layers = "[(32,10,5), (32,8,4), (32,4,2), (32,4,2), (32,4,2), (32,1,1), (32,1,1)]"
    config = {"infonce": True, "conv_feature_layers": layers}
    config |= {"conv_aggregator_layers": "[(32,2,1), (32,3,1), (32,4,1)]"}
    config |= {"vq_type": vq, "vq_vars": 8, "vq_groups": 2, "vq_dim": 32}
    weights = randomised(Wav2VecModel(Wav2VecConfig(**config)), seed).state_dict()
    content = {"task_cfg": {"normalize": False}, "model_cfg": config, "model_weight": weights}
    return save(content, folder, f"wav2vec-{vq}.pt")


def build_distiller(folder: Path, seed: int = 0) -> Path:
    from s3prl.upstream.distiller.model import DistillerConfig, DistillerModel

    torch.manual_seed(seed)
    fields = {
        "extractor_conv_feature_layers": CONV,
        **SIZES,
        "final_dim": DIM,
        "n_tasks": 2,
        "pred_layer_id": [4, 12],
    }
    weights = randomised(DistillerModel(DistillerConfig(fields)), seed).state_dict()
    return save({"Config": {"distiller": fields}, "Distiller": weights}, folder, "distilhubert.ckpt")


def build_mae_ast(folder: Path, patch: bool = False, seed: int = 0) -> Path:
    """MAE-AST, frame-wise or with patches of 16 x 16."""
    from types import SimpleNamespace

    from s3prl.upstream.mae_ast.mae_ast import MAE_AST, MAE_AST_Config

    torch.manual_seed(seed)
    time, channel = (16, 16) if patch else (2, 128)
    config = vars(MAE_AST_Config()) | {
        "ast_kernel_size_time": time,
        "ast_kernel_stride_time": time,
        "ast_kernel_size_chan": channel,
        "ast_kernel_stride_chan": channel,
        "encoder_layers": LAYERS,
        "encoder_embed_dim": DIM,
        "encoder_ffn_embed_dim": 64,
        "encoder_attention_heads": 4,
        "decoder_embed_dim": DIM,
        "decoder_layers": 1,
        "enc_sine_pos": True,
        "max_token_length": 4000,
    }
    task = {"sample_rate": 16000, "feature_dim": 128, "feature_rate": 100, "feature_type": "fbank"}
    task |= {"mask_type": "random_mask"}
    model = randomised(MAE_AST(SimpleNamespace(**config), SimpleNamespace(**task)), seed)
    content = {"cfg": {"model": config, "task": task}, "model": model.state_dict()}
    return save(content, folder, f"mae_ast-{'patch' if patch else 'frame'}.pt")


def build_multires(
    folder: Path, ratios: tuple[int, ...] = (1, 2), large: bool = False, seed: int = 0, **more: Any
) -> Path:
    """MR-HuBERT; `ratios` (1, 2) has two resolutions, (1, 2, 1, 2) three; `more` are further config fields."""
    from s3prl.upstream.multires_hubert.hubert_model import (
        MultiresHubertConfig,
        MultiresHubertModel,
        MultiresHubertPretrainingConfig,
    )

    torch.manual_seed(seed)
    config: dict[str, Any] = {
        "conv_feature_layers": CONV,
        **SIZES,
        "label_rate": 50.0,
        "label_rate_ratios": list(ratios),
        "final_dim": 16,
        "conv_adapator_kernal": 1,
        **more,
    }
    config |= large_fields(large)
    task = {"normalize": large, "label_rate_ratios": list(ratios)}
    symbols = [["a", "b", "c", "d"]] * (1 + len(ratios) // 2)
    model = MultiresHubertModel(MultiresHubertConfig(**config), MultiresHubertPretrainingConfig(**task), symbols)
    content = {
        "task_cfg": task,
        "model_cfg": config,
        "model_weight": randomised(model, seed).state_dict(),
        "dictionaries_symbols": symbols,
    }
    name = f"multires-{'-'.join(map(str, ratios))}-{'large' if large else 'base'}-{len(more)}.pt"
    return save(content, folder, name)


def build_lighthubert(folder: Path, seed: int = 0, **fields: Any) -> Path:
    """LightHuBERT small: its search space fixes 12 layers and widths of 256 to 512."""
    from s3prl.upstream.lighthubert.lighthubert import LightHuBERT, LightHuBERTConfig

    torch.manual_seed(seed)
    config = {
        "_name": "hubert_pruner",
        "pruner_supernet": "small.yaml",
        "conv_feature_layers": CONV,
        "encoder_embed_dim": 512,
        "encoder_ffn_embed_dim": 2048,
        "encoder_attention_heads": 8,
        **fields,
    }
    settings = LightHuBERTConfig(config)
    settings.supernet_type = "small"
    weights = randomised(LightHuBERT(settings), seed).state_dict()
    return save({"cfg": {"model": config}, "model": weights}, folder, "lighthubert.pt")


@contextlib.contextmanager
def small_lighthubert(folder: Path) -> Iterator[Path]:
    """A checkpoint of 12 layers of width 128, of which the subnet uses 64; opens only inside this context."""
    from s3prl.upstream.lighthubert.lighthubert.lighthubert import LightHuBERTSupernetConfig as Supernet

    space = {"atten_dim": [64, 128], "embed_dim": [64, 128], "ffn_ratio": [1.0], "heads_num": [1, 2]}
    subnet = {"atten_dim": [64] * 12, "embed_dim": 64, "ffn_embed": [64] * 12, "heads_num": [1] * 12}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Supernet, "search_space", {**space, "layer_num": [12]})
        patch.setattr(Supernet, "subnet", {**subnet, "layer_num": 12, "slide_wsz": ["global"] * 12})
        yield build_lighthubert(
            folder,
            encoder_embed_dim=128,
            encoder_ffn_embed_dim=128,
            encoder_attention_heads=2,
            conv_pos=16,
            conv_pos_groups=4,
        )


def build_decoar2(folder: Path, mask_vector: bool = False, seed: int = 0) -> Path:
    """DeCoAR 2.0: 12 layers of 768; `mask_vector`: with a learned one in the file, which s3prl drops."""
    from s3prl.upstream.decoar2.decoar2 import Decoar2

    torch.manual_seed(seed)
    weights = randomised(Decoar2(), seed).state_dict()
    if mask_vector:
        weights["mask_emb"] = torch.randn(len(weights["post_extract_proj.bias"]))
    return save({"model": weights}, folder, f"decoar2-{mask_vector}.pt")


@contextlib.contextmanager
def small_decoar2(folder: Path, mask_vector: bool = False) -> Iterator[Path]:
    """A checkpoint of 2 layers of 32; opens only inside this context, since s3prl fixes the sizes in code."""
    from s3prl.upstream.decoar2 import decoar2

    with pytest.MonkeyPatch.context() as patch:
        for key, value in SIZES.items():
            patch.setitem(decoar2.args, key, value)
        yield build_decoar2(folder, mask_vector)


SPECTRAL: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "tera": ("tera_local", build_spectral),
    "audio_albert": ("audio_albert_local", lambda f: build_spectral(f, "audio_albert")),
    "mockingjay": ("mockingjay_local", lambda f: build_spectral(f, "mockingjay", kaldi=True)),
    "mockingjay-large": ("mockingjay_local", lambda f: build_spectral(f, "mockingjay-large", large=True)),
    "tera-chunks": ("tera_local", lambda f: build_spectral(f, chunk=60)),
}
"""Masked at the spectrogram."""

MULTIRES: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "multires-2": ("multires_hubert_local", build_multires),
    "multires-2-large": ("multires_hubert_local", lambda f: build_multires(f, large=True)),
    "multires-3": ("multires_hubert_local", lambda f: build_multires(f, (1, 2, 1, 2))),
    "multires-5x": ("multires_hubert_local", lambda f: build_multires(f, (2, 5))),
    "multires-kernel": ("multires_hubert_local", lambda f: build_multires(f, conv_adapator_kernal=7)),
    "multires-uneven": (
        "multires_hubert_local",
        lambda f: build_multires(f, override_encoder_layers="[1,3,2]", use_plain_updownsample=True),
    ),
}
"""Entries of several frame rates."""

SHIFTED: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "npc": ("npc_local", build_npc),
    "npc-plain": ("npc_local", lambda f: build_npc(f, vq=False)),
    "cpc": ("cpc_local", build_cpc),
    "cpc-sequential": ("cpc_local", lambda f: build_cpc(f, "sequential")),
    "wav2vec": ("wav2vec_local", build_wav2vec),
    "vq_wav2vec-gumbel": ("vq_wav2vec_custom", lambda f: build_wav2vec(f, "gumbel")),
    "vq_wav2vec-kmeans": ("vq_wav2vec_custom", lambda f: build_wav2vec(f, "kmeans")),
    "mae_ast-frame": ("mae_ast_local", build_mae_ast),
    "mae_ast-patch": ("mae_ast_local", lambda f: build_mae_ast(f, patch=True)),
    "distilhubert": ("distiller_local", build_distiller),
}
"""Without a mask site."""

BIG: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "lighthubert": ("lighthubert_local", build_lighthubert),
    "decoar2": ("decoar2_local", build_decoar2),
}
"""Some 40 and 90 million parameters."""

MORE = {**SPECTRAL, **MULTIRES, **SHIFTED}
