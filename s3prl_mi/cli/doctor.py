"""`s3prl-mi doctor`: what of the installation works, and how to fix what does not.

A check looks at one thing and returns what it found; whatever it raises is a finding too, so that the checks after it
are still made. s3prl's needs are tested by doing what s3prl does, not by reading version numbers.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from ..core.errors import MIError, nearest
from ..core.types import SAMPLE_RATE
from ..superb.tasks import GITHUB, TASKS, SuperbTask, missing_code, missing_packages
from ..upstreams import compat
from ..upstreams.checkpoints import describe_checkpoint
from ..upstreams.names import FILE_SUFFIXES, cache_folder, cached_file, checkpoint_urls, upstream_names

State = Literal["ok", "warn", "FAIL"]


@dataclass(eq=False)
class Finding(Exception):
    """What a check found, and what to do about it (or nothing)."""

    state: State
    found: str
    fix: str = ""


class Check(NamedTuple):
    """One thing to look at."""

    what: str
    look: Callable[[], str]
    """Returns what it found; raises a `Finding`, or anything else, where that is not good."""
    fix: str = ""
    """What to do where it raises anything but a Finding."""

    def finding(self) -> Finding:
        """Make the check."""
        try:
            return Finding("ok", self.look())
        except Finding as finding:
            return finding
        except MIError as error:  # its message says what to do
            return Finding("FAIL", str(error))
        except Exception as error:  # a check must not hide the ones after it
            return Finding("FAIL", f"{type(error).__name__}: {error}", self.fix)


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
    states = []
    for check in checks(args.upstream, args.upstream_ckpt, args.quick):
        finding = check.finding()
        states.append(finding.state)
        print(f"{finding.state:<6} {check.what}: {finding.found}", flush=True)
        if finding.fix:
            print(f"{'':7}-> {finding.fix}", flush=True)
    print(f"\n{states.count('ok')} ok, {states.count('warn')} warnings, {states.count('FAIL')} failures")
    return 1 if "FAIL" in states else 0


def checks(upstream: str | None = None, ckpt: str | None = None, quick: bool = False) -> Iterator[Check]:
    """Every check, in the order of the report."""
    yield Check("Python", lambda: f"{platform.python_version()} ({sys.executable})")
    for name, (first, last) in compat.SUPPORTED.items():
        yield Check(name, partial(version_in_range, name, first, last))
    yield Check("s3prl", _s3prl)
    for module, package in _LIBRARIES.items():
        yield Check(f"import {module}", partial(_import, module), f"install it again: pip install {package}")
    for need in _NEEDS:
        fix = f"install a supported {need.package}" if need.package in compat.SUPPORTED else ""
        yield Check(f"s3prl needs {need.name}", partial(_need, need), fix)
    yield Check("-d mi_views in stock s3prl", _plugin)
    for task in TASKS:
        yield Check(f"-d {task.name} (SUPERB {task.superb})", partial(_superb_task, task))
    yield Check("GPU", _gpu)
    for kind in ("wav", "flac"):
        yield Check(f"audio {kind}", partial(_audio, kind), "pip install --force-reinstall soundfile")
    yield Check("eSpeak NG", _espeak)
    yield Check("s3prl's downloads", _downloads)
    yield Check("store of hidden states", _store)
    if upstream is not None:
        looks = [partial(_downloaded, url) for url in checkpoint_urls(upstream)] or [partial(_known, upstream, ckpt)]
        yield from (Check(f"upstream {upstream}", look) for look in looks)
    if ckpt is not None:
        yield Check(f"checkpoint {ckpt}", partial(_checkpoint, Path(ckpt)))
    if not quick:
        yield Check("import s3prl.run_downstream", _all_upstreams)


# --- versions -------------------------------------------------------------------------------------------


def version_in_range(name: str, first: str, last: str) -> str:
    """Whether an installed package's version lies in first <= version < last."""
    version, install = _version(name), f'pip install "{name}>={first},<{last}"'
    if version == "0":
        raise Finding("FAIL", "not installed", install)
    if not compat.version_tuple(first) <= compat.version_tuple(version) < compat.version_tuple(last):
        raise Finding("warn", version, f"tested with {first} <= version < {last}: {install}")
    return version


