"""One experiment from audio to report: what `-d mi_supervised` and `-d mi_views` do.

`run` is called by both doors: by our `run_downstream.py`, and by s3prl's own runner through
`downstream/*/expert.py`. Data flows one way: splits -> hidden states in the store -> for each layer: probes fitted on
the fit splits, scored on the eval splits -> records -> tables and pictures.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from . import __version__, report
from .alignments import match_utterances, open_alignments
from .audio import Utterance
from .config import MIConfig, Task, as_dict, load, seed_list
from .errors import MIError
from .estimators.frames import Frames
from .estimators.mi_supervised import Estimate, Vocabulary, fit_supervised, score_supervised
from .estimators.mi_views import fit_codebooks_of_view, fit_views, score_views
from .estimators.probe import PROTOCOLS, FittedProbe
from .extraction import Split, hidden_states, read_split, stored_bytes
from .featurizer import LayerWeights, WeightedLayer, learn_weights, read_weights, uniform
from .fitted import load_fitted, path_of, save_fitted
from .hidden_states import extract, layer_names
from .pairing import Labelled, Pairs, held_out_groups, labelled_frames, paired_frames
from .results import RESULTS_FILE, Record, append_records, read_records
from .store import Entry, Store, default_root
from .upstreams import load_upstream
from .views import PLAIN, View, resolve_view

logger = logging.getLogger(__name__)

SETTINGS_FILE = "mi_settings.json"


@dataclass(frozen=True)
class Side:
    """The fit or the eval side: splits and their hidden states.

    `plain` are entries of the unmasked input, one a split; `masked` those of the mask view (else the same).
    """

    splits: list[Split]
    plain: list[Entry]
    masked: list[Entry]

    @property
    def utterances(self) -> dict[str, Utterance]:
        """By id."""
        return {u.id: u for s in self.splits for u in s.utterances}

    @property
    def n_samples(self) -> dict[str, int]:
        """Length of each utterance at 16 kHz."""
        return {u: n for s in self.splits for u, n in s.checked.n_samples.items()}

    @property
    def skipped(self) -> int:
        """Utterances whose audio cannot be read."""
        return sum(len(s.checked.unreadable) for s in self.splits) + sum(len(e.skipped) for e in self.plain)


def run(args: argparse.Namespace, config: dict[str, Any]) -> None:
    """Run one command of `-d mi_supervised` or `-d mi_views`.

    Args:
        args: s3prl's arguments.
        config: the whole config, as s3prl read it.

    Raises:
        MIError: whatever the user can mend.
    """
    settings = load(config.get("downstream_expert"), args.downstream)
    experiment = Experiment(args, settings)
    if args.mode == "evaluate":
        experiment.evaluate(args.evaluate_split)
    else:
        experiment.train()
        _save_states(Path(args.expdir), args, config)


def _save_states(expdir: Path, args: argparse.Namespace, config: dict[str, Any]) -> None:
    """Leave what s3prl's runner leaves, so that -a, -e and -m evaluate find a finished experiment."""
    states = {"Step": 1, "Epoch": 0, "Args": args, "Config": config, "Optimizer": {}, "Downstream": {}}
    temporary = expdir / "states.tmp"
    torch.save(states, temporary)
    os.replace(temporary, expdir / "states-1.ckpt")


