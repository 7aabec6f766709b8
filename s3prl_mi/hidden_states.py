"""Upstream + waveforms + view -> per layer (n_frames, dim): all layers in one forward pass, padding removed.

An utterance's hidden states do not depend on what it was batched with. Three things see to that:

- the conv stack, whose group norm runs over time in base models, reads utterance by utterance;
- the encoder gets the exact padding mask: s3prl's HuBERT and WavLM estimate theirs from the padded length and
  may take a padded frame for a real one;
- what cannot share a batch at all (`Family.padding == "alone"`) does not.

Masks are put where pre-training puts them: a forward pre-hook on the mask site replaces masked frames by the
model's own mask embedding, on real frames only.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .errors import MIError
from .families import SAMPLE_RATE, resolve
from .upstreams import Upstream
from .views import PLAIN, View

if TYPE_CHECKING:
    from torch import Tensor

# Far below one step of 16-bit audio (3e-5): enough to not be taken for padding.
_NOT_QUITE_SILENT = 1e-6
_SHORTEST_SPECTRAL = 400


def extract(upstream: Upstream, waveforms: Sequence[Tensor], view: View | None = None) -> list[list[Tensor]]:
    """Hidden states of a few utterances, every layer from one forward pass.

    Args:
        upstream: the upstream; the entry `upstream.feature_selection` of its output is read.
        waveforms: float32 tensors of shape (n_samples,), 16 kHz.
        view: a mask view masks the input; None, `plain` and `shift` leave it as it is (a shift pairs rows
            later, `views.shifted_rows`).

    Returns:
        For each utterance, for each layer, a float32 tensor of shape (n_frames, dim) on the upstream's
        device: real frames only, none repeated.

    Raises:
        MIError: an utterance shorter than one frame; no such entry in the upstream's output; a mask embedding
            that the upstream lacks.
        RuntimeError: a mask site that the forward pass did not call, or fewer frames than the audio has.
    """
    import torch

    view = view or PLAIN
    batch = [w.to(device=upstream.device, dtype=torch.float32) for w in waveforms]
    for index, waveform in enumerate(batch):
        _check_length(upstream, index, waveform)
    if view.kind == "mask" and view.level == "waveform":
        batch = [_silence_masked(upstream, w, view) for w in batch]
    if upstream.family.cuts_silent_tail:
        batch = [_keep_tail(w) for w in batch]
    with torch.no_grad():
        if upstream.family.padding == "alone":
            return [_forward(upstream, [w], view)[0] for w in batch]
        return _forward(upstream, batch, view) if batch else []


def layer_names(upstream: Upstream) -> list[str]:
    """A name for each entry that `extract` returns, for tables.

    The module path where s3prl's hooks tell it (`self.model.encoder.layers[0]` stands for what enters that
    module, as s3prl hooks inputs), else the key and number, such as `hidden_states[0]`.
    """
    import torch

    waveform = torch.randn(SAMPLE_RATE, generator=torch.Generator().manual_seed(0)).to(upstream.device)
    with torch.no_grad():
        result = _call(upstream, [waveform])
    key = upstream.feature_selection
    count = len(_entries(upstream, result))
    known = result.get("_hidden_states_info")
    if key == "hidden_states" and known is not None and len(known) == count:
        return [name.removeprefix("self.") for name in known]
    return [key] if count == 1 and key != "hidden_states" else [f"{key}[{i}]" for i in range(count)]


def shortest_samples(upstream: Upstream) -> int:
    """Length of the shortest waveform that `extract` takes, in samples."""
    needs = upstream.geometry.first_needs or 0
    if upstream.family.conv_stack is None:
        # Spectral front ends divide by a deviation over frames (one frame gives NaN) and pad by reflection.
        needs = max(needs + upstream.geometry.stride, _SHORTEST_SPECTRAL)
    return needs


def _check_length(upstream: Upstream, index: int, waveform: Tensor) -> None:
    if waveform.dim() != 1:
        raise ValueError(f"waveform {index} must have the shape (n_samples,), found {tuple(waveform.shape)}")
    needs = shortest_samples(upstream)
    if len(waveform) < needs:
        raise MIError(
            f"utterance {index} of the batch has {len(waveform)} samples "
            f"({1000 * len(waveform) / SAMPLE_RATE:.1f} ms), "
            f"but upstream {upstream.name!r} needs at least {needs} ({1000 * needs / SAMPLE_RATE:.1f} ms). "
            "Leave it out."
        )


def _forward(upstream: Upstream, batch: list[Tensor], view: View) -> list[list[Tensor]]:
    """One forward pass over a batch of waveforms, each of shape (n_samples,)."""
    lengths = [len(w) for w in batch]
    expected = [upstream.geometry.n_frames(n) for n in lengths]
    with contextlib.ExitStack() as hooks:
        if len(batch) > 1 and upstream.family.padding == "conv_norm":
            hooks.enter_context(_conv_stack_alone(upstream, lengths))
        latent = view.kind == "mask" and view.level == "latent"
        if latent or (len(batch) > 1 and upstream.family.mask_site is not None):
            hooks.enter_context(_at_mask_site(upstream, expected, view if latent else PLAIN))
        entries = _entries(upstream, _call(upstream, batch))
    return [[_real_frames(upstream, e, b, n) for e in entries] for b, n in enumerate(expected)]


def _call(upstream: Upstream, batch: list[Tensor]) -> dict[str, Any]:
    """The expert's output, with one meaning of the last entry in every version of transformers.

    From transformers 5 on, the last of `hidden_states` lacks the encoder's final layer norm in models that
    have one there; `last_hidden_state` has it in every version.
    """
    encoder = resolve(upstream.expert, "model.encoder")
    module = type(resolve(upstream.expert, "model")).__module__ or ""
    outputs: list[Tensor] = []
    handle = None
    if module.startswith("transformers."):
        handle = encoder.register_forward_hook(lambda _module, _inputs, output: outputs.append(output[0]))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # WavLM: mismatched types of masks, at every call
            result = dict(upstream.expert(batch))
    finally:
        if handle is not None:
            handle.remove()
    if outputs:
        result["hidden_states"] = (*result["hidden_states"][:-1], outputs[-1])
        result["last_hidden_state"] = outputs[-1]
    return result


def _entries(upstream: Upstream, result: dict[str, Any]) -> list[Tensor]:
    """The layers under the selected key: a list, tuple or dict holds several, a tensor is one."""
    key = upstream.feature_selection
    if result.get(key) is None:
        keys = ", ".join(sorted(k for k in result if not k.startswith("_")))
        raise MIError(f"upstream {upstream.name!r} has no output -s {key!r}. Its outputs: {keys}.")
    selected = result[key]
    if isinstance(selected, dict):
        selected = list(selected.values())
    return list(selected) if isinstance(selected, (list, tuple)) else [selected]


def _real_frames(upstream: Upstream, entry: Tensor, row: int, expected: int | None) -> Tensor:
    """The frames of one utterance in one entry (batch, n_frames, dim), without padding."""
    found = entry.shape[1]
    if expected is not None and found < expected:
        raise RuntimeError(
            f"upstream {upstream.name!r} returned {found} frames where its audio has {expected}; the "
            f"geometry of family {upstream.family.name!r} is wrong for it"
        )
    return entry[row, : found if expected is None else expected].float()


# --- masks -------------------------------------------------------------------------------------------


def _silence_masked(upstream: Upstream, waveform: Tensor, view: View) -> Tensor:
    """A copy whose samples are 0 wherever the nearest frame is masked, shape (n_samples,)."""
    import torch

    frames = upstream.geometry.nearest_frames(len(waveform))
    masked = view.pattern(int(frames[-1]) + 1)[frames]
    return waveform.masked_fill(torch.from_numpy(masked).to(waveform.device), 0.0)


def _keep_tail(waveform: Tensor) -> Tensor:
    """A copy whose last sample is not exactly 0, so that silence at the end is not taken for padding."""
    if waveform[-1] != 0:
        return waveform
    waveform = waveform.clone()
    waveform[-1] = _NOT_QUITE_SILENT
    return waveform


def _mask_embedding(upstream: Upstream) -> Tensor:
    """The model's own mask embedding, shape (dim,)."""
    family = upstream.family
    embedding = resolve(upstream.expert, family.mask_embedding)
    if embedding is None:
        raise MIError(
            f"upstream {upstream.name!r} (checkpoint {upstream.checkpoint_name}) has no mask embedding "
            f"{family.mask_embedding!r}: it was saved without masking (Hugging Face: mask_time_prob 0). Set "
            "downstream_expert.views.mask_level to waveform, or views.kind to shift."
        )
    return embedding


