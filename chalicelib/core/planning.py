"""Plan a new event: the event, a copy for each matching subscription, and where each goes; and store that plan."""

import hashlib
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import partial
from typing import Any

from chalicelib.core import messages
from chalicelib.core.event import DeliveredVia, Event, NewEvent, Reason, Status, response_bytes
from chalicelib.core.store import CLAIM_SECONDS, WriteResult
from chalicelib.customers.subscriptions import Subscription
from chalicelib.deps import Invocation, Services
from chalicelib.infra.errors import ApiError, EventClaimedError, StorageUnavailableError
from chalicelib.infra.queue import BATCH_SIZE
from chalicelib.infra.times import DAY_SECONDS, rfc3339
from chalicelib.settings import COPIES_ONLY, PULL_ONLY

DISABLED = "not pushed: the subscription is disabled"


@dataclass(frozen=True)
class Destination:
    """Where an event is pushed to; a copy's has its subscription."""

    url: str
    subscription: Subscription | None = None


class NoDestination(Enum):
    """Why an event is not pushed."""

    NO_URL = auto()  # ZAPIER_WEBHOOK_URL is none or subscriptions
    GONE = auto()  # its subscription
    DISABLED = auto()


@dataclass(frozen=True)
class Planned:
    """A new event or copy, and where to push it while the caller waits; None: it is queued, or not pushed."""

    event: Event
    destination: Destination | None


@dataclass(frozen=True)
class Stored:
    """A stored event, whether this call stored it, and what it stored of the plan and is to be pushed."""

    event: Event
    is_new: bool
    due: list[Planned]


def find_destination(event: Event, services: Services) -> Destination | NoDestination:
    """Return where to push an event that is stored, or why there is nowhere; raise StorageUnavailableError."""
    if event.subscription_id is None:
        url = services.settings.webhook_url
        return Destination(url) if url else NoDestination.NO_URL
    subscription = services.subscriptions.find(event.subscription_id, event.tenant)
    if subscription is None:
        return NoDestination.GONE
    return NoDestination.DISABLED if subscription.disabled_at else Destination(subscription.target_url, subscription)


def plan(event: Event, invocation: Invocation) -> list[Planned]:
    """Return a new event, after its copies: one for each matching subscription. Raises StorageUnavailableError."""
    services = invocation.services
    subscriptions = services.subscriptions.matching(event.event_type, event.tenant)
    if any(each.disabled_at for each in subscriptions):
        if not invocation.has_time(3):  # for this read, the copies and the event
            raise StorageUnavailableError
        subscriptions = services.subscriptions.read_again(subscriptions)
    copies = [_plan_copy(event, each, services) for each in subscriptions]
    if copies:
        event = replace(event, copies=tuple(copy.event.event_id for copy in copies))
    url = services.settings.webhook_url if event.next_attempt_at else None
    return [*copies, Planned(event, Destination(url) if url else None)]


def make_event(new_event: NewEvent, created_by: str, webhook: str, services: Services) -> Event:
    """Return a new event; its id derives from the Idempotency-Key, if there is one.

    `webhook` is what ZAPIER_WEBHOOK_URL says: a URL (then it is due now), PULL_ONLY or COPIES_ONLY.
    """
    now = services.clock()
    digits, members = services.new_id(), {**vars(new_event), "status": Status.PENDING}
    if (key := members.pop("idempotency_key")) is not None:  # NUL separates: no two pairs give the same text
        digits = hashlib.sha256(f"{created_by}\0{key}".encode()).hexdigest()[:32]
    if webhook == COPIES_ONLY:
        via = DeliveredVia.SUBSCRIPTIONS
        members |= {"status": Status.DELIVERED, "delivered_via": via, "delivered_at": rfc3339(now)}
    elif webhook != PULL_ONLY:
        members |= _due_now(services)
    return Event(
        **members,
        event_id=f"evt_{digits}",
        created_at=rfc3339(now),
        created_by=created_by,
        expires_at=expiry(services),
        response_bytes=response_bytes(new_event.payload + new_event.metadata),
        claim_id=services.new_id(),
    )


def make_copy(event: Event, subscription: Subscription, services: Services) -> Event:
    """Return the copy for a subscription: the same id each time, so that a repeated POST stores it once.

    The id derives from the body, too: of two bodies under one Idempotency-Key, each has copies of its own.
    """
    text = f"{event.event_id}\0{subscription.subscription_id}\0{event.body_hash}"
    return replace(
        event,
        event_id=f"cpy_{hashlib.sha256(text.encode()).hexdigest()[:32]}",
        status=Status.PENDING,
        delivered_via=None,
        delivered_at=None,
        claim_id=services.new_id(),
        subscription_id=subscription.subscription_id,
        source_event_id=event.event_id,
        body_hash=None,
        **_due_now(services),
    )


