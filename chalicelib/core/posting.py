"""POST /events, top down: plan the event and its copies, store the plan, push or queue them.

Two POSTs with one Idempotency-Key and other bodies, A and B, at the same time:

    A: copies of A stored | event of A stored ..................... pushes
    B:      copies of B stored | event of B refused | copies of B deleted | 422

The event's own put decides. Copies come before it, so that an event that is there has all of its
copies, and their ids derive from the body, too, so that B deletes none of A's.
"""

import operator
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
    :returns: For each document its event as a Planned (with `is_new` False if an earlier call with
        the same Idempotency-Key stored it), or the ApiError for which it was not stored.
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
        posted.append(plan[0])  # the event; its copies follow in the plan
        plans.append(plan)
        inline_left -= len([planned for planned in plan if planned.is_new and planned.is_inline])
    event_ids = [plan[0].event.event_id for plan in plans if plan[0].is_new]
    if event_ids:  # one line for all events: CloudWatch charges for each
        extra = {"event_id": " ".join(event_ids), "metrics": {"EventsAccepted": len(event_ids)}}
        logger.info("event accepted", extra=extra)
    _start(plans, invocation)
    return posted


def post_plan(plan: Plan, invocation: Invocation) -> None:
    """Store the event and the copies of a plan, and queue all of them that are due; an error of the
    queue is left to the sweep.

    Raises StorageUnavailableError if DynamoDB fails, and ApiError if another event, or an erased
    one, has the same Idempotency-Key.
    """
    _start([_store_plan(plan, invocation)], invocation)


def _store(new_event: NewEvent, created_by: str, inline_left: int, invocation: Invocation) -> Plan:
    """Store an event and a copy for each matching subscription; return the plan as it is stored:
    the event, then its copies. Nothing is pushed or queued yet, but the event and copies that the
    caller is to push are stored with a claim.

    If an earlier call with the same Idempotency-Key and body stored the event, return a plan of
    that event alone, which is not new.

    :param created_by: The name of the API key.
    :param inline_left: How many of the event and its copies may be pushed while the caller waits.
    :raises OutOfTimeError: If too little time is left; nothing was stored.
    :raises StorageUnavailableError: If DynamoDB fails; some copies, or all, may be stored.
    :raises ApiError: 422 if the Idempotency-Key was used with another body, 409 if its event was
        erased.
    """
    if invocation.seconds_left() < BEGIN_SECONDS:
        raise OutOfTimeError
    services = invocation.services
    event = make_event(new_event, created_by, services)
    webhook = services.settings.webhook
    if webhook == COPIES_ONLY:
        # The event itself is not pushed, and is stored as delivered.
        event = event.left_to_copies()
    elif webhook != PULL_ONLY:
        # In pull-only mode the event has no `next_attempt_at`, and waits for a consumer.
        event = replace(event, next_attempt_at=event.created_at)
    plan = make_plan(event, services)  # the event is the first entry
    earlier = _find_earlier(plan[0].event, services)
    if earlier:
        plan[0].event = earlier
        return plan[:1]
    # Reading the subscriptions and an earlier event may have taken 15 s.
    if invocation.seconds_left() < BEGIN_SECONDS:
        raise OutOfTimeError
    _claim_inline(plan, inline_left, services)
    stored: Plan = []  # stays empty if `_store_plan` raises
    try:
        stored = _store_plan(plan, invocation)
    finally:
        # For the events and copies that are claimed for a push and not stored as new: no push is
        # made, and a breaker that waits for its result must know that.
        _release_trials(plan, stored, services)
    return stored


def make_event(new_event: NewEvent, created_by: str, services: CoreServices) -> Event:
    """Return the event of a valid body. It is not stored and has no `next_attempt_at`, so it is
    never due as it is.

    Its id derives from the API key's name and the Idempotency-Key if there is one, and is random
    otherwise. It has a new `claim_id`, by which a repeated put is recognized, but is not claimed.

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
    """Return a new copy of an event for a subscription, which is pending and due now; the event's
    state is not copied.

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
    """Return the plan of a new event: the event, which lists its copies, then a copy for each
    subscription that gets one. Nothing is stored.

    Raises StorageUnavailableError if the subscriptions cannot be read.
    """
    copies = [
        Planned(make_copy(event, target.destination, services), target)
        for target in services.targets.matching(event)
    ]
    if copies:
        event = replace(event, copies=tuple(copy.event.event_id for copy in copies))
    return [Planned(event, services.targets.webhook), *copies]


def _find_earlier(event: Event, services: CoreServices) -> Event | None:
    """Return the event that an earlier call with the same Idempotency-Key stored. Return None if no
    call did, or without a look-up if the event has no Idempotency-Key or no copies.

    The put of an event without copies finds the earlier event by itself. Copies are put before
    their event: without this look-up, a repeated call would store and push a copy again that was
    deleted since. After an erasure, it would store all copies, and leave them if it ended before
    the put of the event was refused.

    :raises ApiError: 422 if the earlier call had another body, 409 if its event was erased.
    """
    if not event.copies or event.body_hash is None:
        return None
    found = services.store.read(event.event_id)
    if found.event or found.erased_until:
        return _require_same_body(found, event, services)
    return None


