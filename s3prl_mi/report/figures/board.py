"""The board as one picture: regret by measure, for layers and for checkpoints."""

from __future__ import annotations

from collections.abc import Mapping

from ...results.board import Board, Kind
from .picture import COLOURS, Picture, finish, plain, sheet

KINDS: tuple[Kind, ...] = ("layers", "checkpoints")


def board_picture(board: Board, titles: Mapping[str, str]) -> Picture | None:
    """Bars of the mean regret, with the worst as a dot; None where nothing was picked.

    Args:
        board: of everything that was measured.
        titles: of measures.
    """
    kinds = [kind for kind in KINDS if board.standings.get(kind)]
    if not kinds:
        return None
    rows = max(len(board.standings[kind]) for kind in kinds)
    with sheet(5.2 * len(kinds), max(2.6, 1.4 + 0.27 * rows)) as figure:
        for kind, axes in zip(kinds, figure.subplots(1, len(kinds), squeeze=False)[0], strict=True):
            own = board.standings[kind]
            names = board.ranking(kind)
            places = range(len(names))
            axes.barh(places, [own[m].regret_bits.value for m in names], 0.7, color=COLOURS[0], label="mean regret")
            axes.plot([own[m].worst_bits for m in names], places, "o", color=COLOURS[1], markersize=4, label="worst")
            axes.axvline(board.last[kind], color="0.3", linewidth=1, linestyle="--", label="the last")
            axes.axvline(board.random[kind], color="0.3", linewidth=1, linestyle=":", label="at random")
            axes.set_yticks(places, [plain(titles[m]) for m in names], fontsize=8)
            axes.invert_yaxis()
            axes.set_xlabel("bits of I(Z;Y) given up")
            n = sum(c.kind == kind for c in board.choices)
            axes.set_title(f"{kind} ({n} {'models' if kind == 'layers' else 'series'})", loc="left")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
        best = ", ".join(f"{kind}: {titles[board.ranking(kind)[0]]}" for kind in kinds)
        return finish(
            figure,
            "board_regret",
            "What each label-free measure is worth as a picker",
            "Bits of I(Z;Y) that the pick of each measure gives up against the best layer of a model, or the best "
            "checkpoint of a series at its last layer: the mean, and the worst. Lines: taking the last one, and one at "
            "random, without any measurement.",
            f"Regret in bits by measure. Least: {best}.",
        )
