"""Catch-up: what waits for a destination that delivers again is pushed within minutes, not when its
backoff ends.

A delivery after long trouble, or of a test event, leaves a mark. The sweep finds it and, each
minute, makes the oldest of what waits due, twice as many as in the minute before, spread over the
minute. Events that are still under way count, so that a slow receiver gets no more than it takes.
If half of a minute's events failed again, or all that wait, the catch-up ends, and what waits keeps
its backoff: the next test event that is delivered starts another one, and so does the delivery that
ends the next long trouble.
"""

from contextlib import suppress
from dataclasses import replace
from itertools import chain

from chalicelib.core.event import Event, Status
from chalicelib.core.invocation import CoreServices
from chalicelib.core.store import Mended
from chalicelib.events import replay
from chalicelib.events.listing import Query, read_page
from chalicelib.infra.errors import ApiError, StorageUnavailableError
from chalicelib.infra.queue import DEFAULT_GROUP_ID
from chalicelib.infra.telemetry import logger
from chalicelib.infra.times import rfc3339, unix_seconds
from chalicelib.subscriptions.subscription import Subscription
from chalicelib.subscriptions.subscriptions import Subscriptions

FIRST = 100  # events of a destination in a sweep that comes at once, twice as many after a minute
MOST = 1500  # of all destinations together, in a minute: half of what the slow lane takes
PERIOD_SECONDS = 60  # of the sweep
SPREAD_SECONDS = 50  # of a minute's events: when the next sweep comes, they were tried
SEARCH_SECONDS = 20  # of a destination: thousands of old dead letters may come first
WAITING = Query((Status.PENDING,), order="oldest", include="attempts", is_undelivered=True)


def catch_up(services: CoreServices, subscriptions: Subscriptions) -> None:
    """Let destinations that deliver again catch up.

    Raises StorageUnavailableError after all were tried, also if it failed for one.
    """
    mended = services.store.mended()
    destinations = {mark.destination for mark in mended}  # a test and a delivery leave a mark each
    known = subscriptions.get_many(destinations)
    most = max(1, MOST // max(1, len(destinations)))
    errors: list[StorageUnavailableError] = []

    def find_due(mark: Mended) -> list[tuple[Event, float]]:
        query = _query(mark.destination, known.get(mark.destination), services)
        try:
            due = _find_due(query, mark, most, services) if query else None
            if due is None:
                services.store.end_mended(mark)
            return due or []
        except StorageUnavailableError as error:
            errors.append(error)
            return []

    def push(event_and_delay: tuple[Event, float]) -> None:
        with suppress(ApiError):  # somebody was faster, or DynamoDB fails: the next minute tells
            replay.push_later(*event_and_delay, services)

    # Found by destination, pushed all together: a pool in each thread would be too many threads.
    services.map(push, [*chain.from_iterable(services.map(find_due, mended))])
    if errors:
        raise errors[0]


def _query(
    destination: str, subscription: Subscription | None, services: CoreServices
) -> Query | None:
    """Return the query of what waits for a destination, None if nothing is pushed there."""
    if destination == DEFAULT_GROUP_ID:
        return replace(WAITING, source="original")
    if subscription is None or subscription.refusal(services.settings):
        return None
    return replace(WAITING, subscription_id=destination, since=subscription.wanted_after)


def _find_due(
    query: Query, mark: Mended, most: int, services: CoreServices
) -> list[tuple[Event, float]] | None:
    """Return what is to be made due of what waits among the oldest events of a query, up to `most`,
    and after how many seconds each; None if the catch-up is over.

    Each event is made due once in a catch-up, by whomever.
    """
    now = services.clock()
    since = unix_seconds(mark.since)
    # Those whose sweep was missed count, too. Ten lead beyond MOST; a mark may be a day old.
    minutes = min(10, (now - since) / PERIOD_SECONDS)
    doubled = int(FIRST * 2**minutes)
    limit = min(doubled, most)
    query = replace(query, limit=limit)
    page = read_page(services, query)
    # However many dead letters are older.
    while page.next_cursor and not page.events and services.clock() < now + SEARCH_SECONDS:
        page = read_page(services, replace(query, cursor=page.next_cursor))
    events = [event for event in page.events if event.is_waiting]
    failed = [
        event
        for event in events
        if since <= event.asked_at and rfc3339(event.asked_at) <= event.attempted_at
    ]
    is_all_seen = len(failed) == len(events) and not page.next_cursor
    if is_all_seen or 2 * len(failed) >= min(doubled // 2, most):
        return None
    soon = rfc3339(now + PERIOD_SECONDS)
    due = [
        event for event in events if event.asked_at < since and (event.next_attempt_at or "") > soon
    ]
    logger.info("caught up", extra={"destination": mark.destination, "queued": len(due)})
    return [(event, SPREAD_SECONDS * number / limit) for number, event in enumerate(due)]
