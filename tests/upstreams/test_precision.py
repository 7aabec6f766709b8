"""bfloat16 forward passes: near float32, chosen only where that is so, and never mixed with it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from s3prl_mi.core.config import DataConfig
from s3prl_mi.data.splits import read_split
from s3prl_mi.states.extraction import Request
from s3prl_mi.states.store import key_of
from s3prl_mi.upstreams import precision
from s3prl_mi.upstreams.families import KINDS
from s3prl_mi.upstreams.forward import hidden_states
from s3prl_mi.upstreams.loading import load_upstream
from s3prl_mi.upstreams.precision import change_by, choose, of_view, running_in
from s3prl_mi.upstreams.views import PLAIN, View
from tests.helpers.paths import SHARED

NOISE = 0.1 * torch.randn(12000, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def hubert(checkpoint):
    name, path = checkpoint("hubert-base")
    return load_upstream(name, str(path))


@pytest.mark.parametrize(
    "model",
    ["hubert-base", "hubert-large", "wavlm-base", "wav2vec2-conformer", "data2vec", "hf_hubert-large"],
)
def test_states_are_near_those_of_float32(checkpoint, model):
    name, path = checkpoint(model)
    upstream = load_upstream(name, str(path))
    assert upstream.family.fast_in_bfloat16
    assert 0 < change_by("mixed", upstream) < change_by("bf16", upstream) < 0.05
    mask = View("mask", "latent", 10, 4)
    exact = hidden_states(upstream, [NOISE, NOISE[:9000]], mask)
    with running_in(upstream, "bf16"):
        rounded = hidden_states(upstream, [NOISE, NOISE[:9000]], mask)
    for a, b in zip(exact, rounded, strict=True):
        for one, other in zip(a, b, strict=True):
            assert other.dtype == torch.float32
            assert one.shape == other.shape
            assert ((one - other).square().mean(0).sqrt() / one.std(0)).mean() < 0.05


def test_residual_connections_add_up_in_float32(hubert):
    """Hidden states have more digits than bfloat16."""
    with running_in(hubert, "bf16"):
        ours = hidden_states(hubert, [NOISE])[0]
    assert all((h != h.bfloat16().float()).any() for h in ours)


def test_precision_ends_with_its_context(hubert):
    before = hidden_states(hubert, [NOISE])[0]
    with pytest.raises(ZeroDivisionError), running_in(hubert, "bf16"):  # noqa: PT012
        assert torch.is_autocast_enabled("cpu")
        _ = 1 / 0
    assert not torch.is_autocast_enabled("cpu")
    assert not any(p.requires_grad for p in hubert.expert.parameters())
    for a, b in zip(before, hidden_states(hubert, [NOISE])[0], strict=True):
        assert torch.equal(a, b)


def test_float32_is_float32_on_a_gpu_too(hubert):
    """torch's settings for TensorFloat-32, as they are within the context and after it."""
    torch.set_float32_matmul_precision("high")
    try:
        with running_in(hubert, "fp32"):
            assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("highest", False)
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("high", True)
    finally:
        torch.set_float32_matmul_precision("highest")


def test_batch_size_changes_little(hubert):
    with running_in(hubert, "bf16"):
        alone = hidden_states(hubert, [NOISE[:9000]])[0]
        together = hidden_states(hubert, [NOISE, NOISE[:9000]])[1]
    for a, b in zip(alone, together, strict=True):
        assert ((a - b).square().mean(0).sqrt() / a.std(0)).mean() < 0.02


@pytest.mark.parametrize(
    ("asked", "fast", "change", "family", "expected"),
    [
        ("fp32", True, 0.0, "hubert", "fp32"),
        ("bf16", False, 9.0, "apc", "bf16"),
        ("mixed", False, 9.0, "hubert", "mixed"),
        ("auto", True, 0.01, "hubert", "mixed"),
        ("auto", True, 0.01, "apc", "fp32"),
        ("auto", False, 0.01, "hubert", "fp32"),
        ("auto", True, 0.2, "hubert", "fp32"),
    ],
)
def test_choice(monkeypatch, hubert, asked, fast, change, family, expected):
    monkeypatch.setattr(precision, "half_is_fast", lambda _device: fast)
    monkeypatch.setattr(precision, "change_by", lambda *_: change)
    upstream = replace(hubert, family=KINDS[family])
    assert choose(asked, upstream) == expected
    assert choose(asked, upstream, masked=False) == ("bf16" if asked == "bf16" else "fp32")
    if asked == "auto":
        on_gpu = choose(asked, replace(upstream, device="cuda"))
        assert on_gpu == ("bf16" if expected == "mixed" else "fp32")


