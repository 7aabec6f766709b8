"""One record for each score that s3prl's `ctc` or `asr` reached, in `superb_results.jsonl` of the run's folder.

It is counted in the files that s3prl writes; no number is taken from printed lines.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..core.errors import MIError
from ..core.files import append_lines, read_lines
from ..upstreams.checkpoints import sha256_of
from ..upstreams.names import cached_file, checkpoint_urls
from ..upstreams.s3prl_states import latest_states, load_states
from .arks import count_errors
from .prepare import Prepared

RESULTS_FILE = "superb_results.jsonl"

UNTRAINED = 100.0
"""`best_score` before the first dev pass is 100 (asr) or 2^31 (ctc)."""

Metric = Literal["per", "wer"]
METRICS: tuple[Metric, ...] = ("per", "wer")
"""Phone error rate; word error rate."""


class Scored(NamedTuple):
    """How a task is scored."""

    metric: Metric
    dev: str
    """Dataloader that chooses the checkpoint."""
    test: str
    """Dataloader of SUPERB's score: LibriSpeech test-clean."""
    to_percent: float
    """s3prl's `ctc` counts in fractions."""
    separator: str | None
    """s3prl's `ctc` splits texts at single spaces, so that an empty hypothesis counts as one token."""


SCORED = {"ctc": Scored("per", "dev", "test", 100.0, " "), "asr": Scored("wer", "dev-clean", "test-clean", 1.0, None)}


@dataclass(frozen=True, slots=True)
class SuperbRecord:
    """One line of the file."""

    task: str
    upstream: str
    percent: float
    """PER or WER: all errors over all reference tokens."""
    metric: Metric
    substitutions: int
    deletions: int
    insertions: int
    reference_length: int
    utterances: int
    split: str
    """Dataloader, as s3prl names it."""
    folders: list[str]
    """The splits behind it; those of training and dev are in `fit` and `dev`."""
    fit: list[str]
    dev: list[str]
    checkpoint: str | None
    """The upstream's file."""
    checkpoint_sha256: str | None
    layer: int | None
    """None: the learned weighted sum."""
    fine_tuned: bool
    scored: str
    """The downstream checkpoint that was scored."""
    steps: int
    """Of that checkpoint."""
    total_steps: int
    dev_percent: float | None
    """The best one on dev; it chose the checkpoint."""
    lexicon: str | None
    """PERs of different lexicons are not compared."""
    lexicon_sha256: str | None
    guessed_words: int | None
    """Words in the splits named above that the lexicon lacks."""
    skipped: int | None
    """Utterances of them that were left out."""
    language_model: str | None
    config_hash: str
    seed: int
    reused_states: bool
    """Whether all hidden states, of training and scoring by this command, were those of the store (`--reuse_states`):
    each utterance by itself, where s3prl pads a batch."""
    versions: dict[str, str] = field(default_factory=dict)
    schema: int = 1
    checkpoint_trusted: bool = False
    """Whether loading the upstream was allowed to run code of its checkpoint (`--trust_checkpoint`)."""


_NEEDED = {f.name for f in fields(SuperbRecord) if f.default is MISSING and f.default_factory is MISSING}


def ark(split: str, kind: str, task: str, language_model: bool = False) -> str:
    """Name of the file that s3prl writes; kind is hyp or ref."""
    decoder = ("-LM" if language_model else "-noLM") if task == "asr" else ""
    return f"{split}{decoder}-{kind}.ark"


def arks(folder: Path, task: str, split: str, config: Mapping[str, Any]) -> tuple[Path, Path]:
    """Hypotheses and references of a run with this config."""
    model = language_model(config) is not None
    return folder / ark(split, "hyp", task, model), folder / ark(split, "ref", task, model)


def language_model(config: Mapping[str, Any]) -> str | None:
    """The file that `asr` decodes with."""
    decoder = ((config.get("downstream_expert") or {}).get("datarc") or {}).get("decoder_args") or {}
    return str(decoder.get("kenlm_model")) if decoder.get("decoder_type") == "kenlm" else None


def best_checkpoint(folder: Path, task: str, since: float = 0.0) -> tuple[Path | None, str]:
    """The checkpoint to score, and in words why it is that one.

    Args:
        folder: of the experiment.
        task: `ctc` or `asr`.
        since: time in seconds (as of `time.time`); older files are of an earlier run in the same folder.
    """
    best = folder / f"{SCORED[task].dev}-best.ckpt"
    if best.is_file() and best.stat().st_mtime >= since:
        return best, f"best on {SCORED[task].dev}"
    last = latest_states(folder)
    if last is None or last.stat().st_mtime < since:
        return None, "no checkpoint was written (runner.eval_step and runner.save_step are longer than the training)"
    return last, f"the last one, as no score on {SCORED[task].dev} was worth keeping"


