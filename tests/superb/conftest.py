"""A small corpus with transcripts, as LibriSpeech has them."""

import pytest

from tests.helpers.corpus import Corpus

TEXTS = ("SEE THE MOON", "MOMMA KEEPS A COOKIE", "KEEP SEEING QUILTER'S SOUP")


@pytest.fixture
def spoken(corpus, tmp_path, monkeypatch) -> Corpus:
    """One that a test may spoil; headers are cached in the test's own folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    own = corpus.copy(tmp_path / "corpus")
    for number, (name, path) in enumerate(sorted(own.audio.items())):
        lines = path.parent / f"{path.parent.parent.name}-{path.parent.name}.trans.txt"
        with lines.open("a") as file:
            file.write(f"{name} {TEXTS[number % len(TEXTS)]}\n")
    return own
