"""Several upstreams side by side: which estimates stand in one table or picture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from ..core.config import TASKS
from ..core.errors import MIError
from ..results.record import RESULTS_FILE, Record
from ..results.summary import FRAMES_ORDER, Summary, best_layers, rank_in, summarise
from .wording import distinguish


class Comparison(NamedTuple):
    """What stands side by side in one panel of a comparison."""

    task: str
    kind: str
    """`mask` or `shift` (the word that the view begins with), or empty for mi_supervised."""
    frames: str


def compare(
    labelled_records: Sequence[tuple[str, Sequence[Record]]],
) -> dict[Comparison, dict[str, list[Summary]]]:
    """Best layers by comparison and label, tasks in our order, labels as given."""
    found: dict[Comparison, dict[str, list[Summary]]] = {}
    for label, records in labelled_records:
        for summary in best_layers(summarise(records)):
            kind = re.split(r"\W", summary.view, maxsplit=1)[0] if summary.view else ""
            key = Comparison(summary.task, kind, summary.scored_frames)
            group = found.setdefault(key, {}).setdefault(label, [])
            if any(s.probe == summary.probe for s in group):
                differ = " and ".join(distinguish([group[0].panel, summary.panel]).values())
                raise MIError(
                    f"comparison label {label!r}: its records hold two kinds of {key.task} estimates "
                    f"({differ}). Give each kind a label of its own."
                )
            group.append(summary)
    if not found:
        raise MIError(f"nothing to compare: none of the {RESULTS_FILE} holds a finished estimate.")
    order = sorted(found, key=lambda k: (rank_in(k.task, TASKS), k.kind, rank_in(k.frames, FRAMES_ORDER)))
    return {key: found[key] for key in order}
