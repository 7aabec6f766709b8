"""Tiny training runs with Hugging Face's Trainer and with Lightning: records at the right steps, nothing disturbed."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from s3prl_mi.core.errors import MIError
from s3prl_mi.results.record import read_records
from s3prl_mi.training import ViewsMeter
from s3prl_mi.training.live import weights_sha256
from s3prl_mi.upstreams.views import View

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")  # Trainer needs it
# Lightning advises on numbers of workers and on loggers
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

MASK = View("mask", "latent", 10, 4)
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": [24] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "mask_time_prob": 0.4,
    "mask_time_length": 4,
    "layerdrop": 0.0,
}


class MaskedPrediction(nn.Module):
    """HuBERT's task in small: from masked input, tell the loudness class of each frame."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = transformers.HubertModel(transformers.HubertConfig(**TINY))
        self.head = nn.Linear(32, 4)

    def forward(self, input_values, labels):
        hidden = self.encoder(input_values).last_hidden_state
        loss = nn.functional.cross_entropy(self.head(hidden).flatten(0, 1), labels.flatten())
        return {"loss": loss, "logits": hidden.mean((1, 2))}


class Utterances(torch.utils.data.Dataset):
    """Half a second each, bursts of noise."""

    def __len__(self):
        return 24

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        level = rng.integers(0, 4, 24)
        wave = rng.standard_normal(24 * 320 + 80) * np.append(np.repeat(0.05 * 2.0**level, 320), np.zeros(80))
        return {"input_values": torch.from_numpy(wave).float(), "labels": torch.from_numpy(level)}


@pytest.fixture(scope="module")
def audio(corpus) -> list[Path]:
    return [corpus.audio[u] for s in ("fit-a", "eval") for u in corpus.of(s)]


@pytest.fixture(scope="module")
def options(audio):
    return {"groups": [p.stem.split("-")[0] for p in audio], "view": MASK, "clusters": 6}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# --- Hugging Face --------------------------------------------------------------------------------------


def trainer(folder: Path, **arguments):
    arguments = {
        "output_dir": str(folder),
        "max_steps": 12,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "logging_steps": 4,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 0,
        **arguments,
    }
    model = MaskedPrediction()
    return transformers.Trainer(
        model,
        transformers.TrainingArguments(**arguments),
        train_dataset=Utterances(),
        eval_dataset=Utterances(),
    )


class Seen(transformers.TrainerCallback):
    """What other reporters (TensorBoard, W&B) get, and the weights at each step."""

    def __init__(self):
        self.logs, self.weights = [], {}

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append((state.global_step, dict(logs)))

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.weights[state.global_step] = {k: v.clone() for k, v in model.state_dict().items()}


def test_trainer_logs_bits_at_each_step_and_trains_the_same(tmp_path, audio, options):
    from s3prl_mi.training.hugging_face import ViewsCallback

    alone = trainer(tmp_path / "alone")
    alone.train()
    watched, seen = trainer(tmp_path / "watched"), Seen()
    watched.add_callback(seen)
    ViewsCallback(audio, every=4, layers=(1, 2), **options).attach(watched)
    watched.train()

    assert same(alone.model.state_dict(), watched.model.state_dict())
    records = read_records(tmp_path / "watched" / "mi_training.jsonl")
    assert [(r.step, r.layer) for r in records] == [(s, n) for s in (0, 4, 8, 12) for n in (1, 2)]
    logged = {step: logs["mi_views/bits"] for step, logs in seen.logs if "mi_views/bits" in logs}
    assert logged == {r.step: r.mi_lower_bound_bits for r in records if r.layer == 2}
    assert sum("mi_views/bits_layer_1" in entry for entry in watched.state.log_history) == 4

    # the loss of a step that was measured is still logged, and is the same
    losses = [[e["loss"] for e in t.state.log_history if "loss" in e] for t in (alone, watched)]
    assert len(losses[0]) == 3
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0]

    # each value is the plain function's, on the weights of that step
    model, meter = MaskedPrediction(), ViewsMeter(audio, layers=(1, 2), **options)
    for step in (4, 12):
        model.load_state_dict(seen.weights[step])
        assert meter.measure(model)[-1].mi_lower_bound_bits == logged[step]
        at_step = [r for r in records if r.step == step]
        assert {r.upstream_sha256 for r in at_step} == {weights_sha256(model.encoder)}


