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
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from . import __version__, report
from .audio import SAMPLE_RATE, SkipCounter
from .classes import CLASSES_FILE, ClassRecord, append_classes, class_records
from .config import MIConfig, as_dict, load, overlap, seed_list
from .cost import duration, estimation_seconds, extraction_speed
from .distributed import (
    all_gather_object,
    first_on_each_machine,
    from_main_object,
    is_main,
    session,
    together,
    world,
)
from .errors import MIError
from .estimators.mi_supervised import Estimate
from .estimators.probe import PROTOCOLS
from .extraction import Request, Split, hidden_states, read_split
from .families import Geometry
from .fitted import load_fitted, save_fitted
from .hidden_states import entries_beyond_s3prl, extract, layer_names
from .plan import Identity, make_plan
from .results import RESULTS_FILE, Record, append_records, last_encoder_layer, read_records
from .sides import Side, side_of
from .store import Store, default_root
from .tasks import TASKS, Cell, Context, Fitted, MITask
from .upstreams import load_upstream
from .views import PLAIN

logger = logging.getLogger(__name__)

SETTINGS_FILE = "mi_settings.json"
STATES_FILE = "states-1.ckpt"


def run(args: argparse.Namespace, config: dict[str, Any]) -> None:
    """Run one command of `-d mi_supervised` or `-d mi_views`; many processes run it together.

    Args:
        args: s3prl's arguments.
        config: the whole config, as s3prl read it.

    Raises:
        MIError: whatever the user can mend.
    """
    settings = load(config.get("downstream_expert"), args.downstream)
    # our command line has begun one already; s3prl's own runner has not
    with session(getattr(args, "backend", "nccl"), str(args.device)):
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
    temporary = expdir / "states.tmp"
    torch.save(states, temporary)
    os.replace(temporary, expdir / STATES_FILE)


