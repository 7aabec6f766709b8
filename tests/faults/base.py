"""What cases begin with: a small corpus, and finished experiments on it, built once per process and copied."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tests.faults.campaign import Wrong, command, command_refuses
from tests.helpers.corpus import Corpus, build_corpus
from tests.helpers.models import MODELS
from tests.helpers.runner import Runner

SETTINGS: dict[str, Any] = {"seeds": 1, "layers": [0]}
"""Of every experiment here, unless a case says otherwise."""


@functools.cache
def scratch() -> Path:
    """A folder that lasts as long as this process."""
    folder = tempfile.mkdtemp(prefix="faults-base-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@functools.cache
def corpus() -> Corpus:
    """For reading only; `copied` gives one that may be spoilt."""
    return build_corpus(scratch() / "corpus")


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
