"""`ViewsCallback` for PyTorch Lightning: I(Za;Zb) during pre-training, in the loggers of the Trainer."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import MIError
from .held_out import Audio
from .meter import ViewsMeter
from .record import METRIC, TrainingLog


def _base() -> Any:
    """Lightning's Callback, of the package that is in use: it comes under two names."""
    names = ["lightning.pytorch", "pytorch_lightning"]
    for name in sorted(names, key=lambda n: n not in sys.modules):
        try:
            return importlib.import_module(name).Callback
        except ImportError:
            continue
    return object


_Callback: Any = object if TYPE_CHECKING else _base()


class ViewsCallback(_Callback):
    """Measures the model on held-out audio before the first step, then every so many steps.

    Values go to every logger as `mi_views/bits` and as records to `mi_training.jsonl`, by the process of global
    rank zero only. With `every=None` they are also the module's metric, so `ModelCheckpoint(monitor="mi_views/bits",
    mode="max")` keeps the best checkpoint. A resumed training continues the file.

    Args:
        audio: held-out utterances, as for `ViewsMeter`.
        every: steps from one measurement to the next; None: at the end of each validation.
        folder: where `mi_training.jsonl` goes; None: the Trainer's `default_root_dir`.
        **options: of `ViewsMeter`: groups, layers, clusters, probe, view, encoder, ...

    Raises:
        MIError: Lightning is not installed; audio or options that cannot be used; at the start of training, a model
            that cannot be measured.

    Example::

        views = ViewsCallback(paths, groups=speakers, every=500, encoder="model")
        pl.Trainer(callbacks=[views], ...).fit(module, batches)
    """

    def __init__(
        self, audio: Sequence[Audio], *, every: int | None = None, folder: str | Path | None = None, **options: Any
    ) -> None:
        if _Callback is object:
            raise MIError(
                "ViewsCallback for PyTorch Lightning needs Lightning, which is not installed: "
                "pip install pytorch-lightning."
            )
        super().__init__()
        self.training_log = TrainingLog(ViewsMeter(audio, **options), every)
        self.folder = folder

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Measure the model that training starts from."""
        if self.training_log.every is None and not trainer.enable_validation:
            raise MIError(
                "ViewsCallback(every=None) measures at the end of each validation, but this training has none: give "
                "every=STEPS, or a validation loader."
            )
        if trainer.is_global_zero:
            self.training_log.begin(Path(self.folder or trainer.default_root_dir), trainer.global_step)
        if trainer.global_step == 0:
            self._measure(trainer, pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any, **kwargs: Any) -> None:
        """Measure if this step is due."""
        if trainer.global_step > 0 and self.training_log.due(trainer.global_step):
            self._measure(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure at a validation, where no number of steps was given; the sanity check before training is none."""
        within_fit = trainer.state.fn is not None and trainer.state.fn.value == "fit"
        if self.training_log.every is not None or trainer.sanity_checking or not within_fit:
            return
        self._measure(trainer, pl_module)
        # Every process needs the metric, as each decides which checkpoint to keep.
        bits = trainer.strategy.broadcast(self._bits)
        if bits is not None:
            pl_module.log(METRIC, bits, logger=False, prog_bar=True)

    _bits: float | None = None
    """The last value."""

    def _measure(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        values = self.training_log.measure(pl_module, trainer.global_step)
        if values:
            self._bits = values[METRIC]
            for logger in trainer.loggers:
                logger.log_metrics(values, trainer.global_step)
