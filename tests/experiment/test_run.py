"""Both tasks from audio to report, through the command line, on tiny upstreams and a small corpus."""

from __future__ import annotations

import argparse
import csv
import errno
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from s3prl_mi.cli.run_downstream import main
from s3prl_mi.core.config import DataConfig, default_config
from s3prl_mi.data.utterances import list_utterances
from s3prl_mi.experiment import fit as fit_room
from s3prl_mi.experiment import folder as folder_room
from s3prl_mi.experiment import supervised_task, views_task
from s3prl_mi.results.class_contributions import CLASSES_FILE, read_classes
from s3prl_mi.results.record import RESULTS_FILE, read_records
from s3prl_mi.results.speaker_sums import SPEAKERS_FILE, read_speakers
from s3prl_mi.states import extraction
from s3prl_mi.states.store import Store
from s3prl_mi.states.writer import Writer
from s3prl_mi.upstreams import forward
from s3prl_mi.upstreams.compat import S3PRL
from tests.helpers.corpus import RATE, Corpus, write_textgrid
from tests.helpers.paths import REPO
from tests.helpers.runner import Runner

TASKS = ("mi_supervised", "mi_views")
BOTH = ["logistic", "mlp"]
FILES = ("mi_results.jsonl", "mi_summary.csv", "mi_layers.png", "log.log", "states-1.ckpt")
MASKED = ("mask(latent, 6 of 10 frames)", "masked", 6)
"""View, frames and clusters of the runs of mi_views on HuBERT, as in `Record.identity`."""
WHAT_IS_FITTED = (
    (supervised_task, "fit_supervised"),
    (supervised_task, "learn_weights"),
    (views_task, "fit_views"),
    (views_task, "fit_codebooks"),
)


def refused(run: Runner, capsys, *words, **more) -> str:
    """The one line of a command that must fail, after `error: `."""
    capsys.readouterr()
    assert run(*words, **more) == 1
    return one_error(capsys.readouterr().err)


def one_error(err: str) -> str:
    assert "Traceback" not in err
    lines = [line for line in re.split(r"[\r\n]+", err) if line.strip()]
    assert sum(line.startswith("error: ") for line in lines) == 1
    assert lines[-1].startswith("error: "), f"something after the message: {lines[-1]}"
    return lines[-1].removeprefix("error: ")


def never(*_args, **_kwargs):
    raise AssertionError("fitted again")


@pytest.fixture(scope="module")
def finished(corpus, checkpoint, tmp_path_factory) -> Runner:
    """Both tasks on a tiny HuBERT: all layers, both probes, two seeds. For reading only."""
    runner = Runner(corpus, tmp_path_factory.mktemp("finished"), checkpoint)
    for task in TASKS:
        assert runner(task, "hubert-base", name=task, probes=BOTH) == 0
    return runner


# --- end to end ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_every_layer_probe_and_seed_has_its_record(finished, task):
    numbers = finished.numbers(task)
    what, labels = ((None, "all", None), "phones") if task == "mi_supervised" else (MASKED, None)
    assert set(numbers) == {
        (layer, probe, *what, seed, labels) for layer in range(3) for probe in BOTH for seed in (1337, 1338)
    }
    for bound, entropy, cross_entropy, accuracy in numbers.values():
        assert bound == pytest.approx(entropy - cross_entropy, abs=1e-12)
        assert 0 <= accuracy <= 1
        assert entropy <= math.log2(7 if task == "mi_supervised" else 6)


