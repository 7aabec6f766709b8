"""Which utterances a split has: LibriSpeech's folders, or the lines of a manifest. No audio file is opened."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..core.config import DataConfig
from ..core.errors import MIError, nearest
from ..core.files import expanded, read_text
from ..core.split_names import split_part

AUDIO_SUFFIXES = (".flac", ".wav")
_KEY = "config key downstream_expert.datarc"
MANIFEST_COLUMNS = ("split", "audio", "id", "speaker", "alignment")


@dataclass(frozen=True, slots=True)
class Utterance:
    """One audio file of a split."""

    id: str
    path: Path
    split: str
    speaker: str | None
    """None where the manifest does not say."""
    alignment: Path | None
    """The manifest's own alignment file, if it names one; wins over `datarc.alignments.path`."""


def list_utterances(data: DataConfig, split: str) -> list[Utterance]:
    """The utterances of one split, sorted by id.

    Args:
        data: `libri_root` (LibriSpeech's layout) or `manifest` says where the audio is; `max_utterances`
            limits the split to so many, spread evenly and over all speakers.
        split: name of the split's folder, or value of the manifest's column `split`; `name@1/2` is the first of
            two parts of it.

    Returns:
        At least one utterance. No audio file is opened.

    Raises:
        MIError: no such split, no audio in it, an id that occurs twice, or a faulty manifest.
    """
    if data.max_utterances is not None and data.max_utterances < 1:
        raise MIError(
            f"config key downstream_expert.datarc.max_utterances: must be at least 1, found {data.max_utterances}."
        )
    whole, part, parts = split_part(split)
    if data.manifest is not None:
        utterances = _list_manifest(expanded(data.manifest, f"{_KEY}.manifest"), data, whole)
    elif data.libri_root is not None:
        utterances = _list_librispeech(expanded(data.libri_root, f"{_KEY}.libri_root"), whole)
    else:
        raise MIError(
            "config keys downstream_expert.datarc.libri_root and downstream_expert.datarc.manifest: "
            "neither is set; one must say where the audio is."
        )
    utterances.sort(key=lambda u: u.id)
    if parts > 1:
        utterances = _deal_out(utterances, part, parts, split)
    if data.max_utterances is not None:
        utterances = spread(utterances, data.max_utterances)
    return utterances


def _deal_out(utterances: list[Utterance], part: int, parts: int, split: str) -> list[Utterance]:
    """One of several parts of a split: its speakers dealt out in turn; utterances where speakers are unknown."""
    speakers = sorted({u.speaker for u in utterances if u.speaker is not None})
    known = len(speakers) > 1 and all(u.speaker is not None for u in utterances)
    names = [u.speaker or "" for u in utterances] if known else [u.id for u in utterances]
    turn = {name: i % parts for i, name in enumerate(dict.fromkeys(sorted(names)))}
    if len(turn) < parts:
        raise MIError(f"split {split!r}: {parts} parts of {len(turn)} {'speakers' if known else 'utterances'}.")
    return [u for u, name in zip(utterances, names, strict=True) if turn[name] == part - 1]


def spread(utterances: Sequence[Utterance], count: int) -> list[Utterance]:
    """Take `count` utterances spread evenly over a sorted list, each speaker in proportion.

    Every speaker keeps at least one utterance where `count` allows; with fewer than one utterance per speaker,
    the speakers themselves are spread evenly. No randomness is involved.

    Returns:
        min(count, len(utterances)) utterances in their old order.
    """
    if count >= len(utterances):
        return list(utterances)
    speakers: dict[str | None, list[int]] = {}
    for row, utterance in enumerate(utterances):
        speakers.setdefault(utterance.speaker, []).append(row)
    groups = list(speakers.values())
    if count < len(groups):
        groups = [groups[i] for i in _evenly(len(groups), count)]
    # One utterance each; what remains of `count` is shared out by largest remainder.
    spare, left = sum(map(len, groups)) - len(groups), count - len(groups)
    ideal = [left * (len(g) - 1) / spare if spare else 0.0 for g in groups]
    quota = [1 + int(x) for x in ideal]
    by_remainder = sorted(range(len(groups)), key=lambda i: (int(ideal[i]) - ideal[i], i))
    for i in by_remainder[: count - sum(quota)]:
        quota[i] += 1
    rows = [g[i] for g, n in zip(groups, quota, strict=True) for i in _evenly(len(g), n)]
    return [utterances[row] for row in sorted(rows)]


