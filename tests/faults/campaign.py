"""A fault campaign: each case does something bad and says what must come of it; a judge says what did.

A case is a name and a function of an empty folder. It returns where the program behaved, and raises `Wrong` where it
did not; any other exception is a traceback that a user would have seen. Code of a bad file makes the folder `MARKER`.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from tqdm import tqdm

from s3prl_mi.core.errors import MIError

Verdict = Literal["clean", "traceback", "silent", "executed", "hung"]
VERDICTS: tuple[Verdict, ...] = ("clean", "traceback", "silent", "executed", "hung")

MARKER = "executed"
"""Folder, below that of the case, that code of a bad file makes."""


@dataclass(frozen=True)
class Case:
    """One fault."""

    name: str
    act: Callable[[Path], Any]
    seconds: int = 600
    """After so many it hangs."""

    def __str__(self) -> str:
        return self.name


class Wrong(AssertionError):
    """The program misbehaved, in a way that has a name."""

    def __init__(self, verdict: Verdict, detail: str) -> None:
        super().__init__(f"{verdict}: {detail}")
        self.verdict, self.detail = verdict, detail


class _Hung(BaseException):
    """Time is over; no code that is tried catches it."""


def judge(case: Case, folder: Path) -> tuple[Verdict, str]:
    """Try one case in a folder that is made for it; what came of it, and details."""
    folder.mkdir(parents=True, exist_ok=True)
    verdict: Verdict = "clean"
    detail = ""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # nohup and & have them ignored
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    tqdm.set_lock(threading.RLock())  # a signal of an earlier case may have come while its lock of processes was taken
    try:
        screen = io.StringIO()
        with _limit(case.seconds), contextlib.redirect_stdout(screen), contextlib.redirect_stderr(screen):
            case.act(folder)
    except Wrong as error:
        verdict, detail = error.verdict, error.detail
    except _Hung:
        verdict, detail = "hung", f"over {case.seconds} s"
    except (Exception, SystemExit) as error:
        verdict, detail = "traceback", f"{type(error).__name__}: {error}"
    if (folder / MARKER).exists():
        verdict = "executed"
    return verdict, re.sub(r"\s+", " ", detail)[:300]


@contextlib.contextmanager
def _limit(seconds: int) -> Iterator[None]:
    def end(_signal: int, _frame: FrameType | None) -> None:
        raise _Hung

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refuses(call: Callable[[], Any], match: str = "") -> str:
    """Call what must be refused with one line in which `match` (a regular expression) is found; that line.

    Raises:
        Wrong: it was accepted, or the line says something else or is several.
    """
    try:
        result = call()
    except MIError as error:
        line = str(error)
    else:
        raise Wrong("silent", f"accepted: {result!r}"[:200])
    if "\n" in line or not re.search(match, line):
        raise Wrong("traceback", f"another message than {match!r}: {line}")
    return line


def command(words: Sequence[str]) -> tuple[int, str]:
    """Run `run_downstream.py` in this process: its exit status and what it printed.

    Raises:
        Wrong: an exception that a user would see as a traceback.
    """
    from s3prl_mi.cli.run_downstream import main

    return shown(lambda: main(list(words)))


def shown(main: Callable[[], int]) -> tuple[int, str]:
    """A command's exit status and what it prints.

    Raises:
        Wrong: an exception that a user would see as a traceback.
    """
    screen = io.StringIO()
    try:
        with contextlib.redirect_stderr(screen), contextlib.redirect_stdout(screen):
            status = main()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except Exception as error:
        raise Wrong("traceback", f"{type(error).__name__}: {error}") from error
    return status, screen.getvalue()


def command_refuses(words: Sequence[str], match: str = "") -> str:
    """Run a command that must end with one line `error: ...` in which `match` is found; that line."""
    status, screen = command(words)
    errors = [line for line in screen.splitlines() if line.startswith("error: ")]
    if status == 0:
        raise Wrong("silent", f"accepted; {screen[-200:]}")
    if status != 1 or len(errors) != 1 or "Traceback" in screen or not re.search(match, errors[0]):
        raise Wrong("traceback", f"status {status}, not one line with {match!r}: {screen[-300:]}")
    return errors[0]


class Executes:
    """Pickled, it is a call that makes a folder: what a crafted checkpoint does."""

    def __init__(self, folder: Path) -> None:
        self.marker = str(folder / MARKER)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.marker,)