def test_records_say_what_they_are_of(finished, corpus):
    for task in TASKS:
        for r in finished.records(task):
            assert (r.task, r.upstream, r.dim, r.layers_in_upstream) == (task, "hubert_local", 32, 3)
            assert r.checkpoint["name"] == "hubert-base.pt"
            assert re.fullmatch("[0-9a-f]{64}", r.checkpoint["sha256"])
            assert (r.fit_splits, r.eval_splits, r.frame_shift_ms) == (["fit-a", "fit-b"], ["eval"], 20)
            assert r.utterances == {"fit": 9, "eval": 6, "skipped": 0}
            assert r.protocol.startswith("default-")
            assert {"s3prl_mi", "torch", "transformers", "python"} <= set(r.versions)
            assert S3PRL.keys() & set(r.versions)
    supervised, views = (finished.records(task)[0] for task in TASKS)
    assert (supervised.n_classes, supervised.label_set) == (7, "phones, stress stripped, silence as a class")
    assert (supervised.view, supervised.n_clusters) == (None, None)
    assert (views.view, views.n_clusters, views.n_classes) == ("mask(latent, 6 of 10 frames)", 6, 6)
    samples = [round(corpus.spans[u][-1][1] * RATE) for u in corpus.of("eval")]
    frames = [(n - 400) // 320 + 1 for n in samples]
    assert supervised.eval_frames == sum(frames)
    assert views.eval_frames == sum(t % 10 >= 4 for n in frames for t in range(n))


@pytest.mark.parametrize("task", TASKS)
def test_every_file_is_written(finished, task):
    folder = finished.folder / task
    for name in FILES:
        assert (folder / name).stat().st_size > 0, name
    assert list(folder.glob("events.out.tfevents.*"))
    assert (folder / "mi_layers.png").read_bytes().startswith(b"\x89PNG")
    assert "best" in (folder / "log.log").read_text().splitlines()[-1]
    with open(folder / "mi_summary.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    numbers = finished.numbers(task)
    for row in rows:
        bits = [v[0] for k, v in numbers.items() if (str(k[0]), k[1]) == (row["layer"], row["probe"])]
        assert any(float(v) == pytest.approx(sum(bits) / 2, abs=1e-4) for v in row.values() if is_number(v))
    assert not list(folder.rglob("*.tmp*"))


def is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def test_phones_that_fbank_shows_are_found(run):
    """The phones of the corpus are bands of noise, which fbank shows at once."""
    assert run("mi_supervised") == 0
    for bound, entropy, _, accuracy in run.numbers().values():
        assert 0.5 * entropy < bound < entropy
        assert accuracy > 0.7


def test_apc_takes_the_shift_view_by_itself(run):
    assert run("mi_views", "apc") == 0
    records = run.records()
    assert {r.view for r in records} == {"shift(60 ms)"}
    assert {r.scored_frames for r in records} == {"all"}
    assert {r.layer for r in records} == {0, 1, 2}
    assert all(r.mi_lower_bound_bits > 0.1 for r in records)


def test_mlp_on_fbank(run):
    assert run("mi_supervised", probes=["mlp"], seeds=1) == 0
    assert run("mi_supervised", probes=["logistic"], seeds=1, name="logistic") == 0
    (mlp,), (logistic,) = run.records(), run.records("logistic")
    # the MLP is mixed with the logistic probe, so it is not far below it even on this little speech
    assert mlp.mi_lower_bound_bits > logistic.mi_lower_bound_bits - 0.2


# --- the same numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_the_same_command_gives_the_same_numbers(finished, run, task):
    """In a fresh folder, with hidden states extracted anew."""
    assert run(task, "hubert-base", probes=BOTH) == 0
    assert run.numbers() == finished.numbers(task)


def test_a_seed_changes_only_its_own_records(finished, run):
    assert run("mi_views", "hubert-base", seeds=[1338, 5], layers=[1]) == 0
    mine, theirs = run.numbers(), finished.numbers("mi_views")
    same, other = mine[(1, "logistic", *MASKED, 1338, None)], mine[(1, "logistic", *MASKED, 5, None)]
    assert same == pytest.approx(theirs[(1, "logistic", *MASKED, 1338, None)], abs=1e-6)
    assert other != same


def test_batch_size_changes_nothing_that_matters(finished, run):
    assert run("mi_supervised", "hubert-base", batch_size=1, layers="last") == 0
    key = (2, "logistic", None, "all", None, 1337, "phones")
    assert run.numbers()[key] == pytest.approx(finished.numbers("mi_supervised")[key], abs=1e-3)


# --- again, and on from where it stopped ------------------------------------------------------------------


def test_finished_and_continued_does_nothing_new(run, monkeypatch):
    assert run("mi_views") == 0
    before = (run.folder / "experiment" / RESULTS_FILE).read_bytes()
    monkeypatch.setattr(extraction, "_extract", never)
    for room, name in WHAT_IS_FITTED:
        monkeypatch.setattr(room, name, never)
    assert run("mi_views", "fbank", "-a") == 0
    assert (run.folder / "experiment" / RESULTS_FILE).read_bytes() == before


def test_an_experiment_of_version_1_is_continued(run):
    """Its records are upgraded as they are read; the new ones are of version 2, in the same file."""
    assert run("mi_views", "fbank", layers=[0], seeds=1) == 0
    path = run.folder / "experiment" / RESULTS_FILE
    version_1 = {"scored_frames": "frames", "n_clusters": "clusters", "n_classes": "labels"}
    fields = json.loads(path.read_text())
    del fields["schema_version"], fields["labels"]
    path.write_text(json.dumps({version_1.get(k, k): v for k, v in fields.items()}) + "\n")
    assert run("mi_views", "fbank", "-a", layers=[0], seeds=2) == 0
    assert [r.seed for r in read_records(path)] == [1337, 1338]


def test_more_seeds_and_layers_continue_an_experiment(run, finished):
    assert run("mi_supervised", "hubert-base", layers=[1], seeds=1) == 0
    assert run("mi_supervised", "hubert-base", "-a", layers=[1, 2], seeds=2) == 0
    mine, theirs = run.numbers(), finished.numbers("mi_supervised")
    assert set(mine) == {(la, "logistic", None, "all", None, s, "phones") for la in (1, 2) for s in (1337, 1338)}
    for key, value in mine.items():
        assert value == pytest.approx(theirs[key], abs=1e-3)


def test_continuing_with_other_settings_is_refused(run, capsys):
    assert run("mi_views", kmeans_iterations=4) == 0
    before = (run.folder / "experiment" / RESULTS_FILE).read_bytes()
    said = refused(run, capsys, "mi_views", "fbank", "-a", kmeans_iterations=5)
    assert "kmeans_iterations was 4, is 5" in said
    assert (run.folder / "experiment" / RESULTS_FILE).read_bytes() == before


def test_without_a_earlier_results_are_moved_aside(run, capsys):
    assert run("mi_views", clusters=4) == 0
    before = (run.folder / "experiment" / RESULTS_FILE).read_bytes()
    assert run("mi_views", clusters=5) == 0
    assert {r.n_clusters for r in run.records()} == {5}
    (aside,) = (run.folder / "experiment").glob("mi_results.*.jsonl")
    assert aside.read_bytes() == before
    assert aside.name in capsys.readouterr().err


class Interrupting:
    """Stands for `append_records`: Ctrl-C after so many groups of records."""

    def __init__(self, after: int) -> None:
        self.left, self.original = after, folder_room.append_records

    def __call__(self, path, records) -> None:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        self.original(path, records)


@pytest.mark.parametrize("task", TASKS)
def test_ctrl_c_then_continue(finished, run, monkeypatch, capsys, task):
    with monkeypatch.context() as m:
        m.setattr(folder_room, "append_records", Interrupting(1))
        assert run(task, "hubert-base", probes=BOTH) == 130
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert re.search(r"to continue: run_downstream\.py .* -a", err)
    some = run.numbers()
    assert 0 < len(some) < 12
    assert not (run.folder / "experiment" / "states-1.ckpt").exists()
    assert run(task, "hubert-base", "-a", probes=BOTH) == 0
    assert run.numbers() == finished.numbers(task)


def test_kill_then_continue(finished, run):
    """kill -9 of a real process once it has written some records."""
    command = run.command("mi_supervised", "hubert-base", probes=BOTH)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
    process = subprocess.Popen(
        [sys.executable, "-m", "s3prl_mi.run_downstream", *command],
        cwd=run.folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    results, limit = run.folder / "experiment" / RESULTS_FILE, time.time() + 60
    while process.poll() is None and time.time() < limit and not read_records(results):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL, "it ended before it was killed"
    assert 0 < len(run.numbers()) < 12
    # a line that was being written
    with open(results, "ab") as file:
        file.write(b'{"task": "mi_superv')
    assert run("mi_supervised", "hubert-base", "-a", probes=BOTH) == 0
    assert len(results.read_bytes().splitlines()) == 12
    mine, theirs = run.numbers(), finished.numbers("mi_supervised")
    assert set(mine) == set(theirs)
    for key, value in mine.items():
        assert value == pytest.approx(theirs[key], abs=1e-6)


def test_a_new_run_in_an_old_folder_is_what_is_continued(run, monkeypatch):
    """Finished with fbank; begun anew with mel and interrupted: -a goes on with mel."""
    assert run("mi_views", "fbank") == 0
    with monkeypatch.context() as m:
        m.setattr(folder_room, "append_records", Interrupting(0))
        assert run("mi_views", "mel", views__kind="shift") == 130
    assert run("mi_views", "mel", "-a", views__kind="shift") == 0
    assert {r.upstream for r in run.records()} == {"mel"}


# --- evaluate --------------------------------------------------------------------------------------------


@pytest.fixture
def no_fitting(monkeypatch):
    for room, name in WHAT_IS_FITTED:
        monkeypatch.setattr(room, name, never)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("split", ["eval", "test"])
def test_evaluate_gives_the_scores_of_training_without_fitting(finished, no_fitting, task, split):
    """`test`, the default of -t, stands for the config's eval splits."""
    assert finished.evaluate(split, name=task) == 0
    found = {
        r.identity(): (r.mi_lower_bound_bits, r.entropy_bits, r.cross_entropy_bits, r.accuracy)
        for r in read_records(finished.folder / task / "evaluate" / "eval" / RESULTS_FILE)
    }
    expected = finished.numbers(task)
    assert set(found) == set(expected)
    for key, value in found.items():
        assert value == pytest.approx(expected[key], abs=1e-9)


def test_evaluate_on_another_split_says_so_and_leaves_the_results_alone(finished, corpus, no_fitting, tmp_path):
    """Another split of the same corpus: the eval speech under another name, without one utterance."""
    mine = corpus.copy(tmp_path)
    (mine.root / "eval").rename(mine.root / "other")
    (mine.alignments / "eval").rename(mine.alignments / "other")
    gone = mine.root / "other" / "21" / "1" / "21-1-0000.flac"
    gone.unlink()
    before = (finished.folder / "mi_supervised" / RESULTS_FILE).read_bytes()
    key = "config.downstream_expert.datarc"
    override = f"{key}.libri_root={str(mine.root)!r},,{key}.alignments.path={str(mine.alignments)!r}"
    assert finished.evaluate("other", "-o", override, name="mi_supervised") == 0
    folder = finished.folder / "mi_supervised" / "evaluate" / "other"
    records = read_records(folder / RESULTS_FILE)
    assert len(records) == 12
    for r in records:
        assert (r.eval_splits, r.utterances["eval"]) == (["other"], 5)
    assert (folder / "mi_summary.csv").exists()
    assert (finished.folder / "mi_supervised" / RESULTS_FILE).read_bytes() == before


def test_evaluate_refuses_what_was_fitted_and_what_is_not_there(finished, capsys):
    assert finished.evaluate("fit-a", name="mi_views") == 1
    assert "fit-a was fitted on" in one_error(capsys.readouterr().err)
    assert finished.evaluate("eva", name="mi_views") == 1
    assert "Did you mean 'eval'" in one_error(capsys.readouterr().err)


def test_speech_that_was_fitted_on_is_found_under_other_names(run, corpus, tmp_path, capsys):
    mine = corpus.copy(tmp_path / "mine")
    for name in mine.of("fit-b"):
        copied = mine.root / "later" / "99" / "1" / f"99-{name}.flac"
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_bytes(mine.audio[name].read_bytes())
    said = refused(run, capsys, "mi_views", corpus=mine, seeds=1, datarc__eval_splits=["later"])
    first = mine.of("fit-b")[0]
    assert f"{mine.audio[first]} " in said
    assert f"99-{first}.flac " in said
    assert "datarc.eval_splits" in said
    assert run("mi_views", corpus=mine, seeds=1) == 0
    capsys.readouterr()
    assert run.evaluate("later") == 1
    assert f"99-{first}.flac " in one_error(capsys.readouterr().err)
    mine.audio[first].parents[2].rename(mine.root / "gone")  # then it cannot be checked, and says so
    assert run.evaluate("later") == 0
    assert "the fit splits are not here" in capsys.readouterr().err


def test_evaluate_before_training_is_refused(run, capsys):
    words = [
        "-m",
        "evaluate",
        "-d",
        "mi_views",
        "-u",
        "fbank",
        "-p",
        str(run.folder / "none"),
        "--device",
        "cpu",
    ]
    assert main(words) == 1
    assert "-m train first" in one_error(capsys.readouterr().err)


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_evaluate_with_damaged_or_missing_probes_names_the_file(run, capsys, damage):
    assert run("mi_views", seeds=1) == 0
    (path,) = (run.folder / "experiment" / "fitted").iterdir()
    content = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    capsys.readouterr()
    assert run.evaluate("eval") == 1
    assert str(path) in one_error(capsys.readouterr().err)
    assert run.evaluate("eval") == 1


# --- layers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "layers", "expected"),
    [
        ((), "last", [2]),
        ((), [0, -1], [0, 2]),
        ((), 1, [1]),
        (("-l", "1"), "all", [1]),
        ((), [1, 1, -2], [1]),
    ],
)
def test_layers(run, words, layers, expected):
    assert run("mi_supervised", "hubert-base", *words, layers=layers, seeds=1) == 0
    assert [r.layer for r in run.records()] == expected


def test_a_layer_that_is_not_there(run, capsys):
    said = refused(run, capsys, "mi_views", "hubert-base", layers=[0, 3])
    assert "downstream_expert.layers" in said
    assert "no layer 3; it has 3, 0 to 2" in said
    said = refused(run, capsys, "mi_views", "hubert-base", "-l", "7")
    assert said.startswith("-l: ")


def states_file(path: Path, layers: int = 3, raw=(0.0, 3.0, -1.0)) -> Path:
    """What a stock run of s3prl saves, as far as we read it."""
    args = argparse.Namespace(upstream="hubert_local", downstream="ctc", upstream_feature_normalize=False)
    weights = {"weights": torch.tensor(raw[:layers])}
    torch.save({"Featurizer": weights, "Args": args, "Config": {}}, path)
    return path


def weights_in(record) -> list[float]:
    return [float(x) for x in re.findall(r"\d\.\d{4}", record.layer_name)]


@pytest.mark.parametrize("task", TASKS)
def test_weights_of_a_stock_run(run, task):
    path = states_file(run.folder / "states-10.ckpt")
    assert run(task, "hubert-base", layers="weighted", featurizer=str(path)) == 0
    for r in run.records():
        assert r.layer == "weighted"
        assert weights_in(r) == pytest.approx(torch.tensor([0.0, 3.0, -1.0]).softmax(0).tolist(), abs=1e-4)
        assert "states-10.ckpt of ctc" in r.layer_name
    assert run.evaluate("eval") == 0


@pytest.mark.parametrize("task", TASKS)
def test_weights_that_choose_one_layer_measure_that_layer(run, finished, task):
    """A softmax of (0, 100, 0) is layer 1."""
    path = states_file(run.folder / "states-10.ckpt", raw=(0.0, 100.0, 0.0))
    assert run(task, "hubert-base", layers="weighted", featurizer=str(path)) == 0
    theirs = finished.numbers(task)
    for (layer, *rest), value in run.numbers().items():
        assert layer == "weighted"
        assert value == pytest.approx(theirs[(1, *rest)], abs=2e-3)


@pytest.mark.parametrize("task", TASKS)
def test_uniform_weights(run, task):
    assert run(task, "hubert-base", layers="weighted", featurizer="uniform", seeds=1) == 0
    assert weights_in(run.records()[0]) == pytest.approx([1 / 3] * 3, abs=1e-4)


def test_learned_weights(run, capsys):
    assert run("mi_supervised", "hubert-base", layers="weighted", seeds=1) == 0
    (record,) = run.records()
    weights = weights_in(record)
    assert sum(weights) == pytest.approx(1, abs=2e-4)
    assert max(weights) - min(weights) > 1e-3
    said = refused(run, capsys, "mi_views", "hubert-base", layers="weighted", name="views")
    assert "downstream_expert.featurizer" in said
    assert "uniform" in said


def test_weights_of_another_upstream_or_no_file(run, capsys):
    path = states_file(run.folder / "states-1.ckpt", layers=2)
    said = refused(run, capsys, "mi_views", "hubert-base", layers="weighted", featurizer=str(path))
    assert "weights of 2 layers" in said
    assert str(path) in said
    said = refused(run, capsys, "mi_views", "hubert-base", layers="weighted", featurizer="none.ckpt")
    assert "none.ckpt" in said


# --- views and frames ------------------------------------------------------------------------------------


def test_a_sweep_gives_what_its_parts_give(run, finished, monkeypatch):
    """Two mask patterns, two cluster counts; one extraction of the unmasked input."""
    seen: list[str] = []
    original = extraction._extract

    def counted(store, requests, *rest):
        seen.extend(r.view.describe() for r in requests)
        return original(store, requests, *rest)

    monkeypatch.setattr(extraction, "_extract", counted)
    books: list[int] = []
    fit = views_task.fit_codebooks
    monkeypatch.setattr(views_task, "fit_codebooks", lambda b, n, *rest: books.append(n) or fit(b, n, *rest))
    assert run("mi_views", "hubert-base", views__mask=["6/10", "3/10"], clusters=[6, 3], layers=[1]) == 0
    mine, theirs = run.numbers(), finished.numbers("mi_views")
    assert len(mine) == 2 * 2 * 2
    assert seen.count("plain") == seen.count(MASKED[0]) == seen.count("mask(latent, 3 of 10 frames)") == 3
    assert set(books) == {3, 6}
    assert len(books) <= 4  # a pattern may have a codebook of other axes
    for seed in (1337, 1338):
        key = (1, "logistic", *MASKED, seed, None)
        assert mine[key] == pytest.approx(theirs[key], abs=2e-3)
    assert run("mi_views", "hubert-base", "-a", views__mask=["6/10", "3/10"], clusters=[6, 3, 4], layers=[1]) == 0
    assert len(run.numbers()) == 2 * 2 * 3
    assert (run.folder / "experiment" / "report" / "mi_report.html").exists()
    assert {k: v for k, v in run.numbers().items() if k in mine} == mine


@pytest.mark.parametrize("task", TASKS)
def test_classes_share_the_bound(finished, task):
    folder = finished.folder / task
    records = {r.identity(): r for r in read_records(folder / RESULTS_FILE)}
    classes = read_classes(folder / CLASSES_FILE)
    assert {c.identity() for c in classes} == set(records)
    for c in classes:
        record = records[c.identity()]
        assert sum(c.contribution_bits) == pytest.approx(record.mi_lower_bound_bits, abs=1e-9)
        assert sum(c.eval_frames) == record.eval_frames
        assert len(c.class_names) == len(c.contribution_bits) == record.n_classes
        if task == "mi_supervised":
            assert [sum(row) for row in c.confusion] == c.eval_frames
            right = sum(c.confusion[i][i] for i in range(len(c.class_names)))
            assert right / record.eval_frames == pytest.approx(record.accuracy, abs=1e-12)


def test_the_digest_of_labels_is_that_of_the_alignments_alone(finished, run, corpus, tmp_path):
    digests = {r.label_digest for r in finished.records("mi_supervised")}
    assert len(digests) == 1
    assert {(r.label_digest, r.kmeans_iterations) for r in finished.records("mi_views")} == {(None, 100)}
    assert run("mi_supervised", seeds=1) == 0  # fbank, at another frame rate
    assert {r.label_digest for r in run.records()} == digests
    mine = corpus.copy(tmp_path / "mine")
    path = mine.textgrid(mine.of("eval")[0])
    path.write_text(path.read_text().replace('"AA', '"IY'))
    assert run("mi_supervised", corpus=mine, name="edited", seeds=1) == 0
    (edited,) = {r.label_digest for r in run.records("edited")}
    (digest,) = digests
    assert edited.split("/")[0] == digest.split("/")[0]
    assert edited.split("/")[1] != digest.split("/")[1]
    assert run.evaluate("eval", name="edited") == 0
    assert {r.label_digest for r in run.records("edited/evaluate/eval")} == {edited}


@pytest.mark.parametrize("task", TASKS)
def test_intervals_over_the_choice_of_fit_speakers(run, capsys, task):
    assert run(task, seeds=1, name="plain") == 0
    assert run(task, seeds=1, fit_ci=True) == 0
    assert "scored and 3 groups fitted on" in capsys.readouterr().out
    assert run.numbers() == run.numbers("plain")
    ((old,), (r,)) = run.records("plain"), run.records()
    assert old.fit_ci_groups is old.fit_ci_low_bits is old.total_ci_low_bits is None
    assert (r.fit_ci_over, r.fit_ci_groups) == ("speakers", 3)
    (sums,) = read_speakers(run.folder / "experiment" / SPEAKERS_FILE, [r])
    assert sorted(sums.fit_groups) == ["11", "12", "13"]
    interval = sums.fit_left_out().interval()
    assert (r.fit_ci_low_bits, r.fit_ci_high_bits) == pytest.approx((interval.low, interval.high))
    assert r.total_ci_low_bits <= min(r.ci_low_bits, r.fit_ci_low_bits)
    assert r.total_ci_high_bits >= max(r.ci_high_bits, r.fit_ci_high_bits)
    assert run(task, "fbank", "-a", seeds=2, fit_ci=False) == 0  # a free setting: what is there stays
    assert [x.fit_ci_groups for x in run.records()] == [3, None]


@pytest.mark.parametrize("task", TASKS)
def test_sums_by_speaker_make_the_bound_and_its_interval(finished, task):
    folder = finished.folder / task
    records = read_records(folder / RESULTS_FILE)
    sums = {s.identity(): s for s in read_speakers(folder / SPEAKERS_FILE, records)}
    assert len(sums) == len(records)
    for r in records:
        s = sums[r.identity()]
        assert sum(s.frames) == sum(map(sum, s.class_frames)) == r.eval_frames
        assert sum(s.loss_bits) / r.eval_frames == pytest.approx(r.cross_entropy_bits, abs=1e-9)
        assert s.groups == sorted(s.groups)
        assert (r.ci_over, r.ci_groups) == (s.over, len(s.groups))
        interval = s.left_out().interval()
        assert (r.ci_low_bits, r.ci_high_bits) == pytest.approx((interval.low, interval.high), abs=1e-9)
        assert r.ci_low_bits < r.mi_lower_bound_bits < r.ci_high_bits
        assert r.prior_cross_entropy_bits > r.entropy_bits - 1e-9
        assert (r.speaker_information_bits is not None) == (task == "mi_views" and s.over == "speakers")
        if r.speaker_information_bits is None:
            assert r.within_speaker_bits is None
        else:
            assert r.within_speaker_bits == pytest.approx(np.average(s.within_bits, weights=s.frames), abs=1e-9)
            assert r.within_speaker_bits < r.mi_lower_bound_bits


def test_halves_of_a_split_share_no_speaker(corpus):
    data = DataConfig(libri_root=str(corpus.root))
    first, second = (list_utterances(data, f"fit-a@{n}/2") for n in (1, 2))
    assert not {u.speaker for u in first} & {u.speaker for u in second}
    assert sorted(u.id for u in first + second) == [u.id for u in list_utterances(data, "fit-a")]


def test_evaluate_refuses_a_half_of_what_was_fitted_on(run, capsys):
    assert run("mi_views", layers="last") == 0
    capsys.readouterr()
    assert run.evaluate("fit-a@1/2") == 1
    assert "fit-a@1/2 was fitted on" in one_error(capsys.readouterr().err)


def test_evaluate_refuses_probes_fitted_otherwise(run, capsys):
    assert run("mi_views", layers="last") == 0
    capsys.readouterr()
    assert run.evaluate("eval", "-o", "config.downstream_expert.kmeans_iterations=3") == 1
    said = one_error(capsys.readouterr().err)
    assert "kmeans_iterations was 100, is 3" in said


def test_continuing_on_other_speech_is_refused(run, corpus, tmp_path, capsys):
    assert run("mi_views", layers="last") == 0
    other = corpus.copy(tmp_path / "other")
    next(other.root.rglob("*.wav" if any(other.root.rglob("*.wav")) else "*.flac")).unlink()
    assert "changed, came or went" in refused(run, capsys, "mi_views", "fbank", "-a", layers="last", corpus=other)
    (run.folder / "experiment" / "mi_files.json").unlink()  # experiments of earlier versions have none
    assert "speech was" in refused(run, capsys, "mi_views", "fbank", "-a", layers="last", corpus=other)


def test_a_new_run_takes_no_classes_of_the_old_one(run):
    assert run("mi_views", layers="last", clusters=6) == 0
    assert run("mi_views", layers="last", clusters=4) == 0
    folder = run.folder / "experiment"
    assert {c.n_clusters for c in read_classes(folder / CLASSES_FILE)} == {4}
    assert len(list(folder.glob("mi_classes.*.jsonl"))) == len(list(folder.glob("mi_speakers.*.jsonl"))) == 1
    assert len((folder / SPEAKERS_FILE).read_text().splitlines()) == len(read_records(folder / RESULTS_FILE))


def test_fit_and_eval_on_halves(run):
    halves = {"datarc__fit_splits": ["fit-a@1/2"], "datarc__eval_splits": ["fit-a@2/2"]}
    assert run("mi_views", layers="last", **halves) == 0
    assert {tuple(r.eval_splits) for r in run.records()} == {("fit-a@2/2",)}


def test_masked_unmasked_and_all_frames(run, finished):
    assert run("mi_views", "hubert-base", frames=["masked", "unmasked", "all"], layers=[2]) == 0
    count = {r.scored_frames: r.eval_frames for r in run.records()}
    assert count["masked"] + count["unmasked"] == count["all"]
    numbers, theirs = run.numbers(), finished.numbers("mi_views")
    for seed in (1337, 1338):
        key = (2, "logistic", *MASKED, seed, None)
        assert numbers[key] == pytest.approx(theirs[key], abs=1e-6)


def test_a_shift_view_of_a_masked_family_and_waveform_masks_of_fbank(run):
    assert run("mi_views", "hubert-base", views__kind="shift", views__shift_ms=40, layers="last") == 0
    assert {(r.view, r.scored_frames) for r in run.records()} == {("shift(40 ms)", "all")}
    assert run("mi_views", "fbank", views__kind="mask", name="fbank") == 0
    assert {(r.view, r.scored_frames) for r in run.records("fbank")} == {("mask(waveform, 6 of 10 frames)", "masked")}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"frames": ["masked"], "views__kind": "shift"}, ("downstream_expert.frames", "shift")),
        ({"frames": ["masks"]}, ("downstream_expert.frames", "masks")),
        (
            {"views__mask_level": "latent", "views__kind": "mask"},
            ("downstream_expert.views.mask_level", "fbank"),
        ),
        ({"views__shift_ms": 65, "views__kind": "shift"}, ("downstream_expert.views.shift_ms", "65")),
    ],
)
def test_views_that_cannot_be(run, capsys, settings, words):
    said = refused(run, capsys, "mi_views", "fbank", **settings)
    assert all(word in said for word in words)


