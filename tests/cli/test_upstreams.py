"""`s3prl-mi upstreams`: the table and the explanation of one name."""

from __future__ import annotations

import argparse
import sys

import pytest

from s3prl_mi.cli import upstreams as upstreams_command
from s3prl_mi.cli.upstreams import (
    WIDTH,
    explain,
    frame_shift_ms,
    grouped,
    listing,
    weights_of,
)
from s3prl_mi.core.errors import MIError
from s3prl_mi.report import published_scores as superb
from s3prl_mi.upstreams import families
from s3prl_mi.upstreams.extra.hubconf import FAMILIES
from s3prl_mi.upstreams.families import Family
from s3prl_mi.upstreams.names import stock_names, upstream_names
from tests.helpers.process import run_python


@pytest.fixture(scope="module")
def names():
    return upstream_names()


def call(*words: str) -> int:
    parser = argparse.ArgumentParser()
    upstreams_command.add_arguments(parser)
    return upstreams_command.run(parser.parse_args(words))


def test_every_name_stands_in_the_table_once(names):
    words = " ".join(listing(names)).replace(",", " ").split()
    for name in names:
        assert words.count(name) >= 1, name
    rows = grouped(names)
    assert sorted(n for group in rows for n in group) == sorted(names)


def test_table_fits_the_screen(names):
    assert max(map(len, listing(names))) <= WIDTH


def test_row_of_the_table(names):
    [row] = [line for line in listing(names) if line.startswith("hubert ")]
    assert row.split() == ["hubert", "hubert", "mask", "20", "s3prl", "5.41", "6.42"]
    [row] = [line for line in listing(names) if line.startswith("cotraining ")]
    assert row.split() == ["cotraining", "cotraining", "shift", "10", "-k", "FILE"]


def test_part_of_a_name_selects(names, capsys):
    assert call("wavlm_") == 0
    shown = capsys.readouterr().out
    assert "wavlm_large" in shown
    assert "wavlm_base_plus" in shown  # an alias is found too
    assert "hubert" not in shown
    with pytest.raises(MIError, match=r"contains 'wavln'.*Did you mean 'wavlm'"):
        call("wavln")


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("hubert", ["hubert_base"]),
        ("hubert_base", ["hubert"]),
        ("wav2vec2_local", ["wav2vec2_custom", "wav2vec2_url"]),
        ("wavlm", ["wavlm_base_plus"]),
        ("wavlm_large", []),
        ("fbank", ["baseline"]),
        ("hf", []),
    ],
)
def test_aliases(name, others, names):
    (group,) = (g for g in grouped(names) if name in g)
    assert sorted(n for n in group if n != name) == others


def test_aliases_have_one_score(names):
    """The published table and the sources of s3prl agree on what is the same upstream."""
    for group in grouped(names):
        found = {superb.score_of(n).upstream for n in group if superb.score_of(n)}
        assert len(found) <= 1, group


@pytest.mark.parametrize(
    ("name", "shift"),
    [
        ("hubert", "20"),
        ("fbank", "10"),
        ("mel", "10"),
        ("apc", "10"),
        ("tera", "10"),
        ("wav2vec", "10"),
        ("modified_cpc", "10"),
        ("decoar2", "20"),
        ("multires_hubert_base", "20+"),
        ("mae_ast_patch", "160"),
        ("dinosr", "20"),
        ("cotraining", "10"),
        ("hf", "20"),
        ("pase_plus", "10"),
        ("customized_upstream", "?"),
    ],
)
def test_frame_shift_without_loading(name, shift):
    assert frame_shift_ms(name) == shift


def test_source_of_the_weights():
    found = {n: weights_of(n) for n in ("hubert", "hubert_local", "fbank", "dinosr", "hf", "hf_hubert_custom")}
    assert found == {
        "hubert": "s3prl",
        "hubert_local": "-k FILE",
        "fbank": "none",
        "dinosr": "-k FILE",
        "hf": "-k FOLDER or ID",
        "hf_hubert_custom": "-k FOLDER or ID",
    }


def test_layers():
    for name, entries in {
        "hubert_large_ll60k": "HuBERT. 13 entries (large: 25, 1B and 2B: 49)",
        "fbank": "1 entry",
        "hf": "One entry more than layers",
        "apc": "3 entries: outputs of the GRU layers",
    }.items():
        assert entries in " ".join(" ".join(explain(name)).split())


def test_every_family_of_ours_says_what_it_is():
    """What `upstreams NAME` prints of a family stands in its `Family`."""
    for name, family in {**families.KINDS, **FAMILIES}.items():
        assert family.weights, name
        assert family.about or family.weights == families.NONE, name


def test_one_name_is_explained(capsys):
    assert call("hubert") == 0
    shown = capsys.readouterr().out
    for part in (
        "-u hubert\n",
        "its own mask embedding (model.mask_emb), in what enters model.encoder",
        "every 20 ms (320 samples); the first one is centred on sample 199.5",
        "hubert_base_ls960.pt",
        "also named  hubert_base",
        "PER 5.41 %, WER 6.42 %",
        "run_downstream.py -m train -d mi_views -u hubert -n hubert_views",
        "run_downstream.py -m train -d mi_supervised -u hubert -n hubert_phones",
    ):
        assert part in shown


def test_every_name_can_be_explained(names):
    for name in names:
        lines = explain(name)
        assert lines[0] == f"-u {name}"
        assert any("-d mi_views -u " + name in line for line in lines)


def test_explanation_of_names_that_take_a_file():
    text = "\n".join(explain("apc_local"))
    assert "config (data.audio, model.paras), model" in text
    assert "-u apc_local -k my.ckpt" in text
    assert "data2vec-audio" in "\n".join(explain("hf"))
    assert "views.kind='shift'" in "\n".join(explain("pase_plus"))


def test_upstreams_of_the_user_come_first(tmp_path, monkeypatch, capsys):
    from s3prl_mi.upstreams import names

    monkeypatch.setattr(names, "_OWN", dict(names._OWN))
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = tmp_path / "mine.py"
    path.write_text("def my_model(ckpt=None): ...\nFAMILIES = {'my_model': 'hubert'}\n")
    assert call("--upstream_module", str(path)) == 0
    assert capsys.readouterr().out.splitlines()[2].split() == ["my_model", "hubert", "mask", "20", "yours"]
    assert call("my_model", "--upstream_module", str(path)) == 0
    shown = capsys.readouterr().out
    assert str(path) in shown
    assert "--upstream_module mine.py" in shown


def test_nothing_heavy_is_imported():
    code = (
        "import sys; from s3prl_mi.cli import upstreams as c; from s3prl_mi.upstreams.names import "
        "upstream_names as n; c.listing(n()); c.explain('hubert');"
        "assert not {'torch', 'transformers', 'matplotlib', 'pandas', 's3prl'} & set(sys.modules)"
    )
    done = run_python(code)
    assert (done.returncode, done.stderr) == (0, "")


def test_families_without_a_view_ask_for_one():
    assert upstreams_command._VIEWS[Family("x").view].startswith("none by itself")
    assert all(n in stock_names() for n in ("hubert", "fbank"))
