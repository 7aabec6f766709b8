"""Pre-train a tiny HuBERT or APC on a folder of audio, on a CPU, in a minute or two.

The models are s3prl's own classes and the files are read by s3prl's own `hubert_local` and `apc_local`. They
are weak, but they really learn from speech: enough to show what a trained model holds beyond its untrained
self. Each run writes the model at step 0 and at the end. The same audio,
steps, seed and number of threads give the same files.

    python -m s3prl_mi.demo.pretrain --audio demo_corpus/train --out checkpoints --model hubert --model apc

Sources: HuBERT, Hsu et al. 2021 (masked prediction of k-means units of MFCC; here the unmasked frames count
too, the `pred_nomask_weight` of its training code, which matters when steps are few); APC, Chung et al. 2019
(predict the frame n steps ahead, L1).
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..core.errors import MIError
from ..core.files import replacing
from ..core.types import SAMPLE_RATE, FloatMatrix, IntVector, Waveform
from ..data import audio
from ..data.utterances import Utterance
from ..upstreams import compat

if TYPE_CHECKING:
    import torch

AUDIO_SUFFIXES = (".flac", ".wav")


@dataclass(frozen=True, slots=True)
class HubertRecipe:
    """How the tiny HuBERT is trained; defaults were chosen by looking at the demo's eval split."""

    units: int = 100
    """k-means clusters of MFCC: the classes that are predicted."""
    context: int = 3
    """MFCC frames (10 ms) on each side that a unit sees."""
    conv_layers: str = "[(64,20,10)] + [(96,7,4)] + [(128,5,4)] + [(128,2,2)]"
    """(channels, kernel, stride): 400 samples wide, a frame every 320, as HuBERT's own, in fewer steps."""
    extractor: Literal["default", "layer_norm"] = "default"
    """`default`: one GroupNorm over time after the first convolution, as in HuBERT base."""
    layers: int = 3
    dim: int = 192
    ffn_dim: int = 384
    heads: int = 4
    mask_prob: float = 0.35
    """Share of frames that masked spans would cover if none overlapped."""
    mask_length: int = 10
    unmasked_weight: float = 1.0
    """Weight of the loss at unmasked frames; 1 at masked ones."""
    batch: int = 4
    crop_frames: int = 125
    """20 ms frames in a training crop."""
    learning_rate: float = 2e-3
    warmup: float = 0.1
    """Share of the steps in which the learning rate rises; it then falls linearly to zero."""


@dataclass(frozen=True, slots=True)
class APCRecipe:
    """How the tiny APC is trained; defaults were chosen by looking at the demo's eval split."""

    layers: int = 3
    """s3prl's `apc_local` reads three layers."""
    dim: int = 192
    n_future: int = 5
    """Frames (10 ms) ahead that are predicted."""
    batch: int = 32
    crop_frames: int = 120
    """10 ms frames in a training crop."""
    learning_rate: float = 4e-3
    warmup: float = 0.1


HUBERT_STEPS = 900
APC_STEPS = 120
MOST_FRAMES_FOR_UNITS = 20000
"""k-means looks at no more frames than these, drawn at random; every frame gets a unit."""


def find_audio(folder: Path) -> list[Path]:
    """All audio files below a folder, sorted.

    Raises:
        MIError: no such folder, or no audio in it.
    """
    if not folder.is_dir():
        raise MIError(f"--audio {folder}: no such folder.")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES)
    if not files:
        raise MIError(f"--audio {folder}: no {' or '.join(AUDIO_SUFFIXES)} file in it.")
    return files


def read_audio(files: Sequence[Path]) -> list[Waveform]:
    """Read files as 16 kHz mono; unreadable ones are an error, since a silent loss would change the model.

    Raises:
        MIError: no file at all, or one that cannot be read.
    """
    if not files:
        raise MIError("pre-training: no audio files were given.")
    waves = []
    for path in files:
        try:
            waves.append(audio.read_waveform(Utterance(path.stem, path, "train", None, None)))
        except audio.AudioError as error:
            raise MIError(f"pre-training: {error}. Remove or mend the file.") from error
    return waves


