"""The product's requests to its table, recorded from a storm, to be made to another table, too."""

import ast
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from botocore.exceptions import ClientError

from chalicelib.core.store import RESTART_SECONDS
from chalicelib.infra.queue import WEBHOOK
from chalicelib.operations.schedules import publish_depths
from tests.simulator.simulated_world import TABLE, Container
from tests.simulator.simulation import StormWorld
from tests.support.in_memory_aws import KEY, SORT, FakeDynamoDB, indexes, typed
from tests.support.world import ROOT, Clock, Json
from tools.stage import read_template

Item = Json  # in DynamoDB's format

STORMS = (7, 10, *range(6))  # the first two have every condition today
PAIRS = 4
OPERATIONS = ("put_item", "update_item", "delete_item", "transact_write_items", "query")
CONDITIONS = ("KeyConditionExpression", "FilterExpression", "ConditionExpression")
# A part of a condition: a function, or a comparison with a placeholder.
PART = re.compile(r"attribute_(not_)?exists\(|begins_with\(|(=|<|>|BETWEEN|IN) \(?:\w")
FUNCTIONS = ("attribute_exists", "attribute_not_exists", "begins_with")


@dataclass(frozen=True)
class Request:
    """A request that the product made."""

    # The operation as boto3 names it, such as `put_item`.
    operation: str
    parameters: Json
    # For a write, or each write of a transaction, the item before the write; None: there was none.
    # For a query, one row of the partition that was queried.
    items: Sequence[Item | None]

    @property
    def writes(self) -> list[Json]:
        """The parameters of each write of a transaction; for any other request, its own parameters
        alone, also those of a query.
        """
        transact_items = self.parameters.get("TransactItems")
        if transact_items is None:
            return [self.parameters]
        # Each has one member: `Put` or `Update`, with the parameters.
        return [write for transact_item in transact_items for write in transact_item.values()]

    @property
    def keys(self) -> list[Item]:
        """The key of the item of each write or, for a query, the key of its row."""
        if self.operation == "query":
            return [_key_of(item) for item in self.items if item]
        return [_key_of(write) for write in self.writes]

    @property
    def conditions(self) -> tuple[str, ...]:
        """The condition of each write or of the query, as `condition_of` returns it."""
        return tuple(map(condition_of, self.writes))

    @property
    def updates(self) -> tuple[str, ...]:
        """The update expression of each write; "": it has none."""
        return tuple(write.get("UpdateExpression", "") for write in self.writes)

    def variants(self, random: Random) -> Iterator[list[Item | None]]:
        """Yield lists like `items`, each with a variant of one of the items in its place: the item
        unchanged, no item (None), and the item with one or two changes, as `changes_of` returns
        them: other values of the attributes that the condition of its write reads.

        :param random: Chooses the pairs of changes, PAIRS for each item.
        """
        for index, write in enumerate(self.writes):
            original = self.items[index]
            if original:
                item = original
            elif "Item" in write:  # a put: the item that it stores
                item = write["Item"]
            else:
                item = {SORT: {"S": "0"}, **write["Key"]}
            changes = [*changes_of(write)]
            pairs = [*itertools.combinations(changes, 2)]
            random.shuffle(pairs)
            with_one_change = [{**item, **change} for change in changes]
            with_two_changes = [{**item, **first, **second} for first, second in pairs[:PAIRS]]
            for variant in (original, None, *with_one_change, *with_two_changes):
                items = [*self.items]
                # A change to None is the removal of the attribute.
                items[index] = _without_none(variant)
                yield items


def _key_of(item_or_write: Json) -> Item:
    """Return the key in an item, or in the parameters of a write."""
    item = item_or_write.get("Key") or item_or_write.get("Item") or item_or_write
    return {KEY: item[KEY]}


def condition_of(write: Json) -> str:
    """Return all conditions in the parameters of a write or a query, joined by AND; "" if there are
    none.
    """
    return " AND ".join(write[name] for name in CONDITIONS if name in write)


def changes_of(write: Json) -> Iterator[dict[str, Json | None]]:
    """Yield changes of an item: dicts with an attribute that the conditions of a write or a query
    read, and a value of it that may matter. These values are: no value (None), the value to which
    the attribute is compared, the next lower value, and the next higher value.
    """
    values = write.get("ExpressionAttributeValues", {})
    attribute = ""
    # Names of attributes and functions, and placeholders of values. A value is compared to the
    # attribute before it.
    for word in re.findall(r":?\b[a-z]\w+", condition_of(write)):
        if word.startswith(":"):
            for value in _around(values[word]):
                yield {attribute: value}
        elif word not in FUNCTIONS:
            attribute = word
            if attribute not in (KEY, SORT):  # every item has these
                yield {attribute: None}


