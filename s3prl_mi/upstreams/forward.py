"""Upstream + waveforms + view -> per layer (n_frames, dim): all layers in one forward pass, padding removed.

An utterance's hidden states do not depend on what it was batched with. Three things see to that:

- the conv stack, whose group norm runs over time in base models, reads utterance by utterance;
- the encoder gets the exact padding mask: s3prl's HuBERT and WavLM estimate theirs from the padded length and
  may take a padded frame for a real one;
- what cannot share a batch at all (`Family.padding == "alone"`) does not.

Masks are put where pre-training puts them (masking.py). What s3prl leaves out of its hidden states and yet is one,
the codes of a VQ layer, comes last; frames that it repeats are not repeated here.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.errors import MIError, is_out_of_memory
from ..core.types import SAMPLE_RATE
from .geometry import resolve
from .loading import Upstream
from .masking import Front, at_mask_site, conv_stack, silence_masked
from .names import find_own
from .receptive_field import geometry_of_entry
from .user_modules import where
from .views import PLAIN, View

# Far below one step of 16-bit audio (3e-5): enough to not be taken for padding.
_NOT_QUITE_SILENT = 1e-6
_SHORTEST_SPECTRAL = 400
MORE_FRAMES = 4
"""Frames beyond those of the audio that an upstream may return: by padding at the ends."""
_CODES = "_s3prl_mi_codes"


def hidden_states(
    upstream: Upstream, waveforms: Sequence[Tensor], view: View | None = None, front: Front | None = None
) -> list[list[Tensor]]:
    """Hidden states of a few utterances, every layer from one forward pass.

    Args:
        upstream: the upstream; the entry `upstream.feature_selection` of its output is read.
        waveforms: float32 tensors of shape (n_samples,), 16 kHz.
        view: a mask view masks the input; None, `plain` and `shift` leave it as it is (a shift pairs rows
            later, `views.shifted_rows`).
        front: one for all views of these very waveforms: the conv stack then runs for the first of them only.

    Returns:
        For each utterance, for each layer, a float32 tensor of shape (n_frames, dim) on the upstream's
        device: real frames only, none repeated. Where layers have frame rates of their own
        (`families.geometry_of_entry`), so have their tensors.

    Raises:
        MIError: an utterance shorter than one frame; no such entry in the upstream's output; a mask embedding
            that the upstream lacks; other frames than the audio has.
        RuntimeError: a mask site that the forward pass did not call.
    """
    view = view or PLAIN
    batch = [w.to(upstream.device, torch.float32, non_blocking=True) for w in waveforms]
    for index, waveform in enumerate(batch):
        _check_length(upstream, index, waveform)
    if view.kind == "mask" and view.level == "waveform":
        batch, front = [silence_masked(upstream, w, view) for w in batch], None
    if upstream.family.cuts_silent_tail:
        batch = [_keep_tail(w) for w in batch]
    with torch.no_grad():
        if upstream.family.padding == "alone":
            return [_forward(upstream, [w], view, front, number)[0] for number, w in enumerate(batch)]
        return _forward(upstream, batch, view, front) if batch else []


def layer_names(upstream: Upstream) -> list[str]:
    """A name for each entry that `hidden_states` returns, for tables.

    The module path where s3prl's hooks give it (`self.model.encoder.layers[0]` stands for what enters that module, as
    s3prl hooks inputs), else the family's own names, else the key and number, such as `hidden_states[0]`.
    """
    waveform = torch.randn(SAMPLE_RATE, generator=torch.Generator().manual_seed(0)).to(upstream.device)
    with torch.no_grad():
        result = _call(upstream, [waveform])
    key = upstream.feature_selection
    codes = 0 if result.get(_CODES) is None or key != "hidden_states" else 1
    count = len(_entries(upstream, result)) - codes
    known = result.get("_hidden_states_info")
    if key == "hidden_states" and known is not None and len(known) == count:
        names = [name.removeprefix("self.") for name in known]
    elif key == "hidden_states" and upstream.family.entry_names is not None:
        names = upstream.family.entry_names(upstream.expert, count)
    else:
        names = [key] if count == 1 and key != "hidden_states" else [f"{key}[{i}]" for i in range(count)]
    return names + [f"{upstream.family.codes} codes"] * codes


def entries_beyond_s3prl(upstream: Upstream) -> int:
    """Number of entries at the end of `hidden_states`'s that s3prl's own hidden states lack: 1 with VQ codes, else 0.

    A featurizer that s3prl trained has no weight for them, and `last` means the one before them.
    """
    if upstream.feature_selection != "hidden_states":
        return 0
    return int(bool(_vq_layers(upstream)))


def shortest_samples(upstream: Upstream) -> int:
    """Length of the shortest waveform that `hidden_states` takes, in samples."""
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
            f"utterance {index} of the batch has {len(waveform)} samples ({1000 * len(waveform) / SAMPLE_RATE:.1f} "
            f"ms), but upstream {upstream.name!r} needs at least {needs} ({1000 * needs / SAMPLE_RATE:.1f} ms). Leave "
            "it out."
        )


def _forward(
    upstream: Upstream, batch: list[Tensor], view: View, front: Front | None = None, number: int = 0
) -> list[list[Tensor]]:
    """One forward pass, the `number`-th of `front`, over a batch of waveforms, each of shape (n_samples,)."""
    family, masker = upstream.family, None
    lengths = [len(w) for w in batch]
    expected = [upstream.geometry.n_frames(n) for n in lengths]
    with contextlib.ExitStack() as hooks:
        latent = view.kind == "mask" and view.level == "latent"
        rounded = torch.is_autocast_enabled(batch[0].device.type)
        if latent or (family.mask_site is not None and (len(batch) > 1 or rounded)):
            masker = hooks.enter_context(at_mask_site(upstream, expected, view if latent else PLAIN))
        alone = len(batch) > 1 and family.padding == "conv_norm"
        shared = front if family.mask_site is not None and family.conv_stack is not None else None
        if alone or shared is not None:
            hooks.enter_context(conv_stack(upstream, lengths if alone else None, shared, number, masker))
        entries = _entries(upstream, _call(upstream, batch))
    geometries = [
        geometry_of_entry(upstream.expert, upstream.family, upstream.geometry, _entry_number(upstream, i))
        for i in range(len(entries))
    ]
    for i, (entry, geometry) in enumerate(zip(entries, geometries, strict=True)):
        _check_entry(upstream, entry, i, len(batch), geometry.n_frames(max(lengths)))
    return [
        [_real_frames(e, b, g.n_frames(n)) for e, g in zip(entries, geometries, strict=True)]
        for b, n in enumerate(lengths)
    ]


def _entry_number(upstream: Upstream, index: int) -> int:
    """Index into s3prl's hidden states of an entry under the selected key, for its frame rate."""
    key = upstream.feature_selection
    if not upstream.family.multires or key == "hidden_states":
        return index
    if key == "last_hidden_state":
        return -1
    raise MIError(
        f"-s {key!r}: upstream {upstream.name!r} has several frame rates and they are known for -s hidden_states "
        "and -s last_hidden_state only; choose a layer of hidden_states with -l."
    )


