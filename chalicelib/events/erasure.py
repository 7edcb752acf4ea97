"""Erase events with their copies, so that no later write restores them."""

from chalicelib.core.event import Status
from chalicelib.core.invocation import CoreServices
from chalicelib.core.store import CLAIM_SECONDS, ERASED_SECONDS, EVENT_FIELDS, UNCLAIMED
from chalicelib.infra.errors import EventClaimedError
from chalicelib.infra.telemetry import logger

# Holds for an event, even if it has expired, and for the mark of an erasure until the mark expires.
ERASABLE = f"(attribute_exists(status_shard) OR expires_at > :now_seconds) AND {UNCLAIMED}"
IS_MARK = "#status = :erased"
# The members of an event that the mark of its erasure keeps. A member that is added to events later
# is erased, too, unless it is listed here.
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
    """Erase an event and its copies; do nothing if there is no such event.

    First the event is replaced by a mark of its erasure, which counts as absent for every call but
    this one. Then the copies that the mark lists are deleted. A repeated call completes an erasure
    that failed half-way. The mark expires when the event would have expired, and ERASED_SECONDS
    after the copies are deleted at the earliest: a new event with the same Idempotency-Key would
    have copies with the same ids.

    Raises EventClaimedError while the event or a copy is claimed, and StorageUnavailableError.
    """
    store = services.store
    # None removes an attribute: of the event, the members remain that the mark needs.
    changes = {**dict.fromkeys(ERASED), "status": Status.ERASED}
    marked = store.change(event_id, ERASABLE, changes, returns_event=True)
    event = marked.event
    if event is None:  # there is no such event
        return
    if not marked.applied:  # it is claimed by a push or a lease
        raise EventClaimedError(seconds=event.claim_seconds_left(services.clock()))

    def keep_mark(condition: str) -> None:
        """Let the mark expire ERASED_SECONDS from now, if a condition expression holds for it."""
        expires_at = int(services.clock()) + ERASED_SECONDS
        store.change(event_id, condition, {"expires_at": expires_at}, {":erased": Status.ERASED})

    def delete(copy_id: str) -> bool:
        """Delete a copy unless it is claimed; return False if it is."""
        return store.delete(copy_id, UNCLAIMED).applied

    # If the event is about to expire, its mark must not expire while the copies are deleted.
    keep_mark(f"{IS_MARK} AND expires_at < :new_expires_at")
    if not all(services.map(delete, event.copies)):
        detail = "A copy of the event is claimed; repeat the call to complete the erasure."
        raise EventClaimedError(detail, CLAIM_SECONDS)
    keep_mark(IS_MARK)
    logger.info("erased", extra={"event_id": event_id, "copies": len(event.copies)})
