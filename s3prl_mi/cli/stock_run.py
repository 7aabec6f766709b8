"""Stock tasks of s3prl: the command line is handed to s3prl's own runner; SUPERB's PR and ASR are scored at the end."""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.config import StoreConfig, packaged_configs, parse
from ..core.distributed import World
from ..core.errors import MIError
from ..superb.tasks import SuperbTask, check, check_keys, task_of
from ..upstreams import compat
from ..upstreams.s3prl_states import latest_states, load_states
from .options import PROG
from .run_settings import apply_override, expdir_of, new_expdir, read_config

if TYPE_CHECKING:
    from ..superb.prepare import Prepared


def run_stock(args: argparse.Namespace, task: str, argv: list[str], checkpoint: Path | None, device: str) -> None:
    """Hand the command line to s3prl, with the device and the config that it would not find itself.

    Raises:
        MIError: something that the task needs is missing.
    """
    argv = list(argv)
    if device != args.device:
        argv += ["--device", device]
    if checkpoint is not None and args.past_exp is None:
        argv += ["-e", str(checkpoint)]
    ours = argparse.ArgumentParser(add_help=False, allow_abbrev=False)  # what s3prl does not know
    ours.add_argument("--upstream_module")
    ours.add_argument("--trust_checkpoint", action="store_true")
    ours.add_argument("--reuse_states", action=argparse.BooleanOptionalAction)
    ours.add_argument("--max_store_gb", type=float)
    ours.add_argument("--no_test", action="store_true")
    argv = ours.parse_known_args(argv)[1]
    superb = task_of(task)
    if superb is not None:
        past = None if checkpoint is None else load_states(checkpoint)
        config = _config(args, superb, past)
        check(superb, config)
        if config is not None and superb.config is not None and args.mode != "inference":
            if vars(args).get("store") is None and (store := (config.get("downstream_expert") or {}).get("store")):
                args.store = parse(StoreConfig, store, "downstream_expert.store")
            _run_scored(_ScoredRun.of(args, superb, config, checkpoint, past), args, argv, device)
            return
    if checkpoint is None:
        argv += [] if args.config else _stock_config(task)
        if args.hub == "torch":
            from ..upstreams.loading import check_upstream

            check_upstream(args.upstream, args.upstream_ckpt, args.upstream_model_config)
    _run_s3prl(args, task, argv, Path(expdir_of(args) or (checkpoint.parent if checkpoint else "")))


def _run_s3prl(args: argparse.Namespace, task: str, argv: list[str], folder: Path) -> bool:
    """As `downstream.stock.run`, which imports s3prl."""
    from ..downstream.stock import run

    return run(args, task, [PROG, *argv], folder)


def _stock_config(task: str) -> list[str]:
    """s3prl looks for ./downstream/<task>/config.yaml; else take that of its own folder (a checkout)."""
    if Path("downstream", task, "config.yaml").is_file():
        return []
    own = compat.s3prl_folder() / "downstream" / task / "config.yaml"
    if own.is_file():
        return ["-c", str(own)]
    raise MIError(
        f"-c is missing: task {task} needs a config file, and s3prl from PyPI brings none. Take one of "
        f"s3prl/downstream/{task}/ in https://github.com/s3prl/s3prl and name it with -c."
    )


def _config(args: argparse.Namespace, task: SuperbTask, past: dict[str, Any] | None) -> dict[str, Any] | None:
    """The whole config as s3prl will have it: a past experiment's, or a file's; then `-o`. None: there is no file."""
    if past is not None:
        config = past["Config"]
    elif args.config is not None:
        if task.config is not None and not Path(args.config).exists() and args.config not in packaged_configs():
            raise MIError(
                f"-c {args.config}: no such file. Without -c, -d {task.name} uses {task.config}, SUPERB's own."
            )
        config = read_config(args.config)
    elif task.config is not None:
        config = read_config(str(packaged_configs()[task.config]))
    else:
        try:
            named = _stock_config(task.name)
        except MIError:
            return None
        config = read_config(named[-1] if named else f"downstream/{task.name}/config.yaml")
    if args.override and task.config is not None and past is None and args.config is None:
        items = (item.partition("=")[0].strip() for item in args.override.split(",,"))
        check_keys(task, [key.removeprefix("config.") for key in items if key.startswith("config.")], config)
    apply_override(args.override, argparse.Namespace(**vars(args)), config, show=False)
    return config


