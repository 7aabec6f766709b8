"""Codes against labels: PNMI, purities and bits, plug-in and held out; Davies-Bouldin of a codebook.

Plug-in numbers, as HuBERT and its successors print them, count codes and labels of the same frames, and are too high
where frames are few: every rare code then seems to know its label. Held-out ones count on other speakers, and are too
low: the truth lies between the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import xlogy

from ...core.types import IntVector
from ..bounds import entropy_bits
from ..intervals import FrameGroups, LeftOut
from .registry import Value, measure
from .sample import Coded, Sample, grouped

Counts = NDArray[np.float64]
"""Frames by code (row) and label (column)."""


def joint_counts(codes: IntVector, labels: IntVector, n_codes: int, n_labels: int) -> Counts:
    """Frames by code and label, shape (n_codes, n_labels)."""
    flat = np.bincount(codes * n_labels + labels, minlength=n_codes * n_labels)
    return flat.reshape(n_codes, n_labels).astype(np.float64)


def information_bits(counts: Counts) -> float:
    """Plug-in estimate of the information that code and label share, in bits.

    Example:
        >>> round(information_bits(np.array([[5.0, 0.0], [0.0, 5.0]])), 9)
        1.0
    """
    n = counts.sum()
    of_code, of_label = counts.sum(1), counts.sum(0)
    terms = xlogy(counts, counts).sum() - xlogy(of_code, of_code).sum() - xlogy(of_label, of_label).sum()
    return float((terms + xlogy(n, n)) / n / math.log(2))


def normalised_information(counts: Counts) -> float:
    """PNMI: `information_bits` over the entropy of the labels; NaN where they are all the same."""
    entropy = entropy_bits(counts.sum(0))
    return information_bits(counts) / entropy if entropy > 0 else math.nan


def purity_of_labels(counts: Counts) -> float:
    """Fraction of frames whose label is the most frequent one of their code."""
    return float(counts.max(1).sum() / counts.sum())


def purity_of_codes(counts: Counts) -> float:
    """Fraction of frames whose code is the most frequent one of their label."""
    return float(counts.max(0).sum() / counts.sum())


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Sums over frames scored by the counts of other speakers: they add over folds and groups.

    Attributes:
        labels: frames of each label, shape (n_labels,).
        loss_bits: sum of -log2 p(label | code).
        label_right: frames whose label is the most frequent one of their code.
        code_right: frames whose code is the most frequent one of their label.
    """

    labels: NDArray[np.float64]
    loss_bits: float
    label_right: float
    code_right: float

    def __add__(self, other: HeldOut) -> HeldOut:
        return HeldOut(
            self.labels + other.labels,
            self.loss_bits + other.loss_bits,
            self.label_right + other.label_right,
            self.code_right + other.code_right,
        )

    def __sub__(self, other: HeldOut) -> HeldOut:
        return HeldOut(
            self.labels - other.labels,
            self.loss_bits - other.loss_bits,
            self.label_right - other.label_right,
            self.code_right - other.code_right,
        )

    @property
    def bits(self) -> float:
        """H(label) - E[-log2 p(label | code)]: a lower bound of the information that code and label share."""
        return entropy_bits(self.labels) - self.loss_bits / float(self.labels.sum())

    @property
    def pnmi(self) -> float:
        """`bits` over the entropy of the labels."""
        entropy = entropy_bits(self.labels)
        return self.bits / entropy if entropy > 0 else math.nan

    @property
    def phone_purity(self) -> float:
        """Fraction of frames whose label their code's majority on other speakers names."""
        return self.label_right / float(self.labels.sum())

    @property
    def cluster_purity(self) -> float:
        """Fraction of frames whose code their label's majority on other speakers names."""
        return self.code_right / float(self.labels.sum())


