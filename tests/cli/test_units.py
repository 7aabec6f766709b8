"""`s3prl-mi units`: units of known purity, published units, files that do not belong together."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest

from s3prl_mi.cli import main as cli
from tests.helpers.paths import SHARED

SPIDR = SHARED / "data" / "spidr"


def lines_of(capsys, *words: object) -> list[str]:
    assert cli.main(["units", *map(str, words)]) == 0
    return capsys.readouterr().out.splitlines()


def number(lines: list[str], title: str) -> list[float]:
    (line,) = [x for x in lines if x.startswith(title)]
    return [float(n) for n in re.findall(r"-?\d+\.\d+", line)]


def refusal(capsys, *words: object) -> str:
    assert cli.main(["units", *map(str, words)]) == 1
    return capsys.readouterr().err


@pytest.mark.shared
@pytest.mark.skipif(not SPIDR.is_dir(), reason="needs ../shared")
def test_published_units(capsys):
    """SpidR's codebook of layer 6 against phones (paper/data/units-quality.csv): PNMI, purities, codes, perplexity."""
    found = lines_of(
        capsys, SPIDR / "units-codebooks-spidr-l6-dev-clean-and-other.jsonl.gz",
        "--alignments", SPIDR / "phoneme-dev-clean-and-other.jsonl.gz",
    )  # fmt: skip
    assert number(found, "PNMI")[0] == pytest.approx(0.6024292, abs=5e-7)
    assert number(found, "phone purity")[0] == pytest.approx(0.6403322, abs=5e-7)
    assert number(found, "cluster purity")[0] == pytest.approx(0.1704013, abs=5e-7)
    assert found[1].startswith("203 units in use, perplexity 190.7122")
    assert found[0].startswith("5,567 utterances, 73 speakers")


def write(path: Path, content: dict[str, list], key: str | None = None) -> Path:
    lines = [json.dumps({"id": n, key: s}) if key else " ".join([n, *map(str, s)]) for n, s in content.items()]
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt") as file:
        file.write("\n".join(lines) + "\n")
    return path


def test_units_that_are_the_phones(tmp_path, capsys):
    units = write(tmp_path / "units.txt", {f"{s}-1-1": [0, 1, 2, 3] * 5 for s in "abc"})
    phones = {f"{s}-1-1": [p for p in "WXYZ" * 5 for _ in range(2)] for s in "abc"}
    found = lines_of(capsys, units, "--alignments", write(tmp_path / "p.jsonl.gz", phones, "phones"))
    assert number(found, "PNMI") == [1, 1, 1, *number(found, "PNMI")[3:]]
    assert number(found, "I(units;phones)")[0] == 2
    assert number(found, "phone purity")[3] == 1
    assert "[95 % over speakers]" in found


def test_textgrids_and_dropped_silence(corpus, tmp_path, capsys):
    """A unit of each utterance's own: it tells something about phones, plug-in only."""
    ids = sorted(p.stem for p in corpus.alignments.rglob("*.TextGrid"))
    units = write(tmp_path / "units.txt", {name: [n] * 10 for n, name in enumerate(ids)})
    with_silence = lines_of(capsys, units, "--alignments", corpus.alignments)
    without = lines_of(capsys, units, "--alignments", corpus.alignments, "--silence", "drop")
    assert number(with_silence, "I(units;phones)")[0] >= 0
    frames = [int(re.search(r"([\d,]+) frames", lines[0])[1].replace(",", "")) for lines in (with_silence, without)]
    assert frames[1] < frames[0] <= 20 * len(ids)


def test_what_is_refused(tmp_path, capsys):
    phones = write(tmp_path / "p.jsonl", {"a-1-1": ["X"] * 100}, "phones")
    short = write(tmp_path / "short.txt", {"a-1-1": [1] * 20})
    assert "its units last 0.4 s, its labels 1 s" in refusal(capsys, short, "--alignments", phones)
    other = write(tmp_path / "other.txt", {"b-1-1": [1] * 20})
    assert "no alignment of any utterance" in refusal(capsys, other, "--alignments", phones)
    (tmp_path / "bad.jsonl").write_text('{"units": [1]}\n')
    assert "bad.jsonl, line 1: expected a name" in refusal(capsys, tmp_path / "bad.jsonl", "--alignments", phones)
    (tmp_path / "twice.txt").write_text("a 1\na 2\n")
    assert "twice.txt, line 2" in refusal(capsys, tmp_path / "twice.txt", "--alignments", phones)
    assert "cannot be read" in refusal(capsys, tmp_path / "none.txt", "--alignments", phones)
    assert "whole multiple" in refusal(capsys, short, "--alignments", phones, "--unit_ms", "15")


def test_a_single_label_is_refused(tmp_path, capsys):
    units = write(tmp_path / "units.txt", {"a-1-1": [0, 1, 2]})
    phones = write(tmp_path / "p.jsonl.gz", {"a-1-1": ["W"] * 6}, "phones")
    assert "all frames have one label (W)" in refusal(capsys, units, "--alignments", phones)
