"""s3prl's runner with the upstream served from the store: known answers from the upstream itself."""

from __future__ import annotations

import argparse
import logging
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from s3prl_mi.core.config import DataConfig
from s3prl_mi.data.audio import read_waveform
from s3prl_mi.data.splits import read_split
from s3prl_mi.downstream.reuse import RunsAsStock, StoredUpstream, examine, reusing
from s3prl_mi.states.extraction import Request, extract
from s3prl_mi.states.store import Store
from s3prl_mi.upstreams.loading import load_upstream
from s3prl_mi.upstreams.views import PLAIN

LENGTHS = (9000, 8000, 7500, 6100, 4800)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store", 10**9)


@pytest.fixture
def hubert(checkpoint):
    name, path = checkpoint("hubert-base")
    return load_upstream(name, str(path))


@pytest.fixture
def calls(hubert, monkeypatch):
    """Numbers of waveforms that the expert was called with."""
    seen: list[int] = []
    original = type(hubert.expert).forward

    def counted(self, wavs):
        seen.append(len(wavs))
        return original(self, wavs)

    monkeypatch.setattr(type(hubert.expert), "forward", counted)
    return seen


def speech(seed: int = 0) -> list[torch.Tensor]:
    rng = np.random.default_rng(seed)
    return [torch.tensor(0.1 * rng.standard_normal(n), dtype=torch.float32) for n in LENGTHS]


def loader_of(waveforms, bucket: int = 1, change=lambda w: w) -> SimpleNamespace:
    """What `examine` sees of a data loader; buckets overlap as those of s3prl's ctc."""

    class Data:
        def __len__(self):
            return len(waveforms)

        def __getitem__(self, n):
            first = min(n, len(waveforms) - bucket)
            return waveforms[first : first + bucket]

    return SimpleNamespace(dataset=Data(), collate_fn=lambda batch: ([change(w) for w in batch[0]], None))


def begun(upstream, store, waveforms, **more) -> StoredUpstream:
    served = StoredUpstream(upstream, store, **more)
    served.begin("train", loader_of(waveforms))
    return served


def stock(upstream, waveform) -> list[torch.Tensor]:
    with torch.no_grad():
        return [h[0] for h in upstream.expert([waveform])["hidden_states"]]


def assert_close(found, expected, tolerance=2e-3):
    """Root mean square error within so many standard deviations."""
    assert found.shape == expected.shape
    assert float((found - expected).square().mean().sqrt() / expected.std()) < tolerance


def test_hidden_states_are_the_upstreams_up_to_float16_and_come_from_disk_the_second_time(hubert, store, calls):
    waveforms = speech()
    expected = [stock(hubert, w) for w in waveforms]
    first = begun(hubert, store, waveforms)
    fresh = first(waveforms)["hidden_states"]
    first.flush()
    for served in (first, begun(hubert, store, waveforms)):  # this run, and another one
        calls.clear()
        for number, waveform in enumerate(waveforms):
            result = served([waveform])
            assert len(result["hidden_states"]) == len(expected[number]) == 3
            for layer, h in enumerate(result["hidden_states"]):
                assert_close(h[0], expected[number][layer])
                assert_close(fresh[layer][number, : h.shape[1]], expected[number][layer], 1e-5)
            assert result["last_hidden_state"] is result["hidden_states"][-1]
        assert calls == []
    assert (first.passes, first.served) == (5, 5)


def test_a_batch_is_padded_with_each_utterances_last_frame(hubert, store):
    waveforms = speech()
    h = begun(hubert, store, waveforms)(waveforms)["hidden_states"][1]
    alone = stock(hubert, waveforms[3])[1]
    assert_close(h[3, : len(alone)], alone, 1e-5)
    assert torch.equal(h[3, len(alone) :], h[3, len(alone) - 1].expand(h.shape[1] - len(alone), -1))


def test_a_changed_waveform_is_another_one(hubert, store, calls):
    waveforms = speech()
    served = begun(hubert, store, waveforms)
    served(waveforms)
    changed = waveforms[0].clone()
    changed[100] += 1 / 32768
    calls.clear()
    served([waveforms[0]])
    assert calls == []
    served([changed])
    assert calls == [1]


def test_what_our_tasks_have_stored_is_found(hubert, store, corpus, calls):
    split = read_split(DataConfig(libri_root=str(corpus.root)), "eval")
    extract(store, [Request(hubert, split, PLAIN, (0, 1, 2), "auto")])
    waveforms = [torch.from_numpy(read_waveform(u)) for u in split.utterances]
    served = begun(hubert, store, waveforms)
    expected = [stock(hubert, w) for w in waveforms]
    calls.clear()
    for waveform, states in zip(waveforms, expected, strict=True):
        assert_close(served([waveform])["hidden_states"][2][0], states[2])
    assert calls == []


def test_one_layer_is_stored_where_one_is_selected(hubert, store):
    waveforms = speech()
    served = begun(hubert, store, waveforms, layer=1)
    result = served(waveforms)
    assert [h is None for h in result["hidden_states"]] == [True, False, True]
    assert result["hidden_states"][1].shape[0] == 5
    served.flush()
    assert [e.layers for e in store.entries()] == [[1]]


def test_states_that_float16_cannot_hold_are_stored_as_float32(hubert, store, monkeypatch):
    waveforms = speech()
    served = begun(hubert, store, waveforms)
    monkeypatch.setattr("s3prl_mi.states.writer.LARGEST_ERROR", 0.0)
    served(waveforms)
    served.flush()
    assert [e.dtype for e in store.entries()] == ["float32"]
    assert_close(served(waveforms)["hidden_states"][1][0], stock(hubert, waveforms[0])[1], 1e-6)


