"""DynamoDB and SQS in memory, for tests that need thousands of calls in virtual time.

They know exactly what chalicelib asks of the boto3 clients, and answer as AWS does; whatever else is asked is no
ClientError but a TypeError or NotImplementedError. Not known here: throughput, retention, TTL, reserved words, and how
much a message, a page or a request may hold.
"""
# ruff: noqa: N803  # parameters are called what boto3 calls them

import itertools
import json
import re
import sys
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from operator import itemgetter
from pathlib import Path
from random import Random
from typing import Any

from botocore.exceptions import ClientError

RESOURCES = Path(__file__).parent.parent.parent / "resources.json"
KEY, PARTITION, SORT = "event_id", "status_shard", "sort_key"
MAX_ITEM_BYTES = 400 * 1024
VISIBLE = "ApproximateNumberOfMessages"

Item = dict[str, Any]  # {"name": "text", "count": 1}: never changed once it is stored
Typed = Mapping[str, Mapping[str, str]]  # {"name": {"S": "text"}, "count": {"N": "1"}}
Names = Mapping[str, str]
Condition = Callable[[Item, Names, Item], bool]


class FakeDynamoDB:
    """A client for one table, whatever its name, and its index `status-index` with the projection of resources.json.

    `page_rows` ends a page of a query after so many rows, as 1 MB does. `index_lag_seconds` is how long a write takes
    to show in the index. `on_write` is called with the item before and after each write; None stands for absent.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.page_rows = sys.maxsize
        self.index_lag_seconds = 0.0
        self.on_write: Callable[[Item | None, Item | None], None] = lambda before, after: None
        self._clock = clock
        self._projected = _projected()
        self._items: dict[str, Item] = {}
        self._rows: dict[str, Item] = {}
        self._partitions: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)  # sort key and key, in order
        self._pending: deque[tuple[float, str, Item | None]] = deque()  # writes that the index does not show yet

    def items(self) -> dict[str, dict[str, dict[str, str]]]:
        """Return the whole table by key, for tests: boto3 has no such call."""
        return {key: _typed(item) for key, item in self._items.items()}

    def put_item(self, *, TableName: str, Item: Typed, **condition: Any) -> dict[str, Any]:
        item = _checked("PutItem", _plain(Item))
        if condition:
            self._require("PutItem", item[KEY], "", **condition)
        self._store(item[KEY], item)
        return {}

    def update_item(
        self, *, TableName: str, Key: Typed, UpdateExpression: str, ReturnValues: str = "NONE", **condition: Any
    ) -> dict[str, Any]:
        key = _plain(Key)
        names, values = self._require("UpdateItem", key[KEY], UpdateExpression, **condition)
        item = key | self._items.get(key[KEY], {})
        changes = [(verb, names.get(path, path), value) for verb, path, value in _changes(UpdateExpression)]
        changed = {name for _, name, _ in changes}
        if len(changed) < len(changes) or KEY in changed:
            raise _invalid("UpdateItem", "Two document paths overlap, or one is the key")
        for verb, name, value in changes:
            if verb == "REMOVE":
                item.pop(name, None)
            else:
                item[name] = item.get(name, 0) + values[value] if verb == "ADD" else values[value]
        self._store(key[KEY], _checked("UpdateItem", item))
        return {"Attributes": _typed(item)} if ReturnValues == "ALL_NEW" else {}

    def delete_item(
        self, *, TableName: str, Key: Typed, ConditionExpression: str = "", **condition: Any
    ) -> dict[str, Any]:
        key = _plain(Key)[KEY]
        self._require("DeleteItem", key, "", ConditionExpression=ConditionExpression, **condition)
        if key in self._items:
            self._store(key, None)
        return {}

    def get_item(self, *, TableName: str, Key: Typed, ConsistentRead: bool) -> dict[str, Any]:
        item = self._items.get(_plain(Key)[KEY])
        return {} if item is None else {"Item": _typed(item)}

    def batch_get_item(self, *, RequestItems: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        ((table_name, request),) = RequestItems.items()
        keys = [_plain(key)[KEY] for key in request["Keys"]]
        if not 1 <= len(keys) <= 100 or len(set(keys)) < len(keys):
            raise _invalid("BatchGetItem", "Not 1 to 100 keys, or one of them twice")
        found = [self._items[key] for key in keys if key in self._items]
        return {"Responses": {table_name: [_typed(item) for item in found]}, "UnprocessedKeys": {}}

    def query(
        self,
        *,
        TableName: str,
        IndexName: str,
        KeyConditionExpression: str,
        ExpressionAttributeValues: Typed,
        ExpressionAttributeNames: Names | None = None,
        FilterExpression: str = "",
        ProjectionExpression: str = "",
        Limit: int = sys.maxsize,
        ScanIndexForward: bool = True,
        ExclusiveStartKey: Typed | None = None,
    ) -> dict[str, Any]:
        expressions = f"{KeyConditionExpression} {FilterExpression} {ProjectionExpression}"
        names, values = _placeholders("Query", expressions, ExpressionAttributeNames, ExpressionAttributeValues)
        partition, comparison, bound = _key_condition(KeyConditionExpression)
        keep = _condition(FilterExpression)
        wanted = [names.get(path, path) for path in re.findall(r"#?\w+", ProjectionExpression)]
        if self._projected and not self._projected.issuperset(wanted):
            raise _invalid("Query", f"The index does not project one of {wanted}")
        self._update_index()
        places = self._partitions.get(values[partition], [])
        low = bisect_right(places, values[bound], key=itemgetter(0)) if comparison == ">" else 0
        high = bisect_left(places, values[bound], key=itemgetter(0)) if comparison == "<" else len(places)
        if ExclusiveStartKey and ScanIndexForward:
            low = max(low, bisect_right(places, _place(_plain(ExclusiveStartKey))))
        elif ExclusiveStartKey:
            high = min(high, bisect_left(places, _place(_plain(ExclusiveStartKey))))
        most = min(Limit, self.page_rows)
        places = places[low:high]
        page = places[:most] if ScanIndexForward else places[: -most - 1 : -1]
        rows = [self._rows[key] for _, key in page]
        kept = [row for row in rows if keep(row, names, values)]
        shown = [{name: row[name] for name in wanted if name in row} for row in kept] if wanted else kept
        answer: Item = {"Items": [_typed(row) for row in shown], "Count": len(kept), "ScannedCount": len(rows)}
        if len(rows) == most:  # even when nothing is left after them, as in DynamoDB
            answer["LastEvaluatedKey"] = _typed({name: rows[-1][name] for name in (KEY, PARTITION, SORT)})
        return answer

    def _require(
        self,
        operation: str,
        key: str,
        update: str,
        *,
        ConditionExpression: str,
        ExpressionAttributeValues: Typed | None = None,
        ExpressionAttributeNames: Names | None = None,
        ReturnValuesOnConditionCheckFailure: str = "NONE",
    ) -> tuple[Names, Item]:
        """Return the names and values of a write whose condition holds; raise ClientError if it does not."""
        expressions = f"{ConditionExpression} {update}"
        names, values = _placeholders(operation, expressions, ExpressionAttributeNames, ExpressionAttributeValues)
        item = self._items.get(key, {})
        if not _condition(ConditionExpression)(item, names, values):
            shown = {"Item": _typed(item)} if item and ReturnValuesOnConditionCheckFailure == "ALL_OLD" else {}
            raise _error(operation, "ConditionalCheckFailedException", "The conditional request failed", **shown)
        return names, values

    def _store(self, key: str, item: Item | None) -> None:
        before = self._items.pop(key, None)
        if item is not None:
            self._items[key] = item
        self._pending.append((self._clock() + self.index_lag_seconds, key, item))
        self._update_index()
        self.on_write(before, item)

    def _update_index(self) -> None:
        while self._pending and self._pending[0][0] <= self._clock():
            _, key, item = self._pending.popleft()
            if old := self._rows.pop(key, None):
                places = self._partitions[old[PARTITION]]
                del places[bisect_left(places, _place(old))]
            if item and PARTITION in item and SORT in item:
                self._rows[key] = {name: item[name] for name in self._projected or item if name in item}
                insort(self._partitions[item[PARTITION]], _place(item))


@cache
def _projected() -> frozenset[str]:
    """Return the attributes that the index shows; none stands for all."""
    (index,) = json.loads(RESOURCES.read_text())["Resources"]["EventsTable"]["Properties"]["GlobalSecondaryIndexes"]
    projection = index["Projection"]
    named = projection.get("NonKeyAttributes", ())
    return frozenset() if projection["ProjectionType"] == "ALL" else frozenset({KEY, PARTITION, SORT, *named})


def _place(row: Item) -> tuple[str, str]:
    return row[SORT], row[KEY]


def _plain(typed: Typed) -> Item:
    return {name: int(value["N"]) if "N" in value else value["S"] for name, value in typed.items()}


def _typed(item: Item) -> dict[str, dict[str, str]]:
    return {name: {"N": str(value)} if isinstance(value, int) else {"S": value} for name, value in item.items()}


def _checked(operation: str, item: Item) -> Item:
    if len("".join([*item, *map(str, item.values())]).encode()) > MAX_ITEM_BYTES:  # but for a few bytes of numbers
        raise _invalid(operation, "Item size has exceeded the maximum allowed size")
    if "" in (item[KEY], item.get(PARTITION), item.get(SORT)):
        raise _invalid(operation, "A key is empty")
    return item


def _error(operation: str, code: str, message: str, **members: Any) -> ClientError:
    response: Any = {"Error": {"Code": code, "Message": message}, **members}
    return ClientError(response, operation)


def _invalid(operation: str, message: str) -> ClientError:
    return _error(operation, "ValidationException", message)


def _placeholders(operation: str, expressions: str, names: Names | None, values: Typed | None) -> tuple[Names, Item]:
    """Return names and values; raise ClientError unless they are exactly those that the expressions use."""
    for given, used in zip((names, values), _used(expressions), strict=True):
        if set(given or ()) != used or (given is not None and not given):
            raise _invalid(operation, f"Undefined, or unused in expressions, or empty: {used ^ set(given or ())}")
    return names or {}, _plain(values or {})


@cache
def _used(expressions: str) -> tuple[frozenset[str], frozenset[str]]:
    return frozenset(re.findall(r"#\w+", expressions)), frozenset(re.findall(r":\w+", expressions))


def _matched(pattern: str, text: str, at: int = 0) -> re.Match[str]:
    found = re.compile(pattern).match(text, at)
    if found is None:
        raise NotImplementedError(text[at:])
    return found


@cache
def _key_condition(text: str) -> tuple[str, str, str]:
    """Return the partition's placeholder, and comparison and placeholder of a bound, if there is one."""
    found = _matched(rf"{PARTITION} = (:\w+)(?: AND {SORT} ([<>]) (:\w+))?$", text)
    return found[1], found[2] or "", found[3] or ""


