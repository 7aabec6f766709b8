"""`s3prl-mi upstreams`: every name for `-u` in a table, or one of them explained."""

from __future__ import annotations

import argparse
import ast
import functools
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..core.errors import MIError, nearest
from ..core.types import SAMPLE_RATE
from ..report import published_scores as superb
from ..upstreams import names as upstream_module
from ..upstreams.checkpoints import SPEECH_ENCODERS
from ..upstreams.families import Family, upstream_folder
from ..upstreams.geometry import Geometry
from ..upstreams.names import (
    FILE_SUFFIXES,
    checkpoint_urls,
    family_of_name,
    functions_of,
    source_of,
    stock_names,
    upstream_names,
)
from .doctor import cached_file

WIDTH = 100
"""Columns of the table and of an explanation."""

# What front ends give where no model is loaded, in samples.
_STRIDES = {"conv": 320, "kaldi": 160, "spectral": 160}
_STRIDES_BY_NAME = {"mae_ast_frame": 320, "mae_ast_patch": 2560}
_CENTRES = {"conv": 199.5, "kaldi": 199.5}
_CENTRED_STFT = ("mel", "linear", "stft_mag")
_LAYOUTS = {
    "hubert": "s3prl's converted layout: task_cfg, model_cfg, model_weight, dictionaries_symbols",
    "multires_hubert": "s3prl's converted layout: task_cfg, model_cfg, model_weight, dictionaries_symbols",
    "wav2vec2": "s3prl's converted layout: task_cfg, model_cfg, model_weight",
    "data2vec": "s3prl's converted layout: task_cfg, model_cfg, model_weight (with _ema)",
    "wav2vec": "s3prl's converted layout: task_cfg, model_cfg (with infonce), model_weight",
    "vq_wav2vec": "s3prl's converted layout: task_cfg, model_cfg (with infonce), model_weight",
    "wavlm": "Microsoft's layout: cfg (a dict), model",
    "unispeech_sat": "Microsoft's layout: cfg (a dict), model",
    "apc": "config (data.audio, model.paras), model; VQ-APC: with paras.vq",
    "npc": "config (data.audio, model.paras), model",
    "mockingjay": "s3prl's pre-training: Transformer, Config (transformer, task, audio)",
    "tera": "s3prl's pre-training: Transformer, Config (transformer, task, audio)",
    "audio_albert": "s3prl's pre-training: Transformer, Config (transformer, task, audio)",
    "distiller": "s3prl's pre-training: Distiller, Config.distiller",
    "decoar2": "model (12 layers of 768)",
    "cpc": "config, weights",
    "lighthubert": "cfg.model, model",
    "mae_ast": "cfg.model, cfg.task, model",
    "espnet_hubert": "a .pth file with config.yaml beside it",
    "baseline": "none; -g CONFIG names a yaml file as those in s3prl/upstream/baseline",
    "dinosr": "the file of DinoSR's fairseq trainer as it is: cfg, model, optimizer_history ...",
    "cotraining": "the bare state dict of its trainer: 0.{0,1,2}.weight_ih_l0 ...; -g takes the statistics file",
    "hf": f"a folder or a model id (also ID@REVISION) of type {', '.join(SPEECH_ENCODERS)}",
    "hf_hubert": "a folder with config.json, weights and preprocessor_config.json, or a model id",
    "hf_wav2vec2": "a folder with config.json, weights and preprocessor_config.json, or a model id",
}
_LAYERS = {
    # entries of the hidden states of published models; of one's own files, the file decides
    "apc": "3: outputs of the GRU layers",
    "vq_apc": "4: outputs of the GRU layers, then the VQ codes",
    "npc": "9 and the VQ codes: blocks and masked convolutions in turn, their sum last",
    "cpc": "2: encoder, LSTM",
    "baseline": "1",
    "cotraining": "3: outputs of the LSTM layers",
    "tera": "4: the input of layer 1, then the output of each layer",
    "audio_albert": "4: the input of layer 1, then the output of each layer",
    "decoar2": "13: the input of layer 1, then the output of each layer",
    "wav2vec": "13: encoder, then the output of each aggregator layer",
    "lighthubert": "13: features, then the output of each layer",
}
_BASE = ("wav2vec2", "hubert", "wavlm", "unispeech_sat", "data2vec")
_LARGE = ("large", "xlsr_53", "xls_r_300m", "conformer_rel", "conformer_ro")


