"""Command lines and files that mean nothing: one line that names what is wrong, and nothing made on the way."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from s3prl_mi.cli.main import main as s3prl_mi
from s3prl_mi.states import extraction
from s3prl_mi.upstreams.loading import load_upstream
from tests.faults.base import SETTINGS, checkpoint, command_refuses, finished, fresh
from tests.faults.campaign import Case, Wrong, refuses, shown
from tests.faults.runs import GRID, _at
from tests.helpers.models import build_hugging_face


def _words(
    match: str, folder: Path, *words: str, task: str = "mi_views", model: str = "fbank", **settings: Any
) -> None:
    run = fresh(folder)
    if "-p" in words or "-n" in words:
        line = run.command(task, model, *words, **{**SETTINGS, **settings})
        at = line.index("-p")
        command_refuses([*line[:at], *line[at + 2 :]], match)
    else:
        command_refuses(run.command(task, model, *words, **{**SETTINGS, **settings}), match)


def _main_refuses(words: list[str], match: str) -> None:
    """A command of `s3prl-mi` that must end with one line."""
    status, screen = shown(lambda: s3prl_mi(words))
    if status == 0:
        raise Wrong("silent", screen[-200:])
    errors = [line for line in screen.splitlines() if line.startswith("error: ")]
    if len(errors) != 1 or not re.search(match, errors[0]):
        raise Wrong("traceback", f"not {match!r}: {screen[-300:]}")


# --- checkpoints ------------------------------------------------------------------------------------------


def _loads(match: str, name: str, make: Callable[[Path], Path], folder: Path, lacks: str = "", **more: Any) -> None:
    line = refuses(lambda: load_upstream(name, str(make(folder)), **more), match)
    if lacks and lacks in line:
        raise Wrong("traceback", f"misleading: {line}")


def _junk_config(text: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = build_hugging_face(folder)
        (path / "config.json").write_text(text)
        return path

    return make


def _cut_weights(folder: Path) -> Path:
    path = shutil.copy(checkpoint("hubert-base")[1], folder / "x.pt")
    content = torch.load(path, weights_only=True)
    del content["model_weight"][next(iter(content["model_weight"]))]
    torch.save(content, path)
    return Path(path)


def _safetensors(folder: Path) -> Path:
    source = build_hugging_face(folder) / "model.safetensors"
    return Path(shutil.copy(source, folder / "model.pt"))


def _bad_g(folder: Path) -> None:
    (folder / "bad.yaml").write_text("a: [")
    refuses(lambda: load_upstream("baseline_local", model_config=str(folder / "bad.yaml")), "-g .*bad.yaml")


# --- results, scores --------------------------------------------------------------------------------------


def _results(change: dict[str, Any], match: str, folder: Path) -> None:
    run = finished(folder)
    path = run.folder / "experiment" / "mi_results.jsonl"
    line = json.loads(path.read_text().splitlines()[0])
    path.write_text(json.dumps({**line, **change}) + "\n")
    _main_refuses(["compare", str(path.parent)], match)


def _scores(text: str, match: str, folder: Path) -> None:
    run = finished(folder)
    (folder / "scores.csv").write_text(text)
    _main_refuses(["compare", str(run.folder / "experiment"), "--scores", str(folder / "scores.csv")], match)


def _misspelt_score(folder: Path) -> None:
    run = finished(folder)
    (folder / "scores.csv").write_text("upstream,per\nfbnak,82\n")
    words = ["compare", str(run.folder / "experiment"), "--scores", str(folder / "scores.csv"), "--superb", "none"]
    if "'fbnak' is of no model" not in shown(lambda: s3prl_mi(words))[1]:
        raise Wrong("silent", "a misspelt row")


def _no_folders_made(folder: Path) -> None:
    run = finished(folder)
    _main_refuses(["compare", str(run.folder / "experiment"), "--csv", str(folder / "a/b.csv")], "no folder")
    if (folder / "a").exists():
        raise Wrong("silent", "a folder was made")


# --- while it runs ----------------------------------------------------------------------------------------


def _store_gone(folder: Path) -> None:
    run = fresh(folder)
    with _at(extraction, "_read", 4, lambda: shutil.rmtree(folder / "store")):
        command_refuses(run.command("mi_supervised", "hubert-base", **GRID), "store")


def _featurizer(content: Any, folder: Path) -> None:
    torch.save(content, folder / "states.ckpt")
    _words("states.ckpt", folder, model="hubert-base", layers="weighted", featurizer=str(folder / "states.ckpt"))


def _align_to_file(folder: Path) -> None:
    (folder / "out").write_text("a file")
    run = fresh(folder, copied=True)
    for path in run.corpus.audio.values():
        path.with_suffix(".lab").write_text("a word")
    words = ["align", "--libri_root", str(run.corpus.root), "--split", "eval", "--out", str(folder / "out")]
    _main_refuses(words, "out")


SEEDS, RATES = ("-1", "4294967296", "99999999999999999999"), ("1e400", "-1", "0", "nan", "1e300")
NOBODY = "~nobody_of_this_name/x"
SETTING: list[tuple[str, Any]] = [
    *(("clusters", n) for n in (0, -3, 10**6)),
    *(("seeds", n) for n in (0, 10**9, [-1])),
    *(("layers", n) for n in ([99], [])),
    *(("probes", n) for n in (["svm"], [])),
    *(("datarc__max_seconds", n) for n in (0, math.nan)),
    *(("views__mask", n) for n in ("40/30", "a/b")),
    *(("datarc__eval_splits", n) for n in (["nowhere"], ["fit-a"])),
    ("datarc__fit_splits", []),
    ("datarc__max_unreadable", 2),
    ("datarc__max_utterances", 0),
    ("batch_size", -1),
    ("store__max_gb", -1),
]
RECORD: dict[str, Any] = {
    "mi_lower_bound_bits": math.nan,
    "accuracy": math.inf,
    "entropy_bits": "much",
    "layer": None,
    "seed": "one",
    "fit_splits": "dev",
    "task": "asr",
    "dim": [],
}
SCORES = ["fbank,nan", "fbank,-3", "fbank,5000", "fbank,inf", "fbank,eight", "fbank,8\nfbank,9"]
FEATURIZER = [
    *({"Featurizer": {"weights": w}} for w in ([1.0, 2.0], "x", torch.ones(2, 2), torch.full((3,), math.nan))),
    *({"Featurizer": [1.0]}, [], {}, 3),
]
CONFIG = ("{", "[]", "3", '"hubert"', "", "\0\0", "null")
PATHS = {
    "manifest": {"datarc__manifest": NOBODY, "datarc__libri_root": None},
    "audio": {"datarc__libri_root": NOBODY},
    "alignments": {"datarc__alignments__path": NOBODY, "task": "mi_supervised"},
    "store": {"store__root": NOBODY},
}
DEVICES = ("xpu", "mps", "meta", "tpu", "")
CASES = [
    *(Case(f"--seed {n}", lambda f, n=n: _words("seed", f, "--seed", n)) for n in SEEDS),
    *(Case(f"--device {d}", lambda f, d=d: _words("--device", f, "--device", d)) for d in DEVICES),
    *(Case(f"shift of {x} ms", lambda f, x=x: _words("shift", f, views__shift_ms=float(x))) for x in RATES),
    *(Case(f"{n} of an unknown user", lambda f, p=p: _words("nobody_of_this", f, **p)) for n, p in PATHS.items()),
    *(Case(f"{o} ''", lambda f, o=o: _words(o, f, o, "")) for o in ("-n", "-p")),
    *(Case(f"{k} of {v}", lambda f, k=k, v=v: _words(k.split("__")[-1], f, **{k: v})) for k, v in SETTING),
    *(
        Case(f"config.json {t!r} of {n}", lambda f, t=t, n=n: _loads("config.json", n, _junk_config(t), f))
        for n in ("hf_hubert_custom", "hf")
        for t in CONFIG
    ),
    Case("weights that lack one", lambda f: _loads("", "hubert_local", _cut_weights, f, lacks="Try -u hubert_local")),
    Case("safetensors called .pt", lambda f: _loads("safetensors", "hubert_local", _safetensors, f)),
    Case("a bad -g", _bad_g),
    *(Case(f"results with {k} {v}", lambda f, k=k, v=v: _results({k: v}, "line 1: ", f)) for k, v in RECORD.items()),
    *(Case(f"scores {t!r}", lambda f, t=t: _scores(f"upstream,per\n{t}\n", "scores.csv", f)) for t in SCORES),
    *(
        Case(f"scores of {t!r}", lambda f, t=t: _scores(t, "scores.csv", f))
        for t in ("upstream,perr\nfbank,8\n", "", "\0")
    ),
    Case("a misspelt row of scores", _misspelt_score),
    Case("--csv into no folder", _no_folders_made),
    Case("the store is deleted", _store_gone),
    *(Case(f"featurizer, {n}", lambda f, c=c: _featurizer(c, f)) for n, c in enumerate(FEATURIZER)),
    Case("align --out FILE", _align_to_file),
]
