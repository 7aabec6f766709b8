"""s3prl-mi: light to start, and the store, config and upstreams commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from s3prl_mi import __version__
from s3prl_mi.cli import demo as demo_run
from s3prl_mi.cli import main as cli
from s3prl_mi.cli.options import build_parser
from s3prl_mi.cli.run_settings import apply_override
from s3prl_mi.core.config import load
from s3prl_mi.states.store import Store, key_of
from tests.helpers.paths import REPO
from tests.helpers.process import run_python
from tests.helpers.store import append


def python(code: str) -> str:
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "words", [["-h"], ["store", "-h"], ["config", "mi_views"], ["store", "list"], ["explain", "config"]]
)
def test_what_needs_no_torch_does_not_load_it(words, tmp_path):
    code = f"""
import sys, contextlib
from s3prl_mi.cli.main import main
with contextlib.suppress(SystemExit):
    main({[*words, *(["--root", str(tmp_path)] if words == ["store", "list"] else [])]!r})
heavy = {{"torch", "torchaudio", "transformers", "s3prl", "matplotlib", "sklearn"}} & set(sys.modules)
print("heavy:", sorted(heavy))
"""
    assert python(code).splitlines()[-1] == "heavy: []"


def test_help_of_run_downstream_loads_nothing_heavy_either():
    code = """
import sys, contextlib
from s3prl_mi.run_downstream import main
with contextlib.suppress(SystemExit):
    main(["-h"])
print("heavy:", sorted({"torch", "transformers", "matplotlib"} & set(sys.modules)))
"""
    assert python(code).splitlines()[-1] == "heavy: []"


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["-h"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    for name, (_, _, summary) in cli.COMMANDS.items():
        assert f"s3prl-mi {name}" in said
        assert summary in " ".join(said.split())


def test_version(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize("words", [["measure"], ["compare"], ["report"], ["store"], ["store", "list", "--seed", "1"]])
def test_wrong_words_end_with_status_2(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    assert stopped.value.code == 2
    assert "usage: s3prl-mi" in capsys.readouterr().err


def test_without_a_command_all_are_shown(capsys):
    assert cli.main([]) == 2
    said = capsys.readouterr().err
    assert "compare" in said
    assert "upstreams" in said


def test_only_demo_passes_unknown_words_on(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(demo_run, "run", lambda out, extra: seen.append((out, list(extra))) or 0)
    assert cli.main(["demo", "--out", str(tmp_path), "--seed", "7"]) == 0
    assert seen == [(tmp_path, ["--seed", "7"])]


@pytest.fixture
def demo(monkeypatch, tmp_path):
    """The demo without its corpus, its training and its measurements: the commands it would run."""
    commands = []

    def measure(words):
        commands.append(words)
        return 0 if len(commands) < 4 else 1

    monkeypatch.setattr(demo_run, "make_corpus", lambda folder: folder)
    models = {m: (tmp_path / f"{m}-0", tmp_path / f"{m}-9") for m in demo_run.MODELS}
    monkeypatch.setattr(demo_run, "_pretrain", lambda audio, out: models)
    monkeypatch.setattr(demo_run.run_downstream, "main", measure)
    monkeypatch.setattr(demo_run, "read_records", lambda path: [])
    monkeypatch.setattr(demo_run, "_board", lambda out: "the board")
    return commands


def test_demo_measures_both_tasks_on_every_model_until_one_fails(demo, tmp_path):
    """Commands as a user would type them: s3prl_mi's own parser and overrides take them."""
    assert cli.main(["demo", "--out", str(tmp_path), "--seed", "7"]) == 1
    assert len(demo) == 4, "it must stop at the command that failed"
    seen = []
    for words in demo:
        args, config = build_parser().parse_args(words), {}
        apply_override(args.override, args, config)
        seen.append((args.downstream, args.upstream, args.upstream_ckpt))
        expert = config["downstream_expert"]
        assert (args.seed, args.auto_resume) == (7, True)
        assert expert["datarc"]["libri_root"] == str(tmp_path / "corpus")
        assert load({**expert, "datarc": {**expert["datarc"], "libri_root": str(tmp_path)}}, args.downstream)
    untrained = str(tmp_path / "hubert-0")
    assert seen == [
        (task, upstream, source)
        for upstream, source in (("fbank", None), ("hubert_local", untrained))
        for task in ("mi_supervised", "mi_views")
    ]


def test_demo_ends_with_phone_errors_in_table_and_picture(demo, tmp_path, monkeypatch, capsys):
    trained = []  # none has a score before it is trained
    monkeypatch.setattr(demo_run, "read_scores", lambda d: [{"percent": 50.0 + len(demo)}] if d in trained else [])
    monkeypatch.setattr(demo_run, "draw_comparison", lambda *args: trained.append(args[2]))
    monkeypatch.setattr(demo_run, "comparison_table", lambda labelled, rates: str(rates))

    def measure(words):
        demo.append(words)
        trained.append(Path(words[words.index("-p") + 1]))
        return 0

    monkeypatch.setattr(demo_run.run_downstream, "main", measure)
    assert cli.main(["demo", "--out", str(tmp_path), "-o", "config.downstream_expert.seeds=1"]) == 0
    assert [words[words.index("-d") + 1] for words in demo[10:]] == ["ctc"] * 5
    args, config = build_parser().parse_args(demo[11]), {}
    apply_override(args.override, args, config)
    assert (args.upstream, args.reuse_states) == ("hubert_local", True)
    assert config["downstream_expert"]["corpus"]["test"] == ["eval"]
    assert "seeds" not in config["downstream_expert"]
    drawn = trained[-1]
    assert list(drawn.items())[:2] == [("fbank", 61.0), ("hubert untrained", 62.0)]
    assert str(drawn) in capsys.readouterr().out


