"""The event store: each transition of an event is one conditional write.

A refused condition is an answer: it says what the item is instead. Knows nothing of queues or pushes.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from chalicelib import aws, log
from chalicelib.errors import StorageUnavailableError
from chalicelib.events import Event, Status, Via, rfc3339
from chalicelib.items import attributes, event_of, partition_of, typed

CLAIM_SECONDS = 60  # above the worker's timeout of 50 s: whoever held a claim that ran out is dead
MESSAGE_GRACE_SECONDS = 60  # how late a message may be before the sweep sends another

EXISTS = "attribute_exists(event_id) AND expires_at > :now_seconds"  # TTL deletes days late
ABSENT = "attribute_not_exists(event_id) OR expires_at <= :now_seconds"
UNCLAIMED = "(attribute_not_exists(claimed_until) OR claimed_until < :now)"
PENDING = f"{EXISTS} AND #status = :pending"
CLAIMABLE = f"{PENDING} AND next_attempt_at <= :now AND {UNCLAIMED}"
RECORDABLE = f"{PENDING} AND claim_id = :mine"
RELEASABLE = "attribute_exists(event_id) AND claim_id = :mine"
ACKNOWLEDGEABLE = f"{EXISTS} AND #status IN (:pending, :failed)"
REPLAYABLE = f"{EXISTS} AND {UNCLAIMED}"
STILL_THAT_FAILURE = f"{REPLAYABLE} AND #status = :failed AND failed_at = :failure"
STILL_OVERDUE = f"{PENDING} AND requeue_at = :seen"

# What a record writes.
SCHEDULE = ("claimed_until", "next_attempt_at", "requeue_at")
OUTCOME = ("delivery_attempts", "attempts", "delivered_at", "delivered_via", "failed_at", "reason")
OVER: dict[str, None] = {"next_attempt_at": None, "requeue_at": None}

Values = Mapping[str, str | int | None]


@dataclass(frozen=True)
class Written:
    """What a conditional write came to: whether it took effect, and the event as it is after it.

    `event` of a write that was refused is None where there is no event, or one past its `expires_at`.
    """

    done: bool
    event: Event | None = None


class EventStore:
    """One DynamoDB table of events. Every method raises StorageUnavailableError when DynamoDB fails.

    A write whose answer was lost is tried again by boto3, and refused by what its own first try wrote. Therefore the
    writes that begin something leave a `claim_id` of their own: refused by an item that carries it, they were done.
    """

    def __init__(self, client: Any, table_name: str, *, clock: Callable[[], float]) -> None:
        self._client = client
        self._table_name = table_name
        self._clock = clock

    def put(self, event: Event) -> Written:
        """Store a new event. It carries a `claim_id`, claimed or not."""
        written = self._write("put_item", ABSENT, {}, claim_id=event.claim_id, Item=typed(attributes(event)))
        return Written(True, written.event or event) if written.done else written

    def claim(self, event_id: str, claim_id: str) -> Written:
        """Take the exclusive right to push a due event for CLAIM_SECONDS, and count the attempt."""
        until = self._in(CLAIM_SECONDS)
        changes = {"claim_id": claim_id, "claimed_until": until, "requeue_at": until}
        written = self._update(event_id, CLAIMABLE, changes, count_attempt=True, ReturnValues="ALL_NEW")
        # Acknowledged since the first try of this write, whose answer was lost: there is nothing left to push.
        over = written.event is not None and written.event.status is not Status.PENDING
        return replace(written, done=written.done and not over)

    def record_delivered(self, event: Event) -> Written:
        """Record that the push made under the event's claim was delivered."""
        return self._record(event, status=Status.DELIVERED, delivered_at=self._in(0), delivered_via=Via.PUSH, **OVER)

    def record_retry(self, event: Event, delay_seconds: float, *, message_follows: bool) -> Written:
        """Record that the push made under the event's claim failed, and that the next is due after `delay_seconds`.

        From then on the sweep may queue the event, or a grace later when a message is on its way.
        """
        grace = MESSAGE_GRACE_SECONDS if message_follows else 0
        due, requeue_at = self._in(delay_seconds), self._in(delay_seconds + grace)
        return self._record(event, next_attempt_at=due, requeue_at=requeue_at)

    def record_failed(self, event: Event) -> Written:
        """Make a dead letter of an event that carries `reason` and `failed_at`. Its DLQ message was sent before."""
        return self._record(event, status=Status.FAILED, **OVER)

    def _record(self, event: Event, **changes: Any) -> Written:
        """Record what the event has become, and release its claim.

        Refused when a consumer acknowledged meanwhile, or when the claim ran out and another took it.
        """
        event = replace(event, claimed_until=None, **changes)
        stored = attributes(event)
        outcome = {**_status(event.event_id, event.status), **{name: stored[name] for name in (*OUTCOME, *SCHEDULE)}}
        mine = {":mine": event.claim_id}
        written = self._update(event.event_id, RECORDABLE, outcome, mine)
        if written.done:
            if event.status is not Status.PENDING:
                fields = {"to": event.status, "via": event.delivered_via, "reason": event.reason}
                log.info("status changed", event_id=event.event_id, **fields)
            return Written(True, event)
        current = written.event
        still_mine = current is not None and current.claim_id == event.claim_id
        if current and still_mine and current.claimed_until is None:
            return Written(True, current)  # this very write, when its answer was lost
        log.warning("record refused", event_id=event.event_id, status=current.status if current else None)
        if still_mine:  # acknowledged meanwhile: what is left of the claim would make a replay wait for nothing
            changes = {"claimed_until": None, "attempts": stored["attempts"]}
            self._update(event.event_id, RELEASABLE, changes, mine)
        return written

    def acknowledge(self, event_id: str) -> Written:
        """A consumer has it. `claimed_until` stays: a push may be running."""
        changes = {
            **_status(event_id, Status.DELIVERED),
            "delivered_at": self._in(0),
            "delivered_via": Via.PULL,
            **dict.fromkeys(("next_attempt_at", "requeue_at", "failed_at", "reason")),
        }
        written = self._update(event_id, ACKNOWLEDGEABLE, changes)
        if written.done:
            log.info("status changed", event_id=event_id, to=Status.DELIVERED, via=Via.PULL)
        return written

    def replay(self, event_id: str, claim_id: str, *, expires_at: int, failed_at: str | None = None) -> Written:
        """Make an event pending anew, unless a push of it is running; with `failed_at`, only if that is its failure."""
        now = self._in(0)
        changes: Values = {
            **_status(event_id, Status.PENDING),
            "claim_id": claim_id,
            "delivery_attempts": 0,
            "next_attempt_at": now,
            "requeue_at": self._in(MESSAGE_GRACE_SECONDS),
            "replayed_at": now,
            "expires_at": expires_at,
            **dict.fromkeys(("claimed_until", "delivered_at", "delivered_via", "failed_at", "reason")),
        }
        condition = REPLAYABLE if failed_at is None else STILL_THAT_FAILURE
        written = self._update(event_id, condition, changes, {":failure": failed_at}, ReturnValues="ALL_NEW")
        if written.done:
            log.info("status changed", event_id=event_id, to=Status.PENDING, reason="replay")
        return written

    def mark_requeued(self, event_id: str, requeue_at: str) -> Written:
        """Take over the queueing of an event that a sweep found overdue: one sweep of several wins."""
        changes = {"requeue_at": self._in(MESSAGE_GRACE_SECONDS)}
        return self._update(event_id, STILL_OVERDUE, changes, {":seen": requeue_at})

    def get(self, event_id: str) -> Event | None:
        """Return the event as it is at this moment, or None."""
        key = typed({"event_id": event_id})
        answer = self._call("get_item", TableName=self._table_name, Key=key, ConsistentRead=True)
        return self._present(answer.get("Item"))

    def get_many(self, event_ids: Sequence[str]) -> dict[str, Event]:
        """Return those of up to 100 events that exist, as they are at this moment, by id."""
        found: dict[str, Event] = {}
        keys = [typed({"event_id": event_id}) for event_id in event_ids]
        while keys:
            request = {self._table_name: {"Keys": keys, "ConsistentRead": True}}
            answer = self._call("batch_get_item", RequestItems=request)
            present = [self._present(item) for item in answer["Responses"].get(self._table_name, ())]
            found |= {event.event_id: event for event in present if event}
            left = answer.get("UnprocessedKeys", {}).get(self._table_name, {}).get("Keys", [])
            if len(left) == len(keys):
                raise StorageUnavailableError
            keys = left
        return found

    def query(self, partition: str, condition: str, values: Values, **parameters: Any) -> dict[str, Any]:
        """Return DynamoDB's answer for one page of one partition of the index."""
        return self._call(
            "query",
            TableName=self._table_name,
            IndexName="status-index",
            KeyConditionExpression=f"status_shard = :partition{condition}",
            ExpressionAttributeValues=typed({":partition": partition, **values}),
            **parameters,
        )

    def _in(self, seconds: float) -> str:
        return rfc3339(self._clock() + seconds)

    def _present(self, item: Any) -> Event | None:
        event = event_of(item) if item else None
        return event if event and event.expires_at > int(self._clock()) else None

    def _update(
        self,
        event_id: str,
        condition: str,
        changes: Values,
        values: Values | None = None,
        *,
        count_attempt: bool = False,
        **parameters: Any,
    ) -> Written:
        """Set what `changes` gives a value, remove what it makes None, if `condition` holds."""
        sets = ", ".join(f"#{name} = :new_{name}" for name, value in changes.items() if value is not None)
        removes = ", ".join(f"#{name}" for name, value in changes.items() if value is None)
        clauses = {"SET": sets, "REMOVE": removes, "ADD": "delivery_attempts :one" if count_attempt else ""}
        return self._write(
            "update_item",
            condition,
            {":one": 1, **(values or {}), **{f":new_{name}": value for name, value in changes.items()}},
            claim_id=changes.get("claim_id"),
            Key=typed({"event_id": event_id}),
            UpdateExpression=" ".join(f"{verb} {clause}" for verb, clause in clauses.items() if clause),
            **parameters,
        )

    def _write(
        self, operation: str, condition: str, values: Values, *, claim_id: str | int | None, **parameters: Any
    ) -> Written:
        now = self._clock()
        known = {
            ":now": rfc3339(now),
            ":now_seconds": int(now),
            ":pending": Status.PENDING,
            ":failed": Status.FAILED,
            **values,
        }
        names, placeholders = _used(f"{condition} {parameters.get('UpdateExpression', '')}")
        if names:
            parameters["ExpressionAttributeNames"] = names
        try:
            answer = self._call(
                operation,
                TableName=self._table_name,
                ConditionExpression=condition,
                ExpressionAttributeValues=typed({name: known[name] for name in placeholders}),
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
                **parameters,
            )
        except _RefusedError as refusal:
            current = self._present(refusal.item)
            return Written(bool(current and claim_id and current.claim_id == claim_id), current)
        return Written(True, event_of(answer["Attributes"]) if "Attributes" in answer else None)

    def _call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = getattr(self._client, operation)(**parameters)
            return answer
        except aws.FAILURES as error:
            code = aws.code(error)
            if code == "ConditionalCheckFailedException":
                raise _RefusedError(error.response.get("Item")) from None  # type: ignore[union-attr]
            log.warning("dynamodb failed", operation=operation, error=code)
            raise StorageUnavailableError from None


class _RefusedError(Exception):
    """A condition did not hold; `item` is what stands there instead, if anything does."""

    def __init__(self, item: Any) -> None:
        super().__init__()
        self.item = item


@cache
def _used(expressions: str) -> tuple[dict[str, str], frozenset[str]]:
    """Return the names and the placeholders of values that expressions use: DynamoDB refuses any that is not used."""
    return {name: name[1:] for name in re.findall(r"#\w+", expressions)}, frozenset(re.findall(r":\w+", expressions))


def _status(event_id: str, status: Status) -> Values:
    return {"status": status, "status_shard": partition_of(event_id, status)}
