"""The findings in plain words: what was measured, on what, who is best, and whether the choices agree."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

from ...core.words import count, span
from ...results.candidates import COLLAPSED
from ...results.comparability import ComparisonKey
from ...results.correlation import correlate, with_speakers
from ...results.measures import MEASURES_FILE, read_measures
from ...results.record import Record
from ...results.selection import CheckpointPick, LayerAgreement, layer_agreements
from ...results.ties import ties
from ..figures.checkpoint_curves import Series, stability_words
from ..wording import BOUND, decimals, ends, frames_note, prior_note, speaker_note
from .report_data import ReportData, best_of_models

_QUANTITIES = {
    "mi_supervised": "With labels: I(Z;Y), the bits that a frame's hidden state Z tells about its label Y",
    "mi_views": "Without labels: I(Za;Zb), the bits that one view of the speech tells about another",
}


def what_was_measured(data: ReportData) -> list[str]:
    """Sentences on models, tasks and data."""
    names = list(data.names.values())
    listed = ", ".join(names) if len(names) <= 10 else f"{', '.join(names[:9])} and {len(names) - 9} more"
    size = f"{count(len(names), 'model')} in {count(len(data.results), 'experiment')}"
    sentences = [f"{size}, {count(len(data.records), 'estimate')}: {listed}."]
    for task, text in _QUANTITIES.items():
        records = [r for r in data.records if r.task == task]
        if records:
            sentences.append(f"{text}; {_data(records)}.")
    sentences.append(
        "All numbers are lower bounds in bits per frame on speech that no probe was fitted on: a model may hold more "
        "than a probe finds. Only the best layer is chosen by these same numbers, which is a bit optimistic. Intervals "
        "are over the speakers scored; standard deviations are over seeds and do not cover the choice of speech."
    )
    return sentences


def _data(records: Sequence[Record]) -> str:
    fit = " / ".join(dict.fromkeys("+".join(r.fit_splits) for r in records))
    scored = " / ".join(dict.fromkeys("+".join(r.eval_splits) for r in records))
    frames, classes = [r.eval_frames for r in records], sorted({r.n_classes for r in records})
    labels = f"{' / '.join(map(str, classes))} classes, " if records[0].task == "mi_supervised" else ""
    return f"{labels}fitted on {fit}, scored on {scored} ({span(min(frames), max(frames))} frames)"


NO_INTERVAL = "How sure this order is cannot be said: not all have sums by the same speakers (mi_speakers.jsonl)"


def findings(data: ReportData, besides: Literal["", "tables", "board"] = "") -> list[str]:
    """Sentences on the best model of each setting, on layers, checkpoints and error rates.

    Args:
        data: of the report.
        besides: what stands next to them and need not be repeated: the tables of `s3prl-mi compare`; the board, too.
    """
    found = [] if besides else [s for s in (_best(data, key) for key in data.headline) if s]
    found += _made_of(data)
    found += [] if besides else _layers(data)
    found += [] if besides == "board" else _tasks_agree(data)
    for s in data.series:
        found += [f"Checkpoints of {s.name}: {stability_words(p)}{_steps_tied(s, p)}" for p in s.picks.values()]
    return found + collapsed(data) + _warnings(data)


def collapsed(data: ReportData) -> list[str]:
    """A warning for each model whose hidden states have collapsed, by what `mi_measures.jsonl` has of them."""
    low: dict[str, dict[int, float]] = {}
    for folder in dict.fromkeys(result.folder for result in data.results):
        for m in read_measures(folder / MEASURES_FILE):
            if m.measure != "participation_ratio" or not isinstance(m.layer, int) or m.value is None:
                continue
            if m.value < COLLAPSED and m.upstream_sha256 in data.names:
                low.setdefault(m.upstream_sha256, {})[m.layer] = m.value
    return [
        f"Beware: hidden states of {data.names[model]} have collapsed (layer "
        f"{', '.join(map(str, sorted(of_layer)))}: participation ratio {min(of_layer.values()):.1f}, below "
        f"{COLLAPSED:g}): nearly all variance lies on one axis, so its I(Za;Zb) is easy and says little."
        for model, of_layer in low.items()
    ]


def _steps_tied(series: Series, pick: CheckpointPick) -> str:
    """Which steps the speech scored cannot tell from the one picked; empty without sums by speaker."""
    wanted = (pick.probe, pick.layer, pick.setting)
    own = [s for s in series.summaries if (s.probe, s.layer, s.key) == wanted]
    left_out = {s.step or 0: s.left_out for s in own if s.left_out is not None}
    order = ties(left_out) if len(left_out) == len(pick.curve) else None
    return f" By I(Za;Zb), {order.sentence('step', {n: f'{n:,}' for n in left_out})}." if order else ""


def _best(data: ReportData, key: ComparisonKey) -> str:
    ranking = list(best_of_models(data.groups[key]).values())
    places = decimals(s.mi_lower_bound_bits_sd for s in ranking)
    values = [f"{s.mi_lower_bound_bits:.{places}f}" for s in ranking]
    models = [data.names[s.upstream_sha256] for s in ranking]
    best, settings = ranking[0], key.describe()
    about = f"about {key.labels or 'its labels'}" if key.task == "mi_supervised" else "about the other view"
    text = f"{models[0]} tells most {about} ({settings}): " if len(ranking) > 1 else f"{models[0]} ({settings}): "
    text += f"{BOUND[key.task]} is at least {values[0]} of at most {best.entropy_bits:.2f} bits"
    text += f" (layer {best.layer}, {best.probe} probe)" if isinstance(best.layer, int) else f" ({best.layer})"
    if best.mi_lower_bound_bits <= 0:
        return text + ". A bound that is not above zero shows no information: there may be too little speech to fit on."
    if len(ranking) > 1:
        rest = ", ".join(f"{m} {v}" for m, v in list(zip(models, values, strict=True))[1:5])
        text += f"; then {rest}" + (f" and {len(ranking) - 5} more" if len(ranking) > 5 else "")
        left_out = {name: s.left_out for name, s in zip(models, ranking, strict=True) if s.left_out is not None}
        order = ties(left_out) if len(left_out) == len(ranking) else None
        words = order.sentence("model") if order else NO_INTERVAL
        text += f". {words[0].upper()}{words[1:]}"
        if ranking[-1].mi_lower_bound_bits < 0:
            text += (
                ". Below zero a probe does worse than the targets' frequency alone: the model's frames mean something "
                "else for speakers that it was not fitted on, or there is too little speech"
            )
    return text + "."


def _made_of(data: ReportData) -> list[str]:
    """What else than phonetic detail is in the bits: the priors of other speech, and who speaks."""
    found = []
    for key in data.headline:
        ranking = list(best_of_models(data.groups[key]).values())
        notes = {data.names[s.upstream_sha256]: note for s in ranking if (note := prior_note([s]))}
        if notes:
            name, note = next(iter(notes.items()))
            others = f" (the same holds of {count(len(notes) - 1, 'other model')})" if len(notes) > 1 else ""
            found.append(f"{BOUND[key.task]} of {name} ({key.describe()}): {note}{others}.")
        if note := speaker_note(ranking):
            found.append(f"{data.names[ranking[0].upstream_sha256]} ({key.describe()}), {note}.")
    return found


def agreements(data: ReportData) -> dict[str, list[LayerAgreement]]:
    """Both choices of a layer for every model that was measured with both tasks."""
    found = {}
    for model in data.names:
        own = [r for r in data.records if r.upstream_sha256 == model]
        if rows := layer_agreements(own):
            found[model] = rows
    return found


def _layers(data: ReportData) -> list[str]:
    rows = [a for found in agreements(data).values() for a in found]
    if not rows:
        return []
    same = sum(a.same for a in rows)
    text = (
        f"Choosing the layer without labels (highest I(Za;Zb)) gives the layer that labels choose in {same} of "
        f"{count(len(rows), 'case')} (model, probe and setting)"
    )
    lost = max(a.regret_bits for a in rows)
    if same < len(rows):
        text += f"; {'where it does not, ' if same else ''}it costs at most {lost:.3f} bits of I(Z;Y)"
    last = [a.last_lost_bits for a in rows if a.last_lost_bits is not None]
    if last:
        text += f". Taking the last layer instead costs at most {max(last):.3f} bits"
    return [text + "."]


def _tasks_agree(data: ReportData) -> list[str]:
    """Whether models that tell more about labels also tell more about the other view."""
    sentences = []
    for free, labelled in itertools.product(data.headline, repeat=2):
        if free.task != "mi_views" or not labelled.of_content:
            continue
        if (free.frame_shift_ms, free.eval_splits) != (labelled.frame_shift_ms, labelled.eval_splits):
            continue
        a, b = best_of_models(data.groups[free]), best_of_models(data.groups[labelled])
        models = [m for m in a if m in b]
        if len(models) > 2:
            x, y = ([best[m].mi_lower_bound_bits for m in models] for best in (a, b))
            relation = correlate(x, y, f"I(Za;Zb) ({free.view})", "I(Z;Y)")
            of_a, of_b = ([best[m].left_out for m in models] for best in (a, b))
            over = with_speakers(relation, of_a, of_b).over_speakers
            how_sure = f" Over the speakers scored, rho of these models is {ends(over)} (95 %)." if over else ""
            sentences.append(relation.sentence + how_sure)
    return sentences


def _warnings(data: ReportData) -> list[str]:
    found = []
    for key, group in data.groups.items():
        frames = [s.eval_frames for s in group]
        if frames_note(group):
            found.append(
                f"Beware: in {BOUND[key.task]} ({key.describe()}) models were scored on different amounts of "
                f"speech ({span(min(frames), max(frames))} frames); measure them on the same to rank them."
            )
    found += [
        f"Beware: {name} stands for several training runs (two models of one step), so no curve over training is "
        "drawn; make a report of each run's folders."
        for name in data.mixed
    ]
    if all(s.n_seeds == 1 for s in data.summaries):
        found.append("Beware: one seed only, so nothing is known about the scatter over seeds.")
    smallest = min(s.eval_frames for s in data.summaries)
    if smallest < 5000:
        found.append(
            f"Beware: as few as {smallest:,} frames were scored, which is enough to try the tool and not enough to "
            "rank models."
        )
    return found
