"""Fitted probes and codebooks of an experiment on disk, so that `-m evaluate` need not fit again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ..core.errors import MIError
from ..core.files import replacing
from ..estimators.probe import FittedProbe
from ..states.layer_weights import LayerWeights
from .task import Fitted, GridPoint

FOLDER = "fitted"


def _path(expdir: Path, cell: GridPoint, kind: str) -> Path:
    parts = [
        f"layer_{cell.layer}",
        cell.view.slug,
        cell.frames,
        *([f"{cell.clusters}"] if cell.clusters else []),
        kind,
    ]
    return expdir / FOLDER / f"{'-'.join(parts)}.pt"


def save_fitted(expdir: Path, cell: GridPoint, fitted: Fitted) -> None:
    """Save each kind of probe of a cell to a file of its own, which appears whole or not at all.

    Args:
        expdir: the experiment's folder.
        cell: what was fitted.
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
        with replacing(_path(expdir, cell, probe.name)) as temporary:
            torch.save({**about, "probe": probe.state()}, temporary)


def load_fitted(expdir: Path, cell: GridPoint, kind: str, device: str) -> Fitted:
    """Load one kind of probe that `save_fitted` saved.

    Raises:
        MIError: no such file, or one that cannot be read.
    """
    path = _path(expdir, cell, kind)
    try:
        c = torch.load(path, map_location="cpu", weights_only=True)
        weights = None if c["weights"] is None else LayerWeights(np.array(c["weights"][0]), *c["weights"][1:])
        probe = FittedProbe.from_state(c["probe"], device)
        return Fitted([probe], c["seeds"], c["fit_frames"], weights, c["targets"])
    except FileNotFoundError:
        raise MIError(
            f"no fitted probes {path}: train with these layers, views, frames, clusters and probes first (-m train -a)."
        ) from None
    except (RuntimeError, KeyError, EOFError) as error:
        raise MIError(
            f"{path} cannot be read ({type(error).__name__}): train the experiment again."
        ) from None
