"""The one exception for what a user can fix, and suggestions for misspelt names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


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


_NO_MEMORY = re.compile(
    r"out of memory|(cannot|can.t) allocate memory|not enough memory|bad_alloc|ALLOC_FAILED|failed to map segment",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, torch on a CPU or torch on a GPU found no memory."""
    kinds = (RuntimeError, OSError, ImportError)
    return isinstance(error, MemoryError) or (isinstance(error, kinds) and _NO_MEMORY.search(str(error)) is not None)
