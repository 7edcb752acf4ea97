"""The life of an event, top down: accept, attempt, settle, dead-letter, replay, lease, acknowledge.

Each step may be the last before a crash: what is stored by then is enough for the sweep to continue.
"""

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http import HTTPStatus

from chalicelib import listing, messages
from chalicelib.backoff import delay_seconds
from chalicelib.errors import ApiError, EventNotFoundError, QueueUnavailableError, StorageUnavailableError
from chalicelib.events import Attempt, DeliveredVia, Event, Reason, Status, rfc3339, unix_seconds
from chalicelib.messages import WakeUp
from chalicelib.push import Outcome, PushResult
from chalicelib.queue import BATCH_SIZE, MAX_DELAY_SECONDS
from chalicelib.services import CALL_SECONDS, Services
from chalicelib.settings import DAY_SECONDS, check_target_url
from chalicelib.store import CLAIM_SECONDS, MESSAGE_GRACE_SECONDS, WriteResult
from chalicelib.subscriptions import Subscription
from chalicelib.telemetry import logger
from chalicelib.validation import LeaseRequest, NewEvent

# After a push come two calls: the record and, for a retry, the message.
AFTER_PUSH_SECONDS = 2 * CALL_SECONDS
RECORD_RETRY_SECONDS = 0.5
NOT_HELD = "This lease does not hold the event."
DEAD_LETTER_RETRY_SECONDS = 60
MAX_INLINE_PUSHES = 10
LEASE_SECONDS = 5  # for finding events that nobody holds; the search and the calls after it may take as long again
MAX_LEASED_BYTES = 2 * 1024 * 1024  # quoted as JSON once more, and with those taken last, less than Lambda's 6 MB
MAX_LEASED_AT_ONCE = 10  # then the time left is looked at


class OutOfTimeError(Exception):
    """The function ends too soon for a push; the sweep queues the event when its claim ends."""


class UnknownEventError(Exception):
    """A message names an event that is absent or expired."""


def accept(
    new_event: NewEvent,
    services: Services,
    deadline: float,
    *,
    created_by: str,
    idempotency_key: str | None,
    respond_async: bool,
) -> tuple[Event, bool]:
    """Store an event and a copy for each matching subscription, then push up to MAX_INLINE_PUSHES of them once.

    The others are queued, as are all if `respond_async` and those whose breaker is open. `deadline` (Unix seconds)
    bounds the pushes. Returns the event, and whether an earlier call with the same Idempotency-Key stored it. Raises
    StorageUnavailableError if some may not be stored, ApiError 422 if the key was used with another body. Later errors
    are logged; the sweep retries the delivery.
    """
    event = _new_event(new_event, services, created_by, idempotency_key)
    hosts = services.settings.subscription_hosts
    subscriptions = services.subscriptions.matching(event.event_type, hosts) if hosts else []
    if subscriptions and idempotency_key is not None and (earlier := services.store.get(event.event_id)):
        return _require_same_body(earlier, event), True  # subscriptions made since then get no copy
    copies = [_copy(event, subscription, services) for subscription in subscriptions]
    urls = {copy.event_id: subscription.target_url for copy, subscription in zip(copies, subscriptions, strict=True)}
    event = replace(event, copies=tuple(urls))
    if services.settings.webhook_url is None:
        event = _without_push(event)
    else:
        urls = {event.event_id: services.settings.webhook_url, **urls}
    candidates = [] if respond_async else list(urls.items())[:MAX_INLINE_PUSHES]
    inline = {event_id for event_id, url in candidates if services.breaker(url).allows()}

    def store(new: Event) -> tuple[Event, bool]:
        if new.event_id in inline:
            until = rfc3339(services.clock() + CLAIM_SECONDS)
            new = replace(new, delivery_attempts=1, claimed_until=until, requeue_at=until)
        result = services.store.put(new)
        return _require_same_body(result.event, new), result.applied

    # The event comes last, so that an event that is there has all its copies.
    stored = services.map(store, copies)
    stored.append(store(event))
    event, is_new = stored[-1]
    if is_new:
        extra = {"event_id": event.event_id, "event_type": event.event_type, "created_by": event.created_by}
        logger.info("event accepted", extra={**extra, "copies": len(copies)})
        services.metrics.emit(EventsAccepted=1)
    # Not due: pull-only, or acknowledged before the response of the put arrived.
    due = [each for each, applied in stored if applied and each.status is Status.PENDING and each.next_attempt_at]
    pushed: list[Event] = []
    with _errors_left_to_sweep(event.event_id):
        _queue([each for each in due if each.event_id not in inline], services, deadline)
    with _errors_left_to_sweep(event.event_id):
        claimed = [each for each in due if each.event_id in inline]
        pushed = services.map(lambda each: _push_new(each, urls[each.event_id], services, deadline), claimed)
    return next((each for each in pushed if each.event_id == event.event_id), event), not is_new


