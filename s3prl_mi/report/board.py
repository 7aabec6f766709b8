"""The board as text, as CSV and in words: which label-free measure to trust for what."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Iterable, Sequence

from ..core.errors import MIError
from ..core.words import count
from ..estimators.measures.registry import measures
from ..results.board import BASELINES, KINDS, LAST, PAID_IN, RANDOM, Board, Kind, Standing, board_of
from ..results.candidates import BITS, BOUND, SAFE_BOUND, Rate, numbers_of
from ..superb.scores import METRICS
from .compare.scores import check_scores
from .html.report_data import ReportData

JUDGES = {BITS: "I(Z;Y)", "pnmi": "PNMI", "per": "PER", "wer": "WER"}
"""What measures are judged by."""
PAID = {BITS: "bits", "per": "PER", "wer": "WER"}
"""What a regret is counted in."""
HEADS: dict[Kind, str] = {
    "layers": "Which layer: the pick of each measure against the layer with the most I(Z;Y)",
    "checkpoints": "Which checkpoint, at the last layer measured: the pick against the step with the most I(Z;Y)",
    "models": "Which model, final checkpoints at the last layer: rank correlation only",
}
BASELINE_TITLES = {LAST: "(taking the last)", RANDOM: "(at random)"}
BOUND_TITLES = {BOUND: "I(Za;Zb) as measured", SAFE_BOUND: "I(Za;Zb) if not collapsed"}
WIDTH = 110

LEGEND: dict[str, str] = {
    "=": "this speech cannot tell it from the row that gives up least (pairs by speaker, 95 % for all together)",
    "regret": "what the pick has less than the best candidate: mean and 95 % interval over speakers",
    "worst": "the largest regret, in bits",
    "rho": "Spearman's, mean and range over models or series; +1: the same order (of PER and WER: fewer errors)",
    "untrained": "series in which the best checkpoint is put before the one that never trained",
    "collapsed": "the same before those with a participation ratio below 2, which notices them by definition",
    "s": "seconds for one layer",
    BOUND_TITLES[
        SAFE_BOUND
    ]: "with collapsed ones last: a combination, its limit chosen on one small HuBERT, where it is no test",
}
"""Column, or row, -> what it says."""


# --- PER and WER ------------------------------------------------------------------------------------------


def trusted_rates(data: ReportData) -> tuple[dict[str, dict[str, Rate]], dict[str, str]]:
    """PER and WER by model, and a sentence on where each of the two comes from.

    Doubtful ones are left out, and all of a metric where they were reached on different splits or with different
    lexicons.
    """
    rates: dict[str, dict[str, Rate]] = {model: {} for model in data.rates}
    notes: dict[str, str] = {}
    for metric in METRICS:
        found = {model: own[metric] for model, own in data.rates.items() if metric in own}
        trusted = {model: value for model, value in found.items() if not value.doubtful}
        try:
            check_scores({data.names[model]: {metric: value} for model, value in trusted.items()})
        except MIError as error:
            notes[metric] = f"{metric.upper()} is left out: {error}"
            continue
        for model, value in trusted.items():
            rates[model][metric] = Rate(value.percent, value.left_out)
        kinds: dict[str, list[str]] = {}
        for model, value in trusted.items():
            # an own run's source is its folder, another's a table or a paper
            kinds.setdefault("own runs" if value.kind == "own run" else f"{value.kind}, {value.source}", []).append(
                model
            )
        sources = "; ".join(f"{count(len(of), 'model')}: {source}" for source, of in kinds.items())
        doubtful = len(found) - len(trusted)
        if found:
            left = f"; {doubtful} doubtful left out" if doubtful else ""
            notes[metric] = f"{metric.upper()} of {sources or 'no model'}{left}."
    return rates, notes


def notes_of(board: Board, data: ReportData) -> list[str]:
    """Where the error rates come from that the board judges by, or why it does not."""
    rates, notes = trusted_rates(data)
    judged = {t for v in board.verdicts for t in (*v.relations, *v.regrets)}
    usable = {t for own in rates.values() for t in own}
    return [text for t, text in notes.items() if t in judged or t not in usable] + data.unused


def read_board(data: ReportData) -> Board | None:
    """The board of everything that was measured; None without a choice that both tasks saw."""
    series = {s.upstream_sha256: one.name for one in data.series for s in one.summaries}
    board = board_of(numbers_of(data.results, data.summaries, data.names, series, trusted_rates(data)[0]))
    return board if board.verdicts else None


# --- Tables -----------------------------------------------------------------------------------------------


def title_of(measure: str) -> str:
    """A measure's name in tables and figures."""
    special = BASELINE_TITLES | BOUND_TITLES
    return special[measure] if measure in special else measures()[measure].title


