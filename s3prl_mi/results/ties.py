"""Which layers or models the speech scored cannot tell apart: paired differences by speaker, corrected for how many.

The best is compared with each of the others at level 1 - 0.05 / (n - 1) (Bonferroni). What no difference excludes is
tied with it: with 95 % the truly best one is in this set, also where another one happens to lead on this speech.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..core.words import count
from ..estimators.intervals import Interval, LeftOut, groups_needed
from .summary import Summary

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Ties(Generic[Name]):
    """The best of several bounds on the same speech, and what cannot be told apart from it."""

    best: Name
    tied: tuple[Name, ...]
    """In the order given, with the best."""
    rival: Name
    """The next best of those tied; of all where none is."""
    difference: Interval
    """Best minus rival, paired by speaker, corrected for the number of comparisons."""
    over: str
    """What the interval is over: `speakers` or `utterances`."""

    @property
    def needed(self) -> int | None:
        """How many speakers would set best and rival apart, if they differ as much and scatter as here."""
        return groups_needed(self.difference)

    def sentence(self, one: str, names: Mapping[Name, str] | None = None) -> str:
        """In words; `one`: `layer` or `model`."""
        named = {name: (names or {}).get(name, str(name)) for name in (*self.tied, self.rival)}
        d = self.difference
        speech = f"this speech ({count(d.groups, self.over.removesuffix('s'))})"
        lead = f"{named[self.best]} leads {named[self.rival]} by {d.value:.3f} bits [{d.low:.3f}, {d.high:.3f}]"
        if len(self.tied) == 1:
            return f"{one} {named[self.best]} is above every other {one} on {speech}; {lead}"
        enough = f", which would take about {self.needed:,} {self.over} to tell" if self.needed else ""
        return f"{one}s {_listed(self.tied, named)} cannot be told apart from the best on {speech}; {lead}{enough}"


def ties(found: Mapping[Name, LeftOut]) -> Ties[Name] | None:
    """What cannot be told apart from the best.

    Args:
        found: bounds without each speaker, by layer or model.

    Returns:
        None for fewer than two, fewer than two speakers, or bounds on different speakers.
    """
    if len(found) < 2 or len({f.groups for f in found.values()}) > 1:
        return None
    best, *others = sorted(found, key=lambda name: -found[name].value)
    differences = {name: (found[best] - found[name]).interval(len(others)) for name in others}
    if any(d.low is None for d in differences.values()):
        return None
    tied = [name for name in others if not differences[name].excludes(0.0)]
    rival = (tied or others)[0]
    return Ties(best, tuple(n for n in found if n == best or n in tied), rival, differences[rival], found[best].over)


def layer_ties(summaries: Iterable[Summary]) -> dict[str, Ties[int | str]]:
    """By probe, of summaries of one panel."""
    by_probe: dict[str, dict[int | str, Summary]] = {}
    for s in summaries:
        by_probe.setdefault(s.probe, {})[s.layer] = s
    found: dict[str, Ties[int | str]] = {}
    for probe, layers in by_probe.items():
        left_out = {layer: s.left_out for layer, s in layers.items() if s.left_out is not None}
        result = ties(left_out) if len(left_out) == len(layers) else None
        if result is not None:
            found[probe] = result
    return found


def _listed(tied: Sequence[Name], named: Mapping[Name, str]) -> str:
    """Names; numbers in a row as a range.

    Example:
        >>> _listed([1, 2, 3], {}), _listed([1, 3], {}), _listed(["a", "b", "c"], {"a": "A"})
        ('1 to 3', '1 and 3', 'A, b and c')
    """
    first, *_, last = tied
    if len(tied) > 2 and isinstance(first, int) and list(tied) == list(range(first, first + len(tied))):
        return f"{first} to {last}"
    texts = [named.get(name, str(name)) for name in tied]
    return f"{', '.join(texts[:-1])} and {texts[-1]}"
