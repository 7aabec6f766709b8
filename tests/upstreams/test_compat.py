"""compat: each stand-in does what s3prl expects of the thing it stands in for."""

import argparse
import ast
import logging
import types
import warnings
from pathlib import Path

import numpy as np
import pytest

from s3prl_mi.core.errors import MIError
from s3prl_mi.upstreams import compat, compat_checkpoints
from tests.helpers.process import run_python


@pytest.fixture(scope="module")
def torch():
    compat.apply()
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def torchaudio(torch):
    return pytest.importorskip("torchaudio")


def test_apply_imports_nothing_heavy_and_is_idempotent():
    done = run_python(
        "import sys; from s3prl_mi.upstreams import compat; compat.apply(); n = len(sys.meta_path); compat.apply();"
        "assert len(sys.meta_path) == n;"
        "print([m for m in ('torch', 'torchaudio', 'numpy') if m in sys.modules])"
    )
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("first", ["compat", "libraries"])
def test_s3prl_needs_are_met_in_either_order(first):
    apply = "from s3prl_mi.upstreams import compat; compat.apply();"
    libraries = "import torchaudio, huggingface_hub;"
    done = run_python(
        (apply + libraries if first == "compat" else libraries + apply)
        + "from huggingface_hub import HfFolder, Repository;"
        "from torchaudio.sox_effects import apply_effects_file, apply_effects_tensor;"
        "torchaudio.set_audio_backend('sox_io'); torchaudio.info; from distutils.util import strtobool;"
        "import s3prl.upstream.wavlm.expert as e; print(type(e.torch).__name__, type(torchaudio).__name__)"
    )
    assert done.stdout.strip() == "WeightsOnly module", done.stderr
    assert "Warning" not in done.stderr


def test_patched_module_keeps_its_own_loader(torchaudio):
    assert type(torchaudio.__spec__.loader).__module__.startswith(("importlib", "_frozen"))
    assert torchaudio.__loader__ is torchaudio.__spec__.loader


def test_checkpoint_with_namespace_and_numpy_loads_weights_only(torch, tmp_path):
    compat._patch_torch(torch)  # a Hugging Face Trainer that resumed in this process has taken numpy off the list
    path = tmp_path / "states-1.ckpt"
    config = {"mean": np.arange(3.0), "best": np.float64(0.5), "path": Path("a/b")}
    torch.save({"Args": argparse.Namespace(upstream="apc"), "Config": config}, path)
    states = torch.load(path, map_location="cpu", weights_only=True)
    assert states["Args"].upstream == "apc"
    assert states["Config"]["best"] == 0.5
    np.testing.assert_array_equal(states["Config"]["mean"], [0, 1, 2])


class RunsCode:
    def __reduce__(self):
        return print, ("this pickle ran code",)


def test_code_in_a_checkpoint_is_still_refused(torch, tmp_path, capsys):
    torch.save({"Args": RunsCode()}, tmp_path / "bad.ckpt")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        torch.load(tmp_path / "bad.ckpt", weights_only=True)
    assert capsys.readouterr().out == ""


def test_loads_of_s3prl_are_of_weights_only_and_on_the_cpu_where_no_place_is_named(torch):
    seen = []
    fake = types.SimpleNamespace(load=lambda *a, **k: seen.append((a, k)), serialization=torch.serialization, x="x")
    module = types.ModuleType("expert")
    module.torch = fake
    compat_checkpoints.guard(module, "model = torch.load(ckpt)")
    module.torch.load("x")
    module.torch.load("x", map_location="cuda:0", weights_only=False)
    with compat_checkpoints.trusting(True):
        module.torch.load("x", "cuda:1")
    assert seen == [
        (("x", "cpu"), {"weights_only": True}),
        (("x", "cuda:0"), {"weights_only": True}),
        (("x", "cuda:1"), {"weights_only": False}),
    ]
    assert module.torch.x == "x"


def test_every_file_of_s3prl_that_loads_or_evaluates_is_guarded(torch):
    found = []
    for path in (compat.s3prl_folder() / "upstream").rglob("*.py"):
        module = types.ModuleType(path.stem)
        module.torch = torch
        compat_checkpoints.guard(module, path.read_text())
        for node in ast.walk(ast.parse(path.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            # strings that a file itself spells out, such as eval(module_name), are no danger
            if called == "torch.load" or (called == "eval" and "module_" not in ast.unparse(node)):
                found.append(called)
                guarded = module.torch is not torch if called == "torch.load" else module.eval is not eval
                assert guarded, path
    assert found.count("torch.load") > 30
    assert found.count("eval") > 10


@pytest.mark.parametrize("text", ["__import__('os')", "[0] * 10**9", "[0] * 100000", "x", "(" * 500, "", "f()[0]"])
def test_what_is_no_literal_is_not_evaluated(text):
    with pytest.raises(ValueError, match="not a plain value"):
        compat_checkpoints.literal(text)


def test_literals_that_configs_hold():
    assert compat_checkpoints.literal("[(512, 10, 5)] + [(512, 3, 2)] * 2") == [(512, 10, 5), (512, 3, 2), (512, 3, 2)]
    assert compat_checkpoints.literal("-1") == -1
    assert compat_checkpoints.literal("{'a': None}") == {"a": None}


# --- messages ------------------------------------------------------------------------------------------


def test_torchaudio_that_does_not_load_names_the_fitting_version():
    module = types.ModuleType("torchaudio")

    class Broken:
        def exec_module(self, module):
            raise OSError("libcudart.so.13: cannot open shared object file")

    loader = Broken()
    compat._patch_after(loader, lambda module: None)
    with pytest.raises(compat.BrokenInstallation, match=r"libcudart\.so\.13.*torchaudio==2\.") as caught:
        loader.exec_module(module)
    assert isinstance(caught.value, MIError)
    assert isinstance(caught.value, ImportError)


def test_repository_stand_in_says_what_to_do_instead():
    with pytest.raises(MIError, match="hf upload"):
        compat._no_repository(local_dir="x")


def test_only_known_warnings_and_one_log_line_are_kept_off_the_screen():
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        compat._quieten()
        warnings.warn("torchaudio._backend.set_audio_backend has been deprecated.", UserWarning, stacklevel=1)
        warnings.warn("loss is NaN", UserWarning, stacklevel=1)
        warnings.warn_explicit("invalid escape", SyntaxWarning, "/x/site-packages/s3prl/a.py", 1)
        warnings.warn_explicit("invalid escape", SyntaxWarning, "/home/me/mine.py", 1)
    assert [str(w.message) for w in caught] == ["loss is NaN", "invalid escape"]
    record = logging.LogRecord("x", logging.WARNING, "", 1, "%s is missing", ("A file",), None)
    assert compat._drop_espnet_line(record)
