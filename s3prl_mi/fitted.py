"""Fitted probes and codebooks of an experiment on disk, so that `-m evaluate` need not fit again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from .errors import MIError
from .estimators.probe import FittedProbe

FOLDER = "fitted"


def path_of(expdir: Path, layer: int | str, frames: str, probe: str) -> Path:
    """The file of one layer's probes of one kind."""
    return expdir / FOLDER / f"layer_{layer}-{frames}-{probe}.pt"


def save_fitted(path: Path, probe: FittedProbe, about: dict[str, Any]) -> None:
    """Save a probe with what belongs to it; the file appears whole or not at all.

    Args:
        path: from `path_of`.
        probe: all its seeds.
        about: `seeds`, `fit_frames`, and `codebooks` or `vocabulary`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    torch.save({"probe": probe.state(), **about}, temporary)
    os.replace(temporary, path)


def load_fitted(path: Path, device: torch.device | str) -> tuple[FittedProbe, dict[str, Any]]:
    """Load what `save_fitted` saved.

    Raises:
        MIError: no such file, or one that cannot be read.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return FittedProbe.from_state(content.pop("probe"), device), content
    except FileNotFoundError:
        raise MIError(
            f"no fitted probes {path}: finish the experiment first (the training command with -a)."
        ) from None
    except (RuntimeError, KeyError, EOFError) as error:
        raise MIError(
            f"{path} cannot be read ({type(error).__name__}): train the experiment again."
        ) from None
