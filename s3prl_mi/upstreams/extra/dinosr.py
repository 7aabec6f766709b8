"""DinoSR's released checkpoint -> s3prl's data2vec expert with the student's weights.

The student is data2vec's model class and no key needs renaming: cnn, projection, encoder and mask embedding are
taken; teacher, codebooks and prediction heads, which masked prediction needed, are left out and named.

Source: Liu, Chang, Auli, Hsu and Glass, DinoSR (NeurIPS 2023); s3prl 0.4.18, upstream/data2vec.
"""

from __future__ import annotations

import io
import re
from collections import Counter
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
    """The student of a file's content in the layout of s3prl's `data2vec_local`, and a list of what was left out.

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
    groups: Counter[str] = Counter()
    for key, value in rest.items():
        groups[re.sub(r"(\d+|\.).*$", "", key)] += _n_tensors(value)
    ignored = [f"{_WHAT.get(group, group)} ({n} tensors)" if n else group for group, n in groups.items()]
    return {
        "task_cfg": {"normalize": bool((config.get("task") or {}).get("normalize", True))},
        "model_cfg": {k: v for k, v in model.items() if k != "_name"},
        "model_weight": {**weights, "_ema": {}},
    }, ", ".join(ignored) or "nothing"


def _n_tensors(value: Any) -> int:
    """Number of tensors in a nested container."""
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return 1 if hasattr(value, "numel") else sum(map(_n_tensors, inside))
