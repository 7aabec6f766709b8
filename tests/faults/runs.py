"""Faults while a run works: signals, full disks, no memory, upstreams that misbehave."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import soundfile

from s3prl_mi.cli.errors import report_errors
from s3prl_mi.core import files
from s3prl_mi.experiment import fit
from s3prl_mi.upstreams import forward
from tests.faults.base import SETTINGS, again, command_refuses, fresh
from tests.faults.campaign import Case, Wrong, command, shown

TASKS = ("mi_supervised", "mi_views")
GRID: dict[str, Any] = {**SETTINGS, "layers": [0, 1], "seeds": 2}


def _same_in_the_end(folder: Path, task: str, model: str, interrupted: Callable[[list[str]], None]) -> None:
    """A run that is interrupted, then continued, ends with the records of one that was not."""
    run = fresh(folder)
    interrupted(run.command(task, model, **GRID))
    status, screen = command(again(run, task, model, **GRID))
    if status:
        raise Wrong("traceback", f"-a fails: {screen[-300:]}")
    if command(run.command(task, model, name="whole", **GRID))[0] or run.numbers() != run.numbers("whole"):
        raise Wrong("silent", "other records than of a run without interruption")


# --- signals ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _at(module: Any, name: str, number: int, act: Callable[[], object], last: float = 0) -> Iterator[None]:
    """Do something at the n-th call of a function; at all of them until the `last`."""
    original, calls = getattr(module, name), [0]

    def counted(*args: Any, **options: Any) -> Any:
        calls[0] += 1
        if number <= calls[0] <= max(number, last):
            act()
        return original(*args, **options)

    with mock.patch.object(module, name, counted):
        yield


def _signal(number: signal.Signals, where: tuple[Any, str], call: int, task: str, folder: Path) -> None:
    def interrupted(words: list[str]) -> None:
        with _at(*where, call, lambda: os.kill(os.getpid(), number)):
            try:
                status, screen = command(words)
            except KeyboardInterrupt:
                raise Wrong("traceback", "KeyboardInterrupt") from None
        if status != 128 + number or "to continue: run_downstream.py" not in screen:
            raise Wrong("traceback", f"status {status}: {screen[-200:]}")

    _same_in_the_end(folder, task, "hubert-base", interrupted)


class _Destroyed:
    """What a signal raises while this is destroyed nobody sees."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)


def _destroyed() -> None:
    _Destroyed()
    time.sleep(5)


def _lost_in_an_import() -> None:
    """What C code makes of an interruption of its import."""
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    except BaseException as error:
        raise ImportError("numpy.core.multiarray failed to import") from error


def _swallowed(action: Callable[[], object], folder: Path) -> None:
    status, screen = shown(lambda: report_errors(lambda: bool(action()), "the same"))
    if status != 128 + signal.SIGTERM or "to continue: the same" not in screen or "Traceback" in screen:
        raise Wrong("traceback", f"status {status}: {screen[-300:]}")


# --- a disk that is full ----------------------------------------------------------------------------------


def _full(number: int, task: str, folder: Path) -> None:
    def act() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/some/file")

    def interrupted(words: list[str]) -> None:
        with _at(files.os, "fsync", number, act):
            status, screen = command(words)
        if status and "error: no space left" not in screen:
            raise Wrong("traceback", screen[-300:])

    _same_in_the_end(folder, task, "hubert-base", interrupted)


# --- no memory --------------------------------------------------------------------------------------------

NO_MEMORY = {
    "Python": MemoryError(),
    "CPU": RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried ..."),
    "GPU": RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"),
}


def _no_memory(module: Any, name: str, number: int, error: BaseException, match: str, folder: Path) -> None:
    def act() -> None:
        raise error

    with _at(module, name, number, act, math.inf):  # a batch is tried again, in halves
        command_refuses(fresh(folder).command("mi_supervised", "hubert-base", **GRID), match)


