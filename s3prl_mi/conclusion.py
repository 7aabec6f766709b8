"""What ends a study: a comparison on the screen, a report to open."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def conclude(folder: Path, done: Sequence[Path], failed: Sequence[str]) -> None:
    """Compare the experiments of a study and report them."""
    del folder, done, failed
