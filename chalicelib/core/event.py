"""Events: their states, and the JSON that callers and receivers see.

Payload and metadata stay the JSON text that was posted: DynamoDB numbers and Python floats would
change them.
"""

import json
import re
from collections.abc import Set
from dataclasses import dataclass, replace
from enum import StrEnum

from chalicelib.core.outcome import (
    BREAKER_OPEN,
    TIMED_OUT,
    DeadLetter,
    Decision,
    Delivered,
    KeptFailed,
    Outcome,
    PushResult,
    Reason,
    Retry,
)
from chalicelib.infra.parsing import (
    EVENT_TYPE,
    NO_MEMBERS,
    RESERVED_PREFIX,
    Json,
    dumps,
    join_object,
)
from chalicelib.infra.queue import WEBHOOK
from chalicelib.infra.times import rfc3339, unix_seconds

MAX_ATTEMPTS_KEPT = 25
# Attempts with `response_headers`: ids of requests do not compress, and each write pays for them.
MAX_HEADERS_KEPT = 2
EVENT_ID = re.compile(r"(evt|cpy)_[0-9a-f]{32}")
COPY_PREFIX = "cpy_"  # of the ids of copies
EVENT_TYPE_OR_PREFIX = re.compile(rf"{EVENT_TYPE.pattern}\*?|\*")


