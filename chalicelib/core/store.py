"""The event store on DynamoDB: every state transition is one conditional write.

A failed condition is returned, not raised; the result carries the current event. Transitions that
consumers and operators ask for are in `pull.inbox` and `operations.recovery`, the sweep's mark is
in `operations.schedules`.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from chalicelib.core.event import FIELDS, DeliveredVia, Event, Status, dumps, is_copy_id, lookup_key
from chalicelib.infra.queue import MAX_DELAY_SECONDS
from chalicelib.infra.table import LOWEST, Table, Values, Written, serialize
from chalicelib.infra.telemetry import logger
from chalicelib.infra.times import DAY_SECONDS
from chalicelib.settings import Settings

SHARDS = 4  # an index partition takes 1,000 writes a second; may be raised, never lowered
# more than the worker's timeout of 50 s: the holder of an expired claim has ended
CLAIM_SECONDS = 60

# not erased; TTL deletes up to days late
EXISTS = "attribute_exists(status_shard) AND expires_at > :now_seconds"
ABSENT = "attribute_not_exists(event_id) OR expires_at <= :now_seconds"
UNCLAIMED = "(attribute_not_exists(claimed_until) OR claimed_until < :now)"
MINE = "claim_id = :mine"
PENDING = f"{EXISTS} AND #status = :pending"
CLAIMABLE = f"{PENDING} AND next_attempt_at <= :now AND {UNCLAIMED}"
RECORDABLE = f"{PENDING} AND {MINE}"
NOT_EXPIRED = "expires_at > :now_seconds"

COPY, REPLAYED = "copy-", "replayed-"  # partitions of their own
UNSETTLED = (Status.PENDING, Status.FAILED)
CLEAR_SCHEDULE: dict[str, None] = {"next_attempt_at": None, "requeue_at": None}

NOT_STORED = ("created_at", "payload", "metadata")  # _item stores them in `sort_key` and `content`
SUMMARY = ("sort_key", "status_shard", *sorted({*FIELDS} - {*NOT_STORED, "attempts"}))


@dataclass(frozen=True)
class WriteResult:
    """Whether the condition of a write held, and the event as it is now.

    The event is None if it is absent, expired or erased, or if the write returns nothing.
    `erased_until` is when the mark of an erasure expires (Unix seconds), 0 without one.
    """

    applied: bool
    event: Event | None = None
    erased_until: int = 0


class EventStore(Table):
    """The events of the table.

    boto3 retries a write whose response was lost, and the condition of the retry fails on what the
    first try wrote: such a write counts as not applied, and the end of the claim or the sweep makes
    up for it.
    """

    def __init__(self, client: Any, settings: Settings, *, clock: Callable[[], float]) -> None:
        super().__init__(client, settings.events_table_name, clock=clock)
        self._retention_seconds = settings.event_retention_days * DAY_SECONDS
        self._grace_seconds = settings.message_grace_seconds

    def pages(
        self, partition: str, values: Values | None = None, **options: Any
    ) -> Iterator[dict[str, Any]]:
        """Yield pages; of pending and failed events, only those created within the retention
        period.

        DynamoDB deletes expired rows up to days late, and each query would read them. Copies and
        replayed events have other partitions, which are read whole.
        """
        values = {":low": LOWEST, **(values or {})}
        if partition.startswith(UNSETTLED):
            values[":low"] = max(str(values[":low"]), self._after(-self._retention_seconds))
        return super().pages(partition, values, **options)

    def put(self, event: Event, content: bytes) -> WriteResult:
        """Store a new event with its `content()`, claimed or not; it carries a new `claim_id` for
        `delete_claimed`.
        """
        item = serialize({**_item(event), "content": content})
        result = self._result(self._put(item, ABSENT))
        return WriteResult(True, event) if result.applied else result

    def claim(self, event_id: str, claim_id: str) -> WriteResult:
        """Take the exclusive right to push a due event for CLAIM_SECONDS, and count the attempt."""
        until = self._after(CLAIM_SECONDS)
        changes = {"claim_id": claim_id, "claimed_until": until, "requeue_at": until}
        return self.change(
            event_id, CLAIMABLE, changes, counter="delivery_attempts", ReturnValues="ALL_NEW"
        )

    def record_delivered(self, event: Event) -> WriteResult:
        """Record that the push made under the event's claim was delivered."""
        delivered = {"delivered_at": self._after(0), "delivered_via": DeliveredVia.PUSH}
        return self.record(event, status=Status.DELIVERED, **delivered, **CLEAR_SCHEDULE)

    def record_retry(self, event: Event, *, delay_seconds: float) -> WriteResult:
        """Record that the push failed and the next is due after `delay_seconds`.

        The sweep may queue the event when it is due, or the grace for a message later if one is
        being sent.
        """
        grace_seconds = self._grace_seconds if delay_seconds <= MAX_DELAY_SECONDS else 0
        due, requeue_at = self._after(delay_seconds), self._after(delay_seconds + grace_seconds)
        return self.record(event, next_attempt_at=due, requeue_at=requeue_at)

    def record_failed(self, event: Event) -> WriteResult:
        """Record a failure; the event carries `reason` and `failed_at`."""
        failed = {"status": Status.FAILED, "reason": event.reason, "failed_at": event.failed_at}
        return self.record(event, **failed, **CLEAR_SCHEDULE)

    def record(self, event: Event, **changes: Any) -> WriteResult:
        """Record what became of a claimed event and end its claim.

        Not applied when a consumer acknowledged the event meanwhile, or the claim expired and was
        taken by another.
        """
        event = replace(event, claimed_until=None, **changes)
        outcome = {
            **changes,
            **status_attributes(
                event.event_id, event.status, replayed=event.replayed_at is not None
            ),
            "claimed_until": None,
            "delivery_attempts": event.delivery_attempts,
            "attempts": _attempts(event),
            "last_error": event.last_error,
        }
        result = self.change(event.event_id, RECORDABLE, outcome, {":mine": event.claim_id})
        if result.applied:
            return WriteResult(True, event)
        logger.warning(
            "not recorded: acknowledged, or claimed by another", extra={"event_id": event.event_id}
        )
        return result

    def delete_claimed(self, event: Event) -> WriteResult:
        """Delete a copy under its claim, if that still holds it."""
        return self.delete(event.event_id, MINE, {":mine": event.claim_id})

    def delete(self, event_id: str, condition: str, values: Values | None = None) -> WriteResult:
        """Delete an event if `condition` holds, which it does of an absent one only if it says
        so.
        """
        return self._result(self._delete(event_id, condition, values))

    def get(self, event_id: str) -> Event | None:
        """Return the event, read consistently, or None."""
        return self.read(event_id).event

    def read(self, event_id: str) -> WriteResult:
        """Read an event consistently; return what a write would whose condition failed."""
        return self._result(Written(False, self._get(event_id)))

    def get_many(self, event_ids: Sequence[str], *, with_content: bool = True) -> dict[str, Event]:
        """Return those of up to 100 events that exist, by id, read consistently; else without
        payload and attempts.
        """
        names = () if with_content else SUMMARY
        events = map(self._unexpired, self._get_many(event_ids, names))
        return {
            event.event_id: event for event in events if event and event.status is not Status.ERASED
        }

    def change(
        self,
        event_id: str,
        condition: str,
        changes: Values,
        values: Values | None = None,
        **parameters: Any,
    ) -> WriteResult:
        """Change attributes of an event by one conditional write: None removes one. See
        `Table._update`.
        """
        return self._result(self._update(event_id, condition, changes, values, **parameters))

    def _result(self, written: Written) -> WriteResult:
        applied, item = written
        if applied:
            return WriteResult(True, Event.from_item(item) if item else None)
        current = self._unexpired(item)
        if current and current.status is Status.ERASED:
            return WriteResult(False, erased_until=current.expires_at)
        return WriteResult(False, current)

    def _unexpired(self, item: Any) -> Event | None:
        event = Event.from_item(item) if item else None
        return event if event and event.expires_at > int(self._clock()) else None


