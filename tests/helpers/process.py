"""Code in a process of its own, which has imported nothing yet."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.helpers.paths import REPO


def run_python(code: str, cwd: Path = REPO, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a piece of Python with this checkout's package; the caller judges exit status and output."""
    environment = {**os.environ, "PYTHONPATH": str(REPO), **env}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)
