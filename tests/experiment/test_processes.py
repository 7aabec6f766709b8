"""An experiment on several processes has the records of one."""

from __future__ import annotations

import pytest

from tests.helpers.processes import torchrun


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize(
    ("task", "mode"), [("mi_supervised", "disk"), ("mi_views", "disk"), ("mi_views", "auto")]
)
def test_an_experiment_on_several_processes_has_the_records_of_one(run, task, mode, count):
    assert run(task, name="alone", store__root=str(run.folder / "alone-store"), store__mode=mode) == 0
    words = run.command(task, name="shared", store__mode=mode)
    done = torchrun(count, "s3prl_mi.run_downstream", *words)
    assert done.returncode == 0, done.stderr
    alone, shared = ({r.identity(): r for r in run.records(name)} for name in ("alone", "shared"))
    assert alone.keys() == shared.keys()
    assert len(alone) == len(run.records("shared")) > 0
    same = (
        "mi_lower_bound_bits",
        "entropy_bits",
        "cross_entropy_bits",
        "accuracy",
        "fit_frames",
        "eval_frames",
    )
    same += ("utterances", "unlabelled_frames", "unseen_frames", "n_classes")
    for identity, record in alone.items():
        for field in same:  # bit by bit
            assert getattr(shared[identity], field) == getattr(record, field)
    stored = list((run.folder / "store").glob("*/*/manifest.json"))
    assert (len(stored) > 0) == (mode == "disk")
