"""A small corpus on disk, tiny checkpoints, and the command line as tests use it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
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
    words = [
        (*spans[i][:1], spans[min(i + 1, len(spans) - 1)][1], f"w{i // 2 % 4}")
        for i in range(0, len(spans), 2)
    ]
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


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _fresh_log() -> Iterator[None]:
    """The package's handler writes to the stderr of the moment it was made; each test has its own."""
    ours = logging.getLogger("s3prl_mi")
    ours.handlers.clear()
    ours.propagate = True  # else pytest adds handlers of its own, and the package none
    yield
    ours.handlers.clear()
    ours.propagate = True


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Corpus:
    """For reading only; `corpus.copy(tmp_path)` may be changed."""
    return build_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Callable[[str], tuple[str, Path]]:
    """Upstream and file of a tiny model of tests/models.py, built on first use."""
    folder = tmp_path_factory.mktemp("checkpoints")
    built: dict[str, tuple[str, Path]] = {}

    def get(name: str) -> tuple[str, Path]:
        from tests.helpers.models import MODELS

        if name not in built:
            upstream, build = MODELS[name]
            built[name] = upstream, build(folder)
        return built[name]

    return get


@dataclass
class Runner:
    """run_downstream.py on the small corpus, in this process."""

    corpus: Corpus
    folder: Path
    checkpoint: Callable[[str], tuple[str, Path]]

    def command(
        self,
        task: str,
        model: str = "fbank",
        *words: str,
        name: str = "experiment",
        corpus: Corpus | None = None,
        **settings: Any,
    ) -> list[str]:
        """The words of a training command.

        `model` is an upstream, or a name of `models.MODELS`; `settings` are keys under downstream_expert with
        __ for a dot. Defaults: the logistic probe, 2 seeds, 6 clusters, masks of 6 in 10 frames, float32.
        """
        corpus = corpus or self.corpus
        upstream, file = (model, None) if model in ("fbank", "mel") else self.checkpoint(model)
        values: dict[str, Any] = {
            "datarc.libri_root": str(corpus.root),
            "datarc.fit_splits": ["fit-a", "fit-b"],
            "datarc.eval_splits": ["eval"],
            "datarc.alignments.path": str(corpus.alignments),
            "store.root": str(self.folder / "store"),
            "probes": ["logistic"],
            "seeds": 2,
            "clusters": 6,
            "views.mask": "6/10",
            "precision": "fp32",  # on every machine the same
        }
        values |= {key.replace("__", "."): value for key, value in settings.items()}
        override = ",,".join(f"config.downstream_expert.{k}={v!r}" for k, v in values.items())
        source = ["-k", str(file)] if file else []
        place = ["-p", str(self.folder / name), "--device", "cpu"]
        return ["-m", "train", "-d", task, "-u", upstream, *source, *place, "-o", override, *words]

    def __call__(self, task: str, model: str = "fbank", *words: str, **more: Any) -> int:
        """Train; the exit status."""
        from s3prl_mi.cli.run_downstream import main

        return main(self.command(task, model, *words, **more))

    def evaluate(self, split: str, *words: str, name: str = "experiment") -> int:
        from s3prl_mi.cli.run_downstream import main

        return main(["-m", "evaluate", "-p", str(self.folder / name), "-t", split, "--device", "cpu", *words])

    def records(self, name: str = "experiment") -> list[Any]:
        from s3prl_mi.results.record import read_records

        return read_records(self.folder / name / "mi_results.jsonl")

    def numbers(self, name: str = "experiment") -> dict[tuple[Any, ...], tuple[float, ...]]:
        """Identity of each record -> what it measured; fails where one is repeated."""
        records = self.records(name)
        found = {
            r.identity(): (r.mi_lower_bound_bits, r.entropy_bits, r.cross_entropy_bits, r.accuracy)
            for r in records
        }
        assert len(found) == len(records), "a record is repeated"
        return found


@pytest.fixture
def run(corpus, checkpoint, tmp_path) -> Runner:
    return Runner(corpus, tmp_path, checkpoint)


@pytest.fixture(autouse=True)
def upstreams_of_this_test_only(monkeypatch):
    """What a test registers is forgotten after it."""
    from s3prl_mi.upstreams import families, names

    monkeypatch.setattr(names, "_OWN", dict(names._OWN))
    monkeypatch.setattr(families, "_BY_NAME", dict(families._BY_NAME))
