"""The life of an event, top down: accept, attempt, settle, dead-letter, acknowledge, lease, replay, erase.

Each step may be the last before a crash: what is stored by then is enough for the sweep to continue.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from typing import Any

from chalicelib import listing, messages
from chalicelib.aws import CALL_SECONDS
from chalicelib.errors import ApiError, EventClaimedError, EventNotFoundError, LeaseLostError, StorageUnavailableError
from chalicelib.events import Attempt, Event, Reason, Status, compact, is_copy_id, response_bytes, rfc3339, unix_seconds
from chalicelib.push import PushResult
from chalicelib.queue import BATCH_SIZE
from chalicelib.retry import DAY_SECONDS, MAX_QUEUE_DELAY_SECONDS, Outcome
from chalicelib.services import Role, Run, Services
from chalicelib.store import CLAIM_SECONDS, WriteResult
from chalicelib.subscriptions import Subscription
from chalicelib.telemetry import logger
from chalicelib.validation import NewEvent, valid_id

# After a push come two calls: the record and, for a retry, the message.
AFTER_PUSH_SECONDS = 2 * CALL_SECONDS
RECORD_RETRY_SECONDS = 0.5
HANGS = "not pushed: the receiver hangs"
DISABLED = "not pushed: the subscription is disabled"
HOST_NOT_ALLOWED = "SUBSCRIPTION_HOSTS does not allow the host"
CLAIMED = "The event is claimed; try again when the claim ends."
MAX_INLINE_PUSHES = 10
FAILING_ATTEMPTS = 10  # of a copy, after which its subscription is shown as failing
LEASE_SEARCH_SECONDS = 5  # no round begins later; the last one may take as long again
MAX_LEASED_BYTES = 4 * 1024 * 1024  # no round begins above that; with the last one, less than Lambda's 6 MB
MAX_LEASED_AT_ONCE = 10  # in a round


class OutOfTimeError(Exception):
    """The function ends too soon for a push; the sweep queues the event when its claim ends."""


@dataclass(frozen=True)
class Destination:
    """Where an event is pushed to; a copy's has its subscription."""

    url: str
    subscription: Subscription | None = None


@dataclass(frozen=True)
class NextAttempt:
    """When a pending event is to be pushed again, and whether the worker may wait for that in process."""

    event: Event
    delay_seconds: float
    may_wait: bool


def accept(new_event: NewEvent, run: Run, *, created_by: str, respond_async: bool) -> tuple[Event, bool]:
    """Store an event and a copy for each matching subscription, then push up to MAX_INLINE_PUSHES of them once.

    The others are queued, as are all if `respond_async` and those whose breaker is open. Returns the event, and whether
    an earlier call with the same Idempotency-Key stored it. Raises StorageUnavailableError if some may not be stored,
    ApiError 422 if the key was used with another body, 409 if its event is being erased. Later errors are logged; the
    sweep retries the delivery.
    """
    services = run.services
    event = _new_event(new_event, services, created_by)
    subscriptions = services.subscriptions.matching(event.event_type, event.tenant)
    if subscriptions and event.body_hash:
        # Saves storing copies in vain; and an eraser may be about to delete copies that this call would count on.
        if not run.has_time(3):  # for this read, the copies and the event
            raise StorageUnavailableError
        earlier = services.store.find(event.event_id)
        if earlier.event or earlier.erased_until:
            return _require_same_body(earlier, event, services), True
    copies = [_copy(event, subscription, services) for subscription in subscriptions]
    if copies:
        event = replace(event, copies=tuple(copy.event_id for copy in copies))
    destinations = _destinations(event, subscriptions, services)
    inline = set() if respond_async else _inline(destinations, services)

    # The event comes last, so that an event that is there has all its copies.
    store = partial(_store, event.content(), inline, services)
    stored_copies = services.map(store, copies)
    stored = store(_settled_by_copies(event, stored_copies))
    if not stored.applied:
        stored_copies = _delete_unlisted(stored_copies, stored.event, run)
    event = _require_same_body(stored, event, services)
    if stored.applied:
        extra = {"event_id": event.event_id, "event_type": event.event_type, "created_by": event.created_by}
        logger.info("event accepted", extra={**extra, "copies": len(event.copies)})
        services.metrics.emit(EventsAccepted=1)

    due = _due([*stored_copies, stored])
    with _errors_left_to_sweep(event.event_id):
        _queue([each for each in due if each.event_id not in inline], run)
    with _errors_left_to_sweep(event.event_id):
        claimed = [each for each in due if each.event_id in inline]
        pushed = services.map(lambda each: _push_new(each, destinations[each.event_id], run), claimed)
        event = next((each for each in pushed if each.event_id == event.event_id), event)
        if stored.applied and pushed and event.claimed_until and not event.is_scheduled:
            event = _end_claim(event, pushed, run)
    return event, not stored.applied and event.body_hash is not None


