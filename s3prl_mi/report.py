"""Records -> what a person and a script read: summary, tables, layer curves, log, TensorBoard.

This is the only module that rounds; `mi_results.jsonl`, `mi_summary.csv` and the per-layer lines of `log.log`
keep full precision. Every file is either written whole to a temporary name and then renamed, or only appended
to, so that all functions may be called again after a resumed run and end with the same files.

The best layer that is marked here is the largest mean over the layers scored: a description of the eval
split, not a choice that a bound may rest on (a choice of a layer belongs inside the fit split).
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import os
import re
import statistics
import tempfile
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ._types import Bits
from .config import TASKS
from .errors import MIError
from .results import RESULTS_FILE, Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUMMARY_FILE = "mi_summary.csv"
PICTURE_FILE = "mi_layers.png"
LOG_FILE = "log.log"

FRAMES_ORDER = ("masked", "all", "unmasked")
"""The headline first: what a mask view is about, then what a shift view is about."""
PROBE_ORDER = ("logistic", "mlp")

_EVENTS_SUFFIX = ".s3prl_mi"
"""Ends the names of our event files, so that a later call replaces them and leaves s3prl's own alone."""
_BOUND = {"mi_supervised": "I(Z;Y)", "mi_views": "I(Za;Zb)"}
_BOUND_TEX = {"mi_supervised": r"$I(Z;\,Y)$", "mi_views": r"$I(Z_a;\,Z_b)$"}
_CEILING = {"mi_supervised": "H(Y)", "mi_views": "H(c)"}
_COLOURS = {"logistic": "#0072B2", "mlp": "#D55E00"}
_MORE_COLOURS = ("#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_STYLES = (("o", "-"), ("s", "-."), ("^", ":"), ("D", (0, (5, 1, 1, 1))), ("v", "-"), ("P", "-."))
_RC = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "text.usetex": False,
    "savefig.bbox": None,  # "tight" of a user's matplotlibrc would change the size
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
_DPI = 200
_FAR = 1.6
"""A ceiling higher than so many times the highest estimate is stated instead of drawn."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Mean and standard deviation over the seeds of one estimate; the columns of `mi_summary.csv`.

    A field without `_sd` is the mean over seeds; `_sd` is the sample standard deviation (ddof = 1; 0 for a
    single seed). Everything before `layer` and `frame_shift_ms` says what was measured and is the same for
    all records summarised.
    """

    task: str
    upstream: str
    checkpoint_name: str | None
    checkpoint_sha256: str | None
    upstream_sha256: str
    protocol: str
    view: str | None
    frames: str
    clusters: int | None
    fit_splits: tuple[str, ...]
    eval_splits: tuple[str, ...]
    fit_frames: int
    eval_frames: int
    frame_shift_ms: float
    layer: int | str
    layer_name: str
    dim: int
    probe: str
    seeds: tuple[int, ...]
    n_seeds: int
    mi_lower_bound_bits: Bits
    mi_lower_bound_bits_sd: Bits
    entropy_bits: Bits
    entropy_bits_sd: Bits
    cross_entropy_bits: Bits
    cross_entropy_bits_sd: Bits
    accuracy: float
    accuracy_sd: float
    labels: int
    """Number of classes (the largest, should seeds differ)."""
    label_set: str | None
    unseen_frames: int
    unlabelled_frames: int
    skipped_utterances: int

    @property
    def panel(self) -> Panel:
        """What this summary shares with those that stand in one table with it."""
        return Panel(*(getattr(self, name) for name in Panel._fields))


class Panel(NamedTuple):
    """Everything that estimates of one table have in common: they differ in layer and probe only."""

    task: str
    upstream: str
    checkpoint_name: str | None
    checkpoint_sha256: str | None
    upstream_sha256: str
    protocol: str
    view: str | None
    frames: str
    clusters: int | None
    fit_splits: tuple[str, ...]
    eval_splits: tuple[str, ...]
    fit_frames: int
    eval_frames: int
    frame_shift_ms: float


# ---------------------------------------------------------------------------------------------- summaries


def summarise(records: Iterable[Record]) -> list[Summary]:
    """Take mean and standard deviation over seeds.

    Records are put together only if they agree in everything but seed, outcome and time: task, model, layer,
    probe, protocol, view, frames, clusters, splits and numbers of frames. If a seed occurs twice, the later
    record counts.

    Args:
        records: in any order.

    Returns:
        One summary per estimate, ordered by panel (in order of appearance, `masked` before `all` before
        `unmasked`), probe (`logistic` first) and layer (`weighted` last).
    """
    groups: dict[tuple[Panel, str, int | str], dict[int, Record]] = {}
    for record in records:
        groups.setdefault((_panel(record), record.probe, record.layer), {})[record.seed] = record
    appearance: dict[Panel, int] = {}
    for panel, _, _ in groups:
        appearance.setdefault(panel._replace(frames="", fit_frames=0, eval_frames=0), len(appearance))

    def order(key: tuple[Panel, str, int | str]) -> tuple[Any, ...]:
        panel, probe, layer = key
        first = appearance[panel._replace(frames="", fit_frames=0, eval_frames=0)]
        sizes = (panel.fit_frames, panel.eval_frames)
        return (first, _rank(panel.frames, FRAMES_ORDER), sizes, _rank(probe, PROBE_ORDER), _layer_key(layer))

    return [_summary(key[0], list(groups[key].values())) for key in sorted(groups, key=order)]


def _panel(record: Record) -> Panel:
    checkpoint = record.checkpoint or {}
    return Panel(
        task=record.task,
        upstream=record.upstream,
        checkpoint_name=checkpoint.get("name"),
        checkpoint_sha256=checkpoint.get("sha256"),
        upstream_sha256=record.upstream_sha256,
        protocol=record.protocol,
        view=record.view,
        frames=record.frames,
        clusters=record.clusters,
        fit_splits=tuple(record.fit_splits),
        eval_splits=tuple(record.eval_splits),
        fit_frames=record.fit_frames,
        eval_frames=record.eval_frames,
        frame_shift_ms=record.frame_shift_ms,
    )


def _summary(panel: Panel, records: list[Record]) -> Summary:
    records = sorted(records, key=lambda r: r.seed)
    values: dict[str, Any] = {}
    for name in ("mi_lower_bound_bits", "entropy_bits", "cross_entropy_bits", "accuracy"):
        values[name], values[f"{name}_sd"] = mean_sd([getattr(r, name) for r in records])
    last = records[-1]
    return Summary(
        **panel._asdict(),
        layer=last.layer,
        layer_name=last.layer_name,
        dim=last.dim,
        probe=last.probe,
        seeds=tuple(r.seed for r in records),
        n_seeds=len(records),
        **values,
        labels=max(r.labels for r in records),
        label_set=last.label_set,
        unseen_frames=last.unseen_frames,
        unlabelled_frames=last.unlabelled_frames,
        skipped_utterances=last.utterances.get("skipped", 0),
    )


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (ddof = 1; 0 for one value).

    Example:
        >>> mean_sd([1.0, 2.0, 3.0])
        (2.0, 1.0)
        >>> mean_sd([1.5])
        (1.5, 0.0)
    """
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def best_layers(summaries: Iterable[Summary]) -> list[Summary]:
    """The layer with the highest mean bound of each panel and probe (the lowest layer of a tie)."""
    best: dict[tuple[Panel, str], Summary] = {}
    for summary in summaries:
        key = (summary.panel, summary.probe)
        if key not in best or summary.mi_lower_bound_bits > best[key].mi_lower_bound_bits:
            best[key] = summary
    return list(best.values())


def _rank(name: str, order: Sequence[str]) -> tuple[int, str]:
    return (order.index(name) if name in order else len(order), name)


def _layer_key(layer: int | str) -> tuple[int, int, str]:
    return (0, layer, "") if isinstance(layer, int) else (1, 0, layer)


def _panels(summaries: Iterable[Summary]) -> dict[Panel, list[Summary]]:
    panels: dict[Panel, list[Summary]] = {}
    for summary in summaries:
        panels.setdefault(summary.panel, []).append(summary)
    return panels


def _required(records: Iterable[Record]) -> list[Summary]:
    summaries = summarise(records)
    if not summaries:
        raise MIError(
            f"{RESULTS_FILE}: holds no finished estimate, so there is nothing to report. Run the same "
            "command again with -a to go on."
        )
    return summaries


# ------------------------------------------------------------------------------------------ files, whole


def write_summary(path_csv: Path, records: Iterable[Record]) -> None:
    """Write `mi_summary.csv`: one line per estimate, the fields of `Summary`, at full precision.

    Splits and seeds are joined by `+`; what does not apply (`clusters` of mi_supervised) is empty.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [f.name for f in dataclasses.fields(Summary)]
    writer.writerow(names)
    for summary in summarise(records):
        writer.writerow([_cell(getattr(summary, name)) for name in names])
    _replace(path_csv, text.getvalue().encode())


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return "+".join(str(v) for v in value)
    return repr(value) if isinstance(value, float) else str(value)


def _replace(path: Path, content: bytes) -> None:
    """Put `content` at `path` in one step, so that nobody ever reads half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# ----------------------------------------------------------------------------------------------- numbers


def decimals(sds: Iterable[float]) -> int:
    """Decimals for a column of bits, by the largest standard deviation in it: 3, unless that misleads.

    Example:
        >>> decimals([0.0]), decimals([0.002, 0.011]), decimals([0.0002]), decimals([0.3])
        (3, 3, 4, 2)
    """
    largest = max(sds, default=0.0)
    if largest >= 0.1:
        return 2
    return 4 if 0 < largest < 0.0005 else 3


def format_bits(mean: Bits, sd: Bits, n_seeds: int, places: int) -> str:
    """A mean with its standard deviation; the mean alone for a single seed.

    Example:
        >>> format_bits(1.23449, 0.0021, 5, 3), format_bits(-0.0004, 0.0, 1, 3)
        ('1.234 +- 0.002', '-0.000')
    """
    return f"{mean:.{places}f}" + (f" +- {sd:.{places}f}" if n_seeds > 1 else "")


def _checkpoint(panel: Panel) -> str:
    if panel.checkpoint_name is None:
        return ""
    sha = f", sha256 {panel.checkpoint_sha256[:8]}" if panel.checkpoint_sha256 else ""
    return f" ({panel.checkpoint_name}{sha})"


def _seeds(summaries: Sequence[Summary]) -> str:
    low, high = min(s.n_seeds for s in summaries), max(s.n_seeds for s in summaries)
    if high == 1:
        return "one seed"
    return f"mean +- sd over {high} seeds" if low == high else f"mean +- sd over {low} to {high} seeds"


# ------------------------------------------------------------------------------------------- text tables


def screen_table(records: Iterable[Record], expdir: Path | None = None) -> str:
    """The table at the end of a run, plain text without colour codes.

    Args:
        records: of one experiment.
        expdir: where its files are, for the footer.

    Returns:
        A header, a row per layer and a column per probe (bits, and accuracy in percent), for each kind of
        frames; the best layer of each probe is marked `*`.

    Raises:
        MIError: no record.
    """
    summaries = _required(records)
    blocks = [_panel_table(panel, rows) for panel, rows in _panels(summaries).items()]
    footer = "* best layer of the probe on the frames scored"
    if expdir is not None:
        footer += f"\n{expdir}: {RESULTS_FILE} (every estimate), {SUMMARY_FILE}, {PICTURE_FILE}, {LOG_FILE}"
    return "\n\n".join([*blocks, footer])


def _panel_table(panel: Panel, summaries: list[Summary]) -> str:
    probes = list(dict.fromkeys(s.probe for s in summaries))
    layers = sorted({s.layer for s in summaries}, key=_layer_key)
    cells = {(s.layer, s.probe): s for s in summaries}
    best = {(s.layer, s.probe) for s in best_layers(summaries)}
    places = {p: decimals(s.mi_lower_bound_bits_sd for s in summaries if s.probe == p) for p in probes}
    own_ceiling = _spread([s.entropy_bits for s in summaries]) >= 0.0005

    def bits(layer: int | str, probe: str) -> list[str]:
        s = cells.get((layer, probe))
        if s is None:
            return ["-", "-"]
        text = format_bits(s.mi_lower_bound_bits, s.mi_lower_bound_bits_sd, s.n_seeds, places[probe])
        return [text + (" *" if (layer, probe) in best else "  "), f"{100 * s.accuracy:.1f}"]

    head = ["layer", *(name for p in probes for name in (f"{p} (bits)  ", "acc. %"))]
    rows = [head + ([_CEILING[panel.task]] if own_ceiling else [])]
    for layer in layers:
        row = [str(layer), *(text for p in probes for text in bits(layer, p))]
        if own_ceiling:
            row.append(f"{next(s.entropy_bits for s in summaries if s.layer == layer):.3f}")
        rows.append(row)
    return f"{_header(panel, summaries)}\n\n{_columns(rows)}"


def _header(panel: Panel, summaries: list[Summary]) -> str:
    lines = [("upstream", panel.upstream + _checkpoint(panel))]
    if panel.view is not None:
        lines.append(("view", panel.view))
    lines += [
        ("frames", f"{panel.frames}, {panel.eval_frames:,} scored, one every {panel.frame_shift_ms:g} ms"),
        ("splits", f"fit {'+'.join(panel.fit_splits)} ({panel.fit_frames:,} frames), "
                   f"eval {'+'.join(panel.eval_splits)}"),
        ("protocol", panel.protocol),
        ("ceiling", _ceiling_text(panel, summaries)),
    ]  # fmt: skip
    left_out = _left_out(summaries)
    if left_out:
        lines.append(("left out", left_out))
    title = f"{panel.task}: lower bound of {_BOUND[panel.task]} in bits, {_seeds(summaries)}"
    return "\n".join([title, *(f"  {name:<9} {text}" for name, text in lines)])


def _ceiling_text(panel: Panel, summaries: list[Summary]) -> str:
    entropies = [s.entropy_bits for s in summaries]
    value = f"{max(entropies):.3f}"
    if _spread(entropies) >= 0.0005:
        value = f"{min(entropies):.3f} to {value}"
    if panel.clusters is not None:
        of = f"{panel.clusters} clusters, at most log2({panel.clusters}) = {math.log2(panel.clusters):.3f}"
    else:
        of = f"{max(s.labels for s in summaries)} labels"
        of += f": {summaries[0].label_set}" if summaries[0].label_set else ""
    return f"{_CEILING[panel.task]} = {value} bits ({of})"


def _left_out(summaries: list[Summary]) -> str:
    counts = (
        (max(s.unlabelled_frames for s in summaries), "frames without a label"),
        (max(s.unseen_frames for s in summaries), "eval frames whose label the fit split lacks"),
        (max(s.skipped_utterances for s in summaries), "utterances"),
    )
    return ", ".join(f"{count:,} {what}" for count, what in counts if count)


def _spread(values: Sequence[float]) -> float:
    return max(values) - min(values)


def _columns(rows: list[list[str]], left: int = 0) -> str:
    """Lay out rows of equal length in columns, right-aligned but for the first `left` ones."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(line.rstrip() for line in lines)


class _Comparison(NamedTuple):
    """What stands side by side in one panel of a comparison."""

    task: str
    kind: str
    """`mask` or `shift` (the word that the view begins with), or empty for mi_supervised."""
    frames: str


def _comparisons(
    labelled_records: Sequence[tuple[str, Sequence[Record]]],
) -> dict[_Comparison, dict[str, list[Summary]]]:
    """Best layers by comparison and label, tasks in our order, labels as given."""
    found: dict[_Comparison, dict[str, list[Summary]]] = {}
    for label, records in labelled_records:
        for summary in best_layers(summarise(records)):
            kind = re.split(r"\W", summary.view, maxsplit=1)[0] if summary.view else ""
            key = _Comparison(summary.task, kind, summary.frames)
            group = found.setdefault(key, {}).setdefault(label, [])
            if any(s.probe == summary.probe for s in group):
                differ = " and ".join(_distinguish([group[0].panel, summary.panel]).values())
                raise MIError(
                    f"comparison label {label!r}: its records hold two kinds of {key.task} estimates "
                    f"({differ}). Give each kind a label of its own."
                )
            group.append(summary)
    if not found:
        raise MIError(f"nothing to compare: none of the {RESULTS_FILE} holds a finished estimate.")
    order = sorted(found, key=lambda k: (_rank(k.task, TASKS), k.kind, _rank(k.frames, FRAMES_ORDER)))
    return {key: found[key] for key in order}


def _comparison_title(key: _Comparison) -> str:
    return f"{key.task}, {key.kind} view, {key.frames} frames" if key.kind else key.task


def comparison_table(labelled_records: Sequence[tuple[str, Sequence[Record]]]) -> str:
    """Several upstreams under each other, at the best layer of each.

    Args:
        labelled_records: a label and the records of one or more experiments, for each upstream.

    Returns:
        For each task (and kind of view and of frames): a row per label; per probe bits and, in brackets, the
        layer; the ceiling; the time from frame to frame.

    Raises:
        MIError: no record at all, or a label whose records differ in more than layer, probe and seed.
    """
    return "\n\n".join(_comparison_block(key, rows) for key, rows in _comparisons(labelled_records).items())


def _comparison_block(key: _Comparison, by_label: dict[str, list[Summary]]) -> str:
    everything = [s for group in by_label.values() for s in group]
    probes = sorted({s.probe for s in everything}, key=lambda p: _rank(p, PROBE_ORDER))
    places = decimals(s.mi_lower_bound_bits_sd for s in everything)
    rows = [
        [
            "",
            *(f"{p} (bits, layer)" for p in probes),
            _CEILING[key.task],
            "frame shift",
            *(["view"] if key.kind else []),
        ]
    ]
    for label, group in by_label.items():
        by_probe = {s.probe: s for s in group}
        row = [label]
        for probe in probes:
            s = by_probe.get(probe)
            row.append("-" if s is None else _bits_and_layer(s, places))
        row += [f"{group[0].entropy_bits:.3f}", f"{group[0].frame_shift_ms:g} ms"]
        rows.append([*row, group[0].view] if group[0].view else row)
    title = f"{_comparison_title(key)}: lower bound of {_BOUND[key.task]} in bits"
    title += f", best layer, {_seeds(everything)}"
    return f"{title}\n\n{_columns(rows, left=1)}"


def _bits_and_layer(summary: Summary, places: int) -> str:
    text = format_bits(summary.mi_lower_bound_bits, summary.mi_lower_bound_bits_sd, summary.n_seeds, places)
    return f"{text} ({summary.layer})"


# ------------------------------------------------------------------------------- log.log and TensorBoard


def final_line(records: Iterable[Record]) -> str:
    """The closing line of `log.log`: the best layer and probe on the headline frames.

    Of several eval splits, those of the last record count (records are appended, so these are the latest).
    The form is that of s3prl's own logs, `... at step <n>: <value>`; the whole measurement is
    one step of the runner.

    Raises:
        MIError: no record.
    """
    records = list(records)
    summaries = _required(records)
    latest = [
        s for s in summaries if s.task == records[-1].task and s.eval_splits == tuple(records[-1].eval_splits)
    ]
    frames = min((s.frames for s in latest), key=lambda f: _rank(f, FRAMES_ORDER))
    best = max((s for s in latest if s.frames == frames), key=lambda s: s.mi_lower_bound_bits)
    value = f"{best.mi_lower_bound_bits:.{decimals([best.mi_lower_bound_bits_sd])}f}"
    return f"{best.task} best layer {best.layer} {best.probe} {best.frames} bits at step 1: {value}"


def write_log(path_log: Path, records: Iterable[Record]) -> None:
    """Append to `log.log` a line per estimate (mean over seeds, not rounded) and the closing line.

    Lines have the form of s3prl's tasks, `{split} ... at step {n}: {value}`. A line that the file holds
    already is not written again.
    """
    records = list(records)
    lines = [
        f"{'+'.join(s.eval_splits)} {s.task} layer {s.layer} {s.probe} {s.frames} bits, mean of "
        f"{s.n_seeds} at step 1: {s.mi_lower_bound_bits!r}"
        for s in _required(records)
    ]
    closing = final_line(records)
    old = path_log.read_text(encoding="utf-8", errors="replace") if path_log.exists() else ""
    held = old.splitlines()
    new = [line for line in lines if line not in held]
    if new or not held or held[-1] != closing:
        new.append(closing)
    if not new:
        return
    path_log.parent.mkdir(parents=True, exist_ok=True)
    with open(path_log, "a", encoding="utf-8") as file:
        file.write(("\n" if old and not old.endswith("\n") else "") + "\n".join(new) + "\n")


def write_tensorboard(expdir: Path, records: Iterable[Record]) -> None:
    """Write the scalars `<task>/<frames>-<probe>-bits`, mean over seeds, with step = layer number.

    A weighted sum of layers has a tag of its own, ending in `-weighted`, at step 0. What varies besides
    (splits, clusters, ...) goes in front of the frames. All is one event file, which takes the place of the
    one that an earlier call left.
    """
    from tensorboardX import SummaryWriter

    summaries = _required(records)
    tell_apart = _distinguish(_panels(summaries), leave=("task", "frames"))
    expdir.mkdir(parents=True, exist_ok=True)
    # The writer names its file by the second; written aside and moved, it can neither mix with an older file
    # nor be read before it is whole.
    with tempfile.TemporaryDirectory(dir=expdir, prefix=".mi_events_") as folder:
        with SummaryWriter(logdir=folder, filename_suffix=_EVENTS_SUFFIX) as writer:
            for s in summaries:
                parts = [tell_apart[s.panel], s.frames, s.probe, "bits"]
                tag = "-".join(_tag(p) for p in parts if p)
                if isinstance(s.layer, int):
                    writer.add_scalar(f"{s.task}/{tag}", s.mi_lower_bound_bits, s.layer)
                else:
                    writer.add_scalar(f"{s.task}/{tag}-{_tag(s.layer)}", s.mi_lower_bound_bits, 0)
        old = list(expdir.glob(f"events.out.tfevents.*{_EVENTS_SUFFIX}"))
        for path in Path(folder).iterdir():
            os.replace(path, expdir / path.name)
            old = [o for o in old if o.name != path.name]
    for path in old:
        path.unlink()


def _tag(text: str) -> str:
    """Only characters that TensorBoard leaves as they are."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in text)


def _distinguish(panels: Iterable[Panel], leave: Sequence[str] = ()) -> dict[Panel, str]:
    """Name panels by those of their fields that differ among them (an empty name for a single panel)."""
    panels = list(panels)
    texts = {
        panel: {
            "task": panel.task,
            "upstream": panel.upstream,
            "checkpoint_name": panel.checkpoint_name or "",
            "upstream_sha256": f"weights {panel.upstream_sha256[:8]}",
            "protocol": panel.protocol,
            "view": panel.view or "",
            "frames": f"{panel.frames} frames",
            "clusters": f"{panel.clusters} clusters",
            "fit_splits": "fit " + "+".join(panel.fit_splits),
            "eval_splits": "+".join(panel.eval_splits),
            "frame_shift_ms": f"every {panel.frame_shift_ms:g} ms",
        }
        for panel in panels
    }
    names = [n for n in next(iter(texts.values()), {}) if n not in leave]
    varying = [n for n in names if len({t[n] for t in texts.values()}) > 1]
    if "upstream" in varying or "checkpoint_name" in varying:
        varying = [n for n in varying if n != "upstream_sha256"]
    return {panel: ", ".join(filter(None, (texts[panel][n] for n in varying))) for panel in panels}


# ---------------------------------------------------------------------------------------------- pictures


def draw_layers(path_png: Path, records: Iterable[Record]) -> None:
    """Draw `mi_layers.png`: bits by layer, a line per probe and kind of frames, error bars of one sd.

    The best layer of each line is ringed. The ceiling H(Y) or H(c) is drawn dashed where it is near, else
    stated in the legend. A single layer, or `weighted`, is drawn as points.

    Args:
        path_png: where to write (1280 x 840 pixels per task).
        records: of one experiment.

    Raises:
        MIError: no record.
    """
    summaries = _required(records)
    tasks = sorted({s.task for s in summaries}, key=lambda t: _rank(t, TASKS))
    with _Canvas(6.4 * len(tasks), 4.2) as figure:
        for part, task in zip(figure.subfigures(1, len(tasks), squeeze=False)[0], tasks, strict=True):
            axes = part.subplots()
            _draw_task(axes, [s for s in summaries if s.task == task])
            _legend(part, axes)
        _save(figure, path_png)


class _Canvas:
    """A Figure with our settings, without pyplot and hence without global state."""

    def __init__(self, width: float, height: float) -> None:
        import matplotlib

        self._size = (width, height)
        self._context: Any = matplotlib.rc_context(_RC)

    def __enter__(self) -> Figure:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self._context.__enter__()
        figure = Figure(figsize=self._size, dpi=_DPI, layout="constrained")
        FigureCanvasAgg(figure)
        return figure

    def __exit__(self, *error: object) -> None:
        self._context.__exit__(*error)


def _save(figure: Figure, path: Path) -> None:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_DPI)
    _replace(path, content.getvalue())


def _legend(part: Any, axes: Axes) -> None:
    """The estimates first, the ceilings after them; below the plot, where no curve can run."""
    entries = list(zip(*axes.get_legend_handles_labels(), strict=True))
    entries.sort(key=lambda entry: entry[1].startswith("ceiling"))
    columns = min(3, len(entries)) if len(entries) < 4 else 2 if max(len(e[1]) for e in entries) < 60 else 1
    handles, labels = [h for h, _ in entries], [name for _, name in entries]
    part.legend(handles, labels, fontsize=8, loc="outside lower center", ncols=columns, columnspacing=1.5)


def _draw_task(axes: Axes, summaries: list[Summary]) -> None:
    panels = _panels(summaries)
    names = _distinguish(panels)
    place = _places(summaries)
    colours = _colours(summaries)
    if len(place) == 1:
        _draw_points(axes, summaries, names, colours)
    else:
        for number, (panel, group) in enumerate(panels.items()):
            for probe in dict.fromkeys(s.probe for s in group):
                line = [s for s in group if s.probe == probe]
                label = ", ".join(filter(None, (probe, names[panel])))
                _draw_line(axes, line, place, colours[probe], _STYLES[number % len(_STYLES)], label)
        _mark_best(axes, summaries, place, colours)
    _draw_ceilings(axes, panels, names, place)
    _dress(axes, summaries, place)


def _places(summaries: list[Summary]) -> dict[int | str, float]:
    """Where each layer stands on the x axis: at its number, a weighted sum one and a half places behind."""
    numbers = sorted({s.layer for s in summaries if isinstance(s.layer, int)})
    place: dict[int | str, float] = {n: float(n) for n in numbers}
    behind = numbers[-1] + max(1.0, 0.08 * (numbers[-1] - numbers[0])) + 0.5 if numbers else 0.0
    for i, name in enumerate(sorted({s.layer for s in summaries if isinstance(s.layer, str)})):
        place[name] = behind + i
    return place


def _colours(summaries: list[Summary]) -> dict[str, str]:
    others = [p for p in dict.fromkeys(s.probe for s in summaries) if p not in _COLOURS]
    return {**_COLOURS, **{p: _MORE_COLOURS[i % len(_MORE_COLOURS)] for i, p in enumerate(others)}}


def _draw_line(
    axes: Axes,
    line: list[Summary],
    place: dict[int | str, float],
    colour: str,
    style: tuple[str, Any],
    label: str,
) -> None:
    """Numbered layers as a line, a weighted sum as a point of its own, with error bars where seeds allow."""
    numbered = [s for s in line if isinstance(s.layer, int)]
    for part in (numbered, [s for s in line if isinstance(s.layer, str)]):
        if not part:
            continue
        errors = [s.mi_lower_bound_bits_sd for s in part]
        axes.errorbar(
            [place[s.layer] for s in part],
            [s.mi_lower_bound_bits for s in part],
            yerr=errors if any(s.n_seeds > 1 for s in part) else None,
            color=colour,
            marker=style[0],
            markersize=4.5,
            linewidth=1.5,
            linestyle=style[1] if part is numbered else "none",
            capsize=2.5,
            elinewidth=1.0,
            label=label if part is numbered or not numbered else None,
        )


def _draw_points(
    axes: Axes, summaries: list[Summary], names: dict[Panel, str], colours: dict[str, str]
) -> None:
    """One layer only: a point beside the other per probe, with its value."""
    numbers = {panel: i for i, panel in enumerate(names)}
    for i, s in enumerate(summaries):
        x = (i - (len(summaries) - 1) / 2) * min(0.25, 0.9 / len(summaries))
        x += 0.0 if isinstance(s.layer, str) else s.layer
        axes.errorbar(
            x,
            s.mi_lower_bound_bits,
            yerr=s.mi_lower_bound_bits_sd if s.n_seeds > 1 else None,
            color=colours[s.probe],
            marker=_STYLES[numbers[s.panel] % len(_STYLES)][0],
            markersize=6,
            linestyle="none",
            capsize=3,
            label=", ".join(filter(None, (s.probe, names[s.panel]))),
        )
        axes.annotate(
            f"{s.mi_lower_bound_bits:.{decimals([s.mi_lower_bound_bits_sd])}f}",
            (x, s.mi_lower_bound_bits + s.mi_lower_bound_bits_sd),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            va="bottom",
            color=colours[s.probe],
            fontsize=8.5,
        )


def _mark_best(
    axes: Axes, summaries: list[Summary], place: dict[int | str, float], colours: dict[str, str]
) -> None:
    """Ring the best layer of each line and write its value: above the first, below the second."""
    best = sorted(best_layers(summaries), key=lambda s: -s.mi_lower_bound_bits)
    for rank, s in enumerate(best):
        spot = (place[s.layer], s.mi_lower_bound_bits)
        axes.plot(
            *spot, marker="o", markersize=10, fillstyle="none", color=colours[s.probe], linestyle="none"
        )
        if len(best) <= 2:
            text = f"layer {s.layer}: " if isinstance(s.layer, int) else f"{s.layer}: "
            text += f"{s.mi_lower_bound_bits:.{decimals([s.mi_lower_bound_bits_sd])}f}"
            axes.annotate(
                text,
                spot,
                xytext=(0, 9 if rank == 0 else -9),
                textcoords="offset points",
                ha="center",
                va="bottom" if rank == 0 else "top",
                color=colours[s.probe],
                fontsize=8.5,
            )


def _draw_ceilings(
    axes: Axes, panels: dict[Panel, list[Summary]], names: dict[Panel, str], place: dict[int | str, float]
) -> None:
    """Dashed ceilings where they are near the estimates; otherwise a note in the legend.

    Ceilings that nobody could tell apart in the picture are drawn once.
    """
    top = max(s.mi_lower_bound_bits for group in panels.values() for s in group)
    found: list[tuple[Panel, list[tuple[float, float]], float, float]] = []
    for panel, group in panels.items():
        curve = sorted({place[s.layer]: s.entropy_bits for s in group}.items())
        low, high = min(v for _, v in curve), max(v for _, v in curve)
        if all(abs(low - other[2]) + abs(high - other[3]) > 0.05 for other in found):
            found.append((panel, curve, low, high))
    for panel, curve, low, high in found:
        size = f"{high:.2f}" if high - low < 0.01 else f"{low:.2f} to {high:.2f}"
        label = f"ceiling {_CEILING[panel.task]} = {size} bits"
        if len(found) > 1 and names[panel]:
            label += f" ({names[panel]})"
        if high > _FAR * max(top, 0.0):
            axes.plot([], [], color="none", label=label + ", above this plot")
        elif len(curve) == 1 or high - low < 0.01:
            axes.axhline(high, color="0.45", linestyle="--", linewidth=1.0, label=label)
        else:
            axes.plot(*zip(*curve, strict=True), color="0.45", linestyle="--", linewidth=1.0, label=label)


def _dress(axes: Axes, summaries: list[Summary], place: dict[int | str, float]) -> None:
    first, task = summaries[0], summaries[0].task
    axes.set_xlabel("layer (index into the upstream's hidden states)")
    axes.set_ylabel(f"lower bound of {_BOUND_TEX[task]} (bits)")
    axes.set_xticks(*_ticks(place))
    spots = list(place.values())
    room = 0.04 * (max(spots) - min(spots)) + (0.35 if len(spots) > 1 else 0.6)
    axes.set_xlim(min(spots) - room, max(spots) + room)
    _set_bottom(axes, summaries)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    upstreams = " / ".join(dict.fromkeys(s.upstream + _short(s.checkpoint_name) for s in summaries))
    title = textwrap.shorten(f"{task} by layer: {upstreams}", 72, placeholder=" …")
    axes.set_title(_plain(title), loc="left", fontweight="bold", pad=28)
    axes.annotate(
        _subtitle(first, summaries),
        (0, 1),
        xytext=(0, 5),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=8,
        color="0.35",
        va="bottom",
        linespacing=1.25,
    ).set_in_layout(False)  # a long one is cut at the edge rather than squeezing the plot


def _subtitle(first: Summary, summaries: list[Summary]) -> str:
    """Two lines: what is measured; on which splits, by which protocol, over how many seeds."""
    frames = "/".join(dict.fromkeys(s.frames for s in summaries))
    what = f"{first.view}; {frames} frames" if first.view else first.label_set or f"{first.labels} labels"
    splits = f"fit {'+'.join(first.fit_splits)}, eval {'+'.join(first.eval_splits)}"
    how = "; ".join((splits, f"protocol {first.protocol}", _seeds(summaries).replace("+-", "±")))
    return _plain("\n".join(textwrap.shorten(line, 100, placeholder=" …") for line in (what, how)))


def _ticks(place: dict[int | str, float]) -> tuple[list[float], list[str]]:
    """A tick per layer; every second or fourth one where there are many."""
    step = 1 if len(place) <= 16 else 2 if len(place) <= 34 else 4
    kept = [(x, str(name)) for name, x in place.items() if isinstance(name, str) or name % step == 0]
    return [x for x, _ in kept], [name for _, name in kept]


def _set_bottom(axes: Axes, summaries: list[Summary]) -> None:
    """Start at zero unless all layers lie far above it, and leave room for the values written in."""
    low = min(s.mi_lower_bound_bits - s.mi_lower_bound_bits_sd for s in summaries)
    high = max(s.mi_lower_bound_bits + s.mi_lower_bound_bits_sd for s in summaries)
    bottom, top = axes.get_ylim()
    top = max(top, high + 0.12 * max(high - min(low, 0.0), 1e-6))
    if low >= 0 and (low < 0.6 * high or len({s.layer for s in summaries}) == 1):
        axes.set_ylim(0, top)
    else:
        axes.set_ylim(min(bottom, low - 0.15 * max(high - low, 1e-3)), top)
    if low < 0:
        axes.axhline(0, color="0.6", linewidth=0.8)


def _short(checkpoint_name: str | None) -> str:
    return f" ({checkpoint_name})" if checkpoint_name else ""


def _plain(text: str) -> str:
    """Keep matplotlib from reading names as mathematics."""
    return text.replace("$", r"\$")


def draw_comparison(path_png: Path, labelled_records: Sequence[tuple[str, Sequence[Record]]]) -> None:
    """Draw several upstreams side by side: bars of the best layer with error bars of one sd.

    Args:
        path_png: where to write; 840 pixels high, as wide as the number of bars asks for.
        labelled_records: a label and its records, in the order of the bars (untrained before trained, say). A
            label may hold records of both tasks. One panel for each task, kind of view and kind of frames.

    Raises:
        MIError: no record at all, or a label whose records differ in more than layer, probe and seed.
    """
    comparisons = _comparisons(labelled_records)
    bars = [len(by_label) for by_label in comparisons.values()]
    widths = [1.1 + max(2, n) * 0.95 for n in bars]
    with _Canvas(sum(widths), 4.2) as figure:
        all_axes = figure.subplots(1, len(widths), squeeze=False, gridspec_kw={"width_ratios": widths})[0]
        for axes, (key, by_label) in zip(all_axes, comparisons.items(), strict=True):
            _draw_bars(axes, key, by_label)
        handles = {t: h for a in all_axes for h, t in zip(*a.get_legend_handles_labels(), strict=True)}
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), fontsize=8.5
        )
        _save(figure, path_png)


def _draw_bars(axes: Axes, key: _Comparison, by_label: dict[str, list[Summary]]) -> None:
    everything = [s for group in by_label.values() for s in group]
    probes = sorted({s.probe for s in everything}, key=lambda p: _rank(p, PROBE_ORDER))
    colours = _colours(everything)
    width = 0.78 / len(probes)
    named: set[str] = set()
    for i, label in enumerate(by_label):
        for s in by_label[label]:
            x = i + (probes.index(s.probe) - (len(probes) - 1) / 2) * width
            sd = s.mi_lower_bound_bits_sd if s.n_seeds > 1 else None
            axes.bar(
                x, s.mi_lower_bound_bits, 0.94 * width, yerr=sd, color=colours[s.probe], capsize=3,
                error_kw={"elinewidth": 1.0}, label=None if s.probe in named else s.probe,
            )  # fmt: skip
            named.add(s.probe)
            # Above the bar, and above zero where the estimate is negative.
            top = max(s.mi_lower_bound_bits + s.mi_lower_bound_bits_sd, 0.0)
            layer = f"\nlayer {s.layer}" if isinstance(s.layer, int) else f"\n{s.layer}"
            axes.annotate(
                f"{s.mi_lower_bound_bits:.2f}{layer}",
                (x, top), xytext=(0, 3), textcoords="offset points", ha="center", va="bottom", fontsize=6.5,
                linespacing=1.05,
            )  # fmt: skip
    axes.set_xticks(range(len(by_label)), _bar_names(by_label), fontsize=8)
    axes.set_xlim(-0.6, len(by_label) - 0.4)
    axes.axhline(0, color="0.3", linewidth=0.8)
    low = min(0.0, *(s.mi_lower_bound_bits - s.mi_lower_bound_bits_sd for s in everything))
    high = max(s.mi_lower_bound_bits + s.mi_lower_bound_bits_sd for s in everything)
    axes.set_ylim(1.1 * low, max(1.17 * high, 0.05))
    axes.set_ylabel(f"lower bound of {_BOUND_TEX[key.task]} (bits)")
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_title(f"{key.task}\n", loc="left", fontweight="bold")
    subtitle = f"{key.kind} view, {key.frames} frames" if key.kind else "frame labels"
    splits = dict.fromkeys("+".join(s.eval_splits) for s in everything)
    axes.text(
        0,
        1.02,
        _plain(f"{subtitle}; eval {', '.join(splits)}"),
        transform=axes.transAxes,
        fontsize=8,
        color="0.35",
    )


def _bar_names(by_label: dict[str, list[Summary]]) -> list[str]:
    """The labels, wrapped, with the time from frame to frame and the view if they differ."""
    shifts = {label: f"{group[0].frame_shift_ms:g} ms frames" for label, group in by_label.items()}
    views = {label: group[0].view or "" for label, group in by_label.items()}
    names = []
    for label in by_label:
        lines = textwrap.wrap(label, 13)
        for texts in (shifts, views):
            if len(set(texts.values())) > 1:
                lines += textwrap.wrap(texts[label], 16)
        names.append(_plain("\n".join(lines)))
    return names


# -------------------------------------------------------------------------------------------- all of them


def write_all(expdir: Path, records: Iterable[Record]) -> None:
    """Write `mi_summary.csv`, `mi_layers.png`, `log.log` and the event file of one experiment.

    May be called again with the same or more records: nothing is doubled.

    Raises:
        MIError: no record.
    """
    records = list(records)
    _required(records)
    write_summary(expdir / SUMMARY_FILE, records)
    draw_layers(expdir / PICTURE_FILE, records)
    write_log(expdir / LOG_FILE, records)
    write_tensorboard(expdir, records)
