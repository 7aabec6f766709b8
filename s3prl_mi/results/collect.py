"""The records of many experiments, found below the folders of a study, each named by its model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from ..core.errors import MIError, nearest
from ..upstreams.checkpoints import CHECKPOINT_SUFFIXES
from .record import RESULTS_FILE, Record, read_records

EVALUATE_FOLDER = "evaluate"
"""Below an experiment: the fitted probes scored on other splits."""


@dataclass(frozen=True, slots=True)
class Result:
    """The records of one model in one experiment's folder."""

    folder: Path
    records: list[Record]
    label: str
    """Short name of the model. Results of the same model (both tasks, or a sweep in several folders) share it;
    results of different models never do."""

    @property
    def first(self) -> Record:
        """Any record of it: the model is the same in all."""
        return self.records[0]


def collect(folders: Iterable[Path | str], labels: Mapping[str, str] | None = None) -> list[Result]:
    """Read every `mi_results.jsonl` in and below the folders.

    What lies below a folder called `evaluate` (other splits) counts only if a folder was named that is, or is in,
    such a folder.

    Args:
        folders: experiments, or folders that hold some at any depth; also a `mi_results.jsonl` itself.
        labels: new names, by the label that a model would have or by a folder (as named, or its last part).

    Returns:
        In the order of the folders, then by path; every experiment once.

    Raises:
        MIError: no such folder; no estimate in one of them; a line that is not a record (named); a key of
            `labels` that fits nothing; two models that would share a label of the user's.
    """
    files: dict[Path, Path] = {}
    for folder in map(Path, folders):
        for path in _results_files(folder):
            files.setdefault(path.resolve(), path)
    results = [r for path in files.values() for r in _by_model(path)]
    if not results:
        raise MIError(
            f"{', '.join(str(f.parent) for f in files.values()) or 'no folder'}: no finished estimate, so there is "
            "nothing to collect. Let an experiment finish (the same command with -a continues it)."
        )
    return _renamed(_labelled(results), labels or {})


def _results_files(folder: Path) -> list[Path]:
    if folder.is_file():
        if folder.name != RESULTS_FILE:
            raise MIError(f"{folder}: not a folder. Name a folder that holds {RESULTS_FILE}, at any depth.")
        return [folder]
    if not folder.is_dir():
        raise MIError(f"{folder}: no such folder.{nearest(folder.name, _neighbours(folder))}")
    found = sorted(folder.rglob(RESULTS_FILE))
    if EVALUATE_FOLDER not in folder.resolve().parts:
        skipped = [p for p in found if EVALUATE_FOLDER in p.relative_to(folder).parts]
        found = [p for p in found if p not in skipped]
        if skipped and not found:
            raise MIError(
                f"{folder}: holds estimates only below {EVALUATE_FOLDER}/, which are read if that folder is named: "
                f"{skipped[0].parent}"
            )
    if not found:
        raise MIError(
            f"{folder}: no {RESULTS_FILE} in it or below it. An experiment writes one into its folder "
            "(result/downstream/<name>, or -p)."
        )
    return found


def _neighbours(folder: Path) -> list[str]:
    return [p.name for p in folder.parent.iterdir()] if folder.parent.is_dir() else []


def _by_model(path: Path) -> list[Result]:
    """One result for each model in a file (one, unless files were put together by hand)."""
    models: dict[str, list[Record]] = {}
    for record in read_records(path):
        models.setdefault(record.upstream_sha256, []).append(record)
    return [Result(path.parent, records, "") for records in models.values()]


def _labelled(results: Sequence[Result]) -> list[Result]:
    """Name each model by its first name that differs from those of all others."""
    names: dict[str, tuple[str, ...]] = {}
    for result in results:
        names.setdefault(result.first.upstream_sha256, _names(result))
    taken = [Counter(level) for level in zip(*names.values(), strict=True)]
    labels = {sha: next(name for name, n in zip(own, taken, strict=True) if n[name] == 1) for sha, own in names.items()}
    return [replace(r, label=labels[r.first.upstream_sha256]) for r in results]


def _names(result: Result) -> tuple[str, ...]:
    """Names of a model, each longer than the one before; the last is unique."""
    record = result.first
    stem = checkpoint_stem(record)
    with_stem = f"{record.upstream} {stem}" if stem else record.upstream
    with_folder = f"{with_stem} ({result.folder.resolve().name})"
    return record.upstream, with_stem, with_folder, f"{with_folder} {record.upstream_sha256}"


def checkpoint_stem(record: Record) -> str:
    """File name of the checkpoint without its ending; empty where the upstream takes none."""
    path = PurePath((record.checkpoint or {}).get("name", ""))
    return path.stem if path.suffix in CHECKPOINT_SUFFIXES else path.name


def _renamed(results: list[Result], labels: Mapping[str, str]) -> list[Result]:
    new: dict[str, str] = {}
    for key, label in labels.items():
        shas = {r.first.upstream_sha256 for r in results if _fits(r, key)}
        if len(shas) != 1:
            have = ", ".join(sorted({r.label for r in results}))
            what = "fits several models" if shas else "fits no result"
            raise MIError(f"label {key!r} = {label!r}: {key!r} {what}. Name one of these, or a folder: {have}.")
        new[shas.pop()] = label
    final = [replace(r, label=new.get(r.first.upstream_sha256, r.label)) for r in results]
    owners: dict[str, Result] = {}
    for result in final:
        other = owners.setdefault(result.label, result)
        if other.first.upstream_sha256 != result.first.upstream_sha256:
            raise MIError(
                f"label {result.label!r} would stand for two models, those of {other.folder} and {result.folder}. "
                "Give each a label of its own."
            )
    return final


def _fits(result: Result, key: str) -> bool:
    if key in (result.label, result.folder.name):
        return True
    path = Path(key)
    return path.exists() and path.resolve() in (result.folder.resolve(), *result.folder.resolve().parents)
