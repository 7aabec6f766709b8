"""The jobs of a study as a command sees them, and `jobs.json`, where a later command finds them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import MIError
from ...core.files import write_whole
from .engine import SLURM
from .handle import Handle, LocalHandle, SlurmHandle
from .measure import Outcome, Work
from .view import DONE, FAILED, QUEUED, RUNNING

if TYPE_CHECKING:
    from ...core.types import Seconds

JOBS_FILE = "jobs.json"
JOBS_FOLDER = "jobs"
FORMAT = 1


@dataclass
class Job:
    """One job of a study, as this command sees it."""

    work: Work
    digest: str
    state: str = QUEUED
    handle: Handle | None = None
    folder: str = ""
    """Submitit's, of this submission."""
    asked: str = ""
    """Digest of what `handle` was asked for: it may be an earlier command's."""
    outcomes: list[Outcome] = field(default_factory=list)
    why: str | None = None
    device: str | None = None
    began: float | None = None
    ended: float | None = None

    @property
    def name(self) -> str:
        """Of the upstream or checkpoint."""
        return self.work.name

    @property
    def log(self) -> Path | None:
        """The file that it writes to, once it is submitted."""
        return self.handle.log if self.handle else None

    @property
    def seconds(self) -> Seconds:
        """How long it has run, or ran."""
        return 0.0 if self.began is None else (self.ended or time.time()) - self.began

    @property
    def where(self) -> str:
        """In words."""
        if self.handle is not None and self.handle.engine == SLURM:
            return f"SLURM job {self.handle.id}"
        return f"on {self.device}" if self.device else "on this machine"

    @property
    def open(self) -> bool:
        """Whether something is to come of it yet."""
        return self.state in (QUEUED, RUNNING)

    def look(self) -> None:
        """Bring the state up to date."""
        if self.handle is None or not self.open:
            return
        if self.state == QUEUED and self.handle.log.exists():
            self.state, self.began = RUNNING, self.began or time.time()
        if not self.handle.ended:
            return
        found = self.handle.outcomes()
        if (
            self.asked != self.digest
        ):  # an earlier command asked for something else: now for what this one asks
            self.handle, self.state = None, QUEUED
            return
        self.ended = time.time()
        if isinstance(found, str):
            self.state, self.why = FAILED, found
            return
        self.outcomes = found
        self.why = next((o.why for o in found if o.why is not None), None)
        self.state = DONE if self.why is None else FAILED


def read_notes(path: Path) -> dict[str, dict[str, Any]]:
    """The jobs that earlier commands submitted, by name."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise MIError(
            f"{path}: cannot be read ({error}). Remove it if no job of this study runs any more."
        ) from None
    return dict(content["jobs"]) if content.get("format") == FORMAT else {}


def write_notes(path: Path, jobs: Sequence[Job]) -> None:
    """Write down every job that was submitted, for a later command."""
    notes = {
        job.name: {
            "engine": job.handle.engine,
            "id": job.handle.id,
            "folder": job.folder,
            "digest": job.asked,
            "state": job.state,
            "began": job.began,
            "ended": job.ended,
            "outcomes": [asdict(o) for o in job.outcomes],
            "log": str(job.handle.log),
        }
        for job in jobs
        if job.handle is not None
    }
    write_whole(path, json.dumps({"format": FORMAT, "jobs": notes}, indent=1))


def _handle_of(note: Mapping[str, Any], name: str, root: Path) -> Handle:
    """A job that an earlier command submitted."""
    import submitit

    if note["engine"] == SLURM:
        return SlurmHandle(submitit.SlurmJob(note["folder"], note["id"]))
    return LocalHandle(submitit.LocalJob(note["folder"], note["id"]), lock_of(root, name), own=False)


def lock_of(root: Path, name: str) -> Path:
    """The file that a local job locks while it runs."""
    return root / JOBS_FOLDER / f"{name}.lock"


def take_up(jobs: Sequence[Job], root: Path, *, resume: bool) -> None:
    """Take up what earlier commands submitted: jobs that still run, and with the same settings what is done.

    Raises:
        MIError: jobs of this study still run, and the command does not ask to go on with it.
    """
    notes = read_notes(root / JOBS_FILE)
    going_on: list[str] = []
    for job in jobs:
        note = notes.get(job.name)
        if note is None:
            continue
        handle = _handle_of(note, job.name, root)
        over = note["state"] not in (QUEUED, RUNNING)
        if not over and not handle.ended:
            going_on.append(f"{job.name} ({handle.engine} job {handle.id})")
        same = note["digest"] == job.digest
        if not resume or (over and not (same and note["state"] == DONE and job.work.has_results)):
            continue
        job.handle, job.folder, job.asked = handle, note["folder"], note["digest"]
        job.state, job.began, job.ended = note["state"], note["began"], note["ended"]
        job.outcomes = [Outcome(**outcome) for outcome in note["outcomes"]]
        job.look()
        if job.state == FAILED:  # while nobody looked: it is tried again
            job.handle, job.state, job.why, job.outcomes = None, QUEUED, None, []
    if going_on and not resume:
        raise MIError(
            f"{root}: jobs of this study still run: {', '.join(going_on)}. The same command with -a waits for them and "
            "goes on; or end them first (scancel, kill)."
        )
