"""What the README shows works as it is written there."""

from __future__ import annotations

import ast
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from s3prl_mi import estimate_supervised_mi, estimate_view_mi
from s3prl_mi.cli import main as cli
from s3prl_mi.cli.options import build_parser
from s3prl_mi.cli.run_downstream import main
from s3prl_mi.core.config import MIConfig, packaged_configs
from s3prl_mi.estimators.measures import registry
from s3prl_mi.results.measures import MEASURES_FILE, read_measures
from s3prl_mi.results.record import read_records
from tests.helpers.paths import REPO
from tests.helpers.runner import Runner

README = (REPO / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands(program: str) -> list[list[str]]:
    """Every command line of a program in the README's shell blocks."""
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith(f"{program} ")]


def test_an_upstream_of_your_own(run: Runner, tmp_path, monkeypatch):
    """The worked example, literally: the module as printed, the command as printed, on the tests' corpus."""
    monkeypatch.chdir(tmp_path)
    (source,) = [b for b in blocks("python") if b.startswith("# my_upstreams.py")]
    Path("my_upstreams.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    made: dict = {}
    exec(compile(source, "my_upstreams.py", "exec"), made)
    torch.manual_seed(0)
    torch.save(made["MyExpert"](None).state_dict(), "my.pt")
    (words,) = [c for c in commands("run_downstream.py") if "--upstream_module" in c]
    override = run.command("mi_views")[run.command("mi_views").index("-o") + 1]
    words[words.index("-o") + 1] = override
    assert main([*words[1:], "--device", "cpu"]) == 0
    records = read_records(Path("result/downstream/mine/mi_results.jsonl"))
    assert {r.layer for r in records} == {0, 1, 2}
    assert {r.view for r in records} == {"mask(latent, 6 of 10 frames)"}
    assert {r.frame_shift_ms for r in records} == {20.0}


def test_every_command_line_parses():
    for words in commands("run_downstream.py"):
        build_parser().parse_args(words[1:])
    known = [c for c in commands("s3prl-mi") if len(c) > 1]
    assert len(known) >= 4
    for words in known:
        cli.build_parser().parse_args(words[1:])


def test_every_config_that_is_named_exists():
    named = set(re.findall(r"`(paper_\w+)`", README))
    configs = {name for name in packaged_configs() if name.startswith("paper_")}
    assert named == configs


def test_every_key_of_an_override_exists():
    names = set(MIConfig.__dataclass_fields__)
    found = set(re.findall(r"config\.downstream_expert\.(\w+)", README))
    assert found
    assert found <= names


def test_python_blocks_are_python():
    for block in blocks("python"):
        ast.parse(block)


def test_arrays_in_a_record_out():
    (block,) = [b for b in blocks("python") if "estimate_view_mi" in b]
    rng = np.random.default_rng(0)
    z = rng.normal(size=(600, 4)).astype(np.float32)
    names = {"fit_z": z[:300], "eval_z": z[300:], "fit_y": z[:300, 0] > 0, "eval_y": z[300:, 0] > 0}
    names |= {"fit_za": z[:300], "fit_zb": z[:300], "eval_za": z[300:], "eval_zb": z[300:]}
    names |= {"fit_speakers": np.arange(300) // 60}
    block = block.replace("clusters=50", "clusters=4").replace('probe="mlp"', 'probe="logistic"')
    exec(block, names)
    assert names["e"].mi_lower_bound_bits > 0
    assert estimate_supervised_mi is names["estimate_supervised_mi"]
    assert estimate_view_mi is names["estimate_view_mi"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_every_extra_that_is_named_exists():
    import tomllib

    project = tomllib.loads((REPO / "pyproject.toml").read_text())
    for extra in re.findall(r"s3prl_mi\[(\w+)\]", README):
        assert extra in project["project"]["optional-dependencies"]


def test_a_measure_of_ones_own(run: Runner, monkeypatch, capsys):
    """The worked example, literally."""
    (source,) = [b for b in blocks("python") if b.startswith("# s3prl_mi/estimators/measures/own.py")]
    monkeypatch.setattr(registry, "_TABLE", dict(registry.measures()))
    exec(compile(source, "own.py", "exec"), {"__name__": "s3prl_mi.estimators.measures.own"})
    assert run("mi_views", "fbank", measures=["largest_direction"]) == 0
    (record,) = read_measures(run.folder / "experiment" / MEASURES_FILE)
    assert 1 / 240 < record.value < 1
    assert record.ci_over == "speakers"