@dataclass(frozen=True)
class _About:
    """What the records of one cell say beside the estimates."""

    cell: Cell
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
        root = Path(config.store.root).expanduser() if config.store.root else default_root()
        self.store = Store(root, int(config.store.max_gb * 1e9))
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

    @property
    def _n_weighted(self) -> int:
        """Layers that s3prl's featurizer weighs."""
        return len(self.layer_names) - entries_beyond_s3prl(self.upstream)

    @property
    def _layer_groups(self) -> list[tuple[int, ...]]:
        """Layers that the store must hold, those of one frame rate together."""
        if self.plan.layers == ("weighted",):
            kept = list(range(self._n_weighted))
        else:
            kept = [n for n in self.plan.layers if isinstance(n, int)]
        groups: dict[Geometry, list[int]] = {}
        for layer in kept:
            groups.setdefault(self.upstream.geometry_of(layer), []).append(layer)
        return [tuple(layers) for layers in groups.values()]

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

    def _extract(self, *sides: list[Split]) -> list[Side]:
        """Hidden states of every split: of the unmasked input, and of each mask view; each process its share."""
        here = world()
        views = [PLAIN, *(v for v in self.plan.views if v.kind == "mask")]
        dtype, groups = self.config.store.dtype, self._layer_groups
        requests = {
            (split.name, view): [
                Request(self.upstream, split.share(here.rank, here.size), view, layers, dtype)
                for layers in groups
            ]
            for splits in sides
            for split in splits
            for view in views
        }
        self._make_room([r for group in requests.values() for r in group])
        with together():
            entries = {at: hidden_states(self.store, r, self.config.batch_size) for at, r in requests.items()}
        if here.size > 1:
            for split in (s for splits in sides for s in splits):
                told = all_gather_object(entries[split.name, PLAIN][0].skipped)
                skipped = [*split.checked.unreadable, *(skip for own in told for skip in own)]
                SkipCounter(split.found, split.max_unreadable, split.name, skipped).check()
        return [
            side_of(splits, {view: [entries[s.name, view] for s in splits] for view in views})
            for splits in sides
        ]

    def _make_room(self, requests: Sequence[Request]) -> None:
        """Say what the hidden states take on disk, and make room, before anything is extracted."""
        noise = torch.randn(16000, generator=torch.Generator().manual_seed(0))
        hidden = extract(self.upstream, [noise])[0]
        if self.plan.layers == ("weighted",):
            self._refuse_mixed_layers([h.shape[1] for h in hidden[: self._n_weighted]])
        with together():
            found = [(r, self.store.find(r.key, r.layers)) for r in requests]
        missing = [r for r, entry in found if entry is None]
        needed = sum(r.bytes([hidden[n].shape[1] for n in r.layers]) for r in missing)
        in_use = [entry.path for _, entry in found if entry is not None]
        self._found_before = set(in_use)
        # processes of one machine share its store: the first of them makes room for all
        host = socket.gethostname()
        told = all_gather_object((host, needed, in_use, [r.key for r in missing]))
        everything = sum(n for _, n, _, _ in told)
        if everything:
            logger.info("hidden states: about %.2f GB to extract into %s", everything / 1e9, self.store.root)
        with together():
            if world().local_rank == 0:
                neighbours = [t for t in told if t[0] == host]
                self.store.make_room(
                    sum(n for _, n, _, _ in neighbours),
                    [path for _, _, paths, _ in neighbours for path in paths],
                    [key for _, _, _, keys in neighbours for key in keys],
                )
        if is_main():
            self._say_how_long(missing, [h.shape[1] for h in hidden])

    def _say_how_long(self, missing: Sequence[Request], dims: Sequence[int]) -> None:
        """Say roughly how long extraction and estimation will take."""
        if self.args.mode != "train":
            return
        # requests of one split and view share a forward pass
        audio = sum({(r.split.name, r.view): r.split.seconds for r in missing}.values())
        extraction = audio / extraction_speed(self.upstream) if audio else 0.0
        frames = self._fit_seconds * SAMPLE_RATE / self.upstream.stride / world().size
        of_layers = [dims[n] if isinstance(n, int) else dims[0] for n in self.plan.layers]
        estimation = estimation_seconds(self.plan, of_layers, frames, self.device)
        logger.info(
            "about %s: %s of forward passes, %s of probes",
            duration(extraction + estimation),
            duration(extraction),
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

    def _tidy(self, sides: Sequence[Side]) -> None:
        """With `store.keep: false`, remove the hidden states that this run extracted."""
        if not self.config.store.keep:
            of_splits = [entries for side in sides for splits in side.states.values() for entries in splits]
            for folder in {e.path for entries in of_splits for e in entries} - self._found_before:
                self.store.remove(folder)

    # --- train ------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Fit on the fit splits, score on the eval splits, write and show the results."""
        self.expdir.mkdir(parents=True, exist_ok=True)
        data = self.config.datarc
        fit_splits, eval_splits = self._read(data.fit_splits), self._read(data.eval_splits)
        finished = from_main_object(lambda: {r.identity() for r in self._begin([*fit_splits, *eval_splits])})
        self._fit_seconds = sum(s.seconds for s in fit_splits)
        self._warn_of_shared_speakers(fit_splits, eval_splits)
        wanted = self.plan.wanted
        missing = [w for w in wanted if w not in finished]
        logger.info(
            self.plan.describe() + (f", {len(wanted) - len(missing)} of them done" if finished else "")
        )
        if missing:
            self._say_what_is_held_out(fit_splits)
            task = TASKS[self.task](self.context)
            task.check([*fit_splits, *eval_splits], self.plan.layers)
            fit, scored = self._extract(fit_splits, eval_splits)
            with tqdm(
                total=len(wanted),
                initial=len(wanted) - len(missing),
                unit="estimate",
                desc=self.task,
                dynamic_ncols=True,
                disable=not is_main(),
            ) as bar:
                self._measure(task, fit, scored, missing, bar)
            self._tidy([fit, scored])
        if is_main():
            self._show(self.expdir, read_records(self.expdir / RESULTS_FILE))

    def _begin(self, splits: Sequence[Split]) -> list[Record]:
        """Take up the experiment's records with -a; without it, move earlier ones aside."""
        results, settings = self.expdir / RESULTS_FILE, self.expdir / SETTINGS_FILE
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
            changed = _changes(json.loads(settings.read_text()), now)
            if changed:
                raise MIError(
                    f"-a: {self.expdir} was begun with other settings, so its results cannot be continued: "
                    f"{changed}. Use another experiment name (-n), or leave -a out."
                )
        temporary = settings.with_suffix(".tmp")
        temporary.write_text(json.dumps(now, indent=1))
        os.replace(temporary, settings)
        return read_records(results) if resume else []

    def _measure(
        self, task: MITask, fit: Side, scored: Side, missing: Sequence[Identity], bar: tqdm[Any]
    ) -> None:
        """Fit and score cell by cell; probes of a cell are fitted together, as the MLP builds on the logistic.

        They are always fitted for all seeds, so that an interrupted run ends with the same numbers.
        """
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
                frames=cell.frames,
                clusters=cell.clusters,
                seed=e.seed,
                fit_splits=list(self.config.datarc.fit_splits),
                eval_splits=list(about.eval_splits),
                mi_lower_bound_bits=float(e.mi_lower_bound_bits),
                entropy_bits=float(e.entropy_bits),
                cross_entropy_bits=float(e.cross_entropy_bits),
                accuracy=float(e.accuracy),
                fit_frames=e.fit_frames,
                eval_frames=e.eval_frames,
                labels=e.labels,
                label_set=None if self.task == "mi_views" else self._label_set(),
                unseen_frames=e.unseen_frames,
                unlabelled_frames=about.unlabelled,
                utterances=about.utterances,
                probe_settings=e.settings,
                seconds=round((time.time() - about.began) / len(flat), 3),
                versions={**versions(), "started": self.started},
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
        report.write_all(folder, records)
        tqdm.write(report.screen_table(records, folder), file=sys.stdout)

    # --- evaluate ---------------------------------------------------------------------------------------

    def _check_same_as_fitted(self) -> None:
        """Refuse to score probes on states of another checkpoint, or under other settings, than they were fitted on."""
        settings = self.expdir / SETTINGS_FILE
        if not settings.exists():
            return
        fitted, now = json.loads(settings.read_text()), self._determinants()
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
        task = TASKS[self.task](self.context)
        task.check(splits, self.plan.layers)
        (scored,) = self._extract(splits)
        folder = self.expdir / "evaluate" / "+".join(names).replace("/", "of")
        folder.mkdir(parents=True, exist_ok=True)
        records: list[Record] = []
        classes: list[ClassRecord] = []
        todo = [(cell, probe) for cell in self.plan.cells for probe in self.plan.probes]
        title = f"evaluate {'+'.join(names)}"
        for cell, probe in tqdm(todo, unit="probe", desc=title, dynamic_ncols=True, disable=not is_main()):
            began = time.time()
            with together():
                fitted = load_fitted(self.expdir, cell, probe, self.device)
            estimates = task.score(fitted, scored, cell)
            used, unlabelled = task.usage(scored, cell.layer)
            utterances = {"fit": 0, "eval": used, "skipped": scored.found - used}
            found = self._records(_About(cell, fitted, utterances, unlabelled, began, names), estimates)
            classes += class_records(found, estimates[0], task.class_names(fitted))
            records += found
        self._tidy([scored])
        if not is_main():
            return
        (folder / CLASSES_FILE).unlink(missing_ok=True)
        append_classes(folder / CLASSES_FILE, classes)
        (folder / RESULTS_FILE).unlink(missing_ok=True)
        append_records(folder / RESULTS_FILE, records)
        self._show(folder, records)


def _changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What differs between two sets of settings, the first three of it; empty if nothing does."""
    changed = [k for k in sorted(set(before) | set(now)) if before.get(k) != now.get(k)]
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