def test_a_layer_that_the_mask_does_not_reach_is_refused(run, capsys, monkeypatch):
    """Both views of such a layer are one: its bound would be H(c), and the best of all."""
    whole = forward.hidden_states
    monkeypatch.setattr(forward, "hidden_states", lambda upstream, waves, *_: whole(upstream, waves))
    said = refused(run, capsys, "mi_views", "hubert-base")
    assert "layer 0" in said
    assert "before the mask site" in said


@pytest.mark.parametrize(
    ("task", "model", "settings", "words"),
    [
        ("mi_supervised", "fbank", {"datarc__alignments__path": "nowhere"}, ("alignments.path", "nowhere")),
        ("mi_views", "fbank", {"views__shift_ms": 65}, ("views.shift_ms", "65")),
        (
            "mi_views",
            "hubert-base",
            {"layers": "weighted", "featurizer": "learned"},
            ("featurizer", "learned"),
        ),
        (
            "mi_views",
            "hubert-base",
            {"layers": "weighted", "featurizer": "no.ckpt"},
            ("featurizer", "no.ckpt"),
        ),
    ],
)
def test_mistakes_are_found_before_anything_is_extracted(run, capsys, task, model, settings, words):
    said = refused(run, capsys, task, model, **settings)
    assert all(word in said for word in words)
    assert not said.startswith("layer")
    store = Store(run.folder / "store", 10**9)
    assert not store.entries()
    assert not store.partial_folders()


