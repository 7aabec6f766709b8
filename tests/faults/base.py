"""What cases begin with: a small corpus, and finished experiments on it, built once per process and copied."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import soundfile

from s3prl_mi.data.alignments.textgrid import read_textgrid
from tests.faults.campaign import Wrong, command, command_refuses
from tests.helpers.corpus import SPLITS, UTTERANCES, Corpus, build_corpus, write_textgrid
from tests.helpers.models import MODELS
from tests.helpers.paths import MINI
from tests.helpers.runner import Runner

SETTINGS: dict[str, Any] = {"seeds": 1, "layers": [0]}
"""Of every experiment here, unless a case says otherwise."""


@functools.cache
def scratch() -> Path:
    """A folder that lasts as long as this process."""
    folder = tempfile.mkdtemp(prefix="faults-base-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


REAL = [False]
"""Whether the corpus is of LibriSpeech-mini; else of noise bands, as in the tests."""
BROAD = {
    **dict.fromkeys(["AA", "AE", "AH", "AO", "AW", "AY", "ER"], "AA1"),
    **dict.fromkeys(["IY", "IH", "EY", "EH", "Y"], "IY1"),
    **dict.fromkeys(["UW", "UH", "OW", "OY", "W"], "UW1"),
    **dict.fromkeys(["S", "Z", "SH", "ZH", "F", "V", "TH", "DH", "HH", "CH", "JH"], "S"),
    **dict.fromkeys(["M", "N", "NG", "L", "R"], "M"),
    **dict.fromkeys(["K", "G", "T", "D", "P", "B"], "K"),
}
"""Phones -> the labels of `build_corpus`: so little speech does not have every phone on both sides."""


@functools.cache
def corpus() -> Corpus:
    """For reading only; `copied` gives one that may be spoilt."""
    return (real_corpus if REAL[0] else build_corpus)(scratch() / "corpus")


def real_corpus(folder: Path) -> Corpus:
    """A second or more of real utterances, with the names and the layout of `build_corpus`."""
    made = Corpus(folder / "audio", folder / "alignments")
    speakers = [(split, speaker) for split, of_split in SPLITS.items() for speaker in of_split]
    for (split, speaker), source in zip(speakers, sorted((MINI / "alignments/dev-other").iterdir()), strict=True):
        for number, grid in enumerate(sorted(source.rglob("*.TextGrid"))[:UTTERANCES]):
            phones = [i for i in read_textgrid(grid, "phones") if i.label][:18]
            path = made.root / split / speaker / "1" / f"{speaker}-1-{number:04d}.flac"
            path.parent.mkdir(parents=True, exist_ok=True)
            samples, rate = soundfile.read(MINI / grid.relative_to(MINI / "alignments").with_suffix(".flac"))
            start = phones[0].start
            soundfile.write(path, samples[round(start * rate) : round(phones[-1].end * rate)], rate)
            spans = [(i.start - start, i.end - start, BROAD.get(i.label.rstrip("012"), "")) for i in phones]
            made.spans[path.stem], made.audio[path.stem] = spans, path
            write_textgrid(made.textgrid(path.stem), spans)
    return made


@functools.cache
def checkpoint(name: str) -> tuple[str, Path]:
    """Upstream and file of a tiny model."""
    upstream, build = MODELS[name]
    return upstream, build(scratch() / "checkpoints")


@functools.cache
def _finished(task: str, model: str) -> Path:
    runner = Runner(corpus(), scratch() / f"{task}-{model}", checkpoint)
    runner.folder.mkdir(exist_ok=True)
    status, screen = command(runner.command(task, model, **SETTINGS))
    assert status == 0, screen
    return runner.folder


def fresh(folder: Path, *, copied: bool = False) -> Runner:
    """A runner without experiments; `copied`: on a corpus of its own."""
    return Runner(corpus().copy(folder) if copied else corpus(), folder, checkpoint)


def finished(folder: Path, task: str = "mi_supervised", model: str = "fbank", *, copied: bool = False) -> Runner:
    """A runner with a finished experiment in `folder`, and the store that it has filled."""
    runner = fresh(folder, copied=copied)
    shutil.copytree(_finished(task, model), folder, dirs_exist_ok=True)
    return runner


def again(runner: Runner, task: str = "mi_supervised", model: str = "fbank", **more: Any) -> list[str]:
    """The words that continue it."""
    return runner.command(task, model, "-a", **{**SETTINGS, **more})


def refused_or_same(runner: Runner, words: list[str], numbers: dict[Any, Any]) -> None:
    """A command ends with one line, or with the records that there were."""
    status, screen = command(words)
    if status != 0:
        command_refuses(words)
    elif runner.numbers() != numbers:
        raise Wrong("silent", f"other records; {screen[-200:]}")
