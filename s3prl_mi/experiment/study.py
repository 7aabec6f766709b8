"""Several runs in one command: upstreams, checkpoints and tasks, each in a folder of its own.

A study is what its command line or its config asks for: `-u a,b`, `-u name=checkpoint,...`, a comma in `-d`, a pattern
or folder in `-k`, or a section `study` in the config. What runs share (hidden states of the unmasked input for both
tasks, of one mask for every cluster count) is extracted once, through the store. A finished study can be asked for
again with `-a`: finished estimates are not repeated, new ones are added. The runs follow each other in this process, or
with `--jobs` or `--slurm` they are jobs, one for each upstream or checkpoint (`jobs`). Tasks of s3prl's own (`ctc`,
`asr`) come after ours, whose hidden states they find, and leave their scores next to the bits.
"""

from __future__ import annotations

import glob
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..core.config import TASKS, parse
from ..core.distributed import world
from ..core.errors import MIError, keep_traceback, nearest
from ..upstreams.checkpoints import CHECKPOINT_SUFFIXES, training_step
from .jobs.engine import Engine
from .jobs.run import run_jobs
from .jobs.work import Work, digest_of, one_line
from .spec import Run, RunSpec, UpstreamSpec

logger = logging.getLogger(__name__)

WEIGHTED = "_weighted"
"""Ends the name of a task's folder with the measurements of learned weighted sums."""

HALVES = ("dev-other@1/2", "dev-other@2/2")
"""Fit and eval of a checkpoint series that names no splits: the paper chooses checkpoints on halves of the validation
set (section 3, "Robustness for checkpoint selection")."""


@dataclass(frozen=True, slots=True)
class StudyConfig:
    """The section `study` of a config; the command line's `-d`, `-u` and `-k` win over it."""

    tasks: tuple[str, ...] = TASKS
    """`mi_views`, `mi_supervised`, or both; then tasks of s3prl's own, such as `ctc` and `asr`. The config's section of
    that name (`ctc:`) holds what differs from the task's own config, and as `base` another config than SUPERB's."""
    upstreams: tuple[str, ...] = ()
    """Names as for `-u`, or `name=checkpoint`: a file, a folder, a pattern (`run/ckpt_*.pt`) or a Hugging Face id;
    `name=checkpoint#7` says that this is step 7 of a series."""


def is_study(tasks: str | None, upstreams: str | None, ckpt: str | None, config: Mapping[str, Any]) -> bool:
    """Whether `-d`, `-u` and `-k`, with a config, ask for more than one run of ours."""
    if "study" in config or any("," in text for text in (tasks or "", upstreams or "")):
        return True
    return upstreams is not None and ("=" in upstreams or (ckpt is not None and is_series(ckpt)))


def is_series(ckpt: str) -> bool:
    """Whether `-k` stands for several checkpoints: a pattern, or a folder that is not one model."""
    return not ckpt.startswith("http") and (_is_pattern(ckpt) or _is_folder_of_checkpoints(Path(ckpt)))


def _is_pattern(ckpt: str) -> bool:
    return glob.has_magic(ckpt) and not Path(ckpt).exists()


def _is_folder_of_checkpoints(path: Path) -> bool:
    return path.is_dir() and not (path / "config.json").is_file()


def requested(tasks: str | None, upstreams: str | None, config: Mapping[str, Any]) -> StudyConfig:
    """What `-d` and `-u` ask for, else the config; tasks of ours first, as others find their hidden states.

    Raises:
        MIError: no upstream, or no task of ours.
    """
    study = parse(StudyConfig, config.get("study"), "study")
    asked = [task.strip() for task in tasks.split(",")] if tasks else study.tasks
    study = replace(study, tasks=tuple(sorted(dict.fromkeys(asked), key=lambda task: task not in TASKS)))
    if study.tasks[0] not in TASKS:
        raise MIError(f"-d {','.join(study.tasks)}: a study sets error rates next to bits; add {' or '.join(TASKS)}.")
    if upstreams:
        study = replace(study, upstreams=tuple(upstreams.split(",")))
    if not study.upstreams:
        raise MIError("-u is missing: which upstreams? -u hubert,wavlm or -u name=checkpoint,name=checkpoint")
    return study


