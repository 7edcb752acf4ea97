"""Queue messages: a wake-up names an event, a dead letter tells why it failed. Neither carries the event."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from chalicelib.events import EVENT_ID, Event, compact


class MalformedMessageError(Exception):
    """The body is neither a wake-up nor a dead letter."""


@dataclass(frozen=True)
class WakeUp:
    """What a message asks of the worker.

    `failed_at` is set in a redriven dead letter, which asks for a replay. `subscription_id` is set if the event is a
    copy, which may be gone by then.
    """

    event_id: str
    failed_at: str | None = None
    subscription_id: str | None = None


def wake_up(event: Event | WakeUp) -> tuple[str, dict[str, str]]:
    """Return body and attributes of a message that asks for a push."""
    return compact({"event_id": event.event_id}), attributes(event)


def attributes(event: Event | WakeUp) -> dict[str, str]:
    """Return the attributes of a message about an event."""
    return {"EventId": event.event_id} | ({"SubscriptionId": event.subscription_id} if event.subscription_id else {})


def dead_letter_body(event: Event) -> str:
    """Return the DLQ message of an event that carries `reason` and `failed_at`."""
    last = event.attempts[-1] if event.attempts else None
    return compact(
        {
            "event_id": event.event_id,
            "reason": event.reason,
            "last_status_code": last.status_code if last else None,
            "last_error": last.error if last else None,
            "delivery_attempts": event.delivery_attempts,
            "failed_at": event.failed_at,
        }
    )


def parse(body: str, message_attributes: Mapping[str, str]) -> WakeUp:
    """Return what the message asks for; raise MalformedMessageError."""
    try:
        content = json.loads(body)
        event_id, failed_at = content["event_id"], content.get("failed_at")
        well_formed = EVENT_ID.fullmatch(event_id) and (failed_at is None or failed_at.isascii())
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise MalformedMessageError from error
    if not well_formed:
        raise MalformedMessageError
    return WakeUp(event_id, failed_at, message_attributes.get("SubscriptionId"))
