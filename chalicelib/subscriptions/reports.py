"""Reports: events about events and subscriptions, for the subscriptions that name them.

They are made at best effort: the state in the table, the DLQ for what is the operator's, and the
alarms are the promise. Nothing that a report's copy causes is reported: ten subscriptions that get
reports and fail would make more and more of them.
"""

from chalicelib.core import messages, posting
from chalicelib.core.event import Event, NewEvent
from chalicelib.core.invocation import CoreServices, Invocation
from chalicelib.infra.errors import ApiError
from chalicelib.infra.parsing import RESERVED_PREFIX, dumps
from chalicelib.infra.telemetry import logger
from chalicelib.subscriptions.subscription import Subscription

CREATED_BY = "triggers:reports"  # no API key is named so: a name has no colon
REPORTED_MEMBERS = ("event_type", "source_event_id", "created_at")


def event_failed(event: Event, tenant: str | None, services: CoreServices) -> None:
    """Tell of a dead letter.

    One about an event itself has no tenant: no customer learns of the operator's webhook.
    """
    payload = messages.failure(event)
    del payload["tenant"]
    payload |= {name: getattr(event, name) for name in REPORTED_MEMBERS}
    report = NewEvent(f"{RESERVED_PREFIX}event.failed", dumps(payload), "null", tenant)
    _post(report, event, services)


def subscription_changed(
    change: str, subscription: Subscription, cause: Event, services: CoreServices
) -> None:
    """Tell that an event's attempt left a subscription `failing`, `disabled` or `ended`."""
    event_type = f"{RESERVED_PREFIX}subscription.{change}"
    report = NewEvent(event_type, subscription.to_json(), "null", subscription.tenant)
    _post(report, cause, services)


def _post(report: NewEvent, cause: Event, services: CoreServices) -> None:
    """Store a report and queue its copies, if a subscription matches and no report is the cause."""
    if cause.is_report:
        return
    try:
        event = posting.make_event(report, CREATED_BY, services).left_to_copies()
        plan = posting.make_plan(event, services)
        if len(plan) > 1:  # a subscription asked for it
            # Without time left: no second try of a write.
            invocation = Invocation(services, services.clock())
            posting.post_plan(plan, invocation)
    except ApiError:
        extra = {"event_type": report.event_type, "event_id": cause.event_id}
        logger.warning("report not posted", extra=extra)
