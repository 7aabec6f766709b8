"""Several experiments in one command: upstreams, checkpoints and tasks, each in a folder of its own.

A study is what its command line or its config asks for: `-u a,b`, `-u name=checkpoint,...`, a comma in `-d`, a pattern
or folder in `-k`, or a section `study` in the config. What experiments share (hidden states of the unmasked input for
both tasks, of one mask for every cluster count) is extracted once, through the store. A finished study can be asked
for again with `-a`: finished estimates are not repeated, new ones are added.

The experiments run one after the other in this process, or with `--jobs` or `--slurm` as jobs, one for each upstream or
checkpoint (`cluster`).
"""

from __future__ import annotations

import argparse
import copy
import glob
import itertools
import logging
import re
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.config import TASKS, parse
from ..core.distributed import world
from ..core.errors import MIError, nearest
from ..core.words import duration
from .jobs.engine import Engine
from .jobs.run import run_jobs
from .jobs.work import Work, digest_of

logger = logging.getLogger(__name__)

CHECKPOINT_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")

HALVES = ("dev-other@1/2", "dev-other@2/2")
"""Fit and eval of a checkpoint series that names no splits: the paper chooses checkpoints on halves of the validation
set (section 3, "Robustness for checkpoint selection")."""


@dataclass(frozen=True, slots=True)
class StudyConfig:
    """The section `study` of a config; the command line's `-d`, `-u` and `-k` win over it."""

    tasks: tuple[str, ...] = TASKS
    """`mi_views`, `mi_supervised`, or both."""
    upstreams: tuple[str, ...] = ()
    """Names as for `-u`, or `name=checkpoint`: a file, a folder, a pattern (`run/ckpt_*.pt`) or a Hugging Face id;
    `name=checkpoint#7` says that this is step 7 of a series."""


@dataclass(frozen=True, slots=True)
class System:
    """One model to measure.

    `step` is the training step of its checkpoint, where that can be told; `series` names the series that the user put
    together by `name=checkpoint#step`.
    """

    upstream: str
    ckpt: str | None = None
    step: int | None = None
    series: str | None = None

    @property
    def slug(self) -> str:
        """A name for its folder."""
        if self.ckpt is None:
            return _safe(self.upstream)
        path = Path(self.ckpt)
        stem = path.name if path.is_dir() else path.stem if path.exists() else self.ckpt
        return _safe(f"{self.upstream}-{stem}")


@dataclass(frozen=True)
class Run:
    """One experiment of a study."""

    task: str
    system: System
    expdir: Path


def is_study(args: argparse.Namespace, config: Mapping[str, Any]) -> bool:
    """Whether a command line, with its config, asks for more than one experiment of ours."""
    several = [args.downstream or "", args.upstream or ""]
    if "study" in config or any("," in text for text in several) or "=" in (args.upstream or ""):
        return True
    return args.upstream is not None and args.upstream_ckpt is not None and _is_series(args)


def _is_series(args: argparse.Namespace) -> bool:
    """Whether -k stands for several checkpoints: a pattern, or a folder that is not one model."""
    ckpt = str(args.upstream_ckpt)
    return not ckpt.startswith("http") and (_is_pattern(ckpt) or _is_folder_of_checkpoints(Path(ckpt)))


def _is_pattern(ckpt: str) -> bool:
    return glob.has_magic(ckpt) and not Path(ckpt).exists()


def _is_folder_of_checkpoints(path: Path) -> bool:
    return path.is_dir() and not (path / "config.json").is_file()


def expand(asked: Iterable[str], ckpt: str | None) -> list[System]:
    """The systems that `-u` and `-k` stand for.

    Args:
        asked: items such as `hubert`, `apc_local=apc.ckpt`, `hubert_local=run/*.pt`.
        ckpt: `-k`, for items without a checkpoint of their own.

    Returns:
        Systems in the order given; the checkpoints of one item by training step.

    Raises:
        MIError: a pattern or folder without a checkpoint, or the same system twice.
    """
    systems: list[System] = []
    for item in asked:
        name, equals, own = item.partition("=")
        name, place = name.strip(), own.strip() if equals else ckpt
        if not name or (equals and not place):
            raise MIError(f"-u {item!r}: expected a name, or name=checkpoint.")
        place, sharp, step = (place or "").rpartition("#") if _names_step(place) else (place, "", "")
        found = [System(name, place)] if place is None else _checkpoints(name, place)
        if sharp:
            found = [System(s.upstream, s.ckpt, int(step), f"{name} series") for s in found]
        systems += found
    twice = [s for i, s in enumerate(systems) if s in systems[:i]]
    if twice:
        raise MIError(f"-u names {twice[0].upstream} ({twice[0].ckpt or 'its own weights'}) twice.")
    return systems


