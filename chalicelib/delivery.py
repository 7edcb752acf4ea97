"""The life of an event, top down: accept, attempt, settle, dead-letter, replay, acknowledge.

Each step may be the last before a crash: what is stored by then is enough for the sweep to continue.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from chalicelib import backoff, messages
from chalicelib.backoff import Delay
from chalicelib.errors import ApiError, EventNotFoundError, QueueUnavailableError, StorageUnavailableError
from chalicelib.events import Attempt, Event, Reason, Status, rfc3339, unix_seconds
from chalicelib.push import Outcome, PushResult
from chalicelib.queue import MAX_DELAY_SECONDS
from chalicelib.services import CALL_SECONDS, Services
from chalicelib.store import CLAIM_SECONDS, MESSAGE_GRACE_SECONDS, WriteResult
from chalicelib.telemetry import logger
from chalicelib.validation import NewEvent

DAY_SECONDS = 86_400
POST_SECONDS = 27  # API Gateway ends a request after 29 s
# After a push come two calls: the record and, for a retry, the message.
AFTER_PUSH_SECONDS = 2 * CALL_SECONDS
RECORD_RETRY_SECONDS = 0.5
DEAD_LETTER_RETRY_SECONDS = 60


class OutOfTimeError(Exception):
    """The claim or the function ends too soon for a push; the sweep queues the event."""


class UnknownEventError(Exception):
    """A message names an event that is absent or expired."""


def accept(
    new_event: NewEvent, services: Services, *, created_by: str, idempotency_key: str | None, respond_async: bool
) -> tuple[Event, bool]:
    """Store an event, then push it once, or queue it if `respond_async` or while the breaker is open.

    Returns the event, and whether an earlier call with the same Idempotency-Key stored it. Raises
    StorageUnavailableError if it may not be stored, ApiError 422 if the key was used with another body. Errors after
    the event is stored are logged; the sweep retries the delivery.
    """
    deadline = services.clock() + POST_SECONDS
    permit = None if respond_async else services.breaker.acquire()
    stored = WriteResult(False)
    try:
        claimed = permit is not None
        stored = services.store.put(_new_event(new_event, services, created_by, idempotency_key, claimed=claimed))
    finally:
        if permit is not None and not stored.applied:
            services.breaker.release(permit)
    event = stored.event
    if event is None:  # it expired between the failed condition and now
        raise StorageUnavailableError
    if not stored.applied:
        if event.body_hash != new_event.body_hash:
            raise ApiError(422, "This Idempotency-Key was used before, with another body.")
        return event, True
    extra = {"event_id": event.event_id, "event_type": event.event_type, "created_by": event.created_by}
    logger.info("event accepted", extra=extra)
    services.metrics.emit(EventsAccepted=1)
    try:
        return _begin(event, services, deadline), False
    except Exception:  # a stored event is answered with 202, whatever fails
        logger.exception("delivery left to the sweep", extra={"event_id": event.event_id})
        return event, False


def deliver(event_id: str, services: Services, deadline: float) -> None:
    """Push an event until it is settled or the next attempt must wait longer than this invocation can.

    The function must return by `deadline` (Unix seconds). Raises UnknownEventError, StorageUnavailableError and
    QueueUnavailableError.
    """
    settings = services.settings
    step_seconds = CALL_SECONDS + settings.push_timeout_seconds + AFTER_PUSH_SECONDS
    delay_seconds = backoff.retry_in_process(
        partial(attempt_delivery, event_id, services, deadline),
        wait_seconds=settings.in_process_wait_seconds,
        last_start=deadline - step_seconds,
        clock=services.clock,
        sleep=services.sleep,
    )
    if delay_seconds is not None:
        _wake_up(event_id, delay_seconds, services)


def attempt_delivery(event_id: str, services: Services, deadline: float) -> Delay | None:
    """Claim an event, push it and record the outcome; return the delay of the next attempt, or None if none is due."""
    claim = services.store.claim(event_id, services.new_id())
    event = claim.event
    if event is None:
        raise UnknownEventError
    if not claim.applied:
        return _delay_until_due(event, services)
    max_attempts = services.settings.max_delivery_attempts
    if event.delivery_attempts > max_attempts:  # the last attempt was not recorded
        _dead_letter(replace(event, delivery_attempts=max_attempts), Reason.EXHAUSTED, services, deadline)
        return None
    event, result = _push(event, services.settings.push_timeout_seconds, services, deadline)
    return _settle(event, result, services, deadline)[1]


def acknowledge(event_id: str, services: Services) -> None:
    """Record that a consumer has processed an event; raise EventNotFoundError."""
    result = services.store.acknowledge(event_id)
    if result.event is None and not result.applied:
        raise EventNotFoundError
    if result.applied:
        logger.info("acknowledged", extra={"event_id": event_id})


def replay(event_id: str, services: Services) -> Event:
    """Make an event pending again and queue it; raise EventNotFoundError, or ApiError 409 while it is claimed."""
    result = services.store.replay(event_id, services.new_id(), expires_at=_expires_at(services))
    event = result.event
    if event is None:
        raise EventNotFoundError
    if not result.applied:
        seconds = math.ceil(_claim_seconds_left(event, services))
        raise ApiError(409, "The event is claimed; try again when the claim ends.", retry_after_seconds=max(1, seconds))
    logger.info("replayed", extra={"event_id": event_id})
    _wake_up_or_leave_to_sweep(event_id, 0, services)
    return event


def redrive(event_id: str, failed_at: str, services: Services) -> float | None:
    """Replay an event whose dead letter was moved back, if that tells of its latest failure.

    Returns the seconds after which the dead letter must be looked at again if the event is claimed, else None: the
    dead letter is sent before the failure is recorded, so it can come back before that.
    """
    result = services.store.replay(event_id, services.new_id(), expires_at=_expires_at(services), failed_at=failed_at)
    if result.applied or result.event is None or not result.event.is_claimed(services.clock()):
        return None
    return min(MAX_DELAY_SECONDS, _claim_seconds_left(result.event, services) + 1)


def _new_event(
    new_event: NewEvent, services: Services, created_by: str, idempotency_key: str | None, *, claimed: bool
) -> Event:
    now = services.clock()
    if idempotency_key is None:
        digits = services.new_id()
    else:  # NUL separates the two, so that no two pairs give the same text
        digits = hashlib.sha256(f"{created_by}\0{idempotency_key}".encode()).hexdigest()[:32]
    return Event(
        event_id=f"evt_{digits}",
        event_type=new_event.event_type,
        status=Status.PENDING,
        created_at=rfc3339(now),
        created_by=created_by,
        expires_at=_expires_at(services),
        size=new_event.size,
        payload=new_event.payload,
        metadata=new_event.metadata,
        body_hash=new_event.body_hash,
        delivery_attempts=1 if claimed else 0,
        next_attempt_at=rfc3339(now),
        requeue_at=rfc3339(now + (CLAIM_SECONDS if claimed else MESSAGE_GRACE_SECONDS)),
        claim_id=services.new_id(),
        claimed_until=rfc3339(now + CLAIM_SECONDS) if claimed else None,
    )


def _begin(event: Event, services: Services, deadline: float) -> Event:
    """Push a new event if it was stored with a claim, else queue it; return it as it is then."""
    if event.status is not Status.PENDING:  # acknowledged before the response of the put arrived
        return event
    if event.claimed_until is None:
        _wake_up_or_leave_to_sweep(event.event_id, 0, services)
        return event
    event, result = _push(event, services.settings.inline_push_timeout_seconds, services, deadline)
    if result.outcome is Outcome.RETRY:
        services.breaker.failed(timed_out=result.timed_out)
    else:
        services.breaker.succeeded()
    event, delay = _settle(event, result, services, deadline)
    if delay is not None:
        _wake_up_or_leave_to_sweep(event.event_id, delay.seconds, services)
    return event


def _push(event: Event, timeout_seconds: float, services: Services, deadline: float) -> tuple[Event, PushResult]:
    """Push a claimed event once; return it with the attempt. Raises OutOfTimeError."""
    started = services.clock()
    timeout_seconds = min(timeout_seconds, deadline - started - AFTER_PUSH_SECONDS)
    if timeout_seconds <= 0 or not event.is_claimed(started + timeout_seconds):
        raise OutOfTimeError
    result = services.push.send(event, services.settings.webhook_url, timeout_seconds)
    attempt = Attempt(rfc3339(started), result.outcome, result.status_code, result.error, result.duration_ms)
    return event.with_attempt(attempt), result


def _settle(event: Event, result: PushResult, services: Services, deadline: float) -> tuple[Event, Delay | None]:
    """Record the outcome of an attempt; return the event, and the delay of the next attempt if there is one."""
    delay = _next_delay(event, result, services)
    logger.info(
        "attempt",
        extra={
            "event_id": event.event_id,
            "attempt": event.delivery_attempts,
            "outcome": result.outcome,
            "status_code": result.status_code,
            "error": result.error,
            "duration_ms": result.duration_ms,
            "retry_in_seconds": round(delay.seconds, 3) if delay else None,
        },
    )
    if result.outcome is Outcome.DELIVERED:
        return _record_delivered(event, result, services, deadline), None
    if delay is not None:
        services.metrics.emit(DeliveryRetry=1, PushDuration=result.duration_ms)
        return _record_retry(event, delay, services, deadline)
    services.metrics.emit(PushDuration=result.duration_ms)
    reason = Reason.PERMANENT if result.outcome is Outcome.FAILED else Reason.EXHAUSTED
    return _dead_letter(event, reason, services, deadline), None


def _next_delay(event: Event, result: PushResult, services: Services) -> Delay | None:
    settings = services.settings
    if result.outcome is not Outcome.RETRY or event.delivery_attempts >= settings.max_delivery_attempts:
        return None
    scheduled = backoff.delay_seconds(
        event.delivery_attempts,
        base=settings.backoff_base_seconds,
        cap=settings.backoff_cap_seconds,
        random=services.random,
    )
    # A receiver that hangs must not hold the batch, which may have events of others.
    return Delay(max(scheduled, result.retry_after_seconds), may_wait=not result.timed_out)


def _record_delivered(event: Event, result: PushResult, services: Services, deadline: float) -> Event:
    record = _record(partial(services.store.record_delivered, event), event, services, deadline)
    if record.applied:
        started = unix_seconds(event.replayed_at or event.created_at)
        latency_ms = round((services.clock() - started) * 1000)
        services.metrics.emit(DeliverySuccess=1, PushDuration=result.duration_ms, DeliveryLatency=latency_ms)
    return record.event or event


def _record_retry(event: Event, delay: Delay, services: Services, deadline: float) -> tuple[Event, Delay | None]:
    message_follows = delay.seconds <= MAX_DELAY_SECONDS
    write = partial(services.store.record_retry, event, delay.seconds, message_follows=message_follows)
    try:
        record = _record(write, event, services, deadline)
    except StorageUnavailableError:
        # It may have been recorded: a message too many is dropped, one too few costs a minute.
        _wake_up(event.event_id, delay.seconds, services)
        raise
    return record.event or event, delay if record.applied else None


def _dead_letter(event: Event, reason: Reason, services: Services, deadline: float) -> Event:
    """Send the DLQ message, then record the failure: a crash in between makes a second message, never none."""
    failed = replace(event, reason=reason, failed_at=rfc3339(services.clock()))
    try:
        services.dlq.send(messages.dead_letter_body(failed), {"EventId": event.event_id, "Reason": reason})
    except QueueUnavailableError:
        services.store.record_retry(event, DEAD_LETTER_RETRY_SECONDS, message_follows=False)
        raise
    record = _record(partial(services.store.record_failed, failed), failed, services, deadline)
    if record.applied:
        services.metrics.emit(DeliveryFailure=1)
        logger.warning("dead letter", extra={"event_id": event.event_id, "reason": reason})
    return record.event or failed


def _record(write: Callable[[], WriteResult], event: Event, services: Services, deadline: float) -> WriteResult:
    """Write a record, again and again while the claim and the function last: a lost record is a second push."""
    last_start = deadline - AFTER_PUSH_SECONDS
    if event.claimed_until is not None:
        last_start = min(last_start, unix_seconds(event.claimed_until))
    while True:
        try:
            return write()
        except StorageUnavailableError:
            if services.clock() + RECORD_RETRY_SECONDS > last_start:
                raise
            services.sleep(RECORD_RETRY_SECONDS)


def _delay_until_due(event: Event, services: Services) -> Delay | None:
    """Return the delay of a message that came early, or None if the event needs no push or someone holds it."""
    now = services.clock()
    if event.status is not Status.PENDING or event.next_attempt_at is None or event.is_claimed(now):
        return None
    return Delay(max(0.0, unix_seconds(event.next_attempt_at) - now))


def _claim_seconds_left(event: Event, services: Services) -> float:
    return unix_seconds(event.claimed_until) - services.clock() if event.claimed_until else 0.0


def _expires_at(services: Services) -> int:
    """Return the Unix seconds at which an event stored or replayed now expires."""
    return int(services.clock()) + services.settings.event_retention_days * DAY_SECONDS


def _wake_up_or_leave_to_sweep(event_id: str, delay_seconds: float, services: Services) -> None:
    try:
        _wake_up(event_id, delay_seconds, services)
    except QueueUnavailableError:
        logger.exception("delivery left to the sweep", extra={"event_id": event_id})


def _wake_up(event_id: str, delay_seconds: float, services: Services) -> None:
    """Send a message for the event; after a delay that SQS does not support, the sweep sends it."""
    if delay_seconds <= MAX_DELAY_SECONDS:
        services.inbox.send(messages.wake_up_body(event_id), {"EventId": event_id}, delay_seconds)
