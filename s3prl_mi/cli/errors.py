"""What a command prints where it fails: one line, and how to continue after an interruption."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

from ..core.distributed import ElsewhereError, World
from ..core.errors import MIError


def report_errors(action: Callable[[], int], again: str) -> int:
    """Run a command; its exit status: its own, 1 after a mistake that the user can fix, 130 after Ctrl-C.

    What the user can fix becomes one line on stderr; `again` is the command line that continues after an interruption.
    """
    # Threads that spin for long while they wait make themselves and others many times slower on a busy machine
    # (measured: 122 s instead of 23 s next to one other process). Read when torch is loaded.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        return action()
    except ElsewhereError:  # another process prints it
        return 1
    except MIError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if World.of_launcher().local_rank == 0:
            print(f"\ninterrupted; to continue: {again}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        if not is_full_disk(error):
            raise
        where = getattr(error, "filename", None) or "the disk of the experiment or of the store"
        print(
            f"error: no space left: {where}. Free some space and run again: {again}; "
            "other places: -p for the experiment, config key downstream_expert.store.root for hidden states.",
            file=sys.stderr,
        )
        return 1


def is_full_disk(error: BaseException) -> bool:
    """Whether this is about a disk without space, or a quota that is used up."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
