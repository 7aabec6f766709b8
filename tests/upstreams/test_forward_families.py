"""Hidden states of s3prl's further upstreams: their own masking, frame rates, codes, names, frames in time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from s3prl_mi.core.config import ViewConfig
from s3prl_mi.core.errors import MIError
from s3prl_mi.upstreams.families import family_of
from s3prl_mi.upstreams.forward import entries_beyond_s3prl, hidden_states, layer_names, shortest_samples
from s3prl_mi.upstreams.geometry import aligned_rows
from s3prl_mi.upstreams.loading import Upstream, load_upstream
from s3prl_mi.upstreams.receptive_field import geometry_of, geometry_of_entry
from s3prl_mi.upstreams.views import View, resolve_views
from tests.helpers import models
from tests.helpers.models_more import (
    DIM,
    MORE,
    MULTIRES,
    SHIFTED,
    SPECTRAL,
    build_multires,
    build_spectral,
    small_decoar2,
    small_lighthubert,
)

MASK = View("mask", "latent", 12, 4)
LENGTHS = (16000, 6001, 24011, 11999)


def noise(n_samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(n_samples, generator=torch.Generator().manual_seed(seed))


def assert_same(found: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float = 1e-5) -> None:
    assert len(found) == len(expected)
    for layer, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert a.shape == b.shape, f"layer {layer}"
        error = ((a - b).abs().max() / b.abs().max()).item()
        assert error <= tolerance, f"layer {layer}: relative difference {error:.1e}"


def changed(masked: list[torch.Tensor], plain: list[torch.Tensor]) -> list[list[int]]:
    """For each entry the frames that a mask changed."""
    return [((a - b).abs().amax(dim=1) > 1e-6).nonzero().flatten().tolist() for a, b in zip(masked, plain, strict=True)]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    cache: dict[str, Upstream] = {}

    def get(name: str) -> Upstream:
        if name not in cache:
            upstream, build = {**MORE, "vq_apc": models.MODELS["vq_apc"]}[name]
            cache[name] = load_upstream(upstream, str(build(folder)))
        return cache[name]

    return get


def geometry_of_all(upstream: Upstream, count: int) -> list:
    return [geometry_of_entry(upstream.expert, upstream.family, upstream.geometry, i) for i in range(count)]


# --- all of them -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SPECTRAL, *SHIFTED])
def test_unmasked_states_are_s3prls_own_and_no_frame_is_lost(name, loaded):
    upstream = loaded(name)
    for n, seed in zip(LENGTHS, range(9), strict=False):
        [found] = hidden_states(upstream, [noise(n, seed)])
        with torch.no_grad():
            own = [h[0] for h in upstream.expert([noise(n, seed)])["hidden_states"]]
        assert_same(found[: len(own)], own, tolerance=1e-6)
        assert len(found) == len(own) + entries_beyond_s3prl(upstream)
        assert {len(entry) for entry in found} == {upstream.geometry.n_frames(n)}
    assert len(layer_names(upstream)) == len(set(layer_names(upstream))) == len(found)


@pytest.mark.parametrize("name", MORE)
def test_states_do_not_depend_on_the_batch_or_on_calls_before(name, loaded):
    upstream = loaded(name)
    view = MASK if upstream.family.can_mask_latents else None
    utterances = [noise(n, seed) for seed, n in enumerate(LENGTHS)]
    alone = [hidden_states(upstream, [u], view)[0] for u in utterances]
    for order in ([0, 1, 2, 3], [3, 1]):
        for i, states in zip(order, hidden_states(upstream, [utterances[i] for i in order], view), strict=True):
            assert_same(states, alone[i])


@pytest.mark.parametrize("name", MORE)
def test_shortest_waveform_has_finite_states(name, loaded):
    upstream = loaded(name)
    needs = shortest_samples(upstream)
    [states] = hidden_states(upstream, [noise(needs)], MASK if upstream.family.can_mask_latents else None)
    assert all(len(s) >= 1 and torch.isfinite(s).all() for s in states)
    with pytest.raises(MIError, match=rf"{needs - 1} samples .* needs at least {needs}"):
        hidden_states(upstream, [noise(needs - 1)])


@pytest.mark.parametrize(
    ("name", "view", "level"),
    [
        ("tera", "mask", "latent"),
        ("multires-2", "mask", "latent"),
        ("distilhubert", "mask", "waveform"),
        ("npc", "shift", None),
        ("cpc", "shift", None),
        ("vq_wav2vec-gumbel", "shift", None),
    ],
)
def test_view_that_auto_takes(name, view, level, loaded):
    [chosen] = resolve_views(ViewConfig(), name, loaded(name).family)
    assert (chosen.kind, chosen.level) == (view, level)


def test_views_that_a_family_refuses(loaded):
    with pytest.raises(MIError, match=r"mask_level: latent.*distilhubert.*no known mask site"):
        resolve_views(ViewConfig(kind="mask", mask_level="latent"), "distilhubert", loaded("distilhubert").family)
    with pytest.raises(MIError, match=r"kind: upstream 'mae_ast_frame'.*Set .*kind to mask .* or shift"):
        resolve_views(ViewConfig(), "mae_ast_frame", loaded("mae_ast-frame").family)
    [asked] = resolve_views(ViewConfig(kind="mask"), "mae_ast_frame", loaded("mae_ast-frame").family)
    assert asked.level == "waveform"


# --- masks at the spectrogram ------------------------------------------------------------------------


def with_frames_zeroed_by_hand(upstream: Upstream, waveform: torch.Tensor, monkeypatch) -> list[torch.Tensor]:
    """s3prl's expert, where the frames of MASK are set to 0 right after its own look at the input."""
    transformer = upstream.expert.transformer
    original, start = transformer.process_input_data, [0]

    def zeroed(chunk):
        frames, positions, attention = original(chunk)
        assert attention.all()
        inside = np.arange(frames.shape[1]) + start[0]
        start[0] += frames.shape[1]
        frames = frames.clone()
        frames[:, inside % 12 >= 4] = 0
        return frames, positions, attention

    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(transformer, "process_input_data", zeroed)
        return [h[0] for h in upstream.expert([waveform])["hidden_states"]]


