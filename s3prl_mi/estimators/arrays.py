"""The two estimators for arrays: frames in, an `Estimate` out. Users import them from `s3prl_mi`."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from ..core.arithmetic import checked_device
from ..core.errors import MIError
from ..core.types import FloatMatrix, IntVector
from .folds import assign_folds, time_folds
from .frames import Frames
from .kmeans import fit_codebooks
from .mi_supervised import Estimate, fit_supervised, known_frames, score_supervised
from .mi_views import AXES, choose_codebook, fit_views, score_views
from .probes import ProbeSpec
from .vocabulary import Vocabulary


def estimate_supervised_mi(
    fit_z: ArrayLike,
    fit_y: Sequence[Hashable] | np.ndarray | torch.Tensor,
    eval_z: ArrayLike,
    eval_y: Sequence[Hashable] | np.ndarray | torch.Tensor,
    probe: str = "logistic",
    seed: int = 0,
    *,
    protocol: str = "default",
    groups: Sequence[Hashable] | np.ndarray | None = None,
    min_count: int = 1,
    device: str = "cpu",
) -> Estimate:
    """Lower bound of I(Z;Y) in bits, between hidden states and labels.

    Args:
        fit_z: hidden states that the probe is fitted on, shape (n_fit, dim); array or tensor.
        fit_y: their labels, n_fit of any hashable kind (or an integer array).
        eval_z: hidden states that it is scored on, shape (n_eval, dim). Speakers should differ from fit.
        eval_y: their labels.
        probe: `logistic` or `mlp`.
        seed: of the MLP's initial weights; the logistic probe has none.
        protocol: `default` or `paper` (`s3prl_mi.estimators.probes`).
        groups: speaker or utterance of each fit frame; regularisation is chosen on held-out groups. Without
            it, blocks of consecutive frames are held out.
        min_count: labels of fewer fit frames become one class `<unk>`, and with them labels that only eval has.
        device: where to compute.

    Returns:
        The estimate; `mi_lower_bound_bits` = `entropy_bits` - `cross_entropy_bits`, never clipped.

    Raises:
        MIError: shapes that do not fit, NaN or infinite values, one single class, too many unseen labels.

    Source:
        Liu, Yeh and Glass (ICASSP 2024), eq. 4.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> y = rng.integers(0, 4, 4000)
        >>> z = np.eye(4)[y] * 9 + rng.normal(size=(4000, 4))  # the class is in plain sight: I = H = 2 bits
        >>> e = estimate_supervised_mi(z[:2000], y[:2000], z[2000:], y[2000:])
        >>> round(e.mi_lower_bound_bits, 1)
        2.0
    """
    fit_frames, eval_frames = _frames(fit_z, "fit_z"), _frames(eval_z, "eval_z")
    _same_width(fit_frames, eval_frames, "fit_z", "eval_z")
    vocabulary = Vocabulary.of(_labels(fit_y, len(fit_frames), "fit_y"), min_count)
    fit_ids = vocabulary.ids(_host(fit_y))
    eval_ids = vocabulary.ids(_labels(eval_y, len(eval_frames), "eval_y"))
    classes, spec = len(vocabulary.labels), ProbeSpec((probe,), protocol, (seed,), checked_device(device, "device"))
    known_frames(eval_ids)
    probes = fit_supervised(fit_frames, fit_ids, classes, _folds(groups, len(fit_frames)), spec)
    return score_supervised(probes, eval_frames, eval_ids, spec, len(fit_frames))[0][0]


def estimate_view_mi(
    fit_za: ArrayLike,
    fit_zb: ArrayLike,
    eval_za: ArrayLike,
    eval_zb: ArrayLike,
    clusters: int = 50,
    probe: str = "logistic",
    seed: int = 0,
    *,
    iterations: int = 100,
    codebook: str = "auto",
    protocol: str = "default",
    groups: Sequence[Hashable] | np.ndarray | None = None,
    device: str = "cpu",
) -> Estimate:
    """Lower bound of I(Za;Zb) in bits, between hidden states of two views of the same speech.

    Args:
        fit_za: view a of the fit split, shape (n_fit, dim_a).
        fit_zb: view b, shape (n_fit, dim_b); row i is the partner of row i of `fit_za`.
        eval_za: view a of the eval split, shape (n_eval, dim_a).
        eval_zb: view b of the eval split, shape (n_eval, dim_b).
        clusters: size of the k-means codebook of view b; the bound cannot exceed log2(clusters).
        probe: `logistic` or `mlp`.
        seed: of k-means and of the MLP.
        iterations: most steps of k-means.
        codebook: `raw`, of view b as it is; `auto`, of what tells more on groups held out (`mi_views.choose_codebook`).
        protocol: `default` or `paper`.
        groups: speaker or utterance of each fit row.
        device: where to compute.

    Returns:
        The estimate; `entropy_bits` is H(c(Zb)) on the eval split.

    Raises:
        MIError: shapes that do not fit, NaN or infinite values, fewer frames than clusters.

    Source:
        Liu, Yeh and Glass (ICASSP 2024), eq. 8.
    """
    names = ("fit_za", "fit_zb", "eval_za", "eval_zb")
    fit_a, fit_b, eval_a, eval_b = (
        _frames(z, n) for z, n in zip((fit_za, fit_zb, eval_za, eval_zb), names, strict=True)
    )
    _same_width(fit_a, eval_a, "fit_za", "eval_za")
    _same_width(fit_b, eval_b, "fit_zb", "eval_zb")
    for a, b, which in ((fit_a, fit_b, "fit"), (eval_a, eval_b, "eval")):
        if len(a) != len(b):
            raise MIError(f"{which}_za has {len(a)} frames and {which}_zb {len(b)}: row i of both must be one pair.")
    spec = ProbeSpec((probe,), protocol, (seed,), checked_device(device, "device"))
    folds = _folds(groups, len(fit_a))
    axes = AXES if codebook == "auto" else ()
    choice = choose_codebook(fit_a, fit_b, np.arange(len(fit_b)), clusters, spec, folds, axes)
    codebooks = fit_codebooks(fit_b, clusters, [seed], iterations, device, choice.inputs if choice else None)
    probes = fit_views(fit_a, fit_b, codebooks, choice, folds, spec)
    return score_views(probes, codebooks, eval_a, eval_b, spec, len(fit_a))[0][0]


def _host(values: Any) -> Any:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values


def _frames(z: ArrayLike, name: str) -> Frames:
    array: FloatMatrix = np.asarray(_host(z))
    if array.ndim != 2 or not array.size:
        raise MIError(f"{name}: expected frames of shape (n_frames, dim), found {array.shape}.")
    if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise MIError(f"{name}: expected real numbers, found {array.dtype}.")
    if not np.isfinite(array).all():
        raise MIError(f"{name} holds NaN or infinite values.")
    if float(np.abs(array).max()) > float(np.finfo(np.float32).max):
        raise MIError(f"{name} holds values too large for float32, in which frames are computed: scale them.")
    return Frames([array])


def _labels(y: Any, count: int, name: str) -> Any:
    labels = _host(y)
    if len(labels) != count:
        raise MIError(f"{name} has {len(labels)} labels for {count} frames.")
    if isinstance(labels, np.ndarray) and labels.ndim != 1:
        raise MIError(f"{name}: expected labels of shape (n_frames,), found {labels.shape}.")
    if isinstance(labels, np.ndarray) and labels.dtype.kind == "f" and np.isnan(labels).any():
        raise MIError(f"{name} holds NaN: give frames without a label a label of their own, or leave them out.")
    unhashable = next((v for v in labels if not isinstance(v, Hashable)), None)
    if unhashable is not None:
        raise MIError(f"{name}: expected hashable labels, found {unhashable!r}.")
    return labels


def _same_width(a: Frames, b: Frames, name_a: str, name_b: str) -> None:
    if a.dim != b.dim:
        raise MIError(f"{name_a} has {a.dim} dimensions and {name_b} {b.dim}.")


def _folds(groups: Any, count: int) -> IntVector:
    if groups is None:
        return time_folds(count)
    if len(groups) != count:
        raise MIError(f"groups has {len(groups)} entries for {count} fit frames.")
    names = {name: i for i, name in enumerate(dict.fromkeys(_host(groups)))}
    return assign_folds(np.array([names[g] for g in _host(groups)], dtype=np.int64))
