"""What numbers must withstand: unheard speakers, few of them, one bad frame, extreme scales, rare labels."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from s3prl_mi import estimate_supervised_mi, estimate_view_mi
from s3prl_mi.core.errors import MIError
from s3prl_mi.estimators import mi_supervised, mi_views
from s3prl_mi.estimators.folds import assign_folds
from s3prl_mi.estimators.frames import Frames, Inputs, fit_affine
from s3prl_mi.estimators.mi_views import choose_codebook
from s3prl_mi.estimators.probes import ProbeSpec
from s3prl_mi.estimators.vocabulary import UNKNOWN, Vocabulary

MEANS = np.random.default_rng(7).normal(size=(10, 64))


def speakers(count, frames, seed, apart=3.0):
    """Ten classes 0.3 apart, speakers `apart`, each with label frequencies of its own: z, y, groups."""
    rng, z, y = np.random.default_rng(seed), [], []
    for _ in range(count):
        own = rng.choice(10, frames, p=rng.dirichlet(np.full(10, 5.0)))
        z.append(0.3 * MEANS[own] + rng.normal(size=64) * apart + rng.normal(size=(frames, 64)))
        y.append(own)
    return np.concatenate(z), np.concatenate(y), np.repeat(np.arange(count), frames)


def blobs(n, seed, spread=4.0):
    """Eight symbols in 8 dimensions: z, y."""
    y = np.random.default_rng(seed).integers(0, 8, n)
    return (spread * MEANS[:8, :8])[y] + np.random.default_rng(seed + 99).normal(size=(n, 8)), y


def test_speakers_that_differ_far_more_than_classes():
    """Five fit speakers: -6 bits when L2 is chosen by fits that stop early, 0.1 when by converged ones."""
    z, y, groups = speakers(5, 3000, 0)
    ze, ye, _ = speakers(8, 1500, 100)
    assert estimate_supervised_mi(z, y, ze, ye, groups=groups).mi_lower_bound_bits > 0


def test_uninformative_frames_are_not_worse_than_the_prior():
    """-0.02 bits at worst, 0.01 of them sampling error of 19 class frequencies learned from 3,000 frames."""
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(6000, 64)), rng.integers(0, 20, 6000)
    found = estimate_supervised_mi(z[:3000], y[:3000], z[3000:], y[3000:], groups=np.arange(3000) // 600)
    assert -0.02 < found.mi_lower_bound_bits <= 0.005


def test_slow_frames_without_groups():
    """AR(1) of 0.99 and slow labels that are independent: neighbours on both sides of a fold would look like news."""
    rng = np.random.default_rng(0)
    z, step = np.zeros((6000, 16)), rng.normal(size=(6000, 16)) * (1 - 0.99**2) ** 0.5
    for t in range(1, 6000):
        z[t] = 0.99 * z[t - 1] + step[t]
    y = np.repeat(rng.integers(0, 8, 300), 20)
    assert -0.15 < estimate_supervised_mi(z[:3000], y[:3000], z[3000:], y[3000:]).mi_lower_bound_bits < 0.02


def test_codebooks_of_choices_never_see_the_speakers_held_out(monkeypatch):
    z = np.concatenate([blobs(300, 0)[0] + 100 * s for s in range(6)])
    groups = np.repeat(np.arange(6), 300)
    folds = assign_folds(groups)
    seen = []
    real = mi_views.fit_codebooks
    monkeypatch.setattr(
        mi_views, "fit_codebooks", lambda frames, *rest, **kw: seen.append(frames.rows) or real(frames, *rest, **kw)
    )
    every = Frames([z]), Frames([z]), np.arange(len(z)), 8
    books = choose_codebook(*every, ProbeSpec((), "default", (3, 4)), folds)
    assert books is not None
    assert len(books.centroids) == 5
    tried, rest = [0, 1, 2] * 2, [3, 4]  # as they are or on two axes, then what is left of the better one
    assert [set(groups[rows]) for rows in seen] == [set(groups[folds != f]) for f in tried + rest]
    assert choose_codebook(*every, ProbeSpec((), "paper", (3, 4)), folds) is None


def test_the_codebook_is_of_what_tells_more():
    """View a says nothing about a loud direction of view b, and all about quiet ones: raw 0.9 bits lower."""
    rng = np.random.default_rng(0)
    groups, zb = np.repeat(np.arange(10), 400), rng.normal(size=(8000, 12)).astype(np.float32)
    za = zb[:, 2:] + 0.2 * rng.normal(size=(8000, 10)).astype(np.float32)
    zb[:, :2] *= 20
    split = za[:4000], zb[:4000], za[4000:], zb[4000:]
    auto, raw = (estimate_view_mi(*split, clusters=16, groups=groups, codebook=c) for c in ("auto", "raw"))
    assert (auto.settings["codebook_axes"], raw.settings["codebook_axes"]) == (12, 0)
    assert raw.mi_lower_bound_bits < 0.1 < 0.8 < auto.mi_lower_bound_bits
    zb[:, 2:] += 30 * zb[:, :2].mean(1, keepdims=True)  # what is loud is shared now
    shared = estimate_view_mi(zb[:4000, :6], zb[:4000], zb[4000:, :6], zb[4000:], clusters=16, groups=groups)
    assert shared.mi_lower_bound_bits > 2


def test_one_bad_frame_hardly_matters():
    """1e6 in all dimensions of one frame, in fit or in eval: 0.02 bits at most."""
    (z, y), (ze, ye) = blobs(2000, 0), blobs(2000, 1)
    clean = estimate_supervised_mi(z, y, ze, ye).mi_lower_bound_bits
    for at in (z, ze):
        at[77] = 1e6
        found = estimate_supervised_mi(z, y, ze, ye).mi_lower_bound_bits
        assert found == pytest.approx(clean, abs=0.02)
        at[77] = 0


def test_one_bad_frame_leaves_the_clusters():
    """Of eight clusters it may take one."""
    (z, _), (ze, _) = blobs(2000, 0), blobs(2000, 1)
    z[77] = 1e6
    found = estimate_view_mi(z, z, ze, ze, clusters=8)
    assert found.entropy_bits > 2.5
    assert found.mi_lower_bound_bits > found.entropy_bits - 0.05


def test_clipping_is_the_same_in_memory_and_streamed():
    z = blobs(2000, 0)[0].astype(np.float32)
    affine = fit_affine(Frames([z]))
    wild = z.copy()
    wild[::7] *= 1e5
    kept, streamed = (Inputs(Frames([wild]), affine, cache) for cache in (1 << 30, 0))
    weight = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    for (*_, x), (*_, raw) in zip(kept.blocks_to_fold(), streamed.blocks_to_fold(), strict=True):
        torch.testing.assert_close(x @ weight, raw @ streamed.fold(weight), atol=1e-3, rtol=1e-3)
    assert float(kept.block(0, 2000).abs().max()) < 40


def test_codes_that_are_nearly_always_zero_are_kept():
    """One-hot codes, some active in less than one frame of a hundred: all their information is found."""
    y = np.random.default_rng(0).choice(6, 8000, p=[0.5, 0.3, 0.185, 0.005, 0.005, 0.005])
    z = np.eye(6)[y]
    found = estimate_supervised_mi(z[:4000], y[:4000], z[4000:], y[4000:])
    assert found.mi_lower_bound_bits == pytest.approx(found.entropy_bits, abs=0.01)


@pytest.mark.parametrize("scale", [1e18, 1e-30])
def test_extreme_scales(scale):
    (z, y), (ze, ye) = blobs(1000, 0), blobs(1000, 1)
    one, two = (estimate_supervised_mi(z * s, y, ze * s, ye).mi_lower_bound_bits for s in (1, scale))
    assert two == pytest.approx(one, abs=0.002)
    one, two = (estimate_view_mi(z * s, z * s, ze * s, ze * s, clusters=8).mi_lower_bound_bits for s in (1, scale))
    assert two == pytest.approx(one, abs=0.01)


def test_clusters_that_are_hardly_used_are_reported(caplog):
    z = np.random.default_rng(0).normal(size=(1000, 2)) * 0
    z[:20] = np.arange(20)[:, None] * 1e3
    with caplog.at_level(logging.WARNING):
        estimate_view_mi(z, z, z, z, clusters=16)
    assert "clusters are used very unevenly" in caplog.text


def test_labels_that_only_eval_has_are_refused_before_anything_is_fitted(monkeypatch):
    monkeypatch.setattr(mi_supervised, "fit_probes", lambda *_: pytest.fail("fitted"))
    z, y = blobs(1000, 0)
    with pytest.raises(MIError, match="min_count"):
        estimate_supervised_mi(z, y, z, y + 5)


def test_rare_labels_are_one_class():
    """Words: half of the eval labels are new. The bound is of the information about the merged label."""
    z, y = blobs(4000, 0)
    words = [f"w{k}" if k < 4 else f"rare{i}" for i, k in enumerate(y)]
    found = estimate_supervised_mi(z[:2000], words[:2000], z[2000:], words[2000:], min_count=5)
    assert (found.labels, found.unseen_frames) == (5, 0)
    merged = np.minimum(y, 4)
    expected = estimate_supervised_mi(z[:2000], merged[:2000], z[2000:], merged[2000:])
    assert found.mi_lower_bound_bits == pytest.approx(expected.mi_lower_bound_bits, abs=0.01)
    vocabulary = Vocabulary.of(["a", "a", "b"], 2)
    assert vocabulary.labels == (UNKNOWN, "a")
    assert vocabulary.ids(["b", "c", "a"]).tolist() == [0, 0, 1]
    assert Vocabulary.of(["a", "b"], 1).ids(["c"]).tolist() == [-1]


@pytest.mark.parametrize("probe", ["logistic", "mlp"])
def test_the_paper_protocol_is_plain_sgd_in_an_order_of_the_seeds(probe):
    """One step from zero is 0.1 times the gradient; batches of another seed come in another order."""
    (z, y), (ze, ye) = blobs(1000, 0, 0.5), blobs(2000, 1, 0.5)
    bits = [estimate_supervised_mi(z, y, ze, ye, probe, s, protocol="paper").mi_lower_bound_bits for s in (0, 0, 1)]
    assert bits[0] == bits[1] != bits[2]
