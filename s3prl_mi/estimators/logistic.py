"""The logistic probe: multinomial logistic regression with L2, many problems at a time.

A *problem* is one (seed, fold) pair: a target per frame, the frames it is fitted on, and an L2 strength. All
problems of a layer share each read of its frames and one matrix product, and each keeps its own L-BFGS state
(Liu and Nocedal 1989). In the coordinates of `frames.AffineMap` the curvature for class k and axis j is about
``p_k (1 - p_k) variance_j``; starting L-BFGS from its inverse makes a few tens of steps enough. A problem that has
converged leaves the products.

Losses are computed in float32. Gradients are sums over frames of bfloat16 numbers where the processor is faster at
these: measured, as many steps, a quarter less time, and bits within 0.0001.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.arithmetic import HALF_FRAMES, half_is_fast
from .frames import Inputs

BIAS_L2 = 1e-5
"""Pull of each bias towards the log frequency of its class: keeps classes without frames finite."""

MEMORY = 8
"""Pairs of steps and gradient changes that L-BFGS remembers."""

SMALLEST_Q = 1e-37
"""Probabilities below it count as this much: float32 has nothing smaller at full precision."""

SMALLEST_LOSS = 0.05
"""Nats: below it the tolerance of a fit does not shrink any more, as float32 would not follow."""


@dataclass
class Linear:
    """Weights (dim, n_problems, n_classes) and biases (n_problems, n_classes) of linear softmax probes."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Logits of shape (n_frames, n_problems, n_classes) for x of shape (n_frames, dim)."""
        dim, problems, classes = self.weight.shape
        return (x @ self.weight.reshape(dim, -1)).view(-1, problems, classes) + self.bias

    def problem(self, index: int | Sequence[int] | Tensor) -> Linear:
        """One problem (or several) as probes of their own."""
        chosen = [index] if isinstance(index, int) else index
        return Linear(self.weight[:, chosen], self.bias[chosen])

    def map(self, function: Callable[..., Tensor], *others: Linear) -> Linear:
        """A function of the weights, and of those of others, and the same of the biases."""
        weights, biases = (o.weight for o in others), (o.bias for o in others)
        return Linear(function(self.weight, *weights), function(self.bias, *biases))


@dataclass
class Problems:
    """What to fit on the frames of one layer.

    Args:
        targets: class ids, shape (n_frames, n_problems).
        held_out: True where a frame is not fitted on, shape (n_frames, n_problems); None: all are.
        classes: number of classes.
        l2: strength for each problem, relative to the mean loss in nats, shape (n_problems,).
    """

    targets: Tensor
    held_out: Tensor | None
    classes: int
    l2: Tensor

    def only(self, index: Tensor) -> Problems:
        """Some of the problems."""
        held_out = None if self.held_out is None else self.held_out[:, index]
        return Problems(self.targets[:, index], held_out, self.classes, self.l2[index])

    def priors(self) -> Tensor:
        """Smoothed class frequencies of the fitted frames, shape (n_problems, n_classes)."""
        counts = torch.zeros(self.targets.shape[1], self.classes, device=self.targets.device)
        used = torch.ones_like(self.targets) if self.held_out is None else (~self.held_out).long()
        counts.scatter_add_(1, self.targets.T, used.T.float())
        return (counts + 0.5) / (counts + 0.5).sum(1, keepdim=True)


@dataclass
class _Point:
    """Where a minimisation stands: parameters, loss, gradient, and the loss on held-out frames."""

    at: Linear
    loss: Tensor
    gradient: Linear
    held_out_loss: Tensor

    def only(self, index: Tensor) -> _Point:
        """Some of the problems."""
        return _Point(self.at.problem(index), self.loss[index], self.gradient.problem(index), self.held_out_loss[index])