def deliver(wake_up: WakeUp, services: Services, deadline: float) -> None:
    """Push an event until it is settled or the next attempt must wait longer than this invocation can.

    The function must return by `deadline` (Unix seconds). Raises UnknownEventError, StorageUnavailableError and
    QueueUnavailableError.
    """
    settings = services.settings
    last_start = deadline - (CALL_SECONDS + settings.push_timeout_seconds + AFTER_PUSH_SECONDS)
    waited = 0.0
    while (delay_seconds := attempt_delivery(wake_up.event_id, services, deadline)) is not None:
        waited += delay_seconds
        is_late = services.clock() + delay_seconds > last_start
        if is_late or waited > settings.in_process_wait_seconds:
            _wake_up(wake_up, delay_seconds, services)
            return
        services.sleep(delay_seconds)


def attempt_delivery(event_id: str, services: Services, deadline: float) -> float | None:
    """Claim an event, push it and record the outcome.

    Returns the seconds until the next attempt, or None if there is nothing to wait for in process.
    """
    claim = services.store.claim(event_id, services.new_id())
    event = claim.event
    if event is None:
        raise UnknownEventError
    if not claim.applied:
        return _seconds_until_due(event, services)
    url = _target_url(event, services)
    if url is None and event.subscription_id is None:  # pull-only: it waits in the inbox
        services.store.record_unscheduled(event)
        return None
    if url is None:  # a copy, which nobody waits for
        services.store.delete(event)
        return None
    max_attempts = services.settings.max_delivery_attempts
    if event.delivery_attempts > max_attempts:  # the last attempt was not recorded
        _dead_letter(replace(event, delivery_attempts=max_attempts), Reason.EXHAUSTED, services, deadline)
        return None
    event, result = _push(event, url, services.settings.push_timeout_seconds, services, deadline)
    event, delay_seconds = _settle(event, result, services, deadline)
    if delay_seconds is not None and result.timed_out:  # a receiver that hangs must not hold the batch
        _wake_up(event, delay_seconds, services)
        return None
    return delay_seconds


def acknowledge(event_id: str, services: Services, lease_id: str | None = None) -> None:
    """Record that a consumer has processed an event.

    Raises EventNotFoundError, and ApiError 409 if `lease_id` is given and neither holds the event nor acknowledged it.
    """
    result = services.store.acknowledge(event_id, lease_id)
    if result.applied:
        logger.info("acknowledged", extra={"event_id": event_id})
        return
    if result.event is None:
        raise EventNotFoundError
    if result.event.status is not Status.DELIVERED or lease_id not in (None, result.event.claim_id):
        raise ApiError(409, NOT_HELD)


def release(event_id: str, lease_id: str, services: Services) -> None:
    """End a lease before its time; raise EventNotFoundError, or ApiError 409 unless it holds the event."""
    result = services.store.release(event_id, lease_id)
    if not result.applied:
        raise ApiError(409, NOT_HELD) if result.event else EventNotFoundError