def _version(package: str) -> str:
    """Of an installed package, or of Python; 0 where it is missing."""
    try:
        return platform.python_version() if package == "Python" else importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "0"


def _s3prl() -> str:
    """Which of the two distributions of s3prl is in use."""
    name, version = compat.s3prl_distribution()
    if _version(name) == "0":
        return f"{version}, a checkout"
    return f"{version_in_range(name, *compat.S3PRL[name])}, of {name}"


_LIBRARIES = {name: name for name in ("torch", "torchaudio", "soundfile", "soxr", "matplotlib", "tensorboardX")}
_LIBRARIES |= {"sklearn": "scikit-learn", "yaml": "pyyaml", "jinja2": "jinja2"}
"""Modules that s3prl and the plugin need -> the package that holds them."""


def _import(module: str) -> str:
    """A library that is there may still not load."""
    compat.apply()
    importlib.import_module(module)
    return "works"


# --- s3prl on these libraries ---------------------------------------------------------------------------


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


class Need(NamedTuple):
    """What s3prl 0.4.18 asks of another library."""

    name: str
    package: str
    gone_since: str
    """The first version of the library without it."""
    use: Callable[[], None]
    """Does what s3prl does."""


_NEEDS = (
    Need("torchaudio.set_audio_backend", "torchaudio", "2.9", _use_backend),
    Need("torchaudio.sox_effects", "torchaudio", "2.9", _use_effects),
    Need("torchaudio.load without TorchCodec", "torchaudio", "2.9", _use_load),
    Need("huggingface_hub.HfFolder, Repository", "huggingface_hub", "1.0", _use_hub),
    Need("torch.load of its checkpoints", "torch", "2.6", _use_checkpoint),
    Need("distutils", "Python", "3.12", _use_distutils),
)


def _need(need: Need) -> str:
    """Whether s3prl alone would break, and whether it works with `compat`."""
    compat.apply()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # libraries announce the end of what is still there
        need.use()
    version = _version(need.package)
    if compat.version_tuple(version) < compat.version_tuple(need.gone_since):
        return "there"
    return f"missing in {need.package} {version}, s3prl alone breaks; stand-in works"


def _plugin() -> str:
    """Whether stock s3prl, too, knows our tasks: the line of s3prl_mi.pth ran when this Python started."""
    if any(getattr(finder, "__name__", "") == "S3prlMIStart" for finder in sys.meta_path):
        return "known, by s3prl_mi.pth"
    fix = "run_downstream.py works all the same; for `python -m s3prl.run_downstream`: pip install s3prl_mi"
    raise Finding("warn", "unknown: s3prl_mi.pth is not in this Python's site-packages", fix)


def _superb_task(task: SuperbTask) -> str:
    """Whether one of SUPERB's tasks can start: s3prl from PyPI lacks packages and configs for most."""
    if packages := missing_packages(task):
        raise Finding("warn", f"lacks {', '.join(packages)}", "pip install 's3prl_mi[superb]'")
    if task.superb == "SF" and (lacks := missing_code("snips")):
        raise Finding("warn", f"lacks {lacks[0]}", f"pip install -e a clone of {GITHUB}")
    if task.config is not None:
        return f"ready, given {task.data} (config {task.config})"
    return f"ready, given {task.data} and a config of {GITHUB}, downstream/{task.name} (-c)"


def _all_upstreams() -> str:
    """Import s3prl's own script, which imports every upstream."""
    begin = time.perf_counter()
    importlib.import_module("s3prl.run_downstream")
    return f"works ({time.perf_counter() - begin:.0f} s)"