class Status(StrEnum):
    """The status of an event or a copy."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    ERASED = "erased"  # in no partition of the index; reads as absent


class DeliveredVia(StrEnum):
    """How an event was delivered."""

    # A push succeeded.
    PUSH = "push"
    # A consumer acknowledged it.
    PULL = "pull"
    # It is not pushed itself: its copies for subscriptions are.
    SUBSCRIPTIONS = "subscriptions"


def lookup_key(subscription_id: str | None, subject: str | None) -> str | None:
    """Return the partition of `lookup-index` for copies of a subscription or, without one, for
    events with a subject; None: the event is in no partition.
    """
    if subscription_id is not None:
        return subscription_id
    return f"subject#{subject}" if subject is not None else None


def response_bytes(text: str) -> int:
    """Return how many bytes a text may take at most in a response of Lambda.

    Lambda quotes a response as JSON once more, which at most doubles its UTF-8. Before Python 3.12,
    it also writes all but ASCII as escapes, as `json.dumps` does.
    """
    return max(2 * len(text.encode()), len(json.dumps(text)))


@dataclass(frozen=True)
class NewEvent:
    """A valid body of POST /events, and its Idempotency-Key."""

    event_type: str
    # Texts of compact JSON, as they are stored.
    payload: str
    metadata: str
    # The customer of the operator to which the event belongs; None: no customer.
    tenant: str | None
    # What the event is about, such as `order-4711`.
    subject: str | None = None
    # The Idempotency-Key of the call, or of the event in a batch.
    idempotency_key: str | None = None
    # A hash that is the same for two bodies that are equal as JSON; None without an
    # `idempotency_key`.
    body_hash: str | None = None


@dataclass(frozen=True)
class Attempt:
    """An attempt to push an event, or an attempt that an open breaker refused; see `PushResult`."""

    # When it began (RFC 3339).
    at: str
    # None: a later version stored an outcome that this version does not know.
    outcome: Outcome | None
    status_code: int | None
    error: str | None
    duration_ms: int
    # The response, which only consumers see; both are None if the event was delivered, or an older
    # version stored the attempt.
    response: str | None = None
    response_headers: Json | None = None

    @classmethod
    def of(cls, started: float, result: PushResult) -> "Attempt":
        """Return the attempt with the result of a push that began at `started` (Unix seconds).

        Response headers are kept only if the push failed.
        """
        is_delivered = result.outcome is Outcome.DELIVERED
        return cls(
            at=rfc3339(started),
            outcome=result.outcome,
            status_code=result.status_code,
            error=result.error,
            duration_ms=result.duration_ms,
            response=result.response,
            response_headers=None if is_delivered else result.response_headers,
        )


@dataclass(frozen=True, kw_only=True)
class Event:
    """An event or a copy as it is stored. Times are RFC 3339, except for `expires_at`."""

    # 32 hexadecimal digits after evt_ or, in a copy, cpy_.
    event_id: str
    event_type: str
    # JSON texts, as they were posted.
    payload: str = "{}"
    metadata: str = "null"
    tenant: str | None = None
    subject: str | None = None
    created_at: str
    # The name of the API key that posted it.
    created_by: str
    status: Status = Status.PENDING
    # Attempts that were started since the event was created or last replayed.
    delivery_attempts: int = 0
    # From when on the event may be pushed; None: it is never due, as in pull-only mode.
    next_attempt_at: str | None = None
    # From when on the sweep may queue an overdue event again; None: at once.
    requeue_at: str | None = None
    # When the next attempt was due before a catch-up made it due earlier; None: no catch-up did.
    resume_at: str | None = None
    # The id of the claim that holds the event or held it last: of a push, or a lease (lse_...).
    claim_id: str | None = None
    # When the claim ends; None: nobody holds the event.
    claimed_until: str | None = None
    # How often consumers have leased the event.
    lease_count: int = 0
    # The newest MAX_ATTEMPTS_KEPT attempts, in the order in which they were made.
    attempts: tuple[Attempt, ...] = ()
    # The error of the latest push; None: there was no push, or it succeeded.
    last_error: str | None = None
    delivered_at: str | None = None
    delivered_via: DeliveredVia | None = None
    # When and why the event failed for good; both are None unless `status` is failed.
    failed_at: str | None = None
    reason: Reason | None = None
    # When the event was last replayed, or the copy was made by `send`; None: it was not.
    replayed_at: str | None = None
    # When the event was recovered, or a catch-up made it due; such an event stays in the slow lane.
    recovered_at: str | None = None
    # The subscription for which a copy was made, and the event from which; None: it is no copy.
    subscription_id: str | None = None
    source_event_id: str | None = None
    # The ids of the copies of the event; a copy has none.
    copies: tuple[str, ...] = ()
    # The hash of the body; None: it came without an Idempotency-Key.
    body_hash: str | None = None
    # The size of payload and metadata in a response, as the function of this name counts.
    response_bytes: int
    # From when on the event counts as absent (Unix seconds; DynamoDB TTL).
    expires_at: int

    @property
    def sort_key(self) -> str:
        """The sort key of the indexes: creation time, then id."""
        return f"{self.created_at}#{self.event_id}"

    @property
    def group_id(self) -> str:
        """The message group of the event's destination (Amazon SQS fair queues)."""
        return self.subscription_id or WEBHOOK

    @property
    def is_copy(self) -> bool:
        """Whether this is the copy of an event for a subscription."""
        return self.event_id.startswith(COPY_PREFIX)

    @property
    def origin_id(self) -> str:
        """The id of the event or, of a copy, of the event from which it was made."""
        return self.source_event_id or self.event_id

    @property
    def is_pushed_itself(self) -> bool:
        """Whether the event itself is pushed or pulled, not its copies alone."""
        return self.delivered_via is not DeliveredVia.SUBSCRIPTIONS

    @property
    def is_report(self) -> bool:
        """Whether this is a report, or the copy of a report."""
        return self.event_type.startswith(RESERVED_PREFIX)

    @property
    def is_waiting(self) -> bool:
        """Whether an attempt failed, another one follows, and the event was not delivered since."""
        return self.status is Status.PENDING and self.last_error is not None

    @property
    def undelivered_key(self) -> str | None:
        """The partition of `undelivered-index`: the subscription of a copy that failed or waits;
        None: the event is in no partition.
        """
        has_failed = self.status is Status.FAILED
        return self.subscription_id if has_failed or self.is_waiting else None

    @property
    def attempted_at(self) -> str:
        """When the latest attempt began (RFC 3339); empty: there was no attempt."""
        return self.attempts[-1].at if self.attempts else ""

    @property
    def has_timed_out(self) -> bool:
        """Whether an attempt timed out since the event was created or last replayed."""
        since = self.replayed_at or self.created_at
        return any(made.error == TIMED_OUT and made.at >= since for made in self.attempts)

    @property
    def asked_at(self) -> float:
        """When a push of the event was last asked for, by a replay, send or recover, or by a
        catch-up of its destination (Unix seconds); 0: it never was.
        """
        times = filter(None, (self.replayed_at, self.recovered_at))
        return max(map(unix_seconds, times), default=0.0)

    @property
    def is_catching_up(self) -> bool:
        """Whether a catch-up made the next attempt due before its time, and no attempt was made
        since.

        A catch-up sets `recovered_at` and `resume_at`, and an attempt clears `resume_at`. Version
        1.0 does not clear it, so the latest attempt must also have begun before `recovered_at`.
        """
        return self.resume_at is not None and self.attempted_at < (self.recovered_at or "")

    def seconds_until_resumed(self, now: float) -> float:
        """Return the seconds until `resume_at`, when the next attempt was due before a catch-up
        made it due earlier; negative after that.

        Call it only for an event with `is_catching_up`.

        :param now: Unix seconds.
        """
        return unix_seconds(str(self.resume_at)) - now

    def is_claimed(self, now: float) -> bool:
        """Return whether someone holds the event at `now` (Unix seconds)."""
        return self.claimed_until is not None and self.claimed_until >= rfc3339(now)

    def seconds_until_due(self, now: float) -> float:
        """Return the seconds until the next attempt is due; 0: it is due at `now` (Unix seconds).

        Call it only for an event with `next_attempt_at`.
        """
        return max(0.0, unix_seconds(str(self.next_attempt_at)) - now)

    def claim_seconds_left(self, now: float) -> float:
        """Return the seconds from `now` (Unix seconds) until the claim ends: negative if it has
        ended, 0 without a claim.
        """
        return unix_seconds(self.claimed_until) - now if self.claimed_until else 0.0

    def with_attempt(self, attempt: Attempt) -> "Event":
        """Return the event with a further attempt, whose error becomes `last_error`, and without
        `resume_at`, which applied to this attempt only.

        The newest MAX_ATTEMPTS_KEPT attempts are kept, the newest MAX_HEADERS_KEPT of them with
        their response headers. `delivery_attempts` does not change: it counted the attempt when the
        event was claimed. If an open breaker refused the attempt, the error of the push before it
        remains `last_error`.
        """
        attempts = (*self.attempts, attempt)[-MAX_ATTEMPTS_KEPT:]
        older = attempts[:-MAX_HEADERS_KEPT]
        newest = attempts[-MAX_HEADERS_KEPT:]
        shortened = [replace(made, response_headers=None) for made in older]
        last_error = attempt.error
        if last_error == BREAKER_OPEN:
            last_error = self.last_error or BREAKER_OPEN  # there may have been no push before
        return replace(self, attempts=(*shortened, *newest), last_error=last_error, resume_at=None)

    def left_to_copies(self) -> "Event":
        """Return the event as delivered by its copies, as it is stored if the copies are pushed and
        the event itself is not.
        """
        return replace(
            self,
            status=Status.DELIVERED,
            delivered_via=DeliveredVia.SUBSCRIPTIONS,
            delivered_at=self.created_at,
        )

    def as_tenant_sees_it(self, own_copies: Set[str]) -> "Event":
        """Return the event as a token of its tenant may see it: as if it were not pushed itself,
        and without the copies for the operator's subscriptions.

        It is made anew of the fields in SEEN_BY_TENANT, so that nothing about the event's own push
        is in it.

        :param own_copies: The ids of the copies for the tenant's subscriptions.
        """
        event = Event(
            **{name: getattr(self, name) for name in SEEN_BY_TENANT},
            copies=tuple(copy_id for copy_id in self.copies if copy_id in own_copies),
        )
        return event.left_to_copies()

    def after(self, decision: Decision, now: float) -> "Event":
        """Return the claimed event as a decision leaves it at `now` (Unix seconds): without its
        claim, and with its new status or the time of its next attempt.

        After Unscheduled, the event stays pending, and is never due. After KeptFailed, a copy has
        failed because its subscription is disabled. After Dropped, the event is deleted, so that
        its state does not matter.
        """
        at = rfc3339(now)
        event = replace(self, claimed_until=None, next_attempt_at=None)
        match decision:
            case Retry(delay_seconds, due_at):
                # `due_at`: the exact time, if it is known; otherwise after the delay.
                return replace(event, next_attempt_at=due_at or rfc3339(now + delay_seconds))
            case Delivered():
                return replace(
                    event,
                    status=Status.DELIVERED,
                    # The container that created the event may have a clock that is ahead.
                    delivered_at=max(at, self.created_at),
                    delivered_via=DeliveredVia.PUSH,
                )
            case DeadLetter(reason):
                return replace(event, status=Status.FAILED, reason=reason, failed_at=at)
            case KeptFailed(error):
                failed = self.after(DeadLetter(Reason.DISABLED), now)
                # Without an error of the decision, that of the latest attempt remains.
                return replace(failed, last_error=error or self.last_error)
        return event  # Unscheduled or Dropped

    def push_body(self) -> bytes:
        """Return the body of a push: the event as JSON with its payload and metadata.

        A copy always has the member `tenant`, which may be null; an event has it only with a
        tenant.
        """
        members: Json = {"created_at": self.created_at}
        if self.is_copy:
            members["tenant"] = self.tenant
            members["source_event_id"] = self.source_event_id
        if self.tenant is not None:
            members["tenant"] = self.tenant
        if self.subject is not None:
            members["subject"] = self.subject
        return self._to_json(members, include_payload=True).encode()

    def summary_json(
        self,
        members: Json = NO_MEMBERS,
        *,
        include_payload: bool = False,
        without: str = "",
    ) -> str:
        """Return the event as a JSON object, as lists show it: without attempts.

        :param members: Further members of the object.
        :param include_payload: Whether the object has payload and metadata.
        :param without: The name of a member of the event to leave out; empty: none.
        """
        own = {name: getattr(self, name) for name in MEMBERS if name != without}
        own["message"] = self.message
        return self._to_json(own | members, include_payload=include_payload)

    def full_json(self, members: Json = NO_MEMBERS, *, include_responses: bool = True) -> str:
        """Return the event as a JSON object with payload, metadata and attempts.

        :param members: Further members of the object.
        :param include_responses: Whether attempts show the responses of receivers and their
            headers; False: these members are null.
        """
        attempts = [dict(vars(attempt)) for attempt in self.attempts]
        if not include_responses:
            for attempt in attempts:
                attempt["response"] = None
                attempt["response_headers"] = None
        return self.summary_json({"attempts": attempts, **members}, include_payload=True)

    def leased_json(self) -> str:
        """Return the event as a JSON object, with its lease, as the consumer that leased it sees
        it.
        """
        lease = {
            "lease_id": self.claim_id,
            "leased_until": self.claimed_until,
            "lease_count": self.lease_count,
        }
        return self.full_json(lease)

    @property
    def message(self) -> str:
        """The state of the event in a sentence for a person."""
        if self.status is not Status.PENDING:
            # A delivered event has `delivered_via`, a failed one `reason`. A reason of a later
            # version, which this version does not know, reads as None.
            return SETTLED[self.delivered_via or self.reason or Reason.EXHAUSTED]
        if self.claimed_until is not None:
            return f"Claimed by a push or a lease until {self.claimed_until} at the latest."
        if self.next_attempt_at is None:
            return "Waits in the inbox for a consumer."
        return f"The next attempt is due at {self.next_attempt_at}."

    def _to_json(self, members: Json, *, include_payload: bool) -> str:
        """Return a JSON object with the event's id and type, then `members`.

        :param include_payload: Whether payload and metadata stand between the type and `members`,
            as the JSON texts that are stored.
        """
        first = {"event_id": self.event_id, "event_type": self.event_type}
        if not include_payload:
            return dumps({**first, **members})
        return join_object(first, members, payload=self.payload, metadata=self.metadata)


