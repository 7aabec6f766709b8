"""Discrete units and frame labels of utterances, one line each: JSON lines or plain text, also gzipped.

JSON: one object per line with the utterance's name (`name`, `id`, `utterance` or `file`) and one list (`units`,
`phones`, whatever it is called). Text: the name, then the units, separated by blanks.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from ..core.config import AlignmentConfig
from ..core.errors import MIError
from ..core.types import Seconds
from .alignments.files import open_alignments
from .alignments.labels import SILENCE, frame_labels, normalise_label
from .utterances import Utterance

NAMES = ("name", "id", "utterance", "file")

Sequences = dict[str, list[Any]]
"""By utterance: one unit or label per frame."""


def read_sequences(path: Path) -> Sequences:
    """Read a file of units or frame labels.

    Raises:
        MIError: no such file, a line that is neither form (named), an utterance twice, or no utterance.
    """
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig") as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise MIError(f"{path}: cannot be read as text ({error}).") from None
    found: Sequences = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        name, sequence = _json(line, where) if line.lstrip().startswith("{") else _words(line)
        name = PurePath(name).name
        name = name.removesuffix(".flac").removesuffix(".wav")
        if name in found:
            raise MIError(f"{where}: utterance {name!r} stands on an earlier line, too. Each has one line.")
        found[name] = sequence
    if not found:
        raise MIError(f"{path}: holds no utterance. Each line is a name and its units, as text or JSON.")
    return found


def _words(line: str) -> tuple[str, list[Any]]:
    name, *sequence = line.split()
    return name, sequence


def _json(line: str, where: str) -> tuple[str, list[Any]]:
    try:
        content = json.loads(line)
    except json.JSONDecodeError as error:
        raise MIError(f"{where}: not a JSON object ({error}).") from None
    name = next((content[key] for key in NAMES if isinstance(content.get(key), str)), None)
    lists = [key for key, value in content.items() if isinstance(value, list)]
    if name is None or len(lists) != 1:
        raise MIError(
            f"{where}: expected a name ({', '.join(NAMES)}) and one list of units, found keys {', '.join(content)}."
        )
    bad = next((u for u in content[lists[0]] if not isinstance(u, (str, int))), None)
    if bad is not None:
        raise MIError(f"{where}: {lists[0]} holds {bad!r}; a unit is a whole number or a text.")
    return name, content[lists[0]]


def labels_for(
    units: Mapping[str, Any], path: Path, tier: str, frame: Seconds, n_frames: Mapping[str, int]
) -> Sequences:
    """Labels of the utterances that have units, one each `frame` seconds; None where there is none.

    Args:
        units: whose utterances these are.
        path: a file of frame labels as `read_sequences` reads it, or alignments in any format of `datarc.alignments`.
        tier: `phones` or `words`, of alignments.
        frame: time from label to label.
        n_frames: how many are wanted of each utterance; of a file of frame labels, all that it has are returned.

    Raises:
        MIError: as in `read_sequences` and `open_alignments`.
    """
    if path.is_file() and _is_sequences(path):
        every = read_sequences(path)
        of = {label: normalise_label(str(label), strip_stress=True) for s in every.values() for label in set(s)}
        return {name: [of[label] for label in every[name]] for name in units if name in every}
    alignments = open_alignments(AlignmentConfig(path=str(path), tier=tier))
    found: Sequences = {}
    for name in units:
        speaker, _, rest = name.partition("-")
        place = Path(speaker, rest.partition("-")[0], f"{name}.flac")
        intervals = alignments.intervals(Utterance(name, place, "", speaker, None))
        if intervals is not None:
            centres = (np.arange(n_frames[name], dtype=np.float64) + 0.5) * frame
            found[name] = frame_labels(intervals, centres, name).tolist()
    return found


def _is_sequences(path: Path) -> bool:
    """Whether a file is JSON lines: alignment formats are not."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            return file.read(64).lstrip(b"\xef\xbb\xbf \n").startswith(b"{")
    except OSError:
        return False


def is_silence(label: str) -> bool:
    """Whether a normalised label is that of silence."""
    return label == SILENCE