def assert_stock(served, waveforms, store, caplog, why):
    """It runs as stock, padding included, and says so in one line."""
    assert [why in record.getMessage() for record in caplog.records] == [True]
    with torch.no_grad():
        expected = served.expert(waveforms)["hidden_states"]
    assert all(torch.equal(a, b) for a, b in zip(served(waveforms)["hidden_states"], expected, strict=True))
    served.flush()
    assert store.entries() == []


def test_without_room_it_runs_as_stock(hubert, tmp_path, caplog):
    store, waveforms = Store(tmp_path / "small", 10_000), speech()
    assert_stock(begun(hubert, store, waveforms), waveforms, store, caplog, "may take 1e-05 GB")


def test_utterances_cut_at_random_run_as_stock(hubert, store, caplog):
    waveforms = speech()
    served = StoredUpstream(hubert, store)
    before = random.getstate()
    served.begin("train", loader_of(waveforms, change=lambda w: w[random.randrange(100) :]))
    assert random.getstate() == before
    assert_stock(served, waveforms, store, caplog, "at random")


def test_what_changes_unnoticed_does_not_fill_the_disk(hubert, store, monkeypatch, caplog):
    monkeypatch.setattr("s3prl_mi.downstream.reuse.SLACK_BYTES", 0)
    served = begun(hubert, store, speech())
    for seed in range(5):
        served(speech(seed))
    assert "more speech than its data set" in caplog.text
    assert served.passes == 10  # the expected five, then a half more


def test_buckets_that_overlap_are_counted_once():
    rng = np.random.default_rng(0)
    waveforms = [torch.tensor(rng.standard_normal(900 - n), dtype=torch.float32) for n in range(40)]
    total = sum(map(len, waveforms))
    assert examine(loader_of(waveforms[:12], bucket=4)).expected(lambda _, n: n) == sum(map(len, waveforms[:12]))
    assert examine(loader_of(waveforms, bucket=8)).expected(lambda _, n: n) == pytest.approx(total, rel=0.2)
    assert examine(loader_of(waveforms)).expected(lambda _, n: n) == pytest.approx(total, rel=0.05)


def test_an_upstream_that_s3prl_has_otherwise_is_refused(hubert, store, monkeypatch):
    monkeypatch.setattr("s3prl_mi.downstream.reuse.hidden_states", lambda *_: [[torch.zeros(99, 32)] * 3])
    with pytest.raises(RunsAsStock, match="entry 0"):
        StoredUpstream(hubert, store)


class FakeRunner:
    """The part of s3prl's runner that is replaced."""

    def __init__(self, args):
        self.args = args
        self.upstream = self._get_upstream()
        self.downstream = self._get_downstream()

    def _get_upstream(self):
        return SimpleNamespace(model="stock")

    def _get_downstream(self):
        loaders = {"train": loader_of(speech()), "dev": loader_of(speech(1))}
        return SimpleNamespace(model=SimpleNamespace(get_dataloader=lambda split, epoch=0: loaders[split]))

    def _init_model(self, model, name, trainable, interfaces):
        return SimpleNamespace(model=model)

    def train(self):
        for _ in range(3):
            self.downstream.model.get_dataloader("train", epoch=1)
            self.upstream.model(speech()[:2])
            self.evaluate("dev")
            self.upstream.model(speech()[2:])

    def evaluate(self, split):
        self.downstream.model.get_dataloader(split)
        self.upstream.model(speech(1))


def arguments(checkpoint, **changes):
    name, path = checkpoint("hubert-base")
    values = {"upstream": name, "upstream_ckpt": str(path), "upstream_model_config": None, "upstream_refresh": False}
    values |= {"device": "cpu", "upstream_feature_selection": "hidden_states", "upstream_layer_selection": None}
    values |= {"upstream_trainable": False, "local_rank": None, "hub": "torch"}
    return argparse.Namespace(**values | changes)


def test_runner_passes_each_utterance_once_in_all_epochs_and_runs(checkpoint, store, caplog):
    caplog.set_level(logging.INFO)
    for passes in (10, 0):
        runner = reusing(FakeRunner, store)(arguments(checkpoint))
        runner.train()
        assert runner.upstream.model.passes == passes
    lines = [r.getMessage() for r in caplog.records]
    assert len(lines) == 4  # train and dev of each run
    assert "train: hidden states of 2 s of speech take 0." in lines[0]
    assert lines[0].endswith("of it new.")
    assert lines[3].endswith("which are there.")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"upstream_trainable": True}, "-f trains it"),
        ({"local_rank": 0}, "several processes"),
        ({"upstream": "fbank", "upstream_ckpt": None}, "within seconds"),
        ({"upstream_feature_selection": "no_such"}, "no_such"),
    ],
)
def test_runner_is_stock_where_states_cannot_be_served(changes, why, checkpoint, store, caplog):
    before = torch.get_rng_state()
    assert reusing(FakeRunner, store)(arguments(checkpoint, **changes)).upstream.model == "stock"
    assert [why in r.getMessage() for r in caplog.records] == [True]
    assert torch.equal(torch.get_rng_state(), before)


def test_two_runs_at_once_store_each_waveform_once(hubert, store):
    waveforms = speech()
    runs = [begun(hubert, store, waveforms) for _ in range(2)]
    runs[0](waveforms[:4])
    runs[1](waveforms[2:])
    for run in runs:
        run.flush()
    stored = [digest for entry in store.entries() for digest in entry.waveforms]
    assert len(stored) == len(set(stored)) == 5
    assert (runs[1].passes, runs[1].served) == (3, 0)
    runs[1](waveforms)
    assert (runs[1].passes, runs[1].served) == (3, 5)  # what the other one has stored, too
