"""Views: patterns and shifts with known answers."""

from __future__ import annotations

import numpy as np
import pytest

from s3prl_mi.core.config import ViewConfig
from s3prl_mi.core.errors import MIError
from s3prl_mi.upstreams.families import Family
from s3prl_mi.upstreams.views import PLAIN, View, mask_pattern, resolve_views, shift_frames, shifted_rows

MASKED = Family("hubert", view="mask", mask_site="model.encoder", mask_embedding="model.mask_emb")
SHIFTED = Family("apc", view="shift")
UNKNOWN = Family("new")


def test_default_pattern_masks_the_last_30_of_every_40_frames():
    pattern = mask_pattern(400)
    assert pattern.dtype == np.bool_
    assert pattern.mean() == 0.75
    np.testing.assert_array_equal(np.flatnonzero(~pattern)[:12], [*range(10), 40, 41])


def test_pattern_of_a_short_utterance_is_the_beginning_of_a_long_one():
    np.testing.assert_array_equal(mask_pattern(57), mask_pattern(400)[:57])
    assert not mask_pattern(10).any()
    assert mask_pattern(0).shape == (0,)


@pytest.mark.parametrize(("ms", "stride", "frames"), [(60, 320, 3), (60, 160, 6), (20, 320, 1), (50, 160, 5)])
def test_shift_in_frames(ms, stride, frames):
    assert shift_frames(ms, stride) == frames


@pytest.mark.parametrize(("ms", "nearest"), [(50, "40|60"), (5, "20"), (61, "60")])
def test_shift_that_is_no_whole_number_of_frames(ms, nearest):
    with pytest.raises(MIError, match=rf"shift_ms: {ms} ms.*nearest shift is ({nearest}) ms"):
        shift_frames(ms, stride=320)


def test_shifted_rows_lie_exactly_the_shift_apart():
    rows_a, rows_b = shifted_rows(100, 6)
    np.testing.assert_array_equal(rows_b - rows_a, 6)
    assert (rows_a[0], rows_b[-1], len(rows_a)) == (0, 99, 94)
    assert all(len(rows) == 0 for rows in shifted_rows(4, 6))


@pytest.mark.parametrize(
    ("config", "family", "expected"),
    [
        (ViewConfig(), MASKED, View("mask", "latent", 40, 10)),
        (ViewConfig(), SHIFTED, View("shift", shift_ms=60.0)),
        (ViewConfig(kind="shift", shift_ms=(40.0,)), MASKED, View("shift", shift_ms=40.0)),
        (ViewConfig(kind="mask"), SHIFTED, View("mask", "waveform", 40, 10)),
        (ViewConfig(kind="mask"), UNKNOWN, View("mask", "waveform", 40, 10)),
        (ViewConfig(mask_level="waveform", mask=("15/20",)), MASKED, View("mask", "waveform", 20, 5)),
    ],
)
def test_one_view(config, family, expected):
    assert resolve_views(config, "up", family) == (expected,)


def test_a_list_is_a_sweep_without_repeats():
    masks = ViewConfig(mask=("26/40", "30/40", "26/40"))
    assert [v.describe() for v in resolve_views(masks, "up", MASKED)] == [
        "mask(latent, 26 of 40 frames)",
        "mask(latent, 30 of 40 frames)",
    ]
    shifts = ViewConfig(shift_ms=(20.0, 60.0))
    assert [v.shift_ms for v in resolve_views(shifts, "up", SHIFTED)] == [20.0, 60.0]


def test_slugs_tell_views_apart():
    views = [PLAIN, View("shift", shift_ms=60.0), View("shift", shift_ms=6.5), View("mask", "latent", 40, 10)]
    views += [
        View("mask", "waveform", 40, 10),
        View("mask", "latent", 40, 30),
        View("mask", "latent", 80, 50),
    ]
    assert len({v.slug for v in views}) == len(views)
    assert all("/" not in v.slug and " " not in v.slug for v in views)


def test_unknown_family_says_how_to_choose():
    with pytest.raises(MIError, match=r"'up' is of unknown family.*mask .*shift.*FAMILIES"):
        resolve_views(ViewConfig(), "up", UNKNOWN)


def test_latent_masks_need_a_mask_site():
    with pytest.raises(MIError, match=r"mask_level.*'up'.*no known mask site.*waveform"):
        resolve_views(ViewConfig(kind="mask", mask_level="latent"), "up", SHIFTED)


def test_describe_names_each_view():
    assert View("mask", "latent", 40, 10).describe() == "mask(latent, 30 of 40 frames)"
    assert View("mask", "waveform", 20, 15).describe() == "mask(waveform, 5 of 20 frames)"
    assert View("shift", shift_ms=60.0).describe() == "shift(60 ms)"
    assert PLAIN.describe() == "plain"


def test_only_mask_views_mask():
    assert View("mask", "latent", 4, 1).pattern(8).sum() == 6
    assert not View("shift", shift_ms=60.0).pattern(80).any()
    assert not PLAIN.pattern(80).any()
