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
    """Push the events of this minute for all destinations that have a catch-up: events that waited
    for a destination while it failed, and are pushed before their backoff ends.

    Each destination has an equal share of MAX_EVENTS, at least one event. What some destinations
    leave of their shares is divided among the destinations that have more events. A destination
    whose share suffices is served at once, and does not wait for the searches of the others.

    :raises StorageUnavailableError: If DynamoDB failed for one of the destinations; the other
        destinations are served first.
    """
    # A mark is an item that says since when a destination has a catch-up.
    marks = services.store.catch_ups()
    # A set: a destination has two marks if both a delivery and a test started a catch-up.
    known = subscriptions.get_many({mark.destination for mark in marks})
    events_left = MAX_EVENTS  # in this minute
    failure: StorageUnavailableError | None = None
    # Each round pushes the events of the destinations whose share suffices, and divides the events
    # that are left among the other destinations.
    while marks:
        share = max(1, events_left // len(marks))
        serve = partial(_find_and_push, share, known, services)
        found, error = services.try_map(serve, marks)
        failure = failure or error
        unserved = [events for events in found if events.needs_more]
        events_left -= sum(len(events.page.events) for events in found if not events.needs_more)
        if unserved and events_left // len(unserved) <= share:
            # Another round would not give them larger shares: push what was found for them.
            _, error = services.try_map(partial(_push, services), unserved)
            failure = failure or error
            break
        marks = [events.mark for events in unserved]
    if failure:
        raise failure


def _find_and_push(
    share: int, known: Mapping[str, Subscription], services: CoreServices, mark: CatchUp
) -> Found:
    """Find events that wait for one destination, at most its share, and push them, unless the
    destination could use a larger share; return the found events.

    If it could (`Found.needs_more`), the caller calls this again with a larger share, or pushes the
    found events itself.

    :param share: How many events the destination may have in this minute.
    :param known: The subscriptions among the destinations by id; a deleted one has no entry.
    :param mark: The mark by which the sweep found the catch-up of the destination.
    """
    found = _find(mark, _make_query(mark, known, services), share, services)
    if not found.needs_more:
        _push(services, found)
    return found


def _make_query(
    mark: CatchUp, known: Mapping[str, Subscription], services: CoreServices
) -> Query | None:
    """Return the query of the events that wait for the destination of a mark and were created
    until its catch-up began; None: nothing may be pushed to the destination now, because it is
    deleted, disabled or not allowed.

    Events that were created later have a short backoff, and would keep the catch-up from ending.

    :param known: The subscriptions among the destinations by id; a deleted one has no entry.
    """
    # A sort key is a creation time and an id, so this key comes after all events of that time.
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

    A catch-up may have FIRST_EVENTS in its first minute, and twice as many in each further minute.

    :param mark: The mark of the destination; its catch-up began at `mark.since`.
    :param query: The query of the events that wait for the destination; None: nothing may be pushed
        to it, and the result has no events.
    :param share: How many events the destination may have in this minute.
    """
    # The time since the catch-up began, instead of the number of sweeps: a sweep may have failed.
    minutes = (services.clock() - unix_seconds(mark.since)) / SWEEP_PERIOD_SECONDS
    allowed = int(FIRST_EVENTS * 2 ** min(MAX_DOUBLINGS, minutes))
    limit = min(allowed, share)
    page = Page([], next_cursor=None)
    if query:
        page = _first_page_with_events(replace(query, limit=limit), services)
    return Found(mark, page, allowed, limit)


def _first_page_with_events(query: Query, services: CoreServices) -> Page:
    """Return the first page of a query that has an event or, if there is none or SEARCH_SECONDS
    have passed, the last page that was read.

    Pages may be empty, because thousands of older dead letters are read and left out.
    """
    deadline = services.clock() + SEARCH_SECONDS
    page = read_page(services, query)
    while page.next_cursor and not page.events and services.clock() < deadline:
        page = read_page(services, replace(query, cursor=page.next_cursor))
    return page


def _push(services: CoreServices, found: Found) -> None:
    """Push the events that were found for a destination, spread over SPREAD_SECONDS, or end its
    catch-up if too many of them have failed again since it began.

    Too many have failed if all have, or half as many as could be pushed in the minute before. An
    event is not pushed if its push was asked for since the catch-up began (by this catch-up or by a
    replay), or if it is due within a minute anyway.
    """
    mark = found.mark
    now = services.clock()
    began = unix_seconds(mark.since)
    waiting = [event for event in found.page.events if event.is_waiting]
    failed_again = [event for event in waiting if _has_failed_since(event, began)]
    have_all_failed = len(failed_again) == len(waiting) and not found.page.next_cursor
    # How many events could be pushed in the minute before: half of what this minute allows, unless
    # the share of the destination was lower. That share is not known. If the present share does not
    # suffice, it is taken for that of the minute before.
    share_before = found.limit if found.page.next_cursor else MAX_EVENTS
    possible_before = min(found.allowed // 2, share_before)
    if have_all_failed or 2 * len(failed_again) >= possible_before:
        services.store.end_catch_up(mark)
        return
    # `asked_at` is the time at which the latest push was asked for.
    not_asked_for = [event for event in waiting if event.asked_at < began]
    soon = rfc3339(now + SWEEP_PERIOD_SECONDS)
    due = [event for event in not_asked_for if (event.next_attempt_at or "") > soon]

    def push(number: int) -> None:
        """Let an event of `due` be pushed after a delay that grows with its number."""
        event = due[number]
        delay_seconds = SPREAD_SECONDS * number / found.limit
        # When the attempt after this one is due if this one fails: as if there were no catch-up.
        resume_at = event.resume_at if event.is_catching_up else event.next_attempt_at
        # If another call was faster, or DynamoDB fails, the next minute finds the event as it is
        # then.
        with suppress(ApiError):
            replay.push_later(event, delay_seconds, services, resume_at=resume_at)

    services.map(push, range(len(due)), threads=PUSH_THREADS)
    logger.info("caught up", extra={"destination": mark.destination, "queued": len(due)})


def _has_failed_since(event: Event, began: float) -> bool:
    """Return whether an event has failed again in its catch-up: since the catch-up began, a push of
    the event was asked for (by the catch-up or by a replay) and made, and failed.

    :param event: An event that waits for another attempt, so its latest attempt failed.
    :param began: When the catch-up began (Unix seconds).
    """
    was_asked_for = event.asked_at >= began
    was_attempted_since = event.attempted_at >= rfc3339(event.asked_at)
    return was_asked_for and was_attempted_since
