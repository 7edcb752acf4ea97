"""Pages of events in order of creation, merged from the partitions of the index."""

import base64
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from chalicelib import telemetry
from chalicelib.errors import FieldError, InvalidRequestError
from chalicelib.events import EVENT_TYPE, Event, Status, rfc3339
from chalicelib.store import SHARDS, EventStore, partition

DEFAULT_LIMIT, MAX_LIMIT = 50, 100
MAX_PAGE_BYTES = 5 * 1024 * 1024 // 2  # Lambda's responses are limited to 6 MB, and it quotes JSON once more
UNDELIVERED = (Status.PENDING, Status.FAILED)


@dataclass(frozen=True)
class Query:
    """A page of a listing. `after` is the sort key of the last event seen."""

    statuses: tuple[Status, ...]
    newest_first: bool
    limit: int = DEFAULT_LIMIT
    event_type: str | None = None
    after: str | None = None


@dataclass(frozen=True)
class Page:
    """Events in order; `next_cursor` is None on the last page."""

    events: list[Event]
    next_cursor: str | None


def parse_events_query(parameters: Mapping[str, Sequence[str]]) -> Query:
    """Return the query of `GET /events`; raise InvalidRequestError with every fault."""
    return _parse(parameters, tuple(Status), "newest", ("status", "event_type", "order", "limit", "cursor"))


def parse_inbox_query(parameters: Mapping[str, Sequence[str]]) -> Query:
    """Return the query of `GET /inbox`; raise InvalidRequestError with every fault."""
    return _parse(parameters, UNDELIVERED, "oldest", ("event_type", "order", "limit", "cursor"))


def events_page(store: EventStore, query: Query, *, now: float) -> Page:
    """Return a page of events with the attributes of the index: no payload, metadata or attempts."""
    return _page(store, query, lambda event: event.expires_at > now, max_bytes=None)


def inbox_page(store: EventStore, query: Query, *, now: float) -> Page:
    """Return a page of whole undelivered events that nobody holds."""
    page = _page(store, query, lambda event: event.expires_at > now and not event.is_claimed(now), MAX_PAGE_BYTES)
    # The index is eventually consistent: what it shows may have been pushed or acknowledged a moment ago.
    current = store.get_many([event.event_id for event in page.events])
    events = [current[event.event_id] for event in page.events if event.event_id in current]
    waiting = [event for event in events if event.status in UNDELIVERED and not event.is_claimed(now)]
    return Page(waiting, page.next_cursor)


def overdue(store: EventStore, shard: int, *, now: float) -> Iterator[list[tuple[str, str]]]:
    """Yield pages of (event_id, requeue_at) of a shard's pending events that are due and that nobody will push."""
    start: dict[str, Any] = {}
    while True:
        response = store.query(
            partition(Status.PENDING, shard),
            "",
            {":now": rfc3339(now), ":now_seconds": int(now)},
            FilterExpression="requeue_at <= :now AND next_attempt_at <= :now AND expires_at > :now_seconds",
            ProjectionExpression="event_id, requeue_at",
            **start,
        )
        yield [(row["event_id"]["S"], row["requeue_at"]["S"]) for row in response["Items"]]
        if "LastEvaluatedKey" not in response:
            return
        start = {"ExclusiveStartKey": response["LastEvaluatedKey"]}


def oldest_pending(store: EventStore, *, now: float) -> Event | None:
    """Return the pending event that was created first."""
    query = Query((Status.PENDING,), newest_first=False, limit=1)
    page = events_page(store, query, now=now)
    while not page.events and page.next_cursor:  # expired, and not deleted yet
        page = events_page(store, replace(query, after=_decode_cursor(page.next_cursor)), now=now)
    return page.events[0] if page.events else None


def _parse(
    parameters: Mapping[str, Sequence[str]], statuses: tuple[Status, ...], default_order: str, allowed: Sequence[str]
) -> Query:
    errors = [
        FieldError(name[:128], "is not a parameter of this listing") for name in parameters if name not in allowed
    ]
    errors += [FieldError(name, "must be given once") for name in allowed if len(parameters.get(name, ())) > 1]

    def read(name: str, default: str, pattern: str, expected: str) -> str:
        if name not in parameters or name not in allowed:
            return default
        text = parameters[name][-1]
        if not re.fullmatch(pattern, text):
            errors.append(FieldError(name, f"must be {expected}"))
            return default
        return text

    status = read("status", "", "pending|delivered|failed", "pending, delivered or failed")
    event_type = read("event_type", "", EVENT_TYPE.pattern, "an event type")
    order = read("order", default_order, "oldest|newest", "oldest or newest")
    limit = read("limit", str(DEFAULT_LIMIT), "[1-9][0-9]?|100", f"a whole number from 1 to {MAX_LIMIT}")
    cursor = read("cursor", "", "([A-Za-z0-9_-]{96})?", "a next_cursor as it was returned")
    after = _decode_cursor(cursor) if cursor else None
    if cursor and after is None:
        errors.append(FieldError("cursor", "must be a next_cursor as it was returned"))
    if errors:
        raise InvalidRequestError(*errors)
    return Query((Status(status),) if status else statuses, order == "newest", int(limit), event_type or None, after)


def _page(store: EventStore, query: Query, keep: Callable[[Event], bool], max_bytes: int | None) -> Page:
    """Return the next events that match, fewer than the limit if a filter or `max_bytes` leaves some out.

    Each partition gives one row more than are needed, so the first rows of the merged list have no gap.
    """
    size = MAX_LIMIT if query.event_type else query.limit
    partitions = [partition(status, shard) for status in query.statuses for shard in range(SHARDS)]
    with telemetry.thread_pool(len(partitions)) as pool:
        responses = list(pool.map(partial(_read, store, query, size + 1), partitions))
    # By sort key: an event whose status changes meanwhile may be in two partitions.
    found = {event.sort_key: event for response in responses for event in map(Event.from_item, response["Items"])}
    rows = [found[key] for key in sorted(found, reverse=query.newest_first)]
    has_more = len(rows) > size
    rows = rows[:size]
    matching = [row for row in rows if query.event_type in (None, row.event_type) and keep(row)]
    events = _first(matching, query.limit, max_bytes)
    if len(events) < len(matching):
        return Page(events, _encode_cursor(events[-1].sort_key))
    return Page(events, _encode_cursor(rows[-1].sort_key) if has_more else None)


def _read(store: EventStore, query: Query, limit: int, of_partition: str) -> dict[str, Any]:
    condition, values = "", {}
    if query.after:
        condition = f" AND sort_key {'<' if query.newest_first else '>'} :after"
        values[":after"] = query.after
    return store.query(of_partition, condition, values, ScanIndexForward=not query.newest_first, Limit=limit)


def _first(events: list[Event], limit: int, max_bytes: int | None) -> list[Event]:
    """Return up to `limit` events with up to `max_bytes` of payload, but at least one."""
    chosen: list[Event] = []
    total = 0
    for event in events[:limit]:
        total += event.size
        if chosen and max_bytes is not None and total > max_bytes:
            break
        chosen.append(event)
    return chosen


def _encode_cursor(sort_key: str) -> str:
    return base64.urlsafe_b64encode(f"{sort_key}{zlib.crc32(sort_key.encode()):08x}".encode()).decode()


def _decode_cursor(cursor: str) -> str | None:
    """Return the sort key of a cursor, or None if it is damaged."""
    sort_key = base64.urlsafe_b64decode(cursor).decode("ascii", "replace")[:-8]
    return sort_key if _encode_cursor(sort_key) == cursor else None
