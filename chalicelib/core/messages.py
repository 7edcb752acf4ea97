"""Queue messages: a push message asks to push an event, a dead letter says why an event failed.

Neither carries the event itself.
"""

import json
from contextlib import suppress

from chalicelib.core.event import EVENT_ID, Event
from chalicelib.core.outcome import BREAKER_OPEN
from chalicelib.infra.parsing import Json, dumps
from chalicelib.infra.queue import Message


def push_message(event: Event) -> Message:
    """Return the queue message that asks for a push of an event or copy."""
    return Message(dumps({"event_id": event.event_id}), {"EventId": event.event_id}, event.group_id)


def dead_letter(event: Event) -> Message:
    """Return the message for the DLQ about an event that failed for good."""
    attributes = {"EventId": event.event_id, "Reason": str(event.reason)}
    return Message(dumps(failure_members(event)), attributes, event.group_id)


def failure_members(event: Event) -> Json:
    """Return the members of an event that failed for good which dead letters and reports have.

    `last_status_code` is the status code of the latest push; None: it had no response.
    """
    members: Json = {
        "event_id": event.event_id,
        "reason": event.reason,
        "last_error": event.last_error,
        "delivery_attempts": event.delivery_attempts,
        "failed_at": event.failed_at,
        "subscription_id": event.subscription_id,
        "tenant": event.tenant,
    }
    pushed = [attempt for attempt in event.attempts if attempt.error != BREAKER_OPEN]
    members["last_status_code"] = pushed[-1].status_code if pushed else None
    return members


def parse(body: str) -> Json:
    """Return the members of the body of a push message or a dead letter; an empty object if the
    body is neither.

    A dead letter has the member `reason`.
    """
    with suppress(ValueError, RecursionError, KeyError, TypeError):
        content: Json = json.loads(body)
        if EVENT_ID.fullmatch(content["event_id"]):
            return content
    return {}
