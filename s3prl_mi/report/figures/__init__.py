"""Records -> figures fit for a paper, each with its caption, as PNG, PDF and SVG.

Only what is on one scale (`Scale`) shares an axis. A figure is drawn where its data exist; a function whose data do not
exist returns an empty list.
"""

from __future__ import annotations

from .checkpoint_curves import (
    checkpoint_curves,
    mixed_series,
    picks_of,
    series_in,
    series_name,
    stability_words,
)
from .cluster_usage import Usage, cluster_usage, usages
from .layer_curves import layer_curves
from .phones import ClassBits, class_bits, confusion_pictures, phone_bits
from .picture import Picture
from .scale import (
    Measured,
    Model,
    Scale,
    all_summaries,
    by_scale,
    headline_scales,
    in_order,
    model_of,
    natural,
    scale_of,
)
from .score_scatter import Point, score_scatter
from .sweeps import sweeps

__all__ = [
    "ClassBits",
    "Measured",
    "Model",
    "Picture",
    "Point",
    "Scale",
    "Usage",
    "all_summaries",
    "by_scale",
    "checkpoint_curves",
    "class_bits",
    "cluster_usage",
    "confusion_pictures",
    "headline_scales",
    "in_order",
    "layer_curves",
    "mixed_series",
    "model_of",
    "natural",
    "phone_bits",
    "picks_of",
    "scale_of",
    "score_scatter",
    "series_in",
    "series_name",
    "stability_words",
    "sweeps",
    "usages",
]
