"""Run the tests at both ends of the supported range: `python -m tests.both_ends [options] [pytest arguments]`.

Makes environments under .cache/both_ends (kept, and reused while pyproject.toml stays as it is): `lowest` with the
first supported version of each library, `newest` with the last, and `fork`, which is `newest` with ESPnet's fork of
s3prl; for instance `--only newest fork --python 3.10 3.13`. Needs uv, or else pip, and 7 GB of disk for each. Ends
with one line for each environment, and exits with 1 if the tests failed in one of them.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

from s3prl_mi.upstreams.compat import S3PRL, SUPPORTED

REPO = Path(__file__).resolve().parents[1]
ROOT = REPO / ".cache" / "both_ends"

LOWEST = {
    # The first supported releases, as far as they go together.
    "s3prl": "==0.4.18",
    "torch": "==2.8.*",
    "torchaudio": "==2.8.*",
    "transformers": "==4.50.*",
    "huggingface_hub": "==0.30.*",
    "numpy": "==1.26.*",
}
NEWEST = {"s3prl": "<0.5"}  # of the rest what pip takes by itself within the ranges of pyproject.toml
FORK = {"espnet-s3prl": ">=2026.5.14"}

_VERSIONS = """
import json, platform, sys
from importlib.metadata import version
print(json.dumps({"Python": platform.python_version(), **{n: version(n) for n in sys.argv[1:]}}))
"""


ENVIRONMENTS = {"lowest": LOWEST, "newest": NEWEST, "fork": FORK}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.both_ends", description=__doc__, add_help=True)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=ENVIRONMENTS,
        default=list(ENVIRONMENTS),
        metavar="NAME",
        help=f"environments to test in: {', '.join(ENVIRONMENTS)} (default: all)",
    )
    parser.add_argument(
        "--python",
        nargs="+",
        default=[sys.executable],
        metavar="PYTHON",
        help="interpreters to test with, as 3.12 or a path (default: the one that runs this)",
    )
    args, pytest_arguments = parser.parse_known_args(arguments)
    results = {}
    for given in args.python:
        python = shutil.which(given) or shutil.which(f"python{given}")
        if python is None:
            parser.error(f"--python {given}: there is no such interpreter, nor python{given}")
        for name in args.only:
            label = name if python == sys.executable else f"{name}-{Path(python).name}"
            results[label] = test(label, ENVIRONMENTS[name], pytest_arguments, python)
    print()
    for name, (status, summary) in results.items():
        print(f"{name} ({'ok' if status == 0 else 'FAILED'}): {summary}")
    return int(any(status for status, _ in results.values()))


def test(name: str, pins: dict[str, str], pytest_arguments: list[str], base: str) -> tuple[int, str]:
    """Make the environment if need be, and run pytest in it: its exit status, and a summary."""
    print(f"== {name}", flush=True)
    python = environment(name, pins, base)
    if python is None:
        return 1, "the installation failed"
    asked = [str(python), "-c", _VERSIONS, *SUPPORTED, *(name for name in S3PRL if name in pins)]
    found = json.loads(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)
    versions = ", ".join(f"{package} {version}" for package, version in found.items())
    run = subprocess.Popen(
        [str(python), "-m", "pytest", *pytest_arguments], cwd=REPO, stdout=subprocess.PIPE, text=True
    )
    last = ""
    assert run.stdout is not None
    for line in run.stdout:
        print(line, end="", flush=True)
        last = line.strip(" =\n") or last
    return run.wait(), f"{last}; {versions}"


def environment(name: str, pins: dict[str, str], base: str = sys.executable) -> Path | None:
    """The interpreter of an environment made from the interpreter `base`; None if the installation failed."""
    folder = ROOT / name
    python = folder / "bin" / "python"
    stamp = folder / ".s3prl_mi"
    content = (REPO / "pyproject.toml").read_bytes() + json.dumps(pins, sort_keys=True).encode()
    wanted = hashlib.sha256(content).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted and python.exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    ROOT.mkdir(parents=True, exist_ok=True)
    packages = ["-e", f"{REPO}[test]", *(f"{package}{version}" for package, version in pins.items())]
    if shutil.which("uv"):
        make = ["uv", "venv", "--quiet", "--python", base, str(folder)]
        fill = ["uv", "pip", "install", "--quiet", "--python", str(python), *packages]
    else:
        make = [base, "-m", "venv", str(folder)]
        fill = [str(python), "-m", "pip", "install", "--quiet", *packages]
    for command in (make, fill):
        if subprocess.run(command, check=False).returncode != 0:
            return None
    stamp.write_text(wanted)
    return python


test.__test__ = False  # type: ignore[attr-defined]  # a name that pytest would collect


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
