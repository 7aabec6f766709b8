"""The command `run_downstream.py`: s3prl's own command line, with the tasks mi_supervised and mi_views added.

Stock tasks are handed to s3prl's own runner. Ours are read here, with a parser of the same options (a test
compares them one by one), as s3prl's parser cannot be had without importing every upstream, which takes ten
seconds; then `experiment.run.run(spec)` does the work.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import random
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.config import TASKS, default_config
from ..core.distributed import World, is_main, session, together
from ..core.errors import MIError, is_full_disk, nearest
from ..downstream import hook
from ..downstream.arguments import run_spec
from ..experiment.jobs.engine import Engine, engine_of
from ..experiment.spec import Run, RunSpec, StockSpec
from ..experiment.study import (
    HALVES,
    WEIGHTED,
    is_series,
    is_study,
    requested,
    run_study,
    run_study_in_jobs,
    study_runs,
)
from ..upstreams.s3prl_states import load_states, save_states
from .errors import report_errors
from .options import PROG, build_parser, check_task, stock_tasks, underscored
from .run_settings import apply_override, new_expdir, past_checkpoint, read_config, resolve
from .stock_run import check_in_study, run_in_study, run_stock, with_learned_weights, with_libri_root

logger = logging.getLogger(__name__)

_SECTIONS = ("runner", "optimizer", "scheduler", "specaug", "downstream_expert", "study")


def main(argv: list[str] | None = None) -> int:
    """Run the command with these words, by default those of the process; the exit status, as of `report_errors`."""
    words = list(sys.argv[1:] if argv is None else argv)
    again = words if {"-a", "--auto_resume"} & set(words) else [*words, "-a"]
    return report_errors(lambda: _run(words), f"{PROG} {shlex.join(again)}")


def _run(argv: list[str]) -> int:
    argv = [underscored(word) for word in argv]
    if not argv:
        raise MIError(f"no task given. `{PROG} -h` shows examples; tasks of s3prl_mi: -d {', -d '.join(TASKS)}.")
    args = build_parser().parse_args(argv)
    hook.install()
    _load_module(args)
    task = args.downstream
    if task is None or any(part in TASKS for part in task.split(",")):
        config = read_config(args.config) if args.config else {}
        if is_study(task, args.upstream, args.upstream_ckpt, config):
            return _run_study(args, config)
    if args.jobs is not None or args.slurm is not None:
        raise MIError(
            "--jobs and --slurm are for several upstreams, checkpoints or tasks of s3prl_mi (-u a,b, -k 'run/*.pt', "
            f"-d {','.join(TASKS)}); leave them out for one experiment."
        )
    checkpoint = past_checkpoint(args)
    past = None
    # A checkpoint's own task counts, as in s3prl; that of a stock experiment is left to s3prl to load.
    if checkpoint is not None and (task is None or task in TASKS):
        past = load_states(checkpoint)
        task = str(past["Args"].downstream)
        if args.downstream not in (None, task):
            raise MIError(
                f"{checkpoint} is an experiment of task {task}, not of -d {args.downstream}. Leave -d out, or name "
                "another folder; to measure with its layer weights, set config keys downstream_expert.layers to "
                "weighted and .featurizer to this file."
            )
    check_task(task)
    if task in TASKS:
        args.downstream = task
        _run_one(args, checkpoint, past)
    else:
        _log_to_screen()
        run_stock(args, task, argv, checkpoint, usable_device(args.device))
    return 0


def _load_module(args: argparse.Namespace) -> None:
    """Make the upstreams of --upstream_module known; the arguments of earlier versions lack it."""
    module = vars(args).get("upstream_module")
    if module is not None:
        from ..upstreams.names import load_module  # it needs numpy, which `-h` does not

        load_module(module)


# --- What holds for every run of a command ------------------------------------------------------------------


def _prepare(args: argparse.Namespace, engine: Engine | None = None) -> None:
    """Refuse what our tasks do not support, and settle the device, torch.hub's folder and the screen."""
    _refuse_unsupported(args)
    # the machine that submits to SLURM may lack the GPU that its jobs have
    if engine is None or engine.slurm is None:
        args.device = _own_device(usable_device(args.device), args)
    if args.cache_dir is not None:
        import torch

        torch.hub.set_dir(args.cache_dir)
    _log_to_screen()


