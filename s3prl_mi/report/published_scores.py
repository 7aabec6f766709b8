"""Published scores of upstreams: SUPERB, and the figures of the paper; each with its source.

The tables are CSV files in `s3prl_mi/data`. Source: each row's own `source` column; the paper is Liu, Yeh and
Glass, ICASSP 2024 (arXiv:2401.08833), Tables 2 and 4.
"""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from ..core.types import Bits


@dataclass(frozen=True, slots=True)
class Score:
    """Published SUPERB scores of one upstream; the columns of `superb_scores.csv`. None: not published."""

    upstream: str
    """s3prl's name of the upstream, not an alias."""
    display_name: str
    """As papers write it."""
    aliases: tuple[str, ...]
    """Other names of the same weights: s3prl's aliases, and the Hugging Face id."""
    params_millions: float | None
    pr_per: float | None
    """Phone recognition: phone error rate on test-clean, percent."""
    asr_wer: float | None
    """Speech recognition without a language model: word error rate on test-clean, percent."""
    asr_wer_lm: float | None
    """The same with the 4-gram language model."""
    ks_acc: float | None
    ic_acc: float | None
    sid_acc: float | None
    er_acc: float | None
    asv_eer: float | None
    sd_der: float | None
    sf_f1: float | None
    sf_cer: float | None
    qbe_mtwv: float | None
    low_confidence: bool
    """From a secondary source that could not be checked: shown with a mark, left out of correlations."""
    source: str
    note: str


@dataclass(frozen=True, slots=True)
class PaperFigure:
    """One bound of the paper, in bits."""

    upstream: str
    """s3prl's name of the upstream."""
    model: str
    """As the paper writes it."""
    task: str
    probe: str
    layer: int | None
    """Counted from 1 as in the paper; None: the last layer (Table 2)."""
    bits: Bits
    decimals: int
    """That the paper prints: half a unit of the last one is its rounding error."""
    eval_split: str
    per: float | None
    """Phone error rate that the paper sets beside it, percent."""
    source: str


def scores() -> dict[str, Score]:
    """Every published score by s3prl's name of the upstream, in the order of the file."""
    return dict(_scores())


def score_of(upstream_name: str) -> Score | None:
    """The published scores of an upstream; None where there are none.

    Names of upstreams that take the user's own checkpoint (`hubert_local`, `hf_hubert_custom`) have none.

    Args:
        upstream_name: s3prl's name or alias of it, or a Hugging Face id (`facebook/hubert-base-ls960`).

    Example:
        >>> score_of("wavlm").upstream, score_of("hubert").pr_per, score_of("hubert_local")
        ('wavlm_base_plus', 5.41, None)
    """
    return _scores().get(canonical(upstream_name))


def canonical(upstream_name: str) -> str:
    """The name that stands for all aliases of an upstream; an unknown name is itself.

    Example:
        >>> canonical("wav2vec2"), canonical("apc_360hr"), canonical("my_model")
        ('wav2vec2_base_960', 'apc', 'my_model')
    """
    return _by_alias().get(upstream_name, upstream_name)


@functools.cache
def paper_figures() -> tuple[PaperFigure, ...]:
    """Every bound of the paper's Table 2 (last layer, test-other) and Table 4 (by layer, MLP, test-clean)."""
    found: list[PaperFigure] = []
    for row in _rows("paper_table2.csv"):
        for symbol, task in (("I_ZY", "mi_supervised"), ("I_ZaZb", "mi_views")):
            for probe in ("logistic", "mlp"):
                text = row[f"{symbol}_{probe}"]
                found.append(_paper_figure(row, task, probe, None, text, "test-other"))
    for row in _rows("paper_table4.csv"):
        for symbol, task in (("I_ZY", "mi_supervised"), ("I_ZaZb", "mi_views")):
            found.append(_paper_figure(row, task, "mlp", int(row["layer"]), row[symbol], "test-clean"))
    return tuple(found)


def _paper_figure(
    row: Mapping[str, str], task: str, probe: str, layer: int | None, text: str, split: str
) -> PaperFigure:
    return PaperFigure(
        upstream=row["upstream"],
        model=row["model"] if layer is not None else f"{row['model']} {row['size']}",
        task=task,
        probe=probe,
        layer=layer,
        bits=float(text),
        decimals=len(text.partition(".")[2]),
        eval_split=split,
        per=_number(row["per"]),
        source=row["source"],
    )


_TEXTS = ("upstream", "display_name", "aliases", "low_confidence", "source", "note")


@functools.cache
def _scores() -> dict[str, Score]:
    return {row["upstream"]: _score(row) for row in _rows("superb_scores.csv")}


@functools.cache
def _by_alias() -> dict[str, str]:
    return {alias: s.upstream for s in _scores().values() for alias in s.aliases}


def _score(row: Mapping[str, str]) -> Score:
    return Score(
        upstream=row["upstream"],
        display_name=row["display_name"],
        aliases=tuple(row["aliases"].split()),
        low_confidence=row["low_confidence"] == "yes",
        source=row["source"],
        note=row["note"],
        **{name: _number(text) for name, text in row.items() if name not in _TEXTS},
    )


def _number(text: str) -> float | None:
    return float(text) if text else None


def _rows(name: str) -> list[dict[str, str]]:
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text), strict=True))