@dataclass
class Row:
    """Names of one upstream.

    Attributes:
        name: the name to use.
        aliases: other names of the same weights, or of the same loader.
        family: what is known of it.
        weights: where its weights come from.
    """

    name: str
    family: Family
    weights: str
    aliases: list[str] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `s3prl-mi upstreams`."""
    parser.add_argument(
        "name", nargs="?", default="", help="only names that contain this; exactly one name explains it"
    )
    parser.add_argument(
        "--upstream_module",
        action="append",
        default=[],
        metavar="FILE",
        help="also the upstreams of this module",
    )


def run(args: argparse.Namespace) -> int:
    """List the upstreams whose name contains `args.name`, or explain the one of exactly that name.

    Raises:
        MIError: no name contains it.
    """
    for module in getattr(args, "upstream_module", None) or []:
        upstream_module.load_module(module)
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
        raise MIError(
            f"no upstream's name contains {part!r}.{nearest(part, names)} `s3prl-mi upstreams` lists all."
        )
    shown = sorted(rows, key=lambda r: (_source_order(r), r.family.view is None, r.family.name, r.name))
    lines = [f"{'-u':<34} {'family':<16} {'view':<6} {'ms':>4}  {'weights':<16} {'PER %':>7} {'WER %':>7}"]
    lines.append("-" * len(lines[0]))
    for row in shown:
        lines += _row_lines(row)
    lines += ["", *_legend(shown)]
    return lines


def _row_lines(row: Row) -> list[str]:
    score = superb.score_of(row.name)
    per = _percent(score.pr_per if score else None, score)
    wer = _percent(score.asr_wer if score else None, score)
    name = row.name if len(row.name) <= 34 else f"{row.name}\n{'':<34}"
    text = (
        f"{name:<34} {row.family.name[:16]:<16} {row.family.view or '?':<6} {frame_shift_ms(row.name):>4}  "
        f"{row.weights:<16} {per:>7} {wer:>7}"
    )
    lines = [line.rstrip() for line in text.split("\n")]
    if row.aliases:
        lines += _paragraph("    also: ", ", ".join(row.aliases))
    return lines


def _percent(value: float | None, score: superb.Score | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}{'?' if score is not None and score.low_confidence else ''}"


def _legend(rows: Iterable[Row]) -> list[str]:
    scores = [superb.score_of(r.name) for r in rows]
    lines = [
        "view: mask = masked against unmasked, shift = past against future; ? = choose views.kind",
        "ms: time from frame to frame; weights: -k takes your own file, `s3prl` downloads them at first use",
    ]
    if any(scores):
        lines.append("PER, WER: SUPERB phone recognition and speech recognition without a language model")
    if any(s is not None and s.low_confidence for s in scores):
        lines.append("?: from a secondary source")
    return [*lines, "s3prl-mi upstreams NAME explains one."]


def _source_order(row: Row) -> int:
    """The user's own first, then known views, then what has none."""
    own = upstream_module.find_own(row.name) if row.name not in stock_names() else None
    if own is not None and own.origin != "s3prl_mi":
        return 0
    return 1 if row.family.view is not None else 2


# --- names that are one upstream -------------------------------------------------------------------


