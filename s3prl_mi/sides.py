"""The fit side and the eval side of an experiment: splits, their hidden states, and any layer of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .corpora import Utterance
from .estimators.frames import Frames
from .extraction import Split
from .featurizer import LayerWeights, WeightedLayer
from .store import Entry

Layer = int | str
"""Index into the upstream's hidden states, or `weighted`."""


@dataclass(frozen=True, eq=False)
class Side:
    """Splits and their hidden states.

    `plain` are entries of the unmasked input, one a split; `masked` those of the mask view, or the same ones
    where no mask view is needed. Both have the same rows.
    """

    splits: list[Split]
    plain: list[Entry]
    masked: list[Entry]

    @property
    def utterances(self) -> dict[str, Utterance]:
        """By id."""
        return {u.id: u for s in self.splits for u in s.utterances}

    @property
    def n_samples(self) -> dict[str, int]:
        """Length of each utterance at 16 kHz."""
        return {u: n for s in self.splits for u, n in s.checked.n_samples.items()}

    @property
    def found(self) -> int:
        """Utterances that the splits list, readable or not."""
        return sum(len(s.utterances) + len(s.checked.unreadable) for s in self.splits)

    @property
    def name(self) -> str:
        """For messages."""
        return ", ".join(s.name for s in self.splits)


def frames_of(entries: Sequence[Entry], layer: Layer, weights: LayerWeights | None) -> Frames:
    """All frames of one layer; `weights` says what `weighted` is."""
    if weights is None:
        return Frames([e.layer(int(layer)) for e in entries])
    count = len(weights.weights)
    return Frames([WeightedLayer([e.layer(n) for n in range(count)], weights) for e in entries])
