"""`s3prl-mi demo`: the main job without any download, from audio to a picture.

It makes a corpus (`demo`), trains a tiny HuBERT and a tiny APC from scratch on it (`pretrain`), and measures both
models, their untrained selves and fbank with both tasks, through the very command line that a user types; then it
trains SUPERB's phone recognition on each, by s3prl's own runner (`ctc`), for far fewer steps than SUPERB does.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from ..core.config import TASKS
from ..core.errors import MIError
from ..core.files import write_whole
from ..demo.corpus import make_corpus
from ..report.board import notes_of, read_board, title_of, to_screen
from ..report.figures.best_layers import draw_comparison
from ..report.figures.board import board_picture
from ..report.html.report_data import read_report_data
from ..report.terminal import comparison_table
from ..results.record import RESULTS_FILE, Record, read_records
from ..superb.scores import read_records as read_scores
from . import run_downstream

PICTURE = "demo.png"
BOARD = "board.png"

PR_STEPS = 150
PR_LEARNING_RATE = 3e-3
"""Of phone recognition. SUPERB: 100,000 steps at 1e-2, too high for so few (trained HuBERT: 84 % instead of 74 %)."""

MODELS = {"hubert": ("hubert_local", "hubert-*.pt"), "apc": ("apc_local", "apc-*.ckpt")}
"""Model of `pretrain` -> upstream that reads its checkpoints, and their names."""


def run(out: Path, extra: Sequence[str]) -> int:
    """Run the demo.

    Args:
        out: folder for corpus, models, hidden states, experiments and the picture. What is there already is
            not made again.
        extra: further arguments for each `run_downstream.py`.

    Returns:
        The exit status.
    """
    began = time.time()
    print(f"1/4  a small speech corpus with exact phone alignments, by text-to-speech -> {out / 'corpus'}", flush=True)
    corpus = make_corpus(out / "corpus")
    print(
        f"2/4  a tiny HuBERT and a tiny APC, trained from scratch on it (about 2 min) -> {out / 'models'}", flush=True
    )
    checkpoints = _pretrain(corpus / "train", out / "models")
    print("3/4  mi_supervised and mi_views on fbank, on the untrained and on the trained models", flush=True)
    systems: list[tuple[str, str, Path | None]] = [("fbank", "fbank", None)]
    for model, (upstream, _) in MODELS.items():
        untrained, trained = checkpoints[model]
        systems += [(f"{model} untrained", upstream, untrained), (f"{model} trained", upstream, trained)]
    labelled: list[tuple[str, list[Record]]] = []
    for label, upstream, checkpoint in systems:
        records: list[Record] = []
        for task in TASKS:
            expdir = out / "experiments" / f"{task}-{label.replace(' ', '-')}"
            status = run_downstream.main(_command(task, upstream, checkpoint, corpus, expdir, out, extra))
            if status:
                return status
            records += read_records(expdir / RESULTS_FILE)
        labelled.append((label, records))
    print(f"4/4  SUPERB's phone recognition on the same, by s3prl's own runner, {PR_STEPS} steps each", flush=True)
    error_rates: dict[str, float] = {}
    for label, upstream, checkpoint in systems:
        expdir = out / "experiments" / f"ctc-{label.replace(' ', '-')}"
        if not read_scores(expdir):
            status = run_downstream.main(_recognition(upstream, checkpoint, corpus, expdir, out, extra))
            if status:
                return status
        error_rates[label] = read_scores(expdir)[-1]["percent"]
    draw_comparison(out / PICTURE, labelled, error_rates, "eval")
    print(f"\n{comparison_table(labelled, error_rates)}")
    print(
        f"\nPER: phone errors on the same speech after {PR_STEPS} steps, a start only: its order is what counts."
        "\nBits are lower bounds on speech of speakers that no probe has seen; compare rows of one column only.\n"
        "In the shift view fbank's windows (deltas reach 4 frames) overlap at 60 ms, so part of its bits is the same\n"
        "audio seen twice: compare apc with its untrained self there.\n"
        f"\n{_board(out)}\n"
        f"Pictures: {out / PICTURE}, {out / BOARD}. Every experiment: {out / 'experiments'}. "
        f"{time.time() - began:.0f} s."
    )
    return 0


def _board(out: Path) -> str:
    """Which label-free number to trust: untrained and trained models as checkpoints to choose from, and a picture."""
    data = read_report_data([out / "experiments"])
    board = read_board(data)
    if board is None:
        return ""
    picture = board_picture(board, {v.measure: title_of(v.measure) for v in board.verdicts})
    if picture is not None:
        write_whole(out / BOARD, picture.png)
    shown = to_screen(board, notes_of(board, data), ["checkpoints"])
    return f"Which number finds the trained model without labels (s3prl-mi board {out / 'experiments'})?\n\n{shown}"


def _command(
    task: str, upstream: str, checkpoint: Path | None, corpus: Path, expdir: Path, out: Path, extra: Sequence[str]
) -> list[str]:
    """The command line of one experiment; -a, so that a second demo repeats nothing."""
    key = "config.downstream_expert"
    settings = {
        "datarc.libri_root": str(corpus),
        "datarc.fit_splits": ["fit"],
        "datarc.eval_splits": ["eval"],
        "datarc.alignments.path": str(corpus / "alignments"),
        "store.root": str(out / "store"),
        "probes": ["logistic"],
        "seeds": 2,
    }
    words, users = _apart(extra)
    overrides = [*(f"{key}.{name}={value!r}" for name, value in settings.items()), *users]
    source = ["-k", str(checkpoint)] if checkpoint else []
    what = ["-m", "train", "-d", task, "-u", upstream, *source]
    return [*what, "-p", str(expdir), "-a", "-o", ",,".join(overrides), *words]


def _recognition(
    upstream: str, checkpoint: Path | None, corpus: Path, expdir: Path, out: Path, extra: Sequence[str]
) -> list[str]:
    """The command line of one phone recogniser; its hidden states are those that the other tasks have stored."""
    steps = {name: PR_STEPS for name in ("total_steps", "eval_step", "save_step")}
    data = {"train": ["fit@1/4", "fit@2/4", "fit@3/4"], "dev": ["fit@4/4"], "test": ["eval"], "num_workers": 0}
    settings = {
        "downstream_expert.datarc.libri_root": str(corpus),
        "downstream_expert.store.root": str(out / "store"),
        **{f"downstream_expert.corpus.{name}": value for name, value in (data | {"batch_size": 8}).items()},
        **{f"runner.{name}": value for name, value in (steps | {"gradient_accumulate_steps": 1}).items()},
        "optimizer.lr": PR_LEARNING_RATE,
    }
    own = ",,".join(f"config.{name}={value!r}" for name, value in settings.items())
    source = ["-k", str(checkpoint), "--reuse_states"] if checkpoint else []
    words = ["-m", "train", "-d", "ctc", "-u", upstream, *source, "-p", str(expdir), *_apart(extra)[0]]
    return [*words, "-o", own]  # the user's overrides are of the keys of our tasks


def _apart(extra: Sequence[str]) -> tuple[list[str], list[str]]:
    """The user's words without overrides, and the overrides, as a second -o would replace ours."""
    words, overrides = list(extra), []
    for flag in ("-o", "--override"):
        while flag in words:
            at = words.index(flag)
            overrides += words[at + 1 : at + 2]
            del words[at : at + 2]
    return words, overrides


