"""The logistic probe: against scikit-learn at the same L2, and its own gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from s3prl_mi.estimators import logistic
from s3prl_mi.estimators.bounds import NATS_TO_BITS
from s3prl_mi.estimators.frames import Frames, Inputs, fit_affine
from s3prl_mi.estimators.logistic import Linear, Problems, _evaluate, minimise


def data(n, dim=12, classes=6, seed=0, strength=1.0):
    """Correlated frames, and labels drawn from a softmax of a random linear map (rare classes included)."""
    rng = np.random.default_rng(seed)
    world = np.random.default_rng(99)
    mixing = world.normal(size=(dim, dim)) * np.geomspace(0.01, 3, dim)
    weights, bias = world.normal(size=(dim, classes)) * strength, np.linspace(0, -4, classes)
    z = rng.normal(size=(n, dim)) @ mixing + 3.0
    logits = (z - 3.0) @ np.linalg.inv(mixing) @ weights + bias
    return z.astype(np.float32), (logits + rng.gumbel(size=logits.shape)).argmax(1)


def fit(z, y, classes, l2, held_out=None, start=None, tolerance=1e-6, cache_bytes=1 << 30):
    frames = Frames([z])
    inputs = Inputs(frames, fit_affine(frames), cache_bytes)
    problems = Problems(torch.from_numpy(y), held_out, classes, torch.tensor(l2))
    return (*minimise(inputs, problems, start, tolerance=tolerance), inputs)


def bits(linear, affine, z, y):
    log_q = torch.log_softmax(linear(affine(torch.from_numpy(z))).double(), 2)
    chosen = log_q.gather(2, torch.from_numpy(y)[:, None, None].expand(-1, log_q.shape[1], 1))
    return -chosen[:, :, 0].mean(0).numpy() * NATS_TO_BITS


@pytest.mark.parametrize("l2", [1e-1, 1e-2, 1e-3, 1e-4])
def test_equals_scikit_learn_at_the_same_l2(l2):
    """Cross-entropy on unheard frames within 0.002 bits; C = 1 / (l2 n), standardised features."""
    (z, y), (ze, ye) = data(3000), data(3000, seed=1)
    linear, _, inputs = fit(z, y[:, None], 6, [l2])
    scaler = StandardScaler().fit(z)
    model = LogisticRegression(C=1 / (l2 * len(z)), max_iter=5000, tol=1e-6).fit(scaler.transform(z), y)
    log_q = model.predict_log_proba(scaler.transform(ze))
    theirs = -log_q[np.arange(len(ye)), ye].mean() * NATS_TO_BITS
    assert bits(linear, inputs.affine, ze, ye)[0] == pytest.approx(theirs, abs=0.002)


@pytest.fixture
def exact(monkeypatch):
    """Gradients in float32 on every processor."""
    monkeypatch.setattr(logistic, "half_is_fast", lambda device: False)


def test_gradients_of_bfloat16_lead_to_the_same_bits(monkeypatch):
    """Within 0.0005 bits on unheard frames, at weak and strong L2."""
    (z, y), (ze, ye) = data(logistic.HALF_FRAMES), data(3000, seed=1)
    found = []
    for half in (False, True):
        monkeypatch.setattr(logistic, "half_is_fast", lambda device, half=half: half)
        linear, _, inputs = fit(z, np.stack([y] * 2, 1), 6, [1e-1, 1e-4], tolerance=2e-5)
        found.append(bits(linear, inputs.affine, ze, ye))
    np.testing.assert_allclose(found[0], found[1], atol=5e-4)
    assert not np.array_equal(found[0], found[1])


def test_what_has_converged_leaves_the_products(monkeypatch):
    """An easy problem beside a hard one: the products shrink to the hard one, whose answer is the same."""
    z, y = data(1000)
    widths = []
    real = logistic._evaluate

    def counted(inputs, problems, at, anchor):
        widths.append(problems.targets.shape[1])
        return real(inputs, problems, at, anchor)

    monkeypatch.setattr(logistic, "_evaluate", counted)
    both, _, inputs = fit(z, np.stack([y, y], 1), 6, [1.0, 1e-5])
    assert (widths[0], widths[-1]) == (2, 1)
    alone, _, _ = fit(z, y[:, None], 6, [1e-5])
    np.testing.assert_allclose(bits(both, inputs.affine, z, y)[1], bits(alone, inputs.affine, z, y)[0], atol=1e-4)


def test_gradient_is_that_of_the_loss(exact):
    z, y = data(300, dim=4, classes=3)
    frames = Frames([z])
    inputs = Inputs(frames, fit_affine(frames))
    rng = torch.Generator().manual_seed(0)
    held_out = torch.rand(300, 2, generator=rng) < 0.3
    problems = Problems(torch.from_numpy(y)[:, None].expand(-1, 2), held_out, 3, torch.tensor([0.1, 0.01]))
    at = Linear(torch.randn(4, 2, 3, generator=rng), torch.randn(2, 3, generator=rng))
    anchor = problems.priors().log()

    weight, bias = at.weight.double().requires_grad_(), at.bias.double().requires_grad_()
    logits = torch.einsum("nd,dpc->npc", inputs.block(0, 300).double(), weight) + bias
    nll = -torch.log_softmax(logits, 2).gather(2, problems.targets[:, :, None])[:, :, 0]
    loss = (nll * ~held_out).sum(0) / (~held_out).sum(0)
    loss = loss + 0.5 * problems.l2 * weight.square().sum((0, 2)) + 0.5e-5 * (bias - anchor).square().sum(1)
    loss.sum().backward()

    point = _evaluate(inputs, problems, at, anchor)
    torch.testing.assert_close(point.loss, loss.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(point.gradient.weight.double(), weight.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(point.gradient.bias.double(), bias.grad, atol=1e-5, rtol=1e-4)
    out = (nll * held_out).sum(0) / held_out.sum(0)
    torch.testing.assert_close(point.held_out_loss, out.detach(), atol=1e-5, rtol=1e-5)


def test_held_out_frames_are_not_fitted_on(exact):
    """A problem with held-out frames is the problem without them: 1e-3 nats; their labels change nothing."""
    z, y = data(1200)
    held_out = torch.zeros(1200, 2, dtype=torch.bool)
    held_out[800:, 1] = True
    linear, loss, inputs = fit(z, np.stack([y, y], 1), 6, [0.01, 0.01], held_out)
    wrong = y.copy()
    wrong[800:] = (y[800:] + 1) % 6
    other, other_loss, _ = fit(z, np.stack([y, wrong], 1), 6, [0.01, 0.01], held_out)
    torch.testing.assert_close(linear.weight, other.weight, atol=1e-6, rtol=0)
    assert loss[0] == 0  # nothing held out in the first problem
    assert other_loss[1] > loss[1] + 0.1

    affine = inputs.affine
    problems = Problems(torch.from_numpy(y[:800, None]), None, 6, torch.tensor([0.01]))
    alone, _ = minimise(Inputs(Frames([z[:800]]), affine), problems, tolerance=1e-6)
    torch.testing.assert_close(
        linear(affine(torch.from_numpy(z)))[:, 1], alone(affine(torch.from_numpy(z)))[:, 0], atol=0.02, rtol=0
    )


def test_many_problems_at_once_are_the_same_as_one_by_one():
    z, y = data(1500)
    targets = np.stack([y, y[::-1], (y + 1) % 6], 1)
    l2 = [1e-1, 1e-2, 1e-3]
    together, _, inputs = fit(z, targets, 6, l2)
    for p in range(3):
        alone, _, _ = fit(z, np.ascontiguousarray(targets[:, [p]]), 6, [l2[p]])
        a = bits(together.problem(p), inputs.affine, z, np.ascontiguousarray(targets[:, p]))
        b = bits(alone, inputs.affine, z, np.ascontiguousarray(targets[:, p]))
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_streaming_is_the_same_as_in_memory():
    z, y = data(1500)
    kept, _, inputs = fit(z, y[:, None], 6, [1e-3])
    streamed, _, _ = fit(z, y[:, None], 6, [1e-3], cache_bytes=0)
    np.testing.assert_allclose(bits(kept, inputs.affine, z, y), bits(streamed, inputs.affine, z, y), atol=1e-4)


def test_a_warm_start_ends_where_a_cold_one_does():
    z, y = data(1500)
    first, _, inputs = fit(z, y[:, None], 6, [1e-1])
    warm, _, _ = fit(z, y[:, None], 6, [1e-3], start=first.map(torch.clone))
    cold, _, _ = fit(z, y[:, None], 6, [1e-3])
    np.testing.assert_allclose(bits(warm, inputs.affine, z, y), bits(cold, inputs.affine, z, y), atol=1e-4)


def test_endless_l2_gives_the_prior():
    z, y = data(1000)
    linear, _, inputs = fit(z, y[:, None], 6, [1e6])
    counts = np.bincount(y, minlength=6) / 1000
    log_q = torch.log_softmax(linear(inputs.block(0, 5)), 2)[:, 0].exp().numpy()
    np.testing.assert_allclose(log_q, np.tile(counts, (5, 1)), atol=1e-3)


def test_a_class_without_frames_stays_finite():
    z, y = data(600)
    linear, _, inputs = fit(z, y[:, None], 9, [1e-4])
    log_q = torch.log_softmax(linear(inputs.block(0, 600)), 2)[:, 0]
    assert torch.isfinite(log_q).all()
    assert float(log_q[:, 6:].exp().sum(1).max()) < 0.05


def test_separable_classes_stay_finite():
    y = np.arange(300) % 3
    linear, _, inputs = fit(np.eye(3, dtype=np.float32)[y], y[:, None], 3, [1e-6])
    loss = bits(linear, inputs.affine, np.eye(3, dtype=np.float32)[y], y)[0]
    assert 0 <= loss < 0.01
    assert torch.isfinite(linear.weight).all()
