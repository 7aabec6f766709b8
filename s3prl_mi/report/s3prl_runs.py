"""PER and WER from the user's own s3prl runs of SUPERB's phone recognition (`ctc`) and speech recognition (`asr`).

Stock tasks write no results file: they print lines to stdout, write arks (`<utterance> <text>` per line), keep the
best dev value in a checkpoint, and TensorBoard scalars. Each is looked for in this order, and every score says which
it came from. All scores are percent here; s3prl's `ctc` prints fractions, its `asr` percent.

Source: s3prl 0.4.18, downstream/ctc/expert.py and downstream/asr/expert.py.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

import numpy as np

from ..cli.run_settings import latest_states, load_states
from ..core.errors import MIError, nearest
from ..results.record import Record
from .published_scores import canonical

Metric = Literal["per", "wer", "wer_lm"]
METRICS: tuple[Metric, ...] = ("per", "wer", "wer_lm")
"""Phone error rate; word error rate without and with a language model."""

TEST_SPLIT: dict[str, str] = {"per": "test", "wer": "test-clean", "wer_lm": "test-clean"}
"""SUPERB's own test splits, by the names that s3prl's tasks give them (all are LibriSpeech test-clean)."""
DEV_SPLIT: dict[str, str] = {"per": "dev", "wer": "dev-clean", "wer_lm": "dev-clean"}

_LARGEST_LOG = 64 * 2**20
_UNTRAINED = 100.0


@dataclass(frozen=True, slots=True)
class StockScore:
    """One error rate of one run."""

    metric: Metric
    percent: float
    split: str
    """As the task calls it: `test` or `dev` (ctc); `test-clean`, `dev-clean`, ... (asr)."""
    source: str
    """File, and how the value was had from it."""

    @property
    def is_dev(self) -> bool:
        """Whether the score is of a dev split: optimistic, as the checkpoint was chosen on it."""
        return self.split.startswith("dev")


@dataclass(frozen=True, slots=True)
class StockRun:
    """One experiment's folder of s3prl's `ctc` or `asr`."""

    folder: Path
    task: Literal["ctc", "asr"]
    upstream: str
    """s3prl's name (`-u`)."""
    checkpoint: str | None
    """The upstream's checkpoint as it was named (`-k`)."""
    layer: int | None
    """Only this entry of the hidden states (`-l`); None: the learned weighted sum."""
    scores: tuple[StockScore, ...]
    """The test score where there is one, then the dev score, of each metric."""
    fine_tuned: bool = False
    """The upstream was trained along (`-f`), so the score is not of the representation that was measured."""

    def best_of(self, metric: Metric) -> StockScore | None:
        """The score that stands for the run: on the test split, else on the dev split."""
        return next((s for s in self.scores if s.metric == metric), None)

    def dev_of(self, metric: Metric) -> float | None:
        """The score on the dev split, percent, by which runs are chosen."""
        return next((s.percent for s in self.scores if s.metric == metric and s.is_dev), None)

    def belongs_to(self, record: Record) -> bool:
        """Whether this run and a record are of the same upstream and checkpoint."""
        if canonical(self.upstream) != canonical(record.upstream):
            return False
        if self.checkpoint is None:
            return True
        checkpoint = record.checkpoint or {}
        if Path(self.checkpoint).exists() and checkpoint.get("sha256"):
            return _sha256(Path(self.checkpoint)) == checkpoint["sha256"]
        return PurePath(self.checkpoint).name == PurePath(checkpoint.get("name", "")).name


@functools.cache
def _sha256(path: Path) -> str:
    from ..upstreams.checkpoints import sha256_of

    return sha256_of(path)


def read_runs(folders: Iterable[Path | str]) -> list[StockRun]:
    """Read every run of `ctc` (phones) and `asr` in and below the folders.

    Folders of other tasks are passed over.

    Raises:
        MIError: no such folder; none of such runs in one of them; a run without any score.
    """
    runs: dict[Path, StockRun] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            near = nearest(folder.name, [p.name for p in folder.parent.glob("*")])
            raise MIError(f"--stock {folder}: no such folder.{near}")
        found = [run for run in (read_run(p) for p in _experiments(folder)) if run is not None]
        if not found:
            raise MIError(
                f"--stock {folder}: no run of s3prl's ctc (phone recognition) or asr in it or below it. Such a folder "
                "(result/downstream/<name>, or -p) holds args_<time>.yaml, or a checkpoint such as dev-best.ckpt."
            )
        runs.update({run.folder.resolve(): run for run in found})
    return list(runs.values())


