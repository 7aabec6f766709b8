"""A GPU that is not there: torch's fake tensors, which have a device and no numbers.

What mixes devices raises. What the host asks of the device is answered by a guess and counted, by the line of code that
asks: on a GPU it waits there until all that was begun before is done. So it does where it copies to the device; that is
counted apart, as frames must come there.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


class _Answering(TorchDispatchMode):
    """Answers True, 1 and "all of them" to what a fake tensor cannot know, and counts what a GPU was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, operation = kwargs or {}, func.overloadpacket
        x = args[0] if args and isinstance(args[0], torch.Tensor) else None
        target = torch.device(kwargs.get("device") or "meta").type if operation is aten._to_copy else ""
        if x is not None and (x.device.type, target) == ("cpu", "cuda") and not kwargs.get("non_blocking"):
            self.copies[_asking()] += 1
        to_host = target == "cpu"
        if x is None or not (to_host or operation in (aten._local_scalar_dense, aten.nonzero, aten.bincount)):
            return func(*args, **kwargs)
        if x.device.type == "cuda":
            self.waits[_asking()] += 1
        if operation is aten._local_scalar_dense:
            return 1.0 if x.dtype.is_floating_point else x.dtype == torch.bool
        if operation is aten.nonzero:
            return torch.stack([torch.arange(x.shape[0], device=x.device)] * x.dim(), 1)
        if operation is aten.bincount:
            return torch.zeros(kwargs.get("minlength", 2), dtype=torch.long, device=x.device)
        return func(*args, **kwargs)


def _asking() -> str:
    """The innermost line of code outside torch: `package/file.py:line`."""
    frame = sys._getframe(2)
    while "/torch/" in frame.f_code.co_filename and frame.f_back is not None:
        frame = frame.f_back
    path = Path(frame.f_code.co_filename)
    package = next((n for n in ("s3prl_mi", "s3prl", "transformers", "tests") if n in path.parts), path.parent.name)
    start = len(path.parts) - 1 - path.parts[::-1].index(package) if package in path.parts else -2
    return f"{'/'.join(path.parts[start:])}:{frame.f_lineno}"


@contextlib.contextmanager
def stand_in() -> Iterator[_Answering]:
    """While in this context tensors are fake, and `device="cuda"` may be used; yields what is counted.

    The test is skipped where torch asks for a driver all the same, as 2.8 does and 2.14 does not.
    """
    try:
        with FakeTensorMode():
            torch.zeros(1).to("cuda")
    except RuntimeError as error:
        pytest.skip(f"torch {torch.__version__} has no fake GPU ({str(error).splitlines()[0]})")
    with FakeTensorMode(allow_non_fake_inputs=True), _Answering() as mode:
        yield mode


def move(model: nn.Module) -> None:
    """Put a real model's weights on the device, in a `stand_in`."""
    for module in model.modules():
        for name, value in module._parameters.items():
            if value is not None:
                fake = torch.empty(value.shape, dtype=value.dtype, device="cuda")
                module._parameters[name] = nn.Parameter(fake, requires_grad=False)
        for name, value in module._buffers.items():
            if value is not None:
                module._buffers[name] = torch.empty(value.shape, dtype=value.dtype, device="cuda")
