"""Many processes, one measurement: `torchrun --nproc_per_node N -m s3prl_mi.run_downstream ...`.

Every process (rank) holds the frames of its own utterances. Wherever a sum over frames is complete, it is summed over
ranks; every rank then goes on with the same numbers and takes the same branches, and rank 0 writes what is found. What
is drawn at random is drawn in the frames' order in one process (`estimators.frames.Frames.positions`), so that the
result differs from that of one process by rounding only.

Outside of a `session` every function here stands for a world of one process: it returns what it was given.

Tensors travel by torch.distributed (gloo on CPUs, nccl on GPUs). What ranks have to tell each other travels by the key
value store that torchrun starts, which a thread of each rank watches too: a rank that has failed or vanished ends the
others with a message instead of leaving them waiting.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from .errors import MIError

if TYPE_CHECKING:
    from torch import Tensor

    from .types import Seconds  # with numpy behind it, which `run_downstream.py -h` does without

START_SECONDS: Seconds = 900.0
"""How long processes wait for each other at the start."""

SILENT_SECONDS: Seconds = 120.0
"""A process that gives no sign of life for so long is taken for dead (`$S3PRL_MI_RANK_TIMEOUT` overrides it)."""

DESYNC_SECONDS: Seconds = 30.0
"""How long a failed process waits for the others before it ends them."""

_BEAT: Seconds = 1.0
_GRACE: Seconds = 10.0
_AGAIN = "The same command with -a repeats no finished estimate."


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
    """A mistake that another process has found; `said`: it, or another one of this machine, tells the user."""

    def __init__(self, text: str, said: bool) -> None:
        super().__init__(text)
        self.said = said


class RankError(BaseException):
    """Another process has failed or vanished: this one cannot go on, not even with the next experiment of a study.

    Not an `Exception`: nothing between here and the end of the process shall take it for its own.
    """

    def __init__(self, text: str, said: bool = False) -> None:
        super().__init__(text)
        self.said = said


# --- What the rest of the package calls ---------------------------------------------------------------------

_current: _Session | None = None


def world() -> World:
    """This process and the number of them; one outside of a session."""
    return World() if _current is None else _current.world


def is_main() -> bool:
    """Whether this process writes files and shows progress."""
    return world().rank == 0


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum a tensor over ranks, in place.

    Args:
        tensor: of the same shape, dtype and kind of device on every rank.

    Returns:
        `tensor`, the same on every rank.

    Raises:
        RankError: another rank has failed or vanished.
    """
    return tensor if _current is None else _current.all_reduce(tensor)


def from_main(tensor: Tensor) -> Tensor:
    """Overwrite a tensor by that of rank 0, in place.

    For what every rank computes from the same numbers and branches on: processors of different kinds round
    differently.
    """
    return tensor if _current is None else _current.broadcast(tensor)


def total(number: int) -> int:
    """The sum of a whole number over ranks."""
    if _current is None:
        return number
    import torch

    return int(_current.all_reduce(torch.tensor([number])))


def all_gather_object(value: Any) -> list[Any]:
    """The small objects of all ranks, by rank."""
    return [value] if _current is None else _current.gather(value)


def from_main_object(make: Callable[[], Any]) -> Any:
    """What rank 0 makes, on every rank; the others do not make it. An error of it is an error on every rank."""
    found = None
    with together():
        if is_main():
            found = make()
    return all_gather_object(found)[0]


def first_on_each_machine(make: Callable[[], Any]) -> Any:
    """What every process makes, one of each machine before the others, who then find what it has downloaded."""
    made = None
    for first in (True, False):
        with together():
            if (world().local_rank == 0) == first:
                made = make()
    return made


@contextlib.contextmanager
def together(limit: Seconds | None = None) -> Iterator[None]:
    """Work of each rank alone, which ends for all at once: a mistake on one rank is one on every rank.

    Args:
        limit: where the work holds steps that ranks take together: how long one that has failed waits for the others,
            which may be waiting for it in such a step.

    Raises:
        MIError: that of the lowest rank that has failed.
        RankError: the others have not come within `limit`.
    """
    if _current is None:
        yield
        return
    failure: MIError | None = None
    try:
        yield
    except MIError as error:
        failure = error
    own = (
        None if failure is None else (str(failure), isinstance(failure, ElsewhereError), socket.gethostname())
    )
    told = _current.gather(own, limit if own is not None else None)
    failed = [(rank, f) for rank, f in enumerate(told) if f is not None]
    if not failed:
        return
    first, (text, _, host) = next(((r, f) for r, f in failed if not f[1]), failed[0])
    if failure is not None and first == _current.world.rank:
        raise failure
    raise ElsewhereError(text, _is_said(host, _current.world)) from None


