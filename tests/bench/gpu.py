"""On a GPU: hours of speech per second, what a whole study takes, and the same probes in plain torch and scikit-learn.

    python -m tests.bench gpu
    python -m tests.bench gpu --models large --hours 10
    python -m tests.bench gpu --device cpu --tiny --hours 0.02   # the same code anywhere; its times say nothing

Models are a HuBERT of base and a WavLM of large size, with random weights; speech is LibriSpeech-mini, again and again.
The floor is two bare forward passes, waveforms in memory. Both tasks run by the command line: all layers, 5 seeds, both
probes. Then the k-means and probes of one layer (`frames.py`) by us, in plain torch on the same device, and in
scikit-learn on the host.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from s3prl_mi.core.config import DataConfig
from s3prl_mi.data.audio import read_waveform
from s3prl_mi.data.splits import read_split
from s3prl_mi.states.extraction import GPU_BATCH, batches_of
from s3prl_mi.upstreams import compat
from s3prl_mi.upstreams.loading import load_upstream
from s3prl_mi.upstreams.precision import choose
from tests.helpers import models

from . import estimation, extraction, frames, jobs
from .estimation import CLUSTERS, SEEDS, Sklearn, TorchMLP
from .frames import Data
from .table import Row
from .whole import both_tasks

LARGE = {
    "conv_feature_layers": "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2",
    **{"encoder_layers": 24, "encoder_embed_dim": 1024, "encoder_ffn_embed_dim": 4096, "encoder_attention_heads": 16},
    **{"conv_pos": 128, "conv_pos_groups": 16, "num_buckets": 320, "max_distance": 800},
}
"""WavLM large, where its config differs from the tiny one's (`tests.helpers.models`)."""

LLOYD_STEPS = 13
"""Of plain k-means: as many as ours takes over all frames of LibriSpeech-mini (`kmeans.TOLERANCE`)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Models, speech, device."""
    frames.add_arguments(parser)
    parser.add_argument("--models", nargs="+", choices=["base", "large"], default=["base", "large"])
    parser.add_argument("--hours", type=float, nargs="+", default=[1.0, 10.0], help="of speech")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="models of 2 layers x 32: to run this code without a GPU")


def build(name: str, tiny: bool, folder: Path) -> tuple[str, Path]:
    """Upstream and checkpoint, random weights."""
    if tiny:
        return ("hubert_local", models.build_hubert(folder)) if name == "base" else _wavlm(folder, {})
    if name == "base":
        return "hubert_local", extraction.build_base(folder / "base.pt")
    return _wavlm(folder, LARGE)


def _wavlm(folder: Path, sizes: Mapping[str, object]) -> tuple[str, Path]:
    """The tiny checkpoint's layout, with other sizes."""
    compat.apply()
    from s3prl.upstream.wavlm.WavLM import WavLM, WavLMConfig

    path = models.build_wavlm(folder, large=True)
    config = {**torch.load(path, weights_only=True)["cfg"], **sizes}
    torch.save({"cfg": config, "model": WavLM(WavLMConfig(config)).state_dict()}, path)
    return "wavlm_local", path


def gpu(args: argparse.Namespace) -> Iterator[Row]:
    """Speech and probes on a GPU, against bare forward passes, plain torch and scikit-learn."""
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("bench gpu: no NVIDIA GPU here; --device cpu --tiny runs the same code without one")
    return _cases(args)


def _cases(args: argparse.Namespace) -> Iterator[Row]:
    for name in args.models:
        for hours in args.hours:
            with tempfile.TemporaryDirectory() as made:
                yield from _study(args, name, hours, Path(made))
    yield from _probes(args)


def _peak(device: str) -> str:
    """Peak memory of the GPU since the last call."""
    if not device.startswith("cuda"):
        return ""
    peak = torch.cuda.max_memory_allocated(device) / 1e9
    torch.cuda.reset_peak_memory_stats(device)
    return f"; {peak:.2f} GB on the GPU"


