"""PER and WER from the user's own s3prl runs of SUPERB's phone recognition (`ctc`) and speech recognition (`asr`).

The test score is recomputed from the hypotheses and references that these tasks write (`<split>-hyp.ark`,
`<split>-ref.ark`, a line `<utterance> <text>` each); the dev score is the best one that a checkpoint holds. All scores
are percent here; s3prl's `ctc` counts in fractions, its `asr` in percent.

Source: s3prl 0.4.18, downstream/ctc/expert.py and downstream/asr/expert.py.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from ..core.errors import MIError, nearest
from ..estimators.intervals import LeftOut
from ..results.record import Record
from ..superb.arks import count_errors
from ..superb.scores import SCORED, UNTRAINED, Metric, ark, read_records
from ..upstreams.s3prl_states import latest_states, load_states
from .published_scores import canonical


@dataclass(frozen=True, slots=True)
class ErrorRate:
    """One error rate of one run."""

    percent: float
    split: str
    """As the task calls it."""
    source: str
    """File, and how the value was taken from it."""
    left_out: LeftOut | None = None
    """The rate without each speaker of the split (utterance, where ids do not begin with one), for intervals."""


@dataclass(frozen=True, slots=True)
class S3prlRun:
    """One experiment's folder of s3prl's `ctc` or `asr`."""

    folder: Path
    metric: Metric
    upstream: str
    """s3prl's name (`-u`)."""
    checkpoint: str | None
    """The upstream's checkpoint as it was named (`-k`)."""
    layer: int | None
    """Only this entry of the hidden states (`-l`); None: the learned weighted sum."""
    test: ErrorRate | None
    dev: ErrorRate | None
    """Optimistic, as the checkpoint was chosen on it."""
    fine_tuned: bool = False
    """The upstream was trained too (`-f`), so the score is not of the representation that was measured."""
    setting: Mapping[str, str] = field(default_factory=dict)
    """`test split`: LibriSpeech's folders; `lexicon`, of a PER. What is not known is left out."""

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


def read_runs(folders: Iterable[Path | str]) -> list[S3prlRun]:
    """Read every run of `ctc` (phones) and `asr` in and below the folders; folders of other tasks are passed over.

    Raises:
        MIError: no such folder; none of such runs in one of them; a run without any score.
    """
    runs: dict[Path, S3prlRun] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            near = nearest(folder.name, [p.name for p in folder.parent.glob("*")])
            raise MIError(f"--stock {folder}: no such folder.{near}")
        found = [run for run in map(read_run, _experiments(folder)) if run is not None]
        if not found:
            raise MIError(
                f"--stock {folder}: no run of s3prl's ctc (phone recognition) or asr in it or below it. Such a folder "
                "(result/downstream/<name>, or -p) holds args_<time>.yaml, or a checkpoint such as dev-best.ckpt."
            )
        runs.update({run.folder.resolve(): run for run in found})
    return list(runs.values())


def find_runs(
    folders: Iterable[Path | str], records: Sequence[Record], named: Sequence[S3prlRun] = ()
) -> list[S3prlRun]:
    """The runs of `ctc` and `asr` in and below folders of experiments, as a study leaves them next to its bits.

    Args:
        folders: experiments, or folders that hold some.
        records: one of each model; runs of other models, and those without a score yet, are passed over.
        named: runs that the user has named; they come first.
    """
    runs = list(named)
    known = {run.folder.resolve() for run in named}
    for folder in dict.fromkeys(
        f for place in map(Path, folders) for f in _experiments(place) if f.resolve() not in known
    ):
        with contextlib.suppress(NoScore):
            run = read_run(folder)
            runs += [run] if run is not None and any(map(run.belongs_to, records)) else []
    return runs


def _experiments(folder: Path) -> list[Path]:
    """Folders that may be runs of s3prl's."""
    return sorted({p.parent for pattern in ("args_*.yaml", "*best*.ckpt") for p in folder.rglob(pattern)})


class NoScore(MIError):
    """A run of `ctc` or `asr` has no score."""


def read_run(folder: Path) -> S3prlRun | None:
    """Read one experiment's folder; None if it is of another task.

    Raises:
        NoScore: it is a `ctc` or `asr` run, but nothing in it holds a score.
    """
    best = sorted(folder.glob("*best*.ckpt"))
    checkpoint = best[0] if best else latest_states(folder)
    args = _args(folder, checkpoint)
    name = str(args.get("downstream"))
    task = SCORED.get(name)
    if task is None or (name == "ctc" and not _is_phones(folder)):
        return None
    test = _test(folder, name)
    dev = None
    states = load_states(checkpoint) if checkpoint else {}
    score = states.get("Downstream", {}).get("best_score")
    if checkpoint is not None and score is not None and float(score) < UNTRAINED:
        source = f"best dev value in {checkpoint.name} (step {states.get('Step', '?')})"
        dev = ErrorRate(task.to_percent * float(score), task.dev, source)
    if test is None and dev is None:
        raise NoScore(
            f"{folder}: a run of {name}, but no score in it: neither {ark(task.test, 'hyp', name)} and "
            f"{ark(task.test, 'ref', name)} nor a best checkpoint. s3prl writes these files here when it evaluates: "
            f"run_downstream.py -m evaluate -t {task.test} -e CHECKPOINT."
        )
    layer = args.get("upstream_layer_selection")
    return S3prlRun(
        folder=folder,
        metric=task.metric,
        upstream=str(args.get("upstream")),
        checkpoint=args.get("upstream_ckpt") or None,
        layer=None if layer is None else int(layer),
        test=test,
        dev=dev,
        fine_tuned=bool(args.get("upstream_trainable")),
        setting=_setting(folder, name),
    )


