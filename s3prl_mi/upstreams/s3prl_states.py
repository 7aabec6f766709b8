"""`states-<step>.ckpt`: what s3prl's runner leaves in an experiment's folder, found, read and written."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..core.errors import MIError
from ..core.files import read_torch, write_torch
from . import compat

STATES_FILE = "states-1.ckpt"
"""Of our tasks, whose whole measurement is one step."""


def save_states(folder: Path, args: argparse.Namespace, config: dict[str, Any]) -> None:
    """Leave what s3prl's runner leaves, so that -a, -e and -m evaluate find a finished experiment."""
    states = {"Step": 1, "Epoch": 0, "Args": args, "Config": config, "Optimizer": {}, "Downstream": {}}
    write_torch(folder / STATES_FILE, states)


def latest_states(folder: Path) -> Path | None:
    """The states-<step>.ckpt of the highest step in a folder, or None."""
    steps = {int(p.stem[7:]): p for p in folder.glob("states-*.ckpt") if p.stem[7:].isdecimal()}
    return steps[max(steps)] if steps else None


def load_states(path: Path) -> dict[str, Any]:
    """Load a checkpoint of a downstream experiment, weights only.

    Returns:
        What s3prl's runner saves: at least `Args` (Namespace) and `Config` (dict).

    Raises:
        MIError: the file is not such a checkpoint, or is damaged.
    """
    compat.apply()  # it allows what s3prl saves alongside weights
    states = read_torch(path, "a checkpoint of a downstream experiment")
    if not isinstance(states, dict) or not {"Args", "Config"} <= set(states):
        raise MIError(f"{path}: not a checkpoint of a downstream experiment (keys Args and Config are missing).")
    return states
