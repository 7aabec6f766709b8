"""s3prl's own tasks with bad input: one line; what s3prl raises is in a file that the line names."""

from __future__ import annotations

import functools
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch

from s3prl_mi.core.errors import MIError
from s3prl_mi.report.s3prl_runs import read_runs
from tests.faults.base import corpus, scratch
from tests.faults.campaign import Case, Wrong, command, command_refuses
from tests.faults.runs import _at
from tests.faults.store import DAMAGE
from tests.helpers.corpus import Corpus

TEXTS = ("SEE THE MOON", "MOMMA KEEPS A COOKIE", "KEEP SEEING QUILTER'S SOUP")


def spoken(folder: Path) -> Corpus:
    """The corpus with transcripts, as LibriSpeech has them."""
    own = corpus().copy(folder)
    for number, (name, path) in enumerate(sorted(own.audio.items())):
        with (path.parent / f"{path.parent.parent.name}-{path.parent.name}.trans.txt").open("a") as file:
            file.write(f"{name} {TEXTS[number % len(TEXTS)]}\n")
    return own


def words_of(task: str, c: Corpus, folder: Path, *more: str, **settings: Any) -> list[str]:
    """Two steps of PR or ASR; `settings` are keys of the config with __ for a dot."""
    data, dev, test = ("corpus", "dev", "test") if task == "ctc" else ("datarc", "dev-clean", "test-clean")
    values: dict[str, Any] = {
        "downstream_expert.datarc.libri_root": str(c.root),
        **{f"runner.{key}": n for key, n in (("total_steps", 2), ("gradient_accumulate_steps", 1))},
        **{f"runner.{key}_step": 1 for key in ("eval", "save", "log")},
        **{f"downstream_expert.{data}.{key}": v for key, v in (("train", ["fit-a"]), (dev, ["fit-b"]))},
        f"downstream_expert.{data}.{test}": ["eval@1/2"],
        f"downstream_expert.{data}.num_workers": 0,
    }
    if task == "asr":
        values |= {"downstream_expert.modelrc.project_dim": 8, "downstream_expert.modelrc.RNNs.dim": [8, 8]}
    values |= {key.replace("__", "."): value for key, value in settings.items()}
    text = ",,".join(f"config.{k}={v!r}" for k, v in values.items())
    return ["-m", "train", "-d", task, "-u", "fbank", "-p", str(folder / "run"), "--device", "cpu", "-o", text, *more]


def _refused(task: str, match: str, folder: Path, *more: str, **settings: Any) -> None:
    """One line, with the file that holds a traceback of s3prl's where there was one."""
    line = command_refuses(words_of(task, spoken(folder), folder, *more, **settings), match)
    trace = folder / "run" / "error.txt"
    if ("has failed" in line) != trace.exists() or (trace.exists() and "Traceback" not in trace.read_text()):
        raise Wrong("traceback", f"{line} {list(trace.parent.iterdir())}")


def _spoilt(task: str, spoil: Callable[[Corpus], object], match: str, folder: Path) -> None:
    c = spoken(folder)
    spoil(c)
    command_refuses(words_of(task, c, folder), match)


def _left_behind(content: Any, match: str, folder: Path) -> None:
    (folder / "run").mkdir()
    states = folder / "run" / "states-1.ckpt"
    states.write_bytes(content) if isinstance(content, bytes) else torch.save(content, states)
    _refused("ctc", match, folder, "-a")


def _other(task: str, match: str, folder: Path, *more: str, config: str | None = None) -> None:
    words = ["-m", "train", "-d", task, "-u", "fbank", "-p", str(folder / "run"), "--device", "cpu", *more]
    if config is not None:
        (folder / "c.yaml").write_text(config)
        words += ["-c", str(folder / "c.yaml")]
    command_refuses(words, match)


