"""The report: every section where its data exist, one file without a network, all figures saved."""

import argparse
import base64
import json
import re
from html.parser import HTMLParser

import pytest

from s3prl_mi.cli import report as report_command
from s3prl_mi.core.errors import MIError
from s3prl_mi.report.html.report_data import read_report_data
from s3prl_mi.report.html.sections import _note, _points
from s3prl_mi.report.html.writing import write_report
from s3prl_mi.results.class_contributions import append_classes
from s3prl_mi.results.record import append_records
from s3prl_mi.results.speaker_sums import SPEAKERS_FILE, append_speakers
from tests.helpers.records import SUPERVISED, VERSION_1_CLASSES, VERSION_1_LINE, speaker_sums
from tests.report.test_figures import classes_of
from tests.report.test_report import SHIFT, make, png_size

SECTIONS = (
    "summary", "layers", "selection", "scores", "checkpoints", "board", "sweeps", "clusters", "classes",
    "comparison", "settings",
)  # fmt: skip
PHONES = ["AA", "S", "T"]


def experiment(folder, records, classes=True):
    folder.mkdir(parents=True)
    append_records(folder / "mi_results.jsonl", records)
    (folder / "mi_settings.json").write_text(json.dumps({"protocol": "default", "note": "<script>x</script>"}))
    (folder / "args_2026-01-01-00-00-00.yaml").write_text("upstream: hubert\nurl: https://example.org/x.pt\n")
    (folder / "config_2026-01-01-00-00-00.yaml").write_text("downstream_expert: {}\n")
    if classes:
        append_classes(folder / "mi_classes.jsonl", [_classes(r) for r in records])
    return folder


def _classes(record):
    if record.task == "mi_views":
        return classes_of(record, [5, 3, 2], [record.mi_lower_bound_bits, 0.0, 0.0])
    share = record.mi_lower_bound_bits
    confusion = [[8, 2, 0], [1, 4, 0], [3, 0, 2]]
    return classes_of(record, [10, 5, 5], [share, 0.5, -0.5], PHONES, confusion)


def trained(step, **changes):
    sha = f"{step:064d}"
    return make(step=step, upstream_sha256=sha, checkpoint={"name": f"run-{step}.pt", "sha256": sha}, **changes)


def published(name, **changes):
    return make(**changes | {"upstream": name, "checkpoint": None, "upstream_sha256": name.ljust(64, "0")})


