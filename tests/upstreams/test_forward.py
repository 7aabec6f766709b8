"""Hidden states: the real model classes with random weights; native masking; batches; frames."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from s3prl_mi.core.errors import MIError
from s3prl_mi.upstreams.families import Family
from s3prl_mi.upstreams.forward import entries_beyond_s3prl, hidden_states, layer_names
from s3prl_mi.upstreams.geometry import Geometry
from s3prl_mi.upstreams.loading import Upstream, load_upstream
from s3prl_mi.upstreams.masking import Front, silence_masked
from s3prl_mi.upstreams.views import View, mask_pattern
from tests.helpers.models import DIM, LAYERS, MASKED, MODELS
from tests.helpers.paths import SHARED

MASK = View("mask", "latent", 12, 4)
# Quite different lengths; 5123 and 11999 are where s3prl's HuBERT and WavLM misjudge padding in a batch.
LENGTHS = (16000, 5123, 24011, 1700, 11999)
BASELINES = ("fbank", "fbank_no_cmvn", "mfcc", "mel", "linear", "spectrogram")


def noise(n_samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(n_samples, generator=torch.Generator().manual_seed(seed))


UTTERANCES = [noise(n, seed) for seed, n in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Load each tiny model once, on first use."""
    folder = tmp_path_factory.mktemp("models")
    cache: dict[str, Upstream] = {}

    def get(name: str) -> Upstream:
        if name not in cache:
            if name in MODELS:
                upstream, build = MODELS[name]
                cache[name] = load_upstream(upstream, str(build(folder)))
            else:
                cache[name] = load_upstream(name)
        return cache[name]

    return get


def assert_same(found: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float = 1e-5) -> None:
    """Every layer alike, relative to the layer's largest value."""
    assert len(found) == len(expected)
    for layer, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert a.shape == b.shape, f"layer {layer}"
        error = ((a - b).abs().max() / b.abs().max()).item()
        assert error <= tolerance, f"layer {layer}: relative difference {error:.1e}"


@contextlib.contextmanager
def native_masking(upstream: Upstream, monkeypatch, n_frames: int):
    """Let the model mask itself, by its own training code, at the frames of MASK."""
    masked = MASK.pattern(n_frames)[None]
    model = upstream.expert.model
    if type(model).__module__.startswith("transformers."):
        indices = torch.from_numpy(masked)
        handle = model.register_forward_pre_hook(
            lambda _m, args, kwargs: (args, {**kwargs, "mask_time_indices": indices}), with_kwargs=True
        )
        yield
        handle.remove()
        return
    with monkeypatch.context() as patch:
        module = sys.modules[type(model).__module__]
        patch.setattr(module, "compute_mask_indices", lambda *a, **k: masked)
        original = model.extract_features
        patch.setattr(model, "extract_features", lambda *a, **k: original(*a, **{**k, "mask": True}))
        yield


def expert_states(upstream: Upstream, waveform: torch.Tensor) -> list[torch.Tensor]:
    """What s3prl's expert itself returns for one utterance; the last entry as `last_hidden_state`."""
    last = []
    handle = None
    if type(upstream.expert.model).__module__.startswith("transformers."):
        handle = upstream.expert.model.register_forward_hook(lambda _m, _i, out: last.append(out.last_hidden_state))
    with torch.no_grad():
        states = [h[0] for h in upstream.expert([waveform])["hidden_states"]]
    if handle is not None:
        handle.remove()
        states[-1] = last[0][0]
    return states


@pytest.mark.parametrize("name", MASKED)
def test_masked_forward_equals_the_models_own_masking(name, loaded, monkeypatch):
    upstream = loaded(name)
    waveform = noise(16000)
    [found] = hidden_states(upstream, [waveform], MASK)
    with native_masking(upstream, monkeypatch, 49):
        native = expert_states(upstream, waveform)
    assert_same(found, native, tolerance=1e-6)


@pytest.mark.parametrize("name", MASKED)
def test_masked_and_unmasked_views_differ_at_masked_frames(name, loaded):
    upstream = loaded(name)
    [masked], [plain] = hidden_states(upstream, [noise(16000)], MASK), hidden_states(upstream, [noise(16000)])
    pattern = torch.from_numpy(MASK.pattern(49))
    assert len(masked) == LAYERS + 1
    for a, b in zip(masked, plain, strict=True):
        assert a.shape == (49, DIM)
        assert ((a - b).abs().amax(dim=1)[pattern] > 1e-3).all()


@pytest.mark.parametrize("name", [*MODELS, "fbank", "mel"])
def test_unmasked_states_are_s3prls_own(name, loaded):
    upstream = loaded(name)
    if name in MODELS:
        expected = expert_states(upstream, noise(16000))
    else:
        expected = [upstream.expert([noise(16000)])["hidden_states"][0][0]]
    [found] = hidden_states(upstream, [noise(16000)])
    assert_same(found[: len(expected)], expected, tolerance=1e-6)
    assert len(found) - len(expected) == entries_beyond_s3prl(upstream) == (name == "vq_apc")
    assert len(found[0]) == upstream.geometry.n_frames(16000)


