"""I(Za;Zb) of a model in memory on held-out audio, in bits."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from ..core.errors import MIError
from ..core.types import SAMPLE_RATE, Bits, FloatMatrix, IntVector, Seconds
from ..estimators.frames import Frames
from ..estimators.mi_supervised import Estimate
from ..estimators.mi_views import fit_codebooks_of_view, fit_views, score_views
from ..estimators.probes import ProbeSpec
from ..experiment.run import versions
from ..results.record import Record
from ..upstreams.families import Family
from ..upstreams.forward import hidden_states, shortest_samples
from ..upstreams.geometry import resolve
from ..upstreams.loading import Upstream
from ..upstreams.views import PLAIN, View, shift_frames, shifted_rows
from .held_out import MAX_SECONDS, Audio, Half, halves
from .live import Forward, encoder_of, live_upstream, untouched, weights_sha256

MASK = View("mask", "latent", 40, 10)
"""The last 30 of every 40 frames, by the model's own mask embedding, as in the paper."""
SHIFT = View("shift", shift_ms=60.0)


@dataclass(frozen=True)
class Measured:
    """One measurement of a model: an estimate for each layer asked for, and what records say of it.

    The layers' numbers from 0 are the keys of `estimates`, `dims` and `frame_shifts_ms`; `seconds` is the time of
    the whole measurement.
    """

    estimates: dict[int, Estimate]
    dims: dict[int, int]
    frame_shifts_ms: dict[int, float]
    layers_in_upstream: int
    upstream: Upstream
    view: View
    seconds: Seconds

    @property
    def bits(self) -> dict[int, Bits]:
        """The bound of each layer."""
        return {layer: e.mi_lower_bound_bits for layer, e in self.estimates.items()}


@dataclass(frozen=True, eq=False)
class _Side:
    """Hidden states of one half: for each layer, each utterance's frames of view a and of view b."""

    half: Half
    a: list[list[FloatMatrix]]
    b: list[list[FloatMatrix]]

    def frames(
        self, view: View, stride: int, factor: int, at: int
    ) -> tuple[Frames, Frames, Frames, IntVector]:
        """Scored frames of view a, their partners of view b, all frames of view b, groups of the pairs.

        `stride` is of the layer at position `at`, in samples; its frame j stands where frame j * factor stands at
        the rate at which masks are put.
        """
        counts = [len(z) for z in self.b[at]]
        starts = np.cumsum([0, *counts[:-1]])
        if view.kind == "shift":
            shift = shift_frames(view.shift_ms or 0.0, stride)
            pairs = [shifted_rows(n, shift) for n in counts]
        else:
            pairs = [(rows, rows) for rows in (_masked_rows(view, n, factor) for n in counts)]
        rows_a, rows_b = (
            np.concatenate([s + p[i] for s, p in zip(starts, pairs, strict=True)]) for i in (0, 1)
        )
        if not len(rows_a):
            raise MIError(
                f"held-out audio: no frame to score; utterances are too short for {view.describe()}."
            )
        groups = self.half.group_of_frames(counts)[rows_a]
        return Frames(self.a[at], rows_a), Frames(self.b[at], rows_b), Frames(self.b[at]), groups


