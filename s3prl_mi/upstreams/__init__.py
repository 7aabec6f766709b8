"""Stage 2: a name and a waveform -> hidden states under a view.

================= ====================================================================================
`names`           every name that `-u` takes (s3prl's, ours, the user's), and the function behind it
`user_modules`    upstreams of a user's own: importing and checking a module with `FAMILIES`
`families`        what is known of each kind of upstream (`Family`): views, mask site, frames, padding
`geometry`        where frames lie in the waveform (`Geometry`): stride, centre, number
`receptive_field` the `Geometry` of a loaded upstream, from its own layers and config
`loading`         a name and a checkpoint -> a loaded, frozen `Upstream` with its fingerprint
`s3prl_states`    what s3prl's runner leaves: `states-*.ckpt`, found, read and written
`checkpoints`     files before a model is built: safe reading, layout, training step, hash
`views`           the two views of `mi_views`: patterns of mask spans, shifts in time
`masking`         masks at the mask site, and padding in the conv stack: hooks for one forward pass
`forward`         waveforms -> hidden states of every layer, padding removed
`precision`       float32 or bfloat16, and what that changes
`compat`          s3prl 0.4.18 on the libraries of today; imported with s3prl, so it loads nothing heavy
`compat_audio`    torchaudio's functions that s3prl calls, on soundfile and soxr
`compat_checkpoints`  what s3prl's files may do with a checkpoint: read weights and literals, run nothing
`extra`           upstreams that s3prl lacks: DinoSR, Co-training, any speech encoder of Hugging Face
================= ====================================================================================

A new kind of upstream is one entry in `families` (or in a user's own module, see `user_modules`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .families import Family
    from .geometry import Geometry

__all__ = ["Family", "Geometry"]


def __getattr__(name: str) -> Any:
    """What a user's module imports, when it is asked for: this package itself loads neither numpy nor torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "families" if name == "Family" else "geometry"
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
