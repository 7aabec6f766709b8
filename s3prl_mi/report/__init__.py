"""Records -> what a person and a script read: summary, tables, layer curves, log, TensorBoard.

This is the only package that rounds; `mi_results.jsonl`, `mi_summary.csv` and the per-layer lines of `log.log`
keep full precision. Every file is either written whole to a temporary name and then renamed, or only appended
to, so that all functions may be called again after a resumed run and end with the same files.

The best layer that is marked here is the largest mean over the layers scored: a description of the eval
split, not a choice that a bound may rest on (a choice of a layer belongs inside the fit split).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..results.record import Record
from ..results.summary import (
    FRAMES_ORDER,
    PROBE_ORDER,
    SUMMARY_FILE,
    Panel,
    Summary,
    best_layers,
    mean_sd,
    required,
    summarise,
    write_summary,
)
from .bars import draw_comparison
from .layers import PICTURE_FILE, draw_layers
from .s3prl_log import LOG_FILE, final_line, write_log, write_tensorboard
from .terminal import comparison_table, screen_table
from .wording import decimals, format_bits

__all__ = [
    "FRAMES_ORDER",
    "LOG_FILE",
    "PICTURE_FILE",
    "PROBE_ORDER",
    "SUMMARY_FILE",
    "Panel",
    "Summary",
    "best_layers",
    "comparison_table",
    "decimals",
    "draw_comparison",
    "draw_layers",
    "final_line",
    "format_bits",
    "mean_sd",
    "screen_table",
    "summarise",
    "write_all",
    "write_log",
    "write_summary",
    "write_tensorboard",
]


def write_all(expdir: Path, records: Iterable[Record]) -> None:
    """Write `mi_summary.csv`, `mi_layers.png`, `log.log` and the event file of one experiment.

    May be called again with the same or more records: nothing is doubled.

    Raises:
        MIError: no record.
    """
    records = list(records)
    required(records)
    write_summary(expdir / SUMMARY_FILE, records)
    draw_layers(expdir / PICTURE_FILE, records)
    write_log(expdir / LOG_FILE, records)
    write_tensorboard(expdir, records)
