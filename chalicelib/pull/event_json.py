"""Events as callers of the API see them."""

from typing import Any

from chalicelib.core.event import DeliveredVia, Event, Status
from chalicelib.core.outcome import Reason

MEMBERS = (  # besides id, type and content, in this order
    *(
        "status",
        "created_at",
        "delivered_at",
        "next_attempt_at",
        "delivery_attempts",
        "delivered_via",
        "created_by",
    ),
    *("tenant", "subject", "last_error", "subscription_id", "source_event_id", "copies"),
)
SETTLED: dict[str, str] = {
    DeliveredVia.PULL: "A consumer acknowledged it.",
    DeliveredVia.PUSH: "Delivered by attempt {}.",
    DeliveredVia.SUBSCRIPTIONS: (
        "Not pushed itself; each copy for a subscription tells its own state."
    ),
    Reason.PERMANENT: (
        "Not delivered: attempt {} failed permanently. It is kept and can be replayed."
    ),
    Reason.EXHAUSTED: (
        "Not delivered: attempt {} was the last one allowed. It is kept and can be replayed."
    ),
    Reason.DISABLED: (
        "Not delivered: its subscription was disabled. It is kept and can be replayed."
    ),
}


def summary(event: Event, *, include_payload: bool = False, without: str = "", **more: Any) -> str:
    """Return an event without attempts, and perhaps `without` a member, and `more` members."""
    members = {name: getattr(event, name) for name in MEMBERS if name != without}
    return event.to_json(
        {**members, "message": message(event), **more}, include_payload=include_payload
    )


def whole(event: Event, *, include_responses: bool = True, **more: Any) -> str:
    """Return an event with payload, metadata and attempts, and `more` members."""
    hidden = {} if include_responses else {"response": None}
    attempts = [vars(attempt) | hidden for attempt in event.attempts]
    return summary(event, include_payload=True, attempts=attempts, **more)


def leased(event: Event) -> str:
    """Return an event as the consumer that leased it sees it."""
    return whole(
        event,
        lease_id=event.claim_id,
        leased_until=event.claimed_until,
        lease_count=event.lease_count,
    )


def message(event: Event) -> str:
    """Return the state of an event as one sentence."""
    count = event.delivery_attempts
    if event.status is not Status.PENDING:
        return SETTLED[event.delivered_via or event.reason or Reason.EXHAUSTED].format(count)
    if event.claimed_until is not None:
        return f"Claimed by a push or a lease until {event.claimed_until} at the latest."
    if event.next_attempt_at is None:
        return "Waits in the inbox for a consumer."
    if count == 0:
        return f"Stored; the first attempt is due at {event.next_attempt_at}."
    return f"Attempt {count} did not succeed; the next is due at {event.next_attempt_at}."
