"""The breaker's arithmetic: when a destination opens, and who makes the next trial."""

from dataclasses import replace

import pytest

from chalicelib.core import breaker as module
from chalicelib.core.breaker import Breaker
from chalicelib.core.outcome import MAX_RETRY_AFTER_SECONDS, Outcome, PushResult
from chalicelib.core.target import Target

OPEN_SECONDS = 30.0
REST = 5  # a rest is as long as 2 + 6 * 0.5 failed trials
DELIVERED = PushResult(Outcome.DELIVERED, status_code=200)
REFUSED = PushResult(Outcome.FAILED, status_code=422)
FAILED = PushResult(Outcome.RETRY, status_code=503)
THROTTLED = PushResult(Outcome.RETRY, status_code=429)


def target_of(owner: str, destination: str) -> Target:
    return Target("https://a.example", destination, owner, secrets=(), is_enabled=True)


ONE = target_of("tenant one", "sub_1")
SIBLING = target_of("tenant one", "sub_2")
OTHER = target_of("tenant other", "sub_3")
WEBHOOK = target_of("webhook", "webhook")
EDITED = replace(ONE, url="https://b.example")


@pytest.fixture
def breaker() -> Breaker:
    return Breaker(patience_seconds=15, random=lambda: 0.5)


def push(
    breaker: Breaker,
    target: Target,
    at: float,
    *,
    seconds: float,
    result: PushResult = FAILED,
    open_seconds: float = OPEN_SECONDS,
) -> None:
    breaker.record(target, at, at + seconds, result, open_seconds)


def open_at(breaker: Breaker, target: Target, now: float) -> None:
    for _ in range(2):
        push(breaker, target, now - 10, seconds=10)


def test_failures_that_wasted_too_much_time_open_one_destination_not_all_of_its_url(
    breaker: Breaker,
) -> None:
    push(breaker, ONE, 100, seconds=14.9)
    assert breaker.acquire(ONE, 115) == 0

    push(breaker, ONE, 115, seconds=0.1)
    assert breaker.acquire(ONE, 115.1) == pytest.approx(OPEN_SECONDS)
    assert breaker.acquire(SIBLING, 115.1) == 0


@pytest.mark.parametrize("result", [DELIVERED, REFUSED])
def test_a_final_response_begins_the_count_anew(breaker: Breaker, result: PushResult) -> None:
    push(breaker, ONE, 100, seconds=14)
    push(breaker, ONE, 114, seconds=1, result=result)
    push(breaker, ONE, 115, seconds=14)
    assert breaker.acquire(ONE, 129) == 0


def test_failures_that_began_before_the_latest_success_do_not_count(breaker: Breaker) -> None:
    push(breaker, ONE, 100, seconds=1, result=DELIVERED)
    open_at(breaker, ONE, 110)
    assert breaker.acquire(ONE, 110) == 0


@pytest.mark.parametrize("result, seconds", [(DELIVERED, 2.0), (REFUSED, 2.0), (THROTTLED, 0.9)])
def test_one_trial_is_made_after_the_rest_and_a_response_closes(
    breaker: Breaker, result: PushResult, seconds: float
) -> None:
    push(breaker, ONE, 100, seconds=15)
    trial_at = 115 + REST * 15
    assert breaker.acquire(ONE, trial_at - 1) == 1
    assert breaker.acquire(ONE, trial_at) == 0
    assert breaker.acquire(ONE, trial_at + 1) == 19

    push(breaker, ONE, trial_at, seconds=seconds, result=result)
    assert [breaker.acquire(ONE, trial_at + 2) for _ in range(2)] == [0, 0]


