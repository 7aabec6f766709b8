"""`mi_views`: I(Za;Zb) between two views of the same speech, for experiments and for models in training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..core.config import Labels
from ..core.errors import MIError
from ..core.types import FloatMatrix
from ..data.splits import Split
from ..estimators.folds import assign_folds
from ..estimators.frames import Frames
from ..estimators.kmeans import Codebooks, assign, fit_codebooks
from ..estimators.measures.sample import Features, FitSide, Sample
from ..estimators.measures.sample import Pairs as PairedFrames
from ..estimators.mi_supervised import Estimate
from ..estimators.mi_views import AXES, choose_codebook, fit_views, score_views
from ..estimators.refits import fit_without_each
from ..states.split_states import Layer, SplitStates
from ..upstreams.geometry import Geometry
from ..upstreams.views import shift_frames
from .fbank import fbank_of
from .frame_pairs import Pairs, held_out_groups, paired_frames, scored_groups, utterance_numbers
from .task import Context, Fitted, GridPoint, MITask

COMPARED_FRAMES = 2000
"""Masked frames on which the two views of a layer are compared."""


class ViewsTask(MITask):
    """Codebooks of view b, and probes that predict its clusters from view a."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._codebooks: tuple[tuple[Layer, int, int], Codebooks] | None = None
        self._fbank: dict[tuple[SplitStates, Geometry], Features] = {}

    def check(self, splits: Sequence[Split], layers: Sequence[Layer], labels: Sequence[Labels | None]) -> None:
        """Also refuses a shift that is no whole number of frames, and weights that need labels."""
        super().check(splits, layers, labels)
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
        return [str(n) for n in range(fitted.targets[0].shape[-2])]

    def fit(self, side: SplitStates, point: GridPoint, probes: Sequence[str]) -> Fitted:
        """Fit codebooks of view b and probes from view a."""
        c, layer = self.context, point.layer
        weights = self._given_weights() if layer == "weighted" else None
        every_a, b = side.frames(layer, weights, point.view), side.frames(layer, weights)
        if point.view.kind == "mask":
            rows = self._pairs(side, point._replace(scored_frames="masked")).rows_a[:COMPARED_FRAMES]
            refuse_equal_views(*(z.select(rows).read(0, len(rows)) for z in (every_a, b)))
        folds = assign_folds(held_out_groups(side.entries(layer), side.utterances))
        pairs, spec = self._pairs(side, point), c.probes(probes, c.seeds)
        a = every_a.select(pairs.rows_a)
        assert point.n_clusters is not None
        axes = AXES if c.config.codebook == "auto" else ()
        choice = choose_codebook(a, b, pairs.rows_b, point.n_clusters, spec, folds, axes)
        codebooks = self._codebooks_of(b, point, choice)
        partners, refits = b.select(pairs.rows_b), None
        fitted = fit_views(a, partners, codebooks, choice, folds[pairs.rows_b], spec)
        if c.config.fit_ci:
            speakers = scored_groups(side.entries(layer), side.utterances, pairs.rows_a)
            refits = fit_without_each(fitted, a, assign(partners, codebooks), point.n_clusters, speakers, spec)
        return Fitted(fitted, list(c.seeds), len(a), weights, codebooks.state(), refits)

    def _codebooks_of(self, frames_b: Frames, point: GridPoint, choice: Codebooks | None) -> Codebooks:
        """The codebooks of a layer, fitted once for all patterns, shifts and kinds of frames with the same axes."""
        c, clusters = self.context, point.n_clusters
        assert clusters is not None
        which = (point.layer, clusters, choice.axes if choice else 0)
        if self._codebooks is None or self._codebooks[0] != which:
            inputs, iterations = choice.inputs if choice else None, c.config.kmeans_iterations
            self._codebooks = (which, fit_codebooks(frames_b, clusters, c.seeds, iterations, c.device, inputs))
        return self._codebooks[1]

    def score(self, fitted: Fitted, side: SplitStates, point: GridPoint) -> list[Estimate]:
        """Score probes of the clusters."""
        c, pairs = self.context, self._pairs(side, point)
        a = side.frames(point.layer, fitted.weights, point.view).select(pairs.rows_a)
        b = side.frames(point.layer, fitted.weights).select(pairs.rows_b)
        spec = c.probes([p.name for p in fitted.probes], fitted.seeds)
        groups = scored_groups(side.entries(point.layer), side.utterances, pairs.rows_a)
        books = Codebooks.from_state(fitted.targets, c.device)
        by_probe = score_views(fitted.probes, books, a, b, spec, fitted.fit_frames, groups)
        return [estimate for estimates in by_probe for estimate in estimates]

    def sample(self, fitted: Fitted, fit: SplitStates, scored: SplitStates, point: GridPoint) -> Sample:
        """All eval frames of the unmasked input, the pairs of both sides, the codebooks."""
        c, layer = self.context, point.layer

        def pairs(side: SplitStates) -> PairedFrames:
            rows, entries = self._pairs(side, point), side.entries(layer)
            a, b = side.frames(layer, fitted.weights, point.view), side.frames(layer, fitted.weights)
            groups = scored_groups(entries, side.utterances, rows.rows_a)
            return PairedFrames(a.select(rows.rows_a), b.select(rows.rows_b), groups)

        entries = scored.entries(layer)
        return Sample(
            scored.frames(layer, fitted.weights),
            scored_groups(entries, scored.utterances),
            utterance_numbers(entries),
            pairs(scored),
            FitSide(
                pairs(fit),
                fit.frames(layer, fitted.weights),
                self._pairs(fit, point).rows_b,
                assign_folds(held_out_groups(fit.entries(layer), fit.utterances)),
                c.probes(["logistic"], c.seeds[:1]),
                c.config.kmeans_iterations,
                self._fbank_of(fit, layer),
            ),
            Codebooks.from_state(fitted.targets, c.device),
            n_clusters=point.n_clusters,
            fbank=self._fbank_of(scored, layer),
        )

    def _fbank_of(self, side: SplitStates, layer: Layer) -> Features:
        """Fbank of all frames; one for all layers of a frame rate."""
        key = (side, self.context.geometry(layer))
        if key not in self._fbank:
            self._fbank[key] = fbank_of(side.entries(layer), side.utterances, key[1])
        return self._fbank[key]

    def _pairs(self, side: SplitStates, point: GridPoint) -> Pairs:
        c = self.context
        geometry = c.geometry(point.layer)
        pairs = paired_frames(side.entries(point.layer), point.view, point.scored_frames, geometry, c.geometry(0))
        if not len(pairs.rows_a):
            raise MIError(
                f"{side.name}: no frame to score ({point.scored_frames}); its utterances are too short for "
                f"{point.view.describe()}."
            )
        return pairs


def refuse_equal_views(masked: FloatMatrix, plain: FloatMatrix) -> None:
    """Refuse a layer whose states are the same with and without masks: its bound would be H(c), and the best of all.

    Args:
        masked: states of masked frames under the mask, shape (n_frames, dim).
        plain: those of the unmasked input.

    Raises:
        MIError: they are the same, and why: the model has collapsed, or the layer lies before the mask site.
    """
    mean, spread = plain.mean(0), float(plain.std(0).max())
    if not np.allclose(masked - mean, plain - mean, rtol=1e-3, atol=1e-3 * spread):
        return
    largest = float(np.abs(plain).max())
    if spread <= 1e-5 * largest:
        raise MIError(
            "its hidden states are the same with and without masks because they hardly vary at all: the model has "
            f"collapsed (standard deviation over frames at most {spread:.1e}, values up to {largest:.1e}). Take an "
            "earlier checkpoint."
        )
    raise MIError(
        "its hidden states are the same with and without masks, so it lies before the mask site and has no two views. "
        "Leave it out with downstream_expert.layers (layers= while training), or mask the waveform: "
        "downstream_expert.views.mask_level: waveform (view=View('mask', 'waveform', 40, 10))."
    )
