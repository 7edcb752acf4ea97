"""POST /events, top down: plan the event and its copies, store that plan, push or queue what it
says.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from chalicelib.core import delivery, messages
from chalicelib.core.delivery import errors_left_to_sweep
from chalicelib.core.event import DeliveredVia, Event, NewEvent, Status, response_bytes
from chalicelib.core.invocation import CoreServices, Invocation
from chalicelib.core.store import CLAIM_SECONDS, WriteResult
from chalicelib.core.target import Target
from chalicelib.infra.errors import ApiError, EventClaimedError, StorageUnavailableError
from chalicelib.infra.queue import BATCH_SIZE
from chalicelib.infra.telemetry import logger
from chalicelib.infra.times import rfc3339
from chalicelib.settings import COPIES_ONLY, PULL_ONLY

MAX_INLINE_PUSHES = 10


@dataclass(frozen=True)
class Planned:
    """A new event or copy and its target; `is_inline`: it is pushed while the caller waits, and
    claimed for that.
    """

    event: Event
    target: Target
    is_inline: bool = False


@dataclass(frozen=True)
class Stored:
    """An event; `is_new`: this call stored it, not an earlier one; `due`: what this call stored and
    is to be pushed.
    """

    event: Event
    is_new: bool
    due: Sequence[Planned] = ()


def post(
    new_event: NewEvent, invocation: Invocation, *, created_by: str, respond_async: bool
) -> Stored:
    """Store an event and a copy for each matching subscription, then push up to MAX_INLINE_PUSHES
    of them once.

    The others are queued, as are all if `respond_async` and those whose breaker is open. Raises
    StorageUnavailableError if some may not be stored; ApiError 422 if the Idempotency-Key was used
    with another body, 409 if its event was erased. Errors after the event is stored are left to the
    sweep.
    """
    services = invocation.services
    event = make_event(new_event, created_by, services.settings.webhook, services)
    plan = make_plan(event, services)
    if earlier := _find_earlier(plan[0].event, services):
        return Stored(earlier, is_new=False)
    if not respond_async:
        plan = _choose_inline(plan, services)
    stored = store(plan, invocation)
    if stored.is_new:
        extra = {"event_id": event.event_id, "copies": len(stored.event.copies) or None}
        logger.info("event accepted", extra={**extra, **services.metrics(EventsAccepted=1)})
    return replace(stored, event=start(stored, invocation))


def make_event(new_event: NewEvent, created_by: str, webhook: str, services: CoreServices) -> Event:
    """Return a new event; its id derives from the Idempotency-Key, if there is one.

    `webhook` is what ZAPIER_WEBHOOK_URL says: a URL (then it is due now), PULL_ONLY or COPIES_ONLY.
    """
    now = rfc3339(services.clock())
    digits, members = services.new_id(), {**vars(new_event), "status": Status.PENDING}
    # NUL separates: no two pairs give the same text
    if (key := members.pop("idempotency_key")) is not None:
        digits = _hash(f"{created_by}\0{key}")
    if webhook == COPIES_ONLY:
        members |= {
            "status": Status.DELIVERED,
            "delivered_via": DeliveredVia.SUBSCRIPTIONS,
            "delivered_at": now,
        }
    elif webhook != PULL_ONLY:
        members |= _due_now(services)
    return Event(
        **members,
        event_id=f"evt_{digits}",
        created_at=now,
        created_by=created_by,
        expires_at=services.expires_at(),
        response_bytes=response_bytes(new_event.payload + new_event.metadata),
        claim_id=services.new_id(),
    )


def make_copy(event: Event, subscription_id: str | None, services: CoreServices) -> Event:
    """Return the copy for a subscription: the same id each time, so that a repeated POST stores it
    once.

    The id derives from the body, too: of two bodies under one Idempotency-Key, each has copies of
    its own.
    """
    return replace(
        event,
        event_id="cpy_" + _hash(f"{event.event_id}\0{subscription_id}\0{event.body_hash}"),
        status=Status.PENDING,
        delivered_via=None,
        delivered_at=None,
        claim_id=services.new_id(),
        subscription_id=subscription_id,
        source_event_id=event.event_id,
        body_hash=None,
        **_due_now(services),
    )


def make_plan(event: Event, services: CoreServices) -> list[Planned]:
    """Plan a new event and, after it, its copies, all to be queued. Raises
    StorageUnavailableError.
    """
    targets = services.targets.matching(event)
    copies = [
        Planned(make_copy(event, target.subscription_id, services), target) for target in targets
    ]
    event = replace(event, copies=tuple(copy.event.event_id for copy in copies))
    return [Planned(event, services.targets.webhook), *copies]


def _find_earlier(event: Event, services: CoreServices) -> Event | None:
    """Return the event that an earlier call with the same Idempotency-Key stored, if the plan has
    copies.

    A copy that was deleted since would be pushed again, and those of an erased event if this call
    ended before it deleted them. Raises what `_require_same_body` raises.
    """
    if not event.copies or event.body_hash is None:
        return None
    found = services.store.read(event.event_id)
    return _require_same_body(found, event, services) if found.event or found.erased_until else None


def _choose_inline(plan: list[Planned], services: CoreServices) -> list[Planned]:
    """Let the first MAX_INLINE_PUSHES be claimed and pushed while the caller waits, but none whose
    breaker is open.
    """
    until = rfc3339(services.clock() + CLAIM_SECONDS)

    def choose(planned: Planned) -> Planned:
        target, event, now = planned.target, planned.event, services.clock()
        if not target.is_enabled or services.inline_breaker.wait_seconds(target.destination, now):
            return planned
        claimed = replace(event, delivery_attempts=1, claimed_until=until, requeue_at=until)
        return replace(planned, event=claimed, is_inline=True)

    # A webhook without URL takes none of the places.
    first = MAX_INLINE_PUSHES + int(not plan[0].target.is_enabled)
    return [*map(choose, plan[:first]), *plan[first:]]


def store(plan: list[Planned], invocation: Invocation) -> Stored:
    """Store a plan. Raises what `post` raises."""
    put, (original, *copies) = invocation.services.store.put, plan
    event, content = original.event, original.event.content()
    # Copies before the event: an event that is there has all its copies.
    are_new = invocation.services.map(lambda copy: put(copy.event, content).applied, copies)
    result = put(event, content)
    if not result.applied:
        event = _find_stored(plan, result, invocation)
    new = [copy for copy, is_new in zip(copies, are_new, strict=True) if is_new]
    due = [copy for copy in new if copy.event.event_id in event.copies]
    if result.applied and event.next_attempt_at:
        due.append(original)
    return Stored(event, result.applied, due)


def _find_stored(plan: list[Planned], result: WriteResult, invocation: Invocation) -> Event:
    """Return the event that another call stored under the id of the plan's; raise what
    `_require_same_body` raises.
    """
    listed = result.event.copies if result.event else ()
    unlisted = [copy.event for copy in plan[1:] if copy.event.event_id not in listed]
    # Delete, then refuse: no copy of another body may be there when the caller learns of it.
    delete = partial(invocation.retry_write, invocation.services.store.delete_claimed)
    invocation.services.map(delete, unlisted)
    return _require_same_body(result, plan[0].event, invocation.services)


def _require_same_body(result: WriteResult, event: Event, services: CoreServices) -> Event:
    """Return the stored event; raise ApiError 422 if it was made of another body than `event`, 409
    if it was erased.
    """
    if result.erased_until:
        detail = (
            "The event of this Idempotency-Key was erased; the key can be used again after an hour."
        )
        raise EventClaimedError(detail, result.erased_until - services.clock())
    if result.event is None:  # it expired between the failed condition and now
        raise StorageUnavailableError
    if result.event.body_hash != event.body_hash:
        raise ApiError(
            422,
            "idempotency_key_reused",
            "This Idempotency-Key was used before, with another body.",
        )
    return result.event


def start(stored: Stored, invocation: Invocation) -> Event:
    """Queue or push what is due; return the event as it is then."""
    event, due = stored.event, stored.due
    queued = [messages.push_message(planned.event) for planned in due if not planned.is_inline]
    tens = [queued[at : at + BATCH_SIZE] for at in range(0, len(queued), BATCH_SIZE)]
    with errors_left_to_sweep(event):
        invocation.services.map(invocation.services.work_queue.send_many, tens)

    def push(planned: Planned) -> Event:
        with errors_left_to_sweep(planned.event):
            return delivery.push_inline(planned.event, planned.target, invocation)
        return planned.event

    pushed = invocation.services.map(push, [planned for planned in due if planned.is_inline])
    return next((other for other in pushed if other.event_id == event.event_id), event)


def _due_now(services: CoreServices) -> dict[str, Any]:
    now, grace_seconds = services.clock(), services.settings.message_grace_seconds
    return {"next_attempt_at": rfc3339(now), "requeue_at": rfc3339(now + grace_seconds)}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
