"""Published scores: found by name and alias, every one with its source."""

import csv

import pytest

from s3prl_mi.report.published_scores import canonical, paper_figures, score_of, scores
from tests.helpers.paths import SHARED

DATA = SHARED / "data"


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("hubert", "hubert_base"),
        ("wavlm", "wavlm_base_plus"),
        ("wav2vec2", "wav2vec2_base_960"),
        ("apc_360hr", "apc"),
        ("vq_apc_360hr", "vq_apc"),
        ("data2vec", "data2vec_base_960"),
        ("unispeech_sat", "unispeech_sat_base_plus"),
        ("lighthubert", "lighthubert_small"),
        ("vq_wav2vec", "vq_wav2vec"),
        ("wav2vec_large", "wav2vec"),
        ("facebook/hubert-base-ls960", "hubert_base"),
    ],
)
def test_aliases(alias, name):
    assert canonical(alias) == name
    assert score_of(alias).upstream == name


@pytest.mark.parametrize("name", ["hubert_local", "apc_960hr", "hf_hubert_custom", "", "HuBERT Base"])
def test_other_weights_have_no_score(name):
    assert score_of(name) is None


def test_numbers_and_gaps():
    assert score_of("hubert").pr_per == 5.41
    assert score_of("hubert").asr_wer == 6.42
    assert score_of("dinosr").pr_per == 3.21


def test_every_row_has_a_source_and_names_are_unique():
    everything = scores()
    names = [name for s in everything.values() for name in (s.upstream, *s.aliases)]
    assert len(names) == len(set(names))
    assert all(s.source and "brief" not in s.source for s in everything.values())


def test_the_secondary_source_is_marked():
    assert [name for name, s in scores().items() if s.low_confidence] == ["multires_hubert_base"]


def test_aliases_are_those_of_s3prl():
    """An alias and its upstream load the same weights: the one returns what the other does."""
    import ast
    import inspect
    import textwrap

    from s3prl_mi.upstreams import compat

    compat.apply()
    import s3prl.hub

    def returned(name):
        """The functions of s3prl.hub that this one hands on to, however many steps away."""
        tree = ast.parse(textwrap.dedent(inspect.getsource(getattr(s3prl.hub, name))))
        calls = {
            n.value.func.id
            for n in ast.walk(tree)
            if isinstance(n, ast.Return) and isinstance(n.value, ast.Call) and isinstance(n.value.func, ast.Name)
        }
        known = {c for c in calls if hasattr(s3prl.hub, c) and c != name}
        return known.union(*(returned(c) for c in known))

    checked = 0
    for score in scores().values():
        for alias in (a for a in score.aliases if "/" not in a):
            assert score.upstream in returned(alias) or alias in returned(score.upstream), alias
            checked += 1
    assert checked > 15


def test_paper():
    figures = {(f.upstream, f.task, f.probe, f.layer): f for f in paper_figures()}
    assert len(figures) == len(paper_figures()) == 7 * 4 + 9 * 2
    dinosr = figures["dinosr", "mi_views", "mlp", None]
    assert (dinosr.bits, dinosr.decimals, dinosr.eval_split) == (2.15, 2, "test-other")
    apc = figures["apc", "mi_supervised", "mlp", 2]
    assert (apc.bits, apc.decimals, apc.eval_split) == (3.6, 1, "test-clean")


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared is not there")
def test_agrees_with_the_shared_table():
    with open(DATA / "superb_scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["upstream"] for r in rows] == list(scores())
    for row in rows:
        score = scores()[row["upstream"]]
        for column in ("pr_per", "asr_wer"):
            assert getattr(score, column) == (float(row[column]) if row[column] else None)
