"""Fitted probes and codebooks of an experiment on disk, so that `-m evaluate` need not fit again."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from .errors import MIError
from .estimators.probe import FittedProbe
from .featurizer import LayerWeights
from .sides import Layer
from .tasks import Fitted

FOLDER = "fitted"


def _path(expdir: Path, layer: Layer, frames: str, kind: str) -> Path:
    return expdir / FOLDER / f"layer_{layer}-{frames}-{kind}.pt"


def save_fitted(expdir: Path, layer: Layer, frames: str, fitted: Fitted) -> None:
    """Save each kind of probe of a layer to a file of its own, which appears whole or not at all.

    Args:
        expdir: the experiment's folder.
        layer: index, or `weighted`.
        frames: the frames that are scored.
        fitted: what the task's `fit` returned.
    """
    w = fitted.weights
    about = {
        "seeds": fitted.seeds,
        "fit_frames": fitted.fit_frames,
        "targets": fitted.targets,
        "weights": None if w is None else [w.weights.tolist(), w.normalize, w.source],
    }
    for probe in fitted.probes:
        path = _path(expdir, layer, frames, probe.kind)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        torch.save({**about, "probe": probe.state()}, temporary)
        os.replace(temporary, path)


def load_fitted(expdir: Path, layer: Layer, frames: str, kind: str, device: str) -> Fitted:
    """Load one kind of probe that `save_fitted` saved.

    Raises:
        MIError: no such file, or one that cannot be read.
    """
    path = _path(expdir, layer, frames, kind)
    try:
        c = torch.load(path, map_location="cpu", weights_only=True)
        weights = None if c["weights"] is None else LayerWeights(np.array(c["weights"][0]), *c["weights"][1:])
        probe = FittedProbe.from_state(c["probe"], device)
        return Fitted([probe], c["seeds"], c["fit_frames"], weights, c["targets"])
    except FileNotFoundError:
        raise MIError(
            f"no fitted probes {path}: train with these layers, frames and probes first (-m train -a)."
        ) from None
    except (RuntimeError, KeyError, EOFError) as error:
        raise MIError(
            f"{path} cannot be read ({type(error).__name__}): train the experiment again."
        ) from None