def _signal(number: signal.Signals, task: str, workers: int, folder: Path) -> None:
    """A signal to the run and to what loads its data, at the second step; then -a."""

    def act() -> None:  # by another process: workers pass over what their parent sends
        pids = [p.pid for p in (*psutil.Process().children(), psutil.Process())]
        subprocess.run(["kill", "-s", number.name.removeprefix("SIG"), *map(str, pids)], check=True)

    settings = {f"downstream_expert__{'corpus' if task == 'ctc' else 'datarc'}__num_workers": workers}
    words = words_of(task, spoken(folder), folder, **settings)
    with _at(torch.optim.Adam, "step", 2, act):
        status, screen = command(words)
    if status != 128 + number or "to continue: run_downstream.py" not in screen or "Traceback" in screen:
        raise Wrong("traceback", f"status {status}: {screen[-300:]}")
    if command([*words, "-a"])[0] or not (folder / "run" / "superb_results.jsonl").exists():
        raise Wrong("traceback", "-a fails")


def _below_a_file(task: str, folder: Path) -> None:
    (folder / "file").write_text("")
    words = words_of("ctc", spoken(folder), folder)
    words[words.index("-p") + 1] = str(folder / "file/run")
    words[words.index("-d") + 1] = task
    if task == "example":
        (folder / "c.yaml").write_text(RUNNER + "{}")
        words += ["-c", str(folder / "c.yaml")]
    if task == "mi_views":
        words[words.index("-o") + 1] = f"config.downstream_expert.datarc.libri_root='{folder / 'audio'}'"
    command_refuses(words, str(folder / "file"))


@functools.cache
def _finished() -> Path:
    """The folder of a finished run of PR."""
    folder = scratch() / "stock"
    words = words_of("ctc", spoken(folder), folder)
    if command(words)[0]:
        raise Wrong("traceback", "a run without faults fails")
    return folder / "run"


def _damaged(name: str, damage: Callable[[Path], object], folder: Path) -> None:
    """A file of a finished run; then what reports read of it."""
    shutil.copytree(_finished(), folder / "run")
    before = [(r.metric, r.test) for r in read_runs([folder / "run"])]
    damage(next((folder / "run").glob(name)))
    try:
        found = [(r.metric, r.test) for r in read_runs([folder / "run"])]
    except MIError as error:
        if name.split(".")[-1] not in str(error) or "\n" in str(error):
            raise Wrong("traceback", f"no file is named: {error}") from error
    else:
        if found and str(found) != str(before):
            raise Wrong("silent", f"{found}")


FILES = ("superb_results.jsonl", "dev-best.ckpt", "states-2.ckpt", "config_*.yaml", "args_*.yaml")
RUNNER = "runner: {total_steps: 1, gradient_clipping: 1, gradient_accumulate_steps: 1, log_step: 1, eval_step: 1, "
RUNNER += "save_step: 1, max_keep: 1, eval_dataloaders: [dev]}\noptimizer: {name: TorchOptim, torch_optim_name: Adam, "
RUNNER += "lr: 1.0e-4}\ndownstream_expert: "
SETTING: list[tuple[str, Any, str]] = [
    ("runner__total_steps", 0, "nothing to score"),
    ("runner__total_steps", "x", "ctc has failed .TypeError"),
    ("runner__gradient_accumulate_steps", 0, "ZeroDivisionError"),
    ("runner__eval_dataloaders", ["nowhere"], "corpus.nowhere"),
    ("optimizer__lr", "x", "TypeError"),
    ("optimizer__name", "Nope", "get_Nope"),
    ("downstream_expert__corpus__train", [], "a list of LibriSpeech's folders"),
    ("downstream_expert__corpus__train", ["nowhere"], "no such folder"),
    ("downstream_expert__corpus__num_workers", -1, "num_workers"),
    ("downstream_expert__corpus__lexicon", ["/nowhere"], "lexicon /nowhere"),
    ("downstream_expert__datarc__libri_root", "/nowhere", "/nowhere: no such folder"),
    ("downstream_expert__model__project_dim", -1, "negative dimension"),
]
CONFIG = {
    "speech_commands": "datarc: {speech_commands_root: /nowhere, speech_commands_test_root: /nowhere}",
    "fluent_commands": "datarc: {file_path: /nowhere}",
    "voxceleb1": "datarc: {file_path: /nowhere, meta_data: /nowhere}",
    "emotion": "datarc: {root: /nowhere}",
    "phone_linear": "datarc: {}",
    "timit_phone": "datarc: {}",
    "example": "",
    "separation_stft": "loaderrc: {}",
}


