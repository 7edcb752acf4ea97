"""Catch-up: what waits for a destination that delivers again is pushed within minutes, not when its
backoff ends.

A delivery after long trouble leaves a mark. The sweep finds it and, each minute, makes the oldest
of what waits due, up to twice as many as in the minute before, one after the other. Those that are
still under way count, so that a slow receiver gets no more than it takes, and so do those that
failed again: a receiver that fails again ends the catch-up, and what waits keeps its backoff.
"""

from dataclasses import replace

from chalicelib.core.event import Event, Status
from chalicelib.core.invocation import CoreServices
from chalicelib.events import replay
from chalicelib.events.listing import Query, read_page
from chalicelib.infra.errors import ApiError
from chalicelib.infra.queue import DEFAULT_GROUP_ID
from chalicelib.infra.telemetry import logger
from chalicelib.infra.times import rfc3339, unix_seconds

FIRST = 100  # are due in the first minute
MOST = 1500  # of all destinations together, in a minute: half of what the slow lane takes
PERIOD_SECONDS = 60  # of the sweep; no event is pushed twice in it


def catch_up(services: CoreServices) -> None:
    """Let destinations that deliver again catch up. Raises StorageUnavailableError."""
    mended = services.store.mended()
    for destination, since in mended.items():
        minutes = (services.clock() - unix_seconds(since)) / PERIOD_SECONDS
        limit = int(min(FIRST * 2**minutes, MOST / len(mended)))
        if not _catch_up(destination, since, limit, services):
            services.store.forget_mended(destination)


def _catch_up(destination: str, since: str, limit: int, services: CoreServices) -> bool:
    """Make due what waits among the oldest `limit` events of a destination; return whether to go
    on in a minute.
    """
    now = services.clock()
    events = read_page(services, _pending(destination, limit)).events
    recovered = [event for event in events if _recovered_at(event) >= since]
    failed = [event for event in recovered if _last_at(event) > _recovered_at(event)]
    soon = rfc3339(now + PERIOD_SECONDS)
    waiting = [event for event in events if _recovered_at(event) < since and _due_at(event) > soon]
    # Of the minute before, which had half as many, half failed again; or all is done.
    if 4 * len(failed) > limit or len(failed) == len(recovered) + len(waiting):
        return False
    just_now = rfc3339(now - PERIOD_SECONDS)
    due = [event for event in waiting if _last_at(event) < just_now]

    def push(number: int) -> None:
        try:
            replay.push_later(due[number], PERIOD_SECONDS * number / limit, services)
        except ApiError:  # somebody was faster, or DynamoDB fails: the next minute tells
            logger.info("not caught up", extra={"event_id": due[number].event_id})

    services.map(push, range(len(due)))
    logger.info("caught up", extra={"destination": destination, "queued": len(due)})
    return True


def _pending(destination: str, limit: int) -> Query:
    """Return the query of the oldest pending events of a destination."""
    query = Query((Status.PENDING,), order="oldest", limit=limit, include="attempts")
    if destination == DEFAULT_GROUP_ID:
        return replace(query, source="original")
    return replace(query, subscription_id=destination, is_undelivered=True)


def _recovered_at(event: Event) -> str:
    return event.recovered_at or ""


def _due_at(event: Event) -> str:
    return event.next_attempt_at or ""


def _last_at(event: Event) -> str:
    """Return when the latest attempt began."""
    return event.attempts[-1].at if event.attempts else ""