def rows_of(board: Board, kind: Kind) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table: measures by regret, of models by correlation; no rows where nothing can be said."""
    own = board.standings.get(kind, {})
    judges = [t for t in JUDGES if any(t in s.rho for s in own.values())]
    picks = kind != "models"
    if not own or not (picks or judges):
        return [], []
    paid = [t for t in PAID_IN if all(t in s.regrets for s in own.values())] if picks else []
    head = ["="] * picks + ["measure", *(f"regret, {PAID[t]}" for t in paid), *["worst"] * picks]
    noticed = [what for what in ("untrained", "collapsed") if any(getattr(s, what)[1] for s in own.values())]
    head += [*(f"rho {JUDGES[t]}" for t in judges), *noticed, "s"]
    names = list(own) if picks else sorted(own, key=lambda m: -max((c.value for c in own[m].rho.values()), default=-2))
    best = board.best(kind) if picks else []
    rows = []
    for name in names:
        s = own[name]
        row = ["=" * (name in best)] * picks + [title_of(name), *(_regret(s, t) for t in paid)]
        row += [f"{s.worst[BITS]:.3f}"] * picks + [_rho(s, t) for t in judges]
        row += ["-" if not of else f"{n} of {of}" for n, of in (getattr(s, what) for what in noticed)]
        rows.append([*row, f"{board.seconds[name]:.2f}" if name in board.seconds else "-"])
    return head, rows


def _rho(s: Standing, judge: str) -> str:
    """With its interval where it is one, with the range where it is the mean of several."""
    if judge not in s.rho:
        return "-"
    low, high = s.rho_range[judge]
    return str(s.rho[judge]) + (f" ({low:+.2f} to {high:+.2f})" if low < high else "")


def _regret(s: Standing, paid: str) -> str:
    i, places = s.regrets[paid], 3 if paid == BITS else 2
    return f"{i.value:.{places}f}" + (
        "" if i.low is None or i.high is None else f" [{i.low:.{places}f}, {i.high:.{places}f}]"
    )


def tables_of(board: Board, kinds: Sequence[Kind] = KINDS) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, head and rows of each table that has rows."""
    found = []
    for kind, title in ((kind, HEADS[kind]) for kind in kinds):
        head, rows = rows_of(board, kind)
        if rows:
            lacking = board.lacking.get(kind)
            left = f"; left out, as not all have it: {', '.join(map(title_of, lacking))}" if lacking else ""
            found.append((f"{title} ({size_of(board, kind)}{left})", head, rows))
    return found


def size_of(board: Board, kind: Kind) -> str:
    """How many choices there are, in words: layers of several checkpoints of one run are less than as many models."""
    own = [c for c in board.choices if c.kind == kind]
    if kind == "layers":
        runs = len({c.run for c in own})
        return count(len(own), "model") + (f" of {count(runs, 'training run')}" if runs < len(own) else "")
    return f"{len(own)} series" if kind == "checkpoints" else count(len(own), "set")


def legend(board: Board, kinds: Sequence[Kind] = KINDS) -> list[tuple[str, str]]:
    """What the columns say that the tables have."""
    shown = {cell for _, head, rows in tables_of(board, kinds) for line in [head, *rows] for cell in line}
    known = {cell.partition(" ")[0].rstrip(",") for cell in shown} | shown  # `regret, bits` is explained as `regret`
    return [(name, text) for name, text in LEGEND.items() if name in known]


def to_screen(board: Board, notes: Iterable[str] = (), kinds: Sequence[Kind] = KINDS) -> str:
    """The tables, how to read them, and the paragraph.

    Args:
        board: of everything that was measured.
        notes: further sentences, such as where PER comes from.
        kinds: of choice, whose tables are shown.
    """
    parts = []
    for title, head, rows in tables_of(board, kinds):
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]]
        parts.append("\n".join([title, "", *lines]))
    known = legend(board, kinds)
    wide = max((len(name) for name, _ in known), default=0)
    lines = [f"  {name:<{wide}}  {text}" for name, text in known]
    parts.append("\n".join([*lines, *(textwrap.fill(f"  {n}", WIDTH, subsequent_indent="  ") for n in notes)]))
    sentences = (textwrap.fill(w, WIDTH, initial_indent="- ", subsequent_indent="  ") for w in words(board))
    return "\n\n".join([*parts, "\n".join(sentences)]) + "\n"


