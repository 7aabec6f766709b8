"""A small speech corpus with exact phone alignments, made by eSpeak NG: no download, a few seconds.

PyPI's `espeakng-loader` carries the library and its voices. Its C interface (`speak_lib.h`) reports where
each phoneme starts in the audio it makes, so the alignment is known rather than estimated. A speaker is one
voice variant with an accent, a rate, a pitch, a room, a channel and a noise level of its own: enough
variation that spectral frames do not give the phone away. Layout and text files are LibriSpeech's, TextGrids
as MFA writes them, phone names ARPAbet without stress.

    python -m s3prl_mi.demo --out demo_corpus

Source: eSpeak NG, https://github.com/espeak-ng/espeak-ng (src/include/espeak-ng/speak_lib.h).
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ._types import Seconds, Waveform
from .errors import MIError

T = TypeVar("T")
SAMPLE_RATE = 16000
RECIPE_VERSION = 2
MARKER = "demo_corpus.json"
DEFAULT_SPLITS: Mapping[str, int] = {"train": 500, "fit": 120, "eval": 80}
UTTERANCES_PER_SPEAKER = 10
SENTENCES = Path(__file__).with_name("demo_sentences.txt")
SILENCE = "sil"

ACCENTS = (
    "gmw/en-US",
    "gmw/en",
    "gmw/en-GB-scotland",
    "gmw/en-029",
    "gmw/en-GB-x-rp",
    "gmw/en-US-nyc",
    "gmw/en-GB-x-gbclan",
    "gmw/en-GB-x-gbcwmd",
)

# eSpeak's voice variants that sound like speech (no robots, no whispers).
# fmt: off
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

# eSpeak's phoneme mnemonics (stress marks and variant numbers removed) -> ARPAbet. What the table lacks keeps
# eSpeak's own name, so an accent that is added later costs classes rather than an error.
# fmt: off
PHONES: Mapping[str, str] = {
    "p": "P", "b": "B", "t": "T", "d": "D", "k": "K", "g": "G", "m": "M", "n": "N", "N": "NG", "f": "F",
    "v": "V", "T": "TH", "D": "DH", "s": "S", "z": "Z", "S": "SH", "Z": "ZH", "h": "HH", "l": "L",
    "r": "R", "w": "W", "j": "Y", "tS": "CH", "dZ": "JH", "t[": "TH", "t#": "T", "w#": "W", "r-": "R",
    "n-": "N", "?": "T", "I": "IH", "I#": "IH", "E": "EH", "a": "AE", "aa": "AE", "A:": "AA",
    "A@": "AA", "0": "AA", "O:": "AO", "O@": "AO", "o@": "AO", "O": "AO", "V": "AH", "@": "AH",
    "a#": "AH", "@-": "AH", "@L": "L", "3": "ER", "3:": "ER", "@5": "UH", "U": "UH", "U@": "UH",
    "u:": "UW", "u": "UW", "i": "IY", "i:": "IY", "i@": "IH", "eI": "EY", "e@": "EH", "aI": "AY",
    "aI@": "AY", "aU": "AW", "aU@": "AW", "OI": "OY", "oU": "OW", "IR": "ER", "VR": "ER",
}
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
        rate: words a minute.
        pitch: eSpeak's 0 to 100.
        split: the split that holds all utterances of this speaker.
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


@dataclass(frozen=True, slots=True)
class Interval:
    """A labelled stretch of time, in seconds from the start of the utterance."""

    start: Seconds
    end: Seconds
    label: str


@dataclass(frozen=True, slots=True)
class Spoken:
    """What eSpeak returns for one text.

    Attributes:
        wave: shape (n_samples,), int16, at eSpeak's own rate.
        rate: samples a second (22050).
        phones: (start in ms, mnemonic, position in the text from 0), ordered.
        words: (position in the text from 0, length in characters), ordered.
    """

    wave: NDArray[np.int16]
    rate: int
    phones: tuple[tuple[float, str, int], ...]
    words: tuple[tuple[int, int], ...]


# ---------------------------------------------------------------------------------------------- the library


class _EventId(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_void_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    )


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Event))
_WORD, _PHONEME = 1, 7
_SYNCHRONOUS, _PHONEME_EVENTS, _CHARS_UTF8, _END_PAUSE = 2, 1, 1, 0x1000
_RATE, _PITCH = 1, 3


class Espeak:
    """eSpeak NG through ctypes. It keeps global state: use `espeak()`, which makes one instance a process.

    Raises:
        MIError: the library or its voices are missing or do not start.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader

            self._lib = ctypes.CDLL(espeakng_loader.get_library_path())
            data = espeakng_loader.get_data_path()
        except (ImportError, OSError) as error:
            raise MIError(
                f"eSpeak NG cannot be loaded ({error}); the demo corpus needs it: pip install espeakng-loader"
            ) from error
        # The library exits the whole process if its data is missing, so look first.
        if not Path(data, "phontab").is_file():
            raise MIError(
                f"eSpeak NG's voices are not in {data}: pip install --force-reinstall espeakng-loader"
            )
        self.rate = int(self._lib.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(data), _PHONEME_EVENTS))
        if self.rate <= 0:
            raise MIError(
                f"eSpeak NG did not start with the voices in {data} (espeak_Initialize: {self.rate})."
            )
        # Some voices add breath from a generator that is otherwise seeded by the clock.
        self._lib.espeak_ng_SetRandSeed(ctypes.c_long(1))
        self._audio: list[bytes] = []
        self._phones: list[tuple[int, str, int]] = []
        self._words: list[tuple[int, int]] = []
        self._callback = _CALLBACK(self._receive)  # kept: the library holds only a pointer to it
        self._lib.espeak_SetSynthCallback(self._callback)

    def _receive(self, wave: int | None, count: int, events: Any) -> int:
        if wave and count:
            self._audio.append(ctypes.string_at(wave, 2 * count))
        index = 0
        while (event := events[index]).type:
            position = event.text_position - 1
            if event.type == _PHONEME:
                mnemonic = event.id.string.decode("utf-8", "replace")
                self._phones.append((event.audio_position, mnemonic, position))
            elif event.type == _WORD:
                self._words.append((position, event.length))
            index += 1
        return 0

    def say(self, text: str, voice: str, rate: int, pitch: int) -> Spoken:
        """Synthesise one text.

        Args:
            text: a sentence.
            voice: voice file and variant, `gmw/en-US+f2`.
            rate: words a minute.
            pitch: 0 to 100.

        Returns:
            Audio and events. The library varies timing a little with everything it said before, so the same
            text sounds the same only at the same place in a process's life.

        Raises:
            MIError: no such voice.
        """
        self._audio, self._phones, self._words = [], [], []
        if self._lib.espeak_SetVoiceByName(voice.encode()) != 0:
            raise MIError(
                f"eSpeak NG has no voice {voice!r}; the installed espeakng-loader may be another version."
            )
        self._lib.espeak_SetParameter(_RATE, rate, 0)
        self._lib.espeak_SetParameter(_PITCH, pitch, 0)
        raw = text.encode() + b"\0"
        flags = _CHARS_UTF8 | _END_PAUSE
        self._lib.espeak_Synth(raw, ctypes.c_size_t(len(raw)), 0, 1, 0, flags, None, None)
        self._lib.espeak_Synchronize()
        wave = np.frombuffer(b"".join(self._audio), np.int16)
        return Spoken(wave, self.rate, tuple(self._phones), tuple(self._words))


