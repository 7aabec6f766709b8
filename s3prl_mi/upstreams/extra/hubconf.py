"""Upstreams that s3prl lacks, as functions of an s3prl hubconf; heavy imports wait until one is called.

This is an upstream module like one of a user's own (`--upstream_module`): functions, and `FAMILIES`.
"""

from __future__ import annotations

from typing import Any

from .families import FAMILIES as FAMILIES


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
