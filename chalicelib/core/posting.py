"""POST /events, top down: plan the event and its copies, store the plan, push or queue them.

Two POSTs with one Idempotency-Key and other bodies, A and B, at the same time:

    A: copies of A stored | event of A stored ..................... pushes
    B:      copies of B stored | event of B refused | copies of B deleted | 422

The event's own put decides. Copies come before it, so that an event that is there has all of its
copies, and their ids derive from the body, too, so that B deletes none of A's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

from chalicelib.core import delivery, messages
from chalicelib.core.delivery import errors_left_to_sweep
from chalicelib.core.event import COPY_PREFIX, Event, NewEvent, response_bytes
from chalicelib.core.invocation import CoreServices, Invocation
from chalicelib.core.store import CLAIM_SECONDS, ERASED_SECONDS, WriteResult, compressed
from chalicelib.core.target import Target
from chalicelib.infra.clients import CALL_SECONDS
from chalicelib.infra.errors import (
    ApiError,
    EventClaimedError,
    OutOfTimeError,
    StorageUnavailableError,
)
from chalicelib.infra.parsing import id_digits
from chalicelib.infra.queue import BATCH_SIZE, Queue
from chalicelib.infra.telemetry import logger
from chalicelib.infra.times import rfc3339
from chalicelib.settings import COPIES_ONLY, PULL_ONLY

MAX_INLINE_PUSHES = 10
# With less time left, no event is stored: copies, event and messages take 5 s each at most.
BEGIN_SECONDS = 15


@dataclass
class Planned:
    """A new event or copy, and its target."""

    # The event or copy after the latest step; after `_store_plan`, as this or another call stored
    # it.
    event: Event
    # Where it is pushed to.
    target: Target
    # Whether this call stored it; False: not yet, or an earlier call did.
    is_new: bool = False
    # Whether it is claimed for a push while the caller waits; False: it is queued.
    is_inline: bool = False


Plan = list[Planned]  # an event, then its copies
Posted = Planned | ApiError  # the event of a document, or why it was not stored


def post(
    documents: Sequence[Any],
    parse: Callable[[Any], NewEvent],
    invocation: Invocation,
    created_by: str,
    *,
    respond_async: bool,
) -> list[Posted]:
    """Store events, each with a copy for each matching subscription, then push or queue them.

    Up to MAX_INLINE_PUSHES events and copies are pushed once while the caller waits; the others are
    queued. Errors after an event is stored are left to the sweep.

    :param documents: The bodies, parsed as JSON.
    :param parse: Returns the new event of a document; raises ApiError.
    :param created_by: The name of the API key.
    :param respond_async: Whether all events and copies are queued, and none is pushed while the
        caller waits.
    :returns: For each document its event, or the error that `parse` or `_store` raised.
    """
    inline_left = 0 if respond_async else MAX_INLINE_PUSHES
    posted: list[Posted] = []
    plans: list[Plan] = []
    for document in documents:  # in turn: of two events with one Idempotency-Key the first counts
        try:
            plan = _store(parse(document), created_by, inline_left, invocation)
        except ApiError as error:
            posted.append(error)
            continue
        posted.append(plan[0])
        plans.append(plan)
        inline_left -= len([planned for planned in plan if planned.is_new and planned.is_inline])
    event_ids = [plan[0].event.event_id for plan in plans if plan[0].is_new]
    if event_ids:  # one line for all events: CloudWatch charges for each
        extra = {"event_id": " ".join(event_ids), "metrics": {"EventsAccepted": len(event_ids)}}
        logger.info("event accepted", extra=extra)
    _start(plans, invocation)
    return posted


def post_plan(plan: Plan, invocation: Invocation) -> None:
    """Store the event and the copies of a plan, and queue all of them that are due.

    Raises what `_store` raises, except for OutOfTimeError.
    """
    _start([_store_plan(plan, invocation)], invocation)


def _store(new_event: NewEvent, created_by: str, inline_left: int, invocation: Invocation) -> Plan:
    """Store an event and a copy for each matching subscription; return the plan as it is stored.

    Raises OutOfTimeError if too little time is left to begin; StorageUnavailableError if some may
    not be stored; ApiError 422 if the Idempotency-Key was used with another body, 409 if its event
    was erased.

    :param inline_left: How many of its events and copies may be claimed for a push while the caller
        waits.
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
        plan[0].event = earlier
        return plan[:1]
    # To read lists and an earlier event may have taken 15 s.
    if invocation.seconds_left() < BEGIN_SECONDS:
        raise OutOfTimeError
    _claim_inline(plan, inline_left, services)
    stored: Plan = []
    try:
        stored = _store_plan(plan, invocation)
    finally:
        _release_trials(plan, stored, services)
    return stored


