"""How evenly the codebook of `mi_views` is used: a bound is worth less where few clusters hold most frames."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

from ...estimators.bounds import entropy_bits
from ...results.comparability import ComparisonKey
from ...results.record import is_encoder_layer
from .groups import Model, Pair, key_of
from .picture import Picture, chunks, dress, finish, label_ends, looks, sheet


@dataclass(frozen=True, slots=True)
class Usage:
    """Use of one codebook, mean over seeds."""

    model: Model
    key: ComparisonKey
    layer: int | str
    used: float
    """Clusters with at least one eval frame."""
    perplexity: float
    """2 to the entropy of the clusters: how many equally frequent clusters would be as uncertain."""
    encoder: bool
    """Whether it is a layer of the encoder, not what comes behind it (VQ codes, distilled predictions)."""
    curve: tuple[float, ...]
    """Eval frames of each cluster in percent of all, the largest first."""

    @property
    def rank(self) -> tuple[bool, int]:
        """Later layers higher; what is no layer of the encoder, and a weighted sum, below all that are."""
        number = self.layer if isinstance(self.layer, int) else -1
        return self.encoder and number >= 0, number


def usages(pairs: Sequence[Pair]) -> list[Usage]:
    """Use of the codebook of every model, setting and layer (it does not depend on the probe)."""
    groups: dict[tuple[Model, ComparisonKey, int | str, bool], dict[int, Sequence[int]]] = {}
    for r, classes in pairs:
        if r.task == "mi_views":
            place = (r.upstream_sha256, key_of(r), r.layer, is_encoder_layer(r.layer_name))
            groups.setdefault(place, {}).setdefault(r.seed, classes.eval_frames)
    found = []
    for (model, key, layer, encoder), by_seed in groups.items():
        counts = [sorted(c, reverse=True) for c in by_seed.values()]
        percents = [[100 * n / max(1, sum(c)) for n in c] for c in counts]
        found.append(
            Usage(
                model=model,
                key=key,
                layer=layer,
                used=statistics.fmean(sum(n > 0 for n in c) for c in counts),
                perplexity=statistics.fmean(2 ** entropy_bits(c) if any(c) else 0.0 for c in counts),
                encoder=encoder,
                curve=tuple(statistics.fmean(column) for column in zip(*percents, strict=True)),
            )
        )
    return found


def last_layers(found: Sequence[Usage]) -> dict[Model, Usage]:
    """The last numbered layer of each model's encoder (else what comes behind it, else `weighted`)."""
    last: dict[Model, Usage] = {}
    for u in found:
        if u.model not in last or u.rank > last[u.model].rank:
            last[u.model] = u
    return last


def cluster_usage(pairs: Sequence[Pair], keys: Sequence[ComparisonKey], names: Mapping[Model, str]) -> list[Picture]:
    """A picture for each setting: sorted use of the clusters at the last layer; perplexity by layer."""
    by_setting = {key: [u for u in usages(pairs) if u.key == key] for key in keys}
    drawn = [(key, own) for key, own in by_setting.items() if own]
    return [_draw(key, own, names, number) for number, (key, own) in enumerate(drawn, start=1)]


def _draw(key: ComparisonKey, found: list[Usage], names: Mapping[Model, str], number: int) -> Picture:
    style, last = looks(names), last_layers(found)
    parts = chunks([m for m in names if m in last])
    numbered = {m: [u for u in found if u.model == m and isinstance(u.layer, int)] for m in last}
    several = any(len(own) > 1 for own in numbered.values())
    clusters = key.n_clusters or len(found[0].curve)
    level = {"color": "0.5", "linestyle": "--", "linewidth": 0.9}
    with sheet(8.6 if several else 4.7, 2.9 * len(parts) + 0.4) as figure:
        grid = figure.subplots(len(parts), 1 + several, squeeze=False, sharey="col")
        for (left, *right), part in zip(grid, parts, strict=True):
            for model in part:
                u = last[model]
                left.plot(
                    range(1, len(u.curve) + 1), u.curve, linewidth=1.4, markersize=3.5,
                    markevery=max(1, len(u.curve) // 10), label=f"{names[model]} (perplexity {u.perplexity:.0f})",
                    **style[model],
                )  # fmt: skip
            left.axhline(100 / clusters, label="all used equally", **level)
            dress(left, "clusters, most used first", "frames, %", "last layer")
            left.set_ylim(bottom=0)
            left.legend(fontsize=7.5)
            for axes in right:
                for model in part:
                    own = sorted(numbered[model], key=lambda u: u.rank[1])
                    bits = [u.perplexity for u in own]
                    axes.plot([u.layer for u in own], bits, linewidth=1.4, markersize=4.5, **style[model])
                axes.axhline(clusters, **level)
                dress(axes, "layer", "perplexity (clusters)", "all layers; dashed: number of clusters")
                axes.set_ylim(0, 1.08 * clusters)
                axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if several:
            shown = {m: max([*numbered[m], last[m]], key=lambda u: u.rank[1]) for m in last}
            ends = {m: (u.rank[1], u.perplexity, names[m], style[m]["color"]) for m, u in shown.items()}
            label_ends(figure, {row[1]: [ends[m] for m in part] for row, part in zip(grid, parts, strict=True)})
        return finish(
            figure,
            f"clusters_used_{number}",
            f"Use of the {clusters} clusters: {key.view}",
            f"How evenly the frames fall into the clusters that stand for the other view ({key.describe()}). The "
            "perplexity says how many equally used clusters would be as uncertain: if it is far below the number of "
            "clusters, few clusters hold most frames and I(Za;Zb) cannot be high.",
            f"Frames of each cluster in percent and perplexity by layer, of {', '.join(names[m] for m in last)}.",
        )