def _around(value: Json) -> list[Json | None]:
    """Return the next lower value, the value itself, and the next higher value of an attribute, in
    DynamoDB's format, as `value` is.
    """
    if "N" in value:
        return [{"N": str(int(value["N"]) + step)} for step in (-1, 0, 1)]
    text = value["S"]
    # A space sorts before the last character, and a text before the same with a digit after it.
    return [{"S": f"{text[:-1]} "}, {"S": text}, {"S": f"{text}0"}]


def _without_none(item: Item | None) -> Item | None:
    """Return an item without the attributes whose value is None, or None if there is no item."""
    if item is None:
        return None
    return {name: value for name, value in item.items() if value}


class Recorder:
    """A table in memory that records the requests that are made to it: the first of each kind. A
    kind has an operation, conditions, updates, and whether the request succeeded (for a query,
    whether it found rows).
    """

    def __init__(self, table: FakeDynamoDB, requests: dict[object, Request]) -> None:
        """Wrap a table.

        :param requests: The dict to which the requests are added, by their kinds.
        """
        self._table = table
        self._requests = requests

    def __getattr__(self, name: str) -> Any:
        """Return a method of the table that records its call, for a name in OPERATIONS, or any
        other attribute of the table.
        """
        if name in OPERATIONS:
            return lambda **parameters: self._record(name, parameters)
        return getattr(self._table, name)

    def _record(self, operation: str, parameters: Json) -> Any:
        """Make a request to the table, and record it if it is the first of its kind, also if it
        raises; return the response. Requests are of one kind if they have the same operation,
        conditions and updates, and both succeed or both do not. A query without rows counts as not
        successful.

        :param operation: The name of the table's method.
        :param parameters: The parameters of the method.
        """
        request = Request(operation, parameters, items=())
        # The items before the request, with which it can be repeated.
        items = [self._row(parameters)] if operation == "query" else self._items(request)
        has_succeeded = False
        try:
            response = getattr(self._table, operation)(**parameters)
            has_succeeded = bool(response["Items"]) if operation == "query" else True
            return response
        finally:
            kind = (operation, request.conditions, request.updates, has_succeeded)
            self._requests.setdefault(kind, Request(operation, parameters, items))

    def _items(self, request: Request) -> list[Item | None]:
        """Return the present item of each write of a request; None: there is none."""
        items = [self._table.items.get(key[KEY]["S"]) for key in request.keys]
        return [None if item is None else typed(item) for item in items]

    def _row(self, parameters: Json) -> Item:
        """Return an item of the partition of an index that a query reads. If the partition has
        none, return any item of the table, moved to the partition; if the table is empty, return an
        item that is made up.

        :param parameters: The parameters of the query.
        """
        # The name of the index's partition key, and its value in the query.
        partition = indexes()[parameters["IndexName"]].partition
        value = parameters["ExpressionAttributeValues"][":partition"]
        items = [typed(item) for item in self._table.items.values()]
        rows = [item for item in items if item.get(partition) == value]
        if rows:
            return rows[0]
        any_item = items[0] if items else {KEY: {"S": "a"}, SORT: {"S": "0"}}
        return {**any_item, partition: value}


def record() -> list[Request]:
    """Simulate storms until every condition of the product has occurred in a request, at most those
    in STORMS; return one request of each kind.
    """
    requests: dict[object, Request] = {}
    for seed in STORMS:
        world = StormWorld(seed)
        recorder: Any = Recorder(world.dynamodb, requests)
        world.dynamodb = recorder
        world.live()
        _make_remaining_requests(world)
        if not missing([*requests.values()]):
            break
    return [*requests.values()]


