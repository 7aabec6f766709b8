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
