"""TextGrids for whole splits: several processes, whole TextGrids are kept, failures are listed."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import re
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from ...core.errors import MIError
from ...core.files import read_text, write_whole
from ...core.types import SAMPLE_RATE, Seconds
from ..alignments.textgrid import format_textgrid, read_textgrid
from ..audio import AudioError, read_header, read_waveform
from ..utterances import Utterance
from .aligner import DICTIONARY, Aligner, AlignmentError, model_folder
from .pronunciations import Pronounced, pronounce, read_dictionary, read_lexicon, write_dictionary

SETTINGS_FILE = "mi_align_{split}.json"
RECIPE = 1
"""Counts changes of ours after which the same audio and text would get other labels."""


SIDE_SUFFIXES = (".lab", ".txt")
"""Transcript of one utterance next to its audio, as the Montreal Forced Aligner reads it."""

_NOT_A_WORD = re.compile(r"[^\w']|_")


@dataclass(frozen=True, slots=True)
class Transcribed:
    """One utterance, its words and where its TextGrid goes."""

    utterance: Utterance
    words: list[str]
    path: Path


@dataclass(frozen=True, slots=True)
class UtteranceReport:
    """What became of one utterance."""

    utterance: Utterance
    status: Literal["aligned", "there", "failed"]
    seconds: Seconds = 0.0
    """Of audio that has a TextGrid now."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of a run."""

    reports: list[UtteranceReport]
    wall_seconds: Seconds
    words: int
    """In the transcripts, all together."""
    unknown: dict[str, tuple[int, Pronounced]]
    """Word that is in no dictionary -> how often it occurs, its pronunciations."""

    def of(self, status: str) -> list[UtteranceReport]:
        """The utterances of which this became."""
        return [r for r in self.reports if r.status == status]


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
        transcripts: as in `read_transcripts`.
        lexicon: as in `read_lexicon`.
        jobs: processes.
        overwrite: align again what is there.
        progress: show a bar.

    Raises:
        MIError: PocketSphinx is missing, a lexicon or transcript file is faulty, no utterance has a transcript, or
            `out` was made with another lexicon or version.
    """
    dictionary = read_dictionary(model_folder() / DICTIONARY)
    own = {} if lexicon is None else read_lexicon(lexicon)
    began = time.monotonic()
    todo, reports = _transcribe([u for utterances in splits.values() for u in utterances], out, root, transcripts)
    for split in splits:
        _settle(out, split, [t for t in todo if t.utterance.split == split], lexicon, overwrite)
    counts = {s: Counter(w for t in todo if t.utterance.split == s for w in t.words) for s in splits}
    total = Counter(word for t in todo for word in t.words)
    spoken = pronounce(total, dictionary, own)
    mute = {word for word, p in spoken.items() if not p.variants}
    for item in todo:
        if missing := ", ".join(sorted(mute.intersection(item.words))):
            why = f"no pronunciation for: {missing} (give one by --lexicon)"
            reports.append(UtteranceReport(item.utterance, "failed", reason=why))
    todo = [t for t in todo if not mute.intersection(t.words)]
    work = _align_all(todo, spoken, jobs)
    reports += tqdm(work, total=len(todo), desc="align", unit="utt", disable=not progress, dynamic_ncols=True)
    unknown = {w: (total[w], p) for w, p in spoken.items() if p.out_of_vocabulary}
    tally = Tally(reports, time.monotonic() - began, total.total(), unknown)
    for split in splits:
        failed = [r for r in tally.of("failed") if r.utterance.split == split]
        rows = [(r.utterance.id, str(r.utterance.path), r.reason) for r in failed]
        _write_tsv(out / f"failed_{split}.tsv", ("id", "audio", "reason"), rows)
        # most frequent first, as a start for a user's own lexicon
        words = sorted((w for w in unknown if counts[split][w]), key=lambda w: (-counts[split][w], w))
        variants = {w: " | ".join(map(" ".join, spoken[w].variants)) for w in words}
        listed = [(w, str(counts[split][w]), spoken[w].source, variants[w]) for w in words]
        _write_tsv(out / f"unknown_words_{split}.tsv", ("word", "count", "source", "pronunciation"), listed)
    return tally


def _transcribe(
    utterances: Sequence[Utterance], out: Path, root: Path | None, listed: Path | None
) -> tuple[list[Transcribed], list[UtteranceReport]]:
    """The utterances that have words, and as failures the others."""
    texts = read_transcripts(utterances, listed)
    words = {utterance: split_words(text) for utterance, text in texts.items()}
    failed = [
        UtteranceReport(u, "failed", reason="its transcript has no word" if u in texts else absence(u, listed))
        for u in utterances
        if not words.get(u)
    ]
    if len(failed) == len(utterances):
        first = f"; {failed[0].utterance.id}: {failed[0].reason}" if failed else ""
        raise MIError(
            f"none of {len(failed)} utterances has a transcript{first}. Give their texts by --transcripts FILE "
            "(lines '<utterance id> <text>')."
        )
    return [Transcribed(u, words[u], place(u, out, root)) for u in utterances if words.get(u)], failed


def place(utterance: Utterance, out: Path, root: Path | None) -> Path:
    """Where an utterance's TextGrid goes: in LibriSpeech's folders, or in one folder per split for a manifest."""
    if root is None:
        return out / utterance.split / f"{utterance.id}.TextGrid"
    return out / utterance.path.relative_to(root).with_suffix(".TextGrid")


# Transcripts ----------------------------------------------------------------------------------------------


def split_words(text: str) -> list[str]:
    """The words of a transcript as a dictionary has them: lower case, without punctuation.

    Apostrophes stay, since they make words ("'tis", "don't"); a hyphen parts two words.

    Example:
        >>> split_words("MISTER QUILTER'S well-known 'gospel' -- he said, “’TIS SO!”")
        ['mister', "quilter's", 'well', 'known', "'gospel'", 'he', 'said', "'tis", 'so']
    """
    tokens = _NOT_A_WORD.sub(" ", text.replace("’", "'").lower()).split()
    return [token for token in tokens if any(c.isalnum() for c in token)]


def read_transcripts(utterances: Iterable[Utterance], listed: Path | None) -> dict[Utterance, str]:
    """What is spoken in each utterance, as written; those without a transcript are left out.

    Args:
        utterances: whose audio the transcripts lie next to.
        listed: a file with lines `<utterance id> <text>` for all utterances (Kaldi's `text`); None looks next to each
            audio file, for `*.trans.txt` with such lines and then for `<name>.lab` or `<name>.txt`.

    Raises:
        MIError: a file cannot be read, or has two texts for one id.
    """

    @functools.cache
    def lines(folder: Path) -> dict[str, str]:
        return _read_lines([listed] if listed is not None else sorted(folder.glob("*.trans.txt")))

    found: dict[Utterance, str] = {}
    for utterance in utterances:
        text = lines(Path() if listed is not None else utterance.path.parent).get(utterance.id)
        sides = () if listed is not None else (utterance.path.with_suffix(suffix) for suffix in SIDE_SUFFIXES)
        text = text if text is not None else next((read_text(side) for side in sides if side.is_file()), None)
        if text is not None:
            found[utterance] = text
    return found


def absence(utterance: Utterance, listed: Path | None) -> str:
    """That an utterance has no transcript, and where it was looked for."""
    if listed is not None:
        return f"no transcript in {listed}"
    names = " or ".join(utterance.path.with_suffix(s).name for s in SIDE_SUFFIXES)
    return f"no transcript in {utterance.path.parent}: no *.trans.txt has its id, and there is no {names}"


def _read_lines(paths: Iterable[Path]) -> dict[str, str]:
    """Utterance id -> text, from lines `<id> <text>`; an id has one text."""
    found: dict[str, str] = {}
    for path in paths:
        for number, line in enumerate(read_text(path).splitlines(), start=1):
            name, text = [*re.split(r"[ \t]", line.strip(), maxsplit=1), ""][:2]
            if name and found.setdefault(name, text) != text:
                raise MIError(
                    f"transcripts {path}, line {number}: utterance {name!r} had another text before. Remove one."
                )
    return found


# Processes --------------------------------------------------------------------------------------------------


def _align_all(todo: Sequence[Transcribed], spoken: Mapping[str, Pronounced], jobs: int) -> Iterator[UtteranceReport]:
    """Reports of all utterances, in their order."""
    with tempfile.TemporaryDirectory(prefix="s3prl_mi_align_") as folder:
        words = Path(folder) / "words.dict"
        write_dictionary(words, spoken)
        work = functools.partial(_align_one, words)
        if jobs == 1:
            yield from map(work, todo)
            return
        # spawn: a fork of a process with threads (torch's, eSpeak's) can hang; Ctrl-C is for the main process
        pool = ProcessPoolExecutor(
            jobs, get_context("spawn"), initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
        )
        try:
            yield from pool.map(work, todo, chunksize=4)
        except BrokenProcessPool as error:
            raise MIError(
                f"one of {jobs} processes died, perhaps for lack of memory. What is written is whole: the same command "
                "continues from there; try fewer --jobs."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


@functools.lru_cache(maxsize=1)
def _aligner(words: Path) -> Aligner:
    """The process's own, made for its first utterance."""
    return Aligner(words)


def _align_one(words: Path, item: Transcribed) -> UtteranceReport:
    """Align one utterance and write its TextGrid, unless a whole one is there."""
    try:
        if seconds := _seconds_aligned(item):
            return UtteranceReport(item.utterance, "there", seconds)
        wave = read_waveform(item.utterance)
        tiers = _aligner(words).align(wave, item.words)
    except (AudioError, AlignmentError) as error:
        return UtteranceReport(item.utterance, "failed", reason=str(error))
    seconds = wave.size / SAMPLE_RATE
    write_whole(item.path, format_textgrid(tiers, seconds))
    return UtteranceReport(item.utterance, "aligned", seconds)


def _seconds_aligned(item: Transcribed) -> Seconds:
    """Seconds of the audio if a TextGrid that fits it is there, 0 if not."""
    if not item.path.is_file():
        return 0.0
    seconds = read_header(item.utterance).n_samples / SAMPLE_RATE
    try:
        ends = [read_textgrid(item.path, tier)[-1].end for tier in ("words", "phones")]
    except (MIError, IndexError):
        return 0.0
    return seconds if all(abs(end - seconds) < 1e-3 for end in ends) else 0.0


# Files ------------------------------------------------------------------------------------------------------


def _settle(out: Path, split: str, todo: Sequence[Transcribed], lexicon: Path | None, overwrite: bool) -> None:
    """Note what determines the labels of a split, and refuse to mix two kinds.

    What is to be made again is removed first, so that an interrupted run leaves labels of one kind.
    """
    now = {
        "recipe": RECIPE,
        "pocketsphinx": importlib.metadata.version("pocketsphinx"),
        "lexicon_sha256": lexicon and hashlib.sha256(lexicon.read_bytes()).hexdigest()[:16],
    }
    path = out / SETTINGS_FILE.format(split=split)
    if overwrite:
        for item in todo:
            item.path.unlink(missing_ok=True)
    elif path.is_file():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            before = {}
        other = [f"{key} {before.get(key)} (now {value})" for key, value in now.items() if before.get(key) != value]
        if other:
            raise MIError(
                f"{path}: the alignments of {split} were made with {', '.join(other)}; labels of two kinds do not mix. "
                "Name another folder by --out, or align all again by --overwrite."
            )
    write_whole(path, json.dumps(now, indent=1) + "\n")


def _write_tsv(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table with a header; no row, no file."""
    if rows:
        lines = ["\t".join(re.sub(r"[\t\n]", " ", value) for value in row) for row in (header, *rows)]
        write_whole(path, "\n".join(lines) + "\n")
    else:
        path.unlink(missing_ok=True)
