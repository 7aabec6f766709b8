"""PR and ASR by s3prl's own runner, from an installation without a checkout of s3prl: trained, resumed, scored."""

import json

import pytest

from tests.helpers.process import run_python

CODE = """
import sys
from s3prl_mi.cli.run_downstream import main

root, out = {root!r}, {out!r}
def run(task, mode, steps, where, *more):
    data = "corpus" if task == "ctc" else "datarc"
    names = dict(zip(("ctc", "asr"), (("dev", "test"), ("dev-clean", "test-clean"))))[task]
    values = {{
        "downstream_expert.datarc.libri_root": root, "runner.total_steps": steps, "runner.eval_step": 1,
        "runner.save_step": 1, "runner.log_step": 1, "runner.gradient_accumulate_steps": 1,
        f"downstream_expert.{{data}}.train": ["fit-a"], f"downstream_expert.{{data}}.{{names[0]}}": ["fit-b"],
        f"downstream_expert.{{data}}.{{names[1]}}": ["eval@1/2"], f"downstream_expert.{{data}}.num_workers": 0,
    }}
    if task == "asr":
        values |= {{"downstream_expert.modelrc.project_dim": 8, "downstream_expert.modelrc.RNNs.dim": [8, 8]}}
    text = ",,".join(f"config.{{k}}={{v!r}}" for k, v in values.items())
    words = ["-m", mode, "-d", task, "-u", "fbank", "-p", f"{{out}}/{{where}}", "--device", "cpu", "-o", text, *more]
    assert main(words) == 0, words

run("ctc", "train", 1, "pr", "--no_test")
run("ctc", "train", 2, "pr", "-a")
run("asr", "train", 1, "asr")
assert main(["-m", "evaluate", "-e", f"{{out}}/pr/dev-best.ckpt", "-t", "dev", "--device", "cpu"]) == 0
"""


@pytest.fixture
def runs(spoken, tmp_path):
    code = CODE.format(root=str(spoken.root), out=str(tmp_path))
    done = run_python(code, cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path / "cache"), OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr[-3000:]
    return tmp_path, done


def test_trained_resumed_and_scored(runs):
    folder, done = runs
    pr, dev = (json.loads(line) for line in (folder / "pr" / "superb_results.jsonl").read_text().splitlines())
    (asr,) = (json.loads(line) for line in (folder / "asr" / "superb_results.jsonl").read_text().splitlines())
    # the rate is the one that s3prl itself printed
    printed = float(next(line for line in done.stdout.splitlines() if line.startswith("test per: ")).split()[-1])
    assert pr["percent"] == pytest.approx(100 * printed, abs=1e-4)
    assert (pr["task"], pr["metric"], pr["split"], pr["folders"]) == ("ctc", "per", "test", ["eval@1/2"])
    assert (pr["utterances"], pr["fit"], pr["dev"], pr["total_steps"]) == (3, ["fit-a"], ["fit-b"], 2)
    assert pr["scored"] == "dev-best.ckpt"
    assert pr["steps"] in (1, 2)
    assert pr["lexicon"].startswith("gruut_lang_en")
    assert (dev["split"], dev["folders"], dev["percent"]) == ("dev", ["fit-b"], pytest.approx(pr["dev_percent"]))
    printed = float(next(line for line in done.stdout.splitlines() if line.startswith("test-clean wer: ")).split()[-1])
    assert asr["percent"] == pytest.approx(printed, abs=1e-4)
    assert (asr["metric"], asr["split"], asr["steps"], asr["lexicon"]) == ("wer", "test-clean", 1, None)
    assert "--no_test" not in done.stderr
    assert "Resume from" in done.stdout
