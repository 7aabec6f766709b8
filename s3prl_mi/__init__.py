"""How much information a self-supervised speech model holds, and where: lower bounds of MI, in bits.

Importing this package is cheap; the estimators load torch when they are first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "estimate_supervised_mi", "estimate_view_mi"]

if TYPE_CHECKING:
    from .estimators.arrays import estimate_supervised_mi, estimate_view_mi


def __getattr__(name: str) -> Any:
    if name in ("estimate_supervised_mi", "estimate_view_mi"):
        from .estimators import arrays

        return getattr(arrays, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
