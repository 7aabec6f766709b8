"""-u hf: every class of speech encoder, from a folder; masks, heads, missing parts, refusals."""

from __future__ import annotations

import logging
import shutil

import pytest
import torch

from s3prl_mi.core.errors import MIError
from s3prl_mi.upstreams.forward import hidden_states
from s3prl_mi.upstreams.loading import load_upstream
from s3prl_mi.upstreams.views import View
from tests.helpers.models import DIM, HF_CLASSES, LAYERS, build_hugging_face
from tests.helpers.models_own import edit_json

MASK = View("mask", "latent", 12, 4)


def noise(n_samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(n_samples, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Each class once, and the large layout of two."""
    folder = tmp_path_factory.mktemp("hf")
    made = {kind: build_hugging_face(folder, kind) for kind in HF_CLASSES}
    made["hubert-large"] = build_hugging_face(folder / "large", "hubert", large=True)
    made["wavlm-large"] = build_hugging_face(folder / "large", "wavlm", large=True)
    return made


@pytest.mark.parametrize("kind", [*HF_CLASSES, "hubert-large", "wavlm-large"])
def test_every_class_runs_masked_and_unmasked(kind, folders):
    from transformers import AutoModel

    upstream = load_upstream("hf", str(folders[kind]))
    assert type(upstream.expert.model).__name__ == f"{HF_CLASSES[kind.removesuffix('-large')]}Model"
    wav = noise(16000)
    [plain], [masked] = hidden_states(upstream, [wav]), hidden_states(upstream, [wav], MASK)
    assert [s.shape for s in plain] == [(49, DIM)] * (LAYERS + 1)
    # the same model, called as transformers documents it
    model = AutoModel.from_pretrained(folders[kind]).eval()
    found = upstream.expert.extracter(wav.numpy(), sampling_rate=16000, return_tensors="pt")
    inputs = found[model.main_input_name]
    indices = torch.from_numpy(MASK.pattern(49))[None]
    with torch.no_grad():
        expected = model(inputs, output_hidden_states=True)
        natively_masked = model(inputs, mask_time_indices=indices, output_hidden_states=True)
    for states, native in ((plain, expected), (masked, natively_masked)):
        for entry, wanted in zip(states[:-1], native.hidden_states[:-1], strict=True):
            torch.testing.assert_close(entry, wanted[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(states[-1], native.last_hidden_state[0], rtol=1e-5, atol=1e-5)
    changed = (plain[0] - masked[0]).abs().amax(dim=1) > 1e-3
    assert changed[indices[0]].all()


@pytest.mark.parametrize("kind", ["hubert", "data2vec-audio", "wav2vec2-bert"])
def test_states_do_not_depend_on_the_batch(kind, folders):
    upstream = load_upstream("hf", str(folders[kind]))
    wavs = [noise(16000), noise(9123, 1), noise(12345, 2)]
    together = hidden_states(upstream, wavs)
    padded = upstream.expert(wavs)["hidden_states"]  # as s3prl's own tasks call it
    for i, wav in enumerate(wavs):
        alone = hidden_states(upstream, [wav])[0]
        for layer, states in enumerate(alone):
            assert len(states) == upstream.geometry.n_frames(len(wav))
            torch.testing.assert_close(together[i][layer], states)
            torch.testing.assert_close(padded[layer][i, : len(states)], states)


def test_geometry_follows_the_model(folders):
    conv = load_upstream("hf", str(folders["hubert"]))
    assert (conv.stride, conv.geometry.first_centre) == (320, 199.5)
    stacked = load_upstream("hf", str(folders["wav2vec2-bert"]))
    assert (stacked.stride, stacked.geometry.first_centre) == (320, 279.5)
    for n_samples in (880, 1039, 1040, 16000, 16080, 16160):
        [states] = hidden_states(stacked, [noise(n_samples)])
        assert len(states[0]) == stacked.geometry.n_frames(n_samples)


@pytest.mark.parametrize(("kind", "head"), [("hubert", "ForCTC"), ("wav2vec2", "ForPreTraining")])
def test_model_with_a_head_is_its_encoder(kind, head, tmp_path, caplog):
    path = build_hugging_face(tmp_path, kind, head=head)
    with caplog.at_level(logging.INFO, logger="s3prl_mi"):
        upstream = load_upstream("hf", str(path))
    assert "ignored: " in caplog.text
    assert ("lm_head (2 tensors)" if head == "ForCTC" else "quantizer") in caplog.text
    import transformers

    whole = getattr(transformers, f"{HF_CLASSES[kind]}{head}").from_pretrained(path)
    assert torch.equal(upstream.expert.model.masked_spec_embed, getattr(whole, kind).masked_spec_embed)


def test_mask_embedding_kept_although_the_config_masks_nothing(folders, tmp_path):
    """Fine-tuned models often have mask_time_prob 0; transformers would drop the vector."""
    path = shutil.copytree(folders["hubert"], tmp_path / "copy")
    edit_json(path / "config.json", mask_time_prob=0.0, mask_feature_prob=0.0)
    kept = load_upstream("hf", str(path)).expert.model.masked_spec_embed
    assert torch.equal(kept, load_upstream("hf", str(folders["hubert"])).expert.model.masked_spec_embed)


def test_random_mask_embedding_is_refused(tmp_path, caplog):
    path = build_hugging_face(tmp_path, "hubert", mask_time_prob=0.0, mask_feature_prob=0.0)
    with caplog.at_level(logging.INFO, logger="s3prl_mi"):
        upstream = load_upstream("hf", str(path))
    assert "holds no masked_spec_embed" in caplog.text
    assert len(hidden_states(upstream, [noise(16000)])[0]) == LAYERS + 1
    with pytest.raises(MIError, match=r"no mask embedding.*mask_level to waveform, or views.kind to shift"):
        hidden_states(upstream, [noise(16000)], MASK)


@pytest.mark.parametrize(("norm", "normalised"), [("layer", True), ("group", False)])
def test_without_a_feature_extractor_config(norm, normalised, tmp_path, caplog):
    path = build_hugging_face(tmp_path, "hubert", large=norm == "layer")
    (path / "preprocessor_config.json").unlink()
    with caplog.at_level(logging.INFO, logger="s3prl_mi"):
        upstream = load_upstream("hf", str(path))
    assert upstream.expert.extracter.do_normalize is normalised
    assert "has no preprocessor_config.json" in caplog.text
    assert len(hidden_states(upstream, [noise(16000)])[0]) == LAYERS + 1


def test_fingerprint_sees_the_feature_extractor(tmp_path):
    path = build_hugging_face(tmp_path, "hubert")
    first = load_upstream("hf", str(path)).fingerprint
    assert load_upstream("hf", str(path)).fingerprint == first
    edit_json(path / "preprocessor_config.json", do_normalize=True)
    assert load_upstream("hf", str(path)).fingerprint != first


def test_half_precision_files_run_in_float32(tmp_path):
    path = build_hugging_face(tmp_path, "hubert")
    import transformers

    transformers.HubertModel.from_pretrained(path).half().save_pretrained(path)
    upstream = load_upstream("hf", str(path))
    assert {p.dtype for p in upstream.expert.parameters()} == {torch.float32}


def test_missing_encoder_weights_are_refused(tmp_path):
    path = build_hugging_face(tmp_path, "hubert")
    edit_json(path / "config.json", num_hidden_layers=LAYERS + 1)
    with pytest.raises(MIError, match=r"lacks \d+ weights of HubertModel, such as encoder.layers.2"):
        load_upstream("hf", str(path))


def test_mistakes(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cases = [
        (None, "needs a model: -k MODEL_ID_OR_FOLDER"),
        ("./nowhere", "'./nowhere' does not exist"),
        (str(tmp_path), "has no config.json"),
    ]
    for given, message in cases:
        with pytest.raises(MIError, match=message):
            load_upstream("hf", given)
    for kind in ("whisper", "bert"):
        folder = tmp_path / kind
        folder.mkdir()
        (folder / "config.json").write_text(f'{{"model_type": "{kind}"}}')
        with pytest.raises(MIError, match=f"a model of type '{kind}'; -u hf reads speech encoders") as caught:
            load_upstream("hf", str(folder))
        assert "\n" not in str(caught.value)
    (tmp_path / "file.pt").write_bytes(b"")
    with pytest.raises(MIError, match="is a file, but a folder or a model id"):
        load_upstream("hf", str(tmp_path / "file.pt"))


def test_unknown_model_type_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "my_thing"}')
    with pytest.raises(MIError, match=r"not one that transformers knows.*wav2vec2-bert"):
        load_upstream("hf", str(tmp_path))


def test_model_id_with_a_revision(folders, monkeypatch):
    """An id goes to transformers as it is; a folder stands in for the hub."""
    import transformers

    from s3prl_mi.upstreams.extra import hf

    asked = []
    for name in ("AutoConfig", "AutoModel", "AutoFeatureExtractor"):
        original = getattr(transformers, name).from_pretrained

        def local(source, *args, original=original, name=name, **options):
            asked.append((name, source, options.pop("revision", None), options.pop("force_download", None)))
            return original(str(folders["hubert"]), *args, **options)

        monkeypatch.setattr(getattr(transformers, name), "from_pretrained", local)
    assert hf._source("owner/model@v1", refresh=True) == (
        "owner/model",
        {"force_download": True, "revision": "v1"},
    )
    upstream = load_upstream("hf", "owner/model@v1")
    assert asked == [(n, "owner/model", "v1", None) for n in ("AutoConfig", "AutoModel", "AutoFeatureExtractor")]
    assert (upstream.checkpoint_name, upstream.checkpoint_sha256) == ("owner/model@v1", None)


def test_model_id_without_a_network(monkeypatch):
    import transformers

    def no_network(*args, **kwargs):
        raise OSError("We couldn't connect to 'https://huggingface.co'")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", no_network)
    with pytest.raises(MIError, match=r"'owner/model@v1' is no local folder and could not be downloaded"):
        load_upstream("hf", "owner/model@v1")
