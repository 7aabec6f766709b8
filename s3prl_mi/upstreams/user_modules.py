"""Upstreams of a user's own: a module with functions as in an s3prl hubconf, and `FAMILIES`.

The README has an example. It is named by `--upstream_module my_upstreams.py` (or `package.module`), or by an entry
point of the group `s3prl_mi.upstreams` of an installed package. Here such modules are imported and checked; `names`
makes them known.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from ..core.errors import MIError, nearest
from ..core.files import PACKAGE, expanded
from . import compat
from .extra.hubconf import FAMILIES as OURS
from .families import KINDS, Family

ENTRY_POINTS = "s3prl_mi.upstreams"
"""Group of entry points; each names a module."""
FLAG = "--upstream_module"
_EXAMPLE = 'FAMILIES = {"NAME": Family("NAME", view="shift", geometry=Geometry(320, 199.5))}'


@dataclass(frozen=True)
class OwnUpstream:
    """An upstream that is not s3prl's.

    Attributes:
        name: as given to `-u`.
        family: what `FAMILIES` says of it.
        function: `function(ckpt=..., model_config=..., refresh=...)` returns the expert.
        origin: where it was named: a file, a module or an entry point.
        source: file of the module.
        sha256: hash (hex) of the module's source and of its neighbours (those in its package, or those in its folder
            that it imports); part of the fingerprint.
        installed: whether it comes with s3prl_mi or by an entry point, not by the command line.
    """

    name: str
    family: Family
    function: Callable[..., Any]
    origin: str
    source: Path
    sha256: str
    installed: bool = False


def read_module(path_or_name: str) -> list[OwnUpstream]:
    """The upstreams of a Python file, or of a module by its dotted name.

    Raises:
        MIError: no such file or module, an error while importing it, or a function without its family.
    """
    what = f"{FLAG} {path_or_name!r}"
    path = expanded(path_or_name, FLAG).resolve()
    is_name = Path(path_or_name).suffix != ".py" and not path.exists()
    if not is_name and not path.is_file():
        raise MIError(f"{what} {'is a folder; name the file in it' if path.is_dir() else 'does not exist'}.")
    before = set(sys.modules)
    try:
        module = importlib.import_module(path_or_name) if is_name else _import_file(path)
    except (Exception, SystemExit) as error:
        if is_name and isinstance(error, ModuleNotFoundError) and path_or_name.startswith(error.name or " "):
            raise MIError(
                f"{what}: no such file, and no module of this name. Give the path of a .py file, or a module that "
                "is installed or on PYTHONPATH."
            ) from error
        raise MIError(f"{what} cannot be imported: {where(error, path)}.") from error
    return upstreams_in(module, what, neighbours=_neighbours(module, set(sys.modules) - before))


def read_entry_points() -> Iterator[list[OwnUpstream]]:
    """The upstreams of each module that an installed package names in the group `s3prl_mi.upstreams`.

    Raises:
        MIError: one of them cannot be imported.
    """
    for point in sorted(entry_points(group=ENTRY_POINTS)):
        distribution = getattr(point, "dist", None)
        package = f"package {distribution.name!r}" if distribution is not None else "an installed package"
        what = f"entry point {point.name!r} of {package}"
        try:
            module = importlib.import_module(point.module)
        except (Exception, SystemExit) as error:
            raise MIError(
                f"{what}: importing {point.module!r} failed ({where(error, None)}). Fix or uninstall it."
            ) from error
        yield upstreams_in(module, what, installed=True)


def _import_file(path: Path) -> ModuleType:
    """The module of a file, which finds its neighbours as a script does."""
    name = f"s3prl_mi_upstream_module_{path.stem}"
    loader = SourceFileLoader(name, str(path))
    module = importlib.util.module_from_spec(ModuleSpec(name, loader, origin=str(path)))
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses and pickles look their module up
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    try:
        loader.exec_module(module)
    except Exception:
        del sys.modules[name]
        raise
    return module


def where(error: BaseException, path: Path | None) -> str:
    """An error in a user's module with the line that raised it: the last one in `path`, else the last one of all."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} (line {error.lineno} of {Path(error.filename or '?').name})"
    frames = traceback.extract_tb(error.__traceback__)
    last = ([f for f in frames if f.filename == str(path)] or frames)[-1]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text} (line {last.lineno} of {Path(last.filename).name}: {last.line})"


def _neighbours(module: ModuleType, names: Iterable[str]) -> list[Path]:
    """Files of modules that lie in or below the folder of `module`, which a script finds without installation."""
    source = Path(module.__file__ or "").resolve()
    # torch.classes calls itself _classes.py, which is no file
    files = {
        Path(f).resolve() for n in names if os.path.isabs(f := getattr(sys.modules.get(n), "__file__", None) or "")
    }
    libraries = (PACKAGE, compat.s3prl_folder().resolve())
    return sorted(
        f
        for f in files - {source}
        if f.is_relative_to(source.parent)
        and "site-packages" not in f.parts
        and not any(f.is_relative_to(library) for library in libraries)
    )


def upstreams_in(
    module: ModuleType, what: str, installed: bool = False, neighbours: Sequence[Path] = ()
) -> list[OwnUpstream]:
    """The functions that a module's `FAMILIES` names.

    Args:
        module: made of its own file and of `neighbours`.
        what: where it was named, for messages.
        installed: whether it is part of an installed package.
        neighbours: other files.

    Raises:
        MIError: no `FAMILIES`, or it and the module's public functions do not agree.
    """
    declared = getattr(module, "FAMILIES", None)
    own = {n for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__}
    functions = {n for n in own if not n.startswith("_")}
    if not isinstance(declared, dict) or not declared:
        wanted = f" for {', '.join(sorted(functions))}" if functions else ""
        raise MIError(f"{what} has no FAMILIES{wanted}. Add, at its top level, {_EXAMPLE}.")
    for name in sorted(functions - set(declared)):
        raise MIError(
            f"{what}: function {name!r} has no family. Add it to FAMILIES; if it is no upstream, call it _{name}."
        )
    source = Path(module.__file__ or "").resolve()
    digest = _source_hash(source, neighbours)
    known = {**KINDS, **OURS}
    found = []
    for name, declaration in declared.items():
        family = known.get(declaration) if isinstance(declaration, str) else declaration
        if not isinstance(family, Family):
            raise MIError(
                f"{what}: FAMILIES[{name!r}] is {declaration!r}, neither a Family nor the name of one "
                f"({', '.join(known)}).{nearest(str(declaration), known)}"
            )
        if not callable(function := getattr(module, name, None)):
            raise MIError(
                f"{what}: FAMILIES has {name!r}, but there is no function of this name.{nearest(name, functions)}"
            )
        found.append(OwnUpstream(name, family, function, what, source, digest, installed))
    return found


def _source_hash(source: Path, neighbours: Sequence[Path]) -> str:
    """sha256 (hex) of a module's source and its neighbours; of one in a package, of all sources of that package."""
    package = (source.parent / "__init__.py").is_file()
    files = sorted(source.parent.rglob("*.py")) if package else [source, *neighbours]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
