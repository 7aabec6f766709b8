"""PER next to bits in one command: `ctc` as a task of a study."""

import json

import pytest
import torch

from tests.helpers.process import run_python

CODE = """
from s3prl_mi.cli.run_downstream import main

root, out, hubert = {root!r}, {out!r}, {hubert!r}
def study(upstreams, *more, tasks="ctc,mi_views", **changes):
    ours, ctc = "downstream_expert", "ctc.downstream_expert.corpus"
    values = {{
        f"{{ours}}.datarc.libri_root": root, f"{{ours}}.datarc.fit_splits": ["fit-a", "fit-b"],
        f"{{ours}}.datarc.eval_splits": ["eval"], f"{{ours}}.store.root": out + "/store", f"{{ours}}.seeds": 1,
        f"{{ours}}.probes": ["logistic"], f"{{ours}}.clusters": 6, f"{{ours}}.views.mask": "6/10",
        "ctc.runner.total_steps": 2, "ctc.runner.eval_step": 1, "ctc.runner.save_step": 1,
        "ctc.runner.gradient_accumulate_steps": 1, f"{{ctc}}.train": ["fit-a"], f"{{ctc}}.dev": ["fit-b"],
        f"{{ctc}}.test": ["eval"], f"{{ctc}}.num_workers": 0, **changes,
    }}
    text = ",,".join(f"config.{{k}}={{v!r}}" for k, v in values.items())
    words = ["-m", "train", "-d", tasks, "-u", upstreams, "-p", out + "/study", "--device", "cpu", "-o", text, *more]
    print("status", main(words), flush=True)

study("fbank", **{{"ctc.downstream_expert.corpus.test": ["no-such"]}})
study("fbank,hubert_local=" + hubert)
study("fbank,hubert_local=" + hubert, "-a")
study("fbank", "-a", **{{"ctc.optimizer.lr": 0.5}})
"""


@pytest.fixture
def done(spoken, tmp_path, checkpoint):
    code = CODE.format(root=str(spoken.root), out=str(tmp_path), hubert=str(checkpoint("hubert-base")[1]))
    found = run_python(code, cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path / "cache"), OMP_NUM_THREADS="1")
    assert found.returncode == 0, found.stderr[-3000:]
    return found


def test_a_stock_task_in_a_study(done, tmp_path):
    parts = [part.strip() for part in done.stdout.split("status ")]
    assert [p[0] for p in parts[1:]] == ["1", "0", "0", "1"]
    # a mistake is found before anything is measured
    assert "split 'no-such': no such folder" in done.stderr.partition("study: ")[0]
    # the first study: of ours before ctc, whose hidden states are those that were stored
    first = done.stderr.split("study: ")[1]
    assert first.index("[4/6] mi_views: hubert_local") < first.index("[5/6] ctc: hubert_local")
    assert "of it new" not in first
    assert first.count("which are there") == 3
    assert "I(Za;Zb) last" in parts[1]
    assert "PER %" in parts[1]
    folders = sorted((tmp_path / "study" / "ctc").iterdir())
    assert [f.name.partition("-")[0] for f in folders] == ["fbank", "hubert_local"]
    for folder in folders:
        # repeated with -a, and with other settings: still one score
        (record,) = (json.loads(line) for line in (folder / "superb_results.jsonl").read_text().splitlines())
        assert record["reused_states"] is (folder != folders[0])  # fbank's states are not stored
        assert f"{record['percent']:.2f}" in parts[1]
        assert f"PER from own run, {folder}" in parts[1]
    assert parts[2].count("PER from own run") == 2
    assert done.stderr.count("finished before") == 2
    assert list((tmp_path / "study" / "report" / "figures").glob("scatter_mi_views_*.png")) == []  # one of each rate
    # the weighted sum that ctc has learned, where there is more than one layer
    (hubert,) = (tmp_path / "study" / "mi_views_weighted").iterdir()
    (line,) = (hubert / "mi_results.jsonl").read_text().splitlines()
    learned = torch.load(folders[1] / "dev-best.ckpt", weights_only=False)["Featurizer"]["weights"].double().softmax(0)
    shares = " ".join(f"{w:.4f}" for w in learned)
    assert json.loads(line)["layer_name"] == f"featurizer (dev-best.ckpt of ctc on hubert_local): {shares}"
    assert f"{folders[0]}: no layer weights" in done.stderr
    assert "I(Za;Zb) weighted" in parts[1]
    # other settings: one line, and the bits are shown all the same
    assert "failed: ctc of fbank: -a: " in done.stderr
    assert "started with other settings (config)" in done.stderr
    assert "I(Za;Zb) last" in parts[3]
