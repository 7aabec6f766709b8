"""The page: one file, everything inside, readable from disk without a network."""

from __future__ import annotations

from collections.abc import Sequence

from ... import __version__
from .markup import Section, text

_CSS = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 66rem; margin: 0 auto;
  padding: 1.5rem; }
h1 { line-height: 1.2; margin-bottom: .2rem; }
h2 { margin-top: 3rem; padding-top: .6rem; border-top: 2px solid #ddd; }
h3 { margin: 2rem 0 .4rem; }
nav ol { columns: 2; margin: .5rem 0 0; }
nav { background: #f5f7f9; padding: .8rem 1.2rem; border-radius: 6px; margin: 1.2rem 0; }
a { color: #0072b2; }
figure { margin: 1.5rem 0 2.5rem; }
figure img { max-width: 100%; height: auto; display: block; }
figcaption { color: #444; font-size: .92rem; max-width: 56rem; margin-top: .5rem; }
small, .stamp { color: #777; font-size: .82rem; }
.scroll { overflow-x: auto; margin: 1rem 0 1.6rem; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { padding: .3rem .8rem .3rem 0; text-align: left; border-bottom: 1px solid #e5e5e5; vertical-align: top; }
td { overflow-wrap: break-word; max-width: 40rem; }
td[data-v] { white-space: nowrap; }
th { cursor: pointer; border-bottom: 2px solid #999; }
th[aria-sort=ascending]::after { content: " \\25B2"; }
th[aria-sort=descending]::after { content: " \\25BC"; }
details { margin: .4rem 0; }
summary { cursor: pointer; overflow-wrap: anywhere; }
pre { background: #f5f7f9; padding: .8rem; overflow-x: auto; font-size: .8rem; line-height: 1.35; }
@media print { nav { display: none; } figure, tr { break-inside: avoid; } }
"""

_SCRIPT = """
document.querySelectorAll("table.sortable th").forEach(function (head) {
  head.addEventListener("click", function () {
    var column = head.cellIndex, body = head.closest("table").tBodies[0];
    var up = head.getAttribute("aria-sort") === "descending";
    head.parentNode.querySelectorAll("th").forEach(function (h) { h.removeAttribute("aria-sort"); });
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    var value = function (row) {
      var cell = row.cells[column], v = cell.getAttribute("data-v");
      return v === null ? cell.textContent : parseFloat(v);
    };
    Array.from(body.rows).sort(function (a, b) {
      var x = value(a), y = value(b);
      var numbers = typeof x === "number" && typeof y === "number";
      var order = numbers ? x - y : typeof x === "number" ? 1 : typeof y === "number" ? -1 : x.localeCompare(y);
      return up ? order : -order;
    }).forEach(function (row) { body.appendChild(row); });
  });
});
"""


def page(title: str, stamp: str, parts: Sequence[Section]) -> str:
    """The whole HTML file.

    Args:
        title: of the report.
        stamp: when and where it was made, in words.
        parts: in the order of reading.
    """
    contents = "".join(f'<li><a href="#{text(s.anchor)}">{text(s.title)}</a></li>' for s in parts)
    body = "".join(
        f'<section id="{text(s.anchor)}"><h2>{text(s.title)}</h2>{"".join(s.parts)}</section>' for s in parts
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{_CSS}</style></head><body>"
        f'<h1>{text(title)}</h1><p class="stamp">{text(stamp)}; s3prl_mi {text(__version__)}</p>'
        f'<nav aria-label="Contents"><strong>Contents</strong><ol>{contents}</ol></nav>'
        f"<main>{body}</main><script>{_SCRIPT}</script></body></html>\n"
    )