def _call(upstream: Upstream, batch: list[Tensor]) -> dict[str, Any]:
    """The expert's output, with one meaning of the last entry in every version of transformers.

    From transformers 5 on, the last of `hidden_states` lacks the encoder's final layer norm in models that
    have one there; `last_hidden_state` has it in every version. VQ codes are added under a key of their own.
    """
    encoder = resolve(upstream.expert, "model.encoder")
    module = type(resolve(upstream.expert, "model")).__module__ or ""
    outputs: list[Tensor] = []
    codes: list[Tensor] = []
    context = resolve(upstream.expert, "model.gAR")
    if getattr(context, "keepHidden", False):  # modified CPC: start every call from zero
        context.keepHidden, context.hidden = False, None
    with contextlib.ExitStack() as hooks:
        if module.startswith("transformers."):
            handle = encoder.register_forward_hook(lambda _module, _inputs, output: outputs.append(output[0]))
            hooks.callback(handle.remove)
        for layer in _vq_layers(upstream):
            # VQ-APC and NPC return (logits, codes), vq-wav2vec a dict with `x` of shape (batch, dim, n_frames); in eval
            # mode codes are the nearest ones, not a sample
            handle = layer.register_forward_hook(
                lambda _m, _i, out: codes.append(out["x"].transpose(1, 2) if isinstance(out, dict) else out[1])
            )
            hooks.callback(handle.remove)
        if upstream.family.multires:
            # MR-HuBERT's expert repeats low-rate frames up to one length, unless it is kept from it
            hooks.callback(setattr, upstream.expert, "hook_postprocess", upstream.expert.hook_postprocess)
            upstream.expert.hook_postprocess = None
        hooks.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", UserWarning)  # WavLM: mismatched types of masks, at every call
        result = _output_of(upstream, batch)
    if outputs:
        result["hidden_states"] = (*result["hidden_states"][:-1], outputs[-1])
        result["last_hidden_state"] = outputs[-1]
    if codes:
        result[_CODES] = torch.cat(codes, dim=-1)
    return result


