"""What travels in the queues: a wake-up for an event, and its dead letter.

A message never carries the event itself: the truth is in the store.
"""

import json
from dataclasses import dataclass

from chalicelib.events import EVENT_ID, Event, compact


class MalformedMessageError(Exception):
    """The text is of neither shape: keep it where a person can see it."""


@dataclass(frozen=True)
class Message:
    """A wake-up for `event_id`; with `failed_at` it is a dead letter that came back, and asks for a replay."""

    event_id: str
    failed_at: str | None


def inbox_body(event_id: str) -> str:
    return compact({"event_id": event_id})


def dead_letter_body(event: Event) -> str:
    """Return the dead letter of `event`, which carries `reason` and `failed_at` already."""
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


def parse(body: str) -> Message:
    """Return what `body` asks for; raise MalformedMessageError."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise MalformedMessageError from error
    if not isinstance(content, dict):
        raise MalformedMessageError
    event_id, failed_at = content.get("event_id"), content.get("failed_at")
    if not (isinstance(event_id, str) and EVENT_ID.fullmatch(event_id)):
        raise MalformedMessageError
    if not (failed_at is None or (isinstance(failed_at, str) and failed_at.isascii())):
        raise MalformedMessageError
    return Message(event_id, failed_at)
