"""List events in order of creation, a page at a time, merged from the partitions of an index."""

from collections.abc import Iterator
from dataclasses import dataclass, field
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

# The sum of `response_bytes` of the events of a page: Lambda's responses are limited to 6 MB.
MAX_PAGE_BYTES = 5 * 1024 * 1024
# The lowest and the highest event id, which order the events that were created at one moment.
FIRST_ID = f"cpy_{'0' * 32}"
LAST_ID = f"evt_{'f' * 32}"
# Filter conditions, by the field of a query that adds the condition.
FILTERS = {
    "tenant": "tenant = :tenant",
    "subject": "subject = :subject",
    "source": "attribute_not_exists(source_event_id)",
    "skips_reports": "NOT begins_with(event_type, :reserved)",
}
# The filter condition for events that wait for another attempt, by index. The index of undelivered
# copies has only copies that wait or failed, and projects the status.
WAITING = {
    UNDELIVERED: "begins_with(status_shard, :waiting)",
    BY_STATUS: "attribute_exists(last_error) AND attribute_exists(next_attempt_at)",
}
# Attributes that an index may not project: the index of tenants has neither status nor size, the
# index of undelivered copies has no size. Until an event is read from the table, it counts as
# delivered, which every list by tenant may show.
NOT_PROJECTED = serialize({"status_shard": Status.DELIVERED, "created_by": "", "response_bytes": 0})


@dataclass(frozen=True)
class IndexPartitions:
    """The partitions of an index of the table that a query reads."""

    # The name of the index.
    index: str
    # The partition keys.
    keys: list[str]


@dataclass(frozen=True)
class Query:
    """The events to list; the fields before `only_unclaimed` are the parameters of `GET /events`.

    `since`, `until` and `cursor` are sort keys, or the beginnings of sort keys.
    """

    # An event is listed if it has one of these statuses.
    status: tuple[Status, ...]
    # `oldest` or `newest`: which event comes first.
    order: str
    # The largest number of events of a page.
    limit: int = 50
    # The sort key of the last event of the page before; empty: there was no page before.
    cursor: str = ""
    # A type, or the beginning of types followed by `*`; `*` alone: all types.
    event_type: str = "*"
    # What is read beside the attributes of the index: `payload`, `subject`, `outcome` or
    # `attempts`; None: nothing.
    include: str | None = None
    # The earliest creation, inclusive.
    since: str = LOWEST
    # `original`: no copies; None: events and copies.
    source: str | None = None
    # None: events of any subject, and events without a subject. So for the next two fields.
    subject: str | None = None
    subscription_id: str | None = None
    tenant: str | None = None
    # The end of the creation, exclusive.
    until: str = HIGHEST
    # Whether events that a push or a consumer holds are left out.
    only_unclaimed: bool = False
    # Whether reports are left out.
    skips_reports: bool = False
    # Whether only pending events are listed whose last attempt failed and that have another
    # attempt: copies for `subscription_id` or, with `source` `original`, events for the webhook.
    is_waiting: bool = False

    @property
    def includes_payload(self) -> bool:
        """Whether events are read with their payloads; the outcome needs them for the filters."""
        return self.include in ("payload", "outcome")

    @property
    def partitions(self) -> IndexPartitions:
        """The index to read for the query, and its partitions that have the events of the query.

        These are, in this order: undelivered copies by subscription; copies by subscription, or
        events by subject; events by tenant; all events by status. A tenant's pending or failed
        events are found by status, because they may be few of the tenant's many events.
        """
        if self.subscription_id and (self.status == UNSETTLED or self.is_waiting):
            return IndexPartitions(UNDELIVERED, [self.subscription_id])
        looked_up = lookup_key(self.subscription_id, self.subject)
        if looked_up:
            return IndexPartitions(BY_LOOKUP, [looked_up])
        if self.tenant and Status.DELIVERED in self.status:
            return IndexPartitions(BY_TENANT, [self.tenant])
        keys = partitions(*self.status)
        # With a `source`, only original events are listed.
        if self.source is None:
            keys += partitions(*self.status, of_copies=True)
        return IndexPartitions(BY_STATUS, keys)

    def has(self, event: Event, now: float) -> bool:
        """Return whether an event has a status that the query lists and, with `only_unclaimed`, is
        not claimed. The other conditions of the query are not checked: DynamoDB applies them.

        :param now: The time (Unix seconds) at which the event must not be claimed.
        """
        return event.status in self.status and not (self.only_unclaimed and event.is_claimed(now))


