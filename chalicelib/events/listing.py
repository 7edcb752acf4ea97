"""Pages of events in order of creation, merged from the partitions of an index."""

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import merge
from itertools import chain, islice
from operator import attrgetter
from typing import NamedTuple

from chalicelib.core.event import Event, Status, lookup_key
from chalicelib.core.invocation import CoreServices
from chalicelib.core.store import (
    COPY,
    MAX_EXPIRED,
    NOT_EXPIRED,
    UNSETTLED,
    EventStore,
    from_item,
    partitions,
)
from chalicelib.infra.parsing import RESERVED_PREFIX, Json
from chalicelib.infra.table import (
    BY_LOOKUP,
    BY_STATUS,
    BY_TENANT,
    HIGHEST,
    LOWEST,
    PARTITION_KEYS,
    UNDELIVERED,
    serialize,
)
from chalicelib.infra.times import Clock

PAGE_SECONDS = 5
# As `response_bytes` counts: Lambda's responses are limited to 6 MB.
MAX_PAGE_BYTES = 5 * 1024 * 1024
READ_AT_ONCE = 25  # events: what does not fit into a page is read in vain
# Before and after all events of one moment.
FIRST_ID = f"cpy_{'0' * 32}"
LAST_ID = f"evt_{'f' * 32}"
# What narrows a query down, by the field that asks for it.
FILTERS = {
    "tenant": "tenant = :tenant",
    "subject": "subject = :subject",
    "source": "attribute_not_exists(source_event_id)",
    "skips_reports": "NOT begins_with(event_type, :reserved)",
}
# What an index shows of events that wait for another attempt. That of undelivered copies shows only
# the status: its other copies failed.
WAITING = {
    UNDELIVERED: "begins_with(status_shard, :waiting)",
    BY_STATUS: "attribute_exists(last_error) AND attribute_exists(next_attempt_at)",
}
# The index of tenants shows neither status nor size, that of undelivered copies no size. Until an
# event is read, its row counts as a delivered one, which every list by tenant may have.
NOT_SHOWN = serialize({"status_shard": Status.DELIVERED, "created_by": "", "response_bytes": 0})


@dataclass(frozen=True)
class Query:
    """The events to list. Fields are the parameters of `GET /events`, with any number of `status`.

    `since` (inclusive), `until` (exclusive) and `cursor` (exclusive) are sort keys, or what sort
    keys begin with. `is_waiting`: only pending events that failed and have another attempt, of a
    subscription or, with the `source` `original`, of the webhook.
    """

    status: tuple[Status, ...]
    order: str
    limit: int = 50
    cursor: str = ""
    event_type: str = "*"
    include: str | None = None
    since: str = LOWEST
    source: str | None = None
    subject: str | None = None
    subscription_id: str | None = None
    tenant: str | None = None
    until: str = HIGHEST
    only_unclaimed: bool = False
    skips_reports: bool = False
    is_waiting: bool = False

    @property
    def includes_payload(self) -> bool:
        """Whether events are read with their payloads, which filters need for an outcome."""
        return self.include in ("payload", "outcome")

    @property
    def partitions(self) -> tuple[str, list[str]]:
        """The index that is read, and the keys of its partitions that have the events.

        A tenant's events that are pending or failed are found by status: they may be few of many.
        """
        if self.subscription_id and (self.status == UNSETTLED or self.is_waiting):
            return UNDELIVERED, [self.subscription_id]
        looked_up = lookup_key(self.subscription_id, self.subject)
        if looked_up:
            return BY_LOOKUP, [looked_up]
        if self.tenant and Status.DELIVERED in self.status:
            return BY_TENANT, [self.tenant]
        keys = partitions(*self.status)
        if self.source is None:
            keys += partitions(*self.status, of_copies=True)
        return BY_STATUS, keys

    def has(self, event: Event, now: float) -> bool:
        """Return whether the query has an event with this state at `now` (Unix seconds)."""
        return event.status in self.status and not (self.only_unclaimed and event.is_claimed(now))


EVENTS = Query((Status.PENDING, Status.DELIVERED, Status.FAILED), order="newest")
INBOX = Query(UNSETTLED, order="oldest", source="original", include="payload", only_unclaimed=True)


class Row(NamedTuple):
    """An event as the index shows it.

    Without an event, the sort key is the place where a search that took too long ends.
    """

    sort_key: str
    event: Event | None


class Page(NamedTuple):
    """Events in order, and the sort key after which the next page begins, if there is one."""

    events: list[Event]
    next_cursor: str | None


def read_page(services: CoreServices, query: Query) -> Page:
    """Return a page of events as they are or, without `include`, as the index of statuses has them.

    An index is eventually consistent: what it shows may have been pushed or acknowledged a moment
    ago.
    """
    found = _first_page(search(services, query), query)
    if query.partitions[0] == BY_STATUS and not query.include:
        return found
    # Cut once more: the index may not have had their sizes.
    page = _first_page(_read(services, query, found.events), query)
    return Page(page.events, page.next_cursor or found.next_cursor)


