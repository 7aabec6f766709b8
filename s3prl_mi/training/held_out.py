"""Held-out audio for measuring while training: read once, split in halves by speaker.

Source: Liu, Yeh and Glass (ICASSP 2024): a checkpoint is chosen on the validation set alone, half of it to fit
probes on and half to score.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..core.errors import MIError
from ..core.types import SAMPLE_RATE, Seconds
from ..data.audio import AudioError, AudioInfo, read_waveform
from ..data.splits import Split
from ..data.utterances import Utterance

logger = logging.getLogger(__name__)

Audio: TypeAlias = "str | Path | np.ndarray | Tensor"
"""A file, or a waveform of shape (n_samples,): float, 16 kHz mono, in [-1, 1]."""

MAX_SECONDS: Seconds = 1800.0
"""Hidden states are kept in memory: of one layer of 768 dimensions, both views, 0.3 MB per second of audio."""


@dataclass(frozen=True, eq=False)
class Half:
    """Utterances to fit on, or to score; from long to short, as the store keeps them.

    `waveforms` are float32 tensors of shape (n_samples,), `groups` names the speaker of each.
    """

    waveforms: list[Tensor]
    groups: list[Hashable]

    @property
    def seconds(self) -> Seconds:
        """Audio in this half."""
        return sum(map(len, self.waveforms)) / SAMPLE_RATE

    @property
    def split(self) -> Split:
        """As a split: each utterance with a number for its id and one for its speaker."""
        number = {name: str(i) for i, name in enumerate(dict.fromkeys(self.groups))}
        utterances = [Utterance(str(i), Path(), "held-out", number[g], None) for i, g in enumerate(self.groups)]
        headers = {str(i): AudioInfo(len(waveform), SAMPLE_RATE, 1) for i, waveform in enumerate(self.waveforms)}
        return Split("held-out audio", utterances, headers, [], 0.0)


def halves(
    audio: Sequence[Audio],
    groups: Sequence[Hashable] | None = None,
    eval_audio: Sequence[Audio] | None = None,
    eval_groups: Sequence[Hashable] | None = None,
    max_seconds: Seconds = MAX_SECONDS,
) -> tuple[Half, Half]:
    """Read held-out audio and split it into what is fitted on and what is scored; arguments are those of `ViewsMeter`.

    Returns:
        The fit half and the eval half. Without `eval_audio` no speaker is in both, and they are about equally
        long.

    Raises:
        MIError: fewer than two utterances, audio that cannot be used, too much of it.
    """
    first = _read("audio", audio, groups)
    parts = _halved(first) if eval_audio is None else (first, _read("eval_audio", eval_audio, eval_groups))
    total = sum(part.seconds for part in parts)
    if total > max_seconds:
        raise MIError(
            f"held-out audio of {total / 60:.0f} min is more than max_seconds={max_seconds:g}: hidden states are "
            "kept in memory while training. Give fewer utterances (2 to 10 min are enough to follow a training), "
            "or raise max_seconds."
        )
    return parts


def _read(name: str, audio: Sequence[Audio], groups: Sequence[Hashable] | None) -> Half:
    if not len(audio):
        raise MIError(f"{name}: no utterances.")
    if groups is not None and len(groups) != len(audio):
        raise MIError(f"{name} has {len(audio)} utterances, but {len(groups)} groups: give one speaker for each.")
    named: Sequence[Hashable] = list(range(len(audio))) if groups is None else groups
    waveforms = [_waveform(f"{name}[{i}]", a) for i, a in enumerate(audio)]
    order = sorted(range(len(waveforms)), key=lambda i: -len(waveforms[i]))
    return Half([waveforms[i] for i in order], [named[i] for i in order])


def _waveform(name: str, audio: Audio) -> Tensor:
    """One waveform as a float32 tensor on the CPU, shape (n_samples,)."""
    if isinstance(audio, (str, Path)):
        try:
            return torch.from_numpy(read_waveform(Utterance(str(audio), Path(audio), "held-out", None, None)))
        except AudioError as error:
            raise MIError(f"{name}: {error}.") from None
    waveform = torch.as_tensor(audio).detach().cpu()
    if waveform.dim() != 1 or not waveform.is_floating_point():
        raise MIError(
            f"{name}: expected a float waveform of shape (n_samples,), 16 kHz mono, found {waveform.dtype} of "
            f"shape {tuple(waveform.shape)}."
        )
    if not bool(torch.isfinite(waveform).all()):
        raise MIError(f"{name} holds NaN or infinite samples.")
    return waveform.float().clone()  # a copy: a data loader may reuse its buffer


def _halved(half: Half) -> tuple[Half, Half]:
    """Whole speakers to either side, the longest first and to the shorter side."""
    seconds: dict[Hashable, int] = {}
    for waveform, group in zip(half.waveforms, half.groups, strict=True):
        seconds[group] = seconds.get(group, 0) + len(waveform)
    named: list[Hashable] = half.groups
    if len(seconds) < 2:
        if len(half.waveforms) < 2:
            raise MIError("audio: one utterance cannot be split in halves; give at least two, or eval_audio.")
        logger.warning(
            "audio: one speaker only, so halves are split by utterance: the bound then holds for a seen speaker."
        )
        named = list(range(len(half.waveforms)))
        seconds = {i: len(w) for i, w in enumerate(half.waveforms)}
    load, side = [0, 0], {}
    for group in sorted(seconds, key=lambda g: -seconds[g]):
        side[group] = int(load[1] < load[0])
        load[side[group]] += seconds[group]
    chosen = [[i for i, g in enumerate(named) if side[g] == s] for s in (0, 1)]
    first, second = (Half([half.waveforms[i] for i in c], [half.groups[i] for i in c]) for c in chosen)
    return first, second
