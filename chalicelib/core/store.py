"""The event store on DynamoDB: every state transition is one conditional write.

A failed condition is returned, not raised; the result carries the current event.
"""

import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import nsmallest
from operator import itemgetter
from typing import Any

from chalicelib.core.event import DeliveredVia, Event, Status, dumps, is_copy_id
from chalicelib.infra.errors import StorageUnavailableError
from chalicelib.infra.table import LOWEST, Table, Values, Written, serialize
from chalicelib.infra.telemetry import logger
from chalicelib.infra.times import DAY_SECONDS
from chalicelib.settings import Settings

SHARDS = 4  # an index partition takes 1,000 writes a second; may be raised, never lowered
CLAIM_SECONDS = 60  # more than the worker's timeout of 50 s: the holder of an expired claim has ended
ERASED_SECONDS = 3600  # how long the mark of an erasure stays: whoever still writes or deletes a copy has ended by then
STALLED_ATTEMPTS = 12  # an event that had so many is refused by its receiver, and does not tell of an outage

EXISTS = "attribute_exists(status_shard) AND expires_at > :now_seconds"  # not erased; TTL deletes up to days late
ABSENT = "attribute_not_exists(event_id) OR expires_at <= :now_seconds"
UNCLAIMED = "(attribute_not_exists(claimed_until) OR claimed_until < :now)"
# A copy that was replayed outlives its event, and does not stand in the way of the next one with its Idempotency-Key.
COPY_ABSENT = f"{ABSENT} OR ({UNCLAIMED} AND sort_key < :oldest)"
PENDING = f"{EXISTS} AND #status = :pending"
CLAIMABLE = f"{PENDING} AND next_attempt_at <= :now AND {UNCLAIMED}"
RECORDABLE = f"{PENDING} AND claim_id = :mine"
REPLAYABLE = f"{EXISTS} AND {UNCLAIMED}"
REDRIVABLE = f"{REPLAYABLE} AND #status = :failed AND failed_at = :failed_at"
UNCHANGED = f"{PENDING} AND requeue_at = :seen"

# An event, even an expired one, or the mark of its erasure until that expires.
ERASABLE = f"(attribute_exists(status_shard) OR expires_at > :now_seconds) AND {UNCLAIMED}"
NOT_EXPIRED = "expires_at > :now_seconds"
DUE_TO_REQUEUE = f"{NOT_EXPIRED} AND requeue_at <= :now AND next_attempt_at <= :now"
FEW_ATTEMPTS = "(attribute_not_exists(delivery_attempts) OR delivery_attempts < :stalled)"
AWAITED = f"{NOT_EXPIRED} AND attribute_exists(next_attempt_at) AND {FEW_ATTEMPTS}"

COPY, REPLAYED = "copy-", "replayed-"  # partitions of their own
UNSETTLED = (Status.PENDING, Status.FAILED)
CLEAR_SCHEDULE: dict[str, None] = {"next_attempt_at": None, "requeue_at": None}

NOT_STORED = ("created_at", "payload", "metadata")  # _item stores them in `sort_key` and `content`


@dataclass(frozen=True)
class WriteResult:
    """Whether a conditional write was applied, by any of boto3's tries, and the event as it is now.

    The event is None if it is absent, expired or erased, or if the write returns nothing. `erased_until` is when the
    mark of an erasure expires (Unix seconds), 0 without one.
    """

    applied: bool
    event: Event | None = None
    erased_until: int = 0