def lease(request: LeaseRequest, services: Services) -> list[Event]:
    """Claim the oldest undelivered events that nobody holds, for a consumer; all get the same `claim_id`.

    Raises StorageUnavailableError if DynamoDB fails before any is leased.
    """
    lease_id = f"lse_{services.new_id()}"
    leased: list[Event] = []

    def take(event: Event) -> None:
        result = services.store.lease(event.event_id, lease_id, request.lease_seconds)
        if result.applied and result.event and result.event.status is not Status.DELIVERED:
            leased.append(result.event)

    deadline = services.clock() + LEASE_SECONDS
    query, room = replace(listing.INBOX, event_type=request.event_type), MAX_LEASED_BYTES
    try:
        while len(leased) < request.limit and room > 0 and services.clock() < deadline:
            limit = min(MAX_LEASED_AT_ONCE, request.limit - len(leased))
            page = listing.find(services, replace(query, limit=limit), max_bytes=room)
            services.map(take, page.events)
            if page.after is None:
                break
            query, room = replace(query, after=page.after), MAX_LEASED_BYTES - sum(event.size for event in leased)
    except StorageUnavailableError:
        if not leased:
            raise
    return sorted(leased, key=lambda event: event.sort_key)


def replay(event_id: str, services: Services) -> Event:
    """Make an event pending again and queue it; raise EventNotFoundError, or ApiError 409 while it is claimed."""
    is_pushed = services.settings.webhook_url is not None
    if not is_pushed:
        stored = services.store.get(event_id)
        is_pushed = stored is not None and stored.subscription_id is not None  # only copies, in pull-only mode
    expires_at = _expires_at(services)
    result = services.store.replay(event_id, services.new_id(), expires_at=expires_at, is_pushed=is_pushed)
    event = result.event
    if event is None:
        raise EventNotFoundError
    if not result.applied:
        seconds = math.ceil(_claim_seconds_left(event, services))
        raise ApiError(409, "The event is claimed; try again when the claim ends.", retry_after_seconds=max(1, seconds))
    logger.info("replayed", extra={"event_id": event_id})
    if is_pushed:
        with _errors_left_to_sweep(event_id):
            _wake_up(event, 0, services)
    return event


def redrive(wake_up: WakeUp, services: Services) -> float | None:
    """Replay the event of a dead letter that was moved back, if that tells of its latest failure.

    Returns the seconds after which the dead letter must be looked at again if the event is claimed, else None: the
    dead letter is sent before the failure is recorded, so it can come back before that.
    """
    event_id, failed_at, expires_at = wake_up.event_id, wake_up.failed_at, _expires_at(services)
    result = services.store.replay(event_id, services.new_id(), expires_at=expires_at, failed_at=failed_at)
    event = result.event
    if result.applied or event is None:
        return None
    # The claim that refused the replay may have ended since.
    if event.failed_at == failed_at or event.is_claimed(services.clock()):
        return min(MAX_DELAY_SECONDS, max(0.0, _claim_seconds_left(event, services)) + 1)
    return None


def _new_event(new_event: NewEvent, services: Services, created_by: str, idempotency_key: str | None) -> Event:
    now = services.clock()
    if idempotency_key is None:
        digits = services.new_id()
    else:  # NUL separates the two, so that no two pairs give the same text
        digits = hashlib.sha256(f"{created_by}\0{idempotency_key}".encode()).hexdigest()[:32]
    return Event(
        **vars(new_event),
        event_id=f"evt_{digits}",
        status=Status.PENDING,
        created_at=rfc3339(now),
        created_by=created_by,
        expires_at=_expires_at(services),
        size=new_event.size,
        next_attempt_at=rfc3339(now),
        requeue_at=rfc3339(now + MESSAGE_GRACE_SECONDS),
        claim_id=services.new_id(),
    )


def _copy(event: Event, subscription: Subscription, services: Services) -> Event:
    """Return the copy for a subscription: the same id each time, so that a repeated POST stores it once."""
    digest = hashlib.sha256(f"{event.event_id}\0{subscription.subscription_id}".encode()).hexdigest()
    return replace(
        event,
        event_id=f"evt_{digest[:32]}",
        claim_id=services.new_id(),
        subscription_id=subscription.subscription_id,
        source_event_id=event.event_id,
    )


