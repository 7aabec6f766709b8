"""`mi_supervised`: I(Z;Y) between hidden states Z and frame labels Y."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from ..core.config import ALIGNED, Labels
from ..core.errors import MIError
from ..core.types import IntVector
from ..data.alignments.files import match_utterances, open_alignments
from ..data.prosody import check_tracker
from ..data.splits import Split
from ..estimators.folds import assign_folds
from ..estimators.intervals import FrameGroups
from ..estimators.kmeans import assign, fit_codebooks
from ..estimators.measures.sample import Coded, Features, Sample, spaced
from ..estimators.mi_supervised import Estimate, fit_supervised, known_frames, score_supervised
from ..estimators.refits import fit_without_each
from ..estimators.vocabulary import Classes, Quantiles, Vocabulary, classes_from
from ..states.layer_weights import learn_weights
from ..states.split_states import Layer, SplitStates
from ..upstreams.geometry import Geometry
from .fbank import fbank_of
from .frame_pairs import held_out_groups, scored_groups, utterance_numbers
from .labels import (
    DealtUtterances,
    Labelled,
    LabelSource,
    ProsodyLabels,
    SpeakerLabels,
    aligned_labels,
    alignments_of,
    deal_utterances,
    labelled_frames,
)
from .task import Context, Fitted, GridPoint, MITask

logger = logging.getLogger(__name__)

CODEBOOK_FRAMES, FRAMES_PER_CODE = 10_000, 200
"""Codebooks of measures are of so many fit frames at most, evenly spaced, or of so many per code if that is more."""

UNITS = {"pitch": "Hz", "energy": "dB"}


class SupervisedTask(MITask):
    """Probes of frame labels."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._labels: dict[tuple[SplitStates, Geometry, str], Labelled] = {}
        self._fbank: dict[tuple[SplitStates, Geometry, str], Features] = {}
        self._dealt: DealtUtterances | None = None
        self._both: tuple[SplitStates, SplitStates] | None = None

    def check(self, splits: Sequence[Split], layers: Sequence[Layer], labels: Sequence[Labels | None]) -> None:
        """Also refuses alignments that cannot be read, or are missing for too many utterances, and too few speakers."""
        super().check(splits, layers, labels)
        config = self.context.config
        for name in (n for n in labels if n in ALIGNED):
            alignments = open_alignments(alignments_of(config.datarc, name))
            for split in splits:
                _, absent = match_utterances(alignments, split.utterances, config.datarc.alignments.max_missing)
                if absent:
                    some = ", ".join(absent[:5]) + (" ..." if len(absent) > 5 else "")
                    logger.warning("%s: %d utterances without an alignment left out: %s", split.name, len(absent), some)
        if "pitch" in labels:
            check_tracker()
        if "speaker" in labels:
            dealt = deal_utterances([u for split in splits for u in split.utterances])
            logger.info(
                "labels: speaker: %d utterances are fitted on and %d others of the same speakers scored, of %s.",
                len(dealt.fit), len(dealt.scored), "+".join(split.name for split in splits),
            )  # fmt: skip

    # --- labels -------------------------------------------------------------------------------------------

    def sides(self, fit: SplitStates, scored: SplitStates, point: GridPoint) -> tuple[SplitStates, SplitStates]:
        """For speakers, both sides are of all splits: their utterances are dealt out."""
        if point.labels != "speaker":
            return fit, scored
        if self._both is None:
            both = SplitStates(
                [*fit.splits, *scored.splits], {v: [*of_fit, *scored.states[v]] for v, of_fit in fit.states.items()}
            )
            here = {u for entry in both.entries(point.layer) for u in entry.utterances}
            self._dealt = deal_utterances([u for u in both.utterances.values() if u.id in here])
            self._both = both, replace(both)
        return self._both

    def _source(self, side: SplitStates, name: str) -> LabelSource:
        if name in ALIGNED:
            return aligned_labels(self.context.config.datarc, name)
        if name == "speaker":
            assert self._dealt is not None
            assert self._both is not None
            return SpeakerLabels(self._dealt.fit if side is self._both[0] else self._dealt.scored)
        return ProsodyLabels(name, {u: h for split in side.splits for u, h in split.hashes.items()})

    def labels(self, side: SplitStates, point: GridPoint) -> Labelled:
        """Labels of a side's frames, read once for each frame rate.

        Raises:
            MIError: no frame with a label.
        """
        geometry, name = self.context.geometry(point.layer), str(point.labels)
        key = (side, geometry, name)
        if key not in self._labels:
            source = self._source(side, name)
            found = labelled_frames(side.entries(point.layer), side.utterances, side.n_samples, source, geometry)
            if not len(found.rows):
                raise MIError(
                    f"no frame of {side.name} has a label: check downstream_expert.datarc.alignments (path, tier, "
                    "silence)."
                )
            self._labels[key] = found
        return self._labels[key]

    def _classes(self, labels: Labelled, point: GridPoint) -> Classes:
        config, name = self.context.config, str(point.labels)
        if name in UNITS:
            missing = "unvoiced" if name == "pitch" else None
            return Quantiles.of(labels.labels, config.label_classes, UNITS[name], missing)
        found = Vocabulary.of(labels.labels, config.datarc.alignments.min_count if name in ALIGNED else 1)
        if len(found.labels) < 2:
            raise MIError(
                f"the fit split has one single label ({found.labels[0]}): nothing to be informed about. Check "
                "downstream_expert.datarc.alignments (tier, silence)."
            )
        return found

    def used(self, side: SplitStates, point: GridPoint) -> tuple[int, int]:
        """Utterances of a side that have labels, and frames of theirs that have none."""
        labels = self.labels(side, point)
        return labels.utterances, labels.unlabelled

    def check_sides(self, fit: SplitStates, scored: SplitStates, point: GridPoint) -> None:
        """Refuses labels of which too many occur in the eval split only."""
        known_frames(self._classes(self.labels(fit, point), point).ids(self.labels(scored, point).labels))

    def label_digest(self, fitted: Fitted, side: SplitStates, point: GridPoint) -> str:
        """Of the labels fitted on and scored."""
        return f"{fitted.label_digest or 'unknown'}/{self.labels(side, point).digest}"

    def class_names(self, fitted: Fitted) -> list[str]:
        """Labels, or ranges of numbers."""
        return [str(label) for label in classes_from(fitted.targets).labels]

    def _folds(self, side: SplitStates, point: GridPoint, rows: IntVector) -> IntVector:
        """Fold of each labelled frame: by speaker; of speakers themselves, by utterance."""
        entries = side.entries(point.layer)
        if point.labels != "speaker":
            return assign_folds(held_out_groups(entries, side.utterances))[rows]
        assert self._dealt is not None
        names = [u for entry in entries for u in entry.utterances]
        return np.array([self._dealt.fold.get(u, -1) for u in names], np.int64)[utterance_numbers(entries)[rows]]

    def _groups(self, side: SplitStates, point: GridPoint, rows: IntVector) -> FrameGroups:
        """Whose frames these are, for intervals."""
        return scored_groups(side.entries(point.layer), side.utterances, rows, point.labels == "speaker")

    # --- probes -------------------------------------------------------------------------------------------

    def fit(self, side: SplitStates, point: GridPoint, probes: Sequence[str]) -> Fitted:
        """Fit probes of the labels."""
        c, layer = self.context, point.layer
        labels = self.labels(side, point)
        classes = self._classes(labels, point)
        n_classes, ids = len(classes.labels), classes.ids(labels.labels)
        weights = None
        if layer == "weighted":
            weights = self._given_weights()
            if weights is None:
                every = [side.frames(n, None).select(labels.rows) for n in range(c.n_layers)]
                weights = learn_weights(every, ids, n_classes, c.normalize, c.device)
        z = side.frames(layer, weights).select(labels.rows)
        folds, spec = self._folds(side, point, labels.rows), c.probes(probes, c.seeds)
        fitted, refits = fit_supervised(z, ids, n_classes, folds, spec), None
        if c.config.fit_ci:
            groups = self._groups(side, point, labels.rows)
            refits = fit_without_each(fitted, z, torch.from_numpy(ids)[:, None], n_classes, groups, spec)
        return Fitted(fitted, list(c.seeds), len(z), weights, classes.state(), refits, labels.digest)

    def score(self, fitted: Fitted, side: SplitStates, point: GridPoint) -> list[Estimate]:
        """Score probes of the labels."""
        labels = self.labels(side, point)
        by_probe = score_supervised(
            fitted.probes,
            side.frames(point.layer, fitted.weights).select(labels.rows),
            classes_from(fitted.targets).ids(labels.labels),
            self.context.probes([p.name for p in fitted.probes], fitted.seeds),
            fitted.fit_frames,
            self._groups(side, point, labels.rows),
        )
        return [estimate for estimates in by_probe for estimate in estimates]

    def sample(self, fitted: Fitted, fit: SplitStates, scored: SplitStates, point: GridPoint) -> Sample:
        """Labelled frames of both sides with their codes, by k-means of fit frames of the layer (one seed)."""
        c, layer = self.context, point.layer
        every = fit.frames(layer, fitted.weights)
        clusters = min(c.config.clusters[0], len(every))
        some = every.select(spaced(every, max(CODEBOOK_FRAMES, FRAMES_PER_CODE * clusters)))
        books = fit_codebooks(some, clusters, c.seeds[:1], c.config.kmeans_iterations, c.device)
        classes = classes_from(fitted.targets)

        def coded(side: SplitStates) -> Coded:
            labels = self.labels(side, point)
            ids = classes.ids(labels.labels)
            rows, known = labels.rows[ids >= 0], ids[ids >= 0]
            z = side.frames(layer, fitted.weights).select(rows)
            codes = assign(z, books)[:, 0].cpu().numpy()
            groups = scored_groups(side.entries(layer), side.utterances, rows)
            folds = self._folds(side, point, rows) if side is fit else None
            return Coded(codes, known, groups, z, folds, self._fbank_of(side, point, rows))

        entries, logistic = scored.entries(layer), next((p for p in fitted.probes if p.name == "logistic"), None)
        return Sample(
            scored.frames(layer, fitted.weights),
            scored_groups(entries, scored.utterances),
            utterance_numbers(entries),
            coded=coded(scored),
            fit_coded=coded(fit),
            n_clusters=clusters,
            spec=c.probes(["logistic"], c.seeds[:1]),
            probe=logistic,
        )

    def _fbank_of(self, side: SplitStates, point: GridPoint, rows: IntVector) -> Features:
        """Fbank of labelled frames; one for all layers of a frame rate."""
        geometry = self.context.geometry(point.layer)
        key = (side, geometry, str(point.labels))
        if key not in self._fbank:
            self._fbank[key] = fbank_of(side.entries(point.layer), side.utterances, geometry, rows)
        return self._fbank[key]
