"""Replay, redrive and erase: what people ask for after an event was settled."""

from chalicelib.core import delivery, messages
from chalicelib.core.delivery import errors_left_to_sweep
from chalicelib.core.event import Event, Status
from chalicelib.core.invocation import CoreServices, Invocation
from chalicelib.core.posting import due_now
from chalicelib.core.store import (
    CLAIM_SECONDS,
    CLEAR_SCHEDULE,
    ERASED_SECONDS,
    EVENT_FIELDS,
    EXISTS,
    MAX_MARK_SECONDS,
    UNCLAIMED,
    status_attributes,
)
from chalicelib.infra.errors import EventClaimedError, EventNotFoundError
from chalicelib.infra.parsing import Json
from chalicelib.infra.queue import MAX_DELAY_SECONDS, Message
from chalicelib.infra.telemetry import logger
from chalicelib.infra.times import rfc3339, unix_seconds

REPLAYABLE = f"{EXISTS} AND {UNCLAIMED} AND expires_at <= :new_expires_at"
REDRIVABLE = f"{REPLAYABLE} AND #status = :failed"
# Nobody claimed, replayed, delivered or acknowledged it since it was read: an acknowledgement
# leaves the `claim_id`, and a claim the status.
SAME_STATE = f"{EXISTS} AND #status = :seen AND claim_id = :holder"
# An event, even an expired one, or the mark of its erasure until that expires.
ERASABLE = f"(attribute_exists(status_shard) OR expires_at > :now_seconds) AND {UNCLAIMED}"
IS_MARK = "#status = :erased"
SETTLED_MEMBERS = (
    "claimed_until",
    "delivered_at",
    "delivered_via",
    "failed_at",
    "reason",
    "recovered_at",
)
CLAIMED = "The event is claimed; try again when the claim ends."
# What a mark of an erasure keeps of an event; a member that is added to events goes.
KEPT_OF_ERASED = {
    "event_id",
    "event_type",
    "created_by",
    "claim_id",
    "copies",
    "expires_at",
    "subscription_id",
    "source_event_id",
    "response_bytes",
}
KEYS = {"status_shard", "lookup_key", "undelivered_key"}  # of indexes
ERASED = {*EVENT_FIELDS, "content", *KEYS} - KEPT_OF_ERASED


def replay(event: Event, invocation: Invocation) -> Event:
    """Make an event pending again and queue it, if it is pushed at all.

    Raises EventNotFoundError, ApiError 409 while it is claimed, if only copies are pushed, or if
    the subscription of a copy is gone or disabled.
    """
    services = invocation.services
    refusal = services.targets.replay_refusal(event)
    if refusal:
        raise refusal
    return _push_again(event, REPLAYABLE, _begin_replay(event, services), services)


def push_now(copy: Event, services: CoreServices) -> None:
    """Replay a failed copy, or make a pending one due now, if it is as it was read.

    A pending one keeps its attempts: replayed each minute, it would never become a dead letter.
    Raises EventNotFoundError, or EventClaimedError: somebody was faster.
    """
    if copy.status is Status.FAILED:
        changes = _begin_replay(copy, services)
    else:
        # With a new `claim_id`, one of two that read the copy makes it due.
        changes = {**due_now(services), "claim_id": services.new_id()}
    _push_again(copy, SAME_STATE, {**changes, **in_bulk(services)}, services)


def in_bulk(services: CoreServices) -> dict[str, str]:
    """Return the members of a copy that is recovered now, which may be one of thousands.

    It goes through the slow lane from now on. Its mark keeps the sweep from queueing in the fast
    lane what waits there.
    """
    now = services.clock()
    return {"recovered_at": rfc3339(now), "requeue_at": rfc3339(now + MAX_MARK_SECONDS)}


def queue(event: Event, services: CoreServices) -> None:
    """Queue an event that is due."""
    with errors_left_to_sweep(event):
        services.queue_for(event).send(messages.push_message(event))


