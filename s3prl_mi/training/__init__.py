"""I(Za;Zb) of a model in memory, while it is being trained: which step, in bits, without labels.

`measure_views` is the plain function; `ViewsMeter` the same with the held-out audio prepared once;
`training.hugging_face.ViewsCallback` and `training.lightning.ViewsCallback` call it for you. Audio is split in
halves by speaker, one to fit on and one to score, as the paper does for choosing a checkpoint.
"""

from __future__ import annotations

from .meter import ViewsMeter, measure_views

__all__ = ["ViewsMeter", "measure_views"]