def write_record(
    task: str,
    config: Mapping[str, Any],
    folder: Path,
    scored: Path,
    split: str,
    prepared: Prepared,
    reused_states: bool,
    trusted: bool,
    versions: Mapping[str, str],
) -> SuperbRecord:
    """Count the errors in what s3prl has just written, and append a record.

    Args:
        task: `ctc` or `asr`.
        config: the whole config that it was evaluated with.
        folder: of the experiment.
        scored: the downstream checkpoint.
        split: the dataloader.
        prepared: what the run was given.
        reused_states: whether all hidden states were those of the store.
        trusted: whether the upstream's checkpoint was allowed to run code.
        versions: of what determines a result.

    Raises:
        MIError: the files are not there, or do not fit together.
    """
    states = load_states(scored)
    args = states["Args"]
    section = config.get("downstream_expert") or {}
    model = language_model(config)
    errors = count_errors(*arks(folder, task, split, config), SCORED[task].separator)
    file = _upstream_file(args.upstream, args.upstream_ckpt)
    data = section.get("corpus" if task == "ctc" else "datarc") or {}
    targets = prepared.targets
    best = states.get("Downstream", {}).get("best_score")
    record = SuperbRecord(
        task=task,
        upstream=args.upstream,
        percent=errors.percent,
        metric=SCORED[task].metric,
        substitutions=errors.substitutions,
        deletions=errors.deletions,
        insertions=errors.insertions,
        reference_length=errors.reference_length,
        utterances=len(errors.of_utterances),
        split=split,
        folders=prepared.folders.get(split, []),
        fit=list(data.get("train") or []),
        dev=list(data.get(SCORED[task].dev) or []),
        checkpoint=args.upstream_ckpt or (file.name.partition(".")[2] if file else None),
        checkpoint_sha256=sha256_of(file) if file else None,
        layer=args.upstream_layer_selection,
        fine_tuned=bool(args.upstream_trainable),
        scored=scored.name,
        steps=int(states["Step"]),
        total_steps=int(config["runner"]["total_steps"]),
        dev_percent=None if best is None or float(best) >= UNTRAINED else SCORED[task].to_percent * float(best),
        lexicon=prepared.lexicon and prepared.lexicon[0],
        lexicon_sha256=prepared.lexicon and prepared.lexicon[1],
        guessed_words=len(targets.guessed) if targets and prepared.lexicon else None,
        skipped=len(targets.skipped) if targets else None,
        language_model=model and Path(model).name,
        config_hash=config_hash(config),
        seed=int(args.seed),
        reused_states=reused_states,
        versions=dict(versions),
        checkpoint_trusted=trusted and file is not None,
    )
    append_lines(folder / RESULTS_FILE, [asdict(record)])
    return record


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Every record of a folder, the oldest first.

    Raises:
        MIError: a line that is no record.
    """
    path, found = folder / RESULTS_FILE, []
    for number, line in read_lines(path):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or not record.keys() >= _NEEDED or type(record["percent"]) not in (int, float):
            raise MIError(f"{path}, line {number}: not a record of a score, or damaged. Remove the line.")
        found.append(record)
    return found


def _upstream_file(name: str, ckpt: str | None) -> Path | None:
    """The upstream's checkpoint on this machine: the one that was named, or s3prl's download."""
    if ckpt:
        return Path(ckpt) if Path(ckpt).exists() else None
    return next((path for path in map(cached_file, checkpoint_urls(name)) if path.is_file()), None)


_PLACES = {"path", "libri_root", "lexicon", "vocab_file", "dict_path", "bucket_file", "kenlm_model"}
_PLACES |= {"num_workers", "store"}
"""Keys that say where files lie on one machine; what is in them the record says otherwise."""


def config_hash(config: Mapping[str, Any]) -> str:
    """The first digits of a sha256 over a config without what differs from machine to machine.

    Example:
        >>> config_hash({"a": {"path": "/x", "b": 1}}) == config_hash({"a": {"path": "/y", "b": 1}})
        True
    """

    def settings(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(k): settings(v) for k, v in value.items() if k not in _PLACES}
        return value

    return hashlib.sha256(json.dumps(settings(config), sort_keys=True, default=str).encode()).hexdigest()[:16]
