"""DinoSR's released checkpoint -> s3prl's data2vec expert with the student's weights.

The student is data2vec's model class and no key needs renaming: cnn, projection, encoder and mask embedding are
taken; teacher, codebooks and prediction heads, which masked prediction needed, are left out and named.

Source: Liu, Chang, Auli, Hsu and Glass, DinoSR (NeurIPS 2023); s3prl 0.4.18, upstream/data2vec.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core.errors import MIError
from ..checkpoints import advice, file_or_download, plain, read_checkpoint

_STUDENT = ("feature_extractor.", "layer_norm.", "post_extract_proj.", "mask_emb", "encoder.")
_WHAT = {
    "_ema": "teacher _ema",
    "heads": "prediction heads",
    "_codebook": "codebooks",
    "_codebook_cnts": "codebook counts",
    "last_optimizer_state": "optimiser",
}


def load(ckpt: str | None, refresh: bool = False) -> Any:
    """s3prl's expert with the student of a DinoSR checkpoint; its `notes` say what was ignored.

    Raises:
        MIError: no such file, or not one of DinoSR.
    """
    import torch
    from s3prl.upstream.data2vec.expert import UpstreamExpert

    path = file_or_download("dinosr", ckpt, refresh)
    content, ignored = convert(read_checkpoint(path), path)
    # s3prl reads its own layout from a file only
    converted = io.BytesIO()
    torch.save(content, converted)
    converted.seek(0)
    expert = UpstreamExpert(converted)
    expert.notes = [f"took the student encoder of {path.name}; ignored: {ignored}"]
    return expert


def convert(content: Any, path: Path) -> tuple[dict[str, Any], str]:
    """The student in the layout of s3prl's `data2vec_local`, and a list of what was left out.

    Args:
        content: what the file holds.
        path: the file, for messages.

    Raises:
        MIError: not a DinoSR checkpoint.
    """
    if not isinstance(content, Mapping) or not {"cfg", "model"} <= set(content):
        raise MIError(f"upstream 'dinosr': {str(path)!r} is not in DinoSR's layout.{advice(path)}")
    config = plain(content["cfg"])
    model = config.get("model") if isinstance(config, dict) else None
    if not isinstance(model, dict) or model.get("_name", "dinosr") != "dinosr":
        kind = model.get("_name") if isinstance(model, dict) else None
        raise MIError(f"upstream 'dinosr': {str(path)!r} holds a model {kind!r}, not 'dinosr'.{advice(path)}")
    weights = {k: v.float() for k, v in content["model"].items() if k.startswith(_STUDENT)}
    if "mask_emb" not in weights:
        raise MIError(
            f"upstream 'dinosr': {str(path)!r} has no mask_emb, so it is not a pre-trained student (a "
            "fine-tuned model?). Name the pre-training checkpoint with -k."
        )
    rest = {k: v for k, v in content["model"].items() if not k.startswith(_STUDENT)}
    rest |= {k: v for k, v in content.items() if k not in ("cfg", "model")}
    return {
        "task_cfg": {"normalize": bool((config.get("task") or {}).get("normalize", True))},
        "model_cfg": {k: v for k, v in model.items() if k != "_name"},
        "model_weight": {**weights, "_ema": {}},
    }, _listed(rest)


def _listed(rest: Mapping[str, Any]) -> str:
    """What was left out: groups of tensors with their number and size, then keys without tensors.

    Example:
        >>> _listed({"args": None, "criterion": {}})
        'args, criterion'
    """
    groups: dict[str, list[int]] = {}
    for key, value in rest.items():
        groups.setdefault(re.sub(r"(\d+|\.).*$", "", key), []).extend(_sizes(value))
    text = [
        f"{_WHAT.get(group, group)} ({len(sizes)} tensors, {sum(sizes) / 1e6:.2f} M values)"
        for group, sizes in groups.items()
        if sizes
    ]
    return ", ".join([*text, *(group for group, sizes in groups.items() if not sizes)]) or "nothing"


def _sizes(value: Any) -> list[int]:
    """Number of values of each tensor in a nested container."""
    if hasattr(value, "numel"):
        return [int(value.numel())]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [n for v in value for n in _sizes(v)] if isinstance(value, (list, tuple)) else []
