"""Fbank of the frames of any upstream: what measures set its layers against."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ..core.types import SAMPLE_RATE, FloatMatrix, IntVector
from ..data.prosody import Moments, waveform
from ..data.utterances import Utterance
from ..estimators.measures.sample import Features
from ..upstreams.forward import hidden_states
from ..upstreams.geometry import Geometry
from ..upstreams.loading import Upstream, load_upstream
from .frame_pairs import Rows, utterance_rows


@functools.cache
def _fbank() -> Upstream:
    return load_upstream("fbank")


def fbank_at(utterance: Utterance, centres: Moments) -> FloatMatrix:
    """s3prl's `fbank` (80 bands and two orders of deltas) of the frames nearest to some moments: (n_frames, 240).

    Raises:
        MIError: the audio cannot be read.
    """
    upstream = _fbank()
    ((found,),) = hidden_states(upstream, [torch.from_numpy(waveform(utterance))])
    own = upstream.geometry
    nearest = np.round((centres * SAMPLE_RATE - own.first_centre) / own.stride).astype(np.int64)
    return found.numpy()[np.clip(nearest, 0, len(found) - 1)]


def fbank_of(
    entries: Sequence[Rows], utterances: Mapping[str, Utterance], geometry: Geometry, rows: IntVector | None = None
) -> Features:
    """Fbank of some rows (default: all) of entries, read when it is asked for.

    Args:
        entries: whose rows these are.
        utterances: by id.
        geometry: of their frames.
        rows: ascending.
    """

    def read(positions: IntVector) -> FloatMatrix:
        wanted = positions if rows is None else rows[positions]
        parts = [np.zeros((0, 240), np.float32)]
        for name, start, count in utterance_rows(entries):
            low, high = np.searchsorted(wanted, (start, start + count))
            if low < high:
                centres = geometry.centres_seconds(count)[wanted[low:high] - start]
                parts.append(fbank_at(utterances[name], centres))
        return np.concatenate(parts)

    return Features(read)
