"""Arguments and config of a run: command line and YAML, or those of a past experiment; then `-o`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.config import TASKS, default_config, literal, packaged_configs
from ..core.distributed import World
from ..core.errors import MIError, nearest
from ..upstreams.s3prl_states import latest_states


def resolve(
    args: argparse.Namespace, checkpoint: Path | None, past: dict[str, Any] | None
) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Arguments and config in s3prl's order: command line and YAML, or a past experiment's; then -o."""
    if past is None:
        args.expdir = new_expdir(args)
        args.config = args.config or str(default_config(args.downstream))
        config = read_config(args.config)
    else:
        print(f"[Runner] - Resume from {checkpoint}", file=sys.stderr)
        args = _with_past(args, past["Args"])
        args.init_ckpt = str(checkpoint)
        config = past["Config"]
    apply_override(args.override, args, config)
    return args, config


def read_config(path: str) -> dict[str, Any]:
    """Read an experiment's YAML file; `paper_table2_mlm` stands for the file of that name that this package brings.

    Its key `base` names another config, of which it holds only what differs.

    Raises:
        MIError: no such file, not YAML, or not a mapping.
    """
    import yaml

    if not Path(path).exists() and path in packaged_configs():
        path = str(packaged_configs()[path])
    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise MIError(f"-c {path}: cannot be read ({getattr(error, 'strerror', None) or error}).") from error
    except yaml.YAMLError as error:
        raise MIError(f"-c {path}: not YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(config, dict):
        raise MIError(f"-c {path}: expected keys such as downstream_expert, found {type(config).__name__}.")
    base = config.pop("base", None)
    if base in (path, Path(path).stem):
        raise MIError(f"-c {path}: its base is itself.")
    return config if base is None else _merged(read_config(str(base)), config)


def _merged(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A config with changes, section by section."""
    both = {k: (base[k], v) for k, v in changes.items() if isinstance(base.get(k), dict) and isinstance(v, Mapping)}
    return {**base, **changes, **{key: _merged(old, new) for key, (old, new) in both.items()}}


# --- A past experiment --------------------------------------------------------------------------------------

_KEPT = (
    *("mode", "evaluate_split", "override", "backend", "local_rank", "past_exp", "device", "auto_resume"),
    *("max_store_gb", "store_mode", "precision"),
)
"""Arguments that a past experiment does not overwrite: those of s3prl, -a, where hidden states lie, and their precision
(another one is refused)."""


_SAME_MODEL = {"-u": "upstream", "-k": "upstream_ckpt", "-l": "upstream_layer_selection"}
"""Options that may be repeated when a finished experiment is continued, but not changed."""


def _with_past(args: argparse.Namespace, past: argparse.Namespace) -> argparse.Namespace:
    """Overwrite arguments by those of a past experiment.

    The folder stays the one that was named, if one was: an experiment folder may have been moved.

    Raises:
        MIError: another upstream, checkpoint or layer than that of the past experiment is asked for.
    """
    named = expdir_of(args)
    for option, key in _SAME_MODEL.items():
        asked, begun = getattr(args, key), getattr(past, key, None)
        if asked is not None and asked != begun:
            raise MIError(
                f"{option} {asked}: {named or args.past_exp} was measured with {option} {begun}. Use another "
                f"experiment name (-n), or leave {option} out."
            )
    merged = vars(args) | {key: value for key, value in vars(past).items() if key not in _KEPT}
    if named is not None:
        merged["expdir"] = named
    elif args.past_exp and Path(args.past_exp).is_dir():
        merged["expdir"] = args.past_exp
    return argparse.Namespace(**merged)


def expdir_of(args: argparse.Namespace) -> str | None:
    """The experiment's folder by -p or -n, or None."""
    for option, value in (("-p", args.expdir), ("-n", args.expname)):
        if value is not None and not str(value).strip():
            raise MIError(f"{option} {value!r}: an empty name; results need a folder of their own.")
    folder = f"result/downstream/{args.expname}" if args.expdir is None else str(args.expdir)
    if Path(folder).is_file():
        raise MIError(f"experiment folder {folder}: is a file; name another place with -n or -p.")
    return None if args.expdir is None and args.expname is None else folder


def new_expdir(args: argparse.Namespace) -> str:
    """The same, where there must be one."""
    folder = expdir_of(args)
    if folder is None:
        raise MIError("-n or -p is missing: where to save? -n NAME saves to result/downstream/NAME.")
    return folder


def past_checkpoint(args: argparse.Namespace) -> Path | None:
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
    folder = expdir_of(args)
    maybe_ours = args.downstream is None or args.downstream in TASKS
    if folder is not None and (args.auto_resume or (args.mode == "evaluate" and maybe_ours)):
        return latest_states(Path(folder))
    return None


# --- -o -----------------------------------------------------------------------------------------------------


def apply_override(text: str | None, args: argparse.Namespace, config: dict[str, Any], show: bool = True) -> None:
    """Apply `-o "config.a.b=1,,args.device='cpu'"` in place, as s3prl does, but evaluating literals only.

    Args:
        text: the option's value.
        args: changed in place.
        config: changed in place.
        show: print each change, as s3prl does.

    Raises:
        MIError: an item without `=`, or one that starts neither with `config.` nor with `args.`, or that
            goes below a key which holds no mapping.
    """
    for item in text.split(",,") if text is not None and text.lower() != "none" else ():
        key, equals, value_text = (part.strip() for part in item.partition("="))
        first, *fields = key.split(".")
        if not equals or first not in ("args", "config") or not all(fields) or not fields:
            raise MIError(
                f"-o {item.strip()!r}: expected config.<key>.<key>=<value> or args.<name>=<value>, "
                "with ,, between several."
            )
        value = literal(value_text)
        if first == "args":
            if len(fields) != 1 or not hasattr(args, fields[0]):
                raise MIError(f"-o {item.strip()!r}: no such argument.{nearest('.'.join(fields), vars(args))}")
            setattr(args, fields[0], value)
        else:
            target = config
            for depth, field in enumerate(fields[:-1], start=1):
                if target.get(field) is None:
                    target[field] = {}
                target = target[field]
                if not isinstance(target, dict):
                    raise MIError(f"-o {item.strip()!r}: config.{'.'.join(fields[:depth])} is a value, not a section.")
            target[fields[-1]] = value
        if show and World.of_launcher().rank == 0:
            print(f"[Override] - {key} = {value}", file=sys.stderr)
