"""What an experiment will compute, worked out before anything heavy is done: layers, views, frames, estimates."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ..core.config import MIConfig, Task
from ..core.errors import MIError
from ..core.words import count
from ..results.record import last_encoder_layer
from ..upstreams.loading import Upstream
from ..upstreams.views import PLAIN, View, resolve_views
from .task import GridPoint, Layer

logger = logging.getLogger(__name__)

Identity: TypeAlias = "tuple[int | str, str, str | None, str, int | None, int]"
"""One estimate: layer, probe, view, frames, clusters, seed, as in `Record.identity`."""


@dataclass(frozen=True)
class Plan:
    """The grid of an experiment.

    `views` is `(PLAIN,)` in mi_supervised; `clusters` is `(None,)` there.
    """

    task: Task
    layers: tuple[Layer, ...]
    views: tuple[View, ...]
    frames: tuple[str, ...]
    clusters: tuple[int | None, ...]
    probes: tuple[str, ...]
    seeds: tuple[int, ...]

    @property
    def cells(self) -> list[GridPoint]:
        """What is fitted together, in the order of computing: a codebook serves the views that follow each other."""
        return [
            GridPoint(layer, view, frames, clusters)
            for layer in self.layers
            for clusters in self.clusters
            for view in self.views
            for frames in self.frames
        ]

    @property
    def wanted(self) -> list[Identity]:
        """Every estimate, in the order of computing."""
        return [
            self.identity(cell, probe, seed)
            for cell in self.cells
            for probe in self.probes
            for seed in self.seeds
        ]

    def identity(self, cell: GridPoint, probe: str, seed: int) -> Identity:
        """The `Record.identity` of one estimate of a cell."""
        return (cell.layer, probe, self.view_text(cell.view), cell.frames, cell.clusters, seed)

    def view_text(self, view: View) -> str | None:
        """`Record.view`."""
        return view.describe() if self.task == "mi_views" else None

    def describe(self) -> str:
        """One line for the screen.

        Example: `mi_views: 7 layers x 3 views x 2 cluster counts x 2 probes x 5 seeds = 420 estimates`.
        """
        numbers = [
            (len(self.layers), "layer"),
            (len(self.views), "view"),
            (len(self.frames), "kind of frames"),
            (len(self.clusters), "cluster count"),
            (len(self.probes), "probe"),
            (len(self.seeds), "seed"),
        ]
        parts = [count(n, what) for n, what in numbers if n > 1 or what in ("layer", "probe", "seed")]
        return f"{self.task}: {' x '.join(parts)} = {count(len(self.wanted), 'estimate')}"


def make_plan(
    task: Task,
    config: MIConfig,
    upstream: Upstream,
    layer_names: Sequence[str],
    seeds: tuple[int, ...],
    layer_option: int | None = None,
) -> Plan:
    """Work out the grid of an experiment.

    Args:
        task: `mi_supervised` or `mi_views`.
        config: the experiment's config.
        upstream: the upstream.
        layer_names: of its hidden states; `last` is the last one of the encoder (VQ codes and distilled predictions
            come behind it).
        seeds: of the run.
        layer_option: the command line's `-l`, which wins over the config.

    Raises:
        MIError: a layer that the upstream lacks, or views and frames that do not fit it or each other.
    """
    views = resolve_views(config.views, upstream.name, upstream.family) if task == "mi_views" else (PLAIN,)
    return Plan(
        task=task,
        layers=tuple(_layers(config, upstream.name, layer_names, layer_option)),
        views=views,
        frames=tuple(_frames(config, views[0])) if task == "mi_views" else ("all",),
        clusters=tuple(dict.fromkeys(config.clusters)) if task == "mi_views" else (None,),
        probes=tuple(dict.fromkeys(config.probes)),
        seeds=seeds,
    )


def _layers(
    config: MIConfig, upstream: str, layer_names: Sequence[str], layer_option: int | None
) -> list[Layer]:
    """Layer numbers, or `weighted`."""
    n_layers = len(layer_names)
    if layer_option is not None:
        asked: str | Sequence[int] = [layer_option]
        key = "-l"
        if config.layers != "all":
            logger.warning("-l %s replaces downstream_expert.layers %s.", layer_option, config.layers)
    else:
        asked, key = config.layers, "config key downstream_expert.layers"
    if asked == "weighted" and n_layers == 1:
        logger.warning("%s has one layer: weighted is layer 0.", upstream)
        return [0]
    if asked == "weighted":
        return ["weighted"]
    if asked == "all":
        return list(range(n_layers))
    numbers = [last_encoder_layer(layer_names)] if asked == "last" else [int(n) for n in asked]
    for number in numbers:
        if not -n_layers <= number < n_layers:
            raise MIError(
                f"{key}: upstream {upstream} has no layer {number}; it has {n_layers}, 0 to {n_layers - 1}."
            )
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
