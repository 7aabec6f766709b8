"""The two tasks on stored hidden states: fit on one side, score on another.

A task is asked for one `GridPoint` at a time: a layer, a view, a kind of frames, a number of clusters. What `fit`
returns can be saved, loaded and scored on any other side (`-m evaluate`).
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ..core.config import MIConfig
from ..core.distributed import gather, together
from ..core.errors import MIError
from ..core.types import IntVector
from ..data.alignments.files import match_utterances, open_alignments
from ..data.splits import Split
from ..estimators.frames import Frames
from ..estimators.mi_supervised import Estimate, Vocabulary, fit_supervised, score_supervised
from ..estimators.mi_views import fit_codebooks_of_view, fit_views, score_views
from ..estimators.probe import FittedProbe
from ..estimators.probes import ProbeSpec
from ..states.layer_weights import LayerWeights, learn_weights, read_weights, uniform
from ..states.split_states import Layer, SplitStates
from ..upstreams.geometry import Geometry
from ..upstreams.views import PLAIN, View, shift_frames
from .frame_pairs import Labelled, Pairs, held_out_groups, labelled_frames, paired_frames

logger = logging.getLogger(__name__)


class GridPoint(NamedTuple):
    """What is fitted together, for all probes and seeds; `clusters` is None in mi_supervised, whose view is `PLAIN`."""

    layer: Layer
    view: View
    frames: str
    clusters: int | None


@dataclass
class Fitted:
    """Probes of one cell, and what is needed to score them.

    `targets` is the vocabulary (a list of labels) or the codebooks (a tensor).
    """

    probes: list[FittedProbe]
    seeds: list[int]
    fit_frames: int
    weights: LayerWeights | None
    targets: Any


@dataclass(frozen=True)
class Context:
    """What both tasks must know of the experiment."""

    config: MIConfig
    upstream: str
    n_layers: int
    geometry_of: Callable[[int], Geometry]
    views: tuple[View, ...]
    seeds: tuple[int, ...]
    normalize: bool
    device: str

    def geometry(self, layer: Layer) -> Geometry:
        """Where the frames of a layer lie; `weighted` has those of layer 0."""
        return self.geometry_of(layer if isinstance(layer, int) else 0)

    def spec(self, probes: Sequence[str], seeds: Sequence[int]) -> ProbeSpec:
        """How probes are fitted."""
        return ProbeSpec(tuple(probes), self.config.protocol, tuple(seeds), self.device)


class MITask(ABC):
    """One of the two tasks."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._read_weights: LayerWeights | None = None

    def check(self, splits: Sequence[Split], layers: Sequence[Layer]) -> None:
        """Refuse, before anything is extracted, what would fail later.

        Args:
            splits: that will be fitted on or scored.
            layers: that will be measured.

        Raises:
            MIError: layer weights that cannot be had; what each task adds.
        """
        if "weighted" in layers:
            self._given_weights()

    @abstractmethod
    def fit(self, side: SplitStates, cell: GridPoint, kinds: Sequence[str]) -> Fitted:
        """Fit probes.

        Args:
            side: the fit side.
            cell: the layer, and what is measured of it.
            kinds: probes.
        """

    @abstractmethod
    def score(self, fitted: Fitted, side: SplitStates, cell: GridPoint) -> list[list[Estimate]]:
        """Score fitted probes: for each probe one estimate a seed."""

    def usage(self, side: SplitStates, layer: Layer) -> tuple[int, int]:
        """Utterances used of a side, and frames left out for want of a label."""
        del layer
        return side.used, 0

    def class_names(self, fitted: Fitted) -> list[str]:
        """Names of the classes that the probes tell apart."""
        return [str(label) for label in fitted.targets]

    def _given_weights(self) -> LayerWeights | None:
        """The weights that the config names for `layers: weighted`; None: to be learned."""
        c = self.context
        if c.config.featurizer == "learned":
            return None
        if c.config.featurizer == "uniform":
            return uniform(c.n_layers, c.normalize)
        if self._read_weights is None:
            self._read_weights = read_weights(Path(c.config.featurizer), c.n_layers, c.upstream)
        return self._read_weights


