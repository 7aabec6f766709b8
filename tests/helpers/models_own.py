"""Tiny random checkpoints in the layouts that `s3prl_mi.upstreams.extra` reads."""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any

import torch

from tests.helpers.models import DIM, fairseq_fields, randomised, save

STEP = 4321


def dinosr_config() -> dict[str, Any]:
    """`cfg` as fairseq saves it, with fields that only DinoSR knows."""
    model = {
        **fairseq_fields(False),
        "_name": "dinosr",
        "extractor_mode": "layer_norm",
        "pos_conv_depth": 3,
        "mask_prob": 0.8,
        "discrete": True,
        "codebook_size": 16,
        "freeze_teacher_step": 200001,
    }
    return {
        "model": model,
        "task": {"_name": "audio_pretraining", "normalize": True},
        "common": {"fp16": True},
    }


def dinosr_student(seed: int = 0) -> dict[str, torch.Tensor]:
    from s3prl.upstream.data2vec.data2vec_model import Data2VecAudioConfig, Data2VecAudioModel

    torch.manual_seed(seed)
    names = {f.name for f in Data2VecAudioConfig.__dataclass_fields__.values()}
    config = {k: v for k, v in dinosr_config()["model"].items() if k in names}
    model = Data2VecAudioModel(Data2VecAudioConfig(**config))
    model.remove_pretraining_modules()
    return dict(randomised(model, seed).state_dict())


def build_dinosr(folder: Path, half: bool = False, cfg: Any = None, seed: int = 0) -> Path:
    """The trainer's whole file: student (float16 if `half`), teacher, heads, codebooks, optimiser."""
    student = dinosr_student(seed)
    weights: dict[str, Any] = {k: v.half() if half else v for k, v in student.items()}
    weights["_ema"] = {k[8:]: v + 1 for k, v in student.items() if k.startswith("encoder.")}
    for i in range(2):
        weights |= {f"heads.{i}.weight": torch.randn(16, DIM), f"heads.{i}.bias": torch.randn(16)}
        weights |= {f"_codebook{i}": torch.randn(16, DIM), f"_codebook_cnts{i}": torch.ones(16)}
    content = {
        "args": None,
        "cfg": dinosr_config() if cfg is None else cfg,
        "model": weights,
        "criterion": {},
        "optimizer_history": [{"optimizer_name": "FairseqAdam", "num_updates": STEP}],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 3, "iterations_in_epoch": 17}, "val_loss": 2.0},
        "last_optimizer_state": {"state": {0: {"exp_avg": torch.zeros(1000)}}},
    }
    return save(content, folder, "dinosr.pt")


def omegaconf_like(value: Any, modules: dict[str, types.ModuleType]) -> Any:
    """Containers and leaves that pickle as omegaconf's do: by the names of classes that nobody has.

    Args:
        value: nested dicts and lists.
        modules: where the classes' modules are put, for the pickler to find them while it writes.
    """
    made = modules.setdefault("omegaconf_like_config", types.ModuleType("omegaconf_like_config"))

    def kind(name: str) -> type:
        if not hasattr(made, name):
            setattr(made, name, type(name, (), {"__module__": made.__name__}))
        return getattr(made, name)

    if isinstance(value, dict):
        node = kind("DictConfig")()
        node._content = {k: omegaconf_like(v, modules) for k, v in value.items()}
    elif isinstance(value, list):
        node = kind("ListConfig")()
        node._content = [omegaconf_like(v, modules) for v in value]
    else:
        node = kind("AnyNode")()
        node._val = value
    node._metadata = kind("Metadata")()
    node._metadata.ref_type = int
    return node


def build_cotraining(folder: Path, bands: int = 40, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    past = torch.nn.ModuleList(torch.nn.LSTM(size, DIM, batch_first=True) for size in (bands, DIM, DIM))
    weights = {f"0.{k}": v for k, v in past.state_dict().items()}
    weights |= {"1.weight": torch.randn(256, DIM), "1.bias": torch.randn(256)}
    weights["2.codebook"] = torch.randn(256, bands)
    return save(weights, folder, "cotraining_model_19.ckpt")


def edit_json(path: Path, **values: Any) -> None:
    """Change values of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
