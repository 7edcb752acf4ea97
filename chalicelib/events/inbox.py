"""Lease, acknowledge and release events for consumers, each event by one conditional write."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice

from chalicelib.core.event import EVENT_ID, DeliveredVia, Event, Status, response_bytes
from chalicelib.core.invocation import CoreServices
from chalicelib.core.store import EXISTS, UNCLAIMED, status_attributes
from chalicelib.events.listing import INBOX, MAX_PAGE_BYTES, search
from chalicelib.infra.errors import EventNotFoundError, LeaseLostError
from chalicelib.infra.parsing import Json
from chalicelib.infra.telemetry import logger
from chalicelib.infra.times import rfc3339

IN_INBOX = f"{EXISTS} AND #status IN (:pending, :failed)"
LEASABLE = f"{IN_INBOX} AND {UNCLAIMED}"
LEASED = f"{IN_INBOX} AND claim_id = :lease_id AND claimed_until >= :now"


# The attempts of the events, whose size is not known, must fit into a response beside
# MAX_PAGE_BYTES: for each event MAX_ATTEMPTS_KEPT attempts with 2,900 bytes at most, and the
# headers of MAX_HEADERS_KEPT attempts with 2,700 bytes more.
MAX_LEASED_AT_ONCE = 10


def lease(
    services: CoreServices,
    *,
    limit: int = 10,
    lease_seconds: int = 300,
    event_type: str = "*",
    tenant: str | None = None,
) -> list[Event]:
    """Claim the oldest pending or failed events for a consumer, except for events that are claimed.

    All leased events get the same `claim_id`, the id of the lease. Raises StorageUnavailableError.

    :param limit: The largest number of events.
    :param lease_seconds: How long the claims last, if the consumer does not end them.
    :param event_type: The type of the events; `*`: events of any type.
    :param tenant: The tenant of the events; None: events of any tenant, or without a tenant.
    :returns: The leased events; fewer than `limit` if no more are found, or if more would not fit
        into a response.
    """
    lease_id = f"lse_{services.new_id()}"

    def take(event: Event) -> Event | None:
        """Claim an event for the lease and count the lease; return it as it is stored then, or None
        if it is claimed or delivered by now.
        """
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
            returns_event=True,
        )
        return result.event if result.applied else None

    query = replace(INBOX, limit=limit, event_type=event_type, tenant=tenant)
    # A search that takes too long ends with a SearchEnd, which is left out.
    events = (row for row in search(services, query) if isinstance(row, Event))
    leased: list[Event] = []
    used_bytes = 0
    while len(leased) < limit:
        count = min(MAX_LEASED_AT_ONCE, limit - len(leased))
        batch = _next_batch(events, count, MAX_PAGE_BYTES - used_bytes)
        leased += filter(None, services.map(take, batch))
        if len(batch) < count:  # no more events, or no room for the next one
            break
        used_bytes = sum(response_bytes(event.leased_json()) for event in leased)
    return leased


def _next_batch(events: Iterator[Event], count: int, free_bytes: int) -> list[Event]:
    """Take up to `count` events from an iterator, and stop before the event with which the sum of
    `response_bytes` would exceed `free_bytes`.
    """
    batch: list[Event] = []
    for event in islice(events, count):
        free_bytes -= event.response_bytes
        if free_bytes < 0:
            return batch
        batch.append(event)
    return batch


def acknowledge(event_id: str, services: CoreServices, lease_id: str | None = None) -> None:
    """Record that a consumer has processed an event; a repeated call succeeds, too.

    :param lease_id: The lease that must hold the event, or have acknowledged it; None: any pending
        or failed event is acknowledged, even while a push or a lease holds it.
    :raises EventNotFoundError: If there is no such event, or the id is malformed.
    :raises LeaseLostError: If the lease neither holds the event nor acknowledged it.
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
    condition = IN_INBOX  # the claim is kept: a push may be running
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
    # A repeated call succeeds: it finds the event delivered, and with the lease's id as `claim_id`,
    # which an acknowledgement keeps.
    if result.event.status is not Status.DELIVERED or lease_id not in (None, result.event.claim_id):
        raise LeaseLostError


def acknowledge_many(services: CoreServices, lease_id: str, event_ids: Sequence[str]) -> Json:
    """Record that a consumer has processed several events of a lease.

    Raises StorageUnavailableError if DynamoDB fails for an event; a repeated call acknowledges the
    remaining events.

    :returns: The ids of the `acknowledged` events, and the ids of the events `not_held` by the
        lease; an id that was given twice is returned once.
    """

    def try_to_acknowledge(event_id: str) -> bool:
        """Acknowledge an event; return False if the lease does not hold it, or it is absent."""
        with suppress(EventNotFoundError, LeaseLostError):
            acknowledge(event_id, services, lease_id)
            return True
        return False

    unique_ids = list(dict.fromkeys(event_ids))
    results = services.map(try_to_acknowledge, unique_ids)
    acknowledged: list[str] = []
    not_held: list[str] = []
    for event_id, is_acknowledged in zip(unique_ids, results, strict=True):
        if is_acknowledged:
            acknowledged.append(event_id)
        else:
            not_held.append(event_id)
    return {"acknowledged": acknowledged, "not_held": not_held}


def release(event_id: str, lease_id: str, services: CoreServices) -> None:
    """End the claim of a lease on an event before it expires, so that others may claim the event.

    Raises EventNotFoundError if there is no such event, and LeaseLostError if the lease does not
    hold it.
    """
    result = services.store.change(
        event_id,
        LEASED,
        # If the first response was lost, boto3's retry of this write finds the new `claim_id`, and
        # succeeds.
        {"claim_id": services.new_id(), "claimed_until": None, "requeue_at": None},
        {":lease_id": lease_id},
    )
    if not result.applied:
        raise LeaseLostError if result.event else EventNotFoundError
