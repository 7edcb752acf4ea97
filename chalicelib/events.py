"""What an event is: its states, and the JSON that callers and receivers see.

Knows nothing of HTTP, DynamoDB or SQS. Payloads and metadata stay the JSON text that was posted.
"""

import json
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum

MAX_ATTEMPTS_SHOWN = 25
SHOWN = ("status", "created_at", "delivered_at", "next_attempt_at", "delivery_attempts", "delivered_via", "created_by")

EVENT_ID = re.compile(r"evt_[0-9a-f]{32}")
EVENT_TYPE = re.compile(r"[A-Za-z0-9._\-:/]{1,128}")


class Status(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class Via(StrEnum):
    PUSH = "push"
    PULL = "pull"


class Reason(StrEnum):
    """Why an event is a dead letter."""

    PERMANENT = "permanent"
    EXHAUSTED = "exhausted"


def rfc3339(epoch_seconds: float) -> str:
    """Return RFC 3339 UTC with microseconds and Z: fixed width, so that text compares as time does."""
    return datetime.fromtimestamp(epoch_seconds, UTC).isoformat(timespec="microseconds")[: -len("+00:00")] + "Z"


def epoch_seconds(timestamp: str) -> float:
    """Return Unix seconds of what `rfc3339` wrote."""
    return datetime.fromisoformat(timestamp).timestamp()


compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode  # json.dumps would make one for each value


@dataclass(frozen=True)
class Attempt:
    """One push that was started: `at` is RFC 3339, `outcome` delivered, retry or failed, `error` without secrets."""

    at: str
    outcome: str
    status_code: int | None
    error: str | None
    duration_ms: int


@dataclass(frozen=True)
class Event:
    """One event as stored. Times are RFC 3339, but `expires_at` (Unix seconds, as DynamoDB's TTL wants it)."""

    event_id: str
    event_type: str
    status: Status
    created_at: str
    created_by: str
    expires_at: int
    size: int
    payload: str = "{}"
    metadata: str = "null"
    body_hash: str = ""
    delivery_attempts: int = 0
    attempts: tuple[Attempt, ...] = ()
    next_attempt_at: str | None = None
    requeue_at: str | None = None
    claim_id: str | None = None
    claimed_until: str | None = None
    replayed_at: str | None = None
    delivered_at: str | None = None
    delivered_via: Via | None = None
    failed_at: str | None = None
    reason: Reason | None = None

    def is_claimed(self, now: str) -> bool:
        """Return whether somebody may be pushing it at this moment."""
        return self.claimed_until is not None and self.claimed_until >= now

    def with_attempt(self, attempt: Attempt) -> "Event":
        return replace(self, attempts=(*self.attempts, attempt)[-MAX_ATTEMPTS_SHOWN:])

    def push_body(self) -> bytes:
        """Return the bytes that a receiver gets, and that are signed."""
        members = {
            "event_id": compact(self.event_id),
            "event_type": compact(self.event_type),
            "payload": self.payload,
            "metadata": self.metadata,
            "created_at": compact(self.created_at),
        }
        return _object(members).encode()

    def to_json(self, *, body: bool = False, attempts: bool = False) -> str:
        """Return what a caller sees; `payload` and `metadata`, and `attempts`, only when asked for."""
        members = {"event_id": compact(self.event_id), "event_type": compact(self.event_type)}
        if body:
            members |= {"payload": self.payload, "metadata": self.metadata}
        members |= {name: compact(getattr(self, name)) for name in SHOWN}
        members["message"] = compact(self.message())
        if attempts:
            members["attempts"] = compact([vars(attempt) for attempt in self.attempts])
        return _object(members)

    def message(self) -> str:
        """Return one sentence for a person."""
        count = self.delivery_attempts
        if self.status is Status.DELIVERED:
            return "A consumer acknowledged it." if self.delivered_via is Via.PULL else f"Delivered by attempt {count}."
        if self.status is Status.FAILED:
            cause = (
                f"the receiver refused it for good at attempt {count}"
                if self.reason is Reason.PERMANENT
                else f"none of {count} attempts succeeded"
            )
            return f"Not delivered: {cause}; it stays in the inbox and can be replayed."
        if self.claimed_until is not None:
            return f"Attempt {count} was begun; its outcome is not recorded yet."
        if count == 0:
            return f"Stored; the first attempt is due at {self.next_attempt_at}."
        return f"Attempt {count} did not succeed; the next is due at {self.next_attempt_at}."


def _object(members: dict[str, str]) -> str:
    """Return a JSON object of members that are JSON texts already."""
    return "{" + ",".join(f'"{name}":{text}' for name, text in members.items()) + "}"
