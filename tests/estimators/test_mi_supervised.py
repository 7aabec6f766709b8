"""I(Z;Y): mixtures whose information is computed by numerical integration, and what every bound must obey."""

from __future__ import annotations

import dataclasses
import enum
import json
from itertools import chain

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from s3prl_mi import estimate_supervised_mi
from s3prl_mi.core.errors import MIError
from s3prl_mi.estimators import mi_supervised
from s3prl_mi.estimators.bounds import NATS_TO_BITS
from s3prl_mi.estimators.frames import Frames
from s3prl_mi.estimators.intervals import FrameGroups
from s3prl_mi.estimators.mi_supervised import fit_supervised, score_supervised
from s3prl_mi.estimators.probe import FittedProbe
from s3prl_mi.estimators.probes import ProbeSpec
from s3prl_mi.estimators.vocabulary import Vocabulary
from tests.helpers.paths import SHARED

BOTH = pytest.mark.parametrize("probe", ["logistic", "mlp"])


def mixture(n, means, scales, priors, seed):
    """Frames of Gaussian classes, z (n, dim) and y (n,); each class has one scale for all dimensions."""
    rng = np.random.default_rng(seed)
    y = rng.choice(len(priors), n, p=priors)
    z = np.asarray(means)[y] + np.asarray(scales)[y, None] * rng.normal(size=(n, len(means[0])))
    return z.astype(np.float32), y


def information(means, scales, priors, step=0.1, reach=20.0):
    """I(Z;Y) in bits by the midpoint rule on a grid, for one or two dimensions."""
    means, scales, priors = np.asarray(means, float), np.asarray(scales, float), np.asarray(priors, float)
    dim = means.shape[1]
    axis = np.arange(-reach, reach, step) + step / 2
    points = np.stack(np.meshgrid(*[axis] * dim, indexing="ij"), -1).reshape(-1, dim)
    density = np.stack(
        [
            p * np.exp(-((points - m) ** 2).sum(1) / (2 * s * s)) / (np.sqrt(2 * np.pi) * s) ** dim
            for m, s, p in zip(means, scales, priors, strict=True)
        ]
    )
    total = density.sum(0)
    assert total.sum() * step**dim == pytest.approx(1, abs=1e-6)
    ratio = np.where(density > 0, density / np.maximum(priors[:, None] * total, 1e-300), 1.0)
    return float((density * np.log2(ratio)).sum() * step**dim)


LINEAR = [
    ([[-1.0], [1.0]], [1, 1], [0.5, 0.5]),
    ([[-3.0], [0.0], [2.0]], [1, 1, 1], [0.2, 0.5, 0.3]),
    ([[-2.0, 0.0], [2.0, 0.0], [0.0, 3.0], [0.0, 0.5]], [1, 1, 1, 1], [0.4, 0.3, 0.2, 0.1]),
]
NONLINEAR = ([[0.0], [0.0]], [0.5, 3.0], [0.5, 0.5])
"""Same mean, other spread: the logistic probe sees nothing of it."""


def test_numerical_integration_itself():
    """Two far classes hold one bit, two equal ones nothing; two known values of the binary-input channel."""
    assert information([[-6.0], [6.0]], [1, 1], [0.5, 0.5]) == pytest.approx(1, abs=1e-5)
    assert information([[1.0], [1.0]], [1, 1], [0.5, 0.5]) == pytest.approx(0, abs=1e-9)
    # capacity of the binary-input Gaussian channel at 0 dB
    assert information([[-1.0], [1.0]], [1, 1], [0.5, 0.5]) == pytest.approx(0.4859, abs=2e-4)


@BOTH
@pytest.mark.parametrize("classes", LINEAR)
def test_gaussian_classes_of_equal_spread(classes, probe):
    """Here a linear probe can be exact. Tolerance 0.02 bits: sampling error of 10,000 frames is about 0.007."""
    truth = information(*classes)
    estimate = estimate_supervised_mi(*mixture(3000, *classes, seed=0), *mixture(10_000, *classes, seed=1), probe)
    assert estimate.mi_lower_bound_bits == pytest.approx(truth, abs=0.02)


