"""run_downstream.py: s3prl's command line; the work itself is replaced by a recorder."""

import argparse
import errno
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest
import yaml

from s3prl_mi.cli import run_downstream
from s3prl_mi.cli.options import build_parser
from s3prl_mi.cli.run_downstream import main
from s3prl_mi.cli.run_settings import apply_override
from s3prl_mi.core.config import MIConfig, default_config
from s3prl_mi.core.errors import MIError
from s3prl_mi.experiment.spec import RunSpec, UpstreamSpec
from s3prl_mi.upstreams.s3prl_states import latest_states
from tests.helpers.paths import REPO
from tests.helpers.process import run_python


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """The arguments and config that a run was made of; it does nothing. The current folder is a fresh one."""
    seen = []

    def run_spec(args, config):
        seen.append((args, config))
        return RunSpec("mi_views", UpstreamSpec(args.upstream), MIConfig(), Path(args.expdir))

    stub = types.ModuleType("s3prl_mi.experiment.run")
    stub.run = lambda spec: None
    monkeypatch.setitem(sys.modules, "s3prl_mi.experiment.run", stub)
    monkeypatch.setattr(run_downstream, "run_spec", run_spec)
    monkeypatch.setattr(run_downstream, "save_states", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    return seen


@pytest.fixture
def stock(monkeypatch, tmp_path):
    """The command lines that s3prl's own script was started with."""
    seen = []
    stub = types.ModuleType("s3prl.run_downstream")
    stub.main = lambda: seen.append(sys.argv[1:])
    monkeypatch.setitem(sys.modules, "s3prl.run_downstream", stub)
    monkeypatch.setattr(sys.modules.get("s3prl") or __import__("s3prl"), "run_downstream", stub, raising=False)
    monkeypatch.chdir(tmp_path)
    return seen


def train(*more: str) -> int:
    return main(["-m", "train", "-d", "mi_views", "-u", "fbank", "-n", "x", "--device", "cpu", *more])


def finished(folder: Path, **args: object) -> Path:
    import torch

    folder.mkdir(parents=True)
    old = vars(build_parser().parse_args(["-m", "train", "-d", "mi_views", "-u", "fbank"])) | args
    path = folder / "states-1.ckpt"
    torch.save({"Args": argparse.Namespace(**old), "Config": {"downstream_expert": {"seeds": 2}}}, path)
    return path


_OPTIONS_OF_S3PRL = """
import sys, types, argparse, json
from s3prl_mi.upstreams import compat
compat.apply()
sys.modules["s3prl.hub"] = types.ModuleType("s3prl.hub")
import s3prl
s3prl.hub = sys.modules["s3prl.hub"]
from s3prl import run_downstream
class Stop(Exception): pass
def stop(self, *a): raise Stop(self)
argparse.ArgumentParser.parse_args = stop
try:
    run_downstream.get_downstream_args()
except Stop as found:
    parser = found.args[0]
print(json.dumps([[a.option_strings, a.dest, a.default, a.choices and list(a.choices), a.required, a.nargs,
    getattr(a.type, "__name__", None), type(a).__name__] for a in parser._actions]))
"""


def test_every_option_is_s3prls_own():
    done = subprocess.run(
        [sys.executable, "-c", _OPTIONS_OF_S3PRL],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    theirs = {o[1]: o for o in json.loads(done.stdout)}
    ours = {
        a.dest: [
            a.option_strings,
            a.dest,
            a.default,
            a.choices and list(a.choices),
            a.required,
            a.nargs,
            getattr(a.type, "__name__", None),
            type(a).__name__,
        ]
        for a in build_parser()._actions
    }
    assert ours.pop("upstream_module")[:3] == [["--upstream_module"], "upstream_module", None]
    assert ours.pop("no_test")[:3] == [["--no_test"], "no_test", False]
    assert ours.pop("trust_checkpoint")[:3] == [["--trust_checkpoint"], "trust_checkpoint", False]
    assert ours.pop("jobs")[:3] == [["--jobs"], "jobs", None]
    assert ours.pop("slurm")[:3] == [["--slurm"], "slurm", None]
    assert ours.pop("max_store_gb")[:3] == [["--max_store_gb"], "max_store_gb", None]
    assert ours.pop("reuse_states")[:3] == [["--reuse_states", "--no-reuse_states"], "reuse_states", None]
    assert ours.pop("store_mode")[:3] == [["--store_mode"], "store_mode", None]
    assert ours.pop("precision")[:3] == [["--precision"], "precision", None]
    assert ours == theirs


def test_train_reaches_the_experiment_with_the_default_config(calls):
    assert train("-s", "hidden_states", "-l", "3", "--seed", "7", "--upstream_feature_normalize") == 0
    ((args, config),) = calls
    assert (args.upstream_layer_selection, args.seed, args.upstream_feature_normalize) == (3, 7, True)
    assert args.expdir == "result/downstream/x"
    assert config == yaml.safe_load((REPO / "downstream_configs" / "mi_views.yaml").read_text())
    assert yaml.safe_load(next(Path(args.expdir).glob("args_*.yaml")).read_text())["upstream"] == "fbank"
    assert yaml.safe_load(next(Path(args.expdir).glob("config_*.yaml")).read_text()) == config


def test_own_config_and_model_config_are_used_and_backed_up(calls, tmp_path):
    (tmp_path / "c.yaml").write_text("downstream_expert: {clusters: 9}")
    (tmp_path / "g.yaml").write_text("feat: 1")
    assert train("-c", "c.yaml", "-g", "g.yaml", "-p", "here") == 0
    assert calls[0][1] == {"downstream_expert": {"clusters": 9}}
    assert [p.read_text() for p in Path("here").glob("g_*.yaml")] == ["feat: 1"]


def test_override_reads_literals_words_and_text(calls):
    text = "config.downstream_expert.datarc.libri_root='/a=b',,config.downstream_expert.clusters=7,,"
    text += "config.downstream_expert.store.keep=false ,, config.specaug.deep.key=[1, 2],,args.seed=3,,"
    text += "config.optimizer=none"
    assert train("-o", text) == 0
    args, config = calls[0]
    expert = config["downstream_expert"]
    assert (expert["datarc"]["libri_root"], expert["clusters"], expert["store"]["keep"]) == ("/a=b", 7, False)
    assert (config["specaug"], args.seed, config["optimizer"]) == ({"deep": {"key": [1, 2]}}, 3, "none")


@pytest.mark.parametrize(
    "text",
    [
        "clusters=3",
        "config.a",
        "config.=1",
        "args.sede=1",
        "config.optimizer.lr.x=1",
        "config.a=1,,",
        "args.a.b=1",
    ],
)
def test_bad_override_is_one_clear_message(text):
    with pytest.raises(MIError, match="-o "):
        apply_override(text, argparse.Namespace(seed=1), {"optimizer": {"lr": 0.0}})


def test_override_evaluates_no_code(tmp_path):
    config = {}
    apply_override(f"config.a=__import__('os').mkdir('{tmp_path}/made')", argparse.Namespace(), config)
    assert not (tmp_path / "made").exists()


def test_missing_gpu_falls_back_with_one_line(calls, capsys, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["-m", "train", "-d", "mi_views", "-u", "fbank", "-n", "x"]) == 0
    assert calls[0][0].device == "cpu"
    assert [line for line in capsys.readouterr().err.splitlines() if "GPU" in line] == [
        "No GPU found: using the CPU instead of --device cuda."
    ]


@pytest.mark.parametrize(("device", "taken"), [("cuda", []), ("cuda:1", [1])])
def test_a_gpu_by_number_is_the_one_that_memory_is_pinned_for(calls, monkeypatch, device, taken):
    import torch

    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert main(["-m", "train", "-d", "mi_views", "-u", "fbank", "-n", "x", "--device", device]) == 0
    assert (calls[0][0].device, chosen) == (device, taken)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "no task given"),
        (["-m", "train"], "-d is missing"),
        (["-m", "train", "-d", "mi_veiws"], "Did you mean 'mi_views'"),
        (["-m", "train", "-d", "phone_linaer"], "'phone_linear'"),
        (["-m", "train", "-d", "mi_views", "-u", "fbank"], "-n or -p is missing"),
        (["-m", "train", "-d", "mi_views", "-n", "x"], "-u is missing"),
        (["-m", "inference", "-d", "mi_views", "-u", "fbank", "-n", "x"], "-m inference"),
        (["-m", "train", "-d", "mi_views", "-u", "fbank", "-n", "x", "-c", "no.yaml"], "-c no.yaml"),
        (["-m", "train", "-d", "mi_views", "-u", "fbank", "-n", "x", "--device", "gpu0"], "--device gpu0"),
        (["-m", "train", "-d", "mi_views", "-u", "fbank", "-n", "x", "--device", "cuda:x"], "--device cuda:x"),
        (
            ["-m", "train", "-d", "mi_views", "-u", "fbank", "-n", "x", "--upsteam_ckpt=a"],
            "'--upstream_ckpt'",
        ),
        (
            ["-m", "train", "-d", "mi_views", "-u", "a/b", "-n", "x", "--hub", "huggingface"],
            "-u hf -k organisation/name",
        ),
        (["-m", "train", "-d", "mi_views", "-u", "fbank", "-n", "x", "-f"], "frozen"),
        (["-m", "evaluate", "-d", "mi_views", "-u", "fbank", "-n", "x"], "no states-"),
        (["-m", "evaluate", "-e", "nowhere"], "-e nowhere: no such"),
        (
            ["-m", "train", "-d", "ctc", "-u", "fbank", "-n", "x", "--device", "cpu"],
            "where is LibriSpeech? -o",
        ),
        (["-m", "evaluate", "-d", "ctc", "-u", "fbank", "-n", "x", "--device", "cpu"], "which run? -e FOLDER"),
        (["-m", "train", "-d", "ctc", "-u", "fbnk", "-n", "x", "--device", "cpu"], "unknown upstream -u 'fbnk'"),
        (
            ["-m", "train", "-d", "asr", "-u", "fbank", "-n", "x", "-c", "a.yaml", "--device", "cpu"],
            "-c a.yaml: no such",
        ),
        (
            ["-m", "train", "-d", "example", "-u", "fbank", "-n", "x", "--device", "cpu"],
            "-c is missing: task example",
        ),
        (
            ["-m", "train", "-d", "quesst14_dtw", "-u", "fbank", "-n", "x", "--device", "cpu"],
            "(SUPERB QbE) lacks ",
        ),
        (["-d", "mi_views"], "-m/--mode"),
        (
            ["-m", "train", "-d", "mi_views", "-u", "fbank", "-n", "x", "--jobs", "2"],
            "leave them out for one",
        ),
        (["-m", "train", "-d", "ctc", "-u", "fbank", "-n", "x", "--slurm"], "leave them out for one"),
        (["-m", "train", "-d", "mi_views", "-u", "fbank,mel", "-n", "x", "--jobs", "0"], "--jobs 0"),
    ],
)
def test_mistakes_are_one_line_and_exit_1(calls, capsys, argv, message):
    assert main(argv) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert calls == []


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2", ""])
def test_config_that_is_no_mapping_is_refused(calls, capsys, tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    assert train("-c", "c.yaml") == 1
    assert "error: -c c.yaml" in capsys.readouterr().err


def test_experiment_folder_that_is_a_file(calls, capsys, tmp_path):
    (tmp_path / "f").write_text("")
    assert train("-p", "f") == 1
    assert "experiment folder f" in capsys.readouterr().err


@pytest.mark.parametrize(
    "how",
    [
        ["-e", "result/downstream/x"],
        ["-e", "result/downstream/x/states-1.ckpt"],
        ["-n", "x"],
        ["-p", "result/downstream/x"],
    ],
)
def test_evaluate_takes_arguments_and_config_of_the_experiment(calls, how):
    finished(Path("result/downstream/x"), seed=5, upstream="mfcc", expdir="result/downstream/x")
    argv = ["-m", "evaluate", "-t", "test-clean", "--device", "cpu", *how]
    assert main([*argv, "-o", "config.downstream_expert.clusters=4"]) == 0
    args, config = calls[0]
    assert (args.mode, args.evaluate_split, args.upstream, args.seed) == ("evaluate", "test-clean", "mfcc", 5)
    assert (args.downstream, args.expdir) == ("mi_views", "result/downstream/x")
    assert args.init_ckpt == "result/downstream/x/states-1.ckpt"
    assert config == {"downstream_expert": {"seeds": 2, "clusters": 4}}


def test_auto_resume_is_kept_and_a_moved_experiment_stays_where_it_is(calls):
    finished(Path("moved"), expdir="result/downstream/old", auto_resume=False)
    assert main(["-m", "train", "-d", "mi_views", "-u", "fbank", "-p", "moved", "-a", "--device", "cpu"]) == 0
    assert (calls[0][0].auto_resume, calls[0][0].expdir) == (True, "moved")


@pytest.mark.parametrize(("option", "key", "value"), [("-u", "upstream", "mfcc"), ("-k", "upstream_ckpt", "b.pt")])
def test_another_model_is_not_continued(calls, capsys, option, key, value):
    """The arguments of a finished experiment count: one that contradicts them is refused, not passed over."""
    finished(Path("x"), upstream="fbank", upstream_ckpt="a.pt")
    same = ["-m", "train", "-d", "mi_views", "-u", "fbank", "-k", "a.pt", "-p", "x", "-a", "--device", "cpu"]
    assert main([value if same[n - 1] == option else word for n, word in enumerate(same)]) == 1
    assert f"error: {option} {value}: x was measured with {option}" in capsys.readouterr().err
    assert main(same) == 0
    assert getattr(calls[0][0], key) == {"upstream": "fbank", "upstream_ckpt": "a.pt"}[key]


def test_latest_states_is_by_number(tmp_path):
    for step in (9, 10):
        (tmp_path / f"states-{step}.ckpt").touch()
    (tmp_path / "states-best.ckpt").touch()
    assert latest_states(tmp_path).name == "states-10.ckpt"


def test_damaged_or_foreign_checkpoint(calls, capsys, tmp_path):
    import torch

    (tmp_path / "cut.ckpt").write_bytes(finished(tmp_path / "x").read_bytes()[:300])
    torch.save({"model": {}}, tmp_path / "other.ckpt")
    for name in ("cut.ckpt", "other.ckpt"):
        assert main(["-m", "evaluate", "-d", "mi_views", "-e", name]) == 1
        assert f"error: {name}: not a checkpoint" in capsys.readouterr().err


def test_checkpoint_of_another_task(calls, capsys):
    finished(Path("ctc_run"), downstream="ctc")
    assert main(["-m", "evaluate", "-d", "mi_views", "-e", "ctc_run"]) == 1
    assert "experiment of task ctc" in capsys.readouterr().err


def test_stock_task_is_s3prls_own(stock, monkeypatch, tmp_path):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = list(sys.argv)
    assert main(["-m", "train", "-d", "example", "-u", "fbank", "-n", "x", "-c", "c.yaml", "--local-rank=0"]) == 0
    expected = ["-m", "train", "-d", "example", "-u", "fbank", "-n", "x", "-c", "c.yaml", "--local_rank=0"]
    assert stock == [[*expected, "--device", "cpu"]]
    assert sys.argv == before


def test_stock_task_with_an_upstream_from_the_store(stock, monkeypatch, tmp_path):
    script = sys.modules["s3prl.run_downstream"]
    seen = []

    class Theirs:
        pass

    script.Runner = Theirs
    script.main = lambda: seen.append((script.Runner, sys.argv[1:]))
    words = ["-m", "train", "-d", "phone_linear", "-u", "fbank", "-n", "x", "-c", "c.yaml", "--device", "cpu"]
    assert main([*words, "--reuse_states", "--max_store_gb", "2"]) == 0
    ((runner, passed),) = seen
    assert issubclass(runner, Theirs)
    assert passed == words
    assert script.Runner is Theirs


def test_stock_task_evaluated_without_naming_it(stock, tmp_path):
    finished(tmp_path / "example_run", downstream="example")
    assert main(["-m", "evaluate", "-e", "example_run", "--device", "cpu"]) == 0
    assert stock == [["-m", "evaluate", "-e", "example_run", "--device", "cpu"]]


def test_a_local_rank_without_a_launcher_is_refused(calls, capsys):
    assert train("--local_rank=0") == 1
    assert "torchrun" in capsys.readouterr().err
    assert calls == []


def test_interrupt_says_how_to_continue(calls, monkeypatch, capsys):
    def interrupt(spec):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["s3prl_mi.experiment.run"], "run", interrupt)
    assert train() == 130
    assert "run_downstream.py -m train -d mi_views -u fbank -n x --device cpu -a" in capsys.readouterr().err