def held_out(counts: Counts, others: Counts) -> HeldOut:
    """Score frames by the counts of other speakers.

    p(label | code) is their frequency with one frame of the labels' own frequencies added, these with half a frame of
    each label: a code that nobody else used says nothing, and no probability is 0.

    Args:
        counts: of the frames that are scored.
        others: of the speakers that are counted.
    """
    prior = (others.sum(0) + 0.5) / (others.sum() + 0.5 * others.shape[1])
    p = (others + prior) / (others.sum(1, keepdims=True) + 1)
    code_majority, label_majority = (others + 1e-9 * prior).argmax(1), others.argmax(0)
    return HeldOut(
        counts.sum(0),
        float(-(counts * np.log2(p)).sum()),
        float(counts[np.arange(len(counts)), code_majority].sum()),
        float(counts[label_majority, np.arange(counts.shape[1])].sum()),
    )


def plug_in(counts_by_group: NDArray[np.float64], function: Callable[[Counts], float], of: LeftOut) -> LeftOut:
    """A function of the counts of all groups, and without each; shape (n_groups, n_codes, n_labels)."""
    whole = counts_by_group.sum(0)
    without = np.array([function(whole - own) for own in counts_by_group]) if len(counts_by_group) > 1 else np.zeros(0)
    return LeftOut(of.over, of.groups, function(whole), without)


def counts_by_group(coded: Coded, n_codes: int, n_labels: int) -> tuple[NDArray[np.float64], LeftOut]:
    """Counts of at most `MOST_GROUPS` groups of speakers, and whose they are."""
    folds, names = grouped(coded.groups)
    counts = [
        joint_counts(coded.codes[folds == k], coded.labels[folds == k], n_codes, n_labels) for k in range(len(names))
    ]
    return np.stack(counts), LeftOut(coded.groups.over, names, math.nan, np.zeros(0))


def _plug_in(sample: Sample, function: Callable[[Counts], float]) -> Value:
    assert sample.coded is not None
    counts, of = counts_by_group(sample.coded, *_shape(sample))
    return plug_in(counts, function, of)


def _held_out(sample: Sample, function: Callable[[HeldOut], float]) -> Value:
    assert sample.coded is not None
    assert sample.fit_coded is not None
    shape = _shape(sample)
    counts, of = counts_by_group(sample.coded, *shape)
    others = joint_counts(sample.fit_coded.codes, sample.fit_coded.labels, *shape)
    parts = [held_out(own, others) for own in counts]
    whole = sum(parts[1:], parts[0])
    without = np.array([function(whole - part) for part in parts]) if len(parts) > 1 else np.zeros(0)
    return LeftOut(of.over, of.groups, function(whole), without)


def _shape(sample: Sample) -> tuple[int, int]:
    """Numbers of codes and labels."""
    assert sample.coded is not None
    assert sample.fit_coded is not None
    assert sample.n_clusters is not None
    return sample.n_clusters, 1 + int(max(sample.coded.labels.max(), sample.fit_coded.labels.max()))


@measure(
    title="PNMI",
    formula="I(c;Y) / H(Y), counted on the eval frames",
    source="Hsu et al. 2021 (HuBERT), plug-in; c: k-means of the layer, one seed",
    needs="labels",
    unit="0 to 1",
    blind="what is in the states and not in their k-means; too high on few frames",
)
def pnmi(sample: Sample) -> Value:
    """Phone-normalised mutual information of the layer's codebook."""
    return _plug_in(sample, normalised_information)


@measure(
    title="phone purity",
    formula="fraction of eval frames whose phone is the most frequent one of their code",
    source="Hsu et al. 2021 (HuBERT), plug-in",
    needs="labels",
    unit="0 to 1",
    blind="rare phones; grows with the number of clusters; too high on few frames",
)
def phone_purity(sample: Sample) -> Value:
    """Phone purity of the layer's codebook."""
    return _plug_in(sample, purity_of_labels)


@measure(
    title="cluster purity",
    formula="fraction of eval frames whose code is the most frequent one of their phone",
    source="Hsu et al. 2021 (HuBERT), plug-in",
    needs="labels",
    unit="0 to 1",
    blind="rare clusters; falls as the number of clusters grows",
)
def cluster_purity(sample: Sample) -> Value:
    """Cluster purity of the layer's codebook."""
    return _plug_in(sample, purity_of_codes)