def chosen_run(runs: Sequence[S3prlRun], metric: Metric) -> S3prlRun | None:
    """The run that stands for a model: with a frozen upstream and the weighted sum if any; then the lowest dev score.

    The test score never chooses: that would be choosing on the test split.

    Args:
        runs: of one model.
        metric: the score wanted.

    Raises:
        MIError: several runs, but not all have a dev score.
    """
    having = [r for r in runs if r.metric == metric]
    having = [r for r in having if not r.fine_tuned] or having
    having = [r for r in having if r.layer is None] or having
    unknown = [str(r.folder) for r in having if r.dev is None]
    if len(having) > 1 and unknown:
        raise MIError(
            f"{len(having)} runs give a {metric.upper()} of {having[0].upstream}, and not all have a score on the dev "
            f"split, by which one would be chosen (missing in {', '.join(unknown)}). Name the run that counts: "
            "--stock LABEL=FOLDER."
        )
    return min(having, key=lambda r: r.dev.percent if r.dev else 0.0, default=None)


def _args(folder: Path, checkpoint: Path | None) -> dict[str, Any]:
    """The arguments of a run: of its latest training, from YAML, else from the checkpoint."""
    files = [_mapping(p) for p in sorted(folder.glob("args_*.yaml"))]
    trained = [a for a in files if a.get("mode") == "train"]
    if files or checkpoint is None:
        return (trained or files or [{}])[-1]
    return vars(load_states(checkpoint)["Args"])


def _mapping(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise MIError(f"{path}: cannot be read ({' '.join(str(error).split())}).") from error
    return content if isinstance(content, dict) else {}


def _is_phones(folder: Path) -> bool:
    """Whether a run of `ctc` is SUPERB's phone recognition (the task also serves other corpora, in words)."""
    return _expert(folder).get("corpus", {}).get("name") in (None, "libriphone")


def _test(folder: Path, task: str) -> ErrorRate | None:
    """From a pair of arks, as s3prl computes it: all errors over all reference tokens; None if they are missing.

    Raises:
        MIError: hypotheses and references are not of the same utterances.
    """
    split = SCORED[task].test
    hyp, ref = (folder / ark(split, kind, task) for kind in ("hyp", "ref"))
    if not (hyp.exists() and ref.exists()):
        return None
    found = count_errors(hyp, ref, SCORED[task].separator)
    source = f"counted in {hyp.name}, {ref.name}"
    return ErrorRate(found.percent, split, source, _without_each(found.of_utterances))


def _without_each(of_utterances: Mapping[str, tuple[int, int]]) -> LeftOut:
    """Percent of errors of all utterances, and without each speaker: LibriSpeech's ids are `speaker-chapter-number`.

    Args:
        of_utterances: errors and reference tokens.
    """
    known = all(re.fullmatch(r"\d+-\d+-\d+", u) for u in of_utterances)
    names, group = np.unique([u.partition("-")[0] if known else u for u in of_utterances], return_inverse=True)
    wrong, tokens = (np.bincount(group, counts) for counts in zip(*of_utterances.values(), strict=True))
    without = 100 * (wrong.sum() - wrong) / np.maximum(1, tokens.sum() - tokens)
    total = 100 * float(wrong.sum()) / max(1, tokens.sum())
    return LeftOut("speakers" if known else "utterances", tuple(names.tolist()), total, without)


def _setting(folder: Path, task: str) -> dict[str, str]:
    """What a score is of, as far as it is known: by the run's last record of the test, else by its config."""
    split = SCORED[task].test
    record = next((r for r in read_records(folder)[::-1] if r["split"] == split), None)
    if record is None:
        data = _expert(folder).get("corpus" if task == "ctc" else "datarc", {})
        names = [PurePath(str(file)).name for file in data.get("lexicon") or []]
        record = {"folders": data.get(split), "lexicon": ", ".join(names)}
    found = {"test split": ", ".join(record["folders"] or []), "lexicon": record["lexicon"]}
    return {key: value for key, value in found.items() if value}


def _expert(folder: Path) -> dict[str, Any]:
    """The section downstream_expert of a run's latest config."""
    return next((_mapping(p).get("downstream_expert") or {} for p in sorted(folder.glob("config_*.yaml"))[::-1]), {})