def _read(services: CoreServices, query: Query, found: list[Event]) -> Iterator[Row]:
    """Yield those events that the query still has, as they are now."""
    for start in range(0, len(found), READ_AT_ONCE):
        event_ids = [event.event_id for event in found[start : start + READ_AT_ONCE]]
        current = services.store.get_many(event_ids, with_content=query.includes_payload)
        now = services.clock()
        for event in map(current.get, event_ids):
            if event and query.has(event, now):
                yield Row(event.sort_key, event)


def search(services: CoreServices, query: Query) -> Iterator[Row]:
    """Yield the events of a query in order, as the index shows them.

    What a page needs is read from all partitions in parallel, the rest when it is asked for. After
    PAGE_SECONDS, the search ends where the first partition was not read any further.
    """
    deadline = services.clock() + PAGE_SECONDS
    page_rows = query.limit + 2  # that of the cursor, and one that tells whether there are more
    expired: list[str] = []
    partitions = [
        _rows(pages, query, services.clock, deadline, expired)
        for pages in _pages(services.store, query, page_rows)
    ]
    first_rows = services.map(lambda rows: list(islice(rows, page_rows)), partitions)
    services.map(services.store.delete_expired, expired[:MAX_EXPIRED])
    in_order = merge(
        *map(chain, first_rows, partitions),
        key=attrgetter("sort_key"),
        reverse=query.order == "newest",
    )
    previous = query.cursor
    for row in in_order:
        if row.event is None:
            yield row
            return
        # An event whose status changes meanwhile may be in two partitions.
        if row.sort_key != previous:
            yield row
        previous = row.sort_key


def _pages(store: EventStore, query: Query, page_rows: int) -> list[Iterator[Json]]:
    """Return the pages of every partition that has events of a query.

    The first page of each has up to `page_rows` rows.
    """
    # The inbox is read again and again: what has expired is shown to be deleted.
    conditions = [] if query.only_unclaimed else [NOT_EXPIRED]
    values = {
        ":low": query.since,
        ":high": query.until,
        ":event_type": query.event_type.removesuffix("*"),
        ":tenant": query.tenant,
        ":subject": query.subject,
        ":reserved": RESERVED_PREFIX,
        ":waiting": f"{COPY}{Status.PENDING}",
    }
    if query.order == "newest":
        values[":high"] = min(query.until, query.cursor or HIGHEST)
    else:
        values[":low"] = max(query.since, query.cursor)
    if query.event_type != "*":
        begins = "begins_with(event_type, :event_type)"
        conditions.append(begins if query.event_type.endswith("*") else "event_type = :event_type")
    filters = {name: text for name, text in FILTERS.items() if getattr(query, name)}
    index, keys = query.partitions
    filters.pop(PARTITION_KEYS[index], None)  # DynamoDB refuses to filter by a key
    conditions += filters.values()
    if query.is_waiting:
        conditions.append(WAITING[index])
    options = {
        "IndexName": index,
        "Limit": page_rows,
        "FilterExpression": " AND ".join(conditions),
        "ScanIndexForward": query.order == "oldest",
    }
    return [store.pages(key, values, **options) for key in keys]


def _rows(
    pages: Iterator[Json],
    query: Query,
    clock: Clock,
    deadline: float,
    expired: list[str],
) -> Iterator[Row]:
    """Yield the rows of a partition.

    They are the events of the query and, after the deadline, the place that was read to. The ids of
    events that have expired are added to `expired`.
    """
    for page in pages:
        for item in page["Items"]:
            event = from_item(NOT_SHOWN | item)
            if event.expires_at <= clock():
                expired.append(event.event_id)
            elif query.has(event, clock()):
                yield Row(event.sort_key, event)
        if "LastEvaluatedKey" in page and clock() > deadline:
            yield Row(page["LastEvaluatedKey"]["sort_key"]["S"], None)
            return


def _first_page(rows: Iterator[Row], query: Query) -> Page:
    """Return up to `limit` events, whose payloads, if included, fit into a response together."""
    events: list[Event] = []
    size = 0
    for sort_key, event in rows:
        if event is None:
            return Page(events, _cursor_of(sort_key, events, query))
        if query.includes_payload:
            size += event.response_bytes
        if len(events) == query.limit or size > MAX_PAGE_BYTES:
            return Page(events, events[-1].sort_key)
        events.append(event)
    return Page(events, None)


def _cursor_of(sort_key: str, events: list[Event], query: Query) -> str:
    """Return where the next page begins after a search that ended at a row.

    The row may be one that the caller must not see: of its sort key only the time is kept. The rows
    of that moment are looked at again, but for those that a page has shown.
    """
    moment = sort_key.split("#")[0]
    shown = events[-1].sort_key if events else query.cursor
    if query.order == "oldest":
        return max(f"{moment}#{FIRST_ID}", shown)
    return min(f"{moment}#{LAST_ID}", shown or HIGHEST)
