"""`s3prl-mi doctor`: what of the installation works, and how to fix what does not.

Every check yields findings; one that fails unexpectedly becomes a FAIL of its own, so that the others are
still made. s3prl's needs are tested by doing what s3prl does, not by reading version numbers.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..core.errors import MIError, nearest
from ..core.types import SAMPLE_RATE
from ..upstreams import compat
from ..upstreams.checkpoints import describe_checkpoint
from ..upstreams.names import FILE_SUFFIXES, checkpoint_urls, upstream_names

State = Literal["ok", "warn", "FAIL"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `fix` says what to do, or is empty."""

    state: State
    what: str
    found: str
    fix: str = ""

    def __str__(self) -> str:
        fix = f"\n{'':7}-> {self.fix}" if self.fix else ""
        return f"{self.state:<6} {self.what}: {self.found}{fix}"


Check = Callable[[], Iterator[Finding]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `s3prl-mi doctor`, named as in s3prl."""
    parser.add_argument("-u", "--upstream", help="also look for this upstream's checkpoint")
    parser.add_argument("-k", "--upstream_ckpt", metavar="PATH", help="also look at this checkpoint file")
    parser.add_argument("--quick", action="store_true", help="leave out the import of all upstreams (10 s)")


def run(args: argparse.Namespace) -> int:
    """Check the installation and print one line per finding.

    Returns:
        The exit status: 1 if anything is FAIL, else 0.
    """
    checks = dict(CHECKS)
    if args.upstream is not None:
        checks["upstream"] = functools.partial(_upstream, args.upstream, args.upstream_ckpt)
    if args.upstream_ckpt is not None:
        checks["checkpoint"] = functools.partial(_checkpoint, args.upstream_ckpt)
    if not args.quick:
        checks["all upstreams"] = _all_upstreams
    states = []
    for finding in _findings(checks.items()):
        states.append(finding.state)
        print(finding, flush=True)
    print(f"\n{states.count('ok')} ok, {states.count('warn')} warnings, {states.count('FAIL')} failures")
    return 1 if "FAIL" in states else 0


def _findings(checks: Iterable[tuple[str, Check]]) -> Iterator[Finding]:
    for what, check in checks:
        try:
            yield from check()
        except MIError as error:
            yield Finding("FAIL", what, str(error))
        except Exception as error:  # a check must not hide the ones after it
            yield Finding("FAIL", what, f"{type(error).__name__}: {error}")


# --- versions -------------------------------------------------------------------------------------------


def _python() -> Iterator[Finding]:
    version, good = platform.python_version(), sys.version_info >= (3, 10)
    fix = "" if good else "use Python 3.10 or newer"
    yield Finding("ok" if good else "FAIL", "Python", f"{version} ({sys.executable})", fix)


def _versions() -> Iterator[Finding]:
    for name, (first, last) in compat.SUPPORTED.items():
        yield version_finding(name, first, last)


def version_finding(name: str, first: str, last: str) -> Finding:
    """Whether an installed package's version lies in first <= version < last."""
    version, install = _version(name), f'pip install "{name}>={first},<{last}"'
    if version == "0":
        return Finding("FAIL", name, "not installed", install)
    if compat.version_tuple(first) <= compat.version_tuple(version) < compat.version_tuple(last):
        return Finding("ok", name, version)
    return Finding("warn", name, version, f"tested with {first} <= version < {last}: {install}")


def _version(package: str) -> str:
    """Of an installed package, or of Python; 0 where it is missing."""
    if package == "Python":
        return platform.python_version()
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "0"


def _libraries() -> Iterator[Finding]:
    """Import what s3prl and the plugin need; a library that is there may still not load."""
    compat.apply()
    for name in ("torch", "torchaudio", "soundfile", "soxr", "sklearn", "matplotlib", "tensorboardX", "yaml"):
        try:
            importlib.import_module(name)
        except compat.BrokenInstallation as error:
            yield Finding("FAIL", f"import {name}", str(error))
        except (ImportError, OSError) as error:
            yield Finding("FAIL", f"import {name}", str(error), f"install it again: pip install {name}")
        else:
            yield Finding("ok", f"import {name}", "works")


# --- s3prl on these libraries ---------------------------------------------------------------------------


def _s3prl_needs() -> Iterator[Finding]:
    """Which of s3prl's imports would break without `compat`, and whether they work with it."""
    compat.apply()
    for name, package, gone_since, use in _NEEDS:
        version = _version(package)
        gone = compat.version_tuple(version) >= compat.version_tuple(gone_since)
        without = f"missing in {package} {version}, s3prl alone breaks" if gone else "there"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # libraries announce the end of what is still there
                use()
        except Exception as error:  # whatever it is, s3prl would meet it too
            fix = f"install a supported {package}" if package in compat.SUPPORTED else ""
            yield Finding("FAIL", f"s3prl needs {name}", f"{type(error).__name__}: {error}", fix)
        else:
            yield Finding("ok", f"s3prl needs {name}", f"{without}; stand-in works" if gone else without)


def _use_backend() -> None:
    import torchaudio

    torchaudio.set_audio_backend("sox_io")


def _use_effects() -> None:
    import torch
    from torchaudio.sox_effects import apply_effects_tensor

    apply_effects_tensor(torch.zeros(1, 160), SAMPLE_RATE, [["channels", "1"], ["gain", "-3.0"]])


def _use_load() -> None:
    import numpy as np
    import soundfile
    import torchaudio

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.flac"
        soundfile.write(path, np.zeros(160, np.float32), SAMPLE_RATE)
        wave, rate = torchaudio.load(str(path))
        if tuple(wave.shape) != (1, 160) or rate != SAMPLE_RATE:
            raise RuntimeError(f"read shape {tuple(wave.shape)} at {rate} Hz")


def _use_hub() -> None:
    from huggingface_hub import HfApi, HfFolder, Repository  # noqa: F401


def _use_checkpoint() -> None:
    import torch

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "states-1.ckpt"
        torch.save({"Args": argparse.Namespace(seed=1)}, path)
        torch.load(path, map_location="cpu")


def _use_distutils() -> None:
    importlib.import_module("distutils.util").strtobool("true")


_NEEDS: tuple[tuple[str, str, str, Callable[[], object]], ...] = (
    ("torchaudio.set_audio_backend", "torchaudio", "2.9", _use_backend),
    ("torchaudio.sox_effects", "torchaudio", "2.9", _use_effects),
    ("torchaudio.load without TorchCodec", "torchaudio", "2.9", _use_load),
    ("huggingface_hub.HfFolder, Repository", "huggingface_hub", "1.0", _use_hub),
    ("torch.load of its checkpoints", "torch", "2.6", _use_checkpoint),
    ("distutils", "Python", "3.12", _use_distutils),
)
"""What s3prl 0.4.18 asks of another library: its name, the library, the first version without it, and a function that
does what s3prl does."""


def _plugin() -> Iterator[Finding]:
    """Whether stock s3prl, too, knows our tasks: the line of s3prl_mi.pth ran when this Python started."""
    what = "-d mi_views in stock s3prl"
    if any(getattr(finder, "__name__", "") == "S3prlMIStart" for finder in sys.meta_path):
        yield Finding("ok", what, "known, by s3prl_mi.pth")
    else:
        fix = "run_downstream.py works all the same; for `python -m s3prl.run_downstream`: pip install s3prl_mi"
        yield Finding("warn", what, "unknown: s3prl_mi.pth is not in this Python's site-packages", fix)


def _all_upstreams() -> Iterator[Finding]:
    """Import s3prl's own script, which imports every upstream."""
    begin = time.perf_counter()
    importlib.import_module("s3prl.run_downstream")
    yield Finding("ok", "import s3prl.run_downstream", f"works ({time.perf_counter() - begin:.0f} s)")


# --- machine --------------------------------------------------------------------------------------------


def _gpu() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        found = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    else:
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU"
        found = f"none usable (torch built for {built}); --device cuda falls back to the CPU, {os.cpu_count()} cores"
    yield Finding("ok", "GPU", found)


def _audio() -> Iterator[Finding]:
    import numpy as np
    import soundfile

    wave = np.sin(np.arange(1600) / 20).astype(np.float32) / 2
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("wav", "flac"):
            path = Path(folder) / f"a.{kind}"
            soundfile.write(path, wave, SAMPLE_RATE)
            again, rate = soundfile.read(path, dtype="float32")
            error = float(np.abs(again - wave).max())
            good = rate == SAMPLE_RATE and error < 1e-4
            fix = "" if good else "pip install --force-reinstall soundfile"
            yield Finding("ok" if good else "FAIL", f"audio {kind}", f"write and read, error {error:.1e}", fix)


def _espeak() -> Iterator[Finding]:
    """The demo corpus needs eSpeak NG's library and voices; measuring real speech does not."""
    fix = "only `s3prl-mi demo` needs it: pip install --force-reinstall espeakng-loader"
    try:
        import ctypes

        import espeakng_loader

        library, data = espeakng_loader.get_library_path(), Path(espeakng_loader.get_data_path())
        ctypes.CDLL(library)
    except (ImportError, OSError, RuntimeError) as error:
        yield Finding("warn", "eSpeak NG", str(error), fix)
        return
    voices = sum(1 for p in (data / "voices").rglob("*") if p.is_file()) if data.is_dir() else 0
    if voices == 0:
        yield Finding("warn", "eSpeak NG", f"{library}: no voices in {data}", fix)
    else:
        yield Finding("ok", "eSpeak NG", f"{library}, {voices} voices")


# --- folders --------------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Where s3prl keeps downloaded checkpoints, as <sha256 of the URL>.<file name>."""
    module = sys.modules.get("s3prl.util.download")
    return Path(module._download_dir) if module is not None else Path.home() / ".cache" / "s3prl" / "download"


def _cache() -> Iterator[Finding]:
    folder = cache_folder()
    files = [p for p in folder.glob("*") if p.is_file() and p.suffix != ".lock"] if folder.is_dir() else []
    size = sum(p.stat().st_size for p in files) / 1e9
    yield _folder_finding("s3prl's downloads", folder, f"{len(files)} files, {size:.2f} GB", 2)


def _store() -> Iterator[Finding]:
    from ..states.store import default_root  # it needs numpy, which `s3prl-mi -h` does not

    root = default_root()
    yield _folder_finding("store of hidden states", root, "there" if root.is_dir() else "not yet made", 10)


def _folder_finding(what: str, folder: Path, found: str, wanted_gb: float) -> Finding:
    """A folder's state: writable (or its nearest parent is), and with free space."""
    parent = folder
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    free = shutil.disk_usage(parent).free / 1e9
    text = f"{folder} ({found}; {free:.0f} GB free)"
    other = "set S3PRL_MI_STORE or config key downstream_expert.store.root to another folder"
    fix = other if "store" in what else "fix its permissions, or free some space"
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        return Finding("FAIL", what, f"{text}: {parent} cannot be written to", fix)
    if free < wanted_gb:
        return Finding("warn", what, f"{text}: less than {wanted_gb:g} GB", fix)
    return Finding("ok", what, text)


# --- upstream and checkpoint ----------------------------------------------------------------------------


def _upstream(name: str, ckpt: str | None) -> Iterator[Finding]:
    what, names = f"upstream {name}", upstream_names()
    if name not in names:
        yield Finding("FAIL", what, f"unknown.{nearest(name, names)}", "s3prl-mi upstreams lists all")
        return
    urls = checkpoint_urls(name)
    if not urls and name.endswith(FILE_SUFFIXES) and ckpt is None:
        yield Finding("warn", what, "takes a checkpoint of yours", "name it with -k")
    elif not urls:
        yield Finding("ok", what, "known; s3prl names no file that it downloads")
    for url in urls:
        path = cached_file(url)
        if path.is_file() and path.stat().st_size > 0:
            yield Finding("ok", what, f"{path} ({path.stat().st_size / 1e6:.0f} MB)")
        else:
            fix = f"it is downloaded at first use; offline: download {url} and save it as {path}"
            yield Finding("warn", what, "checkpoint not downloaded yet", fix)


def cached_file(url: str) -> Path:
    """Where s3prl keeps the download of a URL."""
    return cache_folder() / f"{hashlib.sha256(url.encode()).hexdigest()}.{Path(url).name}"


def _checkpoint(ckpt: str) -> Iterator[Finding]:
    path = Path(ckpt)
    if not path.exists():
        yield Finding("FAIL", f"checkpoint {ckpt}", "no such file or folder", "check the path given by -k")
        return
    description, reader = describe_checkpoint(path)
    state: State = "ok" if reader else "warn"
    fix = f"read it with -u {reader}" if reader else "name the upstream that wrote it with -u"
    yield Finding(state, f"checkpoint {ckpt}", description, fix)


CHECKS: dict[str, Check] = {
    "Python": _python,
    "versions": _versions,
    "libraries": _libraries,
    "s3prl's needs": _s3prl_needs,
    "plugin": _plugin,
    "GPU": _gpu,
    "audio": _audio,
    "eSpeak NG": _espeak,
    "s3prl's downloads": _cache,
    "store of hidden states": _store,
}
"""What is always checked, under the name of a check that breaks."""
