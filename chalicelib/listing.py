"""Pages over the index: which events are in which status, in order of time.

The index is spread over shards; a page is the merged head of all of them.
"""

import base64
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import ge, le
from typing import Any

from chalicelib import log
from chalicelib.dynamodb import EventStore
from chalicelib.errors import Fault, InvalidRequestError
from chalicelib.events import EVENT_TYPE, Event, Status, rfc3339
from chalicelib.items import SHARDS, event_of, partition, sort_key, value

DEFAULT_LIMIT, MAX_LIMIT = 50, 100
MAX_PAGE_BYTES = 5 * 1024 * 1024 // 2  # Lambda answers 6 MB at most, and JSON in JSON grows
FILTERED_READ = 500  # rows read from a shard when most of them may be of another type
Rows = tuple[list[Event], str | None]


@dataclass(frozen=True)
class Query:
    """Which page of which listing. `after` is the sort key of the last event seen."""

    statuses: tuple[Status, ...]
    newest_first: bool
    limit: int = DEFAULT_LIMIT
    event_type: str | None = None
    after: str | None = None


@dataclass(frozen=True)
class Page:
    """Some events in order; `next_cursor` is None when there are no more."""

    events: list[Event]
    next_cursor: str | None


def parse_events_query(parameters: Mapping[str, Sequence[str]]) -> Query:
    """Return the query of `GET /events`; raise InvalidRequestError with every fault."""
    return _parse(parameters, tuple(Status), "newest", ("status", "event_type", "order", "limit", "cursor"))


def parse_inbox_query(parameters: Mapping[str, Sequence[str]]) -> Query:
    """Return the query of `GET /inbox`; raise InvalidRequestError with every fault."""
    undelivered = (Status.PENDING, Status.FAILED)
    return _parse(parameters, undelivered, "oldest", ("event_type", "order", "limit", "cursor"))


def events_page(store: EventStore, query: Query, *, now: float) -> Page:
    """Return a page of events as the index shows them, without payload, metadata and attempts."""
    rows, horizon = _rows(store, query, lambda event: event.expires_at > now)
    return _cut(rows, query.limit, horizon, max_bytes=None)


def inbox_page(store: EventStore, query: Query, *, now: float) -> Page:
    """Return a page of undelivered events, whole, but those being pushed at this moment."""
    moment = rfc3339(now)
    rows, horizon = _rows(store, query, lambda event: event.expires_at > now and not event.is_claimed(moment))
    page = _cut(rows, query.limit, horizon, max_bytes=MAX_PAGE_BYTES)
    # The index lags behind; what it shows may have been pushed or acknowledged a moment ago.
    current = store.get_many([event.event_id for event in page.events])
    events = [current[event.event_id] for event in page.events if event.event_id in current]
    waiting = [event for event in events if event.status in query.statuses and not event.is_claimed(moment)]
    return Page(waiting, page.next_cursor)


def overdue(store: EventStore, shard: int, *, now: float) -> Iterator[list[tuple[str, str]]]:
    """Yield, page by page, the id and `requeue_at` of a shard's pending events that nobody will push."""
    position: dict[str, Any] = {}
    while True:
        answer = store.query(
            partition(Status.PENDING, shard),
            "",
            {":now": rfc3339(now), ":now_seconds": int(now)},
            FilterExpression="requeue_at <= :now AND expires_at > :now_seconds",
            ProjectionExpression="event_id, requeue_at",
            **position,
        )
        yield [(value(row["event_id"]), value(row["requeue_at"])) for row in answer["Items"]]
        if "LastEvaluatedKey" not in answer:
            return
        position = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}


def oldest_pending(store: EventStore, *, now: float) -> Event | None:
    """Return the pending event that was created first."""
    query = Query((Status.PENDING,), newest_first=False, limit=1)
    while True:
        rows, horizon = _rows(store, query, lambda event: event.expires_at > now)
        if rows or horizon is None:
            return rows[0] if rows else None
        query = replace(query, after=horizon)


