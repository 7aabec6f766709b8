"""`s3prl-mi upstreams`: every name for `-u` in a table, or one of them explained.

What is printed comes from `upstreams.families.Family`, from s3prl's sources, and from the published scores.
"""

from __future__ import annotations

import argparse
import ast
import functools
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from ..core.errors import MIError, nearest
from ..core.types import SAMPLE_RATE
from ..report.published_scores import Score, score_of
from ..upstreams.families import NONE, Family, upstream_folder
from ..upstreams.names import (
    FILE_SUFFIXES,
    cached_file,
    checkpoint_urls,
    family_of_name,
    find_own,
    load_module,
    source_tree,
    stock_names,
    upstream_names,
)
from ..upstreams.receptive_field import published_frames
from ..upstreams.user_modules import OwnUpstream

WIDTH = 100
"""Columns of the table and of an explanation."""


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
    groups = [group for group in grouped(names) if any(part in name for name in group)]
    if not groups:
        raise MIError(f"no upstream's name contains {part!r}.{nearest(part, names)} `s3prl-mi upstreams` lists all.")
    # the user's own first, then known views, then what has none
    families = {group[0]: family_of_name(group[0]) for group in groups}
    groups.sort(key=lambda g: (_users_own(g[0]) is None, (f := families[g[0]]).view is None, f.name, g[0]))
    lines = [f"{'-u':<34} {'family':<16} {'view':<6} {'ms':>4}  {'weights':<16} {'PER %':>7} {'WER %':>7}"]
    lines.append("-" * len(lines[0]))
    for name, *aliases in groups:
        family, score = families[name], score_of(name)
        mark = "?" if score and score.low_confidence else ""
        per, wer = ("" if v is None else f"{v:.2f}{mark}" for v in (score and score.pr_per, score and score.asr_wer))
        lines += [name] if len(name) > 34 else []
        lines.append(
            f"{name if len(name) <= 34 else '':<34} {family.name[:16]:<16} {family.view or '?':<6} "
            f"{frame_shift_ms(name):>4}  {weights_of(name):<16} {per:>7} {wer:>7}".rstrip()
        )
        lines += _paragraph("    also: ", ", ".join(aliases))
    return [*lines, "", *_legend([score for name in families if (score := score_of(name))])]


def _legend(scores: Sequence[Score]) -> list[str]:
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


def grouped(names: Sequence[str]) -> list[list[str]]:
    """The names of each upstream: of the same weights (hubert, hubert_base) or of the same loader (_local, _url).

    The first of them is the shortest, the one in papers and examples; of loaders, `_local`, which says what it takes.
    """
    groups: dict[object, list[str]] = {}
    for name in names:
        groups.setdefault(_identity(name), []).append(name)
    return [sorted(group, key=lambda n: (not n.endswith("_local"), len(n), n)) for group in groups.values()]


@functools.cache
def _identity(name: str) -> tuple[object, ...]:
    """What names of one upstream share: module, and stem, or the files that s3prl downloads for them."""
    module = stock_names().get(name, ("",))[0]
    for suffix in FILE_SUFFIXES:
        if name.endswith(suffix):
            return module, name.removesuffix(suffix)
    return module, tuple(checkpoint_urls(name)) or ("fbank" if name == "baseline" else name, "")


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
    for node in ast.walk(source_tree(f"{package}.expert")):
        if isinstance(node, ast.FunctionDef) and node.name == "get_downsample_rates":
            last = node.body[-1]
            if isinstance(last, ast.Return) and isinstance(last.value, ast.Constant):
                value = last.value.value
                return value if isinstance(value, int) and value >= 16 else None  # 1: s3prl's example
    return None


# --- one upstream explained ------------------------------------------------------------------------

_VIEWS = {
    "mask": "mask: masked against unmasked speech",
    "shift": "shift: past against future (60 ms apart by default)",
    None: "none by itself: set views.kind to shift, or to mask (silence in the waveform)",
}


def explain(name: str) -> list[str]:
    """What there is to know about one upstream, as lines of at most `WIDTH` columns where words allow."""
    family = family_of_name(name)
    aliases = next(group for group in grouped(upstream_names()) if name in group)
    facts = {
        "family": family.name,
        "what": family.about or "the run says what its layers are when it is loaded",
        "view": _VIEWS[family.view],
        "masks go": _mask_text(family),
        "frames": _frame_text(name, family),
        "weights": _weights_text(name, family),
        "takes": takes_of(name),
        "also named": ", ".join(sorted(n for n in aliases if n != name)),
        "SUPERB": _score_text(score_of(name)),
    }
    lines = [line for key, text in facts.items() for line in _paragraph(f"  {key:<11} ", text)]
    return [f"-u {name}", *lines, "", *_commands(name, family)]


def _paragraph(lead: str, text: str) -> list[str]:
    """Text behind a lead, in lines of at most WIDTH columns that start below its first word; nothing for no text."""
    wrapper = textwrap.TextWrapper(WIDTH, lead, " " * len(lead), break_long_words=False, break_on_hyphens=False)
    return wrapper.wrap(text)


def _mask_text(family: Family) -> str:
    if not family.can_mask_latents:
        return "into the waveform, as silence (views.kind: mask)" if family.view != "shift" else ""
    zeros = family.mask_embedding == "zeros"
    where = "what leaves" if family.mask_write == "output" else "what enters"
    what = "zeros" if zeros else f"its own mask embedding ({family.mask_embedding})"
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


def _score_text(score: Score | None) -> str:
    rates = {"PER": score.pr_per, "WER": score.asr_wer} if score else {}
    found = ", ".join(f"{label} {value:.2f} %" for label, value in rates.items() if value)
    doubt = " Secondary source." if score and score.low_confidence else ""
    return f"{found} ({score.source}).{doubt}" if score and found else ""


def _commands(name: str, family: Family) -> list[str]:
    """The command lines of both tasks, ready to copy."""
    own, option = _users_own(name), takes_of(name).partition(":")[0]
    file = "URL" if name.endswith("_url") else "my.ckpt" if name.startswith(("apc", "npc")) else "my.pt"
    examples = {
        "-k FILE": f"-k {file}",
        "-k FOLDER or ID": "-k FOLDER" if "wav2vec2" in name else "-k facebook/hubert-base-ls960",
        "-g CONFIG": "-g CONFIG.yaml",
    }
    options = f"-u {name} {examples.get(option, option)}".rstrip()
    if own is not None and not own.installed:
        options += f" --upstream_module {Path(own.source).name}"
    key, short = "config.downstream_expert", name.split("_local")[0].split("_custom")[0]
    more = {"views": "" if family.view else f",,{key}.views.kind='shift'"}
    more["supervised"] = f",,{key}.datarc.alignments.path='/data/alignments'"
    return [
        line
        for task, suffix in (("views", "views"), ("supervised", "phones"))
        for line in (
            f"run_downstream.py -m train -d mi_{task} {options} -n {short}_{suffix} \\",
            f"  -o \"{key}.datarc.libri_root='/data/LibriSpeech'{more[task]}\"",
        )
    ]
