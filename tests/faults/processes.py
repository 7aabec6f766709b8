"""Processes that are killed, two in one folder or store, ranks that die, networks that swallow packets."""

from __future__ import annotations

import functools
import os
import random
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import psutil
import torch

from s3prl_mi.cli.main import main as s3prl_mi
from s3prl_mi.cli.run_downstream import main
from s3prl_mi.core.files import PACKAGE
from s3prl_mi.experiment import fit, run
from s3prl_mi.results.record import read_records
from s3prl_mi.states import extraction
from s3prl_mi.states.store import Store
from s3prl_mi.upstreams import loading
from tests.faults.base import SETTINGS, fresh, scratch
from tests.faults.campaign import Case, Wrong, command, refuses
from tests.faults.runs import TASKS
from tests.helpers.processes import torchrun
from tests.helpers.store import ORDER, add, open_writer

MODEL = "hubert-base"
WORK: dict[str, Any] = {**SETTINGS, "layers": [0, 1], "probes": ["logistic", "mlp"]}


PHASES: dict[str, tuple[Any, str]] = {
    "extraction": (extraction, "_extract"),
    "probes": (fit, "fit_point"),
    "tables": (run, "write_all"),
}
"""Phase -> what is called when it begins, once or more."""


def _forked(words: list[str], screen: Path, calls: int | None = None, **environment: str) -> int:
    """Begin a command in a process of its own, which has imported everything; its id.

    Args:
        words: the command line.
        screen: file for what it prints.
        calls: pipe that takes the number of each phase as it begins.
        environment: more variables.
    """
    pid = os.fork()
    if pid:
        return pid
    status = 9
    try:
        out = os.open(screen, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1), os.dup2(out, 2)
        sys.stdout = sys.stderr = open(1, "w", buffering=1, closefd=False)
        os.environ.update(environment)
        for number, (module, name) in enumerate(PHASES.values() if calls is not None else ()):
            setattr(module, name, _noted(getattr(module, name), calls, number))
        status = main(words)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def _noted(function: Callable[..., Any], pipe: int, number: int) -> Callable[..., Any]:
    def noted(*args: Any, **options: Any) -> Any:
        os.write(pipe, bytes([number]))
        return function(*args, **options)

    return noted


def _ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _begun(words: list[str], screen: Path) -> tuple[int, int]:
    """A process, and the pipe that tells its phases; it ends with the process."""
    calls, there = os.pipe()
    pid = _forked(words, screen, there)
    os.close(there)
    return pid, calls


class _Whole(NamedTuple):
    """A run that nothing disturbs: folder, seconds, and its phases with the seconds that each took."""

    folder: Path
    seconds: float
    phases: list[tuple[int, float]]


@functools.cache
def _whole(kind: str) -> _Whole:
    folder = scratch() / kind
    folder.mkdir(exist_ok=True)
    began = time.monotonic()
    pid, calls = _begun(WORDS[kind](fresh(folder), "whole", str(folder / "store")), folder / "screen.txt")
    found = []
    while phase := os.read(calls, 1):
        found.append((phase[0], time.monotonic()))
    os.close(calls)
    if _ended(pid):
        raise Wrong("traceback", (folder / "screen.txt").read_text()[-300:])
    ends = [*(at for _, at in found[1:]), time.monotonic()]
    phases = [(phase, end - at) for (phase, at), end in zip(found, ends, strict=True)]
    return _Whole(folder / "whole", ends[-1] - began, phases)


def _killed(seed: int, kind: str, phase: str, folder: Path) -> None:
    """kill -9 at a random moment of a phase, half of the times twice; then -a."""
    draw, runner, whole = random.Random(f"{seed} {phase}"), fresh(folder), _whole(kind)
    store, number = str(folder / "store"), list(PHASES).index(phase)
    for _ in range(1 + seed % 2):
        more = ["-a"] if (folder / "killed").exists() else []
        which = draw.choice([n for n, (p, _) in enumerate(whole.phases) if p == number])
        pid, calls = _begun(WORDS[kind](runner, "killed", store, *more), folder / "screen.txt")
        for _ in range(which + 1):
            os.read(calls, 1)  # at the end of the process at once
        time.sleep(draw.random() * whole.phases[which][1])
        os.kill(pid, signal.SIGKILL)
        os.close(calls)
        _ended(pid)
    _continued(kind, folder, whole)


