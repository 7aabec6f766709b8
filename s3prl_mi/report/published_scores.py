"""Published scores of upstreams: SUPERB, and the figures of the paper; each with its source.

The tables are the CSV files next to this module. Source: each row's own `source` column; the paper is Liu, Yeh and
Glass, ICASSP 2024 (arXiv:2401.08833), Tables 2 and 4.
"""

from __future__ import annotations

import csv
import functools
import io
from dataclasses import dataclass
from importlib import resources

from ..core.types import Bits


@dataclass(frozen=True, slots=True)
class Score:
    """Published SUPERB scores of one upstream; the columns of `superb_scores.csv`. None: not published."""

    upstream: str
    """s3prl's name of the upstream, not an alias."""
    aliases: tuple[str, ...]
    """Other names of the same weights: s3prl's aliases, and the Hugging Face id."""
    pr_per: float | None
    """Phone recognition: phone error rate on test-clean, percent."""
    asr_wer: float | None
    """Speech recognition without a language model: word error rate on test-clean, percent."""
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
    source: str


@functools.cache
def scores() -> dict[str, Score]:
    """Every published score by s3prl's name of the upstream, in the order of the file."""
    return {
        row["upstream"]: Score(
            upstream=row["upstream"],
            aliases=tuple(row["aliases"].split()),
            pr_per=float(row["pr_per"]) if row["pr_per"] else None,
            asr_wer=float(row["asr_wer"]) if row["asr_wer"] else None,
            low_confidence=row["low_confidence"] == "yes",
            source=row["source"],
            note=row["note"],
        )
        for row in _rows("superb_scores.csv")
    }


def score_of(upstream_name: str) -> Score | None:
    """The published scores of an upstream; None where there are none.

    Names of upstreams that take the user's own checkpoint (`hubert_local`, `hf_hubert_custom`) have none.

    Args:
        upstream_name: s3prl's name or alias of it, or a Hugging Face id (`facebook/hubert-base-ls960`).

    Example:
        >>> score_of("wavlm").upstream, score_of("hubert").pr_per, score_of("hubert_local")
        ('wavlm_base_plus', 5.41, None)
    """
    return scores().get(canonical(upstream_name))


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
    return tuple(
        PaperFigure(
            **{name: row[name] for name in ("upstream", "model", "task", "probe", "eval_split", "source")},
            layer=int(row["layer"]) if row["layer"] else None,
            bits=float(row["bits"]),
            decimals=len(row["bits"].partition(".")[2]),
        )
        for row in _rows("paper_figures.csv")
    )


@functools.cache
def _by_alias() -> dict[str, str]:
    return {alias: s.upstream for s in scores().values() for alias in s.aliases}


def _rows(name: str) -> list[dict[str, str]]:
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text), strict=True))