@cache
def _changes(text: str) -> list[tuple[str, str, str]]:
    """Return verb, path and placeholder (of REMOVE: empty) of each change in an update expression."""
    shapes = {"SET": r"\s*(#?\w+) = (:\w+)\s*$", "REMOVE": r"\s*(#?\w+)()\s*$", "ADD": r"\s*(#?\w+) (:\w+)\s*$"}
    before, *clauses = re.split(r"\b(SET|REMOVE|ADD) ", text)
    _matched("$", before)
    pairs = zip(clauses[::2], clauses[1::2], strict=True)
    found = [(verb, _matched(shapes[verb], change)) for verb, clause in pairs for change in clause.split(",")]
    return [(verb, match[1], match[2]) for verb, match in found]


@cache
def _condition(text: str) -> Condition:
    """Return a condition as a Python function. A comparison with an attribute that is missing does not hold."""
    comparison = r"(#?\w+) (=|<=?|>=?) (:\w+)|(#?\w+) IN \((:[:\w, ]+)\)"
    term = rf" *(?:attribute_(not_)?exists\((#?\w+)\)|{comparison}|(AND|OR|[()])) *"
    source, at = ["lambda item, names, values:"], 0
    while at < len(text):
        found = _matched(term, text, at)
        at = found.end()
        absent, tested, compared, operator, value, member, group, word = found.groups("")
        path = tested or compared or member
        name = f"names[{path!r}]" if path.startswith("#") else repr(path)
        if tested:
            source.append(f"({name} {'not ' if absent else ''}in item)")
        elif compared:
            operator = "==" if operator == "=" else operator
            source.append(f"({name} in item and item[{name}] {operator} values[{value!r}])")
        elif member:
            these = ", ".join(f"values[{each.strip()!r}]" for each in group.split(","))
            source.append(f"({name} in item and item[{name}] in [{these}])")
        else:
            source.append(word.lower())
    condition: Condition = eval(" ".join(source) if text else "lambda item, names, values: True")
    return condition


