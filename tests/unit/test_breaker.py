"""The breaker's arithmetic: when a destination opens, and who makes the next trial."""

import pytest

from chalicelib.core import breaker as module
from chalicelib.core.breaker import Breaker
from chalicelib.core.outcome import MAX_RETRY_AFTER_SECONDS, Outcome, PushResult

OPEN_SECONDS = 30.0
REST = 5  # a rest is as long as 2 + 6 * 0.5 failed trials
ONE = "sub_1 https://a.example"
OTHER = "sub_2 https://a.example"
THIRD = "webhook https://a.example"
DELIVERED = PushResult(Outcome.DELIVERED, status_code=200)
REFUSED = PushResult(Outcome.FAILED, status_code=422)
FAILED = PushResult(Outcome.RETRY, status_code=503)
THROTTLED = PushResult(Outcome.RETRY, status_code=429)


@pytest.fixture
def breaker() -> Breaker:
    return Breaker(patience_seconds=15, random=lambda: 0.5)


def push(
    breaker: Breaker, destination: str, at: float, *, seconds: float, result: PushResult = FAILED
) -> None:
    breaker.record(destination, at, at + seconds, result, OPEN_SECONDS)


def open_at(breaker: Breaker, destination: str, now: float) -> None:
    for _ in range(2):
        push(breaker, destination, now - 10, seconds=10)


def test_a_destination_opens_when_its_failures_wasted_too_much_time_and_no_other_with_its_url(
    breaker: Breaker,
) -> None:
    push(breaker, ONE, 100, seconds=14.9)
    assert breaker.acquire(ONE, 115) == 0
    assert breaker.failures(ONE) == 1

    push(breaker, ONE, 115, seconds=0.1)
    assert breaker.acquire(ONE, 115.1) == pytest.approx(OPEN_SECONDS)
    assert breaker.acquire(OTHER, 115.1) == 0


@pytest.mark.parametrize("result", [DELIVERED, REFUSED])
def test_a_final_response_begins_the_count_anew(breaker: Breaker, result: PushResult) -> None:
    push(breaker, ONE, 100, seconds=14)
    push(breaker, ONE, 114, seconds=1, result=result)
    push(breaker, ONE, 115, seconds=14)
    assert breaker.acquire(ONE, 129) == 0
    assert breaker.failures(ONE) == 1


def test_failures_that_began_before_the_latest_success_do_not_count(breaker: Breaker) -> None:
    push(breaker, ONE, 100, seconds=1, result=DELIVERED)
    open_at(breaker, ONE, 110)
    assert breaker.acquire(ONE, 110) == 0
    assert breaker.failures(ONE) == 0


@pytest.mark.parametrize("result", [DELIVERED, REFUSED, THROTTLED])
def test_one_trial_is_made_after_the_open_time_and_a_response_closes(
    breaker: Breaker, result: PushResult
) -> None:
    push(breaker, ONE, 100, seconds=15)
    trial_at = 115 + REST * 15
    assert breaker.acquire(ONE, trial_at - 1) == 1
    assert breaker.acquire(ONE, trial_at) == 0
    assert breaker.acquire(ONE, trial_at + 1) == 19

    push(breaker, ONE, trial_at, seconds=2, result=result)
    assert [breaker.acquire(ONE, trial_at + 2) for _ in range(2)] == [0, 0]


def test_too_many_requests_count_as_nothing_while_it_is_closed(breaker: Breaker) -> None:
    push(breaker, ONE, 100, seconds=14)
    push(breaker, ONE, 114, seconds=5, result=THROTTLED)
    assert breaker.acquire(ONE, 119) == 0
    assert breaker.failures(ONE) == 1
    push(breaker, ONE, 119, seconds=1)
    assert breaker.acquire(ONE, 120) > 0


def test_a_trial_that_is_never_recorded_is_followed_by_another(breaker: Breaker) -> None:
    open_at(breaker, ONE, 110)
    assert breaker.acquire(ONE, 200) == 0
    assert [breaker.acquire(ONE, now) for now in (219, 220)] == [1, 0]


def test_a_trial_that_fails_is_followed_by_a_rest_for_all_that_are_open(breaker: Breaker) -> None:
    open_at(breaker, ONE, 110)
    open_at(breaker, OTHER, 110)
    assert breaker.acquire(ONE, 300) == 0
    push(breaker, ONE, 300, seconds=10)
    assert breaker.acquire(THIRD, 306) == 0
    push(breaker, THIRD, 306, seconds=4)
    assert breaker.acquire(OTHER, 310) == REST * 10


def test_a_trial_that_succeeds_is_followed_by_the_next_at_once(breaker: Breaker) -> None:
    open_at(breaker, ONE, 110)
    open_at(breaker, OTHER, 110)
    assert breaker.acquire(ONE, 300) == 0
    push(breaker, ONE, 300, seconds=2, result=DELIVERED)
    assert breaker.acquire(OTHER, 302) == 0


def test_open_destinations_take_turns_in_the_order_in_which_they_failed(breaker: Breaker) -> None:
    for destination in (ONE, OTHER, THIRD):
        open_at(breaker, destination, 110)
    waits = [breaker.acquire(destination, 110) for destination in (ONE, OTHER, THIRD)]
    assert waits == [REST * 10, 2 * REST * 10, 3 * REST * 10]
    assert breaker.acquire(ONE, 160) == 0
    push(breaker, ONE, 160, seconds=10)
    assert breaker.acquire(ONE, 170) == 110 + 4 * REST * 10 - 170


def test_pushes_that_were_under_way_when_it_opened_are_no_trials(breaker: Breaker) -> None:
    open_at(breaker, ONE, 110)
    for _ in range(8):
        push(breaker, ONE, 105, seconds=10)
    assert breaker.acquire(ONE, 110 + REST * 10) == 0


def test_a_turn_comes_in_an_hour_however_many_are_open(breaker: Breaker) -> None:
    for number in range(100):
        open_at(breaker, f"sub_{number} https://a.example", 110)
    assert breaker.acquire("sub_99 https://a.example", 110) == MAX_RETRY_AFTER_SECONDS


def test_the_destination_used_least_recently_is_forgotten(
    breaker: Breaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_DESTINATIONS", 2)
    for destination in (ONE, OTHER):
        open_at(breaker, destination, 110)
    assert breaker.acquire(ONE, 110) > 0
    assert breaker.acquire(THIRD, 110) == 0
    assert breaker.acquire(ONE, 110) > 0
    assert breaker.acquire(OTHER, 110) == 0
