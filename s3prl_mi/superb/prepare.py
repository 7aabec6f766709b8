"""The config of `ctc` and `asr`, with what s3prl would not find filled in; mistakes are refused before it starts."""

from __future__ import annotations

import csv
import importlib.util
import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import MIError
from ..core.files import write_whole
from ..core.split_names import overlap
from ..core.words import count
from ..upstreams import compat
from . import lexicon
from .corpus import Spoken
from .targets import VOCABULARY, WORD_END, Targets, character_targets, phone_targets, symbols_of, write_lists

EXPERT = "config.downstream_expert"


@dataclass
class Prepared:
    """What a run of s3prl needs to be told, and what its record will say."""

    overrides: dict[str, Any] = field(default_factory=dict)
    """Key, as in `-o` -> value."""
    targets: Targets | None = None
    """None: a dataset of s3prl's own, which reads its data itself."""
    folders: dict[str, list[str]] = field(default_factory=dict)
    """Name of a dataloader (train, dev, test-clean) -> the splits behind it."""
    lexicon: tuple[str, str] | None = None
    """Of a phone recogniser: its name and sha256."""

    def notes(self) -> list[str]:
        """What a user should know, one line each."""
        found = []
        if self.targets and self.targets.skipped:
            skipped = self.targets.skipped
            found.append(
                f"{count(len(skipped), 'utterance')} left out (superb_skipped.tsv): {next(iter(skipped.values()))}"
            )
        if self.lexicon and self.targets:
            guessed = self.targets.guessed
            spoken = sum(n for n, _ in guessed.values())
            share = 100 * spoken / max(1, self.targets.n_words)
            found.append(
                f"lexicon: {self.lexicon[0]}; it lacks {count(len(guessed), 'word')}, {share:.1f} % of those spoken, "
                "which were guessed (superb_guessed_words.tsv)"
            )
        return found


def prepare(task: str, config: Mapping[str, Any], loaders: Sequence[str], folder: Path) -> Prepared:
    """Prepare a run of `ctc` or `asr`.

    Args:
        task: one of the two.
        config: the whole config, after the user's overrides.
        loaders: names of the dataloaders that will be asked for.
        folder: of the experiment.

    Raises:
        MIError: data, lexicon, vocabulary or language model are missing or faulty.
    """
    section = config.get("downstream_expert") or {}
    _check_leak(section.get("corpus" if task == "ctc" else "datarc") or {}, loaders)
    prepared = _prepare_ctc(section, loaders) if task == "ctc" else _prepare_asr(section, loaders, folder)
    if prepared.targets is not None:
        write_lists(prepared.targets, folder)
    for key, value in prepared.overrides.items():
        if "=" in repr(value) or ",," in repr(value):
            raise MIError(f"{key}={value}: s3prl's -o takes no '=' and no ',,' in a value. Use a link of another name.")
    return prepared


def _prepare_ctc(section: Mapping[str, Any], loaders: Sequence[str]) -> Prepared:
    corpus, name = section.get("corpus") or {}, str((section.get("corpus") or {}).get("name")).lower()
    if name not in ("libriphone", "librispeech"):
        return Prepared()
    root = _root((section.get("datarc") or {}).get("libri_root") or corpus.get("path"), "corpus.path")
    prepared = Prepared({f"{EXPERT}.corpus.path": str(root)})
    prepared.folders = {loader: _folders(corpus, loader, "corpus") for loader in loaders}
    ours, own_file = ("phones.txt", "phoneme.txt") if name == "libriphone" else ("characters.txt", "character.txt")
    vocabulary = _vocabulary((section.get("text") or {}).get("vocab_file"), f"ctc/vocab/{own_file}", ours)
    prepared.overrides[f"{EXPERT}.text.vocab_file"] = str(vocabulary)
    splits = tuple(dict.fromkeys(split for folders in prepared.folders.values() for split in folders))
    files: tuple[Path, ...] = ()
    if name == "libriphone":
        files = _lexicons(corpus.get("lexicon"))
        prepared.overrides[f"{EXPERT}.corpus.lexicon"] = [str(path) for path in files]
        prepared.lexicon = lexicon.identity(files)
    if (compat.s3prl_folder() / "downstream" / "ctc" / "corpus" / f"{name}.py").is_file():
        if name == "libriphone" and not files:
            raise MIError(f"no lexicon: this checkout of s3prl lacks its own. Name one: {EXPERT}.corpus.lexicon=[...]")
        return prepared  # a checkout's own dataset
    if name == "libriphone":
        prepared.lexicon = (chosen := lexicon.read(files)).name, chosen.sha256
        prepared.targets = phone_targets(root, splits, files, symbols_of(vocabulary))
    else:
        prepared.targets = character_targets(root, splits, symbols_of(vocabulary) | {WORD_END})
    return prepared


