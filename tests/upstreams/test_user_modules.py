"""A user's own upstreams: from a file, a module, an entry point; what is refused; the fingerprint."""

from __future__ import annotations

import sys
import types
from importlib.metadata import EntryPoint

import pytest
import torch

from s3prl_mi.core.errors import MIError
from s3prl_mi.upstreams import families, names, user_modules
from s3prl_mi.upstreams.forward import hidden_states
from s3prl_mi.upstreams.loading import load_upstream
from s3prl_mi.upstreams.names import family_of_name, load_module, upstream_names
from s3prl_mi.upstreams.views import View
from tests.helpers.process import run_python

MODULE = '''
import torch
from s3prl_mi.upstreams import Family, Geometry


class Expert(torch.nn.Module):
    """Frames of 20 ms -> a layer that is masked -> a layer."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.encoder = torch.nn.Linear(320, 8)
        self.mask_emb = torch.nn.Parameter(torch.randn(320))

    def forward(self, wavs):
        frames = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True).unfold(1, 320, 320)
        return {"hidden_states": [self.encoder(frames)]}


def my_model(ckpt=None, model_config=None, refresh=False):
    return Expert(int(ckpt or 0))


def _helper():
    """No upstream."""


FAMILIES = {
    "my_model": Family(
        "my_model",
        view="mask",
        mask_site="encoder",
        mask_embedding="mask_emb",
        geometry=Geometry(stride=320, first_centre=159.5, first_needs=320),
    )
}
'''
WAV = 0.1 * torch.randn(3200, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """What a test makes known is forgotten after it."""
    monkeypatch.setattr(names, "_OWN", dict(names._OWN))
    monkeypatch.setattr(sys, "path", list(sys.path))
    names.load_entry_points.cache_clear()
    yield
    names.load_entry_points.cache_clear()


def write(folder, text=MODULE, name="my_upstreams.py"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def test_functions_of_a_file_become_names(tmp_path):
    load_module(str(write(tmp_path)))
    assert "my_model" in upstream_names()
    assert "_helper" not in upstream_names()
    assert family_of_name("my_model").view == "mask"
    upstream = load_upstream("my_model", ckpt="3")
    assert (upstream.stride, upstream.family.name, upstream.checkpoint_name) == (320, "my_model", "3")
    mask = View("mask", "latent", 4, 1)
    [[masked]], [[plain]] = hidden_states(upstream, [WAV], mask), hidden_states(upstream, [WAV])
    expected = upstream.expert.encoder(upstream.expert.mask_emb)
    frames = torch.from_numpy(mask.pattern(10))
    torch.testing.assert_close(masked[frames], expected.expand(int(frames.sum()), 8))
    assert torch.equal(masked[~frames], plain[~frames])


def test_a_module_by_its_dotted_name(tmp_path, monkeypatch):
    write(tmp_path / "my_package", "", "__init__.py")
    write(tmp_path / "my_package", MODULE, "models.py")
    monkeypatch.syspath_prepend(tmp_path)
    load_module("my_package.models")
    assert load_upstream("my_model").stride == 320
    for name in ("my_package", "my_package.models"):
        sys.modules.pop(name)


def test_a_file_finds_its_neighbours(tmp_path):
    write(tmp_path, MODULE.split("def my_model")[0], "neighbour_of_my_upstreams.py")
    text = "from neighbour_of_my_upstreams import Expert\nfrom s3prl_mi.upstreams.families import Family, Geometry\n"
    load_module(str(write(tmp_path, text + "def my_model" + MODULE.split("def my_model")[1])))
    assert load_upstream("my_model").stride == 320
    sys.modules.pop("neighbour_of_my_upstreams")


def test_a_neighbour_is_part_of_the_fingerprint(tmp_path):
    text = "from neighbour_of_my_upstreams import Expert\nfrom s3prl_mi.upstreams.families import Family, Geometry\n"
    text += "def my_model" + MODULE.split("def my_model")[1]
    prints = []
    for number, change in enumerate(("", "# the same weights, other states")):
        names._OWN.pop("my_model", None)
        sys.modules.pop("neighbour_of_my_upstreams", None)
        folder = tmp_path / str(number)
        write(folder, MODULE.split("def my_model")[0] + change, "neighbour_of_my_upstreams.py")
        load_module(str(write(folder, text)))
        prints.append(load_upstream("my_model").fingerprint)
    sys.modules.pop("neighbour_of_my_upstreams")
    assert prints[0] != prints[1]


def test_loading_twice_is_loading_once(tmp_path):
    path = write(tmp_path)
    load_module(str(path))
    function = names.find_own("my_model").function
    load_module(str(path))
    assert names.find_own("my_model").function is function


def test_family_may_be_that_of_a_known_kind(tmp_path):
    load_module(str(write(tmp_path, "def my_hubert(ckpt=None): ...\nFAMILIES = {'my_hubert': 'hubert'}\n")))
    assert family_of_name("my_hubert") == families.KINDS["hubert"]


def test_the_package_exports_what_modules_need_without_heavy_imports():
    code = (
        "import sys, s3prl_mi.upstreams as u; from s3prl_mi.upstreams import compat; compat.apply();"
        "print([m for m in ('numpy', 'torch', 's3prl') if m in sys.modules], u.Family.__name__, u.Geometry.__name__)"
    )
    assert run_python(code).stdout.strip() == "[] Family Geometry"
    with pytest.raises(ImportError, match="Famly"):
        exec("from s3prl_mi.upstreams import Famly")


def test_source_is_part_of_the_fingerprint(tmp_path, monkeypatch):
    prints = []
    for number, text in enumerate((MODULE, MODULE, MODULE + "# changed\n")):
        monkeypatch.setattr(names, "_OWN", {})
        load_module(str(write(tmp_path / str(number), text)))
        prints.append(load_upstream("my_model").fingerprint)
    assert prints[0] == prints[1] != prints[2]


def entry_points_of(monkeypatch, *points):
    monkeypatch.setattr(user_modules, "entry_points", lambda group: list(points))
    names.load_entry_points.cache_clear()


def test_entry_point_of_an_installed_package(tmp_path, monkeypatch):
    write(tmp_path, name="installed_upstreams.py")
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint("mine", "installed_upstreams", user_modules.ENTRY_POINTS)
    entry_points_of(monkeypatch, point)
    assert load_upstream("my_model").stride == 320
    assert names.find_own("my_model").installed
    sys.modules.pop("installed_upstreams")


def test_broken_entry_point_is_named_and_does_not_hinder_s3prls_names(monkeypatch):
    entry_points_of(monkeypatch, EntryPoint("mine", "no_such_package_x", user_modules.ENTRY_POINTS))
    assert load_upstream("fbank").stride == 160
    with pytest.raises(MIError, match=r"entry point 'mine'.*importing 'no_such_package_x' failed"):
        load_upstream("my_model")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "import no_such_thing_y\n",
            r"ModuleNotFoundError: No module named 'no_such_thing_y' \(line 1 of my_u",
        ),
        ("x = 1\n\n1 / 0\n", r"ZeroDivisionError: division by zero \(line 3 of my_upstreams.py: 1 / 0\)"),
        ("x = 1\ndef broken(:\n", r"SyntaxError.*\(line 2 of my_upstreams.py\)"),
        ("import json\njson.loads('{')\n", r"JSONDecodeError.*\(line 2 of my_upstreams.py: json"),
        ("def mine(ckpt=None): ...\n", "has no FAMILIES for mine. Add"),
        ("", "has no FAMILIES. Add"),
        (MODULE + "\ndef other(ckpt=None): ...\n", "function 'other' has no family.*call it _other"),
        (MODULE.replace("def my_model", "def my_modell"), "function 'my_modell' has no family"),
        ("FAMILIES = {'mine': 'hubert'}\n", "there is no function of this name"),
        (
            "def mine(): ...\nFAMILIES = {'mine': 'hubrt'}\n",
            r"FAMILIES\['mine'\] is 'hubrt'.*Did you mean 'hubert'",
        ),
        ("def mine(): ...\nFAMILIES = {'mine': 1}\n", r"FAMILIES\['mine'\] is 1, neither a Family"),
        (
            "def dinosr(): ...\nFAMILIES = {'dinosr': 'hubert'}\n",
            "'dinosr' is already an upstream of s3prl_mi",
        ),
        ("def fbank(): ...\nFAMILIES = {'fbank': 'baseline'}\n", "'fbank' is already an upstream of s3prl"),
    ],
)
def test_mistakes_in_the_module(text, message, tmp_path):
    before = upstream_names()
    with pytest.raises(MIError, match=message) as caught:
        load_module(str(write(tmp_path, text)))
    assert str(caught.value).startswith("--upstream_module ")
    assert "\n" not in str(caught.value)
    assert upstream_names() == before


