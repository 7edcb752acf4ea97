import base64
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from chalicelib import listing
from chalicelib.store import EventStore
from chalicelib.errors import InvalidRequestError
from chalicelib.events import Event, Reason, Status, DeliveredVia, rfc3339
from chalicelib.store import SHARDS, partition_of
from chalicelib.listing import MAX_PAGE_BYTES, Page, Query
from tests.support.fake_aws import FakeDynamoDB
from tests.support.world import START, Clock, World

MIB = 1024 * 1024
STATUSES = list(Status)
Fields = dict[str, list[str]]


@pytest.fixture
def dynamodb(clock: Clock) -> FakeDynamoDB:
    return FakeDynamoDB(clock)


@pytest.fixture
def store(dynamodb: FakeDynamoDB, clock: Clock) -> EventStore:
    return EventStore(dynamodb, "events", clock=clock)


def make_event(number: int, **changes: Any) -> Event:
    """Return an event of any status; three in a row share their time, and one in fifty is of a rare type."""
    status = changes.get("status", STATUSES[number % 3])
    made = Event(
        event_id=f"evt_{number * 0x9E3779B97F4A7C15 % 2**128:032x}",
        event_type="rare" if number % 50 == 7 else "common",
        status=status,
        created_at=rfc3339(START - 1000 + number // 3),
        created_by="acme",
        expires_at=int(START) + 1000,
        size=10,
        payload=f'{{"n":{number}}}',
        metadata='{"m":1}',
        claim_id="c" * 32,
        delivered_at="then" if status is Status.DELIVERED else None,
        delivered_via=DeliveredVia.PULL if status is Status.DELIVERED else None,
        reason=Reason.PERMANENT if status is Status.FAILED else None,
    )
    return replace(made, **changes)


def store_all(store: EventStore, events: Iterable[Event]) -> list[Event]:
    """Store events, and return them the oldest first."""
    stored = list(events)
    assert all(store.put(event).applied for event in stored)
    return sorted(stored, key=lambda event: (event.created_at, event.event_id))


def walk(store: EventStore, now: float, *, inbox: bool = False, **parameters: object) -> list[Page]:
    """Return all pages of a listing, asked for as a caller does."""
    fields: Fields = {name: [str(value)] for name, value in parameters.items()}
    pages: list[Page] = []
    while not pages or pages[-1].next_cursor:
        if pages:
            fields["cursor"] = [pages[-1].next_cursor or ""]
        if inbox:
            pages.append(listing.inbox_page(store, listing.parse_inbox_query(fields), now=now))
        else:
            pages.append(listing.events_page(store, listing.parse_events_query(fields), now=now))
        assert len(pages) < 2000
        assert len(pages[-1].events) <= int(str(parameters.get("limit", 50)))
    return pages


def ids(events: Iterable[Event]) -> list[str]:
    return [event.event_id for event in events]


def ids_of(pages: list[Page]) -> list[str]:
    return [event.event_id for page in pages for event in page.events]


@pytest.mark.parametrize("rows_a_query", [sys.maxsize, 5], ids=["one query a shard", "many"])
@pytest.mark.parametrize("limit", [1, 3, 100])
@pytest.mark.parametrize("order", ["newest", "oldest"])
def test_walking_the_pages_shows_every_event_once_in_order(
    order: str, limit: int, rows_a_query: int, store: EventStore, dynamodb: FakeDynamoDB, clock: Clock
) -> None:
    events = store_all(store, map(make_event, range(160)))
    dynamodb.page_rows = rows_a_query
    pages = walk(store, clock(), order=order, limit=limit)
    assert ids_of(pages) == ids(events if order == "oldest" else reversed(events))


@pytest.mark.parametrize("limit", [2, 100])
@pytest.mark.parametrize("order", ["newest", "oldest"])
def test_walking_the_inbox_shows_everything_undelivered_once_and_whole(
    order: str, limit: int, store: EventStore, clock: Clock
) -> None:
    events = store_all(store, map(make_event, range(160)))
    waiting = [event for event in events if event.status is not Status.DELIVERED]
    shown = [event for page in walk(store, clock(), inbox=True, order=order, limit=limit) for event in page.events]
    assert shown == (waiting if order == "oldest" else waiting[::-1])


@pytest.mark.parametrize("inbox", [False, True])
def test_events_come_newest_first_and_the_inbox_oldest_first_fifty_a_page(
    inbox: bool, store: EventStore, clock: Clock
) -> None:
    events = store_all(store, (make_event(number, status=Status.PENDING) for number in range(60)))
    pages = walk(store, clock(), inbox=inbox)
    assert len(pages[0].events) == 50
    assert ids_of(pages) == ids(events if inbox else reversed(events))


def test_an_event_is_listed_as_the_index_shows_it(store: EventStore, clock: Clock) -> None:
    changes = {"delivery_attempts": 3, "next_attempt_at": "soon", "requeue_at": "later", "claimed_until": "2"}
    event = make_event(0, **changes)
    store.put(event)
    (page,) = walk(store, clock())
    # Without payload, metadata and attempts; the claim's id is nobody's business.
    assert page.events == [replace(event, payload="{}", metadata="null", claim_id=None)]


@pytest.mark.parametrize("rows_a_query", [sys.maxsize, 5])
@pytest.mark.parametrize("event_type", ["common", "rare", "unheard.of"])
@pytest.mark.parametrize("status", [None, *Status])
def test_events_are_filtered_by_status_and_type(
    status: Status | None, event_type: str, rows_a_query: int, store: EventStore, dynamodb: FakeDynamoDB, clock: Clock
) -> None:
    events = store_all(store, map(make_event, range(160)))
    dynamodb.page_rows = rows_a_query
    wanted: dict[str, Any] = {"event_type": event_type, "limit": 3} | ({"status": status} if status else {})
    expected = [event for event in events if event.event_type == event_type and status in (None, event.status)]
    assert ids_of(walk(store, clock(), **wanted, order="oldest")) == ids(expected)
    if status is None:
        expected = [event for event in expected if event.status is not Status.DELIVERED]
        assert ids_of(walk(store, clock(), **wanted, inbox=True)) == ids(expected)


@pytest.mark.parametrize("limit", [1, 4, 5, 100])
def test_a_rare_type_is_looked_for_in_large_steps(limit: int, store: EventStore, clock: Clock) -> None:
    store_all(store, (make_event(number, status=Status.PENDING, event_type="common") for number in range(1500)))
    store.put(make_event(1500, status=Status.PENDING, event_type="rare"))

    pages = walk(store, clock(), event_type="rare", limit=limit, order="oldest")

    assert (len(ids_of(pages)), len(pages)) == (1, 1)


def test_what_is_claimed_or_has_expired_is_not_in_the_inbox(store: EventStore, clock: Clock) -> None:
    changes: dict[str, dict[str, Any]] = {
        "waiting": {},
        "claimed": {"claimed_until": rfc3339(START + 10)},
        "claimed to this moment": {"claimed_until": rfc3339(START)},
        "claim ran out": {"claimed_until": rfc3339(START - 0.001)},
        "expired": {"expires_at": int(START)},
    }
    for number, change in enumerate(changes.values()):
        store.put(make_event(number, status=Status.PENDING, event_type=f"t{number}", **change))
    shown = {event.event_type for page in walk(store, clock(), inbox=True) for event in page.events}
    assert shown == {"t0", "t3"}
    listed = {event.event_type for page in walk(store, clock()) for event in page.events}
    assert listed == {"t0", "t1", "t2", "t3"}


@pytest.mark.parametrize("happens", ["acknowledge", "claim"])
def test_what_the_index_does_not_know_yet_is_not_in_the_inbox(
    happens: str, store: EventStore, dynamodb: FakeDynamoDB, clock: Clock
) -> None:
    event = make_event(0, next_attempt_at=rfc3339(START), size=MAX_PAGE_BYTES)
    other = make_event(3)
    store_all(store, [event, other])
    dynamodb.index_lag_seconds = 1
    assert (store.acknowledge(event.event_id) if happens == "acknowledge" else store.claim(event.event_id, "d")).applied
    pages = walk(store, clock(), inbox=True)
    assert ids_of(pages) == [other.event_id]
    assert [len(page.events) for page in pages] == [0, 1]  # a page may be empty while there are more


@pytest.mark.parametrize(
    ("sizes", "pages"),
    [
        ([MIB] * 5, [2, 2, 1]),
        ([MAX_PAGE_BYTES, 1], [1, 1]),
        ([MAX_PAGE_BYTES - 1, 1, 1], [2, 1]),
        ([1, 9 * MIB, 1], [1, 1, 1]),
    ],
)
def test_a_page_of_the_inbox_ends_early_at_two_and_a_half_mib(
    sizes: list[int], pages: list[int], store: EventStore, clock: Clock
) -> None:
    events = [make_event(9 * number, status=Status.FAILED, size=size) for number, size in enumerate(sizes)]
    store_all(store, events)
    walked = walk(store, clock(), inbox=True)
    assert [len(page.events) for page in walked] == pages
    assert ids_of(walked) == ids(events)
    assert [len(page.events) for page in walk(store, clock())] == [len(sizes)]  # without payloads it does not


# What is asked for

FAULTS: list[tuple[Fields, list[str]]] = [
    *(({"limit": [value]}, ["limit"]) for value in ("0", "-1", "101", "1000", "1.5", "+5", "05", " 5", "٣", "x", "")),
    *(({"order": [value]}, ["order"]) for value in ("", "Oldest", "asc", "oldest ")),
    *(({"event_type": [value]}, ["event_type"]) for value in ("a b", "é", "x" * 129, "a\n")),
    ({"limit": ["5", "5"]}, ["limit"]),
    ({"sort": ["x"], "Limit": ["5"]}, ["sort", "Limit"]),
    ({"order": ["x"], "limit": ["x"], "cursor": ["x"], "y": ["x"]}, ["y", "order", "limit", "cursor"]),
]


@pytest.mark.parametrize("parse", [listing.parse_events_query, listing.parse_inbox_query])
@pytest.mark.parametrize(("fields", "faults"), FAULTS)
def test_every_fault_of_a_query_is_named(parse: Callable[[Fields], Query], fields: Fields, faults: list[str]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse(fields)
    assert [fault.field for fault in caught.value.faults] == faults


def test_a_status_is_one_that_there_is_and_the_inbox_has_none() -> None:
    for parse, value in [(listing.parse_events_query, "Pending"), (listing.parse_inbox_query, "pending")]:
        with pytest.raises(InvalidRequestError) as caught:
            parse({"status": [value]})
        assert [fault.field for fault in caught.value.faults] == ["status"]


def test_a_damaged_cursor_is_refused(store: EventStore, clock: Clock) -> None:
    store_all(store, map(make_event, range(3)))
    cursor = walk(store, clock(), limit=1)[0].next_cursor
    assert cursor
    damaged = [cursor[:at] + ("A" if cursor[at] != "A" else "B") + cursor[at + 1 :] for at in range(len(cursor))]
    damaged += [cursor[:-1], cursor[4:], cursor + "AAAA", cursor + "\n", " " + cursor[1:], "é" * 96, "A" * 96, "x"]
    damaged += [base64.urlsafe_b64encode(bytes(72)).decode(), base64.b64encode(b"\xff" * 72).decode()]
    for text in damaged:
        with pytest.raises(InvalidRequestError) as caught:
            listing.parse_events_query({"cursor": [text]})
        assert [fault.field for fault in caught.value.faults] == ["cursor"]
    listing.parse_events_query({"cursor": [cursor]})


# What the schedules ask


@pytest.mark.parametrize("rows_a_query", [sys.maxsize, 3])
def test_overdue_is_what_is_pending_and_due_to_be_queued(
    rows_a_query: int, store: EventStore, dynamodb: FakeDynamoDB, clock: Clock
) -> None:
    moments = [rfc3339(START + seconds) for seconds in (-60, -0.001, 0, 0.001, 60)]
    events = [make_event(number, requeue_at=moments[number % 5]) for number in range(150)]
    store_all(store, events)
    dynamodb.page_rows = rows_a_query
    for shard in range(SHARDS):
        found = [row for rows in listing.overdue(store, shard, now=clock()) for row in rows]
        assert sorted(found) == sorted(
            (event.event_id, event.requeue_at)
            for event in events
            if partition_of(event.event_id, event.status) == f"pending#{shard}" and event.requeue_at in moments[:3]
        )


def test_the_oldest_pending_event_is_found_among_all(store: EventStore, clock: Clock) -> None:
    assert listing.oldest_pending(store, now=clock()) is None
    events = store_all(store, map(make_event, range(100)))
    oldest = listing.oldest_pending(store, now=clock())
    assert oldest
    assert oldest.event_id == next(event.event_id for event in events if event.status is Status.PENDING)


@pytest.mark.parametrize("expired", [1, 100])
def test_the_oldest_pending_event_is_not_one_that_has_expired(expired: int, store: EventStore, clock: Clock) -> None:
    store_all(store, (make_event(3 * number, expires_at=int(START)) for number in range(expired)))
    event = make_event(3 * expired)
    store.put(event)
    oldest = listing.oldest_pending(store, now=clock())
    assert oldest
    assert oldest.event_id == event.event_id


# On moto, which judges the expressions


@pytest.mark.parametrize("parameters", [{"limit": 9}, {"limit": 9, "event_type": "rare"}])
def test_a_real_table_gives_the_same_pages(
    parameters: dict[str, Any], shared_world: World, store: EventStore, clock: Clock
) -> None:
    events, real = [make_event(number) for number in range(30)], shared_world.services.store
    for each in (store, real):
        for event in events:
            each.put(event)
    for inbox in (False, True):
        assert walk(real, clock(), inbox=inbox, **parameters) == walk(store, clock(), inbox=inbox, **parameters)
    assert [list(listing.overdue(real, shard, now=clock())) for shard in range(SHARDS)] == [[[]]] * SHARDS


def test_a_page_is_full_although_one_shard_holds_it_all(store: EventStore) -> None:
    alike = (event for number in range(1000) if shard_of(event := make_event(number, status=Status.PENDING)) == 3)
    events = store_all(store, list(alike)[:60])

    page = listing.inbox_page(store, listing.parse_inbox_query({}), now=START)

    assert ids(page.events) == ids(events[:50])


def test_a_page_reads_no_more_of_a_long_inbox_than_it_needs(
    store: EventStore, dynamodb: FakeDynamoDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = store_all(store, (make_event(number, status=Status.PENDING) for number in range(1000)))
    query, read = dynamodb.query, []

    def counting(**parameters: Any) -> dict[str, Any]:
        answer = query(**parameters)
        read.append(answer["ScannedCount"])
        return answer

    monkeypatch.setattr(dynamodb, "query", counting)
    page = listing.inbox_page(store, listing.parse_inbox_query({}), now=START)

    assert ids(page.events) == ids(events[:50])
    assert len(read) == 2 * SHARDS
    assert sum(read) <= 3 * 50


def shard_of(event: Event) -> int:
    return int(partition_of(event.event_id, event.status).split("#")[1])