def _claim_inline(plan: Plan, inline_left: int, services: CoreServices) -> None:
    """Claim up to `inline_left` events and copies of a plan for a push while the caller waits: set
    `is_inline`, and the claim in the event that will be stored. Nothing is stored here.

    Events for a target that is slow, not enabled, or whose breaker is open are left to the workers.
    If the breaker allows a push, the push may be its trial: the one push while it is open. The
    caller makes each allowed push, or says that it does not (`_release_trials`).
    """
    until = rfc3339(services.clock() + CLAIM_SECONDS)
    for planned in plan:
        # `acquire` comes last, since it may begin a trial. It returns 0 if the push may be made.
        if (
            inline_left > 0
            and planned.target.is_enabled
            and not services.needs_slow_lane(planned.event)
            and not services.inline_breaker.acquire(planned.target, services.clock())
        ):
            planned.is_inline = True
            # A claim counts the attempt, as a claim by a worker does.
            planned.event = replace(planned.event, delivery_attempts=1, claimed_until=until)
            inline_left -= 1


def _release_trials(plan: Plan, stored: Plan, services: CoreServices) -> None:
    """Say to the breaker which pushes that it allowed are not made, because an earlier call stored
    the event or copy, or it could not be stored.

    If such a push was to be a trial (the one push while a breaker is open), the container would
    make no other trial for MAX_TRIAL_SECONDS.

    :param plan: The events and copies, with `is_inline` if the breaker allowed a push.
    :param stored: The plan as it was stored; empty if that failed.
    """
    pushed = {planned.event.event_id for planned in stored if planned.is_new}
    for planned in plan:
        if planned.is_inline and planned.event.event_id not in pushed:
            services.inline_breaker.release_trial(planned.target, services.clock())


def _store_plan(plan: Plan, invocation: Invocation) -> Plan:
    """Store the copies of a plan, then its event; return the event as it is stored, and the copies
    that it lists.

    `is_new` of each is set to whether this call stored it. If an earlier call stored the event, the
    stored event may list fewer copies than the plan: the other copies of the plan are deleted, and
    are not in the result. Raises StorageUnavailableError if DynamoDB fails, and ApiError if the
    stored event has another body, or was erased.
    """
    services = invocation.services
    original, *copies = plan
    content = compressed(original.event)  # copies have the same content

    def put(planned: Planned) -> WriteResult:
        """Store an event or copy, unless it is stored already, and note whether it is new."""
        result = services.store.put(planned.event, content)
        planned.is_new = result.applied
        return result

    services.map(put, copies)
    result = put(original)
    if not result.applied:
        # The event that is stored. Copies that it does not list are deleted by this call.
        original.event = _find_stored(plan, result, invocation)
    listed = original.event.copies
    return [original, *(copy for copy in copies if copy.event.event_id in listed)]


def _find_stored(plan: Plan, result: WriteResult, invocation: Invocation) -> Event:
    """Return the event that another call stored under the id of the plan's event, after deleting
    the copies of the plan that this event does not list.

    :param result: The result of the put of the plan's event, which was not applied: with the event
        that is stored, or without one if that was erased or has just expired.
    :raises ApiError: 422 if the stored event has another body, 409 if it was erased.
    :raises StorageUnavailableError: If the stored event has just expired, or DynamoDB fails.
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

    :param result: The result of a read, or of a put that was not applied.
    :param event: The new event of this call.
    """
    if result.erased_until:
        detail = "The event of this Idempotency-Key was erased; use the key again after an hour."
        # While the copies are being deleted, `erased_until` may be weeks away.
        raise EventClaimedError(detail, min(result.erased_until - services.clock(), ERASED_SECONDS))
    if result.event is None:  # it expired after the condition had failed
        raise StorageUnavailableError
    if result.event.body_hash != event.body_hash:
        detail = "This Idempotency-Key was used before, with another body."
        raise ApiError(422, "idempotency_key_reused", detail)
    return result.event


def _start(plans: Sequence[Plan], invocation: Invocation) -> None:
    """Push the events and copies that were claimed for that, and queue the others, except for
    events that are never due.

    Only events and copies that this call stored are pushed or queued. All calls are made at the
    same time, and have ended when this returns. Errors are left to the sweep.

    :param plans: Events with their copies, as they were stored.
    """
    services = invocation.services
    new = [planned for planned in chain(*plans) if planned.is_new]
    jobs = [partial(_push, planned, invocation) for planned in new if planned.is_inline]
    queued: dict[Queue, list[Event]] = {}
    for planned in new:
        event = planned.event
        # Without `next_attempt_at` an event is never due: it waits for a consumer.
        if event.next_attempt_at and not planned.is_inline:
            queued.setdefault(services.queue_for(event), []).append(event)
    jobs += [
        partial(_send, queue, events[first : first + BATCH_SIZE], invocation)
        for queue, events in queued.items()
        for first in range(0, len(events), BATCH_SIZE)
    ]
    # All at the same time: when all is stored, only the time of one call may be left.
    services.map(operator.call, jobs)


def _push(planned: Planned, invocation: Invocation) -> None:
    """Push an event or copy that is claimed for a push while the caller waits, and set
    `planned.event` to its state after the push; log errors, and leave the event to the sweep then.
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
    """Send the queue messages of some events in one call. If the call fails, or the invocation has
    no time for it, the sweep sends the messages.

    :param events: 1 to BATCH_SIZE events and copies. All of them belong to the same report (an
        event that the system posts about an event or subscription), or none belongs to a report.
    :param invocation: For a report it never has time left, so that no write of the report is tried
        again. The messages of a report are sent all the same, since no caller waits for them.
    """
    is_report = events[0].is_report
    has_time = invocation.seconds_left() >= CALL_SECONDS
    with errors_left_to_sweep(*events):
        if is_report or has_time:
            queue.send_many([messages.push_message(event) for event in events])
