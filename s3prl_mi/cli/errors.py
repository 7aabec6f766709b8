"""What is promised when something goes wrong (`s3prl-mi explain faults`).

A mistake that you can fix ends in one line `error: ...` with the file, the value and the fix, and exit status 1. Where
one of s3prl's own tasks fails, the line names the file that holds its traceback (error.txt in the experiment's folder).

What survives
  Ctrl-C, SIGTERM, SIGUSR1, SIGHUP   end the run with the command that continues it (status 128 + signal)
  kill -9, power cut, full disk      the same command with -a ends with the same records, each once; hidden states
                                     that were not whole on the disk are extracted again
  one of several processes dies      the others end with a line; -a continues with any number of processes
  a second run in the same folder    ends with a line that names the first
  several runs on one store          what one run reads or writes no other run, and no `store clear`, removes

What is checked
  hidden states in the store         by CRC-32 whenever a run finds them; damaged ones are dropped and extracted again
  audio and alignments               by content: -a refuses files that changed and names them (mi_files.json)
  speech in both fit and eval        by content, whatever its paths and ids: refused
  checkpoint, settings, records      by hash or value; -a and -m evaluate refuse others, and what is damaged
  audio files                        cut short, unreadable, NaN: skipped and counted, up to datarc.max_unreadable;
                                     longer than datarc.max_seconds: left out and counted
  hidden states of an upstream       their frames must be as many as its geometry says; NaN is refused
A single flipped digit in a JSON file of results is not noticed.

What a checkpoint may do
  Nothing but give weights and plain values: no code in it is run, whatever the upstream, unless you add
  --trust_checkpoint; records then say checkpoint_trusted. A module of your own (--upstream_module) is code that you
  run: it loads as it says.

Where files are written
  result/downstream/<name> (-n) or -p   records, settings, fitted probes, figures
  the store                             `s3prl-mi explain store`
  ~/.cache/s3prl, ~/.cache/huggingface  downloads
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from ..core.distributed import ElsewhereError, World
from ..core.errors import MIError, is_full_disk, is_out_of_memory
from ..upstreams.checkpoints import one_line


def report_errors(action: Callable[[], int], again: str) -> int:
    """Run a command; its exit status: its own, 1 after a mistake that the user can fix, 130 after Ctrl-C,
    128 and its number after another signal that ends a run.

    What the user can fix becomes one line on stderr; `again` is the command line that continues after an interruption.
    """
    # Threads that spin for long while they wait make themselves and others many times slower on a busy machine
    # (measured: 122 s instead of 23 s next to one other process). Read when torch is loaded.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        with _ended_by_signals():
            return action()
    except ElsewhereError:  # another process prints it
        return 1
    except MIError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, _Ended) else signal.SIGINT
        what = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
        if World.of_launcher().local_rank == 0:
            print(f"\n{what}; to continue: {again}", file=sys.stderr)
        return 128 + number
    except BrokenPipeError:  # the reader of our output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, RuntimeError, MemoryError, ImportError) as error:  # torch reports a full disk as a RuntimeError
        if is_out_of_memory(error):
            print(
                f"error: out of memory ({one_line(error)}). Take fewer layers at a time (--store_mode recompute), less "
                "speech (config key downstream_expert.datarc.max_utterances), or smaller batches (batch_size); then "
                f"run again: {again}",
                file=sys.stderr,
            )
            return 1
        if not is_full_disk(error):
            if not isinstance(error, OSError) or error.filename is None:
                raise
            print(f"error: {error.filename}: {error.strerror}.", file=sys.stderr)
            return 1
        where = getattr(error, "filename", None) or "the disk of the experiment or of the store"
        print(
            f"error: no space left: {where}. Free some space and run again: {again}; "
            "other places: -p for the experiment, config key downstream_expert.store.root for hidden states.",
            file=sys.stderr,
        )
        return 1


class _Ended(KeyboardInterrupt):
    """A signal that ends the run as Ctrl-C does."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let what a cluster sends before it ends a job end it in order, where nobody else handles it.

    Whatever a library makes of the interruption (an ImportError, a destructor's message), the run ends by the signal.
    """
    ended: list[_Ended] = []

    def end(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # SLURM sends it to every process, and again
        if hasattr(signal, "SIGCHLD"):
            signal.signal(signal.SIGCHLD, lambda *_: None)  # torch takes a loader that ends now for an error
        ended.append(_Ended(signal.Signals(number)))
        raise ended[-1]

    def swallowed(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, _Ended):
            shown(unraisable)
            return
        number = unraisable.exc_value.number
        signal.signal(number, end)
        threading.Timer(0.05, os.kill, (os.getpid(), number)).start()  # once the destructor is over

    names = ("SIGTERM", "SIGUSR1", "SIGHUP")  # not every system has them
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    ours = threading.current_thread() is threading.main_thread()
    taken = [n for n in numbers if ours and signal.getsignal(n) == signal.SIG_DFL]
    for number in taken:
        signal.signal(number, end)
    shown, sys.unraisablehook = sys.unraisablehook, swallowed
    try:
        yield
    except BaseException as error:
        if ended and error is not ended[-1]:
            raise ended[-1] from error
        raise
    finally:
        sys.unraisablehook = shown
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