def test_full_disk_is_one_line_and_a_bug_keeps_its_traceback(calls, monkeypatch, capsys):
    def fail(error):
        def run(spec):
            raise error

        monkeypatch.setattr(sys.modules["s3prl_mi.experiment.run"], "run", run)

    fail(OSError(errno.ENOSPC, "No space left on device", "/store/a.npy"))
    assert train() == 1
    assert "error: no space left: /store/a.npy" in capsys.readouterr().err
    fail(RuntimeError("shape mismatch"))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        train()


def test_default_config_of_an_unknown_task():
    with pytest.raises(MIError, match="'asr'"):
        default_config("asr")


def test_help_shows_examples_first_and_imports_nothing_heavy():
    code = (
        "import sys; sys.argv=['run_downstream.py', '-h']\nfrom s3prl_mi.run_downstream import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'numpy', 's3prl') if m in sys.modules])"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "[]"
    assert done.stdout.index("-d mi_supervised -u fbank") < done.stdout.index("--upstream_feature_selection")
    assert max(map(len, lines)) <= 110


@pytest.mark.parametrize("key", ["downstream_exprt.seeds", "seeds", "datarc.libri_root"])
def test_a_misplaced_key_is_refused(calls, capsys, key):
    assert train("-o", f"config.{key}=3") == 1
    assert f"unknown config section {key.partition('.')[0]!r}" in capsys.readouterr().err
    assert calls == []


def test_evaluating_a_study_names_its_experiments(calls, tmp_path, capsys):
    for task in ("mi_views", "mi_supervised"):
        finished(tmp_path / "study" / task / "fbank", downstream=task)
    assert main(["-m", "evaluate", "-d", "mi_views", "-p", str(tmp_path / "study"), "--device", "cpu"]) == 1
    said = capsys.readouterr().err
    assert "is a study of several experiments" in said
    assert str(tmp_path / "study" / "mi_views" / "fbank") in said
