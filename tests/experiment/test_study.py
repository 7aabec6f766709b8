"""Studies: what a command line stands for, and several experiments in one command."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from s3prl_mi.cli.run_downstream import main
from s3prl_mi.cli.run_settings import read_config
from s3prl_mi.core.config import MIConfig, load, packaged_configs
from s3prl_mi.core.errors import MIError
from s3prl_mi.experiment.spec import RunSpec, UpstreamSpec
from s3prl_mi.experiment.study import HALVES, StudyConfig, expand, is_study, requested, study_runs
from s3prl_mi.results.record import RESULTS_FILE, read_records
from tests.helpers.runner import Runner

PAPER = sorted(name for name in packaged_configs() if name.startswith("paper_"))


def models(items, ckpt=None):
    return expand(items, UpstreamSpec("", ckpt))


def runs_of(upstreams=None, tasks=None, folder="x", config=None):
    study = requested(tasks, upstreams, config or {})
    base = UpstreamSpec("")
    return study_runs([RunSpec(t, base, MIConfig(), Path(folder)) for t in study.tasks], study.upstreams)


@pytest.fixture
def checkpoints(tmp_path) -> Path:
    """Files without content that matters; steps 15, 240 and 1000, which do not sort as text."""
    for step in ("15", "240", "1000"):
        torch.save({}, tmp_path / f"apc-{step}.ckpt")
    (tmp_path / "notes.txt").write_text("no checkpoint")
    return tmp_path


@pytest.mark.parametrize("place", ["apc-*.ckpt", "*", ""])
def test_a_pattern_or_folder_is_a_series_by_step(checkpoints, place):
    found = models(["apc_local"], str(checkpoints / place))
    assert [s.step for s in found] == [15, 240, 1000]
    assert [s.slug for s in found] == ["apc_local-apc-15", "apc_local-apc-240", "apc_local-apc-1000"]


def test_items_with_and_without_checkpoints(checkpoints):
    one = str(checkpoints / "apc-15.ckpt")
    found = models(["fbank", f"apc_local={one}", "hf=owner/model#3"])
    hf = UpstreamSpec("hf", "owner/model", 3, "hf series")
    assert found == [UpstreamSpec("fbank"), UpstreamSpec("apc_local", one), hf]
    assert [s.slug for s in found] == ["fbank", "apc_local-apc-15", "hf-owner-model"]


@pytest.mark.parametrize(
    ("items", "ckpt", "says"),
    [
        (["apc_local"], "none-*.ckpt", "no checkpoint there"),
        (["fbank", "fbank"], None, "names fbank .* twice"),
        (["=x.pt"], None, "expected a name"),
        (["apc_local="], None, "expected a name, or name=checkpoint"),
    ],
)
def test_what_stands_for_nothing(items, ckpt, says):
    with pytest.raises(MIError, match=says):
        models(items, ckpt)


def test_what_is_a_study(checkpoints):
    assert is_study("mi_views", "a,b", None, {})
    assert is_study("mi_views,mi_supervised", "a", None, {})
    assert is_study("mi_views", "a=x.pt", None, {})
    assert is_study(None, None, None, {"study": {"upstreams": ["fbank"]}})
    assert is_study(None, "apc_local", str(checkpoints), {})
    assert is_study(None, "apc_local", str(checkpoints / "*.ckpt"), {})
    assert not is_study("mi_views", "apc_local", str(checkpoints / "apc-15.ckpt"), {})
    assert not is_study("mi_views", "hf_hubert_custom", "owner/name", {})
    (checkpoints / "config.json").write_text("{}")
    assert not is_study("mi_views", "hf", str(checkpoints), {})


def test_the_command_line_wins_over_the_config(tmp_path):
    config = {"study": {"tasks": ["mi_views"], "upstreams": ["hubert", "wavlm"]}}
    root = tmp_path / "s"
    found = runs_of(folder=root, config=config)
    assert [r.folder.relative_to(root).as_posix() for r in found] == ["mi_views/hubert", "mi_views/wavlm"]
    found = runs_of("fbank", "mi_supervised,mi_views", root, config)
    assert [(r.task, r.upstream.name) for r in found] == [("mi_supervised", "fbank"), ("mi_views", "fbank")]
    with pytest.raises(MIError, match="error rates next to bits; add mi_supervised or mi_views"):
        runs_of("fbank,hubert", "ctc")
    assert requested("asr,mi_views,ctc", "fbank", {}).tasks == ("mi_views", "asr", "ctc")
    with pytest.raises(MIError, match="-u is missing"):
        runs_of(tasks="mi_views,mi_supervised")
    with pytest.raises(MIError, match=r"study.upstream.*Did you mean"):
        runs_of(config={"study": {"upstream": ["a"]}})


def test_two_systems_of_one_name_have_two_folders(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        torch.save({}, tmp_path / folder / "last.ckpt")
    found = runs_of(f"apc_local={tmp_path}/*/last.ckpt", "mi_views")
    assert len({r.folder for r in found}) == 2


def test_no_two_systems_share_a_folder(tmp_path):
    for name in ("r1/ckpt.pt", "r2/ckpt.pt", "r3/ckpt-2.pt"):
        (tmp_path / name).parent.mkdir()
        torch.save({}, tmp_path / name)
    listed = ",".join(f"hubert_local={tmp_path}/{n}" for n in ("r1/ckpt.pt", "r2/ckpt.pt", "r3/ckpt-2.pt"))
    found = runs_of(listed, "mi_views")
    assert len({r.folder for r in found}) == 3


@pytest.mark.parametrize("name", PAPER)
def test_configs_of_the_paper_are_whole(name, tmp_path):
    config = read_config(name)
    study = StudyConfig(**{k: tuple(v) for k, v in config["study"].items()})
    assert models(study.upstreams)
    data = config["downstream_expert"]["datarc"]
    data["libri_root"] = str(tmp_path)
    assert ("asr" in study.tasks) == name.endswith("_own_scores")
    for task in study.tasks[:2]:
        if task == "mi_supervised":
            data["alignments"]["path"] = str(tmp_path)
        load(config["downstream_expert"], task)


def test_the_paper_has_six_configs_and_two_with_own_scores():
    assert [n.removeprefix("paper_") for n in PAPER] == [
        "fig_checkpoints", "fig_clusters", "fig_layers", "fig_masking", "table2_mlm", "table2_mlm_own_scores",
        "table4_apc", "table4_apc_own_scores",
    ]  # fmt: skip


def test_a_config_upon_another_one(tmp_path):
    (tmp_path / "one.yaml").write_text("study: {tasks: [mi_views], upstreams: [fbank]}\nrunner: {a: 1}\n")
    two = tmp_path / "two.yaml"
    two.write_text(f"base: {tmp_path / 'one.yaml'}\nstudy: {{tasks: [mi_views, ctc]}}\nctc: {{runner: {{b: 2}}}}\n")
    both = {"tasks": ["mi_views", "ctc"], "upstreams": ["fbank"]}
    assert read_config(str(two)) == {"study": both, "runner": {"a": 1}, "ctc": {"runner": {"b": 2}}}
    two.write_text("base: two\n")
    with pytest.raises(MIError, match="its base is itself"):
        read_config(str(two))


# --- end to end ------------------------------------------------------------------------------------------


def command(run: Runner, *words: str, task: str = "mi_views,mi_supervised", **settings) -> list[str]:
    """A study of tiny models: the words of `run.command` with other tasks and upstreams."""
    base = run.command(task, "fbank", seeds=1, layers="last", **settings)
    at = base.index("-u")
    return [*base[:at], *base[at + 2 :], *words]


def bounds(folder: Path) -> dict:
    return {r.identity(): r.mi_lower_bound_bits for r in read_records(folder / RESULTS_FILE)}


def test_several_upstreams_and_tasks_in_one_command(run, checkpoint, capsys):
    name, file = checkpoint("hubert-base")
    assert main(command(run, "-u", f"fbank,{name}={file}")) == 0
    study = run.folder / "experiment"
    folders = sorted(p.parent.relative_to(study).as_posix() for p in study.rglob(RESULTS_FILE))
    assert folders == [f"{t}/{s}" for t in ("mi_supervised", "mi_views") for s in ("fbank", f"{name}-{file.stem}")]
    assert run("mi_views", "hubert-base", name="alone", seeds=1, layers="last") == 0
    alone = bounds(run.folder / "alone")
    together = bounds(study / "mi_views" / f"{name}-{file.stem}")
    assert together == pytest.approx(alone, abs=1e-9)
    assert "2 systems x mi_views and mi_supervised = 4 experiments" in capsys.readouterr().err


def test_checkpoints_that_the_user_numbers_are_one_curve(run, checkpoint, capsys):
    """As the published models in paper_fig_checkpoints.yaml, whose names tell no step."""
    name, file = checkpoint("hubert-base")
    other, large = checkpoint("hubert-large")
    assert name == other
    assert main(command(run, "-u", f"{name}={file}#1,{name}={large}#2", task="mi_views")) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "is picked without labels" in said
    assert list((run.folder / "experiment" / "report" / "figures").glob("checkpoints_1.png"))


def test_a_sweep_ends_with_its_usual_setting(run, capsys):
    assert main(command(run, "-u", "fbank,mel", task="mi_views", clusters=[6, 4])) == 0
    said = capsys.readouterr().out
    assert "the other settings are in the report" in said
    assert "I(Za;Zb) last" in said


def test_a_crash_in_one_model_does_not_cost_the_others(run, monkeypatch, capsys):
    from s3prl_mi.experiment import run as experiment

    original = experiment.run

    def crashing(spec):
        if spec.upstream.name == "mel":
            raise RuntimeError("CUDA out of memory")
        original(spec)

    monkeypatch.setattr(experiment, "run", crashing)
    assert main(command(run, "-u", "mel,fbank", task="mi_views")) == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert "CUDA out of memory" in err
    assert "Traceback" in (run.folder / "experiment" / "mi_views" / "mel" / "error.txt").read_text()
    assert (run.folder / "experiment" / "mi_views" / "fbank" / RESULTS_FILE).exists()


def test_a_finished_study_repeats_nothing_and_takes_more(run, monkeypatch):
    assert main(command(run, "-u", "fbank", task="mi_views,mi_supervised")) == 0
    result = run.folder / "experiment" / "mi_views" / "fbank" / RESULTS_FILE
    before = result.read_bytes()
    assert main(command(run, "-u", "fbank,mel", "-a")) == 0
    assert result.read_bytes() == before
    assert (run.folder / "experiment" / "mi_views" / "mel" / RESULTS_FILE).exists()


def test_a_wrong_name_or_file_is_found_before_anything_is_measured(run, capsys):
    assert main(command(run, "-u", "fbank,hubret", task="mi_views")) == 1
    assert "unknown upstream -u 'hubret'. Did you mean 'hubert'" in capsys.readouterr().err
    assert main(command(run, "-u", "fbank,apc_local=/no/such.ckpt", task="mi_views")) == 1
    assert "/no/such.ckpt: no such file" in capsys.readouterr().err
    assert not list(run.folder.rglob(RESULTS_FILE))


def test_upstreams_of_two_frame_rates_have_a_table_each(run, checkpoint, capsys):
    name, file = checkpoint("hubert-base")
    assert main(command(run, "-u", f"fbank,{name}={file}", task="mi_views")) == 0
    said = capsys.readouterr().out
    assert "Frames every 10 ms, not comparable with the others." in said
    assert "Frames every 20 ms, not comparable with the others." in said
    assert "No table" not in said


def test_one_that_fails_does_not_stop_the_others(run, tmp_path, capsys):
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes(b"no checkpoint")
    assert main(command(run, "-u", f"apc_local={broken},fbank", task="mi_views")) == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert "broken.ckpt" in next(line for line in err.splitlines() if line.startswith("failed: "))
    assert (run.folder / "experiment" / "mi_views" / "fbank" / RESULTS_FILE).exists()


def test_a_series_is_measured_on_halves_of_the_validation_set(run, checkpoint, monkeypatch, tmp_path):
    """Without splits of its own; here they are then overridden by what the corpus has."""
    name, file = checkpoint("hubert-base")
    content = torch.load(file, weights_only=True)
    for step in (10, 9):
        torch.save(content, tmp_path / f"tiny-{step}.pt")
    seen: list[tuple] = []
    from s3prl_mi.experiment import run as experiment

    monkeypatch.setattr(
        experiment,
        "run",
        lambda spec: seen.append((spec.upstream.step, spec.config.datarc)),
    )
    data = f"config.downstream_expert.datarc.libri_root={str(run.corpus.root)!r}"
    out = ["-p", str(run.folder / "series"), "--device", "cpu", "-o", data]
    main(["-m", "train", "-d", "mi_views", "-u", name, "-k", str(tmp_path / "tiny-*.pt"), *out])
    assert [step for step, _ in seen] == [9, 10]
    assert all((d.fit_splits, d.eval_splits) == ((HALVES[0],), (HALVES[1],)) for _, d in seen)