def _refuse_unsupported(args: argparse.Namespace) -> None:
    task = f"-d {args.downstream}" if args.downstream else "a study"
    if not 0 <= args.seed < 2**32:
        raise MIError(f"--seed {args.seed}: expected a number from 0 to 2**32 - 1.")
    if args.mode == "inference":
        raise MIError(f"-m inference: {task} has no output for a single file; use -m train or -m evaluate.")
    if args.hub == "huggingface":
        raise MIError(
            f"--hub huggingface: not supported by {task}. For a model on the Hugging Face Hub use "
            "-u hf -k organisation/name."
        )
    if args.upstream_trainable:
        raise MIError(f"-f: {task} measures a frozen upstream; leave -f out.")
    if args.push_to_hf_hub not in (False, "False", "false", "None", "none"):
        raise MIError(f"--push_to_hf_hub: not supported by {task}; upload the folder with `hf upload`.")


def usable_device(device: str) -> str:
    """The device to compute on: the CPU instead of a GPU that is not there, with one line that says so.

    Raises:
        MIError: no such device, or a GPU number beyond those of the machine.
    """
    import torch

    from ..core.arithmetic import checked_device

    kind, colon, number = device.partition(":")
    if kind != "cuda" or (colon and not number.isdigit()):
        checked_device(device, "--device")
        return device
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        print(f"No GPU found: using the CPU instead of --device {device}.", file=sys.stderr)
        return "cpu"
    if number and int(number) >= count:
        raise MIError(f"--device {device}: this machine has {count} GPU(s), numbered from 0.")
    if number:
        torch.cuda.set_device(int(number))  # else page-locked memory makes itself at home on the first GPU, too
    return device


def _own_device(device: str, args: argparse.Namespace) -> str:
    """Of the processes that a launcher has started on one machine each has a GPU of its own, if there are enough.

    Raises:
        MIError: `--local_rank` without a launcher.
    """
    here = World.of_launcher()
    if args.local_rank is not None and "RANK" not in os.environ:
        raise MIError("--local_rank is set by a launcher: torchrun --nproc_per_node N -m s3prl_mi.run_downstream ...")
    if here.size == 1 or not device.startswith("cuda"):
        return device
    import torch

    count = torch.cuda.device_count()
    torch.cuda.set_device(here.local_rank % count)
    return f"cuda:{here.local_rank % count}"


class _ScreenHandler(logging.Handler):
    """Shows messages above a running progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line to stderr; warnings say that they are warnings."""
        from tqdm import tqdm

        level = "warning: " if record.levelno >= logging.WARNING else ""
        tqdm.write(level + record.getMessage(), file=sys.stderr)


def _log_to_screen() -> None:
    """Show the package's messages as bare lines on stderr."""
    ours = logging.getLogger("s3prl_mi")
    if not ours.handlers:
        ours.addHandler(_ScreenHandler())
        ours.setLevel(logging.INFO)
        ours.propagate = False
    if World.of_launcher().rank > 0:  # the first of many processes speaks, but for what each alone can know
        ours.setLevel(logging.ERROR)
        logging.getLogger("s3prl_mi.states.extraction").setLevel(logging.WARNING)


def _check_sections(config: dict[str, Any], others: Sequence[str] = ()) -> None:
    """Refuse a misspelt or misplaced key, which would be passed over in silence."""
    known = (*_SECTIONS, *others)
    for key in config.keys() - set(known):
        raise MIError(
            f"unknown config section {key!r}.{nearest(key, known)} The keys of mi_views and mi_supervised stand below "
            "downstream_expert: config.downstream_expert.<key>."
        )


