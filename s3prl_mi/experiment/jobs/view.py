"""The jobs of a study on the screen: a block that is drawn anew, or plain lines where stderr is no terminal."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from ...core.types import Seconds


QUEUED, RUNNING, DONE, FAILED = STATES = ("queued", "running", "done", "failed")

_EVERY: Seconds = 60.0
"""Between two lines about progress where there is no terminal."""

_TAIL = 8192
_NOISE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Shown(Protocol):
    """What the view needs to know of a job."""

    @property
    def name(self) -> str:
        """Of the upstream or checkpoint."""

    @property
    def state(self) -> str:
        """One of `STATES`."""

    @property
    def why(self) -> str | None:
        """Why it failed, in one line."""

    @property
    def seconds(self) -> Seconds:
        """How long it has run."""

    @property
    def log(self) -> Path | None:
        """The file that it writes to, once it is submitted."""

    @property
    def where(self) -> str:
        """In words: its device, or its id on the cluster."""


class View:
    """Shows jobs while a command waits for them.

    Args:
        jobs: all of them; looked at anew at every `refresh`.
        stream: where to; default: stderr.
    """

    def __init__(self, jobs: Sequence[Shown], stream: TextIO | None = None) -> None:
        self._jobs, self._stream = jobs, stream or sys.stderr
        self._live = self._stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
        self._drawn = 0
        self._before: dict[str, str] = {}
        self._began = self._said = time.monotonic()

    def refresh(self) -> None:
        """Show what has changed."""
        if self._live:
            self._draw(self._block())
            return
        for job in self._jobs:
            if self._before.get(job.name, QUEUED) != job.state:
                self._stream.write(f"{job.name}: {_change(job)}\n")
            self._before[job.name] = job.state
        running = [job for job in self._jobs if job.state == RUNNING]
        if running and time.monotonic() - self._said > _EVERY:
            self._said = time.monotonic()
            self._stream.write("\n".join([self._counts(), *map(_row, running)]) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Leave the table of all jobs on the screen."""
        self._draw([])
        names = max(len(job.name) for job in self._jobs)
        for job in self._jobs:
            where = f"  {shortest(job.log)}" if job.log else ""
            self._stream.write(f"  {job.state:<7}  {job.name:<{names}}  {clock(job.seconds):>8}{where}\n")
        self._stream.flush()

    def _counts(self) -> str:
        found = [job.state for job in self._jobs]
        counts = ", ".join(f"{found.count(s)} {s}" for s in (DONE, RUNNING, QUEUED, FAILED) if s in found)
        return f"jobs: {counts} ({clock(time.monotonic() - self._began)})"

    def _block(self) -> list[str]:
        """One line a job, as many as the terminal holds: failed ones last, where they are read."""
        size = shutil.get_terminal_size()
        rows = [_row(job) for state in (RUNNING, FAILED) for job in self._jobs if job.state == state]
        queued = [job.name for job in self._jobs if job.state == QUEUED]
        lines = [self._counts(), *rows]
        if queued:
            lines.append(f"  {QUEUED:<7}  {', '.join(queued)}")
        if len(lines) > size.lines - 1:
            lines = [*lines[: size.lines - 2], f"  ... and {len(lines) - size.lines + 2} more"]
        return [line[: size.columns - 1] for line in lines]

    def _draw(self, lines: Sequence[str]) -> None:
        if self._drawn:
            self._stream.write(f"\x1b[{self._drawn}F\x1b[J")
        self._stream.writelines(f"{line}\n" for line in lines)
        self._stream.flush()
        self._drawn = len(lines)


def _row(job: Shown) -> str:
    if job.state == FAILED:
        return f"  {FAILED:<7}  {job.name}: {job.why} (log: {shortest(job.log)})"
    return f"  {job.state:<7}  {job.name}  {clock(job.seconds)}  {progress(job.log)}"


def _change(job: Shown) -> str:
    log = f" (log: {shortest(job.log)})" if job.log else ""
    if job.state == RUNNING:
        return f"running {job.where}{log}"
    if job.state == FAILED:
        return f"failed: {job.why}{log}"
    return f"{job.state} in {clock(job.seconds)}" if job.state == DONE else job.state


def clock(seconds: Seconds) -> str:
    """A duration as on a clock.

    Example:
        >>> clock(75), clock(7384)
        ('1:15', '2:03:04')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def progress(log: Path | None) -> str:
    """The last line of a log that says something: of a progress bar, how it stood last."""
    if log is None:
        return ""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [_NOISE.sub("", line).strip() for line in re.split(r"[\r\n]+", text)]
    return next((line for line in reversed(lines) if line and not line.startswith("submitit ")), "starting")


def shortest(path: Path | None) -> str:
    """A path as a person would write it from where they are."""
    if path is None:
        return "none"
    near = os.path.relpath(path)
    return str(path) if near.startswith("..") else near
