"""One experiment from audio to report: what `-d mi_supervised` and `-d mi_views` do.

`run` is called by both doors: by our `run_downstream.py`, and by s3prl's own runner through
`downstream/*/expert.py`. Data flows one way: splits -> hidden states in the store -> for each layer: probes fitted on
the fit splits, scored on the eval splits -> records -> tables and pictures.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .. import __version__
from ..core.config import MIConfig, as_dict, load, overlap, seed_list
from ..core.distributed import first_on_each_machine, from_main, is_main, session, together, world
from ..core.errors import MIError
from ..core.files import replacing, write_whole
from ..core.types import SAMPLE_RATE
from ..core.words import duration
from ..data.splits import Split, read_split
from ..estimators.mi_supervised import Estimate
from ..estimators.probes import PROTOCOLS
from ..report.experiment_files import write_all
from ..report.terminal import screen_table
from ..results.class_contributions import CLASSES_FILE, ClassRecord, append_classes, class_records
from ..results.record import RESULTS_FILE, Record, append_records, last_encoder_layer, read_records
from ..states.provider import HiddenStateProvider
from ..states.split_states import Layer, SplitStates
from ..states.store import Store, default_root
from ..upstreams.forward import entries_beyond_s3prl, hidden_states, layer_names
from ..upstreams.loading import load_upstream
from ..upstreams.precision import Precision, choose, running_in
from ..upstreams.views import PLAIN
from .plan import Identity, make_plan
from .runtime_estimate import estimation_seconds, extraction_speed
from .saved_probes import load_fitted, save_fitted
from .task import TASKS, Context, Fitted, GridPoint, MITask

logger = logging.getLogger(__name__)

SETTINGS_FILE = "mi_settings.json"
KEPT = "hidden_states"
"""Key of the settings under which stands how hidden states were kept, and why."""

STORE_OPTIONS = {"max_gb": "max_store_gb", "mode": "store_mode"}
"""Config key below `store` -> option of the command line."""

STATES_FILE = "states-1.ckpt"


def run(args: argparse.Namespace, config: dict[str, Any]) -> None:
    """Run one command of `-d mi_supervised` or `-d mi_views`; many processes run it together.

    Args:
        args: s3prl's arguments.
        config: the whole config, as s3prl read it.

    Raises:
        MIError: whatever the user can mend.
    """
    settings = load(_with_options(config.get("downstream_expert"), args), args.downstream)
    # our command line has begun one already; s3prl's own runner has not
    with session():
        experiment = Experiment(args, settings)
        if args.mode == "evaluate":
            experiment.evaluate(args.evaluate_split)
            return
        experiment.train()
        if is_main():
            _save_states(Path(args.expdir), args, config)


def _save_states(expdir: Path, args: argparse.Namespace, config: dict[str, Any]) -> None:
    """Leave what s3prl's runner leaves, so that -a, -e and -m evaluate find a finished experiment."""
    states = {"Step": 1, "Epoch": 0, "Args": args, "Config": config, "Optimizer": {}, "Downstream": {}}
    with replacing(expdir / STATES_FILE) as temporary:
        torch.save(states, temporary)


@dataclass(frozen=True)
class _About:
    """What the records of one cell say beside the estimates."""

    cell: GridPoint
    fitted: Fitted
    utterances: dict[str, int]
    unlabelled: int
    began: float
    eval_splits: Sequence[str]


