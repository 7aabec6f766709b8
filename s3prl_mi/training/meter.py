"""I(Za;Zb) of a model in memory on held-out audio, in bits: through the same task and records as an experiment."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from ..core.config import MIConfig, ViewConfig
from ..core.errors import MIError
from ..core.types import FloatMatrix, Seconds
from ..estimators.measures.registry import Measured, chosen, evaluate
from ..estimators.measures.sample import Sample
from ..estimators.mi_supervised import Estimate
from ..estimators.probes import PROTOCOLS
from ..experiment.records import Source, build_measure_records, build_records, versions
from ..experiment.task import Context, Fitted, GridPoint
from ..experiment.views_task import ViewsTask
from ..results.measures import MeasureRecord
from ..results.record import Record
from ..states.entry import Entry, StoredLayer
from ..states.split_states import SplitStates
from ..upstreams.families import Family
from ..upstreams.forward import hidden_states, shortest_samples
from ..upstreams.geometry import resolve
from ..upstreams.loading import Upstream
from ..upstreams.precision import running_in
from ..upstreams.views import PLAIN, View, resolve_views
from .held_out import MAX_SECONDS, Audio, Half, halves
from .live import Forward, encoder_of, live_upstream, untouched, weights_sha256


class _OfLayer(NamedTuple):
    """What was found of one layer; `sample` and `measured` only where measures were asked for."""

    point: GridPoint
    fitted: Fitted
    estimate: Estimate
    sample: Sample | None
    measured: list[Measured]


class ViewsMeter:
    """Measures a model again and again on the same held-out audio, which is read and split once.

    Args:
        audio: held-out utterances: files, or float waveforms of shape (n_samples,) at 16 kHz.
        groups: speaker of each. The halves share no speaker, and choices are made on held-out speakers.
        eval_audio: score these, and fit on all of `audio`; None: the halves of `audio`.
        eval_groups: speaker of each of `eval_audio`.
        layers: numbers into the hidden states (0 = what enters the first Transformer layer; -1 = the last).
        clusters: size of the codebook of view b; the bound cannot exceed log2(clusters).
        probe: `logistic` or `mlp`.
        seed: of k-means and of the MLP.
        view: `View("mask", "latent", 40, 10)`, `View("shift", shift_ms=60.0)`, ...; None: by the model's family.
        family: what is known of the model; None for Hugging Face speech encoders and s3prl's upstreams.
        forward: `(model, waveforms) -> {"hidden_states": [...]}` for any other model; then give `family` too.
        encoder: attribute path of the encoder inside the model that is passed, where it is not plain.
        normalize: Hugging Face only: normalise each waveform; None: by the model's config.
        protocol: `default` or `paper`.
        measures: what else callbacks log, as in the config key: `default`, `all`, `none` or names.
        max_seconds: refuse more audio than this, in seconds: hidden states of both views are kept in memory.

    Raises:
        MIError: audio that cannot be used.

    Example::

        meter = ViewsMeter(paths, groups=[p.stem.split("-")[0] for p in paths])
        for step, batch in enumerate(batches):
            train(model, batch)
            if step % 500 == 0:
                print(step, meter.measure(model)[-1].mi_lower_bound_bits)
    """

    def __init__(
        self,
        audio: Sequence[Audio],
        *,
        groups: Sequence[Hashable] | None = None,
        eval_audio: Sequence[Audio] | None = None,
        eval_groups: Sequence[Hashable] | None = None,
        layers: Sequence[int] = (-1,),
        clusters: int = 50,
        probe: str = "logistic",
        seed: int = 0,
        view: View | None = None,
        family: Family | None = None,
        forward: Forward | None = None,
        encoder: str | None = None,
        normalize: bool | None = None,
        protocol: str = "default",
        measures: Sequence[str] = ("default",),
        max_seconds: Seconds = MAX_SECONDS,
    ) -> None:
        self.fit, self.scored = halves(audio, groups, eval_audio, eval_groups, max_seconds)
        self.layers, self.clusters, self.probe, self.seed = tuple(layers), clusters, probe, seed
        self.view, self.family, self.forward = view, family, forward
        self.encoder, self.normalize = encoder, normalize
        wanted = chosen([measures] if isinstance(measures, str) else measures, "mi_views")
        self.measures = [m for m in wanted if m.needs != "audio"]
        self.config = MIConfig(protocol=protocol)  # type: ignore[arg-type]

    def measure(self, model: nn.Module) -> list[Estimate]:
        """Measure each layer of the model as it is now, on the device where it is; it is left exactly as it was.

        Raises:
            MIError: a model of unknown kind, a layer that it lacks, a layer before its mask site, hidden states
                with NaN, or too little audio.
        """
        _, _, found = self._measure(model, with_measures=False)
        return [f.estimate for f in found]

    def records(self, model: nn.Module, step: int) -> tuple[list[Record], list[MeasureRecord]]:
        """Measure the model; one record per layer, and one of each of `measures`, as an experiment writes them.

        Args:
            model: what is being trained.
            step: its training step, for the records.
        """
        began = time.time()
        upstream, n_layers, found = self._measure(model, with_measures=True)
        seconds = (time.time() - began) / len(found)
        source = Source(
            task="mi_views",
            upstream=replace(upstream, fingerprint=weights_sha256(encoder_of(model, self.encoder))),
            layer_names=[f"hidden_states[{n}]" for n in range(n_layers)],
            step=step,
            series=None,
            fit_splits=["held-out (fit)"],
            eval_splits=["held-out (eval)"],
            precision="fp32",
            config=self.config,
            versions=versions(),
        )
        utterances = {"fit": len(self.fit.waveforms), "eval": len(self.scored.waveforms), "skipped": 0}
        records = [build_records(source, f.point, f.fitted, [f.estimate], utterances, 0, seconds)[0] for f in found]
        protocol = PROTOCOLS[self.config.protocol]
        measured = [
            record
            for f in found
            if f.sample is not None
            for record in build_measure_records(source, f.point, protocol, f.sample, f.measured)
        ]
        return records, measured

    def _measure(self, model: nn.Module, with_measures: bool) -> tuple[Upstream, int, list[_OfLayer]]:
        """The model as an upstream, the number of its layers, and what was found of each layer asked for."""
        whole, model = model, encoder_of(model, self.encoder)
        upstream = live_upstream(model, self.family, self.forward, self.normalize)
        view = _view_of(upstream, self.view)
        with untouched(whole):
            shortest = self.fit.waveforms[-1][: 2 * shortest_samples(upstream) + 3200]
            n_layers = len(hidden_states(upstream, [shortest])[0])
            beyond = [layer for layer in self.layers if not -n_layers <= layer < n_layers]
            if beyond:
                raise MIError(f"layers: the model has no layer {beyond[0]}; it has {n_layers}, 0 to {n_layers - 1}.")
            layers = [layer % n_layers for layer in self.layers]
            fit, scored = (_extract(upstream, half, view, layers) for half in (self.fit, self.scored))
            context = Context(
                config=self.config,
                upstream=upstream,
                n_layers=n_layers,
                views=(view,),
                seeds=(self.seed,),
                normalize=False,
                # float64, which some of the arithmetic needs, is missing on Apple's GPUs
                device=upstream.device if upstream.device.startswith("cuda") else "cpu",
            )
            task, found = ViewsTask(context), []
            for layer in layers:
                point = GridPoint(layer, view, "masked" if view.kind == "mask" else "all", self.clusters)
                try:
                    fitted = task.fit(fit, point, [self.probe])
                    (estimate,) = task.score(fitted, scored, point)
                    sample = task.sample(fitted, fit, scored, point) if with_measures and self.measures else None
                    measured = list(evaluate(self.measures, sample)) if sample is not None else []
                except MIError as error:
                    raise MIError(f"layer {layer}: {error}") from None
                found.append(_OfLayer(point, fitted, estimate, sample, measured))
        return upstream, n_layers, found


def measure_views(model: nn.Module, audio: Sequence[Audio], *, layer: int = -1, **options: Any) -> Estimate:
    """Lower bound of I(Za;Zb) in bits of a model in memory, on held-out audio.

    The model may be in the midst of training: it is used in eval mode without gradients on the device where it
    is, and put back exactly as it was, random states included, so that training continues bit by bit.

    Args:
        model: a Hugging Face speech encoder (with or without a head), an s3prl upstream, a module that holds one
            of them, or anything with `family` and `forward`.
        audio: held-out utterances: files, or float waveforms of shape (n_samples,) at 16 kHz. Half of it, by
            speaker, is fitted on, and half is scored.
        layer: number into the hidden states; -1 is the last.
        **options: of `ViewsMeter`: groups, clusters, probe, seed, view, family, ...

    Returns:
        The estimate; `mi_lower_bound_bits` is never clipped.

    Raises:
        MIError: what cannot be measured, and why.

    Source:
        Liu, Yeh and Glass (ICASSP 2024), eq. 8.
    """
    return ViewsMeter(audio, layers=(layer,), **options).measure(model)[0]


def _extract(upstream: Upstream, half: Half, view: View, layers: Sequence[int]) -> SplitStates:
    """Hidden states of a half in memory, one utterance per forward pass; only the layers asked for are kept."""
    split, nothing = half.split, np.zeros(0, np.float32)

    def entries(of_view: View) -> Iterator[Entry]:
        kept: dict[int, list[FloatMatrix]] = {layer: [] for layer in layers}
        for waveform in half.waveforms:
            with running_in(upstream, "fp32"):
                hidden = hidden_states(upstream, [waveform], of_view)[0]
            for layer, arrays in kept.items():
                arrays.append(hidden[layer].cpu().numpy())
        for layer in list(kept):
            counts = [len(z) for z in kept[layer]]
            frames = np.concatenate(kept.pop(layer), dtype=np.float32)
            if not np.isfinite(frames).all():
                raise MIError(f"layer {layer}: hidden states hold NaN or infinite values.")
            stored = {layer: StoredLayer(frames, nothing, nothing)}
            ids, dims = [u.id for u in split.utterances], [frames.shape[1]]
            yield Entry(Path(), ids, counts, [layer], dims, "float32", [], in_memory=stored)

    views = (PLAIN, view) if view.kind == "mask" else (PLAIN,)
    return SplitStates([split], {v: [list(entries(v))] for v in views})


def _view_of(upstream: Upstream, asked: View | None) -> View:
    """The view: what is asked for, or as in an experiment; refused where the model has no embedding for its masks."""
    family = upstream.family
    if asked is None and family.view is None:
        raise MIError(
            f"view: not known for {upstream.name} (family {family.name!r}). Give View('mask', 'waveform', 40, "
            "10) or View('shift', shift_ms=60.0) from s3prl_mi.upstreams.views."
        )
    view = asked or resolve_views(ViewConfig(), upstream.name, family)[0]
    if view.kind != "mask" or view.level != "latent":
        return view
    if not family.can_mask_latents:
        raise MIError(
            f"view: {upstream.name} (family {family.name!r}) has no known mask site for {view.describe()}. Use "
            "View('mask', 'waveform', 40, 10) or View('shift', shift_ms=60.0)."
        )
    if family.mask_embedding == "model.masked_spec_embed" and resolve(upstream.expert, family.mask_embedding) is None:
        raise MIError(
            f"view: {upstream.name} has no mask embedding, as its config has mask_time_prob 0: set it above 0, or "
            "use View('mask', 'waveform', 40, 10)."
        )
    return view
