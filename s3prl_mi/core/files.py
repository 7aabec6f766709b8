"""Files on disk: written whole or not at all, JSON lines, text in any Unicode, and where this package lies.

A kill or a full disk at any moment leaves the old file, or every line but the last.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .errors import MIError

PACKAGE = Path(__file__).resolve().parents[1]
"""The folder of `s3prl_mi`; its parent is the checkout, or site-packages."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path next to `path`; what the block writes there is forced to disk and then takes its place.

    The folder of `path` is made if it is missing. A block that raises leaves `path` as it was.

    Yields:
        A path that ends in a new suffix only, since `torch.save` keeps the name before the last dot in the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp{os.getpid()}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes | str) -> None:
    """Put `content` (text as UTF-8) at `path` in one step, so that nobody ever reads half a file."""
    with replacing(path) as temporary:
        temporary.write_bytes(content if isinstance(content, bytes) else content.encode())


def remove_all(path: Path) -> None:
    """Remove a file, or a folder with what is in it; what is gone already, or not ours to remove, is passed over."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def read_text(path: Path) -> str:
    """A file of the user's as text: by its byte order mark, UTF-8 without one.

    Raises:
        MIError: no such file, or not such text.
    """
    try:
        data = path.read_bytes()
        return data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise MIError(f"{path}: cannot be read as UTF-8 or UTF-16 text ({error}).") from error


def write_torch(path: Path, content: Any) -> None:
    """`torch.save`, in one step; a full disk is an OSError as everywhere."""
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_whole(path, buffer.getvalue())


def read_torch(path: Path, what: str) -> Any:
    """What `write_torch` has written, on the CPU, weights only; `what` it is, for messages.

    torch itself does not look at the checksums in its files.

    Raises:
        FileNotFoundError: it is missing.
        MIError: it is damaged, or no such file.
    """
    import torch

    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:
                damaged = file.testzip()
            if damaged is not None:
                raise ValueError(f"{damaged} in it is not as it was written")
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever is in the file
        why = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise MIError(f"{path}: not {what}, or damaged ({why}).") from error


def append_lines(path: Path, objects: Iterable[dict[str, Any]]) -> None:
    """Append objects to a JSON-lines file and force them to disk.

    A last line without a newline, left by a kill, is cut off first.
    """
    text = "".join(json.dumps(o, default=str) + "\n" for o in objects)
    with open(path, "ab+") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        if file.read(1) not in (b"", b"\n"):
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Every whole line of a JSON-lines file with its number, counted from 1; none where there is no file.

    Raises:
        MIError: it cannot be read, such as a folder.
    """
    try:
        yield from enumerate(path.read_bytes().split(b"\n")[:-1], start=1)
    except FileNotFoundError:
        return
    except OSError as error:
        raise MIError(f"{path}: cannot be read ({error.strerror}).") from error


def expanded(path: str, what: str) -> Path:
    """A path of the user's, with `~` for a home folder; `what` names it in messages.

    Raises:
        MIError: no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise MIError(f"{what} {path!r}: no home folder of that user is known.") from error
