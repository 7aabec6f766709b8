"""Processes that are killed, two in one folder or store, ranks that die, networks that swallow packets."""

from __future__ import annotations

import functools
import os
import random
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from s3prl_mi.cli.main import main as s3prl_mi
from s3prl_mi.results.record import read_records
from s3prl_mi.states.store import Store
from s3prl_mi.upstreams import loading
from tests.faults.base import fresh, scratch
from tests.faults.campaign import Case, Wrong, command, refuses
from tests.faults.runs import GRID, TASKS
from tests.helpers.processes import torchrun
from tests.helpers.store import ORDER, add, open_writer

MODEL = "hubert-base"
WORK: dict[str, Any] = {**GRID, "layers": [0, 1, 2], "probes": ["logistic", "mlp"]}


def _forked(words: list[str], screen: Path | None = None) -> int:
    """Begin a command in a process of its own, which has imported everything; its id."""
    pid = os.fork()
    if pid == 0:
        status = 9
        try:
            status, text = command(words)
            if screen is not None:
                screen.write_text(text)
        finally:
            os._exit(status)
    return pid


def _ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@functools.cache
def _whole(kind: str) -> tuple[Path, float]:
    """Folder of a run that nothing disturbs, and how many seconds it takes."""
    folder = scratch() / kind
    began = time.monotonic()
    if _ended(_forked(WORDS[kind](fresh(folder), "whole", str(folder / "store")), folder / "whole.txt")):
        raise Wrong("traceback", (folder / "whole.txt").read_text()[-300:])
    return folder / "whole", time.monotonic() - began


def _killed(seed: int, kind: str, folder: Path) -> None:
    """kill -9 at a random moment, half of the times twice; then -a."""
    draw, run, words = random.Random(seed), fresh(folder), WORDS[kind]
    whole, seconds = _whole(kind)
    for _ in range(1 + seed % 2):
        pid = _forked(words(run, "killed", str(folder / "store"), *(["-a"] if (folder / "killed").exists() else [])))
        time.sleep(draw.uniform(0.02, 1) * seconds)
        os.kill(pid, signal.SIGKILL)
        _ended(pid)
    status, screen = command(words(run, "killed", str(folder / "store"), "-a"))
    if status:
        raise Wrong("traceback", screen[-300:])
    _same_records(folder / "killed", whole)


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
    return lambda run, name, store, *more: run.command(task, MODEL, *more, name=name, store__root=store, **WORK)


def _study(run: Any, name: str, store: str, *more: str) -> list[str]:
    words = run.command("mi_views", MODEL, *more, name=name, store__root=store, **{**WORK, "layers": [0]})
    upstream, file = run.checkpoint(MODEL)
    at = words.index("-k")
    words[at - 1], words[at + 1] = f"fbank,{upstream}={file}", ""
    words[words.index("mi_views")] = "mi_views,mi_supervised"
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
    _same_records(folder / "killed", _whole("mi_views")[0])


def _shared_store(folder: Path) -> None:
    """Two tasks on one store at once, while somebody clears it again and again."""
    run = fresh(folder)
    store = str(folder / "store")
    pids = {t: _forked(WORDS[t](run, f"killed-{t}", store), folder / f"{t}.txt") for t in TASKS}
    running = set(pids.values())
    while running:
        s3prl_mi(["store", "clear", "--root", store])
        running -= {pid for pid in running if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)}
        time.sleep(0.05)
    for task, pid in pids.items():
        text = (folder / f"{task}.txt").read_text() if (folder / f"{task}.txt").exists() else ""
        if (status := _ended(pid)) == 1 and "error: " in text and "Traceback" not in text:
            command(WORDS[task](run, f"killed-{task}", store, "-a"))
        elif status:
            raise Wrong("traceback", f"{status}: {text[-300:]}")
        _same_records(folder / f"killed-{task}", _whole(task)[0])


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


def _dead_rank(rank: int, after: float, folder: Path) -> None:
    """Two processes, one of which is killed; then -a with one."""
    import psutil

    run = fresh(folder)
    words = WORDS["mi_views"](run, "killed", str(folder / "store"))
    launcher: Any = torchrun(2, "s3prl_mi.run_downstream", *words, start=True)
    began = time.monotonic()
    while len(children := psutil.Process(launcher.pid).children()) < 2 or time.monotonic() - began < after:
        time.sleep(0.05)
        if launcher.poll() is not None:
            break
    else:
        sorted(children, key=lambda p: p.pid)[rank].kill()
    _, screen = launcher.communicate(timeout=100)
    if 'File "' in screen and "/s3prl_mi/" in screen:  # the launcher always shows a traceback of its own
        raise Wrong("traceback", screen[-300:])
    status, screen = command(WORDS["mi_views"](run, "killed", str(folder / "store"), "-a"))
    if status:
        raise Wrong("traceback", screen[-300:])
    _same_records(folder / "killed", _whole("mi_views")[0])


def _swallowed(folder: Path) -> None:
    """A server that takes a connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server, mock.patch.object(loading, "NETWORK_TIMEOUT", 0.3):
        url = f"http://127.0.0.1:{server.getsockname()[1]}/x.pt"
        from s3prl.util import download

        with mock.patch.object(download, "_download_dir", folder):
            refuses(lambda: loading.load_upstream("hubert_url", url), f"downloading {url} failed")


CASES = [
    Case("a network that swallows packets", _swallowed, 20),
    Case("store clear while an entry is written", _cleared_while_written),
    *(Case(f"kill -9, {t}", lambda f, t=t: _killed(1, t, f), 200) for t in TASKS),
    Case("two runs in one folder", _two, 200),
]
LONG = [
    *(Case(f"kill -9 at moment {n}, {t}", lambda f, n=n, t=t: _killed(n, t, f), 300) for t in WORDS for n in range(20)),
    *(Case(f"two runs in one folder, {n}", _two, 200) for n in range(5)),
    *(Case(f"two tasks on a store that is cleared, {n}", _shared_store, 300) for n in range(5)),
    *(
        Case(f"rank {r} of 2 dies after {s} s", lambda f, r=r, s=s: _dead_rank(r, s, f), 400)
        for r in (0, 1)
        for s in (4, 7, 10)
    ),
]
