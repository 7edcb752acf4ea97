"""Push events again: replay an event, or redrive it because its dead letter was moved back."""

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
# Nobody claimed, replayed, delivered or acknowledged the event since it was read. Both values are
# compared: an acknowledgement does not change `claim_id`, and a claim does not change the status.
SAME_STATE = f"{EXISTS} AND {UNCLAIMED} AND #status = :seen AND claim_id = :holder"


def replay(event: Event, invocation: Invocation, *, is_bulk: bool = False) -> Event:
    """Make an event pending again, and queue it for a push, unless this stage does not push events.

    :param event: The event or copy as it was read, in any status.
    :param is_bulk: Whether this is one of many replays, perhaps thousands: then the event is pushed
        through the slow lane, so that other events do not wait for it.
    :returns: The event as it is stored now.
    :raises EventNotFoundError: If the event was erased or has expired.
    :raises ApiError: 409 while the event is claimed, if only copies are pushed, or if the
        subscription of a copy is deleted or disabled.
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
    """Let a failed or pending event be pushed after a delay, through the slow lane.

    A failed event is replayed. A pending event becomes due, no later than it was due before, and
    keeps its attempts: if it were replayed every minute, it would never become a dead letter.

    :param event: The event as it was read.
    :param delay_seconds: The time until the push; 0: the push is due now.
    :param resume_at: When the attempt after this push is due if this push fails (RFC 3339), which
        then does not count as an attempt; None: the push counts as an attempt.
    :raises EventNotFoundError: If the event was erased or has expired.
    :raises EventClaimedError: If somebody claimed, replayed or settled the event since it was read.
    """
    now = services.clock()
    if event.status is Status.FAILED:
        changes = _begin_replay(event, services)
    else:
        # The new `claim_id` lets only one of two calls that read the same event change it.
        changes = {"claim_id": services.new_id()}
    later = rfc3339(now + delay_seconds)
    # After the delay, or when the event was due before if that is earlier, but not in the past.
    due_at = max(rfc3339(now), min(event.next_attempt_at or later, later))
    changes |= {"next_attempt_at": due_at, "resume_at": resume_at, **bulk_members(services)}
    _push_again(event, SAME_STATE, changes, services)


def bulk_members(services: CoreServices) -> Json:
    """Return the members of an event that is pushed through the slow lane from now on.

    `recovered_at` selects the slow lane. `requeue_at` keeps the sweep from queueing the event in
    the fast lane while it waits in the slow queue.
    """
    now = services.clock()
    return {"recovered_at": rfc3339(now), "requeue_at": rfc3339(now + MAX_MARK_SECONDS)}


def queue(event: Event, services: CoreServices) -> None:
    """Send the queue message of an event, to be received when the event is due; leave errors to the
    sweep.
    """
    delay_seconds = event.seconds_until_due(services.clock())
    with errors_left_to_sweep(event):
        delivery.enqueue(event, delay_seconds, services.queue_for(event))


def _push_again(event: Event, condition: str, changes: Json, services: CoreServices) -> Event:
    """Write the changes of a replay to an event, and queue the event if it is due at a new time.

    :param event: The event as it was read.
    :param condition: May use `:seen` and `:holder`, the event's status and `claim_id` when it was
        read.
    :returns: The event as it is stored now.
    :raises EventNotFoundError: If the event was erased or has expired.
    :raises EventClaimedError: If the condition does not hold.
    """
    seen = {":seen": event.status, ":holder": event.claim_id}
    result = services.store.change(event.event_id, condition, changes, seen, returns_event=True)
    if result.event is None:
        raise EventNotFoundError
    if not result.applied:
        raise EventClaimedError(seconds=result.event.claim_seconds_left(services.clock()))
    logger.info("replayed", extra={"event_id": event.event_id})
    if result.event.next_attempt_at not in (None, event.next_attempt_at):
        queue(result.event, services)
    return result.event


def redrive(message: Message, event_id: str, invocation: Invocation) -> None:
    """Process a dead letter that was moved back from the DLQ to a queue: replay its failed event,
    and push it.

    The dead letter of a pending event is processed as a queue message of the event. While the event
    is claimed, the dead letter is sent again with a delay: a dead letter is sent before the failure
    is recorded, so it may be received before the event has failed. If the event must not be pushed,
    because the subscription of a copy is disabled for example, the dead letter is dropped. Raises
    StorageUnavailableError and QueueUnavailableError.

    :param message: The dead letter.
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
        event = services.store.change(event_id, REDRIVABLE, changes, returns_event=True).event
    # If the event is still failed, a claim prevented the replay, even if the claim has ended since.
    if event and (event.status is Status.FAILED or event.is_claimed(services.clock())):
        # A second after the end of the claim, so that the claim has ended for certain.
        delay_seconds = max(0.0, event.claim_seconds_left(services.clock())) + 1
        invocation.queue.send(message, min(MAX_DELAY_SECONDS, delay_seconds))
    else:
        delivery.deliver(event_id, invocation)


SETTLED_MEMBERS = (
    "claimed_until",
    "delivered_at",
    "delivered_via",
    "failed_at",
    "reason",
    "recovered_at",
)


def _begin_replay(event: Event, services: CoreServices) -> Json:
    """Return the changes that make an event pending again, and due now if this stage pushes it.

    The event gets a new retention period. For a copy, the retention of its original event is
    extended first, so that no copy outlives its event. Raises StorageUnavailableError.
    """
    expires_at = max(event.expires_at, services.expires_at())
    if event.source_event_id:
        services.store.renew(event.source_event_id, expires_at)
    is_pushed = event.is_copy or services.settings.webhook_url is not None
    now = rfc3339(services.clock())
    removed = [*SETTLED_MEMBERS]
    if event.status is Status.DELIVERED:
        # A consumer may have acknowledged the event after a failed push, whose error it still has.
        # A pending event with an error would count as one that waits for another attempt.
        removed.append("last_error")
    return {
        **dict.fromkeys(removed),  # None removes a member
        "next_attempt_at": now if is_pushed else None,
        "requeue_at": None,
        "resume_at": None,
        **status_attributes(event.event_id, Status.PENDING, kept_longer=True),
        # A push whose claim has expired cannot record its result any more.
        "claim_id": services.new_id(),
        "delivery_attempts": 0,
        "replayed_at": now,
        "expires_at": expires_at,
    }
