"""Splits into the store: the same whatever the batch, bad files counted, nothing extracted twice."""

from __future__ import annotations

import errno
import re
import weakref
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from s3prl_mi.core.config import DataConfig
from s3prl_mi.core.errors import MIError
from s3prl_mi.data.splits import read_split
from s3prl_mi.states import extraction
from s3prl_mi.states.entry import Entry
from s3prl_mi.states.extraction import Request
from s3prl_mi.states.store import Store
from s3prl_mi.states.writer import Writer
from s3prl_mi.upstreams import forward
from s3prl_mi.upstreams.loading import load_upstream
from s3prl_mi.upstreams.precision import of_view
from s3prl_mi.upstreams.views import PLAIN, View
from tests.helpers.corpus import RATE

MASK = View("mask", "latent", 10, 4)


@pytest.fixture(scope="module")
def hubert(checkpoint):
    name, path = checkpoint("hubert-base")
    return load_upstream(name, str(path))


@pytest.fixture(scope="module")
def fbank():
    return load_upstream("fbank")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store", 10**9)


@pytest.fixture
def passes(monkeypatch):
    """Numbers of utterances of each forward pass."""
    seen: list[int] = []
    original = forward.hidden_states

    def counted(upstream, waveforms, view=None, front=None):
        seen.append(len(waveforms))
        return original(upstream, waveforms, view, front)

    monkeypatch.setattr(forward, "hidden_states", counted)
    return seen


def split_of(root: Path, name: str = "fit-a", **more):
    return read_split(DataConfig(libri_root=str(root), **more), name)


def extracted(store: Store, upstream, split, view: View, layers, dtype: str, size: int) -> Entry:
    return extraction.extract(store, [Request(upstream, split, view, tuple(layers), dtype)], size)[0]


