"""Pages of events in order of creation, merged from the partitions of the index."""

import base64
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import accumulate
from typing import Any

from chalicelib.errors import FieldFault, InvalidRequestError
from chalicelib.events import EVENT_ID, EVENT_TYPE, EVENT_TYPE_OR_PREFIX, Event, Status
from chalicelib.services import Services
from chalicelib.store import HIGHEST, LOWEST, NOT_EXPIRED, UNCLAIMED, Values, partitions
from chalicelib.subscriptions import SUBSCRIPTION_ID

DEFAULT_LIMIT, MAX_LIMIT = 50, 100
# RFC 3339, section 5.6; an unescaped + of the offset arrives as a space.
TIMESTAMP = r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+ -]\d\d:\d\d)"
EXPECTED_TIME = "a time such as 2026-11-25T02:25:03Z"
SEARCH_SECONDS = 5
MAX_PAGE_BYTES = 5 * 1024 * 1024  # as `response_bytes` counts: Lambda's responses are limited to 6 MB


@dataclass(frozen=True)
class Query:
    """Events to list: those after the sort key `after`, of originals, copies or both.

    With `only_available`, those that are claimed are left out.
    """

    statuses: tuple[Status, ...]
    newest_first: bool
    originals: bool = True
    copies: bool = True
    limit: int = DEFAULT_LIMIT
    event_type: str | None = None
    subscription_id: str | None = None
    tenant: str | None = None
    since: str = LOWEST
    until: str = HIGHEST
    after: str | None = None
    only_available: bool = False
    include_payload: bool = False

    def partitions(self) -> list[str]:
        """Return the partitions of the index that have the events."""
        kinds = [of_copies for of_copies, wanted in ((False, self.originals), (True, self.copies)) if wanted]
        return [key for of_copies in kinds for key in partitions(*self.statuses, of_copies=of_copies)]

    def filter(self) -> tuple[str, Values]:
        """Return the filter expression for rows of these partitions, and its values."""
        conditions: list[str] = [NOT_EXPIRED]
        values: dict[str, str] = {}
        for name in ("event_type", "subscription_id", "tenant"):
            value = getattr(self, name)
            if value not in (None, "*"):
                is_prefix = value.endswith("*")
                conditions.append(f"begins_with({name}, :{name})" if is_prefix else f"{name} = :{name}")
                values[f":{name}"] = value.removesuffix("*")
        if self.only_available:
            conditions.append(UNCLAIMED)
        return " AND ".join(conditions), values

    def bounds(self) -> tuple[str, str]:
        """Return the lowest and the highest sort key to read, inclusive."""
        if self.after is None:
            return self.since, self.until
        if self.newest_first:  # the keys before `after`: one that ends with the same character is not
            before = f"{self.after[:-1]}{chr(ord(self.after[-1]) - 1)}{HIGHEST}"
            return self.since, min(self.until, before)
        return max(self.since, f"{self.after} "), self.until

    def still_matches(self, event: Event, now: float) -> bool:
        """Return whether an event that the index showed is to be listed as it is by now."""
        return event.status in self.statuses and not (self.only_available and event.is_claimed(now))


EVENTS = Query((Status.PENDING, Status.DELIVERED, Status.FAILED), newest_first=True)
INBOX = Query(
    (Status.PENDING, Status.FAILED), newest_first=False, copies=False, only_available=True, include_payload=True
)


@dataclass(frozen=True)
class Page:
    """Events in order, and the sort key up to which the listing was read unless it is the last page."""

    events: list[Event]
    after: str | None

    @property
    def next_cursor(self) -> str | None:
        return _encode_cursor(self.after) if self.after else None


# The pattern and the description of each parameter, and the fields of Query that it sets.
PARAMETERS: dict[str, tuple[str, str, Callable[[str], dict[str, Any]]]] = {
    "cursor": (
        "([A-Za-z0-9_-]{96})?",
        "a next_cursor as it was returned",
        lambda text: {"after": _decode_cursor(text)},
    ),
    "event_type": (
        EVENT_TYPE_OR_PREFIX.pattern,
        "an event type, or a prefix followed by *",
        lambda text: {"event_type": text},
    ),
    "include": ("payload", "payload", lambda _: {"include_payload": True}),
    "limit": ("[1-9][0-9]?|100", f"a whole number from 1 to {MAX_LIMIT}", lambda text: {"limit": int(text)}),
    "order": ("oldest|newest", "oldest or newest", lambda text: {"newest_first": text == "newest"}),
    "since": (TIMESTAMP, EXPECTED_TIME, lambda text: {"since": _utc(text)}),
    "source": ("original", "original", lambda _: {"copies": False}),
    "status": ("|".join(EVENTS.statuses), "pending, delivered or failed", lambda text: {"statuses": (Status(text),)}),
    "subscription_id": (
        SUBSCRIPTION_ID.pattern,
        "sub_ and 32 hexadecimal digits",
        lambda text: {"subscription_id": text, "originals": False},
    ),
    "tenant": (EVENT_TYPE.pattern, "a tenant", lambda text: {"tenant": text}),
    "until": (TIMESTAMP, EXPECTED_TIME, lambda text: {"until": _utc(text)}),
}
INBOX_PARAMETERS = {"cursor", "event_type", "limit", "order", "tenant"}


