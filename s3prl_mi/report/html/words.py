"""The findings in plain words: what was measured, on what, who is best, and whether the choices agree."""

from __future__ import annotations

from collections.abc import Sequence

from ...results.correlation import correlate
from ...results.record import Record
from ...results.selection import LayerAgreement, layer_agreements
from .. import Summary, decimals
from ..figures import Scale, mixed_series, picks_of, series_in, stability_words
from ..wording import BOUND
from .study import Study, best_of_models


def what_was_measured(study: Study) -> list[str]:
    """Sentences on models, tasks and data."""
    names = list(study.names.values())
    listed = ", ".join(names) if len(names) <= 10 else f"{', '.join(names[:9])} and {len(names) - 9} more"
    sentences = [
        f"{_count(len(names), 'model')} in {_count(len(study.results), 'experiment')}, "
        f"{len(study.records):,} estimates: {listed}."
    ]
    for task, text in (
        (
            "mi_supervised",
            "With labels: I(Z;Y), the bits that a frame's hidden state Z tells about its label Y",
        ),
        ("mi_views", "Without labels: I(Za;Zb), the bits that one view of the speech tells about another"),
    ):
        records = [r for r in study.records if r.task == task]
        if records:
            sentences.append(f"{text}; {_data(records)}.")
    sentences.append(
        "All figures are lower bounds in bits per frame on speech that no probe was fitted on: a model may hold more "
        "than a probe finds. Only the best layer is named by these same figures, which is a bit optimistic. Standard "
        "deviations are over seeds; they do not cover the choice of speech."
    )
    return sentences


def _data(records: Sequence[Record]) -> str:
    fit = " / ".join(dict.fromkeys("+".join(r.fit_splits) for r in records))
    scored = " / ".join(dict.fromkeys("+".join(r.eval_splits) for r in records))
    frames = sorted({r.eval_frames for r in records})
    size = f"{frames[0]:,}" + (f" to {frames[-1]:,}" if len(frames) > 1 else "")
    labels = (
        [str(n) for n in sorted({r.n_classes for r in records})] if records[0].task == "mi_supervised" else []
    )
    classes = f"{' / '.join(labels)} classes, " if labels else ""
    return f"{classes}fitted on {fit}, scored on {scored} ({size} frames)"


def findings(study: Study) -> list[str]:
    """Sentences on the best model of each scale, on layers, checkpoints and error rates."""
    found = [s for s in (_best(study, scale) for scale in study.headline) if s]
    found += _layers(study)
    found += _tasks_agree(study)
    for name in series_in(study.summaries):
        found += [
            f"Checkpoints of {name}: {stability_words(p)}" for p in picks_of(name, study.records).values()
        ]
    return found + _warnings(study)


def _best(study: Study, scale: Scale) -> str:
    ranking = list(best_of_models(study.scales[scale]).values())
    best = ranking[0]
    value = _bits(best, ranking)
    about = "about its labels" if scale.task == "mi_supervised" else "about the other view"
    text = f"{study.names[best.upstream_sha256]} tells most {about} ({scale.describe()}): "
    if len(ranking) == 1:
        text = f"{study.names[best.upstream_sha256]} ({scale.describe()}): "
    text += f"{BOUND[scale.task]} is at least {value} of at most {best.entropy_bits:.2f} bits"
    text += (
        f" (layer {best.layer}, {best.probe} probe)" if isinstance(best.layer, int) else f" ({best.layer})"
    )
    if best.mi_lower_bound_bits <= 0:
        return (
            text
            + ". A bound that is not above zero shows no information: there may be too little speech to fit on."
        )
    if len(ranking) > 1:
        rest = [f"{study.names[s.upstream_sha256]} {_bits(s, ranking)}" for s in ranking[1:5]]
        text += f"; then {', '.join(rest)}" + (f" and {len(ranking) - 5} more" if len(ranking) > 5 else "")
        gap = best.mi_lower_bound_bits - ranking[1].mi_lower_bound_bits
        if gap < best.mi_lower_bound_bits_sd + ranking[1].mi_lower_bound_bits_sd:
            text += ". The first two are closer than their seeds scatter: no order between them"
        if ranking[-1].mi_lower_bound_bits < 0:
            text += (
                ". Below zero a probe does worse than the targets' frequency alone: the model's frames mean something "
                "else for speakers that it was not fitted on, or there is too little speech"
            )
    return text + "."


def _bits(summary: Summary, among: Sequence[Summary]) -> str:
    return f"{summary.mi_lower_bound_bits:.{decimals(s.mi_lower_bound_bits_sd for s in among)}f}"


def agreements(study: Study) -> dict[str, list[LayerAgreement]]:
    """Both choices of a layer for every model that was measured with both tasks."""
    found = {}
    for model in study.names:
        own = [r for r in study.records if r.upstream_sha256 == model]
        if rows := layer_agreements(own):
            found[model] = rows
    return found


def _layers(study: Study) -> list[str]:
    rows = [a for found in agreements(study).values() for a in found]
    if not rows:
        return []
    same = sum(a.same for a in rows)
    text = (
        f"Choosing the layer without labels (highest I(Za;Zb)) gives the layer that labels choose in {same} of "
        f"{_count(len(rows), 'case')} (model, probe and setting)"
    )
    lost = max(a.regret_bits for a in rows)
    if same < len(rows):
        text += f"; {'where it does not, ' if same else ''}it costs at most {lost:.3f} bits of I(Z;Y)"
    last = [a.last_lost_bits for a in rows if a.last_lost_bits is not None]
    if last:
        text += f". Taking the last layer instead costs at most {max(last):.3f} bits"
    return [text + "."]


def _tasks_agree(study: Study) -> list[str]:
    """Whether models that tell more about labels also tell more about the other view."""
    sentences = []
    for free in (k for k in study.headline if k.task == "mi_views"):
        for labelled in (k for k in study.headline if k.task == "mi_supervised"):
            if free.frame_shift_ms != labelled.frame_shift_ms or free.eval_splits != labelled.eval_splits:
                continue
            a, b = best_of_models(study.scales[free]), best_of_models(study.scales[labelled])
            models = [m for m in a if m in b]
            if len(models) > 2:
                relation = correlate(
                    [a[m].mi_lower_bound_bits for m in models],
                    [b[m].mi_lower_bound_bits for m in models],
                    f"I(Za;Zb) ({free.view})",
                    "I(Z;Y)",
                )
                sentences.append(relation.sentence)
    return sentences


def _warnings(study: Study) -> list[str]:
    found = []
    for scale, group in study.scales.items():
        low, high = min(s.eval_frames for s in group), max(s.eval_frames for s in group)
        if high > 1.02 * low:
            found.append(
                f"Beware: in {BOUND[scale.task]} ({scale.describe()}) models were scored on different amounts "
                f"of speech ({low:,} to {high:,} frames); measure them on the same to rank them."
            )
    found += [
        f"Beware: {name} stands for several training runs (two models of one step), so no curve over training is "
        "drawn; make a report of each run's folders."
        for name in mixed_series(study.summaries)
    ]
    if all(s.n_seeds == 1 for s in study.summaries):
        found.append("Beware: one seed only, so nothing is known about the scatter over seeds.")
    smallest = min(s.eval_frames for s in study.summaries)
    if smallest < 5000:
        found.append(
            f"Beware: as few as {smallest:,} frames were scored, which is enough to try the tool and not enough to "
            "rank models."
        )
    return found


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"