@pytest.mark.parametrize("view", [None, MASK, View("mask", "waveform", 12, 4)], ids=["plain", "latent", "waveform"])
@pytest.mark.parametrize("name", [*MODELS, *BASELINES])
def test_states_do_not_depend_on_the_batch(name, view, loaded):
    upstream = loaded(name)
    if view is MASK and not upstream.family.can_mask_latents:
        view = View("shift", shift_ms=60.0)
    alone = [hidden_states(upstream, [u], view)[0] for u in UTTERANCES]
    for order in ([0, 1, 2, 3, 4], [4, 3, 1], [2, 3]):
        together = hidden_states(upstream, [UTTERANCES[i] for i in order], view)
        for i, states in zip(order, together, strict=True):
            assert_same(states, alone[i])
            assert {len(s) for s in states} == {upstream.geometry.n_frames(LENGTHS[i])}


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize("count", [1, 3])
def test_views_that_share_their_convolutions_are_those_that_do_not(name, count, loaded):
    """Nor does it matter which view comes first."""
    upstream = loaded(name)
    waves, other = UTTERANCES[:count], View("mask", "latent", 9, 5)
    apart = {view: hidden_states(upstream, waves, view) for view in (None, MASK, other)}
    calls: list[int] = []
    modules = upstream.expert.model.feature_extractor.modules()
    first = next(m for m in modules if isinstance(m, torch.nn.Conv1d))
    hook = first.register_forward_hook(lambda *_: calls.append(1))
    for order in ((None, MASK, other), (other, MASK, None)):
        front = Front()
        calls.clear()
        for view in order:
            for found, expected in zip(hidden_states(upstream, waves, view, front), apart[view], strict=True):
                assert_same(found, expected, 0.0)
        assert len(calls) == count
    hook.remove()


