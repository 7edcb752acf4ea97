"""The life of one event: accept, push, record, try again, die, come back.

Every step may be the last before a crash: what is stored by then is enough to go on from, and the sweep finds it.
Knows nothing of routes, SQS records or boto3.
"""

import hashlib
import math
from dataclasses import replace
from functools import partial

from chalicelib import backoff, log, messages
from chalicelib.dynamodb import CLAIM_SECONDS, MESSAGE_GRACE_SECONDS, Written
from chalicelib.errors import (
    EventNotFoundError,
    IdempotencyConflictError,
    PushRunningError,
    QueueUnavailableError,
    StorageUnavailableError,
)
from chalicelib.events import Attempt, Event, Reason, Status, epoch_seconds, rfc3339
from chalicelib.push import Outcome, Result
from chalicelib.services import Services
from chalicelib.sqs import MAX_DELAY_SECONDS
from chalicelib.validation import NewEvent

DAY_SECONDS = 86_400
DEAD_LETTER_RETRY_SECONDS = 60


class ClaimExpiredError(Exception):
    """The claim ends too soon for a push: another worker may hold the event by then."""


class UnknownEventError(Exception):
    """A message names an event that is not stored, or no longer."""


def accept(
    new: NewEvent, services: Services, *, created_by: str, idempotency_key: str | None, respond_async: bool
) -> tuple[Event, bool]:
    """Store an event and push it once, or queue it when asked to or while the breaker is open.

    Return it, and whether it was there already, stored by an earlier call with the same Idempotency-Key.
    Raises StorageUnavailableError when it is not known to be stored, and IdempotencyConflictError when the key stands
    for another body. Whatever fails once the event is stored is logged, and made up for by the sweep.
    """
    push_now = not respond_async and services.breaker.allows()
    written = Written(False)
    try:
        written = services.store.put(_new_event(new, services, created_by, idempotency_key, claimed=push_now))
    finally:
        if push_now and not written.done:
            services.breaker.give_back()
    event = written.event
    if event is None:  # it expired between the refusal and now
        raise StorageUnavailableError
    if not written.done:
        if event.body_hash != new.body_hash:
            raise IdempotencyConflictError
        return event, True
    try:
        return _begin(event, services), False
    except Exception:  # the promise is wider than the errors known: what is stored is answered with 202
        log.exception("stored, and left to the sweep", event_id=event.event_id)
        return event, False


def deliver(event_id: str, services: Services, patience: backoff.Patience) -> None:
    """Push an event until it is settled, or until `patience` ends: then a message with the rest of the delay goes on.

    Raises UnknownEventError, StorageUnavailableError and QueueUnavailableError.
    """
    step = partial(_claim_and_push, event_id, services)
    delay_seconds = backoff.repeat(step, patience, clock=services.clock, sleep=services.sleep)
    if delay_seconds is not None:
        _wake_up(event_id, delay_seconds, services)


def acknowledge(event_id: str, services: Services) -> None:
    """Take an event as delivered by pull, once; raise EventNotFoundError."""
    written = services.store.acknowledge(event_id)
    if not written.done and written.event is None:
        raise EventNotFoundError


def replay(event_id: str, services: Services) -> Event:
    """Make an event pending anew and queue it; raise EventNotFoundError, or PushRunningError while it is claimed."""
    written = services.store.replay(event_id, services.new_id(), expires_at=_expiry(services))
    if written.event is None:
        raise EventNotFoundError
    if not written.done:
        claimed_until = written.event.claimed_until
        left = epoch_seconds(claimed_until) - services.clock() if claimed_until else 0
        raise PushRunningError(max(1, math.ceil(left)))
    _wake_up_or_leave(event_id, 0, services)
    return written.event


def redrive(event_id: str, failed_at: str, services: Services) -> None:
    """Make an event pending anew whose dead letter came back, if that still tells of the latest failure."""
    services.store.replay(event_id, services.new_id(), expires_at=_expiry(services), failed_at=failed_at)


def _expiry(services: Services) -> int:
    """Return when an event that is stored or replayed now is deleted, in Unix seconds."""
    return int(services.clock()) + services.settings.event_retention_days * DAY_SECONDS


def _new_event(
    new: NewEvent, services: Services, created_by: str, idempotency_key: str | None, *, claimed: bool
) -> Event:
    now = services.clock()
    if idempotency_key is None:
        digits = services.new_id()
    else:  # the NUL keeps one client's keys from running into another's
        digits = hashlib.sha256(f"{created_by}\0{idempotency_key}".encode()).hexdigest()[:32]
    return Event(
        event_id=f"evt_{digits}",
        event_type=new.event_type,
        status=Status.PENDING,
        created_at=rfc3339(now),
        created_by=created_by,
        expires_at=_expiry(services),
        size=new.size,
        payload=new.payload,
        metadata=new.metadata,
        body_hash=new.body_hash,
        delivery_attempts=1 if claimed else 0,
        next_attempt_at=rfc3339(now),
        requeue_at=rfc3339(now + (CLAIM_SECONDS if claimed else MESSAGE_GRACE_SECONDS)),
        claim_id=services.new_id(),
        claimed_until=rfc3339(now + CLAIM_SECONDS) if claimed else None,
    )


def _begin(event: Event, services: Services) -> Event:
    """Push a new event if it was stored with a claim, else queue it; return it as it is then."""
    fields = {"event_type": event.event_type, "created_by": event.created_by, "status": event.status}
    log.info("event accepted", event_id=event.event_id, **fields)
    services.metrics.emit(EventsAccepted=1)
    if event.status is not Status.PENDING:
        return event  # acknowledged before the answer of the put arrived
    if event.claimed_until is None:
        _wake_up_or_leave(event.event_id, 0, services)
        return event
    event, outcome = _push(event, services.settings.inline_push_timeout_seconds, services)
    if outcome.result is Result.RETRY:
        services.breaker.failed(timed_out=outcome.timed_out)
    else:
        services.breaker.succeeded()
    event, delay_seconds = _settle(event, outcome, services)
    if delay_seconds is not None:
        _wake_up_or_leave(event.event_id, delay_seconds, services)
    return event