def _without_push(event: Event) -> Event:
    """Return an event for pull-only mode: it waits in the inbox, or its copies are delivered in its place."""
    event = replace(event, next_attempt_at=None, requeue_at=None)
    if not event.copies:
        return event
    via = DeliveredVia.SUBSCRIPTIONS
    return replace(event, status=Status.DELIVERED, delivered_at=event.created_at, delivered_via=via)


def _require_same_body(stored: Event | None, event: Event) -> Event:
    """Return the stored event; raise ApiError 422 if it was made of another body than `event`."""
    if stored is None:  # it expired between the failed condition and now
        raise StorageUnavailableError
    if stored.body_hash != event.body_hash:
        raise ApiError(422, "This Idempotency-Key was used before, with another body.")
    return stored


def _queue(events: list[Event], services: Services, deadline: float) -> None:
    """Send messages for new events."""
    wake_ups = [messages.wake_up(event) for event in events]
    tens = [wake_ups[start : start + BATCH_SIZE] for start in range(0, len(wake_ups), BATCH_SIZE)]
    if services.clock() + CALL_SECONDS <= deadline:  # else the sweep queues them
        services.map(services.inbox.send_many, tens)


def _push_new(event: Event, url: str, services: Services, deadline: float) -> Event:
    """Push a new event once; return it as it is then."""
    with _errors_left_to_sweep(event.event_id):
        event, result = _push(event, url, services.settings.inline_push_timeout_seconds, services, deadline)
        services.breaker(url).record(failed=result.outcome is Outcome.RETRY, timed_out=result.timed_out)
        event, delay_seconds = _settle(event, result, services, deadline)
        if delay_seconds is not None:
            _wake_up(event, delay_seconds, services)
    return event


@contextlib.contextmanager
def _errors_left_to_sweep(event_id: str) -> Iterator[None]:
    """Log any error: the event is stored, and the sweep queues it when nobody holds it."""
    try:
        yield
    except Exception:
        logger.exception("delivery left to the sweep", extra={"event_id": event_id})


def _target_url(event: Event, services: Services) -> str | None:
    """Return where to push an event, or None in pull-only mode or if its subscription is gone."""
    if event.subscription_id is None:
        return services.settings.webhook_url
    subscription = services.subscriptions.find(event.subscription_id)
    return subscription.target_url if subscription else None


def _push(
    event: Event, url: str, timeout_seconds: float, services: Services, deadline: float
) -> tuple[Event, PushResult]:
    """Push a claimed event once; return it with the attempt. Raises OutOfTimeError."""
    started = services.clock()
    timeout_seconds = min(timeout_seconds, deadline - started - AFTER_PUSH_SECONDS)
    if timeout_seconds <= 0:
        raise OutOfTimeError
    if event.subscription_id is not None and check_target_url(url, services.settings.subscription_hosts):
        result = PushResult(Outcome.FAILED, 0, error="SUBSCRIPTION_HOSTS does not allow the host")
    else:
        result = services.push.send(event, url, timeout_seconds)
    outcome = (result.outcome, result.status_code, result.error, result.duration_ms, result.response)
    return event.with_attempt(Attempt(rfc3339(started), *outcome)), result


