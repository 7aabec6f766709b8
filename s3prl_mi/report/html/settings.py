"""The full settings of every run: what the records say, and the files beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...results.collect import Result
from ...results.record import Record
from .markup import Section, code, details, paragraph, table
from .study import Study

_FIELDS = (
    "task", "upstream", "checkpoint", "upstream_sha256", "step", "series", "layer", "layers_in_upstream", "last_layer",
    "dim", "frame_shift_ms", "probe", "protocol", "view", "scored_frames", "n_clusters", "seed",
    "fit_splits", "eval_splits", "fit_frames", "eval_frames", "n_classes", "label_set", "unseen_frames",
    "unlabelled_frames", "utterances", "versions",
)  # fmt: skip
_PATTERNS = ("mi_settings.json", "args_*.yaml", "config_*.yaml")


def settings_section(study: Study) -> Section:
    """A part for each experiment that opens on a click."""
    section = Section("settings", "Settings of every run")
    section.add(paragraph("All values that occur in the records of a run, and the files that the run left."))
    for result in study.results:
        tasks = ", ".join(dict.fromkeys(r.task for r in result.records))
        name = study.names[result.first.upstream_sha256]
        seconds = sum(r.seconds for r in result.records)
        title = f"{name}: {tasks} — {result.folder} ({len(result.records):,} estimates, {_duration(seconds)})"
        section.add(details(title, table(["field", "values"], _values(result.records)) + _files(result)))
    return section


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _values(records: list[Record]) -> list[list[str]]:
    """Each field with every value it takes."""
    rows = []
    for name in _FIELDS:
        values = list(dict.fromkeys(_words(getattr(r, name)) for r in records))
        shown = ", ".join(values[:40]) + (f" and {len(values) - 40} more" if len(values) > 40 else "")
        rows.append([name, shown])
    return rows


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    if isinstance(value, list):
        return "+".join(map(str, value))
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _files(result: Result) -> str:
    """The latest file of each kind in the folder (for rescoring on other splits, in the experiment's folder)."""
    folder = result.folder
    if "evaluate" in folder.parts:
        folder = Path(*folder.parts[: folder.parts.index("evaluate")])
    parts = []
    for pattern in _PATTERNS:
        found = sorted(folder.glob(pattern))
        if found:
            parts.append(details(found[-1].name, code(_read(found[-1]))))
    return "".join(parts)


def _read(path: Path) -> str:
    content = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix != ".json":
        return content
    try:
        return json.dumps(json.loads(content), indent=1)
    except json.JSONDecodeError:
        return content