# --- One run ------------------------------------------------------------------------------------------------


def _run_one(args: argparse.Namespace, checkpoint: Path | None, past: dict[str, Any] | None) -> None:
    args, config = resolve(args, checkpoint, past)
    if past is None and args.mode == "evaluate":
        inside = sorted({str(p.parent) for p in Path(args.expdir).glob("*/*/states-*.ckpt")})
        if inside:
            raise MIError(
                f"-m evaluate: {args.expdir} is a study of several experiments; name one of them with -p: "
                f"{', '.join(inside)}."
            )
        raise MIError(
            f"-m evaluate: {args.expdir} has no states-*.ckpt, so no finished experiment to score. "
            "Run it with -m train first (the same command with -a finishes one that was interrupted)."
        )
    if args.upstream is None:
        raise MIError("-u is missing: which upstream? `s3prl-mi upstreams` lists them; a quick one is -u fbank.")
    _load_module(args)  # that of a past experiment
    _prepare(args)
    _check_sections(config)
    with session():
        spec = _run_experiment(args, config)
    sweeps = any(len(v) > 1 for v in (spec.config.clusters, spec.config.views.mask, spec.config.views.shift_ms))
    if sweeps and spec.task == "mi_views" and spec.evaluate_split is None and World.of_launcher().rank == 0:
        from .study_summary import summarise_study  # it draws, and needs all that goes with that

        summarise_study(spec.folder, [])


def run_in_job(payload: tuple[argparse.Namespace, dict[str, Any]], resume: bool) -> None:
    """One run of a study in a process of its own, which submitit has started (`experiment.jobs`)."""
    args, config = payload
    args.auto_resume = args.auto_resume or resume
    hook.install()
    _load_module(args)
    _prepare(args)
    _run_in_study(args, config)


def _run_in_study(args: argparse.Namespace, config: dict[str, Any]) -> None:
    """One run of a study: of ours with the whole config, of s3prl's own with the section of its task."""
    if args.downstream not in TASKS:
        run_in_study(args, config)
    elif not Path(args.expdir).parent.name.endswith(WEIGHTED):
        _run_experiment(args, config)
    elif (learned := with_learned_weights(args, config)) is not None:
        _run_experiment(*learned)


_JOB = "s3prl_mi.cli.run_downstream:run_in_job"


def _run_experiment(args: argparse.Namespace, config: dict[str, Any]) -> RunSpec:
    """Run it, and leave what s3prl leaves: the arguments, the config, and states-1.ckpt at the end."""
    with together():
        spec = run_spec(args, config)
        if is_main():
            _save_command(args, config)
        _seed_everything(args.seed, args.disable_cudnn)
        importlib.import_module("s3prl_mi.experiment.run").run(spec)
        if is_main() and spec.evaluate_split is None:
            save_states(spec.folder, args, config)
    return spec


