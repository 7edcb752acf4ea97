"""Erasure: an event, its copies and what they hold go, and nothing brings them back."""

from chalicelib.core.event import Status
from chalicelib.core.invocation import CoreServices
from chalicelib.core.store import CLAIM_SECONDS, ERASED_SECONDS, EVENT_FIELDS, UNCLAIMED
from chalicelib.infra.errors import EventClaimedError
from chalicelib.infra.telemetry import logger

# An event, even an expired one, or the mark of its erasure until that expires.
ERASABLE = f"(attribute_exists(status_shard) OR expires_at > :now_seconds) AND {UNCLAIMED}"
IS_MARK = "#status = :erased"
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
        raise EventClaimedError(seconds=event.claim_seconds_left(services.clock()))

    def keep_mark(condition: str) -> None:
        expires_at = int(services.clock()) + ERASED_SECONDS
        store.change(event_id, condition, {"expires_at": expires_at}, {":erased": Status.ERASED})

    def delete(copy_id: str) -> bool:
        return store.delete(copy_id, UNCLAIMED).applied

    # Also of an event that is about to expire: another eraser may be deleting its copies.
    keep_mark(f"{IS_MARK} AND expires_at < :new_expires_at")
    if not all(services.map(delete, event.copies)):
        detail = "A copy is claimed: repeat the call to complete the erasure."
        raise EventClaimedError(detail, CLAIM_SECONDS)
    keep_mark(IS_MARK)
    logger.info("erased", extra={"event_id": event_id, "copies": len(event.copies)})