# --- As a part of a study -----------------------------------------------------------------------------------


def with_libri_root(task: str, section: Mapping[str, Any], root: str | None) -> dict[str, Any]:
    """A study's section of a task, with the study's LibriSpeech where the task is of it and the section names none."""
    superb, config = task_of(task), copy.deepcopy(dict(section))
    if root is not None and superb is not None and superb.data == "LibriSpeech":
        expert = config.setdefault("downstream_expert", {})
        if not (expert.get("corpus") or {}).get("path"):
            expert.setdefault("datarc", {}).setdefault("libri_root", root)
    return config


def check_in_study(args: argparse.Namespace, section: Mapping[str, Any]) -> None:
    """Refuse, before anything is measured, a task that could not run.

    Raises:
        MIError: something that it needs is missing.
    """
    args, task = _study_args(args, section), args.downstream
    superb = task_of(task)
    try:
        if superb is None:
            _ = args.config or _stock_config(task)
            return
        config = _config(args, superb, None)
        check(superb, config)
        if config is not None and superb.config is not None:
            _ScoredRun.of(args, superb, config, None, None)
    except MIError as error:
        raise MIError(f"-d {task} (in a study its config keys are config.{task}.<key>): {error}") from None


def run_in_study(args: argparse.Namespace, section: Mapping[str, Any]) -> None:
    """Run a stock task on one upstream of a study; with -a, continue it, or repeat nothing if it is finished.

    Raises:
        MIError: it cannot run, or was started with other settings.
    """
    args, task = _study_args(args, section), args.downstream
    folder, superb = Path(args.expdir), task_of(task)
    checkpoint = latest_states(folder) if args.auto_resume else None
    if checkpoint is not None and superb is not None and _finished(args, superb, load_states(checkpoint)):
        print(f"{folder}: finished before.", file=sys.stderr)
        return
    try:
        run_stock(args, task, _words(args), checkpoint, args.device)
    except SystemExit as end:
        if end.code not in (0, None):
            raise MIError(f"s3prl ended with {end.code}; its messages are above.") from None


def with_learned_weights(
    args: argparse.Namespace, config: dict[str, Any]
) -> tuple[argparse.Namespace, dict[str, Any]] | None:
    """Of a run of ours on the layer weights of a run of PR or ASR, whose folder is `featurizer`; None: it has none."""
    from ..results.record import RESULTS_FILE
    from ..superb.scores import read_records

    section = config["downstream_expert"]
    folder, results = Path(section["featurizer"]), Path(args.expdir) / RESULTS_FILE
    records = read_records(folder)
    path = folder / records[-1]["scored"] if records else folder
    weights = (load_states(path).get("Featurizer") or {}).get("weights") if path.is_file() else None
    if weights is None or len(weights) < 2:
        print(f"{folder}: no layer weights were learned there.", file=sys.stderr)
        return None
    # records of weights that were trained further since are not continued
    same = results.is_file() and results.stat().st_mtime >= path.stat().st_mtime
    args = argparse.Namespace(**vars(args) | {"auto_resume": args.auto_resume and same})
    return args, {**config, "downstream_expert": {**section, "featurizer": str(path)}}


def _study_args(args: argparse.Namespace, section: Mapping[str, Any]) -> argparse.Namespace:
    """The arguments of a run outside a study with this config."""
    more = vars(args) | {"config": section.get("base"), "past_exp": None, "init_ckpt": None}
    more["override"] = ",,".join(_flat({k: v for k, v in section.items() if k != "base"}, "config")) or None
    if args.reuse_states is None:
        kept = args.store.keep and args.store.mode in ("auto", "disk")
        more["reuse_states"] = kept and str(args.device) == "cpu" and not args.upstream_trainable
    return argparse.Namespace(**more)


