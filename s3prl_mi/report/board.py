"""The board as text, as CSV and in words: which label-free measure to trust for what."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Sequence

from ..core.words import count
from ..estimators.intervals import Interval
from ..estimators.measures.registry import measures
from ..results.board import BITS, BOUND, SAFE_BOUND, Board, Kind, Standing, board_of, numbers_of
from .html.report_data import ReportData

JUDGES = {BITS: "I(Z;Y)", "pnmi": "PNMI", "per": "PER", "wer": "WER"}
"""What measures are judged by."""
HEADS: dict[Kind, str] = {
    "layers": "Which layer: the pick of each measure against the layer with the most I(Z;Y)",
    "checkpoints": "Which checkpoint, at the last layer measured: against the step with the most I(Z;Y)",
    "models": "Which model, final checkpoints at the last layer: rank correlation only",
}
NOTES = (
    "rho: Spearman's, of the measure with what it is judged by (from 4 candidates on), mean and range over models or "
    "series (+1: the same order; for PER and WER: fewer errors). regret: bits of I(Z;Y) that the pick gives up, mean, "
    "with its 95 % interval over speakers where all are scored on the same; worst: the largest. Untrained, collapsed: "
    "in how many series the best checkpoint is preferred to the one that never trained, and to collapsed ones "
    "(participation ratio below 2, which therefore notices them by definition). I(Za;Zb), collapsed last: the one "
    "combination here; its limit of 2 was chosen on a small HuBERT whose step 200 had 1.1, so on that series it is no "
    "test."
)


def read_board(data: ReportData) -> Board | None:
    """The board of everything that was measured; None without a choice that both tasks saw."""
    series = {s.upstream_sha256: one.name for one in data.series for s in one.summaries}
    rates = {m: {k: r.percent for k, r in own.items() if not r.doubtful} for m, own in data.rates.items()}
    board = board_of(numbers_of(data.results, data.summaries, data.names, series, rates))
    return board if board.verdicts else None


def title_of(measure: str) -> str:
    """A measure's name in tables and figures."""
    bounds = {BOUND: "I(Za;Zb) as measured", SAFE_BOUND: "I(Za;Zb), collapsed last"}
    return bounds[measure] if measure in bounds else measures()[measure].title


def rows_of(board: Board, kind: Kind) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table: measures by regret (of models: by correlation), then what costs nothing."""
    own = board.standings.get(kind, {})
    if not own:
        return [], []
    judges = [t for t in JUDGES if any(t in s.rho for s in own.values())]
    per = any(s.regret_per is not None for s in own.values())
    picks, series = kind != "models", kind == "checkpoints"
    head = ["measure", *(f"rho {JUDGES[t]}" for t in judges)]
    head += ["regret, bits", "worst"] * picks + ["regret, PER"] * (per and picks)
    head += ["untrained", "collapsed"] * series + ["s per layer"]
    names = board.ranking(kind)
    if not picks:
        names = sorted(own, key=lambda m: -max((c.value for c in own[m].rho.values()), default=-2))
    rows = []
    for name in names:
        s = own[name]
        row = [title_of(name), *(_rho(s, t) for t in judges)]
        row += [_regret(s.regret_bits), f"{s.worst_bits:.3f}"] * picks
        row += ["-" if s.regret_per is None else f"{s.regret_per:.2f}"] * (per and picks)
        row += ["-" if not of else f"{n} of {of}" for n, of in (s.untrained, s.collapsed)] * series
        rows.append([*row, f"{board.seconds[name]:.2f}" if name in board.seconds else "-"])
    for words, free in (("(the last)", board.last), ("(at random)", board.random)):
        if kind in free:
            rows.append([words, *["-"] * len(judges), f"{free[kind]:.3f}", *["-"] * (len(head) - len(judges) - 2)])
    return head, rows


def _rho(s: Standing, judge: str) -> str:
    """With its interval where it is one, with the range where it is the mean of several."""
    if judge not in s.rho:
        return "-"
    low, high = s.rho_range[judge]
    return str(s.rho[judge]) + (f" ({low:+.2f} to {high:+.2f})" if low < high else "")


def _regret(i: Interval) -> str:
    return f"{i.value:.3f}" + ("" if i.low is None or i.high is None else f" [{i.low:.3f}, {i.high:.3f}]")


def tables_of(board: Board) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, head and rows of each table that has rows."""
    found = []
    for kind, title in HEADS.items():
        head, rows = rows_of(board, kind)
        if rows:
            choices = sum(c.kind == kind for c in board.choices)
            n = f"{choices} series" if kind == "checkpoints" else count(choices, "model" if kind == "layers" else "set")
            found.append((f"{title} ({n})", head, rows))
    return found


