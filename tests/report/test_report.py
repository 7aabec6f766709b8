"""Reports: known means, rounding in one place, files written whole, nothing doubled by a second call."""

import csv
import dataclasses
import functools
import os
import random
import re
import statistics
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from s3prl_mi.core.errors import MIError
from s3prl_mi.report.experiment_files import write_all
from s3prl_mi.report.figures.best_layers import draw_comparison
from s3prl_mi.report.figures.experiment_layers import draw_layers, plot_layers
from s3prl_mi.report.figures.picture import sheet
from s3prl_mi.report.s3prl_log import final_line, write_log, write_tensorboard
from s3prl_mi.report.terminal import comparison_table, screen_table
from s3prl_mi.report.wording import decimals, format_bits
from s3prl_mi.results.record import append_records, read_records
from s3prl_mi.results.speaker_sums import SPEAKERS_FILE, append_speakers
from s3prl_mi.results.summary import Summary, best_layers, summarise, write_summary
from tests.helpers.paths import REPO
from tests.helpers.records import SUPERVISED, speaker_sums
from tests.helpers.records import make as make_record

CHECKPOINT = {"name": "hubert-000960.ckpt", "sha256": "ab" * 32}
make = functools.partial(make_record, layer=0, layer_name="encoder.layers[0]", checkpoint=CHECKPOINT)
FBANK = {"upstream": "fbank", "view": "mask(waveform, 30 of 40 frames)", "frame_shift_ms": 10.0}
SHIFT = {"view": "shift(60 ms)", "scored_frames": "all", "frame_shift_ms": 10.0, "upstream": "apc_local"}

BITS = {
    (0, "logistic"): (1.000, 1.002, 1.004),
    (1, "logistic"): (1.300, 1.302, 1.304),
    (2, "logistic"): (1.200, 1.202, 1.204),
    (0, "mlp"): (1.100, 1.100, 1.100),
    (1, "mlp"): (1.400, 1.410, 1.420),
    (2, "mlp"): (1.500, 1.510, 1.520),
}


def grid(**changes):
    """3 layers x 2 probes x 3 seeds; logistic is best at layer 1 (1.302), mlp at layer 2 (1.510)."""
    return [
        make(bits=b, layer=layer, probe=probe, seed=seed, **changes)
        for (layer, probe), values in BITS.items()
        for seed, b in enumerate(values)
    ]


def scalars(path):
    """(tag, step) -> value of a TensorBoard event file: length, CRC, message, CRC for each event."""
    from tensorboardX.proto.event_pb2 import Event

    content, found, at = path.read_bytes(), {}, 0
    while at < len(content):
        (size,) = struct.unpack_from("<Q", content, at)
        event = Event.FromString(content[at + 12 : at + 12 + size])
        at += 16 + size
        for value in event.summary.value:
            assert (value.tag, event.step) not in found
            found[value.tag, event.step] = value.simple_value
    return found


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file, strict=True))


def words(text):
    return text.split()


def png_size(path):
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert content[-8:-4] == b"IEND"
    return struct.unpack(">II", content[16:24])


