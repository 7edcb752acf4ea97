"""What consumers do: lease, acknowledge, release."""

from collections.abc import Sequence
from dataclasses import replace

from chalicelib.core.event import EVENT_ID, Event, Status, response_bytes
from chalicelib.deps import Services
from chalicelib.infra.errors import EventNotFoundError, LeaseLostError, StorageUnavailableError
from chalicelib.infra.telemetry import logger
from chalicelib.pull import listing

SEARCH_SECONDS = 5  # no round of a lease begins later; the last one may take as long again
MAX_LEASED_BYTES = 4 * 1024 * 1024  # no round begins above that; with the last one, less than Lambda's 6 MB
MAX_LEASED_AT_ONCE = 10  # in a round


def lease(services: Services, *, limit: int, lease_seconds: int, **filters: str) -> list[Event]:
    """Claim the oldest undelivered events that nobody holds, for a consumer; all get the same `claim_id`.

    `filters` may have `event_type` and `tenant`. Raises StorageUnavailableError if DynamoDB fails before any is leased.
    """
    lease_id = f"lse_{services.new_id()}"
    leased: list[Event] = []

    def take(event: Event) -> None:
        result = services.store.lease(event.event_id, lease_id, lease_seconds)
        if result.applied and result.event:
            leased.append(result.event)

    deadline = services.clock() + SEARCH_SECONDS
    query = listing.INBOX.narrow(filters)
    room = MAX_LEASED_BYTES
    try:
        while len(leased) < limit and room > 0 and services.clock() < deadline:
            query = replace(query, limit=min(MAX_LEASED_AT_ONCE, limit - len(leased)))
            found, after = listing.search(services, query, max_bytes=room)
            services.map(take, found)
            if after is None:
                break
            query = replace(query, cursor=after)
            room = MAX_LEASED_BYTES - sum(response_bytes(event.to_lease_json()) for event in leased)
    except StorageUnavailableError:
        if not leased:
            raise
    return sorted(leased, key=lambda event: event.sort_key)


def acknowledge(event_id: str, services: Services, lease_id: str | None = None) -> None:
    """Record that a consumer has processed an event.

    Raises EventNotFoundError, and ApiError 409 if `lease_id` is given and neither holds the event nor acknowledged it.
    """
    result = services.store.acknowledge(event_id, lease_id)
    if result.applied:
        logger.info("acknowledged", extra={"event_id": event_id})
        return
    if result.event is None:
        raise EventNotFoundError
    if result.event.status is not Status.DELIVERED or lease_id not in (None, result.event.claim_id):
        raise LeaseLostError


def acknowledge_many(lease_id: str, event_ids: Sequence[str], services: Services) -> dict[str, list[str]]:
    """Record that a consumer has processed events of its lease; return the ids of those, and of the others.

    Raises StorageUnavailableError if DynamoDB fails for one; a repeated call completes it.
    """

    def is_acknowledged(event_id: str) -> bool:
        if not EVENT_ID.fullmatch(event_id):
            return False
        try:
            acknowledge(event_id, services, lease_id)
        except (EventNotFoundError, LeaseLostError):
            return False
        return True

    answers: dict[str, list[str]] = {"acknowledged": [], "not_held": []}
    for event_id, done in zip(event_ids, services.map(is_acknowledged, event_ids), strict=True):
        answers["acknowledged" if done else "not_held"].append(event_id)
    return answers


def release(event_id: str, lease_id: str, services: Services) -> None:
    """End a lease before its time; raise EventNotFoundError, or ApiError 409 unless it holds the event."""
    result = services.store.release(event_id, lease_id)
    if not result.applied:
        raise LeaseLostError if result.event else EventNotFoundError
