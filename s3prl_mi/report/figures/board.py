"""The board as one picture: regret by measure, for layers and for checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...results.board import BASELINES, LAST, RANDOM, Board, Kind
from ...results.candidates import BITS, BOUND, SAFE_BOUND
from .picture import COLOURS, Picture, finish, plain, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN: tuple[Kind, ...] = ("layers", "checkpoints")
_LINES = {LAST: ("take the last", COLOURS[1], "--"), RANDOM: ("at random", "0.35", ":")}


def board_picture(board: Board, titles: Mapping[str, str]) -> Picture | None:
    """The regret of each measure: mean with its interval, and that in each model or series; None without a pick.

    Args:
        board: of everything that was measured.
        titles: of measures.
    """
    kinds = [kind for kind in SHOWN if board.standings[kind]]
    if not kinds:
        return None
    rows = max(len(board.standings[kind]) - len(BASELINES) for kind in kinds)
    with sheet(5.6 * len(kinds), max(2.6, (1.9 if len(kinds) > 1 else 2.3) + 0.27 * rows)) as figure:
        for kind, axes in zip(kinds, figure.subplots(1, len(kinds), squeeze=False)[0], strict=True):
            _plot(axes, board, kind, titles)
        _legend(figure, len(kinds))
        best = ", ".join(f"{kind}: {titles[board.best(kind)[0]]}" for kind in kinds)
        return finish(
            figure,
            "board_regret",
            "What each label-free measure is worth as a picker",
            "Bits of I(Z;Y) that the pick of each measure gives up against the best layer of a model, or the best "
            "checkpoint of a series at its last layer: mean (the number on the right), 95 % interval over the speakers "
            "scored, and every model or series. Filled: cannot be told, on this speech, from what gives up least. "
            "Lines: taking the last one, and one at random, without any measurement.",
            f"Regret in bits by measure. Least: {best}.",
        )


def _plot(axes: Axes, board: Board, kind: Kind, titles: Mapping[str, str]) -> None:
    own, best = board.standings[kind], board.best(kind)
    names = [m for m in own if m not in BASELINES]
    each = {m: [v.regrets[BITS].value for v in board.verdicts if v.choice.kind == kind and v.measure == m] for m in own}
    high = max(
        [*(x for values in each.values() for x in values), *(own[m].regrets[BITS].high or 0.0 for m in own), 1e-3]
    )
    for place, name in enumerate(names):
        i, colour = own[name].regrets[BITS], COLOURS[0] if name in (BOUND, SAFE_BOUND) else "0.15"
        axes.axhline(place, color="0.93", linewidth=0.8, zorder=0)
        axes.plot(
            each[name], [place] * len(each[name]), "o", color=colour, markersize=4.2, alpha=0.5, markeredgewidth=0.6,
            markeredgecolor="white", zorder=2.5,
        )  # fmt: skip
        if i.low is not None and i.high is not None:
            axes.plot([i.low, i.high], [place, place], color=colour, linewidth=1.8, solid_capstyle="butt")
        axes.plot(
            i.value,
            place,
            "o",
            color=colour,
            markerfacecolor=colour if name in best else "white",
            markersize=6,
            zorder=3,
        )
        axes.annotate(
            f"{i.value:.3f}", (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=colour
        )
    ends = sorted(BASELINES, key=lambda m: own[m].bits)
    for name in ends:
        text, colour, dashes = _LINES[name]
        at = own[name].bits
        axes.axvline(at, color=colour, linewidth=1.1, linestyle=dashes, zorder=0.5)
        left = at > 0.6 * high  # so that the label stays within the plot
        axes.annotate(
            f"{text} {at:.3f}", (at, 1.0 if name == ends[1] else 1.05), xycoords=("data", "axes fraction"),
            xytext=(-2 if left else 2, 2), textcoords="offset points", ha="right" if left else "left",
            va="bottom", fontsize=8, color=colour,
        )  # fmt: skip
    axes.set_yticks(range(len(names)), [plain(titles[m]) for m in names])
    for label, name in zip(axes.get_yticklabels(), names, strict=True):
        label.set_color(COLOURS[0] if name in (BOUND, SAFE_BOUND) else "0.15")
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.5, -0.6)
    axes.set_xlim(min(0.0, *(own[m].regrets[BITS].low or 0.0 for m in names)) - 0.02 * high, 1.04 * high)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("bits of $I(Z;\\,Y)$ given up")
    n = sum(c.kind == kind for c in board.choices)
    word = f"Which {kind.removesuffix('s')} ({n} {'models' if kind == 'layers' else 'series'})"
    axes.set_title(word, loc="left", fontweight="bold", pad=31)


def _legend(figure: Figure, plots: int) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker="o", color="0.15", linewidth=1.8, label="mean, 95 % over speakers"),
        Line2D(
            [],
            [],
            marker="o",
            color="0.15",
            markerfacecolor="white",
            linewidth=1.8,
            label="the same, shown to give up more than the first",
        ),
        Line2D([], [], marker="o", color="0.15", markersize=4.2, alpha=0.5, linewidth=0, label="each model or series"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3 if plots > 1 else 1, fontsize=8.5)
