"""s3prl's arguments and config become a run's specification, the same at both entry points."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from s3prl_mi.cli.options import build_parser
from s3prl_mi.core.errors import MIError
from s3prl_mi.downstream.arguments import run_spec
from s3prl_mi.experiment.spec import UpstreamSpec

OURS = (
    "upstream_module",
    "trust_checkpoint",
    "jobs",
    "slurm",
    "max_store_gb",
    "store_mode",
    "precision",
    "reuse_states",
)
WORDS = ["-m", "train", "-d", "mi_views", "-u", "fbank", "-p", "here"]


@pytest.fixture
def config(tmp_path):
    return {"downstream_expert": {"datarc": {"libri_root": str(tmp_path)}, "store": {"keep": False}}}


def arguments(*words: str) -> argparse.Namespace:
    return build_parser().parse_args([*WORDS, *words])


def test_every_argument_that_matters_is_in_it(config):
    words = (
        "-k",
        "a.pt",
        "-g",
        "g.yaml",
        "-r",
        "-s",
        "states",
        "-l",
        "3",
        "--upstream_feature_normalize",
        "-a",
    )
    spec = run_spec(arguments(*words, "--seed", "7", "--device", "cpu"), config)
    assert (spec.task, spec.folder, spec.seed, spec.layer, spec.device) == (
        "mi_views",
        Path("here"),
        7,
        3,
        "cpu",
    )
    assert (spec.resume, spec.evaluate_split) == (True, None)
    model = UpstreamSpec("fbank", "a.pt", None, None, "g.yaml", True, "states", True)
    assert spec.upstream == model


def test_options_of_the_store_and_precision_win_over_the_config(config):
    found = run_spec(arguments("--store_mode", "memory", "--max_store_gb", "2", "--precision", "bf16"), config)
    assert (found.config.store.mode, found.config.store.max_gb, found.config.store.keep) == (
        "memory",
        2.0,
        False,
    )
    assert found.config.precision == "bf16"
    assert config["downstream_expert"]["store"] == {"keep": False}


def test_the_arguments_of_s3prls_own_runner_are_enough(config):
    whole = arguments()
    bare = argparse.Namespace(**{k: v for k, v in vars(whole).items() if k not in OURS})
    assert run_spec(bare, config) == run_spec(whole, config)


def test_a_split_is_evaluated_only_with_m_evaluate(config):
    args = arguments("-t", "test-clean")
    assert run_spec(args, config).evaluate_split is None
    args.mode = "evaluate"
    assert run_spec(args, config).evaluate_split == "test-clean"


def test_steps_of_a_study_are_kept(config):
    args = arguments()
    args.checkpoint_step, args.checkpoint_series = 7, "fbank series"
    found = run_spec(args, config).upstream
    assert (found.step, found.series) == (7, "fbank series")


def test_a_config_without_meaning_is_refused(config):
    config["downstream_expert"]["cluster"] = 3
    with pytest.raises(MIError, match="Did you mean 'clusters'"):
        run_spec(arguments(), config)
