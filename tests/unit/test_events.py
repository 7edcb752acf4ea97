import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chalicelib.events import Attempt, Event, Reason, Status, DeliveredVia, unix_seconds, rfc3339

DUE = "2026-11-25T00:00:09.500000Z"
CREATED = "2026-11-25T00:00:00.000001Z"
PENDING = replace(
    Event("evt_0123456789abcdef0123456789abcdef", "order.created", Status.PENDING, CREATED, "açme", 1, 1),
    payload='{"z":1,"a":"é😀","n":12345678901234567890}',
    body_hash="hash",
    delivery_attempts=2,
    attempts=(
        Attempt("2026-11-25T00:00:00.000002Z", "retry", 503, "the receiver answered 503", 12),
        Attempt("2026-11-25T00:00:01.000000Z", "retry", None, "no answer in time", 10_000),
    ),
    next_attempt_at=DUE,
    requeue_at=DUE,
    claim_id="claim",
)
DELIVERED = replace(PENDING, status=Status.DELIVERED, next_attempt_at=None, delivered_at=DUE, delivered_via=DeliveredVia.PUSH)
FAILED = replace(PENDING, status=Status.FAILED, next_attempt_at=None, reason=Reason.PERMANENT, failed_at=DUE)

HEAD = '{"event_id":"evt_0123456789abcdef0123456789abcdef","event_type":"order.created",'
STATE = (
    '"status":"pending","created_at":"2026-11-25T00:00:00.000001Z","delivered_at":null,'
    '"next_attempt_at":"2026-11-25T00:00:09.500000Z","delivery_attempts":2,"delivered_via":null,"created_by":"açme",'
    '"message":"Attempt 2 did not succeed; the next is due at 2026-11-25T00:00:09.500000Z."'
)
BODY = '"payload":{"z":1,"a":"é😀","n":12345678901234567890},"metadata":null,'
ATTEMPTS = (
    ',"attempts":[{"at":"2026-11-25T00:00:00.000002Z","outcome":"retry","status_code":503,'
    '"error":"the receiver answered 503","duration_ms":12},{"at":"2026-11-25T00:00:01.000000Z","outcome":"retry",'
    '"status_code":null,"error":"no answer in time","duration_ms":10000}]'
)


@pytest.mark.parametrize(
    ("body", "attempts", "expected"),
    [
        (False, False, HEAD + STATE + "}"),
        (True, False, HEAD + BODY + STATE + "}"),
        (True, True, HEAD + BODY + STATE + ATTEMPTS + "}"),
    ],
)
def test_a_caller_sees_these_members_in_this_order_and_nothing_inner(body: bool, attempts: bool, expected: str) -> None:
    assert PENDING.to_json(body=body, attempts=attempts) == expected


def test_a_receiver_gets_what_was_posted_and_nothing_of_its_fate() -> None:
    expected = HEAD + BODY + '"created_at":"2026-11-25T00:00:00.000001Z"}'
    assert PENDING.push_body() == expected.encode()


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (PENDING, ("pending", None, DUE, None)),
        (DELIVERED, ("delivered", DUE, None, "push")),
        (replace(DELIVERED, delivered_via=DeliveredVia.PULL), ("delivered", DUE, None, "pull")),
        (FAILED, ("failed", None, None, None)),
    ],
)
def test_a_status_shows_its_own_times_and_null_for_the_others(event: Event, expected: tuple[str | None, ...]) -> None:
    seen = json.loads(event.to_json())
    assert tuple(seen[name] for name in ("status", "delivered_at", "next_attempt_at", "delivered_via")) == expected


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (replace(PENDING, delivery_attempts=0, attempts=()), ["first attempt", DUE]),
        (replace(PENDING, claimed_until=DUE), ["Attempt 2", "not recorded yet"]),
        (PENDING, ["Attempt 2 did not succeed", DUE]),
        (DELIVERED, ["Delivered", "attempt 2"]),
        (replace(DELIVERED, delivered_via=DeliveredVia.PULL), ["consumer acknowledged"]),
        (FAILED, ["refused", "attempt 2", "inbox"]),
        (replace(FAILED, reason=Reason.EXHAUSTED), ["none of 2 attempts"]),
    ],
)
def test_the_message_is_one_sentence_that_says_how_it_stands(event: Event, words: list[str]) -> None:
    message = event.message()
    assert [word for word in words if word not in message] == []
    assert re.fullmatch(r"[A-Z].*\.", message)
    assert not re.search(r"[.!?] ", message)


def test_the_last_25_attempts_are_kept_the_newest_last() -> None:
    event = replace(PENDING, attempts=())
    for number in range(30):
        event = event.with_attempt(Attempt(rfc3339(number), "retry", 500, None, number))
    assert [attempt.duration_ms for attempt in event.attempts] == list(range(5, 30))


@pytest.mark.parametrize(
    ("claimed_until", "claimed"),
    [(None, False), ("2026-11-25T00:00:09.499999Z", False), (DUE, True), ("2026-11-25T00:00:10.000000Z", True)],
)
def test_an_event_is_claimed_until_its_moment_has_passed(claimed_until: str | None, claimed: bool) -> None:
    assert replace(PENDING, claimed_until=claimed_until).is_claimed(DUE) is claimed


MICROSECONDS = st.integers(0, 4_000_000_000 * 10**6)


@settings(deadline=None)
@given(MICROSECONDS, MICROSECONDS)
def test_times_are_rfc_3339_of_one_width_that_sort_as_time_does(one: int, other: int) -> None:
    first, second = rfc3339(one / 10**6), rfc3339(other / 10**6)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", first)
    assert datetime.fromisoformat(first) == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=one)
    assert (first < second) == (one < other)
    assert rfc3339(unix_seconds(first)) == first
