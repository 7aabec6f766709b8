"""Which file holds an utterance's alignment, and which utterances have one."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from ...core.config import AlignmentConfig
from ...core.errors import MIError
from ...core.files import expanded
from ..utterances import Utterance
from .formats import FORMATS, Format, detect_format, format_of_name, read_file, read_lines
from .labels import KEY, Interval, check_intervals, normalise_label


class LineFile:
    """A file whose lines begin with an utterance id: where each utterance's lines are.

    Only the places are kept in memory; lines are read when asked for (CPC's file has 36 million labels).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._runs: dict[str, list[tuple[int, int, int]]] = {}
        offset = 0
        try:
            with open(path, "rb") as file:
                for number, line in enumerate(file, start=1):
                    self._note(line, offset, number)
                    offset += len(line)
        except OSError as error:
            raise MIError(f"alignment file {path}: cannot be read ({error.strerror}).") from error

    def _note(self, line: bytes, offset: int, number: int) -> None:
        """Add a line to its utterance's last run of adjoining lines, or begin a new run."""
        head = line.removeprefix(b"\xef\xbb\xbf") if offset == 0 else line
        fields = head.split(None, 1)
        if not fields or fields[0].startswith(b";;"):
            return
        runs = self._runs.setdefault(fields[0].decode("utf-8", "replace"), [])
        if runs and runs[-1][1] == offset:
            runs[-1] = (runs[-1][0], offset + len(line), runs[-1][2])
        else:
            runs.append((offset, offset + len(line), number))

    def __contains__(self, utterance_id: str) -> bool:
        return utterance_id in self._runs

    def lines(self, utterance_id: str) -> list[tuple[int, str]]:
        """(line number, text) of every line of an utterance."""
        found: list[tuple[int, str]] = []
        with open(self.path, "rb") as file:
            for start, end, number in self._runs[utterance_id]:
                file.seek(start)
                text = file.read(end - start).decode("utf-8", "replace").removeprefix("\ufeff")
                found += enumerate(text.splitlines(), start=number)
        return found


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
        self._per = None if format is None else FORMATS[format].per
        self._line_file = functools.cache(LineFile)

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
        if FORMATS[form].per == "utterance":
            raw = read_file(path, form, self._config.tier)
        else:
            raw = read_lines(path, form, self._line_file(path).lines(utterance.id))
        words = FORMATS[form].only == "words" or _is_words(self._config.tier)
        strip = self._config.strip_stress
        found = [replace(i, label=normalise_label(i.label, strip_stress=strip, words=words)) for i in raw]
        return check_intervals(found, f"{utterance.id} ({path})")

    def content_hash(self, utterance: Utterance) -> str | None:
        """Hash of what an utterance's alignment says, unread: of its file, or of its lines; None if there is none."""
        located = self._locate(utterance)
        if located is None:
            return None
        path, form = located
        if FORMATS[form].per == "utterance":
            try:
                content = path.read_bytes()
            except OSError as error:
                raise MIError(f"{path}: cannot be read ({error.strerror}).") from error
        else:
            content = "\n".join(line for _, line in self._line_file(path).lines(utterance.id)).encode()
        return hashlib.blake2b(content, digest_size=16).hexdigest()

    def missing(self, utterances: Iterable[Utterance]) -> list[str]:
        """Ids of the utterances that have no alignment; no TextGrid is opened for it."""
        return [u.id for u in utterances if self._locate(u) is None]

    def tried(self, utterance: Utterance) -> list[str]:
        """The files in which an utterance's alignment was looked for, for messages."""
        if utterance.alignment is not None:
            return [str(utterance.alignment)]
        if self._per == "corpus":
            return [str(path) for path in self.whole_files]
        if self._per == "chapter":
            return [str(path) for path in self._chapter_files(utterance)]
        if self.root is None:
            return []
        name = utterance.id + {".textgrid": ".TextGrid"}.get(self._suffix, self._suffix.upper())
        return [*(str(folder / name) for folder in self._folders(utterance)), f"any folder below {self.root}"]

    # Where an utterance's alignment lies

    def _locate(self, utterance: Utterance) -> tuple[Path, Format] | None:
        """The file of one utterance and its format; None if there is none."""
        if (own := utterance.alignment) is not None:
            if not own.is_file():
                return None
            form = detect_format(own) if self._config.format == "auto" else self._config.format
            _check_tier(form, self._config.tier, own)
            holds = FORMATS[form].per == "utterance" or utterance.id in self._line_file(own)
            return (own, form) if holds else None
        if self.format is None:
            return None
        if self._per == "utterance":
            found = self._nearest(utterance)
        elif self._per == "corpus":
            found = [p for p in self.whole_files if utterance.id in self._line_file(p)]
        else:
            files = (p for p in self._chapter_files(utterance) if p.is_file())
            found = [p for p in files if utterance.id in self._line_file(p)][:1]
        if len(found) > 1:
            raise MIError(
                f"utterance {utterance.id!r} of split {utterance.split!r} has several alignments: "
                f"{', '.join(map(str, found[:3]))}{', ...' if len(found) > 3 else ''}. Remove all but one, or name it "
                "in the manifest's column alignment."
            )
        return (found[0], self.format) if found else None

    @functools.cached_property
    def _files(self) -> list[Path]:
        """The root if it is a file, else every file below it, sorted; links to folders are followed."""
        assert self.root is not None
        if self.root.is_file():
            return [self.root]
        tree = sorted(os.walk(self.root, followlinks=True))
        return [Path(folder, name) for folder, _, names in tree for name in sorted(names)]

    @functools.cached_property
    def whole_files(self) -> list[Path]:
        """The file or files of a format that keeps a whole corpus in one."""
        return [p for p in self._files if p == self.root or format_of_name(p.name) == self.format]

    def _chapter_files(self, utterance: Utterance) -> list[Path]:
        """Where the list of an utterance's chapter may lie, most specific first.

        Stray copies are about (filed under another chapter): exact places only.
        """
        return [folder / f"{utterance.id.rpartition('-')[0]}.alignment.txt" for folder in self._folders(utterance)]

    def _folders(self, utterance: Utterance) -> list[Path]:
        """LibriSpeech's folder of an utterance below the root, with and without the split, and the root."""
        assert self.root is not None
        speaker, chapter = utterance.path.parent.parent.name, utterance.path.parent.name
        return [self.root / utterance.split / speaker / chapter, self.root / speaker / chapter, self.root]

    @property
    def _suffix(self) -> str:
        return ".textgrid" if self.format == "textgrid" else ".wrd" if _is_words(self._config.tier) else ".phn"

    @functools.cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        """Every file with the suffix, by its name and by its name with up to three folders before it."""
        assert self.root is not None
        index: dict[str, list[Path]] = {}
        for path in self._files:
            if path.suffix.lower() == self._suffix and not path.name.startswith("."):
                parts = [*path.relative_to(self.root).parts[:-1][-3:], path.stem]
                for i in range(len(parts)):
                    index.setdefault("-".join(parts[i:]), []).append(path)
        return index

    def _nearest(self, utterance: Utterance) -> list[Path]:
        """An utterance's own file; of several, one in a folder of its split, then the one in the most like folders."""
        assert self.root is not None
        found = self._by_name.get(utterance.id, [])
        found = [p for p in found if utterance.split in p.relative_to(self.root).parts] or found
        rank = {p: (_shared_folders(p, utterance.path), -len(p.parts)) for p in found}
        return [p for p in found if rank[p] == max(rank.values())]


def _shared_folders(a: Path, b: Path) -> int:
    """How many folder names above two files agree, counted from the files up."""
    pairs = zip(reversed(a.parent.parts), reversed(b.parent.parts), strict=False)
    return next((n for n, (x, y) in enumerate(pairs) if x != y), min(len(a.parts), len(b.parts)) - 1)


def _is_words(tier: str) -> bool:
    return tier.rpartition(" - ")[2].strip().lower() == "words"


def _check_tier(form: Format, tier: str, path: Path) -> None:
    """Refuse phones from a format that has words only, and the other way round."""
    words, only = _is_words(tier), FORMATS[form].only
    if only is not None and words != (only == "words"):
        other = "the TextGrids, which have phones" if only == "words" else "another format"
        raise MIError(
            f"config key {KEY}.tier: found {tier!r}, but {FORMATS[form].title} ({path}) have {only} only. "
            f"Set it to {only}, or use {other}."
        )
    if form == "phn" and path.suffix and words != (path.suffix.lower() == ".wrd"):
        holds, wanted = ("phones", ".WRD") if words else ("words", ".PHN")
        raise MIError(
            f"config key {KEY}.tier: found {tier!r}, but {path} holds {holds}; name the {wanted} file instead."
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
    root = expanded(config.path, f"config key {KEY}.path")
    if not root.exists():
        raise MIError(f"config key {KEY}.path: no such file or folder: {root}.")
    form = detect_format(root) if config.format == "auto" else config.format
    per_corpus = FORMATS[form].per == "corpus"
    if root.is_file() and not per_corpus:
        raise MIError(
            f"config key {KEY}.path: {root} is one file of format {form}; name the folder that holds such files."
        )
    if root.is_file() or form != "phn":
        _check_tier(form, config.tier, root)
    alignments = Alignments(config, root, form)
    if per_corpus and not alignments.whole_files:
        wanted = FORMATS[form].names[0]
        raise MIError(f"config key {KEY}.path: no file {wanted} in {root}. Name the file itself.")
    return alignments


def match_utterances(
    alignments: Alignments, utterances: Sequence[Utterance], max_missing: float
) -> tuple[list[Utterance], list[str]]:
    """Keep the utterances that have an alignment.

    Args:
        alignments: see `open_alignments`.
        utterances: of one split.
        max_missing: the fraction of utterances that may be without (`datarc.alignments.max_missing`).

    Returns:
        The utterances with an alignment, and the ids of those without.

    Raises:
        MIError: a larger fraction has none; the message lists ids and where they were looked for.
    """
    missing = alignments.missing(utterances)
    absent = set(missing)
    kept = [u for u in utterances if u.id not in absent]
    if not missing or (kept and len(missing) <= max_missing * len(utterances)):
        return kept, missing
    first = next(u for u in utterances if u.id in absent)
    tried = alignments.tried(first)
    place = f"Looked for {first.id} in: {'; '.join(tried)}" if tried else "None is named"
    hint = f"Set config key {KEY}.path to where they are, or fill the manifest's column alignment"
    split = utterances[0].split
    if not kept:
        raise MIError(f"split {split!r}: none of its {len(utterances)} utterances has an alignment. {place}. {hint}.")
    ids = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
    raise MIError(
        f"split {split!r}: {len(missing)} of {len(utterances)} utterances have no alignment, more than the "
        f"fraction of {max_missing:g} that {KEY}.max_missing allows: {ids}. {place}. {hint}; or raise max_missing."
    )
