"""Measures against labels and fbank, on states that are known functions of them."""

from __future__ import annotations

import numpy as np
import pytest

from s3prl_mi.estimators.frames import Frames
from s3prl_mi.estimators.measures.sample import Coded, Features, FitSide, Pairs, Sample
from s3prl_mi.estimators.mi_supervised import fit_supervised
from s3prl_mi.estimators.probes import ProbeSpec
from tests.estimators.test_measures import groups_of, values

SPEC = ProbeSpec(("logistic",), "default", (0,))
N, LABELS = 2000, 4


def features(x: np.ndarray) -> Features:
    return Features(lambda positions: x[positions].astype(np.float32))


def labelled(states: np.ndarray, fbank: np.ndarray, y: np.ndarray, with_probe: bool = False) -> Sample:
    """Half of the frames are fitted on."""

    def side(rows: slice) -> Coded:
        n = len(y[rows])
        z = Frames([states[rows].astype(np.float32)])
        return Coded(np.zeros(n, np.int64), y[rows], groups_of(n), z, np.arange(n) % 4, features(fbank[rows]))

    fit, scored = side(slice(None, N // 2)), side(slice(N // 2, None))
    n_labels = 1 + int(y.max())
    probe = fit_supervised(fit.frames, fit.labels, n_labels, fit.folds, SPEC)[0] if with_probe else None
    return Sample(
        scored.frames, scored.groups, np.zeros(N // 2), coded=scored, fit_coded=fit, n_clusters=1, spec=SPEC,
        probe=probe,
    )  # fmt: skip


@pytest.fixture
def world() -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
    """Labels, and fbank that tells about half of them."""
    rng = np.random.default_rng(0)
    y = rng.integers(LABELS, size=N)
    fbank = rng.normal(size=(N, 5))
    fbank[:, 0] += 8 * (y >= 2)
    return rng, y, fbank


def test_a_function_of_fbank_adds_nothing_to_it(world):
    rng, y, fbank = world
    found = values(labelled(fbank @ rng.normal(size=(5, 8)) + 3, fbank, y), "beyond_fbank")["beyond_fbank"]
    assert found == pytest.approx(0, abs=0.01)


def test_states_that_hold_the_label_add_what_fbank_lacks(world):
    rng, y, fbank = world
    whole = labelled(np.eye(LABELS)[y] * 10 + rng.normal(size=(N, LABELS)) * 0.1, fbank, y)
    assert values(whole, "beyond_fbank")["beyond_fbank"] == pytest.approx(1, abs=0.03)
    noise = labelled(rng.normal(size=(N, LABELS)), fbank, y)
    assert values(noise, "beyond_fbank")["beyond_fbank"] == pytest.approx(0, abs=0.02)


def test_fbank_alone_is_fitted_once_for_all_layers(world):
    rng, y, fbank = world
    sample = labelled(rng.normal(size=(N, 3)), fbank, y)
    values(sample, "beyond_fbank")
    alone = sample.fit_coded.fbank.alone
    assert alone.value == pytest.approx(1, abs=0.02)
    values(sample, "beyond_fbank")
    assert sample.fit_coded.fbank.alone is alone


def with_fbank(states: np.ndarray, fbank: np.ndarray) -> Sample:
    half = N // 2
    sides = [Frames([states[rows].astype(np.float32)]) for rows in (slice(None, half), slice(half, None))]
    pairs = Pairs(sides[0], sides[0], groups_of(half))
    fit = FitSide(pairs, sides[0], np.arange(half), np.arange(half) % 4, SPEC, 10, features(fbank[:half]))
    return Sample(sides[1], groups_of(half), np.zeros(half), fit=fit, fbank=features(fbank[half:]))


def test_canonical_correlation_with_fbank():
    rng = np.random.default_rng(0)
    fbank = rng.normal(size=(N, 6))
    same = fbank @ rng.normal(size=(6, 6))
    half = np.concatenate([fbank[:, :3], rng.normal(size=(N, 3))], axis=1)
    found = [values(with_fbank(z, fbank), "cca_fbank")["cca_fbank"] for z in (same, half, rng.normal(size=(N, 6)))]
    assert found == pytest.approx([1, 0.5, 0], abs=0.03)


@pytest.mark.parametrize("noise", [0.0, 1.0, 2.0])
def test_margin_of_two_labels(noise):
    """At +1 and -1, the border between them: 1 away on the average, in deviations of the states sqrt(1 + noise^2)."""
    y = np.arange(N) % 2
    z = np.where(y == 1, 1.0, -1.0)[:, None] + noise * np.random.default_rng(0).normal(size=(N, 1))
    found = values(labelled(z, z, y, with_probe=True), "margin")["margin"]
    assert found == pytest.approx(1 / np.sqrt(1 + noise**2), abs=0.04)


def test_margin_without_a_logistic_probe_is_not_defined(world):
    _, y, fbank = world
    assert values(labelled(fbank, fbank, y), "margin") == {"margin": None}