def deliver(event_id: str, run: Run) -> None:
    """Push an event until it is settled or the next attempt must wait longer than this run can.

    Raises StorageUnavailableError and QueueUnavailableError.
    """
    services, settings = run.services, run.services.settings
    last_start = run.deadline - (CALL_SECONDS + settings.push_timeout_seconds + AFTER_PUSH_SECONDS)
    waited = 0.0
    while (upcoming := attempt_delivery(event_id, run)) is not None:
        waited += upcoming.delay_seconds
        is_late = services.clock() + upcoming.delay_seconds > last_start
        if is_late or waited > settings.in_process_wait_seconds or not upcoming.may_wait:
            _enqueue(upcoming.event, upcoming.delay_seconds, services)
            return
        services.sleep(upcoming.delay_seconds)


def attempt_delivery(event_id: str, run: Run) -> NextAttempt | None:
    """Claim an event, push it and record the outcome.

    Returns its next attempt; None if it is settled or gone, or another holds it and will see to the next attempt.
    """
    services = run.services
    claim = services.store.claim(event_id, services.new_id())
    event = claim.event
    if event is None:  # it was stored before any message named it
        logger.warning("message dropped: its event expired or was deleted", extra={"event_id": event_id})
        return None
    if not claim.applied:
        return _next_attempt(event, services)
    destination = _destination(event, services)
    if destination is None:
        # Nobody waits for a copy whose subscription is gone; a pull-only event waits in the inbox.
        end = services.store.delete if event.is_copy else services.store.cancel_attempt
        end(event)
        return None
    if destination.subscription and destination.subscription.disabled_at:
        not_pushed = replace(event, delivery_attempts=event.delivery_attempts - 1, last_error=DISABLED)
        _dead_letter(not_pushed, Reason.DISABLED, destination, run)
        return None
    if event.delivery_attempts > services.settings.max_delivery_attempts:  # the last attempt was not recorded
        not_pushed = replace(event, delivery_attempts=event.delivery_attempts - 1)
        _dead_letter(not_pushed, Reason.EXHAUSTED, destination, run)
        return None
    return _push_and_settle(event, destination, Role.WORKER, run)[1]


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
        raise LeaseLostError


def acknowledge_many(lease_id: str, event_ids: Sequence[str], services: Services) -> dict[str, list[str]]:
    """Record that a consumer has processed events of its lease; return the ids of those, and of the others.

    Raises StorageUnavailableError if DynamoDB fails for one; a repeated call completes it.
    """

    def is_acknowledged(event_id: str) -> bool:
        try:
            acknowledge(valid_id(event_id), services, lease_id)
        except (EventNotFoundError, LeaseLostError):
            return False
        return True

    answers: dict[str, list[str]] = {"acknowledged": [], "not_held": []}
    for event_id, done in zip(event_ids, services.map(is_acknowledged, event_ids), strict=True):
        answers["acknowledged" if done else "not_held"].append(event_id)
    return answers


def release(event_id: str, lease_id: str, services: Services) -> None:
    """End a lease before its time; raise EventNotFoundError, or ApiError 409 unless it holds the event."""
    result = services.store.release(event_id, lease_id)
    if not result.applied:
        raise LeaseLostError if result.event else EventNotFoundError


