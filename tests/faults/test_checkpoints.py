"""No checkpoint runs code, under any name for `-u`, in any way that torch or Python write a file."""

from __future__ import annotations

import pytest
import torch

from s3prl_mi.upstreams.loading import load_upstream
from tests.faults.campaign import MARKER, judge
from tests.faults.checkpoints import CASES, crafted
from tests.helpers.models_more import build_spectral


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case, tmp_path):
    assert judge(case, tmp_path) == ("clean", "")


def test_the_record_says_that_a_checkpoint_was_trusted(run):
    settings = dict(seeds=1, layers=[0])
    assert run("mi_supervised", "apc", name="plain", **settings) == 0
    assert run("mi_supervised", "apc", "--trust_checkpoint", **settings) == 0
    assert [r.checkpoint_trusted for r in (*run.records("plain"), *run.records())] == [False, True]


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_a_trusted_checkpoint_is_read_as_its_author_meant(kind, tmp_path):
    content = torch.load(build_spectral(tmp_path), weights_only=True)
    path = crafted(kind, tmp_path, content)
    assert load_upstream("tera_local", str(path), trusted=True).trusted
    assert (tmp_path / MARKER).is_dir()
