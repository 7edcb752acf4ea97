"""Attempts, top down: claim an event, push it, decide what follows, record that.

Each step may be the last before a crash: what is stored by then is enough for the sweep to
continue.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus

from chalicelib.core import messages, outcome
from chalicelib.core.breaker import Breaker
from chalicelib.core.event import Attempt, Event, Status
from chalicelib.core.invocation import CoreServices, Invocation
from chalicelib.core.store import CLEAR_SCHEDULE, WriteResult
from chalicelib.core.target import Target
from chalicelib.infra.clients import CALL_SECONDS
from chalicelib.infra.errors import StorageUnavailableError
from chalicelib.infra.queue import MAX_DELAY_SECONDS
from chalicelib.infra.telemetry import logger
from chalicelib.infra.times import rfc3339, unix_seconds

AFTER_PUSH_SECONDS = 2 * CALL_SECONDS  # the record and the message
# without the push: the claim and the target come before it
ATTEMPT_SECONDS = 2 * CALL_SECONDS + AFTER_PUSH_SECONDS


@dataclass(frozen=True)
class Concluded:
    """An event as it is after an attempt, and what follows."""

    event: Event
    decision: outcome.Decision


class OutOfTimeError(Exception):
    """The function ends too soon for a push; the sweep queues the event when its claim ends."""


def deliver(event_id: str, invocation: Invocation) -> None:
    """Push an event until it is settled or the next attempt must wait longer than this invocation
    can.

    Raises StorageUnavailableError and QueueUnavailableError.
    """
    budget_seconds = invocation.services.settings.in_process_wait_seconds
    while (delay_seconds := _attempt_due(event_id, budget_seconds, invocation)) is not None:
        invocation.services.sleep(delay_seconds)
        budget_seconds -= delay_seconds


def _attempt_due(event_id: str, budget_seconds: float, invocation: Invocation) -> float | None:
    """Make an attempt, if the event is due; return the seconds to wait in process for the next,
    None without one.
    """
    services = invocation.services
    claim = services.store.claim(event_id, services.new_id())
    event = claim.event
    if event is None:  # events are stored before their messages are sent: it was there
        logger.warning(
            "message dropped: its event expired or was deleted", extra={"event_id": event_id}
        )
        return None
    if not claim.applied:
        _send_on(event, services)
        return None
    # for when no push follows
    uncounted = replace(event, delivery_attempts=event.delivery_attempts - 1)
    try:
        target = services.targets.find(event)
    except StorageUnavailableError:  # an outage of reads must not end events
        services.store.record(uncounted)
        raise
    if isinstance(target, outcome.KeptFailed | outcome.Dropped | outcome.Unscheduled):
        _record(uncounted, target, invocation)  # there is no owner to tell
        return None
    # the last attempt was not recorded
    if event.delivery_attempts > services.settings.max_delivery_attempts:
        record_and_tell(uncounted, target, outcome.DeadLetter(outcome.Reason.EXHAUSTED), invocation)
        return None
    decision = _attempt(event, target, budget_seconds, invocation)
    return (
        decision.delay_seconds
        if isinstance(decision, outcome.RetryLater) and decision.in_process
        else None
    )


def _send_on(event: Event, services: CoreServices) -> None:
    """Replace a message that came too early by one with the remaining delay."""
    now = services.clock()
    if event.status is Status.PENDING and event.next_attempt_at and not event.is_claimed(now):
        enqueue(event, max(0.0, unix_seconds(event.next_attempt_at) - now), services)


def enqueue(event: Event, delay_seconds: float, services: CoreServices) -> None:
    """Send a message for the next attempt; over MAX_DELAY_SECONDS, the sweep sends it."""
    if delay_seconds <= MAX_DELAY_SECONDS:
        services.work_queue.send(messages.push_message(event), delay_seconds)


def _attempt(
    event: Event, target: Target, budget_seconds: float, invocation: Invocation
) -> outcome.Decision:
    """Make an attempt of the worker, whose breaker may be open; up to `budget_seconds` may be
    waited for the next.
    """
    services, settings, breaker = (
        invocation.services,
        invocation.services.settings,
        invocation.services.worker_breaker,
    )
    started, max_wait_seconds = services.clock(), -1.0
    if open_seconds := breaker.wait_seconds(target.destination, started):
        result = outcome.PushResult(
            outcome.Outcome.RETRY, error=outcome.NOT_PUSHED, retry_after_seconds=open_seconds
        )
    else:
        result = push(event, target, settings.push_timeout_seconds, invocation, breaker)
        if (
            not result.timed_out
            and breaker.failures(target.destination) < settings.breaker_failures
        ):
            time_left = invocation.seconds_left() - ATTEMPT_SECONDS - settings.push_timeout_seconds
            max_wait_seconds = min(budget_seconds, time_left)
    return _conclude(
        event, target, started, result, invocation, max_wait_seconds=max_wait_seconds
    ).decision


def push_inline(event: Event, target: Target, invocation: Invocation) -> Event:
    """Make an attempt while the caller of POST /events waits; return the event as it is then."""
    services, started = invocation.services, invocation.services.clock()
    timeout_seconds = services.settings.inline_push_timeout_seconds
    result = push(event, target, timeout_seconds, invocation, services.inline_breaker)
    return _conclude(event, target, started, result, invocation).event


def push(
    event: Event,
    target: Target,
    timeout_seconds: float,
    invocation: Invocation,
    breaker: Breaker | None = None,
) -> outcome.PushResult:
    """Push an event once, unless its target has a fault, and tell a breaker how that ended. Raises
    OutOfTimeError.
    """
    services, settings, started = (
        invocation.services,
        invocation.services.settings,
        invocation.services.clock(),
    )
    time_left = invocation.seconds_left() - AFTER_PUSH_SECONDS
    timeout_seconds = min(settings.push_timeout_seconds, timeout_seconds, time_left)
    if timeout_seconds <= 0:
        raise OutOfTimeError
    if target.fault:
        result = outcome.PushResult(outcome.Outcome.FAILED, error=target.fault)
    else:
        result = services.push.send(
            event, target, int(started), timeout_seconds, settings.push_connect_timeout_seconds
        )
    if breaker:  # a trial that was not made has ended, too
        breaker.record(
            target.destination, started, services.clock(), result, settings.breaker_open_seconds
        )
    return result


def _conclude(
    event: Event,
    target: Target,
    started: float,
    result: outcome.PushResult,
    invocation: Invocation,
    **options: float,
) -> Concluded:
    """Decide what follows from an attempt that began at `started` (Unix seconds), record that, then
    log it.

    `options` are those of `outcome.decide`.
    """
    services, is_recorded = invocation.services, False
    event = event.with_attempt(Attempt.of(started, result))
    if result.status_code == HTTPStatus.GONE:
        decision = target.owner.gone(event)
    else:
        policy = outcome.RetryPolicy.of(services.settings)
        decision = outcome.decide(
            result, event.delivery_attempts, policy, services.random, **options
        )
    try:
        recorded = record_and_tell(event, target, decision, invocation)
        is_recorded = recorded.applied
    finally:
        _log_attempt(event, decision, services, is_recorded=is_recorded)
    return Concluded(recorded.event or event, decision)


def record_and_tell(
    event: Event, target: Target, decision: outcome.Decision, invocation: Invocation
) -> WriteResult:
    """Record a decision, send the message of a retry, and tell the target.

    Nothing but the record follows if that is not applied: a consumer acknowledged the event, or its
    claim expired.
    """
    recorded = _record(event, decision, invocation)
    if recorded.applied:
        if isinstance(decision, outcome.RetryLater) and not decision.in_process:
            enqueue(event, decision.delay_seconds, invocation.services)
        target.owner.recorded(recorded.event or event, decision)
    return recorded


def _record(event: Event, decision: outcome.Decision, invocation: Invocation) -> WriteResult:
    """Record a decision by one write. Raises StorageUnavailableError and QueueUnavailableError."""
    services, store = invocation.services, invocation.services.store
    match decision:
        case outcome.Delivered():
            return invocation.retry_write(store.record_delivered, event)
        case outcome.RetryLater(delay_seconds):
            return invocation.retry_write(
                partial(store.record_retry, delay_seconds=delay_seconds), event
            )
        case outcome.DeadLetter(reason):
            event = replace(event, reason=reason, failed_at=rfc3339(services.clock()))
            # Before the record: a crash in between makes a second message, never a silent failure.
            services.dlq.send(messages.dead_letter(event))
            recorded = invocation.retry_write(store.record_failed, event)
            if recorded.applied:
                metrics = services.metrics(
                    **{"CopyFailure" if event.is_copy else "DeliveryFailure": 1}
                )
                logger.warning(
                    "dead letter", extra={"event_id": event.event_id, "reason": reason, **metrics}
                )
            return recorded
        case outcome.KeptFailed(error):
            event = replace(
                event, reason=outcome.Reason.DISABLED, failed_at=rfc3339(services.clock())
            )
            return invocation.retry_write(
                store.record_failed, replace(event, last_error=error or event.last_error)
            )
        case outcome.Dropped():
            return invocation.retry_write(store.delete_claimed, event)
        case outcome.Unscheduled():
            return invocation.retry_write(
                lambda claimed: store.record(claimed, **CLEAR_SCHEDULE), event
            )


def _log_attempt(
    event: Event, decision: outcome.Decision, services: CoreServices, *, is_recorded: bool
) -> None:
    """Log one line with the metrics of an event's latest attempt."""
    attempt, metrics, delay_seconds = vars(event.attempts[-1]), dict[str, float](), None
    if isinstance(decision, outcome.RetryLater):
        delay_seconds = round(decision.delay_seconds, 3)
        metrics["DeliveryRetry"] = 1
    elif isinstance(decision, outcome.Delivered) and is_recorded:
        latency_seconds = services.clock() - unix_seconds(event.replayed_at or event.created_at)
        metrics |= {"DeliverySuccess": 1, "DeliveryLatency": round(latency_seconds * 1000)}
    if attempt["duration_ms"]:
        metrics["PushDuration"] = attempt["duration_ms"]
    extra = {
        "event_id": event.event_id,
        "attempt": event.delivery_attempts,
        "retry_in_seconds": delay_seconds,
    }
    extra |= {name: attempt[name] for name in ("outcome", "status_code", "error", "duration_ms")}
    logger.info("attempt", extra={**extra, **services.metrics(**metrics)})


@contextlib.contextmanager
def errors_left_to_sweep(event: Event) -> Iterator[None]:
    """Log any error: the event is stored, and the sweep queues it when nobody holds it."""
    try:
        yield
    except Exception:
        logger.exception("delivery left to the sweep", extra={"event_id": event.event_id})
