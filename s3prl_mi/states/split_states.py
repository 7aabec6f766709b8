"""The fit side and the eval side of an experiment: splits, their hidden states, and any layer of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..core.errors import MIError
from ..data.splits import Split
from ..data.utterances import Utterance
from ..estimators.frames import Frames
from ..upstreams.views import PLAIN, View
from .entry import Entry
from .layer_weights import LayerWeights, WeightedLayer

Layer = int | str
"""Index into the upstream's hidden states, or `weighted`."""


@dataclass(frozen=True, eq=False)
class SplitStates:
    """Splits and their hidden states.

    `states` holds, for the unmasked input (`PLAIN`) and for each mask view, the entries of each split: one entry, or
    one for each frame rate of the upstream. The entries of all views have the same rows.
    """

    splits: list[Split]
    states: Mapping[View, Sequence[Sequence[Entry]]]

    def __post_init__(self) -> None:
        """Refuse an id that stands for two utterances: labels, speakers and lengths are found by it.

        Raises:
            MIError: the id is in two splits, or a split is named twice.
        """
        owner: dict[str, str] = {}
        for split in self.splits:
            for utterance in split.utterances:
                if utterance.id in owner:
                    raise MIError(
                        f"utterance id {utterance.id!r} is in {owner[utterance.id]} and again in {split.name}, which "
                        "are fitted on or scored together. Give each utterance an id of its own (manifest: column id), "
                        "and name each split once."
                    )
                owner[utterance.id] = split.name

    @property
    def utterances(self) -> dict[str, Utterance]:
        """By id."""
        return {u.id: u for s in self.splits for u in s.utterances}

    @property
    def n_samples(self) -> dict[str, int]:
        """Length of each utterance at 16 kHz."""
        return {u: n for s in self.splits for u, n in s.n_samples.items()}

    @property
    def found(self) -> int:
        """Utterances that the splits list, readable or not."""
        return sum(s.found for s in self.splits)

    @property
    def used(self) -> int:
        """Utterances with hidden states."""
        return sum(len(entries[0].utterances) for entries in self.states[PLAIN])

    @property
    def name(self) -> str:
        """For messages."""
        return ", ".join(s.name for s in self.splits)

    @property
    def all_entries(self) -> list[Entry]:
        """Of every view and frame rate."""
        return [e for of_view in self.states.values() for entries in of_view for e in entries]

    def entries(self, layer: Layer, view: View = PLAIN) -> list[Entry]:
        """The entry of each split that holds a layer; `weighted` needs all layers, which then are in one entry."""
        # a shift view pairs rows of the unmasked input
        of_view = self.states[view if view.kind == "mask" else PLAIN]
        return [next(e for e in entries if layer == "weighted" or layer in e.layers) for entries in of_view]

    def frames(self, layer: Layer, weights: LayerWeights | None, view: View = PLAIN) -> Frames:
        """All frames of one layer; `weights` says what `weighted` is."""
        entries = self.entries(layer, view)
        if weights is None:
            return Frames([e.layer(int(layer)) for e in entries])
        layers = range(len(weights.weights))
        return Frames([WeightedLayer([e.layer(n) for n in layers], weights) for e in entries])
