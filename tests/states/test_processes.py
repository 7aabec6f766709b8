"""Several processes fill one entry: the bits of one process, whatever their number, also when one is killed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s3prl_mi.core.config import DataConfig
from s3prl_mi.core.distributed import world
from s3prl_mi.data.splits import read_split
from s3prl_mi.states.entry import Entry
from s3prl_mi.states.extraction import Request, extract, share
from s3prl_mi.states.store import Store
from s3prl_mi.upstreams import forward
from s3prl_mi.upstreams.loading import load_upstream
from s3prl_mi.upstreams.views import PLAIN, View
from tests.helpers.processes import answers, torchrun

HERE = "tests.states.test_processes"
VIEWS = (PLAIN, View("mask", "latent", 10, 4))


def extracted(folder: Path, store: Path | None = None) -> tuple[list[Entry], int]:
    """Both views of fit-a as `folder/job.json` says, by this process's share of them; its number of forward passes."""
    job = json.loads((folder / "job.json").read_text())
    upstream = load_upstream(*job["upstream"])
    split = read_split(DataConfig(libri_root=job["corpus"], max_unreadable=0.5), "fit-a")
    requests = [Request(upstream, split, view, (0, 2), job.get("dtype", "auto")) for view in VIEWS]
    original, passes = forward.hidden_states, []

    def counted(upstream, waveforms, view=None, front=None):
        found = original(upstream, waveforms, view, front)
        passes.append(len(waveforms))
        if world().rank == job.get("killed") and len(passes) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        if world().rank == job.get("far") and len(passes) == 3:
            found[0][0][0, 0] += 1e7
        return found

    forward.hidden_states = counted
    try:
        return extract(Store(store or Path(job["store"]), 10**9), requests, job["batch_size"]), len(passes)
    finally:
        forward.hidden_states = original


def works(folder: Path) -> list[Any]:
    """One of several processes."""
    entries, passes = extracted(folder)
    return [[[str(e.path), e.utterances, e.n_frames, e.parts, e.dtype, e.skipped] for e in entries], passes]


def lives_elsewhere(folder: Path) -> None:
    """A process that does not see the store of the others."""
    Store(folder / ("here" if world().rank == 0 else "there"), 10**9).check_shared()


def makes_room(folder: Path) -> list[Any]:
    """Two entries that all processes read: one is forgotten, the other one makes room for more."""
    entries, _ = extracted(folder)
    store = Store(folder / "store", entries[1].bytes)
    before = entries[0].layer(0)[:].tobytes()
    layer = entries[0].layer(0)
    store.forget([entries[0].path])
    seen = [len(store.entries()), layer[:].tobytes() == before]
    store.make_room(entries[1].bytes, [])
    return [*seen, len(store.entries())]


@pytest.fixture
def job(tmp_path, corpus, checkpoint):
    """Write down what `extracted` does."""

    def write(**more: Any) -> Path:
        upstream = [*map(str, checkpoint("hubert-base"))]
        content = {"corpus": str(corpus.root), "upstream": upstream, "batch_size": 1}
        content |= {"store": str(tmp_path / "store"), **more}
        (tmp_path / "job.json").write_text(json.dumps(content))
        return tmp_path

    return write