@measure(
    title="PNMI, held out",
    formula="(H(Y) - E[-log2 p(y|c)]) / H(Y), p counted on the fit speakers",
    source="as PNMI; below the truth as plug-in is above it",
    needs="labels",
    unit="0 to 1",
    blind="what is in the states and not in their k-means; too low on few fit speakers",
)
def pnmi_held_out(sample: Sample) -> Value:
    """PNMI with codes whose phones other speakers tell."""
    return _held_out(sample, lambda h: h.pnmi)


@measure(
    title="phone purity, held out",
    formula="fraction of eval frames whose phone is the fit speakers' most frequent one of their code",
    source="as phone purity",
    needs="labels",
    unit="0 to 1",
    blind="rare phones; grows with the number of clusters",
)
def phone_purity_held_out(sample: Sample) -> Value:
    """Phone purity with the majorities of other speakers."""
    return _held_out(sample, lambda h: h.phone_purity)


@measure(
    title="cluster purity, held out",
    formula="fraction of eval frames whose code is the fit speakers' most frequent one of their phone",
    source="as cluster purity",
    needs="labels",
    unit="0 to 1",
    blind="rare clusters; falls as the number of clusters grows",
)
def cluster_purity_held_out(sample: Sample) -> Value:
    """Cluster purity with the majorities of other speakers."""
    return _held_out(sample, lambda h: h.cluster_purity)


@measure(
    title="Davies-Bouldin",
    formula="mean over clusters i of max_j (s_i + s_j) / |m_i - m_j|, m: mean, s: mean distance to it",
    source="Davies and Bouldin 1979, of eval frames in the space of the first codebook of view b",
    needs="codebook",
    unit="ratio",
    better="lower",
    blind="what the clusters hold",
)
def davies_bouldin(sample: Sample) -> Value:
    """How compact and apart the clusters are."""
    assert sample.codebooks is not None
    inputs = sample.codebooks.inputs
    return davies_bouldin_index(inputs.to("cpu")(sample.x), sample.codes)


def davies_bouldin_index(x: torch.Tensor, codes: torch.Tensor) -> float:
    """Of frames (n, dim) and their clusters (n,); NaN with fewer than two clusters."""
    _, ids = torch.unique(codes, return_inverse=True)
    n = 1 + int(ids.max())
    if n < 2:
        return math.nan
    count = torch.bincount(ids, minlength=n).double()
    means = torch.zeros(n, x.shape[1], dtype=torch.float64).index_add_(0, ids, x.double()) / count[:, None]
    away = (x - means[ids].float()).norm(dim=1).double()
    scatter = torch.zeros(n, dtype=torch.float64).index_add_(0, ids, away) / count
    apart = torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    return float(((scatter[:, None] + scatter[None, :]) / apart).max(1).values.mean())


def code_statistics(codes: IntVector, n_codes: int) -> tuple[int, float]:
    """Codes that occur, and the perplexity 2^H of their use."""
    counts = np.bincount(codes, minlength=n_codes)
    return int((counts > 0).sum()), 2 ** entropy_bits(counts)


def across_folds(
    codes: IntVector, labels: IntVector, groups: FrameGroups, n_codes: int, n_labels: int, folds: IntVector
) -> list[HeldOut]:
    """Held-out sums of each group of frames, counted on the speakers of the other folds.

    Args:
        codes: shape (n,).
        labels: shape (n,).
        groups: speaker of each frame, all of one speaker in one fold.
        n_codes: number of codes.
        n_labels: number of labels.
        folds: shape (n,).
    """
    whole = joint_counts(codes, labels, n_codes, n_labels)
    others = {
        int(k): whole - joint_counts(codes[folds == k], labels[folds == k], n_codes, n_labels) for k in set(folds)
    }
    found = []
    for i in range(len(groups.names)):
        own = groups.ids == i
        if own.any():
            counts = joint_counts(codes[own], labels[own], n_codes, n_labels)
            found.append(held_out(counts, others[int(folds[own][0])]))
    return found
