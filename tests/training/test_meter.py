"""Measuring a model in memory: the numbers are those of the long way, and training does not notice."""

from __future__ import annotations

import copy
import logging
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from s3prl_mi.core.errors import MIError
from s3prl_mi.estimators.folds import assign_folds
from s3prl_mi.estimators.frames import Frames
from s3prl_mi.estimators.kmeans import fit_codebooks
from s3prl_mi.estimators.mi_views import choose_codebook, fit_views, score_views
from s3prl_mi.estimators.probes import ProbeSpec
from s3prl_mi.experiment.frame_pairs import held_out_groups
from s3prl_mi.training import ViewsMeter, measure_views
from s3prl_mi.training.held_out import halves
from s3prl_mi.upstreams.families import Family
from s3prl_mi.upstreams.geometry import Geometry
from s3prl_mi.upstreams.loading import load_upstream
from s3prl_mi.upstreams.views import View, mask_pattern

transformers = pytest.importorskip("transformers")

SHORT_MASK = View("mask", "latent", 10, 4)
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": [24] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}


def tiny_hubert(seed: int = 0, **fields):
    torch.manual_seed(seed)
    return transformers.HubertModel(transformers.HubertConfig(**TINY, **fields))


@pytest.fixture(scope="module")
def audio(corpus) -> list[Path]:
    return [corpus.audio[u] for s in ("fit-a", "fit-b", "eval") for u in corpus.of(s)]


@pytest.fixture(scope="module")
def speakers(audio) -> list[str]:
    return [p.stem.split("-")[0] for p in audio]


# --- held-out audio ------------------------------------------------------------------------------------


def test_halves_share_no_speaker_and_are_about_equally_long(audio, speakers):
    fit, scored = halves(audio, speakers)
    assert not set(fit.groups) & set(scored.groups)
    assert set(fit.groups) | set(scored.groups) == set(speakers)
    assert len(fit.waveforms) + len(scored.waveforms) == len(audio)
    length = {p: len(soundfile.read(p)[0]) for p in audio}
    longest_speaker = max(sum(length[p] for p in audio if p.stem.startswith(s)) for s in speakers)
    assert abs(fit.seconds - scored.seconds) <= longest_speaker / 16000


def test_long_utterances_come_first_with_their_own_speaker(audio, speakers):
    fit, _ = halves(audio, speakers, eval_audio=audio[:1])
    assert [len(w) for w in fit.waveforms] == sorted((len(w) for w in fit.waveforms), reverse=True)
    by_length = {len(soundfile.read(p)[0]): s for p, s in zip(audio, speakers, strict=True)}
    assert len(by_length) == len(audio)
    assert [by_length[len(w)] for w in fit.waveforms] == fit.groups


def test_one_speaker_is_split_by_utterance_with_a_warning(audio, caplog):
    with caplog.at_level(logging.WARNING, "s3prl_mi"):
        fit, scored = halves(audio[:4], ["a"] * 4)
    assert len(fit.waveforms) == len(scored.waveforms) == 2
    assert "one speaker only" in caplog.text
    by_id = {u.id: u for u in fit.split.utterances}
    rows = [SimpleNamespace(utterances=list(by_id), n_frames=[3, 2])]
    assert held_out_groups(rows, by_id).tolist() == [
        0,
        0,
        0,
        1,
        1,
    ]  # utterances stand in for speakers


@pytest.mark.parametrize(
    ("audio", "options", "message"),
    [
        ([], {}, "audio: no utterances"),
        ([np.zeros(16000)], {}, "one utterance cannot be split"),
        ([np.zeros(16000)] * 2, {"groups": ["a"]}, "2 utterances, but 1 groups"),
        ([np.zeros((2, 16000))] * 2, {}, r"audio\[0\]: expected a float waveform"),
        ([np.zeros(16000, np.int16)] * 2, {}, "int16"),
        ([np.full(16000, np.nan)] * 2, {}, "NaN"),
        ([np.zeros(16000)] * 2, {"max_seconds": 1.5}, "max_seconds=1.5"),
        (["nowhere.flac", "nowhere.flac"], {}, "nowhere.flac: no such file"),
    ],
)
def test_audio_that_cannot_be_used_is_named(audio, options, message):
    with pytest.raises(MIError, match=message):
        halves(audio, **options)