def _prepare_asr(section: Mapping[str, Any], loaders: Sequence[str], folder: Path) -> Prepared:
    data = section.get("datarc") or {}
    root = _root(data.get("libri_root"), "datarc.libri_root")
    _check_language_model(data.get("decoder_args") or {})
    vocabulary = _vocabulary(data.get("dict_path"), "asr/char.dict", "characters.dict")
    prepared = Prepared({f"{EXPERT}.datarc.libri_root": str(root), f"{EXPERT}.datarc.dict_path": str(vocabulary)})
    prepared.folders = {loader: _folders(data, loader, "datarc") for loader in loaders}
    splits = tuple(dict.fromkeys(split for folders in prepared.folders.values() for split in folders))
    ours = folder / "buckets"
    lists = Path(data["bucket_file"]) if data.get("bucket_file") else ours
    if lists.resolve() != ours.resolve() and all((lists / f"{split}.csv").is_file() for split in splits):
        return prepared  # the user's own, as in s3prl
    prepared.targets = character_targets(root, splits, symbols_of(vocabulary))
    for split, lines in prepared.targets.splits.items():
        _check_transcripts(lines)
        table = io.StringIO()
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(("file_path", "length", "label"))
        rows.writerows((str(u.path.relative_to(root)), u.n_samples, "") for u, _ in lines)
        write_whole(ours / f"{split}.csv", table.getvalue())
    prepared.overrides[f"{EXPERT}.datarc.bucket_file"] = str(ours)
    return prepared


def _root(path: str | None, key: str) -> Path:
    if not path:
        raise MIError(f"where is LibriSpeech? -o \"{EXPERT}.datarc.libri_root='/data/LibriSpeech'\"")
    root = Path(path).expanduser()
    if not root.is_dir():
        raise MIError(f"config key downstream_expert.{key}: {path}: no such folder. It should be LibriSpeech's.")
    return root


def _folders(section: Mapping[str, Any], loader: str, where: str) -> list[str]:
    """The splits behind a dataloader."""
    folders = section.get(loader)
    if isinstance(folders, str) or not folders:
        raise MIError(
            f"config key downstream_expert.{where}.{loader}: expected a list of LibriSpeech's folders, such as "
            f"['dev-clean'], found {folders!r}."
        )
    return [str(folder) for folder in folders]


def _check_leak(section: Mapping[str, Any], loaders: Sequence[str]) -> None:
    """Refuse splits of two dataloaders that share speech: of training with a score, or of dev with test.

    Raises:
        MIError: they do.
    """
    for one, other in itertools.combinations(loaders, 2):
        for a, b in itertools.product(section.get(one) or (), section.get(other) or ()):
            if overlap(str(a), str(b)):
                raise MIError(
                    f"{one} ({a}) and {other} ({b}) share speech, so the score would be of speech that was trained or "
                    "chosen on. Parts of a split, by speakers, are named like dev-other@1/2 and dev-other@2/2."
                )


def _check_transcripts(lines: Sequence[tuple[Spoken, tuple[str, ...]]]) -> None:
    """s3prl's `asr` finds transcripts in LibriSpeech's files only."""
    for folder in {u.path.parent for u, _ in lines}:
        file = folder / f"{folder.parent.name}-{folder.name}.trans.txt"
        if not file.is_file():
            raise MIError(f"{file}: missing, and s3prl's asr reads transcripts nowhere else (lines '<id> <text>').")


def _vocabulary(file: str | None, of_s3prl: str, ours: str) -> Path:
    """The user's file, else that of a checkout of s3prl, else ours; s3prl's own configs name theirs."""
    own = compat.s3prl_folder() / "downstream" / of_s3prl
    if file and Path(file).is_file():
        return Path(file)
    if file and Path(file).name not in (own.name, ours):  # of another environment, if it is ours
        raise MIError(f"vocabulary {file}: no such file. Leave it out (null) for SUPERB's.")
    return own if own.is_file() else VOCABULARY / ours


def _lexicons(files: Sequence[str] | str | None) -> tuple[Path, ...]:
    """The user's files, else those of a checkout of s3prl, else none: the default lexicon."""
    own = compat.s3prl_folder() / "downstream" / "ctc" / "lexicon"
    named = [files] if isinstance(files, str) else list(files or ())
    if not named:
        found = [own / name for name in lexicon.SUPERB_FILES]
        return tuple(found) if all(path.is_file() for path in found) else ()
    places = [[Path(name).expanduser(), own / Path(name).name] for name in named]
    chosen = [next((p for p in pair if p.is_file()), None) for pair in places]
    if None in chosen:
        raise MIError(
            f"lexicon {named[chosen.index(None)]}: no such file. SUPERB's are in {lexicon.SUPERB_FILES[0]} and others "
            "of https://github.com/s3prl/s3prl, downstream/ctc/lexicon; "
            f'without one ("{EXPERT}.corpus.lexicon=None"), the default lexicon is used.'
        )
    return tuple(path for path in chosen if path is not None)


def _check_language_model(decoder: Mapping[str, Any]) -> None:
    """Refuse `decoder_type: kenlm` without its packages and files."""
    if decoder.get("decoder_type") != "kenlm":
        return
    packages = (("flashlight", "flashlight-text"), ("kenlm", "kenlm"))
    lacks = [f"package {package}" for module, package in packages if importlib.util.find_spec(module) is None]
    fix = " (pip install 's3prl_mi[lm]')" if lacks else ""
    lacks += [f"{key}: {decoder.get(key)}" for key in ("kenlm_model", "lexicon") if not _is_file(decoder.get(key))]
    if lacks:
        raise MIError(
            f"decoding with a language model (decoder_type kenlm) lacks {', '.join(lacks)}{fix}. "
            f"Files: {EXPERT}.datarc.decoder_args.kenlm_model (4-gram.arpa of openslr.org/11) and .lexicon "
            "(fairseq's librispeech_lexicon.lst)."
        )


def _is_file(path: str | None) -> bool:
    return path is not None and Path(path).is_file()
