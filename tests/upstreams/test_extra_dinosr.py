"""-u dinosr: the released layout without fairseq; what is ignored; files with foreign objects."""

from __future__ import annotations

import logging
import pickle
import sys

import pytest
import torch

from s3prl_mi.core.errors import MIError
from s3prl_mi.upstreams.checkpoints import describe_checkpoint
from s3prl_mi.upstreams.extra import hubconf
from s3prl_mi.upstreams.extra.dinosr import convert
from s3prl_mi.upstreams.forward import hidden_states
from s3prl_mi.upstreams.loading import load_upstream
from s3prl_mi.upstreams.views import View
from tests.helpers.models import DIM, LAYERS, build_data2vec, build_hubert
from tests.helpers.models_own import STEP, build_dinosr, dinosr_config, dinosr_student, omegaconf_like

MASK = View("mask", "latent", 12, 4)
WAV = 0.1 * torch.randn(16000, generator=torch.Generator().manual_seed(0))


def as_data2vec(folder):
    """The same student by s3prl's own route: its converted layout and data2vec_local."""
    content = {
        "task_cfg": {"normalize": True},
        "model_cfg": dinosr_config()["model"],
        "model_weight": {**dinosr_student(), "_ema": {}},
    }
    torch.save(content, folder / "converted.pt")
    return load_upstream("data2vec_local", str(folder / "converted.pt"))


def test_states_are_those_of_the_student(tmp_path):
    upstream, reference = load_upstream("dinosr", str(build_dinosr(tmp_path))), as_data2vec(tmp_path)
    for view in (None, MASK):
        [states], [wanted] = hidden_states(upstream, [WAV], view), hidden_states(reference, [WAV], view)
        assert [s.shape for s in states] == [(49, DIM)] * (LAYERS + 1)
        assert all(torch.equal(a, b) for a, b in zip(states, wanted, strict=True))


def test_masks_are_its_own_embedding(tmp_path):
    upstream = load_upstream("dinosr", str(build_dinosr(tmp_path)))
    assert torch.equal(upstream.expert.model.mask_emb, dinosr_student()["mask_emb"])
    entered = []
    site = upstream.expert.model.encoder
    original = site.extract_features
    site.extract_features = lambda x, *a, **k: (entered.append(x.clone()), original(x, *a, **k))[1]
    hidden_states(upstream, [WAV], MASK)
    masked = torch.from_numpy(MASK.pattern(49))
    assert torch.equal(entered[0][0, masked], upstream.expert.model.mask_emb.expand(int(masked.sum()), DIM))


def test_what_was_ignored_is_said_in_one_line(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="s3prl_mi"):
        load_upstream("dinosr", str(build_dinosr(tmp_path)))
    [line] = [r.getMessage() for r in caplog.records]
    assert "\n" not in line
    for part in (
        "-u dinosr: took the student encoder of dinosr.pt; ignored: ",
        "teacher _ema (",
        "prediction heads (4 tensors",
        "codebooks (2 tensors",
        "codebook counts (2 tensors",
        "optimiser (1 tensors",
        "criterion",
    ):
        assert part in line


def test_step_comes_from_the_optimiser_history(tmp_path):
    upstream = load_upstream("dinosr", str(build_dinosr(tmp_path)))
    assert upstream.step == STEP
    assert upstream.checkpoint_name == "dinosr.pt"


def test_float16_student_runs_in_float32(tmp_path):
    half = load_upstream("dinosr", str(build_dinosr(tmp_path, half=True)))
    assert {p.dtype for p in half.expert.parameters()} == {torch.float32}
    full = load_upstream("dinosr", str(build_dinosr(tmp_path / "full")))
    [a], [b] = hidden_states(half, [WAV]), hidden_states(full, [WAV])
    assert (a[-1] - b[-1]).abs().max() < 0.05 * b[-1].abs().max()


def test_foreign_objects_in_the_file_are_read_without_their_classes(tmp_path, monkeypatch):
    """omegaconf's containers, named in the file, need not be installed and are never created."""
    modules = {}
    config = omegaconf_like(dinosr_config(), modules)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "omegaconf_like_config", modules["omegaconf_like_config"])
        path = build_dinosr(tmp_path, cfg=config)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    upstream, reference = load_upstream("dinosr", str(path)), as_data2vec(tmp_path)
    assert torch.equal(hidden_states(upstream, [WAV])[0][-1], hidden_states(reference, [WAV])[0][-1])
    assert describe_checkpoint(path) == ("a DinoSR file", "dinosr")


class RunsCode:
    """Unpickled the ordinary way it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_code_in_a_file_is_never_run(tmp_path):
    path = build_dinosr(tmp_path)
    content = torch.load(path, weights_only=True)
    content["task_state"] = {"bad": RunsCode(tmp_path / "written")}
    torch.save(content, path)
    assert load_upstream("dinosr", str(path)).step == STEP
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            build_hubert,
            "not in DinoSR's layout. The checkpoint looks like a converted HuBERT file. Try -u hubert_l",
        ),
        (build_data2vec, "Try -u data2vec_local"),
        (
            lambda f: build_dinosr(f, cfg={"model": {"_name": "data2vec_audio"}}),
            "'data2vec_audio', not 'dinosr'",
        ),
    ],
)
def test_other_files_are_refused(build, message, tmp_path):
    with pytest.raises(MIError, match=message):
        load_upstream("dinosr", str(build(tmp_path)))


def test_missing_student_weights_are_refused(tmp_path):
    path = build_dinosr(tmp_path)
    content = torch.load(path, weights_only=True)
    del content["model"]["encoder.layers.1.fc1.weight"]
    torch.save(content, path)
    with pytest.raises(MIError, match=r"dinosr.*cannot read the checkpoint.*encoder\.layers\.1\.fc1\.weight"):
        load_upstream("dinosr", str(path))
    del content["model"]["mask_emb"]
    with pytest.raises(MIError, match="has no mask_emb"):
        convert(content, path)


def test_without_a_checkpoint():
    for ckpt, message in ((None, "needs a checkpoint: -k"), ("no.pt", "'no.pt' does not exist")):
        with pytest.raises(MIError, match=message):
            hubconf.dinosr(ckpt)