def _push_again(event: Event, condition: str, changes: Json, services: CoreServices) -> Event:
    """Change an event, and queue it if it is due; raise EventNotFoundError or EventClaimedError."""
    seen = {":seen": event.status, ":holder": event.claim_id}
    result = services.store.change(event.event_id, condition, changes, seen, ReturnValues="ALL_NEW")
    if result.event is None:
        raise EventNotFoundError
    if not result.applied:
        raise EventClaimedError(CLAIMED, _claim_seconds_left(result.event, services))
    logger.info("replayed", extra={"event_id": event.event_id})
    if result.event.next_attempt_at:
        queue(result.event, services)
    return result.event


def redrive(message: Message, event_id: str, invocation: Invocation) -> None:
    """Replay the event of a dead letter that was moved back, if it is failed, and push it.

    While the event is claimed, the dead letter is sent on: it is sent before the failure is
    recorded, so it can come back before that. That of a pending event counts as a queue message.
    Raises what `delivery.deliver` raises.
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
        delay_seconds = max(0.0, _claim_seconds_left(event, services)) + 1
        invocation.queue.send(message, min(MAX_DELAY_SECONDS, delay_seconds))
    else:
        delivery.deliver(event_id, invocation)


def _begin_replay(event: Event, services: CoreServices) -> Json:
    """Write how long the event of a copy is kept, as long as the copy; return what makes an event
    pending, and due now if it is pushed at all.
    """
    expires_at = max(event.expires_at, services.expires_at())
    if event.source_event_id:
        # The event, then the copy: at no time does a copy outlive its event.
        services.store.renew(event.source_event_id, expires_at)
    is_pushed = event.is_copy or services.settings.webhook_url is not None
    return {
        **dict.fromkeys(SETTLED_MEMBERS),
        **CLEAR_SCHEDULE,
        **(due_now(services) if is_pushed else {}),
        **status_attributes(event.event_id, Status.PENDING, replayed=True),
        "claim_id": services.new_id(),
        "delivery_attempts": 0,
        "replayed_at": rfc3339(services.clock()),
        "expires_at": expires_at,
    }


def erase(event_id: str, services: CoreServices) -> None:
    """Erase an event and its copies; nothing happens if there is none.

    Raises ApiError 409 while the event or a copy is claimed. Repeated, it completes what a failed
    call began: first the event is replaced by a mark, which makes it absent for everybody but an
    eraser, then the copies that the mark lists are deleted. The mark stays as long as the event
    would have, which no copy outlives, and once the copies are gone for ERASED_SECONDS: copies of a
    new event of its key have the same ids.
    """
    store = services.store
    changes = {**dict.fromkeys(ERASED), "status": Status.ERASED}
    marked = store.change(event_id, ERASABLE, changes, ReturnValues="ALL_NEW")
    event = marked.event
    if event is None:
        return
    if not marked.applied:
        raise EventClaimedError(CLAIMED, _claim_seconds_left(event, services))

    def keep_mark(condition: str) -> None:
        expires_at = int(services.clock()) + ERASED_SECONDS
        store.change(event_id, condition, {"expires_at": expires_at}, {":erased": Status.ERASED})

    def delete(copy_id: str) -> bool:
        return store.delete(copy_id, UNCLAIMED).applied

    # An event that is about to expire may have copies that version 0.7 kept longer.
    keep_mark(f"{IS_MARK} AND expires_at < :new_expires_at")
    if not all(services.map(delete, event.copies)):
        detail = "A copy is claimed: repeat the call to complete the erasure."
        raise EventClaimedError(detail, CLAIM_SECONDS)
    keep_mark(IS_MARK)
    logger.info("erased", extra={"event_id": event_id, "copies": len(event.copies)})


def _claim_seconds_left(event: Event, services: CoreServices) -> float:
    """Return the seconds until a claim ends: negative once it has ended, 0 without one."""
    return unix_seconds(event.claimed_until) - services.clock() if event.claimed_until else 0.0
