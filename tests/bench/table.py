"""The table that all cases print: case, seconds, peak memory, bits, ratio to the baseline."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """One measured case; `baseline` names the row that its time is compared with, of the same run."""

    case: str
    seconds: float
    bits: float | None = None
    baseline: str | None = None
    note: str = ""


def timed(action: Callable[[], T], repeats: int = 1) -> tuple[float, T]:
    """The least wall time of some repeats in seconds, and what the last one returned."""
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        answer = action()
        best = min(best, time.perf_counter() - began)
    return best, answer


def peak_gb() -> float:
    """Peak resident memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def show(rows: Iterable[Row], title: str = "case") -> None:
    """Print rows as they come; a row's memory is the process's peak until then."""
    seen: dict[str, Row] = {}
    print(f"{title:52} {'seconds':>9} {'peak GB':>8} {'bits':>8} {'ratio':>8}")
    for row in rows:
        seen[row.case] = row
        bits = "" if row.bits is None else f"{row.bits:.4f}"
        base = seen.get(row.baseline or "")
        ratio = "" if base is None else f"{base.seconds / row.seconds:.1f} x"
        print(f"{row.case:52} {row.seconds:9.2f} {peak_gb():8.2f} {bits:>8} {ratio:>8}  {row.note}", flush=True)