class TestSummarise:
    def test_mean_and_sample_sd_over_seeds(self):
        accuracies = (0.1, 0.2, 0.6)
        records = [
            make(bits=b, entropy=5.0 + b, seed=s, accuracy=a)
            for s, (b, a) in enumerate(zip((1.0, 2.0, 3.0), accuracies, strict=True))
        ]
        (summary,) = summarise(records)
        assert (summary.mi_lower_bound_bits, summary.mi_lower_bound_bits_sd) == (2.0, 1.0)
        assert (summary.entropy_bits, summary.entropy_bits_sd) == (7.0, 1.0)
        assert (summary.cross_entropy_bits, summary.cross_entropy_bits_sd) == (5.0, 0.0)
        assert summary.accuracy == pytest.approx(0.3, abs=1e-15)
        assert summary.accuracy_sd == pytest.approx(0.07**0.5, abs=1e-15)
        assert (summary.seeds, summary.n_seeds) == ((0, 1, 2), 3)
        assert (summary.fit_frames, summary.eval_frames, summary.n_classes) == (61234, 59871, 50)

    def test_one_seed_has_sd_zero(self):
        (summary,) = summarise([make(bits=-0.5)])
        assert (summary.mi_lower_bound_bits, summary.mi_lower_bound_bits_sd) == (-0.5, 0.0)

    def test_no_record_no_summary(self):
        assert summarise([]) == []

    def test_order_is_frames_probe_layer_whatever_the_order_of_records(self):
        records = [
            make(scored_frames=f, probe=p, layer=n)
            for f in ("unmasked", "all", "masked") for p in ("mlp", "logistic") for n in ("weighted", 10, 2)
        ]  # fmt: skip
        random.Random(0).shuffle(records)
        found = [(s.scored_frames, s.probe, s.layer) for s in summarise(records)]
        assert found == [
            (f, p, n)
            for f in ("masked", "all", "unmasked") for p in ("logistic", "mlp") for n in (2, 10, "weighted")
        ]  # fmt: skip

    @pytest.mark.parametrize(
        "change",
        [
            {"task": "mi_supervised"},
            {"upstream": "wav2vec2_local"},
            {"checkpoint": None},
            {"upstream_sha256": "ee" * 32},
            {"layer": 1},
            {"probe": "mlp"},
            {"protocol": "paper-1"},
            {"view": "shift(60 ms)"},
            {"scored_frames": "all"},
            {"n_clusters": 100},
            {"fit_splits": ["dev-clean"]},
            {"eval_splits": ["test-clean"]},
            {"eval_frames": 100},
            {"frame_shift_ms": 10.0},
        ],
    )
    def test_what_differs_is_never_averaged(self, change):
        summaries = summarise([make(seed=0), make(seed=1, bits=3.0, **change)])
        assert sorted(s.mi_lower_bound_bits for s in summaries) == [1.25, 3.0]

    def test_a_seed_that_occurs_twice_counts_once_and_the_later_one(self):
        (summary,) = summarise([make(bits=1.0), make(bits=2.0), make(bits=4.0, seed=1)])
        assert (summary.n_seeds, summary.mi_lower_bound_bits) == (2, 3.0)

    def test_best_layer_of_each_probe_lowest_of_a_tie(self):
        best = {s.probe: s.layer for s in best_layers(summarise(grid()))}
        assert best == {"logistic": 1, "mlp": 2}
        tie = [make(layer=n) for n in (2, 0, 1)]
        assert [s.layer for s in best_layers(summarise(tie))] == [0]


