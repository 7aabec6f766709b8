"""What s3prl's own tasks leave behind as well: lines in `log.log`, and scalars for TensorBoard."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ..results.record import Record
from ..results.summary import FRAMES_ORDER, by_panel, rank_in, required
from .wording import decimals, distinguish

LOG_FILE = "log.log"

_EVENTS_SUFFIX = ".s3prl_mi"
"""Ends the names of our event files, so that a later call replaces them and leaves s3prl's own alone."""


def final_line(records: Iterable[Record]) -> str:
    """The closing line of `log.log`: the best layer and probe on the headline frames.

    Of several eval splits, those of the last record count (records are appended, so these are the latest). Of a
    sweep (views, clusters) or of several frame rates the first counts, as bits of different ones do not compare.
    The form is that of s3prl's own logs, `... at step <n>: <value>`; the whole measurement is
    one step of the runner.

    Raises:
        MIError: no record.
    """
    records = list(records)
    summaries, last = required(records), records[-1]
    latest = [s for s in summaries if (s.task, s.eval_splits) == (last.task, tuple(last.eval_splits))]
    first = min(latest, key=lambda s: rank_in(s.scored_frames, FRAMES_ORDER))
    setting = (first.scored_frames, first.view, first.n_clusters, first.label_set, first.frame_shift_ms)
    alike = [s for s in latest if (s.scored_frames, s.view, s.n_clusters, s.label_set, s.frame_shift_ms) == setting]
    best = max(alike, key=lambda s: s.mi_lower_bound_bits)
    value = f"{best.mi_lower_bound_bits:.{decimals([best.mi_lower_bound_bits_sd])}f}"
    return f"{best.task} best layer {best.layer} {best.probe} {best.scored_frames} bits at step 1: {value}"


def write_log(path_log: Path, records: Iterable[Record]) -> None:
    """Append to `log.log` a line per estimate (mean over seeds, not rounded) and the closing line.

    Lines have the form of s3prl's tasks, `{split} ... at step {n}: {value}`. A line that the file holds
    already is not written again.
    """
    records = list(records)
    summaries = required(records)
    tell_apart = distinguish(by_panel(summaries), leave=("task", "frames", "eval_split"))
    lines = [
        f"{'+'.join(s.eval_splits)} {s.task} layer {s.layer} {s.probe} {s.scored_frames} "
        + (f"({tell_apart[s.panel]}) " if tell_apart[s.panel] else "")
        + f"bits, mean of {s.n_seeds} at step 1: {s.mi_lower_bound_bits!r}"
        for s in summaries
    ]
    closing = final_line(records)
    old = path_log.read_text(encoding="utf-8", errors="replace") if path_log.exists() else ""
    held = old.splitlines()
    new = [line for line in lines if line not in held]
    if new or not held or held[-1] != closing:
        path_log.parent.mkdir(parents=True, exist_ok=True)
        with open(path_log, "a", encoding="utf-8") as file:
            file.write(("\n" if old and not old.endswith("\n") else "") + "\n".join([*new, closing]) + "\n")


def write_tensorboard(expdir: Path, records: Iterable[Record]) -> None:
    """Write the scalars `<task>/<frames>-<probe>-bits`, mean over seeds, with step = layer number.

    A weighted sum of layers has a tag of its own, ending in `-weighted`, at step 0. What else varies
    (splits, clusters, ...) stands in front of the frames. All is one event file, which takes the place of the
    one that an earlier call left.
    """
    from tensorboardX import SummaryWriter

    summaries = required(records)
    tell_apart = distinguish(by_panel(summaries), leave=("task", "frames"))
    expdir.mkdir(parents=True, exist_ok=True)
    # The writer names its file by the second; written elsewhere and moved, it can neither mix with an older file
    # nor be read before it is whole.
    with tempfile.TemporaryDirectory(dir=expdir, prefix=".mi_events_") as folder:
        with SummaryWriter(logdir=folder, filename_suffix=_EVENTS_SUFFIX) as writer:
            for s in summaries:
                parts = [tell_apart[s.panel], s.scored_frames, s.probe, "bits"]
                parts += [s.layer] if isinstance(s.layer, str) else []
                # Only characters that TensorBoard leaves as they are.
                tag = "-".join(re.sub(r"[^\w.-]", "_", p, flags=re.ASCII) for p in parts if p)
                step = s.layer if isinstance(s.layer, int) else 0
                writer.add_scalar(f"{s.task}/{tag}", s.mi_lower_bound_bits, step)
        written = [path.name for path in Path(folder).iterdir()]
        for name in written:
            os.replace(Path(folder) / name, expdir / name)
    for path in expdir.glob(f"events.out.tfevents.*{_EVENTS_SUFFIX}"):
        if path.name not in written:
            path.unlink()
