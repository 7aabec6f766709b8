"""Extraction against two bare forward passes of the same upstream over the same audio in the same precision.

    python -m tests.bench extraction --seconds 120
    python -m tests.bench extraction --precision fp32 --batch_size 4 -k my_hubert.pt

The floor: `upstream.expert(batch)` twice, unmasked, without gradients, waveforms in memory, what comes out thrown away;
with `mixed`, one of the passes is in float32, as ours is of the unmasked view.
Ours: plain and masked view, all layers, from files to a finished entry of the store. They take turns; the least time of
each counts. The model is a HuBERT of base size (12 x 768, random weights) where no checkpoint is given.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import torch

from s3prl_mi.core.config import DataConfig
from s3prl_mi.data.audio import read_waveform
from s3prl_mi.data.splits import Split, read_split
from s3prl_mi.states import extraction as states
from s3prl_mi.states.extraction import CPU_BATCH, GPU_BATCH, Request, batches_of
from s3prl_mi.states.store import Store
from s3prl_mi.upstreams import compat
from s3prl_mi.upstreams.forward import layer_names
from s3prl_mi.upstreams.loading import Upstream, load_upstream
from s3prl_mi.upstreams.precision import choose, of_view, rounded_once, running_in
from s3prl_mi.upstreams.views import PLAIN, View

from .table import Row

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "LibriSpeech-mini"
MASK = View("mask", "latent", 40, 10)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of this case."""
    parser.add_argument("--libri_root", type=Path, default=DATA)
    parser.add_argument("--split", default="dev-other")
    parser.add_argument("--seconds", type=float, default=60, help="of audio, taken from all over the split")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "mixed", "bf16"])
    parser.add_argument("--batch_size", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("-k", "--ckpt", type=Path, help="of hubert_local, instead of random weights")
    parser.add_argument("--profile", action="store_true", help="print the ten lines that take the most time")


def build_base(path: Path) -> Path:
    """A checkpoint of HuBERT base with random weights."""
    compat.apply()
    from s3prl.upstream.hubert.hubert_model import HubertConfig, HubertModel, HubertPretrainingConfig

    torch.manual_seed(0)
    config, task, symbols = {"label_rate": 50.0, "final_dim": 256}, {"normalize": False}, [["a", "b"]]
    model = HubertModel(HubertConfig(**config), HubertPretrainingConfig(**task), symbols)
    content = {"task_cfg": task, "model_cfg": config, "model_weight": model.state_dict()}
    torch.save({**content, "dictionaries_symbols": symbols}, path)
    return path


def some_of(args: argparse.Namespace) -> Split:
    """Utterances of a split, about so many seconds of them."""
    whole = read_split(DataConfig(libri_root=str(args.libri_root)), args.split)
    count = max(1, math.ceil(len(whole.utterances) * min(1.0, args.seconds / whole.seconds)))
    return read_split(DataConfig(libri_root=str(args.libri_root), max_utterances=count), args.split)


def timed(action: Callable[[], Any], device: str) -> tuple[float, float]:
    """Wall and processor seconds."""
    began, worked = time.perf_counter(), time.process_time()
    action()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - began, time.process_time() - worked


def floor(upstream: Upstream, batches: list[list[torch.Tensor]], precision: str) -> None:
    """Two bare forward passes."""
    for view in (PLAIN, MASK):
        with rounded_once(upstream), running_in(upstream, of_view(precision, view)), torch.no_grad():
            for batch in batches:
                upstream.expert([w.to(upstream.device) for w in batch])


def ours(args: argparse.Namespace, upstream: Upstream, precision: str, layers: int, folder: Path) -> int:
    """Both views of every layer into a new store; its size in bytes."""
    split = some_of(args)  # a new one: its files are hashed once more
    with tempfile.TemporaryDirectory(dir=folder) as root:
        requests = [
            Request(upstream, split, view, tuple(range(layers)), "auto", of_view(precision, view))
            for view in (PLAIN, MASK)
        ]
        return sum(e.bytes for e in states.extract(Store(Path(root), 10**12), requests, args.batch_size))


def extraction(args: argparse.Namespace) -> Iterator[Row]:
    """The floor, and both views of all layers stored."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        checkpoint = args.ckpt or build_base(folder / "base.pt")
        upstream = load_upstream("hubert_local", str(checkpoint), device=args.device)
        precision = choose(args.precision, upstream)
        layers = len(layer_names(upstream))
        split = some_of(args)
        size = args.batch_size or (CPU_BATCH if args.device == "cpu" else GPU_BATCH)
        batches = list(batches_of(split, size).values())
        lengths = split.n_samples
        padded = sum(len(batch) * lengths[batch[0].id] for batch in batches)
        share = 1 - sum(lengths.values()) / padded
        waveforms = [[torch.from_numpy(read_waveform(u)) for u in batch] for batch in batches]
        floor(upstream, waveforms[-1:], precision)
        times: dict[str, list[tuple[float, float]]] = {"floor": [], "ours": []}
        stored = 0
        for _ in range(args.rounds):
            times["floor"].append(timed(lambda: floor(upstream, waveforms, precision), args.device))

            def extract() -> None:
                nonlocal stored
                stored = ours(args, upstream, precision, layers, folder)

            times["ours"].append(timed(extract, args.device))
        least = {name: [min(column) for column in zip(*rows, strict=True)] for name, rows in times.items()}
        what = f"{precision}, batch {size}, {split.seconds:.0f} s of audio"
        base = f"two bare passes, {what}"
        speed = {name: 2 * split.seconds / wall for name, (wall, _) in least.items()}
        yield Row(
            base,
            least["floor"][0],
            note=f"{speed['floor']:.1f} s of audio/s, {least['floor'][1]:.1f} s of processor, "
            f"{100 * share:.1f} % padding",
        )
        yield Row(
            f"both views, {layers} layers, stored",
            least["ours"][0],
            None,
            base,
            f"{least['ours'][0] / least['floor'][0]:.2f} of the floor ({least['ours'][1] / least['floor'][1]:.2f} in "
            f"processor time), {speed['ours']:.1f} s of audio/s, {stored / 1e9:.2f} GB stored",
        )
        if args.profile:
            _profile(lambda: ours(args, upstream, precision, layers, folder))


def _profile(action: Callable[[], Any]) -> None:
    """Print where the time goes, by operation of torch."""
    from torch.profiler import ProfilerActivity, profile

    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profile(activities=kinds) as found:
        action()
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=10, max_name_column_width=45))
