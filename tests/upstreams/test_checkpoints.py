"""Training steps of checkpoints; reading without running code."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch

from s3prl_mi.core.errors import MIError
from s3prl_mi.upstreams import checkpoints
from s3prl_mi.upstreams.checkpoints import Inert, plain, read_checkpoint, step_in_name, training_step
from tests.helpers.paths import SHARED


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("hubert-000960.pt", 960),
        ("hubert2-001800.pt", 1800),
        ("ckpt_epoch_3.pt", 3),
        ("epoch3.pt", 3),
        ("checkpoint_12_400000.pt", 400000),
        ("checkpoint400000.pt", 400000),
        ("model_400k.pt", 400000),
        ("epoch=2-step=5000.ckpt", 5000),
        ("epoch=7-val_loss=2.35.ckpt", 7),
        ("states-0100.ckpt", 100),
        ("model.5000", 5000),
        ("checkpoint-5000", 5000),
        ("run/checkpoint-5000/model.safetensors", 5000),
        ("run/checkpoint-5000/pytorch_model.bin", 5000),
        ("hubert_base_ls960.pt", None),
        ("apc_360hr.ckpt", None),
        ("checkpoint_best.pt", None),
        ("wav2vec2.pt", None),
        ("libri_960h.pt", None),
    ],
)
def test_step_in_a_name(name, step):
    assert step_in_name(Path(name)) == step


@pytest.mark.parametrize(
    ("content", "step"),
    [
        (
            {
                "optimizer_history": [{"num_updates": 5}, {"num_updates": 70}],
                "extra_state": {"num_updates": 9},
            },
            70,
        ),
        ({"extra_state": {"num_updates": 9, "train_iterator": {"epoch": 2}}}, 9),
        ({"extra_state": {"train_iterator": {"epoch": 2, "iterations_in_epoch": 3}}}, 11),  # the file's name
        ({"Step": 60, "model": {}}, 60),
        ({"Global_step": 61}, 61),
        ({"step": torch.tensor(62)}, 62),
        ({"epoch": 4, "global_step": 63, "state_dict": {}}, 63),
        ({"epoch": 4}, 4),
        ({"step": 0}, 0),
        ({"step": "x"}, 11),
        ({"model": {}}, 11),
        ([1, 2], 11),
    ],
)
def test_the_file_tells_its_step_before_its_name(content, step, tmp_path):
    torch.save(content, tmp_path / "ckpt-11.pt")
    assert training_step(tmp_path / "ckpt-11.pt") == step


def test_names_are_not_asked_where_they_tell_other_things(tmp_path):
    torch.save({"model": {}}, tmp_path / "xlsr_53.pt")
    assert training_step(tmp_path / "xlsr_53.pt", by_name=False) is None


def test_step_of_a_folder(tmp_path):
    folder = tmp_path / "checkpoint-70"
    folder.mkdir()
    assert training_step(folder) == 70
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 71}))
    assert training_step(folder) == 71
    (folder / "trainer_state.json").write_text("[]")
    assert training_step(folder) == 70


def test_unreadable_files_go_by_their_name(tmp_path):
    (tmp_path / "hubert-5.pt").write_bytes(b"no pickle")
    assert training_step(tmp_path / "hubert-5.pt") == 5
    assert training_step(tmp_path / "nowhere-6.pt") == 6


def test_tensors_stay_on_disk_until_used(tmp_path, monkeypatch):
    torch.save({"weight": torch.arange(1000.0), "step": 3}, tmp_path / "a.pt")
    mapped = []
    original = torch.UntypedStorage.from_file
    monkeypatch.setattr(torch.UntypedStorage, "from_file", lambda *a, **k: mapped.append(a[0]) or original(*a, **k))
    assert read_checkpoint(tmp_path / "a.pt")["weight"].sum() == 499500
    assert mapped == [str(tmp_path / "a.pt")]


def test_old_format_of_torch_is_read(tmp_path):
    torch.save({"step": 8}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert training_step(tmp_path / "old.pt") == 8


class Foreign:
    """Any class that is not torch's."""

    def __init__(self, value):
        self.value = value


def test_foreign_objects_become_inert(tmp_path):
    torch.save({"cfg": Foreign({"a": [1, 2]}), "args": argparse.Namespace(lr=0.1)}, tmp_path / "a.pt")
    content = read_checkpoint(tmp_path / "a.pt")
    assert type(content["cfg"]) is Inert
    assert plain(content["cfg"]) == {"value": {"a": [1, 2]}}
    assert plain(content["args"]) == {"lr": 0.1}


def test_what_cannot_be_read_is_said_in_one_message(tmp_path):
    torch.save({"cfg": Foreign(1)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(
        MIError, match=r"old\.pt.*read safely.*Foreign.*if you trust the file, add --trust_checkpoint"
    ) as caught:
        read_checkpoint(tmp_path / "old.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared")
def test_steps_of_the_shared_series():
    paths = sorted((SHARED / "checkpoints").glob("*-*.*"))
    assert len(paths) >= 22
    for path in paths:
        content = checkpoints.read_checkpoint(path)
        assert checkpoints.step_in_content(content) == step_in_name(path) == training_step(path), path