# --- labels ----------------------------------------------------------------------------------------------


def test_silence_dropped(run, finished):
    assert run("mi_supervised", "hubert-base", layers=[0], datarc__alignments__silence="drop") == 0
    record, theirs = run.records()[0], finished.records("mi_supervised")[0]
    assert (record.n_classes, theirs.n_classes) == (6, 7)
    assert record.label_set == "phones, stress stripped, silence dropped"
    assert record.unlabelled_frames > 0
    fit, scored = (getattr(theirs, k) - getattr(record, k) for k in ("fit_frames", "eval_frames"))
    assert fit + scored == record.unlabelled_frames - theirs.unlabelled_frames


def test_words_and_stress(run):
    assert run("mi_supervised", datarc__alignments__tier="words", name="words") == 0
    assert {(r.n_classes, r.label_set) for r in run.records("words")} == {(4, "words, silence as a class")}
    assert run("mi_supervised", datarc__alignments__strip_stress=False, seeds=1, name="stress") == 0
    (record,) = run.records("stress")
    assert record.n_classes > 7
    assert record.label_set == "phones, stress kept, silence as a class"


def relabel(corpus: Corpus, utterance: str, change) -> None:
    spans = [(a, b, change(i, p)) for i, (a, b, p) in enumerate(corpus.spans[utterance])]
    write_textgrid(corpus.textgrid(utterance), spans)


