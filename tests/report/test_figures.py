"""Figures: what may share an axis, positions of names, picks, sweeps and class shares with known answers."""

import dataclasses
import itertools
import math

import pytest

from s3prl_mi.report.figures import picture
from s3prl_mi.report.figures.checkpoint_curves import (
    checkpoint_curves,
    series_name,
    series_of,
    stability_words,
)
from s3prl_mi.report.figures.cluster_usage import cluster_usage, last_layers, usages
from s3prl_mi.report.figures.groups import by_key, headline_keys, key_of, natural, with_classes
from s3prl_mi.report.figures.layer_curves import (
    accuracy_against_bits,
    kept_by_layer,
    layer_curves,
    plot_kept,
    several_labels,
)
from s3prl_mi.report.figures.phones import class_bits, confusion_pictures, group_of, phone_bits
from s3prl_mi.report.figures.score_scatter import Point, place_names
from s3prl_mi.report.figures.sweeps import Mask, _axis, mask_of, shift_of, sweeps
from s3prl_mi.report.wording import bars_text
from s3prl_mi.results.class_contributions import ClassRecord
from s3prl_mi.results.summary import summarise
from tests.helpers.records import SUPERVISED
from tests.report.test_report import SHIFT, make

A, B = "aa" * 32, "bb" * 32
NAMES = {A: "model a", B: "model b"}


def model(sha, **changes):
    return make(upstream_sha256=sha, checkpoint={"name": f"{sha[:2]}.pt", "sha256": sha}, **changes)


def classes_of(record, frames, bits, labels=None, confusion=None):
    names = [f.name for f in dataclasses.fields(ClassRecord)][:7]
    labels = labels or [str(i) for i in range(len(frames))]
    return ClassRecord(**{n: getattr(record, n) for n in names}, class_names=labels, eval_frames=frames,
                       contribution_bits=bits, confusion=confusion)  # fmt: skip


class TestScale:
    @pytest.mark.parametrize(
        "change",
        [
            SUPERVISED,
            {"protocol": "paper-1"},
            {"view": "mask(latent, 26 of 40 frames)"},
            {"view": "shift(60 ms)"},
            {"scored_frames": "unmasked"},
            {"n_clusters": 100},
            {"label_set": "words"},
            {"eval_splits": ["test-clean"]},
            {"fit_splits": ["dev-clean"]},
            {"frame_shift_ms": 40.0},
        ],
    )
    def test_what_differs_never_shares_an_axis(self, change):
        found = by_key(summarise([model(A), model(B, **change)]))
        assert [len(group) for group in found.values()] == [1, 1]

    def test_models_and_layers_share_one(self):
        assert len(by_key(summarise([model(A), model(B, layer=3, probe="mlp")]))) == 1

    def test_of_a_sweep_only_the_richest_setting_is_a_headline(self):
        full = [model(m, layer=n) for m in (A, B) for n in range(3)]
        swept = [model(A, layer=2, n_clusters=c) for c in (10, 100)]
        (kept,) = headline_keys(by_key(summarise(full + swept)))
        assert kept.n_clusters == 50

    def test_a_model_measured_in_another_setting_only_stays_a_headline(self):
        found = by_key(summarise([model(A), model(B, view="mask(waveform, 30 of 40 frames)")]))
        assert len(headline_keys(found)) == 2

    def test_numbers_in_names_count(self):
        assert sorted(["m-1600", "m-200"], key=natural) == ["m-200", "m-1600"]


class TestLayerCurves:
    def test_resolutions_of_one_experiment_have_pictures_of_their_own(self):
        records = [model(A, layer=n, frame_shift_ms=20.0 if n < 3 else 40.0) for n in range(6)]
        pictures = layer_curves(summarise(records), NAMES)
        assert ["every 20 ms" in p.title for p in pictures] == [True, False]
        for p in pictures:
            assert p.png.startswith(b"\x89PNG")
            assert p.pdf.startswith(b"%PDF")
            assert b"<svg" in p.svg
            assert p.caption.count(". ") >= 1
            assert "model a" in p.alt

    def test_nothing_to_draw_without_layers(self):
        assert layer_curves(summarise([model(A)]), NAMES) == []

    def test_speech_of_different_size_is_warned_of(self):
        records = [model(m, layer=n, eval_frames=f) for m, f in ((A, 100), (B, 5000)) for n in range(2)]
        (p,) = layer_curves(summarise(records), NAMES)
        assert "100 to 5,000 frames" in p.caption

    def test_many_models_are_split_over_plots_of_at_most_eight(self):
        assert [len(part) for part in picture.chunks(list(range(17)))] == [6, 6, 5]

    def test_the_same_bytes_each_time(self):
        one, two = (layer_curves(summarise([model(A), model(A, layer=1)]), NAMES) for _ in range(2))
        assert one == two


