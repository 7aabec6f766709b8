"""The MLP probe: three layers with ReLU and dropout, many seeds at a time.

Each seed has its own weights; all seeds share the mini-batches, so that a batch is read once and every layer is
one batched product.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..core.arithmetic import fast_type
from .frames import Inputs
from .probes import NetworkSettings

BATCH_ORDER_SEED = 0
"""Mini-batches are the same for all seeds that are trained together: a seed decides on initial weights and dropout."""

LEFT_OUT = -100
"""Target of a frame that a network does not train on."""


@dataclass
class Network:
    """Weights (n_seeds, n_in, n_out) and biases (n_seeds, 1, n_out) of n_seeds networks, layer by layer."""

    weights: list[Tensor]
    biases: list[Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (n_frames, n_seeds, n_classes) of frames x (n_frames, dim), without dropout."""
        return self.forward(x, lambda h: h).transpose(0, 1)

    def only(self, index: int) -> Network:
        """One of the networks, in the arithmetic that is fast on its device: for choices, not for bounds."""
        dtype = fast_type(self.weights[0].device)
        return Network(*([p[index, None].to(dtype) for p in ps] for ps in (self.weights, self.biases)))

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

    Weights are drawn on the CPU, one generator per seed, so that every device and every set of seeds agree.
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
    order_seed: int = BATCH_ORDER_SEED,
) -> Network:
    """Train one network per seed on some of the frames.

    Args:
        inputs: mapped frames.
        targets: class ids, shape (n_frames, n_seeds); `LEFT_OUT` where a network does not train on a frame.
        positions: the frames to train on, shape (n_train,).
        classes: number of classes.
        seeds: what initial weights and dropout are drawn with.
        settings: shape and training.
        steps: the most mini-batches.
        check_every: call `check` after so many steps (0: never).
        check: takes the number of steps done and the networks so far; False ends the training.
        order_seed: of the order of mini-batches.

    Returns:
        The networks, with averaged weights where the settings say so.
    """
    device = inputs.device
    start = new_network(inputs.dim, classes, seeds, settings, device)
    depth = len(start.weights)
    dtype = fast_type(device)
    parameters = start.weights + start.biases
    averaged = [p.clone() for p in parameters]
    mean = Network(averaged[:depth], averaged[depth:])
    optimiser = _AdamW(parameters, settings) if settings.optimiser == "adamw" else _SGD(parameters, settings)
    drop = _dropout(settings.dropout, seeds, dtype, device)
    batches = _batches(positions, settings.batch, steps, order_seed, inputs.taken_from)
    for done, batch in enumerate(batches, start=1):
        target = targets[batch.to(targets.device)].T.reshape(-1)
        x = inputs.take(batch).to(dtype)
        # the master weights are float32; products read them as `dtype`
        working = [p.detach().to(dtype).requires_grad_() for p in parameters]
        with torch.enable_grad():
            logits = Network(working[:depth], working[depth:]).forward(x, drop).float()
            logits = logits.reshape(len(target), classes)
            # summed over networks: each network has the gradient of its own mean loss
            summed = functional.cross_entropy(logits, target, ignore_index=LEFT_OUT, reduction="sum")
            loss = summed / len(batch)
        gradients = [g.float() for g in torch.autograd.grad(loss, working)]
        optimiser.step(gradients)
        # the running mean starts as a plain mean, so that it is not dominated by the start
        torch._foreach_lerp_(averaged, parameters, max(1 - settings.ema_decay, 1 / done))
        if check_every and done % check_every == 0 and not check(done, mean):
            break
    return mean


class _AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

    The step is the one that `torch.optim.AdamW(fused=True)` calls: the class itself takes 3 s to import a compiler.
    """

    def __init__(self, parameters: list[Tensor], settings: NetworkSettings) -> None:
        self.values, self.settings = parameters, settings
        self.first = [torch.zeros_like(p) for p in parameters]
        self.second = [torch.zeros_like(p) for p in parameters]
        self.counts = [torch.zeros((), device=p.device) for p in parameters]

    def step(self, gradients: list[Tensor]) -> None:
        torch._foreach_add_(self.counts, 1)
        torch._fused_adamw_(
            self.values,
            gradients,
            self.first,
            self.second,
            [],
            self.counts,
            lr=self.settings.learning_rate,
            beta1=0.9,
            beta2=0.999,
            weight_decay=self.settings.weight_decay,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )


class _SGD:
    """Plain gradient descent."""

    def __init__(self, parameters: list[Tensor], settings: NetworkSettings) -> None:
        self.values, self.learning_rate = parameters, settings.learning_rate

    def step(self, gradients: list[Tensor]) -> None:
        torch._foreach_add_(self.values, gradients, alpha=-self.learning_rate)


def _batches(
    positions: Tensor,
    size: int,
    count: int,
    order_seed: int = BATCH_ORDER_SEED,
    device: torch.device | str = "cpu",
) -> Iterator[Tensor]:
    """`count` mini-batches of frames on `device`, from one random order of all `positions` after another."""
    order = torch.Generator().manual_seed(order_seed)
    size = min(size, len(positions))
    whole = len(positions) // size * size  # what does not fill a batch waits for the next order
    while count > 0:
        ordered = positions[torch.randperm(len(positions), generator=order)[:whole]].to(device)
        for chosen in ordered.split(size)[:count]:
            yield chosen
            count -= 1


NOISE_POOL = 1 << 20
"""Dropout masks are runs, from random places, of this many draws: drawing again each time would cost more than
the products."""


def _dropout(
    fraction: float, seeds: Sequence[int], dtype: torch.dtype, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """Dropout with noise of its own for each seed, which does not depend on which others are trained."""
    if fraction <= 0:
        return lambda h: h
    pool = torch.stack(
        [
            torch.empty(NOISE_POOL).bernoulli_(1 - fraction, generator=torch.Generator().manual_seed(seed))
            for seed in seeds
        ]
    )
    pool = (pool / (1 - fraction)).to(device, dtype)
    place = torch.Generator().manual_seed(BATCH_ORDER_SEED)

    def drop(h: Tensor) -> Tensor:
        rows, width = h.shape[1:]
        size = rows * width
        start = int(torch.randint(NOISE_POOL - size + 1, (1,), generator=place))
        return h * pool[:, start : start + size].view(len(pool), rows, width)

    return drop