def test_too_many_requests_count_as_nothing_unless_the_answer_took_a_second(
    breaker: Breaker,
) -> None:
    push(breaker, ONE, 100, seconds=14)
    push(breaker, ONE, 114, seconds=0.9, result=THROTTLED)
    push(breaker, ONE, 115, seconds=0.9, result=THROTTLED)
    assert breaker.acquire(ONE, 119) == 0
    push(breaker, ONE, 119, seconds=1, result=THROTTLED)
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
    assert breaker.acquire(WEBHOOK, 306) == 0
    push(breaker, WEBHOOK, 306, seconds=4)
    assert breaker.acquire(OTHER, 310) == REST * 10


def test_a_trial_that_succeeds_is_followed_by_the_next_at_once_also_of_its_owner(
    breaker: Breaker,
) -> None:
    for target in (ONE, OTHER, SIBLING):
        open_at(breaker, target, 110)
    assert breaker.acquire(ONE, 300) == 0
    open_at(breaker, SIBLING, 300)
    push(breaker, ONE, 300, seconds=2, result=DELIVERED)
    assert breaker.acquire(OTHER, 302) == 0
    push(breaker, OTHER, 302, seconds=2, result=DELIVERED)
    assert breaker.acquire(SIBLING, 330) == 0


def test_what_opens_lets_the_others_of_its_owner_rest_and_nobody_else(breaker: Breaker) -> None:
    for target in (ONE, OTHER):
        open_at(breaker, target, 110)
    open_at(breaker, SIBLING, 150)
    assert breaker.acquire(OTHER, 155) == 5
    assert breaker.acquire(ONE, 165) == 150 + 2 * REST * 10 - 165
    push(breaker, target_of("tenant one", "sub_4"), 165, seconds=0, result=DELIVERED)
    assert breaker.acquire(ONE, 165) == 150 + 2 * REST * 10 - 165
    assert breaker.acquire(OTHER, 165) == 0


def fail_trials(breaker: Breaker, now: float, trials: int) -> list[float]:
    """Return how long it rests before each of so many trials, which fail."""
    rests = []
    for _ in range(trials):
        rests.append(breaker.acquire(ONE, now))
        now += rests[-1]
        push(breaker, ONE, now, seconds=10)
        now += 10
    return rests


def test_an_owner_rests_longer_with_each_trial_up_to_twice_the_number_of_owners(
    breaker: Breaker,
) -> None:
    open_at(breaker, OTHER, 110)
    open_at(breaker, ONE, 110)
    assert fail_trials(breaker, 110, 4) == [REST * 10 * turns for turns in (1, 2, 4, 4)]


def test_an_edit_does_not_keep_a_destination_closed(breaker: Breaker) -> None:
    for target in (EDITED, ONE):
        assert breaker.acquire(ONE, 100) == 0
        assert breaker.acquire(EDITED, 100) == 0
        push(breaker, target, 100, seconds=8)

    assert breaker.acquire(EDITED, 108) > 0


def test_an_edited_url_of_an_open_destination_waits_for_its_trial(breaker: Breaker) -> None:
    open_at(breaker, ONE, 110)
    assert breaker.acquire(EDITED, 110) == REST * 10
    assert breaker.acquire(EDITED, 160) == 0
    push(breaker, ONE, 105, seconds=57, result=DELIVERED)
    assert breaker.acquire(EDITED, 162) == 18
    push(breaker, EDITED, 160, seconds=10, result=DELIVERED)
    assert [breaker.acquire(EDITED, 170) for _ in range(2)] == [0, 0]


def test_pushes_that_were_under_way_when_it_opened_are_no_trials(breaker: Breaker) -> None:
    open_at(breaker, ONE, 110)
    for _ in range(8):
        push(breaker, ONE, 105, seconds=10)
    assert breaker.acquire(ONE, 110 + REST * 10) == 0


def test_a_trial_comes_in_an_hour_whatever_the_setting(breaker: Breaker) -> None:
    for _ in range(2):
        push(breaker, ONE, 100, seconds=10, open_seconds=86400)
    assert breaker.acquire(ONE, 110) == MAX_RETRY_AFTER_SECONDS