def read_run(folder: Path) -> StockRun | None:
    """Read one experiment's folder; None if it is of another task.

    Raises:
        MIError: it is a `ctc` or `asr` run, but nothing in it tells a score.
    """
    args = _args(folder)
    task = args.get("downstream")
    if task not in ("ctc", "asr") or (task == "ctc" and not _is_phones(folder)):
        return None
    scores = _ctc_scores(folder) if task == "ctc" else _asr_scores(folder)
    if not scores:
        raise MIError(
            f"{folder}: a run of {task}, but no score in it: no text file with lines such as "
            f"'{'test per' if task == 'ctc' else 'test-clean wer'}: ...', no arks of the test split, no best "
            "checkpoint. s3prl prints scores to the terminal only: save them in this folder, as in "
            "`run_downstream.py -m evaluate ... | tee FOLDER/evaluate.txt`."
        )
    layer = args.get("upstream_layer_selection")
    return StockRun(
        folder=folder,
        task=task,
        upstream=str(args.get("upstream")),
        checkpoint=args.get("upstream_ckpt") or None,
        layer=None if layer is None else int(layer),
        scores=tuple(scores),
        fine_tuned=bool(args.get("upstream_trainable")),
    )


def chosen_run(runs: Sequence[StockRun], metric: Metric) -> StockRun | None:
    """The run that stands for a model: with a frozen upstream and the weighted sum if any; then the lowest dev score.

    The test score never chooses: that would be choosing on the test split.

    Args:
        runs: of one model.
        metric: the score wanted.

    Raises:
        MIError: several runs, but not all tell their dev score.
    """
    having = [r for r in runs if r.best_of(metric) is not None]
    having = [r for r in having if not r.fine_tuned] or having
    having = [r for r in having if r.layer is None] or having
    if len(having) <= 1:
        return having[0] if having else None
    devs = [r.dev_of(metric) for r in having]
    if all(d is not None for d in devs):
        return min(having, key=lambda r: r.dev_of(metric) or 0.0)
    unknown = ", ".join(str(r.folder) for r, d in zip(having, devs, strict=True) if d is None)
    raise MIError(
        f"--stock: {len(having)} runs give a {metric.upper()} of {having[0].upstream}, and not all tell their score "
        f"on the dev split, by which one would be chosen (missing in {unknown}). Name only the run that counts."
    )


# --- Which run ----------------------------------------------------------------------------------------------


def _experiments(folder: Path) -> list[Path]:
    """Folders of experiments: those with arguments, or with a checkpoint that holds them."""
    return sorted({p.parent for pattern in ("args_*.yaml", "*best*.ckpt") for p in folder.rglob(pattern)})


def _args(folder: Path) -> dict[str, Any]:
    """The arguments of a run: of its latest training, from YAML, else from a checkpoint."""
    files = [_mapping(p) for p in sorted(folder.glob("args_*.yaml"))]
    trained = [a for a in files if a.get("mode") == "train"]
    if files:
        return (trained or files)[-1]
    checkpoint = _checkpoint(folder)
    return {} if checkpoint is None else vars(load_states(checkpoint)["Args"])


def _configs(folder: Path) -> list[dict[str, Any]]:
    """`downstream_expert` of every config that was saved, oldest first."""
    return [_mapping(p).get("downstream_expert") or {} for p in sorted(folder.glob("config_*.yaml"))]