def _study(args: argparse.Namespace, name: str, hours: float, folder: Path) -> Iterator[Row]:
    """Both tasks of one model on so much speech, against two bare passes."""
    kind, checkpoint = build(name, args.tiny, folder)
    listed = jobs.manifest(folder, args.libri_root, 60 * hours)
    seconds, precision = _floor(args, kind, checkpoint, listed)
    what = f"{name}, {hours:g} h"
    floor = f"{what}: two bare passes, {precision}"
    yield Row(floor, seconds, note=f"{2 * hours / seconds:.4f} h of audio/s{_peak(args.device)}")
    values = {"datarc.manifest": str(listed), "seeds": SEEDS, "probes": ["logistic", "mlp"]}
    total, model = 0.0, ["-u", kind, "-k", str(checkpoint)]
    for task, extracting, estimating in both_tasks(folder, model, values, {}, args.device):
        took = extracting.wall
        total += took + estimating.wall
        if task == "mi_views":  # the other task finds its states in the store
            note = f"{took / seconds:.2f} of the floor, {2 * hours / took:.4f} h of audio/s"
            yield Row(f"{what}: both views stored", took, None, floor, note)
        yield Row(f"{what}: {task}, estimation", estimating.wall, note=_peak(args.device).removeprefix("; "))
    yield Row(f"{what}: all of both tasks", total, None, floor, f"{total / seconds:.2f} of the floor")


def _floor(args: argparse.Namespace, kind: str, checkpoint: Path, listed: Path) -> tuple[float, str]:
    """Seconds of two bare forward passes over both splits, and their precision."""
    upstream = load_upstream(kind, str(checkpoint), device=args.device)
    precision = choose("auto", upstream)
    batches = []
    for split in ("dev-other", "test-other"):
        whole = read_split(DataConfig(manifest=str(listed)), split)
        of_split = batches_of(whole, GPU_BATCH).values()
        batches += [[torch.from_numpy(read_waveform(u)) for u in batch] for batch in of_split]
    extraction.floor(upstream, batches[-1:], precision)
    return extraction.timed(lambda: extraction.floor(upstream, batches, precision), args.device)[0], precision


# --- one layer: ours, plain torch, scikit-learn ------------------------------------------------------------


def _probes(args: argparse.Namespace) -> Iterator[Row]:
    d = frames.views(args)
    small = frames.first(d)
    with torch.no_grad():
        estimation.ours(small, ["logistic", "mlp"], [0], device=args.device)  # warms up
        bits: list[list[float]] = []
        seconds, _ = extraction.timed(
            lambda: bits.append(estimation.ours(d, ["logistic", "mlp"], range(SEEDS), device=args.device)[0]),
            args.device,
        )
    found: list[float] = []
    _plain(small, args.device, 0)
    plain, _ = extraction.timed(lambda: found.append(_plain(d, args.device, 0)), args.device)
    n, dim = d["za"].shape
    names = (f"plain torch on {args.device}", "scikit-learn on the host (logistic only)")
    yield Row(
        names[0], SEEDS * plain, found[0], note=f"1 of {SEEDS} seeds measured; {n} fit frames of {dim} dimensions"
    )
    cell = Sklearn(d, 0)
    host_bits, host = cell.bits(None)
    yield Row(names[1], SEEDS * (cell.kmeans_seconds + host), host_bits, note=f"1 of {SEEDS} seeds measured")
    for base in names:
        yield Row(f"ours: 1 layer, {SEEDS} seeds, 2 probes", seconds, bits[0][1], base)


def _plain(d: Data, device: str, seed: int) -> float:
    """Codebook, logistic regression and MLP of one seed as a user would script them; bits of the MLP."""
    torch.manual_seed(seed)
    z = torch.from_numpy(d["zb_all"]).to(device)
    book = z[torch.randperm(len(z), device=device)[:CLUSTERS]]
    for _ in range(LLOYD_STEPS):
        ids = torch.cdist(z, book).argmin(1)
        counts = torch.bincount(ids, minlength=CLUSTERS).clamp_min(1)
        book = torch.zeros_like(book).index_add_(0, ids, z) / counts[:, None]

    def codes(name: str) -> np.ndarray:
        return torch.cdist(torch.from_numpy(d[name]).to(device), book).argmin(1).cpu().numpy()

    mlp = TorchMLP(d, codes("zb"), device)
    _logistic(mlp.x, mlp.y)
    return mlp.bits(mlp.final(seed, mlp.choose(seed)), codes("ezb"))


def _logistic(x: Tensor, y: Tensor) -> None:
    """torch.optim.LBFGS on all frames at once; L2 of 5 strengths, without choosing among them."""
    for l2 in estimation.STRENGTHS:
        net = torch.nn.Linear(x.shape[1], CLUSTERS).to(x.device)
        optimiser = torch.optim.LBFGS(net.parameters(), max_iter=50)

        def loss(net: torch.nn.Linear = net, optimiser: torch.optim.LBFGS = optimiser, l2: float = l2) -> Tensor:
            optimiser.zero_grad()
            value = torch.nn.functional.cross_entropy(net(x), y) + 0.5 * l2 * net.weight.square().sum()
            value.backward()
            return value

        optimiser.step(loss)