def _flat(section: Mapping[str, Any], key: str) -> Iterator[str]:
    """A section of a config as items of s3prl's -o."""
    for name, value in section.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{key}.{name}")
        elif "=" in repr(value) or ",," in repr(value):
            raise MIError(f"{key}.{name}={value!r}: s3prl's -o takes no '=' and no ',,' in a value.")
        else:
            yield f"{key}.{name}={value!r}"


_OPTIONS = (
    *("upstream", "upstream_ckpt", "upstream_model_config", "upstream_feature_selection", "upstream_layer_selection"),
    *("downstream_variant", "expdir", "seed", "device", "cache_dir", "config", "override"),
)
_FLAGS = ("upstream_refresh", "upstream_feature_normalize", "verbose", "disable_cudnn")


def _words(args: argparse.Namespace) -> list[str]:
    """The command line of s3prl's own script that these arguments stand for."""
    values = [(name, getattr(args, name)) for name in _OPTIONS]
    words = [word for name, value in values if value is not None for word in (f"--{name}", str(value))]
    return ["-m", "train", "-d", args.downstream, *words, *(f"--{name}" for name in _FLAGS if getattr(args, name))]


def _finished(args: argparse.Namespace, superb: SuperbTask, past: dict[str, Any]) -> bool:
    """Whether a run of a study has nothing left to do.

    Raises:
        MIError: it was started with other settings than how long it trains.
    """
    from ..superb.scores import SCORED, config_hash, read_records
    from ..upstreams.checkpoints import sha256_of

    config, folder = _config(args, superb, None) or past["Config"], Path(args.expdir)
    total, before = int(config["runner"]["total_steps"]), past["Config"]
    own = [config_hash({**c, "runner": {}}) for c in (config, before)]
    names = ("seed", "upstream", "upstream_layer_selection", "upstream_feature_normalize")
    changed = [name for name in names if getattr(args, name) != getattr(past["Args"], name, None)]
    changed += ["config"] if own[0] != own[1] else []
    records, ckpt = read_records(folder), args.upstream_ckpt
    if records and ckpt and Path(ckpt).is_file() and records[-1]["checkpoint_sha256"] != sha256_of(Path(ckpt)):
        changed.append(ckpt)
    if changed:
        raise MIError(
            f"-a: {folder} was started with other settings ({', '.join(changed)}), so it cannot be continued. Use "
            "another name (-n), or remove that folder."
        )
    if superb.name not in SCORED or args.no_test:
        return int(past["Step"]) >= total
    tests = [r for r in records if r["split"] == SCORED[superb.name].test and r["total_steps"] == total]
    return bool(tests) and int(past["Step"]) >= total


