"""The worker's attempts, top down: claim an event, push it, record the outcome, until it is settled or must wait.

Each step may be the last before a crash: what is stored by then is enough for the sweep to continue.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from typing import Any

from chalicelib.core import messages
from chalicelib.core.event import Event, Reason, Status
from chalicelib.core.http_push import PushResult
from chalicelib.core.outcome import Outcome
from chalicelib.core.planning import DISABLED, Destination, NoDestination, find_destination
from chalicelib.core.pushing import AFTER_PUSH_CALLS, push_once
from chalicelib.customers import reports
from chalicelib.customers.subscriptions import Subscription
from chalicelib.deps import Invocation, Pusher, Services
from chalicelib.infra.clients import CALL_SECONDS
from chalicelib.infra.errors import StorageUnavailableError
from chalicelib.infra.queue import MAX_DELAY_SECONDS
from chalicelib.infra.telemetry import logger
from chalicelib.infra.times import rfc3339, unix_seconds

FAILING_ATTEMPTS = 10  # of a copy, after which its subscription is shown as failing
GONE = "not pushed: the subscription is gone"


@dataclass(frozen=True)
class Attempted:
    """An event after an attempt, when the next is due, and whether the worker may wait for that in process.

    `delay_seconds` is None if no attempt is to follow, or another will see to it.
    """

    event: Event
    delay_seconds: float | None = None
    may_wait: bool = False


def deliver(event_id: str, invocation: Invocation) -> None:
    """Push an event until it is settled or the next attempt must wait longer than this invocation can.

    Raises StorageUnavailableError and QueueUnavailableError.
    """
    services, settings, waited = invocation.services, invocation.services.settings, 0.0
    while (attempted := _attempt_due(event_id, invocation)) and attempted.delay_seconds is not None:
        waited += attempted.delay_seconds
        # The claim and what follows a push must end in time, too.
        left = invocation.seconds_left(1 + AFTER_PUSH_CALLS) - settings.push_timeout_seconds
        if not attempted.may_wait or waited > settings.in_process_wait_seconds or attempted.delay_seconds > left:
            enqueue(attempted, services)
            return
        services.sleep(attempted.delay_seconds)


def enqueue(attempted: Attempted, services: Services) -> None:
    """Send a message for the next attempt, if one is to follow; over MAX_DELAY_SECONDS, the sweep sends it."""
    if attempted.delay_seconds is not None and attempted.delay_seconds <= MAX_DELAY_SECONDS:
        services.work_queue.send(messages.push_message(attempted.event), attempted.delay_seconds)


@contextlib.contextmanager
def errors_left_to_sweep(event: Event) -> Iterator[None]:
    """Log any error: the event is stored, and the sweep queues it when nobody holds it."""
    try:
        yield
    except Exception:
        logger.exception("delivery left to the sweep", extra={"event_id": event.event_id})


def _attempt_due(event_id: str, invocation: Invocation) -> Attempted | None:
    """Claim an event and push it, if it is due; None: it is not there."""
    services = invocation.services
    claim = services.store.claim(event_id, services.new_id())
    event = claim.event
    if event is None:  # it was stored before any message named it
        logger.warning("message dropped: its event expired or was deleted", extra={"event_id": event_id})
        return None
    if not claim.applied:
        return _when_due(event, services)
    destination = find_destination(event, services)
    if isinstance(destination, NoDestination):
        return _not_pushed(event, destination, invocation)
    if services.settings.retry_policy.is_over(event.delivery_attempts):  # the last attempt was not recorded
        event = replace(event, delivery_attempts=event.delivery_attempts - 1)
        return _failed(event, Reason.EXHAUSTED, destination.subscription, invocation)
    return attempt(event, destination, Pusher.WORKER, invocation)


def _when_due(event: Event, services: Services) -> Attempted:
    """Return when an event whose message came early is due, without a wait: its destination may not work."""
    now = services.clock()
    if event.status is not Status.PENDING or event.next_attempt_at is None or event.is_claimed(now):
        return Attempted(event)
    return Attempted(event, max(0.0, unix_seconds(event.next_attempt_at) - now))


def _not_pushed(event: Event, why: NoDestination, invocation: Invocation) -> Attempted:
    """End a claimed attempt that has nowhere to go: without a URL the event waits in the inbox."""
    event = replace(event, delivery_attempts=event.delivery_attempts - 1)  # it is not made
    if why is NoDestination.GONE:
        return _gone(replace(event, last_error=GONE), invocation)
    if why is NoDestination.DISABLED:
        return _failed(replace(event, last_error=DISABLED), Reason.DISABLED, None, invocation)
    invocation.services.store.cancel_attempt(event)
    return Attempted(event)


def attempt(
    event: Event,
    destination: Destination,
    pusher: Pusher,
    invocation: Invocation,
    accepted: Mapping[str, Any] | None = None,
) -> Attempted:
    """Push a claimed event once and record the outcome.

    `accepted` is what to log of the POST that stored the event, unless that was logged. Raises OutOfTimeError,
    StorageUnavailableError and QueueUnavailableError.
    """
    services, subscription, started = invocation.services, destination.subscription, invocation.services.clock()
    result = push_once(event, destination, pusher, invocation)
    event = event.with_attempt(result.to_attempt(started))
    log = partial(_log_attempt, event, result, accepted or {}, services)
    if result.outcome is Outcome.DELIVERED:
        return _delivered(event, subscription, invocation, log)
    delay_seconds = None
    if result.outcome is Outcome.RETRY:
        delay_seconds = services.settings.retry_policy.next_delay_seconds(
            event.delivery_attempts, retry_after_seconds=result.retry_after_seconds, random=services.random
        )
    log(delay_seconds=delay_seconds)
    if delay_seconds is not None:
        waits = not result.hung and services.worker_breaker.may_wait(destination.url, services.settings)
        return _retry(event, delay_seconds, waits, subscription, invocation)
    if subscription and result.status_code == HTTPStatus.GONE and services.subscriptions.end(subscription):
        attempted = _gone(event, invocation)
        reports.subscription_changed("ended", subscription, None, invocation)
        return attempted
    if subscription and _is_deleted(subscription, invocation):
        return _gone(event, invocation)
    reason = Reason.PERMANENT if result.outcome is Outcome.FAILED else Reason.EXHAUSTED
    return _failed(event, reason, subscription, invocation)


def _log_attempt(
    event: Event,
    result: PushResult,
    accepted: Mapping[str, Any],
    services: Services,
    *,
    delay_seconds: float | None = None,
    is_recorded: bool = False,
) -> None:
    """Log one line with the metrics of an attempt and, if it has not its own line, of the POST.

    `is_recorded`: the attempt delivered the event, and that was recorded.
    """
    metrics: dict[str, float] = {"EventsAccepted": 1} if accepted else {}
    if is_recorded:
        latency_seconds = services.clock() - unix_seconds(event.replayed_at or event.created_at)
        metrics |= {"DeliverySuccess": 1, "DeliveryLatency": round(latency_seconds * 1000)}
    if result.is_made:
        metrics["PushDuration"] = result.duration_ms
    if delay_seconds is not None:
        metrics["DeliveryRetry"] = 1
    fields = {"event_id": event.event_id, "attempt": event.delivery_attempts, **result.shown()}
    fields["retry_in_seconds"] = delay_seconds and round(delay_seconds, 3)
    logger.info("attempt", extra={**accepted, **fields, **services.metrics(**metrics)})


def _delivered(
    event: Event, subscription: Subscription | None, invocation: Invocation, log: Callable[..., None]
) -> Attempted:
    """Record the delivery, and log the attempt, whether that succeeds or not."""
    services, is_recorded = invocation.services, False
    try:
        record = invocation.write_with_retries(services.store.record_delivered, event)
        is_recorded = record.applied
    finally:
        log(is_recorded=is_recorded)
    if is_recorded and subscription:
        services.subscriptions.record_delivery(subscription)
    return Attempted(record.event or event)


def _retry(
    event: Event, delay_seconds: float, waits: bool, subscription: Subscription | None, invocation: Invocation
) -> Attempted:
    services, will_be_queued = invocation.services, delay_seconds <= MAX_DELAY_SECONDS
    write = partial(services.store.record_retry, delay_seconds=delay_seconds, will_be_queued=will_be_queued)
    record = invocation.write_with_retries(write, event)
    # Without time for this call and the message, the dead letter will tell.
    before_message = replace(invocation, deadline=invocation.deadline - CALL_SECONDS)
    if subscription and record.applied and event.delivery_attempts == FAILING_ATTEMPTS and before_message.has_time():
        _report_change(services.subscriptions.record_failing(subscription), before_message)
    return Attempted(record.event or event, delay_seconds if record.applied else None, waits)


def _is_deleted(subscription: Subscription, invocation: Invocation) -> bool:
    """Return whether a subscription was deleted during the push: nobody waits for the copy."""
    with contextlib.suppress(StorageUnavailableError):  # then the outcome is recorded all the same
        subscriptions = invocation.services.subscriptions
        return invocation.has_time(3) and subscriptions.get(subscription.subscription_id) is None
    return False


def _gone(event: Event, invocation: Invocation) -> Attempted:
    """Delete a copy whose subscription is gone; one that was replayed keeps its history, since it may be delivered."""
    if event.replayed_at:
        return _failed(event, Reason.GONE, None, invocation)
    invocation.write_with_retries(invocation.services.store.delete, event)
    return Attempted(event)


def _failed(event: Event, reason: Reason, subscription: Subscription | None, invocation: Invocation) -> Attempted:
    """Send the DLQ message, then record the failure: a crash in between makes a second message, never none.

    Without a message if nobody has to be told: the subscription was deleted, or an alarm told that it is disabled.
    Raises QueueUnavailableError; the sweep queues the event again when its claim ends.
    """
    services, is_dead_letter = invocation.services, reason in (Reason.PERMANENT, Reason.EXHAUSTED)
    event = replace(event, reason=reason, failed_at=rfc3339(services.clock()))
    if is_dead_letter:
        services.dlq.send(messages.dead_letter(event))
    record = invocation.write_with_retries(services.store.record_failed, event)
    if record.applied and is_dead_letter:
        metrics = services.metrics(**{"CopyFailure" if event.is_copy else "DeliveryFailure": 1})
        logger.warning("dead letter", extra={"event_id": event.event_id, "reason": reason, **metrics})
        # Without time, the next dead letter counts.
        if subscription and invocation.has_time(2):
            _report_change(services.subscriptions.record_dead_letter(subscription), invocation)
        reports.event_failed(event, subscription, invocation)
    return Attempted(record.event or event)


def _report_change(subscription: Subscription | None, invocation: Invocation) -> None:
    """Report a subscription that has just been found failing, or was disabled; None: neither."""
    if subscription is None:
        return
    if subscription.disabled_at:
        metrics = invocation.services.metrics(SubscriptionsDisabled=1)
        logger.warning("subscription disabled", extra={"subscription_id": subscription.subscription_id, **metrics})
        reports.subscription_changed("disabled", subscription, subscription.disabled_at, invocation)
    else:
        reports.subscription_changed("failing", subscription, subscription.failing_since, invocation)
