import itertools
import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from chalicelib import listing, schedules
from chalicelib.errors import InvalidRequestError, StorageUnavailableError
from chalicelib.events import DeliveredVia, Event, Reason, Status, rfc3339
from chalicelib.listing import MAX_PAGE_BYTES, Page
from chalicelib.services import Services
from chalicelib.settings import load
from chalicelib.store import SHARDS, partitions
from tests.support.fake_aws import FakeDynamoDB, FakeSQS
from tests.support.world import START, Clock

DAY = 86_400
MIB = 1024 * 1024
STATUSES = list(Status)
QUEUES = {name: f"https://sqs.test/{name}" for name in ("INBOX_QUEUE_URL", "INBOX_DLQ_URL")}
ENVIRON = {"EVENTS_TABLE_NAME": "events", **QUEUES, "ZAPIER_WEBHOOK_URL": "none", "API_KEYS": ""}


@pytest.fixture
def dynamodb(clock: Clock) -> FakeDynamoDB:
    return FakeDynamoDB(clock)


@pytest.fixture
def services(dynamodb: FakeDynamoDB, clock: Clock) -> Services:
    return Services(load(ENVIRON), make_client=lambda _: dynamodb, clock=clock)


def make_event(number: int, **changes: Any) -> Event:
    """Return an event of any status; three in a row share their time, and one in fifty is of a rare type."""
    status = changes.get("status", STATUSES[number % 3])
    event = Event(
        event_id=f"evt_{number * 0x9E3779B97F4A7C15 % 2**128:032x}",
        event_type="rare" if number % 50 == 7 else "common",
        status=status,
        created_at=rfc3339(START - 1000 + number // 3),
        created_by="acme",
        expires_at=int(START) + 1000,
        response_bytes=10,
        payload=f'{{"n":{number}}}',
        metadata='{"m":1}',
        claim_id="c" * 32,
        delivered_via=DeliveredVia.PULL if status is Status.DELIVERED else None,
        reason=Reason.PERMANENT if status is Status.FAILED else None,
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


def ids_of(pages: list[Page]) -> list[str]:
    return [event.event_id for events, _ in pages for event in events]


@pytest.mark.parametrize("page_rows", [sys.maxsize, 5])
@pytest.mark.parametrize("limit", [1, 3, 100])
@pytest.mark.parametrize("order", ["newest", "oldest"])
def test_walking_the_pages_shows_every_event_once_in_order(
    order: str, limit: int, page_rows: int, services: Services, dynamodb: FakeDynamoDB
) -> None:
    events = store_all(services, map(make_event, range(0, 180, 3)))
    store_all(services, (make_event(number + 1, expires_at=int(START)) for number in range(0, 180, 3)))
    dynamodb.page_rows = page_rows
    undelivered = [event for event in events if event.status is not Status.DELIVERED]

    rare_failures = [event for event in events if event.event_type == "rare" and event.status is Status.FAILED]

    for inbox, filters, expected in (
        (False, {}, events),
        (True, {}, undelivered),
        (False, {"event_type": "rare", "status": "failed"}, rare_failures),
    ):
        pages = walk(services, inbox=inbox, order=order, limit=limit, **filters)
        assert ids_of(pages) == ids(expected if order == "oldest" else reversed(expected))


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
    assert ids_of(pages) == [other.event_id]
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

    assert ids(listing.page(services, listing.INBOX)[0]) == [replayed.event_id, live[0].event_id]
    assert next(calls) == len(partitions(*listing.INBOX.statuses))


# Queries of the schedules


@pytest.mark.parametrize("page_rows", [sys.maxsize, 3])
def test_overdue_events_are_pending_due_and_not_to_be_pushed_by_anyone(
    page_rows: int, services: Services, dynamodb: FakeDynamoDB
) -> None:
    moments = [rfc3339(START + seconds) for seconds in (-60, -0.001, 0, 0.001, 60)]
    events = [make_event(n, requeue_at=moments[n % 5], next_attempt_at=moments[n // 5 % 5]) for n in range(150)]
    store_all(services, [*events, make_event(300, requeue_at=moments[0], next_attempt_at=None)])
    store_all(services, (replace(event, event_id=f"cpy_{event.event_id[4:]}") for event in events))
    dynamodb.page_rows = page_rows
    expected = [
        (event.event_id, event.requeue_at)
        for event in events
        if event.status is Status.PENDING and {event.requeue_at, event.next_attempt_at} <= set(moments[:3])
    ]
    found = [event for key in partitions(Status.PENDING) for event in services.store.overdue(key, 1000)]
    assert sorted((event.event_id, event.requeue_at) for event in found) == sorted(expected)
    assert sum(map(services.store.count_overdue, partitions(Status.PENDING))) == len(expected)


def test_a_sweep_queues_a_thousand_events_of_a_partition_at_most(dynamodb: FakeDynamoDB, clock: Clock) -> None:
    sqs = FakeSQS(clock)
    for url in QUEUES.values():
        sqs.queue(url)
    services = Services(load(ENVIRON), make_client={"dynamodb": dynamodb, "sqs": sqs}.__getitem__, clock=clock)
    due = {"requeue_at": rfc3339(START), "next_attempt_at": rfc3339(START)}
    copies = store_all(services, (make_event(3 * n, event_id=f"cpy_{n:032x}", **due) for n in range(4400)))
    lost = make_event(3 * len(copies), **due)
    store_all(services, [lost])

    schedules.sweep(services, 60)

    queued = [json.loads(message["Body"])["event_id"] for message in sqs.messages(QUEUES["INBOX_QUEUE_URL"])]
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