class TestPlaces:
    def test_spread_keeps_order_and_gap(self):
        wanted = [1.0, 1.01, 1.02, 5.0, 4.99]
        found = picture.spread(wanted, 0.3, 0.0, 5.0)
        ordered = sorted(found)
        assert all(b - a >= 0.3 - 1e-9 for a, b in itertools.pairwise(ordered))
        assert sorted(range(5), key=lambda i: found[i]) == sorted(range(5), key=lambda i: wanted[i])
        assert 0.0 <= ordered[0] <= ordered[-1] <= 5.0

    def test_spread_of_more_names_than_fit_fills_the_room(self):
        assert picture.spread([1.0] * 5, 1.0, 0.0, 2.0) == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0])

    def test_names_of_near_points_do_not_cover_each_other(self):
        points = [Point(f"model_{i}", x := 1 + i / 1000, x, x, 10 + i / 1000, i) for i in range(5)]
        with picture.sheet(6, 5) as figure:
            axes = figure.subplots()
            axes.set_xlim(0.5, 1.5)
            axes.set_ylim(9.5, 10.5)
            figure.draw_without_rendering()
            place_names(axes, points)
            renderer = figure.canvas.get_renderer()
            from matplotlib.text import Text

            boxes = [Text.get_window_extent(t, renderer) for t in axes.texts]
        assert [t.get_text() for t in axes.texts] == [p.name for p in points]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


class TestCheckpoints:
    steps = (0, 200, 1600)

    def series(self, bits, **changes):
        return [
            make(bits=b, step=n, layer=layer, upstream_sha256=f"{n:064d}",
                 checkpoint={"name": f"hubert-{n:06d}.pt", "sha256": f"{n:064d}"}, **changes)
            for n, b in zip(self.steps, bits, strict=True) for layer in range(3)
        ]  # fmt: skip

    def found(self, records):
        return series_of(summarise(records), records)

    def test_a_series_is_named_without_the_step(self):
        records = self.series((0.1, 0.5, 0.4))
        assert {series_name(r) for r in records} == {"hubert_local hubert"}
        assert [s.name for s in self.found(records)[0]] == ["hubert_local hubert"]
        assert self.found([make(step=100)]) == ([], [])

    def test_the_pick_without_labels_and_what_it_costs(self):
        records = self.series((0.1, 0.5, 0.4)) + self.series((1.0, 1.5, 1.75), **SUPERVISED)
        ((series,), _) = self.found(records)
        (pick,) = series.picks.values()
        assert (pick.step, pick.labelled_step) == (200, 1600)
        assert "step 200 is picked without labels" in stability_words(pick)
        assert "labels pick step 1,600 (0.250 bits" in stability_words(pick)

    def test_two_runs_of_one_name_are_no_series(self):
        one = self.series((0.1, 0.5, 0.4))
        records = one + [dataclasses.replace(r, upstream_sha256=f"other {r.step}") for r in one[:3]]
        assert self.found(one)[1] == []
        assert self.found(records) == ([], ["hubert_local hubert"])

    def test_a_setting_with_one_checkpoint_says_nothing_of_stability(self):
        records = self.series((0.1, 0.5, 0.4)) + self.series((0.1, 0.5, 0.4), n_clusters=100)[:3]
        ((series,), _) = self.found(records)
        (pick,) = series.picks.values()
        assert [s.factor for s in pick.stability] == []

    def test_picture(self):
        records = self.series((0.1, 0.5, 0.4)) + self.series((1.0, 1.5, 1.75), **SUPERVISED)
        (p,) = checkpoint_curves(self.found(records)[0])
        assert "I(Za;Zb) and I(Z;Y)" in p.caption
        assert "step 200 is picked without labels" in p.caption


