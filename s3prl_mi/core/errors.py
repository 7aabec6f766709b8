"""The one exception for what a user can fix, and suggestions for misspelt names."""

from __future__ import annotations

import difflib
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
    found = difflib.get_close_matches(name, list(choices), n=count, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(f) for f in found)}?" if found else ""