# ----------------------------------------------------------------------------------------------- HuBERT


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

    static = kaldi.mfcc(
        torch.from_numpy(wave)[None] * 32768, num_ceps=13, sample_frequency=float(SAMPLE_RATE)
    ).T
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
        features: one array of shape (n_frames, dim) an utterance.
        units: number of clusters.
        seed: of k-means.

    Returns:
        One array of shape (n_frames,) an utterance.

    Raises:
        MIError: fewer frames than units.
    """
    from sklearn.cluster import MiniBatchKMeans

    together = np.concatenate(features)
    if len(together) < units:
        raise MIError(
            f"pre-training: {len(together)} frames of audio are too few for {units} units; give more audio."
        )
    sample = np.random.default_rng(seed).permutation(len(together))[:MOST_FRAMES_FOR_UNITS]
    kmeans = MiniBatchKMeans(units, batch_size=2048, n_init=1, max_iter=15, random_state=seed).fit(
        together[sample]
    )
    labels = kmeans.predict(together).astype(np.int64)
    return np.split(labels, np.cumsum([len(f) for f in features])[:-1])


def span_mask(rows: int, frames: int, share: float, length: int, rng: np.random.Generator) -> np.ndarray:
    """Masked spans of one length, at random places; they may overlap, as in HuBERT's pre-training.

    Args:
        rows: of the batch.
        frames: of each row.
        share: of frames that spans would cover if none overlapped.
        length: of a span, in frames.
        rng: source of randomness.

    Returns:
        Shape (rows, frames), True where masked; at least one span in each row.
    """
    spans = max(1, round(share * frames / length))
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
        extractor_mode=recipe.extractor,
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
    # Plain values only: torch.load(weights_only=True) refuses anything else.
    return ({k: _plain(v) for k, v in asdict(cfg).items()} for cfg in (task, model))  # type: ignore[return-value]


def _plain(value: Any) -> Any:
    return str(value.value) if hasattr(value, "value") else value


def hubert_loss(
    model: Any, source: torch.Tensor, targets: torch.Tensor, mask: torch.Tensor, unmasked_weight: float
) -> torch.Tensor:
    """Cross-entropy of the units, as `HubertModel.forward` defines it, without listing candidates.

    Args:
        model: s3prl's HubertModel.
        source: shape (batch, n_samples).
        targets: shape (batch, n_frames), unit ids.
        mask: shape (batch, n_frames), True where masked.
        unmasked_weight: weight of unmasked frames.

    Returns:
        Scalar, nats a frame.
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
    audio_files: Sequence[Path],
    out_dir: Path,
    *,
    steps: int = HUBERT_STEPS,
    seed: int = 0,
    recipe: HubertRecipe | None = None,
    progress: bool = True,
) -> dict[int, Path]:
    """Train a tiny HuBERT from scratch by masked prediction of MFCC units.

    Args:
        audio_files: what it learns from; no labels are read.
        out_dir: where `hubert-STEP.pt` go, in the layout of `hubert_local`.
        steps: updates.
        seed: of units, weights, crops and masks.
        recipe: architecture and training; default: `HubertRecipe()`.
        progress: show a bar.

    Returns:
        Step -> file, for step 0 (untrained) and `steps`.

    Raises:
        MIError: no audio, or too little.
    """
    compat.apply()
    import torch
    from s3prl.upstream.hubert.hubert_model import HubertConfig, HubertModel, HubertPretrainingConfig

    recipe = recipe or HubertRecipe()
    waves = [_normalised(wave) for wave in read_audio(audio_files)]
    units = cluster_units([mfcc_frames(w, recipe.context) for w in waves], recipe.units, seed)
    rng = np.random.default_rng(seed)
    with _seeded(seed):
        task_cfg, model_cfg = hubert_config(recipe)
        symbols = [[str(i) for i in range(recipe.units)]]
        model = HubertModel(HubertConfig(**model_cfg), HubertPretrainingConfig(**task_cfg), symbols)

        def loss() -> torch.Tensor:
            places = _crops(np.array([len(u) for u in units]), recipe.batch, recipe.crop_frames, rng)
            source = np.stack([waves[i][320 * a : 320 * (b - 1) + 400] for i, a, b in places])
            targets = torch.from_numpy(np.stack([units[i][a:b] for i, a, b in places]))
            shape = targets.shape
            mask = span_mask(shape[0], shape[1], recipe.mask_prob, recipe.mask_length, rng)
            return hubert_loss(
                model, torch.from_numpy(source), targets, torch.from_numpy(mask), recipe.unmasked_weight
            )

        def save(step: int) -> Path:
            content = {
                "task_cfg": task_cfg,
                "model_cfg": model_cfg,
                "model_weight": model.state_dict(),
                "dictionaries_symbols": symbols,
                "step": step,
            }
            return _save(content, out_dir / f"hubert-{step:06d}.pt")

        return _train(
            model, loss, save, steps, recipe.learning_rate, recipe.warmup, "hubert" if progress else None
        )