def spoil(path: Path) -> None:
    """A header that says all is well, and a body that is not."""
    content = bytearray(path.read_bytes())
    content[len(content) // 3 :] = bytes(len(content) - len(content) // 3)
    path.write_bytes(content)


def test_a_split_says_what_is_in_it(corpus):
    split = split_of(corpus.root)
    assert [u.id for u in split.utterances] == corpus.of("fit-a")
    assert split.speakers == {"11", "12"}
    seconds = sum(corpus.spans[u][-1][1] for u in corpus.of("fit-a"))
    assert split.seconds == pytest.approx(seconds)
    assert split.describe() == f"fit-a: 6 utterances, {seconds / 60:.1f} min, 2 speakers"


@pytest.mark.parametrize("view", [PLAIN, MASK], ids=["plain", "mask"])
@pytest.mark.parametrize("size", [1, 3])
def test_batch_size_does_not_change_states(corpus, hubert, store, view, size):
    split = split_of(corpus.root)
    entry = extracted(store, hubert, split, view, [0, 1, 2], "float32", size)
    assert entry.utterances == sorted(entry.utterances, key=lambda u: (-split.n_samples[u], u))
    assert sorted(entry.utterances) == corpus.of("fit-a")
    for layer in (0, 1, 2):
        stored, start = entry.layer(layer)[:], 0
        for name, count in zip(entry.utterances, entry.n_frames, strict=True):
            audio, _ = soundfile.read(corpus.audio[name], dtype="float32")
            alone = forward.hidden_states(hubert, [torch.from_numpy(audio)], view)[0][layer].numpy()
            assert alone.shape == (count, entry.dims[layer])
            np.testing.assert_allclose(stored[start : start + count], alone, atol=2e-5)
            start += count
        assert start == len(stored)


def test_nothing_is_extracted_twice(corpus, hubert, store, passes):
    first = extracted(store, hubert, split_of(corpus.root), PLAIN, [0, 1, 2], "auto", 2)
    assert sum(passes) == 6
    assert first.dtype == "float16"
    passes.clear()
    assert extracted(store, hubert, split_of(corpus.root), PLAIN, [1], "auto", 1) == first
    assert passes == []
    extracted(store, hubert, split_of(corpus.root), MASK, [1], "auto", 6)
    assert sum(passes) == 6


def test_float32_is_not_served_from_float16(corpus, fbank, store, passes):
    extracted(store, fbank, split_of(corpus.root), PLAIN, [0], "float16", 2)
    passes.clear()
    assert extracted(store, fbank, split_of(corpus.root), PLAIN, [0], "float32", 2).dtype == "float32"
    assert sum(passes) == 6


def test_changed_audio_under_the_same_name_is_extracted_again(corpus, fbank, store, tmp_path, passes):
    mine = corpus.copy(tmp_path)
    extracted(store, fbank, split_of(mine.root), PLAIN, [0], "auto", 2)
    passes.clear()
    name = mine.of("fit-a")[0]
    soundfile.write(mine.audio[name], np.random.default_rng(0).standard_normal(RATE) * 0.1, RATE)
    extracted(store, fbank, split_of(mine.root), PLAIN, [0], "auto", 2)
    assert sum(passes) == 6


def test_the_same_audio_elsewhere_is_found(corpus, fbank, store, tmp_path, passes):
    extracted(store, fbank, split_of(corpus.root), PLAIN, [0], "auto", 2)
    passes.clear()
    extracted(store, fbank, split_of(corpus.copy(tmp_path).root), PLAIN, [0], "auto", 2)
    assert passes == []


def test_a_killed_run_goes_on_with_the_utterances_that_lack(corpus, fbank, store, monkeypatch, passes):
    split = split_of(corpus.root)
    counted = forward.hidden_states

    def killed(upstream, waveforms, view=None, front=None):
        if len(passes) == 4:
            raise KeyboardInterrupt
        return counted(upstream, waveforms, view, front)

    monkeypatch.setattr(forward, "hidden_states", killed)
    with pytest.raises(KeyboardInterrupt):
        extracted(store, fbank, split, PLAIN, [0], "auto", 1)
    assert len(store.partial_folders()) == 1
    passes.clear()
    monkeypatch.setattr(forward, "hidden_states", counted)
    entry = extracted(store, fbank, split, PLAIN, [0], "auto", 1)
    assert len(passes) == 2
    whole = extracted(Store(store.root / "other", 10**9), fbank, split, PLAIN, [0], "auto", 1)
    assert (entry.utterances, entry.n_frames) == (whole.utterances, whole.n_frames)
    np.testing.assert_array_equal(entry.layer(0)[:], whole.layer(0)[:])


def test_an_error_while_writing_shows_and_the_next_run_goes_on(corpus, fbank, store, monkeypatch, passes):
    split = split_of(corpus.root)
    write, calls = Writer.write, []

    def full(self, *batch):
        calls.append(batch)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "no space left")
        write(self, *batch)

    monkeypatch.setattr(Writer, "write", full)
    with pytest.raises(OSError, match="no space left"):
        extracted(store, fbank, split, PLAIN, [0], "auto", 1)
    assert len(calls) == 3, "nothing may be written after what is missing"
    monkeypatch.setattr(Writer, "write", write)
    passes.clear()
    entry = extracted(store, fbank, split, PLAIN, [0], "auto", 1)
    assert len(passes) == 4
    whole = extracted(Store(store.root / "other", 10**9), fbank, split, PLAIN, [0], "auto", 1)
    assert entry.utterances == whole.utterances
    np.testing.assert_array_equal(entry.layer(0)[:], whole.layer(0)[:])


@pytest.mark.parametrize("precision", ["fp32", "mixed", "bf16"])
def test_views_extracted_together_are_those_extracted_alone(corpus, hubert, store, tmp_path, precision):
    split = split_of(corpus.root)
    requests = [Request(hubert, split, v, (0, 2), "float32", of_view(precision, v)) for v in (PLAIN, MASK)]
    together = extraction.extract(store, requests, 2)
    for number, request in enumerate(requests):
        (alone,) = extraction.extract(Store(tmp_path / f"alone-{number}", 10**9), [request], 2)
        assert (alone.utterances, alone.n_frames) == (together[number].utterances, together[number].n_frames)
        for layer in (0, 2):
            np.testing.assert_array_equal(alone.layer(layer)[:], together[number].layer(layer)[:])


