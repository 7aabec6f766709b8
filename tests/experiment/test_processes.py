"""An experiment on several processes has the records of one."""

from __future__ import annotations

import dataclasses
import json
import time

import psutil
import pytest

from s3prl_mi.experiment.folder import SETTINGS_FILE
from s3prl_mi.results.class_contributions import CLASSES_FILE, read_classes
from s3prl_mi.results.record import RESULTS_FILE, read_records
from s3prl_mi.results.speaker_sums import SPEAKERS_FILE, read_speakers
from tests.helpers.processes import SECONDS, torchrun


def contents(run, name: str, folder: str = "") -> dict:
    """Identity of each record -> all of it and of its classes, but for times and versions; none is repeated."""
    place = run.folder / name / folder
    records = read_records(place / RESULTS_FILE)
    speakers = {s.identity(): dataclasses.asdict(s) for s in read_speakers(place / SPEAKERS_FILE, records)}
    classes = {c.identity(): dataclasses.asdict(c) for c in read_classes(place / CLASSES_FILE)}
    found = {}
    for record in records:
        content = {k: v for k, v in dataclasses.asdict(record).items() if k not in ("seconds", "versions")}
        found[record.identity()] = (content, classes[record.identity()], speakers[record.identity()])
    assert len(found) == len(records) == len(classes) == len(speakers) > 0
    return found


@pytest.mark.parametrize(
    ("task", "mode", "count"), [("mi_supervised", "disk", 3), ("mi_views", "disk", 2), ("mi_views", "auto", 3)]
)
def test_an_experiment_on_several_processes_has_the_records_of_one(run, task, mode, count):
    several = {"store__mode": mode, "probes": ["logistic", "mlp"], "views__mask": ["6/10", "3/10"]}
    assert run(task, "hubert-base", name="alone", store__root=str(run.folder / "alone-store"), **several) == 0
    done = torchrun(count, "s3prl_mi.run_downstream", *run.command(task, "hubert-base", name="shared", **several))
    assert done.returncode == 0, done.stderr
    assert contents(run, "shared") == contents(run, "alone")
    assert (run.folder / "shared" / "states-1.ckpt").exists()


@pytest.mark.parametrize(("task", "max_gb"), [("mi_supervised", 8e-5), ("mi_views", 1.6e-4)])
def test_groups_of_layers_and_evaluation_on_several_processes(run, task, max_gb):
    """A limit that holds one layer at a time: processes wait for each other before the next group."""
    settings = {"store__mode": "recompute", "store__max_gb": max_gb}
    assert run(task, "hubert-base", name="alone", **settings) == 0
    command = run.command(task, "hubert-base", name="shared", **settings)
    done = torchrun(2, "s3prl_mi.run_downstream", *command)
    assert done.returncode == 0, done.stderr
    assert json.loads((run.folder / "shared" / SETTINGS_FILE).read_text())["hidden_states"]["groups"] > 1
    assert contents(run, "shared") == contents(run, "alone")
    words = ["-m", "evaluate", "-p", str(run.folder / "shared"), "-t", "eval", "--device", "cpu"]
    done = torchrun(2, "s3prl_mi.run_downstream", *words)
    assert done.returncode == 0, done.stderr
    assert run.evaluate("eval", name="alone") == 0
    found = [list(contents(run, name, "evaluate/eval").items()) for name in ("shared", "alone")]
    assert found[0] == found[1]  # in the order of the plan


@pytest.mark.parametrize("victim", [0, 1])
def test_after_kill_9_of_one_process_a_continues_with_any_number(run, victim):
    settings = {"probes": ["logistic", "mlp"], "views__mask": ["6/10", "3/10"], "clusters": [6, 4]}
    assert run("mi_views", "hubert-base", name="alone", **settings) == 0
    command = run.command("mi_views", "hubert-base", name="killed", **settings)
    launcher = torchrun(2, "s3prl_mi.run_downstream", *command, start=True)
    results, deadline = run.folder / "killed" / RESULTS_FILE, time.monotonic() + SECONDS
    try:
        while not read_records(results):
            assert launcher.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        processes = sorted(psutil.Process(launcher.pid).children(), key=lambda p: p.pid)
        processes[victim].kill()
        _, told = launcher.communicate(timeout=60)
    finally:
        launcher.kill()
    assert launcher.returncode != 0, "it ended before it was killed"
    assert "-a repeats no finished estimate" in told
    before = {r.identity(): r for r in read_records(results)}
    done = torchrun(3, "s3prl_mi.run_downstream", *command, "-a")
    assert done.returncode == 0, done.stderr
    assert contents(run, "killed") == contents(run, "alone")
    assert {r.identity(): r for r in read_records(results) if r.identity() in before} == before
