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
    """A request that the product made.

    `items` has the item that each write concerned before it, or a row of the partition that was
    queried; None: there was no item.
    """

    operation: str
    parameters: Json
    items: Sequence[Item | None]

    @property
    def writes(self) -> list[Json]:
        """The parameters of each write of a transaction; else those of the request alone."""
        parts = self.parameters.get("TransactItems", [{"": self.parameters}])
        return [write for part in parts for write in part.values()]

    @property
    def keys(self) -> list[Item]:
        """The key of each item."""
        concerned = self.items if self.operation == "query" else self.writes
        return [_key_of(item) for item in concerned if item]

    @property
    def conditions(self) -> tuple[str, ...]:
        return tuple(map(condition_of, self.writes))

    @property
    def updates(self) -> tuple[str, ...]:
        return tuple(write.get("UpdateExpression", "") for write in self.writes)

    def variants(self, random: Random) -> Iterator[list[Item | None]]:
        """Yield the items with other values of the attributes that the conditions read: of one
        attribute, or of two.
        """
        for place, write in enumerate(self.writes):
            item = self.items[place] or write.get("Item") or {SORT: {"S": "0"}, **write["Key"]}
            changes = [*changes_of(write)]
            pairs = [*itertools.combinations(changes, 2)]
            random.shuffle(pairs)
            variants: list[Item | None] = [self.items[place], None]
            variants += [{**item, **change} for change in changes]
            variants += [{**item, **one, **other} for one, other in pairs[:PAIRS]]
            for variant in variants:
                yield [*self.items[:place], _without_none(variant), *self.items[place + 1 :]]


def _key_of(given: Json) -> Item:
    """Return the key in an item, or in the parameters of a write."""
    item = given.get("Key") or given.get("Item") or given
    return {KEY: item[KEY]}


def condition_of(write: Json) -> str:
    return " AND ".join(write[name] for name in CONDITIONS if name in write)


def changes_of(write: Json) -> Iterator[dict[str, Json | None]]:
    """Yield a change of each attribute that a condition reads to each value that may matter: absent
    (None), that to which it is compared, the next lower and the next higher one.
    """
    values = write.get("ExpressionAttributeValues", {})
    attribute = ""
    for word in re.findall(r":?\b[a-z]\w+", condition_of(write)):
        if word.startswith(":"):
            yield from ({attribute: near} for near in _around(values[word]))
        elif word not in FUNCTIONS:
            attribute = word
            if attribute not in (KEY, SORT):  # every item has these
                yield {attribute: None}


def _around(value: Json) -> list[Json | None]:
    if "N" in value:
        return [{"N": str(int(value["N"]) + step)} for step in (-1, 0, 1)]
    text = value["S"]
    return [{"S": f"{text[:-1]} "}, {"S": text}, {"S": f"{text}0"}]


def _without_none(item: Item | None) -> Item | None:
    return item and {name: value for name, value in item.items() if value}


class Recorder:
    """A table in memory that keeps one request for each combination of expressions and kind of
    result.
    """

    def __init__(self, table: FakeDynamoDB, requests: dict[object, Request]) -> None:
        self._table = table
        self._requests = requests

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._table, name)
        return (lambda **given: self._record(name, given)) if name in OPERATIONS else call

    def _record(self, operation: str, parameters: Json) -> Any:
        request = Request(operation, parameters, ())
        items = [self._row(parameters)] if operation == "query" else self._items(request)
        applied = False
        try:
            response = getattr(self._table, operation)(**parameters)
            applied = bool(response.get("Items", True))
            return response
        finally:
            kind = (operation, request.conditions, request.updates, applied)
            self._requests.setdefault(kind, Request(operation, parameters, items))

    def _items(self, request: Request) -> list[Item | None]:
        found = [self._table.items.get(key[KEY]["S"]) for key in request.keys]
        return [item and typed(item) for item in found]

    def _row(self, parameters: Json) -> Item:
        """Return an item of the partition that is read, or an item that is moved there."""
        partition, _ = indexes()[parameters["IndexName"]]
        value = parameters["ExpressionAttributeValues"][":partition"]
        items = [*map(typed, self._table.items.values())] or [{KEY: {"S": "a"}, SORT: {"S": "0"}}]
        rows = [item for item in items if item.get(partition) == value]
        return {**(rows or items)[0], partition: value}


def record() -> list[Request]:
    """Return the requests of as many storms as it takes until every condition occurred."""
    requests: dict[object, Request] = {}
    for seed in STORMS:
        world = StormWorld(seed)
        recorder: Any = Recorder(world.dynamodb, requests)
        world.dynamodb = recorder
        world.live()
        _do_the_rest(world)
        if not missing([*requests.values()]):
            break
    return [*requests.values()]


def _do_the_rest(world: StormWorld) -> None:
    """Make the calls that no storm makes, or few do."""
    publish_depths(Container(world).services)
    for more in ("*", "&subject=s", "&tenant=a"):
        Container(world).call("GET", f"/events?status=failed&event_type=a{more}")
    Container(world).subscribe("https://hooks.zapier.com/new")
    [*_, subscription_id] = world.history.subscribed_at
    store = Container(world).services.store
    for destination in (WEBHOOK, subscription_id):
        store.start_catch_up(destination)
    Container(world).sweep()  # which ends both: nothing waits
    store.start_catch_up(subscription_id)
    world.clock.sleep(2 * RESTART_SECONDS)
    store = Container(world).services.store
    store.start_catch_up(subscription_id)  # while the other is under way: it follows
    for _ in range(2):
        for mark in store.catch_ups():
            store.end_catch_up(mark)


def missing(requests: Sequence[Request]) -> list[str]:
    """Return the texts of chalicelib that are a condition or a part of one, and in no request."""
    made = "\n".join(text for made in requests for text in (*made.conditions, *made.updates))
    return [part for part in _parts() if part not in made]


def _parts() -> Iterator[str]:
    for path in (ROOT / "chalicelib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and PART.search(text) and "\n" not in text:
                yield text


def differences(requests: Sequence[Request], client: Any) -> list[str]:
    """Make the requests to the table in memory and to another one, over generated items; return
    where a response, or an item after it, differs.

    :param client: A boto3 client that has no table yet.
    """
    table = read_template("dev")["Resources"]["EventsTable"]["Properties"]
    keys = ("BillingMode", "AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes")
    client.create_table(TableName=TABLE, **{key: table[key] for key in keys})
    memory = FakeDynamoDB(Clock())
    random = Random(0)
    tried = set[object]()
    found = []
    for request in requests:
        # With conditions that were tried, the update alone is new.
        kind = (request.operation, request.conditions)
        all_items = [request.items] if kind in tried else request.variants(random)
        tried.add(kind)
        for items in all_items:
            expected, got = (_respond(table, request, items) for table in (memory, client))
            if expected != got:
                found.append(f"{request}\nover {items}:\n{expected}, not\n{got}")
        for table in (memory, client):
            for key in request.keys:
                _store(table, key, None)
    return found


def _respond(client: Any, request: Request, items: Sequence[Item | None]) -> Json:
    """Store the items, and make the request; return what the product reads of the response or of
    the error, and the items after it.
    """
    for key, item in zip(request.keys, items, strict=True):
        _store(client, key, item)
    parameters = dict(request.parameters)
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
    """Store an item, or delete the one that is there if it is None."""
    if item:
        client.put_item(TableName=TABLE, Item=item)
    else:
        client.delete_item(TableName=TABLE, Key=key)