def make_event(new_event: NewEvent, created_by: str, services: CoreServices) -> Event:
    """Return the event of a valid body, which is not due yet.

    Its id derives from the API key's name and the Idempotency-Key, if there is one.

    :param created_by: The name of the API key.
    """
    digits = services.new_id()
    if new_event.idempotency_key is not None:
        # NUL separates: no two pairs give the same text.
        digits = id_digits(f"{created_by}\0{new_event.idempotency_key}")
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


def make_copy(event: Event, subscription_id: str, services: CoreServices) -> Event:
    """Return a new copy of an event for a subscription; the event's state is not copied.

    Its id is the same each time, so that a repeated POST stores the copy once. The id derives from
    the body, too, so that of two bodies under one Idempotency-Key each has copies of its own.
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


def copy_id(event: Event, subscription_id: str) -> str:
    """Return the id of the copy of an event for a subscription, whether or not there is one."""
    return COPY_PREFIX + id_digits(f"{event.event_id}\0{subscription_id}\0{event.body_hash}")


def make_plan(event: Event, services: CoreServices) -> Plan:
    """Return the plan of a new event, with a copy for each subscription that gets one.

    Raises StorageUnavailableError.
    """
    copies = [
        Planned(make_copy(event, target.destination, services), target)
        for target in services.targets.matching(event)
    ]
    if copies:
        event = replace(event, copies=tuple(copy.event.event_id for copy in copies))
    return [Planned(event, services.targets.webhook), *copies]


def _find_earlier(event: Event, services: CoreServices) -> Event | None:
    """Return the event that an earlier call with the same Idempotency-Key stored; None: none did,
    or the event has no copies.

    The put of an event without copies finds the earlier event by itself. Copies are put before
    their event: without this look-up, a copy that was deleted since would be stored and pushed
    again, and so would the copies of an erased event if this call ended before it deleted them.
    Raises what `_require_same_body` raises.
    """
    if not event.copies or event.body_hash is None:
        return None
    found = services.store.read(event.event_id)
    if found.event or found.erased_until:
        return _require_same_body(found, event, services)
    return None


def _claim_inline(plan: Plan, inline_left: int, services: CoreServices) -> None:
    """Claim up to `inline_left` events and copies of a plan for a push while the caller waits.

    Events for a target that is slow, not enabled, or whose breaker is open are left to the workers.
    """
    until = rfc3339(services.clock() + CLAIM_SECONDS)
    for planned in plan:
        # The breaker is asked last, and once: `acquire` may begin a trial.
        if (
            inline_left > 0
            and planned.target.is_enabled
            and not services.needs_slow_lane(planned.event)
            and not services.inline_breaker.acquire(planned.target, services.clock())
        ):
            planned.is_inline = True
            planned.event = replace(planned.event, delivery_attempts=1, claimed_until=until)
            inline_left -= 1


def _release_trials(plan: Plan, stored: Plan, services: CoreServices) -> None:
    """End the breaker's trials that `_claim_inline` began for events that are not pushed now,
    because an earlier call stored them or they could not be stored.

    Otherwise the container would make no other trial for MAX_TRIAL_SECONDS.

    :param plan: The events and copies that were claimed.
    :param stored: The plan as it was stored; empty if that failed.
    """
    pushed = {planned.event.event_id for planned in stored if planned.is_new}
    for planned in plan:
        if planned.is_inline and planned.event.event_id not in pushed:
            services.inline_breaker.release_trial(planned.target, services.clock())


def _store_plan(plan: Plan, invocation: Invocation) -> Plan:
    """Store the copies of a plan, then its event; return the event as it is stored, and the copies
    that it lists.

    If an earlier call stored the event, it may list fewer copies than the plan. Raises what
    `_store` raises, except for OutOfTimeError.
    """
    services = invocation.services
    original, *copies = plan
    content = compressed(original.event)

    def put(planned: Planned) -> WriteResult:
        result = services.store.put(planned.event, content)
        planned.is_new = result.applied
        return result

    services.map(put, copies)
    result = put(original)
    if not result.applied:
        original.event = _find_stored(plan, result, invocation)
    listed = original.event.copies
    return [original, *(copy for copy in copies if copy.event.event_id in listed)]


def _find_stored(plan: Plan, result: WriteResult, invocation: Invocation) -> Event:
    """Return the event that another call stored under the id of the plan's event, after deleting
    the copies of the plan that this event does not list.

    Raises what `_require_same_body` raises.

    :param result: The result of the put of the plan's event, which was not applied.
    """
    listed = result.event.copies if result.event else ()
    unlisted = [copy.event for copy in plan[1:] if copy.event.event_id not in listed]
    # Delete, then refuse: no copy of another body may be there when the caller learns of it.
    delete = partial(invocation.retry_write, invocation.services.store.delete_claimed)
    invocation.services.map(delete, unlisted)
    return _require_same_body(result, plan[0].event, invocation.services)


def _require_same_body(result: WriteResult, event: Event, services: CoreServices) -> Event:
    """Return the stored event that a result carries, if it was made of the same body as `event`.

    Raises ApiError 422 if it was made of another body, 409 if it was erased, and
    StorageUnavailableError if it has just expired.
    """
    if result.erased_until:
        detail = "The event of this Idempotency-Key was erased; use the key again after an hour."
        raise EventClaimedError(detail, min(result.erased_until - services.clock(), ERASED_SECONDS))
    if result.event is None:  # it expired after the condition had failed
        raise StorageUnavailableError
    if result.event.body_hash != event.body_hash:
        detail = "This Idempotency-Key was used before, with another body."
        raise ApiError(422, "idempotency_key_reused", detail)
    return result.event


def _start(plans: Sequence[Plan], invocation: Invocation) -> None:
    """Push the events and copies that were claimed for that, and queue the others that are due.

    Only events and copies that this call stored are pushed or queued. Errors are left to the sweep.
    """
    services = invocation.services
    new = [planned for planned in chain(*plans) if planned.is_new]
    jobs = [partial(_push, planned, invocation) for planned in new if planned.is_inline]
    queued: dict[Queue, list[Event]] = {}
    for planned in new:
        event = planned.event
        if event.next_attempt_at and not planned.is_inline:
            queued.setdefault(services.queue_for(event), []).append(event)
    jobs += [
        partial(_send, queue, events[first : first + BATCH_SIZE], invocation)
        for queue, events in queued.items()
        for first in range(0, len(events), BATCH_SIZE)
    ]
    # All at the same time: after storing, BEGIN_SECONDS may leave the time of one call.
    services.map(lambda job: job(), jobs)


def _push(planned: Planned, invocation: Invocation) -> None:
    """Push an event or copy that is claimed for a push while the caller waits, and keep its new
    state in `planned.event`; errors are left to the sweep.
    """
    services = invocation.services
    with errors_left_to_sweep(planned.event):
        planned.event = delivery.push_and_record(
            planned.event,
            planned.target,
            services.inline_breaker,
            services.settings.inline_push_timeout_seconds,
            invocation,
        )


def _send(queue: Queue, events: Sequence[Event], invocation: Invocation) -> None:
    """Send the queue messages of up to BATCH_SIZE events of one plan or request in one call; errors
    are left to the sweep, and so is everything if there is no time for the call.
    """
    # The invocation of a report has no time left, so that its writes are not repeated. Its messages
    # are sent anyway: nobody waits for it.
    is_report = events[0].is_report
    with errors_left_to_sweep(*events):
        if is_report or invocation.seconds_left() >= CALL_SECONDS:
            queue.send_many([messages.push_message(event) for event in events])