def _names_step(place: str | None) -> bool:
    """Whether a checkpoint ends in `#` and a number, and is not a file of that very name."""
    return (
        place is not None
        and "#" in place
        and place.rpartition("#")[2].isdecimal()
        and not Path(place).exists()
    )


def _checkpoints(name: str, place: str) -> list[System]:
    """Every checkpoint that a file, a folder, a pattern or an id stands for, by training step."""
    from ..upstreams.checkpoints import training_step

    if _is_pattern(place):
        paths = [Path(p) for p in glob.glob(place, recursive=True)]
        paths = [p for p in paths if p.suffix in CHECKPOINT_SUFFIXES or (p / "config.json").is_file()]
    elif _is_folder_of_checkpoints(Path(place)):
        inside = list(Path(place).iterdir())
        paths = [p for p in inside if p.suffix in CHECKPOINT_SUFFIXES or (p / "config.json").is_file()]
    else:
        return [System(name, place)]
    if not paths:
        raise MIError(
            f"-u {name} -k {place}: no checkpoint there (files ending in {', '.join(CHECKPOINT_SUFFIXES)}, or folders "
            "with a config.json)."
        )
    systems = [System(name, str(p), training_step(p)) for p in paths]
    return sorted(systems, key=lambda s: (s.step is None, s.step or 0, s.ckpt or ""))


def runs_of(args: argparse.Namespace, config: Mapping[str, Any]) -> list[Run]:
    """Every experiment of a study, in the order of computing: system by system, so that tasks share hidden states.

    Raises:
        MIError: no upstream, an unknown task, or a system named twice.
    """
    study = parse(StudyConfig, config.get("study"), "study")
    tasks = [t.strip() for t in args.downstream.split(",")] if args.downstream else list(study.tasks)
    for task in tasks:
        if task not in TASKS:
            raise MIError(f"-d {task}: only {' and '.join(TASKS)} run in a study.{nearest(task, TASKS)}")
    asked = args.upstream.split(",") if args.upstream else list(study.upstreams)
    if not asked:
        raise MIError("-u is missing: which upstreams? -u hubert,wavlm or -u name=checkpoint,name=checkpoint")
    systems = expand(asked, args.upstream_ckpt)
    check_systems(systems)
    names: list[str] = []
    for system in systems:
        free = (f"{system.slug}-{n}" if n > 1 else system.slug for n in itertools.count(1))
        names.append(next(name for name in free if name not in names))
    root = Path(args.expdir)
    return [
        Run(t, s, root / t / n) for s, n in zip(systems, names, strict=True) for t in dict.fromkeys(tasks)
    ]


def check_systems(systems: Iterable[System]) -> None:
    """Refuse names and files that do not exist before the first model is measured.

    Raises:
        MIError: an unknown upstream, or a checkpoint that is neither there nor an address or Hugging Face id.
    """
    from ..upstreams.names import upstream_names

    known = set(upstream_names())
    for system in dict.fromkeys(systems):
        if system.upstream not in known:
            raise MIError(
                f"unknown upstream -u {system.upstream!r}.{nearest(system.upstream, known)} `s3prl-mi upstreams` lists "
                "all names."
            )
        ckpt = system.ckpt or ""
        is_path = (
            ckpt.startswith((".", "/", "~"))
            or Path(ckpt).suffix in CHECKPOINT_SUFFIXES
            or ckpt.count("/") > 1
        )
        if is_path and not ckpt.startswith("http") and not Path(ckpt).exists():
            raise MIError(f"-u {system.upstream}={ckpt}: no such file or folder.")


def default_splits(args: argparse.Namespace, config: dict[str, Any]) -> None:
    """Choose checkpoints on halves of the validation set, as the paper does, where no config names splits.

    Changes `config` in place; call it only where `-c` was not given, before `-o`.
    """
    if args.upstream_ckpt is not None and args.upstream is not None and _is_series(args):
        data = config.setdefault("downstream_expert", {}).setdefault("datarc", {})
        data["fit_splits"], data["eval_splits"] = [HALVES[0]], [HALVES[1]]
        logger.info(
            "a series of checkpoints: fitted on %s, scored on %s (datarc.fit_splits, .eval_splits).", *HALVES
        )


