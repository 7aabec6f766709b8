"""Autoregressive Co-training: log Mel frames -> three one-layer LSTMs, whose outputs are the hidden states.

Written from the paper and from facts about the released files; no code of its authors is used.

Source: Yeh and Tang, Autoregressive Co-Training for Learning Discrete Speech Representations (Interspeech 2022,
arXiv 2203.15840).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ...core.errors import MIError
from ...core.types import SAMPLE_RATE
from ..checkpoints import advice, file_or_download, read_checkpoint

# Mean and standard deviation per Mel band over LibriSpeech train-clean-360 (130,714,821 frames of 10 ms), from
# the sums in the statistics file that the authors publish with their code. Natural logarithm of Kaldi's
# filterbank on samples of 16 bits. The checkpoint does not hold them.
# fmt: off
TRAIN_CLEAN_360_MEAN = (
    12.183, 13.274, 14.042, 14.557, 14.522, 14.737, 15.030, 15.231, 15.080, 14.915,
    14.628, 14.551, 14.514, 14.504, 14.563, 14.627, 14.883, 15.165, 15.397, 15.541,
    15.598, 15.610, 15.690, 15.855, 16.020, 16.068, 16.122, 16.125, 16.117, 16.126,
    16.087, 15.913, 15.720, 15.528, 15.369, 15.292, 15.293, 15.267, 15.184, 15.034,
)
TRAIN_CLEAN_360_STD = (
    3.401, 4.026, 4.441, 4.584, 4.481, 4.517, 4.587, 4.562, 4.470, 4.370,
    4.235, 4.088, 3.952, 3.865, 3.837, 3.806, 3.686, 3.707, 3.772, 3.744,
    3.700, 3.655, 3.660, 3.709, 3.736, 3.715, 3.689, 3.670, 3.652, 3.636,
    3.594, 3.586, 3.565, 3.532, 3.519, 3.487, 3.443, 3.414, 3.365, 3.348,
)
# fmt: on
SIXTEEN_BITS = 32768.0


class UpstreamExpert(nn.Module):
    """The past view of Co-training, called as s3prl calls its upstreams.

    Attributes:
        layers: one-layer LSTMs; the output of each is a hidden state.
        config: what determines the features, for the fingerprint.
        notes: lines for the log.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: Mapping[str, Tensor], mean: Tensor, std: Tensor) -> None:
        """LSTMs with `weights` (`0.weight_ih_l0`, ...) on frames normalised by `mean` and `std`, shape (n_bands,)."""
        super().__init__()
        count = 1 + max(int(key.split(".")[0]) for key in weights)
        shapes = [weights[f"{i}.weight_ih_l0"].shape for i in range(count)]
        self.layers = nn.ModuleList(nn.LSTM(int(width), int(gates) // 4, batch_first=True) for gates, width in shapes)
        self.layers.load_state_dict({k: v.float() for k, v in weights.items()})
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.config = {"num_mel_bins": len(mean), "scale": SIXTEEN_BITS, "dither": 0.0}
        self.notes: list[str] = []

    def get_downsample_rates(self, key: str) -> int:
        """Samples per frame."""
        return 160

    def forward(self, wavs: list[Tensor]) -> dict[str, Any]:
        """Waveforms of shape (n_samples,) -> `hidden_states`, one (batch, n_frames, dim) for each LSTM."""
        # The LSTMs see the past only: padding behind an utterance changes none of its frames.
        frames = pad_sequence([self.features(w) for w in wavs], batch_first=True)
        states = []
        for layer in self.layers:
            frames = layer(frames)[0]
            states.append(frames)
        return {"hidden_states": states, "last_hidden_state": states[-1]}

    def features(self, wav: Tensor) -> Tensor:
        """Normalised log Mel frames of a waveform (n_samples,) in [-1, 1]: shape (n_frames, n_bands)."""
        import torchaudio

        mel = torchaudio.compliance.kaldi.fbank(
            wav[None] * SIXTEEN_BITS, num_mel_bins=len(self.mean), dither=0.0, sample_frequency=SAMPLE_RATE
        )
        return (mel - self.mean) / self.std


def load(ckpt: str | None, statistics: str | None = None, refresh: bool = False) -> UpstreamExpert:
    """The expert of a checkpoint (`-k`), with the statistics of a file (`-g`) or those of train-clean-360.

    Raises:
        MIError: no such file, not one of Co-training, or statistics of another number of Mel bands.
    """
    path = file_or_download("cotraining", ckpt, refresh)
    content = read_checkpoint(path)
    weights = {}
    if isinstance(content, Mapping):
        weights = {k[2:]: v for k, v in content.items() if re.fullmatch(r"0\.\d+\.(weight|bias)_[ih]h_l0", str(k))}
    if "0.weight_ih_l0" not in weights:
        raise MIError(f"upstream 'cotraining': {str(path)!r} is not in Co-training's layout.{advice(path)}")
    if statistics is None:
        mean, std = torch.tensor(TRAIN_CLEAN_360_MEAN), torch.tensor(TRAIN_CLEAN_360_STD)
    else:
        mean, std = read_statistics(Path(statistics))
    bands = weights["0.weight_ih_l0"].shape[1]
    if len(mean) != bands:
        source = "the built-in statistics are" if statistics is None else f"-g {statistics!r} is"
        raise MIError(
            f"upstream 'cotraining': {str(path)!r} takes {bands} Mel bands, but {source} of {len(mean)}. Name the "
            "statistics that the model was trained with: -g STATS_FILE."
        )
    expert = UpstreamExpert(weights, mean, std)
    rest = [f"{k} {tuple(v.shape)}" for k, v in content.items() if not str(k).startswith("0.")]
    used = "of train-clean-360 (built in; -g takes others)" if statistics is None else statistics
    expert.notes = [
        f"took the LSTMs of {path.name}; ignored: {', '.join(rest) or 'nothing'}; feature statistics: {used}"
    ]
    return expert


def read_statistics(path: Path) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each Mel band, each of shape (n_bands,), from a file of three lines.

    Args:
        path: sums, sums of squares (numbers apart by blanks or commas), number of frames.

    Raises:
        MIError: no such file, or not three such lines.
    """
    if not path.is_file():
        raise MIError(f"-g {str(path)!r}: no such statistics file.")
    try:
        lines = filter(str.strip, path.read_text(encoding="utf-8").splitlines())
        numbers = [[float(n) for n in re.split(r"[\s,\[\]]+", line) if n] for line in lines]
        sums, squares, (frames,) = (torch.tensor(line, dtype=torch.float64) for line in numbers)
    except ValueError as error:
        raise MIError(
            f"-g {str(path)!r}: a statistics file has three lines: sums, sums of squares, number of frames ({error})."
        ) from error
    if len(sums) != len(squares) or frames <= 0:
        raise MIError(
            f"-g {str(path)!r}: {len(sums)} sums, {len(squares)} sums of squares and {frames:g} frames do not belong "
            "together."
        )
    mean = sums / frames
    variance = squares / frames - mean**2
    if not bool((variance > 0).all()):
        raise MIError(f"-g {str(path)!r}: the variance of band {int(variance.argmin())} is not above 0.")
    return mean.float(), variance.sqrt().float()
