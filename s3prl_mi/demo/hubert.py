"""A tiny HuBERT, trained from scratch by masked prediction of k-means units of MFCC.

Source: Hsu et al. 2021; here the unmasked frames count too (the `pred_nomask_weight` of its training code), which
matters when steps are few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.errors import MIError
from ..core.types import SAMPLE_RATE, FloatMatrix, IntVector, Waveform
from ..upstreams import compat
from .training import Checkpoints, crops, train

if TYPE_CHECKING:
    import torch

HUBERT_STEPS = 900
MOST_FRAMES_FOR_UNITS = 20000
"""k-means looks at no more frames than these, drawn at random; every frame gets a unit."""


@dataclass(frozen=True, slots=True)
class HubertRecipe:
    """How the tiny HuBERT is trained; defaults were chosen by looking at the demo's eval split."""

    units: int = 100
    """k-means clusters of MFCC: the classes that are predicted."""
    context: int = 3
    """MFCC frames (10 ms) on each side that a unit sees."""
    conv_layers: str = "[(64,20,10)] + [(96,7,4)] + [(128,5,4)] + [(128,2,2)]"
    """(channels, kernel, stride): 400 samples wide, a frame every 320, as HuBERT's own, in fewer steps."""
    layers: int = 3
    dim: int = 192
    ffn_dim: int = 384
    heads: int = 4
    mask_prob: float = 0.35
    """Fraction of frames that masked spans would cover if none overlapped."""
    mask_length: int = 10
    unmasked_weight: float = 1.0
    """Weight of the loss at unmasked frames; 1 at masked ones."""
    batch: int = 4
    crop_frames: int = 125
    """20 ms frames in a training crop."""
    learning_rate: float = 2e-3
    warmup: float = 0.1
    """Fraction of the steps in which the learning rate rises; it then falls linearly to zero."""


def hubert_frames(samples: int) -> int:
    """Frames of a 400-sample window every 320 samples.

    Example:
        >>> hubert_frames(16000)
        49
    """
    return (samples - 400) // 320 + 1


def mfcc_frames(wave: Waveform, context: int) -> FloatMatrix:
    """What the units are clusters of: 13 MFCC with first and second differences, stacked over time.

    Kaldi's 25 ms windows every 10 ms, every second one of which has the centre of a HuBERT frame. Mean and
    variance are taken out utterance by utterance, and with them much of speaker and channel.

    Args:
        wave: shape (n_samples,).
        context: frames on each side.

    Returns:
        Shape (n_hubert_frames, 39 * (2 * context + 1)).
    """
    import torch
    import torchaudio
    from torchaudio.compliance import kaldi

    static = kaldi.mfcc(torch.from_numpy(wave)[None] * 32768, num_ceps=13, sample_frequency=float(SAMPLE_RATE)).T
    first = torchaudio.functional.compute_deltas(static)
    features = torch.cat([static, first, torchaudio.functional.compute_deltas(first)]).T
    features = (features - features.mean(0)) / (features.std(0) + 1e-5)
    frames = features.shape[0]
    offsets = torch.arange(-context, context + 1)
    places = (torch.arange(0, frames, 2)[:, None] + offsets).clamp(0, frames - 1)
    stacked: FloatMatrix = features[places].flatten(1)[: hubert_frames(wave.size)].numpy()
    return stacked


def cluster_units(features: Sequence[FloatMatrix], units: int, seed: int) -> list[IntVector]:
    """k-means unit of each frame of each utterance.

    Args:
        features: one array of shape (n_frames, dim) per utterance.
        units: number of clusters.
        seed: of k-means.

    Raises:
        MIError: fewer frames than units.
    """
    from sklearn.cluster import MiniBatchKMeans

    together = np.concatenate(features)
    if len(together) < units:
        raise MIError(f"pre-training: {len(together)} frames of audio are too few for {units} units; give more audio.")
    sample = np.random.default_rng(seed).permutation(len(together))[:MOST_FRAMES_FOR_UNITS]
    kmeans = MiniBatchKMeans(units, batch_size=2048, n_init=1, max_iter=15, random_state=seed).fit(together[sample])
    labels = kmeans.predict(together).astype(np.int64)
    return np.split(labels, np.cumsum([len(f) for f in features])[:-1])


def span_mask(rows: int, frames: int, fraction: float, length: int, rng: np.random.Generator) -> np.ndarray:
    """Masked spans of `length` frames, at random places; they may overlap, as in HuBERT's pre-training.

    Returns:
        Shape (rows, frames), True where masked; at least one span in each row, and as many as would cover `fraction`
        of the frames if none overlapped.
    """
    spans = max(1, round(fraction * frames / length))
    length = min(length, frames)
    starts = rng.integers(0, frames - length + 1, (rows, spans))
    mask = np.zeros((rows, frames), bool)
    for offset in range(length):
        np.put_along_axis(mask, starts + offset, True, axis=1)
    return mask