# The members of an event in answers, after id, type and content, in this order. Lists read
# `status-index`, which projects 20 attributes, the most that DynamoDB allows, and no other can take
# their place: a new member has to be left out of lists, as `subject` is by `summary_json`.
MEMBERS = (
    "status",
    "created_at",
    "delivered_at",
    "next_attempt_at",
    "delivery_attempts",
    "delivered_via",
    "created_by",
    "tenant",
    "subject",
    "last_error",
    "subscription_id",
    "source_event_id",
    "copies",
)
# The fields of an event that its tenant may see, or that decide what the tenant sees. All are set
# when the event is posted, except for `expires_at`, which no answer shows.
SEEN_BY_TENANT = (
    "event_id",
    "event_type",
    "payload",
    "metadata",
    "tenant",
    "subject",
    "created_at",
    "created_by",
    "body_hash",
    "response_bytes",
    "expires_at",
)
KEPT = "It is kept and can be replayed."
SETTLED: dict[str, str] = {
    DeliveredVia.PULL: "A consumer acknowledged it.",
    DeliveredVia.PUSH: "Delivered.",
    DeliveredVia.SUBSCRIPTIONS: (
        "Not pushed itself; each copy for a subscription tells its own state."
    ),
    Reason.PERMANENT: f"Not delivered: the latest attempt failed permanently. {KEPT}",
    Reason.EXHAUSTED: f"Not delivered: the latest attempt was the last one allowed. {KEPT}",
    Reason.DISABLED: (
        f"Not delivered: its subscription was disabled, or its tenant suspended. {KEPT}"
    ),
}