def _save_command(args: argparse.Namespace, config: dict[str, Any]) -> None:
    """Write args_<time>.yaml and config_<time>.yaml to the experiment folder, as s3prl does."""
    import yaml

    stamp = time.strftime("%Y-%m-%d-%H-%M-%S")
    folder = Path(args.expdir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in (("args", vars(args)), ("config", config)):
            (folder / f"{name}_{stamp}.yaml").write_text(yaml.dump(content), encoding="utf-8")
    except OSError as error:
        if is_full_disk(error):
            raise
        raise MIError(f"experiment folder {args.expdir}: cannot be written ({error.strerror}).") from error
    model_config = args.upstream_model_config
    if model_config is not None and Path(model_config).is_file():
        source = Path(model_config)
        shutil.copyfile(source, folder / f"{source.stem}_{stamp}{source.suffix}")


def _seed_everything(seed: int, disable_cudnn: bool) -> None:
    """The same seeds and cuDNN settings as s3prl's script."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - s3prl's upstreams draw from the global generator
    torch.manual_seed(seed)
    torch.backends.cudnn.enabled = not disable_cudnn
    if not disable_cudnn:
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False


# --- A study ------------------------------------------------------------------------------------------------


def _run_study(args: argparse.Namespace, config: dict[str, Any]) -> int:
    """Several runs, then a comparison and a report of them all."""
    if args.mode != "train":
        raise MIError(
            f"-m {args.mode}: a study is several experiments; name one of their folders: -m {args.mode} -p FOLDER."
        )
    args.expdir = new_expdir(args)
    engine = engine_of(args.jobs, args.slurm)
    _prepare(args, engine)
    if not config:
        config = read_config(str(default_config("mi_views")))
        if args.upstream is not None and args.upstream_ckpt is not None and is_series(args.upstream_ckpt):
            data = config["downstream_expert"]["datarc"]
            data["fit_splits"], data["eval_splits"] = [HALVES[0]], [HALVES[1]]
            logger.info(
                "a series of checkpoints: fitted on %s, scored on %s (datarc.fit_splits, .eval_splits).", *HALVES
            )
    apply_override(args.override, args, config)
    others = stock_tasks()
    _check_sections(config, others)
    study = requested(args.downstream, args.upstream, config)
    for task in study.tasks:
        check_task(task)
    single = {key: value for key, value in config.items() if key != "study" and key not in others}
    ours = [run_spec(_changed(args, downstream=task), single) for task in study.tasks if task in TASKS]
    stock = [_stock_spec(task, ours[0], config.get(task)) for task in study.tasks if task not in TASKS]
    runs = study_runs([*ours, *stock], study.upstreams)

    def payload(spec: Run) -> tuple[argparse.Namespace, dict[str, Any]]:
        words = _args_of(spec, args)
        if isinstance(spec, StockSpec):
            return _changed(words, store=ours[0].config.store), dict(spec.config)
        section = {"layers": spec.config.layers, "featurizer": spec.config.featurizer}
        if spec.folder.parent.name.endswith(WEIGHTED):
            return words, {**single, "downstream_expert": {**single["downstream_expert"], **section}}
        return words, single

    for spec in runs[len(ours) : len(ours) + len(stock)]:
        check_in_study(*payload(spec))
    if engine is None:
        with session():
            failed = run_study(runs, lambda spec: _run_in_study(*payload(spec)))
    else:
        failed = run_study_in_jobs(runs, payload, engine, Path(args.expdir), _JOB)
    if World.of_launcher().rank > 0:
        return 1 if failed else 0
    from .study_summary import summarise_study  # it draws, and needs all that goes with that

    summarise_study(Path(args.expdir), failed)
    return 1 if failed else 0


def _changed(args: argparse.Namespace, **changes: Any) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(args), **changes})


def _stock_spec(task: str, like: RunSpec, section: Any) -> StockSpec:
    """A run of s3prl's own task with the model, the device and the data of ours."""
    if not isinstance(section, (dict, type(None))):
        raise MIError(f"config section {task}: expected keys such as runner, found {section!r}.")
    config = with_libri_root(task, section or {}, like.config.datarc.libri_root)
    return StockSpec(task, like.upstream, config, like.folder, like.seed, like.layer, like.device, like.resume)


def _args_of(spec: Run, args: argparse.Namespace) -> argparse.Namespace:
    """The arguments of one run of a study, for s3prl's file and for a job."""
    model = spec.upstream
    return _changed(
        args,
        downstream=spec.task,
        upstream=model.name,
        upstream_ckpt=model.ckpt,
        checkpoint_step=model.step,
        checkpoint_series=model.series,
        expdir=str(spec.folder),
        expname=None,
        jobs=None,
        slurm=None,
    )


if __name__ == "__main__":
    sys.exit(main())
