"""The codebook: against scikit-learn, far from the origin, and where frames are few or repeated."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from s3prl_mi.core.errors import MIError
from s3prl_mi.estimators import kmeans
from s3prl_mi.estimators.frames import Frames
from s3prl_mi.estimators.kmeans import Codebooks, assign, fit_codebooks

SEEDS = [0, 1, 2, 3, 4, 5]


def blobs(n, centres, dim, spread, seed=0):
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(centres, dim)) * spread
    member = rng.integers(0, centres, n)
    return means[member] + rng.normal(size=(n, dim)), member


def inertia(z, book):
    return ((np.asarray(z, np.float64)[:, None] - np.asarray(book, np.float64)[None]) ** 2).sum(2).min(1).sum()


@pytest.mark.parametrize("spread", [0.0, 1.0])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_inertia_is_not_worse_than_scikit_learns(spread, offset):
    """On average over seeds, as each run ends in a local optimum; tolerance 2 %."""
    z, _ = blobs(3000, 25, 6, spread)
    books = fit_codebooks(Frames([z + offset]), 15, SEEDS).centroids
    ours = [inertia((z + offset).astype(np.float32), b) for b in books]
    theirs = [KMeans(15, n_init=1, random_state=s, max_iter=100).fit(z).inertia_ for s in SEEDS]
    assert np.mean(ours) <= 1.02 * np.mean(theirs)


def test_well_separated_blobs_are_found():
    z, member = blobs(2000, 8, 5, 30.0)
    frames = Frames([z])
    for ids in assign(frames, fit_codebooks(frames, 8, SEEDS)).T:
        assert adjusted_rand_score(member, ids.numpy()) == 1.0


def test_centroids_are_the_means_of_their_frames_after_convergence():
    z, _ = blobs(1500, 6, 4, 8.0)
    frames = Frames([z])
    (book,) = fit_codebooks(frames, 6, [0]).centroids.numpy()
    ids = assign(frames, Codebooks(torch.from_numpy(book)[None]))[:, 0].numpy()
    means = np.stack([z[ids == k].mean(0) for k in range(6)])
    np.testing.assert_allclose(book, means, atol=1e-3)


def test_assign_is_the_nearest_centroid_even_far_from_the_origin():
    rng = np.random.default_rng(0)
    z = (rng.normal(size=(5000, 8)) + 1e4).astype(np.float32)
    books = (rng.normal(size=(2, 20, 8)) + 1e4).astype(np.float32)
    ids = assign(Frames([z[:1234], z[1234:]]), Codebooks(torch.from_numpy(books))).numpy()
    distance = ((z.astype(np.float64)[:, None, None] - books.astype(np.float64)[None]) ** 2).sum(3)
    chosen = np.take_along_axis(distance, ids[:, :, None], 2)[:, :, 0]
    np.testing.assert_allclose(chosen, distance.min(2), atol=1e-4)


def test_a_codebook_depends_on_its_own_seed_only():
    z, _ = blobs(2500, 30, 6, 1.0)
    together, again, third, first = (
        fit_codebooks(Frames([z]), 12, seeds).centroids for seeds in ([0, 1, 2], [0, 1, 2], [2], [1, 0])
    )
    torch.testing.assert_close(together, again, atol=0, rtol=0)
    torch.testing.assert_close(third[0], together[2], atol=1e-5, rtol=0)
    torch.testing.assert_close(first[1], together[0], atol=1e-5, rtol=0)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


def test_streaming_from_disk_gives_the_same_codebook(monkeypatch):
    z, _ = blobs(2500, 30, 6, 1.0)
    kept = fit_codebooks(Frames([z]), 12, [0, 1]).centroids
    monkeypatch.setattr("s3prl_mi.estimators.frames.CACHE_BYTES", 0)
    torch.testing.assert_close(fit_codebooks(Frames([z[:7], z[7:]]), 12, [0, 1]).centroids, kept, atol=1e-5, rtol=0)


def test_frames_in_memory_are_left_as_they_are():
    z, _ = blobs(500, 5, 3, 1.0)
    z = z.astype(np.float32)
    before = z.copy()
    fit_codebooks(Frames([z]), 5, [0])
    np.testing.assert_array_equal(z, before)


def test_iterations_are_bounded(monkeypatch):
    z, _ = blobs(2000, 40, 6, 0.0)
    steps = []
    step = kmeans._lloyd_step
    monkeypatch.setattr(kmeans, "_lloyd_step", lambda *a: steps.append(1) or step(*a))
    fit_codebooks(Frames([z]), 12, [0], 7)
    assert len(steps) == 7


def test_as_many_clusters_as_frames():
    z = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    frames = Frames([z])
    ids = assign(frames, fit_codebooks(frames, 20, [0]))
    assert len(ids.unique()) == 20


def test_fewer_different_frames_than_clusters():
    z = np.repeat(np.random.default_rng(0).normal(size=(4, 3)), 100, axis=0)
    frames = Frames([z])
    books = fit_codebooks(frames, 10, [0, 1])
    for ids, book in zip(assign(frames, books).T, books.centroids, strict=True):
        used = torch.isfinite(book).all(1)
        assert used.sum() == 4
        assert set(ids.tolist()) == set(used.nonzero()[:, 0].tolist())
        assert inertia(z, book[used].numpy()) == pytest.approx(0, abs=1e-6)


def test_ids_of_repeated_frames_do_not_hang_on_what_is_assigned_together():
    """Codes of a quantiser: several centroids would lie on one of them, and rounding would choose among these."""
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(40, 64)).astype(np.float32)
    frames = Frames([codes[rng.integers(0, 40, 5000)]])
    books = fit_codebooks(frames, 50, [0, 1, 2])
    every = assign(frames, books)
    for seeds in ([0], [1], [2], [0, 1], [1, 2]):
        torch.testing.assert_close(assign(frames, Codebooks(books.centroids[seeds])), every[:, seeds])
    few = Frames([codes])
    ids = assign(few, Codebooks(books.centroids[:2]))
    assert (torch.isin(ids[:, 0], every[:, 0])).all()
    assert [len(ids[:, s].unique()) for s in (0, 1)] == [40, 40]


def test_fewer_frames_than_clusters():
    with pytest.raises(MIError, match=r"50 clusters.*fit split, which has 49.*downstream_expert\.clusters"):
        fit_codebooks(Frames([np.zeros((49, 3))]), 50, [0])


@pytest.mark.parametrize("clusters", [1, 0, -3, 2.5])
def test_number_of_clusters_that_is_none(clusters):
    with pytest.raises(MIError, match=f"clusters: expected a whole number of at least 2, found {clusters}"):
        fit_codebooks(Frames([np.zeros((49, 3))]), clusters, [0])


def test_inertia_is_that_of_a_hundred_iterations(monkeypatch):
    """Within 2 % for each seed, 1 % on average, though steps end when they hardly gain any more."""
    z, _ = blobs(6000, 40, 12, 0.8)
    books = fit_codebooks(Frames([z]), 20, SEEDS).centroids
    monkeypatch.setattr(kmeans, "TOLERANCE", 0.0)
    full = fit_codebooks(Frames([z]), 20, SEEDS, 100).centroids
    ratios = [inertia(z, ours) / inertia(z, theirs) for ours, theirs in zip(books, full, strict=True)]
    assert max(ratios) <= 1.02
    assert np.mean(ratios) <= 1.01


def test_a_seed_asked_for_twice_is_fitted_once():
    z, _ = blobs(500, 5, 3, 2.0)
    books = fit_codebooks(Frames([z]), 4, [3, 1, 3]).centroids
    assert torch.equal(books[0], books[2])
    assert not torch.equal(books[0], books[1])


def test_the_precision_of_products_is_left_as_it_was():
    before = torch.get_float32_matmul_precision()
    fit_codebooks(Frames([blobs(300, 5, 3, 2.0)[0]]), 4, [0])
    assert torch.get_float32_matmul_precision() == before