def test_gaussian_classes_of_other_spread():
    """Only the MLP sees them: within 0.04 bits of the truth (it is a lower bound), the linear probe below 0.02."""
    truth = information(*NONLINEAR)
    fit, held_out = mixture(2500, *NONLINEAR, seed=0), mixture(20_000, *NONLINEAR, seed=1)
    linear = estimate_supervised_mi(*fit, *held_out).mi_lower_bound_bits
    mlp = estimate_supervised_mi(*fit, *held_out, "mlp").mi_lower_bound_bits
    assert truth > 0.4
    assert abs(linear) < 0.02
    assert truth - 0.04 < mlp < truth + 0.015


def test_exclusive_or_is_for_the_mlp():
    def corners(seed):
        bits = np.random.default_rng(seed).integers(0, 2, (1000, 2))
        noise = 0.3 * np.random.default_rng(seed + 1).normal(size=(1000, 2))
        return 2.0 * bits - 1 + noise, bits[:, 0] ^ bits[:, 1]

    fit, held_out = corners(0), corners(10)
    assert abs(estimate_supervised_mi(*fit, *held_out).mi_lower_bound_bits) < 0.02
    assert estimate_supervised_mi(*fit, *held_out, "mlp").mi_lower_bound_bits > 0.9


@pytest.mark.parametrize("data_seed", [0, 1, 2])
def test_the_mlp_is_not_below_the_logistic_probe(data_seed):
    """By more than 0.005 bits, where a linear probe is right: few frames, many dimensions, noise."""
    rng = np.random.default_rng(data_seed)
    means = rng.normal(size=(5, 20)) * (0.3, 0.7, 1.2)[data_seed]
    fit = mixture(1000, means, [1] * 5, [0.2] * 5, 10 + data_seed)
    held_out = mixture(10_000, means, [1] * 5, [0.2] * 5, 20 + data_seed)
    logistic = estimate_supervised_mi(*fit, *held_out).mi_lower_bound_bits
    assert estimate_supervised_mi(*fit, *held_out, "mlp").mi_lower_bound_bits >= logistic - 0.005


@BOTH
def test_independent_labels_give_at_most_a_hundredth_of_a_bit(probe):
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(4000, 20)), rng.integers(0, 8, 4000)
    estimate = estimate_supervised_mi(z[:2000], y[:2000], z[2000:], y[2000:], probe)
    assert -0.05 < estimate.mi_lower_bound_bits <= 0.01
    assert estimate.entropy_bits == pytest.approx(3, abs=0.01)


@BOTH
def test_shuffled_labels_give_no_information(probe):
    """The same frames with true labels give much, with shuffled ones at most 0.01 bits."""
    z, y = mixture(4000, [[-4.0, 0], [4, 0], [0, 5]], [1, 1, 1], [0.4, 0.4, 0.2], 0)
    shuffled = np.random.default_rng(1).permutation(y)
    estimate = estimate_supervised_mi(z[:2000], shuffled[:2000], z[2000:], shuffled[2000:], probe)
    assert -0.05 < estimate.mi_lower_bound_bits <= 0.01
    assert estimate_supervised_mi(z[:2000], y[:2000], z[2000:], y[2000:], probe).mi_lower_bound_bits > 1.4