def find_earlier(planned: list[Planned], invocation: Invocation) -> Event | None:
    """Return the event that an earlier call with the same Idempotency-Key stored, if the plan has copies.

    A copy that was deleted since would be pushed again, and those of an erased event if this call ended before it
    deleted them. Raises what `store` raises.
    """
    event = planned[-1].event
    if not event.copies or event.body_hash is None:
        return None
    found = invocation.services.store.read(event.event_id)
    return _require_same_body(found, event, invocation.services) if found.event or found.erased_until else None


def store(planned: list[Planned], invocation: Invocation) -> Stored:
    """Store copies in parallel, then the event, so that an event that is there has all its copies.

    Raises StorageUnavailableError if some may not be stored; ApiError 422 if the Idempotency-Key was used with another
    body, 409 if its event was erased.
    """
    *copies, original = planned
    put = partial(_put, original.event.content(), invocation)
    results = invocation.services.map(put, copies)
    result = put(original)
    if not result.applied:
        results = _delete_unlisted(results, result.event, invocation)
    event = _require_same_body(result, original.event, invocation.services)
    now_stored = {each.event.event_id: each.event for each in (*results, result) if each.applied and each.event}
    new = [replace(each, event=now_stored[key]) for each in planned if (key := each.event.event_id) in now_stored]
    due = [each for each in new if each.event.next_attempt_at]
    return Stored(event, result.applied, due)


def queue(events: list[Event], invocation: Invocation) -> None:
    """Send messages for new events; raise QueueUnavailableError."""
    outgoing = [messages.push_message(event) for event in events]
    tens = [outgoing[start : start + BATCH_SIZE] for start in range(0, len(outgoing), BATCH_SIZE)]
    if invocation.has_time():  # else the sweep queues them
        invocation.services.map(invocation.services.work_queue.send_many, tens)


def expiry(services: Services) -> int:
    """Return the Unix seconds at which an event stored or replayed now expires."""
    return int(services.clock()) + services.settings.event_retention_days * DAY_SECONDS


def _plan_copy(event: Event, subscription: Subscription, services: Services) -> Planned:
    """Return the copy for a subscription; one that is disabled does not get it, but may have it replayed."""
    copy = make_copy(event, subscription, services)
    if not subscription.disabled_at:
        return Planned(copy, Destination(subscription.target_url, subscription))
    failed = replace(copy, status=Status.FAILED, reason=Reason.DISABLED, failed_at=copy.created_at, last_error=DISABLED)
    return Planned(replace(failed, next_attempt_at=None, requeue_at=None), None)


def _due_now(services: Services) -> dict[str, Any]:
    now, grace_seconds = services.clock(), services.settings.message_grace_seconds
    return {"next_attempt_at": rfc3339(now), "requeue_at": rfc3339(now + grace_seconds)}


def _put(content: bytes, invocation: Invocation, planned: Planned) -> WriteResult:
    """Store a new event or copy, claimed if it is pushed while the caller waits."""
    services, event = invocation.services, planned.event
    if not invocation.has_time():
        raise StorageUnavailableError
    if planned.destination:
        until = rfc3339(services.clock() + CLAIM_SECONDS)
        event = replace(event, delivery_attempts=1, claimed_until=until, requeue_at=until)
    return services.store.put(event, content)


def _delete_unlisted(copies: list[WriteResult], event: Event | None, invocation: Invocation) -> list[WriteResult]:
    """Delete the copies that this call stored and that the event, which another call stored, does not list.

    Returns the results of the listed ones. Raises StorageUnavailableError if no time is left for it.
    """
    listed = event.copies if event else ()
    mine = [result.event for result in copies if result.applied and result.event]
    unlisted = [copy for copy in mine if copy.event_id not in listed]
    if unlisted and not invocation.has_time():
        raise StorageUnavailableError
    write_with_retries = partial(invocation.write_with_retries, invocation.services.store.delete)
    invocation.services.map(write_with_retries, unlisted)
    return [result for result in copies if result.event and result.event.event_id in listed]


def _require_same_body(result: WriteResult, event: Event, services: Services) -> Event:
    """Return the stored event; raise ApiError 422 if it was made of another body than `event`, 409 if it was erased."""
    if result.erased_until:
        detail = "The event of this Idempotency-Key was erased; the key can be used again after an hour."
        raise EventClaimedError(detail, result.erased_until - services.clock())
    if result.event is None:  # it expired between the failed condition and now
        raise StorageUnavailableError
    if result.event.body_hash != event.body_hash:
        raise ApiError(422, "idempotency_key_reused", "This Idempotency-Key was used before, with another body.")
    return result.event
