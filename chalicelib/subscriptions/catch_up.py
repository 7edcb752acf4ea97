"""Catch-up: what waits for a destination that delivers again is pushed within minutes, not when its
backoff ends.

A delivery after long trouble, or of a test event, leaves a mark. The sweep finds it and, each
minute, makes the oldest of what waits due, twice as many as in the minute before, spread over the
minute. Events that are still under way count, so that a slow receiver gets no more than it takes.
If half of a minute's events failed again, the catch-up ends, and what waits keeps its backoff: the
next test event that is delivered starts another one, and so does the delivery that ends the next
long trouble.
"""

from dataclasses import replace

from chalicelib.core.event import Event, Status
from chalicelib.core.invocation import CoreServices
from chalicelib.core.store import Mended
from chalicelib.events import replay
from chalicelib.events.listing import Query, read_page
from chalicelib.infra.errors import ApiError
from chalicelib.infra.queue import DEFAULT_GROUP_ID
from chalicelib.infra.telemetry import logger
from chalicelib.infra.times import rfc3339, unix_seconds
from chalicelib.subscriptions.subscription import Subscription
from chalicelib.subscriptions.subscriptions import Subscriptions

MOST = 1500  # of all destinations together, in a minute: half of what the slow lane takes
PERIOD_SECONDS = 60  # of the sweep
SEARCH_SECONDS = 20  # of a destination: thousands of old dead letters may come first
WAITING = Query((Status.PENDING,), order="oldest", include="attempts", is_undelivered=True)


def catch_up(services: CoreServices, subscriptions: Subscriptions) -> None:
    """Let destinations that deliver again catch up. Raises StorageUnavailableError."""
    mended = services.store.mended()
    # Once each: a test and a delivery leave a mark each, and DynamoDB refuses a key that is twice.
    known = subscriptions.get_many({mark.destination for mark in mended})
    most = max(1, MOST // max(1, len(mended)))

    def catch_up_one(mark: Mended) -> None:
        limit = min(2 * mark.limit, most)
        query = _query(known.get(mark.destination), mark, services)
        if query and _push_oldest(replace(query, limit=limit), mark, services):
            services.store.keep_mended(mark._replace(limit=limit))
        else:
            services.store.forget_mended(mark)

    services.map(catch_up_one, mended)


def _query(subscription: Subscription | None, mark: Mended, services: CoreServices) -> Query | None:
    """Return the query of what waits for a destination, None if nothing is pushed there."""
    if mark.destination == DEFAULT_GROUP_ID:
        return replace(WAITING, source="original")
    if subscription is None or subscription.refusal(services.settings):
        return None
    since = subscription.wanted_after
    return replace(WAITING, subscription_id=mark.destination, since=since)


def _push_oldest(query: Query, mark: Mended, services: CoreServices) -> bool:
    """Make due what waits among the oldest events of a query; return whether to go on in a minute.

    Each event is made due once in a catch-up, by whomever.
    """
    events = _read_oldest(query, services)
    since = unix_seconds(mark.since)
    soon = rfc3339(services.clock() + PERIOD_SECONDS)
    failed = [event for event in events if event.attempted_at > mark.since]
    made_due = [event for event in events if event.asked_at >= since]
    due = [
        event for event in events if event.asked_at < since and (event.next_attempt_at or "") > soon
    ]
    if 2 * len(failed) > mark.limit or len(failed) >= len(made_due) + len(due):
        return False

    def push(number: int) -> None:
        try:
            replay.push_later(due[number], PERIOD_SECONDS * number / query.limit, services)
        except ApiError:  # somebody was faster, or DynamoDB fails: the next minute tells
            logger.info("not caught up", extra={"event_id": due[number].event_id})

    services.map(push, range(len(due)))
    logger.info("caught up", extra={"destination": mark.destination, "queued": len(due)})
    return True


def _read_oldest(query: Query, services: CoreServices) -> list[Event]:
    """Return the oldest events of a query, however many dead letters are older."""
    deadline = services.clock() + SEARCH_SECONDS
    page = read_page(services, query)
    while page.next_cursor and not page.events and services.clock() < deadline:
        page = read_page(services, replace(query, cursor=page.next_cursor))
    return page.events
