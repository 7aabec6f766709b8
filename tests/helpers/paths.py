"""Where the repository and the shared data are."""

from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
SHARED = REPO.parent / "shared"
"""Real speech and trained checkpoints, next to the checkout; absent on a user's machine."""
MINI = SHARED / "data" / "LibriSpeech-mini"
"""100 utterances of LibriSpeech and their alignments."""
FIXTURES = REPO / "tests" / "fixtures"