def _settle(event: Event, result: PushResult, services: Services, deadline: float) -> tuple[Event, float | None]:
    """Record the outcome of an attempt; return the event, and the seconds until the next attempt if there is one."""
    delay_seconds = _retry_delay_seconds(event, result, services)
    logger.info(
        "attempt",
        extra={
            "event_id": event.event_id,
            "attempt": event.delivery_attempts,
            "outcome": result.outcome,
            "status_code": result.status_code,
            "error": result.error,
            "duration_ms": result.duration_ms,
            "retry_in_seconds": delay_seconds and round(delay_seconds, 3),
        },
    )
    if result.status_code == HTTPStatus.GONE and event.subscription_id is not None:
        services.subscriptions.delete(event.subscription_id)
        logger.warning("subscription ended by its target", extra={"subscription_id": event.subscription_id})
        services.store.delete(event)
        return event, None
    if result.outcome is Outcome.DELIVERED:
        record = _record(services.store.record_delivered, event, services, deadline)
        if record.applied:
            latency_ms = round((services.clock() - unix_seconds(event.replayed_at or event.created_at)) * 1000)
            services.metrics.emit(DeliverySuccess=1, PushDuration=result.duration_ms, DeliveryLatency=latency_ms)
        return record.event or event, None
    if delay_seconds is not None:
        services.metrics.emit(DeliveryRetry=1, PushDuration=result.duration_ms)
        will_be_queued = delay_seconds <= MAX_DELAY_SECONDS
        write = partial(services.store.record_retry, delay_seconds=delay_seconds, will_be_queued=will_be_queued)
        record = _record(write, event, services, deadline)
        return record.event or event, delay_seconds if record.applied else None
    services.metrics.emit(PushDuration=result.duration_ms)
    reason = Reason.PERMANENT if result.outcome is Outcome.FAILED else Reason.EXHAUSTED
    return _dead_letter(event, reason, services, deadline), None


def _retry_delay_seconds(event: Event, result: PushResult, services: Services) -> float | None:
    settings, attempt = services.settings, event.delivery_attempts
    if result.outcome is not Outcome.RETRY or attempt >= settings.max_delivery_attempts:
        return None
    base, cap = settings.backoff_base_seconds, settings.backoff_cap_seconds
    return max(delay_seconds(attempt, base=base, cap=cap, random=services.random), result.retry_after_seconds)


def _dead_letter(event: Event, reason: Reason, services: Services, deadline: float) -> Event:
    """Send the DLQ message, then record the failure: a crash in between makes a second message, never none."""
    failed = replace(event, reason=reason, failed_at=rfc3339(services.clock()))
    try:
        services.dlq.send(messages.dead_letter_body(failed), messages.attributes(event) | {"Reason": reason})
    except QueueUnavailableError:
        services.store.record_retry(event, delay_seconds=DEAD_LETTER_RETRY_SECONDS, will_be_queued=False)
        raise
    record = _record(services.store.record_failed, failed, services, deadline)
    if record.applied:
        services.metrics.emit(DeliveryFailure=1)
        logger.warning("dead letter", extra={"event_id": event.event_id, "reason": reason})
    return record.event or failed


def _record(write: Callable[[Event], WriteResult], event: Event, services: Services, deadline: float) -> WriteResult:
    """Write a record, again and again while the function lasts: a lost record is a second push.

    The claim lasts longer: CLAIM_SECONDS is more than the time of the functions that push.
    """
    while True:
        try:
            return write(event)
        except StorageUnavailableError:
            if services.clock() + RECORD_RETRY_SECONDS > deadline - AFTER_PUSH_SECONDS:
                raise
            services.sleep(RECORD_RETRY_SECONDS)


def _seconds_until_due(event: Event, services: Services) -> float | None:
    """Return by how much a message came early, or None if the event needs no push or someone holds it."""
    now = services.clock()
    if event.status is not Status.PENDING or event.next_attempt_at is None or event.is_claimed(now):
        return None
    return max(0.0, unix_seconds(event.next_attempt_at) - now)


def _claim_seconds_left(event: Event, services: Services) -> float:
    return unix_seconds(event.claimed_until) - services.clock() if event.claimed_until else 0.0


def _expires_at(services: Services) -> int:
    """Return the Unix seconds at which an event stored or replayed now expires."""
    return int(services.clock()) + services.settings.event_retention_days * DAY_SECONDS


def _wake_up(event: Event | WakeUp, delay_seconds: float, services: Services) -> None:
    """Send a message for the event; after a delay that SQS does not support, the sweep sends it."""
    if delay_seconds <= MAX_DELAY_SECONDS:
        services.inbox.send(*messages.wake_up(event), delay_seconds)