def expand(items: Iterable[str], base: UpstreamSpec) -> list[UpstreamSpec]:
    """The models that `-u` and `-k` stand for.

    Args:
        items: such as `hubert`, `apc_local=apc.ckpt`, `hubert_local=run/*.pt`.
        base: their other settings; its checkpoint is for items without one of their own.

    Returns:
        Models in the order given; the checkpoints of one item by training step.

    Raises:
        MIError: a pattern or folder without a checkpoint, or the same model twice.
    """
    models: list[UpstreamSpec] = []
    for item in items:
        name, equals, own = (part.strip() for part in item.partition("="))
        place = own if equals else base.ckpt
        if not name or (equals and not place):
            raise MIError(f"-u {item!r}: expected a name, or name=checkpoint.")
        stem, _, number = (place or "").rpartition("#")
        numbered = bool(stem) and number.isdecimal() and not Path(place or "").exists()
        for ckpt, step in _checkpoints(name, stem if numbered else place):
            asked = {"step": int(number), "series": f"{name} series"} if numbered else {"step": step}
            models.append(replace(base, name=name, ckpt=ckpt, **asked))
    twice = [m for i, m in enumerate(models) if m in models[:i]]
    if twice:
        raise MIError(f"-u names {twice[0].name} ({twice[0].ckpt or 'its own weights'}) twice.")
    return models


def _checkpoints(name: str, place: str | None) -> list[tuple[str | None, int | None]]:
    """Every checkpoint that a file, a folder, a pattern or an id stands for, with its training step, by step."""
    if place is None:
        return [(None, None)]
    if _is_pattern(place):
        paths = [Path(p) for p in glob.glob(place, recursive=True)]
    elif _is_folder_of_checkpoints(Path(place)):
        paths = list(Path(place).iterdir())
    else:
        return [(place, None)]
    paths = [p for p in paths if p.suffix in CHECKPOINT_SUFFIXES or (p / "config.json").is_file()]
    if not paths:
        raise MIError(
            f"-u {name} -k {place}: no checkpoint there (files ending in {', '.join(CHECKPOINT_SUFFIXES)}, or folders "
            "with a config.json)."
        )
    found = [(str(p), training_step(p)) for p in paths]
    return sorted(found, key=lambda f: (f[1] is None, f[1] or 0, f[0]))


def study_runs(bases: Sequence[Run], items: Iterable[str]) -> list[Run]:
    """Every run of a study, in the order of computing: model by model, so that tasks share hidden states.

    After PR (else ASR) of a model our tasks measure the weighted sum of layers that it has learned, the very
    representation behind the error rate, in folders `<task>_weighted`; their `featurizer` is the folder of that run.

    Args:
        bases: one for each task, ours first; their folder is the study's, their checkpoint that of `-k`.
        items: as for `expand`.

    Raises:
        MIError: an unknown upstream, a file that is not there, or a model named twice.
    """
    from ..superb.scores import SCORED  # needs numpy, which `-h` does not

    models = expand(items, bases[0].upstream)
    _check(models)
    names: list[str] = []
    for model in models:
        free = (f"{model.slug}-{n}" if n > 1 else model.slug for n in itertools.count(1))
        names.append(next(name for name in free if name not in names))
    learning = next((task for task in SCORED for base in bases if base.task == task), None)
    runs: list[Run] = []
    for model, name in zip(models, names, strict=True):
        runs += [replace(base, upstream=model, folder=base.folder / base.task / name) for base in bases]
        for base in bases:
            if learning is None or not isinstance(base, RunSpec):
                continue
            if base.layer is None and base.config.layers != "weighted":
                weights = str(base.folder / learning / name)
                config = replace(base.config, layers="weighted", featurizer=weights)
                folder = base.folder / f"{base.task}{WEIGHTED}" / name
                runs.append(replace(base, upstream=model, folder=folder, config=config))
    return runs


