"""Several processes measure what one measures; one that fails ends the others."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from s3prl_mi.cli.run_downstream import main
from s3prl_mi.core import distributed
from s3prl_mi.core.errors import MIError
from s3prl_mi.core.types import SAMPLE_RATE
from s3prl_mi.data.audio import Checked
from s3prl_mi.data.utterances import Utterance
from s3prl_mi.estimators import probe
from s3prl_mi.estimators.frames import Frames, Owners
from s3prl_mi.estimators.mi_supervised import fit_supervised, score_supervised
from s3prl_mi.estimators.mi_views import fit_codebooks_of_view, fit_views, score_views
from s3prl_mi.states.extraction import Split


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def one_rank(
    rank: int, size: int, port: int, function: Callable[..., Any], arguments: Any, results: Any
) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(size),
        LOCAL_RANK=str(rank),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        S3PRL_MI_RANK_TIMEOUT="10",
    )
    try:
        if function is main:
            answer = main(*arguments)
        else:
            with distributed.session("nccl", "cpu"):
                answer = function(*arguments)
        results.put((rank, answer))
    except BaseException as error:
        results.put((rank, (type(error).__name__, str(error), traceback.format_exc())))
        raise SystemExit(1) from None


def ranks(
    size: int, function: Callable[..., Any], *arguments: Any, expect: int | None = None
) -> dict[int, Any]:
    """What each of `size` processes answers, as torchrun would start them; `expect` of them do answer."""
    context = multiprocessing.get_context("spawn")
    results, port = context.Queue(), free_port()
    started = [
        context.Process(target=one_rank, args=(r, size, port, function, arguments, results))
        for r in range(size)
    ]
    for process in started:
        process.start()
    try:
        return dict(results.get(timeout=200) for _ in range(size if expect is None else expect))
    finally:
        for process in started:
            process.join(timeout=10)
            process.kill()


# --- Tensors and objects ------------------------------------------------------------------------------------


def sums() -> Any:
    here = distributed.world()
    whole = torch.arange(6.0).view(2, 3)
    turned = (whole + here.rank).T  # not contiguous
    distributed.all_reduce_sum(turned)
    first = distributed.from_main(torch.tensor([float(here.rank)]))
    made = distributed.from_main_object(lambda: f"made by {here.rank}")
    objects = distributed.all_gather_object({"rank": here.rank})
    return (
        turned.tolist(),
        float(first),
        made,
        objects,
        distributed.total(here.rank + 1),
        distributed.is_main(),
    )


def test_sums_and_objects_are_the_same_on_every_rank():
    answers = ranks(3, sums)
    expected = (3 * torch.arange(6.0).view(2, 3) + 3).T.tolist()
    for rank in range(3):
        assert answers[rank] == (expected, 0.0, "made by 0", [{"rank": r} for r in range(3)], 6, rank == 0)


# --- Estimates ----------------------------------------------------------------------------------------------

UTTERANCES, LENGTH, DIM, CLASSES = 24, 20, 8, 5


ROUNDING = 2e-3
"""On so few frames a fit stops a step sooner or later by rounding alone; on real speech bits differ by far less."""


def speech(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Frames of two views (n_frames, dim), labels, and the utterance of each frame."""
    rng = np.random.default_rng(seed)
    n = UTTERANCES * LENGTH
    y = rng.integers(0, CLASSES, n)
    centres = np.random.default_rng(9).normal(size=(CLASSES, DIM)) * 1.5
    speaker = np.repeat(np.arange(UTTERANCES) // 4, LENGTH)
    z = centres[y] + rng.normal(size=(n, DIM)) + 0.3 * rng.normal(size=(6, DIM))[speaker]
    return (
        z.astype(np.float32),
        (centres[y] + 0.5 * rng.normal(size=(n, DIM))).astype(np.float32),
        y,
        np.repeat(np.arange(UTTERANCES), LENGTH),
    )


def estimates(shares: list[list[int]]) -> list[tuple[float, ...]]:
    """Both tasks on the utterances that fall to this rank."""
    probe.ROUNDS, probe.ROUND_STEPS = 2, 3  # quick
    mine = np.array(shares[distributed.world().rank], dtype=np.int64)
    sides = []
    for seed in (0, 1):
        a, b, y, utterance = speech(seed)
        inside = np.isin(utterance, mine)
        owners = Owners(utterance[inside], UTTERANCES)
        sides.append(
            (
                Frames([a[inside]], owners=owners),
                Frames([b[inside]], owners=owners),
                y[inside],
                utterance[inside] // 4,
            )
        )
    (fa, fb, fy, groups), (ea, eb, ey, _) = sides
    probes = fit_supervised(fa, fy, CLASSES, groups, [0], ["mlp"], "default", "cpu")
    found = score_supervised(probes, ea, ey, CLASSES, [0], "default", fa.total)
    books = fit_codebooks_of_view(fb, 8, [0, 1])
    probes = fit_views(fa, fb, books, groups, [0, 1], ["logistic"], "default")
    found += score_views(probes, books, ea, eb, [0, 1], "default", fa.total)
    return [
        (e.mi_lower_bound_bits, e.entropy_bits, e.accuracy, e.fit_frames, e.eval_frames, *e.class_bits[:5])
        for group in found
        for e in group
    ]


def test_estimates_on_several_ranks_are_those_on_one():
    alone = estimates([list(range(UTTERANCES))])
    # one rank has no frame at all
    answers = ranks(
        3, estimates, [[], list(range(0, UTTERANCES, 3)), [u for u in range(UTTERANCES) if u % 3]]
    )
    assert answers[0] == answers[1] == answers[2]
    found, expected = np.array(answers[0]), np.array(alone)
    np.testing.assert_allclose(found[:, 2], expected[:, 2], atol=5 / 480)  # accuracy: a few frames may turn
    np.testing.assert_allclose(np.delete(found, 2, 1), np.delete(expected, 2, 1), atol=ROUNDING)


# --- Whole experiments --------------------------------------------------------------------------------------


def split_of(seconds: list[float]) -> Split:
    utterances = [Utterance(f"u{n:02d}", Path(f"{n}.flac"), "s", None, None) for n in range(len(seconds))]
    lengths = {u.id: round(s * SAMPLE_RATE) for u, s in zip(utterances, seconds, strict=True)}
    checked = Checked(utterances, [("bad", "empty")], sum(seconds), lengths, Counter(), 0)
    return Split("s", utterances, checked, 0.5, len(seconds) + 1)


def test_utterances_are_shared_by_duration():
    whole = split_of([3, 5, 3, 4, 1])
    shares = [whole.share(rank, 2) for rank in range(2)]
    assert [s.seconds for s in shares] == [8.0, 8.0]
    assert [[u.id for u in s.utterances] for s in shares] == [["u01", "u02"], ["u00", "u03", "u04"]]
    assert [s.found for s in shares] == [6, 6]
    assert whole.share(0, 1) is whole
    assert whole.share(6, 7).utterances == []


@pytest.mark.parametrize(
    ("task", "mode"), [("mi_supervised", "disk"), ("mi_views", "disk"), ("mi_views", "auto")]
)
def test_an_experiment_on_two_ranks_has_the_records_of_one(run, task, mode):
    assert run(task, name="alone", store__root=str(run.folder / "alone-store"), store__mode=mode) == 0
    words = run.command(task, name="shared", store__mode=mode)
    assert ranks(2, main, words) == {0: 0, 1: 0}
    alone, shared = run.records("alone"), run.records("shared")
    assert len(shared) == len(alone) == len({r.identity() for r in shared}) > 0
    for one, two in zip(alone, shared, strict=True):
        assert one.identity() == two.identity()
        assert two.mi_lower_bound_bits == pytest.approx(one.mi_lower_bound_bits, abs=ROUNDING)
        for counted in (
            "fit_frames",
            "eval_frames",
            "utterances",
            "unlabelled_frames",
            "unseen_frames",
            "labels",
        ):
            assert getattr(one, counted) == getattr(two, counted)
    stored = [p for p in (run.folder / "store").glob("*/*/manifest.json")]
    assert len(stored) == 2 * len(list((run.folder / "alone-store").glob("*/*/manifest.json")))
    assert (len(stored) > 0) == (mode == "disk")


# --- Failures -----------------------------------------------------------------------------------------------


def mistake_on_one() -> Any:
    try:
        with distributed.together():
            if distributed.world().rank == 1:
                raise MIError("alignments: no such folder")
    except MIError as error:
        return type(error).__name__, str(error), distributed.total(1)


def test_a_mistake_on_one_rank_is_one_on_all_and_they_go_on():
    answers = ranks(2, mistake_on_one)
    assert answers[1] == ("MIError", "alignments: no such folder", 2)
    assert answers[0] == ("ElsewhereError", "alignments: no such folder", 2)


def dies(how: str) -> None:
    if distributed.world().rank == 1:
        if how == "killed":
            os._exit(9)
        raise ValueError("a bug") if how == "bug" else MIError("a mistake")
    distributed.all_reduce_sum(torch.zeros(3))


@pytest.mark.parametrize(
    ("how", "expected"),
    [("killed", "lost the others"), ("bug", "has failed (ValueError: a bug)"), ("mistake", "a mistake")],
)
def test_a_rank_that_dies_ends_the_others_with_a_message(how, expected):
    kind, message, _ = ranks(2, dies, how, expect=1 if how == "killed" else 2)[0]
    assert kind == "RankError"
    assert expected in message
    assert ("-a" in message) == (how != "mistake")


def test_without_a_launcher_there_is_one_process(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with distributed.session("nccl", "cpu") as here:
        assert (here.size, distributed.is_main()) == (1, True)
        tensor = torch.ones(2)
        assert distributed.all_reduce_sum(tensor) is tensor
        assert distributed.all_gather_object("x") == ["x"]
        with pytest.raises(MIError, match="as it is"), distributed.together():
            raise MIError("as it is")