# --- the number ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fields", "wrap"),
    [
        ("Hubert", {}, None),
        ("Wav2Vec2", {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}, None),
        ("Wav2Vec2", {}, "ForPreTraining"),
        ("WavLM", {}, None),
        ("Data2VecAudio", {"conv_pos_kernel_size": 5, "num_conv_pos_embeddings": 2}, None),
        ("UniSpeechSat", {}, "ForCTC"),
        ("Wav2Vec2Conformer", {}, None),
    ],
)
def test_the_bound_is_that_of_states_masked_by_the_model_itself(name, fields, wrap, audio, speakers):
    """Computed the long way: `mask_time_indices`, one utterance at a time, and the estimator by hand."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**TINY, **fields})
    model = getattr(transformers, name + (wrap or "Model"))(config)
    encoder = (model.base_model if wrap else model).eval()
    options = {"groups": speakers, "view": SHORT_MASK, "clusters": 6, "seed": 3}
    fit, scored = halves(audio, speakers)

    def states(half):
        a, b = [], []
        for w in half.waveforms:
            if fields.get("feat_extract_norm") == "layer":
                w = (w - w.mean()) / torch.sqrt(w.var(unbiased=False) + 1e-7)
            with torch.no_grad():
                plain = encoder(w[None]).last_hidden_state[0]
                masked = torch.from_numpy(mask_pattern(len(plain), 10, 4))
                hidden = encoder(w[None], mask_time_indices=masked[None]).last_hidden_state[0]
            a.append(hidden.numpy())
            b.append(plain.numpy())
        return a, b

    def rows(parts):
        return np.flatnonzero(np.concatenate([mask_pattern(len(p), 10, 4) for p in parts]))

    (fit_a, fit_b), (eval_a, eval_b) = states(fit), states(scored)
    spec = ProbeSpec(("logistic",), "default", (3,))
    speaker = np.unique(fit.groups, return_inverse=True)[1]
    folds = assign_folds(np.repeat(speaker, [len(p) for p in fit_b]))
    a, b = Frames(fit_a, rows(fit_b)), Frames(fit_b, rows(fit_b))
    choice = choose_codebook(a, Frames(fit_b), rows(fit_b), 6, spec, folds)
    books = fit_codebooks(Frames(fit_b), 6, [3], inputs=choice.inputs)
    probes = fit_views(a, b, books, choice, folds[rows(fit_b)], spec)
    scored_a, scored_b = (Frames(parts, rows(eval_b)) for parts in (eval_a, eval_b))
    expected = score_views(probes, books, scored_a, scored_b, spec, len(a))[0][0]
    found = measure_views(model.train(), audio, **options)
    assert (found.fit_frames, found.eval_frames) == (expected.fit_frames, expected.eval_frames)
    assert found.entropy_bits == pytest.approx(expected.entropy_bits, abs=1e-4)
    assert found.mi_lower_bound_bits == pytest.approx(expected.mi_lower_bound_bits, abs=1e-3)


def test_wav2vec2_bert_is_measured_on_stacked_filter_banks(audio, speakers):
    torch.manual_seed(0)
    fields = {k: v for k, v in TINY.items() if not k.startswith(("conv_", "num_conv"))}
    model = transformers.Wav2Vec2BertModel(transformers.Wav2Vec2BertConfig(**fields, mask_time_prob=0.1))
    meter = ViewsMeter(audio, groups=speakers, view=SHORT_MASK, clusters=6, layers=(0, 2))
    (first, last), _ = meter.records(model, step=0)
    assert (first.frame_shift_ms, first.dim, first.layers_in_upstream) == (20.0, 32, 3)
    frames = [(len(w) - 560) // 320 + 1 for w in meter.scored.waveforms]
    assert last.eval_frames == sum(int(mask_pattern(n, 10, 4).sum()) for n in frames)
    assert np.isfinite([first.mi_lower_bound_bits, last.mi_lower_bound_bits]).all()


@pytest.mark.parametrize("name", ["hubert-base", "apc"])
def test_an_s3prl_upstream_gets_the_number_of_run_downstream(name, run, corpus, checkpoint):
    # one split a side, as the order of frames, by length within each split, is k-means' start
    exact = {"store__dtype": "float32", "seeds": [7], "views__mask": "6/10", "datarc__fit_splits": ["fit-a"]}
    assert run("mi_views", name, **exact) == 0
    upstream, file = checkpoint(name)
    expert = load_upstream(upstream, ckpt=str(file)).expert.train()
    fit, scored = ([corpus.audio[u] for u in corpus.of(split)] for split in ("fit-a", "eval"))
    records = {r.layer: r for r in run.records()}
    meter = ViewsMeter(
        fit,
        groups=[p.stem.split("-")[0] for p in fit],
        eval_audio=scored,
        layers=sorted(records),
        clusters=6,
        seed=7,
        view=SHORT_MASK if name == "hubert-base" else None,
    )
    mine, _ = meter.records(expert, step=1)
    for record in mine:
        theirs = records[record.layer]
        assert (
            record.view,
            record.scored_frames,
            record.dim,
            record.frame_shift_ms,
            record.layers_in_upstream,
        ) == (
            theirs.view,
            theirs.scored_frames,
            theirs.dim,
            theirs.frame_shift_ms,
            theirs.layers_in_upstream,
        )
        assert (record.fit_frames, record.eval_frames) == (theirs.fit_frames, theirs.eval_frames)
        assert record.mi_lower_bound_bits == pytest.approx(theirs.mi_lower_bound_bits, abs=1e-3)
    assert len(mine) == len(records)


class Band(nn.Module):
    """A model of the user's own: frames of 320 samples through a linear map."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(320, 8)

    def frames(self, waveform):
        return self.linear(waveform[: len(waveform) // 320 * 320].reshape(-1, 320))


def forward(model, waveforms):
    (waveform,) = waveforms
    return {"hidden_states": [model.frames(waveform)[None]]}


def test_any_model_with_a_function_and_a_family(audio, speakers):
    family = Family("band", view="shift", geometry=Geometry(320, 159.5, 320))
    options = {"groups": speakers, "clusters": 4, "forward": forward, "family": family}
    shifted = measure_views(Band(), audio, **options)
    silenced = measure_views(Band(), audio, **options, view=View("mask", "waveform", 10, 4))
    assert shifted.eval_frames > silenced.eval_frames > 50
    # a frame that is silence says nothing about the cluster behind it
    assert silenced.mi_lower_bound_bits < 0.05 < silenced.entropy_bits


def test_half_precision_weights_are_measured_in_their_own_precision(audio, speakers):
    options = {"groups": speakers, "view": SHORT_MASK, "clusters": 6}
    full = measure_views(tiny_hubert(), audio, **options)
    half = measure_views(tiny_hubert().to(torch.bfloat16), audio, **options)
    assert half.mi_lower_bound_bits == pytest.approx(full.mi_lower_bound_bits, abs=0.3)
    assert half.mi_lower_bound_bits != full.mi_lower_bound_bits


# --- no trace ------------------------------------------------------------------------------------------


def _random_states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002


@pytest.mark.parametrize("clusters", [6, 10**6], ids=["measured", "refused"])
def test_flags_gradients_weights_and_random_states_are_as_before(clusters, audio, speakers):
    model = tiny_hubert().train()
    model.feature_extractor.eval()
    model.feature_extractor._freeze_parameters()
    model(torch.randn(1, 8000)).last_hidden_state.sum().backward()
    flags = [m.training for m in model.modules()]
    needs = [p.requires_grad for p in model.parameters()]
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    weights, before = copy.deepcopy(model.state_dict()), _random_states()
    try:
        measure_views(model, audio, groups=speakers, view=SHORT_MASK, clusters=clusters, probe="mlp")
    except MIError as error:
        assert "clusters need" in str(error)  # noqa: PT017
        assert clusters > 6
    assert _random_states() == before
    assert [m.training for m in model.modules()] == flags
    assert len(set(flags)) == 2
    assert [p.requires_grad for p in model.parameters()] == needs
    for p, g in zip(model.parameters(), gradients, strict=True):
        assert (p.grad is None) if g is None else torch.equal(p.grad, g)
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_pre_hooks or "forward" in vars(m) for m in model.encoder.modules() if m is model.encoder)


def _train(steps: int, meter: ViewsMeter | None) -> tuple[dict[str, torch.Tensor], dict[int, float]]:
    """A tiny wav2vec 2.0 by contrastive loss: dropout draws from torch, masks and negatives from NumPy."""
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    config = transformers.Wav2Vec2Config(
        **TINY, num_codevectors_per_group=8, codevector_dim=16, proj_codevector_dim=16, num_negatives=5
    )
    model = transformers.Wav2Vec2ForPreTraining(config).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    bits = {}
    for step in range(steps):
        if meter is not None and step % 5 == 0:
            bits[step] = meter.measure(model)[-1].mi_lower_bound_bits
        masks = _compute_mask_indices((2, 24), 0.4, 4)
        negatives = _sample_negative_indices((2, 24), 5, masks)
        output = model(
            torch.randn(2, 8000),
            mask_time_indices=torch.from_numpy(masks),
            sampled_negative_indices=torch.from_numpy(negatives),
        )
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    return model.state_dict(), bits


def test_a_training_that_is_measured_ends_with_the_very_same_weights(audio, speakers):
    meter = ViewsMeter(audio, groups=speakers, view=SHORT_MASK, clusters=6)
    alone, _ = _train(11, None)
    measured, bits = _train(11, meter)
    assert all(torch.equal(value, measured[key]) for key, value in alone.items())
    assert sorted(bits) == [0, 5, 10]
    assert len(set(bits.values())) == 3  # each step's weights are another model


def test_works_where_the_caller_is_in_inference_mode(audio, speakers):
    model, options = tiny_hubert(), {"groups": speakers, "view": SHORT_MASK, "clusters": 6, "probe": "mlp"}
    outside = measure_views(model, audio, **options)
    with torch.inference_mode():
        inside = measure_views(model, audio, **options)
        assert torch.is_inference_mode_enabled()
    assert inside == outside


# --- refusals ------------------------------------------------------------------------------------------


class Two(nn.Module):
    """A module with two encoders inside."""

    def __init__(self):
        super().__init__()
        self.student, self.teacher = tiny_hubert(), tiny_hubert(1)


def test_the_encoder_is_found_inside_a_module_or_named(audio, speakers):
    options = {"groups": speakers, "view": SHORT_MASK, "clusters": 6}
    alone = measure_views(tiny_hubert(1), audio, **options)
    assert measure_views(Two(), audio, **options, encoder="teacher") == alone
    assert measure_views(nn.ModuleDict({"only": tiny_hubert(1)}), audio, **options) == alone
    assert measure_views(nn.DataParallel(tiny_hubert(1)), audio, **options) == alone
    with pytest.raises(MIError, match="Two is neither a Hugging Face"):
        measure_views(Two(), audio, **options)
    with pytest.raises(MIError, match="encoder='pupil': Two has no such module"):
        measure_views(Two(), audio, **options, encoder="pupil")


def _before_the_mask(model, waveforms):
    extracted = model.feature_extractor(waveforms[0][None]).transpose(1, 2)
    model.encoder(model.feature_projection(extracted))
    return {"hidden_states": [extracted]}


def test_what_cannot_be_measured_is_refused_with_the_way_out(audio, speakers):
    options = {"groups": speakers, "clusters": 6}
    with pytest.raises(MIError, match="no layer 7; it has 3"):
        measure_views(tiny_hubert(), audio, **options, layer=7)
    with pytest.raises(MIError, match="mask_time_prob 0"):
        measure_views(tiny_hubert(mask_time_prob=0.0), audio, **options)
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    tiny = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 60000, **heads}
    whisper = transformers.WhisperModel(transformers.WhisperConfig(**tiny))
    with pytest.raises(MIError, match="type 'whisper'"):
        measure_views(whisper, audio, **options)
    family = Family(
        "hubert",
        view="mask",
        mask_site="model.encoder",
        mask_embedding="model.masked_spec_embed",
        geometry="conv",
        conv_stack="model.feature_extractor",
    )
    with pytest.raises(MIError, match="before the mask site"):
        measure_views(tiny_hubert(), audio, **options, forward=_before_the_mask, family=family)
    sharded = tiny_hubert()
    sharded.masked_spec_embed.data = torch.empty(0)  # as ZeRO-3 leaves it
    with pytest.raises(MIError, match="sharded over processes"):
        measure_views(sharded, audio, **options)
    broken = tiny_hubert()
    with torch.no_grad():
        broken.encoder.layers[1].final_layer_norm.weight.fill_(float("nan"))
    with pytest.raises(MIError, match="layer 2: hidden states hold NaN"):
        measure_views(broken, audio, **options)
    with pytest.raises(MIError, match="too short for mask"):
        measure_views(tiny_hubert(), [np.full(3200, 0.1)] * 4, groups="abcd", clusters=2)
