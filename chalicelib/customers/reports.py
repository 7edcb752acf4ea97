"""Reports: events about events and subscriptions, of reserved types, for subscriptions that name them.

They are made at best effort, after what they tell of was recorded: the DLQ and its alarm are the promise.
"""

from dataclasses import replace

from chalicelib.core import messages, planning
from chalicelib.core.event import RESERVED_PREFIX, Event, NewEvent, dumps
from chalicelib.customers.subscriptions import Subscription
from chalicelib.deps import Invocation
from chalicelib.infra.errors import ApiError, QueueUnavailableError
from chalicelib.infra.telemetry import logger
from chalicelib.settings import COPIES_ONLY

CREATED_BY = "triggers:reports"  # no API key is named so: a name has no colon
EVENT_MEMBERS = ("event_type", "subscription_id", "source_event_id", "created_at")


def event_failed(event: Event, subscription: Subscription | None, invocation: Invocation) -> None:
    """Tell of a dead letter, unless it is that of a report. One about an event itself has no tenant."""
    if event.event_type.startswith(RESERVED_PREFIX):
        return
    payload = messages.failure(event) | {name: getattr(event, name) for name in EVENT_MEMBERS}
    tenant = subscription.tenant if subscription else None
    _post("event.failed", dumps(payload), tenant, f"{event.event_id} {event.failed_at}", invocation)


def subscription_changed(
    change: str, subscription: Subscription, changed_at: str | None, invocation: Invocation
) -> None:
    """Tell that a subscription is `failing`, `disabled` or `ended`; `changed_at` tells this from the next time."""
    key = f"{subscription.sort_key} {changed_at}"
    _post(f"subscription.{change}", subscription.to_json(), subscription.tenant, key, invocation)


def _post(event_type: str, payload: str, tenant: str | None, key: str, invocation: Invocation) -> None:
    """Store a report and queue its copies, if a subscription matches. `key` makes a repeated report the same event."""
    event_type = f"{RESERVED_PREFIX}{event_type}"
    # NUL is in no Idempotency-Key of a caller.
    new_event = NewEvent(event_type, payload, "null", tenant, idempotency_key=f"{event_type}\0{key}")
    event = planning.make_event(new_event, CREATED_BY, COPIES_ONLY, invocation.services)
    try:
        if invocation.has_time():
            planned = planning.plan(event, invocation)
            if len(planned) > 1:  # a subscription asked for it
                stored = planning.store([replace(each, destination=None) for each in planned], invocation)
                planning.queue([each.event for each in stored.due], invocation)
            return
    except (ApiError, QueueUnavailableError):  # an outage, or somebody erased it
        pass
    logger.warning("report not posted", extra={"event_type": event_type, "about": key})