@pytest.mark.parametrize("name", SPECTRAL)
def test_masked_spectrum_is_zero_frames_after_normalisation(name, loaded, monkeypatch):
    upstream = loaded(name)
    [masked], [plain] = hidden_states(upstream, [noise(16000)], MASK), hidden_states(upstream, [noise(16000)])
    assert_same(masked, with_frames_zeroed_by_hand(upstream, noise(16000), monkeypatch), tolerance=1e-6)
    pattern = MASK.pattern(len(plain[0])).nonzero()[0].tolist()
    entry_0, *others = changed(masked, plain)
    assert entry_0 == pattern
    assert all(set(pattern) <= set(entry) for entry in others)


def test_chunks_continue_the_mask_pattern(loaded):
    """A long utterance passes the model in pieces; the pattern goes on over their borders."""
    whole, pieces = loaded("tera"), loaded("tera-chunks")
    assert pieces.expert.transformer.max_input_length == 60
    results = [hidden_states(u, [noise(24000)], MASK)[0][0] for u in (whole, pieces)]
    plain = [hidden_states(u, [noise(24000)])[0][0] for u in (whole, pieces)]
    [first], [second] = (changed([m], [p]) for m, p in zip(results, plain, strict=True))
    assert first == second == MASK.pattern(151).nonzero()[0].tolist()


@pytest.mark.parametrize(("name", "first_centre", "n_frames"), [("tera", 0.0, 101), ("mockingjay", 199.5, 98)])
def test_spectral_geometry_follows_the_config(name, first_centre, n_frames, loaded):
    geometry = loaded(name).geometry
    assert (geometry.stride, geometry.first_centre, geometry.n_frames(16000)) == (160, first_centre, n_frames)


# --- fixed widths: small editions ----------------------------------------------------------------------


def test_lighthubert_masks_as_it_does_itself_the_first_entry_too(tmp_path):
    with small_lighthubert(tmp_path) as path:
        upstream = load_upstream("lighthubert_local", str(path))
    model = upstream.expert.model
    assert model.mask_emb.shape == (128,)
    [masked], [plain] = hidden_states(upstream, [noise(16000)], MASK), hidden_states(upstream, [noise(16000)])
    assert [tuple(s.shape) for s in plain] == [(49, 64)] * 13
    indices = torch.from_numpy(MASK.pattern(49))[None]
    with torch.no_grad():
        waveform = torch.nn.functional.layer_norm(noise(16000), (16000,))[None]
        native = model(
            waveform,
            padding_mask=torch.zeros_like(waveform, dtype=torch.bool),
            mask=True,
            mask_indices=indices,
            features_only=True,
        )
    assert_same(masked, [h[0] for h in native["hidden_states"]], tolerance=1e-6)
    assert changed(masked, plain)[0] == indices[0].nonzero().flatten().tolist()
    assert layer_names(upstream) == ["features", *(f"output of layer {n}" for n in range(1, 13))]
    utterances = [noise(16000), noise(5123, 1), noise(24011, 2)]
    for view in (None, MASK):
        for found, u in zip(hidden_states(upstream, utterances, view), utterances, strict=True):
            assert_same(found, hidden_states(upstream, [u], view)[0])