def test_overrides_of_the_user_come_on_top_of_the_demos_own(demo, tmp_path):
    words = ["-o", "config.downstream_expert.seeds=1", "--override", "config.downstream_expert.clusters=8"]
    cli.main(["demo", "--out", str(tmp_path), *words])
    args, config = build_parser().parse_args(demo[0]), {}
    apply_override(args.override, args, config)
    expert = config["downstream_expert"]
    assert (expert["seeds"], expert["clusters"]) == (1, 8)
    assert expert["datarc"]["libri_root"] == str(tmp_path / "corpus")


def test_demo_says_where_the_messages_of_a_failed_training_are(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(demo_run, "make_corpus", lambda folder: folder)
    monkeypatch.setattr(demo_run, "MODELS", {"no-such-model": ("hubert_local", "x-*.pt")})
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    assert cli.main(["demo", "--out", str(tmp_path)]) == 1
    log = tmp_path / "models" / "no-such-model.log"
    assert f"error: training no-such-model failed; its messages are in {log}" in capsys.readouterr().err
    assert "no-such-model" in log.read_text()
    assert not (tmp_path / "models" / "no-such-model.done").exists()


def test_progress_of_training_is_the_last_percentage_of_its_log(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"")
    assert demo_run._percent(log) == 0
    log.write_bytes(b"\r  9%|#   |\r 41%|##  | 3/7, loss 12.5")
    assert demo_run._percent(log) == 41


@pytest.mark.parametrize("task", ["mi_views", "mi_supervised"])
def test_config_prints_a_file_to_copy(task, capsys):
    assert cli.main(["config", task]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert "downstream_expert" in yaml.safe_load(path.read_text())


def test_config_lists_all_and_refuses_others(capsys):
    assert cli.main(["config"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"mi_views", "mi_supervised", "paper_table2_mlm"} <= {line.split()[0] for line in lines}
    assert cli.main(["config", "mi_vews"]) == 1
    assert "Did you mean 'mi_views'" in capsys.readouterr().err


def test_upstreams_lists_and_explains(capsys):
    assert cli.main(["upstreams", "apc_loc"]) == 0
    said = capsys.readouterr().out
    assert "apc_local" in said
    assert "shift" in said
    assert cli.main(["upstreams", "hubert"]) == 0
    assert "model.mask_emb" in capsys.readouterr().out


def test_upstreams_without_a_match_is_a_mistake(capsys):
    assert cli.main(["upstreams", "no-such-model"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert "no-such-model" in said.err


@pytest.fixture
def store(tmp_path):
    """Two entries, of fbank and of hubert, and one of fbank that was not finished."""
    store = Store(tmp_path / "store", 10**9)
    for name, view in (("fbank", "plain"), ("hubert", "plain"), ("fbank", "unfinished")):
        about = {"upstream": name, "view": view, "split": "dev"}
        with store.writer(key_of(about), about, [0, 1], "float16", [(0, 1)]) as writer:
            append(writer, 0, "u", [np.random.default_rng(0).standard_normal((9, 4))] * 2)
            if view != "unfinished":
                writer.finish()
    return store


def names(store: Store) -> list[str]:
    return sorted(entry.about["upstream"] for entry in store.entries())


def test_store_list_names_what_is_there(store, capsys):
    assert cli.main(["store", "list", "--root", str(store.root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    for name in ("fbank", "hubert"):
        (line,) = [x for x in lines if name in x.split()]
        assert all(word in line for word in ("dev", "plain", "2 layers", "float16"))
    assert "2 entries" in lines[-1]
    assert "1 unfinished" in lines[-1]
    assert names(store) == ["fbank", "hubert"]


def test_store_list_of_one_upstream(store, capsys):
    assert cli.main(["store", "list", "--root", str(store.root), "--upstream", "hubert"]) == 0
    said = capsys.readouterr().out
    assert "1 entries" in said
    assert "fbank" not in said


def test_store_clear_of_one_upstream_leaves_the_others(store, capsys):
    assert cli.main(["store", "clear", "--root", str(store.root), "--upstream", "fbank"]) == 0
    assert names(store) == ["hubert"]
    assert "1 entries" in capsys.readouterr().out


def test_store_clear_leaves_nothing(store):
    assert cli.main(["store", "clear", "--root", str(store.root)]) == 0
    assert store.entries() == []
    assert store.partial_folders() == []
    assert not list(store.root.rglob("*.bin"))


def test_a_store_that_was_never_used_is_empty(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("S3PRL_MI_STORE", str(tmp_path / "none"))
    assert cli.main(["store", "list"]) == 0
    assert cli.main(["store", "clear"]) == 0
    said = capsys.readouterr().out
    assert "0 entries" in said
    assert str(tmp_path / "none") in said