def test_a_resumed_training_continues_the_file(tmp_path, audio, options):
    from s3prl_mi.training.hugging_face import ViewsCallback

    def train(resume: bool, steps: int):
        run = trainer(tmp_path, save_strategy="steps", save_steps=4, max_steps=steps)
        ViewsCallback(audio, every=2, **options).attach(run)
        run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4") if resume else None)
        return read_records(tmp_path / "mi_training.jsonl")

    whole = train(False, 8)
    assert [r.step for r in whole] == [0, 2, 4, 6, 8]
    resumed = train(True, 8)  # killed after step 8, say, and taken up from the checkpoint of step 4
    assert [r.step for r in resumed] == [0, 2, 4, 6, 8]
    assert [r.mi_lower_bound_bits for r in resumed] == [r.mi_lower_bound_bits for r in whole]
    assert [r.seconds for r in resumed[:3]] == [r.seconds for r in whole[:3]]  # kept, not measured again
    assert not list(tmp_path.glob("mi_training.*.jsonl"))
    train(False, 2)
    (aside,) = tmp_path.glob("mi_training.*.jsonl")
    assert [r.step for r in read_records(aside)] == [0, 2, 4, 6, 8]


def test_at_each_evaluation_and_without_attach(tmp_path, audio, options):
    from s3prl_mi.training.hugging_face import ViewsCallback

    run = trainer(tmp_path, eval_strategy="steps", eval_steps=3, max_steps=6)
    run.add_callback(ViewsCallback(audio, **options))
    run.train()
    assert [r.step for r in read_records(tmp_path / "mi_training.jsonl")] == [0, 3, 6]
    assert [e["step"] for e in run.state.log_history if "mi_views/bits" in e] == [0, 3, 6]
    never = trainer(tmp_path)
    never.add_callback(ViewsCallback(audio, **options))
    with pytest.raises(MIError, match="eval_strategy is 'no'"):
        never.train()


def test_only_the_first_process_measures(tmp_path, audio, options):
    from s3prl_mi.training.hugging_face import ViewsCallback

    callback = ViewsCallback(audio, every=1, **options)
    arguments = transformers.TrainingArguments(str(tmp_path), report_to=[], use_cpu=True)
    state = transformers.TrainerState(is_world_process_zero=False)
    for event in (callback.on_train_begin, callback.on_step_end):
        event(arguments, state, transformers.TrainerControl(), model=MaskedPrediction())
    assert not (tmp_path / "mi_training.jsonl").exists()


def test_a_mistake_stops_at_the_start_but_a_diverged_model_does_not_stop_training(tmp_path, audio, options, caplog):
    from s3prl_mi.training.hugging_face import ViewsCallback

    run = trainer(tmp_path)
    ViewsCallback(audio, every=1, **{**options, "layers": (9,)}).attach(run)
    with pytest.raises(MIError, match="no layer 9"):
        run.train()
    with pytest.raises(MIError, match=r"every: .* found 0"):
        ViewsCallback(audio, every=0, **options)

    class Break(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if state.global_step == 1:
                with torch.no_grad():
                    model.encoder.encoder.layer_norm.weight.fill_(float("nan"))

    run = trainer(tmp_path, max_steps=3, logging_nan_inf_filter=False)
    run.add_callback(Break())
    ViewsCallback(audio, every=1, **options).attach(run)
    with caplog.at_level(logging.WARNING, "s3prl_mi"):
        run.train()
    assert [r.step for r in read_records(tmp_path / "mi_training.jsonl")] == [0, 1]
    assert "step 2: mi_views could not be measured" in caplog.text


# --- Lightning -----------------------------------------------------------------------------------------


def fit(folder: Path, callbacks, steps=8, validate=False, module=None, **options):
    pl = pytest.importorskip("pytorch_lightning")
    from pytorch_lightning.loggers import CSVLogger

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.task = MaskedPrediction()

        def training_step(self, batch, _):
            return self.task(**batch)["loss"]

        def validation_step(self, batch, _):
            self.log("val_loss", self.task(**batch)["loss"])

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 1e-3)

    pl.seed_everything(0, verbose=False)
    module = Module()
    loader = torch.utils.data.DataLoader(Utterances(), batch_size=4)
    logger = CSVLogger(folder, name="csv", version=0)
    settings = {"enable_checkpointing": False, **options}
    run = pl.Trainer(
        accelerator="cpu", max_steps=steps, default_root_dir=folder, logger=logger, callbacks=callbacks,
        enable_progress_bar=False, enable_model_summary=False, **settings,
    )  # fmt: skip
    run.fit(module, loader, loader if validate else None)
    return module, run


def views_callback(*args, **options):
    pytest.importorskip("pytorch_lightning")
    from s3prl_mi.training.lightning import ViewsCallback

    return ViewsCallback(*args, **options)


@pytest.fixture
def quiet_lightning():
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)


