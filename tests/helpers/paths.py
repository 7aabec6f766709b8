"""Where the repository and the shared data are."""

from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
SHARED = REPO.parent / "shared"
"""Real speech and trained checkpoints, beside the checkout; absent on a user's machine."""
FIXTURES = REPO / "tests" / "fixtures"