def _continued(kind: str, folder: Path, whole: _Whole) -> None:
    """-a ends with the records of a run that nothing disturbs."""
    status, screen = command(WORDS[kind](fresh(folder), "killed", str(folder / "store"), "-a"))
    if status:
        raise Wrong("traceback", screen[-300:])
    _same_records(folder / "killed", whole.folder)


def _same_records(one: Path, other: Path) -> None:
    """The same estimates in two folders, each once; at any depth, for studies."""
    found = []
    for top in (one, other):
        records = {}
        for path in sorted(top.rglob("mi_results.jsonl")):
            for r in read_records(path):
                key = (path.relative_to(top), r.identity())
                if key in records:
                    raise Wrong("silent", f"{key} is repeated")
                records[key] = (r.mi_lower_bound_bits, r.cross_entropy_bits, r.accuracy, r.ci_low_bits)
        found.append(records)
    if found[0] != found[1] or not found[0]:
        raise Wrong("silent", f"{len(found[0])} records, not the {len(found[1])} of a whole run")


def _one(task: str) -> Callable[..., list[str]]:
    return lambda runner, name, store, *more: runner.command(task, MODEL, *more, name=name, store__root=store, **WORK)


def _study(runner: Any, name: str, store: str, *more: str) -> list[str]:
    words = runner.command("mi_views", MODEL, *more, name=name, store__root=store, **SETTINGS)
    upstream, file = runner.checkpoint(MODEL)
    at = words.index("-k")
    words[at - 1], words[at + 1] = f"fbank,{upstream}={file}", ""
    return [*words[:at], *words[at + 2 :]]


WORDS: dict[str, Callable[..., list[str]]] = {**{task: _one(task) for task in TASKS}, "a study": _study}


def _two(folder: Path) -> None:
    """Two runs of one command at once: one ends with a line, or finds nothing left to do."""
    words = WORDS["mi_views"](fresh(folder), "killed", str(folder / "store"), "-a")
    pids = [_forked(words, folder / f"{n}.txt") for n in range(2)]
    ends = [_ended(pid) for pid in pids]
    texts = [(folder / f"{n}.txt").read_text() for n in range(2)]
    if sorted(ends) not in ([0, 0], [0, 1]) or (1 in ends and "another run writes there" not in texts[ends.index(1)]):
        raise Wrong("traceback", f"{ends} {texts[0][-150:]} {texts[1][-150:]}")
    _same_records(folder / "killed", _whole("mi_views").folder)


def _shared_store(folder: Path) -> None:
    """Two tasks on one store at once, while somebody clears it again and again."""
    runner = fresh(folder)
    store = str(folder / "store")
    pids = {t: _forked(WORDS[t](runner, f"killed-{t}", store), folder / f"{t}.txt") for t in TASKS}
    running = set(pids.values())
    while running:
        s3prl_mi(["store", "clear", "--root", store])
        running -= {pid for pid in running if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)}
        time.sleep(0.05)
    for task, pid in pids.items():
        text = (folder / f"{task}.txt").read_text() if (folder / f"{task}.txt").exists() else ""
        if (status := _ended(pid)) == 1 and "error: " in text and "Traceback" not in text:
            command(WORDS[task](runner, f"killed-{task}", store, "-a"))
        elif status:
            raise Wrong("traceback", f"{status}: {text[-300:]}")
        _same_records(folder / f"killed-{task}", _whole(task).folder)


def _cleared_while_written(folder: Path) -> None:
    store = Store(folder / "store", 10**9)
    with open_writer(store) as writer:
        add(writer, ORDER[:2])
        s3prl_mi(["store", "clear", "--root", str(store.root)])
        add(writer, ORDER[2:])
        if writer.finish().layer(0)[:].shape[0] != 77:
            raise Wrong("silent", "frames are missing")
    if left := list(store.root.rglob("*.lock")):
        raise Wrong("silent", f"lock files stay: {left}")