def _pretrain(audio: Path, out: Path) -> dict[str, tuple[Path, Path]]:
    """Train both models side by side, one processor core each, unless they are there.

    Returns:
        For each model its untrained and its trained checkpoint.
    """
    out.mkdir(parents=True, exist_ok=True)
    running: dict[str, subprocess.Popen[bytes]] = {}
    for model in MODELS:
        if not (out / f"{model}.done").exists():
            command = [sys.executable, "-m", "s3prl_mi.demo.pretrain", "--model", model]
            command += ["--audio", str(audio), "--out", str(out)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # more threads are slower on models so small
            with open(out / f"{model}.log", "wb") as log:
                running[model] = subprocess.Popen(command, stderr=log, stdout=log, env=environment)
    try:
        _wait(running, out)
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    found = {}
    for model, (_, pattern) in MODELS.items():
        (out / f"{model}.done").touch()
        files = sorted(out.glob(pattern))
        found[model] = (files[0], files[-1])
    return found


def _wait(running: dict[str, subprocess.Popen[bytes]], out: Path) -> None:
    """Show how far the slower one is, from its log, until both have ended."""
    if not running:
        return
    with tqdm(total=100, desc=" + ".join(running), unit="%", dynamic_ncols=True) as bar:
        while any(p.poll() is None for p in running.values()):
            time.sleep(0.5)
            bar.n = min(_percent(out / f"{model}.log") for model in running)
            bar.refresh()
            for model, process in running.items():
                if process.poll():
                    raise MIError(f"training {model} failed; its messages are in {out / f'{model}.log'}.")
        bar.n = 100
        bar.refresh()


def _percent(log: Path) -> int:
    """The last percentage in a progress bar's log."""
    found = re.findall(rb"(\d+)%", log.read_bytes()[-4096:])
    return int(found[-1]) if found else 0
