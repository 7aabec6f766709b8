"""I(Za;Zb): channels between views whose information is known, and what every bound must obey."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from s3prl_mi import estimate_view_mi
from s3prl_mi.core.errors import MIError
from s3prl_mi.estimators.bounds import entropy_bits
from s3prl_mi.estimators.folds import assign_folds, time_folds
from s3prl_mi.estimators.frames import Frames
from s3prl_mi.estimators.kmeans import Codebooks, assign, fit_codebooks
from s3prl_mi.estimators.mi_views import choose_codebook, fit_views, score_views
from s3prl_mi.estimators.probes import ProbeSpec

BOTH = pytest.mark.parametrize("probe", ["logistic", "mlp"])
CORNERS = 12.0 * np.random.default_rng(7).normal(size=(8, 8))
"""Where the symbols of a channel lie: far apart, so that k-means finds each; in 8 dimensions, so that a linear
probe can give each symbol any odds."""


def channel(n, error, seed, symbols=8, offset=0.0):
    """Two views of one symbol, view a through a symmetric channel: every other symbol has error / (K - 1)."""
    rng = np.random.default_rng(seed)
    b = rng.integers(0, symbols, n)
    wrong = rng.random(n) < error
    a = np.where(wrong, (b + rng.integers(1, symbols, n)) % symbols, b)
    noise = rng.normal(size=(2, n, CORNERS.shape[1]))
    return CORNERS[a] + noise[0] + offset, CORNERS[b] + noise[1] + offset


def channel_bits(error, symbols=8):
    if error == 0:
        return np.log2(symbols)
    return np.log2(symbols) + (1 - error) * np.log2(1 - error) + error * np.log2(error / (symbols - 1))


def estimate(fit, held_out, **options):
    return estimate_view_mi(*fit, *held_out, **options)


@BOTH
@pytest.mark.parametrize("error", [0.0, 0.1, 0.4, 7 / 8])
def test_symmetric_channel(error, probe):
    """log2 K - H(error) - error log2(K - 1), within 0.03 bits: 0.01 is sampling error of 8,000 pairs,
    0.015 the price of 63 weights learned from 3,000."""
    found = estimate(channel(3000, error, 0), channel(8000, error, 1), clusters=8, probe=probe)
    assert found.mi_lower_bound_bits == pytest.approx(channel_bits(error), abs=0.03)
    assert found.entropy_bits == pytest.approx(3, abs=0.01)


def test_fewer_clusters_than_symbols_can_only_lose():
    """A coarser code of view b holds less (data processing), and no more than its own entropy."""
    fit, held_out = channel(3000, 0.1, 0), channel(6000, 0.1, 1)
    fine = estimate(fit, held_out, clusters=8).mi_lower_bound_bits
    coarse = estimate(fit, held_out, clusters=3)
    assert coarse.mi_lower_bound_bits < fine - 0.3
    assert coarse.mi_lower_bound_bits <= coarse.entropy_bits <= np.log2(3)


@BOTH
def test_independent_views_give_at_most_a_hundredth_of_a_bit(probe):
    rng = np.random.default_rng(0)
    za, zb = rng.normal(size=(2, 4000, 8))
    found = estimate((za[:2000], zb[:2000]), (za[2000:], zb[2000:]), clusters=10, probe=probe)
    assert -0.05 < found.mi_lower_bound_bits <= 0.01
    assert found.entropy_bits > 3.2


def test_shuffled_pairs_give_no_information():
    fit, (za, zb) = channel(2000, 0.0, 0), channel(4000, 0.0, 1)
    order = np.random.default_rng(2).permutation(2000)
    found = estimate((fit[0][order], fit[1]), (za[np.random.default_rng(3).permutation(4000)], zb), clusters=8)
    assert -0.05 < found.mi_lower_bound_bits <= 0.01


@BOTH
def test_a_view_of_itself_gives_the_entropy_of_its_clusters(probe):
    """Za = Zb with separate clusters: H(c) within 0.005 bits, and not above it nor above log2(clusters)."""
    _, fit = channel(2000, 0.0, 0)
    _, held_out = channel(4000, 0.0, 1)
    found = estimate((fit, fit), (held_out, held_out), clusters=8, probe=probe)
    assert found.entropy_bits - 0.005 <= found.mi_lower_bound_bits <= found.entropy_bits <= 3
    assert found.accuracy == 1


@pytest.mark.parametrize("trial", range(5))
def test_never_above_the_entropy_of_the_clusters(trial):
    rng = np.random.default_rng(trial)
    clusters = int(rng.integers(2, 20))
    zb = rng.normal(size=(3000, 5)) @ rng.normal(size=(5, 5))
    za = zb + rng.uniform(0, 2) * rng.normal(size=zb.shape)
    found = estimate((za[:1500], zb[:1500]), (za[1500:], zb[1500:]), clusters=clusters)
    assert found.mi_lower_bound_bits <= found.entropy_bits <= np.log2(clusters)
    assert found.mi_lower_bound_bits == pytest.approx(found.entropy_bits - found.cross_entropy_bits, abs=1e-12)
    assert found.labels == clusters


def test_below_the_information_between_gaussian_views():
    """I = -1/2 log2(1 - r^2) for each of two dimensions; the bound holds most of it and none more (0.03 bits)."""
    rng = np.random.default_rng(0)
    correlation = 0.9
    zb = rng.normal(size=(9000, 2))
    za = correlation * zb + np.sqrt(1 - correlation**2) * rng.normal(size=zb.shape)
    truth = -np.log2(1 - correlation**2)
    found = estimate((za[:4000], zb[:4000]), (za[4000:], zb[4000:]), clusters=30).mi_lower_bound_bits
    assert 0.75 * truth < found < truth + 0.03


@BOTH
def test_permuting_the_ids_of_clusters_changes_nothing(probe):
    """Entropy to the last bit, the bound within 0.002 bits (logistic) and 0.02 (MLP: other initial weights)."""
    fit, held_out = channel(1500, 0.2, 0), channel(4000, 0.2, 1)
    a, b, ea, eb = (Frames([z]) for z in (*fit, *held_out))
    folds, spec = assign_folds(np.arange(1500) // 30), ProbeSpec((probe,), "default", (0,))
    codebook, choice = fit_codebooks(b, 8, [0]), choose_codebook(a, b, np.arange(1500), 8, spec, folds, ())

    def bound(book):
        probes = fit_views(a, b, book, choice, folds, spec)
        return score_views(probes, book, ea, eb, spec, 1500)[0][0]

    plain, renamed = (
        bound(codebook),
        bound(Codebooks(codebook.centroids[:, torch.tensor([3, 1, 4, 0, 7, 5, 2, 6])], codebook.inputs)),
    )
    assert renamed.entropy_bits == pytest.approx(plain.entropy_bits, abs=1e-12)
    assert renamed.mi_lower_bound_bits == pytest.approx(
        plain.mi_lower_bound_bits, abs=0.002 if probe == "logistic" else 0.02
    )


def test_entropy_is_that_of_the_clusters_of_the_eval_split():
    fit, held_out = channel(1500, 0.2, 0), channel(3000, 0.2, 1)
    codebook = fit_codebooks(Frames([fit[1]]), 5, [3])
    expected = entropy_bits(np.bincount(assign(Frames([held_out[1]]), codebook)[:, 0].numpy()))
    raw = estimate(fit, held_out, clusters=5, seed=3, codebook="raw")
    assert raw.entropy_bits == pytest.approx(expected, abs=1e-12)


def test_eval_frames_never_reach_codebook_and_probe(monkeypatch):
    """Other eval frames: the same codebook and the same probe, to the last bit."""
    books, probes = [], []
    monkeypatch.setattr(
        "s3prl_mi.estimators.arrays.fit_codebooks", lambda *a: books.append(fit_codebooks(*a)) or books[-1]
    )
    monkeypatch.setattr("s3prl_mi.estimators.arrays.fit_views", lambda *a: probes.append(fit_views(*a)) or probes[-1])
    fit = channel(1000, 0.2, 0)
    for held_out in (channel(500, 0.2, 1), channel(900, 0.9, 2, offset=5.0)):
        estimate(fit, held_out, clusters=8)
    assert torch.equal(*(b.centroids for b in books))
    (first,), (second,) = probes
    assert torch.equal(first.linear.weight, second.linear.weight)
    assert torch.equal(first.affine.matrix, second.affine.matrix)
    assert first.settings == second.settings


def test_seeds():
    """One seed, one number; another seed, another codebook; a seed does not know which others are fitted."""
    rng = np.random.default_rng(0)
    za, zb = rng.normal(size=(2, 2000, 6))
    za = za + zb
    split = (za[:1000], zb[:1000]), (za[1000:], zb[1000:])
    alone = [estimate(*split, clusters=8, seed=s).mi_lower_bound_bits for s in (0, 0, 2)]
    assert alone[0] == alone[1] != alone[2]
    a, b, ea, eb = (Frames([z]) for z in (*split[0], *split[1]))
    seeds = [0, 1, 2]
    # as estimate_view_mi does without groups
    spec, folds = ProbeSpec(("logistic",), "default", tuple(seeds)), time_folds(1000)
    choice = choose_codebook(a, b, np.arange(1000), 8, spec, folds)
    codebooks = fit_codebooks(b, 8, seeds, inputs=choice.inputs)
    probes = fit_views(a, b, codebooks, choice, folds, spec)
    together = score_views(probes, codebooks, ea, eb, spec, 1000)[0]
    assert [e.seed for e in together] == seeds
    assert together[0].mi_lower_bound_bits == pytest.approx(alone[0], abs=1e-4)
    assert together[2].mi_lower_bound_bits == pytest.approx(alone[2], abs=1e-4)
    assert len({s["l2"] for p in probes for s in p.settings}) == 1  # chosen once, by a codebook of its own seed


def test_far_from_the_origin():
    """Both views moved by 10,000 standard deviations: 0.01 bits."""
    near = estimate(channel(2000, 0.1, 0), channel(4000, 0.1, 1), clusters=8)
    far = estimate(channel(2000, 0.1, 0, offset=1e4), channel(4000, 0.1, 1, offset=1e4), clusters=8)
    assert far.mi_lower_bound_bits == pytest.approx(near.mi_lower_bound_bits, abs=0.01)


def test_fewer_different_frames_than_clusters():
    """Four different frames, ten clusters: two bits, all found."""
    symbols = np.random.default_rng(0).integers(0, 4, 2000)
    z = CORNERS[symbols]
    found = estimate((z[:1000], z[:1000]), (z[1000:], z[1000:]), clusters=10)
    assert found.entropy_bits == pytest.approx(2, abs=0.01)
    assert found.mi_lower_bound_bits == pytest.approx(found.entropy_bits, abs=0.005)


def test_views_of_unequal_width_and_the_paper_protocol():
    (a, b), (ea, eb) = channel(4000, 0.1, 0), channel(3000, 0.1, 1)
    widen = np.random.default_rng(0).normal(size=(8, 15))
    found = estimate((a @ widen, b), (ea @ widen, eb), clusters=8, protocol="paper")
    assert found.protocol == "paper-2"
    assert found.mi_lower_bound_bits == pytest.approx(channel_bits(0.1), abs=0.2)
    assert found.mi_lower_bound_bits < channel_bits(0.1) + 0.03


def test_tensors_and_the_record():
    fit, held_out = channel(300, 0.1, 0), channel(400, 0.1, 1)
    expected = estimate(fit, held_out, clusters=8, seed=4)
    found = estimate(tuple(map(torch.from_numpy, fit)), tuple(map(torch.from_numpy, held_out)), clusters=8, seed=4)
    assert found == expected
    assert (found.fit_frames, found.eval_frames, found.labels, found.seed) == (300, 400, 8, 4)
    assert (found.probe, found.unseen_frames) == ("logistic", 0)


Z = np.random.default_rng(0).normal(size=(60, 2))


@pytest.mark.parametrize(
    ("views", "options", "message"),
    [
        ((Z, Z[:59], Z, Z), {}, "fit_za has 60 frames and fit_zb 59: row i of both must be one pair"),
        ((Z, Z, Z[:50], Z), {}, "eval_za has 50 frames and eval_zb 60"),
        ((Z, Z, Z[:, :1], Z), {}, "fit_za has 2 dimensions and eval_za 1"),
        ((Z, Z, Z, Z[:, :1]), {}, "fit_zb has 2 dimensions and eval_zb 1"),
        ((Z, Z * np.nan, Z, Z), {}, "fit_zb holds NaN or infinite"),
        ((Z, Z, Z, Z[0]), {}, r"eval_zb: expected frames of shape \(n_frames, dim\), found \(2,\)"),
        (
            (Z[:49], Z[:49], Z, Z),
            {},
            "50 clusters need at least as many frames in the fit split, which has 49",
        ),
        ((Z, Z, Z, Z), {"clusters": 1}, "clusters: expected a whole number of at least 2, found 1"),
        ((Z, Z, Z, Z), {"clusters": 5, "probe": "tree"}, "unknown probe 'tree': expected logistic or mlp"),
        ((Z, Z, Z, Z), {"clusters": 5, "protocol": "mine"}, "unknown protocol 'mine'"),
        ((Z, Z, Z, Z), {"clusters": 5, "groups": [1, 2]}, "groups has 2 entries for 60 fit frames"),
    ],
)
def test_mistakes_are_named(views, options, message):
    with pytest.raises(MIError, match=message):
        estimate_view_mi(*views, **options)
