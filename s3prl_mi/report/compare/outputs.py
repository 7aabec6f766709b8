"""The comparison on the screen, in Markdown, LaTeX (booktabs) and CSV: the only place that rounds.

The first three write the same tables; CSV holds full precision, one file a table.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...results.correlation import INTERVAL, KINDS, NAMES, Relation
from ..s3prl_runs import METRICS
from ..wording import BOUND, decimals, format_bits
from .paper import CAVEAT, PaperRow, unmeasured, without_paper
from .scores import SCORE_NAMES
from .table import CHOICE_NAMES, CHOICES, Column, Row, Table


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
    return "\n\n".join([*(_screen_grid(g) for g in _grids(table, paper)), _foot(table, "  ")]) + "\n"


def to_markdown(table: Table, paper: Sequence[PaperRow] | None = None) -> str:
    """Tables as GitHub and most wikis read them."""
    return "\n\n".join([*(_markdown_grid(g) for g in _grids(table, paper)), _foot(table, "- ")]) + "\n"


def to_latex(table: Table, paper: Sequence[PaperRow] | None = None) -> str:
    r"""Tables with booktabs, to be had by `\input`; the notes stand as comments at the end."""
    grids = [_latex_grid(g) for g in _grids(table, paper)]
    comments = "\n".join(f"% {line}" for line in _foot(table, "").splitlines())
    return "\n\n".join(["% Needs \\usepackage{booktabs}.", *grids, comments]) + "\n"


def to_csv(table: Table, paper: Sequence[PaperRow] | None = None) -> dict[str, str]:
    """CSV texts at full precision, by the ending of the file's name.

    Returns:
        `""`: a row for each model; `_correlations`: a row for each coefficient; `_layers`: the choice of a layer with
        and without labels; `_paper`: only with `paper`. Tables without a row are left out.
    """
    found = {
        "": _csv(_wide(row, table.columns) for row in table.rows),
        "_correlations": _csv(
            line
            for (column, metric), relation in table.relations.items()
            for line in _long(column, metric, relation)
        ),
        "_layers": _csv(_agreement_lines(table)),
    }
    if paper is not None:
        found["_paper"] = _csv(
            {
                "label": p.label, "paper_model": p.model, "task": p.task, "probe": p.probe, "layer": p.layer,
                "yours_bits": p.yours, "paper_bits": p.paper, "difference_bits": p.difference, "source": p.source,
                "remark": p.remark,
            }
            for p in paper
        )  # fmt: skip
    return {ending: text for ending, text in found.items() if text}


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
    columns = table.columns_of(probe)
    metrics = [m for m in METRICS if any(m in row.scores for row in table.rows)]
    rows = []
    for row in table.rows:
        cells = [_bits(row, column, table) for column in columns]
        if metrics:
            cells += [_percent(row, metric) for metric in metrics] + [_sources(row)]
        rows.append([row.label, *cells])
    scores = [f"{SCORE_NAMES[m]} %" for m in metrics] + (["scores from"] if metrics else [])
    seeds = {f.n_seeds for row in table.rows for c, f in row.figures.items() if c.probe == probe}
    over = (
        "one seed"
        if seeds == {1}
        else f"mean +- sd over {'-'.join(str(s) for s in sorted({min(seeds), max(seeds)}))} seeds"
    )
    return _Grid(
        name=probe,
        title=f"Lower bounds in bits by the {probe} probe, {over}",
        head=["upstream", *(c.title for c in columns), *scores],
        rows=rows,
        below=[
            f"{CHOICE_NAMES[choice]}: {CHOICES[choice]}"
            for choice in CHOICES
            if any(c.choice == choice for c in columns)
        ],
    )


def _bits(row: Row, column: Column, table: Table) -> str:
    figure = row.figures.get(column)
    if figure is None:
        return "-"
    places = decimals(r.figures[column].sd for r in table.rows if column in r.figures)
    text = format_bits(figure.bits, figure.sd, figure.n_seeds, places)
    return f"{text} ({figure.layer})" if column.choice in ("free", "best") else text


def _percent(row: Row, metric: str) -> str:
    value = row.scores.get(metric)
    if value is None:
        return "-"
    own = value.kind == "own run"
    return f"{value.percent:.2f}" + ("?" if value.doubtful and not own else "*" if value.remark else "")


def _sources(row: Row) -> str:
    kinds = {metric: value.kind for metric, value in row.scores.items()}
    if len(set(kinds.values())) <= 1:
        return next(iter(kinds.values()), "-")
    return ", ".join(f"{SCORE_NAMES[metric]} {kind}" for metric, kind in kinds.items())


def _relations_grid(table: Table) -> _Grid:
    shown = [(c, m, r) for (c, m), r in table.relations.items() if r.coefficients]
    below = [
        f"intervals: {INTERVAL}; more bits and fewer errors are better, so a negative sign is the expected one"
    ]
    if not shown:
        below = []
    if shown and table.mixed:
        below.append(
            "Some of these models' bits are not on one scale (see the notes): this correlation means little."
        )
    for metric in METRICS:
        mine = {c: r for (c, m), r in table.relations.items() if m == metric}
        headlines = [c for c in mine if c.choice == "last" and mine[c].coefficients] or list(mine)[:1]
        below += [mine[c].sentence for c in headlines if c.probe == headlines[0].probe]
    return _Grid(
        name="correlations",
        title="Correlation of bits with error rates over models",
        head=["bound", "probe", "score", "n", *NAMES.values()],
        rows=[
            [c.title, c.probe, SCORE_NAMES[m], str(r.n), *(str(r.of(kind)) for kind in KINDS)]
            for c, m, r in shown
        ],
        left=3,
        below=below,
    )


def _agreements_grid(table: Table) -> _Grid:
    rows = []
    for row in table.rows:
        for a in row.agreements:
            spearman = a.relation.of("spearman")
            last = "-" if a.last_lost_bits is None else f"{a.last_lost_bits:.3f}"
            rows.append([
                row.label, a.probe, str(a.unsupervised_layer), str(a.labelled_layer), "yes" if a.same else "no",
                f"{a.regret_bits:.3f}", last, str(a.relation.n), "-" if spearman is None else f"{spearman.value:+.2f}",
            ])  # fmt: skip
    return _Grid(
        name="layers",
        title="Choice of the layer: without labels, by I(Za;Zb), and with labels, by I(Z;Y)",
        head=["upstream", "probe", "without", "with", "same", "bits lost", "lost by last", "layers", "rho"],
        rows=rows,
        left=2,
        below=[
            "bits lost: I(Z;Y) at the layer chosen with labels minus that at the layer chosen without",
            "lost by last: the same for taking the last layer unseen; rho: Spearman's, of both bounds over layers",
        ],
    )


def _paper_grid(table: Table, paper: Sequence[PaperRow]) -> _Grid:
    below = list(dict.fromkeys(f"{p.label}: {p.remark}" for p in paper if p.remark))
    below += [
        f"{label}: the paper has {what}; that was not measured." for label, what in unmeasured(table).items()
    ]
    missing = without_paper(table)
    if missing:
        below.append(
            f"Not in the paper: {', '.join(missing)}. If one is a copy of a model that is: --same-as LABEL=UPSTREAM."
        )
    if paper:
        below.append(CAVEAT)
    return _Grid(
        name="paper",
        title="Beside the paper's own figures (arXiv:2401.08833), bits",
        head=["upstream", "paper's model", "bound", "probe", "layer", "yours", "paper", "difference", "source"],
        rows=[
            [
                p.label, p.model, BOUND[p.task], p.probe, str(p.layer), f"{p.yours:.{p.decimals}f}",
                f"{p.paper:.{p.decimals}f}", f"{p.difference:+.{p.decimals}f}", p.source.partition(" ")[2],
            ]
            for p in paper
        ],
        left=4,
        below=below,
    )  # fmt: skip


def _foot(table: Table, bullet: str) -> str:
    whose: dict[str, list[str]] = {}
    for row in table.rows:
        for metric, value in row.scores.items():
            if value.kind != "SUPERB":
                key = f"{SCORE_NAMES[metric]} from {value.kind}, {value.source}"
                whose.setdefault(key, []).append(row.label)
    published = dict.fromkeys(
        v.source for row in table.rows for v in row.scores.values() if v.kind == "SUPERB"
    )
    lines = [
        *(f"Measured: {bound}: {text}." for bound, text in table.settings),
        *(f"{key}: {', '.join(labels)}" for key, labels in whose.items()),
        *(f"SUPERB: {source}" for source in published),
        *table.mixed,
        *table.notes,
    ]
    marks = "".join(_percent(row, m) for row in table.rows for m in row.scores)
    if "?" in marks:
        lines.append("?: from a secondary source that could not be checked; left out of correlations.")
    if "*" in marks:
        lines.append(
            "*: of your own run, but not a score like the others (see above); left out of correlations."
        )
    return "\n".join(bullet + line for line in lines)


# --- How they are written -----------------------------------------------------------------------------------


def _screen_grid(grid: _Grid) -> str:
    lines = [grid.title]
    if grid.rows:
        cells = [list(grid.head), *map(list, grid.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(grid.head))]
        text = [
            "  ".join(
                c.ljust(w) if i < grid.left else c.rjust(w)
                for i, (c, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in cells
        ]
        text.insert(1, "  ".join("-" * w for w in widths))
        lines += ["", *(line.rstrip() for line in text)]
    return "\n".join([*lines, *(f"  {sentence}" for sentence in grid.below)])


def _markdown_grid(grid: _Grid) -> str:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(re.sub(r"([|\\*_])", r"\\\1", c) for c in cells) + " |"

    parts = [f"### {grid.title}"]
    if grid.rows:
        rule = "|" + "|".join(":---" if i < grid.left else "---:" for i in range(len(grid.head))) + "|"
        parts.append("\n".join([line(grid.head), rule, *(line(row) for row in grid.rows)]))
    return "\n\n".join([*parts, *(["\n".join(f"- {s}" for s in grid.below)] if grid.below else [])])


_SHORT = 100


def _latex_grid(grid: _Grid) -> str:
    if not grid.rows:
        return "\n".join(f"% {text}" for text in (grid.title, *grid.below))
    spec = "l" * grid.left + "r" * (len(grid.head) - grid.left)
    body = [" & ".join(map(latex_text, row)) + r" \\" for row in grid.rows]
    caption = ". ".join([grid.title, *(text for text in grid.below if len(text) < _SHORT)])
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            f"  \\caption{{{latex_text(caption)}.}}",
            f"  \\label{{tab:mi-{grid.name}}}",
            f"  \\begin{{tabular}}{{{spec}}}",
            r"    \toprule",
            "    " + " & ".join(map(latex_text, grid.head)) + r" \\",
            r"    \midrule",
            *("    " + line for line in body),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
        ]
    )


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
    escaped = (
        escaped.replace("I(Za;Zb)", "$I(Z_a;Z_b)$").replace("I(Z;Y)", "$I(Z;Y)$").replace("+-", r"$\pm$")
    )
    return re.sub(r"(?<![\w.$-])([-+]\d+\.\d+)", r"$\1$", escaped)


# --- CSV ----------------------------------------------------------------------------------------------------


def _wide(row: Row, columns: Sequence[Column]) -> dict[str, object]:
    cells: dict[str, object] = {
        "label": row.label, "upstream": row.upstream, "published_as": row.published_as, "checkpoint": row.checkpoint,
        "upstream_sha256": row.upstream_sha256, "step": row.step,
    }  # fmt: skip
    for column in columns:
        figure, name = row.figures.get(column), "_".join(column)
        cells[f"{name}_bits"] = figure and figure.bits
        cells[f"{name}_sd"] = figure and figure.sd
        cells[f"{name}_seeds"] = figure and figure.n_seeds
        cells[f"{name}_layer"] = figure and figure.layer
    for metric in METRICS:
        value = row.scores.get(metric)
        cells[metric] = value and value.percent
        cells[f"{metric}_from"] = value and value.kind
        cells[f"{metric}_source"] = value and value.source
        cells[f"{metric}_remark"] = value and value.remark
    return cells


def _long(column: Column, metric: str, relation: Relation) -> list[dict[str, object]]:
    same = {
        "task": column.task,
        "probe": column.probe,
        "choice": column.choice,
        "score": metric,
        "n": relation.n,
    }
    rest = {"interval": INTERVAL, "sentence": relation.sentence}
    if not relation.coefficients:
        return [same | {"coefficient": None, "value": None, "low": None, "high": None} | rest]
    return [
        same | {"coefficient": c.kind, "value": c.value, "low": c.low, "high": c.high} | rest
        for c in relation.coefficients
    ]


def _agreement_lines(table: Table) -> Iterable[dict[str, object]]:
    for row in table.rows:
        for a in row.agreements:
            spearman = a.relation.of("spearman")
            yield {
                "label": row.label, "probe": a.probe, "view": a.setting.view, "scored_frames": a.setting.scored_frames,
                "n_clusters": a.setting.n_clusters, "unsupervised_layer": a.unsupervised_layer,
                "labelled_layer": a.labelled_layer,
                "regret_bits": a.regret_bits, "last_lost_bits": a.last_lost_bits, "layers": a.relation.n,
                "spearman": spearman and spearman.value,
            }  # fmt: skip


def _csv(lines: Iterable[dict[str, object]]) -> str:
    """Empty where there is no line; None is an empty cell."""
    rows = list(lines)
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
