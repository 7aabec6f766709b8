"""s3prl's upstreams by name, read from its sources without importing them.

`s3prl.hub` imports all 35 upstream folders (10 s). Here the folder that defines a name is found by reading
the source of `s3prl/hub.py` and of the hubconfs, so that only that hubconf need be imported.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path

from . import compat


@functools.cache
def stock_names() -> dict[str, tuple[str, str]]:
    """Each name of s3prl.hub -> (module, attribute), read from the sources; later imports win."""
    names: dict[str, tuple[str, str]] = {}
    package = compat.s3prl_folder()
    for node in ast.parse((package / "hub.py").read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        if node.names[0].name == "*":
            names.update(_defined_names(package, node.module))
        else:
            names.update({a.asname or a.name: (node.module, a.name) for a in node.names})
    return names


def _defined_names(package: Path, module: str) -> dict[str, tuple[str, str]]:
    """Public functions that a hubconf defines, or imports from another hubconf."""
    names = {}
    for node in ast.parse(source_of(module, package).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            names[node.name] = (module, node.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").endswith("hubconf"):
            names.update({a.asname or a.name: (module, a.asname or a.name) for a in node.names})
    return {name: place for name, place in names.items() if not name.startswith("_")}


def source_of(module: str, package: Path | None = None) -> Path:
    """The file of a dotted module of s3prl."""
    return (package or compat.s3prl_folder()).joinpath(*module.split(".")[1:]).with_suffix(".py")


@functools.cache
def functions_of(module: str) -> dict[str, ast.FunctionDef]:
    """The functions that a hubconf defines, by name, as syntax trees."""
    tree = ast.parse(source_of(module).read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def checkpoint_urls(name: str) -> list[str]:
    """The URLs that an upstream of s3prl downloads, read from its source (nothing is imported).

    A name that only calls another one (hubert -> hubert_base) is followed. Where s3prl has an old and a
    converted file for one name, the converted one is meant, as s3prl takes that by default.
    """
    module, attribute = stock_names().get(name, ("", name))
    if not module:
        return []
    urls = _urls_in(functions_of(module), attribute, set())
    return [u for u in urls if "converted" in u] or urls


def _urls_in(functions: dict[str, ast.FunctionDef], name: str, seen: set[str]) -> list[str]:
    if name in seen or name not in functions:
        return []
    seen.add(name)
    urls: list[str] = []
    for node in ast.walk(functions[name]):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            is_url = node.value.startswith(("http://", "https://")) and " " not in node.value
            urls += [node.value] if is_url and "/" in node.value[8:] else []
        elif isinstance(node, ast.Name):
            urls += _urls_in(functions, node.id, seen)
    return list(dict.fromkeys(urls))
