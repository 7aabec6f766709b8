"""Many processes, one experiment: `torchrun --nproc_per_node N -m s3prl_mi.run_downstream ...`.

Processes share work, not sums: each extracts whole batches of utterances (`states.extraction`) and measures whole grid
points (`shared`), so every number is computed by one process alone and is the same on any number of them, if each has
as many threads. What travels are barriers and small objects, by gloo.

Outside of a `session` every function here stands for a world of one process. Inside, all but `world` and `is_main` are
collective: every process calls them in the same order. A process that fails with an `MIError` reports it with its next
collective call, whichever the others are in, and every process raises it there. A process that dies is its launcher's
business: torchrun's agent ends the others.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

from .errors import MIError

T = TypeVar("T")

START = timedelta(minutes=15)
"""How long processes wait for each other at the start."""

_numbers = itertools.count()


@dataclass(frozen=True)
class World:
    """Which process this is, of how many; `local_rank` counts those of one machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @staticmethod
    def of_launcher() -> World:
        """What torchrun (or torch.distributed.launch, or another launcher with its variables) has set."""
        env = os.environ
        if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= set(env):
            return World()
        rank, size = int(env["RANK"]), int(env["WORLD_SIZE"])
        return World(rank, size, int(env.get("LOCAL_RANK", rank)), int(env.get("LOCAL_WORLD_SIZE", size)))


class ElsewhereError(MIError):
    """A mistake that another process has found and reports: the command line does not print it again."""


_current: _Session | None = None


def world() -> World:
    """This process and the number of them; one outside of a session."""
    return World() if _current is None else _current.world


def is_main() -> bool:
    """Whether this process shows progress and writes what is written once."""
    return world().rank == 0


def gather(value: T) -> list[T]:
    """The small objects (picklable) of all processes, by rank."""
    return [value] if _current is None else _current.exchange(value)


def barrier() -> None:
    """Wait until every process is here."""
    gather(None)


def from_main(make: Callable[[], T]) -> T:
    """What rank 0 makes (picklable), on every process; the others do not make it."""
    made: Any = None
    with together():
        if is_main():
            made = make()
    return gather(made)[0]


def first_on_each_machine(make: Callable[[], T]) -> T:
    """What every process makes, one of each machine before the others, which then find what it has downloaded."""
    made: Any = None
    for first in (True, False):
        with together():
            if (world().local_rank == 0) == first:
                made = make()
    return made


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Work of each process alone, which ends for all at once: an `MIError` on one is one on every process.

    Raises:
        MIError: on the lowest rank that has failed, its own error.
        ElsewhereError: with the same text, on every other rank.
    """
    failure: MIError | None = None
    try:
        yield
    except MIError as error:
        if _current is None:
            raise
        failure = error
    if _current is not None:
        _current.agree(failure)


def shared(items: Sequence[T]) -> Iterator[T]:
    """Share out work: each item goes to exactly one process, the next free process takes the next item.

    Processes end at different times: wait for the others with `together` or `barrier`.

    Args:
        items: the same on every process, best the longest work first.
    """
    return iter(items) if _current is None else _current.share(items, next(_numbers))


@contextlib.contextmanager
def session() -> Iterator[World]:
    """Join the processes that a launcher has started; without one, and inside another session, nothing happens.

    Where another process has died, or the launcher ends this one, it leaves with a line and status 1.

    Raises:
        MIError: the processes do not find each other; then whatever fails inside, on every process.
    """
    global _current
    here = World.of_launcher()
    if _current is not None or here.size < 2:
        yield world()
        return
    _current = joined = _Session(here)
    why = "ended by its launcher, another process has failed or the run was cancelled"
    before = signal.signal(signal.SIGTERM, lambda *_: joined.end(why))
    try:
        with together():
            yield here
    except ElsewhereError:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(1.0)  # the launcher ends all processes once one has ended: the one that failed is first
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
        _current = None
        joined.dist.destroy_process_group(joined.to_destroy)


class _Session:
    """The connections of one process to the others."""

    def __init__(self, here: World) -> None:
        import torch.distributed as dist

        self.world, self.dist = here, dist
        self._counter, self._agreed = "", MIError()
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        began = dist.is_initialized()  # by s3prl's own runner, which continues after us
        try:
            if not began:
                dist.init_process_group("gloo", timeout=START)
            # one process may work for long while the others wait
            self._group: Any = dist.new_group(backend="gloo", timeout=timedelta(days=7))
            client = dist.TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=START)
        except (RuntimeError, ValueError) as error:
            why = str(error).partition("\n")[0]
            raise MIError(
                f"process {here.rank} of {here.size} does not reach the others at {address}:{port} ({why}). Check the "
                "launcher's --master_addr and --master_port, and $GLOO_SOCKET_IFNAME where there are several networks."
            ) from error
        self.to_destroy = self._group if began else None
        run = (os.environ.get(v, "0") for v in ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"))
        self._store = dist.PrefixStore("/".join(["s3prl_mi", *run]), client)

    def exchange(self, value: T, failure: MIError | None = None) -> list[T]:
        """The objects of all ranks; a failure of one is raised on every rank, whatever the others exchange."""
        found: list[Any] = [None] * self.world.size
        with self._connected():
            if failure is not None and self._counter:
                self._store.add(self._counter, 1 << 40)  # nobody begins on another item
            # a barrier that signals interrupt at once: inside of gloo they would wait, too
            arrival: Any = self.dist.barrier(group=self._group, async_op=True)
            while not arrival.is_completed():
                time.sleep(0.005)
            arrival.wait()
            self.dist.all_gather_object(found, (value, str(failure) if failure else None), group=self._group)
        for rank, (_, text) in enumerate(found):
            if text is not None:
                self._agreed = failure if failure and rank == self.world.rank else ElsewhereError(text)
                raise self._agreed
        return [its for its, _ in found]

    def agree(self, failure: MIError | None) -> None:
        """End work that all ranks do: on every rank it has failed, or on none."""
        known: BaseException | None = failure
        while known is not None and known is not self._agreed:
            known = known.__context__  # `failure` may be about one that all ranks know of
        if failure is None or known is None:
            self.exchange(None, failure)
        else:
            raise ElsewhereError(str(failure)) if isinstance(known, ElsewhereError) else failure

    def share(self, items: Sequence[T], number: int) -> Iterator[T]:
        """As `shared`, by a counter in the launcher's store."""
        self._counter = counter = f"shared/{number}"
        while True:
            with self._connected():
                item = int(self._store.add(counter, 1)) - 1
            if item >= len(items):
                return
            yield items[item]

    @contextlib.contextmanager
    def _connected(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError:
            self.end("has lost the others, one of them was killed or has crashed")

    def end(self, why: str) -> NoReturn:
        """Leave at once without the others, with one line on stderr and exit status 1.

        No exception: the signal may have come in the midst of a print, a destructor, or a load that reports whatever
        stops it. What is on the disk is as whole as after a kill.
        """
        line = f"process {self.world.rank} of {self.world.size}: {why}. The same command with -a repeats no finished"
        os.write(2, f"{line} estimate.\n".encode())
        os._exit(1)
