"""Reports: events about events and subscriptions, for the subscriptions that name their types.

A report may be lost. The state in the table, the messages in the DLQ for the operator's events, and
the alarms are not. A change that the copy of a report causes is not reported: ten failing
subscriptions that get reports would make more and more reports.
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
    """Post the report that an event or copy failed for good (`triggers.event.failed`).

    Errors are logged.

    :param event: The event or copy.
    :param tenant: The tenant whose subscriptions get the report; None for an event
        that is pushed to the operator's webhook, about which no tenant gets a report.
    """
    payload = messages.failure_members(event)
    del payload["tenant"]
    payload |= {name: getattr(event, name) for name in REPORTED_MEMBERS}
    report = NewEvent(f"{RESERVED_PREFIX}event.failed", dumps(payload), "null", tenant)
    _post(report, event, services)


def subscription_changed(
    change: str, subscription: Subscription, cause: Event, services: CoreServices
) -> None:
    """Post the report that an attempt changed the state of a subscription
    (`triggers.subscription.…`), to the subscriptions of its tenant.

    Errors are logged.

    :param change: The new state: `failing`, `disabled` or `ended`.
    :param subscription: The subscription after the change.
    :param cause: The copy whose attempt changed the state.
    """
    event_type = f"{RESERVED_PREFIX}subscription.{change}"
    report = NewEvent(event_type, subscription.to_json(), "null", subscription.tenant)
    _post(report, cause, services)


def _post(report: NewEvent, cause: Event, services: CoreServices) -> None:
    """Store a report and queue its copies, if a subscription gets one.

    Nothing is stored if the cause is the copy of a report. Errors are logged.

    :param cause: The event or copy whose attempt is reported.
    """
    if cause.is_report:
        return
    try:
        event = posting.make_event(report, CREATED_BY, services).left_to_copies()
        plan = posting.make_plan(event, services)
        if len(plan) > 1:  # the report has a copy
            # An invocation without time left, so that no write is tried twice.
            invocation = Invocation(services, deadline=services.clock())
            posting.post_plan(plan, invocation)
    except ApiError:
        extra = {"event_type": report.event_type, "event_id": cause.event_id}
        logger.warning("report not posted", extra=extra)