EVENTS = Query((Status.PENDING, Status.DELIVERED, Status.FAILED), order="newest")
INBOX = Query(UNSETTLED, order="oldest", source="original", include="payload", only_unclaimed=True)


class SearchEnd(NamedTuple):
    """The end of a search that took too long: rows after the sort key were not read."""

    sort_key: str


class Page(NamedTuple):
    """A page of events."""

    # In the order of the query.
    events: list[Event]
    # The sort key after which the next page begins; None: there is no next page.
    next_cursor: str | None


def read_page(services: CoreServices, query: Query) -> Page:
    """Return the page of events that follows the cursor of a query.

    Events are read from the table, unless the query reads the index of statuses and includes
    nothing: then they have the attributes that this index projects. An index is eventually
    consistent, so such an event may have been pushed or acknowledged a moment ago.

    Raises StorageUnavailableError.
    """
    found = _first_page(search(services, query), query)
    if query.partitions.index == BY_STATUS and not query.include:
        return found
    # Cut the page again: the index may not have had the sizes of the events.
    page = _first_page(_read_events(services, query, found.events), query)
    return Page(page.events, page.next_cursor or found.next_cursor)


READ_AT_ONCE = 25  # events; the events of a read that do not fit into the page are read in vain


def _read_events(services: CoreServices, query: Query, found: list[Event]) -> Iterator[Event]:
    """Read the events that a search found from the table; yield the events that the query still
    lists, in the same order.
    """
    for start in range(0, len(found), READ_AT_ONCE):
        event_ids = [event.event_id for event in found[start : start + READ_AT_ONCE]]
        current = services.store.get_many(event_ids, with_content=query.includes_payload)
        now = services.clock()
        for event in map(current.get, event_ids):
            if event and query.has(event, now):
                yield event


PAGE_SECONDS = 5


def search(services: CoreServices, query: Query) -> Iterator[Event | SearchEnd]:
    """Yield the events of a query in order, with the attributes that their index projects.

    The rows that a page needs are read from all partitions in parallel; further rows are read when
    the caller asks for another event. After PAGE_SECONDS, no more rows are read, and the last value
    that is yielded is a SearchEnd: the place in the order up to which all partitions were read. Up
    to MAX_EXPIRED rows that have expired are deleted. Raises StorageUnavailableError.
    """
    deadline = services.clock() + PAGE_SECONDS
    # One row is the event of the cursor, another one shows whether there is a next page.
    page_rows = query.limit + 2
    partitions = [
        PartitionSearch(pages, query, services.clock, deadline)
        for pages in _pages(services.store, query, page_rows)
    ]
    rows = [partition.rows() for partition in partitions]

    def read_first_rows(partition_rows: Iterator[Event | SearchEnd]) -> list[Event | SearchEnd]:
        """Return the rows of a partition that a page may need; its iterator goes on after them."""
        return list(islice(partition_rows, page_rows))

    first_rows = services.map(read_first_rows, rows)
    expired_ids = [*chain.from_iterable(partition.expired_ids for partition in partitions)]
    services.map(services.store.delete_expired, expired_ids[:MAX_EXPIRED])
    # For each partition, the rows that were read, then those that its iterator has not read yet.
    all_rows = map(chain, first_rows, rows)
    in_order = merge(
        *all_rows,
        key=attrgetter("sort_key"),
        reverse=query.order == "newest",
    )
    previous = query.cursor  # the event of the cursor is read, too, and left out
    for row in in_order:
        if isinstance(row, SearchEnd):
            yield row
            return
        # An event whose status changes during the search may be in two partitions.
        if row.sort_key != previous:
            yield row
        previous = row.sort_key


