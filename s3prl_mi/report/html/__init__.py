"""Experiments -> one HTML file that opens offline, and every figure in it as PNG and PDF."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from ...core.files import write_whole
from .page import page
from .sections import sections
from .study import Study, read_study

REPORT_FILE = "mi_report.html"
FIGURES_FOLDER = "figures"
TITLE = "Mutual information in speech representations"

__all__ = ["FIGURES_FOLDER", "REPORT_FILE", "TITLE", "Study", "read_study", "write_report"]


def write_report(
    folders: Sequence[Path | str],
    out: Path,
    title: str = TITLE,
    stock: Sequence[Path | str] = (),
) -> Path:
    """Write `<out>/mi_report.html` and `<out>/figures/*.png, *.pdf`.

    May be called again: figures of the same name are replaced.

    Args:
        folders: experiments, or folders that hold some at any depth.
        out: folder for the report.
        title: of the page.
        stock: folders of s3prl's own `ctc` and `asr` runs, whose PER and WER win over published ones.

    Returns:
        Path of the HTML file.

    Raises:
        MIError: a folder without results, or a file that is not of this version.
    """
    study = read_study(folders, stock)
    parts, pictures = sections(study)
    for picture in pictures:
        picture.save(out / FIGURES_FOLDER)
    stamp = f"Made {time.strftime('%Y-%m-%d %H:%M')} from {', '.join(str(f) for f in folders)}"
    path = out / REPORT_FILE
    write_whole(path, page(title, stamp, parts))
    return path
