"""What the demo's models share: audio, random crops of it, the training loop, checkpoints written whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..core.errors import MIError
from ..core.files import replacing
from ..core.types import IntVector, Waveform
from ..data.audio import AudioError, read_waveform
from ..data.utterances import AUDIO_SUFFIXES, Utterance

if TYPE_CHECKING:
    import torch

Checkpoints: TypeAlias = dict[int, Path]
"""Training step -> file: 0 (untrained), and the last."""


def read_audio(folder: Path) -> list[Waveform]:
    """Every audio file below a folder as 16 kHz mono, in the order of their names.

    Raises:
        MIError: no such folder, no audio in it, or an unreadable file: a silent loss would change the model.
    """
    if not folder.is_dir():
        raise MIError(f"--audio {folder}: no such folder.")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES)
    if not files:
        raise MIError(f"--audio {folder}: no {' or '.join(AUDIO_SUFFIXES)} file in it.")
    try:
        return [read_waveform(Utterance(path.stem, path, "train", None, None)) for path in files]
    except AudioError as error:
        raise MIError(f"pre-training: {error}. Remove or repair the file.") from error


def crops(lengths: IntVector, batch: int, crop: int, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """(utterance, first frame, end frame) of random crops of one common length.

    Utterances are drawn by length, so that each frame is seen equally often; the crop is shortened to the
    shortest utterance drawn.
    """
    chosen = rng.choice(len(lengths), batch, p=lengths / lengths.sum())
    crop = int(min(crop, lengths[chosen].min()))
    starts = rng.integers(0, lengths[chosen] - crop + 1)
    return [(int(i), int(a), int(a) + crop) for i, a in zip(chosen, starts, strict=True)]


def train(
    build: Callable[[], torch.nn.Module],
    loss: Callable[[torch.nn.Module], torch.Tensor],
    content: Callable[[torch.nn.Module, int], dict[str, Any]],
    path: Path,
    rate: tuple[float, float],
    steps: int,
    seed: int,
    progress: bool,
) -> Checkpoints:
    """Adam with a rising, then linearly falling learning rate; saves before and after.

    Torch is seeded for all of it, and the caller's random state comes back at the end.

    Args:
        build: the model.
        loss: of the model on a batch that it draws.
        content: of a checkpoint, from the model and its step.
        path: of a checkpoint, with the step left open.
        rate: the highest learning rate, and the fraction of the steps in which it rises.
        steps: updates.
        seed: of torch.
        progress: show a bar.
    """
    import torch
    from tqdm import tqdm

    if steps < 1:
        raise MIError(f"pre-training: steps must be at least 1, found {steps}.")
    saved = {step: path.with_name(path.name.format(step)) for step in (0, steps)}
    learning_rate, rise = rate[0], max(1, round(rate[1] * steps))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build()
        _save(content(model, 0), saved[0])
        model.train()
        optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, betas=(0.9, 0.98))
        title = path.name.partition("-")[0]
        with tqdm(range(steps), desc=title, unit="step", disable=not progress) as bar:
            for step in bar:
                factor = min((step + 1) / rise, (steps - step) / max(1, steps - rise))
                optimizer.param_groups[0]["lr"] = learning_rate * factor
                value = loss(model)
                optimizer.zero_grad(set_to_none=True)
                value.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
                optimizer.step()
                if step % 20 == 0:
                    bar.set_postfix(loss=f"{value.item():.3f}", refresh=False)
    if not np.isfinite(value.item()):
        raise MIError(f"pre-training: the loss is {value.item()} after {steps} steps; lower the learning rate.")
    _save(content(model.eval(), steps), saved[steps])
    return saved


def _save(content: dict[str, Any], path: Path) -> None:
    import torch

    with replacing(path) as temporary:
        torch.save(content, temporary)
