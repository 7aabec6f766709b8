"""HTML of tables, figures and lists; all text is escaped."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..figures import Picture


@dataclass(frozen=True, slots=True)
class Cell:
    """A table cell: text, the number to sort by, and a tooltip."""

    text: str
    value: float | None = None
    title: str = ""


@dataclass(slots=True)
class Section:
    """One part of the page."""

    anchor: str
    title: str
    parts: list[str] = field(default_factory=list)
    """HTML, one after the other."""

    def add(self, *parts: str) -> None:
        """Append HTML."""
        self.parts += parts

    def figures(self, pictures: Iterable[Picture]) -> None:
        """Append figures."""
        self.parts += [figure(p) for p in pictures]


def text(content: str) -> str:
    """Escape text."""
    return html.escape(content)


def paragraph(content: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    mark = f' class="{kind}"' if kind else ""
    return f"<p{mark}>{text(content)}</p>"


def bullets(items: Iterable[str]) -> str:
    """A list of plain texts."""
    return "<ul>" + "".join(f"<li>{text(i)}</li>" for i in items) + "</ul>"


def figure(picture: Picture) -> str:
    """A figure, inline, with its caption and where its files are."""
    data = base64.b64encode(picture.svg).decode()
    return (
        f'<figure id="{text(picture.name)}"><h3>{text(picture.title)}</h3>'
        f'<img alt="{text(picture.alt)}" src="data:image/svg+xml;base64,{data}">'
        f"<figcaption>{text(picture.caption)} <small>figures/{text(picture.name)}.png, .pdf</small></figcaption>"
        "</figure>"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[Cell | str]], caption: str = "") -> str:
    """A table that sorts by the column whose head is clicked; the first column is to the left."""
    lines = ["<tr>" + "".join(f'<th scope="col">{text(h)}</th>' for h in head) + "</tr>"]
    for row in rows:
        cells = [c if isinstance(c, Cell) else Cell(c) for c in row]
        lines.append("<tr>" + "".join(_cell(c) for c in cells) + "</tr>")
    words = f"<caption>{text(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll"><table class="sortable">{words}<thead>{lines[0]}</thead>'
        f"<tbody>{''.join(lines[1:])}</tbody></table></div>"
    )


def _cell(cell: Cell) -> str:
    value = "" if cell.value is None else f' data-v="{cell.value!r}"'
    title = f' title="{text(cell.title)}"' if cell.title else ""
    return f"<td{value}{title}>{text(cell.text)}</td>"


def details(summary: str, content: str) -> str:
    """A part that opens on a click; `content` is HTML."""
    return f"<details><summary>{text(summary)}</summary>{content}</details>"


def code(content: str) -> str:
    """Text of a file, as it is."""
    return f"<pre>{text(content.rstrip())}</pre>"
