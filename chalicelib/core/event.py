"""Events: their states, and the JSON that callers and receivers see.

Payload and metadata stay the JSON text that was posted: DynamoDB numbers and Python floats would
change them.
"""

import json
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any

from chalicelib.core.outcome import NOT_PUSHED, Outcome, PushResult, Reason
from chalicelib.infra.parsing import EVENT_TYPE
from chalicelib.infra.times import rfc3339

MAX_ATTEMPTS_KEPT = 25
EVENT_ID = re.compile(r"(evt|cpy)_[0-9a-f]{32}")
SUBJECT = "subject#"
RESERVED_PREFIX = "triggers."  # of the types of reports
EVENT_TYPE_OR_PREFIX = re.compile(rf"{EVENT_TYPE.pattern}\*?|\*")

# Compact JSON; json.dumps would build an encoder for each value.
dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Status(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    ERASED = "erased"  # in no partition of the index; reads as absent


class DeliveredVia(StrEnum):
    PUSH = "push"
    PULL = "pull"
    SUBSCRIPTIONS = "subscriptions"


def is_copy_id(event_id: str) -> bool:
    return event_id.startswith("cpy_")


def lookup_key(subscription_id: str | None, subject: str | None) -> str | None:
    """Return what copies of a subscription, or events with a subject, are looked up by."""
    if subscription_id is not None:
        return subscription_id
    return f"{SUBJECT}{subject}" if subject is not None else None


def response_bytes(text: str) -> int:
    """Return the bytes of a text in a response of Lambda, at least twice those of its UTF-8.

    Lambda quotes a response as JSON once more and, before Python 3.12, escapes all but ASCII.
    """
    return max(2 * len(text.encode()), len(json.dumps(text)))


@dataclass(frozen=True)
class NewEvent:
    """A valid body of POST /events. `payload` and `metadata` are compact JSON; equal JSON has an
    equal `body_hash`.

    There is a `body_hash` only with an `idempotency_key`.
    """

    event_type: str
    payload: str
    metadata: str
    tenant: str | None
    subject: str | None = None
    idempotency_key: str | None = None
    body_hash: str | None = None


@dataclass(frozen=True)
class Attempt:
    """One push: `at` is RFC 3339, `outcome` is delivered, retry or failed, `error` has no secrets.

    `response` is an excerpt of the response body, for consumers only.
    """

    at: str
    outcome: Outcome | None
    status_code: int | None
    error: str | None
    duration_ms: int
    response: str | None = None

    @classmethod
    def of(cls, started: float, result: PushResult) -> "Attempt":
        """Return the attempt whose push began at `started` (Unix seconds)."""
        shown = {
            name: getattr(result, name)
            for name in ("outcome", "status_code", "error", "duration_ms", "response")
        }
        return cls(rfc3339(started), **shown)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Attempt":
        """Return a stored attempt; members that a newer version added are ignored."""
        known = {name: stored[name] for name in _ATTEMPT_FIELDS if name in stored}
        return cls(**known | {"outcome": OUTCOMES.get(stored["outcome"])})


@dataclass(frozen=True, kw_only=True)
class Event:
    """An event or a copy as stored. Times are RFC 3339, but `expires_at` is in Unix seconds
    (DynamoDB TTL).

    `payload` and `metadata` are JSON texts, `response_bytes` is their size in a response.
    """

    event_id: str
    event_type: str
    payload: str = "{}"
    metadata: str = "null"
    tenant: str | None = None
    subject: str | None = None
    created_at: str
    created_by: str
    status: Status
    delivery_attempts: int = 0
    next_attempt_at: str | None = None
    requeue_at: str | None = None
    claim_id: str | None = None
    claimed_until: str | None = None
    lease_count: int = 0
    attempts: tuple[Attempt, ...] = ()
    last_error: str | None = None
    delivered_at: str | None = None
    delivered_via: DeliveredVia | None = None
    failed_at: str | None = None
    reason: Reason | None = None
    replayed_at: str | None = None
    subscription_id: str | None = None
    source_event_id: str | None = None
    copies: tuple[str, ...] = ()
    body_hash: str | None = None
    response_bytes: int
    expires_at: int

    @classmethod
    def from_item(cls, item: Mapping[str, Mapping[str, Any]]) -> "Event":
        """Return the event of a DynamoDB item of the table or, with the projected attributes only,
        of the index.
        """
        values = {name: _plain(value) for name, value in item.items()}
        values["created_at"], values["event_id"] = values["sort_key"].split("#")
        if "status_shard" in values:
            values["status"] = values["status_shard"].split("#")[0].rpartition("-")[2]
        if "content" in values:
            values["payload"], values["metadata"] = (
                zlib.decompress(values["content"]).decode().split("\n")
            )
        values |= {name: parse(values[name]) for name, parse in _PARSERS.items() if name in values}
        return cls(**{name: values[name] for name in FIELDS if name in values})

    @property
    def sort_key(self) -> str:
        """The sort key of the indexes: creation time, then id."""
        return f"{self.created_at}#{self.event_id}"

    @property
    def group_id(self) -> str:
        """The message group of the event's destination (Amazon SQS fair queues)."""
        return self.subscription_id or "webhook"

    @property
    def is_copy(self) -> bool:
        return is_copy_id(self.event_id)

    @property
    def is_report(self) -> bool:
        return self.event_type.startswith(RESERVED_PREFIX)

    @property
    def last_push_error(self) -> str | None:
        """The error of the latest attempt that made a push: none is made while a breaker is
        open.
        """
        return next(
            (attempt.error for attempt in reversed(self.attempts) if attempt.error != NOT_PUSHED),
            None,
        )

    def is_claimed(self, now: float) -> bool:
        """Return whether someone holds the event at `now` (Unix seconds)."""
        return self.claimed_until is not None and self.claimed_until >= rfc3339(now)

    def with_attempt(self, attempt: Attempt) -> "Event":
        return replace(
            self, attempts=(*self.attempts, attempt)[-MAX_ATTEMPTS_KEPT:], last_error=attempt.error
        )

    def content(self) -> bytes:
        """Return payload and metadata as they are stored: compressed, a line each, since compact
        JSON has no newline.

        What cannot be compressed grows by about a dozen bytes.
        """
        return zlib.compress(f"{self.payload}\n{self.metadata}".encode())

    def push_body(self) -> bytes:
        """Return the body of a push: the bytes that are sent and signed."""
        members: dict[str, str | None] = {"created_at": self.created_at}
        if self.is_copy:
            members |= {"tenant": self.tenant, "source_event_id": self.source_event_id}
        optional = {"tenant": self.tenant, "subject": self.subject}
        members |= {name: value for name, value in optional.items() if value is not None}
        return self.to_json(members, include_payload=True).encode()

    def to_json(self, members: Mapping[str, Any], *, include_payload: bool) -> str:
        """Return a JSON object of id and type, payload and metadata as they are stored, and
        `members`.
        """
        first = dumps({"event_id": self.event_id, "event_type": self.event_type})
        content = f',"payload":{self.payload},"metadata":{self.metadata}' if include_payload else ""
        return f"{first[:-1]}{content},{dumps(members)[1:]}"


def _plain(value: Mapping[str, Any]) -> Any:
    """Return the Python value of a DynamoDB attribute."""
    return int(value["N"]) if "N" in value else next(iter(value.values()))


OUTCOMES = {str(outcome): outcome for outcome in Outcome}
ENUMS: dict[str, type[StrEnum]] = {
    "status": Status,
    "delivered_via": DeliveredVia,
    "reason": Reason,
}
FIELDS = tuple(field.name for field in fields(Event))
_ATTEMPT_FIELDS = tuple(field.name for field in fields(Attempt))
_PARSERS: dict[str, Callable[[Any], Any]] = {
    # A value of a later version reads as None.
    **{name: {str(value): value for value in kind}.get for name, kind in ENUMS.items()},
    "attempts": lambda text: tuple(map(Attempt.from_json, json.loads(text))),
    "copies": lambda text: tuple(json.loads(text)),
}