class Experiment:
    """An upstream, its data and settings, and the folder where results go."""

    def __init__(self, args: argparse.Namespace, config: MIConfig) -> None:
        self.args, self.config = args, config
        self.task = args.downstream
        self.expdir = Path(args.expdir)
        self.device = str(args.device)
        self.started = time.strftime("%Y-%m-%d %H:%M:%S")
        self.upstream = first_on_each_machine(
            lambda: load_upstream(
                args.upstream,
                ckpt=args.upstream_ckpt,
                model_config=args.upstream_model_config,
                refresh=args.upstream_refresh,
                device=self.device,
                feature_selection=args.upstream_feature_selection,
            )
        )
        # a study may know the step of a checkpoint that does not tell it
        asked = getattr(args, "checkpoint_step", None)
        self.step = self.upstream.step if asked is None else asked
        self.layer_names = layer_names(self.upstream)
        self.plan = make_plan(
            self.task,
            config,
            self.upstream,
            self.layer_names,
            seed_list(config.seeds, args.seed),
            args.upstream_layer_selection,
        )
        self.precision: Precision = from_main(self._precision)
        root = Path(config.store.root).expanduser() if config.store.root else default_root()
        self.store = Store(root, int(min(config.store.max_gb, 1e9) * 1e9))
        self.context = Context(
            config=config,
            upstream=self.upstream.name,
            n_layers=self._n_weighted,
            geometry_of=self.upstream.geometry_of,
            views=self.plan.views,
            seeds=self.plan.seeds,
            normalize=bool(args.upstream_feature_normalize),
            device=self.device,
        )

    # --- what is asked for ------------------------------------------------------------------------------

    def _precision(self) -> Precision:
        """What is asked for; left open, it is what the experiment that is gone on with was begun in."""
        asked = self.config.precision
        goes_on = self.args.mode == "evaluate" or self.args.auto_resume or self.args.past_exp
        if goes_on and self._settings.exists():
            begun: Precision = self._read_settings()["precision"]
            # whatever views are added: `mixed` means float32 for those without masks
            if asked in ("auto", begun):
                return begun
        masked = any(v.kind == "mask" and v.level == "latent" for v in self.plan.views)
        return choose(asked, self.upstream, masked)

    @property
    def _n_weighted(self) -> int:
        """Layers that s3prl's featurizer weighs."""
        return len(self.layer_names) - entries_beyond_s3prl(self.upstream)

    def _determinants(self) -> dict[str, Any]:
        """Settings that every record of this experiment shares."""
        config = as_dict(self.config)
        for free in ("layers", "seeds", "probes", "frames", "views", "clusters", "store", "batch_size"):
            del config[free]
        config["datarc"]["alignments"].pop("path")
        for place in ("libri_root", "manifest"):
            config["datarc"].pop(place)
        if self.task == "mi_supervised":
            del config["kmeans_iterations"]
        else:
            del config["datarc"]["alignments"]
        return {
            "task": self.task,
            "upstream": self.upstream.name,
            "upstream_sha256": self.upstream.fingerprint,
            "feature_normalize": bool(self.args.upstream_feature_normalize),
            "protocol_version": PROTOCOLS[self.config.protocol],
            **{k: json.loads(json.dumps(v)) for k, v in config.items()},
            "precision": self.precision,
        }

    # --- data -------------------------------------------------------------------------------------------

    def _read(self, names: Sequence[str]) -> list[Split]:
        with together():
            splits = [read_split(self.config.datarc, name) for name in names]
        for split in splits:
            logger.info(split.describe())
            for note in split.checked.notes():
                logger.warning("%s: %s", split.name, note)
        return splits

    def _warn_of_shared_speakers(self, fit: Sequence[Split], scored: Sequence[Split]) -> None:
        shared = set().union(*(s.speakers for s in fit)) & set().union(*(s.speakers for s in scored))
        if shared:
            logger.warning(
                "%d speakers occur in both fit and eval splits (%s ...): the bound then holds for heard speakers only.",
                len(shared),
                ", ".join(sorted(shared)[:3]),
            )

    @staticmethod
    def _say_what_is_held_out(fit: Sequence[Split]) -> None:
        speakers = set().union(*(s.speakers for s in fit))
        if len(speakers) < 2:
            logger.warning(
                "fewer than two speakers are known in the fit splits: regularisation is chosen on held-out utterances, "
                "and may be too weak for new speakers."
            )

    def _keep(self, *sides: list[Split]) -> HiddenStateProvider:
        """How hidden states are kept: of the unmasked input, and of each mask view."""
        noise = torch.randn(SAMPLE_RATE, generator=torch.Generator().manual_seed(0))
        dims = [h.shape[1] for h in hidden_states(self.upstream, [noise])[0]]
        weighted = self.plan.layers == ("weighted",)
        if weighted:
            self._refuse_mixed_layers(dims[: self._n_weighted])
        states = HiddenStateProvider(
            self.upstream,
            dims,
            range(self._n_weighted) if weighted else [n for n in self.plan.layers if isinstance(n, int)],
            not weighted,
            [PLAIN, *(v for v in self.plan.views if v.kind == "mask")],
            self.config.store,
            self.store,
            self.config.batch_size,
            sides,
            self.precision,
        )
        if is_main():
            self._say_how_long(states)
        return states

    def _say_how_long(self, states: HiddenStateProvider) -> None:
        """Say roughly how long extraction and estimation will take."""
        if self.args.mode != "train":
            return
        audio, dims = states.missing_seconds, states.dims
        with running_in(self.upstream, self.precision):
            extraction = audio / extraction_speed(self.upstream) if audio else 0.0
        frames = self._fit_seconds * SAMPLE_RATE / self.upstream.stride / world().size
        of_layers = [dims[n] if isinstance(n, int) else dims[0] for n in self.plan.layers]
        estimation = estimation_seconds(self.plan, of_layers, frames, self.device)
        logger.info(
            "about %s: %s of forward passes (%s), %s of probes",
            duration(extraction + estimation),
            duration(extraction),
            self.precision,
            duration(estimation),
        )

    def _refuse_mixed_layers(self, dims: Sequence[int]) -> None:
        rates = {1000 * self.upstream.geometry_of(n).stride / SAMPLE_RATE for n in range(len(dims))}
        if len(set(dims)) > 1 or len(rates) > 1:
            what, found = (
                ("dimension", sorted(set(dims))) if len(set(dims)) > 1 else ("frame shift", sorted(rates))
            )
            raise MIError(
                f"layers: weighted needs layers of one {what}, but {self.upstream.name} has {found}."
            )

    # --- train ------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Fit on the fit splits, score on the eval splits, write and show the results."""
        self.expdir.mkdir(parents=True, exist_ok=True)
        data = self.config.datarc
        fit_splits, eval_splits = self._read(data.fit_splits), self._read(data.eval_splits)
        finished = from_main(lambda: {r.identity() for r in self._begin([*fit_splits, *eval_splits])})
        self._fit_seconds = sum(s.seconds for s in fit_splits)
        self._warn_of_shared_speakers(fit_splits, eval_splits)
        wanted = self.plan.wanted
        missing = [w for w in wanted if w not in finished]
        logger.info(
            self.plan.describe() + (f", {len(wanted) - len(missing)} of them done" if finished else "")
        )
        if missing:
            self._say_what_is_held_out(fit_splits)
            TASKS[self.task](self.context).check([*fit_splits, *eval_splits], self.plan.layers)
            states = self._keep(fit_splits, eval_splits)
            if is_main():
                self._write_settings({**json.loads(self._settings.read_text()), KEPT: states.about()})
            done = len(wanted) - len(missing)
            for layers, (fit, scored) in states.groups({w[0] for w in missing}):
                # a task keeps labels and codebooks of the states that it has seen: a new one lets go of them
                task = TASKS[self.task](self.context)
                with self._bar(total=len(wanted), initial=done, unit="estimate", desc=self.task) as bar:
                    done += self._measure(
                        task, fit, scored, [w for w in missing if _is_of(w[0], layers)], bar
                    )
        if is_main():
            self._show(self.expdir, read_records(self.expdir / RESULTS_FILE))

    def _begin(self, splits: Sequence[Split]) -> list[Record]:
        """Take up the experiment's records with -a; without it, move earlier ones aside."""
        results, settings = self.expdir / RESULTS_FILE, self._settings
        now = {**self._determinants(), "speech": _digest_of(splits)}
        resume = bool(self.args.auto_resume or self.args.past_exp)
        if not resume:
            # else -a would take up the experiment that was here before this one
            (self.expdir / STATES_FILE).unlink(missing_ok=True)
        if results.exists() and not resume:
            stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(results.stat().st_mtime))
            for path in (results, self.expdir / CLASSES_FILE):
                if path.exists():
                    os.replace(path, path.with_name(f"{path.stem}.{stamp}{path.suffix}"))
            logger.warning(
                "%s held results already; moved to mi_results.%s.jsonl (-a continues them).",
                self.expdir,
                stamp,
            )
        elif results.exists() and settings.exists():
            changed = _changes(self._read_settings(), now)
            if changed:
                raise MIError(
                    f"-a: {self.expdir} was begun with other settings, so its results cannot be continued: "
                    f"{changed}. Use another experiment name (-n), or leave -a out."
                )
        self._write_settings(now)
        return read_records(results) if resume else []

    @property
    def _settings(self) -> Path:
        return self.expdir / SETTINGS_FILE

    def _read_settings(self) -> dict[str, Any]:
        """As they were written; folders that tell no precision are of the time before there was a choice."""
        return {"precision": "fp32", **json.loads(self._settings.read_text())}

    def _write_settings(self, content: dict[str, Any]) -> None:
        write_whole(self._settings, json.dumps(content, indent=1))

    @staticmethod
    def _bar(**options: Any) -> tqdm[Any]:
        return tqdm(dynamic_ncols=True, disable=not is_main(), **options)

    def _measure(
        self, task: MITask, fit: SplitStates, scored: SplitStates, missing: Sequence[Identity], bar: tqdm[Any]
    ) -> int:
        """Fit and score cell by cell; probes of a cell are fitted together, as the MLP builds on the logistic.

        They are always fitted for all seeds, so that an interrupted run ends with the same numbers.

        Returns:
            The number of estimates made.
        """
        made = 0
        for cell in self.plan.cells:
            identities = {
                p: {self.plan.identity(cell, p, s) for s in self.plan.seeds} for p in self.plan.probes
            }
            kinds = [p for p in self.plan.probes if identities[p] & set(missing)]
            if not kinds:
                continue
            bar.set_postfix_str(f"layer {cell.layer}")
            began = time.time()
            try:
                fitted = task.fit(fit, cell, kinds)
                estimates = task.score(fitted, scored, cell)
            except MIError as error:
                raise MIError(f"layer {cell.layer} of {self.upstream.name}: {error}") from None
            made += sum(len(identities[p] & set(missing)) for p in kinds)
            used, unlabelled = zip(*(task.usage(side, cell.layer) for side in (fit, scored)), strict=True)
            utterances = {"fit": used[0], "eval": used[1], "skipped": fit.found + scored.found - sum(used)}
            if not is_main():
                continue
            save_fitted(self.expdir, cell, fitted)
            about = _About(cell, fitted, utterances, sum(unlabelled), began, self.config.datarc.eval_splits)
            records = self._records(about, estimates)
            wanted = [i for i, r in enumerate(records) if r.identity() in set(missing)]
            # first the classes: an estimate in RESULTS_FILE is finished, and not computed again
            classes = class_records(
                records, [e for group in estimates for e in group], task.class_names(fitted)
            )
            append_classes(self.expdir / CLASSES_FILE, [classes[i] for i in wanted])
            append_records(self.expdir / RESULTS_FILE, [records[i] for i in wanted])
            bar.update(len(wanted))
        return made

    # --- results ----------------------------------------------------------------------------------------

    def _records(self, about: _About, estimates: Sequence[Sequence[Estimate]]) -> list[Record]:
        """Records of the estimates of one cell."""
        flat = [e for group in estimates for e in group]
        cell, weights = about.cell, about.fitted.weights
        layer = cell.layer
        return [
            Record(
                task=self.task,
                upstream=self.upstream.name,
                checkpoint=self._checkpoint(),
                upstream_sha256=self.upstream.fingerprint,
                step=self.step,
                series=getattr(self.args, "checkpoint_series", None),
                layer=layer,
                layer_name=self.layer_names[layer]
                if isinstance(layer, int)
                else (weights.describe() if weights else layer),
                layers_in_upstream=len(self.layer_names),
                last_layer=last_encoder_layer(self.layer_names),
                dim=about.fitted.probes[0].affine.dim,
                frame_shift_ms=1000 * self.context.geometry(layer).stride / SAMPLE_RATE,
                probe=e.probe,
                protocol=e.protocol,
                view=self.plan.view_text(cell.view),
                scored_frames=cell.frames,
                n_clusters=cell.clusters,
                seed=e.seed,
                fit_splits=list(self.config.datarc.fit_splits),
                eval_splits=list(about.eval_splits),
                mi_lower_bound_bits=float(e.mi_lower_bound_bits),
                entropy_bits=float(e.entropy_bits),
                cross_entropy_bits=float(e.cross_entropy_bits),
                accuracy=float(e.accuracy),
                fit_frames=e.fit_frames,
                eval_frames=e.eval_frames,
                n_classes=e.labels,
                label_set=None if self.task == "mi_views" else self._label_set(),
                unseen_frames=e.unseen_frames,
                unlabelled_frames=about.unlabelled,
                utterances=about.utterances,
                probe_settings=e.settings,
                seconds=round((time.time() - about.began) / len(flat), 3),
                versions={**versions(), "started": self.started},
                precision=self.precision,
            )
            for e in flat
        ]

    def _checkpoint(self) -> dict[str, str] | None:
        name, sha = self.upstream.checkpoint_name, self.upstream.checkpoint_sha256
        return {"name": name, "sha256": sha or ""} if name else None

    def _label_set(self) -> str:
        a = self.config.datarc.alignments
        silence = "silence as a class" if a.silence == "class" else "silence dropped"
        stress = ["stress stripped" if a.strip_stress else "stress kept"] if a.tier == "phones" else []
        return ", ".join([a.tier, *stress, silence])

    @staticmethod
    def _show(folder: Path, records: list[Record]) -> None:
        write_all(folder, records)
        tqdm.write(screen_table(records, folder), file=sys.stdout)

    # --- evaluate ---------------------------------------------------------------------------------------

    def _check_same_as_fitted(self) -> None:
        """Refuse to score probes on states of another checkpoint, or under other settings, than they were fitted on."""
        settings = self._settings
        if not settings.exists():
            return
        fitted, now = self._read_settings(), self._determinants()
        for determinants in (fitted, now):
            determinants.pop("speech", None)
            determinants["datarc"].pop("eval_splits", None)
        changed = _changes(fitted, now)
        if changed:
            raise MIError(
                f"-m evaluate: the probes in {self.expdir} were fitted under other settings: {changed}. Score them as "
                "they were fitted, or train anew (-m train without -a)."
            )

    def evaluate(self, split: str) -> None:
        """Score the fitted probes on other splits, without fitting.

        Args:
            split: names of splits, separated by commas; `test`, s3prl's default, stands for the config's eval_splits.
        """
        data = self.config.datarc
        names = list(data.eval_splits) if split == "test" else [n.strip() for n in split.split(",")]
        both = [n for n in names if any(overlap(n, fit) for fit in data.fit_splits)]
        if both:
            raise MIError(f"-t {split}: {', '.join(both)} was fitted on; the bound needs unseen speech.")
        self._check_same_as_fitted()
        splits = self._read(names)
        TASKS[self.task](self.context).check(splits, self.plan.layers)
        folder = self.expdir / "evaluate" / "+".join(names).replace("/", "of")
        folder.mkdir(parents=True, exist_ok=True)
        records: list[Record] = []
        classes: list[ClassRecord] = []
        todo = [(cell, probe) for cell in self.plan.cells for probe in self.plan.probes]
        done = 0
        for layers, (scored,) in self._keep(splits).groups(self.plan.layers):
            task = TASKS[self.task](self.context)
            own = [(cell, probe) for cell, probe in todo if _is_of(cell.layer, layers)]
            title = f"evaluate {'+'.join(names)}"
            with self._bar(total=len(todo), initial=done, unit="probe", desc=title) as bar:
                for cell, probe in own:
                    began = time.time()
                    with together():
                        fitted = load_fitted(self.expdir, cell, probe, self.device)
                    estimates = task.score(fitted, scored, cell)
                    used, unlabelled = task.usage(scored, cell.layer)
                    utterances = {"fit": 0, "eval": used, "skipped": scored.found - used}
                    found = self._records(
                        _About(cell, fitted, utterances, unlabelled, began, names), estimates
                    )
                    classes += class_records(found, estimates[0], task.class_names(fitted))
                    records += found
                    bar.update()
            done += len(own)
        if not is_main():
            return
        (folder / CLASSES_FILE).unlink(missing_ok=True)
        append_classes(folder / CLASSES_FILE, classes)
        (folder / RESULTS_FILE).unlink(missing_ok=True)
        append_records(folder / RESULTS_FILE, records)
        self._show(folder, records)


