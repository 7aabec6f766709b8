"""A small speech corpus with exact phone alignments, made by eSpeak NG: no download, a few seconds.

eSpeak reports where each phoneme starts in the audio it makes, so the alignment is known rather than estimated. A
speaker is one voice variant with an accent, a rate, a pitch, a room, a channel and a noise level of its own: enough
variation that spectral frames do not give the phone away. Layout and text files are LibriSpeech's, TextGrids as MFA
writes them, phone names ARPAbet without stress.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shutil
import signal
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..core.errors import MIError
from ..core.types import SAMPLE_RATE
from ..data.alignments.textgrid import format_textgrid
from ..data.espeak import espeak
from .phones import phone_intervals, word_intervals
from .room import impulse_response, record

T = TypeVar("T")

RECIPE_VERSION = 2
MARKER = "demo_corpus.json"
DEFAULT_SPLITS: Mapping[str, int] = {"train": 500, "fit": 120, "eval": 80}
UTTERANCES_PER_SPEAKER = 10
SENTENCES = Path(__file__).with_name("sentences.txt")

# fmt: off
ACCENTS = (
    "gmw/en-US", "gmw/en", "gmw/en-GB-scotland", "gmw/en-029", "gmw/en-GB-x-rp", "gmw/en-US-nyc", "gmw/en-GB-x-gbclan",
    "gmw/en-GB-x-gbcwmd",
)

# eSpeak's voice variants that sound like speech (no robots, no whispers).
MALE = (
    "m3", "m7", "Gene", "Andy", "m1", "Michael", "Diogo", "adam", "m2", "paul", "Marco", "Mario", "m4",
    "rob", "Nguyen", "edward", "m6", "antonio", "ed", "max", "Alex", "m8", "miguel", "robert", "caleb",
    "pablo", "quincy", "victor", "pedro", "Reed", "Mike", "benjamin", "norbert", "m5",
)
FEMALE = (
    "f2", "linda", "Annie", "f4", "steph", "Andrea", "f1", "belinda", "grandma", "f3", "anika",
    "Alicia", "f5", "aunty", "steph2", "steph3",
)
# fmt: on


@dataclass(frozen=True, slots=True)
class Speaker:
    """One synthetic speaker.

    Attributes:
        id: LibriSpeech-like number.
        sex: `M` or `F`.
        accent: eSpeak's voice file, such as `gmw/en-US`.
        variant: eSpeak's voice variant, such as `f2`; no speaker of another split has it.
        size: formants are so many times higher than the variant's own (a shorter or longer vocal tract).
        rate: words per minute.
        pitch: eSpeak's 0 to 100.
        split: holds all utterances of this speaker.
        sentences: what the speaker says, in order.
    """

    id: int
    sex: str
    accent: str
    variant: str
    size: float
    rate: int
    pitch: int
    split: str
    sentences: tuple[str, ...]


# ---------------------------------------------------------------------------------------------- who says what


def plan(splits: Mapping[str, int], seed: int) -> list[Speaker]:
    """Who says what, in which split.

    Args:
        splits: name -> number of utterances.
        seed: of the whole corpus.

    Returns:
        Speakers, split by split. No speaker, voice variant or sentence is in two splits.

    Raises:
        MIError: no split, a split without utterances, or too many splits.
    """
    if not splits or min(splits.values()) < 1:
        raise MIError(f"demo corpus: every split needs at least one utterance, found {dict(splits)}.")
    rng = np.random.default_rng([seed, 0])
    sentences = [s for s in SENTENCES.read_text(encoding="utf-8").splitlines() if s.strip()]
    rng.shuffle(sentences)
    voices = _voices()
    if len(splits) > len(voices) // 2:
        raise MIError(f"demo corpus: at most {len(voices) // 2} splits, found {len(splits)}.")
    pools = _deal(sentences, splits, 1)
    voice_pools = _deal(voices, splits, 2)
    speakers: list[Speaker] = []
    for (split, count), pool, own in zip(splits.items(), pools, voice_pools, strict=True):
        spoken = 0
        for place in range(-(-count // UTTERANCES_PER_SPEAKER)):
            sex, variant = own[place % len(own)]
            n_sentences = min(UTTERANCES_PER_SPEAKER, count - spoken)
            speakers.append(
                Speaker(
                    id=1001 + 7 * len(speakers),
                    sex=sex,
                    accent=ACCENTS[len(speakers) % len(ACCENTS)],
                    variant=variant,
                    size=round(float(rng.uniform(0.88, 1.14)), 3),
                    rate=int(rng.integers(140, 200)),
                    pitch=int(rng.integers(30, 70)),
                    split=split,
                    sentences=tuple(pool[(spoken + i) % len(pool)] for i in range(n_sentences)),
                )
            )
            spoken += n_sentences
    return speakers


def _deal(items: list[T], splits: Mapping[str, int], least: int) -> list[list[T]]:
    """Distribute items over splits by their size, at least so many each; no item goes to two."""
    spare = len(items) - least * len(splits)
    ends = np.cumsum([least + count / sum(splits.values()) * spare for count in splits.values()])
    cuts = [0, *np.round(ends).astype(int)]
    return [items[a:b] for a, b in itertools.pairwise(cuts)]


def _voices() -> list[tuple[str, str]]:
    """(sex, variant), two men to one woman so that every split has both."""
    men, women = list(MALE), list(FEMALE)
    return [("F", women.pop(0)) if i % 3 == 1 and women else ("M", men.pop(0)) for i in range(len(men) + len(women))]


# ------------------------------------------------------------------------------------------------- the corpus


def make_corpus(root: Path, splits: Mapping[str, int] | None = None, *, seed: int = 0, progress: bool = True) -> Path:
    """Make the demo corpus, or find it made.

    It is built next to `root` and renamed at the end, so what stands at `root` is whole. A second call with
    the same recipe returns at once; another recipe replaces it.

    Args:
        root: folder to make: `<split>/<speaker>/<chapter>/*.flac`, `alignments/<split>/...`, `SPEAKERS.TXT`.
        splits: name -> number of utterances (about 3 s each); default 500 `train`, 120 `fit`, 80 `eval`.
        seed: of everything that is random.
        progress: show a bar.

    Returns:
        `root`.

    Raises:
        MIError: `root` holds something else, eSpeak NG is missing, or `splits` cannot be served.
    """
    root = Path(root)
    speakers = plan(DEFAULT_SPLITS if splits is None else splits, seed)
    what = {"version": RECIPE_VERSION, "seed": seed, "speakers": [asdict(s) for s in speakers]}
    recipe = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
    if root.exists():
        if _made(root) == recipe:
            return root
        if not _made(root) and any(root.iterdir()):
            raise MIError(f"demo corpus: {root} is not empty and was not made by this tool; name another folder.")
    partial = root.with_name(f"{root.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _speak_all(partial, speakers, seed, progress)
    lines = [";ID  |SEX| SUBSET           |MINUTES| NAME"]
    for s in speakers:
        minutes = len(s.sentences) * 3 / 60  # about; LibriSpeech has a figure here too
        lines.append(f"{s.id:<5}| {s.sex} | {s.split:<17}| {minutes:<6.2f}| eSpeak NG {s.accent}+{s.variant}")
    (partial / "SPEAKERS.TXT").write_text("\n".join(lines) + "\n", encoding="utf-8")
    marker = {"recipe": recipe, "seed": seed, "utterances": sum(len(s.sentences) for s in speakers)}
    (partial / MARKER).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")
    if root.exists():
        shutil.rmtree(root)
    partial.rename(root)
    return root


def _made(root: Path) -> str | None:
    """The recipe hash of a corpus at `root`; None if there is none."""
    try:
        return str(json.loads((root / MARKER).read_text(encoding="utf-8"))["recipe"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _speak_all(root: Path, speakers: list[Speaker], seed: int, progress: bool) -> None:
    """Let every speaker speak, each split in a fresh process: eSpeak's timing depends on all it spoke before in one."""
    from tqdm import tqdm

    ignore_interrupts = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for this process
    pools = {
        split: ProcessPoolExecutor(1, get_context("spawn"), initializer=signal.signal, initargs=ignore_interrupts)
        for split in {s.split: None for s in speakers}
    }
    try:
        work = [pools[speaker.split].submit(speak, root, speaker, seed) for speaker in speakers]
        total = sum(len(s.sentences) for s in speakers)
        with tqdm(total=total, desc="demo corpus", unit="utt", disable=not progress) as bar:
            for done in as_completed(work):
                bar.update(done.result())
    except BrokenProcessPool as error:
        raise MIError(
            f"demo corpus: a process died ({error}). A script that calls make_corpus must do so below "
            "if __name__ == '__main__', since each split is spoken by a new process."
        ) from error
    finally:
        for pool in pools.values():
            pool.shutdown(cancel_futures=True)


