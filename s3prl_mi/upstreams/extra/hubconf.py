"""Upstreams that s3prl lacks, as functions of an s3prl hubconf; heavy imports wait until one is called.

This is an upstream module like one of a user's own (`--upstream_module`): functions, and `FAMILIES`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..checkpoints import SPEECH_ENCODERS
from ..families import MASKED_CONV, Family
from ..geometry import Geometry

_ENTRIES = "One entry more than layers: the input of layer 1, then the output of each layer."

FAMILIES = {
    # The student is data2vec's class; its stacked positional convs spread padding into real frames.
    "dinosr": replace(
        MASKED_CONV,
        name="dinosr",
        fast_in_bfloat16=False,
        padding="alone",
        about=f"DinoSR's student. {_ENTRIES}",
        weights="your own file",
        takes="-k FILE: the file of DinoSR's fairseq trainer as it is: cfg, model, optimizer_history ...",
    ),
    "cotraining": Family(
        "cotraining",
        view="shift",
        geometry=Geometry(160, 199.5, 400),
        padding="safe",
        about="Autoregressive Co-training. 3 entries: outputs of the LSTM layers.",
        weights="your own file",
        takes="-k FILE: the bare state dict of its trainer: 0.{0,1,2}.weight_ih_l0 ...; -g takes the statistics file",
    ),
    # Of all but Wav2Vec2-BERT, which has no conv stack; the loaded model tells its own.
    "hf": replace(
        MASKED_CONV,
        name="hf",
        fast_in_bfloat16=False,
        mask_embedding="model.masked_spec_embed",
        padding="alone",
        about=f"Any speech encoder of Hugging Face transformers. {_ENTRIES}",
        weights="the Hugging Face Hub, or your own folder",
        takes=f"-k FOLDER or ID: a folder or a model id (also ID@REVISION) of type {', '.join(SPEECH_ENCODERS)}",
    ),
}


def dinosr(ckpt: str | None = None, refresh: bool = False, **_options: Any) -> Any:
    """DinoSR's student encoder, from a file (or URL) in the layout that its authors released, unconverted."""
    from .dinosr import load

    return load(ckpt, refresh)


def cotraining(ckpt: str | None = None, model_config: str | None = None, refresh: bool = False, **_options: Any) -> Any:
    """Autoregressive Co-training, from a file (or URL) that its authors' trainer writes.

    Args:
        ckpt: a bare state dict.
        model_config: `-g`: a statistics file of three lines (sums, sums of squares, number of frames) of the
            log Mel features that the model was trained on; default: those of train-clean-360.
        refresh: download a URL again.
    """
    from .cotraining import load

    return load(ckpt, model_config, refresh)


def hf(ckpt: str | None = None, refresh: bool = False, **_options: Any) -> Any:
    """Any speech encoder of Hugging Face transformers: a folder, a model id, or `owner/name@revision`."""
    from .hf import load

    return load(ckpt, refresh)
