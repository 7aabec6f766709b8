"""Stage 8: a model in training -> I(Za;Zb) at each step, in bits, without labels.

`measure_views` is the plain function; `ViewsMeter` the same with the held-out audio prepared once. Audio is split in
halves by speaker, one to fit on and one to score, as the paper does for choosing a checkpoint.

============  ================================================================================================
meter         `measure_views`, `ViewsMeter`: through the same task and records as an experiment
hugging_face  `ViewsCallback` for `transformers.Trainer`
lightning     `ViewsCallback` for PyTorch Lightning
record        which steps are due, and `mi_training.jsonl`
held_out      held-out audio: read once, split in halves by speaker
live          a model in memory as an upstream; it is left exactly as it was
============  ================================================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .meter import ViewsMeter, measure_views

__all__ = ["ViewsMeter", "measure_views"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from . import meter

        return getattr(meter, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
