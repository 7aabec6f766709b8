"""Damage to an experiment's folder and its data between a run and `-a`, and two runs in one folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from s3prl_mi.core.locks import Lock
from tests.faults.base import SETTINGS, again, command_refuses, finished, fresh, refused_or_same
from tests.faults.campaign import Case, Wrong, command
from tests.faults.store import DAMAGE
from tests.helpers.corpus import Corpus

# --- data that changed between a run and -a ---------------------------------------------------------------


def _other_audio(c: Corpus) -> str:
    """Other speech of the same length, under the same name."""
    path = c.audio["21-1-0001"]
    n = soundfile.info(path).frames
    soundfile.write(path, 0.1 * np.random.default_rng(5).standard_normal(n), 16000)
    return "21-1-0001"


def _swapped_audio(c: Corpus) -> str:
    one, other = c.audio["11-1-0000"], c.audio["11-1-0001"]
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    return "11-1-000"


def _edited_label(c: Corpus) -> str:
    path = c.textgrid("12-1-0001")
    text = path.read_text()
    name = next(n for n in ("K", "M", "S") if f'text = "{n}"' in text)
    path.write_text(text.replace(f'text = "{name}"', 'text = "ZZ"', 1))
    return "labels of fit-a/12-1-0001"


def _moved_boundary(c: Corpus) -> str:
    path = c.textgrid("22-1-0002")
    lines = path.read_text().splitlines()
    row = max(i for i, line in enumerate(lines) if "xmin" in line)
    for i in (row, row - 3):
        key, value = lines[i].split(" = ")
        lines[i] = f"{key} = {float(value) - 0.01 if i == row else value}"
    path.write_text("\n".join(lines))
    return "labels of eval/22-1-0002"


def _lost_label(c: Corpus) -> str:
    c.textgrid("12-1-0001").unlink()
    return "labels of fit-a/12-1-0001"


def _louder(c: Corpus) -> str:
    path = c.audio["13-1-0000"]
    samples, rate = soundfile.read(path)
    soundfile.write(path, 0.5 * samples, rate)
    return "13-1-0000"


CHANGES: dict[str, Callable[[Corpus], str]] = {
    "audio replaced": _other_audio,
    "audio swapped": _swapped_audio,
    "audio louder": _louder,
    "label edited": _edited_label,
    "boundary moved": _moved_boundary,
    "alignment lost": _lost_label,
}


def _changed(change: Callable[[Corpus], str], folder: Path) -> None:
    run = finished(folder, copied=True)
    named = change(run.corpus)
    command_refuses(again(run, seeds=2), f"{named}.*changed")


def _changed_labels_do_not_matter(folder: Path) -> None:
    run = finished(folder, "mi_views", copied=True)
    _edited_label(run.corpus)
    status, screen = command(again(run, "mi_views", seeds=2))
    if status:
        raise Wrong("traceback", screen[-200:])


# --- files of the folder ----------------------------------------------------------------------------------


def _damaged(name: str, damage: Callable[[Path], object], folder: Path) -> None:
    run = finished(folder)
    numbers = run.numbers()
    damage(next((folder / "experiment").glob(name)))
    refused_or_same(run, again(run), numbers)


def _evaluated(name: str, damage: Callable[[Path], object], folder: Path) -> None:
    run = finished(folder)
    words = ["-m", "evaluate", "-p", str(folder / "experiment"), "-t", "eval", "--device", "cpu"]
    before = {k: v for k, v in run.numbers().items()}
    damage(next((folder / "experiment").glob(name)))
    status, _ = command(words)
    if status:
        command_refuses(words)
    elif run.numbers("experiment/evaluate/eval") != before:
        raise Wrong("silent", "other bits")


# --- two runs in one folder -------------------------------------------------------------------------------


def _held(words: Callable[[Any], list[str]], folder: Path) -> None:
    run = finished(folder)
    lock = Lock(folder / "experiment" / ".mi_run.lock", create=True)
    lock.take()
    (folder / "experiment" / ".mi_run.lock").write_text("process 7 on node3")
    before = run.numbers()
    command_refuses(words(run), "another run writes there now .*process 7 on node3")
    lock.close()
    if run.numbers() != before:
        raise Wrong("silent", "records changed")
    if command(again(run))[0] or (folder / "experiment" / ".mi_run.lock").exists():
        raise Wrong("traceback", "the folder stays locked")


# --- listing audio ----------------------------------------------------------------------------------------


def _listing(spoil: Callable[[Corpus], object], match: str, folder: Path, **more: Any) -> None:
    run = fresh(folder, copied=True)
    spoil(run.corpus)
    command_refuses(run.command("mi_views", "fbank", **{**SETTINGS, **more}), match)


def _to_nowhere(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.symlink_to("/nowhere/at/all")


def _folder_for_file(path: Path) -> None:
    path.unlink()
    path.mkdir()


# --- the same speech in fit and eval ----------------------------------------------------------------------


def _copied(
    c: Corpus, name: str, *, to: str = "eval/21/1", write: Callable[[Path, Path], object] = shutil.copy
) -> None:
    target = c.root / to / name
    target.parent.mkdir(parents=True, exist_ok=True)
    write(c.audio["11-1-0001"], target)


SAME: dict[str, tuple[Callable[[Corpus], object], dict[str, Any]]] = {
    "a copy under another id": (lambda c: _copied(c, "21-1-0009.flac"), {}),
    "a hard link": (lambda c: _copied(c, "21-1-0009.flac", write=os.link), {}),
    "a symbolic link": (lambda c: _copied(c, "21-1-0009.flac", write=os.symlink), {}),
    "a copy as WAV": (lambda c: _copied(c, "21-1-0009.wav", write=_as_wav), {}),
    "a copy of another speaker's": (lambda c: _copied(c, "99-1-0000.flac", to="eval/99/1"), {}),
    "a link to a speaker's folder": (lambda c: (c.root / "eval/99").symlink_to(c.root / "fit-a/11"), {}),
    "a link to a split": (lambda c: (c.root / "again").symlink_to("fit-a"), {"datarc__eval_splits": ["again"]}),
    "a split named twice": (lambda c: None, {"datarc__eval_splits": ["eval", "fit-b"]}),
    "a split by another path": (lambda c: None, {"datarc__eval_splits": ["eval/../fit-b"]}),
    "./ before a split": (lambda c: None, {"datarc__eval_splits": ["./fit-b"]}),
    "a split and its half": (lambda c: None, {"datarc__fit_splits": ["eval@1/2"]}),
}
"""What puts speech on both sides: what is done to the corpus, and settings."""


def _as_wav(source: Path, target: Path) -> None:
    soundfile.write(target, *soundfile.read(source), subtype="PCM_16")


def _same_speech(task: str, spoil: Callable[[Corpus], object], settings: dict[str, Any], folder: Path) -> None:
    run = fresh(folder, copied=True)
    spoil(run.corpus)
    line = command_refuses(run.command(task, "fbank", **{**SETTINGS, **settings}), "fitted on")
    if "fit" not in line or "eval" not in line:
        raise Wrong("traceback", line)


FILES = ("mi_settings.json", "mi_results.jsonl", "mi_files.json", "states-1.ckpt", "mi_classes.jsonl", "fitted/*.pt")
CASES = [
    *(Case(f"-a: {n}", lambda f, c=c: _changed(c, f)) for n, c in CHANGES.items()),
    Case("-a: labels edited that mi_views does not read", _changed_labels_do_not_matter),
    Case("a second run with -a", lambda f: _held(again, f)),
    Case("a second run without -a", lambda f: _held(lambda r: r.command("mi_supervised", "fbank", **SETTINGS), f)),
    Case("link to nowhere for a speaker", lambda f: _listing(lambda c: _to_nowhere(c.root / "eval/22"), "nowhere", f)),
    Case(
        "link to nowhere for a chapter", lambda f: _listing(lambda c: _to_nowhere(c.root / "eval/22/1"), "nowhere", f)
    ),
    Case(
        "link to nowhere for audio", lambda f: _listing(lambda c: _to_nowhere(c.audio["22-1-0001"]), "no such file", f)
    ),
    *(
        Case(f"the same speech by {n}", lambda f, a=a, k=k: _same_speech("mi_views", a, k, f))
        for n, (a, k) in SAME.items()
    ),
    Case("folder for audio", lambda f: _listing(lambda c: _folder_for_file(c.audio["22-1-0001"]), "max_unreadable", f)),
]
LONG = [
    *(
        Case(f"the same speech by {n}, mi_supervised", lambda f, a=a, k=k: _same_speech("mi_supervised", a, k, f))
        for n, (a, k) in SAME.items()
    ),
    *(Case(f"-a: {n} {d}", lambda f, n=n, d=d: _damaged(n, DAMAGE[d], f)) for n in FILES for d in DAMAGE),
    *(Case(f"evaluate: {n} {d}", lambda f, n=n, d=d: _evaluated(n, DAMAGE[d], f)) for n in FILES for d in DAMAGE),
]
