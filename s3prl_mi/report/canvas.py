"""What all pictures share: size, fonts and colours, and a file that is written whole."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.files import write_whole
from ..estimators.probes import PROBES
from ..results.summary import Summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {name: probe.colour for name, probe in PROBES.items()}
_MORE_COLOURS = ("#009E73", "#CC79A7", "#56B4E9", "#E69F00")

_RC = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "text.usetex": False,
    "savefig.bbox": None,  # "tight" of a user's matplotlibrc would change the size
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
_DPI = 200


class Canvas:
    """A Figure with our settings, without pyplot and hence without global state."""

    def __init__(self, width: float, height: float) -> None:
        import matplotlib

        self._size = (width, height)
        self._context: Any = matplotlib.rc_context(_RC)

    def __enter__(self) -> Figure:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self._context.__enter__()
        figure = Figure(figsize=self._size, dpi=_DPI, layout="constrained")
        FigureCanvasAgg(figure)
        return figure

    def __exit__(self, *error: object) -> None:
        self._context.__exit__(*error)


def save(figure: Figure, path: Path) -> None:
    """Write the figure as PNG."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_DPI)
    write_whole(path, content.getvalue())


def colours_of(summaries: list[Summary]) -> dict[str, str]:
    """A colour for every probe."""
    others = [p for p in dict.fromkeys(s.probe for s in summaries) if p not in _COLOURS]
    return {**_COLOURS, **{p: _MORE_COLOURS[i % len(_MORE_COLOURS)] for i, p in enumerate(others)}}


def plain(text: str) -> str:
    """Keep matplotlib from reading names as mathematics."""
    return text.replace("$", r"\$")
