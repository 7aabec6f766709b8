"""The files of one experiment next to its `mi_results.jsonl`: summary, picture, log, TensorBoard."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..results.record import Record
from ..results.speaker_sums import SPEAKERS_FILE, read_speakers
from ..results.summary import SUMMARY_FILE, required, write_summary
from .figures.experiment_layers import PICTURE_FILE, draw_layers
from .s3prl_log import LOG_FILE, write_log, write_tensorboard


def write_all(expdir: Path, records: Iterable[Record]) -> None:
    """Write `mi_summary.csv`, `mi_layers.png`, `log.log` and the event file of one experiment.

    May be called again with the same or more records: every file is either written whole to a temporary name and
    then renamed, or only appended to, so nothing is doubled.

    Raises:
        MIError: no record.
    """
    records = list(records)
    required(records)
    speakers = read_speakers(expdir / SPEAKERS_FILE, records)
    write_summary(expdir / SUMMARY_FILE, records, speakers)
    draw_layers(expdir / PICTURE_FILE, records, speakers)
    write_log(expdir / LOG_FILE, records)
    write_tensorboard(expdir, records)