@pytest.mark.usefixtures("quiet_lightning")
def test_lightning_logs_bits_at_each_step_and_trains_the_same(tmp_path, audio, options):
    alone, _ = fit(tmp_path / "alone", [])
    callback = views_callback(audio, every=4, encoder="task.encoder", **options)
    watched, _ = fit(tmp_path / "watched", [callback])
    assert same(alone.state_dict(), watched.state_dict())
    records = read_records(tmp_path / "watched" / "mi_training.jsonl")
    assert [r.step for r in records] == [0, 4, 8]
    for record, encoder in ((records[-1], watched.task.encoder), (records[0], MaskedPrediction().encoder)):
        assert record.mi_lower_bound_bits == ViewsMeter(audio, **options).measure(encoder)[-1].mi_lower_bound_bits
    lines = (tmp_path / "watched" / "csv" / "version_0" / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("mi_views/bits")
    logged = [float(line.split(",")[column]) for line in lines[1:] if line.split(",")[column]]
    assert logged == pytest.approx([r.mi_lower_bound_bits for r in records])


@pytest.mark.usefixtures("quiet_lightning")
def test_lightning_at_each_validation_can_choose_the_checkpoint(tmp_path, audio, options):
    pl = pytest.importorskip("pytorch_lightning")
    keep = pl.callbacks.ModelCheckpoint(tmp_path / "best", monitor="mi_views/bits", mode="max", filename="{step}")
    callback = views_callback(audio, encoder="task.encoder", **options)
    fit(tmp_path, [callback, keep], steps=9, validate=True, val_check_interval=3, enable_checkpointing=True)
    records = read_records(tmp_path / "mi_training.jsonl")
    assert [r.step for r in records] == [0, 3, 6, 9]  # not in the sanity check before training
    best = max(records[1:], key=lambda r: r.mi_lower_bound_bits)
    assert Path(keep.best_model_path).name == f"step={best.step}.ckpt"
    assert float(keep.best_model_score) == pytest.approx(best.mi_lower_bound_bits)
    with pytest.raises(MIError, match="this training has none"):
        fit(tmp_path, [views_callback(audio, encoder="task.encoder", **options)])


def test_lightning_that_is_missing_is_said_at_construction(monkeypatch, audio):
    from s3prl_mi.training import lightning

    monkeypatch.setattr(lightning, "_Callback", object)
    with pytest.raises(MIError, match="pip install pytorch-lightning"):
        lightning.ViewsCallback(audio, every=1)


def test_records_are_whole_json_lines(tmp_path, audio, options):
    from s3prl_mi.training.record import TrainingLog

    log = TrainingLog(ViewsMeter(audio, **options), every=2)
    log.begin(tmp_path, 0)
    model = MaskedPrediction()
    first = log.measure(model, 2)
    assert log.measure(model, 2) == {}  # once a step
    (line,) = (tmp_path / "mi_training.jsonl").read_text().splitlines()
    assert json.loads(line)["mi_lower_bound_bits"] == first["mi_views/bits"]
    assert json.loads(line)["step"] == 2


def test_measures_are_logged_with_the_bound_and_kept_with_it(tmp_path, audio, options):
    from s3prl_mi.results.measures import read_measures
    from s3prl_mi.training.record import MEASURES_TRAINING_FILE, TrainingLog

    def log() -> TrainingLog:
        return TrainingLog(ViewsMeter(audio, measures=["rankme", "participation_ratio"], **options), every=2)

    first, file, model = log(), tmp_path / MEASURES_TRAINING_FILE, MaskedPrediction()
    first.begin(tmp_path, 0)
    values = [first.measure(model, step) for step in (2, 4)]
    found = read_measures(file)
    assert [(m.step, m.measure) for m in found] == [(s, n) for s in (2, 4) for n in ("rankme", "participation_ratio")]
    assert values[0]["mi_views/rankme"] == found[0].value
    log().begin(tmp_path, 2)  # resumed: step 4 comes again
    assert {m.step for m in read_measures(file)} == {2}
    log().begin(tmp_path, 0)
    assert not file.exists()
    assert len(list(tmp_path.glob("mi_training_measures.*.jsonl"))) == 1


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ({}, (1.2, 27.0, 1.1), "collapsed"),
        ({}, (0.1, 102.0, 34.0), "not trained yet"),
        ((0.5, 80.0, 9.0), (0.7, 50.0, 5.0), "RankMe fell from 80 to 50 while the bound rose from 0.50 to 0.70"),
        ((0.5, 80.0, 9.0), (0.4, 50.0, 5.0), None),
        ((0.5, 80.0, 9.0), (0.7, 75.0, 8.0), None),
        ({}, (0.7, 80.0, 9.0), None),
    ],
)
def test_what_a_bound_should_not_be_read_as(before, now, words):
    from s3prl_mi.training.record import trouble

    names = ("mi_views/bits", "mi_views/rankme", "mi_views/participation_ratio")
    found = trouble(dict(zip(names, before, strict=False)), dict(zip(names, now, strict=True)))
    assert (found is None) if words is None else (words in found)
