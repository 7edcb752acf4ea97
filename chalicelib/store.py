"""The event store on DynamoDB: every state transition is one conditional write.

A failed condition is returned, not raised; the result carries the current event.
"""

import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

from chalicelib.errors import AWS_ERRORS, StorageUnavailableError, error_code
from chalicelib.events import DeliveredVia, Event, Status, compact, rfc3339
from chalicelib.telemetry import logger

INDEX = "status-index"
CONDITION_FAILED = "ConditionalCheckFailedException"
SHARDS = 4  # an index partition takes 1,000 writes a second; may be raised, never lowered
REQUIRED_MEMBERS = {"query": "Items", "batch_get_item": "Responses"}
CLAIM_SECONDS = 60  # more than the worker's timeout of 50 s: the holder of an expired claim has ended
MESSAGE_GRACE_SECONDS = 60  # how late a message may be before the sweep sends another

EXISTS = "attribute_exists(event_id) AND expires_at > :now_seconds"  # TTL deletes up to days late
ABSENT = "attribute_not_exists(event_id) OR expires_at <= :now_seconds"
UNCLAIMED = "(attribute_not_exists(claimed_until) OR claimed_until < :now)"
PENDING = f"{EXISTS} AND #status = :pending"
UNDELIVERED = f"{EXISTS} AND #status IN (:pending, :failed)"
CLAIMABLE = f"{PENDING} AND next_attempt_at <= :now AND {UNCLAIMED}"
RECORDABLE = f"{PENDING} AND claim_id = :mine"
LEASABLE = f"{UNDELIVERED} AND {UNCLAIMED}"
LEASED = f"{UNDELIVERED} AND claim_id = :lease_id AND claimed_until >= :now"
REPLAYABLE = f"{EXISTS} AND {UNCLAIMED}"
REDRIVABLE = f"{REPLAYABLE} AND #status = :failed AND failed_at = :failed_at"
OVERDUE = f"{PENDING} AND requeue_at = :seen"

NOT_DUE: dict[str, None] = {"next_attempt_at": None, "requeue_at": None}

Values = Mapping[str, str | int | None]
Item = dict[str, dict[str, str]]  # in DynamoDB's format


@dataclass(frozen=True)
class WriteResult:
    """Whether a conditional write was applied, by any of boto3's tries, and the event as it is now.

    The event is None if it is absent or expired, or if the write returns nothing.
    """

    applied: bool
    event: Event | None = None


class Table:
    """The DynamoDB table of a stage. Every method raises StorageUnavailableError when DynamoDB fails."""

    def __init__(self, client: Any, name: str, *, clock: Callable[[], float]) -> None:
        self._client = client
        self._name = name
        self._clock = clock

    def rows(self, partition: str, condition: str, values: Values, **parameters: Any) -> Iterator[Item]:
        """Yield the rows of a partition of the index; `Limit` is that of a page."""
        parameters["IndexName"] = INDEX
        parameters["KeyConditionExpression"] = f"status_shard = :partition{condition}"
        parameters["ExpressionAttributeValues"] = serialize({":partition": partition, **values})
        while True:
            response = self._call("query", **parameters)
            yield from response["Items"]
            if "LastEvaluatedKey" not in response:
                return
            parameters["ExclusiveStartKey"] = response["LastEvaluatedKey"]

    def _get(self, key: str) -> Any:
        """Return an item, read consistently, or None."""
        return self._call("get_item", Key=serialize({"event_id": key}), ConsistentRead=True).get("Item")

    def _call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        if operation != "batch_get_item":
            parameters["TableName"] = self._name
        required = "Attributes" if "ReturnValues" in parameters else REQUIRED_MEMBERS.get(operation)
        try:
            response: dict[str, Any] = getattr(self._client, operation)(**parameters)
            if required and required not in response:
                raise ResponseParserError(f"no {required}")
        except AWS_ERRORS as error:
            code = error_code(error)
            if code == CONDITION_FAILED:
                raise
            logger.warning("dynamodb failed", extra={"operation": operation, "error": code})
            raise StorageUnavailableError from None
        return response

    def _after(self, seconds: float) -> str:
        return rfc3339(self._clock() + seconds)


