"""Estimates -> records: the one place where a `Record` is built, for experiments and for models in training."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .. import __version__
from ..core.config import MIConfig, Task
from ..core.types import SAMPLE_RATE, Bits, Seconds
from ..estimators.intervals import of_both_sides
from ..estimators.measures.registry import Measured
from ..estimators.measures.sample import Sample
from ..estimators.mi_supervised import Estimate
from ..results.measures import MeasureRecord
from ..results.record import Record, last_encoder_layer
from ..upstreams.compat import s3prl_distribution
from ..upstreams.loading import Upstream
from .labels import label_set
from .task import Fitted, GridPoint


@dataclass(frozen=True)
class Source:
    """What all records of a run share: the task, the model and the speech."""

    task: Task
    upstream: Upstream
    layer_names: Sequence[str]
    step: int | None
    series: str | None
    fit_splits: Sequence[str]
    eval_splits: Sequence[str]
    precision: str
    config: MIConfig
    versions: Mapping[str, str]


def build_records(
    source: Source,
    point: GridPoint,
    fitted: Fitted,
    estimates: Sequence[Estimate],
    utterances: dict[str, int],
    unlabelled: int,
    seconds: Seconds,
    label_digest: str | None = None,
) -> list[Record]:
    """Records of the estimates of one grid point, which took so many seconds together."""
    upstream, layer, names = source.upstream, point.layer, list(source.layer_names)
    file, sha256 = upstream.checkpoint_name, upstream.checkpoint_sha256 or ""
    weights = fitted.weights.describe() if fitted.weights else ""
    intervals = [e.by_group.left_out().interval() if e.by_group else None for e in estimates]
    of_fit = [e.fit_left_out.interval() if e.fit_left_out else None for e in estimates]
    about_speakers = [_speaker_information(e) if source.task == "mi_views" else None for e in estimates]
    config = source.config
    fit_splits, eval_splits = list(source.fit_splits), list(source.eval_splits)
    if point.labels == "speaker":  # utterances of each on either side
        fit_splits = eval_splits = [*fit_splits, *eval_splits]
    codebook = (config.codebook if config.protocol == "default" else "raw") if source.task == "mi_views" else None
    return [
        Record(
            task=source.task,
            upstream=upstream.name,
            checkpoint={"name": file, "sha256": sha256} if file else None,
            checkpoint_trusted=upstream.trusted,
            upstream_sha256=upstream.fingerprint,
            step=source.step,
            series=source.series,
            layer=layer,
            layer_name=names[layer] if isinstance(layer, int) else weights,
            layers_in_upstream=len(names),
            last_layer=last_encoder_layer(names),
            dim=fitted.probes[0].affine.dim,
            frame_shift_ms=_frame_shift_ms(upstream, layer),
            probe=e.probe,
            protocol=e.protocol,
            view=point.view_text,
            scored_frames=point.scored_frames,
            n_clusters=point.n_clusters,
            codebook=codebook,
            codebook_axes=e.settings.get("codebook_axes"),
            kmeans_iterations=config.kmeans_iterations if codebook else None,
            seed=e.seed,
            fit_splits=fit_splits,
            eval_splits=eval_splits,
            mi_lower_bound_bits=float(e.mi_lower_bound_bits),
            entropy_bits=float(e.entropy_bits),
            cross_entropy_bits=float(e.cross_entropy_bits),
            ci_low_bits=i.low if i else None,
            ci_high_bits=i.high if i else None,
            ci_over=e.by_group.over if e.by_group else None,
            ci_groups=i.groups if i else None,
            fit_ci_low_bits=f.low if f else None,
            fit_ci_high_bits=f.high if f else None,
            fit_ci_over=e.fit_left_out.over if e.fit_left_out else None,
            fit_ci_groups=f.groups if f else None,
            total_ci_low_bits=of_both_sides(i, f).low if i and f else None,
            total_ci_high_bits=of_both_sides(i, f).high if i and f else None,
            prior_cross_entropy_bits=e.prior_cross_entropy_bits,
            speaker_information_bits=shared,
            within_speaker_bits=None if shared is None else float(e.mi_lower_bound_bits) - shared,
            accuracy=float(e.accuracy),
            fit_frames=e.fit_frames,
            eval_frames=e.eval_frames,
            n_classes=e.labels,
            labels=point.labels,
            label_set=label_set(config, point.labels) if point.labels else None,
            label_digest=label_digest,
            unseen_frames=e.unseen_frames,
            unlabelled_frames=unlabelled,
            utterances=utterances,
            probe_settings=e.settings,
            seconds=round(seconds / len(estimates), 3),
            versions=dict(source.versions),
            precision=source.precision,
        )
        for e, i, f, shared in zip(estimates, intervals, of_fit, about_speakers, strict=True)
    ]


def build_measure_records(
    source: Source, point: GridPoint, protocol: str, sample: Sample, found: Sequence[Measured]
) -> list[MeasureRecord]:
    """Records of the measures of one layer."""
    upstream, layer = source.upstream, point.layer

    def record(m: Measured) -> MeasureRecord:
        of_pairs, i = m.measure.needs == "pairs", m.interval
        of_codes = m.measure.needs in ("codebook", "labels") or m.measure.name == "mi_raw"
        of_view = of_pairs or m.measure.needs == "codebook"
        rows = sample.pairs.a if of_pairs and sample.pairs else sample.frames
        frames = len(sample.coded.codes) if m.measure.needs == "labels" and sample.coded else len(rows)
        return MeasureRecord(
            task=source.task,
            upstream=upstream.name,
            upstream_sha256=upstream.fingerprint,
            step=source.step,
            series=source.series,
            layer=layer,
            last_layer=last_encoder_layer(list(source.layer_names)),
            frame_shift_ms=_frame_shift_ms(upstream, layer),
            measure=m.measure.name,
            labels=point.labels,
            value=m.value,
            unit=m.measure.unit,
            better=m.measure.better,
            ci_low=i.low,
            ci_high=i.high,
            ci_over=m.over,
            ci_groups=i.groups or None,
            view=point.view_text if of_view else None,
            scored_frames=point.scored_frames if of_pairs else None,
            n_clusters=sample.n_clusters if of_codes else None,
            protocol=protocol,
            fit_splits=list(source.fit_splits),
            eval_splits=list(source.eval_splits),
            frames=frames,
            seconds=round(m.seconds, 3),
            versions=dict(source.versions),
        )

    return [record(m) for m in found]


def _frame_shift_ms(upstream: Upstream, layer: int | str) -> float:
    return 1000 * upstream.geometry_of(layer if isinstance(layer, int) else 0).stride / SAMPLE_RATE


def _speaker_information(estimate: Estimate) -> Bits | None:
    sums = estimate.by_group
    return sums.group_information_bits() if sums is not None and sums.over == "speakers" else None


def versions() -> dict[str, str]:
    """Versions of what determines a result."""
    names = ("torch", "torchaudio", "transformers", "numpy")
    found = {"s3prl_mi": __version__, "python": platform.python_version(), **dict([s3prl_distribution()])}
    return found | {name: importlib.metadata.version(name) for name in names}