def _pages(store: EventStore, query: Query, page_rows: int) -> list[Iterator[Json]]:
    """Return, for each partition of a query, an iterator of DynamoDB's responses, which have the
    rows from the query's cursor on that meet its conditions.

    :param page_rows: The largest number of rows of the first response of a partition.
    """
    # A search of the inbox, which alone has `only_unclaimed`, returns expired rows, too: it deletes
    # them, because the inbox is read again and again.
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
    # The rows begin at the cursor, if there is one (otherwise it is empty).
    if query.order == "newest":
        values[":high"] = min(query.until, query.cursor or HIGHEST)
    else:
        values[":low"] = max(query.since, query.cursor)
    if query.event_type != "*":
        begins = "begins_with(event_type, :event_type)"
        conditions.append(begins if query.event_type.endswith("*") else "event_type = :event_type")
    # The conditions for the fields of the query that are set.
    filters = {name: text for name, text in FILTERS.items() if getattr(query, name)}
    index = query.partitions.index
    filters.pop(PARTITION_KEYS[index], None)  # DynamoDB refuses to filter by a key
    conditions += filters.values()
    if query.is_waiting:
        # How a row shows that its event waits for another attempt depends on the index.
        conditions.append(WAITING[index])
    return [
        store.pages(
            key,
            values,
            index=index,
            condition=" AND ".join(conditions),
            newest_first=query.order == "newest",
            first_rows=page_rows,
        )
        for key in query.partitions.keys
    ]


@dataclass
class PartitionSearch:
    """The search of one partition of an index for the events of a query."""

    # DynamoDB's responses; each is read when the iterator is asked for it.
    pages: Iterator[Json]
    query: Query
    clock: Clock
    # Unix seconds, after which no further response is read.
    deadline: float
    # The ids of the events that were read so far and have expired.
    expired_ids: list[str] = field(default_factory=list)

    def rows(self) -> Iterator[Event | SearchEnd]:
        """Yield the events of the query and, if the deadline has passed before the partition's end,
        a SearchEnd with the sort key of the last row that was read.

        The ids of events that have expired are added to `expired_ids` instead.
        """
        for page in self.pages:
            for item in page["Items"]:
                # Attributes that the index does not project have the values of NOT_PROJECTED.
                event = from_item(NOT_PROJECTED | item)
                if event.expires_at <= self.clock():
                    self.expired_ids.append(event.event_id)
                elif self.query.has(event, self.clock()):
                    yield event
            if "LastEvaluatedKey" in page and self.clock() > self.deadline:
                yield SearchEnd(page["LastEvaluatedKey"]["sort_key"]["S"])
                return


def _first_page(rows: Iterator[Event | SearchEnd], query: Query) -> Page:
    """Return a page with the first events of `rows`, at most the `limit` of the query.

    If the query includes payloads, the page ends before the event with which it would exceed
    MAX_PAGE_BYTES; one event is always smaller. The page has a cursor if `rows` has more events, or
    ends with a SearchEnd, after which more may follow.
    """
    events: list[Event] = []
    size = 0
    for row in rows:
        if isinstance(row, SearchEnd):
            return Page(events, _cursor_after_timeout(row.sort_key, events, query))
        if query.includes_payload:
            size += row.response_bytes
        if len(events) == query.limit or size > MAX_PAGE_BYTES:
            return Page(events, events[-1].sort_key)
        events.append(row)
    return Page(events, next_cursor=None)


def _cursor_after_timeout(sort_key: str, events: list[Event], query: Query) -> str:
    """Return the sort key after which the next page begins, if a search took too long.

    The caller may not be allowed to see the last row that was read, so the cursor names only the
    time of that row. The next page reads the rows of this moment again, except for events that a
    page has shown.

    :param sort_key: Of the last row that was read.
    :param events: The events of the page; empty: the search found none.
    """
    moment = sort_key.split("#")[0]
    # The last event that this page or the page before has shown; empty: no page has shown any.
    shown = events[-1].sort_key if events else query.cursor
    # The cursor is not before `shown`: events that were shown are not listed again.
    if query.order == "oldest":
        return max(f"{moment}#{FIRST_ID}", shown)
    return min(f"{moment}#{LAST_ID}", shown or HIGHEST)