def _masked_rows(view: View, n_frames: int, factor: int) -> IntVector:
    return np.flatnonzero(view.pattern(n_frames * factor)[::factor])


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
        began = time.time()
        whole, model = model, encoder_of(model, self.encoder)
        upstream = live_upstream(model, self.family, self.forward, self.normalize)
        view = self.view or _view_of(upstream)
        _check_view(upstream, view)
        with untouched(whole):
            probe = hidden_states(
                upstream, [self.fit.waveforms[-1][: 2 * shortest_samples(upstream) + 3200]]
            )[0]
            layers = [self._number(layer, len(probe)) for layer in self.layers]
            fit, scored = (self._extract(upstream, half, view, layers) for half in (self.fit, self.scored))
            estimates = {n: self._estimate(upstream, fit, scored, view, n, i) for i, n in enumerate(layers)}
        dims = {n: probe[n].shape[1] for n in layers}
        shifts = {n: _frame_shift_ms(upstream, n) for n in layers}
        return Measured(estimates, dims, shifts, len(probe), upstream, view, round(time.time() - began, 3))

    def records(self, model: nn.Module, step: int) -> list[Record]:
        """Measure the model; one record a layer, as in `mi_results.jsonl`.

        Args:
            model: what is being trained.
            step: its training step, for the records.
        """
        m = self.measure(model)
        encoder = encoder_of(model, self.encoder)
        sha256, made_with = weights_sha256(encoder), versions()
        return [
            Record(
                task="mi_views",
                upstream=m.upstream.name,
                checkpoint=None,
                upstream_sha256=sha256,
                step=step,
                series=None,
                layer=layer,
                layer_name=f"hidden_states[{layer}]",
                layers_in_upstream=m.layers_in_upstream,
                last_layer=m.layers_in_upstream - 1,
                dim=m.dims[layer],
                frame_shift_ms=m.frame_shifts_ms[layer],
                probe=e.probe,
                protocol=e.protocol,
                view=m.view.describe(),
                scored_frames="masked" if m.view.kind == "mask" else "all",
                n_clusters=self.clusters,
                seed=e.seed,
                fit_splits=["held-out (fit)"],
                eval_splits=["held-out (eval)"],
                mi_lower_bound_bits=float(e.mi_lower_bound_bits),
                entropy_bits=float(e.entropy_bits),
                cross_entropy_bits=float(e.cross_entropy_bits),
                accuracy=float(e.accuracy),
                fit_frames=e.fit_frames,
                eval_frames=e.eval_frames,
                n_classes=e.labels,
                label_set=None,
                unseen_frames=e.unseen_frames,
                unlabelled_frames=0,
                utterances={
                    "fit": len(self.fit.waveforms),
                    "eval": len(self.scored.waveforms),
                    "skipped": 0,
                },
                probe_settings=e.settings,
                seconds=round(m.seconds / len(m.estimates), 3),
                versions=made_with,
            )
            for layer, e in m.estimates.items()
        ]

    @staticmethod
    def _number(layer: int, count: int) -> int:
        if not -count <= layer < count:
            raise MIError(f"layers: the model has no layer {layer}; it has {count}, 0 to {count - 1}.")
        return layer % count

    @staticmethod
    def _extract(upstream: Upstream, half: Half, view: View, layers: Sequence[int]) -> _Side:
        """Hidden states of a half, one utterance a forward pass; only the layers asked for are kept."""

        def states(which: View) -> list[list[FloatMatrix]]:
            kept: list[list[FloatMatrix]] = [[] for _ in layers]
            for waveform in half.waveforms:
                hidden = hidden_states(upstream, [waveform], which)[0]
                for into, layer in zip(kept, layers, strict=True):
                    into.append(hidden[layer].cpu().numpy())
            return kept

        plain = states(PLAIN)
        return _Side(half, states(view) if view.kind == "mask" else plain, plain)

    def _estimate(
        self, upstream: Upstream, fit: _Side, scored: _Side, view: View, layer: int, at: int
    ) -> Estimate:
        """The estimate of one layer; `at` is its position in `layers`."""
        for side in (fit, scored):
            if not all(np.isfinite(z).all() for z in side.a[at] + side.b[at]):
                raise MIError(f"layer {layer}: hidden states hold NaN or infinite values.")
        stride = upstream.geometry_of(layer).stride
        rates = (stride, stride // upstream.stride)
        a, b, everything, groups = fit.frames(view, *rates, at)
        if view.kind == "mask":
            _refuse_unmasked(a, b, layer)
        # float64, which some of the arithmetic needs, is missing on Apple's GPUs
        device = upstream.device if upstream.device.startswith("cuda") else "cpu"
        books = fit_codebooks_of_view(everything, self.clusters, [self.seed], device=device)
        spec = ProbeSpec((self.probe,), self.protocol, (self.seed,), device)
        probes = fit_views(a, b, books, groups, spec)
        eval_a, eval_b, _, _ = scored.frames(view, *rates, at)
        return score_views(probes, books, eval_a, eval_b, spec, len(a))[0][0]


def _refuse_unmasked(a: Frames, b: Frames, layer: int) -> None:
    """Refuse a layer before the mask site, whose bound is only H(c); a collapsed model is none."""
    some = min(len(a), 2000)
    masked, plain = a.read(0, some), b.read(0, some)
    spread = float(plain.std(0).max())
    collapsed = spread <= 1e-5 * float(np.abs(plain).max())
    if not collapsed and float(np.abs(masked - plain).max()) <= 1e-3 * spread:
        raise MIError(
            f"layer {layer}: its hidden states are the same with and without masks, so it lies before the mask site. "
            "Leave it out, or use view=View('mask', 'waveform', 40, 10)."
        )


def measure_views(
    model: nn.Module, audio: Sequence[Audio], *, layer: int = -1, clusters: int = 50, probe: str = "logistic",
    seed: int = 0, groups: Sequence[Hashable] | None = None, view: View | None = None,
    family: Family | None = None, **more: Any,
) -> Estimate:  # fmt: skip
    """Lower bound of I(Za;Zb) in bits of a model in memory, on held-out audio.

    The model may be in the midst of training: it is used in eval mode without gradients on the device where it
    is, and put back exactly as it was, random states included, so that training goes on bit by bit.

    Args:
        model: a Hugging Face speech encoder (with or without a head), an s3prl upstream, a module that holds one
            of them, or anything with `family` and `forward`.
        audio: held-out utterances: files, or float waveforms of shape (n_samples,) at 16 kHz. Half of it, by
            speaker, is fitted on, and half is scored.
        layer: number into the hidden states; -1 is the last.
        clusters: size of the codebook; the bound cannot exceed log2(clusters).
        probe: `logistic` or `mlp`.
        seed: of k-means and of the MLP.
        groups: speaker of each utterance.
        view: None: masks for masked models, a shift of 60 ms for autoregressive ones.
        family: what is known of the model.
        **more: of `ViewsMeter`: eval_audio, eval_groups, forward, encoder, normalize, protocol, max_seconds.

    Returns:
        The estimate; `mi_lower_bound_bits` is never clipped.

    Raises:
        MIError: what cannot be measured, and why.

    Source:
        Liu, Yeh and Glass (ICASSP 2024), eq. 8.
    """
    meter = ViewsMeter(
        audio, groups=groups, layers=(layer,), clusters=clusters, probe=probe, seed=seed, view=view, family=family,
        **more,
    )  # fmt: skip
    (estimate,) = meter.measure(model).estimates.values()
    return estimate


def _frame_shift_ms(upstream: Upstream, layer: int) -> float:
    return 1000 * upstream.geometry_of(layer).stride / SAMPLE_RATE


def _view_of(upstream: Upstream) -> View:
    """The view for a family, where the user leaves it open."""
    family = upstream.family
    if family.view == "shift":
        return SHIFT
    if family.view == "mask" and family.can_mask_latents:
        return MASK
    raise MIError(
        f"view: not known for {upstream.name} (family {family.name!r}). Give View('mask', 'waveform', 40, 10) or "
        "View('shift', shift_ms=60.0) from s3prl_mi.upstreams.views."
    )


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
    if (
        family.mask_embedding == "model.masked_spec_embed"
        and resolve(upstream.expert, family.mask_embedding) is None
    ):
        raise MIError(
            f"view: {upstream.name} has no mask embedding, as its config has mask_time_prob 0: set it above 0, or "
            "use View('mask', 'waveform', 40, 10)."
        )
