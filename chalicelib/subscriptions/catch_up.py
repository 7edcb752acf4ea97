"""Catch-up: what waits for a destination that delivers again is pushed within minutes, not when its
backoff ends.

A delivery after long trouble, or of a test event, leaves a mark. The sweep finds it and, each
minute, makes due the oldest events that wait since before the mark, twice as many as in the minute
before, spread over the minute. Events that are still under way count, so that a slow receiver gets
no more than it takes. An attempt that fails again does not count, and the next one is due when it
was before. If half of a minute's events failed again, or all that wait, the catch-up ends: the next
test event that is delivered starts another one, and so does the delivery that ends the next long
trouble.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from chalicelib.core.event import Event, Status
from chalicelib.core.invocation import CoreServices
from chalicelib.core.store import SWEEP_PERIOD_SECONDS, CatchUp
from chalicelib.events import replay
from chalicelib.events.listing import Page, Query, read_page
from chalicelib.infra.errors import ApiError, StorageUnavailableError
from chalicelib.infra.queue import WEBHOOK
from chalicelib.infra.table import HIGHEST
from chalicelib.infra.telemetry import logger
from chalicelib.infra.times import rfc3339, unix_seconds
from chalicelib.subscriptions.subscription import Subscription
from chalicelib.subscriptions.subscriptions import Subscriptions

# How many events a catch-up may push in its first minute; twice as many in each further minute.
FIRST_EVENTS = 100
# How many events all catch-ups together may push in a minute: half of what the slow lane takes.
MAX_EVENTS = 1500
MAX_DOUBLINGS = 10  # these lead beyond MAX_EVENTS; a mark may be a day old
# Over how much of a minute its events are spread: they were tried when the next sweep comes.
SPREAD_SECONDS = 50
# How long the events of a destination are searched for: thousands of old dead letters may come
# first.
SEARCH_SECONDS = 20
PUSH_THREADS = 8  # for each destination: 32 destinations may be searched at the same time
WAITING = Query((Status.PENDING,), order="oldest", include="attempts", is_waiting=True)


@dataclass(frozen=True)
class Found:
    """The oldest events that wait for a destination, as many as its share has room for."""

    # The mark of the destination, by which the sweep found its catch-up.
    mark: CatchUp
    # The events, and a cursor if more of them wait.
    page: Page
    # How many events this minute of the catch-up may have, before the share limits it.
    allowed: int
    # How many events the page may have: `allowed`, or the share of the destination if that is less.
    limit: int

    @property
    def needs_more(self) -> bool:
        """Whether the destination would use a larger share."""
        return self.page.next_cursor is not None and self.limit < self.allowed


def catch_up(services: CoreServices, subscriptions: Subscriptions) -> None:
    """Push the events of this minute for all destinations that have a catch-up.

    Each destination has an equal share of MAX_EVENTS, at least one event, and what the other
    destinations leave of their shares. A destination whose share suffices is served at once, and
    does not wait for the searches of the others. Raises StorageUnavailableError after all were
    tried, also if DynamoDB failed for one of them.
    """
    marks = services.store.catch_ups()
    # A test and a delivery leave a mark each.
    known = subscriptions.get_many({mark.destination for mark in marks})
    left = MAX_EVENTS
    failure: StorageUnavailableError | None = None
    while marks:
        share = max(1, left // len(marks))
        serve = partial(_find_and_push, share, known, services)
        found, error = services.try_map(serve, marks)
        failure = failure or error
        wanting = [events for events in found if events.needs_more]
        left -= sum(len(events.page.events) for events in found if not events.needs_more)
        if wanting and left // len(wanting) <= share:
            _, error = services.try_map(partial(_push, services), wanting)
            failure = failure or error
            break
        marks = [events.mark for events in wanting]
    if failure:
        raise failure


def _find_and_push(
    share: int, known: Mapping[str, Subscription], services: CoreServices, mark: CatchUp
) -> Found:
    """Find the events that wait for the destination of a mark, up to a share, and push them unless
    the destination could use a larger share; return the events found.

    :param share: How many events the destination may have.
    :param known: The subscriptions that exist, by id.
    """
    found = _find(mark, _make_query(mark, known, services), share, services)
    if not found.needs_more:
        _push(services, found)
    return found


def _make_query(
    mark: CatchUp, known: Mapping[str, Subscription], services: CoreServices
) -> Query | None:
    """Return the query of the events that wait for the destination of a mark and were created
    before it; None: nothing may be pushed to the destination now.

    Events that were created later have a short backoff, and would keep the catch-up from ending.

    :param known: The subscriptions that exist, by id.
    """
    # Behind all events of the mark's moment.
    waiting = replace(WAITING, until=f"{mark.since}{HIGHEST}")
    if mark.destination == WEBHOOK:
        is_pushed = services.targets.webhook.is_enabled
        return replace(waiting, source="original") if is_pushed else None
    subscription = known.get(mark.destination)
    if subscription is None or subscription.recover_refusal(services.settings):
        return None
    return replace(waiting, subscription_id=mark.destination, since=subscription.wanted_after)


def _find(mark: CatchUp, query: Query | None, share: int, services: CoreServices) -> Found:
    """Return the oldest events of a query, as many as both a share and this minute of the catch-up
    allow.

    :param mark: The mark of the destination.
    :param query: The query of the events that wait; None: no event may be pushed, and none is
    found.
    :param share: How many events the destination may have.
    """
    minutes = (services.clock() - unix_seconds(mark.since)) / SWEEP_PERIOD_SECONDS
    # By the clock, not by the number of sweeps: one may have been missed.
    allowed = int(FIRST_EVENTS * 2 ** min(MAX_DOUBLINGS, minutes))
    limit = min(allowed, share)
    page = Page([], None)
    if query:
        page = _first_page_with_events(replace(query, limit=limit), services)
    return Found(mark, page, allowed, limit)


def _first_page_with_events(query: Query, services: CoreServices) -> Page:
    """Return the first page of a query that has an event, or the last page that was read within
    SEARCH_SECONDS: thousands of dead letters may be older.
    """
    deadline = services.clock() + SEARCH_SECONDS
    page = read_page(services, query)
    while page.next_cursor and not page.events and services.clock() < deadline:
        page = read_page(services, replace(query, cursor=page.next_cursor))
    return page


def _push(services: CoreServices, found: Found) -> None:
    """Make the events that were found due within SPREAD_SECONDS, or end the catch-up if too many of
    them have failed again.

    An event that was replayed or made due since the catch-up began, or is due within a minute, is
    left as it is.
    """
    mark = found.mark
    now = services.clock()
    began = unix_seconds(mark.since)
    waiting = [event for event in found.page.events if event.is_waiting]
    failed_again = [event for event in waiting if _has_failed_since(event, began)]
    have_all_failed = len(failed_again) == len(waiting) and not found.page.next_cursor
    # In the minute before, half as many events were allowed, or as many as the share of that
    # minute. That share is taken to be the present one, if the page uses it up.
    most_before = found.limit if found.page.next_cursor else MAX_EVENTS
    allowed_before = min(found.allowed // 2, most_before)
    if have_all_failed or 2 * len(failed_again) >= allowed_before:
        services.store.end_catch_up(mark)
        return
    soon = rfc3339(now + SWEEP_PERIOD_SECONDS)
    due = [
        event
        for event in waiting
        if event.asked_at < began and (event.next_attempt_at or "") > soon
    ]

    def push(number: int) -> None:
        event = due[number]
        delay_seconds = SPREAD_SECONDS * number / found.limit
        resume_at = event.resume_at if event.is_catching_up else event.next_attempt_at
        # If somebody was faster, or DynamoDB fails, the next minute finds the event as it is then.
        with suppress(ApiError):
            replay.push_later(event, delay_seconds, services, resume_at=resume_at)

    services.map(push, range(len(due)), threads=PUSH_THREADS)
    logger.info("caught up", extra={"destination": mark.destination, "queued": len(due)})


def _has_failed_since(event: Event, began: float) -> bool:
    """Return whether a waiting event was made due since the catch-up began (Unix seconds), and its
    attempt failed.
    """
    return began <= event.asked_at and rfc3339(event.asked_at) <= event.attempted_at
