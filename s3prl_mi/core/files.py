"""Where this package lies on disk."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
"""The folder of `s3prl_mi`; its parent is the checkout, or site-packages."""