def test_a_view_that_lacks_less_is_gone_on_with_beside_another(corpus, hubert, store, tmp_path, monkeypatch, passes):
    """A run that measured one view was killed; the next one wants two."""
    split = split_of(corpus.root)
    counted = forward.hidden_states

    def killed(upstream, waveforms, view=None, front=None):
        if len(passes) == 2:
            raise KeyboardInterrupt
        return counted(upstream, waveforms, view, front)

    plain, masked = requests = [Request(hubert, split, v, (1,), "auto") for v in (PLAIN, MASK)]
    monkeypatch.setattr(forward, "hidden_states", killed)
    with pytest.raises(KeyboardInterrupt):
        extraction.extract(store, [masked], 2)
    passes.clear()
    monkeypatch.setattr(forward, "hidden_states", counted)
    found = extraction.extract(store, requests, 2)
    assert sum(passes) == 6 + 2
    whole = extraction.extract(Store(tmp_path / "other", 10**9), [plain, masked], 2)
    for a, b in zip(found, whole, strict=True):
        np.testing.assert_array_equal(a.layer(1)[:], b.layer(1)[:])


@pytest.mark.parametrize(("most", "sizes", "lines"), [(2, [4, 2, 2], 1), (1, [4, 2, 1, 1, 1, 1], 2)])
def test_a_batch_that_does_not_fit_into_memory_is_halved(
    corpus, hubert, store, tmp_path, monkeypatch, caplog, most, sizes, lines
):
    split, original = split_of(corpus.root), forward.hidden_states
    monkeypatch.setattr(extraction, "SHORTEST_OF_BATCH", 0.0)
    requests = [Request(hubert, split, view, (1, 2), "float32") for view in (PLAIN, MASK)]
    whole = extraction.extract(Store(tmp_path / "other", 10**9), requests, 4)
    seen: list[int] = []
    held: list[weakref.ref[torch.Tensor]] = []

    def small(upstream, waveforms, view=None, front=None):
        seen.append(len(waveforms))
        assert not any(h() is not None for h in held), "what the failed pass allocated is still there"
        if len(waveforms) > most:
            activations = torch.zeros(8)
            held.append(weakref.ref(activations))
            if front is not None:
                front.made[0] = activations
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return original(upstream, waveforms, view, front)

    monkeypatch.setattr(forward, "hidden_states", small)
    halved = extraction.extract(store, requests, 4)
    assert seen[: len(sizes)] == sizes
    assert max(seen[1:]) <= 2
    said = [r.getMessage() for r in caplog.records if "out of memory" in r.getMessage()]
    assert len(said) == lines
    assert re.fullmatch(
        r"out of memory in a forward pass over 4 utterances, the longest of them \S+ \(\d\.\d s\): batches as large as "
        "this are halved.",
        said[0],
    )
    for a, b in zip(whole, halved, strict=True):
        assert a.utterances == b.utterances
        np.testing.assert_allclose(a.layer(2)[:], b.layer(2)[:], atol=1e-4)