def to_screen(board: Board) -> str:
    """The tables, and the paragraph."""
    parts = []
    for title, head, rows in tables_of(board):
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]]
        parts.append("\n".join([title, *lines]))
    return "\n\n".join([*parts, textwrap.fill(words(board), 110)]) + "\n"


def to_csv(board: Board) -> str:
    """One line per choice and measure: picks, regrets, correlations with their intervals."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    judges = [f"{end}_{t}" for t in JUDGES for end in ("rho", "rho_low", "rho_high")]
    writer.writerow(
        [
            "kind",
            "of",
            "measure",
            "pick",
            "best",
            "regret_bits",
            "regret_low",
            "regret_high",
            "regret_per",
            "n",
            *judges,
        ]
    )
    for v in board.verdicts:
        i = v.regret.interval() if v.regret is not None else None
        ends = (i.low, i.high) if i else (None, None)
        rhos: list[float | None] = []
        for t in JUDGES:
            c = v.relations.get(t)
            rhos += [c.value, c.low, c.high] if c else [None] * 3
        regrets = [v.regret_bits, *ends, v.regret_per]
        n = len(v.choice.truth[BITS])
        writer.writerow([v.choice.kind, v.choice.name, v.measure, v.pick, v.best, *regrets, n, *rhos])
    return out.getvalue()


def words(board: Board) -> str:
    """Which measure to trust for what, and on how little that rests."""
    sentences = [s for kind in ("layers", "checkpoints") if (s := _best_words(board, kind))]
    own = board.standings.get("checkpoints", {})
    for of, what in (("untrained", "a model that never trained"), ("collapsed", "a collapsed one")):
        known = {m: getattr(s, of) for m, s in own.items() if getattr(s, of)[1]}
        if known:
            missed = [title_of(m) for m, (n, total) in known.items() if n < total]
            sentences.append(
                f"{_upper(what)} is missed by {_listed(missed)}." if missed else f"No measure misses {what}."
            )
    sizes = [
        count(sum(c.kind == "layers" for c in board.choices), "model"),
        f"{sum(c.kind == 'checkpoints' for c in board.choices)} series",
    ]
    groups = {len(left.groups) for c in board.choices for left in c.left_out.values()}
    speakers = f", scored on {min(groups)} speakers" if groups else ""
    sentences.append(
        f"This rests on the layers of {sizes[0]} and on {sizes[1]} of checkpoints{speakers}: one more of any can "
        "change the order."
    )
    return " ".join(sentences)


def _best_words(board: Board, kind: Kind) -> str:
    names, own = board.ranking(kind), board.standings.get(kind, {})
    if not names:
        return ""
    least = own[names[0]]
    tied = [m for m in names if own[m].regret_bits.value <= least.regret_bits.value + 5e-4]
    free = f"the last one {board.last[kind]:.3f}, one at random {board.random[kind]:.3f}"
    text = f"For {kind}, {_listed([title_of(m) for m in tied])} {'give' if len(tied) > 1 else 'gives'} up least: "
    text += f"{least.regret_bits.value:.3f} bits of I(Z;Y) on average ({free})."
    if least.regret_bits.value >= board.last[kind]:
        text += f" None does better than taking the last {kind.removesuffix('s')} without any measurement."
    bound = own.get(BOUND)
    if bound is not None and BOUND not in tied:
        text += f" {title_of(BOUND)} gives up {bound.regret_bits.value:.3f}, at worst {bound.worst_bits:.3f}."
    return text


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]