def test_labels_unseen_in_fit_are_counted_and_left_out(run, corpus, tmp_path):
    mine = corpus.copy(tmp_path / "mine")
    name = mine.of("eval")[0]
    relabel(mine, name, lambda i, p: "AAA" if i == 3 else p)
    assert run("mi_supervised", corpus=mine) == 0
    assert run("mi_supervised", name="plain") == 0
    record, plain = run.records()[0], run.records("plain")[0]
    start, end, _ = mine.spans[name][3]
    assert record.unseen_frames == pytest.approx((end - start) / 0.01, abs=1)
    assert record.eval_frames + record.unseen_frames == plain.eval_frames
    assert record.n_classes == plain.n_classes == 7
    # "AAA" sorts between known labels: an id shifted by it would spoil all that follow
    assert record.accuracy == pytest.approx(plain.accuracy, abs=0.05)


def test_another_inventory_in_eval_is_refused(run, corpus, tmp_path, capsys):
    mine = corpus.copy(tmp_path / "mine")
    for name in mine.of("eval"):
        relabel(mine, name, lambda _, p: f"x{p}")
    said = refused(run, capsys, "mi_supervised", corpus=mine)
    assert "never occur in the fit split" in said


def test_one_single_class(run, corpus, tmp_path, capsys):
    mine = corpus.copy(tmp_path / "mine")
    for name in [*mine.of("fit-a"), *mine.of("fit-b")]:
        relabel(mine, name, lambda *_: "AA1")
    said = refused(run, capsys, "mi_supervised", corpus=mine)
    assert "one single label (AA)" in said


