"""An experiment on several processes has the records of one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from s3prl_mi.data.audio import SAMPLE_RATE, Checked
from s3prl_mi.data.utterances import Utterance
from s3prl_mi.states.extraction import Split
from tests.helpers.processes import torchrun


def split_of(seconds: list[float]) -> Split:
    utterances = [Utterance(f"u{n:02d}", Path(f"{n}.flac"), "s", None, None) for n in range(len(seconds))]
    lengths = {u.id: round(s * SAMPLE_RATE) for u, s in zip(utterances, seconds, strict=True)}
    checked = Checked(utterances, [("bad", "empty")], sum(seconds), lengths, Counter(), 0)
    return Split("s", utterances, checked, 0.5, len(seconds) + 1)


def test_utterances_are_shared_by_duration():
    whole = split_of([3, 5, 3, 4, 1])
    shares = [whole.share(rank, 2) for rank in range(2)]
    assert [s.seconds for s in shares] == [8.0, 8.0]
    assert [[u.id for u in s.utterances] for s in shares] == [["u01", "u02"], ["u00", "u03", "u04"]]
    assert [s.found for s in shares] == [6, 6]
    assert whole.share(0, 1) is whole
    assert whole.share(6, 7).utterances == []


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
    same += ("utterances", "unlabelled_frames", "unseen_frames", "labels")
    for identity, record in alone.items():
        for field in same:  # bit by bit
            assert getattr(shared[identity], field) == getattr(record, field)
    stored = list((run.folder / "store").glob("*/*/manifest.json"))
    assert (len(stored) > 0) == (mode == "disk")
