"""Several processes, as a user starts them: by torchrun."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SECONDS = 300.0
"""Far more than any of these runs takes: a run that hangs fails."""

ROOT = Path(__file__).parents[2]


def torchrun(
    count: int, *words: str, start: bool = False, **more: Any
) -> subprocess.CompletedProcess[str] | subprocess.Popen[str]:
    """Run `python -m <words>` in `count` processes, one thread each; with `start` only begin to."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(count), "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", *launcher, *words]
    options = {"env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    if start:
        return subprocess.Popen(command, **options, **more)
    return subprocess.run(command, timeout=SECONDS, check=False, **options, **more)


def answers(count: int, function: str, folder: Path) -> list[Any]:
    """What `module:function(folder)` returns in each of `count` processes of one session, by rank."""
    done = torchrun(count, __name__, function, str(folder))
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"answer-{rank}.json").read_text()) for rank in range(count)]


def main(function: str, folder: Path) -> int:
    """One of the processes."""
    from s3prl_mi.cli.errors import report_errors
    from s3prl_mi.core.distributed import session

    module, _, name = function.partition(":")

    def action() -> int:
        with session() as here:
            answer = getattr(importlib.import_module(module), name)(folder)
        (folder / f"answer-{here.rank}.json").write_text(json.dumps(answer))
        return 0

    return report_errors(action, "the same command")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
