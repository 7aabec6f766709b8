"""doctor: each check finds what is wrong and says how to fix it."""

import argparse
import functools
import hashlib
import importlib.metadata
import importlib.util
import sys

import pytest

from s3prl_mi.cli import doctor
from s3prl_mi.core.errors import MIError
from s3prl_mi.states.store import default_root
from s3prl_mi.upstreams import compat, names
from tests.helpers.paths import REPO


def call(*words):
    parser = argparse.ArgumentParser()
    doctor.add_arguments(parser)
    return doctor.run(parser.parse_args(words))


def look(what, *args):
    """The finding of the check of that name."""
    (found,) = [c.finding() for c in doctor.checks(*args) if c.what == what]
    return found


def state_of(function, *args):
    return doctor.Check("it", functools.partial(function, *args)).finding()


@pytest.fixture
def home(monkeypatch, tmp_path):
    monkeypatch.setattr(names, "cache_folder", lambda: tmp_path / "download")
    monkeypatch.setenv("S3PRL_MI_STORE", str(tmp_path / "store"))
    return tmp_path


def test_this_installation_is_healthy(home, capsys):
    assert call("--quick") == 0
    out = capsys.readouterr().out
    assert "FAIL  " not in out
    for line in (
        "ok     import torchaudio: works",
        "ok     audio flac",
        "s3prl needs torch.load of its checkpoints",
    ):
        assert line in out
    assert out.splitlines()[-1].endswith("0 failures")


def test_a_need_that_is_not_met_fails_the_command(home, capsys, monkeypatch):
    import torchaudio

    monkeypatch.setattr(torchaudio, "load", lambda path: (_ for _ in ()).throw(ImportError("TorchCodec is required")))
    assert call("--quick") == 1
    out = capsys.readouterr().out
    assert "FAIL   s3prl needs torchaudio.load without TorchCodec: ImportError: TorchCodec is required" in out
    assert "-> install a supported torchaudio" in out
    assert "ok     audio wav" in out  # the checks after it are still made


@pytest.mark.parametrize("error", [MIError("no library"), ValueError("odd")])
def test_a_check_that_breaks_is_a_failure_of_its_own(error):
    def look():
        raise error

    found = doctor.Check("GPU", look).finding()
    assert found.state == "FAIL"
    assert str(error) in found.found


@pytest.mark.parametrize(
    ("first", "last", "state"), [("1.0", "99", "ok"), ("0.1", "0.2", "warn"), ("98", "99", "warn")]
)
def test_version_ranges(first, last, state):
    assert state_of(doctor.version_in_range, "pytest", first, last).state == state


def test_missing_package_names_the_command():
    found = state_of(doctor.version_in_range, "no-such-package-here", "1.0", "2")
    assert (found.state, found.fix) == ("FAIL", 'pip install "no-such-package-here>=1.0,<2"')


def test_supported_range_is_that_of_pyproject():

    text = (REPO / "pyproject.toml").read_text()
    for name, (first, last) in compat.SUPPORTED.items():
        assert f'"{name}>={first},<{last}"' in text
    for name, (first, _) in compat.S3PRL.items():
        assert f'"{name}>={first}' in text


def test_names_the_distribution_of_s3prl(monkeypatch):
    def installed(*names):
        versions = {"s3prl": "0.4.18", "espnet-s3prl": "2026.5.14"}

        def version(name):
            if name not in names:
                raise importlib.metadata.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(importlib.metadata, "version", version)
        return look("s3prl")

    assert installed("s3prl").found == "0.4.18, of s3prl"
    assert installed("espnet-s3prl").found == "2026.5.14, of espnet-s3prl"
    version = (compat.s3prl_folder() / "version.txt").read_text().strip()
    assert installed().found == f"{version}, a checkout"  # no metadata, but a folder that can be imported
    both = installed("s3prl", "espnet-s3prl")
    assert both.state == "FAIL"
    assert "pip uninstall -y s3prl espnet-s3prl" in both.found


def test_each_task_of_superb_is_ready_or_says_why(monkeypatch):
    assert look("-d ctc (SUPERB PR)").found == "ready, given LibriSpeech (config superb_pr)"
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "catalyst" else find(name))
    found = look("-d speech_commands (SUPERB KS)")
    assert (found.state, found.found, found.fix) == ("warn", "lacks catalyst", "pip install 's3prl_mi[superb]'")


def test_checkpoint_of_a_named_upstream(home):
    url = "https://huggingface.co/s3prl/converted_ckpts/resolve/main/hubert_base_ls960.pt"
    assert names.checkpoint_urls("hubert") == [url]
    before = look("upstream hubert", "hubert")
    path = home / "download" / f"{hashlib.sha256(url.encode()).hexdigest()}.hubert_base_ls960.pt"
    assert before.state == "warn"
    assert url in before.fix
    assert str(path) in before.fix
    path.parent.mkdir()
    path.write_bytes(b"x")
    assert look("upstream hubert", "hubert").state == "ok"


def test_upstreams_without_a_download(home):
    assert look("upstream fbank", "fbank").state == "ok"
    assert look("upstream hubert_local", "hubert_local").fix == "name it with -k"
    assert look("upstream hubert_local", "hubert_local", "x.pt").state == "ok"
    unknown = look("upstream hubrt", "hubrt")
    assert unknown.state == "FAIL"
    assert "'hubert'" in unknown.found


def test_missing_checkpoint_file():
    assert look("checkpoint nowhere.pt", None, "nowhere.pt").state == "FAIL"


def test_folders(tmp_path, monkeypatch):
    assert state_of(doctor.room_in, tmp_path / "a" / "b", "not yet made", 0, "").state == "ok"
    assert state_of(doctor.room_in, tmp_path, "there", 1e9, "").state == "warn"
    (tmp_path / "file").touch()
    monkeypatch.setenv("S3PRL_MI_STORE", str(tmp_path / "file" / "b"))
    blocked = look("store of hidden states")
    assert blocked.state == "FAIL"
    assert "S3PRL_MI_STORE" in blocked.fix


@pytest.mark.parametrize("variables", [{"S3PRL_MI_STORE": "mine"}, {"XDG_CACHE_HOME": "cache"}, {}])
def test_the_store_named_is_the_one_used(variables, tmp_path, monkeypatch):
    for name in ("S3PRL_MI_STORE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, folder in variables.items():
        monkeypatch.setenv(name, str(tmp_path / folder))
    assert look("store of hidden states").found.startswith(f"{default_root()} (not yet made;")


def test_stock_s3prl_knows_the_tasks_or_not(monkeypatch):
    finder = type("S3prlMIStart", (), {})
    monkeypatch.setattr(sys, "meta_path", [])
    found = look("-d mi_views in stock s3prl")
    assert (found.state, "pip install s3prl_mi" in found.fix) == ("warn", True)
    monkeypatch.setattr(sys, "meta_path", [finder])
    assert look("-d mi_views in stock s3prl").state == "ok"


def test_missing_espeak_is_a_warning_only(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    found = look("eSpeak NG")
    assert found.state == "warn"
    assert "espeakng-loader" in found.fix


def test_options():
    parser = argparse.ArgumentParser()
    doctor.add_arguments(parser)
    args = parser.parse_args(["-u", "hubert", "--quick"])
    assert (args.upstream, args.upstream_ckpt, args.quick) == ("hubert", None, True)