def grouped(names: Sequence[str]) -> list[Row]:
    """One row for all names of the same weights (hubert, hubert_base) or of the same loader (_local, _url)."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in names:
        groups.setdefault(_identity(name), []).append(name)
    return [_row(group) for group in groups.values()]


def _row(group: list[str]) -> Row:
    # the shortest name is the one in papers and examples; of loaders, _local says what it takes
    first, *others = sorted(group, key=lambda n: (not n.endswith("_local"), len(n), n))
    return Row(first, family_of_name(first), weights_of(first), others)


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
    urls = _own_urls(functions.get(attribute))
    return module, urls or attribute


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


def _own_urls(function: ast.FunctionDef | None) -> str:
    """The URL that stands in a function itself; empty if there is none, or more than one."""
    if function is None:
        return ""
    found = {
        n.value
        for n in ast.walk(function)
        if isinstance(n, ast.Constant) and isinstance(n.value, str) and n.value.startswith("http")
    }
    return found.pop() if len(found) == 1 else ""


# --- facts about a name ----------------------------------------------------------------------------


def weights_of(name: str) -> str:
    """Where the weights come from, in two words."""
    own = upstream_module.find_own(name) if name not in stock_names() else None
    if own is not None and own.origin != "s3prl_mi":
        return "yours"
    if name == "hf" or name.startswith("hf_"):
        return "-k FOLDER or ID"
    if own is not None or (name.endswith(FILE_SUFFIXES) and name != "baseline_local"):
        return "-k FILE"
    if family_of_name(name).name in ("baseline", "log_stft", "example"):
        return "none"
    return "s3prl" if checkpoint_urls(name) else "its package"


def frame_shift_ms(name: str) -> str:
    """Time from frame to frame in ms, read without loading the model; `?` where only the model tells."""
    stride = _stride(name)
    if stride is None:
        return "?"
    text = f"{1000 * stride / SAMPLE_RATE:g}"
    return f"{text}+" if family_of_name(name).multires else text


def _stride(name: str) -> int | None:
    """Samples per frame from the family's geometry, else what s3prl's source says."""
    family = family_of_name(name)
    if isinstance(family.geometry, Geometry):
        return family.geometry.stride
    if name in _STRIDES_BY_NAME:
        return _STRIDES_BY_NAME[name]
    if family.name in ("wav2vec", "vq_wav2vec"):
        return 160
    if family.geometry in _STRIDES:
        return _STRIDES[family.geometry]
    module = stock_names().get(name, ("", ""))[0]
    return _declared_stride(module.rsplit(".", 1)[0]) if upstream_folder(module) else None


@functools.cache
def _declared_stride(package: str) -> int | None:
    """The number that `get_downsample_rates` of an expert returns, if it is written there."""
    source = source_of(f"{package}.expert")
    if not source.is_file():
        return None
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name == "get_downsample_rates":
            last = node.body[-1]
            if isinstance(last, ast.Return) and isinstance(last.value, ast.Constant):
                value = last.value.value
                return value if isinstance(value, int) and value >= 16 else None  # 1: s3prl's example
    return None


def layers_of(name: str) -> str:
    """Entries of the hidden states of a published model, or what decides their number."""
    family = family_of_name(name).name
    if name in ("hf", "dinosr") or (name.endswith(FILE_SUFFIXES) and family not in ("cpc", "baseline")):
        return "one more than the model's layers" if family_of_name(name).view == "mask" else "as in the file"
    if family in _LAYERS:
        return _LAYERS[family]
    if family in _BASE:
        if "1b" in name or "2b" in name:
            return "49: the input of layer 1, then the output of each layer"
        count = 25 if any(word in name for word in _LARGE) else 13
        return f"{count}: the input of layer 1, then the output of each layer"
    return "known when loaded (the run says)"


# --- one upstream explained ------------------------------------------------------------------------


def explain(name: str) -> list[str]:
    """What there is to know about one upstream, as lines of at most `WIDTH` columns where words allow."""
    family = family_of_name(name)
    facts = [
        ("family", family.name),
        ("view", _view_text(family)),
        ("masks go", _mask_text(family)),
        ("frames", _frame_text(name, family)),
        ("layers", layers_of(name)),
        ("weights", _weights_text(name)),
        ("-k layout", _layout_text(name, family)),
        ("also named", ", ".join(aliases_of(name))),
        ("SUPERB", _score_text(name)),
    ]
    lines = [f"-u {name}"]
    for key, text in facts:
        if text:
            lines += _paragraph(f"  {key:<11} ", text)
    return [*lines, "", *_commands(name, family)]


def _paragraph(lead: str, text: str) -> list[str]:
    """Text behind a lead, in lines of at most WIDTH columns that start below its first word."""
    lines, current = [], lead
    for word in text.split(" "):
        if len(current) + len(word) > WIDTH and len(current) > len(lead):
            lines.append(current.rstrip())
            current = " " * len(lead)
        current += f"{word} "
    return [*lines, current.rstrip()]


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
    what = (
        "zeros" if family.mask_embedding == "zeros" else f"its own mask embedding ({family.mask_embedding})"
    )
    where = "what leaves" if family.mask_write == "output" else "what enters"
    return f"{what}, in {where} {family.mask_site}"


def _frame_text(name: str, family: Family) -> str:
    shift = frame_shift_ms(name)
    if shift == "?":
        return "known when loaded"
    text = f"every {shift.rstrip('+')} ms ({_stride(name)} samples)"
    geometry = family.geometry
    if family.multires:
        return f"{text} in the outer blocks, twice that in the middle one; each layer at its own rate"
    centre = geometry.first_centre if isinstance(geometry, Geometry) else _CENTRES.get(str(geometry))
    if family.name in ("wav2vec", "vq_wav2vec"):
        centre = 232.0
    elif name in _CENTRED_STFT:
        centre = 0.0
    if centre is None or name == "baseline_local":
        return text
    return f"{text}; the first one is centred on sample {centre:g} ({1000 * centre / SAMPLE_RATE:.2f} ms)"


def _weights_text(name: str) -> str:
    kind = weights_of(name)
    if kind == "yours":
        own = upstream_module.find_own(name)
        return f"yours: {own.source}" if own is not None else kind
    if kind == "s3prl":
        urls = checkpoint_urls(name)
        there = [url for url in urls if cached_file(url).is_file()]
        state = "in the cache" if len(there) == len(urls) else "downloaded at first use"
        return f"{state}: {' '.join(urls)}"
    texts = {
        "none": "none: a fixed front end",
        "-k FILE": "your file: -k FILE",
        "-k FOLDER or ID": "-k FOLDER, or the id of a model on the Hugging Face Hub",
    }
    return texts.get(kind, "fetched by the package that s3prl takes the model from")


def _layout_text(name: str, family: Family) -> str:
    takes = name.endswith(FILE_SUFFIXES) or weights_of(name).startswith("-k")
    return _LAYOUTS.get(family.name, "that of s3prl's source") if takes else ""


def _score_text(name: str) -> str:
    score = superb.score_of(name)
    if score is None:
        return ""
    parts = [
        f"{label} {value:.2f} %" for label, value in (("PER", score.pr_per), ("WER", score.asr_wer)) if value
    ]
    doubt = " Secondary source." if score.low_confidence else ""
    return f"{', '.join(parts)} ({score.source}).{doubt}" if parts else ""


def _commands(name: str, family: Family) -> list[str]:
    """The command lines of both tasks, ready to copy."""
    own = upstream_module.find_own(name) if name not in stock_names() else None
    kind = weights_of(name)
    options = f"-u {name}"
    if kind == "-k FILE":
        options += f" -k {_example_file(name)}"
    elif kind == "-k FOLDER or ID":
        options += " -k facebook/hubert-base-ls960" if name in ("hf", "hf_hubert_custom") else " -k FOLDER"
    elif name == "baseline_local":
        options += " -g CONFIG.yaml"
    if own is not None and kind == "yours" and not own.installed:
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


def _example_file(name: str) -> str:
    return "URL" if name.endswith("_url") else "my.ckpt" if name.startswith(("apc", "npc")) else "my.pt"
