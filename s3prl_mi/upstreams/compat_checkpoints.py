"""What s3prl's files may do with a checkpoint: read weights and literals, run nothing that the file brings.

Two builders of s3prl ask torch for `weights_only=False`, and many models call `eval` on strings of the config that
lies in the checkpoint: either would run code that the file contains. Each file of s3prl that does so sees another
`torch.load`, or another `eval`, from here. A user who trusts a file says so (`--trust_checkpoint`).
"""

from __future__ import annotations

import ast
import contextlib
import operator
import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

_LOADS = re.compile(r"\btorch\.load\(")
_EVALUATES = re.compile(r"(?<![\w.])eval\((?!module_name|hook\.module_path)")
"""`eval` of anything but the names of modules that a file of s3prl spells out itself."""

LONGEST = 1000
"""Items of a list, or characters, that a repetition (`[(512,3,2)] * 4`) may make."""

_trusted = False


@contextlib.contextmanager
def trusting(yes: bool) -> Iterator[None]:
    """Whether checkpoints may run code while they are read in this block: only where the user says so."""
    global _trusted
    before, _trusted = _trusted, yes
    try:
        yield
    finally:
        _trusted = before


def is_trusted() -> bool:
    """Whether the user trusts the checkpoint that is being read."""
    return _trusted


class Inert:
    """What an object of a foreign class becomes when a checkpoint is read: it keeps data and runs nothing.

    fairseq puts omegaconf containers, enums and dictionaries into its files. Their classes need not be
    installed, and no code of theirs (or of those who made the file) is run.
    """

    def __new__(cls, *args: Any) -> Inert:
        """Keep the arguments; whatever name the file calls stands for this."""
        self = super().__new__(cls)
        self.__dict__.update(args=args, state=None, items={})
        return self

    def __setstate__(self, state: Any) -> None:
        self.__dict__["state"] = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.__dict__["items"][key] = value


_SCHEDULES = [
    (Inert, f"{module}.{name}")
    for module in ("optimizers", "s3prl.optimizers")
    for name in (
        "ConstantLR",
        "WarmupCosineSchedule",
        "WarmupCosineWithHardRestartsSchedule",
        "WarmupCosineWithWarmupRestartsSchedule",
        "WarmupConstantSchedule",
        "WarmupLinearSchedule",
    )
]
"""Schedules of the learning rate that s3prl's first trainers pickled with their weights; nothing reads them."""


class WeightsOnly:
    """The torch module as one s3prl file sees it: `load` reads weights only, onto the CPU unless a place is named.

    Those files call `torch.load(ckpt)`, which fails on a machine without a GPU for a checkpoint saved on one; s3prl
    moves the model to its device afterwards. Everybody else's torch.load stays as it is.
    """

    def __init__(self, torch: ModuleType) -> None:
        self._torch = torch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._torch, name)

    def load(self, file: Any, map_location: Any = "cpu", *args: Any, **options: Any) -> Any:
        """What torch.load returns; it raises as that does for what is not weights, whatever the caller asks for."""
        options["weights_only"] = not _trusted
        with self._torch.serialization.safe_globals(_SCHEDULES):
            return self._torch.load(file, map_location, *args, **options)


def guard(module: ModuleType, source: str) -> None:
    """Let a file of s3prl's upstreams, which has been imported, read weights and evaluate literals only."""
    if _LOADS.search(source):
        module.__dict__["torch"] = WeightsOnly(module.__dict__["torch"])
    if _EVALUATES.search(source):
        module.__dict__["eval"] = literal


def literal(text: str) -> Any:
    """The value of a literal with `+` and `*`, or a function of torchaudio.compliance.kaldi: all that configs need.

    Example:
        >>> literal("[(512,10,5)] + [(512,3,2)] * 2")
        [(512, 10, 5), (512, 3, 2), (512, 3, 2)]

    Raises:
        ValueError: anything else, or a list that would be very long.
    """
    kaldi = re.fullmatch(r"torchaudio\.compliance\.kaldi\.([a-z]\w*)", text)
    if kaldi:
        return getattr(sys.modules["torchaudio"].compliance.kaldi, kaldi[1])
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        raise ValueError(f"not a plain value: {text[:80]!r}") from None


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub, ast.Mult)):
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Mult):
            lengths = [len(side) for side in (left, right) if hasattr(side, "__len__")]
            times = [side for side in (left, right) if isinstance(side, int)]
            if lengths and times and lengths[0] * times[0] > LONGEST:
                raise ValueError("too long")
        action = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}[type(node.op)]
        return action(left, right)
    if isinstance(node, (ast.List, ast.Tuple)):
        return (list if isinstance(node, ast.List) else tuple)(map(_value, node.elts))
    return ast.literal_eval(node)
