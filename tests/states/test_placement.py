"""Where hidden states are kept, chosen from what they need and what there is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from s3prl_mi.states.placement import Options, _left_by_control_groups, choose, free_memory

NEEDS = {0: 40, 1: 40, 2: 30, 3: 30}


def options(disk: int = 1000, memory: int = 0, **more) -> Options:
    made = Options(
        needs=NEEDS,
        disk=disk,
        memory=memory,
        most_memory=memory,
        cheap=None,
        why_no_disk="the disk is small",
        divisible=True,
    )
    return replace(made, **more)


def test_auto_takes_the_disk_where_states_fit():
    for memory in (0, 10**6):
        choice = choose("auto", options(disk=140, memory=memory))
        assert (choice.mode, choice.scratch, choice.groups, choice.reason) == (
            "disk",
            "disk",
            ((0, 1, 2, 3),),
            None,
        )


def test_auto_takes_memory_where_the_disk_gives_too_little_and_memory_enough():
    choice = choose("auto", options(disk=139, memory=140))
    assert (choice.mode, choice.reason) == ("memory", "the disk is small")


def test_auto_takes_memory_for_what_is_cheap_and_small():
    assert choose("auto", options(memory=140, cheap="fbank is fast")).reason == "fbank is fast"
    assert choose("auto", options(memory=140, cheap="fbank is fast")).mode == "memory"
    assert choose("auto", options(memory=139, cheap="fbank is fast")).mode == "disk"


def test_auto_leaves_what_is_there_where_it_is():
    assert choose("auto", options(disk=0, cheap="fbank is fast", memory=10**6)).mode == "memory"
    choice = choose("auto", options(disk=0, cheap="x", needs=dict.fromkeys(NEEDS, 0)))
    assert (choice.mode, choice.reason) == ("disk", None)


@pytest.mark.parametrize(
    ("disk", "memory", "scratch", "groups"),
    [
        (80, 0, "disk", ((0, 1), (2, 3))),
        (75, 0, "disk", ((0,), (1, 2), (3,))),
        (40, 0, "disk", ((0,), (1,), (2,), (3,))),
        (40, 80, "memory", ((0, 1), (2, 3))),
        (80, 80, "memory", ((0, 1), (2, 3))),
        (110, 80, "memory", ((0, 1), (2, 3))),
        (80, 40, "disk", ((0, 1), (2, 3))),
    ],
)
def test_auto_recomputes_where_neither_suffices_in_few_groups(disk, memory, scratch, groups):
    choice = choose("auto", options(disk, memory))
    assert (choice.mode, choice.scratch, choice.groups) == ("recompute", scratch, groups)


def test_a_layer_that_fits_nowhere_leaves_no_choice():
    assert choose("auto", options(39, 39)) is None
    assert choose("recompute", options(39, 39)) is None


def test_the_weighted_sum_is_not_divided():
    assert choose("auto", options(139, 139, divisible=False)) is None
    assert choose("auto", options(139, 140, divisible=False)).mode == "memory"
    assert choose("recompute", options(140, 0, divisible=False)).groups == ((0, 1, 2, 3),)


def test_what_is_asked_for_is_taken_or_refused():
    assert choose("disk", options(140, 10**6, cheap="x")).mode == "disk"
    assert choose("disk", options(139, 10**6)) is None
    assert choose("memory", options(10**6, 140)).mode == "memory"
    assert choose("memory", options(10**6, 139)) is None
    assert choose("recompute", options(10**6, 10**6)).groups == ((0, 1, 2, 3),)


def test_free_memory_is_that_of_the_control_group(tmp_path):
    for group, limit, current in (("a/b", "1000", 400), ("a", "900", 500), ("", "max", 0)):
        folder = tmp_path / "fs" / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{current}\n")
        (folder / "memory.stat").write_text("anon 1\ninactive_file 100\n")
    old = tmp_path / "fs" / "memory" / "job"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text("300")
    (old / "memory.usage_in_bytes").write_text("200")
    (old / "memory.stat").write_text("total_inactive_file 50")
    (tmp_path / "self").write_text("0::/a/b\n4:memory:/job\n3:cpuset:/\n")
    assert sorted(_left_by_control_groups(tmp_path / "self", tmp_path / "fs")) == [150, 500, 700]
    assert _left_by_control_groups(tmp_path / "absent") == []
    assert 1 << 20 < free_memory() < 1 << 50
