"""Fitted probes and codebooks of an experiment on disk, so that `-m evaluate` need not fit again."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..core.errors import MIError
from ..core.files import read_torch, write_torch
from ..estimators.probe import FittedProbe
from ..states.layer_weights import LayerWeights
from .task import Fitted, GridPoint

FOLDER = "fitted"


def _path(folder: Path, point: GridPoint, probe: str) -> Path:
    clusters = [str(point.n_clusters)] if point.n_clusters else []
    labels = [point.labels] if point.labels not in (None, "phones") else []
    parts = [f"layer_{point.layer}", point.view.slug, point.scored_frames, *clusters, *labels, probe]
    return folder / FOLDER / f"{'-'.join(parts)}.pt"


def save_probes(folder: Path, point: GridPoint, fitted: Fitted) -> None:
    """Save each probe of a grid point to a file of its own in the experiment's folder: whole, or not at all."""
    w = fitted.weights
    about = {
        "seeds": fitted.seeds,
        "fit_frames": fitted.fit_frames,
        "targets": fitted.targets,
        "label_digest": fitted.label_digest,
        "weights": None if w is None else [w.weights.tolist(), w.normalize, w.source],
    }
    for probe in fitted.probes:
        write_torch(_path(folder, point, probe.name), {**about, "probe": probe.state()})


def load_probe(folder: Path, point: GridPoint, probe: str, device: str) -> Fitted:
    """Load one probe that `save_probes` saved, for all seeds.

    Raises:
        MIError: no such file, or one that cannot be read.
    """
    path = _path(folder, point, probe)
    try:
        c = read_torch(path, "fitted probes")
        weights = None if c["weights"] is None else LayerWeights(np.array(c["weights"][0]), *c["weights"][1:])
        probes = [FittedProbe.from_state(c["probe"], device)]
        return Fitted(probes, c["seeds"], c["fit_frames"], weights, c["targets"], None, c.get("label_digest"))
    except FileNotFoundError:
        raise MIError(
            f"no fitted probes {path}: train with these layers, views, frames, clusters and probes first (-m train -a)."
        ) from None
    except MIError as error:
        raise MIError(f"{error} Train the experiment again.") from None
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise MIError(f"{path} holds no fitted probes ({type(error).__name__}): train the experiment again.") from None