def _junk(path: Path) -> None:
    path.write_bytes(b"junk")


CASES = [
    *(Case(f"-d ctc, {k} of {v}", lambda f, k=k, v=v, m=m: _refused("ctc", m, f, **{k: v})) for k, v, m in SETTING),
    *(
        Case(f"-d {t}, no data", lambda f, t=t, c=c: _other(t, f"{t}", f, config=RUNNER + f"{{{c}}}"))
        for t, c in CONFIG.items()
    ),
    *(
        Case(f"-d example, config {c!r}", lambda f, c=c: _other("example", "c.yaml|example has failed", f, config=c))
        for c in ("", "a: [", "[1]", "3", "runner: 3")
    ),
    Case("-d example without -c", lambda f: _other("example", "-c is missing", f)),
    Case("-d asrr", lambda f: _other("asrr", "asrr.*Did you mean", f)),
    *(
        Case(f"-d {t}, unknown -u", lambda f, t=t: _refused(t, "'hubrt'.*Did you mean", f, "-u", "hubrt"))
        for t in ("ctc", "asr")
    ),
    Case("-d example, unknown -u", lambda f: _other("example", "'hubrt'", f, "-u", "hubrt", config=RUNNER + "{}")),
    Case("-d ctc, -k missing", lambda f: _refused("ctc", "does not exist", f, "-u", "hubert_local", "-k", "/no.pt")),
    *(
        Case(f"-d ctc -u {u}, -k of text", lambda f, u=u: _refused("ctc", "a text file", f, "-u", u, "-k", __file__))
        for u in ("hubert_local", "apc_local", "dinosr")
    ),
    Case("-d ctc, -e of nothing", lambda f: _refused("ctc", "no states", f, "-e", str(f))),
    *(
        Case(f"-d ctc, -a on {n}", lambda f, c=c, m=m: _left_behind(c, m, f))
        for n, c, m in (
            ("junk", b"junk", "damaged"),
            ("other states", {"Args": 3}, "not a checkpoint"),
            ("nothing", b"", "damaged"),
        )
    ),
    Case("-d ctc, -m evaluate of nothing", lambda f: _refused("ctc", "which run", f, "-m", "evaluate")),
    *(
        Case(
            f"-d {t}, no audio can be read",
            lambda f, t=t: _spoilt(t, lambda c: [_junk(p) for p in c.audio.values()], "not readable", f),
        )
        for t in ("ctc", "asr")
    ),
    *(
        Case(
            f"-d {t}, no transcripts",
            lambda f, t=t: _spoilt(t, lambda c: [p.unlink() for p in c.root.rglob("*.txt")], "no transcript", f),
        )
        for t in ("ctc", "asr")
    ),
    *(Case(f"-d {t}, -p below a file", lambda f, t=t: _below_a_file(t, f)) for t in ("ctc", "example", "mi_views")),
    Case("-d ctc, -p is a file", lambda f: _spoilt("ctc", lambda c: (f / "run").write_text(""), "is a file", f)),
    *(
        Case(f"SIGTERM at step 2 of {t}, {n} workers", lambda f, t=t, n=n: _signal(signal.SIGTERM, t, n, f))
        for t, n in (("ctc", 2), ("asr", 0))
    ),
]
LONG = [
    *(Case(f"-d ctc, {n} {d}", lambda f, n=n, d=d: _damaged(n, DAMAGE[d], f)) for n in FILES for d in DAMAGE),
    *(
        Case(f"{n.name} at step 2 of {t}, {w} workers", lambda f, n=n, t=t, w=w: _signal(n, t, w, f))
        for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)
        for t in ("ctc", "asr")
        for w in (0, 2)
    ),
]
