"""TextGrids for whole splits: processes side by side, files that are whole already are left, failures are listed."""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
import io
import json
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from ...core.errors import MIError
from ...core.files import write_whole
from ...core.types import SAMPLE_RATE, Seconds
from ...demo.phones import textgrid
from ..alignments import read_textgrid
from ..audio import AudioError, probe, read_waveform
from ..utterances import Utterance
from .aligner import Aligner, AlignmentError, dictionary_file, model_folder
from .pronunciations import Pronounced, Source, pronounce, read_dictionary, read_lexicon, write_dictionary
from .transcripts import Transcripts, split_words

SETTINGS_FILE = "mi_align_{split}.json"
RECIPE = 1
"""Counts changes of ours after which the same audio and text would get other labels."""

Status = Literal["aligned", "there", "failed"]


@dataclass(frozen=True, slots=True)
class Job:
    """One utterance, its words and where its TextGrid goes."""

    utterance: Utterance
    words: list[str]
    path: Path


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one utterance."""

    utterance: Utterance
    status: Status
    seconds: Seconds = 0.0
    """Of audio; 0 where it failed before the audio was read."""
    reason: str = ""


@dataclass(slots=True)
class Tally:
    """What became of a run."""

    aligned: int = 0
    there: int = 0
    failed: list[Outcome] = field(default_factory=list)
    aligned_seconds: Seconds = 0.0
    """Audio aligned by this run."""
    total_seconds: Seconds = 0.0
    """Audio that has a TextGrid now."""
    wall_seconds: Seconds = 0.0
    words: int = 0
    """In the transcripts, all together."""
    unknown: dict[str, tuple[int, Pronounced]] = field(default_factory=dict)
    """Word that is in no dictionary -> how often it is said, its pronunciations."""

    def add(self, outcome: Outcome) -> None:
        """Count one utterance."""
        if outcome.status == "failed":
            self.failed.append(outcome)
            return
        self.total_seconds += outcome.seconds
        if outcome.status == "there":
            self.there += 1
        else:
            self.aligned += 1
            self.aligned_seconds += outcome.seconds


def align_corpus(
    splits: Mapping[str, Sequence[Utterance]],
    out: Path,
    *,
    root: Path | None = None,
    transcripts: Path | None = None,
    lexicon: Path | None = None,
    jobs: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> Tally:
    """Write a TextGrid for every utterance that can be aligned.

    Args:
        splits: name -> utterances.
        out: folder for `<split>/<speaker>/<chapter>/<utterance>.TextGrid`, for `failed_<split>.tsv` and
            `unknown_words_<split>.tsv`.
        root: of the audio, whose folders are repeated below `out`; None (a manifest): `<split>/<utterance>.TextGrid`.
        transcripts: as in `Transcripts`.
        lexicon: as in `read_lexicon`.
        jobs: processes.
        overwrite: align again what is there.
        progress: show a bar.

    Raises:
        MIError: PocketSphinx is missing, a lexicon or transcript file is faulty, no utterance has a transcript, or
            `out` was made with another lexicon or version.
    """
    dictionary = read_dictionary(dictionary_file(model_folder()))
    own = {} if lexicon is None else read_lexicon(lexicon)
    tally, began = Tally(), time.monotonic()
    texts = Transcripts(transcripts)
    todo: list[Job] = []
    counts: dict[str, Counter[str]] = {}
    for split, utterances in splits.items():
        counts[split] = Counter()
        for utterance in utterances:
            text = texts.text(utterance)
            words = split_words(text or "")
            counts[split].update(words)
            if words:
                todo.append(Job(utterance, words, place(utterance, out, root)))
            else:
                why = (
                    "its transcript has no word"
                    if text is not None
                    else f"no transcript {texts.where(utterance)}"
                )
                tally.add(Outcome(utterance, "failed", reason=why))
    if not todo:
        first = f"; {tally.failed[0].utterance.id}: {tally.failed[0].reason}" if tally.failed else ""
        raise MIError(
            f"none of {len(tally.failed)} utterances has a transcript{first}. Give their texts by --transcripts FILE "
            "(lines '<utterance id> <text>')."
        )
    for split in splits:
        _settle(out, split, [j for j in todo if j.utterance.split == split], lexicon, overwrite)
    said = pronounce((w for c in counts.values() for w in c), dictionary, own)
    mute = {word for word, p in said.items() if not p.variants}
    for job in [j for j in todo if mute.intersection(j.words)]:
        missing = ", ".join(sorted(mute.intersection(job.words)))
        why = f"no pronunciation for: {missing} (give one by --lexicon)"
        tally.add(Outcome(job.utterance, "failed", reason=why))
    todo = [j for j in todo if not mute.intersection(j.words)]
    for outcome in tqdm(
        _run(todo, said, jobs),
        total=len(todo),
        desc="align",
        unit="utt",
        disable=not progress,
        dynamic_ncols=True,
    ):
        tally.add(outcome)
    tally.wall_seconds = time.monotonic() - began
    total = sum(counts.values(), Counter())
    tally.words = total.total()
    tally.unknown = {w: (total[w], p) for w, p in said.items() if p.out_of_vocabulary}
    for split in splits:
        _list_failures(out / f"failed_{split}.tsv", [o for o in tally.failed if o.utterance.split == split])
        unknown = {w: (counts[split][w], p) for w, (_, p) in tally.unknown.items() if counts[split][w]}
        _list_words(out / f"unknown_words_{split}.tsv", unknown)
    return tally


def place(utterance: Utterance, out: Path, root: Path | None) -> Path:
    """Where an utterance's TextGrid goes: LibriSpeech's folders again, or one folder a split for a manifest."""
    if root is None:
        return out / utterance.split / f"{utterance.id}.TextGrid"
    return out / utterance.path.relative_to(root).with_suffix(".TextGrid")


# Processes --------------------------------------------------------------------------------------------------

_aligner: Aligner | None = None
"""The worker process's own."""


