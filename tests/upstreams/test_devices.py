"""Forward passes on a stand-in GPU: views, masks and padding stay on the device, and none of our lines waits for it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from s3prl_mi.upstreams.forward import hidden_states
from s3prl_mi.upstreams.loading import load_upstream
from s3prl_mi.upstreams.masking import Front
from s3prl_mi.upstreams.precision import running_in
from s3prl_mi.upstreams.views import PLAIN, View
from tests.helpers.models import MODELS
from tests.helpers.models_more import MORE
from tests.helpers.stand_in import move, stand_in

# not those whose shapes depend on numbers (packed sequences, trimmed silence) or that use NumPy, all within s3prl
FAMILIES = [
    *("hubert-base", "hubert-large", "wav2vec2-base", "wav2vec2-conformer", "wavlm-base", "unispeech_sat", "data2vec"),
    *("mockingjay", "multires-2", "distilhubert", "npc", "wav2vec", "vq_wav2vec-gumbel", "fbank"),
]


@pytest.mark.parametrize("name", FAMILIES)
def test_views_stay_on_the_device_and_wait_for_nothing(name, tmp_path, monkeypatch):
    # what autocast asks of a GPU
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    kind, build = {**MODELS, **MORE}.get(name, (name, None))
    upstream = load_upstream(kind, str(build(tmp_path)) if build else None)
    level = "latent" if upstream.family.can_mask_latents else "waveform"
    upstream = replace(upstream, device="cuda")
    waveforms = [torch.zeros(9000), torch.zeros(7000)]
    with stand_in() as asked:
        move(upstream.expert)
        for precision in ("fp32", "bf16"):
            front = Front()
            for view in (PLAIN, View("mask", level, 12, 4)):
                with running_in(upstream, precision):
                    hidden = hidden_states(upstream, waveforms, view, front)
                assert {(h.device.type, h.dtype) for states in hidden for h in states} == {("cuda", torch.float32)}
    assert not [line for line in asked.waits + asked.copies if line.startswith("s3prl_mi/")]
