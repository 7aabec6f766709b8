"""Splits of LibriSpeech -> utterances that s3prl's tasks can read, with their text; lengths are read once."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..core.config import DataConfig
from ..core.errors import MIError, nearest
from ..core.files import write_whole
from ..core.split_names import split_part
from ..core.types import SAMPLE_RATE
from ..data.audio import AudioError, read_header
from ..data.forced_alignment.corpus import absence, read_transcripts
from ..data.utterances import Utterance, list_utterances


@dataclass(frozen=True, slots=True)
class Spoken:
    """One utterance that can be used."""

    id: str
    path: Path
    n_samples: int
    text: str
    """Its transcript, as written."""


@dataclass(frozen=True)
class Corpus:
    """The splits that a run needs."""

    root: Path
    splits: dict[str, tuple[Spoken, ...]]
    """Name of a split, such as dev-other@1/5 -> its utterances by id."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Utterance id -> why it is left out."""


@functools.lru_cache(maxsize=8)
def read_corpus(root: Path, splits: tuple[str, ...]) -> Corpus:
    """Read transcripts and headers.

    Raises:
        MIError: no such folder or split, or nothing of a split can be used.
    """
    corpus = Corpus(root, {})
    for split in splits:
        check_split(root, split)
        utterances = list_utterances(DataConfig(libri_root=str(root)), split)
        texts = read_transcripts(utterances, None)
        headers = _headers(root, split, utterances)
        usable = []
        for utterance in utterances:
            found, text = headers[utterance.id], texts.get(utterance)
            if isinstance(found, str):
                corpus.skipped[utterance.id] = found
            elif text is None:
                corpus.skipped[utterance.id] = absence(utterance, None)
            else:
                usable.append(Spoken(utterance.id, utterance.path, found, text))
        corpus.splits[split] = tuple(usable)
        check_left(corpus.skipped, len(usable), split)
    return corpus


def check_split(root: Path, split: str) -> None:
    """Refuse a split that is not there, in the words of s3prl's configs.

    Raises:
        MIError: no such folder.
    """
    folder = split_part(split)[0]
    if not root.is_dir():
        raise MIError(
            f"{root}: no such folder. It should be LibriSpeech's, which holds train-clean-100, dev-clean, ..."
        )
    if not (root / folder).is_dir():
        there = sorted(p.name for p in root.glob("[!.]*") if p.is_dir())
        raise MIError(
            f"split {split!r}: no such folder in {root}.{nearest(folder, there)} It holds: "
            f"{', '.join(there[:12]) or 'nothing'}. Name other splits with -o (superb_pr: "
            "config.downstream_expert.corpus.train, .dev, .test; superb_asr: config.downstream_expert.datarc.train, "
            ".dev-clean, .test-clean), each a list of folders."
        )


def check_left(skipped: dict[str, str], left: int, split: str) -> None:
    """Refuse a split of which nothing is left.

    Raises:
        MIError: nothing is left; the first reason is named.
    """
    if not left:
        raise MIError(f"split {split!r}: no utterance of it can be used; the first: {next(iter(skipped.values()))}.")


def _headers(root: Path, split: str, utterances: Sequence[Utterance]) -> dict[str, int | str]:
    """Utterance id -> samples, or why its audio cannot be used; kept until a file's size or time changes."""
    stats = [(u.id, str(u.path), (s := os.stat(u.path)).st_size, s.st_mtime_ns) for u in utterances]
    key = hashlib.sha256(json.dumps([1, str(root.resolve()), split, stats]).encode()).hexdigest()[:32]
    cache = os.environ.get("XDG_CACHE_HOME")
    path = (Path(cache) if cache else Path.home() / ".cache") / "s3prl_mi" / "superb" / f"{key}.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        found = {u.id: _header(u) for u in utterances}
    with contextlib.suppress(OSError):  # a disk that is full or read-only: read again next time
        write_whole(path, json.dumps(found))
    return found


def _header(utterance: Utterance) -> int | str:
    try:
        header = read_header(utterance)
    except AudioError as error:
        return str(error)
    if header.native_rate != SAMPLE_RATE or header.channels != 1:
        return (
            f"{utterance.path}: {header.native_rate} Hz, {header.channels} channels; s3prl's tasks take files as they "
            f"are, so they must be {SAMPLE_RATE} Hz, mono"
        )
    return header.n_samples