def lease(
    services: Services, *, limit: int, lease_seconds: int, event_type: str | None = None, tenant: str | None = None
) -> list[Event]:
    """Claim the oldest undelivered events that nobody holds, for a consumer; all get the same `claim_id`.

    Raises StorageUnavailableError if DynamoDB fails before any is leased.
    """
    lease_id = f"lse_{services.new_id()}"
    leased: list[Event] = []

    def take(event: Event) -> None:
        result = services.store.lease(event.event_id, lease_id, lease_seconds)
        if result.applied and result.event and result.event.status is not Status.DELIVERED:
            leased.append(result.event)

    deadline = services.clock() + LEASE_SEARCH_SECONDS
    query = replace(listing.INBOX, event_type=event_type, tenant=tenant)
    room = MAX_LEASED_BYTES
    try:
        while len(leased) < limit and room > 0 and services.clock() < deadline:
            query = replace(query, limit=min(MAX_LEASED_AT_ONCE, limit - len(leased)))
            found, after = listing.search(services, query, max_bytes=room)
            services.map(take, found)
            if after is None:
                break
            query = replace(query, after=after)
            room = MAX_LEASED_BYTES - sum(response_bytes(event.to_lease_json()) for event in leased)
    except StorageUnavailableError:
        if not leased:
            raise
    return sorted(leased, key=lambda event: event.sort_key)


def replay(event_id: str, services: Services) -> Event:
    """Make an event pending again and queue it; raise EventNotFoundError, or ApiError 409 while it is claimed."""
    is_pushed = services.settings.webhook_url is not None or is_copy_id(event_id)
    expires_at = _expires_at(services)
    result = services.store.replay(event_id, services.new_id(), expires_at=expires_at, is_pushed=is_pushed)
    event = result.event
    if event is None:
        raise EventNotFoundError
    if not result.applied:
        raise EventClaimedError(CLAIMED, _claim_seconds_left(event, services))
    logger.info("replayed", extra={"event_id": event_id})
    if is_pushed:
        with _errors_left_to_sweep(event_id):
            _enqueue(event, 0, services)
    return event


def redrive(event_id: str, failed_at: str, services: Services) -> float | None:
    """Replay the event of a dead letter that was moved back, if `failed_at` is that of its latest failure.

    Returns the seconds (up to MAX_QUEUE_DELAY_SECONDS) after which the dead letter must be received again, because the
    event is claimed: it is sent before the failure is recorded, so it can come back before that. Returns None if the
    event was replayed, or if the dead letter is out of date and counts as a queue message.
    """
    expires_at = _expires_at(services)
    result = services.store.replay(event_id, services.new_id(), expires_at=expires_at, failed_at=failed_at)
    event = result.event
    if result.applied or event is None:
        return None
    # The claim that refused the replay may have ended since.
    if event.failed_at == failed_at or event.is_claimed(services.clock()):
        return min(MAX_QUEUE_DELAY_SECONDS, max(0.0, _claim_seconds_left(event, services)) + 1)
    return None


def erase(event_id: str, services: Services) -> None:
    """Erase an event and its copies; nothing happens if there is none.

    Raises ApiError 409 while the event or a copy is claimed. Repeated, it completes what a failed call began: first the
    event is marked, then its copies are deleted. The mark stays: copies of a new event of its key have the same ids.
    """
    marked = services.store.mark_erased(event_id)
    event = marked.event
    if event is None:
        return
    if not marked.applied:
        raise EventClaimedError(CLAIMED, _claim_seconds_left(event, services))
    if not all(services.map(services.store.delete_unclaimed, event.copies)):
        raise EventClaimedError("A copy is claimed: repeat the call to complete the erasure.", CLAIM_SECONDS)
    logger.info("erased", extra={"event_id": event_id, "copies": len(event.copies)})


def push_test_event(subscription: Subscription, run: Run) -> Attempt:
    """Push an event that is stored nowhere to a subscription alone; return the attempt, which changes nothing."""
    payload = compact({"subscription_id": subscription.subscription_id})
    test = NewEvent("test", payload, "null", subscription.tenant)
    event = _copy(_new_event(test, run.services, subscription.created_by), subscription, run.services)
    destination = Destination(subscription.target_url, subscription)
    event, _ = _push(replace(event, source_event_id=None), destination, Role.TEST, run)
    return event.attempts[-1]


