"""Several processes measure what one measures; one that fails ends the others."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from s3prl_mi import distributed
from s3prl_mi.estimators import probe
from s3prl_mi.estimators.frames import Frames, Owners
from s3prl_mi.estimators.mi_supervised import fit_supervised, score_supervised
from s3prl_mi.estimators.mi_views import fit_codebooks_of_view, fit_views, score_views


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
        return dict(results.get(timeout=50) for _ in range(size if expect is None else expect))
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

UTTERANCES, LENGTH, DIM, CLASSES = 24, 30, 12, 6


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
    probe.ROUNDS, probe.ROUND_STEPS = 2, 5  # quick
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
    kinds = ["logistic", "mlp"]
    found = score_supervised(
        fit_supervised(fa, fy, CLASSES, groups, [0, 1], kinds, "default", "cpu"),
        ea,
        ey,
        CLASSES,
        [0, 1],
        "default",
        fa.total,
    )
    books = fit_codebooks_of_view(fb, 8, [0, 1])
    found += score_views(
        fit_views(fa, fb, books, groups, [0, 1], kinds, "default"), books, ea, eb, [0, 1], "default", fa.total
    )
    return [
        (e.mi_lower_bound_bits, e.entropy_bits, e.accuracy, e.fit_frames, e.eval_frames, *e.class_bits[:5])
        for group in found
        for e in group
    ]


def test_estimates_on_two_ranks_are_those_on_one():
    alone = estimates([list(range(UTTERANCES))])
    odd = [[u for u in range(UTTERANCES) if u % 3 == 0], [u for u in range(UTTERANCES) if u % 3]]
    answers = ranks(2, estimates, odd)
    assert answers[0] == answers[1]
    np.testing.assert_allclose(answers[0], alone, atol=ROUNDING)


def test_a_rank_without_frames_waits_for_nobody():
    alone = estimates([list(range(UTTERANCES))])
    answers = ranks(3, estimates, [[], list(range(5)), list(range(5, UTTERANCES))])
    np.testing.assert_allclose(answers[2], alone, atol=ROUNDING)