@pytest.mark.parametrize("in_file", [False, True], ids=["zeros", "vector in the file"])
def test_decoar2_masks_with_the_files_vector_else_zeros(in_file, tmp_path):
    with small_decoar2(tmp_path, mask_vector=in_file) as path:
        upstream = load_upstream("decoar2_local", str(path))
    assert resolve_views(ViewConfig(), "decoar2", upstream.family)[0].kind == "shift"
    object.__setattr__(upstream, "checkpoint_path", path)
    [masked] = hidden_states(upstream, [noise(16000)], MASK)
    vector = torch.load(path, weights_only=True)["model"].get("mask_emb", torch.zeros(DIM))
    assert vector.any() == in_file
    projection = upstream.expert.model.post_extract_proj

    def write(_module, _inputs, output):
        output = output.clone()
        output[:, torch.from_numpy(MASK.pattern(49))] = vector
        return output

    handle = projection.register_forward_hook(write)
    with torch.no_grad():
        by_hand = [h[0] for h in upstream.expert([noise(16000)])["hidden_states"]]
    handle.remove()
    assert_same(masked, by_hand, tolerance=1e-6)
    for n in LENGTHS:
        assert {len(s) for s in hidden_states(upstream, [noise(n)])[0]} == {(n - 400) // 320 + 1}


# --- MR-HuBERT -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MULTIRES)
def test_entries_have_their_own_resolution(name, loaded):
    upstream = loaded(name)
    for n in LENGTHS:
        [found] = hidden_states(upstream, [noise(n)])
        for entry, geometry in zip(found, geometry_of_all(upstream, len(found)), strict=True):
            assert len(entry) == geometry.n_frames(n)
        # Between resolutions of ratio 5 to 2 the model itself repeats frames on the way up.
        for entry in found[:6] if name == "multires-5x" else found:
            assert ((entry[1:] - entry[:-1]).abs().amax(dim=1) > 1e-4).all(), "a frame is repeated"
    assert upstream.expert.hook_postprocess is not None


@pytest.mark.parametrize(
    ("name", "strides"),
    [
        ("multires-2", [320] * 3 + [640] * 3 + [320] * 3),
        ("multires-3", [320] * 3 + [640] * 3 + [1280] * 3 + [640] * 3 + [320] * 3),
        ("multires-uneven", [320] * 2 + [640] * 4 + [320] * 3),
        ("multires-5x", [320] * 3 + [800] * 3 + [320] * 3),
    ],
)
def test_strides_of_the_blocks(name, strides, loaded):
    upstream = loaded(name)
    assert [g.stride for g in geometry_of_all(upstream, len(strides))] == strides
    assert {g.first_centre for g in geometry_of_all(upstream, len(strides))} == {199.5}
    assert len(layer_names(upstream)) == len(strides)
    assert geometry_of_entry(upstream.expert, upstream.family, upstream.geometry, -1).stride == 320


@pytest.mark.parametrize("name", [n for n in MULTIRES if n != "multires-5x"])
def test_states_are_s3prls_own_without_the_repetition(name, loaded):
    upstream = loaded(name)
    [found] = hidden_states(upstream, [noise(16000)])
    with torch.no_grad():
        repeated = [h[0] for h in upstream.expert([noise(16000)])["hidden_states"]]
    own = [h[::factor] for h, factor in zip(repeated, upstream.expert.final_factors, strict=True)]
    assert_same(found, own, tolerance=1e-6)


@pytest.mark.parametrize("name", MULTIRES)
def test_multires_masks_as_it_does_itself(name, loaded, monkeypatch):
    upstream = loaded(name)
    model = upstream.expert.model
    [masked], [plain] = hidden_states(upstream, [noise(16000)], MASK), hidden_states(upstream, [noise(16000)])
    from s3prl.upstream.multires_hubert import hubert_model

    handed_down = []
    hooks = [
        module.register_forward_hook(lambda _m, _i, output: handed_down.append(output[2][0].numpy()))
        for module in model.downsample_modules
    ]
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(hubert_model, "compute_mask_indices", lambda *a, **k: MASK.pattern(49)[None])
        original = model.extract_features
        patch.setattr(model, "extract_features", lambda *a, **k: original(*a, **{**k, "mask": True}))
        patch.setattr(upstream.expert, "hook_postprocess", None)
        native = [h[0] for h in upstream.expert([noise(16000)])["hidden_states"]]
    for hook in hooks:
        hook.remove()
    assert_same(masked, [h[: len(m)] for h, m in zip(native, masked, strict=True)], tolerance=1e-6)
    # The mask that the model hands down to each coarser block is that of the frames that ours stand on.
    coarse = {g.stride: g for g in geometry_of_all(upstream, len(masked)) if g.stride != 320}
    assert len(coarse) == len(handed_down)
    for geometry, pattern in zip(coarse.values(), handed_down, strict=True):
        rows = aligned_rows(geometry, upstream.geometry, geometry.n_frames(16000))
        assert MASK.pattern(49)[rows].tolist() == pattern[: len(rows)].tolist()
    # Masked frames change at every resolution.
    for frames, geometry in zip(changed(masked, plain), geometry_of_all(upstream, len(masked)), strict=True):
        rows = aligned_rows(geometry, upstream.geometry, geometry.n_frames(16000))
        assert set(MASK.pattern(49)[rows].nonzero()[0]) <= set(frames)


def test_coarse_frames_stand_on_every_factor_th_fine_frame(loaded):
    upstream = loaded("multires-3")
    geometries = geometry_of_all(upstream, 15)
    for entry, factor in ((0, 1), (3, 2), (6, 4)):
        rows = aligned_rows(geometries[entry], upstream.geometry, 5)
        assert rows.tolist() == [factor * j for j in range(5)]
        fine = upstream.geometry.centres_seconds(20)[rows]
        np.testing.assert_allclose(geometries[entry].centres_seconds(5), fine)


def test_single_rate_upstreams_have_one_geometry(loaded):
    upstream = loaded("npc")
    assert geometry_of_entry(upstream.expert, upstream.family, upstream.geometry, 3) is upstream.geometry


def test_last_hidden_state_of_several_rates(loaded):
    upstream = replace(loaded("multires-2"), feature_selection="last_hidden_state")
    [[last]] = hidden_states(upstream, [noise(16000)])
    assert torch.equal(last, hidden_states(loaded("multires-2"), [noise(16000)])[0][-1])
    with pytest.raises(MIError, match=r"-s 'hidden_state_4'.*several frame rates"):
        hidden_states(replace(upstream, feature_selection="hidden_state_4"), [noise(16000)])


def test_unequal_steps_are_refused(tmp_path):
    with pytest.raises(MIError, match=r"label_rate_ratios.*not supported"):
        load_upstream("multires_hubert_local", str(build_multires(tmp_path, (1, 2, 2, 5))))


# --- codes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vq_apc", "npc"])
def test_codes_are_the_codebooks_nearest_vectors(name, loaded):
    upstream = loaded(name)
    [states] = hidden_states(upstream, [noise(24000)])
    *_, before, codes = states
    start = 0
    for layer in upstream.expert.model.vq_layers:
        width = layer.vq_logits.in_features
        chosen = layer.vq_logits(before[:, start : start + width]).argmax(dim=1)
        assert len(chosen.unique()) > 1
        torch.testing.assert_close(
            codes[:, start : start + width], layer.codebook_CxE.weight.T[chosen], rtol=1e-5, atol=1e-6
        )
        start += width
    assert start == codes.shape[1]
    assert layer_names(upstream)[-1] == "model.vq_layers codes"
    assert torch.equal(hidden_states(upstream, [noise(24000)])[0][-1], codes), "a sample, not the nearest"


@pytest.mark.parametrize("name", ["vq_wav2vec-gumbel", "vq_wav2vec-kmeans"])
def test_codes_of_vq_wav2vec_are_its_codewords(name, loaded):
    upstream = loaded(name)
    [states] = hidden_states(upstream, [noise(16000)])
    with torch.no_grad():
        result = upstream.expert([noise(16000)])
    torch.testing.assert_close(states[-1], result["codewords"][0], rtol=1e-5, atol=1e-6)
    pairs = result["codeids"][0].unique(dim=0)
    assert 1 < len(pairs) == len((states[-1] * 1e4).round().unique(dim=0)) <= 64
    assert entries_beyond_s3prl(upstream) == 1


@pytest.mark.parametrize("name", ["npc-plain", "wav2vec"])
def test_without_vq_there_are_no_codes(name, loaded):
    assert entries_beyond_s3prl(loaded(name)) == 0
    assert not layer_names(loaded(name))[-1].endswith("codes")


def test_codes_belong_to_hidden_states_only(loaded):
    upstream = replace(loaded("vq_apc"), feature_selection="last_hidden_state")
    assert len(hidden_states(upstream, [noise(16000)])[0]) == 1
    assert entries_beyond_s3prl(upstream) == 0


def test_codes_with_constant_dimensions_are_scored(run, monkeypatch, tmp_path):
    """Half the dimensions of the code are one number for every frame; their deviation is 0."""

    def flat(folder: Path) -> Path:
        path = models.build_apc(folder / "flat", vq=True)
        content = torch.load(path, weights_only=True)
        content["model"]["vq_layers.0.codebook_CxE.weight"][:16] = 0.25
        torch.save(content, path)
        return path

    monkeypatch.setitem(models.MODELS, "vq_apc-flat", ("apc_local", flat))
    assert run("mi_views", "vq_apc-flat", layers=[3], seeds=1, clusters=4) == 0
    [record] = run.records()
    assert record.layer_name == "model.vq_layers codes"
    assert record.layers_in_upstream == 4
    assert abs(record.mi_lower_bound_bits) < 0.5  # random codes of a few seconds: finite is what counts


# --- one upstream each -------------------------------------------------------------------------------------


def test_distilhubert_names_what_its_heads_predict(loaded):
    assert layer_names(loaded("distilhubert")) == [
        "features",
        "output of layer 1",
        "output of layer 2",
        "prediction of the teacher's layer 4",
        "prediction of the teacher's layer 12",
    ]


def test_distilhubert_silence_changes_masked_frames(loaded):
    view = View("mask", "waveform", 12, 4)
    upstream = loaded("distilhubert")
    [masked], [plain] = hidden_states(upstream, [noise(16000)], view), hidden_states(upstream, [noise(16000)])
    assert all(set(view.pattern(49).nonzero()[0]) <= set(entry) for entry in changed(masked, plain))


def test_cpc_that_keeps_its_state_starts_from_zero_each_time(loaded):
    upstream = loaded("cpc-sequential")
    first = hidden_states(upstream, [noise(16000)])[0]
    hidden_states(upstream, [noise(8000, 1)])
    assert_same(hidden_states(upstream, [noise(16000)])[0], first, tolerance=0)
    assert_same(first, hidden_states(loaded("cpc"), [noise(16000)])[0], tolerance=1e-6)


def test_cpc_frames_are_where_gradients_say(loaded):
    upstream = loaded("cpc")
    waveform = noise(4000).requires_grad_()
    upstream.expert.model.gEncoder(waveform.view(1, 1, -1))[0, :, 9].sum().backward()
    seen = waveform.grad.nonzero().flatten()
    centre = (seen.min() + seen.max()).item() / 2
    assert abs(upstream.geometry.centres_seconds(10)[9] * 16000 - centre) <= 1
    for n in (400, 479, 480, 4000, 4159):
        assert len(hidden_states(upstream, [noise(n)])[0][0]) == upstream.geometry.n_frames(n) == (n + 1) // 160


@pytest.mark.parametrize(("name", "windows"), [("mae_ast-frame", 2), ("mae_ast-patch", 16)])
def test_mae_ast_frames_are_where_gradients_say(name, windows, loaded):
    upstream = loaded(name)
    waveform = noise(16000).requires_grad_()
    spectrogram = upstream.expert.wav_to_spectrogram(waveform[None])
    spectrogram[3 * windows : 4 * windows].sum().backward()  # the windows of frame 3
    seen = waveform.grad.nonzero().flatten()
    centre = (seen.min() + seen.max()).item() / 2
    assert abs(upstream.geometry.centres_seconds(4)[3] * 16000 - centre) <= 1
    assert len(spectrogram) // windows == upstream.geometry.n_frames(16000)


# --- mask embeddings that were never trained ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hubert", "wav2vec2"])
@pytest.mark.parametrize("layout", ["safetensors", "bin", "shards"])
def test_random_mask_embedding_is_refused(kind, layout, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = models.build_hugging_face(tmp_path, kind)
    file = folder / "model.safetensors"
    weights = load_file(file)
    del weights["masked_spec_embed"]
    if layout == "safetensors":
        save_file(weights, file, metadata={"format": "pt"})
    elif layout == "bin":
        file.unlink()
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        save_file(weights, folder / "model-00001-of-00001.safetensors", metadata={"format": "pt"})
        file.unlink()
        index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "model-00001-of-00001.safetensors")}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    upstream = load_upstream(f"hf_{kind}_custom", str(folder))
    assert upstream.expert.model.masked_spec_embed is not None
    with pytest.raises(MIError, match=r"hold no masked_spec_embed.*random.*mask_level to waveform"):
        hidden_states(upstream, [noise(16000)], MASK)
    assert len(hidden_states(upstream, [noise(16000)], View("mask", "waveform", 12, 4))[0]) == 3