def parse(parameters: Mapping[str, Sequence[str]], query: Query) -> Query:
    """Return EVENTS or INBOX with the parameters of a request; raise InvalidRequestError with every fault."""
    allowed = INBOX_PARAMETERS if query.only_available else PARAMETERS.keys()
    errors: list[FieldFault] = []
    for name, texts in parameters.items():
        if name not in allowed:
            errors.append(FieldFault(name[:128], "is not a parameter of this listing"))
            continue
        pattern, expected, fields = PARAMETERS[name]
        try:
            valid = len(texts) == 1 and re.fullmatch(pattern, texts[0])
            query = replace(query, **fields(texts[0])) if valid else query
        except (ValueError, OverflowError):  # a damaged cursor, or a time such as February 30
            valid = None
        if not valid:
            errors.append(FieldFault(name, f"must be {expected}, and given once"))
    if errors:
        raise InvalidRequestError(*errors)
    return query


def page(services: Services, query: Query) -> Page:
    """Return a page of whole events, or of the index's attributes unless the query includes the payload."""
    if not query.include_payload:
        return search(services, query)
    found = search(services, query, max_bytes=MAX_PAGE_BYTES)
    # The index is eventually consistent: what it shows may have been pushed or acknowledged a moment ago.
    current = services.store.get_many([event.event_id for event in found.events])
    events = [current[event.event_id] for event in found.events if event.event_id in current]
    return Page([event for event in events if query.still_matches(event, services.clock())], found.after)


def search(services: Services, query: Query, *, max_bytes: int | None = None) -> Page:
    """Return the next events as the index shows them: fewer than the limit if `max_bytes` leaves some out.

    After SEARCH_SECONDS, return what was found, with the place to go on from.
    """
    deadline = services.clock() + SEARCH_SECONDS
    read = partial(_read_partition, services, query, deadline)
    results = services.map(read, query.partitions())
    # A partition that was not read to its end may have more events behind the place that it was read to.
    first = max if query.newest_first else min
    complete_until = first((place for _, place in results if place), default=None)
    # By sort key: an event whose status changes meanwhile may be in two partitions.
    found = {event.sort_key: event for events, _ in results for event in events}
    in_order = [found[key] for key in sorted(found, reverse=query.newest_first)]
    if complete_until:
        in_order = [event for event in in_order if first(event.sort_key, complete_until) == event.sort_key]
    sizes = accumulate(event.response_bytes for event in in_order)
    fitting = [event for event, total in zip(in_order, sizes, strict=True) if max_bytes is None or total <= max_bytes]
    events = (fitting or in_order[:1])[: query.limit]
    return Page(events, events[-1].sort_key if len(events) < len(in_order) else complete_until)


def _read_partition(
    services: Services, query: Query, deadline: float, partition_key: str
) -> tuple[list[Event], str | None]:
    """Return the next events of a partition, up to one more than the limit, and where it goes on, if it does."""
    rows_needed = query.limit + 1
    condition, values = query.filter()
    low, high = query.bounds()
    pages = services.store.pages(
        partition_key,
        {**values, ":low": low, ":high": high},
        first_limit=rows_needed,
        FilterExpression=condition,
        ScanIndexForward=not query.newest_first,
    )
    events: list[Event] = []
    for page in pages:
        events += map(Event.from_item, page["Items"])
        if len(events) > rows_needed:
            return events[:rows_needed], events[rows_needed - 1].sort_key
        if "LastEvaluatedKey" not in page:
            break
        if len(events) == rows_needed or services.clock() > deadline:
            return events, page["LastEvaluatedKey"]["sort_key"]["S"]
    return events, None


def _utc(timestamp: str) -> str:
    """Return an RFC 3339 time in UTC with microseconds, as sort keys begin; raise ValueError or OverflowError."""
    date, time = timestamp[:10], timestamp[11:].upper().replace(" ", "+")
    moment = datetime.fromisoformat(f"{date}T{time}").astimezone(UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _encode_cursor(sort_key: str) -> str:
    return base64.urlsafe_b64encode(f"{sort_key}{zlib.crc32(sort_key.encode()):08x}".encode()).decode()


def _decode_cursor(cursor: str) -> str | None:
    """Return the sort key of a cursor, None of an empty one; raise ValueError if it is damaged."""
    sort_key = base64.urlsafe_b64decode(cursor).decode("ascii")[:-8]
    if cursor and (_encode_cursor(sort_key) != cursor or not EVENT_ID.fullmatch(sort_key[28:])):
        raise ValueError
    return sort_key or None
