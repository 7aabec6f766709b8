"""The command `run_downstream.py`: s3prl's own command line, with the tasks mi_supervised and mi_views added.

Stock tasks are handed to s3prl's own runner. Ours are read here, with a parser of the same options (a test
compares them one by one), as s3prl's parser cannot be had without importing every upstream, which takes ten
seconds; then `s3prl_mi.experiment.run(args, config)` does the work.
"""

from __future__ import annotations

import argparse
import ast
import errno
import importlib
import logging
import os
import random
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from . import _hook, compat
from ._hook import TASKS, default_config
from .errors import MIError, nearest

__all__ = ["build_parser", "default_config", "main", "stock_tasks"]

PROG = "run_downstream.py"

_DESCRIPTION = f"""\
Two tasks of s3prl_mi measure a frozen upstream in bits; everything else is s3prl's own run_downstream.py.

  -d mi_views       information that two views of the same speech share; needs audio only
  -d mi_supervised  information that hidden states hold about phones or words; needs alignments

Examples:

  label-free, on a LibriSpeech folder with dev-other and test-other in it:
    {PROG} -m train -d mi_views -u hubert -n hubert_views \\
      -o "config.downstream_expert.datarc.libri_root='/data/LibriSpeech'"

  with phone alignments (TextGrid, CPC, CTM, PHN or condensed), on a baseline, without a GPU:
    {PROG} -m train -d mi_supervised -u fbank -n fbank_phones --device cpu \\
      -o "config.downstream_expert.datarc.libri_root='/data/LibriSpeech',,\\
    config.downstream_expert.datarc.alignments.path='/data/alignments'"

  your own checkpoint, one layer, your own config:
    {PROG} -m train -d mi_views -u hubert_local -k my_hubert.pt -l 9 -n my_views -c my.yaml

  continue a run that was interrupted: the same command with -a
    {PROG} -m train -d mi_views -u hubert_local -k my_hubert.pt -l 9 -n my_views -c my.yaml -a

  score a finished experiment on another split, without fitting again:
    {PROG} -m evaluate -d mi_views -n my_views -t test-clean

The config of both tasks is optional (-c); its keys, for -o, are listed in
  {{configs}}
Without data: `s3prl-mi demo`. If something does not start: `s3prl-mi doctor`.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: the command line without the program's name; default: that of the process.

    Returns:
        The exit status: 0, 1 after a mistake that the user can mend (one line on stderr), 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    again = words if {"-a", "--auto_resume"} & set(words) else [*words, "-a"]
    return report_errors(lambda: _run(words), f"{PROG} {shlex.join(again)}")


def report_errors(action: Callable[[], int], again: str) -> int:
    """Run a command; what the user can mend becomes one line on stderr.

    Args:
        action: the command; returns its exit status.
        again: the command line that goes on after an interruption.

    Returns:
        The exit status: 0, 1 after a mistake that the user can mend, 130 after Ctrl-C.
    """
    # Threads that spin for long while they wait make themselves and others many times slower on a busy machine
    # (measured: 122 s instead of 23 s beside one other process). Read when torch is loaded.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        return action()
    except MIError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ninterrupted; to continue: {again}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        if not _is_full_disk(error):
            raise
        where = getattr(error, "filename", None) or "the disk of the experiment or of the store"
        print(
            f"error: no space left: {where}. Free some space and run again: {again}; "
            "other places: -p for the experiment, config key downstream_expert.store.root for hidden states.",
            file=sys.stderr,
        )
        return 1


def _run(argv: list[str]) -> int:
    argv = [_underscored(word) for word in argv]
    if not argv:
        raise MIError(
            f"no task given. `{PROG} -h` shows examples; tasks of s3prl_mi: -d {', -d '.join(TASKS)}."
        )
    args = build_parser().parse_args(argv)
    _hook.install()
    task = args.downstream
    checkpoint = _past_checkpoint(args)
    past = None
    # A checkpoint's own task counts, as in s3prl; that of a stock experiment is left to s3prl to load.
    if checkpoint is not None and (task is None or task in TASKS):
        past = load_states(checkpoint)
        task = _task_of(past, checkpoint, task)
    _check_task(task)
    if task in TASKS:
        _run_ours(args, task, checkpoint, past)
    else:
        _run_stock(args, task, argv, checkpoint)
    return 0


def _task_of(past: dict[str, Any], checkpoint: Path, wanted: str | None) -> str:
    task = str(past["Args"].downstream)
    if wanted is not None and task != wanted:
        raise MIError(
            f"{checkpoint} is an experiment of task {task}, not of -d {wanted}. Leave -d out, or name "
            "another folder; to measure with its layer weights, set config keys downstream_expert.layers to "
            "weighted and .featurizer to this file."
        )
    return task


# --- The command line -----------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Reports a mistake as a MIError, instead of printing thirty options."""

    def error(self, message: str) -> NoReturn:
        prefix, _, unknown = message.partition("unrecognized arguments: ")
        if not prefix and unknown:
            options = [o for action in self._actions for o in action.option_strings]
            message += "." + nearest(unknown.split()[0].partition("=")[0], options, count=1)
        raise MIError(f"{message} (`{PROG} -h` shows all options)")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=min(110, shutil.get_terminal_size().columns))