def _is_of(layer: Layer, layers: Sequence[int]) -> bool:
    """Whether a layer is measured on the hidden states of some layers; `weighted` is, as it comes with all of them."""
    return layer == "weighted" or layer in layers


def _with_options(section: dict[str, Any] | None, args: argparse.Namespace) -> dict[str, Any]:
    """The config's section with what the command line says of the store and of the precision."""
    if getattr(args, "precision", None) is not None:
        section = {**(section or {}), "precision": args.precision}
    found = {k: getattr(args, name, None) for k, name in STORE_OPTIONS.items()}
    given = {k: v for k, v in found.items() if v is not None}
    if not given:
        return section or {}
    return {**(section or {}), "store": {**((section or {}).get("store") or {}), **given}}


def _changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What differs between two sets of settings, the first three of it; empty if nothing does.

    Where hidden states were kept changes nothing.
    """
    changed = [k for k in sorted((set(before) | set(now)) - {KEPT}) if before.get(k) != now.get(k)]
    return "; ".join(f"{k} was {before.get(k)!r}, is {now.get(k)!r}" for k in changed[:3])


def _digest_of(splits: Sequence[Split]) -> str:
    """Tells one set of recordings from another: ids and lengths, not where they lie."""
    listed = sorted((s.name, u, n) for s in splits for u, n in s.checked.n_samples.items())
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Versions of what determines a result."""
    names = ("s3prl", "torch", "torchaudio", "transformers", "numpy")
    found = {"s3prl_mi": __version__, "python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in names}