# --- machine --------------------------------------------------------------------------------------------


def _gpu() -> str:
    import torch

    if torch.cuda.is_available():
        return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU"
    return f"none usable (torch built for {built}); --device cuda falls back to the CPU, {os.cpu_count()} cores"


def _audio(kind: str) -> str:
    import numpy as np
    import soundfile

    wave = np.sin(np.arange(1600) / 20).astype(np.float32) / 2
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a.{kind}"
        soundfile.write(path, wave, SAMPLE_RATE)
        again, rate = soundfile.read(path, dtype="float32")
    error = float(np.abs(again - wave).max())
    if rate != SAMPLE_RATE or error >= 1e-4:
        raise RuntimeError(f"wrote and read at {rate} Hz, error {error:.1e}")
    return f"write and read, error {error:.1e}"


def _espeak() -> str:
    """The demo corpus needs eSpeak NG's library and voices; measuring real speech does not."""
    fix = "only `s3prl-mi demo` needs it: pip install --force-reinstall espeakng-loader"
    try:
        import espeakng_loader

        library, data = espeakng_loader.get_library_path(), Path(espeakng_loader.get_data_path())
        ctypes.CDLL(library)
    except (ImportError, OSError, RuntimeError) as error:
        raise Finding("warn", str(error), fix) from error
    voices = sum(1 for p in (data / "voices").rglob("*") if p.is_file())
    if voices == 0:
        raise Finding("warn", f"{library}: no voices in {data}", fix)
    return f"{library}, {voices} voices"


# --- folders --------------------------------------------------------------------------------------------


def _downloads() -> str:
    folder = cache_folder()
    files = [p for p in folder.glob("*") if p.is_file() and p.suffix != ".lock"]
    found = f"{len(files)} files, {sum(p.stat().st_size for p in files) / 1e9:.2f} GB"
    return room_in(folder, found, 2, "fix its permissions, or free some space")


def _store() -> str:
    from ..states.store import default_root  # it needs numpy, which `s3prl-mi -h` does not

    root, fix = default_root(), "set S3PRL_MI_STORE or config key downstream_expert.store.root to another folder"
    return room_in(root, "there" if root.is_dir() else "not yet made", 10, fix)


def room_in(folder: Path, found: str, wanted_gb: float, fix: str) -> str:
    """A folder's state: writable (or its nearest parent is), and with free space."""
    parent = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(parent).free / 1e9
    text = f"{folder} ({found}; {free:.0f} GB free)"
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise Finding("FAIL", f"{text}: {parent} cannot be written to", fix)
    if free < wanted_gb:
        raise Finding("warn", f"{text}: less than {wanted_gb:g} GB", fix)
    return text


# --- upstream and checkpoint ----------------------------------------------------------------------------


def _known(name: str, ckpt: str | None) -> str:
    names = upstream_names()
    if name not in names:
        raise Finding("FAIL", f"unknown.{nearest(name, names)}", "s3prl-mi upstreams lists all")
    if name.endswith(FILE_SUFFIXES) and ckpt is None:
        raise Finding("warn", "takes a checkpoint of yours", "name it with -k")
    return "known; s3prl names no file that it downloads"


def _downloaded(url: str) -> str:
    path = cached_file(url)
    if not path.is_file() or path.stat().st_size == 0:
        fix = f"it is downloaded at first use; offline: download {url} and save it as {path}"
        raise Finding("warn", "checkpoint not downloaded yet", fix)
    return f"{path} ({path.stat().st_size / 1e6:.0f} MB)"


def _checkpoint(path: Path) -> str:
    if not path.exists():
        raise Finding("FAIL", "no such file or folder", "check the path given by -k")
    description, reader = describe_checkpoint(path)
    if reader is None:
        raise Finding("warn", description, "name the upstream that wrote it with -u")
    return f"{description}; read it with -u {reader}"
