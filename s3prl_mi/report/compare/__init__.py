"""Upstreams side by side: bounds, PER and WER, their correlation, and the paper's figures."""

from .comparable import ALLOWABLE, Filters, check, keep
from .outputs import to_csv, to_latex, to_markdown, to_screen
from .paper import PaperRow, paper_rows
from .scores import ScoreValue, read_score_table
from .table import CHOICES, Figure, Row, Table, build

__all__ = [
    "ALLOWABLE",
    "CHOICES",
    "Figure",
    "Filters",
    "PaperRow",
    "Row",
    "ScoreValue",
    "Table",
    "build",
    "check",
    "keep",
    "paper_rows",
    "read_score_table",
    "to_csv",
    "to_latex",
    "to_markdown",
    "to_screen",
]
