"""Processes that share work: each item is done once, a mistake of one is reported once, a dead one ends the others."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from s3prl_mi.core import distributed
from s3prl_mi.core.distributed import (
    ElsewhereError,
    barrier,
    first_on_each_machine,
    from_main,
    gather,
    is_main,
    session,
    shared,
    together,
    world,
)
from s3prl_mi.core.errors import MIError
from tests.helpers.processes import SECONDS, answers, torchrun

HERE = "tests.core.test_distributed"
CONTINUE = "The same command with -a repeats no finished estimate."


# --- One process --------------------------------------------------------------------------------------------


def test_without_a_launcher_there_is_one_process(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with session() as here:
        assert (here.size, is_main()) == (1, True)
        assert gather("x") == ["x"]
        assert from_main(lambda: "made") == first_on_each_machine(lambda: "made") == "made"
        assert list(shared([3, 1, 2])) == [3, 1, 2]
        barrier()
        with pytest.raises(MIError, match="as it is"), together():
            raise MIError("as it is")
        with pytest.raises(ValueError, match="a bug"), together():
            raise ValueError("a bug")


# --- What they exchange -------------------------------------------------------------------------------------


def works(folder: Path) -> dict[str, Any]:
    """What one process gets from the others, and what it was given of two lists; process 0 is slow."""
    rank = world().rank
    with session() as inner:  # inside another session nothing happens
        assert inner == world()
    made = from_main(lambda: ((folder / "made").mkdir(), f"by {rank}")[1])  # fails where two make it
    seen = first_on_each_machine(lambda: (folder / "first").exists() or (folder / "first").touch())
    done = []
    for items in (range(40), range(100, 107)):
        done.append([])
        for item in shared(items):
            done[-1].append(item)
            time.sleep(0.05 if is_main() else 0.005)
        barrier()
    return {"gathered": gather({"rank": rank}), "made": made, "seen": seen, "main": is_main(), "done": done}


@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_items_and_objects(tmp_path, count):
    found = answers(count, f"{HERE}:works", tmp_path)
    for rank, answer in enumerate(found):
        assert answer["gathered"] == [{"rank": r} for r in range(count)]
        assert (answer["made"], answer["seen"]) == ("by 0", True if rank else None)
        assert answer["main"] == (rank == 0)
        assert rank == 0 or len(answer["done"][0]) > len(found[0]["done"][0])
    for number, items in enumerate((range(40), range(100, 107))):
        assert Counter(i for answer in found for i in answer["done"][number]) == Counter(items)


def test_processes_that_s3prl_has_joined_already_join_again(tmp_path):
    done = torchrun(2, HERE, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0 of [0, 1], 2.0", "1 of [0, 1], 2.0"]


# --- Mistakes -----------------------------------------------------------------------------------------------


def recovers(folder: Path) -> list[Any]:
    """A mistake that the caller catches, as a study does: all go on alike."""
    del folder
    told: list[Any] = []
    try:
        with together():  # the experiment, which says more about what has failed within
            try:
                with together():
                    if world().rank == 1:
                        raise MIError("no such folder")
            except MIError as error:
                raise MIError(f"layer 3: {error}") from None
    except MIError as error:
        told.append([isinstance(error, ElsewhereError), str(error)])
    try:
        with together():  # process 1 fails by itself, while the others are in another collective call
            if world().rank == 1:
                raise MIError("unreadable")
            gather("on the way")
            gather("not reached")
    except MIError as error:
        told.append([isinstance(error, ElsewhereError), str(error)])
    return [*told, gather(world().rank)]


def test_a_mistake_on_one_process_is_one_on_all_and_they_continue_alike(tmp_path):
    found = answers(3, f"{HERE}:recovers", tmp_path)
    for rank, told in enumerate(found):
        assert told == [[rank != 1, "layer 3: no such folder"], [rank != 1, "unreadable"], [0, 1, 2]]


def fails_in_shared_work(folder: Path) -> None:
    with together():
        for item in shared(range(1000)):
            (folder / f"{item}").touch()
            if item == 3:
                raise MIError("item 3 cannot be done")
            time.sleep(0.01)


def test_a_mistake_is_printed_once_and_ends_shared_work(tmp_path):
    done = torchrun(3, "tests.helpers.processes", f"{HERE}:fails_in_shared_work", str(tmp_path))
    assert done.returncode != 0
    assert done.stderr.count("item 3 cannot be done") == 1
    assert "error: item 3 cannot be done" in done.stderr
    assert "ended by its launcher" not in done.stderr
    assert "Traceback" not in done.stderr.partition("error: item 3")[0]
    assert 3 < len(list(tmp_path.iterdir())) < 100


# --- Processes that die -------------------------------------------------------------------------------------


def has_a_bug(folder: Path) -> None:
    del folder
    with together():
        if world().rank == 1:
            raise ValueError("a bug")
        barrier()


def waits(folder: Path) -> None:
    """Every process writes its number; then process 0 waits for the others, who are busy."""
    (folder / f"pid-{world().rank}").write_text(str(os.getpid()))
    while world().rank > 0:
        time.sleep(0.1)
    barrier()


def pids(folder: Path, count: int) -> list[int]:
    """Numbers of the processes of `waits`, once they are there."""
    deadline = time.monotonic() + SECONDS
    paths = [folder / f"pid-{rank}" for rank in range(count)]
    while not all(p.exists() and p.read_text() for p in paths):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return [int(p.read_text()) for p in paths]


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_bug_on_one_process_shows_its_traceback_and_ends_the_others(tmp_path):
    done = torchrun(2, "tests.helpers.processes", f"{HERE}:has_a_bug", str(tmp_path))
    assert done.returncode != 0
    assert "ValueError: a bug" in done.stderr
    assert done.stderr.count("process 0 of 2: ") == 1
    assert CONTINUE in done.stderr


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_others(tmp_path, victim):
    launcher = torchrun(2, "tests.helpers.processes", f"{HERE}:waits", str(tmp_path), start=True)
    try:
        processes = pids(tmp_path, 2)
        os.kill(processes[victim], signal.SIGKILL)
        _, told = launcher.communicate(timeout=60)
    finally:
        launcher.kill()
    assert launcher.returncode != 0
    assert told.count(f"process {1 - victim} of 2: ") == 1
    assert CONTINUE in told
    assert not any(map(is_there, processes))


def test_a_cancelled_run_says_so_in_one_line_per_process(tmp_path):
    launcher = torchrun(2, "tests.helpers.processes", f"{HERE}:waits", str(tmp_path), start=True)
    try:
        processes = pids(tmp_path, 2)
        launcher.send_signal(signal.SIGTERM)
        _, told = launcher.communicate(timeout=60)
    finally:
        launcher.kill()
    for rank in range(2):
        assert told.count(f"process {rank} of 2: ended by its launcher") <= 1
    assert "ended by its launcher" in told
    assert not any(map(is_there, processes))


def test_processes_that_do_not_meet_are_a_mistake(monkeypatch):
    monkeypatch.setattr(distributed, "START", distributed.timedelta(seconds=2))
    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 9}.items():
        monkeypatch.setenv(name, str(value))
    with (
        pytest.raises(MIError, match=r"process 1 of 2 does not reach the others at 127\.0\.0\.1:9"),
        session(),
    ):
        pass


def as_s3prl_does(folder: Path) -> None:
    """s3prl's own runner has made a process group before our tasks begin, and uses it after them."""
    dist.init_process_group("gloo")
    with session() as here:
        ranks = gather(here.rank)
    summed = torch.ones(1)
    dist.all_reduce(summed)
    (folder / f"{here.rank} of {ranks}, {float(summed)}").touch()
    dist.destroy_process_group()


if __name__ == "__main__":
    as_s3prl_does(Path(sys.argv[1]))
