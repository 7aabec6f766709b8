"""Work in threads alongside the forward pass: audio is read in advance, hidden states are written."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prefetch(items: Iterable[T], work: Callable[[T], R], depth: int = 2) -> Iterator[R]:
    """`map(work, items)`, computed by a thread up to `depth` items in advance.

    An error is raised where the item's result is asked for.
    """
    with ThreadPoolExecutor(1, "s3prl_mi-read") as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class BackgroundWriter:
    """One thread that runs jobs in the order in which they are submitted. Use as a context manager.

    After a job that fails no later one is run; its error is raised by the next `submit`, or at the end of the context.
    On any other exception the jobs submitted before it are still run.

    Args:
        depth: jobs that may wait; submitting one more waits for the first of them.
    """

    def __init__(self, depth: int = 1) -> None:
        self._depth = depth
        self._waiting: deque[Future[None]] = deque()
        self._failed = False

    def __enter__(self) -> BackgroundWriter:
        self._pool = ThreadPoolExecutor(1, "s3prl_mi-write")
        return self

    def submit(self, job: Callable[[], None]) -> None:
        """Have a job run.

        Raises:
            Exception: that of an earlier job.
        """
        self._waiting.append(self._pool.submit(self._run, job))
        self._wait(self._depth)

    def _run(self, job: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            job()
        except BaseException:
            self._failed = True
            raise

    def _wait(self, left: int) -> None:
        while len(self._waiting) > left:
            self._waiting.popleft().result()

    def __exit__(self, kind: type[BaseException] | None, *about: object) -> None:
        self._pool.shutdown(wait=True)
        if kind is None:
            self._wait(0)