def _claim_and_push(event_id: str, services: Services) -> float | None:
    """Take one step of an event's delivery; return the seconds until the next one is due, or None if none is."""
    now = services.clock()
    written = services.store.claim(event_id, services.new_id())
    event = written.event
    if event is None:
        raise UnknownEventError
    if not written.done:
        if event.status is not Status.PENDING or event.next_attempt_at is None or event.is_claimed(rfc3339(now)):
            return None  # done, or somebody is at it
        return max(0.0, epoch_seconds(event.next_attempt_at) - now)  # a message that came early
    if event.reason or event.delivery_attempts > services.settings.max_delivery_attempts:
        # Its dead letter is still owed, or the last attempt killed its process. This one is not made.
        uncounted = replace(event, delivery_attempts=event.delivery_attempts - 1)
        _dead_letter(uncounted, event.reason or Reason.EXHAUSTED, services)
        return None
    event, outcome = _push(event, services.settings.push_timeout_seconds, services)
    return _settle(event, outcome, services)[1]


def _push(event: Event, timeout_seconds: float, services: Services) -> tuple[Event, Outcome]:
    started = services.clock()
    if not event.is_claimed(rfc3339(started + timeout_seconds)):
        raise ClaimExpiredError  # this process stood still
    outcome = services.push.send(event, timeout_seconds)
    attempt = Attempt(rfc3339(started), outcome.result, outcome.status_code, outcome.error, outcome.duration_ms)
    return event.with_attempt(attempt), outcome


def _settle(event: Event, outcome: Outcome, services: Services) -> tuple[Event, float | None]:
    """Record what came of an attempt; return the event after it, and the delay of the next attempt, if there is one."""
    delay_seconds = _next_delay_seconds(event, outcome, services)
    log.info(
        "attempt",
        event_id=event.event_id,
        attempt=event.delivery_attempts,
        outcome=outcome.result,
        status_code=outcome.status_code,
        error=outcome.error,
        duration_ms=outcome.duration_ms,
        retry_in_seconds=None if delay_seconds is None else round(delay_seconds, 3),
    )
    if outcome.result is Result.DELIVERED:
        written = services.store.record_delivered(event)
        if written.done:
            since = epoch_seconds(event.replayed_at or event.created_at)
            latency_ms = round((services.clock() - since) * 1000)
            services.metrics.emit(DeliverySuccess=1, PushDuration=outcome.duration_ms, DeliveryLatency=latency_ms)
        return written.event or event, None
    if delay_seconds is not None:
        services.metrics.emit(DeliveryRetry=1, PushDuration=outcome.duration_ms)
        return _record_retry(event, delay_seconds, services)
    services.metrics.emit(PushDuration=outcome.duration_ms)
    reason = Reason.PERMANENT if outcome.result is Result.FAILED else Reason.EXHAUSTED
    return _dead_letter(event, reason, services), None


def _next_delay_seconds(event: Event, outcome: Outcome, services: Services) -> float | None:
    settings = services.settings
    if outcome.result is not Result.RETRY or event.delivery_attempts >= settings.max_delivery_attempts:
        return None
    scheduled = backoff.delay_seconds(
        event.delivery_attempts,
        base=settings.backoff_base_seconds,
        cap=settings.backoff_cap_seconds,
        random=services.random,
    )
    return max(scheduled, outcome.retry_after_seconds)


def _record_retry(event: Event, delay_seconds: float, services: Services) -> tuple[Event, float | None]:
    try:
        follows = delay_seconds <= MAX_DELAY_SECONDS
        written = services.store.record_retry(event, delay_seconds, message_follows=follows)
    except StorageUnavailableError:
        # It may have been recorded: a message too many is dropped, one too few costs a minute.
        _wake_up(event.event_id, delay_seconds, services)
        raise
    return written.event or event, delay_seconds if written.done else None


def _dead_letter(event: Event, reason: Reason, services: Services) -> Event:
    """Make a dead letter of an event, the message first: a crash in between makes two messages, never none."""
    event = replace(event, reason=reason)
    failed = replace(event, failed_at=rfc3339(services.clock()))
    attributes = {"EventId": event.event_id, "Reason": reason}
    try:
        services.dlq.send(messages.dead_letter_body(failed), attributes)
    except QueueUnavailableError:
        # Owed: the sweep wakes up whoever claims it next, and the reason tells that it needs no push.
        services.store.record_retry(event, DEAD_LETTER_RETRY_SECONDS, message_follows=False)
        raise
    written = services.store.record_failed(failed)
    if written.done:
        services.metrics.emit(DeliveryFailure=1)
    return written.event or failed


def _wake_up_or_leave(event_id: str, delay_seconds: float, services: Services) -> None:
    """Wake a worker up if the queue can; the sweep will if it cannot."""
    try:
        _wake_up(event_id, delay_seconds, services)
    except QueueUnavailableError:
        log.exception("stored, and left to the sweep", event_id=event_id)


def _wake_up(event_id: str, delay_seconds: float, services: Services) -> None:
    """Send a message that makes a worker look at the event; past SQS's longest delay the sweep will."""
    if delay_seconds <= MAX_DELAY_SECONDS:
        services.inbox.send(messages.inbox_body(event_id), {"EventId": event_id}, delay_seconds)
