import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chalicelib.events import DeliveredVia, Event, Reason, Status, rfc3339, unix_seconds

DUE = "2026-11-25T00:00:09.500000Z"
PENDING = replace(
    Event("evt_" + "0" * 32, "order.created", Status.PENDING, "2026-11-25T00:00:00.000001Z", "acme", 1, 1),
    delivery_attempts=2,
    next_attempt_at=DUE,
)
DELIVERED = replace(PENDING, status=Status.DELIVERED, delivered_via=DeliveredVia.PUSH)
FAILED = replace(PENDING, status=Status.FAILED, reason=Reason.PERMANENT)


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (replace(PENDING, delivery_attempts=0), ["first attempt", DUE]),
        (replace(PENDING, claimed_until=DUE), ["pushed or leased", DUE]),
        (replace(PENDING, next_attempt_at=None), ["inbox"]),
        (PENDING, ["Attempt 2 did not succeed", DUE]),
        (DELIVERED, ["Delivered", "attempt 2"]),
        (replace(DELIVERED, delivered_via=DeliveredVia.PULL), ["consumer acknowledged"]),
        (replace(DELIVERED, delivered_via=DeliveredVia.SUBSCRIPTIONS), ["subscription"]),
        (FAILED, ["refused", "attempt 2", "inbox"]),
        (replace(FAILED, reason=Reason.EXHAUSTED), ["attempt 2", "last"]),
    ],
)
def test_the_message_tells_the_state(event: Event, words: list[str]) -> None:
    assert [word for word in words if word not in event.message()] == []


MICROSECONDS = st.integers(0, 4_000_000_000 * 10**6)


@settings(deadline=None)
@given(MICROSECONDS, MICROSECONDS)
def test_times_are_rfc_3339_of_one_width_and_sort_as_time_does(one: int, other: int) -> None:
    first, second = rfc3339(one / 10**6), rfc3339(other / 10**6)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", first)
    assert datetime.fromisoformat(first) == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=one)
    assert (first < second) == (one < other)
    assert rfc3339(unix_seconds(first)) == first