def _long(folder: Path) -> None:
    run = fresh(folder)
    longest = max(soundfile.info(path).duration for path in run.corpus.audio.values())
    words = run.command("mi_supervised", "fbank", datarc__max_seconds=longest - 0.01, **SETTINGS)
    status, screen = command(words)
    if status or "1 utterance left out as longer than datarc.max_seconds" not in screen:
        raise Wrong("silent", screen[-300:])
    if not run.records()[0].utterances["skipped"]:
        raise Wrong("silent", "not counted")
    command_refuses(run.command("mi_supervised", "fbank", datarc__max_seconds=0.1), "max_seconds")


# --- audio ------------------------------------------------------------------------------------------------


def _half_a_wav(left: float, folder: Path) -> None:
    run = fresh(folder, copied=True)
    for path in run.corpus.audio.values():
        if "/eval/22/" in str(path):
            soundfile.write(path.with_suffix(".wav"), *soundfile.read(path))
            path.unlink()
            os.truncate(path.with_suffix(".wav"), int(left * path.with_suffix(".wav").stat().st_size))
    command_refuses(run.command("mi_supervised", "fbank", **SETTINGS), "cut short|empty")


def _other_units(factor: float, folder: Path) -> None:
    run = fresh(folder, copied=True)
    for path in run.corpus.alignments.rglob("*.TextGrid"):
        lines = path.read_text().splitlines()
        for i, line in enumerate(lines):
            if "xmin = " in line or "xmax = " in line:
                key, value = line.split(" = ")
                lines[i] = f"{key} = {float(value) * factor}"
        path.write_text("\n".join(lines))
    status, screen = command(run.command("mi_supervised", "fbank", **SETTINGS))
    if status == 0 and "are its times in seconds" not in screen:
        raise Wrong("silent", screen[-200:])


# --- an upstream of the user's own ------------------------------------------------------------------------

MODULE = """
import sys
import numpy, torch
from torch import nn
from s3prl_mi.upstreams import Family, Geometry

class Mine(nn.Module):
    calls = 0
    def forward(self, wavs):
        Mine.calls += 1
        n = [len(w) // 320 for w in wavs]
        x = torch.zeros(len(wavs), max(n), 4) + torch.arange(max(n))[None, :, None] % 7
        {forward}
        return {{"hidden_states": [x, x * 2]}}
    def get_downsample_rates(self, key):
        return 320

def mine(ckpt=None, **options):
    {factory}
    return Mine()

FAMILIES = {{"mine": Family("mine", view="shift", geometry=Geometry(320, 159.5, 320))}}
{module}
"""
FORWARD = {
    "raises": ("raise KeyError('lost')", "KeyError.*line 1[0-9] of mine.py"),
    "returns None": ("return None", "returns a NoneType"),
    "returns a list": ("return [x]", "returns a list"),
    "returns NumPy": ("return {'hidden_states': [x.numpy()] * 2}", "is a ndarray"),
    "returns a string": ("return {'hidden_states': ['x'] * 2}", "is a str"),
    "returns 2-D": ("return {'hidden_states': [x[0]] * 2}", "shape"),
    "returns another batch": ("return {'hidden_states': [x[:0]] * 2}", "shape"),
    "returns complex": ("return {'hidden_states': [x + 1j] * 2}", "complex64"),
    "half of the frames": ("x = x[:, ::2]", "frames where the audio has"),
    "twice the frames": ("x = x.repeat(1, 2, 1)", "frames where the audio has"),
    "NaN": ("x = x + float('nan')", "NaN"),
    "infinite": ("x = x + float('inf')", "NaN or infinite"),
    "other dimensions later": ("x = x[..., :3] if Mine.calls > 6 else x", "dimensions, then"),
    "other layers later": ("if Mine.calls > 6: return {'hidden_states': [x]}", "fewer layers"),
    "exits": ("sys.exit(3)", "SystemExit"),
    "no such key": ("return {'other': x}", "no output"),
    "constant": ("x = x * 0", ""),
}
FACTORY = {
    "raises": ("1 / 0", "ZeroDivisionError.*line 1[0-9] of mine.py"),
    "returns None": ("return None", "returns a NoneType"),
    "returns a function": ("return lambda x: x", "returns a function"),
    "exits": ("sys.exit('enough')", "SystemExit"),
}
IMPORT = {
    "raises": ("raise RuntimeError('no')", "RuntimeError"),
    "exits": ("sys.exit(0)", "SystemExit"),
    "no FAMILIES": ("del FAMILIES", "FAMILIES"),
    "no syntax": ("def", "SyntaxError"),
}


