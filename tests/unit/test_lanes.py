"""When a container takes a destination for slow, and for how long."""

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
    lanes: Lanes, *at: float, seconds: float, result: PushResult = DELIVERED, to: Target = ONE
) -> None:
    for started in at:
        lanes.record(to, started, started + seconds, result)


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
    push(lanes, 100, 101, seconds=2.5)
    push(lanes, 103, seconds=1.9)
    push(lanes, 101, 102, 103, 104.9, 104.9, seconds=2.5)
    assert not lanes.is_slow("sub_1", 105)
    push(lanes, 104.9, seconds=2.5)
    assert lanes.is_slow("sub_1", 108)


def test_ten_quick_deliveries_in_a_row_end_it(lanes: Lanes) -> None:
    lanes.remember(ONE, 100, is_slow=True)
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
    lanes.remember(ONE, 100, is_slow=True)
    assert lanes.is_slow("sub_1", 100 + MEMORY_SECONDS - 1)
    assert not lanes.is_slow("sub_1", 100 + MEMORY_SECONDS)
    lanes.remember(ONE, 200, is_slow=True)
    lanes.remember(ONE, 201, is_slow=False)
    assert not lanes.is_slow("sub_1", 202)


def test_a_mark_is_not_ended_by_what_was_read_that_is_older(lanes: Lanes) -> None:
    push(lanes, 100, 101, 102, seconds=2.5)
    lanes.remember(ONE, 114, is_slow=False)
    assert lanes.is_slow("sub_1", 114)
    lanes.remember(ONE, 115, is_slow=False)
    assert not lanes.is_slow("sub_1", 115)


def test_deliveries_before_it_was_marked_do_not_end_a_mark(lanes: Lanes) -> None:
    push(lanes, *range(100, 109), seconds=0.9)
    lanes.remember(ONE, 110, is_slow=True)
    push(lanes, 111, seconds=0.9)
    assert lanes.is_slow("sub_1", 112)


def test_deliveries_over_a_minute_apart_end_a_mark(lanes: Lanes) -> None:
    for now in range(0, 700, 70):
        lanes.remember(ONE, now, is_slow=True)
        assert lanes.is_slow("sub_1", now)
        push(lanes, now, seconds=0.9)
    assert not lanes.is_slow("sub_1", now)
