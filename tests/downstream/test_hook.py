"""Stock s3prl finds our tasks through s3prl_mi.pth, and no Python start suffers from it."""

import os
import site
import subprocess
import sys
import time
from pathlib import Path

import pytest

from s3prl_mi.core.config import TASKS, default_config
from s3prl_mi.downstream import hook
from tests.helpers.paths import REPO
from tests.helpers.process import run_python

PTH = REPO / "s3prl_mi" / "s3prl_mi.pth"

# A site-packages folder with nothing but the .pth, a small s3prl, and our package with stub experts.
EXPERT = "class DownstreamExpert: pass\n"
SCRIPT = """
import sys
import s3prl.downstream
import importlib
sys_modules_before = set(sys.modules)
expert = importlib.import_module("s3prl.downstream.mi_views.expert")
real = importlib.import_module("s3prl_mi.downstream.mi_views.expert")
print(expert is real, expert.DownstreamExpert.__module__, expert.__spec__.name, sys.argv[1:])
"""


@pytest.fixture
def site_folder(tmp_path):
    folder = tmp_path / "site"
    for package in ("s3prl", "s3prl/downstream"):
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").touch()
    (folder / "s3prl" / "run_downstream.py").write_text(SCRIPT)
    (folder / "s3prl_mi.pth").write_text(PTH.read_text())
    return folder


@pytest.fixture
def with_package(site_folder):
    """The same folder with a copy of the package's light modules in it, as a wheel would place them."""
    package = site_folder / "s3prl_mi"
    for task in ("mi_views", "mi_supervised"):
        (package / "downstream" / task).mkdir(parents=True)
        (package / "downstream" / task / "__init__.py").touch()
        (package / "downstream" / task / "expert.py").write_text(EXPERT)
        (package / "downstream_configs").mkdir(exist_ok=True)
        (package / "downstream_configs" / f"{task}.yaml").touch()
    rooms = ("", "core/", "upstreams/", "downstream/")
    modules = (
        "core/config.py",
        "core/errors.py",
        "core/files.py",
        "core/split_names.py",
        "upstreams/compat.py",
        "upstreams/compat_checkpoints.py",
        "downstream/hook.py",
    )
    for name in (*(f"{room}__init__.py" for room in rooms), *modules):
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text((REPO / "s3prl_mi" / name).read_text())
    return site_folder


def python(folder: Path, *command: str, **env: str) -> subprocess.CompletedProcess:
    """Run Python with `folder` as its site folder: its .pth files are read as at a real start."""
    start = folder / "sitecustomize.py"
    start.write_text(f"import site; site.addsitedir({str(folder)!r})")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "S3PRL"))}
    environment |= {"PYTHONPATH": str(folder), **env}
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("how", [["-m", "s3prl.run_downstream"], ["s3prl/run_downstream.py"]])
def test_stock_script_knows_the_tasks_and_their_config(with_package, how):
    done = python(with_package, *how, "-m", "train", "-d", "mi_views")
    config = with_package / "s3prl_mi" / "downstream_configs" / "mi_views.yaml"
    name = "s3prl_mi.downstream.mi_views.expert"
    expected = f"True {name} {name} {['-m', 'train', '-d', 'mi_views', '-c', str(config)]}"
    assert (done.stdout.strip(), done.stderr) == (expected, "")


@pytest.mark.parametrize(
    "argv",
    [
        ["-d", "ctc"],
        ["-d", "mi_views", "-c", "c.yaml"],
        ["-dmi_views", "--config=c"],
        ["-d", "mi_views", "-e", "x"],
        [],
    ],
)
def test_other_command_lines_stay_as_they_are(with_package, argv):
    done = python(with_package, "-m", "s3prl.run_downstream", *argv)
    assert done.stdout.strip().endswith(str(argv)), done.stderr


def test_other_scripts_keep_their_command_line(with_package):
    (with_package / "mine.py").write_text("import sys, s3prl; print(sys.argv[1:])")
    assert python(with_package, "mine.py", "-d", "mi_views").stdout.strip() == "['-d', 'mi_views']"


def test_switch(with_package):
    done = python(with_package, "-m", "s3prl.run_downstream", S3PRL_MI_NO_HOOK="1")
    assert "No module named 's3prl.downstream.mi_views'" in done.stderr


def test_start_survives_a_removed_package(site_folder):
    done = python(site_folder, "-c", "import s3prl; print('ok')")
    assert (done.stdout, done.stderr, done.returncode) == ("ok\n", "", 0)


@pytest.mark.parametrize("broken", ["syntax error here", "import a_module_that_is_gone", "raise OSError('disk')"])
def test_start_survives_a_broken_package_and_says_so(with_package, broken):
    (with_package / "s3prl_mi" / "downstream" / "hook.py").write_text(broken)
    done = python(with_package, "-c", "import s3prl; print('ok')")
    assert (done.stdout, done.returncode) == ("ok\n", 0)
    assert done.stderr.startswith("s3prl_mi is not active: ")
    # As often as the line is read: where the package is installed, by the interpreter's own site folder too.
    assert len(set(done.stderr.splitlines())) == 1


def test_start_imports_nothing(with_package):
    code = "import sys; print(sorted(sys.modules))"
    with_line = python(with_package, "-c", code)
    (with_package / "s3prl_mi.pth").unlink()
    assert with_line.stdout == python(with_package, "-c", code).stdout
    assert with_line.stderr == ""


def test_the_line_costs_less_than_a_millisecond(tmp_path, monkeypatch):
    (tmp_path / "s3prl_mi.pth").write_text(PTH.read_text())
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    seconds = []
    for _ in range(20):
        begin = time.perf_counter()
        site.addpackage(str(tmp_path), "s3prl_mi.pth", set())
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 1e-3


def test_the_line_is_one_line_that_starts_with_import():
    lines = PTH.read_text().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("import ")


def test_default_configs_lie_in_the_repository():
    for task in TASKS:
        assert default_config(task) == REPO / "downstream_configs" / f"{task}.yaml"


def test_task_names_are_those_of_the_config_module():
    from s3prl_mi.core import config

    assert tuple(config.TASKS) == hook.TASKS


def test_real_s3prl_resolves_our_task():
    code = (
        "import sys, types\nfrom s3prl_mi.downstream import hook\nhook.install(); hook.install()\n"
        "for name in ('s3prl_mi.downstream', 's3prl_mi.downstream.mi_supervised'):\n"
        "    sys.modules[name] = types.ModuleType(name); sys.modules[name].__path__ = []\n"
        "expert = types.ModuleType('s3prl_mi.downstream.mi_supervised.expert')\n"
        "sys.modules[expert.__name__] = expert\n"
        "import s3prl.downstream.mi_supervised.expert as found\n"
        "import s3prl.downstream.example.dataset\n"
        "print(found is expert)"
    )
    done = run_python(code)
    assert done.stdout.strip() == "True", done.stderr