def speak(root: Path, speaker: Speaker, seed: int) -> int:
    """Write all utterances of one speaker (FLAC, transcript and TextGrid), and return their number.

    Raises:
        MIError: eSpeak NG is missing, or lacks the voice.
    """
    import soundfile
    import soxr

    rng = np.random.default_rng([seed, speaker.id])
    response = impulse_response(rng)
    chapter = f"{speaker.id}/{speaker.id + 90000}"
    folder, aligned = root / speaker.split / chapter, root / "alignments" / speaker.split / chapter
    folder.mkdir(parents=True, exist_ok=True)
    aligned.mkdir(parents=True, exist_ok=True)
    transcript: list[str] = []
    for number, sentence in enumerate(speaker.sentences):
        name = f"{chapter.replace('/', '-')}-{number:04d}"
        rate = int(speaker.rate / speaker.size * rng.uniform(0.92, 1.08))
        spoken = espeak().say(sentence, f"{speaker.accent}+{speaker.variant}", rate, speaker.pitch)
        lead = int(rng.uniform(0.05, 0.25) * SAMPLE_RATE)
        clean = soxr.resample(spoken.wave.astype(np.float32) / 32768, spoken.rate * speaker.size, SAMPLE_RATE)
        wave = record(np.pad(clean, (lead, 0)), response, rng.uniform(5, 20), rng)
        duration = wave.size / SAMPLE_RATE
        shift_ms = 1000 * lead / SAMPLE_RATE
        times = tuple((t / speaker.size + shift_ms, m, p) for t, m, p in spoken.phones)
        phones = phone_intervals(replace(spoken, phones=times), duration)
        tiers = {"words": word_intervals(phones, sentence, spoken.words), "phones": [p for p, _ in phones]}
        (aligned / f"{name}.TextGrid").write_text(format_textgrid(tiers, duration), encoding="utf-8")
        transcript.append(f"{name} " + " ".join(re.findall(r"[\w']+", sentence)).upper())
        soundfile.write(folder / f"{name}.flac", wave, SAMPLE_RATE, subtype="PCM_16")
    (folder / f"{chapter.replace('/', '-')}.trans.txt").write_text("\n".join(transcript) + "\n", encoding="utf-8")
    return len(transcript)