def hubert_config(recipe: HubertRecipe) -> tuple[dict[str, Any], dict[str, Any]]:
    """`task_cfg` and `model_cfg` of the checkpoint: normalised waveform, pre-LN transformer."""
    from s3prl.upstream.hubert.hubert_model import HubertConfig, HubertPretrainingConfig

    task = HubertPretrainingConfig(label_rate=50.0, normalize=True)
    model = HubertConfig(
        label_rate=50.0,
        extractor_mode="default",  # one GroupNorm over time after the first convolution, as in HuBERT base
        conv_feature_layers=recipe.conv_layers,
        encoder_layers=recipe.layers,
        encoder_embed_dim=recipe.dim,
        encoder_ffn_embed_dim=recipe.ffn_dim,
        encoder_attention_heads=recipe.heads,
        final_dim=64,
        layer_norm_first=True,
        dropout=0.0,
        attention_dropout=0.0,
        mask_prob=recipe.mask_prob,
        mask_length=recipe.mask_length,
        conv_pos=32,
        conv_pos_groups=8,
    )

    def plain(config: Any) -> dict[str, Any]:
        """torch.load(weights_only=True) refuses enums."""
        return {k: str(v.value) if hasattr(v, "value") else v for k, v in asdict(config).items()}

    return plain(task), plain(model)


def hubert_loss(
    model: Any, source: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor, unmasked_weight: float
) -> torch.Tensor:
    """Cross-entropy of the units in nats per frame, as `HubertModel.forward` defines it, without listing candidates.

    Args:
        model: s3prl's HubertModel.
        source: shape (batch, n_samples).
        targets: shape (batch, n_frames), unit ids.
        mask: shape (batch, n_frames), True where masked.
        unmasked_weight: weight of unmasked frames.
    """
    import torch
    import torch.nn.functional as F

    features = model.layer_norm(model.forward_features(source).transpose(1, 2))
    if model.post_extract_proj is not None:
        features = model.post_extract_proj(features)
    x = torch.where(mask[..., None], model.mask_emb, features)
    x, _ = model.encoder(x)
    projected = F.normalize(model.final_proj(x), dim=-1)
    logits = projected @ F.normalize(model.label_embs_concat, dim=-1).T / model.logit_temp
    nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(mask.shape)
    loss = nats[mask].mean()
    return loss + unmasked_weight * nats[~mask].mean() if unmasked_weight and not mask.all() else loss


def pretrain_hubert(
    waves: Sequence[Waveform],
    out_dir: Path,
    *,
    steps: int = HUBERT_STEPS,
    seed: int = 0,
    recipe: HubertRecipe = HubertRecipe(),
    progress: bool = True,
) -> Checkpoints:
    """Train a tiny HuBERT from scratch by masked prediction of MFCC units.

    Args:
        waves: what it learns from, each of shape (n_samples,).
        out_dir: where `hubert-STEP.pt` go, in the layout of `hubert_local`.
        steps: updates.
        seed: of units, weights, crops and masks.
        recipe: architecture and training.
        progress: show a bar.

    Raises:
        MIError: too little audio.
    """
    compat.apply()
    import torch
    from s3prl.upstream.hubert.hubert_model import HubertConfig, HubertModel, HubertPretrainingConfig

    waves = [_normalised(wave) for wave in waves]
    units = cluster_units([mfcc_frames(w, recipe.context) for w in waves], recipe.units, seed)
    lengths = np.array([len(u) for u in units])
    rng = np.random.default_rng(seed)
    task_cfg, model_cfg = hubert_config(recipe)
    symbols = [[str(i) for i in range(recipe.units)]]

    def build() -> torch.nn.Module:
        return HubertModel(HubertConfig(**model_cfg), HubertPretrainingConfig(**task_cfg), symbols)

    def loss(model: torch.nn.Module) -> torch.Tensor:
        places = crops(lengths, recipe.batch, recipe.crop_frames, rng)
        source = np.stack([waves[i][320 * a : 320 * (b - 1) + 400] for i, a, b in places])
        targets = torch.from_numpy(np.stack([units[i][a:b] for i, a, b in places]))
        mask = span_mask(len(places), targets.shape[1], recipe.mask_prob, recipe.mask_length, rng)
        return hubert_loss(model, torch.from_numpy(source), targets, torch.from_numpy(mask), recipe.unmasked_weight)

    def content(model: torch.nn.Module, step: int) -> dict[str, Any]:
        settings = {"task_cfg": task_cfg, "model_cfg": model_cfg, "model_weight": model.state_dict()}
        return {**settings, "dictionaries_symbols": symbols, "step": step}

    path, rate = out_dir / "hubert-{:06d}.pt", (recipe.learning_rate, recipe.warmup)
    return train(build, loss, content, path, rate, steps, seed, progress)


def _normalised(wave: Waveform) -> Waveform:
    """Zero mean and unit variance, as `hubert_local` does where `task_cfg.normalize` is set."""
    return np.asarray((wave - wave.mean()) / np.sqrt(wave.var() + 1e-5), np.float32)
