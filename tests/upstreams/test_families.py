"""Families: frames in time, lookup by folder and by name."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from s3prl_mi.core.errors import MIError
from s3prl_mi.upstreams.families import Family, family_of
from s3prl_mi.upstreams.geometry import Geometry
from s3prl_mi.upstreams.receptive_field import conv_geometry, geometry_of


def expert(module: str, **attributes):
    """An object whose class claims to come from `module`."""
    made = type("UpstreamExpert", (), {"__module__": module})()
    vars(made).update(attributes)
    return made


def conv_stack(*layers: tuple[int, int]) -> torch.nn.Sequential:
    return torch.nn.Sequential(*[torch.nn.Conv1d(1, 1, kernel, stride) for kernel, stride in layers])


WAV2VEC2_CONV = [(10, 5), *[(3, 2)] * 4, (2, 2), (2, 2)]


def test_conv_geometry_is_computed_from_the_layers():
    stack = conv_stack(*WAV2VEC2_CONV)
    geometry = conv_geometry(stack)
    assert geometry == Geometry(320, 199.5, 400)
    for n in (400, 719, 720, 16000, 23456):
        assert geometry.n_frames(n) == stack(torch.zeros(1, 1, n)).shape[-1]
    assert geometry.n_frames(399) == 0


def test_first_centre_is_the_middle_of_the_samples_that_reach_a_frame():
    stack = conv_stack(*WAV2VEC2_CONV)
    waveform = torch.zeros(1, 1, 4000, requires_grad=True)
    with torch.no_grad():
        for layer in stack:
            layer.weight.fill_(1.0)
    stack(waveform)[0, 0, 3].backward()
    seen = waveform.grad[0, 0].nonzero().flatten()
    centre = (seen.min() + seen.max()).item() / 2
    assert centre == 199.5 + 3 * 320
    seconds = conv_geometry(stack).centres_seconds(4)
    np.testing.assert_allclose(seconds[3], centre / 16000, rtol=0, atol=1e-12)


def test_nearest_frames_covers_every_sample_once():
    geometry = Geometry(320, 199.5, 400)
    frames = geometry.nearest_frames(16000)
    assert frames[0] == 0
    assert frames[-1] == 48  # 49 frames
    assert np.all(np.diff(frames) >= 0)
    assert np.all(np.bincount(frames)[1:-1] == 320)
    assert frames[40] == 0
    assert frames[359] == 0
    assert frames[360] == 1


@pytest.mark.parametrize(
    ("folder", "view"),
    [
        ("hubert", "mask"),
        ("wavlm", "mask"),
        ("hf_wav2vec2", "mask"),
        ("multires_hubert", "mask"),
        ("lighthubert", "mask"),
        ("distiller", "mask"),
        ("espnet_hubert", "mask"),
        ("mockingjay", "mask"),
        ("tera", "mask"),
        ("audio_albert", "mask"),
        ("apc", "shift"),
        ("npc", "shift"),
        ("decoar2", "shift"),
        ("cpc", "shift"),
        ("wav2vec", "shift"),
        ("vq_wav2vec", "shift"),
        ("baseline", "shift"),
        ("mae_ast", None),
    ],
)
def test_folder_decides(folder, view):
    assert family_of(expert(f"s3prl.upstream.{folder}.expert"), "any_name").view == view


def test_unknown_upstream_has_no_view_and_runs_alone():
    family = family_of(expert("s3prl.upstream.brand_new.expert"), "x")
    assert (family.name, family.view, family.padding) == ("brand_new", None, "alone")
    assert not family.can_mask_latents
    assert family_of(expert("my_package.models"), "mine").name == "mine"


def test_geometry_of_each_source():
    kaldi = {"kaldi": {"feat_type": "mfcc", "mfcc": {"frame_length": 20.0, "frame_shift": 5.0}}}
    baseline = expert("s3prl.upstream.baseline.expert", config=kaldi)
    assert geometry_of(baseline, family_of(baseline, "mfcc")) == Geometry(80, 159.5, 320)
    mel = expert("s3prl.upstream.baseline.expert", config={"win_ms": 25})
    assert geometry_of(mel, family_of(mel, "mel")).n_frames(16000) == 101
    apc = expert("s3prl.upstream.apc.expert", preprocessor=SimpleNamespace(kwargs={"frame_shift": 10}))
    assert geometry_of(apc, family_of(apc, "apc_local")).n_frames(16000) == 98
    unknown = expert("elsewhere", get_downsample_rates=lambda key: 200)
    geometry = geometry_of(unknown, family_of(unknown, "new"))
    assert (geometry.stride, geometry.first_centre, geometry.n_frames(1000)) == (200, 99.5, None)


def test_geometry_that_nobody_tells_is_an_error():
    with pytest.raises(MIError, match="get_downsample_rates"):
        geometry_of(expert("elsewhere"), Family("new"))
    with pytest.raises(MIError, match="conv_stack"):
        geometry_of(expert("elsewhere"), Family("new", geometry="conv", conv_stack="model.nothing"))


def test_encoders_that_mix_padding_in_run_alone():
    conformer = type("ConformerEncoder", (), {})()
    for model in (
        SimpleNamespace(encoder=conformer),
        SimpleNamespace(encoder=None, cfg=SimpleNamespace(pos_conv_depth=5)),
    ):
        assert family_of(expert("s3prl.upstream.wav2vec2.expert", model=model), "x").padding == "alone"
    plain = SimpleNamespace(encoder=None, cfg=SimpleNamespace(pos_conv_depth=1))
    assert family_of(expert("s3prl.upstream.wav2vec2.expert", model=plain), "x").padding == "conv_norm"