class EventStore(Table):
    """The events of the table.

    boto3 retries a write whose response was lost, and the retry fails on what the first try wrote. An item that
    carries the `claim_id` of the write shows that it was applied.
    """

    def __init__(self, client: Any, settings: Settings, *, clock: Callable[[], float]) -> None:
        super().__init__(client, settings.events_table_name, clock=clock)
        self._retention_seconds = settings.event_retention_days * DAY_SECONDS
        self._grace_seconds = settings.message_grace_seconds

    def pages(self, partition: str, values: Values | None = None, **options: Any) -> Iterator[dict[str, Any]]:
        """Yield pages; of pending and failed events, only those created within the retention period.

        DynamoDB deletes expired rows up to days late, and each query would read them. Copies and replayed events have
        other partitions, which are read whole.
        """
        values = {":low": LOWEST, **(values or {})}
        if partition.startswith(UNSETTLED):
            values[":low"] = max(str(values[":low"]), self._after(-self._retention_seconds))
        return super().pages(partition, values, **options)

    def put(self, event: Event, content: bytes) -> WriteResult:
        """Store a new event with its `content()`, claimed or not; it carries a new `claim_id` either way."""
        condition = COPY_ABSENT if event.is_copy else ABSENT
        oldest = self._after(1 - self._retention_seconds)  # `expires_at` has whole seconds
        item = serialize({**_item(event), "content": content})
        written = self._write("put_item", condition, {":oldest": oldest}, Item=item)
        result = self._result(written, event.claim_id)
        return WriteResult(True, result.event or event) if result.applied else result

    def claim(self, event_id: str, claim_id: str) -> WriteResult:
        """Take the exclusive right to push a due event for CLAIM_SECONDS, and count the attempt."""
        return self._claim(event_id, CLAIMABLE, claim_id, CLAIM_SECONDS, "delivery_attempts")

    def _claim(self, event_id: str, condition: str, claim_id: str, seconds: float, counter: str) -> WriteResult:
        until = self._after(seconds)
        changes = {"claim_id": claim_id, "claimed_until": until, "requeue_at": until}
        result = self.change(event_id, condition, changes, counter=counter, ReturnValues="ALL_NEW")
        # An acknowledgement may come between a try whose response was lost and boto3's retry.
        is_delivered = result.event is not None and result.event.status is Status.DELIVERED
        return replace(result, applied=result.applied and not is_delivered)

    def record_delivered(self, event: Event) -> WriteResult:
        """Record that the push made under the event's claim was delivered."""
        delivered = {"delivered_at": self._after(0), "delivered_via": DeliveredVia.PUSH}
        return self._record(event, status=Status.DELIVERED, **delivered, **CLEAR_SCHEDULE)

    def record_retry(self, event: Event, *, delay_seconds: float, will_be_queued: bool) -> WriteResult:
        """Record that the push failed and the next is due after `delay_seconds`.

        The sweep may queue the event when it is due, or `message_grace_seconds` later if a message is being sent.
        """
        grace = self._grace_seconds if will_be_queued else 0
        due, requeue_at = self._after(delay_seconds), self._after(delay_seconds + grace)
        return self._record(event, next_attempt_at=due, requeue_at=requeue_at)

    def record_failed(self, event: Event) -> WriteResult:
        """Record a failure; the event carries `reason` and `failed_at`. A DLQ message about it was sent before."""
        failed = {"status": Status.FAILED, "reason": event.reason, "failed_at": event.failed_at}
        return self._record(event, **failed, **CLEAR_SCHEDULE)

    def _record(self, event: Event, **changes: Any) -> WriteResult:
        """Record the outcome of a push and end its claim.

        Not applied when a consumer acknowledged the event meanwhile, or the claim expired and was taken by another.
        """
        event = replace(event, claimed_until=None, **changes)
        ended: Values = {
            "claimed_until": None,
            "delivery_attempts": event.delivery_attempts,
            "attempts": _attempts(event),
            "last_error": event.last_error,
        }
        status = status_attributes(event.event_id, event.status, replayed=event.replayed_at is not None)
        outcome = {**changes, **status, **ended}
        mine = {":mine": event.claim_id}
        result = self.change(event.event_id, RECORDABLE, outcome, mine)
        if result.applied:
            return WriteResult(True, event)
        current = result.event
        if current is None or current.claim_id != event.claim_id:
            logger.warning("claim lost before the record", extra={"event_id": event.event_id})
            return result
        if current.claimed_until is None:
            return WriteResult(True, current)  # applied by a try whose response was lost
        # Acknowledged during the push: end the claim, or a replay would have to wait for it.
        self.change(event.event_id, f"{EXISTS} AND claim_id = :mine", ended, mine)
        return result

    def cancel_attempt(self, event: Event) -> WriteResult:
        """Record that a claimed event is not to be pushed any more; it carries the attempts that were made before."""
        return self._record(event, **CLEAR_SCHEDULE)

    def replay(
        self, event_id: str, claim_id: str, *, expires_at: int, failed_at: str | None = None, is_pushed: bool = True
    ) -> WriteResult:
        """Make an unclaimed event pending again, and due now if `is_pushed`.

        With `failed_at`, only if that is its latest failure.
        """
        now = self._after(0)
        changes: Values = {
            **status_attributes(event_id, Status.PENDING, replayed=True),
            "claim_id": claim_id,
            "delivery_attempts": 0,
            "next_attempt_at": now if is_pushed else None,
            "requeue_at": self._after(self._grace_seconds) if is_pushed else None,
            "replayed_at": now,
            "expires_at": expires_at,
            **dict.fromkeys(("claimed_until", "delivered_at", "delivered_via", "failed_at", "reason")),
        }
        condition = REPLAYABLE if failed_at is None else REDRIVABLE
        return self.change(event_id, condition, changes, {":failed_at": failed_at}, ReturnValues="ALL_NEW")

    def mark_requeued(self, event_id: str, seen: str | None, until: str) -> WriteResult:
        """Change `requeue_at` of an overdue event from `seen` to `until`; of several sweeps, one succeeds."""
        return self.change(event_id, UNCHANGED, {"requeue_at": until}, {":seen": seen})

    def delete(self, event: Event) -> WriteResult:
        """Delete a copy under its claim, if that still holds it."""
        return WriteResult(self._delete(event.event_id, "claim_id = :mine", {":mine": event.claim_id})[0])

    def mark_erased(self, event_id: str) -> WriteResult:
        """Replace an unclaimed event by a mark that expires after ERASED_SECONDS, or renew that mark.

        It makes the event absent for everybody but an eraser: its copies stay listed, so that the erasure can be
        repeated after a crash.
        """
        content = ("content", "attempts", "last_error", "tenant", "body_hash", "status_shard", "claimed_until")
        expires_at = int(self._clock()) + ERASED_SECONDS
        changes = {**dict.fromkeys(content), "status": Status.ERASED, "expires_at": expires_at}
        return self.change(event_id, ERASABLE, changes, ReturnValues="ALL_NEW")

    def delete_unclaimed(self, event_id: str) -> bool:
        """Delete an event unless somebody holds it; return whether it is gone."""
        return self._delete(event_id, UNCLAIMED)[0]

    def overdue(self, partition: str, limit: int, deadline: float) -> tuple[list[Event], int]:
        """Return up to `limit` pending events of a partition that are due and that nobody will push; count all.

        The destinations take turns, each with its oldest. The search ends at `deadline` (Unix seconds).
        """
        counts: Counter[str] = Counter()

        def turns() -> Iterator[tuple[int, Event]]:
            for page in self.pages(partition, FilterExpression=DUE_TO_REQUEUE):
                for event in map(Event.from_item, page["Items"]):
                    counts[event.group_id] += 1
                    yield counts[event.group_id], event
                if self._clock() > deadline:
                    return

        return [event for _, event in nsmallest(limit, turns(), key=itemgetter(0))], counts.total()

    def oldest_scheduled(self, partition: str, deadline: float) -> Event | None:
        """Return the event of a partition that was created first; those that are not pushed or stalled are left out.

        Raises StorageUnavailableError if the search does not end by `deadline` (Unix seconds).
        """
        for page in self.pages(partition, {":stalled": STALLED_ATTEMPTS}, FilterExpression=AWAITED):
            if page["Items"]:
                return Event.from_item(page["Items"][0])
            if self._clock() > deadline:
                raise StorageUnavailableError
        return None

    def get(self, event_id: str) -> Event | None:
        """Return the event, read consistently, or None."""
        return self.read(event_id).event

    def read(self, event_id: str) -> WriteResult:
        """Read an event consistently; return what a write would whose condition failed."""
        return self._result(Written(False, self._get(event_id)), None)

    def get_many(self, event_ids: Sequence[str]) -> dict[str, Event]:
        """Return those of up to 100 events that exist, by id, read consistently."""
        events = map(self._unexpired, self._get_many(event_ids))
        return {event.event_id: event for event in events if event and event.status is not Status.ERASED}

    def change(
        self, event_id: str, condition: str, changes: Values, values: Values | None = None, **parameters: Any
    ) -> WriteResult:
        """Set each attribute of `changes`, or remove it if None, if `condition` holds; `values` are its placeholders.

        `parameters` are those of UpdateItem, and `counter`: an attribute to add 1 to.
        """
        written = self._update(event_id, condition, changes, values, **parameters)
        return self._result(written, changes.get("claim_id"))

    def _result(self, written: Written, claim_id: Any) -> WriteResult:
        """Return the result of a write that sets `claim_id`, if it sets one."""
        applied, item = written
        if applied:
            return WriteResult(True, Event.from_item(item) if item else None)
        current = self._unexpired(item)
        if current and current.status is Status.ERASED:
            return WriteResult(False, erased_until=current.expires_at)
        return WriteResult(bool(current and claim_id and current.claim_id == claim_id), current)

    def _unexpired(self, item: Any) -> Event | None:
        event = Event.from_item(item) if item else None
        return event if event and event.expires_at > int(self._clock()) else None