NAMED = ("hubert", "wav2vec2", "wavlm", "data2vec")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study with data of all kinds, and its report: folder, path and text."""
    root = tmp_path_factory.mktemp("study")
    for step, bits in ((0, 0.1), (200, 0.8), (1600, 0.6)):
        layers = range(4)
        experiment(
            root / f"v{step}",
            [trained(step, layer=n, bits=bits + n / 20, layers_in_upstream=4, last_layer=3) for n in layers],
        )
        supervised = [
            trained(step, layer=n, bits=bits + n / 10, layers_in_upstream=4, last_layer=3, **SUPERVISED) for n in layers
        ]
        experiment(root / f"s{step}", supervised)
    for m in (26, 34):
        view = f"mask(latent, {m} of 40 frames)"
        experiment(
            root / f"mask{m}",
            [trained(200, layer=3, layers_in_upstream=4, last_layer=3, view=view)],
            classes=False,
        )
    for i, name in enumerate(NAMED):
        records = [published(name, bits=1 + i / 10, layer=n, **SUPERVISED) for n in range(2)]
        experiment(root / "deep" / "er" / name, records, classes=False)
    experiment(root / "apc", [published("apc", **SHIFT)], classes=False)
    path = write_report([root], root / "out", title="A <study> & more")
    return root, path, path.read_text(encoding="utf-8")


class Reader(HTMLParser):
    """Tags, ids, and everything that would be fetched."""

    def __init__(self):
        super().__init__()
        self.ids, self.fetched, self.tags, self.images, self.targets = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        self.ids += [found["id"]] if "id" in found else []
        if tag == "img":
            self.images.append(found)
        self.fetched += [v for k, v in attrs if k in ("src", "srcset", "data", "action", "poster")]
        self.targets += [found["href"]] if "href" in found else []


@pytest.fixture(scope="module")
def read(whole):
    reader = Reader()
    reader.feed(whole[2])
    return reader


class TestPage:
    def test_every_section_is_there_and_in_the_contents(self, read):
        assert [i for i in read.ids if i in SECTIONS] == list(SECTIONS)
        assert read.targets == [f"#{s}" for s in SECTIONS]

    def test_nothing_is_fetched(self, whole, read):
        assert read.fetched
        assert all(v.startswith("data:image/svg+xml;base64,") for v in read.fetched)
        assert not {"link", "iframe", "object", "embed", "base"} & set(read.tags)
        assert "url(" not in whole[2]
        assert "@import" not in whole[2]
        assert re.findall(r"https?://[^\s<]*", whole[2]) == ["https://example.org/x.pt"] * 13  # a user's own args

    def test_text_of_users_is_escaped(self, whole, read):
        assert "A &lt;study&gt; &amp; more" in whole[2]
        assert "&lt;script&gt;x&lt;/script&gt;" in whole[2]
        assert read.tags.count("script") == 1

    def test_figures_are_inline_with_alt_text_and_saved_as_png_and_pdf(self, whole, read):
        folder = whole[1].parent / "figures"
        names = [i for i in read.ids if i not in SECTIONS]
        assert len(read.images) == len(names) == len(set(names)) > 8
        for image in read.images:
            assert len(image["alt"]) > 20
            assert b"<svg" in base64.b64decode(image["src"].split(",")[1])[:600]
        for name in names:
            width, height = png_size(folder / f"{name}.png")
            assert min(width, height) >= 500
            assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert {p.stem for p in folder.iterdir()} == set(names)

    def test_findings_in_words(self, whole):
        text = whole[2]
        assert "run-200 tells most about the other view" in text
        assert "Choosing the layer without labels" in text
        assert "step 200 is picked without labels" in text
        assert "8 models in 13 experiments" in text

    def test_published_scores_with_their_source(self, whole):
        assert "5.41" in whole[2]  # HuBERT's PER
        assert "SUPERB: " in whole[2]
        assert "Spearman" in whole[2]

    def test_settings_of_every_run(self, whole):
        assert whole[2].count("<details><summary>mi_settings.json") == 13
        assert "downstream_expert: {}" in whole[2]


class TestVersion1:
    def test_its_records_and_classes_are_read(self, tmp_path):
        folder = tmp_path / "old"
        folder.mkdir()
        (folder / "mi_results.jsonl").write_text(VERSION_1_LINE)
        (folder / "mi_classes.jsonl").write_text(VERSION_1_CLASSES)
        text = write_report([folder], tmp_path / "out").read_text(encoding="utf-8")
        assert "1.250" in text
        assert "Use of the clusters" in text


class TestWhatIsLeftOut:
    def test_sections_without_data_are_not_there(self, tmp_path):
        experiment(tmp_path / "one", [make()], classes=False)
        text = write_report([tmp_path], tmp_path / "out").read_text()
        found = re.findall(r'<section id="(\w+)"', text)
        assert found == ["summary", "comparison", "settings"]
        assert "one seed only" in text
        assert not list((tmp_path / "out").glob("figures/*"))

    def test_a_bound_below_zero_is_not_called_best(self, tmp_path):
        experiment(tmp_path / "one", [make(bits=-0.2), make(bits=-0.1, layer=1)], classes=False)
        text = write_report([tmp_path], tmp_path / "out").read_text()
        assert "shows no information" in text

    def test_prior_mismatch_and_who_speaks_are_findings(self, tmp_path):
        known = {"prior_cross_entropy_bits": 5.7, "speaker_information_bits": 0.3, "within_speaker_bits": 0.95}
        experiment(tmp_path / "one", [published("a", bits=1.25, **known), published("b")], classes=False)
        text = write_report([tmp_path], tmp_path / "out").read_text()
        assert "those of the former cost 0.20 bits on the latter (prior mismatch)" in text
        assert "0.95 stay with each speaker" in text
        assert "same holds" not in text

    def test_a_close_race_is_called_one(self, tmp_path):
        records = [published(n, bits=b + s / 10, seed=s) for n, b in (("a", 1.0), ("b", 1.01)) for s in (0, 1)]
        experiment(tmp_path / "one", records, classes=False)
        text = write_report([tmp_path], tmp_path / "out").read_text()
        assert "How sure this order is cannot be said" in text
        for r, off in zip(records, (0.1, 0.1, -0.1, -0.1), strict=True):
            append_speakers(tmp_path / "one" / SPEAKERS_FILE, [speaker_sums(r, (off, 0.2, -off))])
        text = write_report([tmp_path], tmp_path / "out").read_text()
        assert "Models b and a cannot be told apart from the best on this speech (3 speakers)" in text

    def test_steps_that_cannot_be_told_apart(self, tmp_path):
        records = [trained(step, bits=bits, last_layer=0) for step, bits in ((0, 0.1), (200, 0.82), (1600, 0.8))]
        experiment(tmp_path / "one", records, classes=False)
        for r in records:
            off = 0.05 * (r.step == 200)
            append_speakers(tmp_path / "one" / SPEAKERS_FILE, [speaker_sums(r, (0.1 + off, -0.1 - off, 0.0, 0.0))])
        text = write_report([tmp_path], tmp_path / "out").read_text()
        assert "step 200 is picked without labels" in text
        assert "steps 200 and 1,600 cannot be told apart from the best on this speech (4 speakers)" in text


class TestComparison:
    def test_the_ceiling_is_that_of_the_best_layer(self, tmp_path):
        records = [make(layer=0, bits=0.5, entropy_bits=4.25), make(layer=1, bits=4.5, entropy_bits=5.25)]
        experiment(tmp_path / "one", records, classes=False)
        text = write_report([tmp_path], tmp_path / "out").read_text()
        assert ">5.25<" in text
        assert ">4.25<" not in text

    def test_published_scores_of_a_hugging_face_id(self, tmp_path):
        record = make(upstream="hf", checkpoint={"name": "facebook/hubert-base-ls960", "sha256": ""})
        experiment(tmp_path / "one", [record], classes=False)
        (rates,) = read_report_data([tmp_path]).rates.values()
        assert rates["per"].percent == 5.41

    def test_the_number_of_points_is_that_of_the_correlation(self, tmp_path):
        names = (*NAMED, "multires_hubert_base")
        records = [published(n, bits=1 + i / 10) for i, n in enumerate(names)]
        experiment(tmp_path / "one", records, classes=False)
        study = read_report_data([tmp_path])
        points, relation = _points(study, study.headline[0], "logistic", "per")
        assert (len(points), relation.n) == (5, 4)
        assert "(n = 4, without *)" in _note(relation, len(points))


class TestNames:
    def test_the_checkpoint_alone_where_it_tells_models_apart(self, tmp_path):
        for i, (upstream, name) in enumerate((("u", "a.pt"), ("u", "b.pt"), ("w", "c.pt"))):
            record = make(upstream=upstream, checkpoint={"name": name, "sha256": str(i)}, upstream_sha256=str(i) * 64)
            experiment(tmp_path / name, [record], classes=False)
        study = read_report_data([tmp_path])
        assert list(study.names.values()) == ["a", "b", "w"]


class TestCommand:
    def parse(self, *words):
        parser = argparse.ArgumentParser()
        report_command.add_arguments(parser)
        return parser.parse_args([str(w) for w in words])

    def test_the_path_is_printed_last(self, tmp_path, capsys):
        experiment(tmp_path / "one", [make()], classes=False)
        assert report_command.run(self.parse(tmp_path, "--title", "Mine")) == 0
        path = tmp_path / "report" / "mi_report.html"
        assert capsys.readouterr().out.splitlines()[-1] == str(path)
        assert "<h1>Mine</h1>" in path.read_text()

    def test_again_after_more_results(self, tmp_path, capsys):
        folder = experiment(tmp_path / "one", [make()], classes=False)
        report_command.run(self.parse(tmp_path))
        append_records(folder / "mi_results.jsonl", [make(layer=1)])
        report_command.run(self.parse(tmp_path))
        assert "2 estimates" in (tmp_path / "report" / "mi_report.html").read_text()
        capsys.readouterr()

    def test_mistakes(self, tmp_path):
        with pytest.raises(MIError, match="no such folder"):
            report_command.run(self.parse(tmp_path / "nowhere"))
        experiment(tmp_path / "one", [make()], classes=False)
        (tmp_path / "file").write_text("")
        with pytest.raises(MIError, match="-o "):
            report_command.run(self.parse(tmp_path / "one", "-o", tmp_path / "file"))
