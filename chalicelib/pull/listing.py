"""Pages of events in order of creation, merged from the partitions of the index."""

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import accumulate
from typing import Any

from chalicelib.core.event import EVENT_ID, EVENT_TYPE, EVENT_TYPE_OR_PREFIX, Event, Status
from chalicelib.core.store import COPY, NOT_EXPIRED, UNCLAIMED, UNSETTLED, partitions
from chalicelib.customers.subscriptions import SUBSCRIPTION_ID
from chalicelib.deps import Services
from chalicelib.infra.parsing import Parser, parser
from chalicelib.infra.table import BY_SUBSCRIPTION, HIGHEST, LOWEST, Values

DEFAULT_LIMIT, MAX_LIMIT = 50, 100
# RFC 3339, section 5.6; an unescaped + of the offset arrives as a space.
TIMESTAMP = r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+ -]\d\d:\d\d)"
SEARCH_SECONDS = 5
# Events in order, and the sort key to go on from; None: there are no more.
Page = tuple[list[Event], str | None]
MAX_PAGE_BYTES = 5 * 1024 * 1024  # as `response_bytes` counts: Lambda's responses are limited to 6 MB


@dataclass(frozen=True)
class Query:
    """Events to list: those after the sort key `cursor`, without copies or with them, or those of a subscription.

    With `only_available`, those that are claimed are left out. with `include_payload`, they have payload and metadata.
    """

    statuses: tuple[Status, ...]
    newest_first: bool
    copies: bool = True
    limit: int = DEFAULT_LIMIT
    event_type: str | None = None
    subscription_id: str | None = None
    tenant: str | None = None
    since: str = LOWEST
    until: str = HIGHEST
    cursor: str | None = None
    only_available: bool = False
    include_payload: bool = False

    def narrow(self, parameters: Mapping[str, Any]) -> "Query":
        """Return this query with the parameters of a request."""
        return replace(self, **{FIELDS.get(name, name): value for name, value in parameters.items()})

    def partitions(self) -> list[str]:
        """Return the partitions that have the events: of the index of statuses, or of that of subscriptions."""
        if self.subscription_id is not None:
            return [self.subscription_id] if self.copies else []
        return partitions(*self.statuses) + (partitions(*self.statuses, of_copies=True) if self.copies else [])

    def filter(self) -> tuple[str, Values]:
        """Return the filter expression for rows of these partitions, and its values."""
        conditions = [NOT_EXPIRED, UNCLAIMED] if self.only_available else [NOT_EXPIRED]
        values: dict[str, str] = {}
        if self.subscription_id is not None:  # erased copies stay in that index, and have no `status_shard`
            conditions.append("begins_with(status_shard, :status)")
            values[":status"] = f"{COPY}{self.statuses[0]}" if len(self.statuses) == 1 else COPY
        for name in ("event_type", "tenant"):
            value = getattr(self, name)
            if value not in (None, "*"):
                is_prefix = value.endswith("*")
                conditions.append(f"begins_with({name}, :{name})" if is_prefix else f"{name} = :{name}")
                values[f":{name}"] = value.removesuffix("*")
        return " AND ".join(conditions), values

    def bounds(self) -> tuple[str, str]:
        """Return the lowest and the highest sort key to read, inclusive: that of the cursor, too."""
        if self.newest_first:
            return self.since, min(self.until, self.cursor or HIGHEST)
        return max(self.since, self.cursor or LOWEST), self.until


EVENTS = Query((Status.PENDING, Status.DELIVERED, Status.FAILED), newest_first=True)
INBOX = Query(UNSETTLED, newest_first=False, copies=False, only_available=True, include_payload=True)


