"""Events: their states, and the JSON that callers and receivers see.

Payload and metadata stay the JSON text that was posted: DynamoDB numbers and Python floats would change them.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

MAX_ATTEMPTS_KEPT = 25
EVENT_ID = re.compile(r"evt_[0-9a-f]{32}")
EVENT_TYPE = re.compile(r"[A-Za-z0-9._\-:/]{1,128}")

# json.dumps would build an encoder for each value.
compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Status(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class DeliveredVia(StrEnum):
    PUSH = "push"
    PULL = "pull"
    SUBSCRIPTIONS = "subscriptions"


class Reason(StrEnum):
    """Why an event is a dead letter."""

    PERMANENT = "permanent"
    EXHAUSTED = "exhausted"


def rfc3339(unix_seconds: float) -> str:
    """Return RFC 3339 UTC with microseconds and `Z`: fixed width, so that strings compare as times do."""
    return datetime.fromtimestamp(unix_seconds, UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def unix_seconds(timestamp: str) -> float:
    """Return the Unix seconds of a timestamp made by `rfc3339`."""
    return datetime.fromisoformat(timestamp).timestamp()


@dataclass(frozen=True)
class Attempt:
    """One push: `at` is RFC 3339, `outcome` is delivered, retry or failed, `error` has no secrets.

    `response` is an excerpt of the response body, for consumers only.
    """

    at: str
    outcome: str
    status_code: int | None
    error: str | None
    duration_ms: int
    response: str | None = None


@dataclass(frozen=True)
class Event:
    """An event as stored. Times are RFC 3339, but `expires_at` is in Unix seconds (DynamoDB TTL)."""

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
    delivered_via: DeliveredVia | None = None
    failed_at: str | None = None
    reason: Reason | None = None
    lease_count: int = 0
    subscription_id: str | None = None
    source_event_id: str | None = None
    copies: tuple[str, ...] = ()

    @classmethod
    def from_item(cls, item: Mapping[str, Mapping[str, str]]) -> "Event":
        """Return the event of a DynamoDB item of the table or, with the projected attributes only, of the index."""
        values: dict[str, Any] = {name: int(value["N"]) if "N" in value else value["S"] for name, value in item.items()}
        values["created_at"], values["event_id"] = values["sort_key"].split("#")
        values["status"] = values["status_shard"].split("#")[0]
        values |= {name: parse(values[name]) for name, parse in _PARSERS.items() if name in values}
        return cls(**{name: values[name] for name in _FIELDS if name in values})

    @property
    def sort_key(self) -> str:
        """The sort key of the index: creation time, then id."""
        return f"{self.created_at}#{self.event_id}"

    def is_claimed(self, now: float) -> bool:
        """Return whether someone holds the event at `now` (Unix seconds)."""
        return self.claimed_until is not None and self.claimed_until >= rfc3339(now)

    def with_attempt(self, attempt: Attempt) -> "Event":
        return replace(self, attempts=(*self.attempts, attempt)[-MAX_ATTEMPTS_KEPT:])

    def push_body(self) -> bytes:
        """Return the body of a push: the bytes that are sent and signed."""
        return self._join({"created_at": self.created_at}, include_payload=True).encode()

    def to_json(
        self,
        *,
        include_payload: bool = False,
        include_attempts: bool = False,
        include_responses: bool = False,
        include_lease: bool = False,
    ) -> str:
        """Return the event as callers see it."""
        members = {name: getattr(self, name) for name in _SHOWN}
        members["message"] = self.message()
        if include_attempts:
            hidden = {} if include_responses else {"response": None}
            members["attempts"] = [vars(attempt) | hidden for attempt in self.attempts]
        if include_lease:
            members["lease_id"] = self.claim_id
            members["leased_until"] = self.claimed_until
            members["lease_count"] = self.lease_count
        return self._join(members, include_payload)

    def _join(self, members: Mapping[str, Any], include_payload: bool) -> str:
        """Return a JSON object of id and type, payload and metadata as they are stored, and `members`."""
        first = compact({"event_id": self.event_id, "event_type": self.event_type})
        content = f',"payload":{self.payload},"metadata":{self.metadata}' if include_payload else ""
        return f"{first[:-1]}{content},{compact(members)[1:]}"

    def message(self) -> str:
        """Return the state of the event as one sentence."""
        count = self.delivery_attempts
        if self.status is Status.DELIVERED:
            if self.delivered_via is DeliveredVia.PULL:
                return "A consumer acknowledged it."
            if self.delivered_via is DeliveredVia.SUBSCRIPTIONS:
                return "Stored as a copy for each matching subscription."
            return f"Delivered by attempt {count}."
        if self.status is Status.FAILED:
            cause = "failed permanently" if self.reason is Reason.PERMANENT else "was the last one allowed"
            return f"Not delivered: attempt {count} {cause}. It stays in the inbox and can be replayed."
        if self.claimed_until is not None:
            return f"Being pushed or leased, until {self.claimed_until} at the latest."
        if self.next_attempt_at is None:
            return "Waits in the inbox for a consumer."
        if count == 0:
            return f"Stored; the first attempt is due at {self.next_attempt_at}."
        return f"Attempt {count} did not succeed; the next is due at {self.next_attempt_at}."


_FIELDS = tuple(field.name for field in fields(Event))
_PARSERS: dict[str, Callable[[Any], Any]] = {
    "status": Status,
    "delivered_via": DeliveredVia,
    "reason": Reason,
    "attempts": lambda text: tuple(Attempt(**attempt) for attempt in json.loads(text)),
    "copies": lambda text: tuple(json.loads(text)),
}
_SHOWN = (
    "status",
    "created_at",
    "delivered_at",
    "next_attempt_at",
    "delivery_attempts",
    "delivered_via",
    "created_by",
    "subscription_id",
    "source_event_id",
    "copies",
)
