"""A GPU against the CPU: `python -m pytest -m gpu`. The same records within 0.002 bits (bfloat16: 0.01).

Without a GPU all of it is skipped. `S3PRL_MI_GPU=cpu python -m pytest -m gpu` runs the same commands on the CPU, with
other batches, so that forward passes differ by rounding as those of two devices do; `S3PRL_MI_GPU=cuda:1` takes
another GPU.
"""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from s3prl_mi.cli.run_downstream import main
from s3prl_mi.core.config import DataConfig
from s3prl_mi.data.splits import read_split
from s3prl_mi.estimators.frames import Frames
from s3prl_mi.estimators.kmeans import assign, fit_codebooks
from s3prl_mi.results.measures import read_measures
from s3prl_mi.states import extraction
from s3prl_mi.states.extraction import Request
from s3prl_mi.states.store import Store
from s3prl_mi.training import measure_views
from s3prl_mi.upstreams.loading import load_upstream
from s3prl_mi.upstreams.views import PLAIN, View
from tests.helpers.models import MODELS
from tests.helpers.models_more import MORE
from tests.helpers.runner import Runner

pytestmark = pytest.mark.gpu

EXACT, ROUNDED = 0.002, 0.01
"""Bits by which records of the two devices may differ, of float32 and bfloat16 forward passes."""

BOTH = ["logistic", "mlp"]
FAMILIES = [
    *("hubert-base", "hubert-large", "wav2vec2-base", "wavlm-base", "unispeech_sat", "data2vec", "hf_hubert-base"),
    *("apc", "vq_apc", "tera", "mockingjay", "multires-2", "npc", "cpc", "wav2vec", "vq_wav2vec-gumbel"),
    *("distilhubert", "fbank"),
]


@pytest.fixture(scope="session")
def device() -> str:
    wanted = os.environ.get("S3PRL_MI_GPU", "cuda")
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU")
    return wanted


@pytest.fixture
def both(corpus, checkpoint, tmp_path, device) -> tuple[Runner, Runner]:
    """The command line on the CPU, and on the GPU, with stores of their own."""

    def get(name: str):
        return checkpoint(name) if name in MODELS else (MORE[name][0], MORE[name][1](tmp_path))

    places = [tmp_path / "cpu", tmp_path / "gpu"]
    return Runner(corpus, places[0], get), Runner(corpus, places[1], get, device)


def train(runner: Runner, task: str, model: str = "hubert-base", *words: str, **settings) -> None:
    batch_size = 1 if runner.folder.name == "cpu" else 0
    assert runner(task, model, *words, **{"layers": "last", "batch_size": batch_size, **settings}) == 0


def assert_same(both: tuple[Runner, Runner], bits: float = EXACT, names: tuple[str, ...] = ("experiment",)) -> None:
    for name in names:
        on_cpu, on_gpu = (runner.numbers(name) for runner in both)
        assert on_cpu.keys() == on_gpu.keys()
        for one, numbers in on_cpu.items():
            np.testing.assert_allclose(on_gpu[one][:3], numbers[:3], atol=bits, rtol=0, err_msg=str(one))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_of_views(both, name):
    for runner in both:
        train(runner, "mi_views", name)
    assert_same(both)


@pytest.mark.parametrize("name", ["hubert-base", "hubert-large", "wavlm-base"])
def test_bfloat16(both, name):
    for runner in both:
        train(runner, "mi_supervised", name, precision="bf16")
    assert_same(both, ROUNDED)


