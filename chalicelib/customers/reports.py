"""Reports: events about events and subscriptions, of reserved types, for subscriptions that name them.

They are made at best effort, after what they tell of was recorded: the DLQ and its alarm are the promise. Nothing that
a report's copy causes is reported: ten subscriptions that get reports and fail would make more and more of them.
"""

from chalicelib.core import messages, posting
from chalicelib.core.event import RESERVED_PREFIX, Event, NewEvent, dumps
from chalicelib.core.invocation import CoreServices, Invocation
from chalicelib.customers.subscription import Subscription
from chalicelib.infra.errors import ApiError
from chalicelib.infra.telemetry import logger
from chalicelib.settings import COPIES_ONLY

CREATED_BY = "triggers:reports"  # no API key is named so: a name has no colon
EVENT_MEMBERS = ("event_type", "subscription_id", "source_event_id", "created_at")


def event_failed(event: Event, tenant: str | None, services: CoreServices) -> None:
    """Tell of a dead letter. One about an event itself has no tenant: no customer learns of the operator's webhook."""
    payload = {**messages.failure(event), **{name: getattr(event, name) for name in EVENT_MEMBERS}}
    del payload["tenant"]
    _post(NewEvent(f"{RESERVED_PREFIX}event.failed", dumps(payload), "null", tenant), event, services)


def subscription_changed(change: str, subscription: Subscription, cause: Event, services: CoreServices) -> None:
    """Tell that a subscription is `failing`, `disabled` or `ended` because of an event's attempt."""
    event_type = f"{RESERVED_PREFIX}subscription.{change}"
    _post(NewEvent(event_type, subscription.to_json(), "null", subscription.tenant), cause, services)


def _post(report: NewEvent, cause: Event, services: CoreServices) -> None:
    """Store a report and queue its copies, if a subscription matches and no report is the cause."""
    if cause.is_report:
        return
    try:
        event = posting.make_event(report, CREATED_BY, COPIES_ONLY, services)
        plan = posting.make_plan(event, services)
        if plan.copies:  # a subscription asked for it
            invocation = Invocation(services, services.clock())  # without a second try of a write
            posting.start(posting.store(plan, invocation), invocation)
    except ApiError:
        extra = {"event_type": report.event_type, "event_id": cause.event_id}
        logger.warning("report not posted", extra=extra)
