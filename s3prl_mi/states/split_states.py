"""The fit side and the eval side of an experiment: splits, their hidden states, and any layer of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..core.distributed import gather
from ..core.errors import MIError
from ..data.utterances import Utterance
from ..estimators.frames import Frames
from ..upstreams.views import PLAIN, View
from .extraction import Split
from .layer_weights import LayerWeights, WeightedLayer
from .store import Entry

Layer = int | str
"""Index into the upstream's hidden states, or `weighted`."""


@dataclass(frozen=True, eq=False)
class SplitStates:
    """Splits and their hidden states.

    `splits` are whole. Of several processes each has the hidden states of its own share of them, and `order` names the
    utterances of all in the order in which one process would hold them. `states` holds, for the unmasked input
    (`PLAIN`) and for each mask view, the entries of each split: one entry, or one for each frame rate of the upstream.
    The entries of all views have the same rows.
    """

    splits: list[Split]
    states: Mapping[View, Sequence[Sequence[Entry]]]
    order: Sequence[str]

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
        return {u: n for s in self.splits for u, n in s.checked.n_samples.items()}

    @property
    def found(self) -> int:
        """Utterances that the splits list, readable or not."""
        return sum(s.found for s in self.splits)

    @property
    def used(self) -> int:
        """Utterances with hidden states, of all processes."""
        return len(self.order)

    @property
    def name(self) -> str:
        """For messages."""
        return ", ".join(s.name for s in self.splits)

    def entries(self, layer: Layer, view: View = PLAIN) -> list[Entry]:
        """The entry of each split that holds a layer; `weighted` needs all layers, which then are in one entry."""
        # a shift view pairs rows of the unmasked input
        of_view = self.states[view if view.kind == "mask" else PLAIN]
        return [next(e for e in entries if layer == "weighted" or layer in e.layers) for entries in of_view]

    def frames(self, layer: Layer, weights: LayerWeights | None, view: View = PLAIN) -> Frames:
        """All frames of one layer that this process holds; `weights` says what `weighted` is."""
        entries = self.entries(layer, view)
        if weights is None:
            return Frames([e.layer(int(layer)) for e in entries])
        layers = range(len(weights.weights))
        return Frames([WeightedLayer([e.layer(n) for n in layers], weights) for e in entries])


def split_states_of(splits: list[Split], states: Mapping[View, Sequence[Sequence[Entry]]]) -> SplitStates:
    """Put a side together; all processes do so at the same time.

    Args:
        splits: whole.
        states: hidden states of this process's share, as in `SplitStates`.
    """
    told = gather([u for entries in states[PLAIN] for u in entries[0].utterances])
    place = {
        u: (i, -n_samples, u)
        for i, split in enumerate(splits)
        for u, n_samples in split.checked.n_samples.items()
    }
    return SplitStates(splits, states, sorted((u for own in told for u in own), key=place.__getitem__))
