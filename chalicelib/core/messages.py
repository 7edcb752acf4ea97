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
    """Return the members that dead letters and reports have about an event that failed for good.

    `last_status_code` is the status code of the latest push; it is None if that push had no
    response, or if there was no push.
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
    # An attempt that an open breaker refused was no push.
    pushed = [attempt for attempt in event.attempts if attempt.error != BREAKER_OPEN]
    members["last_status_code"] = pushed[-1].status_code if pushed else None
    return members


def parse(body: str) -> Json:
    """Return the members of the body of a queue message: the `event_id` of a push message, or also
    the other members of a dead letter, such as `reason`.

    Return an empty dict if the body is not a JSON object with the id of an event or copy.
    """
    with suppress(ValueError, RecursionError, KeyError, TypeError):
        content: Json = json.loads(body)
        if EVENT_ID.fullmatch(content["event_id"]):
            return content
    return {}