class TestSweeps:
    def test_settings_are_read_from_views(self):
        assert mask_of("mask(latent, 26 of 40 frames)").ratio == 0.65
        assert shift_of("shift(17.5 ms)") == 17.5
        assert mask_of("shift(60 ms)") is None

    def test_each_kind_has_a_picture_and_shift_and_mask_never_share_one(self):
        views = [model(A, layer=n, view=f"mask(latent, {m} of 40 frames)") for m in (26, 30) for n in (0, 1)]
        shifts = [model(B, **{**SHIFT, "view": f"shift({ms} ms)"}) for ms in (20, 60, 100)]
        clusters = [model(A, n_clusters=c, layer=n) for c in (10, 50, 200) for n in (0, 1)]
        found = sweeps(summarise(views + shifts + clusters), NAMES, {A: 1, B: 0})
        assert [p.name for p in found] == ["sweep_mask_1", "sweep_shift_1", "sweep_clusters_1"]
        assert ["model b" in p.alt for p in found] == [False, True, False]

    def test_one_setting_is_no_sweep(self):
        assert sweeps(summarise([model(A), model(A, layer=1)]), NAMES, {A: 1}) == []

    @pytest.mark.parametrize(
        ("settings", "places", "word"),
        [
            ([Mask(26, 40), Mask(30, 40)], [65.0, 75.0], "masked, %"),
            ([Mask(10, 20), Mask(20, 40)], [10.0, 20.0], "50% masked"),
            ([Mask(10, 20), Mask(30, 40)], [0.0, 1.0], "pattern"),
            ([20.0, 60.0], [20.0, 60.0], "shift"),
            ([10, 50, 200], [0.0, 1.0, 2.0], "clusters"),
        ],
    )
    def test_axis_of_each_kind(self, settings, places, word):
        x_of, ticks, label = _axis(settings)
        assert [x_of(s) for s in settings] == list(ticks) == places
        assert word in label


class TestClusters:
    def test_usage_of_a_known_codebook(self):
        record = model(A)
        measured = with_classes([record], [classes_of(record, [2, 0, 6], [0.0] * 3)])
        (usage,) = usages(measured)
        assert usage.used == 2
        assert usage.curve == (75.0, 25.0, 0.0)
        entropy = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
        assert usage.perplexity == pytest.approx(2**entropy)

    def test_a_codebook_without_frames_has_no_perplexity(self):
        record = model(A)
        (usage,) = usages([(record, classes_of(record, [0, 0], [0.0] * 2))])
        assert (usage.perplexity, usage.used, usage.curve) == (0.0, 0, (0.0, 0.0))

    def test_the_last_layer_is_of_the_encoder(self):
        records = [model(A, layer=2), model(A, layer=3, layer_name="vq[0] codes")]
        classes = [classes_of(r, [5, 3, 2], [0.0] * 3) for r in records]
        found = usages(with_classes(records, classes))
        assert {u.layer for u in last_layers(found).values()} == {2}

    def test_picture_only_where_classes_were_kept(self):
        records = [model(A, layer=n) for n in range(2)]
        groups = [key_of(records[0])]
        assert cluster_usage(with_classes(records, []), groups, NAMES) == []
        classes = [classes_of(r, [5, 3, 2], [0.0] * 3) for r in records]
        (p,) = cluster_usage(with_classes(records, classes), groups, NAMES)
        assert "perplexity" in p.caption


class TestClasses:
    labels = ("AA", "S", "sil")

    def measured(self, bits=(0.5, 0.25, -0.25)):
        weak, best = model(A, bits=0.1, **SUPERVISED), model(A, bits=0.5, layer=1, **SUPERVISED)
        confusion = [[8, 2, 0], [1, 4, 0], [3, 0, 2]]
        frames = [sum(row) for row in confusion]
        return [(r, classes_of(r, frames, list(bits), list(self.labels), confusion)) for r in (weak, best)]

    def test_at_the_best_layer_with_bits_per_frame(self):
        measured = self.measured()
        key = key_of(measured[0][0])
        (found,) = class_bits(measured, key, summarise(r for r, _ in measured))
        assert (found.layer, found.bits) == (1, 0.5)
        assert sum(found.contribution.values()) == pytest.approx(0.5)
        assert found.per_frame == pytest.approx({"AA": 0.5 * 20 / 10, "S": 0.25 * 20 / 5, "sil": -0.25 * 20 / 5})
        assert found.most == pytest.approx({"AA": 1.0, "S": 2.0, "sil": 2.0})

    def test_seeds_are_averaged(self):
        one, two = self.measured(), self.measured(bits=(0.7, 0.25, -0.45))
        again = [(dataclasses.replace(r, seed=1), dataclasses.replace(c, seed=1)) for r, c in two]
        both = [*one, *again]
        (found,) = class_bits(both, key_of(one[0][0]), summarise(r for r, _ in both))
        assert found.contribution == pytest.approx({"AA": 0.6, "S": 0.25, "sil": -0.35})

    def test_pictures(self):
        measured = self.measured()
        key = key_of(measured[0][0])
        found = class_bits(measured, key, summarise(r for r, _ in measured))
        (bits,) = phone_bits(found, key, NAMES, 1)
        (confusion,) = confusion_pictures(found, key, NAMES, 1)
        assert bits.title == "Which phones are told apart"
        assert "100 %" in confusion.caption

    def test_no_confusion_without_counts(self):
        measured = self.measured()
        bare = [(r, dataclasses.replace(c, confusion=None)) for r, c in measured]
        key = key_of(measured[0][0])
        found = class_bits(bare, key, summarise(r for r, _ in bare))
        assert confusion_pictures(found, key, NAMES, 1) == []

    @pytest.mark.parametrize(
        ("label", "group"), [("er1", "vowels"), ("NG", "nasals"), ("spn", "silence, noise"), ("CAT", "other")]
    )
    def test_groups(self, label, group):
        assert group_of(label) == group


