"""The worker's breaker: what hangs is tried by one push at a time, and what keeps failing now and then."""

from dataclasses import replace

import pytest

from chalicelib.core.breaker import FAILS, MAX_FAILURES, MAX_HANGS, WorkerBreaker
from chalicelib.settings import Settings, load
from tests.simulator.simulated_world import ENVIRON

OPEN_SECONDS, PAUSE_SECONDS = 30.0, 45.0
ONE, OTHER, ELSEWHERE = "https://a.example/1", "https://a.example/2", "https://b.example/1"


@pytest.fixture
def settings() -> Settings:
    return load({**ENVIRON, "BREAKER_OPEN_SECONDS": str(OPEN_SECONDS), "MAX_DELIVERY_ATTEMPTS": "45"})


def push(breaker: WorkerBreaker, url: str, at: float, *, seconds: float, failed: bool = True) -> bool:
    return breaker.record(url, at, at + seconds, failed=failed, hung=seconds > 1, pause_seconds=PAUSE_SECONDS)


def may_push(breaker: WorkerBreaker, url: str, now: float, settings: Settings, **options: float) -> bool:
    return breaker.refusal(url, now, settings, **options) is None


def hang(breaker: WorkerBreaker, url: str, *, times: int = MAX_HANGS) -> list[bool]:
    """Let pushes that were started at the same time hang for 10 s; return which show that the URL hangs."""
    return [push(breaker, url, 100, seconds=10) for _ in range(times)]


def test_what_hangs_is_tried_once_in_the_open_time_and_one_success_ends_it(settings: Settings) -> None:
    breaker = WorkerBreaker()
    assert may_push(breaker, ONE, 100, settings)
    assert hang(breaker, ONE) == [False] * (MAX_HANGS - 1) + [True]
    assert not may_push(breaker, ONE, 110 + PAUSE_SECONDS - 1, settings)

    assert may_push(breaker, ONE, 110 + PAUSE_SECONDS, settings)
    assert push(breaker, ONE, 160, seconds=10)
    assert not may_push(breaker, ONE, 170 + PAUSE_SECONDS - 1, settings)
    assert may_push(breaker, ONE, 170 + PAUSE_SECONDS, settings)
    assert not push(breaker, ONE, 220, seconds=0, failed=False)
    assert [may_push(breaker, ONE, 220, settings) for _ in range(2)] == [True, True]
    assert not push(breaker, ONE, 230, seconds=10)  # one push that hangs says nothing


def test_of_all_that_hangs_one_is_tried_at_a_time_and_the_next_at_once_after_a_success(settings: Settings) -> None:
    breaker = WorkerBreaker()
    hang(breaker, ONE)
    hang(breaker, ELSEWHERE)
    assert [may_push(breaker, url, 200, settings) for url in (ONE, ELSEWHERE)] == [True, False]

    push(breaker, ONE, 200, seconds=0, failed=False)
    assert may_push(breaker, ELSEWHERE, 200, settings)


def test_a_host_that_hangs_stops_its_urls_but_not_one_that_works(settings: Settings) -> None:
    breaker = WorkerBreaker()
    push(breaker, ONE, 50, seconds=0, failed=False)
    hang(breaker, OTHER)

    assert not may_push(breaker, "https://a.example/new", 120, settings)
    assert may_push(breaker, "https://a.example:444/new", 120, settings)
    assert may_push(breaker, ONE, 120, settings)
    push(breaker, ONE, 120, seconds=0, failed=False)
    assert may_push(breaker, "https://a.example/new", 120, settings)


def test_pushes_that_hang_beside_one_that_succeeds_do_not_count(settings: Settings) -> None:
    breaker = WorkerBreaker()
    push(breaker, ONE, 100, seconds=0.2, failed=False)
    hang(breaker, ONE, times=10)
    assert may_push(breaker, ONE, 110, settings)


def test_a_push_that_fails_slowly_counts_and_one_that_fails_fast_ends_the_row(settings: Settings) -> None:
    breaker = WorkerBreaker()
    hang(breaker, ONE, times=MAX_HANGS - 1)
    push(breaker, ONE, 110, seconds=0.1)
    hang(breaker, ONE, times=MAX_HANGS - 1)
    assert may_push(breaker, ONE, 120, settings)


def test_what_another_container_saw_hang_is_tried_when_it_says_so(settings: Settings) -> None:
    breaker = WorkerBreaker()
    assert not may_push(breaker, ONE, 100, settings, not_before=130)
    assert [may_push(breaker, ONE, 130, settings, not_before=130) for _ in range(2)] == [True, False]


def test_what_keeps_failing_is_tried_once_in_the_open_time_and_one_success_ends_it(settings: Settings) -> None:
    breaker = WorkerBreaker()
    for _ in range(MAX_FAILURES):
        assert may_push(breaker, ONE, 100, settings)
        push(breaker, ONE, 100, seconds=0.1)
    assert breaker.refusal(ONE, 100 + OPEN_SECONDS, settings) == FAILS
    assert may_push(breaker, OTHER, 100 + OPEN_SECONDS, settings)
    short = replace(settings, max_delivery_attempts=12)  # at least 17 minutes
    assert may_push(breaker, ONE, 100 + OPEN_SECONDS, short)

    hang(breaker, ELSEWHERE)  # the trials of what hangs delay no other
    assert [may_push(breaker, url, 131, settings) for url in (ELSEWHERE, ONE, ONE)] == [False, True, False]
    push(breaker, ONE, 131, seconds=0.1)
    assert not may_push(breaker, ONE, 131 + OPEN_SECONDS, settings)
    push(breaker, ONE, 162, seconds=0.1, failed=False)
    assert [may_push(breaker, ONE, 162, settings) for _ in range(2)] == [True, True]
