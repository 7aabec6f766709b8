"""Choices of layers and checkpoints on curves whose answer is known."""

import pytest

from s3prl_mi.results import selection
from s3prl_mi.results.selection import best_of, checkpoint_pick, last_layer, layer_agreements
from tests.helpers.records import SUPERVISED, curve, make

FREE = [0.2, 0.9, 1.4, 1.1, 0.5]
LABELLED = [2.0, 3.0, 3.2, 3.6, 2.5]


def both(**changes):
    return curve(FREE, **changes) + curve(LABELLED, **SUPERVISED | changes)


class TestLayers:
    def test_mean_over_seeds(self):
        records = [make(b, layer=0, seed=s) for s, b in enumerate((1.0, 1.5, 2.0))]
        assert list(selection._curves(records, "layer").values()) == [{0: 1.5}]

    def test_agreement(self):
        (found,) = layer_agreements(both())
        assert (found.unsupervised_layer, found.labelled_layer, found.same) == (2, 3, False)
        assert found.regret_bits == pytest.approx(0.4)
        assert found.last_lost_bits == pytest.approx(1.1)
        # Ranks 1 3 5 4 2 and 1 3 4 5 2: squared differences sum to 2.
        assert found.relation.of("spearman").value == pytest.approx(1 - 6 * 2 / (5 * 24))
        assert "5 layers" in found.relation.sentence

    def test_same_layer_loses_nothing(self):
        (found,) = layer_agreements(curve(FREE) + curve(FREE, **SUPERVISED))
        assert (found.same, found.regret_bits) == (True, 0.0)

    def test_one_for_each_probe_and_setting(self):
        records = both() + both(probe="mlp") + curve(FREE[::-1], n_clusters=100)
        found = layer_agreements(records)
        assert [(a.probe, a.setting.n_clusters, a.unsupervised_layer) for a in found] == [
            ("logistic", 50, 2),
            ("logistic", 100, 2),
            ("mlp", 50, 2),
        ]

    def test_only_layers_of_both_and_of_one_rate(self):
        records = curve(FREE) + curve(LABELLED[:3], **SUPERVISED)
        assert layer_agreements(records)[0].relation.n == 3
        assert layer_agreements(curve(FREE) + curve(LABELLED, **SUPERVISED, frame_shift_ms=40.0)) == []
        assert layer_agreements(curve(FREE)) == []

    @pytest.mark.parametrize("other", [{"eval_splits": ["test-clean"]}, {"protocol": "paper-1"}])
    def test_splits_and_protocols_do_not_mix(self, other):
        records = both() + curve(LABELLED[::-1], **SUPERVISED | other)
        (found,) = layer_agreements(records)
        assert (found.labelled_layer, found.regret_bits) == (3, pytest.approx(0.4))
        assert layer_agreements(curve(FREE) + curve(LABELLED, **SUPERVISED | other)) == []

    def test_two_sets_of_labels_are_two_cases(self):
        words = SUPERVISED | {"label_set": "words"}
        found = layer_agreements(both() + curve(LABELLED[::-1], **words))
        assert [a.labelled_layer for a in found] == [3, 1]

    def test_last_layer(self):
        assert last_layer(curve(FREE)) == 4
        codes = make(layer=5, layer_name="vq[0] codes", layers_in_upstream=6, last_layer=4)
        assert last_layer([*curve(FREE, layers_in_upstream=6, last_layer=4), codes]) == 4
        assert last_layer([make(layer=4, layers_in_upstream=6, last_layer=4)]) == 4  # the codes were not measured
        assert last_layer(curve(FREE, layers_in_upstream=9, last_layer=8)) is None
        assert last_layer([make(layer="weighted", layers_in_upstream=1)]) is None

    def test_ties_go_to_the_lowest(self):
        assert best_of({3: 1.0, 1: 1.0, 2: 0.5}) == 1


STEPS = (0, 100, 200, 300, 400)


def series(values=FREE, seeds=1, **changes):
    return [
        make(b, **{"step": step, "upstream_sha256": f"sha {step}", "seed": seed, **changes})
        for step, b in zip(STEPS, values, strict=True)
        for seed in range(seeds)
    ]


class TestCheckpoints:
    def test_pick_and_what_it_loses(self):
        found = checkpoint_pick(series() + series(LABELLED, **SUPERVISED), "logistic")
        assert (found.step, found.curve[found.step], found.layer) == (200, 1.4, 2)
        assert found.curve == dict(zip(STEPS, FREE, strict=True))
        assert found.labelled_step == 300
        assert found.regret_bits == pytest.approx(0.4)
        assert found.stability == ()

    def test_labels_of_other_splits_do_not_count(self):
        other = series(LABELLED[::-1], **SUPERVISED, eval_splits=["test-clean"])
        assert checkpoint_pick(series() + other, "logistic").labelled_step is None
        assert checkpoint_pick(series() + other + series(LABELLED, **SUPERVISED), "logistic").labelled_step == 300

    def test_stability(self):
        other = [0.2, 0.9, 1.1, 1.4, 0.5]
        records = (
            series(seed=0) + series([v + 0.01 for v in FREE], seed=1) + series(other, seed=2)
            + series(n_clusters=100) + series(other, n_clusters=500) + series(n_clusters=200)
            + series(view="mask(latent, 28 of 40 frames)")
        )  # fmt: skip
        by = {s.factor: s for s in checkpoint_pick(records, "logistic").stability}
        assert by["seed"].picks == {"0": 200, "1": 200, "2": 300}
        assert by["seed"].fraction_same == pytest.approx(2 / 3)
        assert by["clusters"].picks == {"50": 200, "100": 200, "500": 300, "200": 200}
        assert by["clusters"].fraction_same == 0.75
        assert by["view"].fraction_same == 1.0

    def test_a_setting_that_lacks_the_best_step_is_compared_on_the_others(self):
        other = [r for r in series(n_clusters=100) if r.step != 200]
        (found,) = checkpoint_pick(series() + other, "logistic").stability
        assert (found.picks, found.fraction_same) == ({"50": 200, "100": 300}, 1.0)

    def test_the_papers_setting_is_the_main_one(self):
        records = series(FREE[::-1], n_clusters=500, view="mask(latent, 15 of 20 frames)") + series()
        assert checkpoint_pick(records, "logistic").setting.n_clusters == 50
        frames = series(scored_frames="all") + series(scored_frames="masked")
        assert checkpoint_pick(frames, "logistic").setting.scored_frames == "masked"

    def test_another_probe(self):
        records = series() + series(FREE[::-1], probe="mlp")
        assert checkpoint_pick(records, "mlp").curve[0] == FREE[-1]
        assert checkpoint_pick(series(), "mlp") is None

    def test_nothing_to_choose_from(self):
        assert checkpoint_pick(series(layer=1), "logistic") is None  # not the last layer
        assert checkpoint_pick(series()[:1], "logistic") is None
        assert checkpoint_pick(series(**SUPERVISED), "logistic") is None
        assert checkpoint_pick(series(step=None), "logistic") is None

    def test_two_models_of_one_step_are_two_series(self):
        assert checkpoint_pick([*series(), make(step=100, upstream_sha256="other")], "logistic") is None
