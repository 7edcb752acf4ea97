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
from chalicelib.core.store import SWEEP_PERIOD_SECONDS, CatchUp
from chalicelib.events import replay
from chalicelib.events.listing import Page, Query, read_page
from chalicelib.infra.errors import ApiError
from chalicelib.infra.queue import WEBHOOK
from chalicelib.infra.telemetry import logger
from chalicelib.infra.times import rfc3339, unix_seconds
from chalicelib.subscriptions.subscription import Subscription
from chalicelib.subscriptions.subscriptions import Subscriptions

FIRST_EVENTS = 100  # of a destination in a sweep that comes at once, twice as many after a minute
MAX_EVENTS = 1500  # of all destinations together, in a minute: half of what the slow lane takes
MAX_DOUBLINGS = 10  # lead beyond MAX_EVENTS; a mark may be a day old
SPREAD_SECONDS = 50  # of a minute's events: when the next sweep comes, they were tried
SEARCH_SECONDS = 20  # of a destination: thousands of old dead letters may come first
WAITING = Query((Status.PENDING,), order="oldest", include="attempts", is_undelivered=True)

DueEvent = tuple[Event, float]  # an event, and after how many seconds it is due


def catch_up(services: CoreServices, subscriptions: Subscriptions) -> None:
    """Let destinations that deliver again catch up.

    Raises StorageUnavailableError after all were tried, also if it failed for one.
    """
    marks = services.store.catch_ups()
    # A test and a delivery leave a mark each.
    destinations = {mark.destination for mark in marks}
    known = subscriptions.get_many(destinations)
    share = max(1, MAX_EVENTS // max(1, len(destinations)))

    def find_due(mark: CatchUp) -> list[DueEvent]:
        query = _query(mark.destination, known.get(mark.destination), services)
        due = _find_due(query, mark, share, services) if query else None
        if due is None:
            services.store.end_catch_up(mark)
            return []
        return due

    def push(due: DueEvent) -> None:
        event, delay_seconds = due
        with suppress(ApiError):  # somebody was faster, or DynamoDB fails: the next minute tells
            replay.push_later(event, delay_seconds, services)

    # Found by destination, pushed all together: a pool in each thread would be too many threads.
    found, error = services.try_map(find_due, marks)
    services.map(push, [*chain.from_iterable(found)])
    if error:
        raise error


def _query(
    destination: str, subscription: Subscription | None, services: CoreServices
) -> Query | None:
    """Return the query of what waits for a destination, None if nothing is pushed there."""
    if destination == WEBHOOK:
        return replace(WAITING, source="original")
    if subscription is None or subscription.refusal(services.settings):
        return None
    return replace(WAITING, subscription_id=destination, since=subscription.wanted_after)


def _find_due(
    query: Query, mark: CatchUp, share: int, services: CoreServices
) -> list[DueEvent] | None:
    """Return which of the oldest events that wait are made due now, up to `share`; None if the
    catch-up is over.

    Each event is made due once in a catch-up, by whomever.
    """
    now = services.clock()
    began = unix_seconds(mark.since)
    # By the clock, not by the number of sweeps: one may have been missed.
    doublings = min(MAX_DOUBLINGS, (now - began) / SWEEP_PERIOD_SECONDS)
    allowed = int(FIRST_EVENTS * 2**doublings)
    limit = min(allowed, share)
    page = _first_page_with_events(replace(query, limit=limit), services)
    waiting = [event for event in page.events if event.is_waiting]
    failed_again = [event for event in waiting if _has_failed_since(event, began)]
    have_all_failed = len(failed_again) == len(waiting) and not page.next_cursor
    allowed_before = min(allowed // 2, share)
    if have_all_failed or 2 * len(failed_again) >= allowed_before:
        return None
    soon = rfc3339(now + SWEEP_PERIOD_SECONDS)
    due = [
        event
        for event in waiting
        if event.asked_at < began and (event.next_attempt_at or "") > soon
    ]
    logger.info("caught up", extra={"destination": mark.destination, "queued": len(due)})
    return [(event, SPREAD_SECONDS * number / limit) for number, event in enumerate(due)]


def _first_page_with_events(query: Query, services: CoreServices) -> Page:
    """Return the first page that has an event, however many dead letters are older, or the last one
    that was read within SEARCH_SECONDS.
    """
    deadline = services.clock() + SEARCH_SECONDS
    page = read_page(services, query)
    while page.next_cursor and not page.events and services.clock() < deadline:
        page = read_page(services, replace(query, cursor=page.next_cursor))
    return page


def _has_failed_since(event: Event, began: float) -> bool:
    """Return whether an event was made due since the catch-up began, and tried since then."""
    return began <= event.asked_at and rfc3339(event.asked_at) <= event.attempted_at