def build_parser() -> argparse.ArgumentParser:
    """A parser with exactly s3prl's options, defaults, types and choices."""
    configs = Path(__file__).resolve().parent / "config.py"
    parser = _Parser(
        prog=PROG,
        usage=f"{PROG} -m {{train,evaluate,inference}} -d TASK -u UPSTREAM -n NAME [options]",
        description=_DESCRIPTION.format(configs=configs),
        formatter_class=_HelpFormatter,
    )
    group = parser.add_argument_group("what to run").add_argument
    group("-m", "--mode", choices=["train", "evaluate", "inference"], required=True)
    group("-d", "--downstream", help="the task: mi_views, mi_supervised, or any of s3prl's (asr, ctc, ...)")
    group("-v", "--downstream_variant", help="variant, for stock tasks that have some")
    group("-c", "--config", help="YAML file of the experiment; optional for mi_views and mi_supervised")
    group("-o", "--override", help="changes to the config, e.g. \"config.runner.seed=1,,args.device='cpu'\"")
    group("-t", "--evaluate_split", default="test", help="split that -m evaluate scores")

    group = parser.add_argument_group("upstream").add_argument
    group("-u", "--upstream", help="name of the upstream; `s3prl-mi upstreams` lists them")
    group(
        "-k",
        "--upstream_ckpt",
        metavar="{PATH,URL,GOOGLE_DRIVE_ID}",
        help="checkpoint of *_local, *_url, ...",
    )
    group(
        "-g", "--upstream_model_config", help="config file that some upstreams need beside their checkpoint"
    )
    group("-r", "--upstream_refresh", action="store_true", help="download the checkpoint again")
    group("-f", "--upstream_trainable", action="store_true", help="fine-tune (stock tasks only)")
    group("-s", "--upstream_feature_selection", default="hidden_states", help="key of the upstream's output")
    group("-l", "--upstream_layer_selection", type=int, help="one layer of that key, counted from 0")
    group("--upstream_feature_normalize", action="store_true", help="layer-normalise before the weighted sum")
    group("--hub", default="torch", choices=["torch", "huggingface"], help="where -u is looked up")
    group("--upstream_model_name", default="model.pt", help="file name in a repository of --hub huggingface")
    group("--upstream_revision", help="commit of a repository of --hub huggingface")

    group = parser.add_argument_group("experiment folder").add_argument
    group("-n", "--expname", help="save to result/downstream/EXPNAME")
    group("-p", "--expdir", help="save to this folder")
    group("-a", "--auto_resume", action="store_true", help="continue what is in the folder already")
    group("-e", "--past_exp", metavar="{CKPT_PATH,CKPT_DIR}", help="take arguments and config from there")
    group("-i", "--init_ckpt", metavar="CKPT_PATH", help="take weights from there (stock tasks)")
    group("--push_to_hf_hub", default=False, help="upload the folder at the end (stock tasks)")
    group("--hf_hub_org", help="to which organisation")

    group = parser.add_argument_group("machine").add_argument
    group("--device", default="cuda", help="cuda, cuda:1, cpu; the CPU is taken where there is no GPU")
    group("--seed", default=1337, type=int)
    group("--cache_dir", help="folder of torch.hub's downloads")
    group("--verbose", action="store_true", help="print more about the model")
    group("--disable_cudnn", action="store_true")
    group("--backend", default="nccl", help="of torch.distributed")
    group("--local_rank", type=int, help="set by torch.distributed's launcher; --local-rank is understood")
    return parser


def _underscored(word: str) -> str:
    """Since torch 2.0 the launcher passes --local-rank, which s3prl does not know."""
    return word.replace("--local-rank", "--local_rank", 1) if word.startswith("--local-rank") else word


def stock_tasks() -> list[str]:
    """The downstream tasks of the installed s3prl, without importing it."""
    found = compat.s3prl_folder() / "downstream"
    return sorted(path.parent.name for path in found.glob("*/expert.py"))


def _check_task(task: str | None) -> None:
    known = [*TASKS, *stock_tasks()]
    if task is None:
        raise MIError(f"-d is missing: which task? Tasks: {', '.join(known)}.")
    if task not in known:
        raise MIError(f"unknown task -d {task}.{nearest(task, known)} Tasks: {', '.join(known)}.")


def _is_full_disk(error: BaseException) -> bool:
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)


# --- Stock tasks ----------------------------------------------------------------------------------------


