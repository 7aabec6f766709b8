"""What stands in each section of the page: figures, rows of tables and sentences; none where its data do not exist."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeAlias

from ...core.words import count, duration
from ...results.collect import Result
from ...results.comparability import ComparisonKey
from ...results.correlation import Relation, correlate, with_speakers
from ...results.record import Record
from ...results.selection import CheckpointPick
from ...results.summary import Summary
from ..board import legend, notes_of, read_board, tables_of, title_of
from ..board import words as words_of_board
from ..compare.scores import SCORE_NAMES, ScoreValue
from ..figures.board import board_picture
from ..figures.checkpoint_curves import checkpoint_curves
from ..figures.cluster_usage import cluster_usage, last_layers, usages
from ..figures.layer_curves import accuracy_against_bits, kept_by_layer, layer_curves
from ..figures.phones import class_bits, confusion_pictures, phone_bits
from ..figures.picture import Picture, layer_word, probes_in
from ..figures.score_scatter import Point, score_scatter
from ..figures.sweeps import sweeps
from ..wording import BOUND, CEILING, decimals, ends, format_estimate, spread_text
from .report_data import ReportData, best_of_models
from .words import agreements, findings, what_was_measured

SCORES = {key: f"{name} (%)" for key, name in SCORE_NAMES.items()}

Section: TypeAlias = dict[str, Any]
"""What `page.html.jinja` fills in; figures under `pictures`."""


Cell: TypeAlias = "str | tuple[str, str]"
"""Text, or text and tooltip; the page sorts a column by the numbers that its texts begin with."""


def _number(value: float | None, form: str = ",") -> str:
    return "-" if value is None else format(value, form)


def sections(data: ReportData) -> dict[str, Section]:
    """Every section that has data, by its anchor in the page."""
    makers: dict[str, Callable[[ReportData], Section | None]] = {
        "summary": lambda d: {"measured": what_was_measured(d), "findings": findings(d)},
        "layers": _layers,
        "selection": _selection,
        "scores": _scores,
        "checkpoints": _checkpoints,
        "board": _board,
        "sweeps": lambda d: _only(sweeps(d.summaries, d.names, d.last)),
        "clusters": _clusters,
        "classes": _classes,
        "comparison": lambda d: {"tables": [_comparison(d, key, group) for key, group in d.groups.items()]},
        "settings": lambda d: {"runs": [_run(d, result) for result in d.results]},
    }
    return {anchor: found for anchor, maker in makers.items() if (found := maker(data))}


def _layers(data: ReportData) -> Section | None:
    pictures = layer_curves(data.summaries, data.names) + kept_by_layer(data.summaries, data.names)
    return _only(pictures + accuracy_against_bits(data.groups, data.headline, data.names))


def _only(pictures: list[Picture]) -> Section | None:
    return {"pictures": pictures} if pictures else None


def _selection(data: ReportData) -> Section | None:
    rows: list[list[Cell]] = [
        [
            data.names[model], a.probe, f"{a.setting.describe()}; protocol {a.setting.protocol}",
            _number(a.unsupervised_layer), _number(a.labelled_layer), _number(a.regret_bits, ".3f"),
            _number(a.last_lost_bits, ".3f"),
            str(a.relation.of("spearman") or "too few layers"),
        ]
        for model, own in agreements(data).items() for a in own
    ]  # fmt: skip
    return {"rows": rows} if rows else None


# --- Bits and error rates ---------------------------------------------------------------------------------


def _scores(data: ReportData) -> Section | None:
    if not any(data.rates.values()):
        return None
    pictures: list[Picture] = []
    sentences: list[str] = []
    for key in (k for k in data.headline if k.task == "mi_views" or k.of_content):
        plots, notes = {}, {}
        for probe in probes_in(data.groups[key]):
            for metric, score in SCORES.items():
                points, relation = _points(data, key, probe, metric)
                if len(points) > 1:
                    plots[probe, score] = points
                    notes[probe, score] = _note(relation, len(points))
                    words = f"{BOUND[key.task]} ({key.kind or 'labels'}, {probe} probe)"
                    sentences.append(f"{words} and {score}: {relation.sentence}")
        if plots:
            pictures.append(score_scatter(key.task, plots, notes, key.describe(), len(pictures) + 1))
    sources: list[list[Cell]] = [
        [data.names[m], SCORES[k], _number(r.percent, ".2f"), _source(r)]
        for m, own in data.rates.items() for k, r in own.items()
    ]  # fmt: skip
    return {"pictures": pictures, "sentences": list(dict.fromkeys(sentences)), "sources": sources}


def _points(data: ReportData, key: ComparisonKey, probe: str, metric: str) -> tuple[list[Point], Relation]:
    numbers = {m: i for i, m in enumerate(data.names)}
    points: list[Point] = []
    trusted: list[tuple[Summary, ScoreValue]] = []
    for model, best in best_of_models(data.groups[key], probe).items():
        rate = data.rates.get(model, {}).get(metric)
        if rate is not None:
            name = data.names[model] + (" *" if rate.doubtful else "")
            bits, low, high = best.mi_lower_bound_bits, best.ci_low_bits, best.ci_high_bits
            points.append(
                Point(
                    name,
                    bits,
                    bits if low is None else low,
                    bits if high is None else high,
                    rate.percent,
                    numbers[model],
                )
            )
            trusted += [] if rate.doubtful else [(best, rate)]
    bits_of, scores_of = [s.mi_lower_bound_bits for s, _ in trusted], [r.percent for _, r in trusted]
    relation = correlate(bits_of, scores_of, BOUND[key.task], SCORES[metric], expected="negative")
    return points, with_speakers(relation, [s.left_out for s, _ in trusted], [r.left_out for _, r in trusted])


def _source(value: ScoreValue) -> str:
    """Where an error rate comes from, and what one must know of it."""
    remark = f" ({value.remark})" if value.remark else ""
    return f"{value.kind}: {value.source}{remark}" + (" *" if value.doubtful else "")


def _note(relation: Relation, n_points: int) -> str:
    spearman = relation.of("spearman")
    if spearman is None:
        return "too few for a correlation"
    text = f"Spearman {spearman}" + (f" (n = {relation.n}, without *)" if relation.n < n_points else "")
    over = relation.over_speakers
    return text + (f"\nover speakers {ends(over)}" if over else "")


# --- Checkpoints, clusters, classes -----------------------------------------------------------------------


def _checkpoints(data: ReportData) -> Section | None:
    pictures = checkpoint_curves(data.series)
    rows = [_pick_row(series.name, pick) for series in data.series for pick in series.picks.values()]
    return {"pictures": pictures, "rows": rows} if pictures else None


def _pick_row(name: str, pick: CheckpointPick) -> list[Cell]:
    stable = {s.factor: s for s in pick.stability}
    row: list[Cell] = [name, pick.probe, _number(pick.layer), _number(pick.step), _number(pick.labelled_step)]
    row.append(_number(pick.regret_bits, ".3f"))
    for factor in ("seed", "view", "clusters"):
        s = stable.get(factor)
        picks = "; ".join(f"{k}: {v}" for k, v in s.picks.items()) if s else ""
        row.append((f"{s.fraction_same:.0%} of {len(s.picks)}", picks) if s else "-")
    return row


def _board(data: ReportData) -> Section | None:
    board = read_board(data)
    if board is None:
        return None
    picture = board_picture(board, {v.measure: title_of(v.measure) for v in board.verdicts})
    tables = [{"caption": title, "head": head, "rows": rows} for title, head, rows in tables_of(board)]
    return {
        "pictures": [picture] if picture else [],
        "tables": tables,
        "words": words_of_board(board),
        "legend": legend(board),
        "notes": notes_of(board, data),
    }


def _clusters(data: ReportData) -> Section | None:
    everything = usages(data.classes)
    rows: list[list[Cell]] = [
        [
            data.names[model], f"{key.view}, {key.scored_frames} frames", str(u.layer),
            _number(key.n_clusters or len(u.curve)), _number(u.used, ".1f"), _number(u.perplexity, ".1f"),
            _number(u.curve[0], ".1f"),
        ]
        for key in data.groups for model, u in last_layers([u for u in everything if u.key == key]).items()
    ]  # fmt: skip
    pictures = cluster_usage(data.classes, data.headline, data.names)
    return {"pictures": pictures, "rows": rows} if pictures else None


def _classes(data: ReportData) -> Section | None:
    pictures: list[Picture] = []
    for number, key in enumerate((k for k in data.headline if k.task == "mi_supervised"), start=1):
        found = class_bits(data.classes, key, data.summaries)
        pictures += phone_bits(found, key, data.names, number)
        pictures += confusion_pictures(found, key, data.names, number)
    return _only(pictures)


# --- Models side by side ----------------------------------------------------------------------------------


def _comparison(data: ReportData, key: ComparisonKey, group: Sequence[Summary]) -> dict[str, Any]:
    probes = probes_in(group)
    metrics = [m for m in SCORES if any(m in own for own in data.rates.values())]
    places = decimals(s.mi_lower_bound_bits_sd for s in group)
    rows = []
    for model, best in best_of_models(group).items():
        row: list[Cell] = [data.names[model]]
        for probe in probes:
            own = [s for s in group if s.upstream_sha256 == model and s.probe == probe]
            row.append(_bits(max(own, key=lambda s: s.mi_lower_bound_bits, default=None), places))
            row.append(_bits(next((s for s in own if s.layer == data.last.get(model)), None), places))
        # H(c) is of each layer's own codebook: this is that of the best layer
        row += [_number(best.entropy_bits, ".2f"), _number(best.eval_frames), _number(best.n_seeds)]
        for metric in metrics:
            rate = data.rates.get(model, {}).get(metric)
            mark = " *" if rate and rate.doubtful else ""
            row.append((f"{rate.percent:.2f}{mark}", _source(rate)) if rate else "-")
        rows.append(row)
    layers = [f"{probe}, {which} layer" for probe in probes for which in ("best", "last")]
    scores = [SCORES[m] for m in metrics]
    return {
        "head": ["model", *layers, CEILING[key.task], "frames scored", "seeds", *scores],
        "rows": rows,
        "caption": f"{BOUND[key.task]} in bits: {key.describe()}; protocol {key.protocol}; "
        + spread_text(group).replace("+-", "±"),
    }


def _bits(s: Summary | None, places: int) -> Cell:
    if s is None:
        return "-"
    words = format_estimate(s, places).replace("+-", "±")
    return f"{words} ({s.layer})", layer_word(s.layer)


# --- Settings of every run --------------------------------------------------------------------------------

_OUTCOMES = {"accuracy", "seconds", "probe_settings"}
"""What the rows of settings leave out, with all bits; everything else that a record holds is a setting."""
_PATTERNS = ("mi_settings.json", "args_*.yaml", "config_*.yaml")


def _run(data: ReportData, result: Result) -> dict[str, Any]:
    """Each field with every value it takes; the latest file of each kind (of rescoring, in the experiment's folder)."""
    tasks = ", ".join(dict.fromkeys(r.task for r in result.records))
    size = f"{count(len(result.records), 'estimate')}, {duration(sum(r.seconds for r in result.records))}"
    folder = result.folder
    if "evaluate" in folder.parts:
        folder = Path(*folder.parts[: folder.parts.index("evaluate")])
    files = [sorted(folder.glob(pattern))[-1:] for pattern in _PATTERNS]
    return {
        "title": f"{data.names[result.first.upstream_sha256]}: {tasks} — {result.folder} ({size})",
        "rows": [
            [f.name, _values(result.records, f.name)]
            for f in fields(Record)
            if f.name not in _OUTCOMES and not f.name.endswith("_bits")
        ],
        "files": {path.name: _content(path) for found in files for path in found},
    }


def _values(records: Sequence[Record], name: str) -> str:
    values = list(dict.fromkeys(_words(getattr(r, name)) for r in records))
    return ", ".join(values[:40]) + (f" and {len(values) - 40} more" if len(values) > 40 else "")


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    if isinstance(value, list):
        return "+".join(map(str, value))
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _content(path: Path) -> str:
    content = path.read_text(encoding="utf-8", errors="replace")
    try:
        return json.dumps(json.loads(content), indent=1) if path.suffix == ".json" else content.rstrip()
    except json.JSONDecodeError:
        return content.rstrip()