def _evaluate(inputs: Inputs, problems: Problems, at: Linear, anchor: Tensor) -> _Point:
    """Mean loss in nats with its penalties, its gradient, and the mean loss on held-out frames."""
    dim, count, classes = at.weight.shape
    weight = at.weight.reshape(dim, -1)
    d_bias = torch.zeros_like(at.bias)
    fitted = torch.zeros(count, dtype=torch.float64, device=weight.device)
    left_out = torch.zeros_like(fitted)
    n_out = torch.zeros_like(fitted)
    if problems.held_out is not None:
        n_out += problems.held_out.sum(0)
    inner = inputs.fold(weight)
    d_inner = torch.zeros_like(inner)
    half = len(inputs) >= HALF_FRAMES and half_is_fast(weight.device)
    # enough rows for an efficient product, few enough that their logits stay in the processor's cache
    rows = max(256, min(4096, (1 << 20) // (count * classes)))
    for start, stop, x in inputs.blocks_to_fold(rows):
        target = problems.targets[start:stop, :, None]
        logits = torch.addmm(at.bias.reshape(1, -1), x, inner).view(stop - start, count, classes)
        residual = logits.softmax(2)
        nll = -residual.gather(2, target).squeeze(2).clamp_min(SMALLEST_Q).log()
        residual.scatter_add_(2, target, torch.full_like(target, -1.0, dtype=residual.dtype))
        if problems.held_out is not None:
            out = problems.held_out[start:stop]
            residual.mul_((~out)[:, :, None])
            left_out += torch.where(out, nll, 0.0).sum(0, dtype=torch.float64)
            fitted += torch.where(out, 0.0, nll).sum(0, dtype=torch.float64)
        else:
            fitted += nll.sum(0, dtype=torch.float64)
        residual = residual.view(stop - start, -1)
        if half:
            d_inner += x.bfloat16().T @ residual.bfloat16()
        else:
            d_inner.addmm_(x.T, residual)
        d_bias += residual.sum(0).view(count, classes)
    d_weight = inputs.unfold(d_inner)
    n_fitted = (len(inputs) - n_out).float()
    l2 = problems.l2
    pull = at.bias - anchor
    loss = (
        fitted / n_fitted
        + 0.5 * l2 * at.weight.square().sum((0, 2), dtype=torch.float64)
        + 0.5 * BIAS_L2 * pull.square().sum(1, dtype=torch.float64)
    )
    gradient = Linear(
        d_weight.view(dim, count, classes) / n_fitted[:, None] + l2[:, None] * at.weight,
        d_bias / n_fitted[:, None] + BIAS_L2 * pull,
    )
    return _Point(at, loss, gradient, left_out / (len(inputs) - n_fitted).clamp_min(1))


def _dot(a: Linear, b: Linear) -> Tensor:
    """Inner product problem by problem, shape (n_problems,)."""
    return (a.weight * b.weight).sum((0, 2), dtype=torch.float64) + (a.bias * b.bias).sum(1, dtype=torch.float64)


def _step(a: Linear, b: Linear, size: Tensor) -> Linear:
    """``a + size * b``, with one size per problem."""
    s = size.to(a.weight.dtype)[:, None]
    return a.map(lambda x, y: x + s * y, b)


def minimise(
    inputs: Inputs, problems: Problems, start: Linear | None = None, tolerance: float = 1e-5, steps: int = 200
) -> tuple[Linear, Tensor]:
    """Fit all problems to convergence.

    Args:
        inputs: the frames, n_frames of them.
        problems: targets, held-out frames and L2 strengths.
        start: where to begin; by default all weights zero and biases at the log class frequencies.
        tolerance: stop a problem when its loss is estimated to be within this many nats of the minimum (within
            this fraction of the loss where that is below one nat).
        steps: the most passes over the frames.

    Returns:
        The probes, and the mean loss in nats on each problem's held-out frames, shape (n_problems,).
    """
    priors = problems.priors()
    anchor = priors.log()
    if start is None:
        shape = (inputs.dim, *anchor.shape)
        start = Linear(torch.zeros(shape, device=anchor.device), anchor.clone())
    spread = priors * (1 - priors)
    curvature = inputs.affine.variance[:, None, None] * spread + problems.l2[:, None]
    inverse = Linear(1.0 / curvature, 1.0 / (spread + BIAS_L2))

    point = _evaluate(inputs, problems, start, anchor)
    history: list[tuple[Linear, Linear, Tensor]] = []
    direction = _direction(point.gradient, history, inverse)
    slope = _dot(point.gradient, direction)
    size = torch.ones_like(point.loss)
    done = _Point(
        start.map(torch.clone),
        point.loss.clone(),
        point.gradient.map(torch.clone),
        point.held_out_loss.clone(),
    )
    live = torch.arange(len(size), device=size.device)
    for _ in range(steps):
        # a fraction of small losses: a tolerance above what is left to gain would end a warm start where it began
        active = -0.5 * slope > tolerance * point.loss.clamp(SMALLEST_LOSS, 1.0)
        if not bool(active.all()):
            # numbers, found once: each index by a mask would wait for a GPU
            ended, active = (~active).nonzero()[:, 0], active.nonzero()[:, 0]
            _put(done, live[ended], point.only(ended))
            live, point, slope, size = live[active], point.only(active), slope[active], size[active]
            direction, inverse = direction.problem(active), inverse.problem(active)
            problems, anchor = problems.only(active), anchor[active]
            history = [(s.problem(active), y.problem(active), sy[active]) for s, y, sy in history]
            if not len(live):
                break
        trial = _evaluate(inputs, problems, _step(point.at, direction, size), anchor)
        good = trial.loss <= point.loss + 1e-4 * size * slope + 1e-9
        moved = _keep(trial, point, good)
        if bool(good.any()):
            history.append(_pair(moved, point, good))
            del history[:-MEMORY]
        refreshed = _direction(moved.gradient, history, inverse)
        direction = _where(good, refreshed, direction)
        slope = torch.where(good, _dot(moved.gradient, direction), slope)
        size = torch.where(good, torch.ones_like(size), size * 0.3)
        # a step shrunk to nothing: this problem has reached the limit of float32
        slope = torch.where(size < 1e-3, torch.zeros_like(slope), slope)
        point = moved
    _put(done, live, point)
    return done.at, done.held_out_loss


def _put(done: _Point, index: Tensor, point: _Point) -> None:
    """Write where some problems ended into what holds all of them."""
    done.at.weight[:, index], done.at.bias[index] = point.at.weight, point.at.bias
    done.held_out_loss[index] = point.held_out_loss


def _pair(new: _Point, old: _Point, valid: Tensor) -> tuple[Linear, Linear, Tensor]:
    """A step, its change of gradient, and their inner product; all zero where there is no valid step."""
    keep = valid.to(new.at.weight.dtype)[:, None]
    s = new.at.map(lambda a, b: (a - b) * keep, old.at)
    y = new.gradient.map(lambda a, b: (a - b) * keep, old.gradient)
    return s, y, _dot(s, y)


def _direction(gradient: Linear, history: list[tuple[Linear, Linear, Tensor]], inverse: Linear) -> Linear:
    """L-BFGS two-loop recursion, problem by problem; pairs without curvature are passed over."""
    q = gradient.map(torch.neg)
    alphas: list[Tensor] = []
    scale = torch.ones_like(_dot(q, q))
    for s, y, sy in reversed(history):
        alpha = torch.where(sy > 0, _dot(s, q) / sy, 0.0)
        q = _step(q, y, -alpha)
        alphas.append(alpha)
    for _s, y, sy in reversed(history):
        curved = _dot(y, y.map(torch.mul, inverse))
        fresh = (sy > 0) & (scale == 1.0)
        scale = torch.where(fresh, sy / curved.clamp_min(1e-300), scale)
    r = q.map(lambda a, b: a * b * scale[:, None].float(), inverse)
    for (s, y, sy), alpha in zip(history, reversed(alphas), strict=True):
        beta = torch.where(sy > 0, _dot(y, r) / sy, 0.0)
        r = _step(r, s, alpha - beta)
    return r


def _where(choose: Tensor, a: Linear, b: Linear) -> Linear:
    return a.map(lambda x, y: torch.where(choose[:, None], x, y), b)


def _keep(new: _Point, old: _Point, good: Tensor) -> _Point:
    return _Point(
        _where(good, new.at, old.at),
        torch.where(good, new.loss, old.loss),
        _where(good, new.gradient, old.gradient),
        torch.where(good, new.held_out_loss, old.held_out_loss),
    )