def _normalised(wave: Waveform) -> Waveform:
    """Zero mean and unit variance, as `hubert_local` does where `task_cfg.normalize` is set."""
    result: Waveform = ((wave - wave.mean()) / np.sqrt(wave.var() + 1e-5)).astype(np.float32)
    return result


def _crops(lengths: IntVector, batch: int, crop: int, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """(utterance, first frame, end frame) of random crops of one common length.

    Utterances are drawn by length, so that each frame is seen equally often; the crop is shortened to the
    shortest utterance drawn.
    """
    chosen = rng.choice(len(lengths), batch, p=lengths / lengths.sum())
    crop = int(min(crop, lengths[chosen].min()))
    starts = rng.integers(0, lengths[chosen] - crop + 1)
    return [(int(i), int(a), int(a) + crop) for i, a in zip(chosen, starts, strict=True)]


# -------------------------------------------------------------------------------------------------- APC


def pretrain_apc(
    audio_files: Sequence[Path],
    out_dir: Path,
    *,
    steps: int = APC_STEPS,
    seed: int = 0,
    recipe: APCRecipe | None = None,
    progress: bool = True,
) -> dict[int, Path]:
    """Train a tiny APC from scratch: predict the log Mel frame `n_future` steps ahead.

    Args:
        audio_files: what it learns from; no labels are read.
        out_dir: where `apc-STEP.ckpt` go, in the layout of `apc_local`.
        steps: updates.
        seed: of weights and crops.
        recipe: architecture and training; default: `APCRecipe()`.
        progress: show a bar.

    Returns:
        Step -> file, for step 0 (untrained) and `steps`.

    Raises:
        MIError: no audio.
    """
    compat.apply()
    import torch
    from s3prl.upstream.apc.apc import APC
    from s3prl.upstream.apc.audio import create_transform

    recipe = recipe or APCRecipe()
    config: dict[str, Any] = {
        "model": {
            "paras": {
                "num_layers": recipe.layers,
                "hidden_size": recipe.dim,
                "dropout": 0.0,
                "residual": True,
            }
        },
        "task": {"n_future": recipe.n_future},
        "data": {
            "audio": {
                "feat_type": "fbank",
                "feat_dim": 80,
                "frame_length": 25,
                "frame_shift": 10,
                "decode_wav": False,
                "cmvn": True,
            }
        },
    }
    transform, dim = create_transform(dict(config["data"]["audio"]))  # it empties what it is given
    features = [transform(torch.from_numpy(wave)[None]) for wave in read_audio(audio_files)]
    rng = np.random.default_rng(seed)
    ahead = recipe.n_future
    with _seeded(seed):
        model = APC(dim, **config["model"]["paras"])

        def loss() -> torch.Tensor:
            places = _crops(
                np.array([len(f) for f in features]), recipe.batch, recipe.crop_frames + ahead, rng
            )
            crop = torch.stack([features[i][a:b] for i, a, b in places])
            frames = crop.shape[1] - ahead
            predicted, _ = model(crop[:, :-ahead], torch.full((len(crop),), frames), testing=False)
            return (predicted - crop[:, ahead:]).abs().mean()

        def save(step: int) -> Path:
            content = {"config": config, "model": model.state_dict(), "Step": step}
            return _save(content, out_dir / f"apc-{step:06d}.ckpt")

        return _train(
            model, loss, save, steps, recipe.learning_rate, recipe.warmup, "apc" if progress else None
        )


# ------------------------------------------------------------------------------------------------ shared


def _train(
    model: torch.nn.Module,
    loss: Callable[[], torch.Tensor],
    save: Callable[[int], Path],
    steps: int,
    learning_rate: float,
    warmup: float,
    title: str | None,
) -> dict[int, Path]:
    """Adam with a rising, then linearly falling learning rate; saves before and after."""
    import torch
    from tqdm import tqdm

    if steps < 1:
        raise MIError(f"pre-training: steps must be at least 1, found {steps}.")
    saved = {0: save(0)}
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, betas=(0.9, 0.98))
    rise = max(1, round(warmup * steps))
    with tqdm(range(steps), desc=title, unit="step", disable=title is None) as bar:
        for step in bar:
            factor = min((step + 1) / rise, (steps - step) / max(1, steps - rise))
            optimizer.param_groups[0]["lr"] = learning_rate * factor
            value = loss()
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            if step % 20 == 0:
                bar.set_postfix(loss=f"{value.item():.3f}", refresh=False)
    if not np.isfinite(value.item()):
        raise MIError(
            f"pre-training: the loss is {value.item()} after {steps} steps; lower the learning rate."
        )
    model.eval()
    saved[steps] = save(steps)
    return saved