def test_mixed_is_float32_but_for_latent_masks():
    mask, silence = View("mask", "latent", 10, 4), View("mask", "waveform", 10, 4)
    assert [of_view("mixed", v) for v in (PLAIN, mask, silence)] == ["fp32", "mixed", "fp32"]
    assert {of_view("bf16", v) for v in (PLAIN, mask, silence)} == {"bf16"}


def test_mixed_has_convolutions_of_float32(hubert):
    """Entry 0 lies behind them alone, but for one product and the positions."""
    exact = hidden_states(hubert, [NOISE])[0][0]
    error = {}
    for name in ("mixed", "bf16"):
        with running_in(hubert, name):
            error[name] = float((hidden_states(hubert, [NOISE])[0][0] - exact).square().mean())
    assert 0 < error["mixed"] < error["bf16"] / 2
    assert "forward" not in vars(hubert.expert.model.feature_extractor)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("bf16", {(False, torch.bfloat16), (True, torch.float32)}),
        ("mixed", {(False, torch.float32), (True, torch.float32)}),
        ("fp32", {(False, torch.float32), (True, torch.float32)}),
    ],
)
def test_convolutions_in_groups_stay_in_float32_on_a_cpu(monkeypatch, hubert, asked, expected):
    """oneDNN sums them wrongly in bfloat16 on processors with AMX; others keep the rule, so that bits agree."""
    original, seen = torch.nn.functional.conv1d, set()

    def spy(source, weight, bias, stride, padding, dilation, groups):
        output = original(source, weight, bias, stride, padding, dilation, groups)
        seen.add((groups > 1, output.dtype))  # autocast rounds within the call: only the output shows it
        return output

    monkeypatch.setattr(torch.nn.functional, "conv1d", spy)
    with torch.no_grad(), running_in(hubert, asked):
        hubert.expert([NOISE])
    assert seen == expected


def test_a_model_that_bfloat16_breaks_is_run_in_float32(monkeypatch, checkpoint):
    """A frame-independent offset of 1000: what varies is lost among its digits."""
    name, path = checkpoint("hubert-base")
    upstream = load_upstream(name, str(path))
    with torch.no_grad():
        upstream.expert.model.encoder.layers[0].fc2.bias += 1000
    monkeypatch.setattr(precision, "half_is_fast", lambda _device: True)
    assert change_by("mixed", upstream) > precision.LARGEST_CHANGE
    assert choose("auto", upstream) == "fp32"


def test_keys_of_float32_are_those_of_the_time_before(corpus, hubert):
    split = read_split(DataConfig(libri_root=str(corpus.root)), "fit-a")
    exact, mixed, half = (Request(hubert, split, PLAIN, (0,), "auto", p) for p in ("fp32", "mixed", "bf16"))
    audio = [[u.id, split.hashes[u.id]] for u in split.longest_first]
    known = {"upstream": hubert.name, "fingerprint": hubert.fingerprint, "view": "plain"}
    assert exact.key == key_of({**known, "audio": audio, "exact": False})
    assert len({exact.key, mixed.key, half.key}) == 3


# --- an experiment -----------------------------------------------------------------------------------------


def test_precision_stands_in_every_record_and_is_kept_to(run, capsys):
    assert run("mi_supervised", "hubert-base", "--precision", "bf16", layers=[2], seeds=1) == 0
    assert [r.precision for r in run.records()] == ["bf16"]
    assert json.loads((run.folder / "experiment" / "mi_settings.json").read_text())["precision"] == "bf16"
    # left open, it is that of the folder, be this machine fast at it or not
    again = run("mi_supervised", "hubert-base", "-a", layers=[2], seeds=2, precision="auto")
    assert again == 0
    assert [r.precision for r in run.records()] == ["bf16", "bf16"]
    assert run.evaluate("eval", "--precision", "bf16") == 0
    assert [r.precision for r in run.records("experiment/evaluate/eval")] == ["bf16", "bf16"]
    capsys.readouterr()
    assert run("mi_supervised", "hubert-base", "-a", "--precision", "fp32", layers=[2], seeds=3) == 1
    said = capsys.readouterr().err
    assert "precision was 'bf16', is 'fp32'" in said


