"""Which file holds an utterance's alignment, and which utterances have one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ...core.config import AlignmentConfig
from ...core.errors import MIError
from ..utterances import Utterance
from .formats import BY_LINE, CONDENSED_SUFFIX, CPC_NAME, ONE_UTTERANCE, Format, detect_format, format_of_name
from .labels import KEY, Interval, check_intervals, normalise_label
from .text import LineFile


class Alignments:
    """The alignments of a corpus, read utterance by utterance.

    Made by `open_alignments`.

    Attributes:
        root: `datarc.alignments.path`, or None where every utterance of a manifest names its own file.
        format: of the files under `root`; None without it.
    """

    def __init__(self, config: AlignmentConfig, root: Path | None, format: Format | None) -> None:
        self.root, self.format = root, format
        self._config = config
        self._line_files: dict[Path, LineFile] = {}
        self._whole: list[Path] | None = None
        self._walked: dict[str, list[Path]] | None = None

    # What callers use

    def intervals(self, utterance: Utterance) -> list[Interval] | None:
        """The intervals of one utterance, with normalised labels, checked and in order.

        Returns:
            None if this utterance has no alignment.

        Raises:
            MIError: a malformed file, a missing tier, or intervals that overlap or are out of order.
        """
        located = self._locate(utterance)
        if located is None:
            return None
        path, form = located
        if form in ONE_UTTERANCE:
            raw = ONE_UTTERANCE[form](path, self._config.tier)
        else:
            raw = BY_LINE[form](path, self._line_file(path).lines(utterance.id))
        words = form == "condensed" or _is_words(self._config.tier)
        strip = self._config.strip_stress
        found = [replace(i, label=normalise_label(i.label, strip_stress=strip, words=words)) for i in raw]
        return check_intervals(found, f"{utterance.id} ({path})")

    def missing(self, utterances: Iterable[Utterance]) -> list[str]:
        """Ids of the utterances that have no alignment; no TextGrid is opened for it."""
        return [u.id for u in utterances if self._locate(u) is None]

    def tried(self, utterance: Utterance) -> list[str]:
        """The files in which an utterance's alignment was looked for, for messages."""
        if utterance.alignment is not None:
            return [str(utterance.alignment)]
        if self.root is None or self.format is None:
            return []
        if self.format in ("cpc", "ctm"):
            return [str(path) for path in self._whole_files()]
        if self.format == "condensed":
            return [str(path) for path in self._candidates(utterance)]
        # One spelling of the suffix is enough for a message.
        paths = [str(path) for path in self._candidates(utterance) if not path.suffix.islower()]
        return [*paths, f"any folder below {self.root}"]

    # Where an utterance's alignment lies

    def _locate(self, utterance: Utterance) -> tuple[Path, Format] | None:
        """The file of one utterance and its format; None if there is none."""
        if utterance.alignment is not None:
            return self._locate_own(utterance, utterance.alignment)
        if self.root is None or self.format is None:
            return None
        if self.format in ("cpc", "ctm"):
            holders = [p for p in self._whole_files() if utterance.id in self._line_file(p)]
            if len(holders) > 1:
                raise _ambiguous(utterance, holders)
            return (holders[0], self.format) if holders else None
        for path in self._candidates(utterance):
            if path.is_file() and self._holds(path, self.format, utterance):
                return path, self.format
        if self.format == "condensed":
            # Stray copies are about (chapter lists filed under another chapter): exact places only.
            return None
        path_or_none = self._walk(utterance)
        return None if path_or_none is None else (path_or_none, self.format)

    def _locate_own(self, utterance: Utterance, path: Path) -> tuple[Path, Format] | None:
        """The file that the manifest names for an utterance."""
        if not path.is_file():
            return None
        form = detect_format(path) if self._config.format == "auto" else self._config.format
        _check_tier(form, self._config.tier, path)
        return (path, form) if self._holds(path, form, utterance) else None

    def _holds(self, path: Path, form: Format, utterance: Utterance) -> bool:
        return form in ONE_UTTERANCE or utterance.id in self._line_file(path)

    def _line_file(self, path: Path) -> LineFile:
        if path not in self._line_files:
            self._line_files[path] = LineFile(path)
        return self._line_files[path]

    def _whole_files(self) -> list[Path]:
        """The file or files of a format that keeps many utterances in one."""
        assert self.root is not None
        if self._whole is None:
            self._whole = [self.root] if self.root.is_file() else _files_of(self.root, self.format)
        return self._whole

    def _suffixes(self) -> tuple[str, ...]:
        if self.format == "phn":
            return (".WRD", ".wrd") if _is_words(self._config.tier) else (".PHN", ".phn")
        return (".TextGrid", ".textgrid")

    def _candidates(self, utterance: Utterance) -> Iterator[Path]:
        """The exact places of an utterance's own file, most specific first."""
        assert self.root is not None
        chapter = utterance.path.parent
        name = utterance.id
        suffixes = self._suffixes()
        if self.format == "condensed":
            name, suffixes = utterance.id.rpartition("-")[0], (CONDENSED_SUFFIX,)
        folders = [
            self.root / utterance.split / chapter.parent.name / chapter.name,
            self.root / chapter.parent.name / chapter.name,
            self.root,
        ]
        for folder in folders:
            yield from (folder / f"{name}{suffix}" for suffix in suffixes)

    def _walk(self, utterance: Utterance) -> Path | None:
        """Search all folders below the root, by an index made once.

        An id such as `DR1-FAKS0-SA1` also finds DR1/FAKS0/SA1. Of several files of one name, those below a
        folder named as the split are preferred, then those whose folders agree most with the audio's.
        """
        assert self.root is not None
        if self._walked is None:
            self._walked = _index(self.root, tuple(s.lower() for s in self._suffixes()))
        found = self._walked.get(utterance.id, [])
        found = [p for p in found if utterance.split in p.relative_to(self.root).parts] or found
        if len(found) > 1:
            shared = [_shared_folders(p, utterance.path) for p in found]
            found = [p for p, n in zip(found, shared, strict=True) if n == max(shared)]
        if len(found) > 1:
            raise _ambiguous(utterance, found)
        return found[0] if found else None


