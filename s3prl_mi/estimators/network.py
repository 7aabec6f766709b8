"""The MLP probe: three layers with ReLU and dropout, many seeds at a time.

Each seed has its own weights; all seeds share the mini-batches, so that a batch is read once and every layer is
one batched product.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ..distributed import all_reduce_sum, world
from .frames import Inputs
from .precision import half_is_fast

BATCH_ORDER_SEED = 0
"""Mini-batches are the same for all seeds: a seed decides on initial weights and dropout."""


@dataclass(frozen=True)
class NetworkSettings:
    """Shape and training of a network.

    `hidden` has the width of each hidden layer (none: a linear probe), `decay` is AdamW's weight decay, and
    `average` the decay of the running mean of the weights, which is what is scored (0: the last weights).
    """

    hidden: tuple[int, ...]
    dropout: float
    batch: int
    rate: float
    optimiser: Literal["adamw", "sgd"]
    decay: float = 0.0
    average: float = 0.0


@dataclass
class Network:
    """Weights (n_seeds, n_in, n_out) and biases (n_seeds, 1, n_out) of n_seeds networks, layer by layer."""

    weights: list[Tensor]
    biases: list[Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (n_frames, n_seeds, n_classes) of frames x (n_frames, dim), without dropout."""
        return self.forward(x, lambda h: h).transpose(0, 1)

    def forward(self, x: Tensor, drop: Callable[[Tensor], Tensor]) -> Tensor:
        """Logits (n_seeds, n_frames, n_classes), with `drop` applied to each hidden layer."""
        h = x.expand(len(self.weights[0]), *x.shape)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            h = drop(torch.relu(torch.baddbmm(bias, h, weight)))
        return torch.baddbmm(self.biases[-1], h, self.weights[-1])


def new_network(
    dim: int, classes: int, seeds: Sequence[int], settings: NetworkSettings, device: torch.device
) -> Network:
    """Initial networks (He et al. 2015); a network without hidden layers starts at zero.

    Weights are drawn on the CPU, one generator a seed, so that every device and every set of seeds agree.
    """
    sizes = [dim, *settings.hidden, classes]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    weights, biases = [], []
    for number, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        last = number == len(settings.hidden)
        gain = (1.0 if settings.hidden else 0.0) if last else 2.0
        drawn = [torch.randn(fan_in, fan_out, generator=g) * math.sqrt(gain / fan_in) for g in generators]
        weights.append(torch.stack(drawn).to(device))
        biases.append(torch.zeros(len(seeds), 1, fan_out, device=device))
    return Network(weights, biases)


def train(
    inputs: Inputs,
    targets: Tensor,
    positions: Tensor,
    classes: int,
    seeds: Sequence[int],
    settings: NetworkSettings,
    steps: int,
    check_every: int = 0,
    check: Callable[[int, Network], bool] = lambda _step, _network: True,
) -> Network:
    """Train one network a seed on some of the frames.

    Args:
        inputs: mapped frames.
        targets: class ids, shape (n_frames, n_seeds).
        positions: the frames to train on, among those of all processes, shape (n_train,).
        classes: number of classes.
        seeds: what initial weights and dropout are drawn with.
        settings: shape and training.
        steps: the most mini-batches.
        check_every: call `check` after so many steps (0: never).
        check: takes the number of steps done and the networks so far; False ends the training.

    Returns:
        The networks, with averaged weights where the settings say so.
    """
    device = inputs.device
    start = new_network(inputs.dim, classes, seeds, settings, device)
    depth = len(start.weights)
    parameters = [p.requires_grad_() for p in start.weights + start.biases]
    averaged = [p.detach().clone() for p in parameters]
    live, mean = Network(parameters[:depth], parameters[depth:]), Network(averaged[:depth], averaged[depth:])
    optimiser = (
        _AdamW(parameters, settings) if settings.optimiser == "adamw" else _Momentum(parameters, settings)
    )
    half = torch.autocast(device.type, torch.bfloat16, enabled=half_is_fast(device))
    drop = _dropout(settings.dropout, [torch.Generator(device=device).manual_seed(seed) for seed in seeds])
    for done, batch in enumerate(_batches(positions, settings.batch, steps), start=1):
        chosen, which = inputs.own(batch)
        target = targets[chosen.to(targets.device)].T.reshape(-1)
        x = inputs.take(chosen)
        with torch.enable_grad(), half:
            whole = len(chosen) == len(batch)
            noise = drop if whole else functools.partial(drop, which=which.to(device), batch=len(batch))
            logits = live.forward(x, noise).float()
            # the sum over seeds of mean losses: each network has the gradient of its own mean loss
            loss = functional.cross_entropy(logits.reshape(len(target), classes), target) * len(seeds)
            if not whole:  # this process's share of the mean
                loss = loss * (len(chosen) / len(batch)) if len(chosen) else logits.sum() * 0
        gradients = list(torch.autograd.grad(loss, parameters))
        _sum_gradients(gradients)
        optimiser.step(gradients)
        # the running mean starts as a plain mean, so that it is not dominated by the start
        torch._foreach_lerp_(averaged, [p.detach() for p in parameters], max(1 - settings.average, 1 / done))
        if check_every and done % check_every == 0 and not check(done, mean):
            break
    return mean


