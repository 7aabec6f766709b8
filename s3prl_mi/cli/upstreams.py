"""`s3prl-mi upstreams`: every name for `-u` in a table, or one of them explained.

What is printed comes from `upstreams.families.Family`, from s3prl's sources, and from the published scores.
"""

from __future__ import annotations

import argparse
import ast
import functools
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..core.errors import MIError, nearest
from ..core.types import SAMPLE_RATE
from ..report.published_scores import Score, score_of
from ..upstreams.families import NONE, Family, upstream_folder
from ..upstreams.names import (
    FILE_SUFFIXES,
    checkpoint_urls,
    family_of_name,
    find_own,
    functions_of,
    load_module,
    source_of,
    stock_names,
    upstream_names,
)
from ..upstreams.receptive_field import published_frames
from ..upstreams.user_modules import OwnUpstream
from .doctor import cached_file

WIDTH = 100
"""Columns of the table and of an explanation."""


@dataclass
class Row:
    """Names of one upstream.

    Attributes:
        name: the name to use.
        family: what is known of it.
        aliases: other names of the same weights, or of the same loader.
    """

    name: str
    family: Family
    aliases: list[str] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `s3prl-mi upstreams`."""
    parser.add_argument(
        "name", nargs="?", default="", help="only names that contain this; exactly one name explains it"
    )
    parser.add_argument(
        "--upstream_module", action="append", default=[], metavar="FILE", help="also the upstreams of this module"
    )


def run(args: argparse.Namespace) -> int:
    """List the upstreams whose name contains `args.name`, or explain the one of exactly that name.

    Raises:
        MIError: no name contains it.
    """
    for module in args.upstream_module:
        load_module(module)
    names = upstream_names()
    lines = explain(args.name) if args.name in names else listing(names, args.name)
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


# --- the table -------------------------------------------------------------------------------------


def listing(names: Sequence[str], part: str = "") -> list[str]:
    """The table as lines of at most `WIDTH` columns.

    Args:
        names: every name.
        part: show only upstreams of which one name contains this.

    Raises:
        MIError: no name contains it.
    """
    rows = [r for r in grouped(names) if any(part in n for n in (r.name, *r.aliases))]
    if not rows:
        raise MIError(f"no upstream's name contains {part!r}.{nearest(part, names)} `s3prl-mi upstreams` lists all.")
    # the user's own first, then known views, then what has none
    shown = sorted(rows, key=lambda r: (_users_own(r.name) is None, r.family.view is None, r.family.name, r.name))
    lines = [f"{'-u':<34} {'family':<16} {'view':<6} {'ms':>4}  {'weights':<16} {'PER %':>7} {'WER %':>7}"]
    lines.append("-" * len(lines[0]))
    for row in shown:
        lines += _row_lines(row)
    return [*lines, "", *_legend(shown)]


def _row_lines(row: Row) -> list[str]:
    score = score_of(row.name)
    per, wer = (_percent(score, value) for value in ((score.pr_per, score.asr_wer) if score else (None, None)))
    lines = [row.name] if len(row.name) > 34 else []
    lines.append(
        f"{'' if lines else row.name:<34} {row.family.name[:16]:<16} {row.family.view or '?':<6} "
        f"{frame_shift_ms(row.name):>4}  {weights_of(row.name):<16} {per:>7} {wer:>7}".rstrip()
    )
    return lines + (_paragraph("    also: ", ", ".join(row.aliases)) if row.aliases else [])


def _percent(score: Score | None, value: float | None) -> str:
    if score is None or value is None:
        return ""
    return f"{value:.2f}{'?' if score.low_confidence else ''}"


def _legend(rows: Iterable[Row]) -> list[str]:
    scores = [score for row in rows if (score := score_of(row.name)) is not None]
    lines = [
        "view: mask = masked against unmasked, shift = past against future; ? = choose views.kind",
        "ms: time from frame to frame; weights: -k takes your own file, `s3prl` downloads them at first use",
    ]
    if scores:
        lines.append("PER, WER: SUPERB phone recognition and speech recognition without a language model")
    if any(score.low_confidence for score in scores):
        lines.append("?: from a secondary source")
    return [*lines, "s3prl-mi upstreams NAME explains one."]


# --- names that are one upstream -------------------------------------------------------------------


def grouped(names: Sequence[str]) -> list[Row]:
    """One row for all names of the same weights (hubert, hubert_base) or of the same loader (_local, _url)."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in names:
        groups.setdefault(_identity(name), []).append(name)
    # the shortest name is the one in papers and examples; of loaders, _local says what it takes
    ordered = [sorted(group, key=lambda n: (not n.endswith("_local"), len(n), n)) for group in groups.values()]
    return [Row(first, family_of_name(first), others) for first, *others in ordered]