@contextlib.contextmanager
def session(backend: str, device: str) -> Iterator[World]:
    """Join the processes that a launcher has started; without one, and inside another session, nothing happens.

    Args:
        backend: s3prl's `--backend`: `nccl` or `gloo`; on the CPU it is gloo.
        device: where this process computes.

    Raises:
        MIError: the processes do not find each other; then whatever fails inside, on every rank.
    """
    global _current
    asked = World.of_launcher()
    if _current is not None or asked.size < 2:
        yield world()
        return
    joined = _Session(asked, backend if device.startswith("cuda") else "gloo")
    before = _on_sigterm(joined)
    _current = joined
    try:
        yield asked
    except BaseException as error:
        _current = None
        raise joined.fail(error) from error.__cause__
    else:
        joined.leave()
    finally:
        _current = None
        joined.close()
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _is_said(host: str, here: World) -> bool:
    """Whether a failure on `host` is told to the user of this machine by another process."""
    return host == socket.gethostname() or here.local_rank > 0


def _on_sigterm(joined: _Session) -> Any:
    """A launcher ends the other processes by SIGTERM when one has failed: say so."""

    def ended(number: int, frame: Any) -> None:
        del number, frame
        raise joined.lost("ended by its launcher (SIGTERM)")

    try:
        return signal.signal(signal.SIGTERM, ended)
    except ValueError:  # not the main thread
        return None


# --- How it is done -----------------------------------------------------------------------------------------


