"""Errors as s3prl counts them, by the stand-in for editdistance."""

import functools
import importlib
import random
import sys

import pytest

from s3prl_mi.core.errors import MIError
from s3prl_mi.downstream import hook
from s3prl_mi.superb.arks import count_errors, distance


@pytest.mark.parametrize(
    ("left", "right", "errors"),
    [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("abc", "abc", 0), ("flaw", "lawn", 2), ([1, 2], [2, 1, 2], 1)],
)
def test_distance(left, right, errors):
    assert distance(left, right) == errors


def random_pairs(n):
    rng = random.Random(0)
    for _ in range(n):
        yield tuple([rng.choice(("AH0", "B", "K", "")) for _ in range(rng.randrange(9))] for _ in range(2))


def test_distance_by_another_algorithm():
    """Against the plain recursion, on random sequences of tokens."""
    for a, b in random_pairs(100):

        @functools.cache
        def plain(i, j, a=a, b=b):
            if i == 0 or j == 0:
                return i + j
            return min(plain(i - 1, j) + 1, plain(i, j - 1) + 1, plain(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

        assert distance(a, b) == plain(len(a), len(b))


def test_distance_of_the_package_where_it_is_installed():
    package = pytest.importorskip("editdistance")
    assert all(distance(a, b) == package.eval(a, b) for a, b in random_pairs(1000))


def write(folder, hyp, ref):
    for kind, lines in (("hyp", hyp), ("ref", ref)):
        (folder / f"{kind}.ark").write_text("".join(f"u{i} {text}\n" for i, text in enumerate(lines)))
    return folder / "hyp.ark", folder / "ref.ark"


def test_errors_by_kind(tmp_path):
    found = count_errors(*write(tmp_path, ["A X C", "A", "A B C"], ["A B C", "A B", "A C"]), None)
    assert (found.substitutions, found.deletions, found.insertions) == (1, 1, 1)
    assert (found.reference_length, list(found.of_utterances.values())) == (7, [(1, 3), (1, 2), (1, 2)])
    assert found.percent == pytest.approx(100 * 3 / 7)


def test_the_rate_is_that_of_s3prls_own_metric(tmp_path, monkeypatch):
    """By its code, through the stand-in where editdistance is missing; empty texts count as it counts them."""
    hook.install()
    monkeypatch.delitem(sys.modules, "s3prl.downstream.ctc.metric", raising=False)
    per = importlib.import_module("s3prl.downstream.ctc.metric").per
    pairs = [(" ".join(filter(None, a)), " ".join(filter(None, b))) for a, b in random_pairs(200)]
    hyp, ref = zip(*pairs, strict=True)
    found = count_errors(*write(tmp_path, hyp, ref), " ")
    assert found.percent == pytest.approx(100 * per(hypothesis=hyp, groundtruth=ref))


def test_an_utterance_that_occurs_twice_is_refused(tmp_path):
    hyp, ref = write(tmp_path, ["A"], ["A"])
    ref.write_text("u0 A\nu0 B\n")
    with pytest.raises(MIError, match="utterance 'u0' occurs twice"):
        count_errors(hyp, ref, None)


def test_files_of_different_utterances_are_refused(tmp_path):
    with pytest.raises(MIError, match=r"not the same utterances as ref\.ark"):
        count_errors(*write(tmp_path, ["A"], ["A", "B"]), None)