def aliases_of(name: str) -> list[str]:
    """Other names of the same upstream, sorted."""
    wanted = _identity(name)
    return sorted(n for n in upstream_names() if n != name and _identity(n) == wanted)


@functools.cache
def _identity(name: str) -> tuple[str, str]:
    """What names of one upstream share: its loader and stem, or the function in which its aliases end."""
    module, attribute = stock_names().get(name, ("", name))
    stem = next((name.removesuffix(s) for s in FILE_SUFFIXES if name.endswith(s)), None)
    if stem is not None:
        return module, f"{stem} (file)"
    functions = functions_of(module) if module else {}
    seen = set()
    while attribute in functions and attribute not in seen:
        seen.add(attribute)
        target = _passes_to(functions[attribute])
        if target not in functions or target is None:
            break
        attribute = target
    return module, _own_url(functions.get(attribute)) or attribute


def _passes_to(function: ast.FunctionDef) -> str | None:
    """The function to which one only hands its arguments on: `return hubert_base(refresh=refresh, ...)`."""
    body = [s for s in function.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
    if len(body) != 1 or not isinstance(body[0], ast.Return) or not isinstance(body[0].value, ast.Call):
        return None
    call = body[0].value
    plain = [*call.args, *(k.value for k in call.keywords)]
    names = [a.value if isinstance(a, ast.Starred) else a for a in plain]
    if not isinstance(call.func, ast.Name) or not all(isinstance(a, ast.Name) for a in names):
        return None
    return call.func.id


def _own_url(function: ast.FunctionDef | None) -> str:
    """The URL that stands in a function itself; empty if there is none, or more than one."""
    if function is None:
        return ""
    texts = [n.value for n in ast.walk(function) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    found = {text for text in texts if text.startswith("http")}
    return found.pop() if len(found) == 1 else ""


# --- facts about a name ----------------------------------------------------------------------------


def _users_own(name: str) -> OwnUpstream | None:
    """The upstream of that name where it comes from a module of the user's."""
    own = find_own(name)
    return None if own is None or own.origin == "s3prl_mi" else own


def takes_of(name: str) -> str:
    """The option that gives the upstream its weights or config, and their layout; empty if it needs none."""
    if not name.endswith(FILE_SUFFIXES) and (find_own(name) is None or _users_own(name) is not None):
        return ""
    return family_of_name(name).takes or "-k FILE: in the layout of s3prl's source"


def weights_of(name: str) -> str:
    """Where the weights come from, in two words."""
    if _users_own(name) is not None:
        return "yours"
    option = takes_of(name).partition(":")[0]
    if option or family_of_name(name).weights == NONE:
        return option or "none"
    return "s3prl" if checkpoint_urls(name) else "its package"


def frame_shift_ms(name: str) -> str:
    """Time from frame to frame in ms, read without loading the model; `?` where only the model tells."""
    stride, _ = _frames_of(name)
    if stride is None:
        return "?"
    return f"{1000 * stride / SAMPLE_RATE:g}{'+' if family_of_name(name).multires else ''}"


def _frames_of(name: str) -> tuple[int | None, float | None]:
    """Samples per frame and centre of the first frame, as far as its family or s3prl's source says."""
    known = published_frames(name, family_of_name(name))
    if known is not None:
        return known
    module = stock_names().get(name, ("", ""))[0]
    return (_declared_stride(module.rsplit(".", 1)[0]) if upstream_folder(module) else None), None


@functools.cache
def _declared_stride(package: str) -> int | None:
    """The number that `get_downsample_rates` of an expert returns, if it is written there."""
    source = source_of(f"{package}.expert")
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8") if source.is_file() else "")):
        if isinstance(node, ast.FunctionDef) and node.name == "get_downsample_rates":
            last = node.body[-1]
            if isinstance(last, ast.Return) and isinstance(last.value, ast.Constant):
                value = last.value.value
                return value if isinstance(value, int) and value >= 16 else None  # 1: s3prl's example
    return None


# --- one upstream explained ------------------------------------------------------------------------


def explain(name: str) -> list[str]:
    """What there is to know about one upstream, as lines of at most `WIDTH` columns where words allow."""
    family = family_of_name(name)
    facts = [
        ("family", family.name),
        ("what", family.about or "the run says what its layers are when it is loaded"),
        ("view", _view_text(family)),
        ("masks go", _mask_text(family)),
        ("frames", _frame_text(name, family)),
        ("weights", _weights_text(name, family)),
        ("takes", takes_of(name)),
        ("also named", ", ".join(aliases_of(name))),
        ("SUPERB", _score_text(name)),
    ]
    lines = [line for key, text in facts if text for line in _paragraph(f"  {key:<11} ", text)]
    return [f"-u {name}", *lines, "", *_commands(name, family)]


def _paragraph(lead: str, text: str) -> list[str]:
    """Text behind a lead, in lines of at most WIDTH columns that start below its first word."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=lead,
        subsequent_indent=" " * len(lead),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _view_text(family: Family) -> str:
    texts = {
        "mask": "mask: masked against unmasked speech",
        "shift": "shift: past against future (60 ms apart by default)",
        None: "none by itself: set views.kind to shift, or to mask (silence in the waveform)",
    }
    return texts[family.view]


def _mask_text(family: Family) -> str:
    if not family.can_mask_latents:
        return "into the waveform, as silence (views.kind: mask)" if family.view != "shift" else ""
    embedding = f"its own mask embedding ({family.mask_embedding})"
    what = "zeros" if family.mask_embedding == "zeros" else embedding
    where = "what leaves" if family.mask_write == "output" else "what enters"
    return f"{what}, in {where} {family.mask_site}"


def _frame_text(name: str, family: Family) -> str:
    stride, centre = _frames_of(name)
    if stride is None:
        return "known when loaded"
    text = f"every {1000 * stride / SAMPLE_RATE:g} ms ({stride} samples)"
    if family.multires:
        return f"{text} in the outer blocks, twice that in the middle one; each layer at its own rate"
    if centre is None:
        return text
    return f"{text}; the first one is centred on sample {centre:g} ({1000 * centre / SAMPLE_RATE:.2f} ms)"


def _weights_text(name: str, family: Family) -> str:
    own, urls = _users_own(name), checkpoint_urls(name)
    if own is not None:
        return f"yours: {own.source}"
    if family.weights == NONE:
        return NONE
    if takes_of(name):
        return ""
    if not urls:
        return family.weights or "fetched by the package that s3prl takes the model from"
    there = all(cached_file(url).is_file() for url in urls)
    return f"{'in the cache' if there else 'downloaded at first use'}: {' '.join(urls)}"


def _score_text(name: str) -> str:
    score = score_of(name)
    if score is None:
        return ""
    found = [f"{label} {v:.2f} %" for label, v in (("PER", score.pr_per), ("WER", score.asr_wer)) if v]
    doubt = " Secondary source." if score.low_confidence else ""
    return f"{', '.join(found)} ({score.source}).{doubt}" if found else ""


def _commands(name: str, family: Family) -> list[str]:
    """The command lines of both tasks, ready to copy."""
    own, option = _users_own(name), takes_of(name).partition(":")[0]
    file = "URL" if name.endswith("_url") else "my.ckpt" if name.startswith(("apc", "npc")) else "my.pt"
    examples = {
        "": "",
        "-k FILE": f" -k {file}",
        "-k FOLDER or ID": " -k facebook/hubert-base-ls960" if "wav2vec2" not in name else " -k FOLDER",
        "-g CONFIG": " -g CONFIG.yaml",
    }
    options = f"-u {name}{examples.get(option, f' {option}')}"
    if own is not None and not own.installed:
        options += f" --upstream_module {Path(own.source).name}"
    root = "config.downstream_expert.datarc.libri_root='/data/LibriSpeech'"
    views = "" if family.view else ",,config.downstream_expert.views.kind='shift'"
    labels = ",,config.downstream_expert.datarc.alignments.path='/data/alignments'"
    short = name.split("_local")[0].split("_custom")[0]
    return [
        f"run_downstream.py -m train -d mi_views {options} -n {short}_views \\",
        f'  -o "{root}{views}"',
        f"run_downstream.py -m train -d mi_supervised {options} -n {short}_phones \\",
        f'  -o "{root}{labels}"',
    ]