def _new_event(new_event: NewEvent, services: Services, created_by: str) -> Event:
    now, digits, members = services.clock(), services.new_id(), {**vars(new_event)}
    if (key := members.pop("idempotency_key")) is not None:  # NUL separates: no two pairs give the same text
        digits = hashlib.sha256(f"{created_by}\0{key}".encode()).hexdigest()[:32]
    is_pushed = services.settings.webhook_url is not None
    return Event(
        **members,
        event_id=f"evt_{digits}",
        status=Status.PENDING,
        created_at=rfc3339(now),
        created_by=created_by,
        expires_at=_expires_at(services),
        response_bytes=response_bytes(new_event.payload + new_event.metadata),
        next_attempt_at=rfc3339(now) if is_pushed else None,
        requeue_at=rfc3339(now + services.settings.message_grace_seconds) if is_pushed else None,
        claim_id=services.new_id(),
    )


def _copy(event: Event, subscription: Subscription, services: Services) -> Event:
    """Return the copy for a subscription: the same id each time, so that a repeated POST stores it once.

    The id derives from the body, too: of two bodies under one Idempotency-Key, each has copies of its own.
    """
    now = services.clock()
    text = f"{event.event_id}\0{subscription.subscription_id}\0{event.body_hash}"
    return replace(
        event,
        event_id=f"cpy_{hashlib.sha256(text.encode()).hexdigest()[:32]}",
        claim_id=services.new_id(),
        subscription_id=subscription.subscription_id,
        source_event_id=event.event_id,
        settles_source=None if event.is_scheduled else 1,
        next_attempt_at=rfc3339(now),
        requeue_at=rfc3339(now + services.settings.message_grace_seconds),
        body_hash=None,
    )


def _destinations(event: Event, subscriptions: list[Subscription], services: Services) -> dict[str, Destination]:
    """Return where a new event, unless it is pull-only, and its copies are pushed to."""
    url, copies = services.settings.webhook_url, zip(event.copies, subscriptions, strict=True)
    webhook = {event.event_id: Destination(url)} if url else {}
    return webhook | {copy_id: Destination(subscription.target_url, subscription) for copy_id, subscription in copies}


def _inline(destinations: dict[str, Destination], services: Services) -> set[str]:
    """Return the ids of the events that are pushed while the caller waits."""
    first = list(destinations.items())[:MAX_INLINE_PUSHES]
    now, settings = services.clock(), services.settings
    return {event_id for event_id, destination in first if services.breaker.take_push(destination.url, now, settings)}


def _settled_by_copies(event: Event, stored_copies: list[WriteResult]) -> Event:
    """Return an event as it is to be stored after its copies.

    One that is not pushed is delivered if a push delivered one of its copies, which an earlier try of the POST stored.
    Else it is claimed, so that no consumer leases it while its copies are pushed.
    """
    if event.is_scheduled or not stored_copies:
        return event
    claimed = replace(event, claimed_until=rfc3339(unix_seconds(event.created_at) + CLAIM_SECONDS))
    return event.delivered_by(result.event for result in stored_copies if result.event) or claimed


def _store(content: bytes, inline: set[str], services: Services, event: Event) -> WriteResult:
    """Store a new event or copy with their content, claimed if it is pushed while the caller waits."""
    if event.event_id in inline:
        until = rfc3339(services.clock() + CLAIM_SECONDS)
        event = replace(event, delivery_attempts=1, claimed_until=until, requeue_at=until)
    return services.store.put(event, content)


def _delete_unlisted(stored_copies: list[WriteResult], event: Event | None, run: Run) -> list[WriteResult]:
    """Delete the copies that this POST stored and that the event, which another POST stored, does not list.

    Returns the results of the listed ones. Raises StorageUnavailableError if no time is left for it.
    """
    listed = event.copies if event else ()
    mine = [result.event for result in stored_copies if result.applied and result.event]
    unlisted = [copy for copy in mine if copy.event_id not in listed]
    if unlisted and not run.has_time():
        raise StorageUnavailableError
    run.services.map(lambda copy: _record_with_retries(run.services.store.delete, copy, run), unlisted)
    return [result for result in stored_copies if result.event and result.event.event_id in listed]


