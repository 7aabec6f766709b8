"""The paper's own figures alongside the user's: Liu, Yeh and Glass 2024 (arXiv:2401.08833), Tables 2 and 4."""

from __future__ import annotations

from dataclasses import dataclass

from ...core.types import Bits
from ...results.selection import USUAL_CLUSTERS
from ...results.summary import Summary
from ..published_scores import PaperFigure, canonical, paper_figures
from .table import Column, ModelRow, Table

CAVEAT = (
    "The paper does not say which frames it scored, how its phones treat silence, nor the optimiser, batch size and "
    "width of its probes, so the figures cannot be expected to match to the last digit, even with protocol paper."
)


@dataclass(frozen=True, slots=True)
class PaperRow:
    """One bound of the paper and the user's."""

    label: str
    paper: PaperFigure
    yours: Summary
    """Of the same layer: the paper's layer n of the APC family is entry n - 1 of the hidden states."""
    remark: str
    """What was not the same, such as the eval split."""

    @property
    def difference(self) -> Bits:
        """Yours minus the paper's."""
        return self.yours.mi_lower_bound_bits - self.paper.bits


def paper_rows(table: Table) -> list[PaperRow]:
    """The paper's figures for every row whose upstream it has; empty if it has none of them."""
    return [
        PaperRow(row.label, paper, yours, "; ".join(_differences(yours, paper)))
        for row in table.rows
        for paper in paper_figures()
        if (yours := _counterpart(row, paper)) is not None
    ]


def without_paper(table: Table) -> list[str]:
    """Labels of rows that the paper has nothing about."""
    known = {f.upstream for f in paper_figures()}
    return [row.label for row in table.rows if canonical(row.published_as) not in known]


def unmeasured(table: Table) -> dict[str, str]:
    """Label -> which probes and layers the paper has, for rows that it knows but that share no figure with it."""
    found = {}
    for row in table.rows:
        figures = [f for f in paper_figures() if f.upstream == canonical(row.published_as)]
        if figures and not any(_counterpart(row, f) for f in figures):
            probes = " and ".join(dict.fromkeys(f.probe for f in figures))
            layers = "the last layer" if figures[0].layer is None else "entries 0 to 2 of the hidden states"
            found[row.label] = f"figures by the probe {probes} for {layers}"
    return found


def _counterpart(row: ModelRow, published: PaperFigure) -> Summary | None:
    if canonical(row.published_as) != published.upstream:
        return None
    if published.layer is None:
        return row.figures.get(Column(published.task, published.probe, "last"))
    return row.layers.get((published.task, published.probe), {}).get(published.layer - 1)


def _differences(measured: Summary, published: PaperFigure) -> list[str]:
    """What was measured otherwise than in the paper, as far as the paper says."""
    found = []
    if tuple(measured.eval_splits) != (published.eval_split,):
        found.append(f"scored on {'+'.join(measured.eval_splits)}, the paper on {published.eval_split}")
    if measured.task == "mi_views":
        view = "30 of 40 frames" if published.layer is None else "shift(60 ms)"
        if view not in (measured.view or ""):
            found.append(f"{measured.view}, in the paper {view}")
        if measured.n_clusters != USUAL_CLUSTERS:
            found.append(f"{measured.n_clusters} clusters, in the paper {USUAL_CLUSTERS}")
    return found
