import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from chalicelib import listing, schedules
from chalicelib.errors import InvalidRequestError, StorageUnavailableError
from chalicelib.events import Event, Status, rfc3339
from chalicelib.listing import MAX_PAGE_BYTES, Page
from chalicelib.services import Services
from chalicelib.settings import load
from chalicelib.store import SHARDS, partitions
from tests.crash.simulated_world import DLQ, ENVIRON, INBOX
from tests.support.fake_aws import FakeDynamoDB, FakeSQS
from tests.support.world import START, Clock

DAY = 86_400
MIB = 1024 * 1024


@pytest.fixture
def dynamodb(clock: Clock) -> FakeDynamoDB:
    return FakeDynamoDB(clock)


@pytest.fixture
def services(dynamodb: FakeDynamoDB, clock: Clock) -> Services:
    return Services(load(ENVIRON), make_client=lambda _: dynamodb, clock=clock)


def make_event(number: int, **changes: Any) -> Event:
    """Return an event of any status; three in a row share their time, and one in fifty is of a rare type."""
    event = Event(
        event_id=f"evt_{number * 0x9E3779B97F4A7C15 % 2**128:032x}",
        event_type="rare" if number % 50 == 7 else "common",
        status=list(Status)[number % 3],
        created_at=rfc3339(START - 1000 + number // 3),
        created_by="acme",
        expires_at=int(START) + 1000,
        response_bytes=10,
        claim_id="c" * 32,
    )
    return replace(event, **changes)


def store_all(services: Services, events: Iterable[Event]) -> list[Event]:
    """Store events, and return them the oldest first."""
    stored = list(events)
    assert all(services.store.put(event).applied for event in stored)
    return sorted(stored, key=lambda event: event.sort_key)


def walk(services: Services, *, inbox: bool = False, **parameters: object) -> list[Page]:
    """Return all pages of a listing, requested as a caller does."""
    fields = {name: [str(value)] for name, value in parameters.items()}
    query = listing.INBOX if inbox else listing.EVENTS
    pages: list[Page] = []
    cursor: str | None = ""
    while cursor is not None:
        events, after = listing.page(services, listing.parse({**fields, "cursor": [cursor]}, query))
        pages.append((events, after))
        cursor = listing.encode_cursor(after)
        assert len(pages) < 2000
        assert len(events) <= int(str(parameters.get("limit", 50)))
    return pages


def ids(events: Iterable[Event]) -> list[str]:
    return [event.event_id for event in events]


@pytest.mark.parametrize("page_rows", [sys.maxsize, 5])
@pytest.mark.parametrize("limit", [1, 3, 100])
@pytest.mark.parametrize("order", ["newest", "oldest"])
def test_walking_the_pages_shows_every_event_once_in_order(
    order: str, limit: int, page_rows: int, services: Services, dynamodb: FakeDynamoDB
) -> None:
    events = store_all(services, map(make_event, range(60)))
    store_all(services, (make_event(n, event_id=f"evt_{n:032x}", expires_at=int(START)) for n in range(1, 60)))
    dynamodb.page_rows = page_rows
    undelivered = [event for event in events if event.status is not Status.DELIVERED]

    rare_failures = [event for event in events if event.event_type == "rare" and event.status is Status.FAILED]

    for inbox, filters, expected in (
        (False, {}, events),
        (True, {}, undelivered),
        (False, {"event_type": "rare", "status": "failed"}, rare_failures),
        (False, {"status": "pending"}, [event for event in events if event.status is Status.PENDING]),
    ):
        pages = walk(services, inbox=inbox, order=order, limit=limit, **filters)
        assert ids(event for found, _ in pages for event in found) == ids(
            expected if order == "oldest" else reversed(expected)
        )


def make_copy(number: int, subscription: int, **changes: Any) -> Event:
    event_id = f"cpy_{number * 0x9E3779B97F4A7C15 % 2**128:032x}"
    return make_event(number, event_id=event_id, subscription_id=f"sub_{subscription:032x}", **changes)


@pytest.mark.parametrize("filters", [{}, {"status": "failed"}, {"event_type": "rar*", "since": rfc3339(START - 990)}])
@pytest.mark.parametrize("page_rows", [sys.maxsize, 5])
@pytest.mark.parametrize("order", ["newest", "oldest"])
def test_walking_the_pages_of_a_subscription_shows_each_of_its_copies_once_in_order(
    order: str, page_rows: int, filters: dict[str, Any], services: Services, dynamodb: FakeDynamoDB
) -> None:
    copies = store_all(services, (make_copy(number, number % 4) for number in range(240)))
    store_all(services, [make_event(300), make_copy(301, 1, expires_at=int(START))])
    erased = make_copy(302, 1, status=Status.FAILED, event_type="rare")
    store_all(services, [erased])
    assert services.store.mark_erased(erased.event_id).applied
    dynamodb.page_rows = page_rows

    pages = walk(services, order=order, limit=7, subscription_id=f"sub_{1:032x}", **filters)

    expected = [
        copy
        for copy in copies
        if copy.subscription_id == f"sub_{1:032x}"
        and copy.status == filters.get("status", copy.status)
        and copy.event_type.startswith(filters.get("event_type", "*")[:-1])
        and copy.created_at >= filters.get("since", "")
    ]
    assert expected
    assert ids(event for found, _ in pages for event in found) == ids(
        expected if order == "oldest" else reversed(expected)
    )


@pytest.mark.parametrize("others", [0, 2000])
def test_a_page_of_a_subscription_reads_as_much_whatever_number_of_copies_others_have(
    others: int, services: Services, dynamodb: FakeDynamoDB
) -> None:
    store_all(services, (make_copy(number, number % 50 + 2) for number in range(others)))
    own = store_all(services, (make_copy(others + number, 1) for number in range(200)))
    read = Counter[str]()
    dynamodb.on_query = lambda rows: read.update(calls=1, rows=len(rows))

    events, after = listing.page(services, listing.parse({"subscription_id": [f"sub_{1:032x}"]}, listing.EVENTS))

    assert ids(events) == ids(reversed(own[-50:]))
    assert after
    assert read == {"calls": 1, "rows": 51}


@pytest.mark.parametrize("change", ["acknowledge", "claim"])
def test_an_event_that_the_index_shows_too_late_is_not_in_the_inbox(
    change: str, services: Services, dynamodb: FakeDynamoDB
) -> None:
    event = make_event(0, next_attempt_at=rfc3339(START), response_bytes=MAX_PAGE_BYTES)
    other = make_event(3)
    store_all(services, [event, other])
    dynamodb.index_lag_seconds = 1
    store = services.store
    assert (store.acknowledge(event.event_id) if change == "acknowledge" else store.claim(event.event_id, "d")).applied
    pages = walk(services, inbox=True)
    assert ids(event for events, _ in pages for event in events) == [other.event_id]
    assert [len(events) for events, _ in pages] == [0, 1]  # a page may be empty while there are more


def test_a_damaged_cursor_is_refused(services: Services) -> None:
    store_all(services, map(make_event, range(3)))
    cursor = listing.encode_cursor(walk(services, limit=1)[0][1])
    assert cursor
    damaged = [cursor[:at] + ("A" if cursor[at] != "A" else "B") + cursor[at + 1 :] for at in range(len(cursor))]
    for text in [*damaged, cursor[:-1], cursor + "AAAA", cursor + "\n", "é" * 96, "A" * 96, "_" * 96]:
        with pytest.raises(InvalidRequestError):
            listing.parse({"cursor": [text]}, listing.EVENTS)
    assert listing.parse({"cursor": [cursor]}, listing.EVENTS).after
    assert listing.parse({"cursor": [""]}, listing.EVENTS).after is None


def test_expired_events_in_front_are_not_read_and_a_replayed_one_is_listed(
    services: Services, dynamodb: FakeDynamoDB, clock: Clock
) -> None:
    replayed = make_event(1, status=Status.FAILED, expires_at=int(START) + DAY)
    store_all(services, [replayed, *(make_event(3 * number, expires_at=int(START) + DAY) for number in range(1, 300))])
    clock.sleep(DAY - 1000)
    assert services.store.replay(replayed.event_id, "r", expires_at=int(START) + 2 * DAY, is_pushed=False).applied
    clock.sleep(2000)
    services = replace(services, settings=replace(services.settings, event_retention_days=1))
    live = store_all(services, [make_event(900, created_at=rfc3339(clock()), expires_at=int(clock()) + DAY)])
    dynamodb.page_rows = 5
    query, calls = dynamodb.query, itertools.count()
    dynamodb.query = lambda **parameters: (next(calls), query(**parameters))[1]  # type: ignore[method-assign]

    assert services.store.get_many(ids([make_event(3), replayed])).keys() == {replayed.event_id}
    assert ids(listing.page(services, listing.INBOX)[0]) == [replayed.event_id, live[0].event_id]
    assert next(calls) == len(partitions(*listing.INBOX.statuses))


# Queries of the schedules


def test_a_sweep_queues_a_thousand_events_of_a_partition_at_most(dynamodb: FakeDynamoDB, clock: Clock) -> None:
    sqs = FakeSQS(clock)
    for url in (INBOX, DLQ):
        sqs.queue(url)
    services = Services(load(ENVIRON), make_client={"dynamodb": dynamodb, "sqs": sqs}.__getitem__, clock=clock)
    due = {"requeue_at": rfc3339(START), "next_attempt_at": rfc3339(START)}
    copies = store_all(services, (make_event(3 * n, event_id=f"cpy_{n:032x}", **due) for n in range(4400)))
    lost = make_event(3 * len(copies), **due)
    store_all(services, [lost])

    schedules.sweep(services, 60)

    queued = [json.loads(message["Body"])["event_id"] for message in sqs.messages(INBOX)]
    assert 3500 <= len(queued) <= SHARDS * 1000 + 1
    assert lost.event_id in queued


@pytest.mark.parametrize("expired", [0, 1, 100])
def test_the_oldest_pending_event_has_not_expired_is_to_be_pushed_and_no_copy(
    expired: int, services: Services, dynamodb: FakeDynamoDB
) -> None:
    dynamodb.page_rows = 5
    due = {"next_attempt_at": rfc3339(START)}
    left_out = [make_event(0), make_event(3, event_id=f"cpy_{3:032x}", **due)]
    left_out += [make_event(3 * number, expires_at=int(START), **due) for number in range(2, expired + 2)]
    store_all(services, left_out)

    def oldest(deadline: float) -> list[str]:
        found = (services.store.oldest_scheduled(key, deadline) for key in partitions(Status.PENDING))
        return [event.event_id for event in found if event]

    assert oldest(START) == []
    event, _ = store_all(services, [make_event(600, **due), make_event(600 + 3 * SHARDS, **due)])
    assert event.event_id in oldest(START)
    if expired > SHARDS * dynamodb.page_rows:
        with pytest.raises(StorageUnavailableError):
            oldest(START - 1)
