"""What SUPERB's tasks need, and keys that they would pass over."""

from __future__ import annotations

import re

import pytest
import yaml

from s3prl_mi.core.config import packaged_configs
from s3prl_mi.core.errors import MIError
from s3prl_mi.superb.tasks import check_keys, task_of


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("runner.totalsteps", "Did you mean 'total_steps'"),
        ("downstream_expert.corpus.batchsize", "Did you mean 'batch_size'?"),
        ("ctc.runner.total_steps", "with -d ctc alone write config.runner.total_steps"),
        ("runer.total_steps", "Did you mean 'runner'?"),
    ],
)
def test_keys_that_would_be_passed_over_are_refused(key, why):
    config = yaml.safe_load(packaged_configs()["superb_pr"].read_text())
    with pytest.raises(MIError, match=re.escape(why)):
        check_keys(task_of("ctc"), [key], config)
    every = ["optimizer.lr", "optimizer.betas", "downstream_expert.model.project_dim", "specaug.adaptive"]
    check_keys(
        task_of("ctc"),
        [*every, "runner.total_steps", "downstream_expert.datarc.libri_root", "downstream_expert.store.root"],
        config,
    )
