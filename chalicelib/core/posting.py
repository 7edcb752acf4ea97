"""POST /events, top down: plan the event and its copies, store that plan, push what is due.

Two POSTs with one Idempotency-Key and other bodies, A and B, at the same time:

    A: copies of A stored | event of A stored ..................... pushes
    B:      copies of B stored | event of B refused | copies of B deleted | 422

The event's own put decides. Copies come before it, so that an event that is there has all of its
copies, and their ids derive from the body, too, so that B deletes none of A's.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from chalicelib.core import delivery, messages
from chalicelib.core.delivery import errors_left_to_sweep
from chalicelib.core.event import Event, NewEvent, response_bytes
from chalicelib.core.invocation import CoreServices, Invocation
from chalicelib.core.store import CLAIM_SECONDS, ERASED_SECONDS, WriteResult, compressed
from chalicelib.core.target import Target
from chalicelib.infra.errors import (
    ApiError,
    EventClaimedError,
    OutOfTimeError,
    StorageUnavailableError,
)
from chalicelib.infra.queue import BATCH_SIZE, Message, Queue
from chalicelib.infra.telemetry import logger
from chalicelib.infra.times import rfc3339
from chalicelib.settings import COPIES_ONLY, PULL_ONLY

MAX_INLINE_PUSHES = 10
BEGIN_SECONDS = 15  # with less time left, no event is stored


@dataclass(frozen=True)
class Planned:
    """A new event or copy and its target."""

    event: Event
    target: Target

    @property
    def is_inline(self) -> bool:
        """Whether it is pushed while the caller waits: it is claimed for that."""
        return self.event.claimed_until is not None


@dataclass(frozen=True)
class Stored:
    """An event, and whether this call stored it, not an earlier one.

    `due`: what this call stored and is to be pushed.
    """

    event: Event
    is_new: bool
    due: Sequence[Planned] = ()


Plan = list[Planned]  # an event, then its copies
Posted = Stored | ApiError  # what became of a new event


def store(
    new_event: NewEvent, invocation: Invocation, *, created_by: str, respond_async: bool
) -> Stored:
    """Store an event and a copy for each matching subscription; `start_plan` is to follow.

    Up to MAX_INLINE_PUSHES of what an invocation stores are then pushed once. The others are
    queued, as are all if `respond_async` and those whose breaker is open. Raises OutOfTimeError if
    too little time is left to begin; StorageUnavailableError if some may not be stored; ApiError
    422 if the Idempotency-Key was used with another body, 409 if its event was erased. Errors after
    the event is stored are left to the sweep.
    """
    if invocation.seconds_left() < BEGIN_SECONDS:
        raise OutOfTimeError
    services = invocation.services
    event = make_event(new_event, created_by, services)
    webhook = services.settings.webhook  # of a stage that pushes nothing, events wait in the inbox
    if webhook == COPIES_ONLY:
        event = event.left_to_copies()
    elif webhook != PULL_ONLY:
        event = replace(event, next_attempt_at=event.created_at)
    plan = make_plan(event, services)
    earlier = _find_earlier(plan[0].event, services)
    if earlier:
        return Stored(earlier, is_new=False)
    if not respond_async:
        plan = _choose_inline(plan, invocation)
    return store_plan(plan, invocation)


def log_accepted(posted: Sequence[Posted]) -> None:
    """Log the events that an invocation stored, all in one line: each line costs."""
    accepted = [each.event for each in posted if isinstance(each, Stored) and each.is_new]
    if accepted:
        event_ids = " ".join(event.event_id for event in accepted)
        extra = {"event_id": event_ids, "metrics": {"EventsAccepted": len(accepted)}}
        logger.info("event accepted", extra=extra)


def make_event(new_event: NewEvent, created_by: str, services: CoreServices) -> Event:
    """Return a new event, which is not due; its id derives from the Idempotency-Key, if there is
    one.
    """
    digits = services.new_id()
    if new_event.idempotency_key is not None:
        # NUL separates: no two pairs give the same text.
        digits = _hash(f"{created_by}\0{new_event.idempotency_key}")
    return Event(
        event_id=f"evt_{digits}",
        event_type=new_event.event_type,
        payload=new_event.payload,
        metadata=new_event.metadata,
        tenant=new_event.tenant,
        subject=new_event.subject,
        body_hash=new_event.body_hash,
        created_at=rfc3339(services.clock()),
        created_by=created_by,
        expires_at=services.expires_at(),
        response_bytes=response_bytes(new_event.payload + new_event.metadata),
        claim_id=services.new_id(),
    )


def make_copy(event: Event, subscription_id: str | None, services: CoreServices) -> Event:
    """Return the copy for a subscription: the same id each time, so that a repeated POST stores it
    once.

    The id derives from the body, too: of two bodies under one Idempotency-Key, each has copies of
    its own. Of the event's state nothing is taken over.
    """
    return Event(
        event_id=copy_id(event, subscription_id),
        event_type=event.event_type,
        payload=event.payload,
        metadata=event.metadata,
        tenant=event.tenant,
        subject=event.subject,
        created_at=event.created_at,
        created_by=event.created_by,
        expires_at=event.expires_at,
        response_bytes=event.response_bytes,
        claim_id=services.new_id(),
        subscription_id=subscription_id,
        source_event_id=event.event_id,
        next_attempt_at=rfc3339(services.clock()),
    )


def copy_id(event: Event, subscription_id: str | None) -> str:
    """Return the id of the copy of an event for a subscription."""
    return "cpy_" + _hash(f"{event.event_id}\0{subscription_id}\0{event.body_hash}")


def make_plan(event: Event, services: CoreServices) -> Plan:
    """Plan a new event and its copies, all to be queued. Raises StorageUnavailableError."""
    copies = [
        Planned(make_copy(event, target.subscription_id, services), target)
        for target in services.targets.matching(event)
    ]
    if copies:
        event = replace(event, copies=tuple(copy.event.event_id for copy in copies))
    return [Planned(event, services.targets.webhook), *copies]


def _find_earlier(event: Event, services: CoreServices) -> Event | None:
    """Return the event that an earlier call with the same Idempotency-Key stored, if it has copies.

    A copy that was deleted since would be pushed again, and those of an erased event if this call
    ended before it deleted them. Raises what `_require_same_body` raises.
    """
    if not event.copies or event.body_hash is None:
        return None
    found = services.store.read(event.event_id)
    if found.event or found.erased_until:
        return _require_same_body(found, event, services)
    return None


def _choose_inline(plan: Plan, invocation: Invocation) -> Plan:
    """Let up to MAX_INLINE_PUSHES of an invocation be claimed and pushed while the caller waits.

    Targets that are slow, not enabled, or whose breaker is open are left to the workers.
    """
    services = invocation.services
    until = rfc3339(services.clock() + CLAIM_SECONDS)
    chosen = []
    for planned in plan:
        event = planned.event
        target = planned.target
        # The breaker is asked last, and once: to ask may begin the trial.
        is_inline = (
            len(invocation.inline_ids) < MAX_INLINE_PUSHES
            and target.is_enabled
            and not services.needs_slow_lane(event)
            and not services.inline_breaker.acquire(target, services.clock())
        )
        if is_inline:
            invocation.inline_ids.append(event.event_id)
            event = replace(event, delivery_attempts=1, claimed_until=until)
        chosen.append(Planned(event, target))
    return chosen


def store_plan(plan: Plan, invocation: Invocation) -> Stored:
    """Store a plan, copies first. Raises what `store` raises, but for the time."""
    services = invocation.services
    original, *copies = plan
    event = original.event
    put = partial(services.store.put, content=compressed(event))
    results = services.map(put, [copy.event for copy in copies])
    result = put(event)
    if not result.applied:
        event = _find_stored(plan, result, invocation)
    stored = [copy for copy, written in zip(copies, results, strict=True) if written.applied]
    due = [copy for copy in stored if copy.event.event_id in event.copies]
    if result.applied and event.next_attempt_at:
        due.append(original)
    return Stored(event, result.applied, due)


def _find_stored(plan: Plan, result: WriteResult, invocation: Invocation) -> Event:
    """Return the event that another call stored under the id of the plan's.

    Raises what `_require_same_body` raises, after the copies are gone that the stored event does
    not list.
    """
    listed = result.event.copies if result.event else ()
    unlisted = [copy.event for copy in plan[1:] if copy.event.event_id not in listed]
    # Delete, then refuse: no copy of another body may be there when the caller learns of it.
    delete = partial(invocation.retry_write, invocation.services.store.delete_claimed)
    invocation.services.map(delete, unlisted)
    return _require_same_body(result, plan[0].event, invocation.services)


def _require_same_body(result: WriteResult, event: Event, services: CoreServices) -> Event:
    """Return the stored event if it was made of the same body as `event`.

    Raises ApiError 422 for another body, and 409 if the event was erased.
    """
    if result.erased_until:
        detail = "The event of this Idempotency-Key was erased; use the key again after an hour."
        raise EventClaimedError(detail, min(result.erased_until - services.clock(), ERASED_SECONDS))
    if result.event is None:  # it expired between the failed condition and now
        raise StorageUnavailableError
    if result.event.body_hash != event.body_hash:
        detail = "This Idempotency-Key was used before, with another body."
        raise ApiError(422, "idempotency_key_reused", detail)
    return result.event


def start_plan(stored: Stored, invocation: Invocation) -> Stored:
    """Queue or push what is due; return what was stored, with the event as it is then."""
    services = invocation.services
    queued = [planned.event for planned in stored.due if not planned.is_inline]
    sent_to: dict[Queue, list[Message]] = {}
    for event in queued:
        sent_to.setdefault(services.queue_for(event), []).append(messages.push_message(event))
    for queue, sent in sent_to.items():
        batches = [sent[at : at + BATCH_SIZE] for at in range(0, len(sent), BATCH_SIZE)]
        with errors_left_to_sweep(stored.event):
            services.map(queue.send_many, batches)

    def push(planned: Planned) -> Event:
        with errors_left_to_sweep(planned.event):
            seconds = services.settings.inline_push_timeout_seconds
            breaker = services.inline_breaker
            event, target = planned.event, planned.target
            return delivery.push_and_record(event, target, breaker, seconds, invocation)
        return planned.event

    pushed = services.map(push, [planned for planned in stored.due if planned.is_inline])
    current = {event.event_id: event for event in pushed}
    return replace(stored, event=current.get(stored.event.event_id, stored.event))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