class SupervisedTask(MITask):
    """`mi_supervised`: I(Z;Y) with frame labels Y."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._labels: dict[tuple[SplitStates, Geometry], Labelled] = {}

    def check(self, splits: Sequence[Split], layers: Sequence[Layer]) -> None:
        """As in `MITask`; also: alignments that cannot be read, or are missing for too many utterances."""
        super().check(splits, layers)
        config = self.context.config.datarc.alignments
        alignments = open_alignments(config)
        for split in splits:
            _, absent = match_utterances(alignments, split.utterances, config.max_missing)
            if absent:
                some = ", ".join(absent[:5]) + (" ..." if len(absent) > 5 else "")
                logger.warning(
                    "%s: %d utterances without an alignment left out: %s", split.name, len(absent), some
                )

    def labels(self, side: SplitStates, layer: Layer) -> Labelled:
        """Labels of a side's frames, read once for each frame rate.

        Raises:
            MIError: no frame with a label.
        """
        geometry = self.context.geometry(layer)
        if (side, geometry) not in self._labels:
            config = self.context.config.datarc.alignments
            with together():
                labels = labelled_frames(
                    side.entries(layer),
                    side.utterances,
                    side.n_samples,
                    open_alignments(config),
                    geometry,
                    config.silence == "drop",
                )
            if not len(labels.rows):
                raise MIError(
                    f"no frame of {side.name} has a label: check downstream_expert.datarc.alignments (path, tier, "
                    "silence)."
                )
            self._labels[side, geometry] = labels
        return self._labels[side, geometry]

    def usage(self, side: SplitStates, layer: Layer) -> tuple[int, int]:
        """Utterances used of a side, and frames left out for want of a label."""
        labels = self.labels(side, layer)
        return labels.utterances, labels.unlabelled

    def fit(self, side: SplitStates, cell: GridPoint, kinds: Sequence[str]) -> Fitted:
        """Fit probes of the labels."""
        c, layer = self.context, cell.layer
        labels = self.labels(side, layer)
        # the labels that occur on any process
        occurring = gather(Vocabulary.of(labels.labels).labels)
        vocabulary = Vocabulary.of([label for own in occurring for label in own])
        classes, ids = len(vocabulary.labels), vocabulary.ids(labels.labels)
        if classes < 2:
            raise MIError(
                f"the fit split has one single label ({vocabulary.labels[0]}): nothing to be informed about. Check "
                "downstream_expert.datarc.alignments (tier, silence)."
            )
        weights = None
        if layer == "weighted":
            weights = self._given_weights()
            if weights is None:
                every = [side.frames(n, None).select(labels.rows) for n in range(c.n_layers)]
                weights = learn_weights(every, ids, classes, c.normalize, c.device)
        z = side.frames(layer, weights).select(labels.rows)
        groups = _groups(side, layer)[labels.rows]
        probes = fit_supervised(z, ids, classes, groups, c.spec(kinds, c.seeds))
        return Fitted(probes, list(c.seeds), len(z), weights, list(vocabulary.labels))

    def score(self, fitted: Fitted, side: SplitStates, cell: GridPoint) -> list[list[Estimate]]:
        """Score probes of the labels."""
        labels, vocabulary = self.labels(side, cell.layer), Vocabulary(tuple(fitted.targets))
        z = side.frames(cell.layer, fitted.weights).select(labels.rows)
        return score_supervised(
            fitted.probes,
            z,
            vocabulary.ids(labels.labels),
            self.context.spec([p.name for p in fitted.probes], fitted.seeds),
            fitted.fit_frames,
        )


class ViewsTask(MITask):
    """`mi_views`: I(Za;Zb) between two views."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._codebooks: tuple[tuple[Layer, int], torch.Tensor] | None = None

    def check(self, splits: Sequence[Split], layers: Sequence[Layer]) -> None:
        """As in `MITask`; also: a shift that is no whole number of frames, or weights that need labels."""
        super().check(splits, layers)
        c = self.context
        for view in c.views:
            for layer in layers if view.kind == "shift" else ():
                shift_frames(view.shift_ms or 0.0, c.geometry(layer).stride)
        if "weighted" in layers and c.config.featurizer == "learned":
            raise MIError(
                "config key downstream_expert.featurizer: learned needs labels, which mi_views has not. Set it to "
                "uniform, or to the states-*.ckpt of a run of s3prl that learned weights."
            )

    def class_names(self, fitted: Fitted) -> list[str]:
        """Numbers of the clusters."""
        return [str(n) for n in range(fitted.targets.shape[1])]

    def fit(self, side: SplitStates, cell: GridPoint, kinds: Sequence[str]) -> Fitted:
        """Fit codebooks of view b and probes from view a."""
        c, layer = self.context, cell.layer
        weights = self._given_weights() if layer == "weighted" else None
        if cell.view.kind == "mask":
            self._refuse_unmasked(side, cell, weights)
        b = side.frames(layer, weights)
        codebooks = self._codebooks_of(b, cell)
        pairs = self._pairs(side, cell)
        a = side.frames(layer, weights, cell.view).select(pairs.rows_a)
        groups = _groups(side, layer)[pairs.rows_a]
        probes = fit_views(a, b.select(pairs.rows_b), codebooks, groups, c.spec(kinds, c.seeds))
        return Fitted(probes, list(c.seeds), len(a), weights, codebooks.cpu())

    def _codebooks_of(self, frames_b: Frames, cell: GridPoint) -> torch.Tensor:
        """The codebooks of a layer, fitted once: they serve every mask pattern, shift and kind of frames."""
        c = self.context
        assert cell.clusters is not None
        which = (cell.layer, cell.clusters)
        if self._codebooks is None or self._codebooks[0] != which:
            iterations = c.config.kmeans_iterations
            codebooks = fit_codebooks_of_view(frames_b, cell.clusters, c.seeds, iterations, c.device)
            self._codebooks = (which, codebooks)
        return self._codebooks[1]

    def score(self, fitted: Fitted, side: SplitStates, cell: GridPoint) -> list[list[Estimate]]:
        """Score probes of the clusters."""
        c, pairs = self.context, self._pairs(side, cell)
        a = side.frames(cell.layer, fitted.weights, cell.view).select(pairs.rows_a)
        b = side.frames(cell.layer, fitted.weights).select(pairs.rows_b)
        codebooks = fitted.targets.to(c.device)
        spec = c.spec([p.name for p in fitted.probes], fitted.seeds)
        return score_views(fitted.probes, codebooks, a, b, spec, fitted.fit_frames)

    def _refuse_unmasked(self, side: SplitStates, cell: GridPoint, weights: LayerWeights | None) -> None:
        """Refuse a layer that is read before the mask: its two views are one, and its bound is only H(c)."""
        rows = self._pairs(side, cell._replace(frames="masked")).rows_a[:2000]
        a, b = (
            side.frames(cell.layer, weights, view).select(rows).read(0, len(rows))
            for view in (cell.view, PLAIN)
        )
        differ = len(rows) > 0 and not np.allclose(a, b, rtol=1e-3, atol=1e-3 * float(b.std()))
        if not differ:
            raise MIError(
                "its hidden states are the same with and without masks, so it lies before the mask site and has no "
                "two views. Leave it out with downstream_expert.layers, or use views.mask_level: waveform."
            )

    def _pairs(self, side: SplitStates, cell: GridPoint) -> Pairs:
        c = self.context
        geometry = c.geometry(cell.layer)
        pairs = paired_frames(side.entries(cell.layer), cell.view, cell.frames, geometry, c.geometry(0))
        if not len(pairs.rows_a):
            raise MIError(
                f"{side.name}: no frame to score ({cell.frames}); its utterances are shorter than what the view "
                f"{cell.view.describe()} needs."
            )
        return pairs


def _groups(side: SplitStates, layer: Layer) -> IntVector:
    """Speakers or utterances of a side's rows."""
    return held_out_groups(side.entries(layer), side.utterances)


TASKS: dict[str, type[MITask]] = {"mi_supervised": SupervisedTask, "mi_views": ViewsTask}
