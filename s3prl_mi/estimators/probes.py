"""The probes there are: names, colours, and how each protocol fits them.

A new probe is a new entry of `PROBES`, and a name in `core.config.MIConfig.probes`. Imports no
torch: what plans, sorts and draws estimates reads it, too.

Protocol `default` (version in its name): the logistic probe is fitted to convergence, its L2 strength chosen by
cross-validation over held-out speakers of the fit split (of mi_views: with codebooks without these speakers), then
fitted on all of it. The MLP probe's number of training
steps is chosen on held-out speakers; its prediction is ``softmax(w * MLP logits + (1 - w) * logistic logits)`` with the
MLP's weight w chosen there too, so that it falls back to the logistic probe where it adds nothing.

Protocol `paper`: what Liu, Yeh and Glass (ICASSP 2024, section 3) state: learning rate 0.1, 10 epochs, MLP of 3 layers
with ReLU and dropout. Not stated, and chosen here: SGD (without momentum), batches of 256 frames in an order of the
seed's, width 512, dropout 0.1, standardised input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..core.errors import MIError

if TYPE_CHECKING:
    import torch

    from .fitting import Fitting
    from .probe import FittedProbe

PROTOCOLS = {"default": "default-4", "paper": "paper-2"}
"""Name in the config -> name and version in records; a change of any number here or in `fitting` needs a new one."""


@dataclass(frozen=True)
class NetworkSettings:
    """Shape and training of a network.

    `hidden` has the width of each hidden layer (none: a linear probe); `ema_decay` is the decay of the running mean of
    the weights, which is what is scored (0: the last weights).
    """

    hidden: tuple[int, ...]
    dropout: float
    batch: int
    learning_rate: float
    optimiser: Literal["adamw", "sgd"]
    weight_decay: float = 0.0
    ema_decay: float = 0.0


MLP_DEFAULT = NetworkSettings((256, 256), 0.3, 512, 5e-3, "adamw", weight_decay=0.3, ema_decay=0.97)
MLP_PAPER = NetworkSettings((512, 512), 0.1, 256, 0.1, "sgd")
LOGISTIC_PAPER = NetworkSettings((), 0.0, 256, 0.1, "sgd")


@dataclass(frozen=True)
class Probe:
    """One probe: its `name` in configs and records, its `colour` in figures, and by protocol how it is fitted."""

    name: str
    colour: str
    fit: Mapping[str, Callable[[Fitting], FittedProbe]]


PROBES: dict[str, Probe] = {
    probe.name: probe
    for probe in (
        Probe(
            "logistic",
            "#0072B2",
            {"default": lambda f: f.logistic(), "paper": lambda f: f.by_sgd("logistic", LOGISTIC_PAPER)},
        ),
        Probe(
            "mlp",
            "#D55E00",
            {"default": lambda f: f.mlp(), "paper": lambda f: f.by_sgd("mlp", MLP_PAPER)},
        ),
    )
}
"""By name, in the order of tables and figures."""


@dataclass(frozen=True)
class ProbeSpec:
    """Which probes to fit and how.

    Args:
        probes: names in `PROBES`.
        protocol: `default` or `paper`.
        seeds: of the MLP's initial weights and dropout, and of k-means.
        device: where to compute.

    Raises:
        MIError: an unknown protocol or probe.
    """

    probes: tuple[str, ...]
    protocol: str
    seeds: tuple[int, ...]
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        """Refuse names that are not known."""
        if self.protocol not in PROTOCOLS:
            raise MIError(f"unknown protocol {self.protocol!r}: expected {' or '.join(PROTOCOLS)}.")
        for name in self.probes:
            if name not in PROBES:
                raise MIError(f"unknown probe {name!r}: expected {' or '.join(PROBES)}.")