def _mapping(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise MIError(f"{path}: cannot be read ({' '.join(str(error).split())}).") from error
    return content if isinstance(content, dict) else {}


def _is_phones(folder: Path) -> bool:
    """Whether a run of `ctc` is SUPERB's phone recognition (the task also serves other corpora, in words)."""
    names = [c.get("corpus", {}).get("name") for c in _configs(folder)]
    return not names or names[-1] in (None, "libriphone")


def _checkpoint(folder: Path) -> Path | None:
    best = sorted(folder.glob("*best*.ckpt"))
    return best[0] if best else latest_states(folder)


# --- Scores -------------------------------------------------------------------------------------------------


def _ctc_scores(folder: Path) -> list[StockScore]:
    """PER: of the test split by line, else ark; of the dev split by checkpoint, TensorBoard, else line."""

    def score(value: float | None, split: str, source: str) -> list[StockScore]:
        return [] if value is None else [StockScore("per", 100 * value, split, source)]

    # Runs from before the end of 2021 print the phone error rate under the name wer.
    lines = [line for line in _lines(folder) if line.name in ("per", "wer")]
    test = [line for line in lines if line.split == "test"]
    dev = [line for line in lines if line.split == "dev"]
    found: list[StockScore] = []
    if test:
        found += score(test[-1].value, "test", f"test line of {test[-1].file.name}")
    else:
        found += score(
            _ark_rate(folder, "test", phones=True), "test", "recomputed from test-hyp.ark, test-ref.ark"
        )
    return found + (
        score(*_best_dev(folder, "dev", ("per", "wer")))
        or (score(min(d.value for d in dev), "dev", f"lowest dev line of {dev[-1].file.name}") if dev else [])
    )


def _asr_scores(folder: Path) -> list[StockScore]:
    """WER of test-clean by line, else ark; of dev-clean by checkpoint, TensorBoard, else line."""
    lines = [line for line in _lines(folder) if line.name == "wer"]
    test = [line for line in lines if line.split == "test-clean"]
    dev = [line for line in lines if line.split == "dev-clean"]
    found: list[StockScore] = []
    decoders: tuple[tuple[Metric, str], ...] = (("wer", "noLM"), ("wer_lm", "LM"))
    for metric, lm in decoders:
        name = f"test-clean-{lm}"
        if test and _decoded_with(folder) == lm:
            source = f"test line of {test[-1].file.name}"
            found.append(StockScore(metric, test[-1].value, "test-clean", source))
        else:
            rate = _ark_rate(folder, name, phones=False)
            if rate is not None:
                source = f"recomputed from {name}-hyp.ark, {name}-ref.ark"
                found.append(StockScore(metric, 100 * rate, "test-clean", source))
    value, split, source = _best_dev(folder, "dev-clean", ("wer",))
    if value is not None:
        found.append(StockScore("wer", value, split, source))
    elif dev:
        source = f"lowest dev line of {dev[-1].file.name}"
        found.append(StockScore("wer", min(d.value for d in dev), "dev-clean", source))
    return found


def _decoded_with(folder: Path) -> Literal["LM", "noLM", "both"]:
    """Which decoder the printed WER of test-clean belongs to: s3prl prints the same line for both.

    The arks tell by their names; without arks, the latest config does.
    """
    have = [lm for lm in ("LM", "noLM") if (folder / f"test-clean-{lm}-hyp.ark").exists()]
    if len(have) == 2:
        return "both"
    if have:
        return "LM" if have == ["LM"] else "noLM"
    configs = _configs(folder)
    decoder = (configs[-1].get("datarc") or {}).get("decoder_args") or {} if configs else {}
    return "noLM" if decoder.get("decoder_type") in (None, "None") else "LM"


@dataclass(frozen=True, slots=True)
class _Line:
    file: Path
    split: str
    name: str
    value: float


# Not anchored at the start of a line: with 2>&1 a progress bar may stand before it.
_SCORE_LINE = re.compile(r"(?<![\w/-])((?:dev|test)(?:-(?:clean|other))?) (per|wer): ([-+.\deE]+)(?=\s|$)")
_NOT_TEXT = {
    ".ark",
    ".ckpt",
    ".pt",
    ".yaml",
    ".yml",
    ".jsonl",
    ".json",
    ".csv",
    ".png",
    ".pdf",
    ".npz",
    ".npy",
}


def _lines(folder: Path) -> list[_Line]:
    """Every printed score in text files of the folder, the file that was written to last at the end."""
    files = [p for p in folder.iterdir() if p.is_file() and p.suffix not in _NOT_TEXT]
    files = [p for p in files if p.stat().st_size <= _LARGEST_LOG and "tfevents" not in p.name]
    return [line for p in sorted(files, key=lambda p: (p.stat().st_mtime, p.name)) for line in _lines_of(p)]


def _lines_of(path: Path) -> Iterator[_Line]:
    content = path.read_bytes()
    if b"\0" in content[:4096]:
        return
    for split, name, text in _SCORE_LINE.findall(content.decode(errors="replace")):
        try:
            value = float(text)
        except ValueError:
            continue
        if math.isfinite(value):
            yield _Line(path, split, name, value)


def _best_dev(folder: Path, split: str, names: Sequence[str]) -> tuple[float | None, str, str]:
    """The best dev value in s3prl's own unit, from the best checkpoint, else from TensorBoard."""
    path = _checkpoint(folder)
    if path is not None:
        states = load_states(path)
        best = states.get("Downstream", {}).get("best_score")
        # The task starts from 100 (asr) or 2^31 (ctc) before it has seen the dev split.
        if best is not None and float(best) < _UNTRAINED:
            return float(best), split, f"best dev value in {path.name} (step {states.get('Step', '?')})"
    values = [
        v for file in sorted(folder.glob("events.out.tfevents.*")) for v in _scalars(file, split, names)
    ]
    if values:
        return min(values), split, "lowest dev value in TensorBoard's events"
    return None, split, ""


def _scalars(path: Path, split: str, names: Sequence[str]) -> Iterator[float]:
    """Values of the tags `<task>/<split>-<name>` in an event file: length, CRC, message, CRC for each event."""
    from tensorboardX.proto.event_pb2 import Event

    tags = tuple(f"/{split}-{name}" for name in names)
    content, at = path.read_bytes(), 0
    while at + 12 <= len(content):
        size = int.from_bytes(content[at : at + 8], "little")
        if at + 16 + size > len(content):
            return
        for value in Event.FromString(content[at + 12 : at + 12 + size]).summary.value:
            if value.tag.endswith(tags):
                yield float(value.simple_value)
        at += 16 + size


def _ark_rate(folder: Path, name: str, phones: bool) -> float | None:
    """Error rate of a pair of arks, as s3prl computes it: all errors over all reference tokens; None if missing.

    Raises:
        MIError: hypotheses and references are not of the same utterances.
    """
    paths = [folder / f"{name}-{kind}.ark" for kind in ("hyp", "ref")]
    if not all(p.exists() for p in paths):
        return None
    hyp, ref = (_ark(p) for p in paths)
    if hyp.keys() != ref.keys() or not ref:
        raise MIError(
            f"{paths[0]}: not the same utterances as {paths[1].name}; evaluate again to write both."
        )

    def tokens(text: str) -> list[str]:
        # s3prl's PER splits at single spaces, so that an empty hypothesis counts as one token.
        return text.split(" ") if phones else text.split()

    errors = sum(edit_distance(tokens(hyp[u]), tokens(ref[u])) for u in ref)
    return errors / max(1, sum(len(tokens(text)) for text in ref.values()))


def _ark(path: Path) -> dict[str, str]:
    lines = path.read_text(encoding="utf-8").split("\n")
    return dict(line.partition(" ")[::2] for line in lines if line)


def edit_distance(left: Sequence[str], right: Sequence[str]) -> int:
    """Levenshtein distance of two token sequences.

    Source: Wagner and Fischer 1974; a row at a time, insertions by a running minimum.

    Example:
        >>> edit_distance("kitten", "sitting")
        3
    """
    numbers = {token: i for i, token in enumerate(dict.fromkeys([*left, *right]))}
    columns = np.array([numbers[t] for t in right], dtype=np.int64)
    places = np.arange(len(columns) + 1)
    row = places.copy()
    for count, token in enumerate(left, start=1):
        substituted = row[:-1] + (columns != numbers[token])
        best = np.concatenate([[count], np.minimum(substituted, row[1:] + 1)])
        row = np.minimum.accumulate(best - places) + places
    return int(row[-1])
