"""The MLP probe: three layers with ReLU and dropout, many seeds at a time.

Each seed has its own weights; all seeds share the mini-batches, so that a batch is read once and every layer is
one batched product. Under the default protocol the MLP adds its output to that of the converged logistic
probe (a linear shortcut), starting from exactly that probe: what it adds is what a linear map cannot reach.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .frames import Inputs
from .logistic import Linear

BATCH_ORDER_SEED = 0
"""Mini-batches are the same for all seeds: a seed decides on initial weights and dropout."""


@dataclass(frozen=True)
class MLPSettings:
    """Shape and training of the MLP.

    `decay` is AdamW's weight decay, `average` the decay of the running mean of the weights that is scored.
    """

    hidden: int
    dropout: float
    batch: int
    rate: float
    decay: float
    average: float
    optimiser: str


@dataclass
class MLP:
    """Weights of n_seeds three-layer networks: (n_seeds, n_in, n_out) and (n_seeds, 1, n_out) each.

    `shortcut` is the linear probe whose logits are added, or None.
    `gain` scales the network's own logits, shape (n_seeds,).
    """

    weights: list[Tensor]
    biases: list[Tensor]
    shortcut: Linear | None
    gain: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (n_frames, n_seeds, n_classes) of frames x (n_frames, dim), without dropout."""
        own = self._own(x, lambda h: h) * self.gain[:, None, None]
        logits = own.transpose(0, 1)
        return logits if self.shortcut is None else logits + self.shortcut(x)

    def _own(self, x: Tensor, drop: Callable[[Tensor], Tensor]) -> Tensor:
        h = x.expand(len(self.gain), *x.shape)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            h = drop(torch.relu(torch.baddbmm(bias, h, weight)))
        return torch.baddbmm(self.biases[-1], h, self.weights[-1])


def new_mlp(
    dim: int, classes: int, seeds: Sequence[int], settings: MLPSettings, shortcut: Linear | None
) -> MLP:
    """Initial networks (He et al. 2015); with a shortcut the last layer starts at zero.

    Weights are drawn on the CPU, one generator a seed, so that every device and every set of seeds agree.
    """
    device = shortcut.bias.device if shortcut is not None else torch.device("cpu")
    sizes = [(dim, settings.hidden), (settings.hidden, settings.hidden), (settings.hidden, classes)]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    weights, biases = [], []
    for number, (fan_in, fan_out) in enumerate(sizes):
        last = number == len(sizes) - 1
        scale = 0.0 if last and shortcut is not None else math.sqrt((1.0 if last else 2.0) / fan_in)
        drawn = [torch.randn(fan_in, fan_out, generator=g) * scale for g in generators]
        weights.append(torch.stack(drawn).to(device))
        biases.append(torch.zeros(len(seeds), 1, fan_out, device=device))
    return MLP(weights, biases, shortcut, torch.ones(len(seeds), device=device))


def train(
    inputs: Inputs,
    targets: Tensor,
    positions: Tensor,
    network: MLP,
    seeds: Sequence[int],
    settings: MLPSettings,
    epochs: int,
    after_epoch: Callable[[int, MLP], bool],
) -> MLP:
    """Train the networks on some of the frames.

    Args:
        inputs: mapped frames.
        targets: class ids, shape (n_frames, n_seeds).
        positions: the frames to train on, shape (n_train,).
        network: where to start; not changed.
        seeds: one a network, for its dropout.
        settings: shape and training.
        epochs: the most passes over `positions`.
        after_epoch: called with the number of epochs done and the averaged networks; False ends the training.

    Returns:
        The networks with averaged weights after the last epoch.
    """
    device = inputs.device
    live = MLP(
        [w.clone().requires_grad_() for w in network.weights],
        [b.clone().requires_grad_() for b in network.biases],
        network.shortcut,
        network.gain,
    )
    parameters = live.weights + live.biases
    averaged = [p.detach().clone() for p in parameters]
    if settings.optimiser == "adamw":
        optimiser: torch.optim.Optimizer = torch.optim.AdamW(
            parameters, lr=settings.rate, weight_decay=settings.decay, foreach=True
        )
    else:
        optimiser = torch.optim.SGD(parameters, lr=settings.rate, momentum=0.9)
    order = torch.Generator().manual_seed(BATCH_ORDER_SEED)
    noise = [torch.Generator(device=device).manual_seed(seed) for seed in seeds]
    drop = _dropout(settings.dropout, noise)
    done = 0
    for epoch in range(1, epochs + 1):
        for chosen in positions[torch.randperm(len(positions), generator=order)].split(settings.batch):
            x = inputs.take(chosen)
            target = targets[chosen.to(targets.device)].T.reshape(-1)
            with torch.enable_grad():
                logits = live._own(x, drop)
                if live.shortcut is not None:
                    logits = logits + live.shortcut(x).transpose(0, 1)
                # the sum over seeds: each network sees the gradient of its own mean loss
                loss = functional.cross_entropy(logits.reshape(len(target), -1), target) * len(seeds)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
            optimiser.step()
            done += 1
            # the running mean starts as a plain mean, so that few steps are not dominated by the start
            torch._foreach_lerp_(averaged, [p.detach() for p in parameters], max(1 - settings.average, 1 / done))
        half = len(network.weights)
        mean = MLP(averaged[:half], averaged[half:], network.shortcut, network.gain)
        if not after_epoch(epoch, mean):
            break
    return MLP(averaged[:half], averaged[half:], network.shortcut, network.gain)


def _dropout(share: float, noise: list[torch.Generator]) -> Callable[[Tensor], Tensor]:
    """Dropout with one generator a seed: a network's noise does not depend on which others are trained."""

    def drop(h: Tensor) -> Tensor:
        keep = torch.empty_like(h)
        for layer, generator in zip(keep, noise, strict=True):
            layer.bernoulli_(1 - share, generator=generator)
        return h * keep.mul_(1 / (1 - share))

    return drop
