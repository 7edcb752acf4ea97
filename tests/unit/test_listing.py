import json
import sys
import threading
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from chalicelib.core.event import Event, Status
from chalicelib.core.invocation import Invocation
from chalicelib.core.store import SHARDS, compressed, partitions
from chalicelib.deps import Services
from chalicelib.events import erasure, inbox, listing, replay
from chalicelib.events.listing import MAX_PAGE_BYTES, Page
from chalicelib.infra.errors import StorageUnavailableError
from chalicelib.infra.times import rfc3339
from chalicelib.operations import schedules
from chalicelib.settings import load
from chalicelib.web.validation import PARAMETERS, encode_cursor, parse_query
from tests.conftest import Output
from tests.simulator.simulated_world import DLQ, ENVIRON, INBOX, SLOW
from tests.support.in_memory_aws import FakeDynamoDB, FakeSQS
from tests.support.world import START, Clock, Json

DAY = 86_400


@pytest.fixture
def dynamodb(clock: Clock) -> FakeDynamoDB:
    return FakeDynamoDB(clock)


@pytest.fixture
def services(dynamodb: FakeDynamoDB, clock: Clock) -> Services:
    return Services(load(ENVIRON), make_client=lambda _: dynamodb, clock=clock)


def make_event(number: int, **changes: Any) -> Event:
    """Return an event of any status; three in a row share their time, and one in fifty is of a rare
    type.
    """
    event = Event(
        event_id=f"evt_{number * 0x9E3779B97F4A7C15 % 2**128:032x}",
        event_type="rare" if number % 50 == 7 else "common",
        status=list(Status)[number % 3],
        created_at=rfc3339(START - 1000 + number // 3),
        created_by="acme",
        tenant="corp" if number % 5 else "failed",
        expires_at=int(START) + 1000,
        response_bytes=10,
        claim_id="c" * 32,
    )
    return replace(event, **changes)


def store_all(services: Services, events: Iterable[Event]) -> list[Event]:
    """Store events, and return them the oldest first."""
    stored = list(events)
    assert all(services.store.put(event, compressed(event)).applied for event in stored)
    return sorted(stored, key=lambda event: event.sort_key)


def walk(services: Services, *, inbox: bool = False, **parameters: object) -> list[Page]:
    """Return all pages of a listing, requested as a caller does."""
    fields = {name: [str(value)] for name, value in parameters.items()}
    query = listing.INBOX if inbox else listing.EVENTS
    pages: list[Page] = []
    cursor: str | None = ""
    while cursor is not None:
        values = parse_query({**fields, "cursor": [cursor]}, PARAMETERS)
        page = listing.read_page(services, replace(query, **values))
        pages.append(page)
        cursor = encode_cursor(page.next_cursor)
        assert len(pages) < 2000
        assert len(page.events) <= int(str(parameters.get("limit", 50)))
    return pages


def ids(events: Iterable[Event]) -> list[str]:
    return [event.event_id for event in events]


def make_copy(number: int, subscription: int, **changes: Any) -> Event:
    event_id = f"cpy_{number * 0x9E3779B97F4A7C15 % 2**128:032x}"
    return make_event(
        number, event_id=event_id, subscription_id=f"sub_{subscription:032x}", **changes
    )


OF_ONE = {"subscription_id": f"sub_{1:032x}"}
ASKED = [
    {},
    {"inbox": True},
    {"status": "pending"},
    {"event_type": "rare", "status": "failed"},
    OF_ONE,
    {**OF_ONE, "status": "failed"},
    {**OF_ONE, "event_type": "rar*", "since": rfc3339(START - 990)},
    {"tenant": "corp", "event_type": "rar*", "since": rfc3339(START - 990)},
    {"tenant": "failed", "include": "subject"},
    {"tenant": "failed", "status": "delivered"},
    {"tenant": "failed", "status": "failed"},
]


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("limit, page_rows", [(2, sys.maxsize), (3, 5), (100, 5)])
@pytest.mark.parametrize("order", ["newest", "oldest"])
def test_walking_the_pages_shows_everything_once_in_order(
    order: str,
    limit: int,
    page_rows: int,
    asked: Any,
    services: Services,
    dynamodb: FakeDynamoDB,
) -> None:
    copies = [make_copy(number, number % 4) for number in range(120)]
    stored = store_all(services, [*map(make_event, range(60)), *copies])
    expired = [make_event(number, expires_at=int(START)) for number in range(60, 120)]
    erased = make_copy(302, 1, status=Status.FAILED, event_type="rare")
    store_all(services, [*expired, make_copy(301, 1, expires_at=int(START)), erased])
    erasure.erase(erased.event_id, services)
    dynamodb.page_rows = page_rows

    pages = walk(services, order=order, limit=limit, **asked)

    expected = [
        event
        for event in stored
        if event.subscription_id == asked.get("subscription_id", event.subscription_id)
        and event.tenant == asked.get("tenant", event.tenant)
        and event.status == asked.get("status", event.status)
        and event.event_type.startswith(asked.get("event_type", "").rstrip("*"))
        and event.created_at >= asked.get("since", "")
        and not ("inbox" in asked and (event.is_copy or event.status is Status.DELIVERED))
    ]
    assert expected
    in_order = expected if order == "oldest" else reversed(expected)
    assert ids(event for found, _ in pages for event in found) == ids(in_order)


def test_a_page_with_payloads_of_a_tenant_fits_into_a_response(services: Services) -> None:
    """The index does not have their sizes."""
    events = [make_event(number, response_bytes=MAX_PAGE_BYTES // 2) for number in range(5, 30, 5)]
    stored = store_all(services, events)

    pages = walk(services, tenant="failed", include="payload", order="oldest")

    assert [ids(page.events) for page in pages] == [
        ids(stored[start : start + 2]) for start in range(0, 5, 2)
    ]


@pytest.mark.parametrize("change", ["acknowledge", "claim"])
def test_what_the_index_shows_too_late_is_left_out(
    change: str, services: Services, dynamodb: FakeDynamoDB
) -> None:
    event = make_event(0, next_attempt_at=rfc3339(START), response_bytes=MAX_PAGE_BYTES)
    other = make_event(3)
    store_all(services, [event, other])
    dynamodb.index_lag_seconds = 1
    if change == "acknowledge":
        inbox.acknowledge(event.event_id, services)
    else:
        assert services.store.claim(event.event_id, "d").applied
    pages = walk(services, inbox=True)
    assert ids(event for events, _ in pages for event in events) == [other.event_id]
    # a page may be empty while there are more
    assert [len(events) for events, _ in pages] == [0, 1]


def test_expired_events_are_skipped_unless_replayed(
    services: Services, dynamodb: FakeDynamoDB, clock: Clock
) -> None:
    replayed = make_event(5, status=Status.FAILED, expires_at=int(START) + DAY)
    expired = [make_event(3 * number, expires_at=int(START) + DAY) for number in range(1, 300)]
    store_all(services, [replayed, *expired])
    clock.sleep(DAY - 1000)
    settings = replace(services.settings, event_retention_days=1, webhook="none")
    services = replace(services, settings=settings)
    replay.replay(replayed, Invocation(services, clock()))
    clock.sleep(2000)
    live = make_event(900, created_at=rfc3339(clock()), expires_at=int(clock()) + DAY)
    store_all(services, [live])
    dynamodb.page_rows = 5
    reads: list[Any] = []
    dynamodb.on_query = reads.append

    assert services.store.get_many(ids([make_event(3), replayed])).keys() == {replayed.event_id}
    of_tenant = replace(listing.EVENTS, tenant="failed", order="oldest")
    assert ids(listing.read_page(services, of_tenant).events) == ids([replayed, live])
    for _ in range(2):  # the first reads for how long events are kept
        reads.clear()
        assert ids(listing.read_page(services, listing.INBOX).events) == ids([replayed, live])
    assert len(reads) == len(partitions(*listing.INBOX.status))


@pytest.mark.parametrize("fails", [False, True])
def test_who_passes_expired_rows_deletes_some(
    sweeping: Services, dynamodb: FakeDynamoDB, clock: Clock, fails: bool
) -> None:
    """Replayed events are in a partition that is read whole."""
    settings = replace(sweeping.settings, event_retention_days=1, webhook="none")
    services = replace(sweeping, settings=settings)
    for number in range(0, 180, 3):
        event = make_event(number, expires_at=int(START) + DAY)
        store_all(services, [event])
        replay.replay(event, Invocation(services, clock()))
    clock.sleep(2 * DAY)
    live = make_event(900, created_at=rfc3339(clock()), expires_at=int(clock()) + DAY)
    store_all(services, [live])

    def fail(**parameters: Any) -> Any:
        raise EndpointConnectionError(endpoint_url="https://aws.test")

    if fails:
        dynamodb.delete_item = fail  # type: ignore[method-assign]
    read: list[Json] = []
    dynamodb.on_query = read.extend
    counts = []
    for _ in range(4):
        read.clear()
        assert ids(listing.read_page(services, listing.INBOX).events) == [live.event_id]
        counts.append(len([row for row in read if row["event_id"] != live.event_id]))

    assert counts == ([60] * 4 if fails else [60, 35, 10, 0])


def test_a_sweep_deletes_expired_rows_that_it_passes(
    sweeping: Services, dynamodb: FakeDynamoDB, clock: Clock
) -> None:
    expired = store_all(sweeping, [make_copy(3 * number, 1, **OVERDUE) for number in range(400)])
    clock.sleep(2000)
    left = []
    for _ in range(2):
        schedules.sweep(sweeping)
        left.append(len(dynamodb.items))

    assert queued(sweeping) == []
    assert left == [len(expired) - SHARDS * 25 * runs for runs in (1, 2)]


def test_a_sweep_in_pull_only_mode_reads_no_events(
    sweeping: Services, dynamodb: FakeDynamoDB
) -> None:
    store_all(sweeping, [make_event(0, **OVERDUE), *(lost := copies_of(1, [1]))])
    read: list[Json] = []
    dynamodb.on_query = read.extend

    schedules.sweep(replace(sweeping, settings=replace(sweeping.settings, webhook="none")))

    assert [row["event_id"] for row in read] == queued(sweeping) == ids(lost)


def test_an_event_in_two_partitions_for_a_moment_is_listed_once(
    services: Services, dynamodb: FakeDynamoDB
) -> None:
    [event] = store_all(services, [make_event(0)])
    listing.read_page(services, listing.EVENTS)  # reads for how long events are kept, too
    query = dynamodb.query
    is_delivered = threading.Event()

    def deliver_meanwhile(**parameters: Any) -> Any:
        partition = parameters["ExpressionAttributeValues"][":partition"]["S"]
        if partition.startswith(Status.DELIVERED):
            assert is_delivered.wait(10)
        page = query(**parameters)
        if partition.startswith(Status.PENDING) and page["Count"]:
            inbox.acknowledge(event.event_id, services)
            is_delivered.set()
        return page

    dynamodb.query = deliver_meanwhile  # type: ignore[method-assign]

    assert ids(listing.read_page(services, listing.EVENTS).events) == [event.event_id]


def test_a_listing_that_takes_long_ends_with_a_cursor(
    services: Services, dynamodb: FakeDynamoDB, clock: Clock
) -> None:
    events = store_all(services, (make_event(3 * number) for number in range(200)))
    events += store_all(services, [make_event(607)])  # the rare one
    dynamodb.page_rows = 5
    dynamodb.on_query = lambda rows: clock.sleep(2)
    asked = replace(listing.EVENTS, event_type="rare", order="oldest")
    found, after = listing.read_page(services, asked)

    partition_count = len(partitions(*Status) + partitions(*Status, of_copies=True))
    assert clock() - START <= 2 * (partition_count + 3)  # a page of each, and what 5 seconds allow
    assert found == []
    assert after
    pages = walk(services, event_type="rare")
    assert events[-1].event_id in ids(event for page, _ in pages for event in page)


@pytest.mark.parametrize("limit", [3, 50])
@pytest.mark.parametrize("order", ["newest", "oldest"])
def test_a_search_that_takes_long_tells_nothing_of_other_tenants(
    order: str, limit: int, services: Services, dynamodb: FakeDynamoDB, clock: Clock
) -> None:
    tenants = ["corp", *["inc"] * 6]
    pending: Any = {"status": Status.PENDING, "expires_at": int(START) + DAY}
    events = store_all(
        services, (make_event(n, tenant=tenants[n % 7], **pending) for n in range(200))
    )
    own = [event for event in events if event.tenant == "corp"]
    dynamodb.page_rows = 5
    dynamodb.on_query = lambda rows: clock.sleep(2)

    pages = walk(services, order=order, limit=limit, tenant="corp", status="pending")

    found = ids(event for events, _ in pages for event in events)
    assert found == ids(own if order == "oldest" else reversed(own))
    cursors = [str(page.next_cursor).split("#")[-1] for page in pages]
    assert {*cursors} <= {*found, "None", f"cpy_{'0' * 32}", f"evt_{'f' * 32}"}


def test_what_dynamodb_leaves_out_is_not_taken_for_absent(
    services: Services, dynamodb: FakeDynamoDB
) -> None:
    store_all(services, map(make_event, range(9)))
    read = dynamodb.batch_get_item

    def read_some(**parameters: Any) -> Any:
        response = read(**parameters)
        [found] = response["Responses"].values()
        keys = [{"event_id": item["event_id"]} for item in found[most:]]
        del found[most:]
        return {**response, "UnprocessedKeys": {"events": {"Keys": keys}} if keys else {}}

    dynamodb.batch_get_item = read_some  # type: ignore[method-assign]

    most = 4
    assert len(listing.read_page(services, listing.INBOX).events) == 6
    most = 0  # throttled
    with pytest.raises(StorageUnavailableError):
        listing.read_page(services, listing.INBOX)


# Queries of the schedules


@pytest.fixture
def sweeping(dynamodb: FakeDynamoDB, clock: Clock) -> Services:
    sqs = FakeSQS(clock)
    for url in (INBOX, SLOW, DLQ):
        sqs.queue(url)
    return Services(
        load(ENVIRON), make_client={"dynamodb": dynamodb, "sqs": sqs}.__getitem__, clock=clock
    )


def queued(sweeping: Services) -> list[str]:
    messages = sweeping.make_client("sqs").messages(INBOX)
    return [json.loads(message["Body"])["event_id"] for message in messages]


DUE = {"next_attempt_at": rfc3339(START)}
OVERDUE = {"next_attempt_at": rfc3339(START - 60)}  # its message would have come


def copies_of(subscription: int, numbers: Iterable[int]) -> list[Event]:
    """Return copies that are overdue, the oldest first."""
    return [make_copy(3 * number, subscription, **OVERDUE) for number in numbers]


def fill(sweeping: Services, queue_url: str, messages: int) -> None:
    for _ in range(messages):
        sweeping.make_client("sqs").send_message(
            QueueUrl=queue_url, MessageBody='{"event_id": ""}', MessageAttributes={}
        )


@pytest.mark.parametrize(
    "full, visible, count",
    [
        (INBOX, 999, 2040),
        (INBOX, 1000, SHARDS * schedules.MAX_SWEPT_WHILE_LONG),
        (SLOW, 1000, 2040),
    ],
)
def test_few_overdue_copies_pass_many_and_beside_1000_messages_less_is_queued(
    sweeping: Services, full: str, visible: int, count: int
) -> None:
    fill(sweeping, full, visible)
    many = ids(store_all(sweeping, copies_of(1, range(2000))))
    few = ids(store_all(sweeping, copies_of(2, range(2000, 2040))))

    schedules.sweep(sweeping)

    sent = set(queued(sweeping)) - {""}
    assert len(sent) == count
    assert sent.issuperset(few)
    # each with its oldest
    assert count == 2040 or sent <= {*few, *many[:500]}


def test_a_sweep_whose_search_takes_long_queues_some(
    sweeping: Services, dynamodb: FakeDynamoDB, clock: Clock
) -> None:
    store_all(sweeping, copies_of(1, range(400)))
    dynamodb.page_rows = 5
    dynamodb.on_query = lambda rows: clock.sleep(5)

    schedules.sweep(sweeping)

    assert 5 <= len(queued(sweeping)) < 400


def test_what_was_stored_before_the_period_was_lowered_is_read_until_it_expires(
    sweeping: Services, clock: Clock
) -> None:
    event = make_event(0, expires_at=int(START) + 30 * DAY, **OVERDUE)
    settings = replace(sweeping.settings, event_retention_days=7)
    store_all(sweeping, [event])
    services = replace(sweeping, settings=settings)
    clock.sleep(29 * DAY)

    schedules.sweep(services)

    assert queued(services) == [event.event_id]
    assert ids(listing.read_page(services, listing.INBOX).events) == [event.event_id]


def test_a_sweep_queues_events_evenly(
    sweeping: Services, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    # The bound is lowered: thousands of items would take long.
    monkeypatch.setattr(schedules, "MAX_SWEPT", 300)
    copies = store_all(sweeping, copies_of(1, range(1400)))
    lost = make_event(3 * len(copies), **OVERDUE)
    store_all(sweeping, [lost])

    schedules.sweep(sweeping)

    assert len(queued(sweeping)) == SHARDS * 300 + 1
    assert lost.event_id in queued(sweeping)
    visible = []
    for _ in range(4):
        visible.append(len(sweeping.make_client("sqs").visible(INBOX)))
        clock.sleep(20)
    expected = [SHARDS * number for number in (0, 100, 200, 300)]
    assert visible == pytest.approx(expected, abs=SHARDS * 10 + 1)


def test_delayed_messages_are_waited_for(
    sweeping: Services, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    # The bound is lowered: thousands of items would take long.
    monkeypatch.setattr(schedules, "MAX_SWEPT", 100)
    store_all(sweeping, copies_of(1, range(280)))

    counts = []
    for now in (START, START + 59, START + 90):
        clock.now = now
        schedules.sweep(sweeping)
        counts.append(len(queued(sweeping)))

    again = SHARDS * 60  # those delayed for up to 30 s
    assert counts == [280, 280, 280 + again]


@pytest.mark.parametrize("expired", [0, 1, 100])
def test_the_oldest_pending_event_is_to_be_pushed_and_found_in_time(
    expired: int, sweeping: Services, dynamodb: FakeDynamoDB, clock: Clock, output: Output
) -> None:
    dynamodb.page_rows = 5
    numbers = range(6, 3 * expired + 6, 3)
    gone = [make_event(number, expires_at=int(START), **DUE) for number in numbers]
    tries = (12, 13, 40)
    failing = [make_event(450 + 3 * made, delivery_attempts=made, **DUE) for made in tries]
    store_all(sweeping, [make_event(0), make_copy(3, 1, **DUE), *failing, *gone])

    def oldest_age() -> float:
        output.lines()
        schedules.publish_depths(sweeping)
        [metrics] = output.metrics()
        return metrics["OldestPendingAge"]

    assert oldest_age() == 0
    oldest = make_event(600, delivery_attempts=11, **DUE)
    store_all(sweeping, [oldest, make_event(600 + 3 * SHARDS, **DUE)])
    assert oldest_age() == 800
    if expired > SHARDS * dynamodb.page_rows:
        dynamodb.on_query = lambda rows: clock.sleep(schedules.SEARCH_SECONDS + 1)
        with pytest.raises(StorageUnavailableError):
            oldest_age()
        assert output.metrics() == [{"DLQDepth": 0, "InboxDepth": 0, "SlowDepth": 0}]
