"""What consumers do: lease, acknowledge, release. Each is one conditional write for an event."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Any

from chalicelib.core.event import EVENT_ID, DeliveredVia, Event, Status, response_bytes
from chalicelib.core.invocation import CoreServices
from chalicelib.core.store import EXISTS, UNCLAIMED, status_attributes
from chalicelib.events.listing import INBOX, MAX_PAGE_BYTES, search
from chalicelib.infra.errors import EventNotFoundError, LeaseLostError
from chalicelib.infra.parsing import Json
from chalicelib.infra.telemetry import logger
from chalicelib.infra.times import rfc3339

# Their attempts, of an unknown size, must fit into a response beside MAX_PAGE_BYTES: of each event
# MAX_ATTEMPTS_KEPT with 2,900 bytes at most, and the headers of MAX_HEADERS_KEPT with 2,700 more.
MAX_LEASED_AT_ONCE = 10

IN_INBOX = f"{EXISTS} AND #status IN (:pending, :failed)"
LEASABLE = f"{IN_INBOX} AND {UNCLAIMED}"
LEASED = f"{IN_INBOX} AND claim_id = :lease_id AND claimed_until >= :now"


def lease(
    services: CoreServices,
    *,
    limit: int = 10,
    lease_seconds: int = 300,
    **filters: Any,
) -> list[Event]:
    """Claim the oldest undelivered events that nobody holds, for a consumer.

    All get the same `claim_id`. `filters` may have `event_type` and `tenant`.
    """
    lease_id = f"lse_{services.new_id()}"

    def take(event: Event) -> Event | None:
        until = rfc3339(services.clock() + lease_seconds)
        changes = {
            "claim_id": lease_id,
            "claimed_until": until,
            "requeue_at": None,
        }
        result = services.store.change(
            event.event_id,
            LEASABLE,
            changes,
            counter="lease_count",
            ReturnValues="ALL_NEW",
        )
        return result.event if result.applied else None

    rows = search(services, replace(INBOX, limit=limit, **filters))
    events = (row.event for row in rows if row.event)
    leased: list[Event] = []
    used_bytes = 0
    while len(leased) < limit:
        count = min(MAX_LEASED_AT_ONCE, limit - len(leased))
        batch = _next_batch(events, count, MAX_PAGE_BYTES - used_bytes)
        leased += filter(None, services.map(take, batch))
        if len(batch) < count:
            break
        used_bytes = sum(response_bytes(event.leased_json()) for event in leased)
    return leased


def _next_batch(events: Iterator[Event], count: int, free_bytes: int) -> list[Event]:
    """Return the next `count` events, or those of them before the first that does not fit."""
    batch = []
    for event in islice(events, count):
        free_bytes -= event.response_bytes
        if free_bytes >= 0:
            batch.append(event)
    return batch


def acknowledge(event_id: str, services: CoreServices, lease_id: str | None = None) -> None:
    """Record that a consumer has processed an event.

    Raises EventNotFoundError, also for a malformed id, and LeaseLostError if `lease_id` is given
    and neither holds the event nor acknowledged it.
    """
    if not EVENT_ID.fullmatch(event_id):
        raise EventNotFoundError
    changes = {
        **status_attributes(event_id, Status.DELIVERED),
        "delivered_at": rfc3339(services.clock()),
        "delivered_via": DeliveredVia.PULL,
        "failed_at": None,
        "reason": None,
        "undelivered_key": None,
        "next_attempt_at": None,
        "requeue_at": None,
    }
    condition = IN_INBOX  # the claim stays: a push may be running
    if lease_id is not None:
        condition = LEASED
        changes["claimed_until"] = None
    result = services.store.change(
        event_id,
        condition,
        changes,
        {":lease_id": lease_id},
    )
    if result.applied:
        logger.info("acknowledged", extra={"event_id": event_id})
        return
    if result.event is None:
        raise EventNotFoundError
    # A repeated call finds it delivered, under the lease that it names.
    if result.event.status is not Status.DELIVERED or lease_id not in (None, result.event.claim_id):
        raise LeaseLostError


def acknowledge_many(services: CoreServices, lease_id: str, event_ids: Sequence[str]) -> Json:
    """Record that a consumer has processed events of its lease; return their ids, and the others.

    Raises StorageUnavailableError if DynamoDB fails for one; a repeated call completes it.
    """

    def is_acknowledged(event_id: str) -> bool:
        with suppress(EventNotFoundError, LeaseLostError):
            acknowledge(event_id, services, lease_id)
            return True
        return False

    answer: Json = {"acknowledged": [], "not_held": []}
    unique = list(dict.fromkeys(event_ids))
    for event_id, done in zip(unique, services.map(is_acknowledged, unique), strict=True):
        answer["acknowledged" if done else "not_held"].append(event_id)
    return answer


def release(event_id: str, lease_id: str, services: CoreServices) -> None:
    """End a lease before its time.

    Raises EventNotFoundError, or LeaseLostError unless the lease holds the event.
    """
    result = services.store.change(
        event_id,
        LEASED,
        # By the new `claim_id` boto3's retry of this write, if the first response was lost, knows
        # that it was made.
        {"claim_id": services.new_id(), "claimed_until": None, "requeue_at": None},
        {":lease_id": lease_id},
    )
    if not result.applied:
        raise LeaseLostError if result.event else EventNotFoundError
