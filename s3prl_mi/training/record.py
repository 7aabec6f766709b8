"""What a callback keeps of its measurements: `mi_training.jsonl`, and which steps are due."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from torch import nn

from ..core.errors import MIError
from ..core.files import replacing
from ..results.record import append_records, read_records
from .meter import ViewsMeter

logger = logging.getLogger(__name__)

TRAINING_FILE = "mi_training.jsonl"
METRIC = "mi_views/bits"


class TrainingLog:
    """Measures at most once a step and appends the records to a file.

    Args:
        meter: what measures.
        every: steps from one measurement to the next; None: only where the callback's framework evaluates.

    Raises:
        MIError: `every` below 1.
    """

    def __init__(self, meter: ViewsMeter, every: int | None) -> None:
        if every is not None and every < 1:
            raise MIError(f"every: expected a number of steps of at least 1, found {every}.")
        self.meter, self.every = meter, every
        self.path: Path | None = None
        self._last: int | None = None
        self._measured = False

    def begin(self, folder: Path, step: int) -> None:
        """Take up the file of a resumed training, or move that of another training aside.

        Args:
            folder: where the file lies.
            step: steps done already; 0: a new training. Records beyond it are dropped: these steps come again.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self._last = folder / TRAINING_FILE, None
        if not self.path.exists():
            return
        if step == 0:
            stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(self.path.stat().st_mtime))
            aside = self.path.with_name(f"mi_training.{stamp}.jsonl")
            os.replace(self.path, aside)
            logger.warning("%s held records of another training; moved to %s.", folder, aside.name)
            return
        kept = [r for r in read_records(self.path) if r.step is not None and r.step <= step]
        self._last = kept[-1].step if kept else None
        with replacing(self.path) as temporary:
            append_records(temporary, kept)

    def due(self, step: int) -> bool:
        """Whether `every` asks for this step."""
        return self.every is not None and step % self.every == 0

    def measure(self, model: nn.Module, step: int) -> dict[str, float]:
        """Measure, write the records, and return what to log; empty where this step has been measured.

        Returns:
            `mi_views/bits` of the last layer asked for; with several layers also `mi_views/bits_layer_N` of each.

        Raises:
            MIError: at the first measurement, whatever the user can fix. Later ones (a training that diverges)
                are logged as a warning, and training continues.
        """
        if step == self._last or self.path is None:
            return {}
        self._last = step
        try:
            records = self.meter.records(model, step)
        except MIError as error:
            if not self._measured:
                raise
            logger.warning("step %d: mi_views could not be measured: %s", step, error)
            return {}
        self._measured = True
        append_records(self.path, records)
        values = {METRIC: records[-1].mi_lower_bound_bits}
        if len(records) > 1:
            values |= {f"{METRIC}_layer_{r.layer}": r.mi_lower_bound_bits for r in records}
        logger.info("step %d: %s %.3f", step, METRIC, values[METRIC])
        return values
