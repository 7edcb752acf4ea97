"""Pages of events in order of creation, merged from the partitions of the index."""

import base64
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, islice

from chalicelib.errors import FieldError, InvalidRequestError
from chalicelib.events import EVENT_TYPE, Event, Status, rfc3339
from chalicelib.services import Services
from chalicelib.store import SHARDS, EventStore, Item, Values, partition
from chalicelib.subscriptions import SUBSCRIPTION_ID

DEFAULT_LIMIT, MAX_LIMIT = 50, 100
PARAMETERS = ("event_type", "order", "limit", "cursor")
SEARCH_SECONDS = 5
MAX_PAGE_BYTES = 5 * 1024 * 1024 // 2  # Lambda's responses are limited to 6 MB, and it quotes JSON once more


@dataclass(frozen=True)
class Query:
    """Events to list: those after the sort key `after`; with `only_available`, without claimed events and copies."""

    statuses: tuple[Status, ...]
    newest_first: bool
    limit: int = DEFAULT_LIMIT
    event_type: str | None = None
    subscription_id: str | None = None
    after: str | None = None
    only_available: bool = False
    include_payload: bool = False

    def matches(self, event: Event, now: float) -> bool:
        """Return whether to list an event."""
        return (
            event.expires_at > now
            and event.status in self.statuses
            and self.event_type in (None, event.event_type)
            and self.subscription_id in (None, event.subscription_id)
            and not (self.only_available and (event.subscription_id is not None or event.is_claimed(now)))
        )


EVENTS = Query(tuple(Status), newest_first=True)
INBOX = Query((Status.PENDING, Status.FAILED), newest_first=False, only_available=True, include_payload=True)


@dataclass(frozen=True)
class Page:
    """Events in order, and the sort key of the last one seen unless it is the last page."""

    events: list[Event]
    after: str | None

    @property
    def next_cursor(self) -> str | None:
        return _encode_cursor(self.after) if self.after else None


def parse(parameters: Mapping[str, Sequence[str]], query: Query) -> Query:
    """Return EVENTS or INBOX with the parameters of a request; raise InvalidRequestError with every fault."""
    allowed = PARAMETERS if query.only_available else (*PARAMETERS, "status", "include", "subscription_id")
    unknown = [name for name in parameters if name not in allowed]
    errors = [FieldError(name[:128], "is not a parameter of this listing") for name in unknown]
    errors += [FieldError(name, "must be given once") for name in allowed if len(parameters.get(name, ())) > 1]

    def read(name: str, pattern: str, expected: str) -> str | None:
        text = parameters[name][-1] if name in allowed and name in parameters else None
        if text is not None and not re.fullmatch(pattern, text):
            errors.append(FieldError(name, f"must be {expected}"))
            return None
        return text

    status = read("status", "pending|delivered|failed", "pending, delivered or failed")
    event_type = read("event_type", EVENT_TYPE.pattern, "an event type")
    subscription_id = read("subscription_id", SUBSCRIPTION_ID.pattern, "sub_ and 32 hexadecimal digits")
    order = read("order", "oldest|newest", "oldest or newest")
    limit = read("limit", "[1-9][0-9]?|100", f"a whole number from 1 to {MAX_LIMIT}")
    include = read("include", "payload", "payload")
    cursor = read("cursor", "([A-Za-z0-9_-]{96})?", "a next_cursor as it was returned")
    after = _decode_cursor(cursor) if cursor else None
    if cursor and after is None:
        errors.append(FieldError("cursor", "must be a next_cursor as it was returned"))
    if errors:
        raise InvalidRequestError(*errors)
    return replace(
        query,
        statuses=(Status(status),) if status else query.statuses,
        newest_first=order == "newest" if order else query.newest_first,
        limit=int(limit or query.limit),
        event_type=event_type,
        subscription_id=subscription_id,
        after=after,
        include_payload=query.include_payload or include is not None,
    )


def page(services: Services, query: Query) -> Page:
    """Return a page of whole events, or of the index's attributes unless the query includes the payload."""
    if not query.include_payload:
        return find(services, query)
    found = find(services, query, max_bytes=MAX_PAGE_BYTES)
    # The index is eventually consistent: what it shows may have been pushed or acknowledged a moment ago.
    current = services.store.get_many([event.event_id for event in found.events])
    events = [current[event.event_id] for event in found.events if event.event_id in current]
    return Page([event for event in events if query.matches(event, services.clock())], found.after)


def find(services: Services, query: Query, *, max_bytes: int | None = None) -> Page:
    """Return the next events as the index shows them, fewer than the limit if a filter or `max_bytes` leaves some out.

    While a filter leaves all out, the search goes on for SEARCH_SECONDS.
    """
    deadline = services.clock() + SEARCH_SECONDS
    while True:
        found = _find(services, query, max_bytes)
        if found.events or found.after is None or services.clock() > deadline:
            return found
        query = replace(query, after=found.after)


def _find(services: Services, query: Query, max_bytes: int | None) -> Page:
    """Search once. Each partition gives one row more than are needed: the first rows of the merged list have no gap."""
    is_filtered = query.event_type or query.subscription_id or (query.only_available and query.after)
    size = MAX_LIMIT if is_filtered else query.limit
    partitions = [partition(status, shard) for status in query.statuses for shard in range(SHARDS)]
    responses = services.map(partial(_read, services.store, query, size + 1), partitions)
    # By sort key: an event whose status changes meanwhile may be in two partitions.
    found = {event.sort_key: event for rows in responses for event in map(Event.from_item, rows)}
    rows = [found[key] for key in sorted(found, reverse=query.newest_first)]
    now = services.clock()
    matching = [row for row in rows[:size] if query.matches(row, now)]
    sizes = accumulate(row.size for row in matching)
    fitting = [row for row, total in zip(matching, sizes, strict=True) if max_bytes is None or total <= max_bytes]
    events = (fitting or matching[:1])[: query.limit]
    if len(events) < len(matching):
        return Page(events, events[-1].sort_key)
    return Page(events, rows[size - 1].sort_key if len(rows) > size else None)


def overdue(services: Services, shard: int) -> Iterator[Event]:
    """Yield a shard's pending events that are due and that nobody will push."""
    now = services.clock()
    values: Values = {":now": rfc3339(now), ":now_seconds": int(now)}
    condition = "requeue_at <= :now AND next_attempt_at <= :now AND expires_at > :now_seconds"
    rows = services.store.rows(partition(Status.PENDING, shard), "", values, FilterExpression=condition)
    return map(Event.from_item, rows)


def oldest_pending(services: Services) -> Event | None:
    """Return the pending event that was created first."""
    events = find(services, Query((Status.PENDING,), newest_first=False, limit=1)).events
    return events[0] if events else None


def _read(store: EventStore, query: Query, limit: int, of_partition: str) -> list[Item]:
    condition = f" AND sort_key {'<' if query.newest_first else '>'} :after" if query.after else ""
    values = {":after": query.after}
    rows = store.rows(of_partition, condition, values, ScanIndexForward=not query.newest_first, Limit=limit)
    return list(islice(rows, limit))


def _encode_cursor(sort_key: str) -> str:
    return base64.urlsafe_b64encode(f"{sort_key}{zlib.crc32(sort_key.encode()):08x}".encode()).decode()


def _decode_cursor(cursor: str) -> str | None:
    """Return the sort key of a cursor, or None if it is damaged."""
    sort_key = base64.urlsafe_b64decode(cursor).decode("ascii", "replace")[:-8]
    return sort_key if _encode_cursor(sort_key) == cursor else None