def _output_of(upstream: Upstream, batch: list[Tensor]) -> dict[str, Any]:
    """What the expert returns.

    Raises:
        MIError: an error in a user's own module, with its line; something else than a dict.
    """
    own = find_own(upstream.name)
    try:
        result = upstream.expert(batch)
    except (Exception, SystemExit) as error:
        if own is None or own.installed or isinstance(error, MIError) or is_out_of_memory(error):
            raise
        raise MIError(
            f"upstream {upstream.name!r} fails on {len(batch)} waveforms: {where(error, own.source)}."
        ) from error
    if not isinstance(result, Mapping):
        raise MIError(
            f"upstream {upstream.name!r} returns a {type(result).__name__}; needed is a dict with tensors of shape "
            f"(batch, n_frames, dim) under {upstream.feature_selection!r}."
        )
    return dict(result)


def _vq_layers(upstream: Upstream) -> list[Any]:
    """The VQ layers whose codes side by side make the code vector; none where this checkpoint has no VQ."""
    found = resolve(upstream.expert, upstream.family.codes)
    if found is None:
        return []
    return list(found) if hasattr(found, "__iter__") else [found]


def _entries(upstream: Upstream, result: dict[str, Any]) -> list[Tensor]:
    """The layers under the selected key: a list, tuple or dict holds several, a tensor is one."""
    key = upstream.feature_selection
    if result.get(key) is None:
        keys = ", ".join(sorted(k for k in result if not k.startswith("_")))
        raise MIError(f"upstream {upstream.name!r} has no output -s {key!r}. Its outputs: {keys}.")
    selected = result[key]
    if isinstance(selected, dict):
        selected = list(selected.values())
    entries = list(selected) if isinstance(selected, (list, tuple)) else [selected]
    if key == "hidden_states" and result.get(_CODES) is not None:
        entries.append(result[_CODES])
    return entries


def _real_frames(entry: Tensor, row: int, expected: int | None) -> Tensor:
    """The frames of one utterance in one entry (batch, n_frames, dim), without padding."""
    return entry[row, : entry.shape[1] if expected is None else expected].float()


def _check_entry(upstream: Upstream, entry: Any, number: int, batch: int, expected: int | None) -> None:
    """Refuse what is no hidden states of a batch, or has other frames than the geometry says.

    Raises:
        MIError: no real-valued tensor of shape (batch, n_frames, dim), or another number of frames.
    """
    what = f"upstream {upstream.name!r}: entry {number} of its {upstream.feature_selection!r}"
    if not isinstance(entry, Tensor):
        raise MIError(f"{what} is a {type(entry).__name__}, not a tensor of shape (batch, n_frames, dim).")
    if entry.is_complex() or entry.dim() != 3 or len(entry) != batch:
        found = f"{str(entry.dtype).removeprefix('torch.')} of shape {tuple(entry.shape)}"
        raise MIError(f"{what} is {found}; needed are real numbers of shape ({batch}, n_frames, dim).")
    n_frames = entry.shape[1]
    if expected is not None and not expected <= n_frames <= expected + max(MORE_FRAMES, expected // 5):
        raise MIError(
            f"{what} has {n_frames} frames where the audio has {expected}, by the geometry of family "
            f"{upstream.family.name!r}: labels and masks would be put on other frames. Correct its geometry (`s3prl-mi "
            "explain upstream-family`)."
        )


def _keep_tail(waveform: Tensor) -> Tensor:
    """A copy whose last sample is not exactly 0, so that silence at the end is not taken for padding."""
    last = waveform[-1:]
    return torch.cat([waveform[:-1], torch.where(last == 0, _NOT_QUITE_SILENT, last)])