class Experiment:
    """An upstream, its data and settings, and the folder where results go."""

    def __init__(self, args: argparse.Namespace, config: MIConfig) -> None:
        self.args, self.config = args, config
        self.task: Task = args.downstream
        self.expdir = Path(args.expdir)
        self.device = str(args.device)
        self.seeds = seed_list(config.seeds, args.seed)
        self.started = time.strftime("%Y-%m-%d %H:%M:%S")
        self.upstream = load_upstream(
            args.upstream,
            ckpt=args.upstream_ckpt,
            model_config=args.upstream_model_config,
            refresh=args.upstream_refresh,
            device=self.device,
            feature_selection=args.upstream_feature_selection,
        )
        self.layer_names = layer_names(self.upstream)
        self.layers = self._choose_layers()
        self.view = self._choose_view()
        self.frames = self._choose_frames()
        root = Path(config.store.root).expanduser() if config.store.root else default_root()
        self.store = Store(root, int(config.store.max_gb * 1e9))

    # --- what is asked for ------------------------------------------------------------------------------

    def _choose_layers(self) -> list[int | str]:
        """Layer numbers, or `weighted`; the command line's -l wins over the config."""
        count = len(self.layer_names)
        if self.args.upstream_layer_selection is not None:
            asked: str | Sequence[int] = [self.args.upstream_layer_selection]
            key = "-l"
        else:
            asked, key = self.config.layers, "config key downstream_expert.layers"
        if asked == "weighted":
            return ["weighted"] if count > 1 else [0]
        if asked == "all":
            return list(range(count))
        numbers = [count - 1] if asked == "last" else [int(n) for n in asked]
        for number in numbers:
            if not -count <= number < count:
                raise MIError(
                    f"{key}: upstream {self.args.upstream} has no layer {number}; it has {count}, 0 to {count - 1}."
                )
        return list(dict.fromkeys(n % count for n in numbers))

    @property
    def _kept_layers(self) -> list[int]:
        """Layers that the store must hold."""
        if self.layers == ["weighted"]:
            return list(range(len(self.layer_names)))
        return [n for n in self.layers if isinstance(n, int)]

    def _choose_view(self) -> View:
        if self.task == "mi_supervised":
            return PLAIN
        return resolve_view(self.config.views, self.args.upstream, self.upstream.family)

    def _choose_frames(self) -> list[str]:
        if self.task == "mi_supervised":
            return ["all"]
        auto = "masked" if self.view.kind == "mask" else "all"
        chosen = list(dict.fromkeys(auto if f == "auto" else f for f in self.config.frames))
        if self.view.kind == "shift" and chosen != ["all"]:
            raise MIError(
                f"config key downstream_expert.frames: {', '.join(chosen)} asked for, but the shift view has no "
                "masked frames: it scores all."
            )
        return chosen

    def _determinants(self) -> dict[str, Any]:
        """Settings that every record of this experiment shares."""
        config = as_dict(self.config)
        for free in ("layers", "seeds", "probes", "frames", "store", "batch_size"):
            del config[free]
        config["datarc"]["alignments"].pop("path")
        for place in ("libri_root", "manifest"):
            config["datarc"].pop(place)
        if self.task == "mi_supervised":
            for other in ("views", "clusters", "kmeans_iterations"):
                del config[other]
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

    def _side(self, names: Sequence[str]) -> list[Split]:
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

    def _extract(self, *sides: list[Split]) -> list[Side]:
        """Hidden states of every split, of both views where two forward passes are needed."""
        views = [PLAIN, self.view] if self.view.kind == "mask" else [PLAIN]
        self._check_room([s for side in sides for s in side], len(views))
        done: list[Side] = []
        for splits in sides:
            entries = {
                v: [
                    hidden_states(
                        self.store,
                        self.upstream,
                        s,
                        v,
                        self._kept_layers,
                        self.config.store.dtype,
                        self.config.batch_size,
                    )
                    for s in splits
                ]
                for v in views
            }
            done.append(Side(splits, entries[PLAIN], entries[views[-1]]))
        self._entries = [e for s in done for e in [*s.plain, *s.masked]]
        return done

    def _check_room(self, splits: Sequence[Split], views: int) -> None:
        """Say what the hidden states take on disk, and make room, before anything is extracted."""
        noise = torch.randn(16000, generator=torch.Generator().manual_seed(0))
        hidden = extract(self.upstream, [noise])[0]
        dims = [hidden[n].shape[1] for n in self._kept_layers]
        if self.layers == ["weighted"] and len(set(dims)) > 1:
            raise MIError(
                f"layers: weighted needs layers of one dimension, but {self.upstream.name} has {sorted(set(dims))}."
            )
        item = 4 if self.config.store.dtype == "float32" else 2
        needed = views * stored_bytes(self.upstream, splits, dims, item)
        logger.info(
            "hidden states: %d layers x %d views, about %.2f GB in %s",
            len(dims),
            views,
            needed / 1e9,
            self.store.root,
        )
        self.store.make_room(needed, [])

    # --- train ------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Fit on the fit splits, score on the eval splits, write and show the results."""
        self.expdir.mkdir(parents=True, exist_ok=True)
        finished = {r.identity() for r in self._begin()}
        fit_splits, eval_splits = (
            self._side(self.config.datarc.fit_splits),
            self._side(self.config.datarc.eval_splits),
        )
        self._warn_of_shared_speakers(fit_splits, eval_splits)
        wanted = [
            (la, f, p, s)
            for la in self.layers
            for f in self.frames
            for p in self.config.probes
            for s in self.seeds
        ]
        missing = [w for w in wanted if (w[0], w[2], w[1], w[3]) not in finished]
        if missing:
            fit, scored = self._extract(fit_splits, eval_splits)
            measure = self._supervised if self.task == "mi_supervised" else self._views
            bar = tqdm(
                total=len(wanted),
                initial=len(wanted) - len(missing),
                unit="estimate",
                desc=self.task,
                dynamic_ncols=True,
            )
            with bar:
                for records in measure(fit, scored, missing, bar):
                    append_records(self.expdir / RESULTS_FILE, records)
                    bar.update(len(records))
            if not self.config.store.keep:
                for entry in self._entries:
                    self.store.remove(entry.path)
        self._finish(self.expdir, read_records(self.expdir / RESULTS_FILE))

    def _begin(self) -> list[Record]:
        """Take up the experiment's records with -a; without it, move earlier ones aside."""
        results, settings = self.expdir / RESULTS_FILE, self.expdir / SETTINGS_FILE
        now = self._determinants()
        if results.exists() and not self.args.auto_resume:
            stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(results.stat().st_mtime))
            aside = results.with_name(f"mi_results.{stamp}.jsonl")
            os.replace(results, aside)
            logger.warning(
                "%s held results already: moved to %s (-a would have continued them).",
                self.expdir,
                aside.name,
            )
        elif results.exists() and settings.exists():
            before = json.loads(settings.read_text())
            changed = [k for k in sorted(set(before) | set(now)) if before.get(k) != now.get(k)]
            if changed:
                raise MIError(
                    f"-a: {self.expdir} was begun with other settings, so its results cannot be continued: "
                    + "; ".join(f"{k} was {before.get(k)!r}, is {now.get(k)!r}" for k in changed[:3])
                    + ". Use another experiment name (-n), or leave -a out."
                )
        temporary = settings.with_suffix(".tmp")
        temporary.write_text(json.dumps(now, indent=1))
        os.replace(temporary, settings)
        return read_records(results) if self.args.auto_resume else []

    def _supervised(
        self, fit: Side, scored: Side, missing: list[tuple[int | str, str, str, int]], bar: tqdm[Any]
    ) -> Iterator[list[Record]]:
        """Estimate I(Z;Y) layer by layer."""
        fit_labels, eval_labels = self._labels(fit), self._labels(scored)
        vocabulary = Vocabulary.of(fit_labels.labels)
        classes = len(vocabulary.labels)
        if classes < 2:
            raise MIError(
                f"the fit split has one single label ({', '.join(map(str, vocabulary.labels)) or 'none'}): nothing to "
                "be informed about. Check downstream_expert.datarc.alignments (tier, silence)."
            )
        fit_ids, eval_ids = vocabulary.ids(fit_labels.labels), vocabulary.ids(eval_labels.labels)
        groups = held_out_groups(fit.plain, fit.utterances)[fit_labels.rows]
        for layer in dict.fromkeys(m[0] for m in missing):
            weights = self._weights(layer, fit.plain, fit_labels.rows, fit_ids, classes)
            x = self._layer(layer, fit.plain, weights).select(fit_labels.rows)
            z = self._layer(layer, scored.plain, weights).select(eval_labels.rows)
            for kinds in self._groups_of(missing, layer, "all"):
                bar.set_postfix_str(f"layer {layer}, {' + '.join(kinds)}")
                began = time.time()
                probes = self._named(
                    layer,
                    fit_supervised,
                    x,
                    fit_ids,
                    classes,
                    groups,
                    self.seeds,
                    kinds,
                    self.config.protocol,
                    self.device,
                )
                for probe in probes:
                    about = {
                        "seeds": list(self.seeds),
                        "fit_frames": len(x),
                        "vocabulary": list(vocabulary.labels),
                        "weights": _plain(weights),
                    }
                    save_fitted(path_of(self.expdir, layer, "all", probe.kind), probe, about)
                scores = score_supervised(
                    probes, z, eval_ids, classes, self.seeds, self.config.protocol, len(x)
                )
                counts = self._counts(fit, scored, fit_labels, eval_labels)
                unlabelled = fit_labels.unlabelled + eval_labels.unlabelled
                yield self._records(missing, layer, "all", scores, x.dim, weights, counts, unlabelled, began)

    def _views(
        self, fit: Side, scored: Side, missing: list[tuple[int | str, str, str, int]], bar: tqdm[Any]
    ) -> Iterator[list[Record]]:
        """Estimate I(Za;Zb) layer by layer; one codebook a seed serves all frames and probes of a layer."""
        geometry = self.upstream.geometry
        groups = held_out_groups(fit.plain, fit.utterances)
        for layer in dict.fromkeys(m[0] for m in missing):
            weights = self._weights(layer, fit.plain)
            fit_b = self._layer(layer, fit.plain, weights)
            bar.set_postfix_str(f"layer {layer}, k-means")
            codebooks = self._named(
                layer,
                fit_codebooks_of_view,
                fit_b,
                self.config.clusters,
                self.seeds,
                self.config.kmeans_iterations,
                self.device,
            )
            for frames in dict.fromkeys(m[1] for m in missing if m[0] == layer):
                fit_pairs = paired_frames(fit.plain, self.view, frames, geometry)
                eval_pairs = paired_frames(scored.plain, self.view, frames, geometry)
                self._check_pairs(fit_pairs, eval_pairs)
                a, b = self._pair(layer, fit, fit_pairs, weights)
                za, zb = self._pair(layer, scored, eval_pairs, weights)
                for kinds in self._groups_of(missing, layer, frames):
                    bar.set_postfix_str(f"layer {layer}, {' + '.join(kinds)}, {frames} frames")
                    began = time.time()
                    probes = self._named(
                        layer,
                        fit_views,
                        a,
                        b,
                        codebooks,
                        groups[fit_pairs.rows_a],
                        self.seeds,
                        kinds,
                        self.config.protocol,
                    )
                    self._save_views(probes, layer, frames, codebooks, len(a), weights)
                    scores = score_views(probes, codebooks, za, zb, self.seeds, self.config.protocol, len(a))
                    counts = self._counts(fit, scored)
                    yield self._records(missing, layer, frames, scores, a.dim, weights, counts, 0, began)

    def _save_views(
        self,
        probes: Sequence[FittedProbe],
        layer: int | str,
        frames: str,
        codebooks: Tensor,
        fit_frames: int,
        weights: LayerWeights | None,
    ) -> None:
        about = {
            "seeds": list(self.seeds),
            "fit_frames": fit_frames,
            "codebooks": codebooks.cpu(),
            "weights": _plain(weights),
        }
        for probe in probes:
            save_fitted(path_of(self.expdir, layer, frames, probe.kind), probe, about)

    @staticmethod
    def _groups_of(
        missing: list[tuple[int | str, str, str, int]], layer: int | str, frames: str
    ) -> Iterator[list[str]]:
        """Kinds of probes still to be fitted, cheapest first, each a group whose records are written at once.

        A group is always fitted for all seeds, so that an interrupted run ends with the same numbers.
        """
        kinds = [m[2] for m in missing if m[0] == layer and m[1] == frames]
        yield from ([kind] for kind in dict.fromkeys(kinds))

    def _named(self, layer: int | str, work: Any, *arguments: Any) -> Any:
        """Call an estimator; what it refuses is reported with the layer's number."""
        try:
            return work(*arguments)
        except MIError as error:
            raise MIError(f"layer {layer} of {self.upstream.name}: {error}") from None

    # --- layers and frames ------------------------------------------------------------------------------

    def _layer(self, layer: int | str, entries: Sequence[Entry], weights: LayerWeights | None) -> Frames:
        if weights is None:
            return Frames([e.layer(int(layer)) for e in entries])  # type: ignore[misc]
        return Frames([WeightedLayer([e.layer(n) for n in self._kept_layers], weights) for e in entries])  # type: ignore[misc]

    def _pair(
        self, layer: int | str, side: Side, pairs: Pairs, weights: LayerWeights | None
    ) -> tuple[Frames, Frames]:
        a = self._layer(layer, side.masked, weights).select(pairs.rows_a)
        return a, self._layer(layer, side.plain, weights).select(pairs.rows_b)

    def _weights(
        self, layer: int | str, entries: Sequence[Entry], rows: Any = None, ids: Any = None, classes: int = 0
    ) -> LayerWeights | None:
        """Weights of the featurizer if `layer` is `weighted`."""
        if layer != "weighted":
            return None
        count, normalize = len(self.layer_names), bool(self.args.upstream_feature_normalize)
        wanted = self.config.featurizer
        if wanted == "uniform":
            return uniform(count, normalize)
        if wanted != "learned":
            return read_weights(Path(wanted), count, self.upstream.name)
        if rows is None:
            raise MIError(
                "config key downstream_expert.featurizer: learned needs labels, which mi_views has not. Set it to "
                "uniform, or to the states-*.ckpt of a run that learned weights (mi_supervised learns its own)."
            )
        layers = [Frames([e.layer(n) for e in entries], rows) for n in self._kept_layers]  # type: ignore[misc]
        return learn_weights(layers, ids, classes, normalize, self.device)

    def _labels(self, side: Side) -> Labelled:
        config = self.config.datarc.alignments
        alignments = open_alignments(config)
        for split in side.splits:
            _, without = match_utterances(alignments, split.utterances, config.max_missing)
            if without:
                logger.warning(
                    "%s: %d utterances without an alignment left out: %s%s",
                    split.name,
                    len(without),
                    ", ".join(without[:5]),
                    " ..." if len(without) > 5 else "",
                )
        drop = config.silence == "drop"
        labels = labelled_frames(
            side.plain, side.utterances, side.n_samples, alignments, self.upstream.geometry, drop
        )
        if not len(labels.rows):
            raise MIError(
                f"no frame of {', '.join(s.name for s in side.splits)} has a label: check "
                "downstream_expert.datarc.alignments (path, tier, silence)."
            )
        return labels

    @staticmethod
    def _check_pairs(*pairs: Pairs) -> None:
        if any(len(p.rows_a) == 0 for p in pairs):
            raise MIError(
                "no pair of frames to score: the utterances are shorter than one mask period or the shift."
            )

    @staticmethod
    def _counts(
        fit: Side, scored: Side, fit_labels: Labelled | None = None, eval_labels: Labelled | None = None
    ) -> dict[str, int]:
        used = [
            sum(len(e.utterances) for e in side.plain) if labels is None else labels.utterances
            for side, labels in ((fit, fit_labels), (scored, eval_labels))
        ]
        total = sum(
            len(s.utterances) + len(s.checked.unreadable) for side in (fit, scored) for s in side.splits
        )
        return {"fit": used[0], "eval": used[1], "skipped": total - sum(used)}

    # --- results ----------------------------------------------------------------------------------------

    def _records(
        self,
        missing: Sequence[tuple[int | str, str, str, int]],
        layer: int | str,
        frames: str,
        estimates: Sequence[Sequence[Estimate]],
        dim: int,
        weights: LayerWeights | None,
        utterances: dict[str, int],
        unlabelled: int,
        began: float,
        eval_splits: Sequence[str] | None = None,
    ) -> list[Record]:
        """Records of a group of estimates, without those that are there already."""
        flat = [e for group in estimates for e in group]
        seconds = round((time.time() - began) / max(1, len(flat)), 3)
        name = (
            self.layer_names[layer]
            if isinstance(layer, int)
            else (weights.describe() if weights else "weighted")
        )
        return [
            Record(
                task=self.task,
                upstream=self.upstream.name,
                checkpoint=self._checkpoint(),
                upstream_sha256=self.upstream.fingerprint,
                layer=layer,
                layer_name=name,
                layers_in_upstream=len(self.layer_names),
                dim=dim,
                frame_shift_ms=1000 * self.upstream.stride / 16000,
                probe=e.probe,
                protocol=e.protocol,
                view=self.view.describe() if self.task == "mi_views" else None,
                frames=frames,
                clusters=self.config.clusters if self.task == "mi_views" else None,
                seed=e.seed,
                fit_splits=list(self.config.datarc.fit_splits),
                eval_splits=list(eval_splits or self.config.datarc.eval_splits),
                mi_lower_bound_bits=float(e.mi_lower_bound_bits),
                entropy_bits=float(e.entropy_bits),
                cross_entropy_bits=float(e.cross_entropy_bits),
                accuracy=float(e.accuracy),
                fit_frames=e.fit_frames,
                eval_frames=e.eval_frames,
                labels=e.labels,
                label_set=self._label_set(),
                unseen_frames=e.unseen_frames,
                unlabelled_frames=unlabelled,
                utterances=utterances,
                probe_settings=e.settings,
                seconds=seconds,
                versions={**versions(), "started": self.started},
            )
            for e in flat
            if (layer, frames, e.probe, e.seed) in missing
        ]

    def _checkpoint(self) -> dict[str, str] | None:
        name, sha = self.upstream.checkpoint_name, self.upstream.checkpoint_sha256
        return {"name": name, "sha256": sha or ""} if name else None

    def _label_set(self) -> str | None:
        if self.task == "mi_views":
            return None
        a = self.config.datarc.alignments
        stress = "stress stripped" if a.strip_stress else "stress kept"
        silence = "silence as a class" if a.silence == "class" else "silence dropped"
        return f"{a.tier}, {stress}, {silence}" if a.tier == "phones" else f"{a.tier}, {silence}"

    def _finish(self, folder: Path, records: list[Record]) -> None:
        wanted = {
            (la, p, f, s)
            for la in self.layers
            for f in self.frames
            for p in self.config.probes
            for s in self.seeds
        }
        records = [r for r in records if r.identity() in wanted]
        report.write_all(folder, records)
        tqdm.write(report.screen_table(records, folder), file=sys.stdout)

    # --- evaluate ---------------------------------------------------------------------------------------

    def evaluate(self, split: str) -> None:
        """Score the fitted probes on other splits, without fitting.

        Args:
            split: names of splits, separated by commas; `test` (s3prl's default) stands for the config's eval_splits.
        """
        names = (
            list(self.config.datarc.eval_splits) if split == "test" else [n.strip() for n in split.split(",")]
        )
        both = set(names) & set(self.config.datarc.fit_splits)
        if both:
            raise MIError(
                f"-t {split}: {', '.join(sorted(both))} was fitted on; the bound needs unseen speech."
            )
        (scored,) = self._extract(self._side(names))
        folder = self.expdir / "evaluate" / "+".join(names)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RESULTS_FILE).unlink(missing_ok=True)
        labels = self._labels(scored) if self.task == "mi_supervised" else None
        wanted = [(la, f, p) for la in self.layers for f in self.frames for p in self.config.probes]
        with tqdm(wanted, unit="probe", desc=f"evaluate {'+'.join(names)}", dynamic_ncols=True) as bar:
            for layer, frames, kind in bar:
                began = time.time()
                path = path_of(self.expdir, layer, frames, kind)
                probe, about = load_fitted(path, self.device)
                weights = (
                    None
                    if about["weights"] is None
                    else LayerWeights(np.array(about["weights"][0]), *about["weights"][1:])
                )
                estimates = self._score_fitted(probe, about, scored, labels, layer, frames, weights)
                everything = [(layer, frames, kind, s) for s in about["seeds"]]
                counts = self._counts(Side([], [], []), scored, None, labels)
                unlabelled = labels.unlabelled if labels else 0
                records = self._records(
                    everything,
                    layer,
                    frames,
                    [estimates],
                    len(probe.affine.mean),
                    weights,
                    counts,
                    unlabelled,
                    began,
                    names,
                )
                append_records(folder / RESULTS_FILE, records)
        records = read_records(folder / RESULTS_FILE)
        report.write_all(folder, records)
        tqdm.write(report.screen_table(records, folder), file=sys.stdout)

    def _score_fitted(
        self,
        probe: FittedProbe,
        about: dict[str, Any],
        side: Side,
        labels: Labelled | None,
        layer: int | str,
        frames: str,
        weights: LayerWeights | None,
    ) -> list[Estimate]:
        protocol, fit_frames, seeds = self.config.protocol, about["fit_frames"], about["seeds"]
        if labels is not None:
            vocabulary = Vocabulary(tuple(about["vocabulary"]))
            z = self._layer(layer, side.plain, weights).select(labels.rows)
            ids = vocabulary.ids(labels.labels)
            return score_supervised([probe], z, ids, len(vocabulary.labels), seeds, protocol, fit_frames)[0]
        pairs = paired_frames(side.plain, self.view, frames, self.upstream.geometry)
        self._check_pairs(pairs)
        a, b = self._pair(layer, side, pairs, weights)
        return score_views([probe], about["codebooks"].to(self.device), a, b, seeds, protocol, fit_frames)[0]


def _plain(weights: LayerWeights | None) -> list[Any] | None:
    """Layer weights as torch.save's weights-only format takes them."""
    return None if weights is None else [weights.weights.tolist(), weights.normalize, weights.source]


def versions() -> dict[str, str]:
    """Versions of what determines a result."""
    names = ("s3prl", "torch", "torchaudio", "transformers", "numpy")
    found = {"s3prl_mi": __version__, "python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in names}
