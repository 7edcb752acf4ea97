"""How large DynamoDB takes an item to be, and what reading and writing it take.

Sources: "DynamoDB item sizes and formats", "DynamoDB read and write operations" and "Using Global Secondary Indexes in
DynamoDB", Amazon DynamoDB Developer Guide.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from tools.resources import TEMPLATE

Item = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Index:
    """What resources.json says of the index."""

    index_key: frozenset[str]
    index_attributes: frozenset[str]


def index() -> Index:
    resources = json.loads(TEMPLATE.read_text(encoding="utf-8"))["Resources"]
    table = resources["EventsTable"]["Properties"]
    described = table["GlobalSecondaryIndexes"][0]
    key = frozenset(part["AttributeName"] for part in described["KeySchema"])
    table_key = {part["AttributeName"] for part in table["KeySchema"]}
    return Index(key, key | table_key | set(described["Projection"]["NonKeyAttributes"]))


def item_bytes(item: Item) -> int:
    """Return the size of an item of strings and whole numbers: names and values in UTF-8, two digits in a byte."""
    return sum(len(name.encode()) + _value_bytes(typed) for name, typed in item.items())


def _value_bytes(typed: Mapping[str, str]) -> int:
    if "S" in typed:
        return len(typed["S"].encode())
    digits = typed["N"].strip("-").strip("0")  # zeroes at both ends are trimmed
    return math.ceil(len(digits) / 2) + 1


def projected(item: Item, index_attributes: frozenset[str]) -> Item:
    """Return what an index that holds `index_attributes` has of an item."""
    return {name: typed for name, typed in item.items() if name in index_attributes}


def write_units(before: Item, after: Item) -> int:
    """Return what a put or an update takes of the table, refused or not: a unit for each KB of the larger item."""
    return max(1, math.ceil(max(item_bytes(before), item_bytes(after)) / 1024))


def index_write_units(before: Item, after: Item, key: frozenset[str]) -> int:
    """Return what the same takes of an index, given what it has of the item: two writes when its key changes."""
    if before == after:
        return 0
    moved = bool(before and after) and projected(before, key) != projected(after, key)
    return write_units(before, {}) + write_units({}, after) if moved else write_units(before, after)


def read_units(total_bytes: int) -> float:
    """Return what an eventually consistent query takes that reads so much: half a unit for each 4 KB, at least one."""
    return max(1, math.ceil(total_bytes / 4096)) / 2
