"""How a stock, unmodified s3prl knows `-d mi_supervised` and `-d mi_views`, and finds what its wheel lacks for `ctc`.

The installed file `s3prl_mi.pth` holds one line that Python runs at every start. It only puts a class on
`sys.meta_path` (some microseconds, no import) which waits for `import s3prl` and then calls `start` below.
Spelt out, that line is:

    class S3prlMIStart:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "s3prl":                  # the lines below are compiled only then
                try:
                    if not os.environ.get("S3PRL_MI_NO_HOOK"):
                        from s3prl_mi.downstream import hook
                        hook.start()
                except Exception as error:                           # s3prl must start without us, too
                    if getattr(error, "name", None) != "s3prl_mi":   # silent where the package is gone
                        print(f"s3prl_mi is not active: {error!r}", file=sys.stderr)
    sys.meta_path.insert(0, S3prlMIStart)

`S3PRL_MI_NO_HOOK=1` switches it off.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import sys
from collections.abc import Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import ClassVar

from ..core.config import TASKS, default_config
from ..upstreams import compat


def start() -> None:
    """What happens at the first `import s3prl` of a process in which this package is installed."""
    if not _installed():
        install()
        _give_stock_script_our_config(sys.argv, sys.orig_argv)


def install() -> None:
    """Apply `compat`, and make our tasks and what s3prl's wheel lacks importable; safe to call again."""
    compat.apply()
    if not _installed():
        sys.meta_path.insert(0, _TaskFinder())
        sys.meta_path.append(_Substitutes())


def _installed() -> bool:
    return any(isinstance(finder, _TaskFinder) for finder in sys.meta_path)


class _TaskFinder:
    """Resolves `s3prl.downstream.<task>[.expert]` to `s3prl_mi.downstream.<task>[.expert]`."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        parts = name.split(".")
        if parts[:2] != ["s3prl", "downstream"] or len(parts) < 3 or parts[2] not in TASKS:
            return None
        loader = _Alias(".".join(["s3prl_mi", *parts[1:]]))
        return ModuleSpec(name, loader, is_package=len(parts) == 3)


class _Substitutes:
    """Finds what the installed s3prl lacks; the last finder, so that whatever is installed comes first."""

    modules: ClassVar[dict[str, str]] = {
        "s3prl.downstream.ctc.corpus": "s3prl_mi.superb",
        "s3prl.downstream.ctc.corpus.libriphone": "s3prl_mi.superb.datasets",
        "s3prl.downstream.ctc.corpus.librispeech": "s3prl_mi.superb.datasets",
        "editdistance": "s3prl_mi.superb.arks",
    }

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self.modules:
            return None
        return ModuleSpec(name, _Alias(self.modules[name]), is_package=name.endswith(".corpus"))


class _Alias(Loader):
    """Loads one module under a second name: the same object, so that classes and state exist once."""

    def __init__(self, real_name: str) -> None:
        self._real_name = real_name
        self._real_spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._real_name)
        self._real_spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._real_spec  # the import system has just set the alias's; it is loaded already


def _give_stock_script_our_config(argv: list[str], orig_argv: Sequence[str]) -> None:
    """Let `-c` be optional in s3prl's own script as well: name our default config on its command line.

    Its default is ./downstream/<task>/config.yaml, relative to the current folder. Only the command line of
    s3prl's run_downstream is touched, and only for our tasks, without `-c` and without `-e`.
    """
    is_module = ("-m", "s3prl.run_downstream") in itertools.pairwise(orig_argv)
    if not is_module and Path(argv[0] if argv else "").name != "run_downstream.py":
        return
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    for names in (("-d", "--downstream"), ("-c", "--config"), ("-e", "--past_exp")):
        parser.add_argument(*names)
    with contextlib.suppress(argparse.ArgumentError):  # s3prl's own parser reports it
        found, _ = parser.parse_known_args(argv[1:])
        if found.downstream in TASKS and not (found.config or found.past_exp):
            argv += ["-c", str(default_config(found.downstream))]
