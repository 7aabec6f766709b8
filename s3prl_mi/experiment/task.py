"""What the two tasks have in common: probes are fitted on one side's hidden states and scored on another's.

A task is asked for one `GridPoint` at a time. What `fit` returns can be saved, loaded and scored on any other side
(`-m evaluate`). The tasks themselves are in `supervised_task` and `views_task`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..core.config import Labels, MIConfig
from ..data.splits import Split
from ..estimators.measures.sample import Sample
from ..estimators.mi_supervised import Estimate
from ..estimators.probe import FittedProbe
from ..estimators.probes import ProbeSpec
from ..estimators.refits import Refits
from ..states.layer_weights import LayerWeights, read_weights, uniform
from ..states.split_states import Layer, SplitStates
from ..upstreams.geometry import Geometry
from ..upstreams.loading import Upstream
from ..upstreams.views import PLAIN, View

Identity = tuple[int | str, str, str | None, str, int | None, int, str | None]
"""What distinguishes an estimate: layer, probe, view, frames, clusters, seed, labels, as in `Record.identity`."""


class GridPoint(NamedTuple):
    """What is fitted together, for all probes and seeds."""

    layer: Layer
    view: View
    """`PLAIN` in mi_supervised."""
    scored_frames: str
    n_clusters: int | None
    """None in mi_supervised."""
    labels: Labels | None = None
    """None in mi_views."""

    @property
    def view_text(self) -> str | None:
        """`Record.view`."""
        return None if self.view == PLAIN else self.view.describe()

    def identity(self, probe: str, seed: int) -> Identity:
        """The `Record.identity` of one of its estimates."""
        return (self.layer, probe, self.view_text, self.scored_frames, self.n_clusters, seed, self.labels)


@dataclass
class Fitted:
    """Probes of one grid point, and what is needed to score them."""

    probes: list[FittedProbe]
    seeds: list[int]
    fit_frames: int
    weights: LayerWeights | None
    targets: Any
    """The classes (`Vocabulary.state`, `Quantiles.state`) or the codebooks (`Codebooks.state`)."""
    refits: Refits | None = None
    """Probes without each group of fit speakers, where the config asks for them; not saved."""
    label_digest: str | None = None
    """Of the labels fitted on; None for clusters, and where an old file does not say."""


@dataclass(frozen=True)
class Context:
    """What both tasks must know of the run."""

    config: MIConfig
    upstream: Upstream
    n_layers: int
    """Layers that s3prl's featurizer weighs."""
    views: tuple[View, ...]
    seeds: tuple[int, ...]
    normalize: bool
    device: str

    def geometry(self, layer: Layer) -> Geometry:
        """Where the frames of a layer lie; `weighted` has those of layer 0."""
        return self.upstream.geometry_of(layer if isinstance(layer, int) else 0)

    def probes(self, names: Sequence[str], seeds: Sequence[int]) -> ProbeSpec:
        """How probes are fitted."""
        return ProbeSpec(tuple(names), self.config.protocol, tuple(seeds), self.device)


class MITask(ABC):
    """One of the two tasks; it keeps labels or codebooks of the states that it has seen."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._read_weights: LayerWeights | None = None

    def check(self, splits: Sequence[Split], layers: Sequence[Layer], labels: Sequence[Labels | None]) -> None:
        """Refuse, before anything is extracted, splits or layers that would fail later."""
        del splits, labels
        if "weighted" in layers:
            self._given_weights()

    def sides(self, fit: SplitStates, scored: SplitStates, point: GridPoint) -> tuple[SplitStates, SplitStates]:
        """What a grid point is fitted on and scored on."""
        del point
        return fit, scored

    def check_sides(self, fit: Any, scored: Any, point: GridPoint) -> None:
        """Refuse, before anything is fitted, sides that could not be scored."""
        del fit, scored, point

    @abstractmethod
    def fit(self, side: SplitStates, point: GridPoint, probes: Sequence[str]) -> Fitted:
        """Fit probes of one grid point on the fit side."""

    @abstractmethod
    def score(self, fitted: Fitted, side: SplitStates, point: GridPoint) -> list[Estimate]:
        """Score fitted probes: one estimate per probe and seed."""

    @abstractmethod
    def sample(self, fitted: Fitted, fit: SplitStates, scored: SplitStates, point: GridPoint) -> Sample:
        """What measures read of a layer (`estimators.measures`)."""

    def used(self, side: SplitStates, point: GridPoint) -> tuple[int, int]:
        """Utterances of a side that are used, and frames of theirs that are left out for want of a label."""
        del point
        return side.used, 0

    def label_digest(self, fitted: Fitted, side: SplitStates, point: GridPoint) -> str | None:
        """Of the labels fitted on and scored, as in `Record.label_digest`; None for clusters."""
        del fitted, side, point
        return None

    @abstractmethod
    def class_names(self, fitted: Fitted) -> list[str]:
        """Names of the classes that the probes distinguish."""

    def _given_weights(self) -> LayerWeights | None:
        """The weights that the config names for `layers: weighted`; None: to be learned."""
        c = self.context
        if c.config.featurizer == "learned":
            return None
        if c.config.featurizer == "uniform":
            return uniform(c.n_layers, c.normalize)
        if self._read_weights is None:
            self._read_weights = read_weights(Path(c.config.featurizer), c.n_layers, c.upstream.name)
        return self._read_weights