def test_a_folder_of_the_time_before_is_float32(run, capsys, monkeypatch):
    monkeypatch.setattr(precision, "half_is_fast", lambda _device: True)
    assert run("mi_supervised", "hubert-base", layers=[2], seeds=1) == 0
    settings = run.folder / "experiment" / "mi_settings.json"
    content = json.loads(settings.read_text())
    del content["precision"]
    settings.write_text(json.dumps(content))
    capsys.readouterr()
    assert run("mi_supervised", "hubert-base", "-a", "--precision", "bf16", layers=[2], seeds=2) == 1
    assert "precision was 'fp32', is 'bf16'" in capsys.readouterr().err
    assert run("mi_supervised", "hubert-base", "-a", layers=[2], seeds=2, precision="auto") == 0
    assert {r.precision for r in run.records()} == {"fp32"}


def test_mixed_shares_the_unmasked_view_with_float32(run):
    """And its bits are near, as codebooks are the same."""
    from s3prl_mi.states.store import Store

    assert run("mi_views", "hubert-base", layers=[2]) == 0
    before = len(Store(run.folder / "store", 10**9).entries())
    assert run("mi_views", "hubert-base", "--precision", "mixed", layers=[2], name="mixed") == 0
    assert {r.precision for r in run.records("mixed")} == {"mixed"}
    assert len(Store(run.folder / "store", 10**9).entries()) == before + before // 2
    mine, theirs = run.numbers("mixed"), run.numbers()
    for identity, (bits, entropy, *_) in theirs.items():
        assert mine[identity][1] == entropy
        assert mine[identity][0] == pytest.approx(bits, abs=0.01)
    assert mine != theirs
    # no view is masked: there is nothing to mix
    assert run("mi_supervised", "hubert-base", "--precision", "mixed", layers=[2], name="labels") == 0
    assert {r.precision for r in run.records("labels")} == {"fp32"}


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared")
@pytest.mark.parametrize(("task", "name"), [("mi_supervised", "bf16"), ("mi_views", "mixed")])
def test_bits_of_a_trained_model_stay(run, tmp_path, task, name):
    from s3prl_mi.cli.run_downstream import main

    data = SHARED / "data" / "LibriSpeech-mini"
    settings = {
        "datarc.libri_root": str(data),
        "datarc.alignments.path": str(data / "alignments"),
        "datarc.max_utterances": 8,
        "store.root": str(tmp_path / "store"),
        "probes": ["logistic"],
        "seeds": 1,
        "layers": "last",
    }
    override = ",,".join(f"config.downstream_expert.{k}={v!r}" for k, v in settings.items())
    model = ["-u", "hubert_local", "-k", str(SHARED / "checkpoints" / "hubert2-001800.pt")]
    for asked in ("fp32", name):
        words = ["-p", str(run.folder / asked), "--precision", asked, "--device", "cpu", "-o", override]
        assert main(["-m", "train", "-d", task, *model, *words]) == 0
    (exact,), (half,) = run.records("fp32"), run.records(name)
    assert half.mi_lower_bound_bits == pytest.approx(exact.mi_lower_bound_bits, abs=0.01)
    assert half.mi_lower_bound_bits != exact.mi_lower_bound_bits


def test_views_without_masks_are_added_to_an_experiment_begun_in_mixed(run):
    words = dict(layers=[2], seeds=1, probes=["logistic"], clusters=4)
    assert run("mi_views", "hubert-base", "--precision", "mixed", **words) == 0
    added = dict(views__kind="shift", views__shift_ms=60, precision="auto")
    assert run("mi_views", "hubert-base", "-a", **words, **added) == 0
    assert [r.precision for r in run.records()] == ["mixed", "mixed"]
    assert len({r.view for r in run.records()}) == 2