def _utc(timestamp: str) -> str:
    """Return an RFC 3339 time in UTC with microseconds, as sort keys begin; raise ValueError or OverflowError."""
    date, time = timestamp[:10], timestamp[11:].upper().replace(" ", "+")
    moment = datetime.fromisoformat(f"{date}T{time}").astimezone(UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def encode_cursor(sort_key: str) -> str:
    """Return the cursor that goes on after a sort key."""
    return base64.urlsafe_b64encode(f"{sort_key}{zlib.crc32(sort_key.encode()):08x}".encode()).decode()


def _decode_cursor(cursor: str) -> str | None:
    """Return the sort key of a cursor, None of an empty one; raise ValueError if it is damaged."""
    sort_key = base64.urlsafe_b64decode(cursor).decode("ascii")[:-8]
    if cursor and (encode_cursor(sort_key) != cursor or not EVENT_ID.fullmatch(sort_key[28:])):
        raise ValueError
    return sort_key or None


_time = parser(TIMESTAMP, "a time such as 2026-11-25T02:25:03Z", _utc)
PARAMETERS: dict[str, Parser] = {
    "cursor": parser("([A-Za-z0-9_-]{96})?", "a next_cursor as it was returned", _decode_cursor),
    "event_type": parser(EVENT_TYPE_OR_PREFIX.pattern, "an event type, or a prefix followed by *"),
    "include": parser("payload", "payload", lambda text: text == "payload"),
    "limit": parser("[1-9][0-9]?|100", f"a whole number from 1 to {MAX_LIMIT}", int),
    "order": parser("oldest|newest", "oldest or newest", lambda text: text == "newest"),
    "since": _time,
    "source": parser("original", "original", lambda text: text != "original"),
    "status": parser("|".join(EVENTS.statuses), "pending, delivered or failed", lambda text: (Status(text),)),
    "subscription_id": parser(SUBSCRIPTION_ID.pattern, "sub_ and 32 hexadecimal digits"),
    "tenant": parser(EVENT_TYPE.pattern, "1 to 128 characters of A-Z a-z 0-9 . _ - : /"),
    "until": _time,
}
INBOX_PARAMETERS = {name: PARAMETERS[name] for name in ("cursor", "event_type", "limit", "order", "tenant")}
# The fields of Query that have other names than their parameters.
FIELDS = {"include": "include_payload", "order": "newest_first", "source": "copies", "status": "statuses"}


def page(services: Services, query: Query) -> Page:
    """Return a page of events, with the attributes of the index alone unless the query asks for payloads."""
    if not query.include_payload:
        return search(services, query)
    found, after = search(services, query, max_bytes=MAX_PAGE_BYTES)
    # The index is eventually consistent: what it shows may have been pushed or acknowledged a moment ago.
    current = services.store.get_many([event.event_id for event in found])
    events = [current[event.event_id] for event in found if event.event_id in current]
    if query.only_available:
        events = [event for event in events if not event.is_claimed(services.clock())]
    return [event for event in events if event.status in query.statuses], after


def search(services: Services, query: Query, *, max_bytes: int | None = None) -> Page:
    """Return the next events as the index shows them: fewer than the limit if `max_bytes` leaves some out.

    After SEARCH_SECONDS, return what was found, with the place to go on from.
    """
    deadline = services.clock() + SEARCH_SECONDS
    read = partial(_read_partition, services, query, deadline)
    results = services.map(read, query.partitions())
    # A partition that was not read to its end may have more events behind the place that it was read to.
    places = [place for _, place in results if place]
    nearest = max if query.newest_first else min
    complete_until = nearest(places, default=None)
    # By sort key: an event whose status changes meanwhile may be in two partitions.
    found = {event.sort_key: event for events, _ in results for event in events}
    found.pop(str(query.cursor), None)
    in_order = [found[key] for key in sorted(found, reverse=query.newest_first)]
    if complete_until:
        in_order = [event for event in in_order if nearest(event.sort_key, complete_until) == event.sort_key]
    sizes = accumulate(event.response_bytes for event in in_order)
    fitting = [event for event, total in zip(in_order, sizes, strict=True) if max_bytes is None or total <= max_bytes]
    events = (fitting or in_order[:1])[: query.limit]
    return events, events[-1].sort_key if len(events) < len(in_order) else complete_until


def _read_partition(services: Services, query: Query, deadline: float, partition_key: str) -> Page:
    """Return the next events of a partition, at least one more than the limit, and where it goes on, if it does."""
    rows_needed = query.limit + (2 if query.cursor else 1)
    condition, values = query.filter()
    low, high = query.bounds()
    pages = services.store.pages(
        partition_key,
        {**values, ":low": low, ":high": high},
        Limit=rows_needed,
        FilterExpression=condition,
        ScanIndexForward=not query.newest_first,
        **({} if query.subscription_id is None else {"IndexName": BY_SUBSCRIPTION}),
    )
    events: list[Event] = []
    for page in pages:
        events += map(Event.from_item, page["Items"])
        if "LastEvaluatedKey" not in page:
            break
        if len(events) >= rows_needed or services.clock() > deadline:
            return events, page["LastEvaluatedKey"]["sort_key"]["S"]
    return events, None
