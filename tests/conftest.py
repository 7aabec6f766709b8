"""Fixtures of all tests: one thread, a fresh log, a small corpus, tiny checkpoints, the command line."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.corpus import Corpus, build_corpus
from tests.helpers.runner import Runner


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
    """Upstream and file of a tiny model of tests/helpers/models.py, built on first use."""
    folder = tmp_path_factory.mktemp("checkpoints")
    built: dict[str, tuple[str, Path]] = {}

    def get(name: str) -> tuple[str, Path]:
        from tests.helpers.models import MODELS

        if name not in built:
            upstream, build = MODELS[name]
            built[name] = upstream, build(folder)
        return built[name]

    return get


@pytest.fixture
def run(corpus, checkpoint, tmp_path) -> Runner:
    return Runner(corpus, tmp_path, checkpoint)


@pytest.fixture(autouse=True)
def upstreams_of_this_test_only(monkeypatch):
    """What a test registers is forgotten after it."""
    from s3prl_mi.upstreams import names

    monkeypatch.setattr(names, "_OWN", dict(names._OWN))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes comes first, so that no worker is left alone with it at the end."""
    items.sort(key=lambda item: item.path.name != "test_processes.py")
