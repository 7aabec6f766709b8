"""The checkpoint that `-k` names, for upstreams that are not in s3prl."""

from __future__ import annotations

from pathlib import Path

from ...core.errors import MIError
from ..checkpoints import describe_checkpoint


def checkpoint_file(name: str, ckpt: str | None, refresh: bool) -> Path:
    """The file behind `-k`; a URL is downloaded to s3prl's cache.

    Raises:
        MIError: no checkpoint given, or no such file.
    """
    if ckpt is None:
        raise MIError(f"upstream {name!r} needs a checkpoint: -k CHECKPOINT.")
    if ckpt.startswith(("http://", "https://")):
        from s3prl.util.download import _urls_to_filepaths

        return Path(_urls_to_filepaths(ckpt, refresh=refresh))
    path = Path(ckpt)
    if not path.exists():
        raise MIError(f"upstream {name!r}: checkpoint -k {ckpt!r} does not exist.")
    if path.is_dir():
        raise MIError(f"upstream {name!r}: -k {ckpt!r} is a folder, but a file is needed.{advice(path)}")
    return path


def advice(path: Path) -> str:
    """What a checkpoint looks like, as a sentence with a leading space; empty if nothing can be said."""
    if not path.exists():
        return ""
    looks, upstream = describe_checkpoint(path)
    return f" The checkpoint looks like {looks}." + (f" Try -u {upstream}." if upstream else "")
