"""Replay, redrive, erase: what operators and callers ask for after an event was settled."""

from chalicelib import delivery
from chalicelib.delivery import NextAttempt, errors_left_to_sweep
from chalicelib.errors import ApiError, EventClaimedError, EventNotFoundError
from chalicelib.events import Event, is_copy_id
from chalicelib.planning import expiry
from chalicelib.queue import MAX_DELAY_SECONDS, Message
from chalicelib.services import Invocation, Services
from chalicelib.settings import COPIES_ONLY
from chalicelib.store import CLAIM_SECONDS
from chalicelib.telemetry import logger
from chalicelib.times import unix_seconds

CLAIMED = "The event is claimed; try again when the claim ends."


def replay(event: Event, invocation: Invocation) -> Event:
    """Make an event pending again and queue it, if it is pushed at all.

    Raises EventNotFoundError, ApiError 409 while it is claimed, if only copies are pushed, or if the subscription of a
    copy is gone or disabled.
    """
    services, settings = invocation.services, invocation.services.settings
    if settings.webhook == COPIES_ONLY and not event.is_copy:
        raise ApiError(409, "not_pushed", "This stage pushes copies alone; replay its copies.")
    is_pushed = settings.webhook_url is not None or event.is_copy
    if why := _no_subscription(event, services):
        raise ApiError(409, f"subscription_{why}", f"The subscription of this copy is {why}.")
    expires_at = expiry(services)
    result = services.store.replay(event.event_id, services.new_id(), expires_at=expires_at, is_pushed=is_pushed)
    if result.event is None:
        raise EventNotFoundError
    if not result.applied:
        raise EventClaimedError(CLAIMED, _claim_seconds_left(result.event, services))
    logger.info("replayed", extra={"event_id": event.event_id})
    if is_pushed and invocation.has_time():  # else the sweep queues it
        with errors_left_to_sweep(event):
            delivery.enqueue(NextAttempt(result.event, 0.0, may_wait=False), services)
    return result.event


def redrive(message: Message, event_id: str, failed_at: str, invocation: Invocation) -> None:
    """Replay the event of a dead letter that was moved back, if `failed_at` is that of its latest failure, and push it.

    While the event is claimed, the dead letter is sent on: it is sent before the failure is recorded, so it can come
    back before that. One that is out of date counts as a queue message. Raises what `delivery.deliver` raises.
    """
    services = invocation.services
    if why := _no_subscription(services.store.get(event_id) if is_copy_id(event_id) else None, services):
        logger.warning("dead letter dropped", extra={"event_id": event_id, "subscription": why})
        return
    result = services.store.replay(event_id, services.new_id(), expires_at=expiry(services), failed_at=failed_at)
    event = result.event
    # The claim that refused the replay may have ended since.
    if event and not result.applied and (event.failed_at == failed_at or event.is_claimed(services.clock())):
        delay_seconds = min(MAX_DELAY_SECONDS, max(0.0, _claim_seconds_left(event, services)) + 1)
        services.work_queue.send(message, delay_seconds)
    else:
        delivery.deliver(event_id, invocation)


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


def _no_subscription(event: Event | None, services: Services) -> str | None:
    """Return why a copy cannot be pushed (gone, disabled), by a consistent read; None if it can, or is no copy."""
    if event is None or event.subscription_id is None:
        return None
    subscription = services.subscriptions.get(event.subscription_id)
    if subscription is None:
        return "gone"
    return "disabled" if subscription.disabled_at else None


def _claim_seconds_left(event: Event, services: Services) -> float:
    return unix_seconds(event.claimed_until) - services.clock() if event.claimed_until else 0.0