class TestErrorBars:
    """95 % intervals over speakers where there are any, else deviations over seeds."""

    @staticmethod
    def ends(summaries, **style):
        with picture.sheet(3, 3) as figure:
            axes = figure.subplots()
            picture.points(axes, range(len(summaries)), summaries, **style)
            return [segment[:, 1].tolist() for c in axes.collections for segment in c.get_segments()]

    def test_of_speakers(self):
        (one,) = summarise([make(1.0, seed=0), make(1.2, seed=1)])
        known = dataclasses.replace(one, ci_low_bits=0.7, ci_high_bits=1.6, ci_over="speakers", ci_groups=5)
        assert self.ends([one]) == [pytest.approx([1.1 - 0.1 * math.sqrt(2), 1.1 + 0.1 * math.sqrt(2)])]
        assert self.ends([known]) == [pytest.approx([0.7, 1.6])]
        assert self.ends([known], over="seeds") == self.ends([one])
        assert self.ends([known, one]) == self.ends([one, one])  # one kind of bars in a curve
        both = dataclasses.replace(known, total_ci_low_bits=0.5, total_ci_high_bits=1.8)
        assert self.ends([both]) == [pytest.approx([0.5, 1.8])]
        bars = bars_text([known])
        assert bars.startswith("mean over 2 seeds; bars: 95 % interval over 5 speakers")
        assert bars_text([one]) == "mean ± sd over 2 seeds"
        assert "where sums by speaker are known, else sd over seeds" in bars_text([known, one])
        utterances = dataclasses.replace(known, ci_over="utterances", ci_groups=50)
        assert "95 % interval over 5 speakers or 50 utterances" in bars_text([known, utterances])


class TestKept:
    SPEAKER = SUPERVISED | {"label_set": "speaker, utterances of each split", "n_classes": 10}

    def several(self, sha=A, **more):
        of = [(SUPERVISED, [1.0, 2.0]), (self.SPEAKER, [3.0, 1.0])]
        return [
            model(sha, bits=b, entropy=4.0, layer=n, **labels | more) for labels, bits in of for n, b in enumerate(bits)
        ]

    def test_a_curve_for_each_set_of_labels_as_a_fraction_of_its_entropy(self):
        own = several_labels(summarise(self.several()))
        with picture.sheet(4, 3) as figure:
            axes = figure.subplots()
            plot_kept(axes, own)
            curves = {line.get_label(): line.get_ydata().tolist() for line in axes.get_lines()[:2]}
        assert curves == {"phones": [0.25, 0.5], "speaker": [0.75, 0.25]}

    def test_a_plot_for_each_model_that_has_several_sets(self):
        (found,) = kept_by_layer(summarise([*self.several(), *self.several(B)]), NAMES)
        assert found.title == "What each layer keeps: phones, speaker"
        assert "model a, model b" in found.alt

    def test_one_set_of_labels_or_one_layer_makes_none(self):
        assert kept_by_layer(summarise([model(A, layer=n, **SUPERVISED) for n in (0, 1)]), NAMES) == []
        assert kept_by_layer(summarise([r for r in self.several() if r.layer == 1]), NAMES) == []


def test_accuracy_against_bits_is_of_what_is_said():
    rows = [(1.0, 0.3), (2.0, 0.5), (1.5, 0.4), (1.8, 0.45), (0.5, 0.1)]
    said = [model(A, bits=b, layer=n, accuracy=a, **SUPERVISED) for n, (b, a) in enumerate(rows)]
    others = [model(A, bits=b, layer=n, accuracy=a, **TestKept.SPEAKER) for n, (b, a) in enumerate(rows)]
    groups = by_key(summarise([*said, *others, model(A)]))
    (found,) = accuracy_against_bits(groups, list(groups), NAMES)
    assert found.title.startswith("Accuracy against bits: phones")
    assert "logistic: Spearman +1.00" in found.caption
    assert accuracy_against_bits(by_key(summarise(said[:2])), list(by_key(summarise(said[:2]))), NAMES) == []
