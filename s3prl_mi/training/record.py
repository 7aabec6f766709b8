"""What a callback keeps of its measurements: `mi_training.jsonl`, `mi_training_measures.jsonl`; which steps are due."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from ..core.errors import MIError
from ..core.files import replacing
from ..results.candidates import COLLAPSED
from ..results.measures import append_measures, read_measures
from ..results.record import append_records, read_records
from .meter import ViewsMeter

logger = logging.getLogger(__name__)

TRAINING_FILE = "mi_training.jsonl"
MEASURES_TRAINING_FILE = "mi_training_measures.jsonl"
METRIC = "mi_views/bits"
UNTRAINED_BITS = 0.2
"""A bound below this says that the model is not trained yet (a small HuBERT before training: 0.1)."""
FALLEN = 0.8
"""A RankMe below this fraction of the last one, while the bound rises, is a warning."""


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
        self._values: dict[str, float] = {}
        self._measured = False

    def begin(self, folder: Path, step: int) -> None:
        """Take up the file of a resumed training, or move that of another training aside.

        Args:
            folder: where the file lies.
            step: steps done already; 0: a new training. Records beyond it are dropped: these steps come again.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self._last, self._values = folder / TRAINING_FILE, None, {}
        self.measures_path = folder / MEASURES_TRAINING_FILE
        if not self.path.exists():
            return
        if step == 0:
            stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(self.path.stat().st_mtime))
            aside = self.path.with_name(f"mi_training.{stamp}.jsonl")
            os.replace(self.path, aside)
            if self.measures_path.exists():
                os.replace(self.measures_path, folder / f"mi_training_measures.{stamp}.jsonl")
            logger.warning("%s held records of another training; moved to %s.", folder, aside.name)
            return
        kept = [r for r in read_records(self.path) if r.step is not None and r.step <= step]
        self._last = kept[-1].step if kept else None
        with replacing(self.path) as temporary:
            append_records(temporary, kept)
        if self.measures_path.exists():
            measures = [m for m in read_measures(self.measures_path) if m.step is not None and m.step <= step]
            with replacing(self.measures_path) as temporary:
                temporary.touch()
                append_measures(temporary, measures)

    def due(self, step: int) -> bool:
        """Whether `every` asks for this step."""
        return self.every is not None and step % self.every == 0

    def measure(self, model: nn.Module, step: int) -> dict[str, float]:
        """Measure, write the records, and return what to log; empty where this step has been measured.

        Returns:
            `mi_views/bits` of the last layer asked for, and its measures (`mi_views/rankme`, ...); with several layers
            also `mi_views/bits_layer_N` of each.

        Raises:
            MIError: at the first measurement, whatever the user can fix. Later ones (a training that diverges)
                are logged as a warning, and training continues.
        """
        if step == self._last or self.path is None:
            return {}
        self._last = step
        try:
            records, measures = self.meter.records(model, step)
        except MIError as error:
            if not self._measured:
                raise
            logger.warning("step %d: mi_views could not be measured: %s", step, error)
            return {}
        self._measured = True
        append_records(self.path, records)
        append_measures(self.measures_path, measures)
        last = records[-1].layer
        values = {METRIC: records[-1].mi_lower_bound_bits}
        if len(records) > 1:
            values |= {f"{METRIC}_layer_{r.layer}": r.mi_lower_bound_bits for r in records}
        values |= {f"mi_views/{m.measure}": m.value for m in measures if m.layer == last and m.value is not None}
        logger.info("step %d: %s %.3f", step, METRIC, values[METRIC])
        if (words := trouble(self._values, values)) is not None:
            logger.warning("step %d, layer %s: %s", step, last, words)
        self._values = values
        return values


def trouble(before: Mapping[str, float], now: Mapping[str, float]) -> str | None:
    """Why the bound of a measurement should not be read as progress, in a line; None where nothing speaks against it.

    Args:
        before: values of the last measurement, as logged; empty at the first one.
        now: those of this one.

    Example:
        >>> trouble({}, {"mi_views/bits": 1.2, "mi_views/participation_ratio": 1.1})
        'collapsed: one axis carries nearly all variance (participation ratio 1.1), so the bound of 1.20 bits is easy.'
    """
    bits, spread = now[METRIC], now.get("mi_views/participation_ratio", math.inf)
    if spread < COLLAPSED:
        axis = f"one axis carries nearly all variance (participation ratio {spread:.1f})"
        return f"collapsed: {axis}, so the bound of {bits:.2f} bits is easy."
    if bits < UNTRAINED_BITS:
        return f"not trained yet: the bound is {bits:.2f} bits. Ranks of random weights are high, and say nothing."
    rank, rank_before = now.get("mi_views/rankme"), before.get("mi_views/rankme")
    if rank is None or rank_before is None or rank >= FALLEN * rank_before or bits <= before[METRIC]:
        return None
    return (
        f"may be collapsing: RankMe fell from {rank_before:.0f} to {rank:.0f} while the bound rose from "
        f"{before[METRIC]:.2f} to {bits:.2f} bits."
    )
