"""Text tables: of one experiment for the screen, and of several upstreams under each other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..results.record import RESULTS_FILE, Record
from ..results.summary import (
    PROBE_ORDER,
    SUMMARY_FILE,
    Panel,
    Summary,
    by_panel,
    layer_key,
    rank_in,
    required,
    worth_marking,
)
from .comparison import Comparison, compare
from .layers import PICTURE_FILE
from .s3prl_log import LOG_FILE
from .wording import BOUND, CEILING, decimals, format_bits, seeds_text

# One experiment


def screen_table(records: Iterable[Record], expdir: Path | None = None) -> str:
    """The table at the end of a run, plain text without colour codes.

    Args:
        records: of one experiment.
        expdir: where its files are, for the footer.

    Returns:
        A header, a row per layer and a column per probe (bits, and accuracy in percent), for each kind of
        frames, mask pattern or shift, and number of clusters; the best layer of each probe is marked `*`, unless
        there is only one or none is above zero.

    Raises:
        MIError: no record.
    """
    summaries = required(records)
    blocks = [_panel_table(panel, rows) for panel, rows in by_panel(summaries).items()]
    footer = ["* best layer of the probe on the frames scored"] if worth_marking(summaries) else []
    if expdir is not None:
        footer.append(
            f"{expdir}: {RESULTS_FILE} (every estimate), {SUMMARY_FILE}, {PICTURE_FILE}, {LOG_FILE}"
        )
    return "\n\n".join([*blocks, "\n".join(footer)] if footer else blocks)


def _panel_table(panel: Panel, summaries: list[Summary]) -> str:
    probes = list(dict.fromkeys(s.probe for s in summaries))
    layers = sorted({s.layer for s in summaries}, key=layer_key)
    cells = {(s.layer, s.probe): s for s in summaries}
    best = {(s.layer, s.probe) for s in worth_marking(summaries)}
    places = {p: decimals(s.mi_lower_bound_bits_sd for s in summaries if s.probe == p) for p in probes}
    own_ceiling = _spread([s.entropy_bits for s in summaries]) >= 0.0005

    def bits(layer: int | str, probe: str) -> list[str]:
        s = cells.get((layer, probe))
        if s is None:
            return ["-", "-"]
        text = format_bits(s.mi_lower_bound_bits, s.mi_lower_bound_bits_sd, s.n_seeds, places[probe])
        return [text + (" *" if (layer, probe) in best else "  "), f"{100 * s.accuracy:.1f}"]

    head = ["layer", *(name for p in probes for name in (f"{p} (bits)  ", "acc. %"))]
    rows = [head + ([CEILING[panel.key.task]] if own_ceiling else [])]
    for layer in layers:
        row = [str(layer), *(text for p in probes for text in bits(layer, p))]
        if own_ceiling:
            row.append(f"{next(s.entropy_bits for s in summaries if s.layer == layer):.3f}")
        rows.append(row)
    return f"{_header(panel, summaries)}\n\n{_columns(rows)}"


def _header(panel: Panel, summaries: list[Summary]) -> str:
    key = panel.key
    lines = [("upstream", panel.upstream + _checkpoint(panel))]
    if key.view is not None:
        lines.append(("view", key.view))
    lines += [
        ("frames", f"{key.scored_frames}, {panel.eval_frames:,} scored, one every {key.frame_shift_ms:g} ms"),
        ("splits", f"fit {'+'.join(key.fit_splits)} ({panel.fit_frames:,} frames), "
                   f"eval {'+'.join(key.eval_splits)}"),
        ("protocol", key.protocol),
        ("ceiling", _ceiling_text(panel, summaries)),
    ]  # fmt: skip
    left_out = _left_out(summaries)
    if left_out:
        lines.append(("left out", left_out))
    title = f"{key.task}: lower bound of {BOUND[key.task]} in bits, {seeds_text(summaries)}"
    return "\n".join([title, *(f"  {name:<9} {text}" for name, text in lines)])


def _checkpoint(panel: Panel) -> str:
    if panel.checkpoint_name is None:
        return ""
    sha = f", sha256 {panel.checkpoint_sha256[:8]}" if panel.checkpoint_sha256 else ""
    return f" ({panel.checkpoint_name}{sha})"


def _ceiling_text(panel: Panel, summaries: list[Summary]) -> str:
    entropies = [s.entropy_bits for s in summaries]
    value = f"{max(entropies):.3f}"
    if _spread(entropies) >= 0.0005:
        value = f"{min(entropies):.3f} to {value}"
    if panel.key.n_clusters is not None:
        n = panel.key.n_clusters
        of = f"{n} clusters, at most log2({n}) = {math.log2(n):.3f}"
    else:
        of = f"{max(s.n_classes for s in summaries)} labels"
        of += f": {summaries[0].label_set}" if summaries[0].label_set else ""
    return f"{CEILING[panel.key.task]} = {value} bits ({of})"


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


# Several upstreams


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
    return "\n\n".join(_comparison_block(key, rows) for key, rows in compare(labelled_records).items())


def _comparison_title(key: Comparison) -> str:
    return f"{key.task}, {key.kind} view, {key.frames} frames" if key.kind else key.task


def _comparison_block(key: Comparison, by_label: dict[str, list[Summary]]) -> str:
    everything = [s for group in by_label.values() for s in group]
    probes = sorted({s.probe for s in everything}, key=lambda p: rank_in(p, PROBE_ORDER))
    places = decimals(s.mi_lower_bound_bits_sd for s in everything)
    rows = [
        [
            "",
            *(f"{p} (bits, layer)" for p in probes),
            CEILING[key.task],
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
    title = f"{_comparison_title(key)}: lower bound of {BOUND[key.task]} in bits"
    title += f", best layer, {seeds_text(everything)}"
    return f"{title}\n\n{_columns(rows, left=1)}"


def _bits_and_layer(summary: Summary, places: int) -> str:
    text = format_bits(summary.mi_lower_bound_bits, summary.mi_lower_bound_bits_sd, summary.n_seeds, places)
    return f"{text} ({summary.layer})"
