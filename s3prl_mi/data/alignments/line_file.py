"""Files of many utterances: the lines of one of them."""

from __future__ import annotations

from pathlib import Path

from ...core.errors import MIError


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