def run_study(
    args: argparse.Namespace,
    config: dict[str, Any],
    run_one: Callable[[argparse.Namespace, dict[str, Any]], None],
) -> list[str]:
    """Run every experiment of a study in this process; one that fails does not stop the others.

    Args:
        args: the command line; `expdir` is the study's folder.
        config: the whole config.
        run_one: runs one experiment.

    Returns:
        What failed, one line each.

    Raises:
        MIError: nothing to run, or every experiment failed.
    """
    runs = runs_of(args, config)
    single = {k: v for k, v in config.items() if k != "study"}
    logger.info(_announce(runs))
    failed: list[str] = []
    began = time.time()
    for number, run in enumerate(runs, start=1):
        logger.info("\n[%d/%d] %s: %s", number, len(runs), run.task, run.system.slug)
        try:
            run_one(_args_of(run, args), copy.deepcopy(single))
        except MIError as error:
            if len(runs) == 1:
                raise
            failed.append(f"{run.task} of {run.system.slug}: {error}")
            logger.warning("%s", error)
        except Exception as error:  # a bug, or a GPU out of memory, in one model must not cost the others
            if world().size > 1:  # the other processes wait for this one: the launcher ends them with it
                raise
            run.expdir.mkdir(parents=True, exist_ok=True)
            trace = run.expdir / "error.txt"
            trace.write_text(traceback.format_exc())
            failed.append(f"{run.task} of {run.system.slug}: {type(error).__name__}: {error} (see {trace})")
            logger.warning("%s", failed[-1])
        left = (time.time() - began) / number * (len(runs) - number)
        if left > 30:
            logger.info("%d of %d experiments done, about %s to go", number, len(runs), duration(left))
    if len(failed) == len(runs):
        raise MIError(f"no experiment of the study succeeded. The first error: {failed[0]}")
    return failed


def run_study_in_jobs(
    args: argparse.Namespace, config: dict[str, Any], engine: Engine, entry: str
) -> list[str]:
    """Run every experiment of a study in jobs, one for each upstream or checkpoint.

    Args:
        args: the command line; `expdir` is the study's folder.
        config: the whole config.
        engine: where, and how many at once.
        entry: `module:function` that runs one experiment in a job: called with (arguments, config) and `resume`.

    Returns:
        What failed, one line each.

    Raises:
        MIError: as `run_study` and `cluster.run_jobs`.
    """
    runs = runs_of(args, config)
    single = {k: v for k, v in config.items() if k != "study"}
    logger.info(_announce(runs))
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.expdir.name, []).append(run)
    works = [_work_of(name, group, args, single) for name, group in groups.items()]
    root, resume = Path(args.expdir), bool(args.auto_resume)
    done, failed = run_jobs(works, engine, root, entry, resume=resume, device=args.device)
    if not done:
        raise MIError(f"no experiment of the study succeeded. The first error: {failed[0]}")
    return failed


_DETERMINANTS = (
    "upstream",
    "upstream_ckpt",
    "upstream_model_config",
    "upstream_module",
    "upstream_feature_selection",
    "upstream_feature_normalize",
    "upstream_layer_selection",
    "checkpoint_series",
    "checkpoint_step",
    "seed",
)
"""Arguments that an experiment's results depend on."""


def _work_of(name: str, runs: Sequence[Run], args: argparse.Namespace, config: dict[str, Any]) -> Work:
    """The job of one upstream or checkpoint."""
    from ..results.record import RESULTS_FILE

    payloads, asked = {}, []
    for run in runs:
        one = _args_of(run, args)
        one.jobs = one.slurm = None  # else the job would ask for jobs
        payloads[run.task] = (one, config)
        asked.append([run.task, str(run.expdir), {n: getattr(one, n, None) for n in _DETERMINANTS}, config])
    files = [runs[0].system.ckpt, args.upstream_model_config, getattr(args, "upstream_module", None)]
    return Work(name, payloads, digest_of(asked, files), tuple(run.expdir / RESULTS_FILE for run in runs))


def _announce(runs: Sequence[Run]) -> str:
    systems = list(dict.fromkeys(r.system for r in runs))
    tasks = list(dict.fromkeys(r.task for r in runs))
    steps = [s.step for s in systems if s.step is not None]
    what = f"{len(systems)} systems"
    if len(steps) == len(systems) > 1 and len({s.upstream for s in systems}) == 1:
        what = f"{len(systems)} checkpoints of {systems[0].upstream}, steps {min(steps)} to {max(steps)}"
    return f"study: {what} x {' and '.join(tasks)} = {len(runs)} experiments in {runs[0].expdir.parents[1]}"


def _args_of(run: Run, args: argparse.Namespace) -> argparse.Namespace:
    one = argparse.Namespace(**vars(args))
    one.downstream, one.expdir, one.expname = run.task, str(run.expdir), None
    one.upstream, one.upstream_ckpt = run.system.upstream, run.system.ckpt
    one.checkpoint_step, one.checkpoint_series = run.system.step, run.system.series
    return one


def _safe(text: str) -> str:
    return re.sub(r"[^\w.@+-]+", "-", text).strip("-")