def _require_same_body(stored: WriteResult, event: Event, services: Services) -> Event:
    """Return the stored event; raise ApiError 422 if it was made of another body than `event`, 409 if it is erased."""
    if stored.erased_until:
        detail = "The event of this Idempotency-Key was erased less than an hour ago."
        raise EventClaimedError(detail, stored.erased_until - services.clock())
    if stored.event is None:  # it expired between the failed condition and now
        raise StorageUnavailableError
    if stored.event.body_hash != event.body_hash:
        raise ApiError(422, "idempotency_key_reused", "This Idempotency-Key was used before, with another body.")
    return stored.event


def _due(stored: list[WriteResult]) -> list[Event]:
    """Return the new events that are to be pushed: not pull-only, and not acknowledged since."""
    events = [result.event for result in stored if result.applied and result.event]
    return [event for event in events if event.status is Status.PENDING and event.is_scheduled]


def _queue(events: list[Event], run: Run) -> None:
    """Send messages for new events."""
    outgoing = [messages.push_message(event) for event in events]
    tens = [outgoing[start : start + BATCH_SIZE] for start in range(0, len(outgoing), BATCH_SIZE)]
    if run.has_time():  # else the sweep queues them
        run.services.map(run.services.inbox.send_many, tens)


def _push_new(event: Event, destination: Destination, run: Run) -> Event:
    """Push a new event once; return it as it is then."""
    with _errors_left_to_sweep(event.event_id):
        event, upcoming = _push_and_settle(event, destination, Role.INLINE, run)
        if upcoming:
            _enqueue(event, upcoming.delay_seconds, run.services)
    return event


def _end_claim(event: Event, pushed: list[Event], run: Run) -> Event:
    """End the claim of a POST on an event that is not pushed itself, or let it expire; return the event."""
    if delivered := event.delivered_by(pushed):  # that has ended the claim
        return delivered
    if not run.has_time():
        return event
    released = run.services.store.release(event.event_id, str(event.claim_id))
    return released.event or replace(event, claimed_until=None)


@contextlib.contextmanager
def _errors_left_to_sweep(event_id: str) -> Iterator[None]:
    """Log any error: the event is stored, and the sweep queues it when nobody holds it."""
    try:
        yield
    except Exception:
        logger.exception("delivery left to the sweep", extra={"event_id": event_id})


def _destination(event: Event, services: Services) -> Destination | None:
    """Return where to push an event, or None in pull-only mode or if its subscription is gone."""
    if event.subscription_id is None:
        url = services.settings.webhook_url
        return Destination(url) if url else None
    subscription = services.subscriptions.find(event.subscription_id, event.tenant)
    return Destination(subscription.target_url, subscription) if subscription else None


def _push_and_settle(event: Event, destination: Destination, role: Role, run: Run) -> tuple[Event, NextAttempt | None]:
    """Push a claimed event once and record the outcome; return the event, and its next attempt if there is one."""
    with run.services.metrics.one_line():
        event, result = _push(event, destination, role, run)
        event, delay_seconds = _settle(event, result, destination, run)
    if delay_seconds is None:
        return event, None
    may_wait = not result.hung and run.services.worker_breaker.may_wait(destination.url, run.services.settings)
    return event, NextAttempt(event, delay_seconds, may_wait)


def _push(event: Event, destination: Destination, role: Role, run: Run) -> tuple[Event, PushResult]:
    """Push a claimed event once; return it with the attempt. Raises OutOfTimeError if no time is left for a push."""
    settings, started = run.services.settings, run.services.clock()
    timeout_seconds = min(settings.push_timeout_seconds, run.deadline - started - AFTER_PUSH_SECONDS)
    if role is not Role.WORKER:  # a caller waits
        timeout_seconds = min(settings.inline_push_timeout_seconds, timeout_seconds)
    if timeout_seconds <= 0:
        raise OutOfTimeError
    if destination.subscription and settings.subscription_hosts.fault(destination.url):
        result = PushResult(Outcome.FAILED, error=HOST_NOT_ALLOWED)
    elif role is Role.WORKER and not _take_push(destination, run.services):
        result = PushResult(Outcome.RETRY, error=HANGS, hung=True)
    else:
        result = _send(event, destination, timeout_seconds, run.services)
        _record_push(result, started, destination, role, run)
    return event.with_attempt(Attempt(rfc3339(started), **_shown(result), response=result.response)), result