def _run_stock(args: argparse.Namespace, task: str, argv: list[str], checkpoint: Path | None) -> None:
    """Hand the command line to s3prl, with the device and the config that it would not find itself."""
    argv = list(argv)
    device = usable_device(args.device)
    if device != args.device:
        argv += ["--device", device]
    if checkpoint is not None and args.past_exp is None:
        argv += ["-e", str(checkpoint)]
    if args.config is None and checkpoint is None:
        argv += _stock_config(task)
    from s3prl import run_downstream

    before = sys.argv
    sys.argv = [PROG, *argv]
    try:
        run_downstream.main()
    finally:
        sys.argv = before


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


def usable_device(device: str) -> str:
    """The device to compute on: the CPU instead of a GPU that is not there, with one line that says so.

    Raises:
        MIError: no such device, or a GPU number beyond those of the machine.
    """
    import torch

    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise MIError(f"--device {device}: no such device; use cuda, cuda:<number> or cpu.") from error
    if wanted.type != "cuda":
        return device
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        print(f"No GPU found: using the CPU instead of --device {device}.", file=sys.stderr)
        return "cpu"
    if wanted.index is not None and wanted.index >= count:
        raise MIError(f"--device {device}: this machine has {count} GPU(s), numbered from 0.")
    return device


# --- Our tasks ------------------------------------------------------------------------------------------


def _run_ours(
    args: argparse.Namespace, task: str, checkpoint: Path | None, past: dict[str, Any] | None
) -> None:
    if int(os.environ.get("RANK", "0")) > 0:
        return  # started by torch.distributed: the measurement is one process, that of rank 0
    args.downstream = task
    _refuse_unsupported(args)
    args, config = _resolve(args, checkpoint, past)
    _check_ours(args)
    if past is None and args.mode == "evaluate":
        raise MIError(
            f"-m evaluate: {args.expdir} has no states-*.ckpt, so no finished experiment to score. "
            "Run it with -m train first (the same command with -a finishes one that was interrupted)."
        )
    args.device = usable_device(args.device)
    if args.cache_dir is not None:
        import torch

        torch.hub.set_dir(args.cache_dir)
    _log_to_screen()
    _save_command(args, config)
    _seed_everything(args.seed, args.disable_cudnn)
    importlib.import_module("s3prl_mi.experiment").run(args, config)


def _refuse_unsupported(args: argparse.Namespace) -> None:
    task = f"-d {args.downstream}"
    if args.mode == "inference":
        raise MIError(f"-m inference: {task} has no output for a single file; use -m train or -m evaluate.")
    if args.hub == "huggingface":
        raise MIError(
            f"--hub huggingface: not supported by {task}. For a model on the Hugging Face Hub use "
            "-u hf_hubert_custom -k organisation/name (or hf_wav2vec2_custom)."
        )
    if args.upstream_trainable:
        raise MIError(f"-f: {task} measures a frozen upstream; leave -f out.")
    if args.push_to_hf_hub not in (False, "False", "false", "None", "none"):
        raise MIError(f"--push_to_hf_hub: not supported by {task}; upload the folder with `hf upload`.")


def _check_ours(args: argparse.Namespace) -> None:
    if args.upstream is None:
        raise MIError(
            "-u is missing: which upstream? `s3prl-mi upstreams` lists them; a quick one is -u fbank."
        )


