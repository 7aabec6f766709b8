"""What s3prl's runner expects of a task, around an experiment that needs all layers and its own loop.

The runner builds upstream and featurizer, hands over config and arguments, and then trains for one step, which
is the whole measurement. It passes on only one sequence of features, so the experiment loads the upstream again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..core.distributed import is_main, session
from ..core.errors import MIError
from ..core.types import SAMPLE_RATE
from ..upstreams.s3prl_states import save_states


class RunnerAdapter(nn.Module):
    """Base of both `DownstreamExpert`s, built from the config's sections and the command line's arguments."""

    task: ClassVar[str]

    def __init__(self, upstream_dim: int, upstream_rate: int, **everything: Any) -> None:
        super().__init__()
        del upstream_dim, upstream_rate
        sections = ("runner", "optimizer", "scheduler", "specaug", "downstream_expert")
        self._config = {name: everything[name] for name in sections if name in everything}
        self._args = argparse.Namespace(**{k: v for k, v in everything.items() if k not in sections})
        self._args.downstream = self.task
        self._done = False
        # the runner's optimiser and checkpoint want a parameter
        self.unused = nn.Parameter(torch.zeros(1))

    def get_dataloader(self, split: str, epoch: int = 0) -> list[tuple[list[Any], int]]:
        """One step with one second of silence: the experiment reads its audio itself."""
        del split, epoch
        return [([torch.zeros(SAMPLE_RATE).numpy()], 0)]

    def forward(self, split: str, features: list[Tensor], *others: Any, **kwargs: Any) -> Tensor:
        """Run the experiment; returns a loss of zero."""
        del features, others, kwargs
        if not self._done:
            from ..experiment.run import run
            from .arguments import run_spec

            self._done = True
            args = argparse.Namespace(**vars(self._args))
            args.mode, args.evaluate_split = ("train", None) if self.training else ("evaluate", split)
            try:
                with session():
                    run(run_spec(args, self._config))
                    if args.mode == "train" and is_main():
                        save_states(Path(args.expdir), args, self._config)
            except MIError as error:
                raise SystemExit(f"error: {error}") from None
        return self.unused.sum() * 0

    def log_records(self, split: str, records: Any, logger: Any, global_step: int, **kwargs: Any) -> list[str]:
        """Nothing: the experiment has written its results."""
        del split, records, logger, global_step, kwargs
        return []