_instance: Espeak | None = None


def espeak() -> Espeak:
    """The process's one instance of the library."""
    global _instance
    if _instance is None:
        _instance = Espeak()
    return _instance


# --------------------------------------------------------------------------------------------- alignments


def phone_name(mnemonic: str) -> str:
    """ARPAbet name of an eSpeak phoneme mnemonic; pauses are `sil`; an empty string marks no sound at all.

    Example:
        >>> [phone_name(m) for m in ("'oU", "I2", "t#", "_:", ";")]
        ['OW', 'IH', 'T', 'sil', '']
    """
    bare = mnemonic.lstrip("',%=")
    if bare.startswith("_"):
        return SILENCE
    if bare in ("", ";"):  # ';' palatalises what stands before it
        return ""
    for name in (bare, re.sub(r"\d+$", "", bare)):  # aI2, @2, i@3: numbered variants of one phoneme
        if name in PHONES:
            return PHONES[name]
    return bare


def phone_intervals(spoken: Spoken, duration: Seconds) -> list[tuple[Interval, int]]:
    """Phones of an utterance as contiguous intervals.

    Args:
        spoken: what eSpeak returned.
        duration: of the audio, in seconds.

    Returns:
        (interval, position in the text; -1 for silence), from 0 to `duration`. Events that share a start keep
        only the last one, neighbouring silences are merged, and what starts past the end is left out.
    """
    marks: list[tuple[float, str, int]] = [(0.0, SILENCE, -1)]
    for start_ms, mnemonic, position in spoken.phones:
        label = phone_name(mnemonic)
        start = max(start_ms / 1000, marks[-1][0])  # never backwards
        if not label or start >= duration:
            continue
        if start == marks[-1][0]:
            marks.pop()
        if label == SILENCE:
            position = -1
            if marks and marks[-1][1] == SILENCE:
                continue
        marks.append((start, label, position))
        marks[0] = (0.0, *marks[0][1:])
    ends = [start for start, _, _ in marks[1:]] + [duration]
    return [(Interval(s, e, label), p) for (s, label, p), e in zip(marks, ends, strict=True)]