def test_mistakes_in_the_flag(tmp_path):
    for given, message in (
        ("nowhere/my.py", "does not exist"),
        ("no_such_module_z", "no such file, and no module of this name"),
        ("no_such_package_z.models", "no such file, and no module of this name"),
        (str(tmp_path), "is a folder"),
    ):
        with pytest.raises(MIError, match=message):
            load_module(given)


def test_error_in_the_users_code_is_shown_with_its_line(tmp_path):
    load_module(str(write(tmp_path, "def mine(**k):\n    1 / 0\nFAMILIES = {'mine': 'hubert'}\n")))
    with pytest.raises(MIError, match=r"'mine'.*ZeroDivisionError.*line 2 of my_upstreams.py: 1 / 0"):
        load_upstream("mine", ckpt=str(tmp_path / "my_upstreams.py"))


def test_s3prls_own_tasks_see_them_too(tmp_path):
    load_module(str(write(tmp_path)))
    hub = types.ModuleType("s3prl.hub")
    names.show_to_s3prl(hub)
    assert {"my_model", "dinosr", "cotraining", "hf"} <= set(vars(hub))
    assert hub.my_model().encoder.in_features == 320


def test_a_module_in_the_folder_where_the_command_runs(tmp_path):
    """In a new process: torch, which the module imports first, has modules that call a file their own which is none."""
    (tmp_path / "mine.py").write_text(MODULE)
    code = "from s3prl_mi.upstreams import names as m; m.load_module('mine.py'); print('my_model' in m.known())"
    done = run_python(code, tmp_path)
    assert done.stdout.strip() == "True", done.stderr
