"""Pre-train a tiny HuBERT or APC on a folder of audio, on a CPU, in a minute or two.

The models are s3prl's own classes and the files are read by s3prl's own `hubert_local` and `apc_local`. They are weak,
but they really learn from speech: enough to show what a trained model holds beyond its untrained self. Each run writes
the model at step 0 and at the end. The same audio and steps give the same files.

    python -m s3prl_mi.demo.pretrain --audio demo_corpus/train --out checkpoints --model hubert --model apc
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from ..core.errors import MIError
from ..upstreams import compat
from .apc import APC_STEPS, pretrain_apc
from .hubert import HUBERT_STEPS, pretrain_hubert
from .training import Checkpoints, read_audio


def main(argv: list[str] | None = None) -> int:
    """Command line of `python -m s3prl_mi.demo.pretrain`; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m s3prl_mi.demo.pretrain",
        description=(__doc__ or "").split("\n")[0],
        epilog="example: python -m s3prl_mi.demo.pretrain --audio demo_corpus/train --out checkpoints --model apc",
    )
    parser.add_argument("--audio", type=Path, required=True, help="folder; all .flac and .wav files below it")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoints")
    parser.add_argument("--model", choices=("hubert", "apc"), action="append", help="may be repeated (default: both)")
    parser.add_argument("--steps", type=int, help=f"updates (default: hubert {HUBERT_STEPS}, apc {APC_STEPS})")
    args = parser.parse_args(argv)
    compat.apply()
    import torch

    torch.set_num_threads(1)  # more are slower on models as small as these
    trainers: dict[str, tuple[Callable[..., Checkpoints], int]] = {
        "hubert": (pretrain_hubert, HUBERT_STEPS),
        "apc": (pretrain_apc, APC_STEPS),
    }
    try:
        waves = read_audio(args.audio)
        for name in dict.fromkeys(args.model or trainers):
            train, default = trainers[name]
            steps = default if args.steps is None else args.steps
            for path in train(waves, args.out, steps=steps).values():
                sys.stdout.write(f"{path}\n")
    except MIError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