@contextlib.contextmanager
def _at_mask_site(upstream: Upstream, n_frames: Sequence[int | None], view: View) -> Iterator[None]:
    """While in this context, mask what enters the mask site and hand it the exact padding mask.

    Args:
        upstream: an upstream whose family has a mask site.
        n_frames: real frames of each utterance of the batch.
        view: the mask view at latent level; any other view masks nothing.
    """
    import torch

    site = resolve(upstream.expert, upstream.family.mask_site)
    if not isinstance(site, torch.nn.Module):
        raise RuntimeError(f"mask site {upstream.family.mask_site!r}: {upstream.name!r} has no such module")
    embedding = _mask_embedding(upstream) if view.kind == "mask" else None
    calls = []

    def before(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        calls.append(1)
        # A fresh clone: encoders write into their input, and entry 0 of other calls must not change.
        latents = args[0].clone()
        total = latents.shape[1]
        counts = [total if n is None else n for n in n_frames]
        if embedding is not None:
            masked = torch.zeros(latents.shape[:2], dtype=torch.bool)
            for row, count in enumerate(counts):
                masked[row, :count] = torch.from_numpy(view.pattern(count))
            latents[masked.to(latents.device)] = embedding.to(latents.dtype)
        if len(counts) > 1 and "padding_mask" in kwargs:
            times = torch.arange(total, device=latents.device)
            padded = times[None] >= torch.tensor(counts, device=latents.device)[:, None]
            kwargs = {**kwargs, "padding_mask": padded}
        return (latents, *args[1:]), kwargs

    handle = site.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
    if len(calls) != 1:
        raise RuntimeError(
            f"mask site {upstream.family.mask_site!r} of upstream {upstream.name!r} was called {len(calls)} "
            "times in one forward pass, not once: its views would be wrong"
        )


@contextlib.contextmanager
def _conv_stack_alone(upstream: Upstream, lengths: Sequence[int]) -> Iterator[None]:
    """While in this context, the conv stack reads each utterance of a padded batch by itself.

    Args:
        upstream: an upstream with a conv stack: (batch, n_samples) -> (batch, channels, n_frames).
        lengths: samples of each utterance.
    """
    stack = resolve(upstream.expert, upstream.family.conv_stack)
    original: Callable[..., Tensor] = stack.forward

    def one_by_one(source: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        rows = [original(source[b : b + 1, :n], *args, **kwargs)[0] for b, n in enumerate(lengths)]
        padded = rows[0].new_zeros((len(rows), rows[0].shape[0], max(r.shape[1] for r in rows)))
        for row, features in zip(padded, rows, strict=True):
            row[:, : features.shape[1]] = features
        return padded

    stack.forward = one_by_one
    try:
        yield
    finally:
        del stack.forward  # the class's own method shows again