def _check(models: Iterable[UpstreamSpec]) -> None:
    """Refuse names and files that do not exist before the first model is measured."""
    from ..upstreams.names import upstream_names

    known = set(upstream_names())
    for model in models:
        if model.name not in known:
            raise MIError(
                f"unknown upstream -u {model.name!r}.{nearest(model.name, known)} `s3prl-mi upstreams` lists all names."
            )
        ckpt = model.ckpt or ""
        is_path = ckpt.startswith((".", "/", "~")) or Path(ckpt).suffix in CHECKPOINT_SUFFIXES
        if (is_path or ckpt.count("/") > 1) and not ckpt.startswith("http") and not Path(ckpt).exists():
            raise MIError(f"-u {model.name}={ckpt}: no such file or folder.")


def run_study(runs: Sequence[Run], run_one: Callable[[Run], object]) -> list[str]:
    """Run a study in this process; a run that fails does not stop the others.

    Returns:
        What failed, one line each.

    Raises:
        MIError: every run failed.
    """
    from ..core.words import duration  # needs numpy, which `-h` does not

    logger.info(_announce(runs))
    failed: list[str] = []
    began = time.time()
    for number, run in enumerate(runs, start=1):
        task, name = run.folder.parts[-2:]
        logger.info("\n[%d/%d] %s: %s", number, len(runs), task, name)
        try:
            run_one(run)
        except MIError as error:
            if len(runs) == 1:
                raise
            failed.append(f"{task} of {name}: {error}")
            logger.warning("%s", error)
        except Exception as error:  # a bug, or a GPU out of memory, in one model must not cost the others
            if world().size > 1:  # the other processes wait for this one: the launcher ends them with it
                raise
            trace = keep_traceback(run.folder)
            failed.append(f"{task} of {name}: {type(error).__name__}: {one_line(str(error))} (see {trace})")
            logger.warning("%s", failed[-1])
        left = (time.time() - began) / number * (len(runs) - number)
        if left > 30:
            logger.info("%d of %d runs done, about %s to go", number, len(runs), duration(left))
    if len(failed) == len(runs):
        raise MIError(f"no run of the study succeeded. The first error: {failed[0]}")
    return failed


def run_study_in_jobs(
    runs: Sequence[Run], payload_of: Callable[[Run], Any], engine: Engine, root: Path, entry: str
) -> list[str]:
    """Run a study in jobs, one for each upstream or checkpoint; `entry` (as of `Work`) is called with payloads.

    Returns:
        What failed, one line each.

    Raises:
        MIError: every run failed; as `run_jobs`.
    """
    from ..results.record import RESULTS_FILE  # needs numpy

    logger.info(_announce(runs))
    works = []
    for name, of_model in itertools.groupby(runs, lambda run: run.folder.name):
        group = list(of_model)
        model = group[0].upstream
        asked = [asdict(replace(run, device="", resume=False)) for run in group]
        digest = digest_of(asked, [model.ckpt, model.model_config, model.module])
        payloads: dict[str, Any] = {run.folder.parent.name: payload_of(run) for run in group}
        # of other runs it may be right that they leave none: a model of one layer has no weighted sum
        results = tuple(r.folder / RESULTS_FILE for r in group if r.folder.parent.name in TASKS)
        works.append(Work(name, entry, payloads, digest, results))
    done, failed = run_jobs(works, engine, root, resume=runs[0].resume, device=runs[0].device)
    if not done:
        raise MIError(f"no run of the study succeeded. The first error: {failed[0]}")
    return failed


def _announce(runs: Sequence[Run]) -> str:
    models, tasks = list(dict.fromkeys(r.upstream for r in runs)), list(dict.fromkeys(r.folder.parts[-2] for r in runs))
    steps = [m.step for m in models if m.step is not None]
    what = f"{len(models)} systems"
    if len(steps) == len(models) > 1 and len({m.name for m in models}) == 1:
        what = f"{len(models)} checkpoints of {models[0].name}, steps {min(steps)} to {max(steps)}"
    listed = " and ".join([", ".join(tasks[:-1]), tasks[-1]] if len(tasks) > 1 else tasks)
    return f"study: {what} x {listed} = {len(runs)} experiments in {runs[0].folder.parents[1]}"
