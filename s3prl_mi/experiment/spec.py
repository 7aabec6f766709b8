"""What one run is asked for: made once, from a command line and a config, or from what s3prl's runner hands over."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ..core.config import MIConfig, Task


@dataclass(frozen=True)
class UpstreamSpec:
    """One model to measure."""

    name: str
    """As for `-u`."""
    ckpt: str | None = None
    """Checkpoint (`-k`), for names that take one: file, folder, URL or Hugging Face id."""
    step: int | None = None
    """Training step of the checkpoint, where a study knows it; None: as the file or its name says."""
    series: str | None = None
    """The series that the user put together by `name=checkpoint#step`."""
    model_config: str | None = None
    """Config file that some upstreams take alongside their checkpoint (`-g`)."""
    refresh: bool = False
    """Download the checkpoint again (`-r`)."""
    feature_selection: str = "hidden_states"
    """Key of the upstream's output (`-s`)."""
    normalize: bool = False
    """Layer-normalise before the weighted sum (`--upstream_feature_normalize`)."""
    module: str | None = None
    """File with upstreams of the user's own (`--upstream_module`)."""
    trusted: bool = False
    """Whether the checkpoint may run code while it is read (`--trust_checkpoint`)."""

    @property
    def slug(self) -> str:
        """A name for its folder."""
        if self.ckpt is None:
            return _safe(self.name)
        path = Path(self.ckpt)
        stem = path.name if path.is_dir() else path.stem if path.exists() else self.ckpt
        return _safe(f"{self.name}-{stem}")


def _safe(text: str) -> str:
    return re.sub(r"[^\w.@+-]+", "-", text).strip("-")


@dataclass(frozen=True)
class RunSpec:
    """One run of one task on one upstream."""

    task: Task
    upstream: UpstreamSpec
    config: MIConfig
    folder: Path
    """Where results go."""
    seed: int = 1337
    """The first seed, where the config gives their number only."""
    layer: int | None = None
    """The one layer of `-l`, which wins over the config."""
    device: str = "cpu"
    resume: bool = False
    """Continue what is in the folder (`-a`)."""
    evaluate_split: str | None = None
    """Score the fitted probes on this split (`-m evaluate -t`), without fitting; None: fit and score."""


@dataclass(frozen=True)
class StockSpec:
    """One run of one of s3prl's own tasks (`ctc`, `asr`) on one upstream, as a part of a study."""

    task: str
    upstream: UpstreamSpec
    config: Mapping[str, Any]
    """The study's section of this task: `base`, the config that it starts from, and keys that replace those of it."""
    folder: Path
    seed: int = 1337
    layer: int | None = None
    """The one layer of `-l`; None: the learned weighted sum."""
    device: str = "cpu"
    resume: bool = False


Run: TypeAlias = "RunSpec | StockSpec"
"""One run of a study."""