def word_intervals(
    phones: list[tuple[Interval, int]], text: str, words: tuple[tuple[int, int], ...]
) -> list[Interval]:
    """Words of an utterance as contiguous intervals; silence is the empty label, as MFA writes it.

    eSpeak runs some words together ("of the") and then reports one start for both. Their phones are
    shared out by the words' letters, so such an inner boundary is near, not exact.
    """
    starts = sorted({position for position, _ in words})
    found: list[Interval] = []
    index = 0
    while index < len(phones):
        interval, position = phones[index]
        run = [interval]
        while index + 1 < len(phones) and phones[index + 1][1] == position:
            index += 1
            run.append(phones[index][0])
        index += 1
        if position < 0:
            found.append(Interval(run[0].start, run[-1].end, ""))
            continue
        following = [s for s in starts if s > position]
        names = re.findall(r"[\w']+", text[position : following[0] if following else None]) or ["<unk>"]
        found.extend(_share(run, names))
    return found


def _share(run: list[Interval], names: list[str]) -> Iterator[Interval]:
    """Phones of words that eSpeak ran together, shared out by letters; a word without a phone is left out."""
    letters = np.cumsum([0] + [len(name) for name in names])
    cuts = np.round(letters / letters[-1] * len(run)).astype(int)
    for name, first, last in zip(names, cuts[:-1], cuts[1:], strict=True):
        if last > first:
            yield Interval(run[first].start, run[last - 1].end, name.lower())


