"""`ViewsCallback` for `transformers.Trainer`: I(Za;Zb) during pre-training, in the Trainer's logs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from ..core.errors import MIError
from .held_out import Audio
from .meter import ViewsMeter
from .record import TrainingLog

if TYPE_CHECKING:
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments


class ViewsCallback(TrainerCallback):
    """Measures the model on held-out audio before the first step, then every so many steps.

    Values are logged as `mi_views/bits` and appended as records to `<output_dir>/mi_training.jsonl`, by the world
    process zero only. A resumed training continues the file.

    Args:
        audio: held-out utterances, as for `ViewsMeter`.
        every: steps from one measurement to the next; None: at each evaluation of the Trainer.
        **options: of `ViewsMeter`: groups, layers, clusters, probe, view, encoder, ...

    Raises:
        MIError: audio or options that cannot be used; at the start of training, a model that cannot be measured.

    Example::

        trainer = Trainer(model, args, train_dataset=..., data_collator=...)
        ViewsCallback(paths, groups=speakers, every=500).attach(trainer)
        trainer.train()

    `attach` gives the values to every reporter (TensorBoard, W&B, the progress bar). In `Trainer(callbacks=[...])`
    it works as well, but a callback does not know its Trainer: values are then in `state.log_history` and the file.
    """

    def __init__(self, audio: Sequence[Audio], *, every: int | None = None, **options: Any) -> None:
        self.training_log = TrainingLog(ViewsMeter(audio, **options), every)
        self._trainer: Trainer | None = None

    def attach(self, trainer: Trainer) -> ViewsCallback:
        """Add this callback to a Trainer, and log through it."""
        self._trainer = trainer
        trainer.add_callback(self)
        return self

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure the model that training starts from."""
        if self.training_log.every is None and str(getattr(args.eval_strategy, "value", args.eval_strategy)) == "no":
            raise MIError(
                "ViewsCallback(every=None) measures at each evaluation, but TrainingArguments.eval_strategy is 'no': "
                "give every=STEPS, or an eval_strategy."
            )
        if state.is_world_process_zero:
            self.training_log.begin(Path(args.output_dir), state.global_step)
            if state.global_step == 0:
                self._measure(state, control, kwargs["model"])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measure if this step is due."""
        if self.training_log.due(state.global_step):
            self._measure(state, control, kwargs["model"])

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measure at an evaluation, where no number of steps was given."""
        if self.training_log.every is None:
            self._measure(state, control, kwargs["model"])

    def _measure(self, state: TrainerState, control: TrainerControl, model: Any) -> None:
        if not state.is_world_process_zero:
            return
        values = self.training_log.measure(model, state.global_step)
        if not values:
            return
        if self._trainer is None:
            state.log_history.append({**values, "step": state.global_step})
            return
        # Logging clears should_log, but the loss of this very step may still wait to be logged.
        should_log = control.should_log
        self._trainer.log(values)
        control.should_log = self._trainer.control.should_log = should_log
