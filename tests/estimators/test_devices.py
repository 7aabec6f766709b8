"""Estimators on a stand-in GPU: nothing is mixed with the CPU, and no pass over the frames waits block by block."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from s3prl_mi.core import arithmetic
from s3prl_mi.core.errors import MIError
from s3prl_mi.estimators import frames, kmeans, logistic
from s3prl_mi.estimators.arrays import estimate_supervised_mi
from s3prl_mi.estimators.frames import BLOCK_ROWS, AffineMap, Frames, Inputs, fit_affine, fit_range
from s3prl_mi.estimators.kmeans import Codebooks, assign, fit_codebooks
from s3prl_mi.estimators.logistic import Linear, Problems, minimise
from s3prl_mi.estimators.network import new_network, train
from s3prl_mi.estimators.probe import FittedProbe, _Tally, log_priors
from s3prl_mi.estimators.probes import LOGISTIC_PAPER, MLP_DEFAULT, MLP_PAPER
from tests.helpers.stand_in import stand_in

DIM, CLASSES, SEEDS, BLOCKS = 6, 4, 3, (1, 3)


def some(blocks: int) -> Frames:
    return Frames([np.random.default_rng(0).normal(size=(blocks * BLOCK_ROWS, DIM)).astype(np.float32)])


@pytest.fixture(params=[False, True], ids=["float32", "bfloat16"], autouse=True)
def gpu(request, monkeypatch):
    """What a GPU would say of itself."""
    for module in (arithmetic, kmeans, logistic):
        monkeypatch.setattr(module, "half_is_fast", lambda device: request.param and device.type == "cuda")
    monkeypatch.setattr(frames, "cache_limit", lambda device: 1 << 30)


def fit_map(z: Frames) -> None:
    found = fit_affine(z, "cuda")
    assert {t.device.type for t in (found.mean, found.matrix, found.variance, found.values.low)} == {"cuda"}


def affine() -> AffineMap:
    zeros = torch.zeros(DIM, device="cuda")
    return AffineMap(zeros, torch.zeros(DIM, DIM, device="cuda"), zeros, fit_range(some(1), "cuda"))


def targets(n: int) -> torch.Tensor:
    return torch.zeros(n, SEEDS, dtype=torch.long, device="cuda")


def inputs(z: Frames) -> Inputs:
    return Inputs(z, affine())


def assign_clusters(z: Frames) -> None:
    books = Codebooks(torch.zeros(SEEDS, CLASSES, DIM, device="cuda"), affine())
    assert assign(z, books).device.type == "cuda"


def one_lloyd_step(z: Frames) -> None:
    data = kmeans._Centred(z, fit_range(z, "cuda"), torch.zeros(DIM, device="cuda"), 1.0)
    books = torch.zeros(SEEDS, CLASSES, DIM, device="cuda")
    assert kmeans._lloyd_step(data, books).device.type == kmeans._without_duplicates(data, books).device.type == "cuda"


def whole_codebook(z: Frames) -> None:
    books = fit_codebooks(z, CLASSES, range(SEEDS), iterations=2, device="cuda")
    assert {t.device.type for t in books.state()} == {"cpu"}


def logistic_probe(z: Frames) -> None:
    out = torch.zeros(len(z), SEEDS, dtype=torch.bool, device="cuda")
    problems = Problems(targets(len(z)), out, CLASSES, torch.ones(SEEDS, device="cuda"))
    assert minimise(inputs(z), problems, steps=3)[1].device.type == "cuda"


def logistic_probe_from_the_files(z: Frames) -> None:
    problems = Problems(targets(len(z)), None, CLASSES, torch.ones(SEEDS, device="cuda"))
    minimise(Inputs(z, affine(), cache_bytes=0), problems, steps=3)


def some_score(z: Frames) -> None:
    network = new_network(DIM, CLASSES, range(SEEDS), MLP_DEFAULT, torch.device("cuda"))
    linear = Linear(torch.zeros(DIM, SEEDS, CLASSES, device="cuda"), torch.zeros(SEEDS, CLASSES, device="cuda"))
    probe = FittedProbe("mlp", affine(), linear, network, torch.ones(SEEDS, device="cuda"), [])
    tally = _Tally(SEEDS, CLASSES, 2, torch.device("cuda"))
    groups = torch.zeros(BLOCK_ROWS, dtype=torch.long, device="cuda")
    for start, stop in z.blocks():
        log_q = probe.log_probabilities(affine()(torch.from_numpy(z.read(start, stop)).to("cuda")))
        tally.add(log_q, targets(stop - start), groups)
    assert log_priors(targets(len(z)), CLASSES).device.type == "cuda"


PASSES = [
    fit_map,
    inputs,
    assign_clusters,
    one_lloyd_step,
    whole_codebook,
    logistic_probe,
    logistic_probe_from_the_files,
    some_score,
]


@pytest.mark.parametrize("action", PASSES, ids=lambda f: f.__name__)
def test_a_pass_over_frames_waits_as_often_for_many_blocks_as_for_one(action):
    waits = []
    for blocks in BLOCKS:
        with stand_in() as asked:
            action(some(blocks))
        waits.append(asked.waits)
    assert waits[0] == waits[1]


@pytest.mark.parametrize("settings", [MLP_DEFAULT, MLP_PAPER, LOGISTIC_PAPER], ids=["default", "paper", "linear"])
def test_no_training_step_waits(settings, monkeypatch):
    # torch's engine for gradients asks for a real GPU
    monkeypatch.setattr(torch.autograd, "grad", lambda _loss, inputs: [torch.zeros_like(p) for p in inputs])
    counts = []
    for steps in (2, 6):
        with stand_in() as asked:
            z = inputs(some(1))
            trained = train(z, targets(len(z)), torch.arange(len(z)), CLASSES, range(SEEDS), settings, steps)
            assert {t.device.type for t in trained.weights} == {"cuda"}
        counts.append(asked.copies)
        assert not asked.waits
    assert counts[0] == counts[1]


def test_the_stand_in_notices_what_a_gpu_would():
    with stand_in() as asked:
        x = torch.zeros(3, device="cuda")
        with pytest.raises(Exception, match="two devices"):
            x + torch.zeros(3)
        with pytest.raises(Exception, match="nonzero"):
            x[x > 0]
        assert bool(x.any())
        assert len(x.nonzero()) == 3
        x.cpu()
        torch.zeros(3).to("cuda", non_blocking=True)
        torch.zeros(3).to("cuda")
        assert (len(asked.waits), len(asked.copies)) == (3, 1)
        lines = asked.waits + asked.copies
        assert set(lines.values()) == {1}
        assert {line.partition(":")[0] for line in lines} == {"tests/estimators/test_devices.py"}


# --- what is added in one order, whatever the device ------------------------------------------------------


def test_sums_of_frames_are_the_same_by_product_and_by_index():
    rng = torch.Generator().manual_seed(0)
    x, own = torch.randn(500, DIM, generator=rng), torch.randint(CLASSES, (500, SEEDS), generator=rng)
    one, other = torch.zeros(2, SEEDS * CLASSES, DIM)
    for add, sums in ((kmeans._add_frames, one), (kmeans._add_frames_by_product, other)):
        add(sums, own + torch.arange(SEEDS) * CLASSES, x)
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(one.view(SEEDS, CLASSES, DIM).sum(1), x.sum(0).expand(SEEDS, -1))


def test_a_device_without_float64_is_refused_in_one_line(monkeypatch):
    def ones(*_: object, **more: object) -> torch.Tensor:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")

    z, y = np.zeros((4, 2)), [0, 1, 0, 1]
    with pytest.raises(MIError, match="device tpu: no such device here"):
        estimate_supervised_mi(z, y, z, y, device="tpu")
    monkeypatch.setattr(torch, "ones", ones)
    with pytest.raises(MIError, match=r"^device mps: it has no float64 .* use cpu\.$"):
        estimate_supervised_mi(z, y, z, y, device="mps")
