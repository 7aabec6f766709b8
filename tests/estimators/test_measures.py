"""Measures on matrices of known spectrum, views of known dependence, codes of known purity, and public units."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from s3prl_mi.core.errors import MIError
from s3prl_mi.estimators.frames import Frames
from s3prl_mi.estimators.intervals import FrameGroups, LeftOut
from s3prl_mi.estimators.kmeans import Codebooks
from s3prl_mi.estimators.measures.registry import chosen, evaluate, measures
from s3prl_mi.estimators.measures.sample import Coded, FitSide, Pairs, Sample
from s3prl_mi.estimators.measures.units import davies_bouldin_index
from s3prl_mi.estimators.measures.views import mean_canonical_correlation
from s3prl_mi.estimators.probes import ProbeSpec


def groups_of(n: int, speakers: int = 4) -> FrameGroups:
    return FrameGroups("speakers", tuple("abcdefghijklmnopqrstuvwxyz"[:speakers]), np.arange(n) * speakers // n)


def sample_of(x: np.ndarray, **more) -> Sample:
    x = x.astype(np.float32)
    return Sample(Frames([x]), groups_of(len(x)), np.arange(len(x)) // 10, **more)


def values(sample: Sample, *names: str) -> dict[str, float | None]:
    table = measures()
    return {m.measure.name: m.value for m in evaluate([table[n] for n in names], sample)}


def orthonormal(n: int, dim: int, centred: bool) -> np.ndarray:
    z = np.random.default_rng(0).normal(size=(n, dim))
    z = z - z.mean(0) if centred else z
    return np.linalg.qr(z)[0]


def test_ranks_of_a_known_spectrum():
    """Variances 4, 2, 1, 1 (centred): each rank is its formula on these numbers."""
    v = np.array([4.0, 2.0, 1.0, 1.0])
    x = orthonormal(400, 4, centred=True) * np.sqrt(v) * 20
    p, s = v / v.sum(), np.sqrt(v) / np.sqrt(v).sum()
    found = values(sample_of(x), "rankme", "effective_rank", "participation_ratio")
    assert found["rankme"] == pytest.approx(math.exp(-(s * np.log(s)).sum()), rel=1e-6)
    assert found["effective_rank"] == pytest.approx(math.exp(-(p * np.log(p)).sum()), rel=1e-6)
    assert found["participation_ratio"] == pytest.approx(64 / 22, rel=1e-6)


def test_rankme_is_of_the_matrix_as_it_is_and_the_others_are_centred():
    x = orthonormal(400, 4, centred=True) * 20
    before, far = (values(sample_of(x + shift), "rankme", "effective_rank") for shift in (0, 1000))
    assert before["rankme"] == pytest.approx(4)
    assert far["rankme"] == pytest.approx(np.exp(_entropy(np.linalg.svd((x + 1000), compute_uv=False))), rel=1e-3)
    assert far["rankme"] < 1.5
    assert far["effective_rank"] == pytest.approx(4, rel=1e-3)


def _entropy(s: np.ndarray) -> float:
    p = s / s.sum()
    return float(-(p * np.log(p)).sum())


def test_small_singular_values_count():
    """A direction of 1e-5 of the largest: float32 sums of squares would lose it."""
    scale = np.array([1.0] + [1e-5] * 50)
    x = orthonormal(2000, 51, centred=False) * scale
    s = np.linalg.svd(x.astype(np.float32).astype(np.float64), compute_uv=False)
    assert values(sample_of(x), "rankme")["rankme"] == pytest.approx(np.exp(_entropy(s)), rel=1e-5)


def test_rank_of_utterances_is_at_most_their_number():
    x = np.random.default_rng(0).normal(size=(30, 20))
    found = values(sample_of(x), "rankme_utterances")["rankme_utterances"]
    sums = x.astype(np.float32).reshape(3, 10, 20).sum(1, dtype=np.float64)
    assert found == pytest.approx(np.exp(_entropy(np.linalg.svd(sums, compute_uv=False))), rel=1e-6)
    assert found <= 3


def test_alpha_of_a_power_law():
    v = np.arange(1, 41) ** -1.7
    assert values(sample_of(orthonormal(500, 40, True) * np.sqrt(v)), "alpha_req")["alpha_req"] == pytest.approx(
        1.7, rel=1e-3
    )


def test_states_that_do_not_vary_have_no_rank():
    found = values(sample_of(np.full((100, 5), 2.0)), "effective_rank", "participation_ratio", "alpha_req")
    assert found == {"effective_rank": None, "participation_ratio": None, "alpha_req": None}


def test_bad_states_are_refused():
    x = np.ones((10, 2))
    x[3, 1] = np.nan
    with pytest.raises(MIError, match="NaN"):
        values(sample_of(x), "rankme")


def test_the_interval_leaves_out_speakers():
    x = np.random.default_rng(1).normal(size=(400, 6)) * [3, 2, 1, 1, 1, 1]
    (m,) = evaluate([measures()["participation_ratio"]], sample_of(x))
    ids = groups_of(400).ids
    without = np.array([_ratio(x[ids != k].astype(np.float32)) for k in range(4)])
    expected = LeftOut("speakers", ("a", "b", "c", "d"), _ratio(x.astype(np.float32)), without).interval()
    assert (m.interval.low, m.interval.high) == pytest.approx((expected.low, expected.high), rel=1e-5)


def _ratio(x: np.ndarray) -> float:
    v = np.linalg.eigvalsh(np.cov(x.T.astype(np.float64), bias=True))
    return float(v.sum() ** 2 / (v**2).sum())


def views_of(a: np.ndarray, b: np.ndarray, fit: int) -> Sample:
    a, b = a.astype(np.float32), b.astype(np.float32)
    sides = [Pairs(Frames([a[s]]), Frames([b[s]]), groups_of(len(a[s]))) for s in (slice(None, fit), slice(fit, None))]
    rows = np.arange(fit)
    side = FitSide(sides[0], Frames([b[:fit]]), rows, rows * 5 // fit, ProbeSpec(("logistic",), "default", (0,)), 100)
    return sample_of(b[fit:], pairs=sides[1], fit=side, n_clusters=8)


NAMES = ("cka_views", "cca_views", "infonce_views", "mi_raw")


def test_identical_views():
    z = np.random.default_rng(0).normal(size=(2000, 6))
    found = values(views_of(z, z, 1000), *NAMES)
    assert found["cka_views"] == pytest.approx(1)
    assert found["cca_views"] == pytest.approx(1)
    assert found["infonce_views"] > 7.0  # of at most 8
    assert found["mi_raw"] > 2.6  # of at most 3


def test_independent_views():
    rng = np.random.default_rng(0)
    found = values(views_of(rng.normal(size=(8000, 4)), rng.normal(size=(8000, 4)), 4000), *NAMES)
    assert found["cka_views"] < 0.02
    assert found["cca_views"] < 0.05
    assert abs(found["infonce_views"]) < 0.05
    assert abs(found["mi_raw"]) < 0.05


def test_canonical_correlations_of_gaussians():
    """rho 0.9, 0.5 and 0, hidden by invertible maps of both sides."""
    rng, rho = np.random.default_rng(0), np.array([0.9, 0.5, 0.0])
    a = rng.normal(size=(100_000, 3))
    b = rho * a + np.sqrt(1 - rho**2) * rng.normal(size=a.shape)
    mixed = np.concatenate([z @ rng.normal(size=(3, 3)) + 5 for z in (a, b)], axis=1)
    both = torch.from_numpy(np.cov(mixed.T))
    assert mean_canonical_correlation(both, 3) == pytest.approx(1.4 / 3, abs=0.01)


def test_infonce_is_a_lower_bound_of_gaussians():
    rng, rho = np.random.default_rng(0), 0.8
    a = rng.normal(size=(16000, 2))
    b = rho * a + np.sqrt(1 - rho**2) * rng.normal(size=a.shape)
    truth = -np.log2(1 - rho**2)
    found = values(views_of(a, b, 8000), "infonce_views")["infonce_views"]
    assert 0.3 * truth < found < truth


def test_davies_bouldin_is_scikit_learns():
    from sklearn.metrics import davies_bouldin_score

    rng = np.random.default_rng(0)
    x, codes = rng.normal(size=(300, 4)) + 3, rng.integers(0, 5, 300)
    found = davies_bouldin_index(torch.from_numpy(x).float(), torch.from_numpy(codes))
    assert found == pytest.approx(davies_bouldin_score(x, codes), rel=1e-5)
    books = Codebooks(torch.from_numpy(np.stack([x[codes == k].mean(0) for k in range(5)])[None]).float())
    assert values(sample_of(x, codebooks=books), "davies_bouldin")["davies_bouldin"] > 0


def coded(codes: list[int], labels: list[int]) -> Coded:
    return Coded(np.array(codes), np.array(labels), groups_of(len(codes), 2))


LABELLED = ("pnmi", "phone_purity", "cluster_purity")


def test_codes_that_are_the_labels():
    one = coded([0, 1, 2] * 40, [2, 0, 1] * 40)
    found = values(sample_of(np.zeros((4, 1)), coded=one, fit_coded=one, n_clusters=3), *LABELLED)
    assert found == pytest.approx(dict.fromkeys(LABELLED, 1.0))


def test_purities_by_hand():
    """Code 0: labels 0 0 0 1; code 1: labels 1 1 0."""
    some = coded([0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1, 0])
    found = values(sample_of(np.zeros((4, 1)), coded=some, fit_coded=some, n_clusters=2), *LABELLED)
    assert found["phone_purity"] == pytest.approx(5 / 7)
    assert found["cluster_purity"] == pytest.approx(5 / 7)


def test_independent_codes_plug_in_too_high_held_out_too_low():
    rng = np.random.default_rng(0)
    sides = [coded(*rng.integers(0, 20, (2, 2000)).tolist()) for _ in range(2)]
    sample = sample_of(np.zeros((4, 1)), coded=sides[0], fit_coded=sides[1], n_clusters=20)
    found = values(sample, *LABELLED, *(f"{n}_held_out" for n in LABELLED))
    assert found["pnmi"] > 0.01
    assert found["pnmi_held_out"] < 0
    assert found["phone_purity"] > 0.08 > 0.06 > found["phone_purity_held_out"]


def test_canonical_correlation_with_phones():
    """States that hold the phone in all but noise of variance 1: correlation sqrt(s / (s + 1)), s its variance."""
    rng, labels = np.random.default_rng(0), np.arange(12_000) % 3
    corners = 4 * np.eye(3)[labels] @ rng.normal(size=(3, 5))
    noise = rng.normal(size=corners.shape)

    def found(x: np.ndarray) -> float | None:
        sides = [Coded(labels[s] * 0, labels[s], groups_of(6000), Frames([x[s].astype(np.float32)]))
                 for s in (slice(0, 6000), slice(6000, None))]  # fmt: skip
        return values(sample_of(x, coded=sides[1], fit_coded=sides[0], n_clusters=2), "cca_phones")["cca_phones"]

    between = np.linalg.eigvalsh(np.cov(corners.T))[-2:]
    assert found(corners + noise) == pytest.approx(np.sqrt(between / (between + 1)).mean(), abs=0.01)
    assert abs(found(noise)) < 0.05
    assert found(np.zeros_like(noise)) is None


def test_a_measure_of_ones_own_is_one_function(monkeypatch):
    from s3prl_mi.estimators.measures import registry

    monkeypatch.setattr(registry, "_TABLE", dict(registry.measures()))

    @registry.measure(title="norm", formula="mean |x|", source="here", needs="frames", unit="states", default=False)
    def mean_norm(sample: Sample) -> float:
        return float(sample.x.norm(dim=1).mean())

    assert values(sample_of(np.ones((10, 4))), "mean_norm") == {"mean_norm": 2.0}
    assert [m.name for m in chosen(["mean_norm"], "mi_views")] == ["mean_norm"]
    assert "mean |x|. here. Needs frames (mi_views)" in registry.measures()["mean_norm"].describe()


def test_what_a_config_may_ask_for():
    free, labelled = chosen(["all"], "mi_views"), chosen(["default"], "mi_supervised")
    assert "mi_raw" in {m.name for m in free}
    assert "mi_raw" not in {m.name for m in chosen(["default"], "mi_views")}
    assert all(m.needs == "labels" for m in labelled)
    assert chosen(["none"], "mi_views") == []
    assert [m.name for m in chosen(["rankme", "pnmi"], "mi_views")] == ["rankme"]
    with pytest.raises(MIError, match="rankme"):
        chosen(["rank_me"], "mi_views")
