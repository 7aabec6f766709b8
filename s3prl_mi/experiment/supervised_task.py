"""`mi_supervised`: I(Z;Y) between hidden states Z and frame labels Y."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from ..core.errors import MIError
from ..data.alignments.files import match_utterances, open_alignments
from ..data.splits import Split
from ..estimators.folds import assign_folds
from ..estimators.mi_supervised import Estimate, Vocabulary, fit_supervised, known_frames, score_supervised
from ..estimators.refits import fit_without_each
from ..states.layer_weights import learn_weights
from ..states.split_states import Layer, SplitStates
from ..upstreams.geometry import Geometry
from .frame_pairs import Labelled, held_out_groups, labelled_frames, scored_groups
from .task import Context, Fitted, GridPoint, MITask

logger = logging.getLogger(__name__)


class SupervisedTask(MITask):
    """Probes of frame labels."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._labels: dict[tuple[SplitStates, Geometry], Labelled] = {}

    def check(self, splits: Sequence[Split], layers: Sequence[Layer]) -> None:
        """Also refuses alignments that cannot be read, or are missing for too many utterances."""
        super().check(splits, layers)
        config = self.context.config.datarc.alignments
        alignments = open_alignments(config)
        for split in splits:
            _, absent = match_utterances(alignments, split.utterances, config.max_missing)
            if absent:
                some = ", ".join(absent[:5]) + (" ..." if len(absent) > 5 else "")
                logger.warning("%s: %d utterances without an alignment left out: %s", split.name, len(absent), some)

    def labels(self, side: SplitStates, layer: Layer) -> Labelled:
        """Labels of a side's frames, read once for each frame rate.

        Raises:
            MIError: no frame with a label.
        """
        geometry = self.context.geometry(layer)
        if (side, geometry) not in self._labels:
            config = self.context.config.datarc.alignments
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

    def used(self, side: SplitStates, layer: Layer) -> tuple[int, int]:
        """Utterances of a side that have labels, and frames of theirs that have none."""
        labels = self.labels(side, layer)
        return labels.utterances, labels.unlabelled

    def check_sides(self, fit: SplitStates, scored: SplitStates, layer: Layer) -> None:
        """Refuses labels of which too many occur in the eval split only."""
        known_frames(self._vocabulary(self.labels(fit, layer)).ids(self.labels(scored, layer).labels))

    def _vocabulary(self, labels: Labelled) -> Vocabulary:
        vocabulary = Vocabulary.of(labels.labels, self.context.config.datarc.alignments.min_count)
        if len(vocabulary.labels) < 2:
            raise MIError(
                f"the fit split has one single label ({vocabulary.labels[0]}): nothing to be informed about. Check "
                "downstream_expert.datarc.alignments (tier, silence)."
            )
        return vocabulary

    def label_digest(self, fitted: Fitted, side: SplitStates, layer: Layer) -> str:
        """Of the labels fitted on and scored."""
        return f"{fitted.label_digest or 'unknown'}/{self.labels(side, layer).digest}"

    def fit(self, side: SplitStates, point: GridPoint, probes: Sequence[str]) -> Fitted:
        """Fit probes of the labels."""
        c, layer = self.context, point.layer
        labels = self.labels(side, layer)
        vocabulary = self._vocabulary(labels)
        n_classes, ids = len(vocabulary.labels), vocabulary.ids(labels.labels)
        weights = None
        if layer == "weighted":
            weights = self._given_weights()
            if weights is None:
                every = [side.frames(n, None).select(labels.rows) for n in range(c.n_layers)]
                weights = learn_weights(every, ids, n_classes, c.normalize, c.device)
        z = side.frames(layer, weights).select(labels.rows)
        folds, spec = assign_folds(held_out_groups(side.entries(layer), side.utterances)), c.probes(probes, c.seeds)
        fitted, refits = fit_supervised(z, ids, n_classes, folds[labels.rows], spec), None
        if c.config.fit_ci:
            speakers = scored_groups(side.entries(layer), side.utterances, labels.rows)
            refits = fit_without_each(fitted, z, torch.from_numpy(ids)[:, None], n_classes, speakers, spec)
        return Fitted(fitted, list(c.seeds), len(z), weights, list(vocabulary.labels), refits, labels.digest)

    def score(self, fitted: Fitted, side: SplitStates, point: GridPoint) -> list[Estimate]:
        """Score probes of the labels."""
        labels, vocabulary = self.labels(side, point.layer), Vocabulary(tuple(fitted.targets))
        by_probe = score_supervised(
            fitted.probes,
            side.frames(point.layer, fitted.weights).select(labels.rows),
            vocabulary.ids(labels.labels),
            self.context.probes([p.name for p in fitted.probes], fitted.seeds),
            fitted.fit_frames,
            scored_groups(side.entries(point.layer), side.utterances, labels.rows),
        )
        return [estimate for estimates in by_probe for estimate in estimates]
