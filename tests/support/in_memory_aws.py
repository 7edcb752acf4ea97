"""DynamoDB and SQS in memory, for tests that need thousands of calls in virtual time.

They have the calls of the boto3 clients that chalicelib makes, and respond as AWS does. They do not
validate requests, which tests with moto do, and have no limits of throughput and size. Expired
items and messages are deleted when `expire` is called.
"""
# ruff: noqa: N803  # parameters are called what boto3 calls them

import itertools
import json
import math
import re
import sys
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from threading import Lock
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

RESOURCES = Path(__file__).parent.parent.parent / "resources.json"
KEY = "event_id"
SORT = "sort_key"
VISIBLE = "ApproximateNumberOfMessages"
VISIBILITY_SECONDS = 300.0  # of every queue
NO_REDRIVE = ("", sys.maxsize)

Json = dict[str, Any]
Item = Json  # {"name": "text", "count": 1}: never changed once it is stored
Typed = Mapping[str, Mapping[str, str]]  # {"name": {"S": "text"}, "count": {"N": "1"}}
# Called with an item, which is empty if there is none, and the values of the expression by their
# placeholders.
Condition = Callable[[Item, Item], bool]


class FakeDynamoDB:
    """A client for one table, whatever its name, and its indexes with the projections of
    resources.json.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """Make an empty table.

        :param clock: Returns the time in Unix seconds.
        """
        # The items of the table by key.
        self.items: dict[str, Item] = {}
        # After how many rows a page of a query ends, as it does after 1 MB.
        self.page_rows = sys.maxsize
        # How long a write takes until the indexes show it.
        self.index_lag_seconds = 0.0
        # Called with the item before and after each write; None: there is none.
        self.on_write: Callable[[Item | None, Item | None], None] = lambda before, after: None
        # Called with the rows that a query read, before its filter.
        self.on_query: Callable[[list[Item]], None] = lambda rows: None
        # Called with the items that GetItem or BatchGetItem read.
        self.on_get: Callable[[list[Item]], None] = lambda items: None
        self._clock = clock
        self._indexes = {
            name: _Index(attributes.partition, attributes.projected)
            for name, attributes in indexes().items()
        }
        # The writes that the indexes do not show yet, each with the time from which on they do, the
        # key, and the item; None: the write deleted the item.
        self._pending: deque[tuple[float, str, Item | None]] = deque()
        # The tokens of the transactions that were made.
        self._tokens: set[str] = set()
        self._lock = Lock()

    def store(self, key: str, item: Item | None) -> None:
        """Store an item directly, not by a call; None deletes the item."""
        self._store([(key, item)])

    def expire(self, late_seconds: float) -> None:
        """Delete the items that have expired, as the TTL of DynamoDB does, which may be two days
        late.

        :param late_seconds: How long ago an item must have expired.
        """
        until = self._clock() - late_seconds
        for key, item in [*self.items.items()]:
            if item.get("expires_at", math.inf) <= until:
                self._store([(key, None)])

    def put_item(self, **parameters: Any) -> Json:
        """Put an item; raise ClientError if the condition fails."""
        self._store([self._put(**parameters)])
        return {}

    def update_item(self, *, ReturnValues: str = "NONE", **parameters: Any) -> Json:
        """Update an item, or make it if there is none; raise ClientError if the condition fails.

        :param ReturnValues: With `ALL_NEW`, the response has the item after the update.
        """
        key, item = self._update(**parameters)
        self._store([(key, item)])
        return {"Attributes": typed(item)} if ReturnValues == "ALL_NEW" else {}

    def delete_item(self, *, TableName: str, Key: Typed, **condition: Any) -> Json:
        """Delete an item, or do nothing if there is none; raise ClientError if the condition fails.

        :param condition: ConditionExpression and ExpressionAttributeValues; there may be neither.
        """
        key = Key[KEY]["S"]
        self._require(key, **condition)
        if key in self.items:
            self._store([(key, None)])
        return {}

    def transact_write_items(
        self, *, TransactItems: Sequence[Json], ClientRequestToken: str = ""
    ) -> Json:
        """Make all writes or, if the condition of one of them fails, none. Raise ClientError with
        the reason for each write in that case.

        :param TransactItems: For each write, a dict whose only member is `Put` or `Update`, with
            the parameters of the write.
        :param ClientRequestToken: The token of the transaction: if a transaction with this token
            was made, do nothing. "": the transaction has no token.
        """
        if ClientRequestToken in self._tokens:
            return {}
        prepare: dict[str, Callable[..., tuple[str, Item]]] = {
            "Put": self._put,
            "Update": self._update,
        }
        writes: list[tuple[str, Item]] = []
        reasons: list[Json] = []
        for transact_item in TransactItems:
            [(kind, parameters)] = transact_item.items()
            try:
                writes.append(prepare[kind](**parameters))
                reasons.append({"Code": "None"})  # DynamoDB's code of a write that does not fail
            except ClientError as error:
                code = error.response["Error"]["Code"].removesuffix("Exception")
                reason = {"Code": code}
                if "Item" in error.response:  # the present item
                    reason["Item"] = error.response["Item"]
                reasons.append(reason)
        has_failed = len(writes) < len(TransactItems)
        if has_failed:
            canceled = {"Error": {"Code": "TransactionCanceledException"}}
            raise ClientError({**canceled, "CancellationReasons": reasons}, "TransactWriteItems")
        self._store(writes)
        if ClientRequestToken:
            self._tokens.add(ClientRequestToken)
        return {}

    def get_item(self, *, TableName: str, Key: Typed, ConsistentRead: bool) -> Json:
        """Return a response with the item, or without `Item` if there is none. Every read is
        consistent.
        """
        item = self.items.get(Key[KEY]["S"])
        self.on_get([item] if item else [])
        return {} if item is None else {"Item": typed(item)}

    def batch_get_item(self, *, RequestItems: Mapping[str, Json]) -> Json:
        """Return a response with the items that exist, in the order of their keys.

        :param RequestItems: A dict whose only member, by the name of the table, has the `Keys`.
        """
        [(table_name, request)] = RequestItems.items()
        keys = [key[KEY]["S"] for key in request["Keys"]]
        items = [self.items[key] for key in keys if key in self.items]
        self.on_get(items)
        return {"Responses": {table_name: [*map(typed, items)]}, "UnprocessedKeys": {}}

    def query(
        self,
        *,
        IndexName: str,
        KeyConditionExpression: str,
        ExpressionAttributeValues: Typed,
        **options: Any,
    ) -> Json:
        """Return a page of the rows of an index in one partition. The page ends after `page_rows`
        rows or, if that is less, after `Limit` rows; both count the rows before the filter.

        :param KeyConditionExpression: A condition of the index's keys.
        :param ExpressionAttributeValues: The values of both expressions; `:partition` is the
            partition.
        :param options: FilterExpression, ExclusiveStartKey, Limit and ScanIndexForward; a query
            without them has no filter, and begins with the first row in ascending order. Others
            have no effect.
        """
        values = _plain(ExpressionAttributeValues)
        is_in_range = _condition(KeyConditionExpression)
        filter_expression = options.get("FilterExpression", "")
        passes_filter = _condition(filter_expression)
        after = None
        if "ExclusiveStartKey" in options:
            after = _position(_plain(options["ExclusiveStartKey"]))
        limit = min(options.get("Limit", sys.maxsize), self.page_rows)
        index = self._indexes[IndexName]
        # DynamoDB refuses a filter by a key of the index, and moto does not.
        filtered_by = {*re.findall(r"\w+", filter_expression)}
        assert not filtered_by & {index.partition, SORT}, "filter by a key"
        with self._lock:
            self._show_pending()
            is_forward = options.get("ScanIndexForward", True)
            rows = index.rows(values[":partition"], after, forward=is_forward)
            page = [row for row in rows if is_in_range(row, values)][:limit]
        kept = [typed(row) for row in page if passes_filter(row, values)]
        response: Json = {"Items": kept, "Count": len(kept)}
        if len(page) == limit:  # even when no row is left after the page, as in DynamoDB
            last = page[-1]
            key = {name: last[name] for name in (KEY, index.partition, SORT)}
            response["LastEvaluatedKey"] = typed(key)
        self.on_query(page)
        return response

    def _put(self, *, TableName: str, Item: Typed, **condition: Any) -> tuple[str, Item]:
        """Return the key and the item of a put, without storing it; raise ClientError if its
        condition fails.

        :param condition: ConditionExpression and ExpressionAttributeValues; there may be neither.
        """
        item = _plain(Item)
        self._require(item[KEY], **condition)
        return item[KEY], item

    def _update(
        self, *, TableName: str, Key: Typed, UpdateExpression: str, **condition: Any
    ) -> tuple[str, Item]:
        """Return the key and the changed item of an update, without storing it; raise ClientError
        if its condition fails. If there is no item, the changed item has only the key and the
        attributes that the update sets.

        :param condition: ConditionExpression and ExpressionAttributeValues; there may be neither.
        """
        key = Key[KEY]["S"]
        values = self._require(key, **condition)
        item = dict(self.items.get(key, {KEY: key}))
        for verb, name, placeholder in _changes(UpdateExpression):
            if verb == "SET":
                item[name] = values[placeholder]
            elif verb == "ADD":
                item[name] = item.get(name, 0) + values[placeholder]
            else:  # REMOVE
                item.pop(name, None)
        return key, item

    def _require(self, key: str, *, ConditionExpression: str = "", **options: Any) -> Item:
        """Check the condition of a write to an item; return the values of the write's expressions
        by their placeholders. Raise ClientError if the condition fails; the error has the present
        item, if there is one.

        :param ConditionExpression: The condition; "": the write has none.
        :param options: Has ExpressionAttributeValues, unless there are none; others have no effect.
        """
        values = _plain(options.get("ExpressionAttributeValues", {}))
        item = self.items.get(key)
        is_met = _condition(ConditionExpression)
        if not is_met(item or {}, values):
            response: Json = {"Error": {"Code": "ConditionalCheckFailedException"}}
            if item:
                response["Item"] = typed(item)
            raise ClientError(response, "Write")
        return values

    def _store(self, writes: Sequence[tuple[str, Item | None]]) -> None:
        """Store items, and then call `on_write` for each. The indexes show the items after
        `index_lag_seconds`.

        :param writes: The key and the item of each write; None deletes the item.
        """
        stored = []
        for key, item in writes:
            before = self.items.pop(key, None)  # so that a changed item becomes the last of `items`
            if item is not None:
                self.items[key] = item
            stored.append((before, item))
            shown_at = self._clock() + self.index_lag_seconds
            self._pending.append((shown_at, key, item))
        for before, after in stored:
            self.on_write(before, after)

    def _show_pending(self) -> None:
        """Let the indexes show the writes whose index lag has passed."""
        while self._pending:
            shown_at, key, item = self._pending[0]
            if shown_at > self._clock():
                return
            self._pending.popleft()
            for index in self._indexes.values():
                index.show(key, item)


@dataclass
class _Index:
    """An index, in which an item without the index's keys has no row."""

    # The name of the attribute that is the index's partition key.
    partition: str
    # The names of the attributes that a row has, if the item has them.
    projected: list[str]
    # The rows of each partition, by the key of their item.
    _partitions: defaultdict[str, dict[str, Item]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    # The partition in which each item has its row, by the key of the item.
    _partition_of: dict[str, str] = field(default_factory=dict)

    def rows(self, partition: str, after: tuple[str, str] | None, *, forward: bool) -> list[Item]:
        """Return the rows of a partition in order.

        :param after: The position of a row: only the rows after it, in the order of the result, are
            returned; None: all rows are.
        :param forward: Whether the order is ascending; otherwise it is descending.
        """
        rows = [*self._partitions[partition].values()]
        if after and forward:
            rows = [row for row in rows if _position(row) > after]
        elif after:
            rows = [row for row in rows if _position(row) < after]
        return sorted(rows, key=_position, reverse=not forward)

    def show(self, key: str, item: Item | None) -> None:
        """Replace the row of an item, or remove it if the item lacks one of the index's keys.

        :param item: The item; None: it was deleted.
        """
        old_partition = self._partition_of.pop(key, None)
        if old_partition is not None:
            del self._partitions[old_partition][key]
        if item and {self.partition, SORT} <= item.keys():
            partition = item[self.partition]
            row = {name: item[name] for name in self.projected if name in item}
            self._partition_of[key] = partition
            self._partitions[partition][key] = row


def typed(item: Item) -> dict[str, Json]:
    """Return an item, or other values by name, in DynamoDB's format: int as N, bytes as B, and all
    others, which must be str, as S.
    """
    kinds = {int: "N", bytes: "B"}
    values = {}
    for name, value in item.items():
        kind = kinds.get(type(value), "S")
        values[name] = {kind: str(value) if kind == "N" else value}
    return values


def _plain(item: Typed) -> Item:
    """Return an item, or other values by name, from DynamoDB's format: N as int, S as str, B as
    bytes.
    """
    values: Item = {}
    for name, typed_value in item.items():
        [(kind, value)] = typed_value.items()
        values[name] = int(value) if kind == "N" else value
    return values


class IndexAttributes(NamedTuple):
    """The names of the attributes of an index."""

    # The partition key.
    partition: str
    # All attributes of its rows: the keys of the table and the index, and the projected attributes.
    projected: list[str]


@cache
def indexes() -> dict[str, IndexAttributes]:
    """Return the attributes of each index of the table in resources.json, by the index's name."""
    table = json.loads(RESOURCES.read_text())["Resources"]["EventsTable"]["Properties"]
    attributes = {}
    for index in table["GlobalSecondaryIndexes"]:
        partition = index["KeySchema"][0]["AttributeName"]
        other_projected = index["Projection"]["NonKeyAttributes"]
        projected = [KEY, partition, SORT, *other_projected]
        attributes[index["IndexName"]] = IndexAttributes(partition, projected)
    return attributes


def _position(row: Item) -> tuple[str, str]:
    """Return the position of a row in its index: rows sort by sort key, then by the table's key."""
    return row[SORT], row[KEY]


@cache
def _changes(update: str) -> list[tuple[str, str, str]]:
    """Return the verb (SET, ADD or REMOVE), the attribute's name and the value's placeholder of
    each change in an update expression. The placeholder is empty for REMOVE.

    In `SET #a = :a, #b = :b`, the name of an attribute is its placeholder without `#`.
    """
    # "" before the first verb, and then by turns a verb and its changes, separated by commas.
    _, *clauses = re.split(r"\b(SET|REMOVE|ADD) ", update.replace("#", ""))
    changes = []
    for verb, clause in zip(clauses[::2], clauses[1::2], strict=True):
        for change in clause.split(","):
            name, *placeholder = change.replace("=", " ").split()
            changes.append((verb, name, "".join(placeholder)))
    return changes


@cache
def _condition(expression: str) -> Condition:
    """Return a condition expression as a Python function of an item and the expression's values. A
    comparison with an absent attribute is false.

    :param expression: An expression of DynamoDB; the condition "" is always met.
    """
    # The name of an attribute is its placeholder without `#`.
    source = expression.replace("#", "") or "True"
    for dynamodb, python in (
        (r"attribute_exists\((\w+)\)", r"('\1' in item)"),
        (r"attribute_not_exists\((\w+)\)", r"('\1' not in item)"),
        (r"begins_with\((\w+), (:\w+)\)", r"item.get('\1', '').startswith(\2)"),
        (r"(\w+) BETWEEN (:\w+) AND (:\w+)", r"(\2 <= item['\1'] <= \3)"),
        (r"(\w+) IN \(([^)]+)\)", r"(item.get('\1') in [\2])"),
        (r"(\w+) = (:\w+)", r"(item.get('\1') == \2)"),
        (r"(\w+) ([<>]=?) (:\w+)", r"('\1' in item and item['\1'] \2 \3)"),
        (r"(:\w+)", r"values['\1']"),
        (r"\bNOT\b", "not"),
        (r"\bAND\b", "and"),
        (r"\bOR\b", "or"),
    ):
        source = re.sub(dynamodb, python, source)
    condition: Condition = eval(f"lambda item, values: {source}")
    return condition


@dataclass
class _Message:
    """A message in a queue. Times are Unix seconds."""

    message_id: str
    body: str
    # Its message attributes.
    attributes: Typed
    # Its system attributes: the MessageGroupId, if it has one.
    system: Mapping[str, str]
    sent_at: float
    # The time from which on the message can be received.
    visible_at: float
    # The number in its latest receipt handle; 0: no handle of it is valid.
    receipt: int = 0
    # How often it was received.
    receives: int = 0

    def as_received(self) -> Json:
        """Return the message as `ReceiveMessage` returns it, without its receipt handle."""
        message = {
            "MessageId": self.message_id,
            "Body": self.body,
            "MessageAttributes": self.attributes,
        }
        return {**message, "Attributes": self.system}


class FakeSQS:
    """An SQS client for the queues that `queue` creates."""

    def __init__(self, clock: Callable[[], float], *, shuffle: Random | None = None) -> None:
        """Make a client without queues.

        :param clock: Returns the time in Unix seconds.
        :param shuffle: Chooses the messages that are received next, and decides which messages are
            received twice; None: the oldest are received next, and none is received twice.
        """
        # How likely a message that is received or deleted comes again before its visibility
        # timeout, as from a server of SQS that could not be reached. The extra receive does not
        # count towards the move to the DLQ. Has no effect without `shuffle`.
        self.duplicate_probability = 0.0
        # Called with the URL of the queue, the body and the delay of each message that is sent.
        self.on_send: Callable[[str, str, float], None] = lambda url, body, delay_seconds: None
        self._clock = clock
        self._shuffle = shuffle
        # The messages of each queue, by their ids, the oldest first.
        self._queues: defaultdict[str, dict[str, _Message]] = defaultdict(dict)
        # The `redrive` of each queue; see `queue`.
        self._redrives: dict[str, tuple[str, int]] = {}
        # Numbers of messages and of receipt handles.
        self._numbers = itertools.count(1)

    def queue(self, url: str, redrive: tuple[str, int] = NO_REDRIVE) -> None:
        """Create a queue.

        :param redrive: The URL of its dead letter queue, and the number of receives after which a
            message is moved there; NO_REDRIVE: messages are never moved.
        """
        self._redrives[url] = redrive

    def expire(self, url: str, retention_seconds: float) -> None:
        """Delete the old messages of a queue. The age of a message counts from when it was sent to
        its first queue, as in SQS: a move to the DLQ does not change it.

        :param retention_seconds: The age from which on messages are deleted; 0: all are.
        """
        since = self._clock() - retention_seconds
        for key, message in [*self._queues[url].items()]:
            if message.sent_at <= since:
                del self._queues[url][key]

    def messages(self, url: str) -> list[Json]:
        """Return all messages in a queue, including invisible ones."""
        return [message.as_received() for message in self._queues[url].values()]

    def visible(self, url: str) -> list[str]:
        """Return the ids of the messages that can be received from a queue now."""
        now = self._clock()
        return [key for key, message in self._queues[url].items() if message.visible_at <= now]

    def next_visible_at(self, url: str) -> float:
        """Return the time when the next message of a queue becomes visible, in Unix seconds;
        infinity if the queue is empty.
        """
        return min((message.visible_at for message in self._queues[url].values()), default=math.inf)

    def send_message(
        self,
        *,
        QueueUrl: str,
        MessageBody: str,
        MessageAttributes: Typed,
        DelaySeconds: int = 0,
        **system_attributes: str,
    ) -> Json:
        """Send a message, as boto3's client does; raise ClientError if the delay is invalid.

        :param system_attributes: Other parameters, such as MessageGroupId, which the message has
            among its `Attributes` when it is received.
        """
        if DelaySeconds not in range(901):  # SQS allows 0 to 900
            raise ClientError({"Error": {"Code": "InvalidParameterValue"}}, "SendMessage")
        message_id = f"00000000-0000-4000-8000-{next(self._numbers):012x}"
        now = self._clock()
        message = _Message(
            message_id,
            body=MessageBody,
            attributes=MessageAttributes,
            system=system_attributes,
            sent_at=now,
            visible_at=now + DelaySeconds,
        )
        self._queues[QueueUrl][message_id] = message
        self.on_send(QueueUrl, MessageBody, DelaySeconds)
        return {"MessageId": message_id}

    def send_message_batch(self, *, QueueUrl: str, Entries: Sequence[Json]) -> Json:
        """Send messages, as boto3's client does; raise ClientError if a delay is invalid."""
        return _batch(self.send_message, QueueUrl, Entries)

    def receive_message(self, *, QueueUrl: str, MaxNumberOfMessages: int, **options: Any) -> Json:
        """Receive visible messages, at most `MaxNumberOfMessages`, without waiting. Each becomes
        invisible for the visibility timeout. A message that was received too often is moved to the
        queue's DLQ instead.

        :param options: Have no effect: a message has all of its attributes, and there is no long
            poll.
        """
        queue = self._queues[QueueUrl]
        dlq_url, most_receives = self._redrives[QueueUrl]
        received: list[Json] = []
        candidates = self.visible(QueueUrl)
        if self._shuffle:
            number = min(len(candidates), MaxNumberOfMessages)
            candidates = self._shuffle.sample(candidates, number)
        for message_id in candidates:
            message = queue[message_id]
            if len(received) == MaxNumberOfMessages:
                break
            if message.receives >= most_receives:
                self._queues[dlq_url][message_id] = queue.pop(message_id)
                continue
            message.receipt = next(self._numbers)
            if not self._is_repeated(message):
                message.receives += 1
                message.visible_at = self._clock() + VISIBILITY_SECONDS
            handle = f"{message_id}/{message.receipt}"
            received.append({**message.as_received(), "ReceiptHandle": handle})
        return {"Messages": received}

    def delete_message(self, *, QueueUrl: str, ReceiptHandle: str) -> Json:
        """Delete a message. Do nothing if it is gone, or was received again since it got this
        receipt handle. With `duplicate_probability`, the message may be received once more.
        """
        queue = self._queues[QueueUrl]
        message_id, _, receipt = ReceiptHandle.partition("/")
        message = queue.get(message_id)
        if message and message.receipt == int(receipt):
            # If the message is received once more, this handle cannot delete it, and its receives
            # count from 0 again.
            message.receipt = 0
            message.receives = 0
            if not self._is_repeated(message):
                del queue[message_id]
        return {}

    def delete_message_batch(self, *, QueueUrl: str, Entries: Sequence[Json]) -> Json:
        """Delete messages, each as `delete_message` does."""
        return _batch(self.delete_message, QueueUrl, Entries)

    def get_queue_attributes(self, *, QueueUrl: str, AttributeNames: Sequence[str]) -> Json:
        """Return a response with the number of visible messages, whatever the names are."""
        return {"Attributes": {VISIBLE: str(len(self.visible(QueueUrl)))}}

    def _is_repeated(self, message: _Message) -> bool:
        """Decide by chance whether a message that is received or deleted now is received once more
        before its visibility timeout would end; return the decision. If it is, let it become
        visible again at a random moment within this time.
        """
        if self._shuffle is None or self._shuffle.random() >= self.duplicate_probability:
            return False
        message.visible_at = self._clock() + self._shuffle.random() * VISIBILITY_SECONDS
        return True


def _batch(act: Callable[..., Json], url: str, entries: Sequence[Json]) -> Json:
    """Call a method for each entry of a batch; return the response of the batch operation, in which
    every entry is successful. An error of the method is raised and ends the batch.

    :param act: The method, which takes `QueueUrl` and the members of an entry except `Id`.
    """
    successful = []
    for entry in entries:
        parameters = {name: value for name, value in entry.items() if name != "Id"}
        successful.append({"Id": entry["Id"], **act(QueueUrl=url, **parameters)})
    return {"Successful": successful}