class TestSummaryFile:
    def test_full_precision_by_the_csv_module(self, tmp_path):
        path = tmp_path / "mi_summary.csv"
        records = [make(bits=b, seed=s) for s, b in enumerate((0.1, 0.2, 0.7 / 3))]
        write_summary(path, records)
        (row,) = read_csv(path)
        bits = [r.mi_lower_bound_bits for r in records]
        assert float(row["mi_lower_bound_bits"]) == statistics.fmean(bits)
        assert float(row["mi_lower_bound_bits_sd"]) == statistics.stdev(bits)
        assert row["view"] == "mask(latent, 30 of 40 frames)"  # a comma inside
        assert (row["seeds"], row["n_seeds"], row["layer"]) == ("0+1+2", "3", "0")
        assert row["checkpoint_sha256"] == "ab" * 32

    def test_what_does_not_apply_is_empty(self, tmp_path):
        write_summary(tmp_path / "s.csv", [make(checkpoint=None, **SUPERVISED)])
        (row,) = read_csv(tmp_path / "s.csv")
        assert row["n_clusters"] == row["view"] == row["checkpoint_name"] == ""

    def test_a_row_per_estimate_and_the_columns_are_the_fields(self, tmp_path):
        write_summary(tmp_path / "s.csv", grid())
        rows = read_csv(tmp_path / "s.csv")
        assert len(rows) == 6
        assert {tuple(r) for r in rows} == {
            tuple(f.name for f in dataclasses.fields(Summary) if f.name not in ("key", "left_out"))
        }

    def test_a_failed_write_leaves_the_old_file_and_no_other(self, tmp_path, monkeypatch):
        path = tmp_path / "s.csv"
        write_summary(path, grid())
        before = path.read_bytes()

        def full_disk(_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space left"):
            write_summary(path, [make()])
        assert path.read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == ["s.csv"]


class TestScreenTable:
    def test_means_sds_accuracy_and_best_marks(self):
        lines = screen_table(grid()).splitlines()
        rows = {line.split()[0]: line for line in lines if re.match(r" +\d", line)}
        assert rows["0"].split() == words("0 1.002 +- 0.002 45.7 1.100 +- 0.000 45.7")
        assert rows["1"].split() == words("1 1.302 +- 0.002 * 45.7 1.410 +- 0.010 45.7")
        assert rows["2"].split() == words("2 1.202 +- 0.002 45.7 1.510 +- 0.010 * 45.7")
        assert len({line.index("45.7") for line in rows.values()}) == 1  # columns stand under each other

    def test_the_header_says_what_was_measured_and_on_what(self):
        text = screen_table(grid())
        for part in (
            "mi_views: lower bound of I(Za;Zb) in bits, mean +- sd over 3 seeds",
            "hubert_local (hubert-000960.ckpt, sha256 abababab)",
            "mask(latent, 30 of 40 frames)",
            "masked, 59,871 scored, one every 20 ms",
            "fit dev-other (61,234 frames), eval test-other",
            "default-1",
            "H(c) = 5.500 bits (50 clusters, at most log2(50) = 5.644)",
        ):
            assert part in text
        assert "left out" not in text
        assert text.isascii()

    def test_intervals_over_speakers_and_layers_that_cannot_be_told_apart(self, tmp_path):
        records = grid(prior_cross_entropy_bits=5.75)
        sums = [speaker_sums(r, (0.2, -0.2, 0.1 * r.layer, -0.1 * r.layer)) for r in records]
        append_speakers(tmp_path / SPEAKERS_FILE, sums)
        text = screen_table(records, tmp_path)
        assert "in bits, mean over 3 seeds; 95 % interval over 4 speakers" in text
        reach = 3.1824463 * statistics.stdev((0.2, -0.2, 0.1, -0.1)) / 2
        assert f"1.302 [{1.302 - reach:.2f}, {1.302 + reach:.2f}] *" in text
        assert (
            "logistic: layers 1 and 2 cannot be told apart from the best on this speech (4 speakers); 1 leads 2 by 0.1"
            in text
        )
        assert "those of the former cost 0.25 bits" in text
        assert "+-" not in text
        write_summary(tmp_path / "s.csv", records, sums)
        row = next(r for r in read_csv(tmp_path / "s.csv") if (r["layer"], r["probe"]) == ("1", "logistic"))
        assert float(row["ci_high_bits"]) == pytest.approx(1.302 + reach)
        assert (row["ci_over"], row["ci_groups"], row["prior_cross_entropy_bits"]) == ("speakers", "4", "5.75")
        with sheet(6, 4) as figure:
            axes = figure.subplots()
            plot_layers(axes, summarise(records, sums))
            assert len(axes.collections) >= 2  # a band per probe
            assert axes.get_legend_handles_labels()[1].count("95 % interval over 4 speakers") == 1
            low, high = axes.get_ylim()
            assert low < 1.002 - reach
            assert high > 1.51 + reach

    def test_how_much_of_the_bits_is_who_speaks(self, tmp_path):
        records = [make(1.25, seed=s, speaker_information_bits=0.25, within_speaker_bits=1.0) for s in (0, 1)]
        assert "1.00 stay with each speaker's own cluster frequencies; no bound" in screen_table(records)
        sums = [dataclasses.replace(speaker_sums(r, (0.2, -0.2)), within_bits=[0.7 + r.seed / 5, 1.1]) for r in records]
        append_speakers(tmp_path / SPEAKERS_FILE, sums)
        text = screen_table(records, tmp_path)
        assert "the clusters tell 0.25 bits about the speaker; of 1.25 bits (layer 0, logistic) 1.00 stay" in text
        assert "(0.80 to 1.10 by speaker)" in text
        assert "who speaks" not in screen_table([make()])

    def test_the_header_of_mi_supervised(self):
        records = grid(entropy=4.58, unlabelled_frames=1812, unseen_frames=3, **SUPERVISED)
        text = screen_table(records, Path("result/x"))
        assert "H(Y) = 4.580 bits (40 labels: phones, stress stripped)" in text
        assert "1,812 frames without a label, 3 eval frames whose label the fit split lacks" in text
        assert "view" not in text.splitlines()[2]
        assert text.splitlines()[-1].startswith("result/x: mi_results.jsonl")

    def test_a_ceiling_that_depends_on_the_layer_has_a_column(self):
        text = screen_table([make(layer=n, entropy=5.25 + n / 10) for n in range(3)])
        rows = [line.split() for line in text.splitlines() if re.match(r" +\d", line)]
        assert [r[-1] for r in rows] == ["5.250", "5.350", "5.450"]
        assert "H(c) = 5.250 to 5.450 bits" in text

    def test_a_table_for_each_kind_of_frames_headline_first(self):
        text = screen_table(grid(scored_frames="unmasked", eval_frames=20000) + grid())
        assert text.index("masked, 59,871") < text.index("unmasked, 20,000")

    def test_an_estimate_not_there_is_a_dash(self):
        rows = screen_table([make(layer=0), make(layer=1), make(layer=0, probe="mlp")]).splitlines()
        assert [r.split() for r in rows if r.lstrip().startswith("1 ")] == [["1", "1.250", "45.7", "-", "-"]]

    def test_a_sweep_has_a_table_for_each_pattern_and_number_of_clusters(self):
        patterns = ("mask(latent, 26 of 40 frames)", "mask(latent, 30 of 40 frames)")
        records = [r for v in patterns for c in (50, 100) for r in grid(view=v, n_clusters=c)]
        text = screen_table(records)
        assert text.count("mean +- sd over 3 seeds") == 4
        assert [text.count(v) for v in patterns] == [2, 2]
        assert text.count("(50 clusters") == text.count("(100 clusters") == 2
        assert text.count(" * ") == 8  # best of two probes in each

    @pytest.mark.parametrize(
        ("records", "stars"),
        [
            ([make()], 0),
            ([make(layer="weighted"), make(layer="weighted", probe="mlp")], 0),
            ([make(bits=-0.2), make(bits=-0.1, layer=1)], 0),
            ([make(bits=-0.2), make(bits=0.1, layer=1)], 1),
        ],
    )
    def test_only_a_choice_above_zero_is_marked(self, records, stars):
        rows = [line for line in screen_table(records).splitlines() if re.match(r" +\d| +weighted", line)]
        assert sum(" * " in row for row in rows) == stars
        assert ("best layer" in screen_table(records)) == bool(stars)

    def test_one_seed_has_no_sd(self):
        assert "+-" not in screen_table([make()])

    @pytest.mark.parametrize(
        ("mean", "sd", "shown"),
        [
            (1.23456, 0.0123, "1.235 +- 0.012"),
            (1.23456, 0.00021, "1.2346 +- 0.0002"),
            (1.23456, 0.21, "1.23 +- 0.21"),
            (-0.0301, 0.004, "-0.030 +- 0.004"),
            (1.5, 0.0, "1.500 +- 0.000"),
        ],
    )
    def test_decimals_follow_the_sd(self, mean, sd, shown):
        assert format_bits(mean, sd, 5, decimals([sd])) == shown

    def test_without_records_the_way_out_is_named(self):
        with pytest.raises(MIError, match=r"no finished estimate.*-a"):
            screen_table([])


class TestComparison:
    labelled = (
        ("fbank", [make(bits=0.2, **FBANK), make(bits=1.1, **SUPERVISED)]),
        ("untrained", [make(bits=0.5, layer=2), *grid(**SUPERVISED)]),
        ("trained", [*grid(), make(bits=0.9, **SHIFT)]),
    )

    def test_best_layers_by_task_and_view(self):
        supervised, masked, shifted = comparison_table(self.labelled).split("\n\nmi_views")
        rows = [line.split() for line in masked.splitlines()[4:]]
        assert rows[0] == words("fbank 0.200 (0) - 5.500 10 ms mask(waveform, 30 of 40 frames)")
        assert rows[1] == words("untrained 0.500 (2) - 5.500 20 ms mask(latent, 30 of 40 frames)")
        assert rows[2] == words(
            "trained 1.302 +- 0.002 (1) 1.510 +- 0.010 (2) 5.500 20 ms mask(latent, 30 of 40 frames)"
        )
        assert supervised.startswith("mi_supervised: lower bound of I(Z;Y) in bits, best layer")
        assert "untrained 1.302 +- 0.002 (1)" in " ".join(supervised.split())
        assert "fbank" not in shifted
        assert "mask view, masked frames" in masked
        assert "shift view, all frames" in shifted

    def test_picture(self, tmp_path):
        draw_comparison(tmp_path / "c.png", self.labelled)
        width, height = png_size(tmp_path / "c.png")
        # 2, 3 and 1 labels: (1.1 + 1.9) + (1.1 + 2.85) + (1.1 + 1.9) inches at 200 dots an inch
        assert (width, height) == (pytest.approx(1990, abs=1), 840)  # matplotlib 3.10 rounds down

    def test_phone_errors_next_to_the_bits(self, tmp_path):
        rates = {"fbank": 61.25, "trained": 43.0}
        _, masked, shifted = comparison_table(self.labelled, rates).split("\n\nmi_views")
        rows = [line.split() for line in masked.splitlines()[2:]]
        assert rows[0][6:8] == ["PER", "%"]
        assert ["61.2" in rows[2], "-" in rows[3], "43.0" in rows[4]] == [True, True, True]
        assert "43.0" in shifted
        draw_comparison(tmp_path / "c.png", self.labelled, rates, "eval")
        # a panel more, of two bars: 1.1 + 1.5 inches
        assert png_size(tmp_path / "c.png") == (pytest.approx(1990 + 520, abs=1), 840)

    def test_a_label_with_two_kinds_of_estimates_is_refused(self):
        mixed = [make(), make(eval_splits=["test-clean"])]
        with pytest.raises(MIError, match=r"'both'.*\(test-other and test-clean\)"):
            comparison_table([("both", mixed)])

    def test_nothing_to_compare(self, tmp_path):
        with pytest.raises(MIError, match="nothing to compare"):
            comparison_table([("fbank", [])])
        with pytest.raises(MIError, match="nothing to compare"):
            draw_comparison(tmp_path / "c.png", [])
        assert not list(tmp_path.iterdir())


class TestLayerPicture:
    @pytest.mark.parametrize(
        "records",
        [
            grid(),
            grid(scored_frames="unmasked") + grid(),
            [make(layer="weighted", seed=s) for s in range(2)],
            [make(layer="weighted", seed=s) for s in range(2)] + grid(),
            [make()],
            [make(bits=-0.2), make(bits=-0.1, layer=1)],
            [make(bits=5.0, layer=n, entropy=5.2 + n / 100) for n in range(25)],
            grid(upstream="a_$x^$_b", view="mask $"),
        ],
        ids=["grid", "two frames", "weighted", "mixed", "single", "negative", "25 layers", "dollar"],
    )
    def test_size_and_nothing_left_behind(self, tmp_path, records):
        import matplotlib

        before = dict(matplotlib.rcParams)
        draw_layers(tmp_path / "mi_layers.png", records)
        assert png_size(tmp_path / "mi_layers.png") == (1280, 840)
        assert [p.name for p in tmp_path.iterdir()] == ["mi_layers.png"]
        assert dict(matplotlib.rcParams) == before

    def test_what_is_drawn(self):
        """Points, error bars, ring of the best layer, ceiling and units, read back from the axes."""
        with sheet(6.4, 4.2) as figure:
            axes = figure.subplots()
            plot_layers(axes, summarise(grid(entropy=2.0)))
            labels = axes.get_legend_handles_labels()[1]
            lines = {tuple(line.get_xdata()): tuple(line.get_ydata()) for line in axes.lines}
            texts = {text.get_text() for text in axes.texts}
        assert set(labels) == {"logistic", "mlp", "ceiling H(c) = 2.00 bits"}
        assert lines[(1,)] == (1.302,)
        assert lines[(2,)] == (1.51,)
        assert {"layer 1: 1.302", "layer 2: 1.510"} <= texts
        assert axes.get_ylabel().endswith("(bits)")
        assert axes.get_title(loc="left") == "mi_views by layer: hubert_local (hubert-000960.ckpt)"

    def test_both_tasks_stand_side_by_side(self, tmp_path):
        draw_layers(tmp_path / "p.png", grid() + grid(**SUPERVISED))
        assert png_size(tmp_path / "p.png") == (2560, 840)

    def test_a_sweep_has_a_plot_for_each_setting_and_resolutions_have_their_own(self, tmp_path):
        sweep = [r for c in (10, 20, 50, 100) for r in grid(n_clusters=c)]
        draw_layers(tmp_path / "p.png", sweep)
        assert png_size(tmp_path / "p.png") == (3 * 1280, 2 * 840)
        draw_layers(tmp_path / "p.png", grid() + grid(frame_shift_ms=40.0))
        assert png_size(tmp_path / "p.png") == (2 * 1280, 840)

    def test_ceilings_of_several_kinds_of_frames_look_different(self):
        records = grid(entropy=2.0) + grid(entropy=2.2, scored_frames="unmasked")
        with sheet(6.4, 4.2) as figure:
            axes = figure.subplots()
            plot_layers(axes, summarise(records))
            found = [line for line in axes.lines if str(line.get_label()).startswith("ceiling")]
        assert len(found) == len({(line._unscaled_dash_pattern, line.get_color()) for line in found}) == 2

    @pytest.mark.parametrize("bits", [(0.5,), (-0.3, -0.1)])
    def test_no_ring_where_nothing_was_chosen(self, bits):
        with sheet(6.4, 4.2) as figure:
            axes = figure.subplots()
            plot_layers(axes, summarise([make(bits=b, layer=n) for n, b in enumerate(bits)]))
            assert all(line.get_fillstyle() != "none" for line in axes.lines)
            assert not any(text.get_text().startswith("layer") for text in axes.texts)

    def test_importing_the_module_loads_nothing_heavy(self):
        heavy = "('torch', 'matplotlib', 's3prl', 'tensorboardX')"
        code = f"import sys, s3prl_mi.report.experiment_files\nprint([m for m in {heavy} if m in sys.modules])"
        root = REPO
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
        assert done.stdout.strip() == "[]"

    def test_no_record(self, tmp_path):
        with pytest.raises(MIError):
            draw_layers(tmp_path / "p.png", [])


class TestLog:
    def test_closing_line_names_layer_probe_frames_and_value(self):
        assert final_line(grid()) == "mi_views best layer 2 mlp masked bits at step 1: 1.510"

    def test_closing_line_is_about_the_headline_frames_and_the_latest_eval_splits(self):
        other = [
            make(bits=4.0, scored_frames="unmasked"),
            make(bits=0.5, eval_splits=["test-clean"], layer="weighted"),
        ]
        assert final_line(grid() + other[:1]).endswith("masked bits at step 1: 1.510")
        assert final_line(grid() + other) == ("mi_views best layer weighted logistic masked bits at step 1: 0.500")

    def test_of_a_sweep_the_first_setting_closes(self):
        sweep = [*grid(), make(bits=3.0, n_clusters=500), make(bits=4.0, frame_shift_ms=40.0)]
        assert final_line(sweep) == "mi_views best layer 2 mlp masked bits at step 1: 1.510"

    def test_lines_of_a_sweep_tell_their_setting(self, tmp_path):
        write_log(tmp_path / "log.log", [make(), make(n_clusters=100)])
        lines = (tmp_path / "log.log").read_text().splitlines()
        assert [("50 clusters" in line, "100 clusters" in line) for line in lines[:2]] == [
            (True, False),
            (False, True),
        ]

    def test_lines_can_be_split_as_s3prl_does(self, tmp_path):
        """Its get_best_dev.py takes the last word for the value and the one before for the step."""
        path = tmp_path / "log.log"
        records = [*grid(), make(layer="weighted", bits=1 / 3)]
        write_log(path, records)
        lines = [line.split(" ") for line in path.read_text().splitlines()]
        assert {int(words[-2].strip(":")) for words in lines} == {1}
        assert lines[0][0] == "test-other"
        values = [float(words[-1]) for words in lines[:-1]]
        assert values == [s.mi_lower_bound_bits for s in summarise(records)]  # not rounded
        assert " ".join(lines[-1]) == final_line(records)

    def test_appends_and_doubles_nothing(self, tmp_path):
        path = tmp_path / "log.log"
        path.write_text("dev at step 1: 0.5")  # somebody else's line, without its newline
        write_log(path, grid())
        once = path.read_text()
        write_log(path, grid())
        assert path.read_text() == once
        assert once.splitlines()[0] == "dev at step 1: 0.5"
        assert len(once.splitlines()) == 1 + 6 + 1
        write_log(path, grid() + grid(eval_splits=["test-clean"]))
        assert path.read_text().startswith(once)
        assert len(path.read_text().splitlines()) == 1 + 6 + 1 + 6 + 1


class TestTensorBoard:
    def test_scalars_by_layer(self, tmp_path):
        write_tensorboard(tmp_path, [*grid(), make(layer="weighted", bits=1.75)])
        (path,) = tmp_path.iterdir()
        assert path.name.startswith("events.out.tfevents.")
        found = scalars(path)
        expected = {
            (f"mi_views/masked-{probe}-bits", layer): statistics.fmean(values)
            for (layer, probe), values in BITS.items()
        }
        expected["mi_views/masked-logistic-bits-weighted", 0] = 1.75
        assert found == pytest.approx(expected, abs=1e-6)  # stored as float32

    def test_a_second_call_takes_the_place_of_the_first_and_leaves_others(self, tmp_path):
        (tmp_path / "events.out.tfevents.1.host").write_bytes(b"s3prl's own")
        (tmp_path / "events.out.tfevents.1.host.s3prl_mi").write_bytes(b"ours, older")
        write_tensorboard(tmp_path, grid()[:3])
        write_tensorboard(tmp_path, grid())
        ours = list(tmp_path.glob("*.s3prl_mi"))
        assert len(ours) == 1
        assert len(scalars(ours[0])) == 6
        assert {p.name for p in tmp_path.iterdir()} == {"events.out.tfevents.1.host", ours[0].name}

    def test_what_varies_is_in_the_tag(self, tmp_path):
        write_tensorboard(tmp_path, [make(), make(eval_splits=["test-clean", "dev-clean"])])
        (path,) = tmp_path.iterdir()
        assert {tag for tag, _ in scalars(path)} == {
            "mi_views/test-other-masked-logistic-bits",
            "mi_views/test-clean_dev-clean-masked-logistic-bits",
        }


class TestWriteAll:
    def test_everything_once_from_records_read_back(self, tmp_path):
        append_records(tmp_path / "mi_results.jsonl", grid())
        for _ in range(2):
            write_all(tmp_path, read_records(tmp_path / "mi_results.jsonl"))
            names = sorted(re.sub(r"tfevents.*", "tfevents", p.name) for p in tmp_path.iterdir())
            assert names == [
                "events.out.tfevents",
                "log.log",
                "mi_layers.png",
                "mi_results.jsonl",
                "mi_summary.csv",
            ]

    def test_the_same_bytes_each_time(self, tmp_path):
        contents = []
        for _ in range(2):
            write_all(tmp_path, grid())
            contents.append({n: (tmp_path / n).read_bytes() for n in ("log.log", "mi_layers.png", "mi_summary.csv")})
        assert contents[0] == contents[1]

    def test_without_records_nothing_is_written(self, tmp_path):
        with pytest.raises(MIError, match="no finished estimate"):
            write_all(tmp_path, [])
        assert not list(tmp_path.iterdir())
