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
from typing import Any

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
Condition = Callable[[Item, Item], bool]


class FakeDynamoDB:
    """A client for one table, whatever its name, and its indexes with the projections of
    resources.json.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        # The table by key.
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
            name: _Index(partition, shown) for name, (partition, shown) in indexes().items()
        }
        # writes that the indexes do not show yet
        self._pending: deque[tuple[float, str, Item | None]] = deque()
        self._tokens: set[str] = set()  # of the transactions that were made
        self._lock = Lock()

    def store(self, key: str, item: Item | None) -> None:
        """Store an item directly, not by a call; None deletes the item."""
        self._store([(key, item)])

    def expire(self, late_seconds: float) -> None:
        """Delete the items that expired at least so many seconds ago, as TTL does. TTL may be two
        days late.
        """
        until = self._clock() - late_seconds
        for key, item in [*self.items.items()]:
            if item.get("expires_at", math.inf) <= until:
                self._store([(key, None)])

    def put_item(self, **parameters: Any) -> Json:
        self._store([self._put(**parameters)])
        return {}

    def update_item(self, *, ReturnValues: str = "NONE", **parameters: Any) -> Json:
        key, item = self._update(**parameters)
        self._store([(key, item)])
        return {"Attributes": typed(item)} if ReturnValues == "ALL_NEW" else {}

    def delete_item(self, *, TableName: str, Key: Typed, **condition: Any) -> Json:
        key = Key[KEY]["S"]
        self._require(key, **condition)
        if key in self.items:
            self._store([(key, None)])
        return {}

    def transact_write_items(
        self, *, TransactItems: Sequence[Json], ClientRequestToken: str = ""
    ) -> Json:
        """Make all writes or none. A transaction with the token of one that was made does
        nothing.
        """
        if ClientRequestToken in self._tokens:
            return {}
        prepare: dict[str, Callable[..., tuple[str, Item]]] = {
            "Put": self._put,
            "Update": self._update,
        }
        writes: list[tuple[str, Item]] = []
        reasons: list[Json] = []
        for ((kind, parameters),) in map(Mapping.items, TransactItems):
            try:
                writes.append(prepare[kind](**parameters))
                reasons.append({"Code": "None"})
            except ClientError as error:
                code = error.response["Error"]["Code"].removesuffix("Exception")
                shown = {name: error.response[name] for name in ("Item",) if name in error.response}
                reasons.append({"Code": code, **shown})
        if len(writes) < len(reasons):
            canceled = {"Error": {"Code": "TransactionCanceledException"}}
            raise ClientError({**canceled, "CancellationReasons": reasons}, "TransactWriteItems")
        self._store(writes)
        self._tokens |= {ClientRequestToken} - {""}
        return {}

    def get_item(self, *, TableName: str, Key: Typed, ConsistentRead: bool) -> Json:
        item = self.items.get(Key[KEY]["S"])
        self.on_get([item] if item else [])
        return {} if item is None else {"Item": typed(item)}

    def batch_get_item(self, *, RequestItems: Mapping[str, Json]) -> Json:
        ((table_name, request),) = RequestItems.items()
        keys = [key[KEY]["S"] for key in request["Keys"]]
        found = [self.items[key] for key in keys if key in self.items]
        self.on_get(found)
        return {"Responses": {table_name: [*map(typed, found)]}, "UnprocessedKeys": {}}

    def query(
        self,
        *,
        IndexName: str,
        KeyConditionExpression: str,
        ExpressionAttributeValues: Typed,
        **options: Any,
    ) -> Json:
        values = _plain(ExpressionAttributeValues)
        in_range = _condition(KeyConditionExpression)
        kept_if = options.get("FilterExpression", "")
        keep = _condition(kept_if)
        start = (
            _place(_plain(options["ExclusiveStartKey"])) if "ExclusiveStartKey" in options else None
        )
        most = min(options.get("Limit", sys.maxsize), self.page_rows)
        index = self._indexes[IndexName]
        # as DynamoDB does, and moto does not
        assert not {index.partition, SORT} & {*re.findall(r"\w+", kept_if)}, "filter by a key"
        with self._lock:
            self._show_pending()
            rows = index.rows(
                values[":partition"], start, forward=options.get("ScanIndexForward", True)
            )
            page = [row for row in rows if in_range(row, values)][:most]
        kept = [typed(row) for row in page if keep(row, values)]
        answer: Json = {"Items": kept, "Count": len(kept)}
        if len(page) == most:  # even when nothing is left after them, as in DynamoDB
            answer["LastEvaluatedKey"] = typed(
                {name: page[-1][name] for name in (KEY, index.partition, SORT)}
            )
        self.on_query(page)
        return answer

    def _put(self, *, TableName: str, Item: Typed, **condition: Any) -> tuple[str, Item]:
        """Return the key and the item of a put; raise ClientError if its condition fails."""
        item = _plain(Item)
        self._require(item[KEY], **condition)
        return item[KEY], item

    def _update(
        self, *, TableName: str, Key: Typed, UpdateExpression: str, **condition: Any
    ) -> tuple[str, Item]:
        """Return the key and the changed item of an update; raise ClientError if its condition
        fails.
        """
        key = Key[KEY]["S"]
        values = self._require(key, **condition)
        item = dict(self.items.get(key, {KEY: key}))
        for verb, name, placeholder in _changes(UpdateExpression):
            if verb == "SET":
                item[name] = values[placeholder]
            elif verb == "ADD":
                item[name] = item.get(name, 0) + values[placeholder]
            else:
                item.pop(name, None)
        return key, item

    def _require(self, key: str, *, ConditionExpression: str = "", **options: Any) -> Item:
        """Check the condition of a write to an item; return the values of the write's expressions.
        Raise ClientError with the present item if the condition fails.
        """
        values = _plain(options.get("ExpressionAttributeValues", {}))
        item = self.items.get(key)
        if not _condition(ConditionExpression)(item or {}, values):
            shown = {"Item": typed(item)} if item else {}
            raise ClientError(
                {"Error": {"Code": "ConditionalCheckFailedException"}, **shown}, "Write"
            )
        return values

    def _store(self, writes: Sequence[tuple[str, Item | None]]) -> None:
        """Store items by key, all at once; None deletes the item."""
        stored = []
        for key, item in writes:
            stored.append((self.items.pop(key, None), item))
            if item is not None:
                self.items[key] = item
            self._pending.append((self._clock() + self.index_lag_seconds, key, item))
        for before, after in stored:
            self.on_write(before, after)

    def _show_pending(self) -> None:
        """Let the indexes show the writes whose index lag has passed."""
        while self._pending and self._pending[0][0] <= self._clock():
            _, key, item = self._pending.popleft()
            for index in self._indexes.values():
                index.show(key, item)


@dataclass
class _Index:
    """An index, in which an item without the index's keys has no row."""

    partition: str
    projected: list[str]
    _partitions: defaultdict[str, dict[str, Item]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    _places: dict[str, str] = field(default_factory=dict)  # the partition of each key

    def rows(self, partition: str, start: tuple[str, str] | None, *, forward: bool) -> list[Item]:
        """Return the rows of a partition in order, from after `start` on; None: from the first."""
        rows = [*self._partitions[partition].values()]
        if start and forward:
            rows = [row for row in rows if _place(row) > start]
        elif start:
            rows = [row for row in rows if _place(row) < start]
        return sorted(rows, key=_place, reverse=not forward)

    def show(self, key: str, item: Item | None) -> None:
        """Let the index show an item; None: its row goes."""
        self._partitions[self._places.pop(key, "")].pop(key, None)
        if item and {self.partition, SORT} <= item.keys():
            place = self._places[key] = item[self.partition]
            row = {name: item[name] for name in self.projected if name in item}
            self._partitions[place][key] = row


def typed(item: Item) -> dict[str, Json]:
    """Return an item in DynamoDB's format."""
    kinds = {int: "N", bytes: "B"}
    return {
        name: {kind: str(value) if kind == "N" else value}
        for name, value in item.items()
        if (kind := kinds.get(type(value), "S"))
    }


def _plain(item: Typed) -> Item:
    """Return an item, or other values, from DynamoDB's format: N as int, S as str, B as bytes."""
    return {
        name: int(value["N"]) if "N" in value else next(iter(value.values()))  # text or bytes
        for name, value in item.items()
    }


@cache
def indexes() -> dict[str, tuple[str, list[str]]]:
    """Return the partition key and the projected attributes of each index in resources.json, by the
    name of the index.
    """
    table = json.loads(RESOURCES.read_text())["Resources"]["EventsTable"]["Properties"]
    keys = {
        index["IndexName"]: index["KeySchema"][0]["AttributeName"]
        for index in table["GlobalSecondaryIndexes"]
    }
    shown = {
        index["IndexName"]: index["Projection"]["NonKeyAttributes"]
        for index in table["GlobalSecondaryIndexes"]
    }
    return {name: (key, [KEY, key, SORT, *shown[name]]) for name, key in keys.items()}


def _place(row: Item) -> tuple[str, str]:
    """Return the position of a row in its index: rows sort by sort key, then by the table's key."""
    return row[SORT], row[KEY]


@cache
def _changes(update: str) -> list[tuple[str, str, str]]:
    """Return the verb (SET, ADD or REMOVE), the attribute's name and the value's placeholder of
    each change in an update expression. The placeholder is empty for REMOVE.
    """
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
    """
    # a #name stands for the attribute that is called so
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
    # The number in its latest receipt handle; 0: it has none.
    receipt: int = 0
    # How often it was received.
    receives: int = 0

    def shown(self) -> Json:
        """Return the message as `ReceiveMessage` returns it, without its receipt handle."""
        message = {
            "MessageId": self.message_id,
            "Body": self.body,
            "MessageAttributes": self.attributes,
        }
        return {**message, "Attributes": self.system}


class FakeSQS:
    """An SQS client for the queues that `queue` creates.

    :param shuffle: Chooses the messages that are received next; None: the oldest messages.
    """

    def __init__(self, clock: Callable[[], float], *, shuffle: Random | None = None) -> None:
        # How likely a message that is received or deleted comes again before its visibility
        # timeout, as from a server of SQS that could not be reached. That receive does not count
        # for the DLQ. Needs `shuffle`.
        self.duplicate_probability = 0.0
        # Called with the URL of the queue, the body and the delay of each message that is sent.
        self.on_send: Callable[[str, str, float], None] = lambda url, body, delay_seconds: None
        self._clock = clock
        self._shuffle = shuffle
        self._queues: defaultdict[str, dict[str, _Message]] = defaultdict(dict)
        self._redrives: dict[str, tuple[str, int]] = {}
        self._numbers = itertools.count(1)

    def queue(self, url: str, redrive: tuple[str, int] = NO_REDRIVE) -> None:
        """Create a queue.

        :param redrive: The URL of its dead letter queue, and the number of receives after which a
            message is moved there.
        """
        self._redrives[url] = redrive

    def expire(self, url: str, retention_seconds: float) -> None:
        """Delete the messages of a queue that were sent at least so many seconds ago. The age of a
        message counts from its first queue, as in SQS.
        """
        since = self._clock() - retention_seconds
        for key, message in [*self._queues[url].items()]:
            if message.sent_at <= since:
                del self._queues[url][key]

    def messages(self, url: str) -> list[Json]:
        """Return all messages in a queue, including invisible ones."""
        return [message.shown() for message in self._queues[url].values()]

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
        """Send a message, as boto3's client does.

        :param system_attributes: Others, such as MessageGroupId, which the received message has.
        """
        if DelaySeconds not in range(901):
            raise ClientError({"Error": {"Code": "InvalidParameterValue"}}, "SendMessage")
        message_id = f"00000000-0000-4000-8000-{next(self._numbers):012x}"
        now = self._clock()
        visible_at = now + DelaySeconds
        message = _Message(
            message_id, MessageBody, MessageAttributes, system_attributes, now, visible_at
        )
        self._queues[QueueUrl][message_id] = message
        self.on_send(QueueUrl, MessageBody, DelaySeconds)
        return {"MessageId": message_id}

    def send_message_batch(self, *, QueueUrl: str, Entries: Sequence[Json]) -> Json:
        return _batch(self.send_message, QueueUrl, Entries)

    def receive_message(self, *, QueueUrl: str, MaxNumberOfMessages: int, **shown: Any) -> Json:
        queue = self._queues[QueueUrl]
        (dlq, most_receives) = self._redrives[QueueUrl]
        received: list[Json] = []
        candidates = self.visible(QueueUrl)
        if self._shuffle:
            most = min(len(candidates), MaxNumberOfMessages)
            candidates = self._shuffle.sample(candidates, most)
        for message in map(queue.__getitem__, candidates):
            if len(received) == MaxNumberOfMessages:
                break
            if message.receives >= most_receives:
                self._queues[dlq][message.message_id] = queue.pop(message.message_id)
                continue
            message.receipt = next(self._numbers)
            if not self._is_repeated(message):
                message.receives += 1
                message.visible_at = self._clock() + VISIBILITY_SECONDS
            received.append(
                {**message.shown(), "ReceiptHandle": f"{message.message_id}/{message.receipt}"}
            )
        return {"Messages": received}

    def delete_message(self, *, QueueUrl: str, ReceiptHandle: str) -> Json:
        queue = self._queues[QueueUrl]
        message_id, _, receipt = ReceiptHandle.partition("/")
        message = queue.get(message_id)
        if message and message.receipt == int(receipt):
            message.receipt = message.receives = 0
            if not self._is_repeated(message):
                del queue[message_id]
        return {}

    def delete_message_batch(self, *, QueueUrl: str, Entries: Sequence[Json]) -> Json:
        return _batch(self.delete_message, QueueUrl, Entries)

    def get_queue_attributes(self, *, QueueUrl: str, AttributeNames: Sequence[str]) -> Json:
        return {"Attributes": {VISIBLE: str(len(self.visible(QueueUrl)))}}

    def _is_repeated(self, message: _Message) -> bool:
        """Decide by chance whether a message will be received once more before its visibility
        timeout ends; if so, hide it until then, and return True.
        """
        if self._shuffle is None or self._shuffle.random() >= self.duplicate_probability:
            return False
        message.visible_at = self._clock() + self._shuffle.random() * VISIBILITY_SECONDS
        return True


def _batch(act: Callable[..., Json], url: str, entries: Sequence[Json]) -> Json:
    """Call a method for each entry of a batch, and return the response of the batch operation."""
    successful = []
    for entry in entries:
        parameters = {name: value for name, value in entry.items() if name != "Id"}
        successful.append({"Id": entry["Id"], **act(QueueUrl=url, **parameters)})
    return {"Successful": successful}