def _run(todo: Sequence[Job], said: Mapping[str, Pronounced], jobs: int) -> Iterator[Outcome]:
    """Outcomes of all jobs, in their order."""
    with tempfile.TemporaryDirectory(prefix="s3prl_mi_align_") as folder:
        words = Path(folder) / "words.dict"
        write_dictionary(words, said)
        if jobs == 1:
            aligner = Aligner(words)
            for job in todo:
                yield align_one(aligner, job)
            return
        # spawn: a fork of a process with threads (torch's, eSpeak's) can hang
        pool = ProcessPoolExecutor(
            jobs, mp_context=get_context("spawn"), initializer=_start_worker, initargs=(words,)
        )
        try:
            yield from pool.map(_work, todo, chunksize=4)
        except BrokenProcessPool as error:
            raise MIError(
                f"one of {jobs} processes died, perhaps for lack of memory. What is written is whole: the same command "
                "goes on from there; try fewer --jobs."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker(words: Path) -> None:
    global _aligner
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's business
    _aligner = Aligner(words)


def _work(job: Job) -> Outcome:
    assert _aligner is not None
    return align_one(_aligner, job)


def align_one(aligner: Aligner, job: Job) -> Outcome:
    """Align one utterance and write its TextGrid, unless a whole one is there."""
    try:
        if seconds := whole(job):
            return Outcome(job.utterance, "there", seconds)
        wave = read_waveform(job.utterance)
        tiers = aligner.align(wave, job.words)
    except (AudioError, AlignmentError) as error:
        return Outcome(job.utterance, "failed", reason=str(error))
    seconds = wave.size / SAMPLE_RATE
    write_whole(job.path, textgrid({"words": tiers.words, "phones": tiers.phones}, seconds))
    return Outcome(job.utterance, "aligned", seconds)


def whole(job: Job) -> Seconds:
    """Seconds of the audio if a TextGrid that fits it is there, 0 if not.

    Raises:
        AudioError: the audio is missing or not readable.
    """
    if not job.path.is_file():
        return 0.0
    seconds = probe(job.utterance).n_samples / SAMPLE_RATE
    try:
        ends = [read_textgrid(job.path, tier)[-1].end for tier in ("words", "phones")]
    except (MIError, IndexError):
        return 0.0
    return seconds if all(abs(end - seconds) < 1e-3 for end in ends) else 0.0


# Files ------------------------------------------------------------------------------------------------------


def _settle(out: Path, split: str, jobs: Sequence[Job], lexicon: Path | None, overwrite: bool) -> None:
    """Note what determines the labels of a split, and refuse to mix two kinds.

    What is to be made again is removed first, so that an interrupted run leaves labels of one kind.
    """
    digest = None if lexicon is None else hashlib.sha256(lexicon.read_bytes()).hexdigest()[:16]
    now = {
        "recipe": RECIPE,
        "pocketsphinx": importlib.metadata.version("pocketsphinx"),
        "lexicon_sha256": digest,
    }
    path = out / SETTINGS_FILE.format(split=split)
    if overwrite:
        for job in jobs:
            job.path.unlink(missing_ok=True)
    elif path.is_file():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            before = {}
        other = [
            f"{key} {before.get(key)} (now {value})" for key, value in now.items() if before.get(key) != value
        ]
        if other:
            raise MIError(
                f"{path}: the alignments of {split} were made with {', '.join(other)}; labels of two kinds do not mix. "
                "Name another folder by --out, or align all again by --overwrite."
            )
    write_whole(path, json.dumps(now, indent=1) + "\n")


def _list_failures(path: Path, failed: Sequence[Outcome]) -> None:
    """One line an utterance that has no TextGrid: id, audio, reason. No failure, no file."""
    if not failed:
        path.unlink(missing_ok=True)
        return
    rows = [(o.utterance.id, str(o.utterance.path), o.reason) for o in failed]
    _write_tsv(path, ("id", "audio", "reason"), rows)


def _list_words(path: Path, unknown: Mapping[str, tuple[int, Pronounced]]) -> None:
    """The words in no dictionary, most frequent first, as a start for a user's own lexicon. None, no file."""
    if not unknown:
        path.unlink(missing_ok=True)
        return
    rows: list[tuple[str, str, Source, str]] = []
    for word, (count, pronounced) in sorted(unknown.items(), key=lambda item: (-item[1][0], item[0])):
        variants = " | ".join(" ".join(p) for p in pronounced.variants)
        rows.append((word, str(count), pronounced.source, variants))
    _write_tsv(path, ("word", "count", "source", "pronunciation"), rows)


def _write_tsv(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    text = io.StringIO()
    # words keep their apostrophes and quotes as they are: no field has a tab or a line break
    writer = csv.writer(text, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, escapechar="\\")
    writer.writerow(header)
    writer.writerows([[v.replace("\t", " ").replace("\n", " ") for v in row] for row in rows])
    write_whole(path, text.getvalue())
