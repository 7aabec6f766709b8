"""s3prl's own script for its own tasks, with our messages, our upstreams and hidden states from the store."""

from __future__ import annotations

import argparse
import builtins
import contextlib
import functools
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..core.config import StoreConfig
from ..core.errors import MIError, is_full_disk, is_out_of_memory, keep_traceback
from ..states.store import Store, default_root
from ..upstreams.checkpoints import one_line
from ..upstreams.compat_checkpoints import trusting
from ..upstreams.loading import explained
from ..upstreams.names import show_to_s3prl
from .reuse import reusing


def run(args: argparse.Namespace, task: str, words: Sequence[str], folder: Path) -> bool:
    """Run it; whether all hidden states were those of the store.

    Args:
        args: all arguments.
        task: its task, for messages.
        words: the command line that s3prl reads, with the program's name.
        folder: takes the traceback of what fails.

    Raises:
        MIError: it fails.
    """
    from s3prl import hub, run_downstream

    show_to_s3prl(hub)
    messages, entry = logging.getLogger(), getattr(hub, args.upstream or "", None)
    with contextlib.ExitStack() as stack:
        stack.callback(setattr, messages, "handlers", messages.handlers[:])  # s3prl shows those of all libraries
        stack.callback(messages.setLevel, messages.level)
        stack.callback(setattr, builtins, "isinstance", isinstance)  # s3prl puts a function of its own there
        stack.callback(setattr, sys, "argv", sys.argv)
        stack.enter_context(trusting(args.trust_checkpoint))
        sys.argv = list(words)
        if entry is not None:
            stack.callback(setattr, hub, args.upstream, entry)
            setattr(hub, args.upstream, _with_messages(args.upstream, entry))
        if args.reuse_states:
            config = vars(args).get("store") or StoreConfig()  # that of a study
            root = Path(config.root).expanduser() if config.root else default_root()
            gigabytes = config.max_gb if args.max_store_gb is None else args.max_store_gb
            stack.callback(setattr, run_downstream, "Runner", run_downstream.Runner)
            run_downstream.Runner = reusing(run_downstream.Runner, Store(root, int(gigabytes * 1e9)))
        try:
            run_downstream.main()
        except Exception as error:
            if isinstance(error, MIError) or is_out_of_memory(error) or is_full_disk(error):
                raise
            trace = keep_traceback(folder)
            raise MIError(f"s3prl's task {task} has failed ({one_line(error)}); its traceback: {trace}.") from error
        served = run_downstream.Runner.served if args.reuse_states else None
        return served is not None and served.stock == 0


def _with_messages(name: str, entry: Callable[..., Any]) -> Callable[..., Any]:
    """An upstream's function that says what is wrong where it fails, as in our own tasks."""

    @functools.wraps(entry)
    def build(*words: Any, **options: Any) -> Any:
        with explained(name, options.get("ckpt"), options.get("model_config")):
            return entry(*words, **options)

    return build