def assert_same(found: list[Entry], expected: list[Entry]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.path.relative_to(a.path.parents[1]) == b.path.relative_to(b.path.parents[1]), "another key"
        assert (a.utterances, a.n_frames, a.dims, a.dtype) == (b.utterances, b.n_frames, b.dims, b.dtype)
        for layer in (0, 2):
            assert a.layer(layer)[:].tobytes() == b.layer(layer)[:].tobytes()


@pytest.mark.parametrize(("count", "size"), [(2, 2), (3, 1)])
def test_bits_are_those_of_one_process(job, count, size):
    folder = job(batch_size=size)
    found = answers(count, f"{HERE}:works", folder)
    assert all(answer[0] == found[0][0] for answer in found), "every process reads all frames"
    assert all(0 < passes < 12 / size for _, passes in found)
    assert all(len(parts) == count for _, _, _, parts, _, _ in found[0][0])
    shared, none = extracted(folder)
    assert none == 0, "one process finds what several have extracted"
    alone, _ = extracted(folder, folder / "alone")
    assert_same(shared, alone)
    assert all(len(e.parts) == 1 for e in alone)
    assert Store(folder / "store", 0).partial_folders() == []


@pytest.mark.parametrize(("count", "killed"), [(1, 0), (3, 1)])
def test_a_killed_process_ends_the_others_and_the_next_run_continues(job, count, killed):
    done = torchrun(2, "tests.helpers.processes", f"{HERE}:works", str(job(killed=killed)))
    assert done.returncode != 0
    store = Store(job() / "store", 10**9)
    assert (store.entries(), len(store.partial_folders())) == ([], 2), "nothing is found that is not whole"
    if count == 1:
        entries, passes = extracted(job())
    else:
        passes = sum(passes for _, passes in answers(count, f"{HERE}:works", job()))
        entries, _ = extracted(job())
    assert passes < 12, "what was written is not extracted again"
    assert_same(entries, extracted(job(), job() / "alone")[0])
    assert store.partial_folders() == []


def test_what_is_unreadable_is_counted_over_all_processes(job, corpus, tmp_path):
    """The longest utterance, whose scale would have been taken, and two of the last ones."""
    mine = corpus.copy(tmp_path / "mine")
    split = read_split(DataConfig(libri_root=str(mine.root)), "fit-a")
    bad = [split.longest_first[n] for n in (0, 4, 5)]
    for utterance in bad[:2]:
        content = bytearray(utterance.path.read_bytes())
        content[len(content) // 3 :] = bytes(len(content) - len(content) // 3)
        utterance.path.write_bytes(content)
    folder = job(corpus=str(mine.root))
    found = answers(2, f"{HERE}:works", folder)
    for _, utterances, _, _, _, skipped in found[0][0]:
        assert len(utterances) == 4
        assert [name for name, _ in skipped] == [u.id for u in bad[:2]]
    assert_same(extracted(folder)[0], extracted(folder, folder / "alone")[0])


def test_too_much_that_is_unreadable_is_refused_by_all(job, corpus, tmp_path):
    """Each process alone has two of six such files, which would be allowed."""
    mine = corpus.copy(tmp_path / "mine")
    split = read_split(DataConfig(libri_root=str(mine.root)), "fit-a")
    for utterance in (split.longest_first[n] for n in (0, 1, 4, 5)):
        content = bytearray(utterance.path.read_bytes())
        content[len(content) // 3 :] = bytes(len(content) - len(content) // 3)
        utterance.path.write_bytes(content)
    done = torchrun(2, "tests.helpers.processes", f"{HERE}:works", str(job(corpus=str(mine.root))))
    assert done.returncode != 0
    assert done.stderr.count("4 of 6 audio files cannot be read") == 1


def test_float16_that_is_too_coarse_for_one_process_is_for_all(job):
    found = answers(2, f"{HERE}:works", job(far=1))
    assert [e[4] for answer in found for e in answer[0]].count("float32") >= 2
    assert found[0][0] == found[1][0]


def test_what_all_processes_read_is_removed_by_one(job):
    assert answers(2, f"{HERE}:makes_room", job()) == [[1, True, 0]] * 2


def test_a_store_that_another_process_does_not_see_is_refused(tmp_path):
    done = torchrun(2, "tests.helpers.processes", f"{HERE}:lives_elsewhere", str(tmp_path))
    assert done.returncode != 0
    (line,) = [x for x in done.stderr.splitlines() if "does not see the store" in x]
    assert "downstream_expert.store.root" in line
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_each_batch_falls_to_one_process_in_order(size):
    rng = np.random.default_rng(size)
    batches = [(n, n + 1) for n in range(40)]
    seconds = np.sort(rng.uniform(1, 30, 40))[::-1].tolist()
    shares = [share(batches, seconds, rank, size) for rank in range(size)]
    assert [b for own in shares for b in own] == batches
    loads = [sum(seconds[b[0]] for b in own) for own in shares]
    assert max(loads) - min(loads) <= 2 * max(seconds)


def test_more_processes_than_batches_leave_some_without_work():
    shares = [share([(0, 4), (4, 5)], [9.0, 2.0], rank, 5) for rank in range(5)]
    assert sorted(b for own in shares for b in own) == [(0, 4), (4, 5)]