def test_fewer_frames_than_clusters(run, capsys):
    said = refused(run, capsys, "mi_views", "hubert-base", clusters=100_000)
    assert "100000" in said
    assert "layer 0" in said


def test_missing_alignments_are_refused_or_counted(run, corpus, tmp_path, capsys):
    mine = corpus.copy(tmp_path / "mine")
    gone = mine.of("fit-a")[:2]
    for name in gone:
        mine.textgrid(name).unlink()
    said = refused(run, capsys, "mi_supervised", corpus=mine)
    assert "2 of 6" in said
    assert gone[0] in said
    assert run("mi_supervised", corpus=mine, datarc__alignments__max_missing=0.5, seeds=1) == 0
    (record,) = run.records()
    assert record.utterances == {"fit": 7, "eval": 6, "skipped": 2}
    assert gone[0] in capsys.readouterr().err


def test_a_split_without_alignments(run, capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    said = refused(run, capsys, "mi_supervised", datarc__alignments__path=str(tmp_path / "empty"))
    assert str(tmp_path / "empty") in said


# --- audio -----------------------------------------------------------------------------------------------


def corrupt(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3] + bytes(2 * len(content) // 3))


def test_corrupt_audio_is_counted_or_refused(run, corpus, tmp_path, capsys):
    mine = corpus.copy(tmp_path / "mine")
    bad = mine.of("eval")[0]
    corrupt(mine.audio[bad])
    said = refused(run, capsys, "mi_supervised", corpus=mine)
    assert "1 of 6 audio files" in said
    assert bad in said
    assert run("mi_supervised", corpus=mine, datarc__max_unreadable=0.2, seeds=1) == 0
    (record,) = run.records()
    assert record.utterances == {"fit": 9, "eval": 5, "skipped": 1}
    assert bad in capsys.readouterr().err


def test_a_folder_without_audio(run, corpus, tmp_path, capsys):
    mine = corpus.copy(tmp_path / "mine")
    (mine.root / "bare").mkdir()
    said = refused(run, capsys, "mi_views", corpus=mine, datarc__eval_splits=["bare"])
    assert str(mine.root / "bare") in said
    said = refused(run, capsys, "mi_views", datarc__eval_splits=["evla"])
    assert "Did you mean 'eval'" in said


def test_audio_at_another_rate_is_resampled_and_said(run, corpus, tmp_path, capsys):
    mine = corpus.copy(tmp_path / "mine")
    name = mine.of("eval")[0]
    audio, _ = soundfile.read(mine.audio[name])
    soundfile.write(mine.audio[name], audio.repeat(2), 2 * RATE)
    assert run("mi_views", corpus=mine, seeds=1) == 0
    assert "1 files resampled from 32000 Hz" in capsys.readouterr().err


def test_speakers_on_both_sides_are_warned_of(run, corpus, tmp_path, capsys):
    mine = corpus.copy(tmp_path / "mine")
    (mine.root / "eval" / "21").rename(mine.root / "eval" / "11")
    assert run("mi_views", corpus=mine, seeds=1) == 0
    assert "1 speakers occur in both fit and eval splits (11" in capsys.readouterr().err


# --- states, disk ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_nan_hidden_states_are_named_by_layer(run, checkpoint, tmp_path, capsys, task):
    _, path = checkpoint("hubert-base")
    content = torch.load(path, weights_only=True)
    content["model_weight"]["encoder.layers.1.fc1.weight"].fill_(float("nan"))
    torch.save(content, tmp_path / "nan.pt")
    run.checkpoint = lambda _: ("hubert_local", tmp_path / "nan.pt")
    said = refused(run, capsys, task, "hubert-base")
    assert "layer 2 of utterance" in said
    assert "NaN" in said
    assert run(task, "hubert-base", layers=[0, 1], seeds=1) == 0


def full(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/somewhere/full")


@pytest.mark.parametrize("place", ["states", "results", "fitted"])
def test_a_full_disk(run, monkeypatch, capsys, place):
    with monkeypatch.context() as m:
        if place == "states":
            m.setattr(Writer, "write", full)
        elif place == "results":
            m.setattr(folder_room, "append_records", full)
        else:
            m.setattr(fit_room, "save_probes", full)
        said = refused(run, capsys, "mi_views")
    assert "no space left" in said
    assert "/somewhere/full" in said
    assert "-a" in said
    assert run("mi_views", "fbank", "-a") == 0
    assert len(run.numbers()) == 2


def test_too_small_a_limit_for_the_store_is_refused(run, capsys):
    said = refused(run, capsys, "mi_views", store__max_gb=0.0001, store__mode="disk")
    assert "downstream_expert.store.max_gb" in said


def test_a_limit_that_just_holds_this_run_does_not_remove_what_it_reads(run, monkeypatch):
    """The second run finds all its states, although twice as much would not fit."""
    assert run("mi_views", "hubert-base", seeds=1) == 0
    store = Store(run.folder / "store", 10**9)
    size = sum(e.bytes for e in store.entries())
    seen: list[int] = []
    monkeypatch.setattr("s3prl_mi.states.extraction._extract", lambda *_: seen.append(1))
    assert run("mi_views", "hubert-base", seeds=1, name="second", store__max_gb=1.1 * size / 1e9) == 0
    assert seen == []


def test_states_are_kept_or_removed(run):
    assert run("mi_views", "hubert-base", seeds=1, layers=[0], store__keep=False) == 0
    assert Store(run.folder / "store", 10**9).entries() == []
    assert run("mi_views", "hubert-base", seeds=1, layers=[0], name="kept") == 0
    assert len(Store(run.folder / "store", 10**9).entries()) == 6
    # what was there before a run is not its to remove
    assert run("mi_views", "hubert-base", seeds=1, layers=[0], name="again", store__keep=False) == 0
    assert len(Store(run.folder / "store", 10**9).entries()) == 6


# --- other mistakes --------------------------------------------------------------------------------------


def test_unknown_key_upstream_and_checkpoint(run, capsys):
    assert "Did you mean 'clusters'" in refused(run, capsys, "mi_views", cluster=5)
    run.checkpoint = lambda _: ("hubret_local", Path("x.pt"))
    assert "Did you mean 'hubert_local'" in refused(run, capsys, "mi_views", "hubert-base")
    run.checkpoint = lambda _: ("hubert_local", Path("absent.pt"))
    assert "absent.pt" in refused(run, capsys, "mi_views", "hubert-base")


def test_a_damaged_results_file_is_named(run, capsys):
    assert run("mi_views") == 0
    results = run.folder / "experiment" / RESULTS_FILE
    results.write_text("what is this\n" + results.read_text())
    said = refused(run, capsys, "mi_views", "fbank", "-a")
    assert f"{results}, line 1" in said


# --- s3prl's own runner ----------------------------------------------------------------------------------


def test_stock_runner(run, monkeypatch):
    """Stock s3prl's Runner around our expert: it trains for its one step and saves its checkpoint."""
    from s3prl_mi.downstream import hook

    hook.install()
    import s3prl.downstream.runner
    import s3prl.run_downstream

    words = run.command("mi_supervised", seeds=1)
    words += ["-c", str(default_config("mi_supervised"))]
    monkeypatch.setattr(sys, "argv", ["run_downstream.py", *words])
    args, config, _ = s3prl.run_downstream.get_downstream_args()
    s3prl.downstream.runner.Runner(args, config).train()
    (record,) = run.records()
    assert record.mi_lower_bound_bits > 1
    for name in FILES:
        assert (run.folder / "experiment" / name).exists(), name
    assert run("mi_supervised", name="ours", seeds=1) == 0
    assert run.numbers() == run.numbers("ours")
