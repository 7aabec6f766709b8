"""The sections of the page, each only where its data exist, and the figures in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...results.correlation import Relation, correlate
from ...results.selection import CheckpointPick
from ...results.summary import rank_in
from .. import PROBE_ORDER, Summary, decimals
from ..compare.scores import ScoreValue
from ..figures import (
    Picture,
    Point,
    Scale,
    checkpoint_curves,
    class_bits,
    cluster_usage,
    confusion_pictures,
    layer_curves,
    model_of,
    phone_bits,
    picks_of,
    score_scatter,
    series_in,
    sweeps,
    usages,
)
from ..figures.cluster_usage import last_layers
from ..wording import BOUND, CEILING
from .markup import Cell, Section, bullets, paragraph, table
from .settings import settings_section
from .study import Study, best_of_models
from .words import agreements, findings, what_was_measured

SCORES = {"per": "PER (%)", "wer": "WER (%)"}


def sections(study: Study) -> tuple[list[Section], list[Picture]]:
    """Every section that has data, in the order of the page, and every figure in them."""
    makers: tuple[Callable[[Study], tuple[Section, list[Picture]] | None], ...] = (
        _summary, _layer_curves, _layer_selection, _scatter, _checkpoints, _sweeps, _clusters, _classes, _comparison,
    )  # fmt: skip
    made = [found for found in (maker(study) for maker in makers) if found is not None]
    return [*(section for section, _ in made), settings_section(study)], [p for _, own in made for p in own]


def _summary(study: Study) -> tuple[Section, list[Picture]]:
    section = Section("summary", "In short")
    section.add(*(paragraph(s) for s in what_was_measured(study)))
    section.add("<h3>Findings</h3>", bullets(findings(study)))
    return section, []


def _layer_curves(study: Study) -> tuple[Section, list[Picture]] | None:
    pictures = layer_curves(study.summaries, study.names)
    section = Section("layers", "Bits by layer")
    section.add(
        paragraph(
            "One plot for what is on one scale: estimates that differ in task, view, frames scored, clusters, labels "
            "or frame rate are never on the same axis."
        )
    )
    section.figures(pictures)
    return (section, pictures) if pictures else None


def _layer_selection(study: Study) -> tuple[Section, list[Picture]] | None:
    found = agreements(study)
    if not found:
        return None
    rows: list[list[Cell | str]] = []
    for model, own in found.items():
        for a in own:
            spearman = a.relation.of("spearman")
            rows.append(
                [
                    study.names[model],
                    a.probe,
                    f"{a.setting.view}, {a.setting.scored_frames} frames, {a.setting.n_clusters} clusters; "
                    f"{a.setting.protocol}, scored on {'+'.join(a.setting.eval_splits)}",
                    Cell(str(a.unsupervised_layer), a.unsupervised_layer),
                    Cell(str(a.labelled_layer), a.labelled_layer),
                    _number(a.regret_bits, 3),
                    _number(a.last_lost_bits, 3),
                    Cell(str(spearman), spearman.value) if spearman else Cell("too few layers"),
                ]
            )
    section = Section("selection", "Which layer")
    section.add(
        paragraph(
            "The layer that I(Za;Zb) picks without labels beside the one that I(Z;Y) picks with labels. Lost: bits of "
            "I(Z;Y) given up by the choice without labels, and by taking the last layer without measuring anything."
        ),
        table(
            ["model", "probe", "view", "layer without labels", "layer with labels", "lost, bits",
             "last layer loses, bits", "Spearman over layers [95 %]"],
            rows,
        ),
    )  # fmt: skip
    return section, []


def _scatter(study: Study) -> tuple[Section, list[Picture]] | None:
    if not any(study.rates.values()):
        return None
    section = Section("scores", "Bits and error rates")
    pictures: list[Picture] = []
    sentences: list[str] = []
    for scale in study.headline:
        plots, notes = {}, {}
        for probe in _probes(study.scales[scale]):
            for metric in SCORES:
                points, relation = _points(study, scale, probe, metric)
                if len(points) > 1:
                    plots[probe, SCORES[metric]] = points
                    notes[probe, SCORES[metric]] = _note(relation, len(points))
                    words = f"{BOUND[scale.task]} ({scale.kind or 'labels'}, {probe} probe)"
                    sentences.append(f"{words} and {SCORES[metric]}: {relation.sentence}")
        if plots:
            pictures.append(score_scatter(scale.task, plots, notes, scale.describe(), len(pictures) + 1))
    section.figures(pictures)
    if sentences:
        section.add("<h3>What the correlations show</h3>", bullets(dict.fromkeys(sentences)))
    sources: list[list[Cell | str]] = [
        [study.names[m], SCORES[k], Cell(f"{r.percent:.2f}", r.percent), _source(r)]
        for m, own in study.rates.items() for k, r in own.items()
    ]  # fmt: skip
    section.add(
        "<h3>Where the error rates come from</h3>",
        paragraph("* from a secondary source only: shown, but left out of correlations."),
        table(["model", "score", "value", "source"], sources),
    )
    return section, pictures


def _points(study: Study, scale: Scale, probe: str, metric: str) -> tuple[list[Point], Relation]:
    numbers = {m: i for i, m in enumerate(study.names)}
    points, trusted = [], []
    for model, best in best_of_models(study.scales[scale], probe).items():
        rate = study.rates.get(model, {}).get(metric)
        if rate is not None:
            name = study.names[model] + (" *" if rate.doubtful else "")
            point = Point(
                name, best.mi_lower_bound_bits, best.mi_lower_bound_bits_sd, rate.percent, numbers[model]
            )
            points.append(point)
            trusted += [] if rate.doubtful else [point]
    relation = correlate(
        [p.bits for p in trusted],
        [p.score for p in trusted],
        BOUND[scale.task],
        SCORES[metric],
        expected="negative",
    )
    return points, relation


def _source(value: ScoreValue) -> str:
    """Where an error rate comes from, and what one must know of it."""
    remark = f" ({value.remark})" if value.remark else ""
    return f"{value.kind}: {value.source}{remark}" + (" *" if value.doubtful else "")


def _note(relation: Relation, n_points: int) -> str:
    spearman = relation.of("spearman")
    if spearman is None:
        return "too few for a correlation"
    return f"Spearman {spearman}" + (f" (n = {relation.n}, without *)" if relation.n < n_points else "")


def _checkpoints(study: Study) -> tuple[Section, list[Picture]] | None:
    pictures = checkpoint_curves(study.summaries, study.records)
    if not pictures:
        return None
    section = Section("checkpoints", "Over training")
    section.figures(pictures)
    rows = [
        _pick_row(name, pick)
        for name in series_in(study.summaries)
        for pick in picks_of(name, study.records).values()
    ]
    if rows:
        section.add(
            "<h3>The checkpoint picked without labels, and how stable that is</h3>",
            table(
                ["series", "probe", "layer", "step picked", "step with labels", "lost, bits of I(Z;Y)",
                 "same over seeds", "over views", "over clusters"],
                rows,
            ),
        )  # fmt: skip
    return section, pictures


def _pick_row(name: str, pick: CheckpointPick) -> list[Cell | str]:
    stable = {s.factor: s for s in pick.stability}
    cells = []
    for factor in ("seed", "view", "clusters"):
        s = stable.get(factor)
        picks = "; ".join(f"{k}: {v}" for k, v in s.picks.items()) if s else ""
        cells.append(
            Cell(f"{s.fraction_same:.0%} of {len(s.picks)}", s.fraction_same, picks) if s else Cell("-")
        )
    labelled = (
        Cell("-") if pick.labelled_step is None else Cell(f"{pick.labelled_step:,}", pick.labelled_step)
    )
    return [
        name,
        pick.probe,
        Cell(str(pick.layer), pick.layer),
        Cell(f"{pick.step:,}", pick.step),
        labelled,
        _number(pick.regret_bits, 3),
        *cells,
    ]


def _sweeps(study: Study) -> tuple[Section, list[Picture]] | None:
    pictures = sweeps(study.summaries, study.names, study.last)
    section = Section("sweeps", "How settings matter")
    section.figures(pictures)
    return (section, pictures) if pictures else None


def _clusters(study: Study) -> tuple[Section, list[Picture]] | None:
    pictures = cluster_usage(study.measured, study.headline, study.names)
    if not pictures:
        return None
    section = Section("clusters", "Use of the clusters")
    section.figures(pictures)
    rows: list[list[Cell | str]] = []
    everything = usages(study.measured)
    for scale in study.scales:
        for model, u in last_layers([u for u in everything if u.scale == scale]).items():
            clusters = scale.n_clusters or len(u.curve)
            rows.append(
                [
                    study.names[model],
                    f"{scale.view}, {scale.scored_frames} frames",
                    str(u.layer),
                    Cell(str(clusters), clusters),
                    Cell(f"{u.used:.1f}", u.used),
                    Cell(f"{u.perplexity:.1f}", u.perplexity),
                    Cell(f"{u.curve[0]:.1f}", u.curve[0]),
                ]
            )
    head = ["model", "view", "last layer", "clusters", "used", "perplexity", "largest cluster, % of frames"]
    section.add(table(head, rows))
    return section, pictures


def _classes(study: Study) -> tuple[Section, list[Picture]] | None:
    pictures: list[Picture] = []
    for number, scale in enumerate((k for k in study.headline if k.task == "mi_supervised"), start=1):
        found = class_bits(study.measured, scale, study.summaries)
        if found:
            pictures += phone_bits(found, scale, study.names, number)
            pictures += confusion_pictures(found, scale, study.names, number)
    section = Section("classes", "Which phones are told apart")
    section.figures(pictures)
    return (section, pictures) if pictures else None


def _comparison(study: Study) -> tuple[Section, list[Picture]]:
    section = Section("comparison", "Models side by side")
    section.add(
        paragraph(
            "One table for each scale; figures of different tables do not compare. Best layer: the highest mean over "
            "seeds on the frames scored, so it describes them, and is a little optimistic. Click a column to sort."
        )
    )
    metrics: list[str] = [m for m in SCORES if any(m in own for own in study.rates.values())]
    for scale, group in study.scales.items():
        section.add(_comparison_table(study, scale, group, metrics))
    return section, []


def _comparison_table(study: Study, scale: Scale, group: Sequence[Summary], metrics: Sequence[str]) -> str:
    probes = _probes(group)
    places = decimals(s.mi_lower_bound_bits_sd for s in group)
    head = ["model"]
    for probe in probes:
        head += [f"{probe}, best layer", f"{probe}, last layer"]
    head += [CEILING[scale.task], "frames scored", "seeds", *(SCORES[m] for m in metrics)]
    rows = []
    for model, best in best_of_models(group).items():
        own = [s for s in group if model_of(s) == model]
        row: list[Cell | str] = [study.names[model]]
        for probe in probes:
            of_probe = [s for s in own if s.probe == probe]
            row.append(_bits(max(of_probe, key=lambda s: s.mi_lower_bound_bits, default=None), places))
            row.append(_bits(next((s for s in of_probe if s.layer == study.last.get(model)), None), places))
        # H(c) is of each layer's own codebook: that of the best layer stands beside it
        row.append(_number(best.entropy_bits, 2))
        row.append(Cell(f"{best.eval_frames:,}", best.eval_frames))
        row.append(Cell(str(best.n_seeds), best.n_seeds))
        for metric in metrics:
            rate = study.rates.get(model, {}).get(metric)
            mark = " *" if rate and rate.doubtful else ""
            row.append(Cell(f"{rate.percent:.2f}{mark}", rate.percent, _source(rate)) if rate else Cell("-"))
        rows.append(row)
    return table(head, rows, f"{BOUND[scale.task]} in bits: {scale.describe()}; protocol {scale.protocol}")


def _bits(summary: Summary | None, places: int) -> Cell:
    if summary is None:
        return Cell("-")
    words = f"{summary.mi_lower_bound_bits:.{places}f}"
    if summary.n_seeds > 1:
        words += f" ± {summary.mi_lower_bound_bits_sd:.{places}f}"
    return Cell(f"{words} ({summary.layer})", summary.mi_lower_bound_bits, f"layer {summary.layer}")


def _number(value: float | None, places: int) -> Cell:
    return Cell("-") if value is None else Cell(f"{value:.{places}f}", value)


def _probes(group: Sequence[Summary]) -> list[str]:
    return sorted({s.probe for s in group}, key=lambda p: rank_in(p, PROBE_ORDER))