def _parse(
    parameters: Mapping[str, Sequence[str]], statuses: tuple[Status, ...], default_order: str, allowed: tuple[str, ...]
) -> Query:
    faults = [Fault(name[:128], "is not a parameter of this listing") for name in parameters if name not in allowed]
    faults += [Fault(name, "must be given once") for name in allowed if len(parameters.get(name, ())) > 1]

    def given(name: str, default: str, wanted: str, pattern: str) -> str:
        if name not in parameters or name not in allowed:
            return default
        text = parameters[name][-1]
        if not re.fullmatch(pattern, text):
            faults.append(Fault(name, f"must be {wanted}"))
            return default
        return text

    status = given("status", "", "pending, delivered or failed", "pending|delivered|failed")
    event_type = given("event_type", "", "an event type", EVENT_TYPE.pattern)
    order = given("order", default_order, "oldest or newest", "oldest|newest")
    limit = given("limit", str(DEFAULT_LIMIT), f"a whole number from 1 to {MAX_LIMIT}", "[1-9][0-9]?|100")
    cursor = given("cursor", "", "a next_cursor as it was given", "[A-Za-z0-9_-]{96}")
    after = _decode_cursor(cursor) if cursor else None
    if cursor and not after:
        faults.append(Fault("cursor", "must be a next_cursor as it was given"))
    if faults:
        raise InvalidRequestError(*faults)
    named = (Status(status),) if status else statuses
    return Query(named, order == "newest", int(limit), event_type or None, after)


def _rows(store: EventStore, query: Query, keep: Callable[[Event], bool], of_each: int | None = None) -> Rows:
    """Return the events next in order, and the sort key beyond which some shard was not read (None: all is read)."""
    # Ids are random, so a shard has about an eighth of a page: twice that, or more if that was too little.
    of_each = of_each or query.limit // SHARDS * 2 + 5
    partitions = [partition(status, shard) for status in query.statuses for shard in range(SHARDS)]
    with log.pool(SHARDS) as pool:
        answers = list(pool.map(partial(_read, store, query, of_each), partitions))
    ends = [value(answer["LastEvaluatedKey"]["sort_key"]) for answer in answers if "LastEvaluatedKey" in answer]
    # By sort key: an event that changes its status meanwhile may stand in two partitions.
    rows = {sort_key(event): event for answer in answers for event in map(event_of, answer["Items"])}
    horizon = (max if query.newest_first else min)(ends, default=None)
    is_reached = ge if query.newest_first else le
    reached = [key for key in rows if horizon is None or is_reached(key, horizon)]
    kept = [rows[key] for key in sorted(reached, reverse=query.newest_first) if keep(rows[key])]
    most = FILTERED_READ if query.event_type else query.limit + 1
    if horizon is None or len(reached) >= query.limit or of_each >= most:
        return kept, horizon
    return _rows(store, query, keep, most)


def _read(store: EventStore, query: Query, most: int, of_partition: str) -> dict[str, Any]:
    condition, values = "", {}
    parameters: dict[str, Any] = {"ScanIndexForward": not query.newest_first, "Limit": most}
    if query.after:
        condition = f" AND sort_key {'<' if query.newest_first else '>'} :after"
        values[":after"] = query.after
    if query.event_type:
        parameters["FilterExpression"] = "event_type = :event_type"
        values[":event_type"] = query.event_type
    return store.query(of_partition, condition, values, **parameters)


def _cut(rows: list[Event], limit: int, horizon: str | None, *, max_bytes: int | None) -> Page:
    """Return the first `limit` rows, fewer when they would carry more than `max_bytes`, but at least one."""
    events: list[Event] = []
    total = 0
    for row in rows:
        total += row.size
        if len(events) == limit or (events and max_bytes is not None and total > max_bytes):
            return Page(events, _encode_cursor(sort_key(events[-1])))
        events.append(row)
    return Page(events, _encode_cursor(horizon) if horizon else None)


def _encode_cursor(key: str) -> str:
    return base64.urlsafe_b64encode(f"{key}{zlib.crc32(key.encode()):08x}".encode()).decode()


def _decode_cursor(cursor: str) -> str | None:
    """Return the sort key in a cursor of the right length and alphabet, or None when it is damaged."""
    text = base64.urlsafe_b64decode(cursor).decode("ascii", "replace")
    key = text[:-8]
    return key if _encode_cursor(key) == cursor else None