@dataclass(eq=False)
class _Message:
    """A message that can be received from `visible_at`. `receipt` is the number in its latest receipt handle."""

    message_id: str
    body: str
    attributes: Typed
    visible_at: float
    receipt: int = 0
    receives: int = 0

    def shown(self) -> dict[str, Any]:
        attributes = {name: dict(value) for name, value in self.attributes.items()}
        shown: dict[str, Any] = {"MessageId": self.message_id, "Body": self.body}
        return {**shown, "MessageAttributes": attributes} if attributes else shown


@dataclass
class _Queue:
    visibility_timeout: float
    redrive: tuple[str, int] | None
    messages: dict[str, _Message] = field(default_factory=dict)


class FakeSQS:
    """A client for the queues that `queue` makes. WaitTimeSeconds is not waited for.

    Messages come in the order of sending, or with `shuffle` in any. With `duplicate_probability` (settable) one that
    was received comes again before its visibility timeout, and one that was deleted comes again, as from a server of
    SQS that was out of reach; neither brings it nearer to the DLQ.
    """

    def __init__(
        self, clock: Callable[[], float], *, shuffle: Random | None = None, duplicate_probability: float = 0
    ) -> None:
        self._clock = clock
        self._shuffle = shuffle
        self.duplicate_probability = duplicate_probability
        self._queues: dict[str, _Queue] = {}
        self._numbers = itertools.count(1)

    def queue(self, url: str, visibility_timeout: float = 300, redrive: tuple[str, int] | None = None) -> None:
        """Make a queue; `redrive` is the URL of its DLQ, and after how many receives messages go there."""
        self._queues[url] = _Queue(visibility_timeout, redrive)

    def messages(self, url: str) -> list[dict[str, Any]]:
        """Return every message in a queue, hidden ones too, for tests: boto3 has no such call."""
        return [message.shown() for message in self._queues[url].messages.values()]

    def visible(self, url: str) -> list[str]:
        """Return the ids of the messages that a queue would give now, for tests."""
        now = self._clock()
        return [key for key, message in self._queue(url).messages.items() if message.visible_at <= now]

    def send_message(self, *, QueueUrl: str, **message: Any) -> dict[str, Any]:
        return self._send(self._queue(QueueUrl), **message)

    def send_message_batch(self, *, QueueUrl: str, Entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return self._batch(self._send, QueueUrl, Entries)

    def receive_message(
        self,
        *,
        QueueUrl: str,
        MaxNumberOfMessages: int = 1,
        WaitTimeSeconds: int = 0,
        MessageAttributeNames: Sequence[str] = ("All",),
    ) -> dict[str, Any]:
        if MaxNumberOfMessages not in range(1, 11) or WaitTimeSeconds not in range(21):
            raise _error("ReceiveMessage", "InvalidParameterValue", "1 to 10 messages, 0 to 20 seconds")
        queue = self._queue(QueueUrl)
        received: list[dict[str, Any]] = []
        candidates = self.visible(QueueUrl)
        if self._shuffle:
            self._shuffle.shuffle(candidates)
        for message in map(queue.messages.__getitem__, candidates):
            if len(received) == MaxNumberOfMessages:
                break
            if queue.redrive and message.receives >= queue.redrive[1]:
                del queue.messages[message.message_id]
                self._queues[queue.redrive[0]].messages[message.message_id] = replace(message, receives=0)
                continue
            message.receipt = next(self._numbers)
            if not self._is_repeated(queue, message):
                message.receives += 1
                message.visible_at = self._clock() + queue.visibility_timeout
            received.append({**message.shown(), "ReceiptHandle": f"{message.message_id}/{message.receipt}"})
        return {"Messages": received} if received else {}

    def delete_message(self, *, QueueUrl: str, ReceiptHandle: str) -> dict[str, Any]:
        return self._delete(self._queue(QueueUrl), ReceiptHandle=ReceiptHandle)

    def delete_message_batch(self, *, QueueUrl: str, Entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return self._batch(self._delete, QueueUrl, Entries)

    def get_queue_attributes(self, *, QueueUrl: str, AttributeNames: Sequence[str]) -> dict[str, Any]:
        if list(AttributeNames) != [VISIBLE]:
            raise NotImplementedError(AttributeNames)
        return {"Attributes": {VISIBLE: str(len(self.visible(QueueUrl)))}}

    def _queue(self, url: str) -> _Queue:
        if url not in self._queues:
            raise _error("any", "AWS.SimpleQueueService.NonExistentQueue", url)
        return self._queues[url]

    def _batch(
        self, act: Callable[..., dict[str, Any]], url: str, entries: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """Answer a batch: a fault in one entry costs no other."""
        if not 1 <= len(entries) <= 10 or len({entry["Id"] for entry in entries}) < len(entries):
            raise _error("batch", "AWS.SimpleQueueService.InvalidBatch", "Not 1 to 10 entries, or an Id twice")
        answer: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        for entry in entries:
            parameters = {name: value for name, value in entry.items() if name != "Id"}
            try:
                answer["Successful"].append({"Id": entry["Id"], **act(self._queue(url), **parameters)})
            except ClientError as error:
                answer["Failed"].append({"Id": entry["Id"], "SenderFault": True, **error.response["Error"]})
        return dict(answer)

    def _send(
        self, queue: _Queue, *, MessageBody: str, MessageAttributes: Typed | None = None, DelaySeconds: int = 0
    ) -> dict[str, Any]:
        attributes = {name: dict(value) for name, value in (MessageAttributes or {}).items()}
        texts = (MessageBody, *(value["StringValue"] for value in attributes.values()))
        if DelaySeconds not in range(901) or not all(texts):
            raise _error("SendMessage", "InvalidParameterValue", "A delay that is not 0 to 900, or an empty text")
        message_id = f"00000000-0000-4000-8000-{next(self._numbers):012x}"
        visible_at = self._clock() + DelaySeconds
        queue.messages[message_id] = _Message(message_id, MessageBody, attributes, visible_at)
        return {"MessageId": message_id}

    def _delete(self, queue: _Queue, *, ReceiptHandle: str) -> dict[str, Any]:
        message_id, separator, receipt = ReceiptHandle.partition("/")
        if not separator:
            raise _error("DeleteMessage", "ReceiptHandleIsInvalid", ReceiptHandle)
        message = queue.messages.get(message_id)
        if message and message.receipt == int(receipt):
            message.receipt = message.receives = 0
            if not self._is_repeated(queue, message):
                del queue.messages[message_id]
        return {}

    def _is_repeated(self, queue: _Queue, message: _Message) -> bool:
        """Return whether the message comes again too early, and hide it until then if it does."""
        if self._shuffle is None or self._shuffle.random() >= self.duplicate_probability:
            return False
        message.visible_at = self._clock() + self._shuffle.random() * queue.visibility_timeout
        return True