def textgrid(tiers: Mapping[str, list[Interval]], duration: Seconds) -> str:
    """A Praat TextGrid in its long text form.

    Args:
        tiers: name -> contiguous intervals.
        duration: in seconds.

    Returns:
        The file's text.
    """
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {duration:.6f}",
    ]
    lines += ["tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, intervals) in enumerate(tiers.items(), 1):
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"']
        lines += ["        xmin = 0", f"        xmax = {duration:.6f}"]
        lines += [f"        intervals: size = {len(intervals)}"]
        for place, interval in enumerate(intervals, 1):
            lines += [f"        intervals [{place}]:", f"            xmin = {interval.start:.6f}"]
            lines += [f"            xmax = {interval.end:.6f}", f'            text = "{interval.label}"']
    return "\n".join(lines) + "\n"


# -------------------------------------------------------------------------------------------------- audio


def impulse_response(rng: np.random.Generator) -> Waveform:
    """A speaker's microphone and room: a random smooth spectrum (at most about 8 dB) and a short decay.

    Args:
        rng: source of randomness.

    Returns:
        Shape (n_taps,), the direct sound at tap 64.
    """
    bands = np.linspace(0, 1, 9)
    gain_db = np.interp(np.linspace(0, 1, 65) ** 0.6, bands, rng.uniform(-8, 8, bands.size))
    colour = np.roll(np.fft.irfft(10 ** (gain_db / 20)), 64) * np.hanning(128)
    decay_s = rng.uniform(0.02, 0.06)
    tail = rng.standard_normal(int(0.25 * SAMPLE_RATE)) * np.exp(
        -np.arange(int(0.25 * SAMPLE_RATE)) / SAMPLE_RATE / decay_s
    )
    tail *= 10 ** (-rng.uniform(4, 10) / 20) / np.sqrt((tail**2).sum())
    tail[0] = 1.0
    return np.convolve(colour, tail).astype(np.float32)


def record(clean: Waveform, response: Waveform, snr_db: float, rng: np.random.Generator) -> Waveform:
    """Clean speech as a microphone in a room hears it, in random gain.

    Args:
        clean: shape (n_samples,).
        response: from `impulse_response`.
        snr_db: speech to noise, in dB.
        rng: source of randomness.

    Returns:
        Shape (n_samples,), float32 in [-1, 1], not moved in time.
    """
    size = clean.size
    padded = 1 << (size + response.size - 1).bit_length()
    wet = np.fft.irfft(np.fft.rfft(clean, padded) * np.fft.rfft(response, padded), padded)[64 : 64 + size]
    white = np.fft.rfft(rng.standard_normal(size))
    tilt = np.maximum(np.arange(white.size) / white.size, 0.01) ** -0.5  # pink down to 80 Hz
    noise = np.fft.irfft(white * tilt, size)
    noise *= np.sqrt((wet**2).mean() / (noise**2).mean()) * 10 ** (-snr_db / 20)
    mixed = wet + noise
    return (mixed * (10 ** (-rng.uniform(3, 18) / 20) / np.abs(mixed).max())).astype(np.float32)


# ------------------------------------------------------------------------------------------------- corpus


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
        said = 0
        for place in range(-(-count // UTTERANCES_PER_SPEAKER)):
            sex, variant = own[place % len(own)]
            share = min(UTTERANCES_PER_SPEAKER, count - said)
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
                    sentences=tuple(pool[(said + i) % len(pool)] for i in range(share)),
                )
            )
            said += share
    return speakers


def _deal(items: list[T], splits: Mapping[str, int], least: int) -> list[list[T]]:
    """Share items out to splits by their size, at least so many each; no item goes to two."""
    spare = len(items) - least * len(splits)
    ends = np.cumsum([least + count / sum(splits.values()) * spare for count in splits.values()])
    cuts = [0, *np.round(ends).astype(int)]
    return [items[a:b] for a, b in itertools.pairwise(cuts)]


def _voices() -> list[tuple[str, str]]:
    """(sex, variant), two men to one woman so that every split has both."""
    men, women = list(MALE), list(FEMALE)
    return [
        ("F", women.pop(0)) if i % 3 == 1 and women else ("M", men.pop(0))
        for i in range(len(men) + len(women))
    ]


def make_corpus(
    root: Path, splits: Mapping[str, int] | None = None, *, seed: int = 0, progress: bool = True
) -> Path:
    """Make the demo corpus, or find it made.

    It is built beside `root` and renamed at the end, so what stands at `root` is whole. A second call with
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
    recipe = recipe_hash(speakers, seed)
    if root.exists():
        if _made(root) == recipe:
            return root
        if not _made(root) and any(root.iterdir()):
            raise MIError(
                f"demo corpus: {root} is not empty and was not made by this tool; name another folder."
            )
    partial = root.with_name(root.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _speak_all(partial, speakers, seed, progress)
    _write_speakers(partial, speakers)
    marker = {"recipe": recipe, "seed": seed, "utterances": sum(len(s.sentences) for s in speakers)}
    (partial / MARKER).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")
    if root.exists():
        shutil.rmtree(root)
    partial.rename(root)
    return root


def recipe_hash(speakers: list[Speaker], seed: int) -> str:
    """Name of what determines the corpus: this recipe's version, the seed, and who says what."""
    recipe = {"version": RECIPE_VERSION, "seed": seed, "speakers": [asdict(s) for s in speakers]}
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def _made(root: Path) -> str | None:
    """The recipe hash of a corpus at `root`; None if there is none."""
    try:
        return str(json.loads((root / MARKER).read_text(encoding="utf-8"))["recipe"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_speakers(root: Path, speakers: list[Speaker]) -> None:
    lines = [";ID  |SEX| SUBSET           |MINUTES| NAME"]
    for s in speakers:
        minutes = len(s.sentences) * 3 / 60  # about; LibriSpeech has a figure here too
        lines.append(f"{s.id:<5}| {s.sex} | {s.split:<17}| {minutes:<6.2f}| eSpeak NG {s.accent}+{s.variant}")
    (root / "SPEAKERS.TXT").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _speak_all(root: Path, speakers: list[Speaker], seed: int, progress: bool) -> None:
    """Run one fresh process for each split.

    eSpeak's timing depends on all it said before in its process, so each split gets a process of its own,
    whatever the caller has said already and whichever split is done first.
    """
    from tqdm import tqdm

    by_split: dict[str, list[Speaker]] = {}
    for speaker in speakers:
        by_split.setdefault(speaker.split, []).append(speaker)
    total = sum(len(s.sentences) for s in speakers)
    with tqdm(total=total, desc="demo corpus", unit="utt", disable=not progress) as bar:

        def work(split: str) -> None:
            job = json.dumps(
                {"root": str(root), "seed": seed, "speakers": [asdict(s) for s in by_split[split]]}
            )
            path = os.pathsep.join(
                [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
            )
            worker = subprocess.Popen(
                [sys.executable, "-m", "s3prl_mi.demo", "--worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)},
            )
            with worker:
                assert worker.stdin is not None
                assert worker.stdout is not None
                worker.stdin.write(job)
                worker.stdin.close()
                message = ""
                for line in worker.stdout:
                    if line == "\n":
                        bar.update()
                    else:
                        message = line.strip()
            if worker.returncode != 0:
                raise MIError(
                    message or f"demo corpus: speaking split {split} failed (exit {worker.returncode})."
                )

        with ThreadPoolExecutor(max_workers=2) as pool:
            for _ in pool.map(work, by_split):
                pass


def _worker() -> int:
    """Speak one split: reads the job from standard input, writes an empty line for each utterance."""
    job = json.load(sys.stdin)
    try:
        for speaker in job["speakers"]:
            speaker["sentences"] = tuple(speaker["sentences"])
            for _ in speak(Path(job["root"]), Speaker(**speaker), job["seed"]):
                sys.stdout.write("\n")
                sys.stdout.flush()
    except (MIError, OSError) as error:
        sys.stdout.write(f"{error}\n")
        return 1
    return 0


def speak(root: Path, speaker: Speaker, seed: int) -> Iterator[Path]:
    """Write all utterances of one speaker: FLAC, transcript and TextGrid.

    Args:
        root: the corpus.
        speaker: who, and what is said.
        seed: of the corpus.

    Yields:
        Each FLAC file, once written.
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
        late = Spoken(spoken.wave, spoken.rate, times, spoken.words)
        phones = phone_intervals(late, duration)
        tiers = {"words": word_intervals(phones, sentence, spoken.words), "phones": [p for p, _ in phones]}
        (aligned / f"{name}.TextGrid").write_text(textgrid(tiers, duration), encoding="utf-8")
        transcript.append(f"{name} " + " ".join(re.findall(r"[\w']+", sentence)).upper())
        path = folder / f"{name}.flac"
        soundfile.write(path, wave, SAMPLE_RATE, subtype="PCM_16")
        yield path
    (folder / f"{chapter.replace('/', '-')}.trans.txt").write_text(
        "\n".join(transcript) + "\n", encoding="utf-8"
    )


def main(argv: list[str] | None = None) -> int:
    """Command line of `python -m s3prl_mi.demo`.

    Returns:
        Exit status.
    """
    parser = argparse.ArgumentParser(
        prog="python -m s3prl_mi.demo", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--out", type=Path, default=Path("demo_corpus"), help="folder to make (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    for split, count in DEFAULT_SPLITS.items():
        parser.add_argument(
            f"--{split}", type=int, default=count, help=f"utterances of split {split} (default: {count})"
        )
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        return _worker()
    try:
        root = make_corpus(
            args.out, {split: getattr(args, split) for split in DEFAULT_SPLITS}, seed=args.seed
        )
    except MIError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"{root}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