def _take_push(destination: Destination, services: Services) -> bool:
    """Return whether the worker may push now."""
    until = destination.subscription and destination.subscription.next_attempt_at
    return services.worker_breaker.take_push(
        destination.url, services.clock(), services.settings, not_before=unix_seconds(until) if until else None
    )


def _record_push(result: PushResult, started: float, destination: Destination, role: Role, run: Run) -> None:
    """Count the result of a push; let the other containers know if a subscription's target hangs, or no longer does."""
    services, now, subscription = run.services, run.services.clock(), destination.subscription
    if role is Role.TEST:
        return
    services.metrics.emit(PushDuration=result.duration_ms)
    if role is Role.INLINE:
        failed = result.outcome is Outcome.RETRY
        services.breaker.record(destination.url, now, failed=failed, timed_out=result.timed_out)
        return
    failed, open_seconds = result.outcome is not Outcome.DELIVERED, services.settings.breaker_open_seconds
    pause_seconds = open_seconds * (1 + services.random())  # not all containers wait for a receiver at the same time
    hangs = services.worker_breaker.record(
        destination.url, started, now, failed=failed, hung=result.hung, pause_seconds=pause_seconds
    )
    if subscription and (hangs or (subscription.next_attempt_at and not result.hung)) and run.has_time(3):
        until = rfc3339(now + open_seconds) if hangs else None
        services.subscriptions.postpone_pushes(subscription, until)


def _send(event: Event, destination: Destination, timeout_seconds: float, services: Services) -> PushResult:
    settings, subscription = services.settings, destination.subscription
    return services.push.send(
        event,
        destination.url,
        timestamp=int(services.clock()),
        timeout_seconds=timeout_seconds,
        connect_timeout_seconds=settings.push_connect_timeout_seconds,
        secrets=subscription.secrets(settings.signing_secrets) if subscription else settings.signing_secrets,
        public_only=bool(subscription and settings.subscription_hosts.public_only(destination.url)),
    )


def _shown(result: PushResult) -> dict[str, Any]:
    """Return what attempts and log lines show of a push."""
    return {name: getattr(result, name) for name in ("outcome", "status_code", "error", "duration_ms")}


def _settle(event: Event, result: PushResult, destination: Destination, run: Run) -> tuple[Event, float | None]:
    """Record the outcome of an attempt; return the event, and the seconds until the next attempt if there is one."""
    services, delay_seconds = run.services, None
    if result.outcome is Outcome.RETRY:
        delay_seconds = services.settings.retry_policy.next_delay_seconds(
            event.delivery_attempts, retry_after_seconds=result.retry_after_seconds, random=services.random
        )
    extra = {"event_id": event.event_id, "attempt": event.delivery_attempts, **_shown(result)}
    logger.info("attempt", extra={**extra, "retry_in_seconds": delay_seconds and round(delay_seconds, 3)})
    subscription = destination.subscription
    if result.status_code == HTTPStatus.GONE and subscription and services.subscriptions.end(subscription):
        services.store.delete(event)
        return event, None
    if result.outcome is Outcome.DELIVERED:
        return _record_delivered(event, destination, run), None
    if delay_seconds is not None:
        services.metrics.emit(DeliveryRetry=1)
        will_be_queued = delay_seconds <= MAX_QUEUE_DELAY_SECONDS
        write = partial(services.store.record_retry, delay_seconds=delay_seconds, will_be_queued=will_be_queued)
        record = _record_with_retries(write, event, run)
        # Without time for this call and the message, the dead letter will tell.
        if subscription and record.applied and event.delivery_attempts == FAILING_ATTEMPTS and run.has_time(2):
            services.subscriptions.record_failing(subscription)
        return record.event or event, delay_seconds if record.applied else None
    with contextlib.suppress(StorageUnavailableError):  # then the outcome is recorded all the same
        # Nobody waits for a copy whose subscription was deleted during the push. This read is a third call after it.
        if subscription and run.has_time(3) and services.subscriptions.get(subscription.subscription_id) is None:
            _record_with_retries(services.store.delete, event, run)
            return event, None
    reason = Reason.PERMANENT if result.outcome is Outcome.FAILED else Reason.EXHAUSTED
    return _dead_letter(event, reason, destination, run), None