def _index(root: Path, suffixes: tuple[str, ...]) -> dict[str, list[Path]]:
    """Every file with one of the suffixes, by its name and by its name with up to three folders before it."""
    index: dict[str, list[Path]] = {}
    for parent, folders, names in os.walk(root, followlinks=True):
        folders.sort()
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() not in suffixes or name.startswith("."):
                continue
            path = Path(parent) / name
            parts = [*path.relative_to(root).parts[:-1][-3:], stem]
            for i in range(len(parts)):
                index.setdefault("-".join(parts[i:]), []).append(path)
    return index


def _files_of(folder: Path, form: Format | None) -> list[Path]:
    """All files of a format below a folder."""
    return [
        Path(parent) / name
        for parent, _, names in sorted(os.walk(folder, followlinks=True))
        for name in sorted(names)
        if format_of_name(name) == form
    ]


def _shared_folders(a: Path, b: Path) -> int:
    """How many folder names above two files agree, counted from the files up."""
    pairs = zip(reversed(a.parent.parts), reversed(b.parent.parts), strict=False)
    return next((n for n, (x, y) in enumerate(pairs) if x != y), min(len(a.parts), len(b.parts)) - 1)


def _ambiguous(utterance: Utterance, paths: Sequence[Path]) -> MIError:
    return MIError(
        f"utterance {utterance.id!r} of split {utterance.split!r} has several alignments: "
        f"{', '.join(map(str, paths[:3]))}{', ...' if len(paths) > 3 else ''}. Remove all but one, or name "
        "it in the manifest's column alignment."
    )


def _is_words(tier: str) -> bool:
    return tier.rpartition(" - ")[2].strip().lower() == "words"


def _check_tier(form: Format, tier: str, path: Path) -> None:
    """Refuse phones from a format that has words only, and the other way round."""
    words = _is_words(tier)
    if form == "condensed" and not words:
        raise MIError(
            f"config key {KEY}.tier: found {tier!r}, but the condensed LibriSpeech alignments ({path}) hold "
            "words only. Set it to words, or use the TextGrids, which have phones."
        )
    if form == "cpc" and words:
        raise MIError(f"config key {KEY}.tier: found {tier!r}, but CPC's file ({path}) holds phones only.")
    if form == "phn" and path.suffix and words != (path.suffix.lower() == ".wrd"):
        holds, other = ("phones", ".WRD") if words else ("words", ".PHN")
        raise MIError(
            f"config key {KEY}.tier: found {tier!r}, but {path} holds {holds}; name the {other} file instead."
        )


def open_alignments(config: AlignmentConfig) -> Alignments:
    """Find out where alignments are and in which format; nothing is parsed yet.

    Args:
        config: `datarc.alignments`; `path` may be None where a manifest names each utterance's file.

    Raises:
        MIError: no such path, no known format, a file where a folder is needed, or a tier that the format
            does not have.
    """
    if config.path is None:
        return Alignments(config, None, None)
    root = Path(config.path).expanduser()
    if not root.exists():
        raise MIError(f"config key {KEY}.path: no such file or folder: {root}.")
    form = detect_format(root) if config.format == "auto" else config.format
    if root.is_dir():
        if form != "phn":
            _check_tier(form, config.tier, root)
    elif form in ("textgrid", "phn", "condensed"):
        raise MIError(
            f"config key {KEY}.path: {root} is one file of format {form}; "
            "name the folder that holds such files."
        )
    else:
        _check_tier(form, config.tier, root)
    alignments = Alignments(config, root, form)
    if form in ("cpc", "ctm") and not alignments._whole_files():
        wanted = CPC_NAME if form == "cpc" else "*.ctm"
        raise MIError(f"config key {KEY}.path: no file {wanted} in {root}. Name the file itself.")
    return alignments


def match_utterances(
    alignments: Alignments, utterances: Sequence[Utterance], max_missing: float
) -> tuple[list[Utterance], list[str]]:
    """Keep the utterances that have an alignment.

    Args:
        alignments: see `open_alignments`.
        utterances: of one split.
        max_missing: the share of utterances that may be without (`datarc.alignments.max_missing`).

    Returns:
        The utterances with an alignment, and the ids of those without.

    Raises:
        MIError: a larger share has none; the message lists ids and where they were looked for.
    """
    missing = alignments.missing(utterances)
    absent = set(missing)
    kept = [u for u in utterances if u.id not in absent]
    if not missing or (kept and len(missing) <= max_missing * len(utterances)):
        return kept, missing
    first = next(u for u in utterances if u.id in absent)
    tried = alignments.tried(first)
    place = f"Looked for {first.id} in: {'; '.join(tried)}" if tried else "None is named"
    way_out = f"Set config key {KEY}.path to what has them, or fill the manifest's column alignment"
    split = utterances[0].split
    if not kept:
        raise MIError(
            f"split {split!r}: none of its {len(utterances)} utterances has an alignment. {place}. {way_out}."
        )
    ids = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
    raise MIError(
        f"split {split!r}: {len(missing)} of {len(utterances)} utterances have no alignment, more than the "
        f"share of {max_missing:g} that {KEY}.max_missing allows: {ids}. {place}. {way_out}; "
        "or raise max_missing."
    )
