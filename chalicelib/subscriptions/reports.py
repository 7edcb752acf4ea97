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
    """Post the report that an event or copy failed for good: an event of the type
    `triggers.event.failed`, which goes to subscriptions that name this type.

    The payload has the members of a dead letter, without the tenant, and REPORTED_MEMBERS. Errors
    are logged.

    :param event: The event or copy that failed.
    :param tenant: The tenant of the report: its subscriptions get the report, and subscriptions
        without a tenant. None: the event failed at the operator's webhook, and no tenant's
        subscriptions get the report.
    """
    payload = messages.failure_members(event)
    del payload["tenant"]
    payload |= {name: getattr(event, name) for name in REPORTED_MEMBERS}
    event_type = f"{RESERVED_PREFIX}event.failed"
    report = NewEvent(event_type, dumps(payload), metadata="null", tenant=tenant)
    _post(report, event, services)


def subscription_changed(
    change: str, subscription: Subscription, cause: Event, services: CoreServices
) -> None:
    """Post the report that an attempt changed the state of a subscription: an event of the type
    `triggers.subscription.<change>` and of the subscription's tenant, with the subscription as its
    payload.

    Errors are logged.

    :param change: The new state: `failing`, `disabled` or `ended`.
    :param subscription: The subscription after the change.
    :param cause: The copy whose attempt changed the state.
    """
    event_type = f"{RESERVED_PREFIX}subscription.{change}"
    report = NewEvent(
        event_type, subscription.to_json(), metadata="null", tenant=subscription.tenant
    )
    _post(report, cause, services)


def _post(report: NewEvent, cause: Event, services: CoreServices) -> None:
    """Store a report and queue its copies for the subscriptions that get it.

    If no subscription gets the report, nothing is stored. Nothing is stored either if the cause is
    the copy of a report, because reports about reports would never end. Errors are logged.

    :param report: The report: an event about another event or about a subscription.
    :param cause: The event or copy whose attempt is reported.
    """
    if cause.is_report:
        return
    try:
        # The report itself is not pushed, only its copies are.
        event = posting.make_event(report, CREATED_BY, services).left_to_copies()
        plan = posting.make_plan(event, services)
        if len(plan) > 1:  # the plan has the report and at least one copy
            # The deadline is now, so no write is tried again: a report may be lost.
            invocation = Invocation(services, deadline=services.clock())
            posting.post_plan(plan, invocation)
    except ApiError:
        extra = {"event_type": report.event_type, "event_id": cause.event_id}
        logger.warning("report not posted", extra=extra)
