"""`s3prl-mi explain TOPIC`: result fields, config keys and terms, printed from the definitions themselves.

Fields and keys are those of the dataclasses, with the texts that stand in their source: the string below a field, or
its entry under `Attributes:`. Other topics are the docstrings of the modules that do the work.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import re
import sys
import textwrap
import typing
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..core.config import MIConfig, StoreConfig
from ..core.errors import MIError, nearest
from ..core.files import PACKAGE

WIDTH = 100

TOPICS = {
    "fields": "every field of a record in mi_results.jsonl",
    "config": "every key of a config, with its default",
    "measures": "the two bounds that are estimated",
    "store": "how hidden states lie on disk, where, and how much",
    "faults": "what survives a kill or a full disk, what is checked, what a checkpoint may do",
    "upstream-family": "how to add an upstream of your own",
}


class Field(NamedTuple):
    """One field of a dataclass as texts; `kind` is its type, `cls` its class where that is a dataclass too."""

    name: str
    kind: str
    default: str
    text: str
    cls: type | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `s3prl-mi explain`."""
    parser.add_argument("topic", nargs="?", help=f"{', '.join(TOPICS)}; without one: the list of topics")


def run(args: argparse.Namespace) -> int:
    """Print a topic, or the list of topics.

    Raises:
        MIError: no such topic.
    """
    topic, names = args.topic, ", ".join(TOPICS)
    if topic is None:
        lines = [f"{name:16} {about}" for name, about in TOPICS.items()]
    elif topic in TOPICS:
        lines = _topic(topic)
    else:
        raise MIError(f"no topic is called {topic!r}.{nearest(topic, TOPICS)} There are: {names}.")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def fields_of(cls: type) -> list[Field]:
    """The fields of a dataclass, in order, with the texts of its source."""
    texts, hints, found = _attribute_texts(inspect.getdoc(cls) or ""), typing.get_type_hints(cls), []
    body = typing.cast(ast.ClassDef, ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]).body
    for node, below in zip(body, [*body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        name, hint = node.target.id, hints[node.target.id]
        text = texts.get(name, "")
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            text = " ".join(str(below.value.value).split())
        default = "" if node.value is None else ast.unparse(node.value)
        inner = typing.cast(type, hint) if dataclasses.is_dataclass(hint) else None
        found.append(Field(name, _type_text(hint) or ast.unparse(node.annotation), default, text, inner))
    return found


def _attribute_texts(doc: str) -> dict[str, str]:
    """The entries of a docstring's `Attributes:`, by name."""
    section = re.search(r"^Attributes:\n((?: +.*\n?|\n)*)", doc, re.MULTILINE)
    entries = re.split(r"^    (?=\w+: )", section[1], flags=re.MULTILINE)[1:] if section else []
    return {name: " ".join(text.split()) for name, _, text in (entry.partition(": ") for entry in entries)}


def _type_text(hint: Any) -> str:
    """The choices of a Literal, also of one that may be None; empty for other types."""
    choices = next((o for o in (hint, *typing.get_args(hint)[:1]) if typing.get_origin(o) is typing.Literal), None)
    return " | ".join(map(str, typing.get_args(choices)))


def describe(cls: type, prefix: str = "") -> Iterator[str]:
    """Lines for every field of a dataclass, then for those of the dataclasses in it, under dotted names."""
    fields = fields_of(cls)
    for name, kind, default, text, inner in fields:
        if inner is None:
            yield from _wrap(f"{prefix}{name}{' = ' if default else ''}{default}  ({kind})")
            yield from _wrap(text, 4)
    for name, *_, inner in fields:
        if inner is not None:
            yield from ("", f"--- {prefix}{name}: {(inspect.getdoc(inner) or '').splitlines()[0]}")
            yield from describe(inner, f"{prefix}{name}.")


def _wrap(text: str, indent: int = 0) -> list[str]:
    return textwrap.indent(textwrap.fill(text, WIDTH - indent), " " * indent).splitlines()


def _docstring(module: str) -> list[str]:
    """The docstring of a module of this package, which is not imported."""
    source = PACKAGE.joinpath(*module.split(".")).with_suffix(".py")
    return (ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or "").splitlines()


def _topic(name: str) -> list[str]:
    """The lines of a topic."""
    if name == "fields":
        from ..results.record import Record

        return [*(inspect.getdoc(Record) or "").splitlines(), "", *describe(Record)]
    if name == "config":
        lead = "Keys below downstream_expert, with their defaults. Set them in the file of -c, or by"
        return [lead, '-o "config.downstream_expert.KEY=VALUE".', "", *describe(MIConfig)]
    if name == "measures":
        return [*_docstring("estimators.mi_supervised"), "", *_docstring("estimators.mi_views")]
    if name == "faults":
        return _docstring("cli.errors")
    if name == "store":
        from ..states.store import default_root

        now = f"Now: {default_root()}, at most {StoreConfig().max_gb:g} GB"
        return [*_docstring("states.store"), "", f"{now} (config keys store.root, store.max_gb)."]
    from ..upstreams.families import Family

    return [*_docstring("upstreams.user_modules"), "", "The fields of a Family:", "", *describe(Family)]
