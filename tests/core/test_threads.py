"""Work beside the forward pass: in order, bounded, and no error lost."""

from __future__ import annotations

import threading

import pytest

from s3prl_mi.core.threads import BackgroundWriter, prefetch


def test_ahead_gives_results_in_order():
    assert list(prefetch(range(20), lambda n: n * n)) == [n * n for n in range(20)]


def test_ahead_goes_no_further_than_it_may():
    started: list[int] = []
    results = prefetch(range(100), lambda n: started.append(n) or n, depth=2)
    assert next(results) == 0
    results.close()
    assert set(started) <= {0, 1, 2}


def test_ahead_hands_over_an_error_in_its_place():
    def work(n: int) -> int:
        if n == 2:
            raise OSError("gone")
        return n

    results = prefetch(range(5), work)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(OSError, match="gone"):
        next(results)


def test_background_does_jobs_in_order_in_one_other_thread():
    done: list[int] = []
    threads: set[int] = set()
    with BackgroundWriter() as background:
        for n in range(20):
            background.submit(lambda n=n: (done.append(n), threads.add(threading.get_ident())))
    assert done == list(range(20))
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def fail() -> None:
    raise OSError("disk full")


def test_an_error_background_shows_and_nothing_is_done_after_it():
    done: list[int] = []
    with pytest.raises(OSError, match="disk full"), BackgroundWriter(depth=1) as background:  # noqa: PT012
        background.submit(lambda: done.append(0))
        background.submit(fail)
        for _ in range(3):
            background.submit(lambda: done.append(1))
    assert done == [0]


def test_an_error_of_the_last_job_shows():
    with pytest.raises(OSError, match="disk full"), BackgroundWriter() as background:
        background.submit(fail)


def test_what_was_handed_over_before_an_interruption_is_done():
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt), BackgroundWriter(depth=3) as background:  # noqa: PT012
        for n in range(3):
            background.submit(lambda n=n: done.append(n))
        raise KeyboardInterrupt
    assert done == [0, 1, 2]