# --- ESPnet: the torchaudio model that it wraps ------------------------------------------------------------------


def espnet_upstream() -> Upstream:
    """What s3prl's expert holds of an ESPnet checkpoint; ESPnet itself is not needed for it."""
    from torchaudio.models import hubert_pretrain_model

    torch.manual_seed(0)
    layers = [(24, 10, 5), *[(24, 3, 2)] * 4, *[(24, 2, 2)] * 2]
    sizes = ("group_norm", layers, False, DIM, 0.0, 16, 4, 2, 4, 0.0, 64, 0.0, 0.0, False, 0.0)
    masks = (0.8, "static", 0.0, 10, False, 1, 0.0, "static", 0.0, 10, False, 1, False, False)
    model = hubert_pretrain_model(*sizes, *masks, num_classes=4, final_dim=16, feature_grad_mult=0.1)

    def forward(self, wavs):
        lengths = torch.tensor([len(w) for w in wavs])
        padded = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
        return {"hidden_states": self.model.wav2vec2.extract_features(padded, lengths)[0]}

    module = "s3prl.upstream.espnet_hubert.expert"
    expert = type("UpstreamExpert", (torch.nn.Module,), {"__module__": module, "forward": forward})()
    expert.model = model.eval()
    family = family_of(expert, "espnet_hubert_local")
    geometry = geometry_of(expert, family)
    return Upstream("espnet_hubert_local", expert, family, geometry, "cpu", "hidden_states", "0")