@BOTH
@pytest.mark.parametrize("classes", [2, 6])
def test_labels_in_plain_sight_give_their_entropy(classes, probe):
    """Z = Y: H(Y) within 0.005 bits, and not above it."""
    rng = np.random.default_rng(0)
    y = rng.choice(classes, 4000, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    z = np.eye(classes)[y]
    estimate = estimate_supervised_mi(z[:2000], y[:2000], z[2000:], y[2000:], probe)
    assert estimate.entropy_bits - 0.005 <= estimate.mi_lower_bound_bits <= estimate.entropy_bits
    assert estimate.accuracy == 1


@pytest.mark.parametrize("trial", range(8))
def test_never_above_the_entropy_nor_above_the_truth(trial):
    """Random mixtures: never above H(Y); above I(Z;Y) only by sampling error (0.03 bits at 5,000 frames)."""
    rng = np.random.default_rng(trial)
    count = int(rng.integers(2, 6))
    classes = rng.uniform(-5, 5, (count, 1)), rng.uniform(0.5, 1.5, count), rng.dirichlet(np.full(count, 2.0))
    estimate = estimate_supervised_mi(*mixture(1500, *classes, trial), *mixture(5000, *classes, trial + 50))
    assert estimate.mi_lower_bound_bits <= estimate.entropy_bits
    assert estimate.mi_lower_bound_bits <= information(*classes) + 0.03
    assert estimate.mi_lower_bound_bits == pytest.approx(estimate.entropy_bits - estimate.cross_entropy_bits, abs=1e-12)


def test_a_bound_may_be_negative():
    """Labels turned round between fit and eval: the probe is surely wrong, and nothing is clipped."""
    z, y = mixture(2000, *LINEAR[0], seed=0)
    assert estimate_supervised_mi(z[:1000], y[:1000], z[1000:], 1 - y[1000:]).mi_lower_bound_bits < -0.5


def test_agrees_with_scikit_learn():
    """Converged logistic regression on standardised frames, well-determined: 0.005 bits in the bound."""
    (z, y), (ze, ye) = mixture(5000, *LINEAR[2], seed=0), mixture(5000, *LINEAR[2], seed=1)
    scaler = StandardScaler().fit(z)
    model = LogisticRegression(max_iter=1000).fit(scaler.transform(z), y)
    cross_entropy = -model.predict_log_proba(scaler.transform(ze))[np.arange(5000), ye].mean() * NATS_TO_BITS
    estimate = estimate_supervised_mi(z, y, ze, ye)
    assert estimate.cross_entropy_bits == pytest.approx(cross_entropy, abs=0.005)
    assert estimate.accuracy == pytest.approx(model.score(scaler.transform(ze), ye), abs=0.005)


@BOTH
def test_an_affine_map_of_the_frames_changes_nothing(probe):
    """Standardisation belongs to the probe. 0.005 bits; frames around 10,000 and dimensions of any size."""
    z, y = mixture(2000, *LINEAR[2], seed=0)
    moved = z.astype(np.float64) * [1e-3, 500.0] + [1.0, 1e4]
    near = estimate_supervised_mi(z[:1000], y[:1000], z[1000:], y[1000:], probe)
    far = estimate_supervised_mi(moved[:1000], y[:1000], moved[1000:], y[1000:], probe)
    assert far.mi_lower_bound_bits == pytest.approx(near.mi_lower_bound_bits, abs=0.005)


def test_constant_and_repeated_dimensions_change_nothing():
    z, y = mixture(2000, *LINEAR[2], seed=0)
    plain = estimate_supervised_mi(z[:1000], y[:1000], z[1000:], y[1000:]).mi_lower_bound_bits
    wide = np.hstack([z, np.full((2000, 1), 1234.567), np.zeros((2000, 1))])
    with_constants = estimate_supervised_mi(wide[:1000], y[:1000], wide[1000:], y[1000:]).mi_lower_bound_bits
    assert with_constants == pytest.approx(plain, abs=1e-4)
    twice = np.hstack([z, z])
    repeated = estimate_supervised_mi(twice[:1000], y[:1000], twice[1000:], y[1000:]).mi_lower_bound_bits
    assert repeated == pytest.approx(plain, abs=0.005)


def test_repeated_frames():
    """Each fit frame four times over, neighbours in time as ever: 0.01 bits."""
    z, y = mixture(2000, *LINEAR[2], seed=0)
    once = estimate_supervised_mi(z[:1000], y[:1000], z[1000:], y[1000:]).mi_lower_bound_bits
    many = estimate_supervised_mi(
        np.repeat(z[:1000], 4, 0), np.repeat(y[:1000], 4), z[1000:], y[1000:], groups=np.arange(4000) // 80
    )
    assert many.fit_frames == 4000
    assert many.mi_lower_bound_bits == pytest.approx(once, abs=0.01)


# --- the eval split is only scored --------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("protocol", ["default", "paper"])
def test_eval_frames_never_reach_the_fit(probe, protocol, monkeypatch):
    """Other eval frames and labels: the same fitted probe, to the last bit."""
    fitted = []
    monkeypatch.setattr(
        "s3prl_mi.estimators.arrays.fit_supervised",
        lambda *a: fitted.append(fit_supervised(*a)) or fitted[-1],
    )
    z, y = mixture(600, *LINEAR[2], seed=0)
    other, labels = mixture(700, *LINEAR[2], seed=5)
    first = estimate_supervised_mi(z, y, z + 1, y, probe, protocol=protocol)
    second = estimate_supervised_mi(z, y, other * 100, labels[::-1].copy(), probe, protocol=protocol)
    a, b = (p[0].state() for p in fitted)
    assert first.settings == second.settings
    for part in ("affine", "linear"):
        assert (a[part] is None) == (b[part] is None)
        for x, w in zip(a[part] or [], b[part] or [], strict=True):
            assert torch.equal(x, w)
    if a["network"] is not None:
        for x, w in zip(chain(*a["network"]), chain(*b["network"]), strict=True):
            assert torch.equal(x, w)


def test_the_entropy_is_that_of_the_frames_scored():
    z, y = mixture(1000, *LINEAR[0], seed=0)
    y_eval = np.repeat([0, 1], [250, 750])
    assert estimate_supervised_mi(z, y, z, y_eval).entropy_bits == pytest.approx(0.8112781, abs=1e-6)


# --- labels -------------------------------------------------------------------------------------------------


class Phone(enum.Enum):
    AA = "a"
    B = "b"
    SIL = "-"


def _kinds():
    names = ["AA", "B", "sil"]
    return {
        "strings": lambda y: [names[i] for i in y],
        "array of strings": lambda y: np.array(names)[y],
        "tensor": torch.from_numpy,
        "int32": lambda y: y.astype(np.int32) * 7 - 3,
        "tuples": lambda y: [(names[i], i) for i in y],
        "mixed tuples": lambda y: [((1, "a"), ("a", 1), (None, None))[i] for i in y],
        "mixed": lambda y: [(None, "B", 3)[i] for i in y],
        "enum": lambda y: [list(Phone)[i] for i in y],
        "objects": lambda y: np.array(names, dtype=object)[y],
        "booleans and frozen sets": lambda y: [(True, frozenset("b"), frozenset("c"))[i] for i in y],
    }


@pytest.mark.parametrize("kind", _kinds())
def test_labels_of_any_hashable_kind(kind):
    """The names of classes do not matter: within 1e-6 bits of integer labels."""
    convert = _kinds()[kind]
    z, y = mixture(1200, *LINEAR[1], seed=0)
    expected = estimate_supervised_mi(z[:600], y[:600], z[600:], y[600:])
    estimate = estimate_supervised_mi(z[:600], convert(y[:600]), z[600:], convert(y[600:]))
    assert estimate.mi_lower_bound_bits == pytest.approx(expected.mi_lower_bound_bits, abs=1e-6)
    assert estimate.labels == 3


def test_renaming_classes_so_that_their_order_changes():
    z, y = mixture(1200, *LINEAR[1], seed=0)
    renamed = np.array([2, 0, 1])[y]
    a = estimate_supervised_mi(z[:600], y[:600], z[600:], y[600:])
    b = estimate_supervised_mi(z[:600], renamed[:600], z[600:], renamed[600:])
    assert a.mi_lower_bound_bits == pytest.approx(b.mi_lower_bound_bits, abs=1e-4)


def test_vocabulary_is_that_of_the_fit_split_and_sorted():
    vocabulary = Vocabulary.of(["sil", "AA", "sil", "B"])
    assert vocabulary.labels == ("AA", "B", "sil")
    np.testing.assert_array_equal(vocabulary.ids(["B", "ZH", "AA"]), [1, -1, 0])


def test_labels_unseen_in_fit_are_left_out_and_counted():
    """Left out of entropy and cross-entropy alike: the estimate is that of the other frames."""
    z, y = mixture(1000, *LINEAR[1], seed=0)
    ze, ye = mixture(1000, *LINEAR[1], seed=1)
    with_unseen = ye.copy()
    with_unseen[::50] = 99
    known = with_unseen != 99
    estimate = estimate_supervised_mi(z, y, ze, with_unseen)
    expected = estimate_supervised_mi(z, y, ze[known], ye[known])
    assert estimate.unseen_frames == 20
    assert estimate.eval_frames == 980
    assert dataclasses.replace(estimate, unseen_frames=0) == expected


@pytest.mark.parametrize("share", [0.051, 1.0])
def test_too_many_unseen_labels_are_refused(share):
    z, y = mixture(1000, *LINEAR[1], seed=0)
    other = y.copy()
    other[: int(share * 1000)] = 99
    with pytest.raises(MIError, match=rf"{int(share * 1000)} of 1000 eval frames .* same inventory"):
        estimate_supervised_mi(z, y, z, other)
    assert mi_supervised.MAX_UNSEEN == 0.05


def test_a_class_that_the_eval_split_lacks():
    z, y = mixture(1000, *LINEAR[1], seed=0)
    kept = y != 2
    estimate = estimate_supervised_mi(z, y, z[kept], y[kept])
    assert estimate.labels == 3
    assert estimate.entropy_bits <= 1
    assert estimate.unseen_frames == 0


# --- input and output ---------------------------------------------------------------------------------------


def test_arrays_tensors_and_dtypes():
    z, y = mixture(1000, *LINEAR[2], seed=0)
    expected = estimate_supervised_mi(z[:500], y[:500], z[500:], y[500:]).mi_lower_bound_bits
    for convert in (
        torch.from_numpy,
        np.float64,
        lambda a: torch.from_numpy(a).requires_grad_(),
        np.asfortranarray,
    ):
        found = estimate_supervised_mi(convert(z[:500]), y[:500], convert(z[500:]), torch.from_numpy(y[500:]))
        assert found.mi_lower_bound_bits == pytest.approx(expected, abs=1e-6)
    half = estimate_supervised_mi(z[:500].astype(np.float16), y[:500], z[500:].astype(np.float16), y[500:])
    assert half.mi_lower_bound_bits == pytest.approx(expected, abs=0.002)


def test_the_record_is_plain_data():
    z, y = mixture(1000, *LINEAR[1], seed=0)
    estimate = estimate_supervised_mi(z[:600], y[:600], z[600:], y[600:], seed=7)
    record = json.loads(json.dumps(dataclasses.asdict(estimate)))
    assert (record["fit_frames"], record["eval_frames"], record["labels"], record["seed"]) == (600, 400, 3, 7)
    assert (record["probe"], record["protocol"]) == ("logistic", "default-4")
    for key in ("mi_lower_bound_bits", "entropy_bits", "cross_entropy_bits", "accuracy"):
        assert type(getattr(estimate, key)) is float


def test_same_seed_same_number_and_the_logistic_probe_needs_none():
    z, y = mixture(800, *LINEAR[2], seed=0)
    split = z[:400], y[:400], z[400:], y[400:]
    logistic = [estimate_supervised_mi(*split, seed=s).mi_lower_bound_bits for s in (0, 0, 5)]
    assert logistic[0] == logistic[1] == logistic[2]
    paper = [estimate_supervised_mi(*split, "mlp", s, protocol="paper").mi_lower_bound_bits for s in (0, 0, 5)]
    assert paper[0] == paper[1] != paper[2]


def test_groups_may_have_any_names():
    z, y = mixture(800, *LINEAR[2], seed=0)
    numbers = np.arange(800) // 100
    split = z, y, z, y
    expected = estimate_supervised_mi(*split, groups=numbers)
    assert estimate_supervised_mi(*split, groups=[f"speaker {g}" for g in numbers]) == expected
    assert estimate_supervised_mi(*split, groups=torch.from_numpy(numbers)) == expected


Z, Y = np.zeros((10, 2)), np.arange(10) % 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((Z[:, 0], Y, Z, Y), r"fit_z: expected frames of shape \(n_frames, dim\), found \(10,\)"),
        ((Z[:0], Y[:0], Z, Y), r"fit_z: expected frames .* found \(0, 2\)"),
        ((Z[:, :0], Y, Z[:, :0], Y), r"fit_z: expected frames .* found \(10, 0\)"),
        ((Z, Y, Z[None], Y), r"eval_z: expected frames .* found \(1, 10, 2\)"),
        ((Z, Y, np.full((10, 2), np.nan), Y), "eval_z holds NaN or infinite"),
        ((np.full((10, 2), -np.inf), Y, Z, Y), "fit_z holds NaN or infinite"),
        ((Z, Y, np.full((10, 2), 1e300), Y), "eval_z holds values too large for float32"),
        ((Z.astype(complex), Y, Z, Y), "fit_z: expected real numbers, found complex128"),
        ((Z.astype(str), Y, Z, Y), "fit_z: expected real numbers"),
        ((Z, Y[:9], Z, Y), "fit_y has 9 labels for 10 frames"),
        ((Z, Y, Z, Y[:9]), "eval_y has 9 labels for 10 frames"),
        ((Z, np.eye(10), Z, Y), r"fit_y: expected labels of shape \(n_frames,\), found \(10, 10\)"),
        ((Z, [[0]] * 10, Z, Y), r"fit_y: expected hashable labels, found \[0\]"),
        ((Z, Y, Z, np.full(10, np.nan)), "eval_y holds NaN"),
        ((Z, Y, Z[:, :1], Y), "fit_z has 2 dimensions and eval_z 1"),
        ((Z, Y * 0, Z, Y * 0), "one single class"),
        ((Z, Y, Z, Y, "linear"), "unknown probe 'linear'"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(MIError, match=message):
        estimate_supervised_mi(*arguments)


def test_mistaken_keywords_are_named():
    with pytest.raises(MIError, match="unknown protocol 'mine': expected default or paper"):
        estimate_supervised_mi(Z, Y, Z, Y, protocol="mine")
    with pytest.raises(MIError, match="groups has 9 entries for 10 fit frames"):
        estimate_supervised_mi(Z, Y, Z, Y, groups=np.arange(9))


@BOTH
def test_frames_without_any_variation_hold_nothing(probe):
    estimate = estimate_supervised_mi(
        np.full((400, 3), 2.5), np.arange(400) % 4, np.full((400, 3), 2.5), np.arange(400) % 4, probe
    )
    assert estimate.mi_lower_bound_bits == pytest.approx(0, abs=1e-3)


# --- real speech --------------------------------------------------------------------------------------------


def _real_frames(split):
    """Every fifth labelled fbank frame of LibriSpeech-mini: z, phones, speakers."""
    from s3prl_mi.core.config import AlignmentConfig, DataConfig
    from s3prl_mi.data.alignments.files import open_alignments
    from s3prl_mi.data.alignments.labels import frame_labels
    from s3prl_mi.data.audio import read_waveform
    from s3prl_mi.data.utterances import list_utterances
    from s3prl_mi.upstreams.forward import hidden_states
    from s3prl_mi.upstreams.loading import load_upstream

    root = SHARED / "data" / "LibriSpeech-mini"
    alignments = open_alignments(AlignmentConfig(path=str(root / "alignments")))
    upstream = load_upstream("fbank")
    z, y, speakers = [], [], []
    for utterance in list_utterances(DataConfig(libri_root=str(root)), split):
        ((states,),) = hidden_states(upstream, [torch.from_numpy(read_waveform(utterance))])
        labels = frame_labels(alignments.intervals(utterance), upstream.geometry.centres_seconds(len(states)))
        rows = [i for i in range(0, len(states), 5) if labels[i] is not None]
        z.append(states[rows].numpy())
        y += [labels[i] for i in rows]
        speakers += [utterance.speaker] * len(rows)
    return np.concatenate(z), np.array(y), np.array(speakers)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared is not there")
def test_real_speech_is_at_least_as_tight_as_scikit_learn():
    """fbank: within 0.005 bits of logistic regression with C chosen on a held-out fit speaker."""
    z, y, speakers = _real_frames("dev-other")
    ze, ye, _ = _real_frames("test-other")
    known = np.isin(ye, y)
    ze, ye = ze[known], ye[known]

    def bits(rows, c, z_out, y_out):
        scaler = StandardScaler().fit(z[rows])
        model = LogisticRegression(C=c, max_iter=300, tol=1e-3).fit(scaler.transform(z[rows]), y[rows])
        column = {label: i for i, label in enumerate(model.classes_)}
        seen = np.isin(y_out, model.classes_)
        log_q = model.predict_log_proba(scaler.transform(z_out[seen]))
        picked = log_q[np.arange(seen.sum()), [column[label] for label in y_out[seen]]]
        return -picked.mean(dtype=np.float64) * NATS_TO_BITS

    kept = speakers != speakers[0]
    held_out = {c: bits(kept, c, z[~kept], y[~kept]) for c in (1e-3, 3e-3, 1e-2, 3e-2)}
    theirs = bits(np.ones(len(z), bool), min(held_out, key=held_out.get), ze, ye)
    ours = estimate_supervised_mi(z, y, ze, ye, groups=speakers)
    assert ours.entropy_bits == pytest.approx(4.58, abs=0.03)
    assert ours.cross_entropy_bits <= theirs + 0.005
    assert 1.3 < ours.mi_lower_bound_bits < 1.8


@BOTH
def test_sums_by_group_make_the_estimate(probe):
    """Also with a label that the fit split lacks: its frame is in no sum."""
    z, y = mixture(600, [[-1.0], [1.0]], [1, 1], [0.7, 0.3], 0)
    spec = ProbeSpec((probe,), "default", (0, 1), "cpu")
    fit = fit_supervised(Frames([z[:400]]), y[:400], 2, np.arange(400) % 4, spec)
    groups = FrameGroups("speakers", ("a", "b", "c"), np.arange(200) % 3)
    ids = y[400:].copy()
    ids[0] = -1
    restored = [FittedProbe.from_state(p.state(), "cpu") for p in fit]
    for e in score_supervised(restored, Frames([z[400:]]), ids, spec, 400, groups)[0]:
        assert e.by_group.class_frames.sum(1).tolist() == [66, 67, 66]
        assert e.by_group.class_frames.sum(0).tolist() == e.class_frames
        assert e.by_group.loss_bits.sum() / 199 == pytest.approx(e.cross_entropy_bits, abs=1e-12)
        assert e.by_group.left_out().value == pytest.approx(e.mi_lower_bound_bits, abs=1e-12)
        counts = np.bincount(y[:400])
        prior = (counts + 0.5) / (counts + 0.5).sum()
        expected = -(np.array(e.class_frames) / 199 * np.log2(prior)).sum()
        assert e.prior_cross_entropy_bits == pytest.approx(expected, abs=1e-9)
    old = {k: v for k, v in fit[0].state().items() if k != "log_priors"}
    assert FittedProbe.from_state(old, "cpu").log_priors is None