def partitions(*statuses: Status, of_copies: bool = False) -> list[str]:
    """Return the partition keys of the index for events of some statuses: those of copies, or those of the others."""
    keys = [f"{COPY if of_copies else ''}{status}#{shard}" for status in statuses for shard in range(SHARDS)]
    return keys if of_copies else [*keys, *(f"{REPLAYED}{status}" for status in statuses if status in UNSETTLED)]


def status_attributes(event_id: str, status: Status, *, replayed: bool = False) -> Values:
    """Return the status of an event and its partition of the index."""
    key = f"{status}#{zlib.crc32(event_id.encode()) % SHARDS}"
    if is_copy_id(event_id):
        key = f"{COPY}{key}"
    elif replayed and status in UNSETTLED:
        key = f"{REPLAYED}{status}"  # few; only these are kept longer than the retention period after their creation
    return {"status": status, "status_shard": key}


def _item(event: Event) -> Values:
    """Return the attributes of a new event but `content`: without those that are empty, and NOT_STORED."""
    encoded = {
        **status_attributes(event.event_id, event.status),
        "sort_key": event.sort_key,
        "attempts": _attempts(event),
        "copies": dumps(event.copies) if event.copies else None,
    }
    kept = {name: value for name, value in vars(event).items() if value and name not in NOT_STORED}
    return {**kept, **encoded}


def _attempts(event: Event) -> str | None:
    return dumps([vars(attempt) for attempt in event.attempts]) if event.attempts else None
