"""s3prl's `ctc` with a frozen upstream: as stock, and with its hidden states from the store (`--reuse_states`).

    python -m tests.bench reuse_states
    python -m tests.bench reuse_states --models base --device cuda --train train-clean-100 --batch_size 16

The same command line each time: SUPERB's phone recognition, some steps, dev once at the end, the best checkpoint on
test. The baseline is s3prl's own runner without the option; then the first run with it, which fills the store, and
another one, as another seed or task would find it. PERs differ as stock's hidden states depend on what an utterance was
batched with, and by float16. `base`: a HuBERT of base size (12 x 768) with random weights.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from s3prl_mi.upstreams import compat

from .extraction import DATA, build_base
from .table import Row

CHECKPOINT = DATA.parents[1] / "checkpoints" / "hubert2-001800.pt"
STEPS = {"hubert2": 80, "base": 10}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of this case."""
    parser.add_argument("--models", nargs="+", choices=[*STEPS], default=[*STEPS])
    parser.add_argument("--libri_root", type=Path, default=DATA)
    parser.add_argument("--train", default="dev-other@1/5")
    parser.add_argument("--dev", default="dev-other@5/5")
    parser.add_argument("--test", default="test-other@1/5")
    parser.add_argument("--steps", type=int, help="of training; " + ", ".join(f"{m}: {n}" for m, n in STEPS.items()))
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--num_workers", type=int, default=0)
    parser.add_argument("--device", default="cpu")


def reuse_states(args: argparse.Namespace) -> Iterator[Row]:
    """Phone recognition by s3prl, with and without --reuse_states."""
    with tempfile.TemporaryDirectory() as made:
        folder, first = Path(made), 0.0
        compat.apply()
        importlib.import_module("s3prl.run_downstream")  # seconds that the first run would be charged with
        for model in args.models:
            checkpoint = CHECKPOINT if model == "hubert2" else build_base(folder / "base.pt")
            os.environ["S3PRL_MI_STORE"] = str(folder / f"store-{model}")
            name = f"{model}: stock"
            for number, (case, words) in enumerate(
                [(name, ()), (f"{model}: first run", ("--reuse_states",)), (f"{model}: again", ("--reuse_states",))]
            ):
                steps = args.steps or STEPS[model]
                wall, processor, of_steps, per = _run(args, checkpoint, folder / f"{model}-{number}", steps, *words)
                first = processor if case == name else first
                stored = sum(p.stat().st_size for p in folder.glob(f"store-{model}/**/*.bin"))
                note = f"{processor:.1f} s of processor"
                note += f" ({first / processor:.1f} x), {stored / 1e9:.3f} GB stored" if words else ""
                note += f"; median {1000 * statistics.median(of_steps):.0f} ms per step"
                note += f"; PER {per:.2f} % after {steps} steps of {args.batch_size}"
                yield Row(case, wall, None, None if case == name else name, note)


def _run(
    args: argparse.Namespace, checkpoint: Path, folder: Path, steps: int, *words: str
) -> tuple[float, float, list[float], float]:
    """Wall and processor time of a whole command, seconds from each training step to the next, and PER."""
    from s3prl_mi.cli.run_downstream import main

    values: dict[str, Any] = {
        "corpus.path": str(args.libri_root),
        **{f"corpus.{split}": [getattr(args, split)] for split in ("train", "dev", "test")},
        "corpus.batch_size": args.batch_size,
        "corpus.num_workers": args.num_workers,
    }
    override = [f"config.downstream_expert.{key}={value!r}" for key, value in values.items()]
    override += [f"config.runner.{key}={steps}" for key in ("total_steps", "log_step", "eval_step", "save_step")]
    override += ["config.runner.gradient_accumulate_steps=1", "config.optimizer.lr=0.001"]
    command = ["-m", "train", "-d", "ctc", "-u", "hubert_local", "-k", str(checkpoint), "-p", str(folder), *words]
    begun, worked = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), _ticks() as ticks:
        if main([*command, "--device", args.device, "-o", ",,".join(override)]):
            raise SystemExit(f"{' '.join(command)} has failed")
    wall, processor = time.perf_counter() - begun, time.process_time() - worked
    record = json.loads((folder / "superb_results.jsonl").read_text().splitlines()[-1])
    of_steps = [b - a for a, b in itertools.pairwise(ticks)] or [wall]
    return wall, processor, of_steps, float(record["percent"])


@contextlib.contextmanager
def _ticks() -> Iterator[list[float]]:
    """When each training step calls the optimiser."""
    import torch

    ticks: list[float] = []
    original = torch.optim.Adam.step

    def step(self: Any, *more: Any, **named: Any) -> Any:
        found = original(self, *more, **named)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        ticks.append(time.perf_counter())
        return found

    torch.optim.Adam.step = step  # type: ignore[method-assign]
    try:
        yield ticks
    finally:
        torch.optim.Adam.step = original  # type: ignore[method-assign]