def _make_remaining_requests(world: StormWorld) -> None:
    """Make the requests to the table that no storm makes, or few do, at the end of a storm: those
    of the metrics, of lists with a filter, and of catch-ups. In a catch-up, the sweep pushes the
    pending events of a destination that delivers again, without waiting for the backoff of each.
    """
    publish_depths(Container(world).services)
    # A prefix of event types, a subject, and a tenant.
    for rest_of_query in ("*", "&subject=s", "&tenant=a"):
        Container(world).call("GET", f"/events?status=failed&event_type=a{rest_of_query}")
    Container(world).subscribe("https://hooks.zapier.com/new")
    subscription_id = list(world.history.subscribed_at)[-1]  # that of the new subscription
    store = Container(world).services.store
    for destination in (WEBHOOK, subscription_id):
        store.start_catch_up(destination)
    Container(world).sweep()  # which ends both: nothing waits
    store.start_catch_up(subscription_id)
    world.clock.sleep(2 * RESTART_SECONDS)
    store = Container(world).services.store
    # While the other catch-up is under way: its mark notes that another one follows.
    store.start_catch_up(subscription_id)
    for _ in range(2):  # the first catch-up, and the one that follows
        for mark in store.catch_ups():
            store.end_catch_up(mark)


def missing(requests: Sequence[Request]) -> list[str]:
    """Return the texts in the code of chalicelib that are a condition of DynamoDB, or a part of a
    condition, and do not occur in a request.
    """
    texts = [text for request in requests for text in (*request.conditions, *request.updates)]
    all_texts = "\n".join(texts)
    return [part for part in _parts() if part not in all_texts]


def _parts() -> Iterator[str]:
    """Yield the strings in the code of chalicelib that are conditions of DynamoDB, or parts of
    conditions: they match PART, and have one line. (A docstring that has a condition as an example
    has several lines.)
    """
    for path in (ROOT / "chalicelib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                continue
            text = node.value
            if PART.search(text) and "\n" not in text:
                yield text


def differences(requests: Sequence[Request], client: Any) -> list[str]:
    """Make the requests to a table in memory and to a table of another emulator, over generated
    items. Return a text for each difference of a response, or of an item after a request.

    :param client: A boto3 client of the emulator, in which the table is created.
    """
    properties = read_template("dev")["Resources"]["EventsTable"]["Properties"]
    names = ("BillingMode", "AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes")
    client.create_table(TableName=TABLE, **{name: properties[name] for name in names})
    memory = FakeDynamoDB(Clock())
    random = Random(0)
    tried = set[object]()
    differing = []
    for request in requests:
        # If the conditions were tried in another request, only the update is new, and needs no
        # variants of the items.
        kind = (request.operation, request.conditions)
        all_items = [request.items] if kind in tried else request.variants(random)
        tried.add(kind)
        for items in all_items:
            in_memory = _respond(memory, request, items)
            in_emulator = _respond(client, request, items)
            if in_memory != in_emulator:
                differing.append(f"{request}\nover {items}:\n{in_memory}, not\n{in_emulator}")
        for table in (memory, client):
            for key in request.keys:
                _store(table, key, None)
    return differing


def _respond(client: Any, request: Request, items: Sequence[Item | None]) -> Json:
    """Store items, and make a request. Return a dict with what the product reads of the response or
    of the error (`Attributes`, `Items`, `Item`, `Code` and `Reasons`; None or empty if it is
    absent) and, but for a query, the items after the request (`after`).

    :param client: A boto3 client, or a FakeDynamoDB.
    :param items: The item of each write or, for a query, one row; None: there is no item.
    """
    for key, item in zip(request.keys, items, strict=True):
        _store(client, key, item)
    parameters = dict(request.parameters)
    # A query looks for the only row, wherever it is. With its token, a transaction that is made
    # once more would do nothing.
    for name in ("Limit", "ExclusiveStartKey", "ClientRequestToken"):
        parameters.pop(name, None)
    try:
        response = getattr(client, request.operation)(**parameters)
    except ClientError as error:
        response = error.response
    result = {name: response.get(name) for name in ("Attributes", "Items", "Item")}
    result["Code"] = response.get("Error", {}).get("Code")
    reasons = response.get("CancellationReasons", [])
    result["Reasons"] = [(reason["Code"], reason.get("Item")) for reason in reasons]
    if request.operation != "query":
        result["after"] = [
            client.get_item(TableName=TABLE, Key=key, ConsistentRead=True).get("Item")
            for key in request.keys
        ]
    return result


def _store(client: Any, key: Item, item: Item | None) -> None:
    """Store an item.

    :param item: The item; None: the item with the key is deleted.
    """
    if item:
        client.put_item(TableName=TABLE, Item=item)
    else:
        client.delete_item(TableName=TABLE, Key=key)
