"""Tables on the screen: of one experiment, and of several upstreams under each other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..core.words import columns, span
from ..results.record import RESULTS_FILE, Record
from ..results.speaker_sums import SPEAKERS_FILE, read_speakers
from ..results.summary import SUMMARY_FILE, Panel, Summary, by_panel, layer_key, required, worth_marking
from ..results.ties import layer_ties
from .figures.best_layers import Comparison, best_by_label
from .figures.experiment_layers import PICTURE_FILE
from .figures.picture import probes_in
from .s3prl_log import LOG_FILE
from .wording import (
    BOUND,
    CEILING,
    decimals,
    format_estimate,
    prior_note,
    speaker_note,
    spread_text,
)


def screen_table(records: Iterable[Record], expdir: Path | None = None) -> str:
    """The table at the end of a run, plain text without colour codes.

    Args:
        records: of one experiment.
        expdir: where its files are, for the footer and the intervals.

    Returns:
        A header, a row per layer and a column per probe (bits, and accuracy in percent), for each kind of
        frames, mask pattern or shift, and number of clusters; the best layer of each probe is marked `*`, unless
        there is only one or none is above zero; which layers the speech scored cannot tell apart.

    Raises:
        MIError: no record.
    """
    records = list(records)
    speakers = read_speakers(expdir / SPEAKERS_FILE, records) if expdir is not None else []
    summaries = required(records, speakers)
    blocks = [_panel_table(panel, rows) for panel, rows in by_panel(summaries).items()]
    footer = ["* best layer of the probe on the frames scored"] if worth_marking(summaries) else []
    if any(layer_ties(rows) for rows in by_panel(summaries).values()):
        footer.append("told apart: by differences paired by speaker, which hold together with 95 % (Bonferroni)")
    if expdir is not None:
        footer.append(f"{expdir}: {RESULTS_FILE} (every estimate), {SUMMARY_FILE}, {PICTURE_FILE}, {LOG_FILE}")
    return "\n\n".join([*blocks, "\n".join(footer)] if footer else blocks)


def _panel_table(panel: Panel, summaries: list[Summary]) -> str:
    found = {(s.layer, s.probe): s for s in summaries}
    best = worth_marking(summaries)
    places = {p: decimals(s.mi_lower_bound_bits_sd for s in summaries if s.probe == p) for p in probes_in(summaries)}
    entropies = [s.entropy_bits for s in summaries]
    own_ceiling = max(entropies) - min(entropies) >= 0.0005
    rows = [["layer", *(name for p in places for name in (f"{p} (bits)  ", "acc. %"))]]
    rows[0] += [CEILING[panel.key.task]] if own_ceiling else []
    for layer in sorted({s.layer for s in summaries}, key=layer_key):
        row = [str(layer)]
        for probe in places:
            s = found.get((layer, probe))
            if s is None:
                row += ["-", "-"]
            else:
                row += [format_estimate(s, places[probe]) + (" *" if s in best else "  "), f"{100 * s.accuracy:.1f}"]
        if own_ceiling:
            row.append(f"{next(s.entropy_bits for s in summaries if s.layer == layer):.3f}")
        rows.append(row)
    notes = [f"{probe}: {found.sentence('layer')}" for probe, found in layer_ties(summaries).items()]
    below = "".join(f"\n{line}" for line in filter(None, [*notes, prior_note(summaries), speaker_note(summaries)]))
    return f"{_header(panel, summaries)}\n\n{columns(rows)}" + (f"\n{below}" if below else "")


def _header(panel: Panel, summaries: list[Summary]) -> str:
    key, upstream = panel.key, panel.upstream
    if panel.checkpoint_name is not None:
        sha = f", sha256 {panel.checkpoint_sha256[:8]}" if panel.checkpoint_sha256 else ""
        upstream += f" ({panel.checkpoint_name}{sha})"
    if key.n_clusters is not None:
        of = f"{key.n_clusters} clusters, at most log2({key.n_clusters}) = {math.log2(key.n_clusters):.3f}"
    else:
        label_set = summaries[0].label_set
        of = f"{max(s.n_classes for s in summaries)} labels" + (f": {label_set}" if label_set else "")
    entropies = [s.entropy_bits for s in summaries]
    ceiling = span(min(entropies), max(entropies), ".3f")
    left_out = (
        (max(s.unlabelled_frames for s in summaries), "frames without a label"),
        (max(s.unseen_frames for s in summaries), "eval frames whose label the fit split lacks"),
        (skipped := max(s.skipped_utterances for s in summaries), "utterance" if skipped == 1 else "utterances"),
    )
    lines = {
        "upstream": upstream,
        "view": key.view,
        "frames": f"{key.scored_frames}, {panel.eval_frames:,} scored, one every {key.frame_shift_ms:g} ms",
        "splits": f"fit {'+'.join(key.fit_splits)} ({panel.fit_frames:,} frames), eval {'+'.join(key.eval_splits)}",
        "protocol": key.protocol,
        "ceiling": f"{CEILING[key.task]} = {ceiling} bits ({of})",
        "left out": ", ".join(f"{n:,} {what}" for n, what in left_out if n),
    }
    of = key.task if key.labels in ("", "phones") else f"{key.task}, {key.labels}"
    title = f"{of}: lower bound of {BOUND[key.task]} in bits, {spread_text(summaries)}"
    return "\n".join([title, *(f"  {name:<9} {text}" for name, text in lines.items() if text)])


def comparison_table(
    labelled_records: Sequence[tuple[str, Sequence[Record]]], error_rates: Mapping[str, float] | None = None
) -> str:
    """Several upstreams under each other, at the best layer of each.

    Args:
        labelled_records: a label and the records of one or more experiments, for each upstream.
        error_rates: PER by label, in percent, where it was measured.

    Returns:
        For each task (and kind of view and of frames): a row per label; per probe bits and, in brackets, the
        layer; the PER; the ceiling; the time from frame to frame.

    Raises:
        MIError: no record at all, or a label whose records differ in more than layer, probe and seed.
    """
    blocks = best_by_label(labelled_records).items()
    return "\n\n".join(_comparison_block(key, rows, error_rates or {}) for key, rows in blocks)


def _comparison_block(key: Comparison, by_label: dict[str, list[Summary]], error_rates: Mapping[str, float]) -> str:
    everything = [s for group in by_label.values() for s in group]
    probes = probes_in(everything)
    places = decimals(s.mi_lower_bound_bits_sd for s in everything)
    rates = {label: [f"{error_rates[label]:.1f}" if label in error_rates else "-"] for label in by_label if error_rates}
    rows = [["", *(f"{p} (bits, layer)" for p in probes), *(["PER %"] if rates else [])]]
    rows[0] += [CEILING[key.task], "frame shift"]
    rows[0] += ["view"] if key.kind else []
    for label, group in by_label.items():
        found = {s.probe: f"{format_estimate(s, places)} ({s.layer})" for s in group}
        first = group[0]
        row = [
            label,
            *(found.get(p, "-") for p in probes),
            *rates.get(label, []),
            f"{first.entropy_bits:.3f}",
            f"{first.frame_shift_ms:g} ms",
        ]
        rows.append([*row, first.view] if first.view else row)
    what = f"{key.task}, {key.describe()}" if key.kind else key.task
    title = f"{what}: lower bound of {BOUND[key.task]} in bits, best layer, {spread_text(everything)}"
    return f"{title}\n\n{columns(rows, left=1)}"