def test_an_utterance_that_does_not_fit_into_memory_is_named(corpus, hubert, store, monkeypatch):
    def none(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(forward, "hidden_states", none)
    with pytest.raises(MIError, match=r"over one utterance, \S+ \(\d\.\d s\)\. Leave long .*datarc\.max_seconds\.$"):
        extracted(store, hubert, split_of(corpus.root), PLAIN, [1], "float32", 3)


def test_states_too_coarse_for_float16_are_kept_as_float32_or_refused(corpus, fbank, store, monkeypatch):
    """One dimension has its like in nothing before: 1e7 times its first utterance's spread."""

    def far(upstream, waveforms, view=None, front=None):
        original = forward_states(upstream, waveforms, view, front)
        for utterance in original:
            if len(seen) and len(seen) % 2:
                utterance[0][0, 0] += 1e7
            seen.append(1)
        return original

    seen: list[int] = []
    forward_states = forward.hidden_states
    monkeypatch.setattr(forward, "hidden_states", far)
    entry = extracted(store, fbank, split_of(corpus.root), PLAIN, [0], "auto", 1)
    assert entry.dtype == "float32"
    assert store.partial_folders() == []
    seen.clear()
    with pytest.raises(MIError, match=r"store\.dtype to auto or float32"):
        extracted(Store(store.root / "other", 10**9), fbank, split_of(corpus.root), PLAIN, [0], "float16", 1)


def test_a_corrupt_body_is_counted_and_skipped(corpus, fbank, store, tmp_path, passes):
    mine = corpus.copy(tmp_path)
    bad = mine.of("fit-a")[2]
    spoil(mine.audio[bad])
    split = split_of(mine.root, max_unreadable=0.2)
    assert bad in [u.id for u in split.utterances], "the header alone must look well"
    entry = extracted(store, fbank, split, PLAIN, [0], "auto", 2)
    assert bad not in entry.utterances
    assert len(entry.utterances) == 5
    ((name, why),) = entry.skipped
    assert name == bad
    assert f"{bad}.flac" in why
    good = extracted(store, fbank, split_of(corpus.root), PLAIN, [0], "auto", 2)
    assert entry.n_frames == [n for u, n in zip(good.utterances, good.n_frames, strict=True) if u != bad]


def test_too_large_a_share_of_corrupt_files_is_refused(corpus, fbank, store, tmp_path):
    mine = corpus.copy(tmp_path)
    for name in mine.of("fit-a")[:2]:
        spoil(mine.audio[name])
    split = split_of(mine.root, max_unreadable=0.2)
    with pytest.raises(MIError, match="2 of 6 audio files cannot be read"):
        extracted(store, fbank, split, PLAIN, [0], "auto", 1)
    # nor does a second try get through with what the first one left
    with pytest.raises(MIError, match="2 of 6 audio files cannot be read"):
        extracted(store, fbank, split, PLAIN, [0], "auto", 1)


def test_files_without_a_header_and_corrupt_bodies_share_one_limit(corpus, fbank, store, tmp_path):
    mine = corpus.copy(tmp_path)
    empty, corrupt = mine.of("fit-a")[:2]
    mine.audio[empty].write_bytes(b"")
    spoil(mine.audio[corrupt])
    split = split_of(mine.root, max_unreadable=0.2)
    assert [u for u, _ in split.unreadable] == [empty]
    with pytest.raises(MIError, match="2 of 6 audio files"):
        extracted(store, fbank, split, PLAIN, [0], "auto", 1)


def test_audio_shorter_than_a_frame_is_skipped(corpus, hubert, store, tmp_path):
    mine = corpus.copy(tmp_path)
    short = mine.of("fit-a")[0]
    soundfile.write(mine.audio[short], np.full(380, 0.1), RATE)
    entry = extracted(store, hubert, split_of(mine.root, max_unreadable=0.2), PLAIN, [0], "auto", 2)
    assert len(entry.utterances) == 5


def test_batches_are_smaller_where_utterances_are_long(corpus, monkeypatch):
    split = split_of(corpus.root)
    longest = max(split.n_samples.values())
    monkeypatch.setattr(extraction, "BATCH_SECONDS", longest / RATE / 2)
    batches = list(extraction.batches_of(split, 4).values())
    assert [u for b in batches for u in b] == split.longest_first
    for batch in batches:
        padded = len(batch) * split.n_samples[batch[0].id]
        assert len(batch) == 1 or padded <= 4 * longest / 2
    assert len(batches[0]) < 4


def test_little_is_padded(corpus):
    split = split_of(corpus.root)
    lengths = split.n_samples
    found = extraction.batches_of(split, 100)
    batches = list(found.values())
    assert [u for b in batches for u in b] == split.longest_first
    assert all(split.longest_first[first:last] == batch for (first, last), batch in found.items())
    assert 1 < len(batches) < len(split.utterances)
    assert all(lengths[u.id] >= extraction.SHORTEST_OF_BATCH * lengths[b[0].id] for b in batches for u in b)


@pytest.mark.parametrize("item", [2, 4])
def test_what_is_announced_is_what_is_written(corpus, hubert, store, item):
    split = split_of(corpus.root)
    entry = extracted(store, hubert, split, PLAIN, [0, 1, 2], "float32" if item == 4 else "float16", 0)
    data = sum(f.stat().st_size for f in entry.path.rglob("layer_*.bin"))
    announced = Request(hubert, split, PLAIN, (0, 1, 2), entry.dtype).bytes(entry.dims)
    assert data <= announced <= 1.05 * data
