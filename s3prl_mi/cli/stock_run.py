"""Stock tasks of s3prl: the command line is handed to s3prl's own runner."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..core.errors import MIError
from ..upstreams import compat
from ..upstreams.checkpoints import one_line
from ..upstreams.compat_checkpoints import trusting
from .options import PROG


def run_stock(args: argparse.Namespace, task: str, argv: list[str], checkpoint: Path | None, device: str) -> None:
    """Hand the command line to s3prl, with the device and the config that it would not find itself."""
    argv = list(argv)
    if device != args.device:
        argv += ["--device", device]
    if checkpoint is not None and args.past_exp is None:
        argv += ["-e", str(checkpoint)]
    if args.config is None and checkpoint is None:
        argv += _stock_config(task)
    ours = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    ours.add_argument("--upstream_module")  # s3prl does not know these
    ours.add_argument("--trust_checkpoint", action="store_true")
    argv = ours.parse_known_args(argv)[1]
    from s3prl import hub, run_downstream

    from ..upstreams.names import show_to_s3prl

    show_to_s3prl(hub)
    before = sys.argv
    sys.argv = [PROG, *argv]
    try:
        with trusting(args.trust_checkpoint):
            run_downstream.main()
    except MIError:
        raise
    except Exception as error:
        print(f"error: s3prl's task {task} has failed ({one_line(error)}); s3prl's traceback follows.", file=sys.stderr)
        raise
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
