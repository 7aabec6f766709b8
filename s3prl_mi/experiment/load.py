"""A run's specification -> what is needed to measure: the upstream, its precision, the plan, the data."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ..core.distributed import first_on_each_machine, from_main, is_main, together
from ..core.errors import MIError
from ..core.files import expanded
from ..core.types import SAMPLE_RATE
from ..data.splits import Split, read_split
from ..estimators.measures.registry import chosen
from ..estimators.refits import MOST_GROUPS
from ..states.extraction import dims_of
from ..states.provider import HiddenStateProvider
from ..states.split_states import Layer
from ..states.store import Store, default_root
from ..upstreams.forward import entries_beyond_s3prl, layer_names
from ..upstreams.loading import Upstream, load_upstream
from ..upstreams.precision import Precision, choose
from ..upstreams.views import PLAIN
from .folder import ExperimentFolder
from .plan import Plan, make_plan
from .records import Source, versions
from .runtime_estimate import describe_runtime
from .spec import RunSpec
from .supervised_task import SupervisedTask
from .task import Context, MITask
from .views_task import ViewsTask

logger = logging.getLogger(__name__)

TASK_CLASSES: dict[str, type[MITask]] = {"mi_supervised": SupervisedTask, "mi_views": ViewsTask}


@dataclass(frozen=True)
class Experiment:
    """An upstream that is loaded, and what is measured of it."""

    spec: RunSpec
    upstream: Upstream
    layer_names: tuple[str, ...]
    plan: Plan
    precision: Precision
    folder: ExperimentFolder
    started: str

    @property
    def n_weighted(self) -> int:
        """Layers that s3prl's featurizer weighs."""
        return len(self.layer_names) - entries_beyond_s3prl(self.upstream)

    def new_task(self) -> MITask:
        """The task; it keeps labels and codebooks of the states that it has seen, so take one per group of layers."""
        spec = self.spec
        return TASK_CLASSES[spec.task](
            Context(
                config=spec.config,
                upstream=self.upstream,
                n_layers=self.n_weighted,
                views=self.plan.views,
                seeds=self.plan.seeds,
                normalize=spec.upstream.normalize,
                device=spec.device,
            )
        )

    def source(self, eval_splits: Sequence[str]) -> Source:
        """What all its records share."""
        spec, data = self.spec, self.spec.config.datarc
        return Source(
            task=spec.task,
            upstream=self.upstream,
            layer_names=self.layer_names,
            step=self.upstream.step if spec.upstream.step is None else spec.upstream.step,
            series=spec.upstream.series,
            fit_splits=data.fit_splits,
            eval_splits=eval_splits,
            precision=self.precision,
            config=spec.config,
            versions={**versions(), "started": self.started},
        )


def load(spec: RunSpec) -> Experiment:
    """Load the upstream and work out what will be measured.

    Raises:
        MIError: an upstream that cannot be loaded, or what is asked for does not fit it.
    """
    chosen(spec.config.measures, spec.task)  # refuses unknown names before anything is loaded
    asked, started = spec.upstream, time.strftime("%Y-%m-%d %H:%M:%S")
    upstream = first_on_each_machine(
        lambda: load_upstream(
            asked.name,
            ckpt=asked.ckpt,
            model_config=asked.model_config,
            refresh=asked.refresh,
            device=spec.device,
            feature_selection=asked.feature_selection,
            trusted=asked.trusted,
        )
    )
    names = tuple(layer_names(upstream))
    plan = make_plan(spec, upstream, names)
    folder = ExperimentFolder(spec.folder)
    precision = from_main(lambda: _precision(spec, upstream, plan, folder))
    return Experiment(spec, upstream, names, plan, precision, folder, started)


def _precision(spec: RunSpec, upstream: Upstream, plan: Plan, folder: ExperimentFolder) -> Precision:
    """What is asked for; left open, it is that of the experiment that is continued or evaluated."""
    asked = spec.config.precision
    if spec.resume or spec.evaluate_split is not None:
        before: Precision | None = folder.read_settings().get("precision")
        # whatever views are added: `mixed` means float32 for those without masks
        if before is not None and asked in ("auto", before):
            return before
    return choose(asked, upstream, any(v.kind == "mask" and v.level == "latent" for v in plan.views))


def read_splits(experiment: Experiment, names: Sequence[str]) -> list[Split]:
    """List splits and read the headers of their files."""
    with together():
        splits = [read_split(experiment.spec.config.datarc, name) for name in names]
    for split in splits:
        logger.info(split.describe())
        for note in split.notes():
            logger.warning("%s: %s", split.name, note)
    return splits


def provide_states(experiment: Experiment, *sides: list[Split]) -> HiddenStateProvider:
    """Choose how hidden states are kept: of the unmasked input, and of each mask view.

    Raises:
        MIError: a weighted sum of layers of several widths or frame rates; states that fit nowhere.
    """
    upstream, plan, config = experiment.upstream, experiment.plan, experiment.spec.config
    dims = dims_of(upstream)
    weighted = plan.layers == ("weighted",)
    if weighted:
        _refuse_different_layers(upstream, dims[: experiment.n_weighted])
    root = (
        expanded(config.store.root, "config key downstream_expert.store.root") if config.store.root else default_root()
    )
    states = HiddenStateProvider(
        upstream,
        dims,
        tuple(range(experiment.n_weighted)) if weighted else tuple(n for n in plan.layers if isinstance(n, int)),
        not weighted,
        [PLAIN, *(v for v in plan.views if v.kind == "mask")],
        config.store,
        Store(root, int(min(config.store.max_gb, 1e9) * 1e9)),
        config.batch_size,
        sides,
        experiment.precision,
    )
    if is_main() and experiment.spec.evaluate_split is None:
        fit_seconds = sum(split.seconds for split in sides[0])
        speakers = {u.speaker or u.id for split in sides[0] for u in split.utterances}
        refits = min(MOST_GROUPS, len(speakers)) if config.fit_ci else 0
        logger.info(describe_runtime(plan, states, fit_seconds, experiment.spec.device, refits))
    return states


def is_of(layer: Layer, layers: Sequence[int]) -> bool:
    """Whether a layer is measured on the hidden states of some layers; `weighted` comes with all of them."""
    return layer == "weighted" or layer in layers


def _refuse_different_layers(upstream: Upstream, dims: Sequence[int]) -> None:
    shifts = {1000 * upstream.geometry_of(n).stride / SAMPLE_RATE for n in range(len(dims))}
    if len(set(dims)) > 1 or len(shifts) > 1:
        what, found = ("dimension", sorted(set(dims))) if len(set(dims)) > 1 else ("frame shift", sorted(shifts))
        raise MIError(f"layers: weighted needs layers of one {what}, but {upstream.name} has {found}.")
