"""I(Za;Zb) of a model in memory on held-out audio, in bits: through the same task and records as an experiment."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from ..core.config import MIConfig, ViewConfig
from ..core.errors import MIError
from ..core.types import Bits, FloatMatrix, Seconds
from ..data.utterances import Utterance
from ..estimators.frames import Frames
from ..estimators.mi_supervised import Estimate
from ..experiment.records import Source, build_records, versions
from ..experiment.task import Context, Fitted, GridPoint
from ..experiment.views_task import ViewsTask
from ..results.record import Record
from ..states.layer_weights import LayerWeights
from ..states.split_states import Layer
from ..upstreams.families import Family
from ..upstreams.forward import hidden_states, shortest_samples
from ..upstreams.geometry import resolve
from ..upstreams.loading import Upstream
from ..upstreams.views import PLAIN, View, resolve_views
from .held_out import MAX_SECONDS, Audio, Half, halves
from .live import Forward, encoder_of, live_upstream, untouched, weights_sha256


@dataclass(frozen=True)
class Measured:
    """One measurement of a model: the estimate of each layer asked for, by its number from 0."""

    estimates: dict[int, Estimate]

    @property
    def bits(self) -> dict[int, Bits]:
        """The bound of each layer."""
        return {layer: e.mi_lower_bound_bits for layer, e in self.estimates.items()}


@dataclass(frozen=True, eq=False)
class _HalfStates:
    """Hidden states of one half in memory, by view and layer: for each utterance an array (n_frames, dim)."""

    half: Half
    states: Mapping[View, Mapping[int, list[FloatMatrix]]]
    name = "held-out audio"

    @property
    def utterances(self) -> dict[str, Utterance]:
        return self.half.utterances

    def entries(self, layer: Layer) -> list[_Rows]:
        return [_Rows(list(self.utterances), [len(z) for z in self.states[PLAIN][int(layer)]])]

    def frames(self, layer: Layer, weights: LayerWeights | None, view: View = PLAIN) -> Frames:
        del weights
        return Frames(self.states[view if view.kind == "mask" else PLAIN][int(layer)])

    def refuse_nan(self, layer: int) -> None:
        if not all(np.isfinite(z).all() for of_view in self.states.values() for z in of_view[layer]):
            raise MIError("hidden states hold NaN or infinite values.")


@dataclass(frozen=True)
class _Rows:
    utterances: list[str]
    n_frames: list[int]


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
        max_seconds: refuse more audio than this, in seconds: hidden states of both views are kept in memory.

    Raises:
        MIError: audio that cannot be used.

    Example::

        meter = ViewsMeter(paths, groups=[p.stem.split("-")[0] for p in paths])
        for step, batch in enumerate(batches):
            train(model, batch)
            if step % 500 == 0:
                print(step, meter.measure(model).bits)
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
        max_seconds: Seconds = MAX_SECONDS,
    ) -> None:
        self.fit, self.scored = halves(audio, groups, eval_audio, eval_groups, max_seconds)
        self.layers, self.clusters, self.probe, self.seed = tuple(layers), clusters, probe, seed
        self.view, self.family, self.forward = view, family, forward
        self.encoder, self.normalize, self.protocol = encoder, normalize, protocol

    def measure(self, model: nn.Module) -> Measured:
        """Measure the model as it is now, on the device where it is; it is left exactly as it was.

        Raises:
            MIError: a model of unknown kind, a layer that it lacks, a layer before its mask site, hidden states
                with NaN, or too little audio.
        """
        _, _, found = self._measure(model)
        return Measured({int(point.layer): estimate for point, _, estimate in found})

    def records(self, model: nn.Module, step: int) -> list[Record]:
        """Measure the model; one record per layer, as in `mi_results.jsonl`.

        Args:
            model: what is being trained.
            step: its training step, for the records.
        """
        began = time.time()
        upstream, n_layers, found = self._measure(model)
        seconds = (time.time() - began) / len(found)
        source = Source(
            task="mi_views",
            upstream=replace(upstream, fingerprint=weights_sha256(encoder_of(model, self.encoder))),
            layer_names=[f"hidden_states[{n}]" for n in range(n_layers)],
            step=step,
            series=None,
            fit_splits=["held-out (fit)"],
            eval_splits=["held-out (eval)"],
            label_set=None,
            precision="fp32",
            versions=versions(),
        )
        utterances = {"fit": len(self.fit.waveforms), "eval": len(self.scored.waveforms), "skipped": 0}
        return [
            build_records(source, point, fitted, [estimate], utterances, 0, seconds)[0]
            for point, fitted, estimate in found
        ]

    def _measure(self, model: nn.Module) -> tuple[Upstream, int, list[tuple[GridPoint, Fitted, Estimate]]]:
        """The model as an upstream, the number of its layers, and what was found of each layer asked for."""
        whole, model = model, encoder_of(model, self.encoder)
        upstream = live_upstream(model, self.family, self.forward, self.normalize)
        view = self.view or _view_of(upstream)
        _check_view(upstream, view)
        with untouched(whole):
            shortest = self.fit.waveforms[-1][: 2 * shortest_samples(upstream) + 3200]
            n_layers = len(hidden_states(upstream, [shortest])[0])
            layers = [_number(layer, n_layers) for layer in self.layers]
            fit, scored = (_extract(upstream, half, view, layers) for half in (self.fit, self.scored))
            context = Context(
                config=MIConfig(protocol=self.protocol),  # type: ignore[arg-type]
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
                    for half in (fit, scored):
                        half.refuse_nan(layer)
                    fitted = task.fit(fit, point, [self.probe])
                    (estimate,) = task.score(fitted, scored, point)
                except MIError as error:
                    raise MIError(f"layer {layer}: {error}") from None
                found.append((point, fitted, estimate))
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
    (estimate,) = ViewsMeter(audio, layers=(layer,), **options).measure(model).estimates.values()
    return estimate


def _number(layer: int, count: int) -> int:
    if not -count <= layer < count:
        raise MIError(f"layers: the model has no layer {layer}; it has {count}, 0 to {count - 1}.")
    return layer % count


def _extract(upstream: Upstream, half: Half, view: View, layers: Sequence[int]) -> _HalfStates:
    """Hidden states of a half, one utterance per forward pass; only the layers asked for are kept."""

    def states(of_view: View) -> dict[int, list[FloatMatrix]]:
        kept: dict[int, list[FloatMatrix]] = {layer: [] for layer in layers}
        for waveform in half.waveforms:
            hidden = hidden_states(upstream, [waveform], of_view)[0]
            for layer, arrays in kept.items():
                arrays.append(hidden[layer].cpu().numpy())
        return kept

    return _HalfStates(half, {v: states(v) for v in ((PLAIN, view) if view.kind == "mask" else (PLAIN,))})


def _view_of(upstream: Upstream) -> View:
    """The view for a family, where the user leaves it open: as in an experiment."""
    if upstream.family.view is None:
        raise MIError(
            f"view: not known for {upstream.name} (family {upstream.family.name!r}). Give View('mask', 'waveform', 40, "
            "10) or View('shift', shift_ms=60.0) from s3prl_mi.upstreams.views."
        )
    return resolve_views(ViewConfig(), upstream.name, upstream.family)[0]


def _check_view(upstream: Upstream, view: View) -> None:
    """Refuse, before anything is computed, a mask that the model has no embedding for."""
    if view.kind != "mask" or view.level != "latent":
        return
    family = upstream.family
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
