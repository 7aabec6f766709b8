"""An experiment's folder: its settings, its records, and what -a and -m evaluate accept or refuse.

Several processes append to it, each its own records, under a lock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from ..core.distributed import from_main, is_main, together
from ..core.errors import MIError
from ..core.files import read_lines, write_whole
from ..core.locks import Lock
from ..data.alignments.files import Alignments
from ..data.splits import Split
from ..estimators.probes import PROTOCOLS
from ..results.class_contributions import CLASSES_FILE, ClassRecord, append_classes
from ..results.measures import MEASURES_FILE, MeasureRecord, append_measures, read_measures
from ..results.record import RESULTS_FILE, Record, append_records, read_records
from ..results.speaker_sums import SPEAKERS_FILE, SpeakerRecord, append_speakers
from ..upstreams.checkpoints import one_line
from ..upstreams.loading import Upstream
from ..upstreams.s3prl_states import STATES_FILE
from .spec import RunSpec

logger = logging.getLogger(__name__)

SETTINGS_FILE = "mi_settings.json"
LOCK_FILE = ".mi_results.lock"
CONTENTS_FILE = "mi_files.json"
"""Hash of the audio and of the alignment of each utterance."""

Contents: TypeAlias = dict[str, dict[str, str]]
"""`audio` and `labels` -> `<split>/<id>` -> hash."""

KEPT = "hidden_states"
"""Key of the settings under which stands how hidden states were kept, and why."""

_FREE = (
    "layers",
    "labels",
    "seeds",
    "probes",
    "fit_ci",
    "measures",
    "frames",
    "views",
    "clusters",
    "store",
    "batch_size",
)
"""Config keys that may differ between records of one experiment."""


class ExperimentFolder:
    """Where the results of one experiment are; `path` need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results, self.settings = path / RESULTS_FILE, path / SETTINGS_FILE

    def read_settings(self) -> dict[str, Any]:
        """As they were written, or nothing; older ones lack choices that there were none of then."""
        if not self.settings.exists():
            return {}
        try:
            return {"precision": "fp32", "label_classes": 16, **json.loads(self.settings.read_text())}
        except (OSError, ValueError, TypeError) as error:
            raise MIError(
                f"{self.settings} is damaged ({one_line(error)}), so what was measured here cannot be told. Use "
                "another experiment name (-n), or move the folder away."
            ) from error

    def write_settings(self, content: dict[str, Any]) -> None:
        """Write them whole."""
        write_whole(self.settings, json.dumps(content, indent=1))

    @contextlib.contextmanager
    def alone(self, evaluate_split: str | None) -> Iterator[None]:
        """Keep other runs out for as long as this one writes here; all processes of a run ask at the same time.

        Raises:
            MIError: another run writes here.
        """
        what = "run" if evaluate_split is None else re.sub(r"[^\w.-]", "_", f"evaluate {evaluate_split}")
        with contextlib.ExitStack() as stack:
            with together():
                holder = None
                if is_main():
                    try:
                        holder = stack.enter_context(Lock.naming_its_holder(self.path / f".mi_{what}.lock"))
                    except OSError as error:
                        raise MIError(f"{self.path}: cannot be written ({error.strerror}).") from error
                if holder is not None:
                    raise MIError(
                        f"{self.path}: another run writes there now ({holder}). Wait until it ends, or give this one "
                        "another name (-n)."
                    )
            yield

    def begin(self, settings: dict[str, Any], contents: Contents, resume: bool) -> list[Record]:
        """Take up the experiment's records with -a; without it, move earlier ones aside.

        Raises:
            MIError: -a, and the experiment was started with other settings, or on other audio or labels.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if not resume:
            # else -a would take up the experiment that was here before this one
            (self.path / STATES_FILE).unlink(missing_ok=True)
        if self.results.exists() and not resume:
            stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(self.results.stat().st_mtime))
            for path in (self.results, *(self.path / name for name in (CLASSES_FILE, SPEAKERS_FILE, MEASURES_FILE))):
                if path.exists():
                    os.replace(path, path.with_name(f"{path.stem}.{stamp}{path.suffix}"))
            logger.warning(
                "%s held results already; moved to mi_results.%s.jsonl (-a continues them).", self.path, stamp
            )
        elif self.results.exists() and self.settings.exists():
            before = self.read_settings()
            self._refuse_changes({**before, "speech": settings["speech"]}, settings)
            self._refuse_other(contents)
            self._refuse_changes(before, settings)
        self.write_settings(settings)
        write_whole(self.path / CONTENTS_FILE, json.dumps(contents, indent=0, sort_keys=True))
        return read_records(self.results) if resume else []

    def _refuse_changes(self, before: dict[str, Any], settings: dict[str, Any]) -> None:
        changed = _changes(before, settings)
        if changed:
            raise MIError(
                f"-a: {self.path} was started with other settings, so its results cannot be continued: {changed}. "
                "Use another experiment name (-n), or leave -a out."
            )

    def _refuse_other(self, contents: Contents) -> None:
        """Refuse files that are not what they were; experiments of earlier versions do not tell."""
        try:
            before = json.loads((self.path / CONTENTS_FILE).read_text())
            changed = sorted(
                name
                for kind in contents
                for name in before[kind].keys() | contents[kind].keys()
                if before[kind].get(name) != contents[kind].get(name)
            )
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise MIError(
                f"-a: {self.path / CONTENTS_FILE} is damaged ({one_line(error)}), so whether audio and labels are what "
                "they were cannot be told. Use another experiment name (-n), or leave -a out."
            ) from error
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise MIError(
                f"-a: audio or labels are not those that {self.path} was started with: {', '.join(changed[:3])}{more} "
                "changed, came or went. Restore them, use another experiment name (-n), or leave -a out to begin again."
            )

    def check_fitted_under(self, settings: dict[str, Any]) -> None:
        """Refuse to score probes on states of another checkpoint, or under other settings, than they were fitted on.

        Raises:
            MIError: the settings differ in more than the speech that is scored.
        """
        fitted = self.read_settings()
        if not fitted:
            return
        for determinants in (fitted, settings):
            determinants.pop("speech", None)
            determinants["datarc"].pop("eval_splits", None)
        changed = _changes(fitted, settings)
        if changed:
            raise MIError(
                f"-m evaluate: the probes in {self.path} were fitted under other settings: {changed}. Score them as "
                "they were fitted, or train them again (-m train without -a)."
            )

    def append(
        self,
        records: Sequence[Record],
        classes: Sequence[ClassRecord],
        speakers: Sequence[SpeakerRecord],
        measures: Sequence[MeasureRecord] = (),
    ) -> None:
        """Append the records of a grid point, after those of classes and speakers: what has a record is finished."""
        lock = Lock(self.path / LOCK_FILE, create=True)
        try:
            while not lock.take():
                time.sleep(0.01)
            append_classes(self.path / CLASSES_FILE, classes)
            append_speakers(self.path / SPEAKERS_FILE, speakers)
            append_records(self.results, records)
            append_measures(self.path / MEASURES_FILE, measures)
        finally:
            lock.close()

    def measured(self) -> set[tuple[int | str, str, str | None]]:
        """Layers, measures and labels that have a record."""
        return {(m.layer, m.measure, m.labels) for m in read_measures(self.path / MEASURES_FILE)}

    def replace(
        self,
        records: Sequence[Record],
        classes: Sequence[ClassRecord],
        speakers: Sequence[SpeakerRecord],
        measures: Sequence[MeasureRecord],
    ) -> None:
        """Write these instead of what was there."""
        for name in (RESULTS_FILE, CLASSES_FILE, SPEAKERS_FILE, MEASURES_FILE):
            (self.path / name).unlink(missing_ok=True)
        self.path.mkdir(parents=True, exist_ok=True)
        self.append(records, classes, speakers, measures)

    @property
    def n_records(self) -> int:
        """Number of records, of all processes."""
        return sum(1 for _ in read_lines(self.results))


def determinants(spec: RunSpec, upstream: Upstream, precision: str) -> dict[str, Any]:
    """Settings that every record of an experiment shares."""
    config = dataclasses.asdict(spec.config)
    data = config["datarc"]
    of_codebook = ((config, "codebook"), (config, "kmeans_iterations"))
    no_effect = of_codebook if spec.task == "mi_supervised" else ((data, "alignments"),)
    places = ((data["alignments"], "path"), (data, "libri_root"), (data, "manifest"), (data, "max_seconds"))
    for section, key in (*((config, key) for key in _FREE), *places, *no_effect):
        del section[key]
    return {
        "task": spec.task,
        "upstream": upstream.name,
        "upstream_sha256": upstream.fingerprint,
        "feature_normalize": spec.upstream.normalize,
        "protocol_version": PROTOCOLS[spec.config.protocol],
        **json.loads(json.dumps(config)),
        "precision": precision,
    }


def digest_of(splits: Sequence[Split]) -> str:
    """Tells one set of recordings from another: ids and lengths, not where they lie."""
    listed = sorted((s.name, u, n) for s in splits for u, n in s.n_samples.items())
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]


def contents_of(splits: Sequence[Split], alignments: Alignments | None) -> Contents:
    """What the files of an experiment hold; all processes ask at the same time, for one answer on all."""
    hashes = [split.hashes for split in splits]
    audio = {f"{s.name}/{u}": h for s, found in zip(splits, hashes, strict=True) for u, h in found.items()}
    if alignments is None:
        return {"audio": audio}

    def labels() -> dict[str, str]:
        found = ((f"labels of {s.name}/{u.id}", alignments.content_hash(u)) for s in splits for u in s.utterances)
        return {name: digest for name, digest in found if digest is not None}

    return {"audio": audio, "labels": from_main(labels)}


def _changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What differs between two sets of settings, the first three of it; empty if nothing does.

    Where hidden states were kept changes nothing.
    """
    changed = [k for k in sorted((set(before) | set(now)) - {KEPT}) if before.get(k) != now.get(k)]
    return "; ".join(f"{k} was {before.get(k)!r}, is {now.get(k)!r}" for k in changed[:3])
