"""Advisory locks on files, between processes: freed by `close` or when the process dies.

Where the system or the file system has no such locks, every lock is granted, and keeping runs apart is up to the user.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]


class Lock:
    """A lock on one file, free at first.

    Args:
        path: the file.
        create: whether to make it (and its folder) where it is missing.

    Raises:
        FileNotFoundError: it is missing.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # network file systems want a file opened for writing for an exclusive lock
            self._fd = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o666)
        except (PermissionError, IsADirectoryError):
            self._fd = os.open(path, os.O_RDONLY)
        self.close = weakref.finalize(self, os.close, self._fd)

    @classmethod
    def alone(cls, path: Path) -> Lock:
        """A lock on a file of its own; waits for other holders. The file may be removed once the lock is free."""
        while True:
            lock = cls(path, create=True)
            lock.wait()
            if lock.is_of(path):
                return lock
            lock.close()

    @classmethod
    @contextlib.contextmanager
    def naming_its_holder(cls, path: Path) -> Iterator[str | None]:
        """Hold a file alone, made for it and gone after it, or say who does.

        Yields:
            None, or what the other process wrote of itself.
        """
        while True:
            lock = cls(path, create=True)
            if not lock.take():
                yield path.read_text(errors="replace") or "a process that has just begun"
                return
            if lock.is_of(path):
                break
            lock.close()
        try:
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%F %T')}")
            yield None
        finally:
            path.unlink(missing_ok=True)
            lock.close()

    def wait(self) -> None:
        """Hold it alone; waits for those that hold it."""
        self._ask("LOCK_EX")

    def share(self) -> None:
        """Hold it together with others; waits for one that holds it alone."""
        self._ask("LOCK_SH")

    def take(self) -> bool:
        """Hold it alone, or say at once that others hold it; what was held before may be lost then."""
        return self._ask("LOCK_EX", "LOCK_NB")

    def is_of(self, path: Path) -> bool:
        """Whether the file opened is still the one that lies at `path`."""
        with contextlib.suppress(OSError):
            return os.path.samestat(os.fstat(self._fd), path.stat())
        return False

    def _ask(self, *how: str) -> bool:
        if fcntl is None:
            return True
        try:
            fcntl.flock(self._fd, sum(getattr(fcntl, name) for name in how))
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            return True
        return True
