"""Write the page and its figures."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from pathlib import Path

from ... import __version__
from ...core.files import write_whole
from ..figures.picture import Picture
from .report_data import read_report_data
from .sections import sections

REPORT_FILE = "mi_report.html"
FIGURES_FOLDER = "figures"
TITLE = "Mutual information in speech representations"


def write_report(
    folders: Sequence[Path | str], out: Path, title: str = TITLE, stock: Sequence[Path | str] = ()
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
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    found = sections(read_report_data(folders, stock))
    for section in found.values():
        for picture in section.get("pictures", ()):
            picture.save(out / FIGURES_FOLDER)
    stamp = f"Made {time.strftime('%Y-%m-%d %H:%M')} from {', '.join(map(str, folders))}; s3prl_mi {__version__}"
    page = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    page.filters["inline"] = _inline
    text = page.get_template("page.html.jinja").render(title=title, stamp=stamp, found=found)
    path = out / REPORT_FILE
    write_whole(path, text)
    return path


def _inline(picture: Picture) -> str:
    """The address of an image that holds its own content."""
    return "data:image/svg+xml;base64," + base64.b64encode(picture.svg).decode()