def _record_delivered(event: Event, destination: Destination, run: Run) -> Event:
    """Record a delivery; of a copy, first that of its source event if that is not pushed itself."""
    services = run.services
    if event.settles_source or (event.is_copy and services.settings.webhook_url is None):
        _record_with_retries(services.store.record_delivered_by_copy, event, run)
    record = _record_with_retries(services.store.record_delivered, event, run)
    if record.applied:
        latency_ms = round((services.clock() - unix_seconds(event.replayed_at or event.created_at)) * 1000)
        services.metrics.emit(DeliverySuccess=1, DeliveryLatency=latency_ms)
        if destination.subscription and run.has_time():
            services.subscriptions.record_delivery(destination.subscription)
    return record.event or event


def _dead_letter(event: Event, reason: Reason, destination: Destination, run: Run) -> Event:
    """Send the DLQ message, then record the failure: a crash in between makes a second message, never none.

    Raises QueueUnavailableError; the sweep queues the event again when its claim ends.
    """
    failed = replace(event, reason=reason, failed_at=rfc3339(run.services.clock()))
    run.services.dlq.send(messages.dead_letter(failed))
    record = _record_with_retries(run.services.store.record_failed, failed, run)
    if record.applied:
        logger.warning("dead letter", extra={"event_id": event.event_id, "reason": reason})
        if reason is not Reason.DISABLED:
            _count_failure(destination.subscription, run)
    return record.event or failed


def _count_failure(subscription: Subscription | None, run: Run) -> None:
    """Count a dead letter, which may disable the subscription that it is for."""
    services = run.services
    services.metrics.emit(**{"CopyFailure" if subscription else "DeliveryFailure": 1})
    # Without time, the next dead letter counts.
    if subscription and run.has_time(2) and services.subscriptions.record_dead_letter(subscription):
        services.metrics.emit(SubscriptionsDisabled=1)


def _record_with_retries(write: Callable[[Event], WriteResult], event: Event, run: Run) -> WriteResult:
    """Write a record, again and again while the function lasts: a lost record is a second push.

    The claim lasts longer: CLAIM_SECONDS is more than the time of the functions that push.
    """
    while True:
        try:
            return write(event)
        except StorageUnavailableError:
            if run.services.clock() + RECORD_RETRY_SECONDS > run.deadline - AFTER_PUSH_SECONDS:
                raise
            run.services.sleep(RECORD_RETRY_SECONDS)


def _next_attempt(event: Event, services: Services) -> NextAttempt | None:
    """Return the next attempt of an event whose message came early; None if it needs no push or someone holds it."""
    now = services.clock()
    if event.status is not Status.PENDING or event.next_attempt_at is None or event.is_claimed(now):
        return None
    delay_seconds = max(0.0, unix_seconds(event.next_attempt_at) - now)
    destination = _destination(event, services)
    may_wait = destination is None or services.worker_breaker.may_wait(destination.url, services.settings)
    return NextAttempt(event, delay_seconds, may_wait)


def _claim_seconds_left(event: Event, services: Services) -> float:
    return unix_seconds(event.claimed_until) - services.clock() if event.claimed_until else 0.0


def _expires_at(services: Services) -> int:
    """Return the Unix seconds at which an event stored or replayed now expires."""
    return int(services.clock()) + services.settings.event_retention_days * DAY_SECONDS


def _enqueue(event: Event, delay_seconds: float, services: Services) -> None:
    """Send a message for the event; after a delay that SQS does not support, the sweep sends it."""
    if delay_seconds <= MAX_QUEUE_DELAY_SECONDS:
        services.inbox.send(messages.push_message(event), delay_seconds)