class EventStore(Table):
    """The events of the table.

    boto3 retries a write whose response was lost, and the retry fails on what the first try wrote. An item that
    carries the `claim_id` of the write shows that it was applied.
    """

    def put(self, event: Event) -> WriteResult:
        """Store a new event, claimed or not; it carries a new `claim_id` either way."""
        result = self._write("put_item", ABSENT, {}, claim_id=event.claim_id, Item=serialize(_attributes(event)))
        return replace(result, event=result.event or event) if result.applied else result

    def claim(self, event_id: str, claim_id: str) -> WriteResult:
        """Take the exclusive right to push a due event for CLAIM_SECONDS, and count the attempt."""
        until = self._after(CLAIM_SECONDS)
        changes = {"claim_id": claim_id, "claimed_until": until, "requeue_at": until}
        result = self._update(event_id, CLAIMABLE, changes, increment="delivery_attempts", ReturnValues="ALL_NEW")
        # An acknowledgement may come between a try whose response was lost and boto3's retry.
        still_pending = result.event is not None and result.event.status is Status.PENDING
        return replace(result, applied=result.applied and still_pending)

    def record_delivered(self, event: Event) -> WriteResult:
        """Record that the push made under the event's claim was delivered."""
        delivered = {"delivered_at": self._after(0), "delivered_via": DeliveredVia.PUSH}
        return self._record(event, status=Status.DELIVERED, **delivered, **NOT_DUE)

    def record_retry(self, event: Event, *, delay_seconds: float, will_be_queued: bool) -> WriteResult:
        """Record that the push failed and the next is due after `delay_seconds`.

        The sweep may queue the event when it is due, or MESSAGE_GRACE_SECONDS later if a message is being sent.
        """
        grace = MESSAGE_GRACE_SECONDS if will_be_queued else 0
        due, requeue_at = self._after(delay_seconds), self._after(delay_seconds + grace)
        return self._record(event, next_attempt_at=due, requeue_at=requeue_at)

    def record_failed(self, event: Event) -> WriteResult:
        """Record a dead letter; the event carries `reason` and `failed_at`, and its DLQ message was sent before."""
        return self._record(event, status=Status.FAILED, reason=event.reason, failed_at=event.failed_at, **NOT_DUE)

    def _record(self, event: Event, **changes: Any) -> WriteResult:
        """Record the outcome of a push and end its claim.

        Not applied when a consumer acknowledged the event meanwhile, or the claim expired and was taken by another.
        """
        event = replace(event, claimed_until=None, **changes)
        ended: Values = {"claimed_until": None, "attempts": _attempts(event)}
        outcome = {"delivery_attempts": event.delivery_attempts, **changes, **_status(event.event_id, event.status)}
        mine = {":mine": event.claim_id}
        result = self._update(event.event_id, RECORDABLE, {**outcome, **ended}, mine)
        if result.applied:
            return WriteResult(True, event)
        current = result.event
        if current is None or current.claim_id != event.claim_id:
            logger.warning("claim lost before the record", extra={"event_id": event.event_id})
            return result
        if current.claimed_until is None:
            return WriteResult(True, current)  # applied by a try whose response was lost
        # Acknowledged during the push: end the claim, or a replay would have to wait for it.
        self._update(event.event_id, f"{EXISTS} AND claim_id = :mine", ended, mine)
        return result

    def record_unscheduled(self, event: Event) -> WriteResult:
        """Record that a claimed event is not to be pushed: the claimed attempt was not made."""
        return self._record(replace(event, delivery_attempts=event.delivery_attempts - 1), **NOT_DUE)

    def lease(self, event_id: str, lease_id: str, lease_seconds: int) -> WriteResult:
        """Claim an undelivered event for a consumer. Pushes go on as scheduled when the lease ends."""
        until = self._after(lease_seconds)
        changes = {"claim_id": lease_id, "claimed_until": until, "requeue_at": until}
        return self._update(event_id, LEASABLE, changes, increment="lease_count", ReturnValues="ALL_NEW")

    def release(self, event_id: str, lease_id: str) -> WriteResult:
        """End a lease that has not expired."""
        changes = {"claimed_until": None, "requeue_at": self._after(0)}
        return self._update(event_id, LEASED, changes, {":lease_id": lease_id})

    def acknowledge(self, event_id: str, lease_id: str | None = None) -> WriteResult:
        """Record that a consumer has processed the event; with `lease_id`, only while that lease holds it.

        Without a lease, `claimed_until` stays: a push may be running.
        """
        changes = {
            **_status(event_id, Status.DELIVERED),
            "delivered_at": self._after(0),
            "delivered_via": DeliveredVia.PULL,
            "failed_at": None,
            "reason": None,
            **NOT_DUE,
        }
        if lease_id is None:
            return self._update(event_id, UNDELIVERED, changes)
        return self._update(event_id, LEASED, {**changes, "claimed_until": None}, {":lease_id": lease_id})

    def replay(
        self, event_id: str, claim_id: str, *, expires_at: int, failed_at: str | None = None, is_pushed: bool = True
    ) -> WriteResult:
        """Make an unclaimed event pending again, and due now if `is_pushed`.

        With `failed_at`, only if that is its latest failure.
        """
        now = self._after(0)
        changes: Values = {
            **_status(event_id, Status.PENDING),
            "claim_id": claim_id,
            "delivery_attempts": 0,
            "next_attempt_at": now if is_pushed else None,
            "requeue_at": self._after(MESSAGE_GRACE_SECONDS) if is_pushed else None,
            "replayed_at": now,
            "expires_at": expires_at,
            **dict.fromkeys(("claimed_until", "delivered_at", "delivered_via", "failed_at", "reason")),
        }
        condition = REPLAYABLE if failed_at is None else REDRIVABLE
        return self._update(event_id, condition, changes, {":failed_at": failed_at}, ReturnValues="ALL_NEW")

    def mark_requeued(self, event_id: str, requeue_at: str | None) -> WriteResult:
        """Postpone `requeue_at` of an overdue event: of several sweeps, one succeeds."""
        changes = {"requeue_at": self._after(MESSAGE_GRACE_SECONDS)}
        return self._update(event_id, OVERDUE, changes, {":seen": requeue_at})

    def delete(self, event: Event) -> None:
        """Delete a copy under its claim, if it is still held: its subscription is gone."""
        key = serialize({"event_id": event.event_id})
        self._write("delete_item", "claim_id = :mine", {":mine": event.claim_id}, claim_id=None, Key=key)

    def get(self, event_id: str) -> Event | None:
        """Return the event, read consistently, or None."""
        return self._unexpired(self._get(event_id))

    def get_many(self, event_ids: Sequence[str]) -> dict[str, Event]:
        """Return those of up to 100 events that exist, by id, read consistently."""
        keys = [serialize({"event_id": event_id}) for event_id in event_ids]
        if not keys:
            return {}
        request = {self._name: {"Keys": keys, "ConsistentRead": True}}
        response = self._call("batch_get_item", RequestItems=request)
        if response.get("UnprocessedKeys"):  # throttled
            raise StorageUnavailableError
        events = map(self._unexpired, response["Responses"].get(self._name, ()))
        return {event.event_id: event for event in events if event}

    def _unexpired(self, item: Any) -> Event | None:
        event = Event.from_item(item) if item else None
        return event if event and event.expires_at > int(self._clock()) else None

    def _update(
        self,
        event_id: str,
        condition: str,
        changes: Values,
        values: Values | None = None,
        *,
        increment: str = "",
        **parameters: Any,
    ) -> WriteResult:
        """Set each attribute of `changes`, remove it if None, and add 1 to `increment`, if `condition` holds."""
        sets = ", ".join(f"#{name} = :new_{name}" for name, value in changes.items() if value is not None)
        removes = ", ".join(f"#{name}" for name, value in changes.items() if value is None)
        clauses = {"SET": sets, "REMOVE": removes, "ADD": f"{increment} :one" if increment else ""}
        return self._write(
            "update_item",
            condition,
            {":one": 1, **(values or {}), **{f":new_{name}": value for name, value in changes.items()}},
            claim_id=changes.get("claim_id"),
            Key=serialize({"event_id": event_id}),
            UpdateExpression=" ".join(f"{verb} {clause}" for verb, clause in clauses.items() if clause),
            **parameters,
        )

    def _write(
        self, operation: str, condition: str, values: Values, *, claim_id: str | int | None, **parameters: Any
    ) -> WriteResult:
        now = self._clock()
        known = {
            ":now": rfc3339(now),
            ":now_seconds": int(now),
            ":pending": Status.PENDING,
            ":failed": Status.FAILED,
            **values,
        }
        names, placeholders = _placeholders(f"{condition} {parameters.get('UpdateExpression', '')}")
        if names:
            parameters["ExpressionAttributeNames"] = names
        try:
            response = self._call(
                operation,
                ConditionExpression=condition,
                ExpressionAttributeValues=serialize({name: known[name] for name in placeholders}),
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
                **parameters,
            )
        except ClientError as failure:  # the condition does not hold
            current = self._unexpired(failure.response.get("Item"))
            return WriteResult(bool(current and claim_id and current.claim_id == claim_id), current)
        return WriteResult(True, Event.from_item(response["Attributes"]) if "Attributes" in response else None)


def partition(status: Status, shard: int) -> str:
    """Return the partition key of the index for a status and a shard, 0 to SHARDS - 1."""
    return f"{status}#{shard}"


def serialize(values: Values) -> Item:
    """Return values in DynamoDB's format, without those that are None."""
    return {
        name: {"N": str(value)} if isinstance(value, int) else {"S": str(value)}
        for name, value in values.items()
        if value is not None
    }


def _status(event_id: str, status: Status) -> Values:
    return {"status": status, "status_shard": partition(status, zlib.crc32(event_id.encode()) % SHARDS)}


def _attributes(event: Event) -> dict[str, Any]:
    copies = compact(event.copies) if event.copies else None
    encoded = {"attempts": _attempts(event), "copies": copies, "sort_key": event.sort_key}
    return {**vars(event), **encoded, **_status(event.event_id, event.status)}


def _attempts(event: Event) -> str:
    return compact([vars(attempt) for attempt in event.attempts])


@cache
def _placeholders(expressions: str) -> tuple[dict[str, str], frozenset[str]]:
    """Return the names and value placeholders of expressions: DynamoDB rejects unused ones."""
    return {name: name[1:] for name in re.findall(r"#\w+", expressions)}, frozenset(re.findall(r":\w+", expressions))