# --- PR and ASR ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ScoredRun:
    """A run of `ctc` or `asr`, trained or evaluated."""

    task: str
    train: bool
    folder: Path
    config_file: Path | None
    """None: that of a past experiment."""
    config: dict[str, Any]
    """The whole config, after the user's overrides."""
    prepared: Prepared
    override: str | None
    """The user's."""
    split: str | None
    """Dataloader to score; None: no test."""
    recorded: bool
    """Whether that score is one of SUPERB's."""
    checkpoint: Path | None
    """What training continues from, or what is evaluated."""
    trusted: bool
    """Whether the upstream's checkpoint may run code."""

    @classmethod
    def of(
        cls,
        args: argparse.Namespace,
        superb: SuperbTask,
        config: dict[str, Any],
        checkpoint: Path | None,
        past: dict[str, Any] | None,
    ) -> _ScoredRun:
        """Settle what is to be done, and prepare it."""
        from ..superb.prepare import prepare
        from ..superb.scores import SCORED
        from ..upstreams.loading import check_upstream

        assert superb.config is not None
        task, train, file = superb.name, args.mode == "train", None
        if not train and checkpoint is None:
            raise MIError(f"-m evaluate: which run? -e FOLDER, or -e FOLDER/{SCORED[task].dev}-best.ckpt.")
        if past is None:
            folder = Path(new_expdir(args))
            if args.hub == "torch":
                check_upstream(args.upstream, args.upstream_ckpt, args.upstream_model_config)
            file = packaged_configs().get(args.config or superb.config, Path(args.config or ""))
        else:
            folder = Path(expdir_of(args) or past["Args"].expdir)
        if train:
            split = None if args.no_test else SCORED[task].test
            loaders = ["train", *(config.get("runner") or {}).get("eval_dataloaders", []), *([split] if split else [])]
        else:
            split = SCORED[task].test if args.evaluate_split == "test" else args.evaluate_split
            loaders = [split]
        corpus = (config.get("downstream_expert") or {}).get("corpus") or {}
        recorded = corpus.get("name") in (None, "libriphone") and split is not None  # of `ctc`, phones only
        prepared = prepare(task, config, list(dict.fromkeys(loaders)), folder)
        rest = (prepared, args.override, split, recorded, checkpoint, args.trust_checkpoint)
        return cls(task, train, folder, file, config, *rest)

    def overrides(self) -> str:
        """What is filled in, after the user's own."""
        ours = {**self.prepared.overrides, "args.expdir": str(self.folder)}
        user = [self.override] if self.override and self.override.lower() != "none" else []
        return ",,".join([*user, *(f"{key}={value!r}" for key, value in ours.items())])


def _run_scored(run: _ScoredRun, args: argparse.Namespace, argv: list[str], device: str) -> None:
    from ..superb.scores import best_checkpoint

    for note in run.prepared.notes():
        print(note, file=sys.stderr)
    strip = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for names in (("-o", "--override"), ("-c", "--config")):
        strip.add_argument(*names)
    argv = strip.parse_known_args(argv)[1] + ["-o", run.overrides()]
    if run.config_file is not None:
        argv += ["-c", str(run.config_file)]
    begun = time.time() - 1  # file systems round
    if not run.train and run.split is not None:
        argv += ["-t", run.split]
        _forget(run, run.split)
    reused = _run_s3prl(args, run.task, argv, run.folder)
    if run.split is None or not run.recorded or World.of_launcher().rank > 0:
        return
    if not run.train and run.checkpoint is not None:
        _record(run, run.checkpoint, run.split, reused)
        return
    best, why = best_checkpoint(run.folder, run.task, 0.0 if run.checkpoint else begun)
    if best is None:
        raise MIError(f"{run.folder}: nothing to score on {run.split}: {why}.")
    print(f"scoring {best.name} on {run.split} ({why})", file=sys.stderr)
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # the others are done; s3prl would wait for them
    _forget(run, run.split)
    again = ["-m", "evaluate", "-e", str(best), "-t", run.split, "--device", device, "-o", run.overrides()]
    reused = _run_s3prl(args, run.task, again, run.folder) and reused
    _record(run, best, run.split, reused)


def _forget(run: _ScoredRun, split: str) -> None:
    """Remove what an earlier evaluation has written, so that nothing but this one can be counted."""
    from ..superb.scores import arks

    for path in arks(run.folder, run.task, split, run.config):
        path.unlink(missing_ok=True)


def _record(run: _ScoredRun, scored: Path, split: str, reused: bool) -> None:
    from ..experiment.records import versions
    from ..superb.scores import RESULTS_FILE, write_record

    record = write_record(
        run.task, run.config, run.folder, scored, split, run.prepared, reused, run.trusted, versions()
    )
    kinds = ", ".join(f"{getattr(record, kind)} {kind}" for kind in ("substitutions", "deletions", "insertions"))
    print(
        f"{record.metric.upper()} {record.percent:.2f} % on {split} ({', '.join(record.folders)}; "
        f"{record.utterances} utterances, {record.reference_length} tokens: {kinds}), "
        f"step {record.steps} -> {run.folder / RESULTS_FILE}"
    )
