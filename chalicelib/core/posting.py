"""POST /events, top down: plan, store, start. Errors after the event is stored are left to the sweep."""

from dataclasses import replace

from chalicelib.core import delivery, planning, pushing
from chalicelib.core.delivery import errors_left_to_sweep
from chalicelib.core.event import Attempt, Event, NewEvent, dumps
from chalicelib.core.planning import Destination, Planned, Stored
from chalicelib.customers.subscriptions import Subscription
from chalicelib.deps import Invocation, Pusher, Services
from chalicelib.infra.telemetry import logger
from chalicelib.settings import PULL_ONLY

MAX_INLINE_PUSHES = 10


def post(new_event: NewEvent, invocation: Invocation, *, created_by: str, respond_async: bool) -> tuple[Event, bool]:
    """Store an event and a copy for each matching subscription, then push up to MAX_INLINE_PUSHES of them once.

    The others are queued, as are all if `respond_async` and those whose breaker is open. Returns the event, and whether
    an earlier call with the same Idempotency-Key stored it. Raises what `planning.store` raises.
    """
    services = invocation.services
    event = planning.make_event(new_event, created_by, services.settings.webhook, services)
    planned = planning.plan(event, invocation)
    if earlier := planning.find_earlier(planned, invocation):
        return earlier, True
    limit = 0 if respond_async else MAX_INLINE_PUSHES
    stored = planning.store(_choose_inline(planned, limit, services), invocation)
    return _start(stored, invocation), not stored.is_new and stored.event.body_hash is not None


def push_test_event(subscription: Subscription, invocation: Invocation) -> Attempt:
    """Push an event that is stored nowhere to a subscription alone; return the attempt, which changes nothing."""
    services, payload = invocation.services, dumps({"subscription_id": subscription.subscription_id})
    test = NewEvent("test", payload, "null", subscription.tenant)
    event = planning.make_event(test, subscription.created_by, PULL_ONLY, services)
    copy = replace(planning.make_copy(event, subscription, services), source_event_id=None)
    destination, started = Destination(subscription.target_url, subscription), services.clock()
    return pushing.push_once(copy, destination, Pusher.TEST, invocation).to_attempt(started)


def _choose_inline(planned: list[Planned], limit: int, services: Services) -> list[Planned]:
    """Leave destinations to up to `limit` that are pushed at once: the event first, none whose breaker is open."""
    chosen: set[str] = set()
    for each in reversed(planned):
        url = each.destination.url if each.destination and len(chosen) < limit else None
        if url and services.breaker.take_push(url, services.clock(), services.settings):
            chosen.add(each.event.event_id)
    return [each if each.event.event_id in chosen else replace(each, destination=None) for each in planned]


def _start(stored: Stored, invocation: Invocation) -> Event:
    """Queue or push what is due; return the event as it is then."""
    event = stored.event
    with errors_left_to_sweep(event):
        planning.queue([each.event for each in stored.due if not each.destination], invocation)
    # Without a second for a push, its claim expires.
    has_time = invocation.seconds_left(pushing.AFTER_PUSH_CALLS) > 1
    pushed = [(each.event, each.destination) for each in stored.due if each.destination and has_time]
    accepted = {"event_type": event.event_type, "created_by": event.created_by, "copies": len(event.copies) or None}
    if stored.is_new and not any(each is event for each, _ in pushed):
        metrics = invocation.services.metrics(EventsAccepted=1)
        logger.info("event accepted", extra={"event_id": event.event_id, **accepted, **metrics})

    def push(new: tuple[Event, Destination]) -> Event:
        with errors_left_to_sweep(new[0]):
            extra = accepted if stored.is_new and new[0] is event else None
            attempted = delivery.attempt(*new, Pusher.INLINE, invocation, extra)
            delivery.enqueue(attempted, invocation.services)
            return attempted.event
        return new[0]

    events = invocation.services.map(push, pushed)
    return next((each for each in events if each.event_id == event.event_id), event)