class _AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019); torch's own takes 3 s to import its compiler."""

    def __init__(self, parameters: list[Tensor], settings: NetworkSettings) -> None:
        self.values = [p.detach() for p in parameters]
        self.rate, self.decay = settings.rate, settings.decay
        self.first = [torch.zeros_like(p) for p in self.values]
        self.second = [torch.zeros_like(p) for p in self.values]
        self.count = 0

    def step(self, gradients: list[Tensor]) -> None:
        self.count += 1
        torch._foreach_mul_(self.values, 1 - self.rate * self.decay)
        torch._foreach_lerp_(self.first, gradients, 0.1)
        torch._foreach_mul_(self.second, 0.999)
        torch._foreach_addcmul_(self.second, gradients, gradients, 0.001)
        # both running means start at zero: what they lack is made up for
        root = torch._foreach_sqrt(self.second)
        torch._foreach_div_(root, math.sqrt(1 - 0.999**self.count))
        torch._foreach_add_(root, 1e-8)
        torch._foreach_addcdiv_(self.values, self.first, root, -self.rate / (1 - 0.9**self.count))


class _Momentum:
    """Gradient descent with momentum 0.9."""

    def __init__(self, parameters: list[Tensor], settings: NetworkSettings) -> None:
        self.values = [p.detach() for p in parameters]
        self.rate = settings.rate
        self.speed = [torch.zeros_like(p) for p in self.values]

    def step(self, gradients: list[Tensor]) -> None:
        torch._foreach_mul_(self.speed, 0.9)
        torch._foreach_add_(self.speed, gradients)
        torch._foreach_add_(self.values, self.speed, alpha=-self.rate)


def _sum_gradients(gradients: Sequence[Tensor]) -> None:
    """Sum gradients over processes."""
    if world().size == 1:
        return
    summed = all_reduce_sum(torch.cat([g.reshape(-1) for g in gradients]))
    for own, part in zip(gradients, summed.split([g.numel() for g in gradients]), strict=True):
        own.copy_(part.view_as(own))


def _batches(positions: Tensor, size: int, count: int) -> Iterator[Tensor]:
    """`count` mini-batches of frames, from one random order of all `positions` after another."""
    order = torch.Generator().manual_seed(BATCH_ORDER_SEED)
    size = min(size, len(positions))
    whole = len(positions) // size * size  # what does not fill a batch waits for the next order
    while count > 0:
        for chosen in positions[torch.randperm(len(positions), generator=order)[:whole]].split(size)[:count]:
            yield chosen
            count -= 1


NOISE_POOL = 1 << 20
"""Dropout masks are runs, from random places, of this many draws: drawing anew each time would cost more than
the products."""


class _Dropout(Protocol):
    def __call__(self, h: Tensor, which: Tensor | None = None, batch: int = 0) -> Tensor:
        """Drop units of a hidden layer.

        Args:
            h: shape (n_seeds, n_rows, width).
            which: frames of the mini-batch that its rows are, shape (n_rows,); None: all of it.
            batch: frames of that mini-batch: each has the same noise on whatever process it is.
        """
        ...


def _dropout(share: float, noise: list[torch.Generator]) -> _Dropout:
    """Dropout with one generator a seed: a network's noise does not depend on which others are trained."""
    if share <= 0:
        return lambda h, which=None, batch=0: h
    device = noise[0].device
    pools = [
        torch.empty(NOISE_POOL, device=device).bernoulli_(1 - share, generator=g) / (1 - share) for g in noise
    ]
    places = [torch.Generator().manual_seed(g.initial_seed()) for g in noise]

    def drop(h: Tensor, which: Tensor | None = None, batch: int = 0) -> Tensor:
        rows, width = h.shape[1:]
        size = (rows if which is None else batch) * width
        keep = torch.empty_like(h)
        for own, pool, place in zip(keep, pools, places, strict=True):
            start = int(torch.randint(len(pool) - size + 1, (1,), generator=place))
            whole = pool[start : start + size].view(-1, width)
            own.copy_(whole if which is None else whole[which])
        return h * keep

    return drop