def test_espnet_masks_as_torchaudio_does(monkeypatch):
    from torchaudio.models.wav2vec2 import components

    upstream = espnet_upstream()
    assert upstream.geometry.n_frames(16000) == 49
    [masked], [plain] = hidden_states(upstream, [noise(16000)], MASK), hidden_states(upstream, [noise(16000)])
    pattern = torch.from_numpy(MASK.pattern(49))
    monkeypatch.setattr(components, "_compute_mask_indices", lambda *a, **k: pattern[None])
    encoder = upstream.expert.model.wav2vec2.encoder
    with torch.no_grad():
        latents, _ = upstream.expert.model.wav2vec2.feature_extractor(noise(16000)[None], torch.tensor([16000]))
        latents, _ = encoder._preprocess(latents, None)
        latents, _ = upstream.expert.model.mask_generator(latents, None)
        native = encoder.transformer.get_intermediate_outputs(latents)
    assert_same(masked, [h[0] for h in native], tolerance=1e-6)
    assert all(set(pattern.nonzero().flatten().tolist()) <= set(entry) for entry in changed(masked, plain))
    assert layer_names(upstream) == ["output of layer 1", "output of layer 2"]


def test_chunked_site_that_is_never_called_is_an_error(tmp_path):
    upstream = load_upstream("tera_local", str(build_spectral(tmp_path)))
    upstream.expert.transformer.unused = torch.nn.Identity()
    wrong = replace(upstream, family=replace(upstream.family, mask_site="transformer.unused"))
    with pytest.raises(RuntimeError, match="called 0 times"):
        hidden_states(wrong, [noise(16000)], MASK)