@pytest.mark.parametrize("task", ["mi_views", "mi_supervised"])
def test_all_probes_and_measures(both, task):
    for runner in both:
        train(runner, task, probes=BOTH, fit_ci=True, measures=["all"])
    assert_same(both)
    on_cpu, on_gpu = (read_measures(r.folder / "experiment" / "mi_measures.jsonl") for r in both)
    assert [m.measure for m in on_cpu] == [m.measure for m in on_gpu]
    values = [[np.nan if m.value is None else m.value for m in of] for of in (on_gpu, on_cpu)]
    np.testing.assert_allclose(*values, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("task", ["mi_views", "mi_supervised"])
def test_the_papers_protocol(both, task):
    """Means over 5 seeds. The MLP's SGD over some hundred frames makes 0.004 bits of rounding errors on a CPU alone."""
    for runner in both:
        train(runner, task, probes=BOTH, protocol="paper", seeds=5)
    means = [
        [np.mean([r.mi_lower_bound_bits for r in runner.records() if r.probe == probe]) for probe in BOTH]
        for runner in both
    ]
    assert means[1] == [pytest.approx(means[0][0], abs=EXACT), pytest.approx(means[0][1], abs=ROUNDED)]


@pytest.mark.parametrize("featurizer", ["uniform", "learned"])
def test_weighted_layers(both, featurizer):
    for runner in both:
        train(runner, "mi_supervised", layers="weighted", featurizer=featurizer)
    assert_same(both)


def test_a_study(both, checkpoint):
    name, file = checkpoint("hubert-base")
    for runner in both:
        words = runner.command("mi_views,mi_supervised", "fbank", layers="last", seeds=1)
        at = words.index("-u")
        assert main([*words[:at], *words[at + 2 :], "-u", f"fbank,{name}={file}"]) == 0
    folders = [p.parent.relative_to(both[0].folder) for p in both[0].folder.glob("experiment/*/*/mi_results.jsonl")]
    assert len(folders) == 4
    assert_same(both, names=tuple(map(str, folders)))


@pytest.mark.parametrize("task", ["mi_views", "mi_supervised"])
def test_evaluate_also_on_another_device_than_fitted(both, task):
    crossed = replace(both[1], folder=both[1].folder / "crossed")
    for runner in (*both, crossed):
        train(runner, task, probes=BOTH, datarc__fit_splits=["fit-a"])
    for runner in (*both, replace(crossed, device="cpu")):
        assert runner.evaluate("fit-b") == 0
    scored = "experiment/evaluate/fit-b"
    assert_same(both, names=("experiment", scored))
    assert_same((both[1], crossed), names=(scored,))


@pytest.mark.parametrize("task", ["mi_views", "mi_supervised"])
def test_twice_and_resumed_are_the_same_digit_by_digit(both, task):
    gpu = both[1]
    train(gpu, task, probes=BOTH)
    again = replace(gpu, folder=gpu.folder / "again")
    train(again, task, probes=BOTH)
    resumed = replace(gpu, folder=gpu.folder / "resumed")
    train(resumed, task, probes=["logistic"])
    train(resumed, task, "hubert-base", "-a", probes=BOTH)
    assert gpu.numbers() == again.numbers() == resumed.numbers()


def test_codebooks(device):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(20_000, 24)).astype(np.float32) + 6 * rng.normal(size=(30, 24))[rng.integers(0, 30, 20_000)]
    frames = Frames([z])
    on_cpu, on_gpu, again = (fit_codebooks(frames, 30, [0, 1], device=d) for d in ("cpu", device, device))
    assert torch.equal(on_gpu.centroids, again.centroids)
    agree = (assign(frames, on_cpu) == assign(frames, on_gpu).cpu()).float().mean()
    assert agree > 0.999
    torch.testing.assert_close(on_gpu.centroids.cpu(), on_cpu.centroids, atol=0.01, rtol=0)


def test_a_model_in_training(corpus, device):
    from tests.training.test_meter import SHORT_MASK, tiny_hubert

    audio = [corpus.audio[u] for s in ("fit-a", "fit-b", "eval") for u in corpus.of(s)]
    options = {"groups": [p.stem.split("-")[0] for p in audio], "view": SHORT_MASK, "clusters": 6}
    bits = [measure_views(tiny_hubert().to(d), audio, **options).mi_lower_bound_bits for d in ("cpu", device)]
    assert bits[1] == pytest.approx(bits[0], abs=EXACT)


def test_a_batch_that_does_not_fit_into_the_gpu(corpus, checkpoint, tmp_path, device, caplog):
    if not device.startswith("cuda"):
        pytest.skip("a CPU has no limit to set")
    name, path = checkpoint("hubert-large")
    upstream = load_upstream(name, str(path), device=device)
    split = read_split(DataConfig(libri_root=str(corpus.root)), "eval")
    requests = [Request(upstream, split, view, (1, 2), "float32") for view in (PLAIN, View("mask", "latent", 10, 4))]
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    whole = extraction.extract(Store(tmp_path / "whole", 10**9), requests, 6)
    peak = torch.cuda.max_memory_allocated(device)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction((before + 0.6 * (peak - before)) / total, device)
    try:
        halved = extraction.extract(Store(tmp_path / "halved", 10**9), requests, 6)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    assert any("are halved" in r.getMessage() for r in caplog.records)
    for a, b in zip(whole, halved, strict=True):
        np.testing.assert_allclose(a.layer(2)[:], b.layer(2)[:], atol=1e-4)
