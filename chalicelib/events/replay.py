"""Replay and redrive: an event is pushed again, also because its dead letter was moved back."""

from chalicelib.core import delivery
from chalicelib.core.delivery import errors_left_to_sweep
from chalicelib.core.event import Event, Status
from chalicelib.core.invocation import CoreServices, Invocation
from chalicelib.core.store import (
    EXISTS,
    MAX_MARK_SECONDS,
    UNCLAIMED,
    status_attributes,
)
from chalicelib.infra.errors import EventClaimedError, EventNotFoundError
from chalicelib.infra.parsing import Json
from chalicelib.infra.queue import MAX_DELAY_SECONDS, Message
from chalicelib.infra.telemetry import logger
from chalicelib.infra.times import rfc3339

REPLAYABLE = f"{EXISTS} AND {UNCLAIMED} AND expires_at <= :new_expires_at"
REDRIVABLE = f"{REPLAYABLE} AND #status = :failed"
# Nobody claimed, replayed, delivered or acknowledged it since it was read: an acknowledgement
# leaves the `claim_id`, and a claim the status.
SAME_STATE = f"{EXISTS} AND {UNCLAIMED} AND #status = :seen AND claim_id = :holder"
SETTLED_MEMBERS = (
    "claimed_until",
    "delivered_at",
    "delivered_via",
    "failed_at",
    "reason",
    "recovered_at",
)


def replay(event: Event, invocation: Invocation, *, is_bulk: bool = False) -> Event:
    """Make an event pending again and queue it, if it is pushed at all.

    :param is_bulk: Whether it may be one of thousands, which go through the slow lane.
    Raises EventNotFoundError, ApiError 409 while it is claimed, if only copies are pushed, or if
    the subscription of a copy is gone or disabled.
    """
    services = invocation.services
    refusal = services.targets.replay_refusal(event)
    if refusal:
        raise refusal
    changes = _begin_replay(event, services)
    if is_bulk:
        changes |= bulk_members(services)
    return _push_again(event, REPLAYABLE, changes, services)


def push_later(
    event: Event, delay_seconds: float, services: CoreServices, *, resume_at: str | None = None
) -> None:
    """Replay a failed event, or make a pending one due, after a delay, if it is as it was read.

    A pending event keeps its attempts: replayed each minute, it would never become a dead letter.
    It is due no later than it was. Raises EventNotFoundError, or EventClaimedError if somebody else
    claimed, replayed or settled the event since it was read.

    :param resume_at: When the attempt after this one is due if this one fails (RFC 3339), which
        then does not count; None: the attempt counts.
    """
    now = services.clock()
    # With a new `claim_id`, one of two that read the event makes it due.
    changes: Json = {"claim_id": services.new_id()}
    if event.status is Status.FAILED:
        changes = _begin_replay(event, services)
    later = rfc3339(now + delay_seconds)
    due_at = max(rfc3339(now), min(event.next_attempt_at or later, later))
    changes |= {"next_attempt_at": due_at, "resume_at": resume_at, **bulk_members(services)}
    _push_again(event, SAME_STATE, changes, services)


def bulk_members(services: CoreServices) -> Json:
    """Return the members that send an event through the slow lane from now on.

    `requeue_at` keeps the sweep from queueing it in the fast lane while it waits in the slow one.
    """
    now = services.clock()
    return {"recovered_at": rfc3339(now), "requeue_at": rfc3339(now + MAX_MARK_SECONDS)}


def queue(event: Event, services: CoreServices) -> None:
    """Queue an event for when it is due."""
    delay_seconds = event.seconds_until_due(services.clock())
    with errors_left_to_sweep(event):
        delivery.enqueue(event, delay_seconds, services.queue_for(event))


def _push_again(event: Event, condition: str, changes: Json, services: CoreServices) -> Event:
    """Change an event, and queue it if it is due at another time than before.

    Raises EventNotFoundError or EventClaimedError.
    """
    seen = {":seen": event.status, ":holder": event.claim_id}
    result = services.store.change(event.event_id, condition, changes, seen, ReturnValues="ALL_NEW")
    if result.event is None:
        raise EventNotFoundError
    if not result.applied:
        raise EventClaimedError(seconds=result.event.claim_seconds_left(services.clock()))
    logger.info("replayed", extra={"event_id": event.event_id})
    if result.event.next_attempt_at not in (None, event.next_attempt_at):
        queue(result.event, services)
    return result.event


def redrive(message: Message, event_id: str, invocation: Invocation) -> None:
    """Replay the failed event of a dead letter that was moved back to a queue, and push it.

    While the event is claimed, the dead letter is sent again with a delay: dead letters are sent
    before the failure is recorded, so one can come back before that. The dead letter of a pending
    event counts as a queue message. Raises what `delivery.deliver` raises.
    """
    services = invocation.services
    event = services.store.get(event_id)
    if event and event.status is Status.FAILED:
        refusal = services.targets.replay_refusal(event)
        if refusal:
            extra = {"event_id": event_id, "error": refusal.code}
            logger.warning("dead letter dropped", extra=extra)
            return
        changes = _begin_replay(event, services)
        event = services.store.change(event_id, REDRIVABLE, changes, ReturnValues="ALL_NEW").event
    # A failed event was claimed when it was not replayed, even if that claim has ended since.
    if event and (event.status is Status.FAILED or event.is_claimed(services.clock())):
        delay_seconds = max(0.0, event.claim_seconds_left(services.clock())) + 1
        invocation.queue.send(message, min(MAX_DELAY_SECONDS, delay_seconds))
    else:
        delivery.deliver(event_id, invocation)


def _begin_replay(event: Event, services: CoreServices) -> Json:
    """Keep the event of a copy as long as the copy; return the changes that make an event or copy
    pending, and due now if it is pushed at all.
    """
    expires_at = max(event.expires_at, services.expires_at())
    if event.source_event_id:
        # The event, then the copy: at no time does a copy outlive its event.
        services.store.renew(event.source_event_id, expires_at)
    is_pushed = event.is_copy or services.settings.webhook_url is not None
    now = rfc3339(services.clock())
    # An acknowledgement leaves `last_error`, by which the pending event would count as waiting.
    outdated = ("last_error",) if event.status is Status.DELIVERED else ()
    return {
        **dict.fromkeys((*SETTLED_MEMBERS, *outdated)),
        "next_attempt_at": now if is_pushed else None,
        "requeue_at": None,
        "resume_at": None,
        **status_attributes(event.event_id, Status.PENDING, replayed=True),
        "claim_id": services.new_id(),
        "delivery_attempts": 0,
        "replayed_at": now,
        "expires_at": expires_at,
    }