def test_convolutions_behind_the_mask_site_are_not_shared():
    """Of a model that masks what enters its convolutions, each view has its own."""

    class Expert(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.site = torch.nn.Identity()
            self.front = torch.nn.Conv1d(1, 4, 1)
            self.mask_emb = torch.nn.Parameter(torch.ones(1))

        def forward(self, wavs):
            frames = torch.stack(wavs)[:, ::320, None]  # (1, 51, 1)
            return {"hidden_states": [self.front(self.site(frames).transpose(1, 2)).transpose(1, 2)]}

    family = Family("own", "mask", "site", "mask_emb", geometry=Geometry(320, 0.0, 0), conv_stack="front")
    upstream = Upstream(
        "own", Expert().requires_grad_(False), family, Geometry(320, 0.0, 0), "cpu", "hidden_states", ""
    )
    waves = [noise(16001)]
    apart = {view: hidden_states(upstream, waves, view)[0] for view in (None, MASK)}
    assert not torch.equal(apart[None][0], apart[MASK][0])
    for order in ((None, MASK), (MASK, None)):
        front = Front()
        for view in order:
            assert_same(hidden_states(upstream, waves, view, front)[0], apart[view], 0.0)


def test_plain_padding_would_change_a_group_norm_model(loaded):
    """The care is needed: s3prl's own padded batch gives other numbers."""
    upstream = loaded("hubert-base")
    [_, alone] = hidden_states(upstream, UTTERANCES[:2])
    with torch.no_grad():
        padded = upstream.expert(UTTERANCES[:2])["hidden_states"]
    difference = (padded[-1][1, : len(alone[-1])] - alone[-1]).abs().max()
    assert difference > 1e-2


def test_hooks_are_gone_afterwards(loaded):
    upstream = loaded("hubert-base")
    hidden_states(upstream, UTTERANCES[:2], MASK)
    assert not upstream.expert.model.encoder._forward_pre_hooks
    assert "forward" not in vars(upstream.expert.model.feature_extractor)
    with pytest.raises(MIError):
        hidden_states(upstream, [noise(16000), noise(100)], MASK)
    assert not upstream.expert.model.encoder._forward_pre_hooks


def test_a_mask_site_that_is_never_called_is_an_error(loaded):
    upstream = loaded("hubert-base")
    wrong = replace(upstream, family=replace(upstream.family, mask_site="model.final_proj"))
    with pytest.raises(RuntimeError, match=r"model\.final_proj.*called 0 times"):
        hidden_states(wrong, [noise(16000)], MASK)


def test_input_waveforms_are_left_alone(loaded):
    waveform = noise(8000)
    before = waveform.clone()
    hidden_states(loaded("mel"), [waveform], View("mask", "waveform", 12, 4))
    assert torch.equal(waveform, before)


def test_waveform_masks_silence_exactly_the_masked_frames(loaded):
    upstream = loaded("fbank")
    silenced = silence_masked(upstream, torch.ones(16000), View("mask", "waveform", 40, 10))
    frames = upstream.geometry.nearest_frames(16000)
    np.testing.assert_array_equal(silenced.numpy() == 0, mask_pattern(98)[frames])


@pytest.mark.parametrize("name", ["mel", "linear"])
def test_silent_tail_keeps_its_frames(name, loaded):
    waveform = torch.cat([noise(8000), torch.zeros(8000)])
    [[states]] = hidden_states(loaded(name), [waveform])
    assert len(states) == 101


@pytest.mark.parametrize(("name", "needs"), [("hubert-base", 400), ("fbank", 560), ("mel", 400), ("apc", 560)])
def test_too_short_audio(name, needs, loaded):
    upstream = loaded(name)
    with pytest.raises(MIError, match=rf"utterance 1 .* {needs - 1} samples .*needs at least {needs}"):
        hidden_states(upstream, [noise(16000), noise(needs - 1)])
    [states] = hidden_states(upstream, [noise(needs)])
    assert all(torch.isfinite(s).all() for s in states)


def test_feature_selection(loaded):
    upstream = replace(loaded("hubert-base"), feature_selection="last_hidden_state")
    [[last]] = hidden_states(upstream, [noise(16000)])
    [states] = hidden_states(loaded("hubert-base"), [noise(16000)])
    assert torch.equal(last, states[-1])
    assert layer_names(upstream) == ["last_hidden_state"]
    with pytest.raises(MIError, match=r"no output -s 'nothing'.*last_hidden_state"):
        hidden_states(replace(upstream, feature_selection="nothing"), [noise(16000)])
    [[hugging_face]] = hidden_states(
        replace(loaded("hf_hubert-large"), feature_selection="last_hidden_state"), [noise(16000)]
    )
    [states] = hidden_states(loaded("hf_hubert-large"), [noise(16000)])
    assert torch.equal(hugging_face, states[-1])


def test_layer_names_follow_the_entries(loaded):
    names = layer_names(loaded("hubert-base"))
    assert names == ["model.encoder.layers[0]", "model.encoder.layers[1]", "model.encoder"]
    assert layer_names(loaded("hf_hubert-base")) == [f"hidden_states[{i}]" for i in range(3)]
    assert layer_names(loaded("fbank")) == ["hidden_states[0]"]


def test_model_without_a_mask_embedding(tmp_path):
    from tests.helpers.models import build_hugging_face

    folder = build_hugging_face(tmp_path, mask_time_prob=0.0, mask_feature_prob=0.0)
    upstream = load_upstream("hf_hubert_custom", str(folder))
    with pytest.raises(MIError, match=r"no mask embedding.*mask_level to waveform"):
        hidden_states(upstream, [noise(16000)], MASK)


class Unheard(torch.nn.Module):
    """An upstream of a kind that nobody has described: one frame per 200 samples, two entries in a dict."""

    def get_downsample_rates(self, key: str) -> int:
        return 200

    def forward(self, wavs):
        assert len(wavs) == 1, "an unknown family must not be batched"
        frames = wavs[0][: len(wavs[0]) // 200 * 200].view(1, -1, 200)
        return {"hidden_states": {"a": frames, "b": frames.abs()}}


def test_unknown_family_runs_alone_with_waveform_masks():
    upstream = Upstream("new", Unheard(), Family("new"), Geometry(200, 99.5), "cpu", "hidden_states", "0")
    found = hidden_states(upstream, [torch.ones(4000), torch.ones(1000)], View("mask", "waveform", 4, 1))
    assert [[tuple(s.shape) for s in states] for states in found] == [[(20, 200)] * 2, [(5, 200)] * 2]
    np.testing.assert_array_equal(found[0][0].sum(1).numpy() == 0, mask_pattern(20, 4, 1))


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared")
@pytest.mark.parametrize(
    ("upstream", "file", "layers", "stride"),
    [
        ("hubert_local", "hubert-003200.pt", 7, 320),
        ("hubert_local", "hubert2-001800.pt", 7, 320),
        ("apc_local", "apc-000960.ckpt", 3, 160),
        ("apc_local", "vq_apc-000960.ckpt", 4, 160),
    ],
)
def test_trained_checkpoints(upstream, file, layers, stride):
    loaded_upstream = load_upstream(upstream, str(SHARED / "checkpoints" / file))
    alone = [hidden_states(loaded_upstream, [u], MASK if stride == 320 else None)[0] for u in UTTERANCES[:3]]
    for n, states in zip(LENGTHS, alone, strict=False):
        assert len(states) == layers
        assert {len(s) for s in states} == {(n - 400) // stride + 1}
    together = hidden_states(loaded_upstream, UTTERANCES[:3], MASK if stride == 320 else None)
    for found, expected in zip(together, alone, strict=True):
        assert_same(found, expected)
