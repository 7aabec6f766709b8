"""Upstreams of a user's own: a module with functions as in an s3prl hubconf, and `FAMILIES`.

    # my_upstreams.py
    from s3prl_mi.upstreams.families import Family

    def my_model(ckpt=None, model_config=None, refresh=False):
        return MyExpert(ckpt)  # forward(list of waveforms) -> {"hidden_states": [...]}

    FAMILIES = {"my_model": Family("my_model", view="mask", mask_site="model.encoder", ...)}

It is named by `--upstream_module my_upstreams.py` (or `package.module`), or by an entry point of the group
`s3prl_mi.upstreams` of an installed package. The upstreams of `s3prl_mi.upstreams.extra.hubconf` come the same way.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from ..core.errors import MIError, nearest
from ..core.files import PACKAGE
from . import compat, families
from .extra import hubconf
from .families import Family
from .s3prl_names import stock_names

ENTRY_POINTS = "s3prl_mi.upstreams"
"""Group of entry points; each names a module."""
FLAG = "--upstream_module"
_EXAMPLE = 'FAMILIES = {"NAME": Family("NAME", view="shift", geometry=Geometry(320, 199.5))}'


@dataclass(frozen=True)
class OwnUpstream:
    """An upstream that is not s3prl's.

    Attributes:
        name: as given to `-u`.
        function: `function(ckpt=..., model_config=..., refresh=...)` returns the expert.
        origin: where it was named: a file, a module or an entry point.
        source: file of the module.
        sha256: hash (hex) of the module's source and of its neighbours (those in its package, or those beside it
            that it imports); part of the fingerprint.
        installed: whether it comes with s3prl_mi or by an entry point, not by the command line.
    """

    name: str
    function: Callable[..., Any]
    origin: str
    source: Path
    sha256: str
    installed: bool = False


_OWN: dict[str, OwnUpstream] = {}


def load_module(path_or_name: str) -> None:
    """Make the upstreams of a module known by name, for `-u`; what is known already is left as it is.

    Args:
        path_or_name: a Python file, or a dotted module name (`--upstream_module`).

    Raises:
        MIError: no such file or module, an error while importing it, or a function without its family.
    """
    what = f"{FLAG} {path_or_name!r}"
    path = Path(path_or_name).expanduser()
    before = set(sys.modules)
    if path.suffix != ".py" and not path.exists():
        module = _import_named(path_or_name, what)
        _register(
            module, what, beside=_beside(Path(module.__file__ or "").resolve(), set(sys.modules) - before)
        )
        return
    if not path.is_file():
        kind = "is a folder; name the file in it" if path.is_dir() else "does not exist"
        raise MIError(f"{what} {kind}.")
    source = path.resolve()
    if any(own.source == source for own in _OWN.values()):
        return
    module = _import_file(source, what)
    _register(module, what, beside=_beside(source, set(sys.modules) - before))


def find_own(name: str) -> OwnUpstream | None:
    """The upstream of that name which is not s3prl's, or None.

    Raises:
        MIError: an entry point that cannot be imported.
    """
    if name not in _OWN:
        load_entry_points()
    return _OWN.get(name)


def known() -> dict[str, OwnUpstream]:
    """Every upstream that is not s3prl's, by name."""
    load_entry_points()
    return dict(_OWN)


def show_to_s3prl(hub: ModuleType) -> None:
    """Set every upstream that is not s3prl's on `s3prl.hub`, for s3prl's own tasks (`-d ctc -u dinosr`)."""
    for name, own in known().items():
        setattr(hub, name, own.function)


@functools.cache
def load_entry_points() -> None:
    """Load, once, the modules that installed packages name in the group `s3prl_mi.upstreams`.

    Raises:
        MIError: one of them cannot be imported.
    """
    for point in sorted(entry_points(group=ENTRY_POINTS)):
        what = f"entry point {point.name!r} of {_package(point)}"
        try:
            module = importlib.import_module(point.module)
        except Exception as error:
            raise MIError(
                f"{what}: importing {point.module!r} failed ({_where(error, None)}). Mend or uninstall it."
            ) from error
        _register(module, what, installed=True)


def _package(point: EntryPoint) -> str:
    distribution = getattr(point, "dist", None)
    return f"package {distribution.name!r}" if distribution is not None else "an installed package"