def test_of_20000_destinations_those_that_are_closed_are_forgotten_first(breaker: Breaker) -> None:
    push(breaker, ONE, 0, seconds=14)
    hung = [target_of("tenant hung", f"hung_{number}") for number in range(20_000)]
    for target in hung:
        push(breaker, target, 100, seconds=15)
    push(breaker, OTHER, 100, seconds=15)
    assert all(breaker.acquire(target, 115) for target in hung)
    assert breaker.acquire(OTHER, 115) == 0
    push(breaker, ONE, 115, seconds=14)
    assert breaker.acquire(ONE, 129) == 0


def test_what_has_hung_waits_while_its_tenant_rests(breaker: Breaker) -> None:
    push(breaker, SIBLING, 100, seconds=1)
    open_at(breaker, ONE, 110)
    assert breaker.acquire(SIBLING, 110) == 0  # it fails, but holds nobody up
    push(breaker, SIBLING, 109, seconds=1)
    rest_seconds = REST * 10
    assert breaker.acquire(SIBLING, 110) == rest_seconds
    assert breaker.acquire(SIBLING, 110 + rest_seconds) == 0
    assert breaker.acquire(OTHER, 110) == 0
    push(breaker, SIBLING, 111, seconds=1, result=DELIVERED)
    assert breaker.acquire(SIBLING, 112) == 0


def test_an_owner_rests_for_an_hour_at_most(breaker: Breaker) -> None:
    for _ in range(2):
        push(breaker, ONE, 0, seconds=1000)
    assert breaker.acquire(ONE, 1000) == MAX_RETRY_AFTER_SECONDS


def test_an_owner_is_in_trouble_for_ten_minutes_after_its_rest(breaker: Breaker) -> None:
    open_at(breaker, OTHER, 110)
    now = 110 + REST * 10 + module.TROUBLE_SECONDS + 100
    open_at(breaker, ONE, now)
    assert fail_trials(breaker, now, 3) == [REST * 10 * turns for turns in (1, 2, 2)]


def test_a_container_rests_after_the_trial_of_a_url_that_was_edited_meanwhile(
    breaker: Breaker,
) -> None:
    for target in (ONE, OTHER):
        open_at(breaker, target, 110)
    assert breaker.acquire(ONE, 300) == 0
    assert breaker.acquire(EDITED, 301) > 0
    push(breaker, ONE, 300, seconds=10)
    assert breaker.acquire(OTHER, 310) == REST * 10


def test_what_somebody_asked_for_since_the_latest_failure_is_the_trial(breaker: Breaker) -> None:
    open_at(breaker, SIBLING, 110)
    open_at(breaker, ONE, 110)
    assert breaker.acquire(ONE, 120, asked_at=99) == REST * 20 - 10  # a push failed since
    assert breaker.acquire(ONE, 120, asked_at=119) == 0
    assert breaker.acquire(OTHER, 121, asked_at=119) == 0
    assert not breaker.has_failed_since(ONE, 119)

    push(breaker, ONE, 120, seconds=10)
    assert breaker.has_failed_since(ONE, 119)
    assert breaker.acquire(OTHER, 131, asked_at=130) == 0


def test_who_asks_all_the_time_skips_one_rest_in_two_and_others_have_their_turn(
    breaker: Breaker,
) -> None:
    for target in (OTHER, ONE, SIBLING):
        open_at(breaker, target, 110)
    trials = {target.destination: 0 for target in (ONE, SIBLING, OTHER)}
    now = 110.0
    while now < 3710:
        # the tenant of two asks anew each time, and comes first
        for target, asked_at in ((ONE, now), (SIBLING, now), (OTHER, 0.0)):
            if not breaker.acquire(target, now, asked_at):
                push(breaker, target, now, seconds=10)
                trials[target.destination] += 1
                now += 10
        now += 1
    both = trials[ONE.destination] + trials[SIBLING.destination]
    assert both <= 2 * trials[OTHER.destination] + 2
    assert trials[OTHER.destination] > 10
