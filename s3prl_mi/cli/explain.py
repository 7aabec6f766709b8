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
    "fields": "every field of a record in mi_results.jsonl and mi_measures.jsonl",
    "config": "every key of a config, with its default",
    "measures": "the two bounds that are estimated, and all that can be measured beside them",
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
    parser.add_argument("name", nargs="?", help="of a measure, or of a field or key: only that one")


def run(args: argparse.Namespace) -> int:
    """Print a topic, or the list of topics.

    Raises:
        MIError: no such topic.
    """
    topic, names = args.topic, ", ".join(TOPICS)
    if topic is None:
        lines = [f"{name:16} {about}" for name, about in TOPICS.items()]
    elif topic in TOPICS:
        lines = _topic(topic) if args.name is None else _one(topic, args.name)
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


def _one(topic: str, name: str) -> list[str]:
    """The lines of one measure, field or key.

    Raises:
        MIError: there is none of this name, or the topic has none.
    """
    if topic == "measures":
        from ..estimators.measures.registry import measures

        table = measures()
        if name not in table:
            raise MIError(f"no measure is called {name!r}.{nearest(name, table)} There are: {', '.join(table)}.")
        return [line for word, text in table[name].whole().items() for line in _entry(word, text)]
    from ..results.measures import MeasureRecord
    from ..results.record import Record
    from ..upstreams.families import Family

    classes: dict[str, tuple[type, ...]] = {
        "fields": (Record, MeasureRecord), "config": (MIConfig,), "upstream-family": (Family,),
    }  # fmt: skip
    if topic not in classes:
        raise MIError(f"topic {topic} has no parts of their own names: leave {name!r} out.")
    found: dict[str, list[str]] = {}
    for line in (line for cls in classes[topic] for line in describe(cls) if line and not line.startswith("---")):
        if not line.startswith(" "):
            own = found.setdefault(re.split(r" = |  \(", line)[0], [])
        own.append(line)
    if name not in found:
        raise MIError(f"explain {topic}: there is no {name!r}.{nearest(name, found)}")
    return found[name]


def _entry(word: str, text: str) -> list[str]:
    """A word, and next to it a text of several lines."""
    first, *more = _wrap(text, 12)
    return [f"{word:<12}{first.strip()}", *more]


def _topic(name: str) -> list[str]:
    """The lines of a topic."""
    if name == "fields":
        from ..results.measures import MEASURES_FILE, MeasureRecord
        from ..results.record import Record

        lines = [*(inspect.getdoc(Record) or "").splitlines(), "", *describe(Record), "", f"--- {MEASURES_FILE}"]
        return [*lines, *(inspect.getdoc(MeasureRecord) or "").splitlines(), "", *describe(MeasureRecord)]
    if name == "config":
        lead = "Keys below downstream_expert, with their defaults. Set them in the file of -c, or by"
        return [lead, '-o "config.downstream_expert.KEY=VALUE".', "", *describe(MIConfig)]
    if name == "measures":
        from ..estimators.measures.registry import measures

        lines = [*_docstring("estimators.mi_supervised"), "", *_docstring("estimators.mi_views"), ""]
        lines += ["Measures beside the bounds (config key measures, file mi_measures.jsonl):", ""]
        for m in measures().values():
            lines += [f"{m.name}: {m.title}", *_wrap(m.describe(), 4)]
        return lines
    if name == "faults":
        return _docstring("cli.errors")
    if name == "store":
        from ..states.store import default_root

        now = f"Now: {default_root()}, at most {StoreConfig().max_gb:g} GB"
        return [*_docstring("states.store"), "", f"{now} (config keys store.root, store.max_gb)."]
    from ..upstreams.families import Family

    return [*_docstring("upstreams.user_modules"), "", "The fields of a Family:", "", *describe(Family)]
