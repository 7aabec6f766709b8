"""What an experiment will compute, worked out before anything heavy is done: layers, views, frames, estimates."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from ..core.config import Labels, MIConfig, Task, seed_list
from ..core.errors import MIError
from ..core.words import count
from ..results.record import last_encoder_layer
from ..upstreams.loading import Upstream
from ..upstreams.views import PLAIN, View, resolve_views
from .spec import RunSpec
from .task import GridPoint, Identity, Layer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """The grid of an experiment."""

    task: Task
    layers: tuple[Layer, ...]
    views: tuple[View, ...]
    """`(PLAIN,)` in mi_supervised."""
    scored_frames: tuple[str, ...]
    n_clusters: tuple[int | None, ...]
    """`(None,)` in mi_supervised."""
    labels: tuple[Labels | None, ...]
    """`(None,)` in mi_views."""
    probes: tuple[str, ...]
    seeds: tuple[int, ...]

    @property
    def points(self) -> list[GridPoint]:
        """What is fitted together, in the order of computing: a codebook serves the views that follow each other."""
        return [
            GridPoint(layer, view, frames, clusters, labels)
            for layer in self.layers
            for labels in self.labels
            for clusters in self.n_clusters
            for view in self.views
            for frames in self.scored_frames
        ]

    def estimates_of(self, point: GridPoint) -> list[Identity]:
        """Every estimate of a grid point."""
        return [point.identity(probe, seed) for probe in self.probes for seed in self.seeds]

    @property
    def wanted(self) -> list[Identity]:
        """Every estimate, in the order of computing."""
        return [identity for point in self.points for identity in self.estimates_of(point)]

    def describe(self) -> str:
        """One line for the screen.

        Example: `mi_views: 7 layers x 3 views x 2 cluster counts x 2 probes x 5 seeds = 420 estimates`.
        """
        always = {"layer": len(self.layers), "probe": len(self.probes), "seed": len(self.seeds)}
        some = {
            "view": self.views,
            "kind of frames": self.scored_frames,
            "cluster count": self.n_clusters,
            "set of labels": self.labels,
        }
        several = {what: len(values) for what, values in some.items() if len(values) > 1}
        names = ("layer", *some, "probe", "seed")
        found = [count(n, what) for what in names if (n := (always | several).get(what))]
        return f"{self.task}: {' x '.join(found)} = {count(len(self.wanted), 'estimate')}"


def make_plan(spec: RunSpec, upstream: Upstream, layer_names: Sequence[str]) -> Plan:
    """Work out the grid of an experiment.

    Args:
        spec: what the run is asked for.
        upstream: the upstream.
        layer_names: of its hidden states; `last` is the last one of the encoder (VQ codes and distilled predictions
            follow it).

    Raises:
        MIError: a layer that the upstream lacks, or views and frames that do not fit it or each other.
    """
    task, config = spec.task, spec.config
    views = resolve_views(config.views, upstream.name, upstream.family) if task == "mi_views" else (PLAIN,)
    return Plan(
        task=task,
        layers=tuple(_layers(spec, layer_names)),
        views=views,
        scored_frames=tuple(_frames(config, views[0])) if task == "mi_views" else ("all",),
        n_clusters=tuple(dict.fromkeys(config.clusters)) if task == "mi_views" else (None,),
        labels=config.labels if task == "mi_supervised" else (None,),
        probes=tuple(dict.fromkeys(config.probes)),
        seeds=seed_list(config.seeds, spec.seed),
    )


def _layers(spec: RunSpec, layer_names: Sequence[str]) -> list[Layer]:
    """Layer numbers, or `weighted`."""
    n_layers, name = len(layer_names), spec.upstream.name
    key, asked = "config key downstream_expert.layers", spec.config.layers
    if spec.layer is not None:
        if asked != "all":
            logger.warning("-l %s replaces downstream_expert.layers %s.", spec.layer, asked)
        key, asked = "-l", (spec.layer,)
    if asked == "weighted" and n_layers > 1:
        return ["weighted"]
    if asked == "weighted":
        logger.warning("%s has one layer: weighted is layer 0.", name)
    if asked in ("weighted", "all"):
        return list(range(n_layers))
    numbers = [last_encoder_layer(layer_names)] if asked == "last" else [int(n) for n in asked]
    for number in numbers:
        if not -n_layers <= number < n_layers:
            raise MIError(f"{key}: upstream {name} has no layer {number}; it has {n_layers}, 0 to {n_layers - 1}.")
    return list(dict.fromkeys(n % n_layers for n in numbers))


def _frames(config: MIConfig, view: View) -> list[str]:
    """Kinds of frames that are scored; all views of a run are of one kind."""
    auto = "masked" if view.kind == "mask" else "all"
    chosen = list(dict.fromkeys(auto if f == "auto" else f for f in config.frames))
    if view.kind == "shift" and chosen != ["all"]:
        raise MIError(
            f"config key downstream_expert.frames: {', '.join(chosen)} asked for, but the shift view has no "
            "masked frames: it scores all."
        )
    return chosen