def _own(match: str, folder: Path, **parts: str) -> None:
    from s3prl_mi.upstreams import names

    code = {"forward": "pass", "factory": "pass", "module": "", **parts}
    (folder / "mine.py").write_text(MODULE.format(**code))
    run = fresh(folder)
    words = run.command("mi_supervised", "fbank", "--upstream_module", str(folder / "mine.py"), **GRID)
    words[words.index("fbank")] = "mine"
    with mock.patch.dict(names._OWN):
        if match:
            command_refuses(words, match)
        else:
            command(words)


CASES = [
    *(
        Case(f"{n.name} while probes are fitted, {t}", lambda f, n=n, t=t: _signal(n, (fit, "measure"), 2, t, f))
        for n, t in ((signal.SIGTERM, "mi_supervised"), (signal.SIGUSR1, "mi_views"))
    ),
    Case("SIGTERM in a destructor", lambda f: _swallowed(_destroyed, f)),
    Case("SIGTERM in an import", lambda f: _swallowed(_lost_in_an_import, f)),
    *(
        Case(f"disk full at write {n}, {t}", lambda f, n=n, t=t: _full(n, t, f))
        for n, t in ((3, TASKS[0]), (9, TASKS[1]))
    ),
    *(
        Case(
            f"no memory ({n}) in a forward pass",
            lambda f, e=e: _no_memory(forward, "_output_of", 6, e, r"out of memory in a forward pass.*\(\d.*max_s", f),
        )
        for n, e in NO_MEMORY.items()
    ),
    *(
        Case(f"no memory ({n}) for a probe", lambda f, e=e: _no_memory(fit, "measure", 1, e, "out of memory.*-a", f))
        for n, e in NO_MEMORY.items()
    ),
    Case("an utterance too long", _long),
    Case("half of a WAV", lambda f: _half_a_wav(0.5, f)),
    *(Case(f"times of alignments times {x}", lambda f, x=x: _other_units(x, f)) for x in (1e-3, 1e3)),
    *(Case(f"own forward {n}", lambda f, c=c, m=m: _own(m, f, forward=c)) for n, (c, m) in FORWARD.items()),
    *(Case(f"own function {n}", lambda f, c=c, m=m: _own(m, f, factory=c)) for n, (c, m) in FACTORY.items()),
    *(Case(f"own module {n}", lambda f, c=c, m=m: _own(m, f, module=c)) for n, (c, m) in IMPORT.items()),
]
LONG = [
    *(
        Case(f"{n.name} at {name} {call}, {t}", lambda f, n=n, w=(m, name), c=call, t=t: _signal(n, w, c, t, f))
        for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)
        for m, name, call in ((fit, "measure", 1), (fit, "save_probes", 2), (forward, "_output_of", 7))
        for t in TASKS
    ),
    *(Case(f"disk full at write {n}, {t}", lambda f, n=n, t=t: _full(n, t, f)) for n in range(1, 40) for t in TASKS),
    *(Case(f"a WAV cut to {left}", lambda f, left=left: _half_a_wav(left, f)) for left in (0, 0.01, 0.9, 0.999)),
    *(Case(f"times of alignments times {x}", lambda f, x=x: _other_units(x, f)) for x in (0.1, 0.25, 4, 60, 1e6)),
]