def to_csv(board: Board) -> str:
    """One line per choice and measure: picks, regrets and correlations with their intervals."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    ends = ("", "_low", "_high")
    paid = [f"regret_{t}{end}" for t in PAID_IN for end in ends]
    judges = [f"rho_{t}{end}" for t in JUDGES for end in ends]
    writer.writerow(["kind", "of", "measure", "pick", "best", "n", *paid, *judges])
    for v in board.verdicts:
        numbers: list[float | None] = []
        for t in PAID_IN:
            r = v.regrets.get(t)
            i = r.left_out.interval() if r is not None and r.left_out is not None else None
            numbers += [r.value if r else None, i.low if i else None, i.high if i else None]
        for t in JUDGES:
            c = v.relations.get(t)
            numbers += [c.value, c.low, c.high] if c else [None] * 3
        picks = "+".join(map(str, v.picks))
        writer.writerow([v.choice.kind, v.choice.name, v.measure, picks, v.best, len(v.choice.truth[BITS]), *numbers])
    return out.getvalue()


# --- In words ---------------------------------------------------------------------------------------------


def words(board: Board) -> list[str]:
    """Which measure to trust for what, and on how little that rests: a short paragraph each."""
    found = [s for kind in ("layers", "checkpoints") if (s := _best_words(board, kind))]
    found += [" ".join(noticed)] if (noticed := _noticed_words(board)) else []
    groups = {len(left.groups) for c in board.choices for left in c.left_out.get(BITS, {}).values()}
    speakers = f", scored on {count(min(groups), 'speaker')}" if groups else ""
    rests = [f"the layers of {size_of(board, 'layers')}"] if board.standings["layers"] else []
    rests += [f"{size_of(board, 'checkpoints')} of checkpoints"] if board.standings["checkpoints"] else []
    text = f"This rests on {' and on '.join(rests)}{speakers}"
    return [*found, f"{text}: one more of any can change the order."] if rests else []


def _best_words(board: Board, kind: Kind) -> str:
    own = board.standings[kind]
    if not own:
        return ""
    one, (first, *others) = kind.removesuffix("s"), board.best(kind)
    text = f"Which {one}: {_name(first, one)} gives up least, {own[first].bits:.3f} bits of I(Z;Y) on average"
    text += _rivals(others, one)
    if not others and not board.tied[kind]:
        text += " (what cannot be told from it is unknown without sums by the same speakers)"
    text += f"; a random pick gives up {own[RANDOM].bits:.3f}"
    if LAST not in (first, *others):
        text += f", taking the last {one} {own[LAST].bits:.3f}"
    stays, of = board.stays_first(kind)
    text += f". With one training run left out it stays first in {stays} of {of} cases" if of else ""
    text += ". "
    if {LAST, RANDOM} & {first, *others}:
        free = f"taking the last {one}" if LAST in (first, *others) else "a random pick"
        text += f"No measure is shown to beat {free}, which costs nothing. "
    shown_worse = [m for m in own if m not in (*BASELINES, first, *others)]
    if worse := [title_of(m) for m in shown_worse if own[m].bits > own[RANDOM].bits]:
        text += f"Worse than a random pick: {_several(worse)}. "
    if BOUND in own and BOUND not in (first, *others):
        text += f"{title_of(BOUND)} gives up {own[BOUND].bits:.3f}, at worst {own[BOUND].worst[BITS]:.3f}. "
    for t in ("per", "wer"):
        if all(t in s.regrets for s in own.values()):
            least, *others = board.best(kind, t)
            rest = [f"{_name(m, one)} {own[m].regrets[t].value:.2f}" for m in BASELINES if m != least]
            text += f"In {PAID[t]}, {_name(least, one)} gives up least, {own[least].regrets[t].value:.2f} points "
            text += f"({', '.join(rest)}){_rivals(others, one)}. "
    return text.rstrip()


def _rivals(others: Sequence[str], one: str) -> str:
    """What cannot be told from the first; what costs nothing before all else."""
    names = [_name(m, one) for m in sorted(others, key=lambda m: m not in BASELINES)]
    return f", but this speech cannot tell it from {_several(names)}" if names else ""


def _noticed_words(board: Board) -> list[str]:
    """Which measures put the best checkpoint before one that never trained, and before a collapsed one."""
    own = {m: s for m, s in board.standings["checkpoints"].items() if m not in BASELINES}
    found = []
    for what, seen in (
        ("a model that never trained", {m: s.untrained for m, s in own.items() if s.untrained[1]}),
        ("a collapsed one", {m: s.collapsed for m, s in own.items() if s.collapsed[1]}),
    ):
        sure = [title_of(m) for m, (n, of) in seen.items() if n == of]
        missed = [title_of(m) for m, (n, of) in seen.items() if n < of]
        if not seen:
            continue
        who = "All measures put" if not missed else "No measure puts"
        if sure and missed:
            few = len(sure) <= len(missed)
            who = f"Only {_listed(sure)} put{'s' * (len(sure) == 1)}" if few else f"All but {_listed(missed)} put"
        found.append(f"{who} {what} behind the best in every series.")
    return found


def _name(measure: str, one: str) -> str:
    baselines = {LAST: f"taking the last {one}", RANDOM: f"a random {one}"}
    return baselines.get(measure) or title_of(measure)


def _several(names: Sequence[str], most: int = 4) -> str:
    """Names, the first few of many."""
    return _listed(names if len(names) <= most + 1 else [*names[:most], f"{len(names) - most} others"])


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
