"""How bits, seeds and names are written, the same in tables, logs and figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..core.types import Bits
from ..core.words import span
from ..results.summary import Panel, Summary

BOUND = {"mi_supervised": "I(Z;Y)", "mi_views": "I(Za;Zb)"}
BOUND_TEX = {"mi_supervised": r"$I(Z;\,Y)$", "mi_views": r"$I(Z_a;\,Z_b)$"}
CEILING = {"mi_supervised": "H(Y)", "mi_views": "H(c)"}


def decimals(sds: Iterable[float]) -> int:
    """Decimals for a column of bits, by the largest standard deviation in it: 3, unless that misleads.

    Example:
        >>> decimals([0.0]), decimals([0.002, 0.011]), decimals([0.0002]), decimals([0.3])
        (3, 3, 4, 2)
    """
    largest = max(sds, default=0.0)
    if largest >= 0.1:
        return 2
    return 4 if 0 < largest < 0.0005 else 3


def format_bits(mean: Bits, sd: Bits, n_seeds: int, places: int) -> str:
    """A mean with its standard deviation; the mean alone for a single seed.

    Example:
        >>> format_bits(1.23449, 0.0021, 5, 3), format_bits(-0.0004, 0.0, 1, 3)
        ('1.234 +- 0.002', '-0.000')
    """
    return f"{mean:.{places}f}" + (f" +- {sd:.{places}f}" if n_seeds > 1 else "")


def seeds_text(summaries: Sequence[Summary], sign: str = "+-") -> str:
    """Over how many seeds a table or a figure is."""
    low, high = min(s.n_seeds for s in summaries), max(s.n_seeds for s in summaries)
    return "one seed" if high == 1 else f"mean {sign} sd over {span(low, high)} seeds"


def format_estimate(s: Summary, places: int) -> str:
    """A mean with its interval over speakers, of both sides where it has one; else with its deviation over seeds.

    The interval is what an order may be judged by; seeds say nothing about other speech.
    """
    if s.interval is None:
        return format_bits(s.mi_lower_bound_bits, s.mi_lower_bound_bits_sd, s.n_seeds, places)
    low, high = s.interval
    ends = min(places, 2) if high - low >= 0.05 else places
    return f"{s.mi_lower_bound_bits:.{places}f} [{low:.{ends}f}, {high:.{ends}f}]"


def ends(interval: tuple[float, float]) -> str:
    """The interval of a coefficient.

    Example:
        >>> ends((-0.123, 1.0))
        '[-0.12, +1.00]'
    """
    return f"[{interval[0]:+.2f}, {interval[1]:+.2f}]"


def spread_text(summaries: Sequence[Summary]) -> str:
    """What stands behind the means that `format_estimate` writes: an interval, or the deviation over seeds."""
    seeds, interval = seeds_text(summaries), interval_text(summaries)
    if interval and all(s.ci_low_bits is not None for s in summaries):
        return f"{seeds.replace('mean +- sd', 'mean')}; {interval}"
    return f"{seeds}; in brackets {interval}" if interval else seeds


def bars_text(summaries: Sequence[Summary]) -> str:
    """What the error bars of a figure are: intervals over speakers; deviations over seeds where there are none."""
    interval = interval_text(summaries)
    if not interval:
        return seeds_text(summaries, "±")
    seeds = seeds_text(summaries).replace("mean +- sd", "mean")
    some = "" if all(s.interval for s in summaries) else " where sums by speaker are known, else sd over seeds"
    return f"{seeds}; bars: {interval}{some} (differences on the same speech are surer)"


def interval_text(summaries: Sequence[Summary]) -> str:
    """Over what the intervals of a table or a figure are; empty where there are none."""
    known = [s for s in summaries if s.ci_groups and s.ci_low_bits is not None]
    if not known:
        return ""
    groups: dict[str | None, list[int]] = {}
    for s in known:
        groups.setdefault(s.ci_over, []).append(s.ci_groups or 0)
    text = "95 % interval over " + " or ".join(f"{span(min(n), max(n))} {over}" for over, n in groups.items())
    fitted = [s.fit_ci_groups for s in known if s.fit_ci_groups and s.total_ci_low_bits is not None]
    if len(fitted) == len(known):
        return f"{text} scored and {span(min(fitted), max(fitted))} groups fitted on"
    return text


def prior_note(summaries: Sequence[Summary]) -> str:
    """A sentence where class frequencies of fit and eval differ by more than a tenth of the best bound; else empty."""
    best = max(summaries, key=lambda s: s.mi_lower_bound_bits)
    mismatch = (best.prior_cross_entropy_bits or 0.0) - best.entropy_bits
    if mismatch <= 0.1 * max(best.mi_lower_bound_bits, 0.0):
        return ""
    return (
        f"class frequencies of the fit and eval splits differ: those of the former cost {mismatch:.2f} bits on the "
        "latter (prior mismatch), more than a tenth of the bound"
    )


def speaker_note(summaries: Sequence[Summary]) -> str:
    """A sentence on how much of the best bound of mi_views is who speaks; empty where that is not known."""
    best = max(summaries, key=lambda s: s.mi_lower_bound_bits)
    shared, within = best.speaker_information_bits, best.within_speaker_bits
    if shared is None or within is None:
        return ""
    low, high = best.within_speaker_low_bits, best.within_speaker_high_bits
    spread = f" ({low:.2f} to {high:.2f} by speaker)" if low is not None and high is not None else ""
    return (
        f"who speaks: the clusters tell {shared:.2f} bits about the speaker; of {best.mi_lower_bound_bits:.2f} bits "
        f"(layer {best.layer}, {best.probe}) {within:.2f} stay with each speaker's own cluster frequencies{spread}; "
        "no bound of I(Za;Zb)"
    )


def frames_note(group: Sequence[Summary]) -> str:
    """A sentence of warning where models were scored on different amounts of speech; else nothing."""
    low, high = min(s.eval_frames for s in group), max(s.eval_frames for s in group)
    if high <= 1.02 * low:
        return ""
    return f" Beware: not all were scored on the same speech ({span(low, high)} frames)."


def distinguish(panels: Iterable[Panel], leave: Sequence[str] = ()) -> dict[Panel, str]:
    """Name panels by what differs among them (an empty name for a single panel).

    Args:
        panels: in any order.
        leave: parts of `comparability.PARTS` that are named elsewhere.
    """
    texts = {
        panel: {
            "task": panel.key.task,
            "upstream": panel.upstream,
            "checkpoint": panel.checkpoint_name or "",
            "model": f"weights {panel.upstream_sha256[:8]}",
            **panel.key.in_words(),
            "eval_split": "+".join(panel.key.eval_splits),
        }
        for panel in panels
    }
    names = [n for n in dict.fromkeys(n for t in texts.values() for n in t) if n not in leave]
    varying = [n for n in names if len({t.get(n, "") for t in texts.values()}) > 1]
    if "upstream" in varying or "checkpoint" in varying:
        varying = [n for n in varying if n != "model"]
    return {panel: ", ".join(filter(None, (t.get(n, "") for n in varying))) for panel, t in texts.items()}