def partitions(*statuses: Status, of_copies: bool = False) -> list[str]:
    """Return the partition keys of the index for events of some statuses: those of copies, or those
    of the others.
    """
    keys = [
        f"{COPY if of_copies else ''}{status}#{shard}"
        for status in statuses
        for shard in range(SHARDS)
    ]
    return (
        keys
        if of_copies
        else [*keys, *(f"{REPLAYED}{status}" for status in statuses if status in UNSETTLED)]
    )


def status_attributes(event_id: str, status: Status, *, replayed: bool = False) -> Values:
    """Return the status of an event, and its partition of the index."""
    key = f"{status}#{zlib.crc32(event_id.encode()) % SHARDS}"
    if is_copy_id(event_id):
        key = f"{COPY}{key}"
    elif replayed and status in UNSETTLED:
        # few; only these are kept longer than the retention period after their creation
        key = f"{REPLAYED}{status}"
    return {"status": status, "status_shard": key}


def _item(event: Event) -> Values:
    """Return the attributes of a new event but `content`: without those that are empty, and
    NOT_STORED.
    """
    encoded = {
        **status_attributes(event.event_id, event.status),
        "sort_key": event.sort_key,
        "attempts": _attempts(event),
        "copies": dumps(event.copies) if event.copies else None,
        "lookup_key": lookup_key(event.subscription_id, event.subject),
    }
    kept = {name: value for name, value in vars(event).items() if value and name not in NOT_STORED}
    return {**kept, **encoded}


def _attempts(event: Event) -> str | None:
    return dumps([vars(attempt) for attempt in event.attempts]) if event.attempts else None
