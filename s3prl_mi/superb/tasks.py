"""SUPERB's tasks by s3prl's names: what each needs beyond s3prl from PyPI, and what of it is missing.

Source: s3prl 0.4.18, imports of downstream/<task>; config keys and data sets: downstream/<task>/config.yaml and
downstream/docs/superb.md of github.com/s3prl/s3prl.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import MIError, nearest
from ..upstreams import compat

GITHUB = "https://github.com/s3prl/s3prl"


@dataclass(frozen=True, slots=True)
class SuperbTask:
    """One task of SUPERB."""

    name: str
    """s3prl's, for `-d`."""
    superb: str
    """SUPERB's abbreviation."""
    data: str
    """The data set."""
    keys: tuple[str, ...]
    """Keys below downstream_expert that say where it is."""
    packages: tuple[tuple[str, str], ...] = ()
    """(module that it imports, package of PyPI)."""
    config: str | None = None
    """The config of this package that it uses without `-c`."""


TASKS = (
    SuperbTask("ctc", "PR", "LibriSpeech", (), (("pandas", "pandas"),), "superb_pr"),
    SuperbTask("asr", "ASR", "LibriSpeech", (), (("pandas", "pandas"),), "superb_asr"),
    SuperbTask(
        "speech_commands", "KS", "Speech Commands v0.01", ("speech_commands_root", "speech_commands_test_root"),
        (("catalyst", "catalyst"),),
    ),
    SuperbTask("fluent_commands", "IC", "Fluent Speech Commands", ("file_path",), (("pandas", "pandas"),)),
    SuperbTask("voxceleb1", "SID", "VoxCeleb1", ("file_path", "meta_data"), (("librosa", "librosa"),)),
    SuperbTask(
        "sv_voxceleb1", "ASV", "VoxCeleb1", ("file_path",),
        (("librosa", "librosa"), ("sox", "sox"), ("joblib", "joblib")),
    ),
    SuperbTask(
        "diarization", "SD", "LibriMix", ("train_dir", "dev_dir", "test_dir"),
        (("pandas", "pandas"), ("h5py", "h5py")),
    ),
    SuperbTask("emotion", "ER", "IEMOCAP", ("root", "meta_data"), (("librosa", "librosa"),)),
    SuperbTask(
        "quesst14_dtw", "QbE", "QUESST 2014", ("dataset_root",), (("dtw", "dtw-python"), ("lxml", "lxml")),
    ),
    SuperbTask("ctc", "SF", "Audio SNIPS", ("path",)),
)  # fmt: skip

_BY_NAME = {task.name: task for task in reversed(TASKS)}

CTC_CORPORA = ("libriphone", "librispeech")
"""Corpora of `ctc` that work with s3prl from PyPI; that of SF, the last of `TASKS`, does not."""


def task_of(name: str) -> SuperbTask | None:
    """SUPERB's task of this name, or None for another one of s3prl's."""
    return _BY_NAME.get(name)


def missing_packages(task: SuperbTask) -> list[str]:
    """Packages of PyPI that the task imports and that are not installed."""
    return [package for module, package in task.packages if importlib.util.find_spec(module) is None]


def check(task: SuperbTask, config: Mapping[str, Any] | None) -> None:
    """Refuse to start a task that cannot work, and name all that is missing in one line.

    Args:
        task: the task.
        config: the whole config after overrides; None if there is none.

    Raises:
        MIError: packages, config or data are missing.
    """
    lacks = []
    if packages := missing_packages(task):
        lacks.append(f"packages {', '.join(packages)} (pip install 's3prl_mi[superb]')")
    if config is None:
        lacks.append(
            f"a config (s3prl from PyPI has none: -c with one of {GITHUB}/tree/main/s3prl/downstream/{task.name})"
        )
        lacks.append(f"{task.data}, named by its key{'s' * (len(task.keys) > 1)} {', '.join(task.keys)}")
    else:
        section = config.get("downstream_expert") or {}
        places = [(key, value) for key in task.keys for value in _values(section, key)]
        lacks += [f"{task.data} at {key}: {value}" for key, value in places if not Path(str(value)).exists()]
        corpus = (section.get("corpus") or {}).get("name") if task.name == "ctc" else None
        if corpus is not None:
            task = TASKS[-1] if str(corpus).lower() == "snips" else task
            lacks += missing_code(str(corpus))
    if lacks:
        raise MIError(f"-d {task.name} (SUPERB {task.superb}) lacks {'; '.join(lacks)}.")


_CHECKED = ("", "runner", "downstream_expert", "downstream_expert.corpus", "downstream_expert.datarc")
"""Sections whose keys s3prl reads by name; below others its classes take what they like."""


def check_keys(task: SuperbTask, keys: Sequence[str], config: Mapping[str, Any]) -> None:
    """Refuse overrides that PR or ASR would pass over in silence.

    Args:
        task: the task.
        keys: dotted keys that `-o` sets, without `config.`.
        config: before they are set, with all keys of the task.

    Raises:
        MIError: a key that is not there, or a section of a study.
    """
    for key in keys:
        if key.split(".")[0] in _BY_NAME and key.split(".")[0] not in config:
            raise MIError(
                f"config.{key} is for a study; with -d {task.name} alone write config.{key.partition('.')[2]}."
            )
        section: Any = config
        for depth, field in enumerate(fields := key.split(".")):
            inside = ".".join(fields[:depth])
            if not isinstance(section, Mapping) or inside not in _CHECKED:
                break
            known = {*section, *_EXTRA.get(inside, ())}
            if field not in known:
                raise MIError(
                    f"unknown config key {key}.{nearest(field, known)} Keys there: {', '.join(sorted(known))}."
                )
            section = section.get(field)


_EXTRA = {
    "": ("scheduler", "specaug"),
    "downstream_expert": ("datarc", "store"),
    "downstream_expert.datarc": ("libri_root",),
}
"""Keys that are read and that not every config has."""


def missing_code(corpus: str) -> list[str]:
    """In words, that s3prl's wheel has no dataset for this corpus of `ctc`, and where there is one."""
    name = "common_voice" if corpus.lower() in ("common_voice", "sbcsae") else corpus.lower()
    own = compat.s3prl_folder() / "downstream" / "ctc" / "corpus" / f"{name}.py"
    if name in CTC_CORPORA or own.is_file():
        return []
    return [f"s3prl's code for corpus {corpus} (in a checkout of {GITHUB}, downstream/ctc/corpus; not on PyPI)"]


def _values(section: Mapping[str, Any], key: str) -> Iterator[Any]:
    """What a key says, at any depth."""
    for name, value in section.items():
        if isinstance(value, Mapping):
            yield from _values(value, key)
        elif name == key:
            yield value
