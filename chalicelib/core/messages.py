"""Queue messages: a push message asks to push an event, a dead letter says why an event failed.

Neither carries the event itself.
"""

import json
from contextlib import suppress

from chalicelib.core.event import EVENT_ID, Event
from chalicelib.core.outcome import BREAKER_OPEN
from chalicelib.infra.parsing import Json, dumps
from chalicelib.infra.queue import Message

FAILURE = (
    "event_id",
    "reason",
    "last_error",
    "delivery_attempts",
    "failed_at",
    "subscription_id",
    "tenant",
)


def push_message(event: Event) -> Message:
    """Return the message that asks for a push."""
    return Message(dumps({"event_id": event.event_id}), {"EventId": event.event_id}, event.group_id)


def dead_letter(event: Event) -> Message:
    """Return the DLQ message of an event that failed: it has `reason` and `failed_at`."""
    attributes = {"EventId": event.event_id, "Reason": str(event.reason)}
    return Message(dumps(failure(event)), attributes, event.group_id)


def failure(event: Event) -> Json:
    """Return the members that the DLQ and reports show of an event that failed."""
    members: Json = {name: getattr(event, name) for name in FAILURE}
    pushed = [attempt for attempt in event.attempts if attempt.error != BREAKER_OPEN]
    members["last_status_code"] = pushed[-1].status_code if pushed else None
    return members


def parse(body: str) -> Json:
    """Return the members of a push message or a dead letter, which has a `reason`; an empty object
    if the text is neither.
    """
    with suppress(ValueError, RecursionError, KeyError, TypeError):
        content: Json = json.loads(body)
        if EVENT_ID.fullmatch(content["event_id"]):
            return content
    return {}
