"""Probes without each group of fit speakers: what they have seen, and the error over the choice of fit speakers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from s3prl_mi.estimators.fitting import FIT_TOLERANCE
from s3prl_mi.estimators.frames import Frames, Inputs
from s3prl_mi.estimators.intervals import FrameGroups, LeftOut
from s3prl_mi.estimators.logistic import Problems, minimise
from s3prl_mi.estimators.mi_supervised import fit_supervised, score_supervised
from s3prl_mi.estimators.probes import ProbeSpec
from s3prl_mi.estimators.refits import MOST_GROUPS, fit_without_each

CLASSES, DIM = 4, 5


def speakers(rng, n, frames=40, offset=0.8):
    """Frames (n * frames, DIM) of classes, moved by an offset of each speaker, their classes and their speakers."""
    means = np.random.default_rng(99).normal(size=(CLASSES, DIM))
    y = rng.integers(0, CLASSES, n * frames)
    who = np.repeat(np.arange(n), frames)
    z = means[y] + offset * rng.normal(size=(n, DIM))[who] + 0.7 * rng.normal(size=(n * frames, DIM))
    return z.astype(np.float32), y, FrameGroups("speakers", tuple(f"s{i:02d}" for i in range(n)), who)


def fitted(rng, n, probes=("logistic",), protocol="default"):
    z, y, who = speakers(rng, n)
    spec = ProbeSpec(probes, protocol, (0, 1))
    return Frames([z]), y, who, spec, fit_supervised(Frames([z]), y, CLASSES, who.ids, spec)


def without(frames, y, who, spec, probes):
    return fit_without_each(probes, frames, torch.from_numpy(y)[:, None], CLASSES, who, spec)


@pytest.mark.parametrize("protocol", ["default", "paper"])
def test_a_probe_without_a_speaker_has_not_seen_its_targets(protocol):
    frames, y, who, spec, probes = fitted(np.random.default_rng(0), 4, ("logistic", "mlp"), protocol)
    if protocol == "default":
        probes[1] = dataclasses.replace(probes[1], mlp_weight=torch.full((2,), 0.5))  # even if the choice was 0
    found = without(frames, y, who, spec, probes)
    assert found.over == "speakers"
    others = without(frames, np.where(who.ids == who.names.index(found.groups[2]), 0, y), who, spec, probes)
    x = torch.from_numpy(frames.read(0, 50))
    for kind in range(2):
        same, changed, whole = (
            p.log_probabilities(p.affine(x.clone()))
            for p in (found.probes[2][kind], others.probes[2][kind], probes[kind])
        )
        assert torch.equal(same, changed)
        assert not torch.allclose(same, whole, atol=1e-4)
        elsewhere = [f.probes[0][kind].log_probabilities(x) for f in (found, others)]
        assert not torch.allclose(*elsewhere, atol=1e-4)


def test_it_is_the_fit_on_the_other_speakers():
    """Of the same L2 strength and scaling, from zero."""
    frames, y, who, spec, probes = fitted(np.random.default_rng(1), 3)
    found = without(frames, y, who, spec, probes)
    inputs = Inputs(frames, probes[0].affine)
    for name, (probe,) in zip(found.groups, found.probes, strict=True):
        rows = np.flatnonzero(who.ids != who.names.index(name))
        strength = torch.full((1,), probe.settings[0]["l2"])
        problems = Problems(torch.from_numpy(y[rows])[:, None], None, CLASSES, strength)
        direct, _ = minimise(inputs.select(rows), problems, tolerance=FIT_TOLERANCE / 100)
        x = inputs.block(0, 100)
        assert probe.linear(x).softmax(2)[:, 0] == pytest.approx(direct(x).softmax(2)[:, 0], abs=0.02)


def test_many_speakers_are_left_out_in_groups():
    frames, y, who, spec, probes = fitted(np.random.default_rng(2), 23)
    found = without(frames, y, who, spec, probes)
    assert len(found.groups) == len(found.probes) == MOST_GROUPS
    assert sorted("+".join(found.groups).split("+")) == list(who.names)
    alone = FrameGroups("speakers", who.names, np.zeros_like(who.ids))
    assert without(frames, y, alone, spec, probes) is None


def test_its_error_is_the_spread_over_draws_of_fit_speakers():
    rng = np.random.default_rng(3)
    eval_z, eval_y, _ = speakers(rng, 60)
    bounds, errors = [], []
    for _ in range(24):
        frames, y, who, spec, probes = fitted(rng, 8)

        def bound(some, spec=spec):
            return score_supervised(some, Frames([eval_z]), eval_y, spec, 1)[0][0].mi_lower_bound_bits

        found = without(frames, y, who, spec, probes)
        each = LeftOut(found.over, found.groups, bound(probes), np.array([bound(p) for p in found.probes]))
        bounds.append(each.value)
        errors.append(each.interval().error)
    spread = np.std(bounds, ddof=1)
    assert spread > 0.01
    assert 0.6 < np.sqrt(np.mean(np.square(errors))) / spread < 1.7
