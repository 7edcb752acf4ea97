"""When a container takes a destination for slow, and for how long."""

from dataclasses import replace

import pytest

from chalicelib.core.lanes import MARK_SECONDS, MEMORY_SECONDS, Lanes
from chalicelib.core.outcome import TIMED_OUT, Outcome, PushResult
from chalicelib.core.target import Target

DELIVERED = PushResult(Outcome.DELIVERED, status_code=200)
FAILED = PushResult(Outcome.RETRY, status_code=503)
CUT_OFF = PushResult(Outcome.RETRY, error=TIMED_OUT)
ONE = Target("https://a.example", "sub_1", "", secrets=(), is_enabled=True)


@pytest.fixture
def lanes() -> Lanes:
    return Lanes()


def push(
    lanes: Lanes,
    *at: float,
    seconds: float,
    result: PushResult = DELIVERED,
    to: Target = ONE,
) -> None:
    for started in at:
        lanes.record(to, started, started + seconds, result, in_fast_lane=True)


@pytest.mark.parametrize("result, seconds", [(DELIVERED, 2.0), (FAILED, 2.0), (CUT_OFF, 0.1)])
def test_the_third_slow_push_in_a_row_makes_a_destination_slow_for_five_minutes(
    lanes: Lanes, result: PushResult, seconds: float
) -> None:
    push(lanes, 100, 101, seconds=seconds, result=result)
    assert not lanes.is_slow("sub_1", 103)
    push(lanes, 102, seconds=seconds, result=result)
    assert lanes.is_slow("sub_1", 102 + seconds + MARK_SECONDS - 1)
    assert not lanes.is_slow("sub_1", 102 + seconds + MARK_SECONDS)
    assert not lanes.is_slow("sub_2", 104)


def test_slow_pushes_that_began_before_the_latest_other_one_do_not_count(lanes: Lanes) -> None:
    push(lanes, 100, 101, seconds=2.0)
    push(lanes, 103, seconds=1.9)
    push(lanes, 101, 102, 104.9, 104.9, seconds=2.0)
    assert not lanes.is_slow("sub_1", 105)
    push(lanes, 104.9, seconds=2.0)
    assert lanes.is_slow("sub_1", 108)


def test_ten_quick_deliveries_in_a_row_end_it(lanes: Lanes) -> None:
    lanes.remember(ONE, 100, 100)
    push(lanes, *range(100, 109), seconds=0.9)
    push(lanes, 110, seconds=0.9, result=FAILED)
    push(lanes, *range(111, 120), seconds=0.9)
    push(lanes, 121, seconds=1.0)
    push(lanes, *range(122, 131), seconds=0.9)
    push(lanes, 131, seconds=2.0)
    push(lanes, *range(133, 142), seconds=0.9)
    assert lanes.is_slow("sub_1", 143)
    push(lanes, 143, seconds=0.9)
    assert not lanes.is_slow("sub_1", 144)


def test_what_was_read_is_known_for_a_minute(lanes: Lanes) -> None:
    lanes.remember(ONE, 100, 100)
    assert lanes.is_slow("sub_1", 100 + MEMORY_SECONDS - 1)
    assert not lanes.is_slow("sub_1", 100 + MEMORY_SECONDS)
    lanes.remember(ONE, 200, 200)
    lanes.remember(ONE, 201, None)
    assert not lanes.is_slow("sub_1", 202)


def test_beyond_20_000_destinations_the_oldest_is_forgotten(lanes: Lanes) -> None:
    for number in range(20_001):
        lanes.remember(replace(ONE, destination=f"sub_{number}"), 100, 100)
    assert not lanes.is_slow("sub_0", 100)
    assert lanes.is_slow("sub_1", 100)


def test_a_mark_is_not_ended_by_what_was_read_that_is_older(lanes: Lanes) -> None:
    push(lanes, 100, 101, 102, seconds=2.5)
    lanes.remember(ONE, 114, None)
    assert lanes.is_slow("sub_1", 114)
    lanes.remember(ONE, 115, None)
    assert not lanes.is_slow("sub_1", 115)


@pytest.mark.parametrize(
    "threads, seconds, is_slow",
    [(2.2, 1.9, True), (2.2, 1.0, True), (1.6, 1.9, False), (10, 0.9, False)],
)
def test_pushes_of_a_second_that_keep_two_threads_busy_make_a_destination_slow(
    lanes: Lanes, threads: float, seconds: float, is_slow: bool
) -> None:
    for number in range(round(60 * threads / seconds)):
        push(lanes, 100 + number * seconds / threads, seconds=seconds)
    assert lanes.is_slow("sub_1", 160) is is_slow


def test_while_slow_pushes_keep_two_threads_busy_one_makes_a_destination_slow(
    lanes: Lanes,
) -> None:
    for number in range(6):
        other = replace(ONE, destination=f"sub_{number}")
        push(lanes, 100, seconds=3, result=CUT_OFF, to=other)
        assert lanes.is_slow(f"sub_{number}", 103) is (number >= 3)
    healthy = replace(ONE, destination="sub_7")
    push(lanes, 102, seconds=2.2, to=healthy)  # it does not hang
    assert not lanes.is_slow("sub_7", 105)
    push(lanes, 130, seconds=3, result=CUT_OFF)
    assert not lanes.is_slow("sub_1", 133)
