"""The comparison on the screen, in Markdown, LaTeX (booktabs) and CSV: the only place that rounds.

The first three write the same tables; CSV holds full precision, one file a table.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from ...core.words import columns
from ...results.correlation import INTERVAL, KINDS, NAMES, Correlation, Relation
from ...results.selection import LayerAgreement
from ..wording import BOUND, decimals, ends, format_estimate, spread_text
from .paper import CAVEAT, PaperRow, unmeasured, without_paper
from .scores import SCORE_NAMES
from .table import CHOICE_NAMES, CHOICES, Column, ModelRow, Table


@dataclass(frozen=True, slots=True)
class _Grid:
    """A table of texts: the first `left` columns are words, the others numbers."""

    name: str
    """Short, for the label in LaTeX."""
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1
    below: Sequence[str] = ()
    """Sentences."""


def to_screen(table: Table, paper: Sequence[PaperRow] | None = None) -> str:
    """Plain text for a terminal.

    Args:
        table: from `build`.
        paper: from `paper_rows` if they are wanted.
    """
    return "\n\n".join([*map(_screen_grid, _grids(table, paper)), *_lines("  ", _foot(table))]) + "\n"


def to_markdown(table: Table, paper: Sequence[PaperRow] | None = None) -> str:
    """Tables as GitHub and most wikis read them."""
    return "\n\n".join([*map(_markdown_grid, _grids(table, paper)), *_lines("- ", _foot(table))]) + "\n"


def to_latex(table: Table, paper: Sequence[PaperRow] | None = None) -> str:
    r"""Tables with booktabs, to be read by `\input`; the notes stand as comments at the end."""
    grids = map(_latex_grid, _grids(table, paper))
    return "\n\n".join(["% Needs \\usepackage{booktabs}.", *grids, *_lines("% ", _foot(table))]) + "\n"


def to_csv(table: Table, paper: Sequence[PaperRow] | None = None) -> dict[str, str]:
    """CSV texts at full precision, by the ending of the file's name.

    Returns:
        `""`: a row for each model; `_correlations`: a row for each coefficient; `_layers`: the choice of a layer with
        and without labels; `_paper`: only with `paper`. Tables without a row are left out.
    """
    tables: dict[str, list[dict[str, object]]] = {
        "": [_wide(row, table.columns) for row in table.rows],
        "_correlations": [line for key, relation in table.relations.items() for line in _long(*key, relation)],
        "_layers": [_agreement_line(row.label, a) for row in table.rows for a in row.agreements],
        "_paper": [
            {
                "label": p.label, "paper_model": p.paper.model, "task": p.paper.task, "probe": p.paper.probe,
                "layer": p.yours.layer, "yours_bits": p.yours.mi_lower_bound_bits, "paper_bits": p.paper.bits,
                "difference_bits": p.difference, "source": p.paper.source, "remark": p.remark,
            }
            for p in paper or ()
        ],
    }  # fmt: skip
    return {ending: _csv(rows) for ending, rows in tables.items() if rows}


def _lines(bullet: str, sentences: Sequence[str]) -> list[str]:
    """One paragraph, or none."""
    return ["\n".join(bullet + s for s in sentences)] if sentences else []


# --- What stands in the tables ------------------------------------------------------------------------------


def _grids(table: Table, paper: Sequence[PaperRow] | None) -> list[_Grid]:
    grids = [_main_grid(table, probe) for probe in table.probes]
    if table.relations:
        grids.append(_relations_grid(table))
    if any(row.agreements for row in table.rows):
        grids.append(_agreements_grid(table))
    if paper is not None:
        grids.append(_paper_grid(table, paper))
    return grids


def _main_grid(table: Table, probe: str) -> _Grid:
    own = table.columns_of(probe)
    metrics = [m for m in SCORE_NAMES if any(m in row.scores for row in table.rows)]
    rows = [
        [row.label, *(_bits(row, c, table) for c in own), *(_percent(row, m) for m in metrics)]
        + ([_sources(row)] if metrics else [])
        for row in table.rows
    ]
    head = ["upstream", *(c.title for c in own), *(f"{SCORE_NAMES[m]} %" for m in metrics)]
    shown = [f for row in table.rows for c, f in row.figures.items() if c.probe == probe]
    return _Grid(
        name=probe,
        title=f"Lower bounds in bits by the {probe} probe, {spread_text(shown)}",
        head=head + (["scores from"] if metrics else []),
        rows=rows,
        below=[
            *(f"{CHOICE_NAMES[c]}: {CHOICES[c]}" for c in CHOICES if any(x.choice == c for x in own)),
            *(f"{c.title}: {table.orders[c].sentence('model')}" for c in own if c in table.orders),
        ],
    )


def _bits(row: ModelRow, column: Column, table: Table) -> str:
    figure = row.figures.get(column)
    if figure is None:
        return "-"
    places = decimals(r.figures[column].mi_lower_bound_bits_sd for r in table.rows if column in r.figures)
    text = format_estimate(figure, places)
    return f"{text} ({figure.layer})" if column.choice in ("free", "best") else text


def _percent(row: ModelRow, metric: str) -> str:
    value = row.scores.get(metric)
    if value is None:
        return "-"
    own = value.kind == "own run"
    return f"{value.percent:.2f}" + ("?" if value.doubtful and not own else "*" if value.remark else "")


def _sources(row: ModelRow) -> str:
    kinds = {metric: value.kind for metric, value in row.scores.items() if not metric.startswith("superb_")}
    if len(set(kinds.values())) <= 1:
        return next(iter(kinds.values()), "-")
    return ", ".join(f"{SCORE_NAMES[metric]} {kind}" for metric, kind in kinds.items())


def _relations_grid(table: Table) -> _Grid:
    shown = [(c, m, r) for (c, m), r in table.relations.items() if r.coefficients]
    below = []
    if shown:
        below.append(
            f"intervals: {INTERVAL}; more bits and fewer errors are better, so a negative sign is the expected one"
        )
    if shown and table.mixed:
        below.append("Some of these models' bits are not comparable (see the notes): this correlation means little.")
    for metric in SCORE_NAMES:
        mine = {c: r for (c, m), r in table.relations.items() if m == metric}
        headlines = [c for c in mine if c.choice == "last" and mine[c].coefficients] or list(mine)[:1]
        below += [mine[c].sentence for c in headlines if c.probe == headlines[0].probe]
    speakers = any(r.over_speakers for _, _, r in shown)
    if speakers:
        below.append(
            "rho over speakers: 95 % interval of Spearman's rho of these very models over the choice of speakers, of "
            "those scored in bits and of those whose errors were counted"
        )
    return _Grid(
        name="correlations",
        title="Correlation of bits with error rates over models",
        head=["bound", "probe", "score", "n", *NAMES.values(), *(["rho over speakers"] if speakers else [])],
        rows=[
            [c.title, c.probe, SCORE_NAMES[m], str(r.n), *(str(r.of(kind)) for kind in KINDS)]
            + ([ends(r.over_speakers) if r.over_speakers else "-"] if speakers else [])
            for c, m, r in shown
        ],
        left=3,
        below=below,
    )


def _agreements_grid(table: Table) -> _Grid:
    rows = [
        [
            row.label, a.probe, str(a.unsupervised_layer), str(a.labelled_layer), *_regret(a),
            "-" if a.last_lost_bits is None else f"{a.last_lost_bits:.3f}", str(a.relation.n),
            "-" if (rho := a.relation.of("spearman")) is None else f"{rho.value:+.2f}",
        ]
        for row in table.rows for a in row.agreements
    ]  # fmt: skip
    return _Grid(
        name="layers",
        title="Choice of the layer: without labels, by I(Za;Zb), and with labels, by I(Z;Y)",
        head=["upstream", "probe", "without", "with", "same", "bits lost", "lost by last", "layers", "rho"],
        rows=rows,
        left=2,
        below=[
            "bits lost: I(Z;Y) at the layer chosen with labels minus that at the layer chosen without; in brackets its "
            "95 % interval over speakers, corrected for the number of layers",
            "tie: the speech scored cannot tell both layers apart",
            "lost by last: the same for taking the last layer unseen; rho: Spearman's, of both bounds over layers",
        ],
    )


def _regret(a: LayerAgreement) -> tuple[str, str]:
    """Whether both choices are the same, or tied on this speech; and the bits lost."""
    i = a.regret
    if i is None or i.low is None:
        return "yes" if a.same else "no", f"{a.regret_bits:.3f}"
    return "no" if i.excludes() else "tie", f"{a.regret_bits:.3f} [{i.low:.3f}, {i.high:.3f}]"


def _paper_grid(table: Table, paper: Sequence[PaperRow]) -> _Grid:
    below = list(dict.fromkeys(f"{p.label}: {p.remark}" for p in paper if p.remark))
    below += [f"{label}: the paper has {what}; that was not measured." for label, what in unmeasured(table).items()]
    missing = without_paper(table)
    if missing:
        below.append(
            f"Not in the paper: {', '.join(missing)}. If one is a copy of a model that is: --same-as LABEL=UPSTREAM."
        )
    if paper:
        below.append(CAVEAT)
    return _Grid(
        name="paper",
        title="Next to the paper's own figures (arXiv:2401.08833), bits",
        head=["upstream", "paper's model", "bound", "probe", "layer", "yours", "paper", "difference", "source"],
        rows=[
            [
                p.label, p.paper.model, BOUND[p.paper.task], p.paper.probe, str(p.yours.layer),
                *(f"{bits:.{p.paper.decimals}f}" for bits in (p.yours.mi_lower_bound_bits, p.paper.bits)),
                f"{p.difference:+.{p.paper.decimals}f}", p.paper.source.partition(" ")[2],
            ]
            for p in paper
        ],
        left=4,
        below=below,
    )  # fmt: skip


def _foot(table: Table) -> list[str]:
    own: dict[str, dict[str, list[str]]] = {}  # scores of one study, then of one source
    published: dict[str, None] = {}
    for row in table.rows:
        for metric, value in row.scores.items():
            if value.kind == "SUPERB":
                published[f"SUPERB: {value.source}"] = None
                continue
            folder, colon, how = value.source.rpartition(": ")
            study = f"{value.kind}s in {PurePath(folder).parent}, {how}" if colon else f"{value.kind}, {value.source}"
            sources = own.setdefault(f"{SCORE_NAMES[metric]} from {study}", {})
            sources.setdefault(f"{SCORE_NAMES[metric]} from {value.kind}, {value.source}", []).append(row.label)
    lines = {
        key if len(of) > 1 else next(iter(of)): [n for names in of.values() for n in names] for key, of in own.items()
    }
    marks = "".join(_percent(row, m) for row in table.rows for m in row.scores)
    legend = {
        "?": "?: from a secondary source that could not be checked; left out of correlations.",
        "*": "*: of your own run, but not a score like the others (see above); left out of correlations.",
    }
    return [
        *(f"Measured: {bound}: {text}." for bound, text in table.settings),
        *(f"{key}: {', '.join(labels)}" for key, labels in lines.items()),
        *published,
        *table.mixed,
        *table.notes,
        *(text for mark, text in legend.items() if mark in marks),
    ]


# --- How they are written -----------------------------------------------------------------------------------


def _screen_grid(grid: _Grid) -> str:
    rows = ["", columns([grid.head, *grid.rows], grid.left)] if grid.rows else []
    return "\n".join([grid.title, *rows, *_lines("  ", grid.below)])


def _markdown_grid(grid: _Grid) -> str:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(re.sub(r"([|\\*_])", r"\\\1", c) for c in cells) + " |"

    parts = [f"### {grid.title}"]
    if grid.rows:
        rule = "|" + "|".join(":---" if i < grid.left else "---:" for i in range(len(grid.head))) + "|"
        parts.append("\n".join([line(grid.head), rule, *(line(row) for row in grid.rows)]))
    return "\n\n".join([*parts, *_lines("- ", grid.below)])


_SHORT = 100


def _latex_grid(grid: _Grid) -> str:
    if not grid.rows:
        return "\n".join(f"% {text}" for text in (grid.title, *grid.below))
    spec = "l" * grid.left + "r" * (len(grid.head) - grid.left)
    head, *body = ("    " + " & ".join(map(latex_text, row)) + r" \\" for row in (grid.head, *grid.rows))
    caption = ". ".join([grid.title, *(text for text in grid.below if len(text) < _SHORT)])
    return "\n".join([
        r"\begin{table}", r"  \centering", f"  \\caption{{{latex_text(caption)}.}}", f"  \\label{{tab:mi-{grid.name}}}",
        f"  \\begin{{tabular}}{{{spec}}}", r"    \toprule", head, r"    \midrule", *body, r"    \bottomrule",
        r"  \end{tabular}", r"\end{table}",
    ])  # fmt: skip


_TEX = {
    "\\": r"\textbackslash{}", "_": r"\_", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


def latex_text(text: str) -> str:
    r"""Text as LaTeX sets it: special characters escaped, bounds and +- as mathematics.

    Example:
        >>> print(latex_text("hubert_base 1.2 +- 0.1 (5 %)"), latex_text("I(Za;Zb) last"), latex_text("-0.12"))
        hubert\_base 1.2 $\pm$ 0.1 (5 \%) $I(Z_a;Z_b)$ last $-0.12$
    """
    escaped = "".join(_TEX.get(c, c) for c in text)
    escaped = escaped.replace("I(Za;Zb)", "$I(Z_a;Z_b)$").replace("I(Z;Y)", "$I(Z;Y)$").replace("+-", r"$\pm$")
    return re.sub(r"(?<![\w.$-])([-+]\d+\.\d+)", r"$\1$", escaped)


# --- CSV ----------------------------------------------------------------------------------------------------


_FIELDS = {"bits": "mi_lower_bound_bits", "sd": "mi_lower_bound_bits_sd", "seeds": "n_seeds", "layer": "layer"}
_FIELDS |= {"ci_low": "ci_low_bits", "ci_high": "ci_high_bits"}
_FIELDS |= {"total_ci_low": "total_ci_low_bits", "total_ci_high": "total_ci_high_bits"}
_SCORE_FIELDS = {"": "percent", "_from": "kind", "_source": "source", "_remark": "remark"}
"""Endings of columns -> fields of a summary, of a score."""


def _wide(row: ModelRow, bounds: Sequence[Column]) -> dict[str, object]:
    names = ("label", "upstream", "published_as", "checkpoint", "upstream_sha256", "step")
    values: dict[str, object] = {name: getattr(row, name) for name in names}
    for column in bounds:
        figure = row.figures.get(column)
        values |= {f"{'_'.join(column)}_{e}": getattr(figure, field, None) for e, field in _FIELDS.items()}
    for metric in SCORE_NAMES:
        score = row.scores.get(metric)
        values |= {metric + e: getattr(score, field, None) for e, field in _SCORE_FIELDS.items()}
    return values


def _long(column: Column, metric: str, relation: Relation) -> list[dict[str, object]]:
    same = column._asdict() | {"score": metric, "n": relation.n}
    return [
        same | {
            "coefficient": getattr(c, "kind", None), "value": getattr(c, "value", None), "low": getattr(c, "low", None),
            "high": getattr(c, "high", None), "interval": INTERVAL, "sentence": relation.sentence,
            **dict(zip(("low_over_speakers", "high_over_speakers"), _over_speakers(c, relation), strict=True)),
        }
        for c in relation.coefficients or [None]
    ]  # fmt: skip


def _over_speakers(c: Correlation | None, relation: Relation) -> tuple[float | None, float | None]:
    found = relation.over_speakers if c is not None and c.kind == "spearman" else None
    return found or (None, None)


def _agreement_line(label: str, a: LayerAgreement) -> dict[str, object]:
    return {
        "label": label, "probe": a.probe, "view": a.setting.view, "scored_frames": a.setting.scored_frames,
        "n_clusters": a.setting.n_clusters, "unsupervised_layer": a.unsupervised_layer,
        "labelled_layer": a.labelled_layer, "regret_bits": a.regret_bits, "last_lost_bits": a.last_lost_bits,
        "regret_ci_low": getattr(a.regret, "low", None), "regret_ci_high": getattr(a.regret, "high", None),
        "layers": a.relation.n, "spearman": getattr(a.relation.of("spearman"), "value", None),
    }  # fmt: skip


def _csv(rows: Sequence[dict[str, object]]) -> str:
    """None is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