def _resolve(
    args: argparse.Namespace, checkpoint: Path | None, past: dict[str, Any] | None
) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Arguments and config in s3prl's order: command line and YAML, or a past experiment's; then -o."""
    if past is None:
        args.expdir = _expdir(args)
        if args.expdir is None:
            raise MIError("-n or -p is missing: where to save? -n NAME saves to result/downstream/NAME.")
        args.config = args.config or str(default_config(args.downstream))
        config = read_config(args.config)
    else:
        print(f"[Runner] - Resume from {checkpoint}", file=sys.stderr)
        args = _with_past(args, past["Args"])
        args.init_ckpt = str(checkpoint)
        config = past["Config"]
    if args.override is not None and args.override.lower() != "none":
        apply_override(args.override, args, config)
    return args, config


_KEPT = ("mode", "evaluate_split", "override", "backend", "local_rank", "past_exp", "device", "auto_resume")
"""Arguments that a past experiment does not overwrite: those of s3prl, and -a."""


def _with_past(args: argparse.Namespace, past: argparse.Namespace) -> argparse.Namespace:
    """Overwrite arguments by those of a past experiment.

    The folder stays the one that was named, if one was: an experiment folder may have been moved.
    """
    named = _expdir(args)
    merged = vars(args) | {key: value for key, value in vars(past).items() if key not in _KEPT}
    if named is not None:
        merged["expdir"] = named
    elif args.past_exp and Path(args.past_exp).is_dir():
        merged["expdir"] = args.past_exp
    return argparse.Namespace(**merged)


def _expdir(args: argparse.Namespace) -> str | None:
    if args.expdir is not None:
        return str(args.expdir)
    return None if args.expname is None else f"result/downstream/{args.expname}"


def _past_checkpoint(args: argparse.Namespace) -> Path | None:
    """The checkpoint that -e, -a or -m evaluate of our tasks stands for; None: a new experiment.

    Raises:
        MIError: -e names nothing, or a folder without checkpoints.
    """
    if args.past_exp:
        path = Path(args.past_exp)
        if path.is_file():
            return path
        found = latest_states(path)
        if found is None:
            what = "holds no states-*.ckpt" if path.is_dir() else "no such file or folder"
            raise MIError(f"-e {args.past_exp}: {what}.")
        return found
    folder = _expdir(args)
    maybe_ours = args.downstream is None or args.downstream in TASKS
    if folder is not None and (args.auto_resume or (args.mode == "evaluate" and maybe_ours)):
        return latest_states(Path(folder))
    return None


def latest_states(folder: Path) -> Path | None:
    """The states-<step>.ckpt of the highest step in a folder, or None."""
    steps = {int(p.stem[7:]): p for p in folder.glob("states-*.ckpt") if p.stem[7:].isdecimal()}
    return steps[max(steps)] if steps else None


def load_states(path: Path) -> dict[str, Any]:
    """Load a checkpoint of a downstream experiment, weights only.

    Returns:
        What s3prl's runner saves: at least `Args` (Namespace) and `Config` (dict).

    Raises:
        MIError: the file is not such a checkpoint, or is damaged.
    """
    compat.apply()
    import pickle

    import torch

    try:
        states = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MIError(
            f"{path}: not a checkpoint of a downstream experiment, or damaged ({first})."
        ) from error
    if not isinstance(states, dict) or not {"Args", "Config"} <= set(states):
        raise MIError(
            f"{path}: not a checkpoint of a downstream experiment (keys Args and Config are missing)."
        )
    return states


def read_config(path: str) -> dict[str, Any]:
    """Read an experiment's YAML file.

    Raises:
        MIError: no such file, not YAML, or not a mapping.
    """
    import yaml

    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise MIError(f"-c {path}: cannot be read ({getattr(error, 'strerror', None) or error}).") from error
    except yaml.YAMLError as error:
        raise MIError(f"-c {path}: not YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(config, dict):
        raise MIError(f"-c {path}: expected keys such as downstream_expert, found {type(config).__name__}.")
    return config


def apply_override(text: str, args: argparse.Namespace, config: dict[str, Any]) -> None:
    """Apply `-o "config.a.b=1,,args.device='cpu'"` in place, as s3prl does, but evaluating literals only.

    A value is a Python literal (1e-3, 'text', [1, 2], None), one of true, false, null, or else plain text.

    Raises:
        MIError: an item without `=`, or one that starts neither with `config.` nor with `args.`, or that
            goes below a key which holds no mapping.
    """
    for item in text.split(",,"):
        key, equals, value_text = (part.strip() for part in item.partition("="))
        first, *fields = key.split(".")
        if not equals or first not in ("args", "config") or not all(fields) or not fields:
            raise MIError(
                f"-o {item.strip()!r}: expected config.<key>.<key>=<value> or args.<name>=<value>, "
                "with ,, between several."
            )
        value = _literal(value_text)
        if first == "args":
            _override_args(args, fields, value, item)
        else:
            _override_config(config, fields, value, item)
        print(f"[Override] - {key} = {value}", file=sys.stderr)


def _override_args(args: argparse.Namespace, fields: Sequence[str], value: Any, item: str) -> None:
    if len(fields) != 1 or not hasattr(args, fields[0]):
        raise MIError(f"-o {item.strip()!r}: no such argument.{nearest('.'.join(fields), vars(args))}")
    setattr(args, fields[0], value)


def _override_config(config: dict[str, Any], fields: Sequence[str], value: Any, item: str) -> None:
    target = config
    for depth, field in enumerate(fields[:-1], start=1):
        if target.get(field) is None:
            target[field] = {}
        target = target[field]
        if not isinstance(target, dict):
            raise MIError(
                f"-o {item.strip()!r}: config.{'.'.join(fields[:depth])} is a value, not a section."
            )
    target[fields[-1]] = value


_WORDS = {"true": True, "false": False, "null": None}


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return _WORDS.get(text, text)


def _log_to_screen() -> None:
    """Show what the package has to say, as bare lines on stderr."""
    ours = logging.getLogger("s3prl_mi")
    if not ours.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        ours.addHandler(handler)
        ours.setLevel(logging.INFO)
        ours.propagate = False


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
        if _is_full_disk(error):
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


if __name__ == "__main__":
    sys.exit(main())
