"""Upstreams: names, loading, fingerprints, messages."""

from __future__ import annotations

import sys
import types
import urllib.error
from pathlib import Path

import pytest
import torch

from s3prl_mi.core.errors import MIError
from s3prl_mi.upstreams import compat
from s3prl_mi.upstreams import loading as upstreams
from s3prl_mi.upstreams.checkpoints import describe_checkpoint, sha256_of
from s3prl_mi.upstreams.loading import load_upstream
from s3prl_mi.upstreams.names import known, upstream_names
from tests.helpers.models import (
    MODELS,
    build_apc,
    build_data2vec,
    build_hubert,
    build_hugging_face,
    build_wav2vec2,
    build_wavlm,
)
from tests.helpers.process import run_python


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """One tiny checkpoint of each layout, by name."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return {name: (upstream, build(folder)) for name, (upstream, build) in MODELS.items()}


def test_names_and_places_are_those_of_s3prl_hub():
    import s3prl.hub as hub

    stock = upstreams.stock_names()
    helpers = {"FileLock", "Path", "load_and_convert_fairseq_ckpt"}  # imported by hubconfs, no upstreams
    ours = set(known())  # s3prl's own tasks see them there, once one was run in this process
    assert set(stock) == set(hub.options()) - helpers - ours
    for name, (module, attribute) in stock.items():
        assert getattr(hub, name) is getattr(sys.modules[module], attribute), name
    assert stock["wav2vec2_local"][0] == "s3prl.upstream.wav2vec2.hubconf"  # vq_wav2vec defines one too
    assert set(upstream_names()) == {*stock, "cotraining", "dinosr", "hf"}


def test_loading_imports_one_hubconf_only():
    code = (
        "import sys; from s3prl_mi.upstreams.loading import load_upstream; load_upstream('fbank');"
        "assert 's3prl.hub' not in sys.modules and 'transformers' not in sys.modules"
    )
    done = run_python(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_users_own_upstream_on_the_hub_wins(monkeypatch):
    class Mine(torch.nn.Module):
        def get_downsample_rates(self, key):
            return 160

    hub = types.ModuleType("s3prl.hub")
    hub.my_upstream = hub.fbank = lambda **kwargs: Mine()
    monkeypatch.setitem(sys.modules, "s3prl.hub", hub)
    assert load_upstream("my_upstream").stride == 160
    assert type(load_upstream("fbank").expert) is Mine
    assert load_upstream("my_upstream", ckpt="anything").checkpoint_sha256 is None


@pytest.mark.parametrize("name", MODELS)
def test_every_layout_loads_in_eval_mode_without_gradients(name, checkpoints, capfd):
    upstream, path = checkpoints[name]
    loaded = load_upstream(upstream, str(path))
    assert capfd.readouterr() == ("", "")
    assert not any(module.training for module in loaded.expert.modules())
    assert not any(parameter.requires_grad for parameter in loaded.expert.parameters())
    assert loaded.checkpoint_name == path.name
    assert loaded.checkpoint_sha256 == sha256_of(path)
    assert loaded.stride == loaded.expert.get_downsample_rates("hidden_states")


def test_step_is_read_from_the_users_checkpoint(tmp_path):
    path = build_hubert(tmp_path)
    assert load_upstream("hubert_local", str(path)).step is None
    assert load_upstream("hubert_local", str(path.rename(tmp_path / "hubert-000960.pt"))).step == 960
    content = torch.load(tmp_path / "hubert-000960.pt", weights_only=True)
    torch.save({**content, "step": 961}, tmp_path / "hubert-000960.pt")
    assert load_upstream("hubert_local", str(tmp_path / "hubert-000960.pt")).step == 961


def test_fingerprint_changes_with_what_determines_the_states(tmp_path):
    first = load_upstream("hubert_local", str(build_hubert(tmp_path)))
    assert load_upstream("hubert_local", str(build_hubert(tmp_path / "again"))).fingerprint == first.fingerprint
    assert load_upstream("hubert_local", str(build_hubert(tmp_path / "b", seed=1))).fingerprint != first.fingerprint
    last = load_upstream("hubert_local", str(build_hubert(tmp_path)), feature_selection="last_hidden_state")
    assert last.fingerprint != first.fingerprint
    content = torch.load(build_hubert(tmp_path / "c"), weights_only=True)
    content["task_cfg"]["normalize"] = True  # the same weights
    torch.save(content, tmp_path / "normalize.pt")
    assert load_upstream("hubert_local", str(tmp_path / "normalize.pt")).fingerprint != first.fingerprint


def test_fingerprints_of_baselines_follow_their_config(tmp_path):
    prints = {name: load_upstream(name).fingerprint for name in ("fbank", "fbank_no_cmvn", "mel", "linear")}
    assert len(set(prints.values())) == 4
    assert load_upstream("fbank").fingerprint == prints["fbank"]
    package = compat.s3prl_folder() / "upstream" / "baseline"
    text = (package / "fbank.yaml").read_text()
    (tmp_path / "a.yaml").write_text(text)
    (tmp_path / "b.yaml").write_text(text.replace("num_mel_bins: 80", "num_mel_bins: 40"))
    one, other = (load_upstream("baseline_local", model_config=str(tmp_path / f"{c}.yaml")) for c in "ab")
    assert one.fingerprint != other.fingerprint


def test_sha256_of_a_folder_sees_names_and_contents(tmp_path):
    for folder, name, text in (("a", "x", "1"), ("b", "x", "1"), ("c", "y", "1"), ("d", "x", "2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(text)
    digests = {folder: sha256_of(tmp_path / folder) for folder in "abcd"}
    assert digests["a"] == digests["b"]
    assert len(set(digests.values())) == 3


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("hubrt", {}, "unknown upstream -u 'hubrt'.*Did you mean 'hubert'"),
        ("vq_apc_local", {"ckpt": "x"}, "unknown upstream.*Use 'apc_local'"),
        ("os", {}, "unknown upstream"),
        ("hubert_local", {}, "needs a checkpoint: -k"),
        ("hubert_local", {"ckpt": "no/such.pt"}, "-k 'no/such.pt' does not exist"),
        ("hf_hubert_custom", {"ckpt": "./no_folder"}, "-k './no_folder' does not exist"),
        ("hubert", {"ckpt": "some.pt"}, "would ignore -k 'some.pt'"),
        ("baseline_local", {}, "-g CONFIG"),
        ("multires_hubert_local", {"ckpt": "x"}, "does not exist"),
    ],
)
def test_mistakes_in_the_arguments(name, arguments, message):
    with pytest.raises(MIError, match=message):
        load_upstream(name, **arguments)


@pytest.mark.parametrize(
    ("upstream", "given", "advice"),
    [
        ("wavlm_local", "hubert-base", "a converted HuBERT file. Try -u hubert_local"),
        ("wav2vec2_local", "hubert-base", "a converted HuBERT file. Try -u hubert_local"),
        ("hubert_local", "wav2vec2-base", "a converted wav2vec 2.0 file. Try -u wav2vec2_local"),
        ("hubert_local", "apc", "an APC file. Try -u apc_local"),
        ("apc_local", "wavlm-base", "a WavLM file. Try -u wavlm_local"),
        ("data2vec_local", "wav2vec2-base", "a converted wav2vec 2.0 file"),
        ("npc_local", "vq_apc", "a VQ-APC file. Try -u apc_local"),
        ("hubert_local", "hf_hubert-base", "type 'hubert'. Try -u hf_hubert_custom"),
        ("hf_wav2vec2_custom", "hf_hubert-base", "type 'hubert', not 'wav2vec2'.*Try -u hf_hubert_custom"),
        ("hf_hubert_custom", "hubert-base", "a converted HuBERT file. Try -u hubert_local"),
    ],
)
def test_checkpoint_of_another_model(upstream, given, advice, checkpoints):
    path = str(checkpoints[given][1])
    with pytest.raises(MIError, match=advice) as caught:
        load_upstream(upstream, path)
    message = str(caught.value)
    assert upstream in message
    assert Path(path).name in message
    assert "\n" not in message


def test_wavlm_folder_is_not_loaded_as_hubert(tmp_path):
    folder = build_hugging_face(tmp_path, "wavlm")
    with pytest.raises(MIError, match="type 'wavlm', not 'hubert'"):
        load_upstream("hf_hubert_custom", str(folder))


@pytest.mark.parametrize(
    ("content", "looks"),
    [
        (b"", "is an empty file"),
        (b"just text, no pickle", "is a text file, no checkpoint .*'just text, no pickle'"),
        (b"version https://git-lfs.github.com/spec/v1", "is a Git LFS pointer"),
        (b"\x80\x05K\x03.", "is no PyTorch checkpoint"),
        ({"Featurizer": {}, "Downstream": {}}, "looks like.*states-"),
        ({"layer.weight": torch.zeros(2)}, "looks like.*bare state dict"),
        ({"cfg": {"model": {}, "task": {}}, "model": {}}, "looks like.*raw fairseq file"),
        ({"a": 1, "b": 2}, "looks like.*keys a, b"),
        ([1, 2], "looks like.*a saved list"),
    ],
)
def test_files_that_are_no_upstream(content, looks, tmp_path):
    path = tmp_path / "file.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(MIError, match=rf"file\.pt.*{looks}") as caught:
        load_upstream("hubert_local", str(path))
    assert "\n" not in str(caught.value)


def test_truncated_checkpoint(tmp_path):
    path = build_hubert(tmp_path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(MIError, match=r"checkpoint .* is a PyTorch checkpoint that is damaged or cut short\.$"):
        load_upstream("hubert_local", str(path))


@pytest.mark.parametrize(
    ("build", "upstream"),
    [
        (build_hubert, "hubert_local"),
        (build_wav2vec2, "wav2vec2_local"),
        (build_wavlm, "wavlm_local"),
        (lambda f: build_wavlm(f, sat=True), "unispeech_sat_local"),
        (build_data2vec, "data2vec_local"),
        (lambda f: build_apc(f, namespace=True), "apc_local"),
        (build_hugging_face, "hf_hubert_custom"),
    ],
)
def test_describe_checkpoint_names_the_upstream_that_reads_it(build, upstream, tmp_path):
    assert describe_checkpoint(build(tmp_path))[1] == upstream


def test_failed_download_names_url_and_cache_file(monkeypatch, tmp_path):
    from s3prl.util import download

    def no_network(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(download, "_download_dir", tmp_path)
    monkeypatch.setattr(download, "_download_url_to_file", no_network)
    monkeypatch.setattr(download, "_download_url_to_file_requests", no_network)
    with pytest.raises(MIError, match=r"downloading https://\S+hubert_base_ls960\.pt failed") as caught:
        load_upstream("hubert")
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_downloaded_checkpoint_is_named_and_hashed(monkeypatch, tmp_path):
    from s3prl.util import download

    path = build_hubert(tmp_path)
    monkeypatch.setattr(download, "_download_dir", tmp_path / "cache")
    monkeypatch.setattr(download, "_download_url_to_file", lambda url, dst: Path(dst).write_bytes(path.read_bytes()))
    loaded = load_upstream("hubert")
    assert (loaded.checkpoint_name, loaded.checkpoint_sha256) == ("hubert_base_ls960.pt", sha256_of(path))
    assert loaded.family.name == "hubert"
    assert loaded.step is None  # 960 are hours


def test_missing_package_is_named(monkeypatch):
    def needs_it(**kwargs):
        raise ModuleNotFoundError("No module named 'espnet2'", name="espnet2")

    hub = types.ModuleType("s3prl.hub")
    hub.needy = needs_it
    monkeypatch.setitem(sys.modules, "s3prl.hub", hub)
    with pytest.raises(MIError, match=r"'needy' needs a package.*pip install espnet2"):
        load_upstream("needy")


def test_errors_that_nobody_foresaw_are_not_hidden(monkeypatch):
    def broken(**kwargs):
        raise ZeroDivisionError("a bug")

    hub = types.ModuleType("s3prl.hub")
    hub.broken = broken
    monkeypatch.setitem(sys.modules, "s3prl.hub", hub)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        load_upstream("broken")
