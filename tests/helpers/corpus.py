"""A small corpus of noise bands: audio, TextGrids, and what is in them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile

RATE = 16000
PHONES = {"AA": 500, "IY": 1200, "S": 5000, "M": 250, "K": 2600, "UW": 3600}
"""Phone -> centre in Hz of its band of noise."""
STRESSED = ("AA", "IY", "UW")
SPLITS = {"fit-a": ("11", "12"), "fit-b": ("13",), "eval": ("21", "22")}
"""Split -> speakers."""
UTTERANCES = 3
"""Of each speaker."""


@dataclass
class Corpus:
    """LibriSpeech's layout: `root`/<split>/<speaker>/<chapter>/<id>.flac; TextGrids likewise in `alignments`."""

    root: Path
    alignments: Path
    spans: dict[str, list[tuple[float, float, str]]] = field(default_factory=dict)
    """Utterance id -> (start, end, phone as in the TextGrid) in seconds."""
    audio: dict[str, Path] = field(default_factory=dict)

    def of(self, split: str) -> list[str]:
        """Ids of a split, sorted."""
        return sorted(u for u, path in self.audio.items() if path.relative_to(self.root).parts[0] == split)

    def textgrid(self, utterance: str) -> Path:
        parts = self.audio[utterance].relative_to(self.root).with_suffix(".TextGrid")
        return self.alignments / parts

    def copy(self, folder: Path) -> Corpus:
        """One that a test may spoil."""
        shutil.copytree(self.root, folder / "audio")
        shutil.copytree(self.alignments, folder / "alignments")
        audio = {u: folder / "audio" / p.relative_to(self.root) for u, p in self.audio.items()}
        return Corpus(folder / "audio", folder / "alignments", dict(self.spans), audio)


def sound(phone: str, n_samples: int, pitch: float, rng: np.random.Generator) -> np.ndarray:
    """Noise in a band that says which phone it is, at a speaker's own pitch."""
    if phone == "":
        return 1e-3 * rng.standard_normal(n_samples)
    spectrum = np.fft.rfft(rng.standard_normal(n_samples))
    frequencies = np.fft.rfftfreq(n_samples, 1 / RATE)
    centre = PHONES[phone.rstrip("012")] * pitch
    shaped = np.fft.irfft(spectrum * np.exp(-(((frequencies - centre) / 300) ** 2)), n_samples)
    return 0.1 * shaped / shaped.std()


def write_textgrid(path: Path, spans: list[tuple[float, float, str]]) -> None:
    """Praat's long text form, with a tier of words (each of two phones) and one of phones."""
    words = [(*spans[i][:1], spans[min(i + 1, len(spans) - 1)][1], f"w{i // 2 % 4}") for i in range(0, len(spans), 2)]
    end = spans[-1][1]
    head = f'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\nxmax = {end}\ntiers? <exists>\nsize = 2\n'
    lines = [head, "item []:\n"]
    for number, (name, tier) in enumerate((("words", words), ("phones", spans)), start=1):
        lines.append(f'    item [{number}]:\n        class = "IntervalTier"\n        name = "{name}"\n')
        lines.append(f"        xmin = 0\n        xmax = {end}\n        intervals: size = {len(tier)}\n")
        for i, (start, stop, text) in enumerate(tier, start=1):
            lines.append(f"        intervals [{i}]:\n            xmin = {start}\n            xmax = {stop}\n")
            lines.append(f'            text = "{text}"\n')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines))


def build_corpus(folder: Path, splits: dict[str, tuple[str, ...]] = SPLITS, seed: int = 0) -> Corpus:
    """Silence, then 8 to 14 phones of 60 to 140 ms; lengths differ from utterance to utterance."""
    corpus = Corpus(folder / "audio", folder / "alignments")
    rng = np.random.default_rng(seed)
    for split, speakers in splits.items():
        for speaker in speakers:
            pitch = 0.9 + 0.2 * rng.random()
            for number in range(UTTERANCES):
                utterance = f"{speaker}-1-{number:04d}"
                names = ["", *rng.choice(list(PHONES), rng.integers(8, 15))]
                spans, parts, start = [], [], 0
                for name in names:
                    text = f"{name}{rng.integers(3)}" if name in STRESSED else str(name)
                    n_samples = int(rng.integers(960, 2240))
                    parts.append(sound(text, n_samples, pitch, rng))
                    spans.append((start / RATE, (start + n_samples) / RATE, text))
                    start += n_samples
                path = corpus.root / split / speaker / "1" / f"{utterance}.flac"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, np.concatenate(parts), RATE)
                corpus.spans[utterance], corpus.audio[utterance] = spans, path
                write_textgrid(corpus.textgrid(utterance), spans)
    return corpus