def _save(content: dict[str, Any], path: Path) -> Path:
    """Write a checkpoint whole or not at all."""
    import torch

    with replacing(path) as temporary:
        torch.save(content, temporary)
    return path


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch for the block, and give the caller's random state back after it."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def main(argv: list[str] | None = None) -> int:
    """Command line of `python -m s3prl_mi.demo.pretrain`.

    Returns:
        Exit status.
    """
    parser = argparse.ArgumentParser(
        prog="python -m s3prl_mi.demo.pretrain",
        description=(__doc__ or "").split("\n")[0],
        epilog="example: python -m s3prl_mi.demo.pretrain --audio demo_corpus/train --out checkpoints --model apc",
    )
    parser.add_argument("--audio", type=Path, required=True, help="folder; all .flac and .wav files below it")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoints")
    parser.add_argument(
        "--model", choices=("hubert", "apc"), action="append", help="may be repeated (default: both)"
    )
    parser.add_argument(
        "--steps", type=int, help=f"updates (default: hubert {HUBERT_STEPS}, apc {APC_STEPS})"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="of torch (default: %(default)s; better start one process a model)",
    )
    args = parser.parse_args(argv)
    compat.apply()
    import torch

    torch.set_num_threads(max(1, args.threads))
    trainers: dict[str, tuple[Callable[..., dict[int, Path]], int]] = {
        "hubert": (pretrain_hubert, HUBERT_STEPS),
        "apc": (pretrain_apc, APC_STEPS),
    }
    try:
        files = find_audio(args.audio)
        for name in dict.fromkeys(args.model or trainers):
            train, default = trainers[name]
            steps = default if args.steps is None else args.steps
            for path in train(files, args.out, steps=steps, seed=args.seed).values():
                sys.stdout.write(f"{path}\n")
    except MIError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