def _evenly(n: int, count: int) -> list[int]:
    """`count` of the positions 0..n-1, at the middles of equal stretches."""
    return [(2 * k + 1) * n // (2 * count) for k in range(count)]


# LibriSpeech's folders --------------------------------------------------------------------------------------


def _list_librispeech(root: Path, split: str) -> list[Utterance]:
    """Every <root>/<split>/<speaker>/<chapter>/<id>.flac or .wav; hidden files (macOS's ._x.flac) left out."""
    folder = root / split
    if not split or not folder.is_dir():
        raise MIError(_missing_split(root, split))
    found: dict[str, Utterance] = {}
    for path in (p for speaker in _inside(folder) for chapter in _inside(speaker) for p in _inside(chapter)):
        if path.suffix.lower() in AUDIO_SUFFIXES:
            utterance = Utterance(path.stem, path, split, path.parts[-3], None)
            if (first := found.setdefault(path.stem, utterance)) is not utterance:
                raise MIError(
                    f"utterance id {path.stem!r} occurs twice in {folder}: {first.path} and {path}. Remove one of them."
                )
    if not found:
        audio = (p for p in sorted(folder.rglob("[!.]*")) if p.suffix.lower() in AUDIO_SUFFIXES)
        if elsewhere := next(audio, None):
            raise MIError(
                f"{folder}: audio was found ({elsewhere}), but not in LibriSpeech's layout "
                "<split>/<speaker>/<chapter>/<id>.flac. List it in a manifest instead "
                "(downstream_expert.datarc.manifest)."
            )
        raise MIError(
            f"{folder}: no {' or '.join(AUDIO_SUFFIXES)} file in it. Expected LibriSpeech's layout "
            "<split>/<speaker>/<chapter>/<id>.flac; is the download complete?"
        )
    return list(found.values())


def _inside(folder: Path) -> list[Path]:
    """What a folder holds, sorted, but for hidden files; nothing for a file.

    Raises:
        MIError: it cannot be listed: a link to nowhere, or closed to this user; its utterances would be missing.
    """
    try:
        return sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    except NotADirectoryError:
        return []
    except OSError as error:
        why = "a link to nowhere" if folder.is_symlink() else error.strerror
        raise MIError(f"{folder}: cannot be listed ({why}). Repair or remove it.") from error


def _missing_split(root: Path, split: str) -> str:
    """The message for a split folder that is not there."""
    there = sorted(p.name for p in root.glob("[!.]*") if p.is_dir())
    holds = f"It holds: {', '.join(there[:12])}{', ...' if len(there) > 12 else ''}" if there else "It is empty"
    # LibriSpeech's archives unpack into a folder of their own, so the root is often one level off.
    below = [name for name in there if (root / name / split).is_dir()] if split else []
    hint = f" {split!r} is in {root / below[0]}: make that the libri_root." if below else nearest(split, there)
    return (
        f"split {split!r}: no such folder in downstream_expert.datarc.libri_root={root}. {holds}.{hint} "
        "Set downstream_expert.datarc.fit_splits and eval_splits to folders that are there."
    )


# Manifests --------------------------------------------------------------------------------------------------


def _list_manifest(manifest: Path, data: DataConfig, split: str) -> list[Utterance]:
    """The lines of one split of a manifest."""
    lines = _read_manifest(manifest)
    if not any(u.split for u in lines.values()):
        named = sorted({split_part(n)[0] for n in (*data.fit_splits, *data.eval_splits, split)})
        if len(named) > 1:
            raise MIError(
                f"manifest {manifest}: it has no column 'split', so its lines cannot be told apart, but "
                f"{len(named)} splits are named ({', '.join(named)}). Add a column split with these names."
            )
    chosen = {number: u for number, u in lines.items() if u.split in ("", split)}
    if not chosen:
        there = sorted({u.split for u in lines.values()})
        raise MIError(
            f"split {split!r}: no line of manifest {manifest} names it in its column 'split'."
            f"{nearest(split, there)} Splits there: {', '.join(there)}."
        )
    seen: dict[str, int] = {}
    for number, utterance in chosen.items():
        if (first := seen.setdefault(utterance.id, number)) != number:
            raise MIError(
                f"manifest {manifest}, line {number}: utterance id {utterance.id!r} was used in line {first} "
                "already. Give each line its own id (column id; without it, the audio file's name)."
            )
        if not utterance.path.is_file():
            raise MIError(
                f"manifest {manifest}, line {number}: no such audio file: {utterance.path} "
                "(relative paths count from the manifest's folder)."
            )
    return [replace(utterance, split=split) for utterance in chosen.values()]


def _read_manifest(manifest: Path) -> dict[int, Utterance]:
    """Line number -> utterance, of a TSV or CSV file with a header, which shows which of the two it is.

    Without a column split, `split` is empty.
    """
    lines = read_text(manifest).splitlines()
    reader = csv.reader(lines, delimiter="\t" if lines and "\t" in lines[0] else ",", strict=True)
    try:
        rows = [(reader.line_num, [f.strip() for f in fields]) for fields in reader if any(map(str.strip, fields))]
    except csv.Error as error:
        raise MIError(f"manifest {manifest}, line {reader.line_num}: {error}.") from error
    if len(rows) < 2:
        raise MIError(
            f"manifest {manifest}: no utterance in it. Expected a header (columns {', '.join(MANIFEST_COLUMNS)}; only "
            "audio is required) and one line per utterance, separated by tabs or commas."
        )
    header = [f.lower() for f in rows[0][1]]
    valid = f"Valid columns: {', '.join(MANIFEST_COLUMNS)}; only audio is required."
    for name in header:
        if name not in MANIFEST_COLUMNS:
            raise MIError(
                f"manifest {manifest}: unknown column {name!r} in its first line."
                f"{nearest(name, MANIFEST_COLUMNS)} {valid}"
            )
        if header.count(name) > 1:
            raise MIError(f"manifest {manifest}: column {name!r} occurs twice in its first line.")
    if "audio" not in header:
        raise MIError(f"manifest {manifest}: no column 'audio' in its first line ({', '.join(header)}). {valid}")
    return {line: _manifest_line(manifest, line, header, fields) for line, fields in rows[1:]}


def _manifest_line(manifest: Path, line: int, header: Sequence[str], fields: Sequence[str]) -> Utterance:
    if len(fields) != len(header):
        raise MIError(
            f"manifest {manifest}, line {line}: expected {len(header)} fields ({', '.join(header)}), "
            f"found {len(fields)}."
        )
    values = dict(zip(header, fields, strict=True))
    for name in ("audio", "split"):
        if values.get(name) == "":
            raise MIError(f"manifest {manifest}, line {line}: column {name!r} is empty.")
    audio = manifest.parent / expanded(values["audio"], f"manifest {manifest}, line {line}: audio")
    alignment = None
    if values.get("alignment"):
        alignment = manifest.parent / expanded(values["alignment"], f"manifest {manifest}, line {line}: alignment")
    return Utterance(
        values.get("id") or audio.stem, audio, values.get("split", ""), values.get("speaker") or None, alignment
    )
