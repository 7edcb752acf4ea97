"""Replay, redrive, erase: what operators and callers ask for after an event was settled."""

from chalicelib.core import delivery, messages
from chalicelib.core.delivery import errors_left_to_sweep
from chalicelib.core.event import RESERVED_PREFIX, Event
from chalicelib.core.planning import expiry
from chalicelib.core.store import CLAIM_SECONDS
from chalicelib.deps import Invocation, Services
from chalicelib.infra.errors import ApiError, EventClaimedError, EventNotFoundError
from chalicelib.infra.queue import MAX_DELAY_SECONDS, Message
from chalicelib.infra.telemetry import logger
from chalicelib.infra.times import unix_seconds
from chalicelib.settings import COPIES_ONLY

CLAIMED = "The event is claimed; try again when the claim ends."


def replay(event: Event, invocation: Invocation) -> Event:
    """Make an event pending again and queue it, if it is pushed at all.

    Raises EventNotFoundError, ApiError 409 while it is claimed, if only copies are pushed, or if the subscription of a
    copy is gone or disabled.
    """
    services = invocation.services
    if refusal := _refusal(event, services):
        raise refusal
    is_pushed = services.settings.webhook_url is not None or event.is_copy
    expires_at = expiry(services)
    result = services.store.replay(event.event_id, services.new_id(), expires_at=expires_at, is_pushed=is_pushed)
    if result.event is None:
        raise EventNotFoundError
    if not result.applied:
        raise EventClaimedError(CLAIMED, _claim_seconds_left(result.event, services))
    logger.info("replayed", extra={"event_id": event.event_id})
    if is_pushed and invocation.has_time():  # else the sweep queues it
        with errors_left_to_sweep(event):
            services.work_queue.send(messages.push_message(result.event))
    return result.event


def redrive(message: Message, event_id: str, failed_at: str, invocation: Invocation) -> None:
    """Replay the event of a dead letter that was moved back, if `failed_at` is that of its latest failure, and push it.

    While the event is claimed, the dead letter is sent on: it is sent before the failure is recorded, so it can come
    back before that. One that is out of date counts as a queue message. Raises what `delivery.deliver` raises.
    """
    services = invocation.services
    failed = services.store.get(event_id)
    if failed and (refusal := _refusal(failed, services)):
        logger.warning("dead letter dropped", extra={"event_id": event_id, "error": refusal.code})
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


def _refusal(event: Event, services: Services) -> ApiError | None:
    """Return why an event is not to be replayed, of a copy by a consistent read of its subscription; None: it is."""
    if not event.is_copy:
        is_pushed = services.settings.webhook != COPIES_ONLY and not event.event_type.startswith(RESERVED_PREFIX)
        return None if is_pushed else ApiError(409, "not_pushed", "Copies alone are pushed here; replay its copies.")
    subscription = services.subscriptions.get(str(event.subscription_id))
    if subscription is None:
        return ApiError(409, "subscription_gone", "The subscription of this copy is gone.")
    is_disabled = subscription.disabled_at is not None
    return ApiError(409, "subscription_disabled", "The subscription of this copy is disabled.") if is_disabled else None


def _claim_seconds_left(event: Event, services: Services) -> float:
    return unix_seconds(event.claimed_until) - services.clock() if event.claimed_until else 0.0
