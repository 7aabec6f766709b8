"""Both tasks give the same bits however hidden states are kept; limits hold; the choice is said and noted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from s3prl_mi.states import extraction, provider
from s3prl_mi.states.store import Store
from s3prl_mi.states.writer import TooCoarse, Writer
from tests.helpers.runner import Runner
from tests.helpers.store import append, rewrite


@pytest.fixture(scope="module")
def on_disk(corpus, checkpoint, tmp_path_factory) -> Runner:
    """Both tasks with their states on disk. For reading only."""
    runner = Runner(corpus, tmp_path_factory.mktemp("on_disk"), checkpoint)
    for task in ("mi_supervised", "mi_views"):
        assert runner(task, "hubert-base", "--store_mode", "disk", name=task, seeds=1) == 0
    return runner


@pytest.fixture
def passes(monkeypatch) -> list[str]:
    """Split and view of each extraction, with its layers."""
    seen: list[str] = []
    original = extraction._extract

    def counted(store, requests, *rest):
        for view in dict.fromkeys(r.view for r in requests):
            layers = [n for r in requests if r.view == view for n in r.layers]
            seen.append(f"{requests[0].split.name} {view.describe()} {layers}")
        return original(store, requests, *rest)

    monkeypatch.setattr(extraction, "_extract", counted)
    return seen


@pytest.fixture
def peak(monkeypatch) -> list[int]:
    """Bytes of the states that lie on disk or in memory, at the end of each extraction."""
    seen: list[int] = []
    original = provider.extract

    def measured(store, *rest):
        found = original(store, *rest)
        kept = [e.bytes for e in getattr(store, "_entries", {}).values()]
        files = [p.stat().st_size for p in store.root.rglob("layer_*.bin")]
        seen.append(sum(kept) + sum(files))
        return found

    monkeypatch.setattr(provider, "extract", measured)
    return seen


def files(run: Runner) -> list[Path]:
    return [p for p in (run.folder / "store").rglob("*.bin")]


def size_of(runner: Runner) -> int:
    """Bytes of all layer files of the store."""
    return sum(p.stat().st_size for p in files(runner))


def note(run: Runner, name: str = "experiment") -> dict:
    return json.loads((run.folder / name / "mi_settings.json").read_text())["hidden_states"]


@pytest.mark.parametrize("task", ["mi_supervised", "mi_views"])
def test_memory_gives_the_bits_of_the_disk_and_writes_nothing(run, on_disk, capsys, task):
    assert run(task, "hubert-base", "--store_mode", "memory", seeds=1) == 0
    assert run.numbers() == on_disk.numbers(task)
    assert not files(run)
    assert "kept in memory: asked for" in capsys.readouterr().err
    assert note(run) == {"mode": "memory", "scratch": "memory", "groups": 1, "reason": "asked for"}


@pytest.mark.parametrize("task", ["mi_supervised", "mi_views"])
@pytest.mark.parametrize("scratch", ["memory", "disk"])
def test_recomputing_gives_the_bits_of_the_disk_within_the_limit(
    run, on_disk, capsys, monkeypatch, passes, peak, task, scratch
):
    """A limit of two of three layers: two groups."""
    views = 2 if task == "mi_views" else 1
    whole = size_of(on_disk) // 2 * views  # the store of `on_disk` holds both views
    limit = int(0.7 * whole)
    if scratch == "disk":
        monkeypatch.setattr(provider, "MEMORY_BYTES", 0)
    words = ("--store_mode", "recompute", "--max_store_gb", str(limit / 1e9))
    assert run(task, "hubert-base", *words, seeds=1) == 0
    assert run.numbers() == on_disk.numbers(task)
    assert len(passes) == 2 * 3 * views
    assert sum("[0, 1]" in p for p in passes) == sum("[2]" in p for p in passes) == 3 * views
    assert 0.6 * whole < max(peak) <= limit
    assert not files(run)
    said = capsys.readouterr().err
    assert "2 groups of layers" in said
    assert (note(run)["scratch"], note(run)["groups"]) == (scratch, 2)


def test_a_recomputed_run_that_was_interrupted_goes_on_with_the_layers_that_lack(run, on_disk, passes):
    """The mode may change: what is in the settings of it refuses nothing."""
    assert run("mi_supervised", "hubert-base", "--store_mode", "memory", layers=[0], seeds=1) == 0
    passes.clear()
    limit = 0.4 * size_of(on_disk) / 2 / 1e9  # one layer at a time
    words = ("-a", "--store_mode", "recompute", "--max_store_gb", str(limit))
    assert run("mi_supervised", "hubert-base", *words, layers=[0, 1, 2], seeds=1) == 0
    assert not any("[0]" in p for p in passes)
    assert sum("[1]" in p for p in passes) == sum("[2]" in p for p in passes) == 3
    assert run.numbers() == on_disk.numbers("mi_supervised")


def test_evaluate_in_every_mode(on_disk, capsys):
    whole = size_of(on_disk) / 1e9
    results = on_disk.folder / "mi_supervised" / "evaluate" / "eval" / "mi_results.jsonl"
    found = []
    limits = {"disk": 50.0, "memory": 50.0, "recompute": 0.2 * whole}
    for mode, limit in limits.items():
        root = f"config.downstream_expert.store.root='{on_disk.folder / mode}'"
        words = ("--store_mode", mode, "--max_store_gb", str(limit), "-o", root)
        assert on_disk.evaluate("eval", *words, name="mi_supervised") == 0
        lines = [json.loads(line) for line in results.read_text().splitlines()]
        found.append([(r["layer"], r["seed"], r["mi_lower_bound_bits"]) for r in lines])
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 3
    assert "groups of layers" in capsys.readouterr().err


def test_auto_goes_from_disk_to_memory_to_layers(run, on_disk, capsys, monkeypatch):
    whole = size_of(on_disk)
    too_small = 0.7 * whole / 1e9
    expected = {}
    for memory, mode in ((1 << 30, "memory"), (int(0.5 * whole), "recompute")):
        monkeypatch.setattr(provider, "MEMORY_BYTES", memory)
        words = ("--max_store_gb", str(too_small))
        assert run("mi_views", "hubert-base", *words, seeds=1, name=mode) == 0
        assert run.numbers(mode) == on_disk.numbers("mi_views")
        assert note(run, mode)["mode"] == mode
        expected[mode] = note(run, mode)["reason"]
        assert "store.max_gb" in expected[mode]
        assert expected[mode] in capsys.readouterr().err
    assert run("mi_views", "hubert-base", seeds=1, name="disk") == 0
    assert note(run, "disk") == {"mode": "disk", "scratch": "disk", "groups": 1, "reason": None}
    # now that all is there, no limit stands in the way
    assert run("mi_views", "hubert-base", "--max_store_gb", str(too_small), seeds=1, name="again") == 0
    assert note(run, "again")["mode"] == "disk"
    assert run.numbers("again") == on_disk.numbers("mi_views")


def test_auto_keeps_spectral_upstreams_in_memory(run):
    assert run("mi_views", "fbank", seeds=1) == 0
    assert note(run)["reason"] == "fbank is computed again within seconds"
    assert not files(run)
    assert run("mi_views", "fbank", "--store_mode", "disk", seeds=1, name="disk") == 0
    assert files(run)
    assert run.numbers() == run.numbers("disk")


def test_auto_does_without_a_store_that_cannot_be_written(run, on_disk):
    (run.folder / "file").write_text("in the way")
    assert run("mi_supervised", "hubert-base", seeds=1, store__root=str(run.folder / "file" / "store")) == 0
    assert note(run)["mode"] == "memory"
    assert "cannot be written" in note(run)["reason"]
    assert run.numbers() == on_disk.numbers("mi_supervised")


@pytest.mark.parametrize("mode", ["disk", "memory", "recompute", "auto"])
def test_what_fits_nowhere_is_refused_before_extraction(run, capsys, monkeypatch, passes, mode):
    monkeypatch.setattr(provider, "MEMORY_BYTES", 1000)
    capsys.readouterr()
    assert run("mi_views", "hubert-base", "--store_mode", mode, "--max_store_gb", "0.00001") == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: the hidden states of this run need")
    assert "store.max_gb" in said
    assert passes == []


def test_states_too_coarse_for_float16_are_worked_in_smaller_groups(run, monkeypatch, passes):
    """float16 fits; float32, which it turns out must be taken, does not."""
    assert run("mi_supervised", "hubert-base", seeds=1, name="wide", store__dtype="float32") == 0
    whole = size_of(run)
    monkeypatch.setattr(provider, "MEMORY_BYTES", 0)

    def coarse(*_):
        raise TooCoarse

    original = Writer.finish
    monkeypatch.setattr(Writer, "finish", lambda w: coarse() if w.dtype == "float16" else original(w))
    passes.clear()
    root = str(run.folder / "other")
    limit = ("--max_store_gb", str(0.7 * whole / 1e9))
    assert run("mi_supervised", "hubert-base", *limit, seeds=1, store__root=root) == 0
    assert run.numbers() == run.numbers("wide")
    # both fit splits fit as float32, the eval split does not
    assert [p for p in passes if "[0, 1, 2]" in p] == passes[:5]
    assert sum("[0, 1]" in p for p in passes) == sum("[2]" in p for p in passes) == 3
    assert Store(Path(root), 0).entries() == []


@pytest.mark.parametrize("value", ["0", "-1"])
def test_a_limit_that_is_none_is_refused(run, capsys, value):
    assert run("mi_views", "fbank", "--max_store_gb", value) == 1
    assert "downstream_expert.store.max_gb: expected a positive number of GB" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("model", ["hubert-base", "apc", "fbank", "mel"])
def test_the_size_that_is_stated_is_the_size_on_disk(run, monkeypatch, model, dtype):
    """Several splits, and both views of a model that is masked."""
    stated: list[int] = []
    original = provider.HiddenStateProvider._report

    def report(states, choice, needs):
        stated.append(sum(needs.values()))
        original(states, choice, needs)

    monkeypatch.setattr(provider.HiddenStateProvider, "_report", report)
    settings = {"store__dtype": dtype, "store__mode": "disk", "seeds": 1}
    assert run("mi_views", model, **settings, clusters=3) == 0
    assert size_of(run) == pytest.approx(stated[0], rel=0.02)


def test_entries_of_different_utterances_are_refused(run, capsys):
    """A recording that could be read for one view and not for the other: pairs would be wrong from there on."""
    words = dict(layers=[0], seeds=1, clusters=4)
    assert run("mi_supervised", "hubert-base", layers=[0], seeds=1) == 0
    stored = sorted((run.folder / "store").rglob("manifest.json"))
    content = json.loads(stored[0].read_text())
    first, count = content["utterances"].pop(0), content["n_frames"].pop(0)
    content["parts"]["part-000000"] -= count
    for layer, dim in zip(content["layers"], content["dims"], strict=True):
        path = stored[0].parent / "part-000000" / f"layer_{layer}.bin"
        path.write_bytes(path.read_bytes()[count * dim * np.dtype(content["dtype"]).itemsize :])
    rewrite(stored[0].parent, content)
    assert run("mi_views", "hubert-base", name="views", **words) == 1
    assert f"utterance {first} is in only one of" in capsys.readouterr().err


def test_what_a_run_has_read_itself_makes_room(tmp_path):
    """A group of layers that is done with: its entry may go, though its frames are still held."""
    store = Store(tmp_path, 100_000)
    with store.writer("one", {}, [0], "float32", [(0, 1)]) as writer:
        append(writer, 0, "a", [np.zeros((1000, 10))])
        path = writer.finish().path
    held = store.find("one", [0])
    store.make_room(80_000, [], ["two"])
    assert not path.exists()
    del held
