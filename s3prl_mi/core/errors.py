"""The one exception for what a user can fix, suggestions for misspelt names, and tracebacks that are kept."""

from __future__ import annotations

import difflib
import errno
import re
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path


class MIError(Exception):
    """A mistake that the user can fix.

    The message names the file or key, the value that was found and the fix. The command line prints it
    as one line after ``error:``, without a traceback, and exits with status 1.
    """


def nearest(name: str, choices: Iterable[str], count: int = 3) -> str:
    """The choices nearest to a misspelt name, `count` at most, as a sentence to append to a message; or nothing.

    Example:
        >>> nearest("mi_veiws", ["mi_views", "mi_supervised", "asr"], count=1)
        " Did you mean 'mi_views'?"
    """
    found = difflib.get_close_matches(name, list(dict.fromkeys(choices)), n=count, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(f) for f in found)}?" if found else ""


def keep_traceback(folder: Path) -> Path:
    """Write the traceback of the exception that is being handled to error.txt in a folder; its path.

    What its frames hold, such as progress bars and models, is released.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "error.txt"
    path.write_text(traceback.format_exc(), encoding="utf-8")
    traceback.clear_frames(sys.exc_info()[2])
    return path


_NO_MEMORY = re.compile(
    r"out of memory|(cannot|can.t) allocate memory|not enough memory|bad_alloc|ALLOC_FAILED|failed to map segment",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, torch on a CPU or torch on a GPU found no memory."""
    kinds = (RuntimeError, OSError, ImportError)
    return isinstance(error, MemoryError) or (isinstance(error, kinds) and _NO_MEMORY.search(str(error)) is not None)


def is_full_disk(error: BaseException) -> bool:
    """Whether this is about a disk without space, or a quota that is used up."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "No space left" in str(error)