def _import_named(name: str, what: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and name.startswith(error.name or " "):
            raise MIError(
                f"{what}: no such file, and no module of this name. Give the path of a .py file, or a module that "
                "is installed or on PYTHONPATH."
            ) from error
        raise MIError(f"{what} cannot be imported: {_where(error, None)}.") from error


def _import_file(path: Path, what: str) -> ModuleType:
    """The module of a file, which finds its neighbours as a script does."""
    name = f"s3prl_mi_upstream_module_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise MIError(f"{what} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look their module up
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        sys.modules.pop(name, None)
        raise MIError(f"{what} cannot be imported: {_where(error, path)}.") from error
    return module


def _beside(source: Path, names: Iterable[str]) -> list[Path]:
    """Files of modules that lie in or below the folder of `source`, which a script finds without installation."""
    files = {Path(f) for n in names if (f := getattr(sys.modules.get(n), "__file__", None))}
    files = {f for f in files if f.is_absolute()}  # torch.classes calls itself _classes.py, which is no file
    libraries = (PACKAGE, compat.s3prl_folder().resolve())
    return sorted(
        f
        for f in {f.resolve() for f in files}
        if f.is_relative_to(source.parent)
        and f != source
        and "site-packages" not in f.parts
        and not any(f.is_relative_to(library) for library in libraries)
    )


def _where(error: Exception, path: Path | None) -> str:
    """An import error with the line that raised it: the last one in `path`, else the last one of all."""
    text = f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}"
    if isinstance(error, SyntaxError):
        return f"{text} (line {error.lineno} of {Path(error.filename or '?').name})"
    frames = traceback.extract_tb(error.__traceback__)
    inside = [f for f in frames if path is not None and f.filename == str(path)]
    last = (inside or frames)[-1]
    return f"{text} (line {last.lineno} of {Path(last.filename).name})"


def _register(module: ModuleType, what: str, installed: bool = False, beside: Sequence[Path] = ()) -> None:
    """Take over the functions that FAMILIES names; `beside` are files that the module is made of, too."""
    source = Path(module.__file__ or "").resolve()
    if any(own.source == source for own in _OWN.values()):
        return
    declared = getattr(module, "FAMILIES", None)
    functions = {n for n, f in vars(module).items() if _is_public_function(f, n, module)}
    if not isinstance(declared, dict) or not declared:
        wanted = f" for {', '.join(sorted(functions))}" if functions else ""
        raise MIError(f"{what} has no FAMILIES{wanted}. Add, at its top level, {_EXAMPLE}.")
    for name in sorted(functions - set(declared)):
        raise MIError(
            f"{what}: function {name!r} has no family. Add it to FAMILIES; if it is no upstream, call it _{name}."
        )
    entries = {n: _declared_family(n, f, what) for n, f in declared.items()}
    for name in declared:
        if not callable(getattr(module, name, None)):
            raise MIError(
                f"{what}: FAMILIES has {name!r}, but there is no function of this name.{nearest(name, functions)}"
            )
        owner = _OWN[name].origin if name in _OWN else "s3prl" if name in stock_names() else None
        if owner is not None:
            raise MIError(f"{what}: {name!r} is already an upstream of {owner}; call yours otherwise.")
    digest = _source_hash(source, beside)
    for name, family in entries.items():
        families.register_family(name, family)
        _OWN[name] = OwnUpstream(name, getattr(module, name), what, source, digest, installed)


def _is_public_function(value: Any, name: str, module: ModuleType) -> bool:
    return inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")


def _declared_family(name: Any, family: Any, what: str) -> Family:
    """A Family as it is, or the known family of that name."""
    if isinstance(family, Family):
        return family
    choices = families.registered()
    if isinstance(family, str) and family in choices:
        return choices[family]
    hint = nearest(family, choices) if isinstance(family, str) else ""
    raise MIError(
        f"{what}: FAMILIES[{name!r}] is {family!r}, neither a Family nor the name of one ({', '.join(choices)}).{hint}"
    )


def _source_hash(source: Path, beside: Sequence[Path] = ()) -> str:
    """sha256 (hex) of a module's source and those `beside` it; of one in a package, of all sources of that package."""
    package = (source.parent / "__init__.py").is_file()
    files = sorted(source.parent.rglob("*.py")) if package else [source, *beside]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


_register(hubconf, "s3prl_mi", installed=True)