class _Session:
    """The connections of one process to the others."""

    def __init__(self, here: World, backend: str) -> None:
        import torch.distributed as dist

        self.world, self._dist, self._count = here, dist, 0
        kind = "gloo" if backend == "gloo" else f"cpu:gloo,cuda:{backend}"
        self._own = not dist.is_initialized()  # s3prl's own runner has done it
        try:
            if self._own:
                dist.init_process_group(kind, timeout=timedelta(seconds=START_SECONDS))
            # one rank may have much to do while others wait; whether it lives is seen by other means
            self._group = dist.new_group(backend=kind, timeout=timedelta(days=7))
            client = dist.TCPStore(
                os.environ["MASTER_ADDR"],
                int(os.environ["MASTER_PORT"]),
                is_master=False,
                wait_for_workers=False,
                timeout=timedelta(seconds=START_SECONDS),
            )
        except (RuntimeError, ValueError) as error:
            raise MIError(
                f"process {here.rank} of {here.size} does not reach the others at {os.environ['MASTER_ADDR']}:"
                f"{os.environ['MASTER_PORT']} with --backend {backend} ({_first_line(error)}). Check the launcher's "
                "--master_addr, --master_port and --nnodes."
            ) from error
        name = (os.environ.get(v, "0") for v in ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"))
        self._store = dist.PrefixStore("/".join(["s3prl_mi", *name]), client)
        self._watch = _Watch(self._store, here)
        self.gather(None)
        self._watch.start()

    # tensors

    def all_reduce(self, tensor: Tensor) -> Tensor:
        return self._in_place(tensor, lambda t: self._dist.all_reduce(t, group=self._group))

    def broadcast(self, tensor: Tensor) -> Tensor:
        return self._in_place(tensor, lambda t: self._dist.broadcast(t, 0, group=self._group))

    def _in_place(self, tensor: Tensor, collective: Callable[[Tensor], Any]) -> Tensor:
        flat = tensor.detach().contiguous()
        try:
            collective(flat)
        except RuntimeError as error:
            raise self.lost(_first_line(error)) from None
        if flat.data_ptr() != tensor.data_ptr():
            tensor.copy_(flat)
        return tensor

    # objects

    def gather(self, value: Any, limit: Seconds | None = None) -> list[Any]:
        """The objects of all ranks.

        Raises:
            RankError: another rank has failed or vanished, or has not come within `limit`.
        """
        number, self._count = self._count, self._count + 1
        rank, began, pause = self.world.rank, time.monotonic(), 1e-4
        found = {rank: value}
        try:
            packed: Any = zlib.compress(pickle.dumps(value), 1)  # typed as text, but bytes are taken
            self._store.set(f"{number}/{rank}", packed)
            while len(found) < self.world.size:
                other = next(r for r in range(self.world.size) if r not in found)
                if self._store.check([f"{number}/{other}"]):
                    found[other] = pickle.loads(zlib.decompress(self._store.get(f"{number}/{other}")))
                    continue
                self._watch.refuse_if_lost()
                if limit is not None and time.monotonic() - began > limit:
                    raise RankError(
                        str(value[0]) if isinstance(value, tuple) else "processes are out of step"
                    )
                time.sleep(pause)
                pause = min(0.05, 1.5 * pause)
            if number:  # whoever has come this far has read what was told before
                self._store.delete_key(f"{number - 1}/{rank}")
        except RuntimeError as error:
            raise self.lost(_first_line(error)) from None
        return [found[r] for r in range(self.world.size)]

    # ends

    def lost(self, why: str) -> RankError:
        """The error for a connection that has broken: what the other rank has said, if it has said something."""
        deadline = time.monotonic() + 3 * _BEAT
        while self._watch.failure is None and time.monotonic() < deadline:
            time.sleep(0.05)
        return self._watch.failure or RankError(
            f"process {self.world.rank} of {self.world.size} has lost the others: one of them was killed or crashed "
            f"({why}). {_AGAIN}"
        )

    def fail(self, error: BaseException) -> BaseException:
        """Tell the other ranks of a failure, and wait until they know; returns what this rank raises."""
        if isinstance(error, ElsewhereError):
            self._let_first_say_it()
            return error
        if isinstance(error, RankError) and error.__cause__ is None:
            return error
        text = (
            str(error)
            if isinstance(error, (MIError, RankError))
            else f"{type(error).__name__}: {_first_line(error)}"
        )
        told: Any = pickle.dumps([self.world.rank, text, isinstance(error, MIError), socket.gethostname()])
        with contextlib.suppress(RuntimeError):
            first = pickle.loads(self._store.compare_set("failed", "", told))
            if first[0] != self.world.rank and isinstance(error, MIError):
                self._let_first_say_it()
                return ElsewhereError(text, _is_said(first[3], self.world))
            deadline = time.monotonic() + 5 * _BEAT
            others = [f"knows/{r}" for r in range(self.world.size) if r != self.world.rank]
            while time.monotonic() < deadline and not self._store.check(others):
                time.sleep(0.05)
        return error

    def _let_first_say_it(self) -> None:
        """The launcher ends all processes once one has ended: the one whose error it is has a moment to say it."""
        with contextlib.suppress(RuntimeError):
            self._store.set(f"knows/{self.world.rank}", "")
        time.sleep(_BEAT)

    def leave(self) -> None:
        """End together: rank 0 may hold the store, and goes last."""
        self.gather(None)
        self._watch.stop()
        with contextlib.suppress(RuntimeError):
            self._store.set(f"left/{self.world.rank}", "")
            others = [f"left/{r}" for r in range(1, self.world.size)]
            deadline = time.monotonic() + _GRACE
            while self.world.rank == 0 and not self._store.check(others) and time.monotonic() < deadline:
                time.sleep(0.01)

    def close(self) -> None:
        """Cut the connections."""
        self._watch.stop()
        if self._own and sys.exc_info()[0] is None:
            self._dist.destroy_process_group()


class _Watch(threading.Thread):
    """Gives signs of life, and looks for those of the others.

    A rank that waits for another inside of a collective does not come back from there: it is ended from here.
    """

    def __init__(self, store: Any, here: World) -> None:
        super().__init__(daemon=True, name="s3prl_mi ranks")
        self._store, self._world = store, here
        self._over = threading.Event()
        self.failure: RankError | None = None
        self._store.set(f"alive/{here.rank}", "0")

    def stop(self) -> None:
        self._over.set()
        if self.is_alive() and threading.current_thread() is not self:
            self.join(timeout=2 * _BEAT)

    def refuse_if_lost(self) -> None:
        """Raises what has happened to another rank."""
        if self.failure is not None:
            raise self.failure

    def run(self) -> None:
        """Until `stop`, or until another rank has failed; then end this process if it has not ended by itself."""
        silent = float(os.environ.get("S3PRL_MI_RANK_TIMEOUT", SILENT_SECONDS))
        seen: dict[int, tuple[bytes, float]] = {}
        beats = 0
        while self.failure is None and not self._over.wait(_BEAT):
            beats += 1
            try:
                self.failure = self._look(beats, seen, silent)
            except RuntimeError as error:
                if not self._over.is_set():
                    self.failure = self._vanished(f"the store of process 0 is gone: {_first_line(error)}")
        if self.failure is not None and not self._over.wait(_GRACE):
            if not self.failure.said:
                sys.stderr.write(f"error: {self.failure}\n")
                sys.stderr.flush()
            os._exit(1)

    def _look(self, beats: int, seen: dict[int, tuple[bytes, float]], silent: Seconds) -> RankError | None:
        now, here = time.monotonic(), self._world
        self._store.set(f"alive/{here.rank}", str(beats))
        if self._store.check(["failed"]):
            rank, text, mistake, host = pickle.loads(self._store.get("failed"))
            self._store.set(f"knows/{here.rank}", "")
            if rank == here.rank:
                return None
            what = (
                text if mistake else f"process {rank} of {here.size} on {host} has failed ({text}). {_AGAIN}"
            )
            return RankError(what, mistake and _is_said(host, here))
        for rank in range(here.size):
            beat = self._store.get(f"alive/{rank}")
            if rank not in seen or seen[rank][0] != beat:
                seen[rank] = (beat, now)
            elif now - seen[rank][1] > silent:
                return self._vanished(f"process {rank} gives no sign of life for {silent:.0f} s")
        return None

    def _vanished(self, why: str) -> RankError:
        here = self._world
        return RankError(f"process {here.rank} of {here.size} has lost the others ({why}). {_AGAIN}")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