PATIENCE = 10.0
"""Seconds from SIGTERM to SIGKILL; torchrun waits for 30."""


def _dead_rank(seed: int, folder: Path) -> None:
    """Two processes, one of which is killed; the other is sent SIGTERM and then SIGKILL, as by torchrun. Then -a."""
    draw, whole = random.Random(seed), _whole("mi_views")
    words = WORDS["mi_views"](fresh(folder), "killed", str(folder / "store"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    pids = [
        _forked(
            words, folder / f"{r}.txt", RANK=str(r), LOCAL_RANK=str(r), TORCHELASTIC_USE_AGENT_STORE="True", **world
        )
        for r in range(2)
    ]
    store = torch.distributed.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    time.sleep(draw.uniform(0.02, 1.2) * whole.seconds)
    os.kill(pids[seed % 2], signal.SIGKILL)
    time.sleep(draw.choice([0, 0.1, 1]))
    os.kill(pids[1 - seed % 2], signal.SIGTERM)
    for pid in pids:
        deadline = time.monotonic() + PATIENCE
        while not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)  # one that waits in gloo for a rank that never came hears no signal
        _ended(pid)
    del store
    if "Traceback" in (text := (folder / f"{1 - seed % 2}.txt").read_text()) or text.count("repeats no finished") > 1:
        raise Wrong("traceback", text[-300:])
    _continued("mi_views", folder, whole)


def _torchrun(rank: int, after: float, folder: Path) -> None:
    """As a user starts them."""
    words = WORDS["mi_views"](fresh(folder), "killed", str(folder / "store"))
    launcher: Any = torchrun(2, "s3prl_mi.run_downstream", *words, start=True)
    began = time.monotonic()
    while len(children := psutil.Process(launcher.pid).children()) < 2 or time.monotonic() - began < after:
        time.sleep(0.05)
        if launcher.poll() is not None:
            break
    else:
        sorted(children, key=lambda p: p.pid)[rank].kill()
    _, screen = launcher.communicate(timeout=100)
    if f'File "{PACKAGE}' in screen:  # the launcher always shows a traceback of its own
        raise Wrong("traceback", screen[-300:])
    _continued("mi_views", folder, _whole("mi_views"))


def _swallowed(folder: Path) -> None:
    """A server that takes a connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server, mock.patch.object(loading, "NETWORK_TIMEOUT", 0.3):
        url = f"http://127.0.0.1:{server.getsockname()[1]}/x.pt"
        from s3prl.util import download

        with mock.patch.object(download, "_download_dir", folder):
            refuses(lambda: loading.load_upstream("hubert_url", url), f"downloading {url} failed")


CASES = [
    Case("a network that swallows packets", _swallowed, 60),
    Case("store clear while an entry is written", _cleared_while_written),
    *(
        Case(f"kill -9 while {p}, {t}", lambda f, t=t, p=p: _killed(1, t, p, f))
        for t, p in zip(TASKS, PHASES, strict=False)
    ),
    Case("two runs in one folder", _two),
    Case("one of two processes dies", lambda f: _dead_rank(3, f)),
]
LONG = [
    *(
        Case(f"kill -9 while {p}, moment {n}, {t}", lambda f, n=n, t=t, p=p: _killed(n, t, p, f))
        for t in WORDS
        for p in PHASES
        for n in range(20)
    ),
    *(Case(f"two runs in one folder, {n}", _two) for n in range(5)),
    *(Case(f"two tasks on a store that is cleared, {n}", _shared_store) for n in range(5)),
    *(Case(f"one of two processes dies, moment {n}", lambda f, n=n: _dead_rank(n, f)) for n in range(40)),
    *(
        Case(f"torchrun, rank {r} dies after {s} s", lambda f, r=r, s=s: _torchrun(r, s, f))
        for r, s in ((0, 4), (1, 7))
    ),
]
